//! Tools: calls that must be made, whatever the model thinks, and reading those that it makes.

use super::*;
use crate::serve::tools::{Call, Calls, Delta, Dialect, Splitter};

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
    for template in [None, Some(QWEN), Some(LLAMA), Some(MISTRAL)] {
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
            let body = hello(json!({ "tools": tools(), "tool_choice": choice, "seed": seed, "max_tokens": 300 }));
            let answer = server.answer("/v1/chat/completions", &body);
            let one = &answer["choices"][0];
            assert_eq!(
                (&one["finish_reason"], &one["message"]["content"]),
                (&json!("tool_calls"), &Value::Null),
                "{template:?} {answer}"
            );
            let calls = one["message"]["tool_calls"].as_array().unwrap();
            assert_eq!(calls.len(), 1, "{answer}");
            let function = &calls[0]["function"];
            let name = function["name"].as_str().unwrap();
            assert!(choice == "required" || choice["function"]["name"] == name, "{answer}");
            let arguments: Value = serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
            checked(name, &arguments);
            assert!(calls[0]["id"].as_str().unwrap().starts_with("call_"));

            let mut streamed = body.clone();
            streamed["stream"] = true.into();
            let events = server.post("/v1/chat/completions", &streamed).events();
            let call = events.iter().find_map(|event| event.pointer("/choices/0/delta/tool_calls/0")).unwrap();
            assert_eq!((&call["function"], &call["index"]), (function, &json!(0)), "{events:?}");

            let flat: Vec<Value> = tools()
                .as_array()
                .unwrap()
                .iter()
                .map(|tool| {
                    let mut flat = tool["function"].clone();
                    flat["type"] = "function".into();
                    flat
                })
                .collect();
            let wanted = choice["function"]["name"]
                .as_str()
                .map_or(choice.clone(), |name| json!({ "type": "function", "name": name }));
            let body = json!({ "input": "Hello", "tools": flat, "tool_choice": wanted, "max_output_tokens": 300 });
            let answer = server.answer("/v1/responses", &body);
            let item = &answer["output"][0];
            assert_eq!((&item["type"], &answer["status"]), (&json!("function_call"), &json!("completed")), "{answer}");
            checked(
                item["name"].as_str().unwrap(),
                &serde_json::from_str(item["arguments"].as_str().unwrap()).unwrap(),
            );

            let named: Vec<Value> = tools().as_array().unwrap().iter().map(|tool| {
                let function = &tool["function"];
                json!({ "name": function["name"], "description": function["description"], "input_schema": function["parameters"] })
            }).collect();
            let wanted = choice["function"]["name"]
                .as_str()
                .map_or(json!({ "type": "any" }), |name| json!({ "type": "tool", "name": name }));
            let body = json!({ "max_tokens": 300, "tools": named, "tool_choice": wanted, "messages": [{ "role": "user", "content": "Hello" }] });
            let answer = server.answer("/v1/messages", &body);
            assert_eq!(
                (&answer["stop_reason"], &answer["content"][0]["type"]),
                (&json!("tool_use"), &json!("tool_use")),
                "{answer}"
            );
            checked(answer["content"][0]["name"].as_str().unwrap(), &answer["content"][0]["input"]);
        }
    }
}

const LLAMA: &str = "{{ '<|start_header_id|>' }}{% if tools %}{{ tools | tojson }}{% endif %}{% for message in messages %}{{ message.role + message.content }}{% endfor %}";
const MISTRAL: &str = "{% if tools %}{{ '[AVAILABLE_TOOLS]' + (tools | tojson) }}{% endif %}{% for message in messages %}{{ message.role + message.content }}{% if message.tool_calls %}{{ '[TOOL_CALLS]' }}{% endif %}{% endfor %}";

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
fn merged(deltas: Vec<Delta>) -> Vec<Delta> {
    let mut all: Vec<Delta> = Vec::new();
    for delta in deltas {
        match (all.last_mut(), delta) {
            (Some(Delta::Content(whole)), Delta::Content(more))
            | (Some(Delta::Reasoning(whole)), Delta::Reasoning(more)) => *whole += &more,
            (_, delta) => all.push(delta),
        }
    }
    all
}

#[test]
fn answers_are_taken_apart_however_they_are_cut() {
    let said = |text: &str| Delta::Content(text.to_owned());
    let thought = |text: &str| Delta::Reasoning(text.to_owned());
    let call =
        |name: &str, arguments: &str| Delta::Call(Call { name: name.to_owned(), arguments: arguments.to_owned() });
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
            vec![call("f", "{\"x\":1}")],
        ),
        (
            Calls::Hermes,
            "Look:\n<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>\n<tool_call>{\"name\": \"g\", \"arguments\": {}}</tool_call>",
            vec![said("Look:"), call("f", "{}"), call("g", "{}")],
        ),
        (Calls::Hermes, "<tool_call>{\"name\": \"f\", \"arguments\": {}}", vec![call("f", "{}")]),
        (Calls::Hermes, "<tool_call>nothing</tool_call> after", vec![said("<tool_call>nothing</tool_call> after")]),
        (Calls::Llama, "{\"name\": \"f\", \"parameters\": {\"x\": [1]}}", vec![call("f", "{\"x\":[1]}")]),
        (
            Calls::Llama,
            "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {}}",
            vec![call("f", "{}"), call("g", "{}")],
        ),
        (Calls::Llama, "{\"a\": 1}", vec![said("{\"a\": 1}")]),
        (Calls::Llama, "A { in words", vec![said("A { in words")]),
        (
            Calls::Mistral,
            "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", \"arguments\": {\"y\": 2}}]",
            vec![call("f", "{}"), call("g", "{\"y\":2}")],
        ),
        (Calls::Mistral, "So: [TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {}}]", vec![said("So:"), call("f", "{}")]),
        (
            Calls::MistralArgs,
            "[TOOL_CALLS]f[ARGS]{\"x\": 1}[TOOL_CALLS]g[CALL_ID]9[ARGS]{}",
            vec![call("f", "{\"x\": 1}"), call("g", "{}")],
        ),
        (
            Calls::Harmony,
            "<|channel|>analysis<|message|>Why?<|end|><|start|>assistant<|channel|>final<|message|>So <b>.",
            vec![thought("Why?"), said("So <b>.")],
        ),
        (
            Calls::Harmony,
            "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"x\": 1}<|call|>",
            vec![thought("Hm"), call("f", "{\"x\": 1}")],
        ),
        (
            Calls::Harmony,
            "<|start|>assistant to=functions.g<|channel|>commentary json<|message|>{}",
            vec![call("g", "{}")],
        ),
        (Calls::Harmony, "<|channel|>commentary<|message|>First.<|end|>", vec![said("First.")]),
        (Calls::Harmony, "Plain words", vec![said("Plain words")]),
    ];
    for (calls, text, wanted) in cases {
        let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        for step in [1, 2, 3, 7, 1000] {
            let mut splitter = Splitter::new(dialect(calls), true);
            let mut deltas = Vec::new();
            let mut at = 0;
            for end in ends.iter().copied().skip(1).step_by(step).chain([text.len()]) {
                deltas.extend(splitter.push(&text[at..end]));
                at = end;
            }
            deltas.extend(splitter.finish());
            assert_eq!(merged(deltas), wanted, "{calls:?} {text:?}, {step} characters at a time");
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
        engine::{Answer, AnswerRequest, Scheduler, Trigger},
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
        Box::new(move |text: &str| Some((text.find('e')? + 1, constraint.again()))) as Trigger
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
