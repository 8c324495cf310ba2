//! `--speculate`, `--draft-model` and `--draft-max`: the same text in fewer steps, and what is said where that cannot be.

use crate::run::{EMBEDDED, Folder, HAIKU, failure, fixture, json, output, stdout};

/// A text that the model is to say again, so that n-grams have something to find.
const RAW: [&str; 8] = ["generate", "--raw", "--ignore-eos", "--temp", "0", "-n", "40", "-p"];
const AGAIN: &str = "rain on the tin roof, rain on the tin roof, rain on the tin";

#[test]
fn the_text_is_the_same_and_what_was_guessed_is_told() {
    let (large, small) = (fixture("models/qwen2-tiny-f32.gguf"), fixture("models/qwen2-tiny-q4_k_m.gguf"));
    let ids = ["generate", "--ignore-eos", "--temp", "0", "-n", "20", "--prompt-ids", "5,6,7,8,9", "-m", &large];
    for (arguments, how) in [
        ([&RAW[..], &[AGAIN]].concat(), &["--speculate", "ngram"][..]),
        (ids.to_vec(), &["--draft-model", &small, "--draft-max", "3"]),
    ] {
        let plain = json(&arguments);
        assert!(plain["timings"].get("drafted_n").is_none(), "{plain}");
        let guessed = json(&[&arguments[..], how].concat());
        for key in ["ids", "text", "stop"] {
            assert_eq!(guessed[key], plain[key], "{how:?}: {key}");
        }
        let number = |key: &str| guessed["timings"][key].as_u64().unwrap_or_else(|| panic!("{key}: {guessed}"));
        let (steps, drafted, kept) = (number("steps_n"), number("drafted_n"), number("kept_n"));
        assert!(kept <= drafted && steps + kept == number("eval_n"), "{how:?}: {guessed}");
        // A text that repeats itself is what n-grams are for.
        assert!(drafted > 0 && (how[0] != "--speculate" || kept >= 10), "{how:?}: {guessed}");
    }
    let drawn = ["generate", "--temp", "1", "--seed", "11", "-n", "16", "--ignore-eos", "-p", HAIKU];
    let (text, notes) = output(&[&drawn[..], &["-v", "--speculate", "ngram"]].concat(), "");
    assert_eq!(text, stdout(&drawn));
    let line = notes.lines().find(|line| line.starts_with("drafts ")).unwrap_or_else(|| panic!("{notes}"));
    assert!(line.contains(" drafted, ") && line.contains(" kept: 15 tokens in "), "{line}");
    assert!(!output(&[&drawn[..], &["-v", "--speculate", "off"]].concat(), "").1.contains("drafts "));

    // Several answers, which share their steps.
    let several = [&drawn[..], &["--n-samples", "2"]].concat();
    assert_eq!(stdout(&[&several[..], &["--speculate", "ngram"]].concat()), stdout(&several));
}

#[test]
fn chats_and_batches_say_the_same() {
    let said = "Write a haiku about tea that includes the word \"kettle\"\nAgain\n";
    let chat = ["chat", "--seed", "4", "-n", "15", "--ignore-eos"];
    let (plain, _) = output(&chat, said);
    let (guessed, notes) = output(&[&chat[..], &["-v", "--speculate", "ngram"]].concat(), said);
    assert_eq!(guessed, plain);
    assert_eq!(notes.matches("drafts ").count(), 2, "{notes}");

    let folder = Folder::new();
    let line = |more: &str| format!("{{\"prompt\": \"{AGAIN}\", \"ignore_eos\": true, \"max_tokens\": 30, {more}}}\n");
    let prompts = folder.file("prompts.jsonl", line("\"temperature\": 0") + &line("\"seed\": 3"));
    let answers = |name: &str, how: &[&str]| {
        let file = folder.path(name);
        let arguments = ["batch", "--parallel", "2", "-v", "-i", &prompts, "-o", &file];
        let (_, notes) = output(&[&arguments[..], how].concat(), "");
        let text = std::fs::read_to_string(&file).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        (lines.map(|line| line["response"]["body"]["choices"].clone()).collect::<Vec<_>>(), notes)
    };
    let (plain, _) = answers("plain.jsonl", &[]);
    let (guessed, notes) = answers("guessed.jsonl", &["--speculate", "ngram"]);
    assert_eq!(guessed, plain);
    assert!(notes.contains(" tokens drafted and "), "{notes}");
}

#[test]
fn what_cannot_be_is_refused_with_words() {
    let prompt = ["generate", "-p", "a", "-n", "1"];
    let refused = |more: &[&str]| failure(&[&prompt[..], more].concat(), "");
    let both = refused(&["--speculate", "ngram", "--draft-model", EMBEDDED]);
    assert!(both.contains("--speculate") && both.contains("--draft-model"), "{both}");
    let alone = refused(&["--draft-max", "4"]);
    assert!(alone.contains("--speculate") && alone.contains("--draft-model"), "{alone}");
    for n in ["0", "65", "x"] {
        let error = refused(&["--speculate", "ngram", "--draft-max", n]);
        assert!(error.contains("--draft-max") && error.contains(n), "{error}");
    }
    let missing = refused(&["--draft-model", "/no/such/file.gguf"]);
    assert!(missing.contains("/no/such/file.gguf"), "{missing}");

    // Another vocabulary: both files, and what differs.
    let other = fixture("models/llama-tiny-q4_k_m.gguf");
    let error = refused(&["--draft-model", &other]);
    assert!(error.contains(&other) && error.contains("haiku") && error.contains("tokenizer.ggml"), "{error}");
    // A state that does not go back.
    let recurrent = fixture("models/qwen35-tiny-f16.gguf");
    for how in [&["--speculate", "ngram"][..], &["--draft-model", &recurrent]] {
        let arguments = ["generate", "--prompt-ids", "1,2,3", "-n", "1", "-m", &recurrent];
        let error = failure(&[&arguments[..], how].concat(), "");
        assert!(error.contains(&recurrent) && error.contains("recurrent"), "{error}");
    }
}
