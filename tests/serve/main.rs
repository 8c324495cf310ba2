//! `ferrowarp serve` as a program, with the embedded model: its answers, its log, its end.

#[allow(dead_code, reason = "each test uses its part")]
#[path = "../cli/run.rs"]
mod run;
mod soak;

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStderr, Stdio},
    thread::JoinHandle,
    time::Duration,
};

use run::{HAIKU, failure, json as run_json, program};
use serde_json::{Value, json};

/// The program, serving at a port of its own.
struct Server {
    child: Child,
    address: String,
    log: Option<JoinHandle<String>>,
}

impl Server {
    fn start(more: &[&str]) -> Server {
        let arguments = [&["serve", "--port", "0", "--parallel", "4", "--context", "512"], more].concat();
        let mut child = program(&arguments).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "it ended before it served");
            if let Some((_, address)) = line.trim().split_once(" at http://") {
                break address.to_owned();
            }
        };
        let log = std::thread::spawn(move || rest(lines));
        Server { child, address, log: Some(log) }
    }

    fn agent() -> ureq::Agent {
        let config =
            ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(120)));
        config.build().into()
    }

    fn post(&self, path: &str, body: &Value) -> (u16, String) {
        let request = Server::agent().post(format!("http://{}{path}", self.address));
        let mut response = request.header("x-request-id", "mine-1").send_json(body).unwrap();
        assert_eq!(response.headers()["x-request-id"], "mine-1");
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    }

    fn chat(&self, more: Value) -> Value {
        let mut body = json!({ "messages": [{ "role": "user", "content": HAIKU }] });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, text) = self.post("/v1/chat/completions", &body);
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap_or_else(|_| Value::from(text))
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// Waits for its end: its code, and its log.
    fn end(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        (status.code(), self.log.take().unwrap().join().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Of one that has ended, nothing is left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn rest(mut lines: BufReader<ChildStderr>) -> String {
    let mut text = String::new();
    lines.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn it_says_what_generate_says_and_ends_when_it_is_told() {
    let server = Server::start(&["--log-format", "json"]);
    let alone = run_json(&["generate", "--temp", "0", "-p", HAIKU]);
    let answer = server.chat(json!({ "temperature": 0 }));
    assert_eq!(answer["choices"][0]["message"]["content"], alone["text"]);
    assert_eq!((&answer["model"], &answer["choices"][0]["finish_reason"]), (&json!("haiku"), &json!("stop")));
    assert_eq!(answer["usage"]["prompt_tokens"], alone["prompt_ids"].as_array().unwrap().len());
    let stream = server.chat(json!({ "temperature": 0, "stream": true }));
    let said = stream.as_str().unwrap().lines().filter_map(|line| line.strip_prefix("data: "));
    let said = said.filter_map(|data| {
        let chunk: Value = serde_json::from_str(data).ok()?;
        chunk.pointer("/choices/0/delta/content")?.as_str().map(str::to_owned)
    });
    assert_eq!(alone["text"], said.collect::<String>());
    let schema = json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": { "enum": ["wet", "dry"] } } });
    let answer = server.chat(json!({ "response_format": schema }));
    let word: Value = serde_json::from_str(answer["choices"][0]["message"]["content"].as_str().unwrap()).unwrap();
    assert!(["wet", "dry"].contains(&word.as_str().unwrap()), "{answer}");

    // What a user wrote is in no line of the log, be it right, wrong or a path.
    let secret = "sesame";
    server.chat(json!({ "user": secret, "max_tokens": 2, "messages": [{ "role": "user", "content": secret }] }));
    for body in [
        json!({ secret: 1, "messages": [{ "role": "user", "content": "x" }] }),
        json!({ "messages": secret }),
        json!({ "temperature": secret }),
    ] {
        assert_eq!(server.post("/v1/chat/completions", &body).0, 400);
    }
    assert_eq!(server.post(&format!("/{secret}"), &json!({})).0, 404);
    server.signal(rustix::process::Signal::TERM);
    let (code, log) = server.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains(secret), "{log}");
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    let of = |status: u16| lines.iter().filter(|line| line["request"] == "mine-1" && line["status"] == status).count();
    assert_eq!((of(200), of(400), of(404)), (4, 3, 1), "{log}");
    assert!(
        lines.iter().any(|line| line["message"] == "answered" && line["n_completion"].as_u64().is_some_and(|n| n > 2)),
        "{log}"
    );
}

#[test]
fn a_port_that_is_taken_and_a_key_file_that_is_empty_are_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let error = failure(&["serve", "--port", &port], "");
    assert!(error.contains(&format!("127.0.0.1:{port}: cannot listen there")), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, "\n \n").unwrap();
    let error = failure(&["serve", "--api-key-file", path.to_str().unwrap()], "");
    assert!(error.contains("found no key, expected one a line"), "{error}");
}
