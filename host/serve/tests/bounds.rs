//! What is not answered, or not to its end.

use super::*;

fn chat(server: &Server, more: Value) -> Got {
    server.post("/v1/chat/completions", &hello(more))
}

#[test]
fn an_error_names_the_field() {
    let server =
        Server::start(Setting { options: Options { max_messages: 3, ..Options::default() }, ..Setting::default() });
    let long = "rain ".repeat(4000);
    let many = vec![json!({ "role": "user", "content": "x" }); 4];
    let tool = json!({ "type": "function", "function": { "name": "f" } });
    for (more, param, code) in [
        (json!({ "temperature": "hot" }), "temperature", "invalid_value"),
        (json!({ "n": 0 }), "n", "invalid_value"),
        (json!({ "n": 100, "seed": 1.5 }), "seed", "invalid_value"),
        (json!({ "model": 3 }), "model", "invalid_value"),
        (json!({ "stream": "yes" }), "stream", "invalid_value"),
        (json!({ "stream_options": { "include_usage": 1 } }), "stream_options.include_usage", "invalid_value"),
        (json!({ "logit_bias": { "99999999": 1 } }), "logit_bias", "invalid_value"),
        (json!({ "messages": many }), "messages", "invalid_value"),
        (json!({ "messages": [{ "role": "user", "content": 3 }] }), "messages", "invalid_value"),
        (json!({ "messages": [{ "role": "user", "content": long }] }), "messages", "context_length_exceeded"),
        (
            json!({ "response_format": { "type": "json_schema", "json_schema": { "schema": { "type": "rain" } } } }),
            "response_format",
            "invalid_value",
        ),
        (json!({ "grammar": "root ::= (" }), "grammar", "invalid_value"),
        (json!({ "tools": [{ "type": "web_search" }] }), "tools[0].type", "invalid_value"),
        (json!({ "tools": [tool, tool] }), "tools[1].name", "invalid_value"),
        (
            json!({ "tools": [tool], "tool_choice": { "type": "function", "function": { "name": "g" } } }),
            "tool_choice",
            "invalid_value",
        ),
        (json!({ "tool_choice": "required" }), "tool_choice", "invalid_value"),
        (json!({ "audio": {} }), "audio", "invalid_value"),
        (json!({ "reasoning_effort": "most" }), "reasoning_effort", "invalid_value"),
    ] {
        let got = chat(&server, more.clone());
        assert_eq!(got.error(), (400, Some(param.to_owned()), code.to_owned()), "{more}: {got:?}");
        assert!(got.header("x-request-id").is_some(), "{got:?}");
    }
    for (path, body, param, code) in [
        ("/v1/completions", json!({ "prompt": long }), "prompt", "context_length_exceeded"),
        ("/v1/completions", json!({ "prompt": [4_000_000_000_u32] }), "prompt", "invalid_value"),
        ("/v1/completions", json!({ "prompt": "" }), "prompt", "invalid_value"),
        ("/v1/responses", json!({ "input": long }), "input", "context_length_exceeded"),
        (
            "/v1/responses",
            json!({ "input": "x", "previous_response_id": "r" }),
            "previous_response_id",
            "invalid_value",
        ),
        ("/v1/responses", json!({ "input": "x", "max_output_tokens": -1 }), "max_output_tokens", "invalid_value"),
        (
            "/v1/responses",
            json!({ "input": "x", "text": { "format": { "type": "xml" } } }),
            "text.format.type",
            "invalid_value",
        ),
        (
            "/v1/responses",
            json!({ "input": "x", "text": { "format": { "type": "json_schema", "name": "n" } } }),
            "text.format.schema",
            "invalid_value",
        ),
        (
            "/v1/responses",
            json!({ "input": "x", "reasoning": { "effort": "most" } }),
            "reasoning.effort",
            "invalid_value",
        ),
        ("/v1/messages", json!({ "messages": [{ "role": "user", "content": "x" }] }), "max_tokens", "invalid_value"),
        (
            "/v1/messages",
            json!({ "max_tokens": 1, "messages": [{ "role": "robot", "content": "x" }] }),
            "messages[0]",
            "invalid_value",
        ),
        (
            "/v1/messages",
            json!({ "max_tokens": 1, "stop_sequences": 3, "messages": [{ "role": "user", "content": "x" }] }),
            "stop_sequences",
            "invalid_value",
        ),
        ("/tokenize", json!({}), "content", "invalid_value"),
        ("/detokenize", json!({ "tokens": [99_999_999] }), "tokens", "invalid_value"),
    ] {
        let got = server.post(path, &body);
        assert_eq!(got.error(), (400, Some(param.to_owned()), code.to_owned()), "{path}: {got:?}");
    }
    let agent = Server::agent();
    let raw = |path: &str, mime: &str, body: &str| {
        Server::got(agent.post(server.url(path)).header("content-type", mime).send(body))
    };
    assert_eq!(raw("/v1/chat/completions", "application/json", "{\"messages\": [").error().2, "invalid_json");
    assert_eq!(raw("/v1/chat/completions", "text/plain", "{}").error().0, 415);
    assert_eq!(server.get("/v1/chat/completions").error().0, 405);
    assert_eq!(server.get("/v2/anything").error().0, 404);
}

#[test]
fn bodies_are_bounded_and_keys_are_asked_for() {
    let options = Options { max_body: 1000, api_keys: vec!["one".to_owned(), "two".to_owned()], ..Options::default() };
    let server = Server::start(Setting { options, ..Setting::default() });
    let agent = Server::agent();
    let ask = |header: &str, value: &str, body: &Value| {
        Server::got(agent.post(server.url("/v1/chat/completions")).header(header, value).send_json(body))
    };
    let body = hello(json!({ "max_tokens": 1 }));
    assert_eq!(ask("authorization", "Bearer two", &body).status, 200);
    assert_eq!(ask("x-api-key", "one", &body).status, 200);
    for (header, value) in
        [("authorization", "Bearer on"), ("authorization", "one"), ("x-api-key", "three"), ("accept", "*/*")]
    {
        assert_eq!(ask(header, value, &body).error(), (401, None, "invalid_api_key".to_owned()), "{header} {value}");
    }
    assert_eq!(server.get("/v1/models").status, 401);
    assert_eq!(server.get("/metrics").status, 401);
    assert_eq!((server.get("/health").status, server.get("/ready").status), (200, 200));
    let large = hello(json!({ "user": "x".repeat(1000) }));
    assert_eq!(ask("x-api-key", "one", &large).error(), (413, None, "body_too_large".to_owned()));
    // Without a length told ahead.
    let chunks = std::io::Cursor::new(large.to_string().into_bytes());
    let request = agent.post(server.url("/v1/chat/completions")).header("x-api-key", "one");
    let got =
        Server::got(request.header("content-type", "application/json").send(ureq::SendBody::from_owned_reader(chunks)));
    assert_eq!(got.error().0, 413);
}

#[test]
fn a_client_that_goes_away_frees_its_sequence() {
    let server = Server::start(Setting::long());
    for stream in [true, false] {
        let body = endless(json!({ "stream": stream, "n": 3 }));
        let before = server.metric("ferrowarp_cancelled_total");
        let client = if stream {
            server.begin("/v1/chat/completions", &body, "\"content\":\"")
        } else {
            server.begin("/v1/chat/completions", &body, "")
        };
        server.wait_for("it runs", |server| server.metric("ferrowarp_requests_running") == 3.0);
        let busy = server.get("/slots").json();
        assert_eq!(busy.as_array().unwrap().iter().filter(|slot| slot["is_processing"] == true).count(), 3);
        drop(client);
        server.wait_for("it is gone", |server| server.metric("ferrowarp_requests_running") == 0.0);
        assert_eq!(server.metric("ferrowarp_pages_used"), 0.0);
        assert_eq!(server.metric("ferrowarp_cancelled_total") - before, 3.0);
    }
}

#[test]
fn who_comes_too_late_is_told_when_to_come_again() {
    let options = Options { max_waiting: 1, ..Options::default() };
    let server = Server::start(Setting { options, n_slots: 1, ..Setting::long() });
    let first = server.begin("/v1/chat/completions", &endless(json!({})), "\"content\":\"");
    let second = server.begin("/v1/chat/completions", &endless(json!({})), "data: ");
    server.wait_for("one waits", |server| server.metric("ferrowarp_requests_waiting") == 1.0);
    let got = chat(&server, json!({}));
    assert_eq!(got.error(), (429, None, "too_many_requests".to_owned()));
    assert!(got.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(chat(&server, json!({ "n": 3 })).error(), (400, Some("n".to_owned()), "invalid_value".to_owned()));
    drop((first, second));
    server.wait_for("there is room", |server| chat(server, json!({ "max_tokens": 1 })).status == 200);
}

#[test]
fn a_reader_that_does_not_read_holds_nobody() {
    let server = Server::start(Setting::long());
    let _slow: Vec<TcpStream> =
        (0..3).map(|_| server.begin("/v1/chat/completions", &endless(json!({})), "data: ")).collect();
    server.wait_for("they run", |server| server.metric("ferrowarp_requests_running") == 3.0);
    // More than any buffer on the way holds.
    server.wait_for("much is written", |server| server.metric("ferrowarp_generated_tokens_total") > 3000.0);
    let answer = server.answer("/v1/chat/completions", &hello(json!({ "max_tokens": 50, "ignore_eos": true })));
    assert_eq!(answer["usage"]["completion_tokens"], 50);
    assert_eq!(server.metric("ferrowarp_requests_running"), 3.0);
}

#[test]
fn a_request_has_its_time() {
    let options = Options { timeout: Some(Duration::from_millis(300)), ..Options::default() };
    let server = Server::start(Setting { options, ..Setting::long() });
    let got = server.post("/v1/chat/completions", &endless(json!({ "stream": false })));
    assert_eq!(got.error(), (408, None, "timeout".to_owned()));
    let got = server.post("/v1/chat/completions", &endless(json!({})));
    assert_eq!((got.status, &got.events().last().unwrap()["error"]["code"]), (200, &json!("timeout")));
    let got = server.post(
        "/v1/messages",
        &json!({ "stream": true, "max_tokens": 190_000, "messages": [{ "role": "user", "content": "x" }] }),
    );
    assert_eq!(got.status, 200);
    server.wait_for("they are gone", |server| server.metric("ferrowarp_requests_running") == 0.0);
}

#[test]
fn a_stopped_server_ends_what_it_began_within_its_grace() {
    // Long enough for the answer.
    let server = Server::start(Setting { max_tokens: None, ..Setting::long() });
    let body = endless(json!({ "max_tokens": 3000, "stream_options": { "include_usage": true } }));
    let mut client = server.begin("/v1/chat/completions", &body, "data: ");
    server.stops.send(()).unwrap();
    server.wait_for("it drains", |server| server.get("/ready").status == 503);
    assert_eq!(server.get("/health").status, 200);
    let got = chat(&server, json!({}));
    assert_eq!((got.error().0, got.header("retry-after")), (503, Some("1")));
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert!(
        rest.contains("\"completion_tokens\":3000") && rest.contains("[DONE]"),
        "{}",
        &rest[rest.len().saturating_sub(900)..]
    );
    let mut server = server;
    server.join().unwrap();

    // Too short for it.
    let options = Options { grace: Duration::from_millis(200), ..Options::default() };
    let server = Server::start(Setting { options, ..Setting::long() });
    let mut client = server.begin("/v1/chat/completions", &endless(json!({})), "data: ");
    let whole = server.begin("/v1/chat/completions", &endless(json!({ "stream": false })), "");
    server.wait_for("both run", |server| server.metric("ferrowarp_requests_running") == 2.0);
    server.stop().unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\"code\":\"shutting_down\"") && !rest.contains("[DONE]"));
    let (mut whole, mut rest) = (whole, String::new());
    whole.read_to_string(&mut rest).unwrap();
    assert!(rest.starts_with("HTTP/1.1 503") && rest.contains("\"code\":\"shutting_down\""), "{rest}");
}

#[test]
fn pages_of_other_origins_ask_only_where_they_may() {
    let asked = |cors: &[&str]| {
        let options = Options { cors: cors.iter().map(|&origin| origin.to_owned()).collect(), ..Options::default() };
        let server = Server::start(Setting { options, ..Setting::default() });
        let request = Server::agent().get(server.url("/v1/models")).header("origin", "http://page");
        Server::got(request.call()).header("access-control-allow-origin").map(str::to_owned)
    };
    assert_eq!(asked(&[]), None);
    assert_eq!(asked(&["http://page"]), Some("http://page".to_owned()));
    assert_eq!(asked(&["http://other"]), None);
    assert_eq!(asked(&["*"]), Some("*".to_owned()));
}

/// A page may have a name that leads here; what it asks has that name, where no key protects the answers.
#[test]
fn other_names_are_answered_only_where_they_may_be() {
    let asked = |options: Options, host: &str| {
        let server = Server::start(Setting { options, ..Setting::default() });
        Server::got(Server::agent().get(server.url("/props")).header("host", host).call())
    };
    for host in
        ["localhost", "LocalHost:8080", "127.0.0.1", "127.9.9.9:1", "[::1]:8080", "[::1]", "[::ffff:127.0.0.1]:80"]
    {
        assert_eq!(asked(Options::default(), host).status, 200, "{host}");
    }
    for host in [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "0.0.0.0",
        "[::2]",
        "[::ffff:10.0.0.1]",
        "",
    ] {
        assert_eq!(asked(Options::default(), host).error(), (403, None, "host_not_allowed".to_owned()), "{host}");
    }
    let named = Options { hosts: Some(vec!["models.example".to_owned()]), ..Options::default() };
    assert_eq!(asked(named.clone(), "Models.example:80").status, 200);
    assert_eq!(asked(named, "evil.example").status, 403);
    assert_eq!(asked(Options { hosts: None, ..Options::default() }, "evil.example").status, 200);
}

/// A name is asked for where only this machine can ask and no key is.
#[test]
fn names_are_checked_on_this_machine_alone_and_without_keys() {
    let (none, key) = (Vec::new(), vec!["key".to_owned()]);
    let (named, any) = (vec!["models.example".to_owned()], vec!["a".to_owned(), "*".to_owned()]);
    for (address, is_own) in [
        ("127.0.0.1", true),
        ("127.8.8.8", true),
        ("::1", true),
        ("::ffff:127.0.0.1", true),
        ("0.0.0.0", false),
        ("::", false),
        ("10.0.0.1", false),
        ("::ffff:10.0.0.1", false),
    ] {
        let hosts = |keys: &[String], allowed: &[String]| Options::hosts_of(address.parse().unwrap(), keys, allowed);
        assert_eq!(hosts(&none, &none), is_own.then(Vec::new), "{address}");
        assert_eq!(hosts(&none, &named), is_own.then(|| named.clone()), "{address}");
        assert_eq!((hosts(&key, &none), hosts(&key, &named), hosts(&none, &any)), (None, None, None), "{address}");
    }
    // With keys and under any name, a key is asked for all the same.
    let options = Options { hosts: None, api_keys: key, ..Options::default() };
    let server = Server::start(Setting { options, ..Setting::default() });
    for (shown, status) in [("Bearer key", 200), ("Bearer other", 401)] {
        let request = Server::agent().get(server.url("/props")).header("host", "evil.example");
        assert_eq!(Server::got(request.header("authorization", shown).call()).status, status, "{shown}");
    }
}

/// The port is open before the model is loaded, and says what is the matter.
#[test]
fn a_model_that_is_being_loaded_is_told() {
    let (loaded, load) = std::sync::mpsc::channel::<()>();
    let wait = move || {
        let _ = load.recv();
    };
    let server = Server::start_after(Setting::default(), wait, || ());
    for path in ["/", "/health", "/ready", "/v1/models", "/nothing"] {
        let got = server.get(path);
        assert_eq!(got.error(), (503, None, "loading".to_owned()), "{path}");
        assert_eq!((got.header("retry-after"), got.header("refresh")), (Some("1"), None));
    }
    assert_eq!(chat(&server, json!({})).error().0, 503);
    let request = Server::agent().get(server.url("/")).header("accept", "text/html,*/*");
    assert_eq!(Server::got(request.call()).header("refresh"), Some("1"));
    drop(loaded);
    server.wait_for("it is loaded", |server| server.get("/health").status == 200);
    assert_eq!(chat(&server, json!({ "max_tokens": 1 })).status, 200);
}

/// Connections beyond the limit wait until others end.
#[test]
fn connections_are_bounded() {
    let options = Options { max_connections: 2, ..Options::default() };
    let server = Server::start(Setting { options, ..Setting::long() });
    let first = server.begin("/v1/chat/completions", &endless(json!({})), "data: ");
    let _second = server.begin("/v1/chat/completions", &endless(json!({})), "data: ");
    let mut third = TcpStream::connect(server.address).unwrap();
    third.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    third.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let waits = third.read(&mut [0; 16]).unwrap_err();
    assert!(matches!(waits.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut), "{waits}");
    drop(first);
    third.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut answer = String::new();
    third.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// Who sends a head a byte at a time does not keep a connection.
#[test]
fn a_head_has_its_time() {
    let options = Options { head_time: Duration::from_millis(200), ..Options::default() };
    let server = Server::start(Setting { options, ..Setting::default() });
    let mut slow = TcpStream::connect(server.address).unwrap();
    slow.write_all(b"GET /health HTTP/1.1\r\nhost: local").unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).expect("the connection ends");
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
}
