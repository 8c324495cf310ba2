//! A model whose logits are not numbers: every way of choosing a token says so, and so does measuring.

use ferrowarp::gguf::{Gguf, TensorType};

use crate::run::{Folder, failure, fixture, ids, json, output};

/// The fixture with NaN at one place of a tensor of F32: the `index`-th value.
fn damaged(tensor: &str, index: usize) -> Vec<u8> {
    let path = fixture("models/qwen2-tiny-f32.gguf");
    let mut bytes = std::fs::read(&path).unwrap();
    let gguf = Gguf::open(path.as_ref()).unwrap();
    let found = gguf.tensor(tensor).unwrap_or_else(|| panic!("{tensor}"));
    assert_eq!(found.tensor_type, TensorType::F32);
    let at = found.offset as usize + 4 * index;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    bytes
}

#[test]
fn every_way_of_choosing_a_token_names_the_file_and_the_step() {
    let folder = Folder::new();
    // All logits, by the last norm, and a single one, by its row of the output head.
    let everywhere = folder.file("norm.gguf", damaged("output_norm.weight", 3));
    let gguf = Gguf::open(everywhere.as_ref()).unwrap();
    let width = gguf.tensor("output.weight").unwrap().dims[0] as usize;
    let once = folder.file("head.gguf", damaged("output.weight", 300 * width));
    let schema = folder.file("schema.json", r#"{"type": "boolean"}"#);
    let ways: [&[&str]; 8] = [
        &["--temp", "0"],
        &["--temp", "0", "--activations", "f32"],
        &["--temp", "0", "--repeat-penalty", "1.1"],
        &["--temp", "0", "--logprobs", "2"],
        &[],
        &["--top-k", "0"],
        &["--mirostat", "2"],
        &["--json-schema", &schema],
    ];
    for (model, n) in [(&everywhere, "512"), (&once, "1")] {
        let ways = if n == "1" { &ways[..2] } else { &ways[..] };
        for way in ways {
            let arguments = ["generate", "-m", model, "--prompt-ids", "5,6,7", "-n", "4"];
            let error = failure(&[&arguments[..], way].concat(), "");
            let says = [model.as_str(), "token 1 of the answer, after 3 tokens", &format!("NaN for {n} of the 512")];
            assert!(says.iter().all(|part| error.contains(part)), "{way:?}: {error}");
        }
        let error = failure(&["chat", "-m", model, "--chat-template", "chatml"], "hi\n");
        assert!(error.contains(model.as_str()) && error.contains("NaN"), "{error}");
    }
}

#[test]
fn a_text_is_not_measured_with_nan() {
    let folder = Folder::new();
    let model = folder.file("norm.gguf", damaged("output_norm.weight", 0));
    let text = folder.file("text.txt", "The rain falls on tin and the wind drums beneath the stars. ".repeat(8));
    let base = folder.path("base");
    let measure = ["perplexity", "-m", &model, "-f", &text, "-c", "16"];
    for more in [&[][..], &["--kl-save", &base], &["--format", "json"]] {
        let error = failure(&[&measure[..], more].concat(), "");
        assert!(error.contains(&model) && error.contains("window 1, token 8") && error.contains("NaN"), "{error}");
    }
    assert!(!std::path::Path::new(&base).exists());

    // A base with NaN in it, from wherever: the last value of the first row.
    let whole = fixture("models/qwen2-tiny-f32.gguf");
    output(&["perplexity", "-m", &whole, "-f", &text, "-c", "16", "--kl-save", &base], "");
    let mut bytes = std::fs::read(&base).unwrap();
    let n = bytes.len();
    bytes[n - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&base, bytes).unwrap();
    let output = crate::run::ferrowarp(&["perplexity", "-m", &whole, "--kl-base", &base]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{error}");
    assert!(error.contains(&base) && error.contains("NaN"), "{error}");
}

/// The step of decoding makes its choice by itself: NaN comes in with the token that was chosen first.
#[test]
fn a_step_after_the_first_reports_it_too() {
    let folder = Folder::new();
    let arguments = ["generate", "--prompt-ids", "5,6,7", "-n", "4", "--seed", "3", "--ignore-eos", "--temp"];
    let whole = fixture("models/qwen2-tiny-f32.gguf");
    for temperature in ["0", "0.8"] {
        let first = [&arguments[..], &[temperature, "-m", &whole]].concat();
        let first = ids(&json(&first)["ids"])[0] as usize;
        let model = folder.file("embedding.gguf", damaged("token_embd.weight", first * 256 + 9));
        let run = [&arguments[..], &[temperature, "-m", &model, "--format", "json"]].concat();
        let error = failure(&run, "");
        let says = [model.as_str(), "token 2 of the answer, after 4 tokens", "NaN for 512 of the 512"];
        assert!(says.iter().all(|part| error.contains(part)), "{temperature}: {error}");
    }
}
