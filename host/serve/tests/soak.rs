//! Many requests, some of whose clients go away: no page is lost, and memory does not grow.

use super::*;

/// Bytes of this process in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}

fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

/// Sends `n` requests by `n_clients`, one in twenty of which goes away in the middle.
fn send(server: &Server, n_clients: usize, n: usize, seed: u64) {
    thread::scope(|scope| {
        for client in 0..n_clients {
            scope.spawn(move || {
                let mut seed = seed.wrapping_add(client as u64);
                for _ in 0..n / n_clients {
                    let words = "the rain on a tin roof ".repeat(1 + random(&mut seed) as usize % 9);
                    let stream = random(&mut seed).is_multiple_of(2);
                    let max_tokens = 1 + random(&mut seed) % 12;
                    let body = json!({
                        "messages": [{ "role": "user", "content": words }], "stream": stream, "max_tokens": max_tokens,
                        "seed": random(&mut seed), "n": 1 + random(&mut seed) % 2,
                    });
                    if random(&mut seed).is_multiple_of(20) {
                        let mut long = body;
                        long["max_tokens"] = 1000.into();
                        long["ignore_eos"] = true.into();
                        long["stream"] = true.into();
                        drop(server.begin("/v1/chat/completions", &long, "data: "));
                        continue;
                    }
                    let got = server.post("/v1/chat/completions", &body);
                    assert!(got.status == 200, "{got:?}");
                    assert!(!stream || got.body.ends_with("[DONE]\n\n"), "{got:?}");
                }
            });
        }
    });
    server.wait_for("all is over", |server| server.metric("ferrowarp_requests_running") == 0.0);
    assert_eq!(server.metric("ferrowarp_pages_used"), 0.0);
}

/// Few pages, so that some sequences are set back.
fn setting() -> Setting {
    Setting { n_slots: 8, n_pages: 72, max_tokens: None, ..Setting::default() }
}

#[test]
fn clients_come_and_go() {
    let server = Server::start(setting());
    send(&server, 8, 240, 1);
    assert!(server.metric("ferrowarp_cancelled_total") > 0.0);
    server.stop().unwrap();
}

/// `cargo test --lib -- --ignored ten_thousand_requests`; pages and memory must end where they began.
#[test]
#[ignore = "takes some minutes"]
fn ten_thousand_requests_leave_nothing_behind() {
    let server = Server::start(setting());
    send(&server, 8, 2000, 1);
    let before = resident();
    send(&server, 8, 10_000, 2);
    let after = resident();
    // What an allocator keeps in hand moves by some megabytes; 10 000 leaks of a kilobyte would show.
    assert!(after < before + (8 << 20), "{before} bytes grew to {after}");
    server.stop().unwrap();
}
