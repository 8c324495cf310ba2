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
fn the_clock_is_that_on_the_wall() {
    use ferrowarp::chat::DateTime;
    use std::time::UNIX_EPOCH;
    let folder = Folder::new();
    let file = folder.file("clock.jinja", "{{ strftime_now('%Y-%m-%d %H:%M:%S') }}");
    let arguments = ["template", "-p", "a", "--chat-template-file", &file];
    let shown = |at: i64| {
        let DateTime { year, month, day, hour, minute, second } = DateTime::from_unix(at);
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}\n")
    };
    let now = || UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
    // As POSIX writes zones: the time to add for UTC.
    for (zone, east) in [("UTC0", 0), ("AAA-14", 14 * 3600), ("BBB+11", -11 * 3600), ("CCC-5:30", 5 * 3600 + 1800)] {
        let before = now();
        let output = crate::run::ferrowarp(&arguments).env("TZ", zone).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let possible: Vec<String> = (before..=now()).map(|at| shown(at + east)).collect();
        assert!(possible.contains(&text), "{zone}: {text}, expected one of {possible:?}");
    }
}

#[test]
fn contents_in_parts_and_none_at_all_are_as_llama_cpp_has_them() {
    let folder = Folder::new();
    let messages = r#"[
        {"role": "system", "content": "S"},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "World"}]},
        {"role": "assistant", "content": null, "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "content": "7"}
    ]"#;
    let file = folder.file("messages.json", messages);
    let seen = |template: &str| stdout(&["template", "--messages", &file, "--chat-template", template]);
    let want = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHello\nWorld<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n\
                <|im_start|>tool\n7<|im_end|>\n<|im_start|>assistant\n\n";
    assert_eq!(seen("chatml"), want);
    // A template that takes lists as well gets them.
    let both = "{% for m in messages %}{% if m.content is string %}({{ m.content }}){% else %}{% for part in m.content %}\
                <{{ part.text }}>{% endfor %}{% endif %}{% endfor %}";
    assert_eq!(seen(both), "(S)<Hello><World>()(7)\n");
    // One that takes nothing else gets lists of strings too.
    let lists = "{% for m in messages %}{% for part in m['content'] %}{% if part['type'] == 'text' %}<{{ part['text'] }}>\
                 {% endif %}{% endfor %}{% endfor %}";
    assert_eq!(seen(lists), "<S><Hello><World><><7>\n");
    let typed = ["template", "-p", "hi", "--chat-template", lists];
    assert_eq!(stdout(&typed), "<hi>\n");
}
