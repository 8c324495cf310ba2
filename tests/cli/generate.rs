//! `generate`: what it prints, and what each option does.

use std::{
    io::Read,
    process::{Command, Stdio},
};

use ferrowarp::{
    gguf::Gguf,
    tokenizer::{ControlText, Tokenizer},
};
use serde_json::Value;

use crate::run::{EMBEDDED, Folder, HAIKU, ferrowarp, fixture, ids, json, list, output, stdout};

const GREEDY: [&str; 5] = ["generate", "--temp", "0", "-p", HAIKU];

fn greedy(more: &[&str]) -> Value {
    json(&[&GREEDY, more].concat())
}

#[test]
fn streamed_text_is_the_json_text_and_the_object_says_what_happened() {
    let object = greedy(&[]);
    let text = object["text"].as_str().unwrap();
    assert_eq!(stdout(&GREEDY), format!("{text}\n"));
    assert_eq!(object["stop"], "eos");
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(object["device"].as_str().is_some_and(|name| !name.is_empty()));
    let timings = &object["timings"];
    for key in ["load_s", "vocab_s", "prompt_s", "eval_s"] {
        assert!(timings[key].as_f64().unwrap() >= 0.0, "{key}: {object}");
    }
    assert_eq!(timings["prompt_n"], ids(&object["prompt_ids"]).len());
    assert_eq!(timings["eval_n"], ids(&object["ids"]).len() - 1);

    // The end token is among the ids and not in the text.
    let gguf = Gguf::open(EMBEDDED.as_ref()).unwrap();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let ids = ids(&object["ids"]);
    let (end, before) = ids.split_last().unwrap();
    assert!(tokenizer.is_end_of_generation(*end));
    assert_eq!(tokenizer.decode(before, ControlText::Hide).unwrap(), text);
}

#[test]
fn a_prompt_comes_from_the_line_a_file_standard_input_or_ids() {
    let folder = Folder::new();
    let file = folder.file("prompt.txt", HAIKU);
    let want = greedy(&["-n", "3"]);
    let same = ["generate", "--temp", "0", "-n", "3", "--format", "json"];
    let from_file = json(&["generate", "--temp", "0", "-n", "3", "-f", &file]);
    let from_stdin: Value = serde_json::from_str(&output(&same, HAIKU).0).unwrap();
    let from_ids = json(&["generate", "--temp", "0", "-n", "3", "--prompt-ids", &list(&ids(&want["prompt_ids"]))]);
    for other in [from_file, from_stdin, from_ids] {
        for key in ["prompt_ids", "ids", "text", "stop"] {
            assert_eq!(other[key], want[key], "{key}");
        }
    }
    assert_eq!(want["stop"], "length");
    assert_eq!(ids(&want["ids"]).len(), 3);
}

#[test]
fn a_seed_repeats_the_text_and_another_changes_it() {
    let run = |seed: &str| {
        let arguments = [
            "generate", "--temp", "2", "--min-p", "0", "--top-k", "0", "--top-p", "1", "-n", "10", "-p", HAIKU,
            "--seed", seed,
        ];
        let object = json(&arguments);
        assert_eq!(object["seed"].to_string(), seed);
        ids(&object["ids"])
    };
    assert_eq!(run("11"), run("11"));
    assert_ne!(run("11"), run("12"));
    // Without a seed, one is drawn and shown: it repeats the text too.
    let free = json(&["generate", "--temp", "1.5", "-n", "6", "-p", HAIKU]);
    let again = json(&["generate", "--temp", "1.5", "-n", "6", "-p", HAIKU, "--seed", &free["seed"].to_string()]);
    assert_eq!(free["ids"], again["ids"]);
}

#[test]
fn variables_set_options_and_the_line_overrides_them() {
    let run = |arguments: &[&str]| -> Value {
        let output = ferrowarp(&[&["generate", "-p", HAIKU], arguments].concat())
            .env("FERROWARP_TEMP", "0")
            .env("FERROWARP_N_PREDICT", "4")
            .env("FERROWARP_FORMAT", "json")
            .env("FERROWARP_IGNORE_EOS", "yes")
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    };
    assert_eq!(run(&[])["ids"], greedy(&["-n", "4"])["ids"]);
    assert_eq!(ids(&run(&["-n", "2"])["ids"]).len(), 2);
    assert_eq!(ids(&run(&["-n", "2", "-n", "3"])["ids"]).len(), 3, "the last of an option given twice");
}

#[test]
fn variables_that_contradict_an_option_are_as_if_not_set() {
    let run = |variables: &[(&str, &str)]| {
        let mut command = ferrowarp(&[&GREEDY[..], &["-n", "2", "--system", "Be brief."]].concat());
        variables.iter().for_each(|(name, value)| {
            command.env(name, value);
        });
        let output = command.output().unwrap();
        assert!(output.status.success(), "{variables:?}: {output:?}");
        output.stdout
    };
    let want = run(&[]);
    for (name, value) in [
        ("FERROWARP_RAW", "1"),
        ("FERROWARP_FILE", "/no/such/file"),
        ("FERROWARP_PROMPT_IDS", "1,2"),
        ("FERROWARP_RAW", "0"),
        ("FERROWARP_IGNORE_EOS", "false"),
        ("FERROWARP_MODEL", ""),
        ("FERROWARP_GRAMMAR", ""),
        ("FERROWARP_N_PREDICT", "7"),
    ] {
        assert_eq!(run(&[(name, value)]), want, "{name}={value}");
    }
    let wrong = ferrowarp(&GREEDY).env("FERROWARP_CONTEXT_SHIFT", "perhaps").output().unwrap();
    let error = String::from_utf8(wrong.stderr).unwrap();
    assert_eq!(wrong.status.code(), Some(1));
    assert!(error.contains("FERROWARP_CONTEXT_SHIFT") && error.contains("perhaps"), "{error}");
}

#[test]
fn the_line_end_of_a_file_or_pipe_is_no_part_of_the_prompt() {
    let folder = Folder::new();
    let template = ["template", "--chat-template", "{{ messages[0].content }}|"];
    for (written, prompt) in [
        ("The rain", "The rain"),
        ("The rain\n", "The rain"),
        ("The rain\r\n", "The rain"),
        ("The rain\n\n", "The rain\n"),
        ("The rain \nfalls\n", "The rain \nfalls"),
    ] {
        let file = folder.file("prompt.txt", written);
        let want = format!("{prompt}|\n");
        assert_eq!(stdout(&[&template[..], &["-f", &file]].concat()), want, "{written:?}");
        assert_eq!(output(&template, written).0, want, "{written:?}");
        // What is typed is meant, and tokens are shown of the text as it is.
        assert_eq!(stdout(&[&template[..], &["-p", written]].concat()), format!("{written}|\n"));
        assert_eq!(json(&["tokenize", "-f", &file])["ids"], json(&["tokenize", "-p", written])["ids"], "{written:?}");
    }
    let file = folder.file("prompt.txt", "The rain\n");
    let want = json(&["tokenize", "-p", "The rain"]);
    let raw = ["generate", "--raw", "-n", "0", "--format", "json"];
    for (more, stdin) in [(&["-f", &file][..], ""), (&[], "The rain\n")] {
        let object: Value = serde_json::from_str(&output(&[&raw[..], more].concat(), stdin).0).unwrap();
        assert_eq!(object["prompt_ids"], want["ids"]);
    }
}

#[test]
fn a_saved_conversation_goes_on() {
    let folder = Folder::new();
    let (saved, both) = (folder.path("saved.json"), folder.path("both.json"));
    let chat = ["chat", "--temp", "0", "-n", "8", "--system", "Write well.", "--cache-type", "f32"];
    let (out, _) = output(&chat, &format!("{HAIKU}\n/save {saved}\nAnother one\n/save {both}\n"));
    let goes_on = ["generate", "--temp", "0", "-n", "8", "--cache-type", "f32", "--messages", &saved];
    let next = json(&[&goes_on[..], &["-p", "Another one"]].concat());
    let want: Value = serde_json::from_str(&std::fs::read_to_string(&both).unwrap()).unwrap();
    assert_eq!(next["text"], want[4]["content"]);
    assert!(out.ends_with(&format!("{}\n", want[4]["content"].as_str().unwrap())), "{out}");
    // What the model sees is what `template` shows, with or without a text that follows.
    for more in [&[][..], &["-p", "Another one"]] {
        let seen = json(&[&["template", "--messages", &saved], more].concat());
        assert_eq!(json(&[&goes_on[..], more].concat())["prompt_ids"], seen["ids"]);
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_what_is_read() {
    let folder = Folder::new();
    let with_mark = |name: &str, content: &str| folder.file(name, format!("\u{feff}{content}"));
    let gbnf = with_mark("yes.gbnf", "root ::= \"yes\"");
    let lark = with_mark("yes.lark", "start: \"yes\"");
    let schema = with_mark("yes.json", "{\"const\": \"yes\"}");
    assert_eq!(greedy(&["--grammar", &gbnf])["text"], "yes");
    assert_eq!(greedy(&["--grammar", &lark])["text"], "yes");
    assert_eq!(greedy(&["--json-schema", &schema])["text"], "\"yes\"");
    let messages = with_mark("messages.json", "[{\"role\": \"user\", \"content\": \"hi\"}]");
    let template = with_mark("template.jinja", "{{ messages[0].content }}");
    assert_eq!(stdout(&["template", "--messages", &messages, "--chat-template-file", &template]), "hi\n");
}

#[test]
fn the_context_may_be_the_models_own_and_the_seed_the_systems() {
    let model = fixture("models/qwen2-tiny-f16.gguf");
    let arguments = ["generate", "-m", &model, "--prompt-ids", "5,6", "-n", "1", "-v", "-c", "0"];
    let whole = output(&arguments, "").1;
    assert!(whole.contains("2048") || whole.contains("2 048"), "{whole}");
    let inspected = json(&["inspect", "-m", &model, "-c", "0"]);
    assert_eq!(inspected["memory"]["n_context"], inspected["config"]["context_length"]);
    assert_eq!(inspected["memory"], json(&["inspect", &model, "-c", "2048"])["memory"]);

    let seeds: Vec<u64> = (0..4).map(|_| greedy(&["-n", "1", "--seed", "-1"])["seed"].as_u64().unwrap()).collect();
    assert!(seeds.iter().any(|seed| *seed != seeds[0]), "{seeds:?}");
}

#[test]
fn a_stop_string_ends_the_text_wherever_tokens_cut_it() {
    let whole = greedy(&[])["text"].as_str().unwrap().to_owned();
    let lines: Vec<&str> = whole.lines().collect();
    // Within a word, over several, over a line end, and two of which the second comes first.
    let second = lines[1];
    let cases = [
        vec![&second[1..4]],
        vec![second],
        vec![&whole[lines[0].len() - 3..lines[0].len() + 4]],
        vec![lines[2], &lines[0][2..9]],
    ];
    for stops in &cases {
        let mut arguments = GREEDY.to_vec();
        stops.iter().for_each(|stop| arguments.extend(["-r", *stop]));
        let object = json(&arguments);
        let (at, stop) = stops.iter().filter_map(|stop| Some((whole.find(stop)?, *stop))).min().unwrap();
        assert_eq!(object["text"], whole[..at], "{stops:?}");
        assert_eq!((&object["stop"], &object["stop_string"]), (&"stop".into(), &stop.into()));
        assert_eq!(stdout(&arguments), format!("{}\n", &whole[..at]));
    }
    // One that never comes holds nothing back for good.
    assert_eq!(greedy(&["-r", &format!("{}!", second)])["text"], whole);
}

#[test]
fn the_end_of_the_turn_can_be_passed_and_no_tokens_asked_for() {
    let ended = ids(&greedy(&["-n", "-1"])["ids"]);
    let n = (ended.len() + 2).to_string();
    let passed = greedy(&["--ignore-eos", "-n", &n]);
    assert_eq!(ids(&passed["ids"]).len(), ended.len() + 2);
    assert_eq!(ids(&passed["ids"])[..ended.len()], ended);
    assert_eq!(passed["stop"], "length");
    let none = greedy(&["-n", "0"]);
    assert_eq!((&none["text"], &none["stop"]), (&"".into(), &"length".into()));
}

#[test]
fn the_template_wraps_the_prompt_and_raw_does_not() {
    let system = ["--system", "Be brief."];
    let object = greedy(&[&["-n", "1"], &system[..]].concat());
    let seen = json(&["template", "-p", HAIKU, "--system", "Be brief."]);
    assert_eq!(object["prompt_ids"], seen["ids"]);
    let raw = greedy(&["-n", "1", "--raw"]);
    assert_eq!(raw["prompt_ids"], json(&["tokenize", "-p", HAIKU])["ids"]);
}

#[test]
fn a_full_context_stops_with_a_reason() {
    let model = fixture("models/qwen2-tiny-f16.gguf");
    let arguments = ["generate", "-m", &model, "--prompt-ids", "5,6,7,8", "-c", "9"];
    let arguments = [&arguments[..], &["--ignore-eos", "--format", "json"]].concat();
    let (out, error) = output(&arguments, "");
    let object: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(object["stop"], "length");
    // Each token but the last has its position.
    assert_eq!(ids(&object["ids"]).len(), 9 - 4 + 1);
    assert!(error.contains("the context of 9 positions is full"), "{error}");
}

#[test]
fn a_context_shift_goes_on_as_from_the_text_that_is_kept() {
    let model = fixture("models/qwen2-tiny-f32.gguf");
    let run = |prompt: &[u32], n: &str| {
        let prompt = list(prompt);
        let arguments = ["generate", "-m", &model, "--cache-type", "f32", "-c", "24", "--temp", "0", "--ignore-eos"];
        let more = ["--context-shift", "--keep", "4", "--prompt-ids", &prompt, "-n", n];
        ids(&json(&[&arguments[..], &more].concat())["ids"])
    };
    let prompt: Vec<u32> = (40..50).collect();
    let long = run(&prompt, "60");
    assert_eq!(long.len(), 60);
    // The context is full with the prompt and 14 tokens; of the 20 after the first four, the older ten go.
    let seen = [&prompt[..], &long[..14]].concat();
    let kept = [&seen[..4], &seen[14..], &long[14..15]].concat();
    assert_eq!(run(&kept, "8"), long[15..23]);
}

#[test]
fn log_probabilities_come_with_each_token() {
    let object = greedy(&["-n", "3", "--logprobs", "1000000"]);
    let tokens = object["logprobs"].as_array().unwrap();
    assert_eq!(tokens.len(), 3);
    for (token, id) in tokens.iter().zip(ids(&object["ids"])) {
        assert_eq!(token["id"], id);
        let top = token["top"].as_array().unwrap();
        assert_eq!((&top[0]["id"], &top[0]["logprob"]), (&token["id"], &token["logprob"]));
        let sum: f64 = top.iter().filter_map(|t| t["logprob"].as_f64()).map(f64::exp).sum();
        assert!((sum - 1.0).abs() < 1e-4, "{sum}");
    }
    let (_, error) = output(&[&GREEDY[..], &["-n", "3", "--logprobs", "2"]].concat(), "");
    assert_eq!(error.lines().count(), 3, "{error}");
}

/// Characters that no token holds come as tokens of their bytes, which are reported with each.
#[test]
fn tokens_that_are_parts_of_a_character_show_their_bytes() {
    let folder = Folder::new();
    for text in ["😀", "naïve ☔", "漢字"] {
        let grammar = folder.file("text.gbnf", format!("root ::= \"{text}\""));
        let object = greedy(&["--grammar", &grammar, "--logprobs", "3"]);
        assert_eq!(object["text"], text);
        let tokens = object["logprobs"].as_array().unwrap();
        // The last one is the end.
        let bytes: Vec<u8> =
            tokens[..tokens.len() - 1].iter().flat_map(|token| ids(&token["bytes"])).map(|byte| byte as u8).collect();
        assert_eq!(String::from_utf8(bytes).unwrap(), text);
        for token in tokens.iter().flat_map(|token| token["top"].as_array().unwrap().iter().chain([token])) {
            let bytes: Vec<u8> = ids(&token["bytes"]).iter().map(|byte| *byte as u8).collect();
            assert_eq!(token["text"], String::from_utf8_lossy(&bytes).as_ref());
        }
        for arguments in [&GREEDY[..3], &["tokenize"]] {
            let arguments = match arguments[0] {
                "tokenize" => vec!["tokenize", "-p", text],
                _ => [&GREEDY[..], &["--grammar", &grammar, "--logprobs", "1"]].concat(),
            };
            let (out, error) = output(&arguments, "");
            let shown = if arguments[0] == "tokenize" { out } else { error };
            assert!(!shown.contains('\u{fffd}') && shown.contains("b\"\\x"), "{arguments:?}: {shown}");
        }
    }
}

#[test]
fn a_bias_bans_a_token_or_forces_it() {
    let first = ids(&greedy(&["-n", "1"])["ids"])[0];
    let banned = ids(&greedy(&["-n", "1", "-l", &format!("{first}-inf")])["ids"])[0];
    assert_ne!(banned, first);
    assert_eq!(ids(&greedy(&["-n", "2", "-l", "17+1000"])["ids"]), [17, 17]);
}

#[test]
fn text_under_a_schema_or_grammar_always_parses() {
    let folder = Folder::new();
    let schema = r#"{"type": "object", "properties": {"wet": {"type": "boolean"}, "sky": {"enum": ["grey", "blue"]}},
                     "required": ["wet", "sky"], "additionalProperties": false}"#;
    let schema = folder.file("weather.json", schema);
    for seed in ["1", "2", "3"] {
        let object = json(&["generate", "-p", HAIKU, "--temp", "2", "--seed", seed, "--json-schema", &schema]);
        assert_eq!(object["stop"], "eos", "{object}");
        let value: Value = serde_json::from_str(object["text"].as_str().unwrap()).unwrap();
        assert!(value["wet"].is_boolean() && ["grey", "blue"].contains(&value["sky"].as_str().unwrap()), "{value}");
        assert_eq!(value.as_object().unwrap().len(), 2);
    }
    let grammar = folder.file("answer.gbnf", "root ::= \"yes\" | \"no\"");
    let text = greedy(&["--grammar", &grammar])["text"].as_str().unwrap().to_owned();
    assert!(["yes", "no"].contains(&text.as_str()), "{text}");
    // Cut short, it says so.
    let cut = [&GREEDY[..], &["--json-schema", &schema, "-n", "1"]].concat();
    assert!(output(&cut, "").1.contains("before the text was complete"));
}

/// A format that nobody knows says nothing; items are different where they can be held to it, else there is a warning.
#[test]
fn unknown_formats_are_annotations_and_unique_items_differ_or_are_warned_of() {
    let folder = Folder::new();
    let named = folder.file("named.json", r#"{"type": "string", "format": "color", "maxLength": 5}"#);
    let sets =
        r#"{"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": true, "minItems": 3, "maxItems": 9}"#;
    let (sets, words) = (
        folder.file("sets.json", sets),
        folder.file(
            "words.json",
            r#"{"type": "array",
        "items": {"type": "string", "maxLength": 1}, "uniqueItems": true, "maxItems": 2}"#,
        ),
    );
    for seed in ["1", "2"] {
        let hot = ["generate", "-p", HAIKU, "--temp", "2", "--seed", seed, "--format", "json", "--json-schema"];
        let run = |schema: &str| {
            let (out, error) = output(&[&hot[..], &[schema]].concat(), "");
            let object: Value = serde_json::from_str(&out).unwrap();
            (serde_json::from_str::<Value>(object["text"].as_str().unwrap()).unwrap(), error)
        };
        let (text, error) = run(&named);
        assert!(text.as_str().unwrap().chars().count() <= 5 && error.is_empty(), "{text} {error}");
        let (set, error) = run(&sets);
        let mut items: Vec<&str> = set.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect();
        items.sort_unstable();
        assert_eq!((items, error.as_str()), (vec!["a", "b", "c"], ""));
        let (_, error) = run(&words);
        assert!(error.starts_with("warning: ") && error.contains(&words) && error.contains("uniqueItems"), "{error}");
    }
}

#[test]
fn v_shows_the_device_the_seed_and_times() {
    let (_, error) = output(&[&GREEDY[..], &["-n", "2", "-v", "--seed", "99"]].concat(), "");
    for name in ["device", "seed    99", "vocab", "load", "prompt", "eval", "tokens/s", "KV cache"] {
        assert!(error.contains(name), "{name}: {error}");
    }
    assert!(!error.contains('\x1b'), "colours without a terminal: {error:?}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_it_with_130_after_a_whole_line() {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("ferrowarp"));
    command.env_remove("FERROWARP_SEED").stdout(Stdio::piped()).stdin(Stdio::null());
    if std::env::var_os("FERROWARP_DEVICE").is_none() {
        command.env("FERROWARP_DEVICE", "soft");
    }
    let mut child = command.args(GREEDY).args(["--ignore-eos", "--context-shift"]).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    // The first bytes show that it is generating.
    let mut first = [0; 4];
    out.read_exact(&mut first).unwrap();
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(rest.ends_with('\n'), "{rest}");
}

/// On a machine that has a driver alone the poem is the same: its prompt's products are this program's own.
#[test]
fn a_haiku_needs_no_cublas() {
    let run = |cublas: &str| {
        let mut command = ferrowarp(&["generate", "--seed", "3", "-v", "-p", HAIKU]);
        let output = command.env("FERROWARP_CUBLAS", cublas).output().unwrap();
        let [out, error] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert!(output.status.success(), "{error}");
        (out, error.lines().find(|line| line.starts_with("matmul")).unwrap_or_default().to_owned())
    };
    let ((with, library), (without, kernels)) = (run(""), run("none"));
    assert!(!with.is_empty() && with == without, "{with}{without}");
    assert!(library != kernels && kernels == "matmul  this program's kernels", "{library}, {kernels}");
    let devices = ferrowarp(&["devices"]).env("FERROWARP_CUBLAS", "none").output().unwrap();
    let devices = String::from_utf8(devices.stdout).unwrap();
    assert!(
        devices
            .ends_with("cublas\n  none: on a GPU prompts go through this program's own products, which take longer\n"),
        "{devices}"
    );
}
