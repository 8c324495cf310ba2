//! Whatever a body holds, the answer is an answer, or an error of the client's with its object.

use axum::{
    Router,
    body::{Body, to_bytes},
    http::Request,
};
use proptest::{prelude::*, test_runner::TestRunner};
use tower::ServiceExt;

use super::*;
use crate::serve::{App, engine, router};

/// Routes that take a body, and bodies that they take.
fn seeds() -> Vec<(&'static str, Value)> {
    let tool = json!({ "type": "function", "function": { "name": "f", "description": "d", "parameters": {
        "type": "object", "properties": { "x": { "type": "integer" }, "y": { "enum": ["a", "b"] } }, "required": ["x"] } } });
    let chat = json!({
        "model": "m", "messages": [
            { "role": "system", "content": "s" }, { "role": "user", "content": [{ "type": "text", "text": "Hi" }] },
            { "role": "assistant", "content": null, "tool_calls": [{ "id": "1", "type": "function", "function": { "name": "f", "arguments": "{\"x\": 1}" } }] },
            { "role": "tool", "tool_call_id": "1", "content": "2" }, { "role": "user", "content": "And?" }],
        "max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 1, "n": 2, "stop": ["x"], "logprobs": true,
        "top_logprobs": 2, "logit_bias": { "5": -1 }, "presence_penalty": 0.1, "frequency_penalty": 0.1, "dry_multiplier": 0.5,
        "dry_sequence_breakers": ["\n"], "xtc_probability": 0.1, "mirostat": 0, "samplers": ["top_k", "temperature"], "stream": true,
        "stream_options": { "include_usage": true }, "tools": [tool], "tool_choice": "auto", "chat_template_kwargs": { "a": 1 },
    });
    let formatted = json!({
        "messages": [{ "role": "user", "content": "Hi" }], "max_completion_tokens": 3, "response_format": { "type": "json_schema",
            "json_schema": { "name": "n", "strict": true, "schema": { "type": "object", "properties": { "a": { "type": "string" } }, "required": ["a"] } } },
    });
    let text = json!({ "prompt": ["a", "b"], "max_tokens": 2, "logprobs": 2, "stop": "x", "n": 2, "grammar": "root ::= \"a\" | \"b\"", "n_probs": 1 });
    let responses = json!({
        "input": [{ "role": "user", "content": [{ "type": "input_text", "text": "Hi" }] },
            { "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}" }, { "type": "function_call_output", "call_id": "c", "output": "1" }],
        "instructions": "i", "max_output_tokens": 2, "stream": false, "tools": [{ "type": "function", "name": "f", "parameters": {} }],
        "text": { "format": { "type": "text" } }, "reasoning": { "effort": "low" }, "store": false,
    });
    let messages = json!({
        "max_tokens": 2, "system": "s", "messages": [{ "role": "user", "content": "Hi" },
            { "role": "assistant", "content": [{ "type": "tool_use", "id": "t", "name": "f", "input": {} }] },
            { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "t", "content": "1" }] }],
        "tools": [{ "name": "f", "input_schema": { "type": "object" } }], "tool_choice": { "type": "any" }, "stop_sequences": ["x"], "stream": true,
        "thinking": { "type": "disabled" },
    });
    vec![
        ("/v1/chat/completions", chat.clone()),
        ("/v1/chat/completions", formatted),
        ("/v1/completions", text),
        ("/v1/responses", responses),
        ("/v1/messages", messages.clone()),
        ("/v1/messages/count_tokens", messages),
        ("/v1/embeddings", json!({ "input": ["a", "b"], "encoding_format": "base64", "dimensions": 1 })),
        ("/apply-template", chat),
        ("/tokenize", json!({ "content": "rain", "add_special": true, "with_pieces": true })),
        ("/detokenize", json!({ "tokens": [1, 2, 3] })),
    ]
}

/// What a value may become.
fn odd() -> impl Strategy<Value = Value> {
    let values = vec![
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1),
        json!(3),
        json!(1e300),
        json!(-1e300),
        json!(0.3),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(""),
        json!("auto"),
        json!("required"),
        json!("\u{0}"),
        json!("<|im_end|>"),
        json!("é☔\u{10ffff}"),
        json!("root ::= root"),
        json!([]),
        json!({}),
        json!([[]]),
        json!([null]),
        json!({ "type": "function" }),
        json!({ "type": "object" }),
        json!({ "$ref": "#" }),
        json!([{ "role": "user", "content": "x" }]),
        json!({ "type": "json_schema" }),
        json!({ "1": 1e39 }),
        json!([1, 2]),
        json!("x".repeat(3000)),
    ];
    prop_oneof![
        4 => proptest::sample::select(values),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(|number| json!(number)),
        1 => ".{0,20}".prop_map(Value::from),
    ]
}

/// Places in a value, the outermost first.
fn places(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            places(value, &format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), all);
        }),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| places(value, &format!("{at}/{index}"), all))
        }
        _ => {}
    }
}

/// A change: which place, out of how many there are, and what comes there; another field besides.
type Change = (prop::sample::Index, Value, Option<String>);

fn changed(mut body: Value, changes: &[Change]) -> Value {
    for (index, value, name) in changes {
        let mut all = Vec::new();
        places(&body, "", &mut all);
        let place = body.pointer_mut(&all[index.index(all.len())]).unwrap();
        match (name, place) {
            (Some(name), Value::Object(fields)) => drop(fields.insert(name.clone(), value.clone())),
            (None, Value::Object(fields)) if !fields.is_empty() && index.index(3) == 0 => {
                let gone = fields.keys().nth(index.index(fields.len())).unwrap().clone();
                fields.shift_remove(&gone);
            }
            (_, place) => *place = value.clone(),
        }
    }
    body
}

/// Bytes that were a body once.
fn torn(mut bytes: Vec<u8>, cuts: &[(prop::sample::Index, u8)]) -> Vec<u8> {
    for (index, byte) in cuts {
        if bytes.is_empty() {
            break;
        }
        let at = index.index(bytes.len());
        match byte % 4 {
            0 => bytes.truncate(at),
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, *byte),
            _ => bytes[at] = *byte,
        }
    }
    bytes
}

struct Bench {
    runtime: tokio::runtime::Runtime,
    router: Router,
    handle: engine::Handle,
    thread: thread::JoinHandle<usize>,
}

impl Bench {
    fn new(template: Option<&'static str>) -> Bench {
        let setting = Setting { max_tokens: Some(3), n_context: 600, n_pages: 60, template, ..Setting::default() };
        let (handle, commands) = engine::channel();
        let model = Arc::new(setting.model());
        let app =
            Arc::new(App::new(Arc::clone(&model), Options { max_body: 1 << 16, ..Options::default() }, handle.clone()));
        let metrics = Arc::clone(&app.metrics);
        let thread = thread::spawn(move || {
            let mut runner = setting.runner();
            engine::run(&mut runner, &model, &metrics, &commands).unwrap();
            runner.pages.n_taken().0
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Bench { runtime, router: router(app), handle, thread }
    }

    fn post(&self, path: &str, body: Vec<u8>) -> (u16, String) {
        let request = Request::post(path).header("content-type", "application/json").body(Body::from(body)).unwrap();
        self.runtime.block_on(async {
            let response = self.router.clone().oneshot(request).await.unwrap();
            let status = response.status().as_u16();
            let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
            (status, String::from_utf8(bytes.to_vec()).unwrap())
        })
    }

    /// The answer is one, or says what is wrong with the body.
    fn check(&self, path: &str, body: Vec<u8>) -> Result<(), TestCaseError> {
        let shown = String::from_utf8_lossy(&body).into_owned();
        let (status, answer) = self.post(path, body);
        prop_assert!(status == 200 || (400..500).contains(&status), "{} {}: {} {}", path, shown, status, answer);
        if status != 200 {
            let error: Value = serde_json::from_str(&answer).unwrap();
            prop_assert!(
                error["error"]["message"].is_string() && error["error"]["code"].is_string(),
                "{}: {}",
                path,
                answer
            );
        }
        prop_assert!(
            !answer.contains("internal_error") && !answer.contains("shutting_down"),
            "{} {}: {}",
            path,
            shown,
            answer
        );
        Ok(())
    }

    fn end(self) {
        self.handle.stop();
        assert_eq!(self.thread.join().unwrap(), 0, "pages in use at the end");
    }
}

/// Bodies out of those that are taken, changed in places, in bytes, or both.
fn run(n: u32, template: Option<&'static str>) {
    let bench = Bench::new(template);
    let seeds = seeds();
    for (path, body) in &seeds {
        let (status, answer) = bench.post(path, body.to_string().into_bytes());
        assert_eq!(status, 200, "{path}: {answer}");
    }
    let change = (
        any::<prop::sample::Index>(),
        odd(),
        proptest::option::weighted(
            0.2,
            proptest::sample::select(vec![
                "stream",
                "tools",
                "tool_choice",
                "response_format",
                "grammar",
                "stop",
                "n",
                "max_tokens",
                "messages",
                "json_schema",
                "echo",
                "a",
                "ignore_eos",
                "logprobs",
                "properties",
                "items",
                "pattern",
                "enum",
                "minimum",
                "maxItems",
                "format",
                "content",
                "role",
            ])
            .prop_map(str::to_owned),
        ),
    );
    let changes = proptest::collection::vec(change, 0..4);
    let cuts = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let cuts = prop_oneof![3 => Just(Vec::new()), 1 => cuts];
    let strategy = (0..seeds.len(), changes, cuts);
    let mut runner =
        TestRunner::new(ProptestConfig { cases: n, failure_persistence: None, ..ProptestConfig::default() });
    let result = runner.run(&strategy, |(index, changes, cuts)| {
        let (path, body) = &seeds[index];
        bench.check(path, torn(changed(body.clone(), &changes).to_string().into_bytes(), &cuts))
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    bench.end();
}

#[test]
fn no_body_is_an_error_of_the_servers() {
    run(1500, None);
    run(300, Some(super::tools::QWEN));
}

/// `cargo test --lib -- --ignored a_hundred_thousand_bodies`.
#[test]
#[ignore = "takes a quarter of an hour"]
fn a_hundred_thousand_bodies() {
    run(100_000, None);
}
