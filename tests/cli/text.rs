//! Commands about text and about the program: `tokenize`, `template`, `completions`, `man`, help.

use crate::run::{Folder, fixture, ids, json, output, stdout};

#[test]
fn tokens_join_to_the_text() {
    let text = "Hello, wörld ☔\n\n  twice  <|im_end|>";
    for model in ["vocab/ggml-vocab-qwen2.gguf", "vocab/ggml-vocab-gpt-2.gguf"] {
        let model = fixture(model);
        let object = json(&["tokenize", "-m", &model, "-p", text]);
        let mut bytes = Vec::new();
        for piece in object["pieces"].as_array().unwrap() {
            match piece.as_str() {
                Some(piece) => bytes.extend_from_slice(piece.as_bytes()),
                None => bytes.extend(ids(piece).iter().map(|byte| *byte as u8)),
            }
        }
        assert_eq!(String::from_utf8(bytes).unwrap(), text, "{model}");
        let n = ids(&object["ids"]).len();
        assert_eq!(object["count"], n);
        assert_eq!(stdout(&["tokenize", "-m", &model, "-p", text, "--count"]), format!("{n}\n"));
        let lines = output(&["tokenize", "-m", &model], text).0;
        let first: Vec<u32> =
            lines.lines().map(|line| line.split_whitespace().next().unwrap().parse().unwrap()).collect();
        assert_eq!(first, ids(&object["ids"]));
    }
}

#[test]
fn special_tokens_are_text_unless_asked_for() {
    let count = |more: &[&str]| stdout(&[&["tokenize", "-p", "<|im_end|>", "--count"], more].concat());
    assert_ne!(count(&[]), "1\n");
    assert_eq!(count(&["--special"]), "1\n");
    // A begin token where the file asks for one, unless left out.
    let spm = fixture("vocab/ggml-vocab-llama-spm.gguf");
    let with = ids(&json(&["tokenize", "-m", &spm, "-p", "hi"])["ids"]);
    let bare = ids(&json(&["tokenize", "-m", &spm, "-p", "hi", "--bare"])["ids"]);
    assert_eq!((with[0], &with[1..]), (1, &bare[..]));
}

#[test]
fn text_is_normalised_only_when_asked_for() {
    let ids_of = |text: &str, more: &[&str]| ids(&json(&[&["tokenize", "-p", text], more].concat())["ids"]);
    let (decomposed, composed) = ("cafe\u{301}", "caf\u{e9}");
    assert_ne!(ids_of(decomposed, &[]), ids_of(composed, &[]));
    assert_eq!(ids_of(decomposed, &["--nfc"]), ids_of(composed, &[]));
    let seen = |text: &str, more: &[&str]| json(&[&["template", "-p", text], more].concat())["ids"].clone();
    assert_eq!(seen(decomposed, &["--nfc"]), seen(composed, &[]));
}

#[test]
fn a_template_shows_who_wrote_what() {
    let object = json(&["template", "-p", "hi<|im_end|>", "--system", "Be brief.", "--chat-template", "chatml"]);
    let text =
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|><|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(object["text"], text);
    let pieces = object["pieces"].as_array().unwrap();
    let joined: String = pieces.iter().map(|piece| piece["text"].as_str().unwrap()).collect();
    assert_eq!(joined, text);
    // The person's end of turn is text: one id stands for each of the template's two.
    let end = ids(&json(&["tokenize", "-p", "<|im_end|>", "--special"])["ids"])[0];
    assert_eq!(ids(&object["ids"]).iter().filter(|id| **id == end).count(), 2);
}

#[test]
fn a_template_can_be_given_and_told_more() {
    let source = "{{ messages[0]['content'] }}:{{ tone }}:{{ bos_token is defined }}";
    let arguments = ["template", "-p", "hi", "--chat-template-kwargs", r#"{"tone": "kind"}"#];
    let folder = Folder::new();
    let file = folder.file("template.jinja", source);
    let from_line = stdout(&[&arguments[..], &["--chat-template", source]].concat());
    let from_file = stdout(&[&arguments[..], &["--chat-template-file", &file]].concat());
    assert_eq!(from_line, "hi:kind:True\n");
    assert_eq!(from_file, from_line);
}

#[test]
fn every_shell_has_completions_and_every_command_a_manual_page() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = stdout(&["completions", shell]);
        assert!(script.contains("perplexity") && script.contains("prompt-cache"), "{shell}");
    }
    let page = stdout(&["man"]);
    assert!(page.contains(".TH ferrowarp 1") && page.contains("generate"), "{page}");
    for command in ["generate", "tokenize", "template", "perplexity", "inspect"] {
        let page = stdout(&["man", command]);
        let heading = format!(".TH ferrowarp-{command} 1");
        assert!(page.contains(&heading) && page.contains("FERROWARP_FORMAT"), "{page}");
    }
}

#[test]
fn help_and_version_are_asked_for() {
    for command in ["generate", "chat", "tokenize", "template", "perplexity", "completions", "man"] {
        let help = stdout(&[command, "--help"]);
        assert!(help.contains("Example"), "{command}: {help}");
    }
    assert!(stdout(&["--version"]).starts_with("ferrowarp "));
}

#[test]
fn a_reader_that_has_read_enough_is_no_error() {
    use std::process::{Command, Stdio};
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("ferrowarp"));
    let mut child = command.args(["completions", "zsh"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
