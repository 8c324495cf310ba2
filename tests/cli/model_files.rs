//! Model files with faults that a command need not mind, and models that do not run.

use ferrowarp::gguf::{Array, Gguf, Value, Writer};

use crate::run::{Folder, failure, fixture, output};

/// The smallest model, its metadata put together anew.
fn changed(change: impl Fn(&str, &Value) -> Option<Value>, add: &[(&str, Value)]) -> Vec<u8> {
    let path = fixture("models/llama-tiny-q4_k_m.gguf");
    let gguf = Gguf::open(path.as_ref()).unwrap();
    let mut writer = Writer::default();
    for (key, value) in gguf.metadata().iter() {
        writer.metadata(key, &change(key, value).unwrap_or_else(|| value.clone()));
    }
    for (key, value) in add {
        writer.metadata(key, value);
    }
    let mut data = Vec::new();
    for tensor in gguf.tensors() {
        let offset = writer.tensor(&tensor.name, &tensor.dims, tensor.tensor_type);
        data.resize(offset as usize, 0);
        data.extend_from_slice(gguf.data(tensor));
    }
    data.resize(writer.data_bytes() as usize, 0);
    [writer.header(), data].concat()
}

/// Standard output and error of every command that reads a model's text, and of one that runs it.
fn each(model: &str) -> Vec<(String, String)> {
    let commands: [&[&str]; 4] = [
        &["inspect", model],
        &["tokenize", "-m", model, "-p", "exact"],
        &["template", "-m", model, "-p", "hi"],
        &["generate", "-m", model, "-p", "hi", "-n", "1", "-c", "64"],
    ];
    commands.map(|arguments| output(arguments, "")).into()
}

#[test]
fn ids_of_special_tokens_outside_the_vocabulary_are_warned_of() {
    let folder = Folder::new();
    let ids = [("tokenizer.ggml.mask_token_id", Value::U32(512)), ("tokenizer.ggml.eot_token_id", Value::I32(-1))];
    let model = folder.file("ids.gguf", changed(|_, _| None, &ids));
    for (_, error) in &each(&model)[1..] {
        for (key, value) in [("mask", "512"), ("eot", "-1")] {
            let line = error.lines().find(|line| line.contains(&format!("{key}_token_id")));
            let line = line.unwrap_or_else(|| panic!("{key}: {error}"));
            assert!(line.starts_with("warning: ") && line.contains(value), "{line}");
        }
        assert!(!error.contains('\x1b'), "{error}");
    }
}

#[test]
fn what_nobody_needs_need_not_be_text() {
    let folder = Folder::new();
    let latin1 = || Value::Bytes(b"mod\xe8le".to_vec());
    let add = [("general.author", latin1()), ("general.tags", Value::Array(Array::Bytes(vec![b"\xff".to_vec()])))];
    let model = folder.file("latin1.gguf", changed(|key, _| (key == "general.name").then(latin1), &add));
    let shown = each(&model);
    assert!(shown[0].0.contains("mod\\xe8le"), "{}", shown[0].0);
    let needed = folder.file("needed.gguf", changed(|key, _| (key == "tokenizer.chat_template").then(latin1), &[]));
    output(&["tokenize", "-m", &needed, "-p", "hi"], "");
    output(&["generate", "--raw", "-m", &needed, "-p", "hi", "-n", "1", "-c", "64"], "");
    let error = failure(&["template", "-m", &needed, "-p", "hi"], "");
    assert!(error.contains("tokenizer.chat_template") && error.contains("not UTF-8"), "{error}");
}

#[test]
fn merges_of_what_is_no_token_are_warned_of() {
    let folder = Folder::new();
    let without = |key: &str, value: &Value| match (key, value) {
        ("tokenizer.ggml.tokens", Value::Array(Array::String(tokens))) => {
            let mut tokens = tokens.clone();
            let merged = tokens.iter_mut().rev().find(|token| token.chars().count() == 3 && token.is_ascii()).unwrap();
            merged.clear();
            Some(Value::Array(Array::String(tokens)))
        }
        _ => None,
    };
    let model = folder.file("merges.gguf", changed(without, &[]));
    for (_, error) in &each(&model)[1..] {
        assert!(error.starts_with("warning: ") && error.contains("tokenizer.ggml.merges"), "{error}");
    }
}

#[test]
fn an_architecture_that_does_not_run_is_said_first() {
    let folder = Folder::new();
    let text = |text: &str| Some(Value::String(text.into()));
    // Nothing else about the file is right either.
    let change = |key: &str, _: &Value| match key {
        "general.architecture" => text("mamba9"),
        "tokenizer.ggml.pre" => text("tokyo"),
        "tokenizer.ggml.model" => text("abacus"),
        "tokenizer.chat_template" => text("{% if %}"),
        _ => None,
    };
    let model = folder.file("foreign.gguf", changed(change, &[]));
    let file = folder.file("text.txt", "rain ".repeat(2000));
    let commands: [&[&str]; 8] = [
        &["generate", "-m", &model, "-p", "hi"],
        &["generate", "-m", &model, "-p", "hi", "--chat-template", "{% if %}", "--grammar", &file],
        &["generate", "-m", &model, "--prompt-ids", "1"],
        &["chat", "-m", &model],
        &["perplexity", "-m", &model, "-f", &file],
        &["trace", "-m", &model, "--prompt-ids", "1", "-o", "out.safetensors"],
        &["verify", "-m", &model, "--prompt-ids", "1"],
        &["bench", "-m", &model],
    ];
    for arguments in commands {
        let error = failure(arguments, "hi\n");
        for part in ["general.architecture", "\"mamba9\"", "does not run", "olmo2, phi3, qwen2"] {
            assert!(error.contains(part), "{arguments:?}: {error}");
        }
    }
    let inspected = output(&["inspect", &model], "").0;
    assert!(inspected.contains("abacus (not known to this program)"), "{inspected}");
}
