//! `perplexity`, against the CPU reference's forward pass.

use ferrowarp::{
    gguf::Gguf,
    model::Model,
    reference::Reference,
    tokenizer::{Ends, Special, Tokenizer},
    trace::Recorder,
};

use crate::run::{EMBEDDED, Folder, fixture, json, output};

/// Of words that the embedded model knows.
const TEXT: &str = "Rivers drum beneath the stars. Small luminous clouds remember the rain that falls before the dawn.\n\
                    Puddles remember the endless evening, and the clouds fall with the wind; thunder fell before the dawn.\n\
                    The sea is cold and luminous; the wind that drums beneath the stars is the wind that falls on tin.\n\
                    Slow clouds remember, small clouds drum, and the endless rain fell over the sea before the evening.\n";

/// The definition, over logits that the reference computes: windows, the second half of each but its last token.
fn by_reference(model: &str, text: &str, n_context: usize) -> f64 {
    let gguf = Gguf::open(model.as_ref()).unwrap();
    let model = Model::open(&gguf).unwrap();
    let ids = Tokenizer::from_gguf(&gguf).unwrap().encode(text, Special::Text, Ends::AsFileSays).unwrap();
    let (mut sum, mut n) = (0.0, 0);
    for window in ids.chunks_exact(n_context) {
        let mut reference = Reference::new(&model);
        let logits = reference.forward(window, &mut Recorder::off()).unwrap();
        for position in n_context / 2..n_context - 1 {
            let row = &logits[position * model.config.vocab_size..][..model.config.vocab_size];
            let total: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
            sum += total.ln() - f64::from(row[window[position + 1] as usize]);
            n += 1;
        }
    }
    assert!(n > 40, "{n} predictions");
    (sum / f64::from(n)).exp()
}

#[test]
fn it_is_what_the_reference_gives() {
    let folder = Folder::new();
    let file = folder.file("text.txt", TEXT);
    for model in [EMBEDDED.to_owned(), fixture("models/qwen2-tiny-f32.gguf")] {
        let object = json(&["perplexity", "-m", &model, "-f", &file, "-c", "32", "--cache-type", "f32"]);
        let (got, want) = (object["perplexity"].as_f64().unwrap(), by_reference(&model, TEXT, 32));
        // F16 matrices are multiplied in f16 with f32 sums: the mean of the log probabilities moves in the fourth digit.
        assert!((got.ln() - want.ln()).abs() < 1e-3 * want.ln(), "{model}: {got}, reference {want}");
    }
}

/// In batches weights are unpacked and activations are rounded to 16 bits, whatever `--activations` says; a token at a time it holds.
#[test]
fn one_by_one_is_what_generation_computes() {
    let folder = Folder::new();
    let (file, model) = (folder.file("text.txt", TEXT), fixture("models/qwen2-tiny-q4_k_m.gguf"));
    let measure = |more: &[&str]| {
        let arguments = ["perplexity", "-m", &model, "-f", &file, "-c", "32", "--cache-type", "f32"];
        json(&[&arguments, more].concat())["perplexity"].as_f64().unwrap().ln()
    };
    let want = by_reference(&model, TEXT, 32).ln();
    let apart = |got: f64| (got - want).abs() / want;
    let exact = apart(measure(&["--one-by-one", "--activations", "f32"]));
    let rounded = apart(measure(&["--one-by-one", "--activations", "q8"]));
    assert!(exact < 1e-5, "{exact:.1e}");
    assert!(rounded > 2.0 * exact && rounded < 5e-2, "{rounded:.1e}, exact {exact:.1e}");
    let batches = ["f32", "q8"].map(|activations| measure(&["--activations", activations]));
    assert_eq!(batches[0], batches[1]);
}

/// llama.cpp's forward pass in windows of 32 and its `llama-perplexity`'s sum over the second half of each.
#[test]
fn it_is_what_llama_cpp_gives() {
    let folder = Folder::new();
    let (file, model) = (folder.file("text.txt", TEXT), fixture("models/qwen2-tiny-f32.gguf"));
    let object = json(&["perplexity", "-m", &model, "-f", &file, "-c", "32", "--cache-type", "f32"]);
    let (got, want) = (object["perplexity"].as_f64().unwrap(), 82755.951_f64);
    assert!((got.ln() - want.ln()).abs() < 1e-4, "{got}");
}

#[test]
fn estimates_run_on_standard_error_and_the_value_stands_on_standard_output() {
    let folder = Folder::new();
    let file = folder.file("text.txt", TEXT);
    let (out, error) = output(&["perplexity", "-f", &file, "-c", "16", "--chunks", "2"], "");
    assert_eq!(error.lines().count(), 2, "{error}");
    assert!(out.starts_with("perplexity ") && out.contains('±') && out.lines().count() == 1, "{out}");
    assert!(error.contains(&out["perplexity ".len()..].split(' ').next().unwrap().to_string()), "{out} {error}");
}

#[test]
fn a_base_differs_from_itself_by_nothing_and_from_another_cache_by_little() {
    let folder = Folder::new();
    let file = folder.file("text.txt", TEXT);
    let base = folder.path("base");
    let saved = json(&["perplexity", "-f", &file, "-c", "32", "--kl-save", &base]);
    let same = json(&["perplexity", "--kl-base", &base]);
    assert_eq!((&same["perplexity"], &same["base_perplexity"]), (&saved["perplexity"], &saved["perplexity"]));
    assert_eq!((same["kl"]["max"].as_f64(), same["same_top"].as_f64()), (Some(0.0), Some(1.0)));
    let other = json(&["perplexity", "--kl-base", &base, "--cache-type", "q8_0"]);
    let mean = other["kl"]["mean"].as_f64().unwrap();
    assert!(0.0 < mean && mean < 0.05, "{other}");
}
