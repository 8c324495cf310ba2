//! Bad input: exit code 1 and one line that says what was found and what was expected. Never a panic.

use ferrowarp::gguf::{Gguf, Value, Writer};

use crate::run::{Folder, HAIKU, failure, ferrowarp, fixture, output};

/// The smallest of the models with one more metadata key.
fn with_metadata(key: &str, value: &Value) -> Vec<u8> {
    let gguf = Gguf::open(fixture("models/qwen2-tiny-f16.gguf").as_ref()).unwrap();
    let mut writer = Writer::default();
    gguf.metadata().iter().for_each(|(key, value)| writer.metadata(key, value));
    writer.metadata(key, value);
    for tensor in gguf.tensors() {
        writer.tensor(&tensor.name, &tensor.dims, tensor.tensor_type);
    }
    let mut bytes = writer.header();
    let start = bytes.len();
    for tensor in gguf.tensors() {
        bytes.resize(start + (bytes.len() - start).next_multiple_of(32), 0);
        bytes.extend_from_slice(gguf.data(tensor));
    }
    bytes.resize(start + (bytes.len() - start).next_multiple_of(32), 0);
    bytes
}

/// Runs and checks that the line says all of this.
fn refused(arguments: &[&str], stdin: &str, says: &[&str]) {
    let error = failure(arguments, stdin);
    for part in says {
        assert!(error.contains(part), "{arguments:?}: expected {part:?} in: {error}");
    }
}

#[test]
fn prompts() {
    let folder = Folder::new();
    let latin1 = folder.file("latin1.txt", b"caf\xe9 au lait");
    let empty = folder.file("empty.txt", "");
    let missing = folder.path("missing.txt");
    for command in ["generate", "tokenize", "template"] {
        refused(&[command, "-p", ""], "", &["prompt is empty"]);
        refused(&[command], "", &["prompt is empty", "standard input"]);
        refused(&[command, "-f", &empty], "", &["prompt is empty"]);
        refused(&[command, "-f", &latin1], "", &[&latin1, "not UTF-8 at offset 3"]);
        refused(&[command, "-f", &missing], "", &[&missing]);
        refused(&[command, "-p", "a", "-f", &empty], "", &["--prompt", "--file"]);
    }
    let tiny = fixture("models/qwen2-tiny-f16.gguf");
    let long = "rain ".repeat(300);
    refused(&["generate", "-m", &tiny, "-c", "128", "-p", &long], "", &["128 positions", "-c"]);
    refused(&["generate", "-p", HAIKU, "-c", "16", "--context-shift"], "", &["16 positions"]);
    refused(&["generate", "-m", &tiny, "-p", HAIKU, "-c", "100000"], "", &["100000", "2048"]);
    refused(&["generate", "--prompt-ids", "5,70000"], "", &["70000"]);
    refused(&["generate", "--prompt-ids", "5,x"], "", &["--prompt-ids"]);
}

#[test]
fn bytes_that_are_not_text_on_standard_input() {
    for command in ["generate", "chat"] {
        let output = ferrowarp(&[command]).write_stdin(&b"caf\xe9\n"[..]).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("standard input") && error.contains("not UTF-8 at offset 3"), "{error}");
    }
}

#[test]
fn templates() {
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
    let cases = [
        ("{{ nobody.knows.this }}", "nobody"),
        (endless, "may never end"),
        ("{% for %}", "line 1"),
        ("{{ raise_exception('no such role') }}", "no such role"),
        ("llama3", "chatml"),
    ];
    for (template, says) in cases {
        for command in ["template", "generate"] {
            refused(&[command, "-p", "hi", "--chat-template", template], "", &["--chat-template", says]);
        }
    }
    refused(&["template", "-p", "hi", "--chat-template-kwargs", "[1]"], "", &["JSON object"]);
    refused(&["template", "-p", "hi", "--chat-template-file", "/no/such.jinja"], "", &["/no/such.jinja"]);
    let folder = Folder::new();
    for command in ["template", "generate"] {
        for (content, says) in [
            ("{}", "array of messages"),
            ("[]", "at least one"),
            ("[1]", "role"),
            (r#"[{"role": "user", "content": 5}]"#, "message 1, from \"user\": content: found 5"),
            (r#"[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]"#, "image_url"),
            (r#"[{"role": "user", "content": ["bare"]}]"#, "found \"bare\""),
        ] {
            let file = folder.file("messages.json", content);
            refused(&[command, "--messages", &file], "", &[says]);
        }
    }
    let not_messages = folder.file("messages.json", "{}");
    refused(&["template", "--messages", &not_messages], "", &[&not_messages, "array of messages"]);
}

#[test]
fn schemas_and_grammars() {
    let folder = Folder::new();
    for (name, content, says) in [
        ("cut.json", "{\"type\":", "not JSON"),
        ("list.json", "[1, 2]", "a schema is a JSON object"),
        ("type.json", "{\"type\": \"poem\"}", "not a usable JSON schema"),
    ] {
        let file = folder.file(name, content);
        refused(&["generate", "-p", "hi", "--json-schema", &file], "", &[&file, says]);
    }
    for (name, content) in
        [("cut.gbnf", "root ::= \"a"), ("rule.gbnf", "root ::= other"), ("words.lark", "these are words")]
    {
        let file = folder.file(name, content);
        refused(&["generate", "-p", "hi", "--grammar", &file], "", &[&file, "not a usable"]);
    }
    refused(&["generate", "-p", "hi", "--grammar", "/no/such.gbnf"], "", &["/no/such.gbnf"]);
}

#[test]
fn numbers_and_names() {
    let cases: [(&[&str], &[&str]); 12] = [
        (&["-n", "-2"], &["-n", "-2", "-1 for no limit"]),
        (&["--keep", "-5"], &["--keep", "-5"]),
        (&["--top-p", "1.5"], &["--top-p", "1.5", "from 0 to 1"]),
        (&["--temp", "warm"], &["--temp", "warm"]),
        (&["--seed", "-2"], &["--seed", "-2", "-1"]),
        (&["--logit-bias", "70000+1"], &["--logit-bias", "70000"]),
        (&["--samplers", "top_q"], &["top_q", "top_k"]),
        (&["--format", "yaml"], &["yaml", "json"]),
        (&["--cache-type", "f8"], &["f8", "q8_0"]),
        (&["--device", "abacus"], &["abacus", "soft"]),
        (&["--nonsense"], &["--nonsense"]),
        (&["--json-schema", "a", "--grammar", "b"], &["--json-schema", "--grammar"]),
    ];
    for (arguments, says) in cases {
        refused(&[&["generate", "-p", "hi"], arguments].concat(), "", says);
    }
    for n in ["0", "18446744073709551615"] {
        refused(&["serve", "--port", "0", "--max-connections", n], "", &["--max-connections", n]);
    }
    // The model file's own wishes.
    let folder = Folder::new();
    let hot = folder.file("hot.gguf", with_metadata("general.sampling.temp", &Value::String("hot".into())));
    let high = folder.file("high.gguf", with_metadata("general.sampling.top_p", &Value::F32(1.5)));
    for (model, key, flag, value) in
        [(&hot, "general.sampling.temp", "--temp", "0.5"), (&high, "general.sampling.top_p", "--top-p", "0.9")]
    {
        let arguments = ["generate", "-m", model, "--prompt-ids", "5", "-n", "1"];
        refused(&arguments, "", &[model, key, flag]);
        output(&[&arguments[..], &[flag, value]].concat(), "");
    }
    refused(&["compose"], "", &["compose"]);
    refused(&["completions", "tcsh"], "", &["tcsh", "bash"]);
    refused(&["man", "compose"], "", &["compose", "generate"]);
    refused(&["perplexity"], "", &["--file"]);
}

#[test]
fn texts_that_cannot_be_measured() {
    let folder = Folder::new();
    let short = folder.file("short.txt", "rain");
    let tiny = fixture("models/qwen2-tiny-f16.gguf");
    refused(&["perplexity", "-m", &tiny, "-f", &short], "", &["one window of 512"]);
    refused(&["perplexity", "-f", &short, "-c", "2"], "", &["at least 4"]);
    refused(&["perplexity", "--kl-base", &short], "", &[&short, "base of predictions"]);
    refused(&["perplexity", "-f", "/no/such.txt"], "", &["/no/such.txt"]);
}

#[test]
fn models() {
    let folder = Folder::new();
    let model = fixture("models/qwen2-tiny-f16.gguf");
    let whole = std::fs::read(&model).unwrap();
    let missing = folder.path("missing.gguf");
    let foreign = folder.file("foreign.gguf", "this is a text, not a model");
    let truncated = folder.file("truncated.gguf", &whole[..whole.len() / 2]);
    let mut flipped = whole.clone();
    flipped[8] ^= 0x80; // The number of tensors.
    let flipped = folder.file("flipped.gguf", &flipped);
    let vocabulary = fixture("vocab/ggml-vocab-qwen2.gguf");
    for path in [&missing, &foreign, &truncated, &flipped, &vocabulary] {
        refused(&["generate", "-m", path, "-p", "hi"], "", &[path]);
    }
    for path in [&missing, &foreign, &truncated, &flipped] {
        refused(&["chat", "-m", path], "hi\n", &[path]);
        refused(&["tokenize", "-m", path, "-p", "hi"], "", &[path]);
        refused(&["template", "-m", path, "-p", "hi"], "", &[path]);
        refused(&["perplexity", "-m", path, "-f", "any.txt"], "", &[path]);
    }
}

#[test]
fn a_gpu_that_is_not_there() {
    let has_gpu = std::path::Path::new("/dev/nvidiactl").exists();
    let output = ferrowarp(&["generate", "--device", "cuda", "-n", "1", "-p", "hi"]).output().unwrap();
    assert_eq!(output.status.success(), has_gpu, "{output:?}");
    if !has_gpu {
        refused(&["generate", "--device", "cuda", "-p", "hi"], "", &["libcuda"]);
    }
}
