//! Ten thousand requests of many kinds, one client in twenty of which goes away in the middle: memory stays flat and no page is lost.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{Server, run::HAIKU};

const N_CLIENTS: u64 = 8;

fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

/// Bytes of the server in memory.
fn resident(server: &Server) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}

fn metric(server: &Server, name: &str) -> f64 {
    let url = format!("http://{}/metrics", server.address);
    let text = Server::agent().get(url).call().unwrap().body_mut().read_to_string().unwrap();
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap().parse().unwrap()
}

/// A request of some kind, and where it goes.
fn request(seed: &mut u64) -> (&'static str, Value) {
    let words = [HAIKU, "rain", "Hello, who are you?", "Write a haiku about wind"];
    let prompt = words[random(seed) as usize % words.len()].repeat(1 + random(seed) as usize % 3);
    let max = 1 + random(seed) % 16;
    let (stream, drawn) = (random(seed).is_multiple_of(2), random(seed));
    let messages = json!([{ "role": "user", "content": prompt }]);
    match random(seed) % 8 {
        0 => (
            "/v1/completions",
            json!({ "prompt": prompt, "max_tokens": max, "stream": stream, "seed": drawn, "logprobs": 2 }),
        ),
        1 => ("/v1/messages", json!({ "messages": messages, "max_tokens": max, "stream": stream })),
        2 => ("/v1/responses", json!({ "input": prompt, "max_output_tokens": max, "stream": stream })),
        3 => {
            let schema =
                json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": { "enum": ["wet", "dry"] } } });
            (
                "/v1/chat/completions",
                json!({ "messages": messages, "response_format": schema, "stream": stream, "seed": drawn }),
            )
        }
        n => (
            "/v1/chat/completions",
            json!({ "messages": messages, "max_tokens": max, "stream": stream, "seed": drawn, "n": n % 3 + 1 }),
        ),
    }
}

/// Asks, reads a little and is gone.
fn leave(server: &Server, seed: &mut u64) {
    let body = json!({ "messages": [{ "role": "user", "content": HAIKU }], "ignore_eos": true, "stream": true, "max_tokens": 400 }).to_string();
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    stream.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
    if random(seed).is_multiple_of(2) {
        let _ = stream.read(&mut [0; 64]).unwrap();
    }
}

fn send(server: &Server, n: u64, first_seed: u64) {
    thread::scope(|scope| {
        for client in 0..N_CLIENTS {
            scope.spawn(move || {
                let mut seed = first_seed + client;
                for _ in 0..n / N_CLIENTS {
                    if random(&mut seed).is_multiple_of(20) {
                        leave(server, &mut seed);
                        continue;
                    }
                    let (path, body) = request(&mut seed);
                    let (status, answer) = server.post(path, &body);
                    assert_eq!(status, 200, "{path} {body}: {answer}");
                }
            });
        }
    });
    let start = Instant::now();
    while metric(server, "ferrowarp_requests_running") > 0.0 {
        assert!(start.elapsed() < Duration::from_secs(60), "a request does not end");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(metric(server, "ferrowarp_pages_used"), 0.0, "pages lost");
}

/// `./x soak`; `FERROWARP_SOAK` says how many requests.
#[test]
#[ignore = "takes ten minutes"]
fn soak() {
    let n: u64 = std::env::var("FERROWARP_SOAK").map_or(10_000, |n| n.parse().unwrap());
    let server = Server::start(&["--parallel", "16"]);
    send(&server, n / 5, 1);
    let before = resident(&server);
    let start = Instant::now();
    send(&server, n, 2);
    let after = resident(&server);
    let seconds = start.elapsed().as_secs_f64();
    let (tokens, gone) =
        (metric(&server, "ferrowarp_generated_tokens_total"), metric(&server, "ferrowarp_cancelled_total"));
    let report = format!(
        "{n} requests in {seconds:.0} s, {:.1} a second; {tokens} tokens, {gone} answers whose client went away; {} MiB before, {} MiB after",
        n as f64 / seconds,
        before >> 20,
        after >> 20
    );
    std::io::stderr().write_all(format!("{report}\n").as_bytes()).unwrap();
    // What an allocator keeps in hand moves by some megabytes; a leak of two kilobytes a request would show.
    assert!(after < before + (16 << 20), "{before} bytes grew to {after}");
}
