//! `generate --prompt-cache`.

use serde_json::Value;

use crate::run::{Folder, failure, fixture, ids, json, list};

fn reused(object: &Value) -> u64 {
    object["timings"]["prompt_reused_n"].as_u64().unwrap()
}

#[test]
fn a_cached_prompt_gives_the_same_tokens_for_every_cache_type() {
    let model = fixture("models/qwen2-tiny-f32.gguf");
    for cache_type in ["f16", "bf16", "f32", "q8_0"] {
        let folder = Folder::new();
        let cache = folder.path("cache");
        let arguments = [
            "generate",
            "--temp",
            "0",
            "-n",
            "8",
            "-m",
            &model,
            "--prompt-ids",
            "5,6,7,8,9,10,11,12",
            "--ignore-eos",
            "--cache-type",
            cache_type,
        ];
        let plain = json(&arguments);
        let cached = [&arguments[..], &["--prompt-cache", &cache]].concat();
        let (first, second) = (json(&cached), json(&cached));
        assert_eq!((&first["ids"], &second["ids"]), (&plain["ids"], &plain["ids"]), "{cache_type}");
        let n = ids(&plain["prompt_ids"]).len() as u64;
        // The last token of the prompt is always computed: its logits are wanted.
        assert_eq!((reused(&first), reused(&second)), (0, n - 1), "{cache_type}");
        assert_eq!(folder.files().len(), 1, "no other file is left");

        // The whole text was saved: a prompt that goes on from it has to compute what is new, whatever its context.
        let longer = [ids(&plain["prompt_ids"]), ids(&plain["ids"])].concat();
        let list = list(&longer);
        let longer = [
            "generate",
            "--temp",
            "0",
            "-n",
            "4",
            "--ignore-eos",
            "-m",
            &model,
            "--prompt-ids",
            &list,
            "--cache-type",
            cache_type,
        ];
        let on = json(&[&longer[..], &["--prompt-cache", &cache, "-c", "64"]].concat());
        assert_eq!(reused(&on), n + 7, "{cache_type}");
        assert_eq!(on["ids"], json(&longer)["ids"], "{cache_type}");
    }
}

#[test]
fn only_the_common_beginning_is_used() {
    let folder = Folder::new();
    let cache = folder.path("cache");
    let model = fixture("models/qwen3-tiny-q4_k_m.gguf");
    let run = |prompt: &str, more: &[&str]| {
        let arguments = ["generate", "-m", &model, "--temp", "0", "-n", "3", "--prompt-ids", prompt];
        json(&[&arguments[..], more].concat())
    };
    run("5,6,7,8,9,10", &["--prompt-cache", &cache]);
    let other = run("5,6,7,20,21", &["--prompt-cache", &cache]);
    assert_eq!(reused(&other), 3);
    assert_eq!(other["ids"], run("5,6,7,20,21", &[])["ids"]);
}

#[test]
fn a_cache_that_does_not_fit_is_refused() {
    let folder = Folder::new();
    let cache = folder.path("cache");
    let f16 = fixture("models/qwen2-tiny-f16.gguf");
    let bf16 = fixture("models/qwen2-tiny-bf16.gguf");
    let arguments = |model| ["generate", "-m", model, "--prompt-ids", "5,6,7", "-n", "1", "--prompt-cache", &cache];
    json(&arguments(&f16));

    let error = failure(&arguments(&bf16), "");
    assert!(error.contains(&f16) && error.contains(&bf16) && error.contains(&cache), "{error}");
    let error = failure(&[&arguments(&f16)[..], &["--cache-type", "f32"]].concat(), "");
    assert!(error.contains("type f16") && error.contains("type f32"), "{error}");

    let whole = std::fs::read(&cache).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    for (what, bytes) in [("foreign", &b"GGUF..."[..]), ("truncated", &whole[..whole.len() - 9]), ("flipped", &flipped)]
    {
        std::fs::write(&cache, bytes).unwrap();
        let error = failure(&arguments(&f16), "");
        assert!(error.contains(&cache) && error.contains("expected a prompt cache"), "{what}: {error}");
        assert_eq!(std::fs::read(&cache).unwrap(), bytes, "{what}: the file is as it was");
    }
}
