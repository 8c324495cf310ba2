//! `batch`: a file of prompts, whatever happens to the run; and `generate --n-samples`, which takes the same way.

use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::run::{Folder, failure, ferrowarp, fixture, json as run_json, output, program};

/// Prompts that the embedded model answers in some ten tokens.
fn haiku(word: &str) -> String {
    format!("Write a haiku about rain that includes the word \"{word}\"")
}

fn lines(path: &str) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// The answers without what the clock says.
fn answers(path: &str) -> Vec<Value> {
    let mut all = lines(path);
    for line in &mut all {
        if let Some(body) = line["response"]["body"].as_object_mut() {
            assert!(body.remove("created").is_some_and(|time| time.as_u64().unwrap() > 1_700_000_000));
            // How much of a prompt was in the cache is the company's.
            body["usage"].as_object_mut().unwrap().remove("prompt_tokens_details").expect("what was cached");
        }
    }
    all
}

fn batch(input: &str, output_path: &str, more: &[&str]) -> String {
    output(&[&["batch", "-i", input, "-o", output_path], more].concat(), "").1
}

/// Seven requests that take a while, each drawn with a seed.
fn requests(folder: &Folder) -> String {
    let words = ["tin", "moon", "leaf", "stone", "river", "night", "wind"];
    let line = |(index, word): (usize, &&str)| {
        let body = json!({ "messages": [{ "role": "user", "content": haiku(word) }], "seed": index, "max_tokens": 12 });
        let line = json!({ "custom_id": word, "method": "POST", "url": "/v1/chat/completions", "body": body });
        line.to_string() + "\n"
    };
    folder.file("prompts.jsonl", words.iter().enumerate().map(line).collect::<String>())
}

#[test]
fn prompts_go_through_in_chunks_of_the_size_that_was_asked_for() {
    let folder = Folder::new();
    let (input, path) = (requests(&folder), folder.path("answers.jsonl"));
    let n_steps = |report: &str| -> usize {
        let line = report.lines().find(|line| line.contains(" steps: ")).expect(report);
        line.split(' ').next().unwrap().parse().unwrap()
    };
    let [whole, chunks] = ["2048", "16"].map(|size| {
        fs::remove_file(&path).ok();
        let report = batch(&input, &path, &["-v", "-b", size]);
        assert!(report.contains("7 answers, 0 of them errors"), "{report}");
        n_steps(&report)
    });
    // Each prompt has some twenty tokens, and they go through one after another.
    assert!(chunks >= whole + 5, "{whole} steps, {chunks} in chunks");
    for size in ["15", "0", "many"] {
        let refused = ferrowarp(&["batch", "-i", &input, "-o", &path, "-b", size]).output().unwrap();
        let error = String::from_utf8(refused.stderr).unwrap();
        assert!(!refused.status.success() && error.contains("expected an even number from 2 on"), "{error}");
    }
}

#[test]
fn every_line_is_answered_in_its_place() {
    let folder = Folder::new();
    let prompt = haiku("tin");
    let chat = json!({ "custom_id": "chat", "method": "POST", "url": "/v1/chat/completions", "body": {
        "model": "any", "messages": [{ "role": "user", "content": prompt }], "temperature": 0, "logprobs": true, "top_logprobs": 2,
    }});
    let text = json!({ "custom_id": "text", "url": "/v1/completions", "body": {
        "prompt": "rain", "temperature": 0, "max_tokens": 3, "logprobs": 1,
    }});
    let two = json!({ "custom_id": "two", "url": "/v1/chat/completions", "body": {
        "messages": [{ "role": "user", "content": prompt }], "seed": 7, "n": 2, "max_tokens": 6,
    }});
    let schema = json!({ "custom_id": "schema", "url": "/v1/chat/completions", "body": {
        "messages": [{ "role": "user", "content": prompt }], "seed": 1,
        "response_format": { "type": "json_schema", "json_schema": { "schema": { "enum": ["wet", "dry"] } } },
    }});
    let long = json!({ "custom_id": "long", "url": "/v1/completions", "body": { "prompt": "rain ".repeat(5000) } });
    let hot = json!({ "prompt": "rain", "temperature": "hot" });
    let input = folder.file(
        "prompts.jsonl",
        format!("{chat}\n\n{{\"custom_id\": \n{text}\n{hot}\n{two}\n{long}\n{schema}\n{{\"prompt\": [5, 6], \"max_tokens\": 2}}\n{prompt}"),
    );
    let path = folder.path("answers.jsonl");
    let report = batch(&input, &path, &["--seed", "3", "-n", "40", "--batch-invariant"]);
    assert!(report.contains("9 answers, 3 of them errors"), "{report}");
    let all = lines(&path);
    let names: Vec<&str> = all.iter().map(|line| line["custom_id"].as_str().unwrap()).collect();
    assert_eq!(names, ["chat", "line-3", "text", "line-5", "two", "long", "schema", "line-9", "line-10"]);
    for (index, line) in all.iter().enumerate() {
        let is_bad = [1, 3, 5].contains(&index);
        assert_eq!((line["response"].is_null(), line["error"].is_null()), (is_bad, !is_bad), "{line}");
    }
    for (index, code, param, message) in [
        (1, "invalid_json", Value::Null, "line 3: found no JSON"),
        (3, "invalid_request", "temperature".into(), "line 5: temperature: found \"hot\", expected a number"),
        (5, "prompt_too_long", Value::Null, "line 7: the prompt has "),
    ] {
        let error = &all[index]["error"];
        assert_eq!((&error["code"], &error["param"]), (&code.into(), &param), "{error}");
        assert!(error["message"].as_str().unwrap().starts_with(message), "{error}");
    }
    let body = |index: usize| &all[index]["response"]["body"];

    // As `generate` says it.
    let alone = run_json(&["generate", "--temp", "0", "-p", &prompt, "--logprobs", "2"]);
    let choice = &body(0)["choices"][0];
    assert_eq!(choice["message"], json!({ "role": "assistant", "content": alone["text"], "refusal": null }));
    assert_eq!((&body(0)["object"], &choice["finish_reason"]), (&"chat.completion".into(), &"stop".into()));
    let n_prompt = alone["prompt_ids"].as_array().unwrap().len();
    let n_answer = alone["ids"].as_array().unwrap().len();
    let usage = &body(0)["usage"];
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&n_prompt.into(), &n_answer.into()));
    assert_eq!(usage["total_tokens"], n_prompt + n_answer);
    let logprobs = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(logprobs.len(), n_answer);
    for (of, alone) in logprobs.iter().zip(alone["logprobs"].as_array().unwrap()) {
        assert_eq!((&of["token"], &of["logprob"]), (&alone["text"], &alone["logprob"]));
        assert_eq!(of["top_logprobs"].as_array().unwrap().len(), 2);
    }
    let raw = run_json(&["generate", "--temp", "0", "--raw", "-n", "3", "-p", "rain"]);
    assert_eq!(
        (&body(2)["choices"][0]["text"], &body(2)["choices"][0]["finish_reason"]),
        (&raw["text"], &"length".into())
    );
    assert_eq!(body(2)["choices"][0]["logprobs"]["tokens"].as_array().unwrap().len(), 3);
    for (index, seed) in ["7", "8"].iter().enumerate() {
        let alone = run_json(&["generate", "--seed", seed, "-n", "6", "-p", &prompt]);
        assert_eq!(body(4)["choices"][index]["message"]["content"], alone["text"], "seed {seed}");
    }
    assert_eq!(body(4)["usage"]["prompt_tokens"], n_prompt);
    let word = body(6)["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(["\"wet\"", "\"dry\""].contains(&word), "{word}");
    assert_eq!(body(7)["usage"]["prompt_tokens"], 2);
    let plain = run_json(&["generate", "--seed", "3", "-n", "40", "-p", &prompt]);
    assert_eq!(body(8)["choices"][0]["message"]["content"], plain["text"]);
}

#[test]
fn answers_in_company_and_in_parts_are_those_alone() {
    let folder = Folder::new();
    let input = requests(&folder);
    let path = |name: &str| folder.path(name);
    batch(&input, &path("company"), &["--parallel", "7", "--batch-invariant"]);
    batch(&input, &path("alone"), &["--parallel", "1"]);
    let company = answers(&path("company"));
    assert_eq!(company.len(), 7);
    assert_eq!(company, answers(&path("alone")));
    let mut parts = Vec::new();
    for shard in ["1/3", "2/3", "3/3"] {
        batch(&input, &path("part"), &["--shard", shard, "--batch-invariant"]);
        parts.extend(answers(&path("part")));
        fs::remove_file(path("part")).unwrap();
    }
    assert_eq!(company, parts);
    // Nothing is left to do, and nothing is done.
    let before = fs::read(path("company")).unwrap();
    assert!(batch(&input, &path("company"), &[]).contains("7 of 7 answers are there"));
    assert_eq!(fs::read(path("company")).unwrap(), before);
}

#[cfg(unix)]
#[test]
fn a_run_that_is_interrupted_goes_on_where_it_was() {
    let folder = Folder::new();
    let input = requests(&folder);
    batch(&input, &folder.path("whole"), &["--parallel", "2"]);
    let whole = answers(&folder.path("whole"));
    let path = folder.path("answers");
    let n_lines = |path: &str| fs::read(path).map_or(0, |bytes| bytes.iter().filter(|byte| **byte == b'\n').count());
    // Killed after the first answer, stopped after two more, and torn in between.
    for (signal, n_more, code) in [("-KILL", 1, None), ("-INT", 2, Some(130))] {
        let wanted = n_lines(&path) + n_more;
        let mut child =
            program(&["batch", "-i", &input, "-o", &path, "--parallel", "2"]).stderr(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        while n_lines(&path) < wanted {
            assert!(start.elapsed() < Duration::from_secs(300), "no answer comes");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        let status = child.wait().unwrap();
        // It may have come to its end before.
        assert!(status.code() == code || status.success(), "{signal}: {status}");
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend_from_slice(b"{\"id\": \"batch_req_9\", \"custom");
        fs::write(&path, bytes).unwrap();
    }
    batch(&input, &path, &["--parallel", "2"]);
    assert_eq!(answers(&path), whole);

    // A disk with room for two kilobytes: the answers that fit are whole, the rest comes later.
    let path = folder.path("full");
    let command = program(&["batch", "-i", &input, "-o", &path, "--parallel", "2"]);
    let arguments: Vec<&std::ffi::OsStr> = command.get_args().collect();
    let mut limited = std::process::Command::new("bash");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 2; exec \"$@\"", "bash"]).arg(command.get_program()).args(arguments);
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let failed = limited.output().unwrap();
    let error = String::from_utf8(failed.stderr).unwrap();
    assert!(failed.status.code() == Some(1) && error.contains("full: cannot write answers: "), "{error}");
    let n_fit = lines(&path).len();
    assert!((1..7).contains(&n_fit), "{n_fit} answers fit");
    batch(&input, &path, &["--parallel", "2"]);
    assert_eq!(answers(&path), whole);
}

#[test]
fn what_cannot_be_is_said_before_a_model_is_loaded() {
    let folder = Folder::new();
    let input = folder.file("prompts.txt", "one\ntwo\n");
    let answers = folder.file("answers", "{\"id\": \"batch_req_1_00\"}\n");
    let error = failure(&["batch", "-i", &input, "-o", &answers], "");
    assert!(error.contains("answers, line 1: found the id \"batch_req_1_00\", expected the answer with id"), "{error}");
    let error = failure(&["batch", "-i", &input, "-o", &input], "");
    assert!(error.contains("found the same file for prompts and answers"), "{error}");
    let error = failure(&["batch", "-i", &folder.path("none"), "-o", &answers], "");
    assert!(error.contains("none: cannot read prompts"), "{error}");
    assert_eq!(fs::read_to_string(&answers).unwrap(), "{\"id\": \"batch_req_1_00\"}\n");
    let output = ferrowarp(&["batch", "-i", &input, "-o", &answers, "--shard", "9/8"]).output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("expected a part and how many there are"));
    // A model without a chat template answers texts all the same.
    let model = fixture("models/qwen2-tiny-f32.gguf");
    let input = folder.file("mixed", "{\"prompt\": \"a\", \"max_tokens\": 2, \"temperature\": 0}\nsay\n");
    let path = folder.path("mixed.answers");
    batch(&input, &path, &["-m", &model]);
    let all = lines(&path);
    assert!(all[0]["error"].is_null(), "{}", all[0]);
    assert!(all[1]["error"]["message"].as_str().is_none_or(|message| message.contains("chat_template")), "{}", all[1]);
}

#[test]
fn several_samples_are_those_of_their_seeds() {
    let prompt = haiku("tin");
    let all = run_json(&["generate", "--seed", "7", "-n", "8", "-p", &prompt, "--n-samples", "3"]);
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 3);
    for (index, sample) in all.iter().enumerate() {
        let seed = (7 + index).to_string();
        let alone = run_json(&["generate", "--seed", &seed, "-n", "8", "-p", &prompt]);
        for key in ["prompt_ids", "ids", "text", "stop", "seed"] {
            assert_eq!(sample[key], alone[key], "seed {seed}: {key}");
        }
    }
    let texts: Vec<&str> = all.iter().map(|sample| sample["text"].as_str().unwrap()).collect();
    let (printed, _) = output(&["generate", "--seed", "7", "-n", "8", "-p", &prompt, "--n-samples", "3"], "");
    assert_eq!(printed, texts.join("\n\n") + "\n");
}
