//! `embed`: where texts come from, how vectors are printed, and that a file of prompts gets the same ones.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::run::{Folder, failure, fixture, output, stdout};

const N_EMBD: usize = 256;

fn vector(value: &Value) -> Vec<f32> {
    value.as_array().unwrap_or_else(|| panic!("{value}")).iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn texts_come_from_everywhere_and_vectors_in_three_shapes() {
    let model = fixture("models/qwen2-tiny-f32.gguf");
    let folder = Folder::new();
    let file = folder.file("lines.txt", "a line\r\n\n  \nanother one\n");
    let embed = |more: &[&str]| stdout(&[&["embed", "-m", &model], more].concat());
    let all = lines(&embed(&["-f", &file]));
    let texts: Vec<&Value> = all.iter().map(|line| &line["text"]).collect();
    assert_eq!(texts, ["a line", "another one"]);
    for (index, line) in all.iter().enumerate() {
        let vector = vector(&line["embedding"]);
        let length = vector.iter().map(|value| f64::from(value * value)).sum::<f64>();
        assert!(line["index"] == index && vector.len() == N_EMBD && (length - 1.0).abs() < 1e-6, "{line}");
    }
    let (first, second) = (&all[0]["embedding"], &all[1]["embedding"]);
    assert_ne!(first, second);
    let (piped, _) = output(&["embed", "-m", &model], "a line\nanother one");
    assert_eq!(lines(&piped), all);
    assert_eq!(&lines(&embed(&["-p", "a line"]))[0]["embedding"], first);

    let array: Value = serde_json::from_str(&embed(&["-f", &file, "--format", "json"])).unwrap();
    assert_eq!(array, json!([first, second]));
    let object: Value = serde_json::from_str(&embed(&["-f", &file, "--format", "openai"])).unwrap();
    let n_tokens = all.iter().map(|line| line["n_tokens"].as_u64().unwrap()).sum::<u64>();
    let wanted = json!({
        "object": "list",
        "data": [
            { "object": "embedding", "index": 0, "embedding": first },
            { "object": "embedding", "index": 1, "embedding": second },
        ],
        "model": object["model"],
        "usage": { "prompt_tokens": n_tokens, "total_tokens": n_tokens },
    });
    assert_eq!(object, wanted);

    // Tokens as they are; and shorter vectors.
    let whole = &lines(&embed(&["--prompt-ids", "5,6,7"]))[0];
    assert_eq!((&whole["n_tokens"], &whole["text"]), (&3.into(), &Value::Null));
    let short = vector(&lines(&embed(&["--prompt-ids", "5,6,7", "--dimensions", "8"]))[0]["embedding"]);
    let first: Vec<f32> = vector(&whole["embedding"])[..8].to_vec();
    let length = first.iter().map(|value| value * value).sum::<f32>().sqrt();
    assert!(short.len() == 8 && short.iter().zip(&first).all(|(short, first)| (short - first / length).abs() < 1e-6));
}

#[test]
fn a_file_of_prompts_gets_the_same_vectors() {
    let model = fixture("models/qwen2-tiny-f32.gguf");
    let embed = |more: &[&str]| {
        lines(&stdout(&[&["embed", "-m", &model, "--pooling", "last", "--cache-type", "f16"], more].concat())).remove(0)
    };
    let (text, ids) = (embed(&["-p", "a line"]), embed(&["--prompt-ids", "5,6,7"]));
    let line = |name: &str, body: Value| {
        json!({ "custom_id": name, "method": "POST", "url": "/v1/embeddings", "body": body }).to_string() + "\n"
    };
    let folder = Folder::new();
    let input = folder.file(
        "prompts.jsonl",
        [
            line("text", json!({ "model": "any", "input": "a line" })),
            "{\"prompt\": \"a\", \"max_tokens\": 3, \"temperature\": 0}\n".to_owned(),
            line("both", json!({ "input": [[5, 6, 7], [5, 6, 7]], "encoding_format": "base64" })),
            line("texts", json!({ "input": ["a line", "a line"], "dimensions": 4 })),
            line("none", json!({ "input": [5, 99999] })),
            line("long", json!({ "input": "word ".repeat(9000) })),
            line("wide", json!({ "input": "a", "dimensions": N_EMBD + 1 })),
        ]
        .concat(),
    );
    let path = folder.path("answers.jsonl");
    let (_, report) = output(&["batch", "-v", "-m", &model, "-i", &input, "-o", &path, "--pooling", "last"], "");
    assert!(report.contains("7 answers, 3 of them errors"), "{report}");
    assert!(report.contains(" ms of the host in each ("), "{report}");
    assert!(report.contains(" ms between two tokens of a sequence; "), "{report}");
    let all = lines(&std::fs::read_to_string(&path).unwrap());
    let body = |index: usize| &all[index]["response"]["body"];
    assert_eq!(body(0)["data"][0]["embedding"], text["embedding"]);
    assert_eq!(body(0)["usage"], json!({ "prompt_tokens": text["n_tokens"], "total_tokens": text["n_tokens"] }));
    assert_eq!(body(1)["object"], "text_completion");
    let wanted: Vec<u8> = vector(&ids["embedding"]).iter().flat_map(|value| value.to_le_bytes()).collect();
    for index in 0..2 {
        let of = &body(2)["data"][index];
        assert_eq!((&of["index"], &of["object"]), (&index.into(), &"embedding".into()));
        assert_eq!(STANDARD.decode(of["embedding"].as_str().unwrap()).unwrap(), wanted);
        assert_eq!(vector(&body(3)["data"][index]["embedding"]).len(), 4);
    }
    assert_eq!(body(2)["usage"]["prompt_tokens"], 6);
    for (index, code, param, message) in [
        (4, "invalid_request", json!("input"), "line 5: input: found the token id 99999, expected one below"),
        (5, "prompt_too_long", Value::Null, "line 6: the prompt has "),
        (
            6,
            "invalid_request",
            json!("dimensions"),
            "line 7: dimensions: found 257, expected a whole number from 1 to 256",
        ),
    ] {
        let error = &all[index]["error"];
        assert_eq!((&error["code"], &error["param"]), (&code.into(), &param), "{error}");
        assert!(error["message"].as_str().unwrap().starts_with(message), "{error}");
    }
}

#[test]
fn what_cannot_be_embedded_is_said() {
    let model = fixture("models/qwen2-tiny-f32.gguf");
    let refused = |more: &[&str], stdin: &str, wanted: &str| {
        let error = failure(&[&["embed", "-m", &model], more].concat(), stdin);
        assert!(error.contains(wanted), "{more:?}: {error}");
    };
    refused(&["-p", ""], "", "expected text from -p, -f or standard input");
    refused(&[], " \n\n", "found empty lines alone");
    refused(&["-p", "a", "--dimensions", "257"], "", "--dimensions: found 257, expected 1 to 256");
    refused(&["-p", "a", "--dimensions", "0"], "", "--dimensions: found 0, expected 1 to 256");
    refused(&["-p", "a", "--pooling", "max"], "", "found \"max\", expected mean, last or cls");
    refused(&["--prompt-ids", "1,99999"], "", "text 1: token id 99999");
    refused(&["-c", "16", "-p", &"word ".repeat(40)], "", "text 1: the context is full");
}
