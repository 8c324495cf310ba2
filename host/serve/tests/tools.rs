//! Tools: calls that must be made, whatever the model thinks, and reading those that it makes.

use super::*;
use crate::serve::tools::{Calls, Delta, Dialect, Splitter};

/// A template that knows tools and thoughts.
pub const QWEN: &str = "{%- if tools %}{{- '<|im_start|>system\\n<tools>' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}{{- '</tools> as <tool_call>{\"name\": NAME, \"arguments\": OBJECT}</tool_call><|im_end|>\\n' }}{%- endif %}{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content }}{%- if message.tool_calls %}{%- for call in message.tool_calls %}{{- '<tool_call>\\n' + call.function.name + (call.function.arguments | tojson) + '</tool_call>' }}{%- endfor %}{%- endif %}{{- '<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- if enable_thinking is defined and enable_thinking %}{{- '<think>\\n' }}{%- endif %}{%- endif %}";

fn tools() -> Value {
    let tool = |name: &str, parameters: Value| json!({ "type": "function", "function": { "name": name, "description": "Of the weather.", "parameters": parameters } });
    json!([
        tool(
            "get_rain",
            json!({ "type": "object", "properties": { "place": { "enum": ["Kyoto", "Bergen"] }, "mm": { "enum": [1, 2] } },
            "required": ["place", "mm"], "additionalProperties": false })
        ),
        tool(
            "wait",
            json!({ "type": "object", "properties": { "long": { "type": "boolean" } }, "required": ["long"], "additionalProperties": false })
        ),
    ])
}

fn checked(name: &str, arguments: &Value) {
    match name {
        "get_rain" => assert!(arguments["place"].is_string() && arguments["mm"].is_u64(), "{arguments}"),
        "wait" => assert!(arguments["long"].is_boolean(), "{arguments}"),
        other => panic!("{other}"),
    }
}

#[test]
fn a_call_that_must_be_made_is_made_and_parses() {
    for template in [None, Some(QWEN), Some(LLAMA), Some(MISTRAL), Some(MISTRAL_ARGS), Some(HARMONY)] {
        let server = Server::start(Setting { template, ..Setting::default() });
        for (seed, choice) in [
            json!("required"),
            json!("required"),
            json!({ "type": "function", "function": { "name": "wait" } }),
            json!({ "type": "function", "function": { "name": "get_rain" } }),
        ]
        .into_iter()
        .enumerate()
        {
            // Where nothing is said of it, a call that must be made is one.
            let single = if seed == 1 { json!({}) } else { json!({ "parallel_tool_calls": seed % 3 == 0 }) };
            let with = |mut body: Value, more: &Value| {
                body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
                body
            };
            let body = hello(json!({ "tools": tools(), "tool_choice": choice, "seed": seed, "max_tokens": 1500 }));
            let body = with(body, &single);
            let answer = server.answer("/v1/chat/completions", &body);
            let one = &answer["choices"][0];
            assert_eq!(
                (&one["finish_reason"], &one["message"]["content"]),
                (&json!("tool_calls"), &Value::Null),
                "{template:?} {answer}"
            );
            let calls = one["message"]["tool_calls"].as_array().unwrap();
            assert!(calls.len() == 1 || seed == 0, "{answer}");
            for call in calls {
                let function = &call["function"];
                let name = function["name"].as_str().unwrap();
                assert!(choice == "required" || choice["function"]["name"] == name, "{answer}");
                checked(name, &serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap());
                assert!(call["id"].as_str().unwrap().starts_with("call_"));
            }

            let events = server.post("/v1/chat/completions", &with(body, &json!({ "stream": true }))).events();
            assert_eq!(streamed_calls(&events), functions(calls), "{events:?}");

            let flat: Vec<Value> = tools()
                .as_array()
                .unwrap()
                .iter()
                .map(|tool| with(tool["function"].clone(), &json!({ "type": "function" })))
                .collect();
            let wanted = choice["function"]["name"]
                .as_str()
                .map_or(choice.clone(), |name| json!({ "type": "function", "name": name }));
            let body = json!({ "input": "Hello", "tools": flat, "tool_choice": wanted, "max_output_tokens": 1500 });
            let body = with(body, &single);
            let answer = server.answer("/v1/responses", &body);
            let items = answer["output"].as_array().unwrap();
            assert_eq!((&answer["status"], &answer["parallel_tool_calls"]), (&json!("completed"), &json!(seed == 0)));
            assert!(items.iter().all(|item| item["type"] == "function_call"), "{answer}");
            assert!(items.len() == 1 || seed == 0, "{answer}");
            for item in items {
                let arguments = serde_json::from_str(item["arguments"].as_str().unwrap()).unwrap();
                checked(item["name"].as_str().unwrap(), &arguments);
            }
            let events = server.post("/v1/responses", &with(body, &json!({ "stream": true }))).events();
            assert_eq!(streamed_items(&events), functions(items), "{events:?}");

            let named: Vec<Value> = tools().as_array().unwrap().iter().map(|tool| {
                let function = &tool["function"];
                json!({ "name": function["name"], "description": function["description"], "input_schema": function["parameters"] })
            }).collect();
            let wanted = choice["function"]["name"]
                .as_str()
                .map_or(json!({ "type": "any" }), |name| json!({ "type": "tool", "name": name }));
            let parallel = if seed == 1 { json!({}) } else { json!({ "disable_parallel_tool_use": seed != 0 }) };
            let wanted = with(wanted, &parallel);
            let body = json!({ "max_tokens": 1500, "tools": named, "tool_choice": wanted, "messages": [{ "role": "user", "content": "Hello" }] });
            let answer = server.answer("/v1/messages", &body);
            assert_eq!(answer["stop_reason"], "tool_use", "{answer}");
            let blocks = answer["content"].as_array().unwrap();
            assert!(blocks.iter().all(|block| block["type"] == "tool_use"), "{answer}");
            assert!(blocks.len() == 1 || seed == 0, "{answer}");
            blocks.iter().for_each(|block| checked(block["name"].as_str().unwrap(), &block["input"]));
            let events = server.post("/v1/messages", &with(body, &json!({ "stream": true }))).events();
            assert_eq!(
                streamed_blocks(&events),
                *blocks.iter().map(|block| (block["name"].clone(), block["input"].clone())).collect::<Vec<_>>()
            );
        }
    }
}

/// Names and arguments of calls, as chat completions or responses have them.
fn functions(calls: &[Value]) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let of = |call: &Value| {
        let function = call.get("function").unwrap_or(call);
        (text(&function["name"]), text(&function["arguments"]))
    };
    calls.iter().map(of).collect()
}

/// The calls of a stream of chat completions, put together as clients do, in parts as clients expect them.
fn streamed_calls(events: &[Value]) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    let mut n_parts = 0;
    for call in events.iter().filter_map(|event| event.pointer("/choices/0/delta/tool_calls/0")) {
        let index = call["index"].as_u64().unwrap() as usize;
        let arguments = call["function"]["arguments"].as_str().unwrap();
        if let Some(name) = call["function"]["name"].as_str() {
            assert_eq!((index, arguments, &call["type"]), (all.len(), "", &json!("function")), "{call}");
            assert!(call["id"].as_str().unwrap().starts_with("call_"), "{call}");
            all.push((name.to_owned(), String::new()));
        } else {
            assert!(index + 1 == all.len() && !arguments.is_empty() && call.get("id").is_none(), "{call}");
            all[index].1 += arguments;
            n_parts += 1;
        }
    }
    assert!(n_parts > all.len(), "arguments come in parts: {events:?}");
    all
}

/// The calls of a stream of a response's events.
fn streamed_items(events: &[Value]) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    let mut n_parts = 0;
    let mut is_open = false;
    for event in events {
        match event["type"].as_str().unwrap() {
            "response.output_item.added" => {
                assert!(!is_open && event["output_index"] == all.len() && event["item"]["arguments"] == "", "{event}");
                all.push((event["item"]["name"].as_str().unwrap().to_owned(), String::new()));
                is_open = true;
            }
            "response.function_call_arguments.delta" => {
                all.last_mut().unwrap().1 += event["delta"].as_str().unwrap();
                n_parts += 1;
            }
            "response.function_call_arguments.done" => assert_eq!(event["arguments"], all.last().unwrap().1),
            "response.output_item.done" => {
                assert_eq!(
                    (&event["item"]["status"], &event["item"]["arguments"]),
                    (&json!("completed"), &json!(all.last().unwrap().1))
                );
                is_open = false;
            }
            _ => {}
        }
    }
    assert!(n_parts > all.len() && !is_open, "arguments come in parts: {events:?}");
    all
}

/// The calls of a stream of a message's events.
fn streamed_blocks(events: &[Value]) -> Vec<(Value, Value)> {
    let mut all = Vec::new();
    let mut text = String::new();
    let mut n_parts = 0;
    for event in events {
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                let block = &event["content_block"];
                assert_eq!((&event["index"], &block["input"]), (&json!(all.len()), &json!({})), "{event}");
                all.push((block["name"].clone(), Value::Null));
                text.clear();
            }
            "content_block_delta" => {
                text += event["delta"]["partial_json"].as_str().unwrap();
                n_parts += 1;
            }
            "content_block_stop" => all.last_mut().unwrap().1 = serde_json::from_str(&text).unwrap(),
            _ => {}
        }
    }
    assert!(n_parts > all.len(), "arguments come in parts: {events:?}");
    all
}

#[test]
fn a_call_that_a_limit_cuts_is_given_as_far_as_it_came() {
    let server = Server::start(Setting::default());
    let tool = json!({ "type": "function", "function": { "name": "wait", "parameters": {
        "type": "object", "properties": { "text": { "const": "x".repeat(200) } }, "required": ["text"] } } });
    let body = hello(json!({ "tools": [tool], "tool_choice": "required", "max_tokens": 60 }));
    let answer = server.answer("/v1/chat/completions", &body);
    let one = &answer["choices"][0];
    let (name, arguments) = functions(one["message"]["tool_calls"].as_array().unwrap()).remove(0);
    assert_eq!((&one["finish_reason"], name.as_str()), (&json!("length"), "wait"), "{answer}");
    assert!(arguments.starts_with('{') && serde_json::from_str::<Value>(&arguments).is_err(), "{answer}");
    let body = json!({ "max_tokens": 60, "messages": [{ "role": "user", "content": "Hello" }], "tool_choice": { "type": "any" },
        "tools": [{ "name": "wait", "input_schema": tool["function"]["parameters"] }] });
    let answer = server.answer("/v1/messages", &body);
    assert_eq!(
        (&answer["stop_reason"], &answer["content"][0]["input"]),
        (&json!("max_tokens"), &json!({})),
        "{answer}"
    );
}

#[test]
fn what_cannot_be_beside_tools_is_said() {
    let server = Server::start(Setting::default());
    for (more, field) in [
        (json!({ "tool_choice": "required", "response_format": { "type": "json_object" } }), "response_format"),
        (json!({ "grammar": "root ::= \"a\"" }), "grammar"),
        (json!({ "tool_choice": "required", "ignore_eos": true }), "ignore_eos"),
        (json!({ "parallel_tool_calls": false, "ignore_eos": true }), "ignore_eos"),
        (json!({ "parallel_tool_calls": 1 }), "parallel_tool_calls"),
        (json!({ "tool_choice": { "type": "function", "function": { "name": "snow" } } }), "tool_choice"),
        (
            json!({ "tools": [{ "type": "function", "function": { "name": "f", "parameters": { "type": "string" } } }] }),
            "tools[0].function.parameters",
        ),
    ] {
        let mut body = hello(json!({ "tools": tools(), "max_tokens": 1 }));
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let got = server.post("/v1/chat/completions", &body);
        assert_eq!(got.error(), (400, Some(field.to_owned()), "invalid_value".to_owned()), "{body}");
    }
    // None may be called: then none is read, and a grammar may stand beside them.
    let body = hello(json!({ "tools": tools(), "tool_choice": "none", "grammar": "root ::= \"a\"", "max_tokens": 9 }));
    assert_eq!(server.answer("/v1/chat/completions", &body)["choices"][0]["message"]["content"], "a");
}

const LLAMA: &str = "{{ '<|start_header_id|>' }}{% if tools %}{{ tools | tojson }}{% endif %}{% for message in messages %}{{ message.role + message.content }}{% endfor %}";
const MISTRAL: &str = "{% if tools %}{{ '[AVAILABLE_TOOLS]' + (tools | tojson) }}{% endif %}{% for message in messages %}{{ message.role + message.content }}{% if message.tool_calls %}{{ '[TOOL_CALLS]' }}{% endif %}{% endfor %}";

const MISTRAL_ARGS: &str = "{% if tools %}{{ '[AVAILABLE_TOOLS]' + (tools | tojson) }}{% endif %}{% for message in messages %}{{ message.role + message.content }}{% if message.tool_calls %}{{ '[TOOL_CALLS]f[ARGS]' }}{% endif %}{% endfor %}";
const HARMONY: &str = "{% if tools %}{{ tools | tojson }}{% endif %}{% for message in messages %}{{ '<|start|>' + message.role + '<|channel|>final<|message|>' + message.content + '<|end|>' }}{% endfor %}{{ '<|start|>assistant' }}";

#[test]
fn past_calls_are_shown_to_the_model() {
    let messages = json!([
        { "role": "user", "content": "Rain?" },
        { "role": "assistant", "content": null, "tool_calls": [{ "id": "a", "type": "function", "function": { "name": "get_rain", "arguments": "{\"place\": \"Kyoto\"}" } }] },
        { "role": "tool", "tool_call_id": "a", "content": "much" },
    ]);
    for template in [None, Some(QWEN)] {
        let server = Server::start(Setting { template, ..Setting::default() });
        let prompt = server.answer("/apply-template", &json!({ "messages": messages, "tools": tools() }));
        let prompt = prompt["prompt"].as_str().unwrap();
        for part in ["get_rain", "Of the weather.", "<tool_call>", "{\"place\": \"Kyoto\"}", "much"] {
            let found = prompt.contains(part) || prompt.contains(&part.replace("\": ", "\":"));
            assert!(found, "{part}: {prompt}");
        }
    }
}

/// Parts that follow each other and are of one kind, as one.
pub fn merged(deltas: Vec<Delta>) -> Vec<Delta> {
    let mut all: Vec<Delta> = Vec::new();
    for delta in deltas {
        match (all.last_mut(), delta) {
            (Some(Delta::Content(whole)), Delta::Content(more))
            | (Some(Delta::Reasoning(whole)), Delta::Reasoning(more))
            | (Some(Delta::Arguments(whole)), Delta::Arguments(more)) => *whole += &more,
            (_, delta) => all.push(delta),
        }
    }
    all
}

#[test]
fn answers_are_taken_apart_however_they_are_cut() {
    let said = |text: &str| Delta::Content(text.to_owned());
    let thought = |text: &str| Delta::Reasoning(text.to_owned());
    let calls = |all: &[(&str, &str)]| -> Vec<Delta> {
        all.iter()
            .flat_map(|(name, arguments)| [Delta::Call((*name).to_owned()), Delta::Arguments((*arguments).to_owned())])
            .collect()
    };
    let and = |first: Delta, all: &[(&str, &str)]| [vec![first], calls(all)].concat();
    let dialect = |calls: Calls| Dialect { calls, knows_tools: true, thinks: calls == Calls::Hermes };
    let cases = [
        (Calls::Hermes, "Hello", vec![said("Hello")]),
        (Calls::Hermes, " \n Hello ", vec![said(" \n Hello")]),
        (Calls::Hermes, "<think>\nWhy?\n</think>\n\nSo.", vec![thought("Why?"), said("So.")]),
        (Calls::Hermes, "<think>no end", vec![thought("no end")]),
        (Calls::Hermes, "a < b <think> c", vec![said("a < b <think> c")]),
        (
            Calls::Hermes,
            "<think></think><tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>",
            calls(&[("f", "{\"x\": 1}")]),
        ),
        (
            Calls::Hermes,
            "Look:\n<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>\n<tool_call>{\"name\": \"g\", \"arguments\": {}, \"id\": \"}\"}</tool_call>",
            and(said("Look:"), &[("f", "{}"), ("g", "{}")]),
        ),
        (
            Calls::Hermes,
            "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"é\": \"</tool_call>\"}}\n</tool_call>\n Done.",
            [calls(&[("f", "{\"é\": \"</tool_call>\"}")]), vec![said("Done.")]].concat(),
        ),
        (
            Calls::Hermes,
            "<tool_call>{\"name\": \"f\", \"arguments\": {}}\n{\"name\": \"g\", \"arguments\": {}}</tool_call>",
            calls(&[("f", "{}"), ("g", "{}")]),
        ),
        (Calls::Hermes, "<tool_call>{\"name\": \"f\", \"arguments\": {\"x", calls(&[("f", "{\"x")])),
        (Calls::Hermes, "<tool_call>{\"name\": \"f\", \"ar", vec![said("<tool_call>{\"name\": \"f\", \"ar")]),
        (
            Calls::Hermes,
            "So:\n<tool_call>nothing</tool_call> after",
            vec![said("So:\n<tool_call>nothing</tool_call> after")],
        ),
        (
            Calls::Hermes,
            "<tool_call>{\"name\": \"h\", \"arguments\": {}}",
            vec![said("<tool_call>{\"name\": \"h\", \"arguments\": {}}")],
        ),
        (
            Calls::Hermes,
            "<tool_call>x<tool_call>{\"name\": \"f\", \"arguments\": {}}",
            and(said("<tool_call>x"), &[("f", "{}")]),
        ),
        (Calls::Llama, "{\"name\": \"f\", \"parameters\": {\"x\": [1]}}", calls(&[("f", "{\"x\": [1]}")])),
        (Calls::Llama, "{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}}", calls(&[("f", "{}")])),
        (
            Calls::Llama,
            "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {}}",
            calls(&[("f", "{}"), ("g", "{}")]),
        ),
        (Calls::Llama, " {\"a\": 1}", vec![said(" {\"a\": 1}")]),
        (Calls::Llama, "A { in words", vec![said("A { in words")]),
        (
            Calls::Mistral,
            "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", \"arguments\": {\"y\": 2}, \"id\": \"123456789\"}]",
            calls(&[("f", "{}"), ("g", "{\"y\": 2}")]),
        ),
        (Calls::Mistral, "So: [TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {}}]", and(said("So:"), &[("f", "{}")])),
        (
            Calls::MistralArgs,
            "[TOOL_CALLS]f[ARGS]{\"x\": 1}[TOOL_CALLS]g[CALL_ID]9[ARGS] {}",
            calls(&[("f", "{\"x\": 1}"), ("g", "{}")]),
        ),
        (Calls::MistralArgs, "[TOOL_CALLS]f of x", vec![said("[TOOL_CALLS]f of x")]),
        (
            Calls::Harmony,
            "<|channel|>analysis<|message|>Why?<|end|><|start|>assistant<|channel|>final<|message|>So <b>.",
            vec![thought("Why?"), said("So <b>.")],
        ),
        (
            Calls::Harmony,
            "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|> {\"x\": 1} <|call|>",
            and(thought("Hm"), &[("f", "{\"x\": 1}")]),
        ),
        (
            Calls::Harmony,
            "<|start|>assistant to=functions.g<|channel|>commentary json<|message|>{}",
            calls(&[("g", "{}")]),
        ),
        (
            Calls::Harmony,
            " to=functions.g<|channel|>commentary json<|message|>{} junk<|end|><|start|>assistant<|channel|>commentary to=functions.f<|message|>x y <|call|>",
            calls(&[("g", "{}"), ("f", "x y")]),
        ),
        (Calls::Harmony, "<|channel|>commentary to=functions.h<|message|>{}", vec![said("{}")]),
        (Calls::Harmony, "<|channel|>commentary<|message|>First.<|end|>", vec![said("First.")]),
        (Calls::Harmony, "Plain words", vec![said("Plain words")]),
    ];
    let mut random = super::random::Random::new();
    for (calls, text, wanted) in cases {
        let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).skip(1).collect();
        let every = |step: usize| ends.iter().copied().step_by(step).collect::<Vec<usize>>();
        let mut cuts: Vec<Vec<usize>> = vec![Vec::new(), every(1), every(2), every(3), every(7)];
        cuts.extend(ends.iter().map(|end| vec![*end]));
        cuts.extend((0..20).map(|_| ends.iter().copied().filter(|_| random.below(4) == 0).collect()));
        for cuts in cuts {
            let mut splitter = Splitter::new(dialect(calls), ["f".to_owned(), "g".to_owned()].into());
            let mut deltas = Vec::new();
            let mut at = 0;
            for end in cuts.iter().copied().chain([text.len()]) {
                deltas.extend(splitter.push(&text[at..end]));
                at = end;
            }
            deltas.extend(splitter.finish());
            assert_eq!(merged(deltas), wanted, "{calls:?} {text:?} cut at {cuts:?}");
        }
    }
}

#[test]
fn a_template_shows_its_dialect() {
    let of = |name: &str| {
        let path = format!("{}/tests/fixtures/templates/{name}.jinja", env!("CARGO_MANIFEST_DIR"));
        Dialect::of_template(&std::fs::read_to_string(path).unwrap())
    };
    for (name, calls, thinks) in [
        ("Qwen-Qwen2.5-7B-Instruct", Calls::Hermes, false),
        ("Qwen-Qwen3-0.6B", Calls::Hermes, true),
        ("meta-llama-Llama-3.2-3B-Instruct", Calls::Llama, false),
        ("mistralai-Mistral-Nemo-Instruct-2407", Calls::Mistral, false),
    ] {
        assert_eq!(of(name), Dialect { calls, knows_tools: true, thinks }, "{name}");
    }
}

/// An answer by a runner that says anything, whose constraint begins behind each `e` and allows the word.
fn written(word: Option<&str>) -> String {
    use crate::{
        engine::{Answer, AnswerRequest, Part, Scheduler, Trigger},
        generate::{Limits, sampler},
        sample::Constraint,
        tokenizer::ControlText,
    };
    let setting = Setting::default();
    let (model, mut runner) = (setting.model(), setting.runner());
    let mut scheduler = Scheduler::new(&runner, model.n_tokens);
    let trigger = word.map(|word| {
        let grammar = format!("root ::= \"{word}\"");
        let constraint = Constraint::from_grammar("grammar", &grammar, model.vocabulary().unwrap()).unwrap();
        let mut n_seen = 0;
        Box::new(move |text: &str| {
            let at = text[n_seen..].find('e').map(|at| n_seen + at + 1);
            n_seen = at.unwrap_or(text.len());
            Some(Part { at: at?, constraint: constraint.again(), is_last: false })
        }) as Trigger
    });
    let request = AnswerRequest {
        model: "haiku",
        prompt: &[1, 2, 3],
        sampler: sampler(model.defaults.sampler.clone(), &model.tokenizer, model.n_tokens).unwrap(),
        constraint: None,
        trigger,
        control: ControlText::Hide,
        stop: &[],
        limits: Limits { n_predict: Some(400), ignore_eos: true, shift_keeping: None },
        logprobs: None,
    };
    let answer = Answer::new(request, &model.tokenizer, model.n_tokens, None);
    scheduler.submit(&runner, &[1, 2, 3], [answer]).unwrap();
    loop {
        if let Some(finished) = scheduler.step(&mut runner).unwrap().pop() {
            return Answer::end(finished).generation.unwrap().text;
        }
    }
}

#[test]
fn a_constraint_holds_for_a_part_of_an_answer() {
    let free = written(None);
    assert!(free.contains('e') && !free.contains("e[]"), "{free}");
    let parts = written(Some("[]"));
    // Where the letter ends a token the word follows, and after the word all is free again.
    assert!(parts.matches("e[]").count() > 3, "{parts}");
    let longest = parts.split("e[]").map(str::len).max().unwrap();
    assert!(longest > 10 && parts.len() > 100, "{parts}");
}
