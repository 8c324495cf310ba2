//! Models with the numbers that llama.cpp gives for them.
//!
//! A fixture folder holds `models/NAME.gguf`, `golden/NAME.json` and `golden/NAME.safetensors`. `FERROWARP_FIXTURES` names one;
//! without it, it is the project's own `tests/fixtures`, and the larger set beside the checkout where there is one.

use std::path::{Path, PathBuf};

use ferrowarp::{
    gguf::Gguf,
    model::Family,
    trace::{Trace, TraceTensor, relative_error},
};
use serde_json::Value;

use super::places::root;

/// One model and its golden numbers.
pub struct Golden {
    pub name: String,
    pub model: PathBuf,
    pub prompts: Vec<Prompt>,
    /// llama.cpp's intermediate tensors for the prompt `short`, by llama.cpp's names. Empty for most models.
    pub trace: Vec<TraceTensor>,
}

/// One prompt and what follows it.
pub struct Prompt {
    pub name: String,
    pub ids: Vec<u32>,
    /// The most probable token after the prompt, after that one, and so on.
    pub greedy: Vec<u32>,
    /// How far the first logit is above the second at each of those steps.
    pub margins: Vec<f64>,
    /// Logits of the last rows of the prompt: `[rows, vocab]`.
    pub logits: Option<TraceTensor>,
}

/// Values of llama.cpp's that this program has no value for, by architecture, and why.
const UNNAMED: &[(&str, &str)] = &[
    // One tensor there; here its halves are values of their own.
    ("phi3", "ffn_up"),
    // Queries times the scale of the scores.
    ("phi3", "Qcur.2"),
    ("glm4", "ffn_up"),
];

/// The same of recurrent layers, whatever the architecture.
const UNNAMED_OF_RECURRENT: &[&str] = &[
    // How much of a state is kept is made in one operation, and so is the gate.
    "a_softplus",
    "gate",
    "gate_sigmoid",
    "shared_expert_gate_sigmoid",
    // Here with the division by the root of the head's size.
    "q_conv_predelta",
];

/// In layers that do not rotate llama.cpp names a value again.
const RENAMED: &[(&str, &str)] = &[("exaone4", "Qcur.2"), ("exaone4", "Kcur.2")];

/// Steps of a router, which chooses and weighs in one operation: of these there is the last alone.
const ROUTER: &[&str] = &["ffn_moe_probs", "ffn_moe_probs_biased", "ffn_moe_weights", "ffn_moe_weights_norm"];

impl Golden {
    /// Calls `check` with the name and the relative error of each of llama.cpp's intermediate tensors.
    ///
    /// # Panics
    /// Where the trace is without one that it should have, or one has another shape.
    pub fn compare_trace(&self, trace: &Trace, mut check: impl FnMut(&str, f64)) {
        let gguf = Gguf::open(&self.model).unwrap();
        let architecture = gguf.metadata().str("general.architecture").unwrap().to_string();
        for want in &self.trace {
            let (stem, layer) = want.name.split_once('-').unwrap_or((&want.name, ""));
            let count = layer.split_once('.').map_or(String::new(), |(_, count)| format!(".{count}"));
            if [stem, &format!("{stem}{count}")].iter().any(|name| UNNAMED.contains(&(&architecture, name))) {
                continue;
            }
            let is_recurrent = architecture.starts_with("qwen35") || architecture == "qwen3next";
            if is_recurrent && UNNAMED_OF_RECURRENT.contains(&stem) {
                continue;
            }
            // llama.cpp repeats keys where several value heads have one.
            if architecture == "qwen3next" && stem == "k_conv_predelta" {
                continue;
            }
            let is_renamed = RENAMED.contains(&(&architecture, &format!("{stem}{count}")));
            if (is_renamed || ROUTER.contains(&stem)) && trace.get(&want.name).is_none() {
                continue;
            }
            let got = trace.get(&want.name).unwrap_or_else(|| panic!("{}: no {}", self.name, want.name));
            let mut data = got.data.clone();
            if stem == "kq_soft_max" {
                // Positions beyond the last are padding, of which the two may have more or less.
                let (columns, wanted) = (got.shape[2], want.shape[2]);
                assert_eq!(got.shape[..2], want.shape[..2], "{} {}", self.name, want.name);
                data = data.chunks_exact(columns).flat_map(|row| row[..wanted].to_vec()).collect();
            } else {
                assert_eq!(got.shape, want.shape, "{} {}", self.name, want.name);
            }
            check(&want.name, relative_error(&data, &want.data));
        }
    }
}

impl Prompt {
    /// How many greedy steps count: up to the first whose margin is under `margin`, where a near tie may fall either way.
    pub fn certain_steps(&self, margin: f64) -> usize {
        self.margins.iter().position(|m| *m < margin).unwrap_or(self.margins.len())
    }
}

/// The folders to look in.
pub fn folders() -> Vec<PathBuf> {
    if let Some(folder) = std::env::var_os("FERROWARP_FIXTURES") {
        return vec![PathBuf::from(folder)];
    }
    let checkout = root();
    let beside = checkout.join("../shared/fixtures");
    let mut folders = vec![checkout.join("tests/fixtures")];
    folders.extend(beside.is_dir().then_some(beside));
    folders
}

/// Every model with golden numbers, each name once.
///
/// # Panics
/// If there is none: a test over nothing proves nothing.
pub fn goldens() -> Vec<Golden> {
    let mut goldens: Vec<Golden> = Vec::new();
    for folder in folders() {
        let golden = folder.join("golden");
        let files = std::fs::read_dir(&golden).unwrap_or_else(|e| panic!("{}: {e}", golden.display()));
        let mut paths: Vec<PathBuf> = files.map(|f| f.unwrap().path()).collect();
        paths.sort();
        for json in paths.iter().filter(|p| p.extension().is_some_and(|e| e == "json")) {
            let name = json.file_stem().unwrap().to_str().unwrap().to_string();
            if goldens.iter().all(|g| g.name != name) && runs(&folder, &name) {
                goldens.push(read(&folder, name));
            }
        }
    }
    assert!(!goldens.is_empty(), "no golden files in {:?}", folders());
    goldens
}

/// Whether the model is of an architecture that this program runs. A folder beside the checkout may have others; the project's own may not.
#[allow(clippy::print_stdout, reason = "a test says what it leaves out")]
fn runs(folder: &Path, name: &str) -> bool {
    let gguf = Gguf::open(&folder.join(format!("models/{name}.gguf"))).unwrap_or_else(|e| panic!("{e}"));
    let architecture = gguf.metadata().str("general.architecture").unwrap();
    let runs = Family::of(architecture).is_some();
    assert!(runs || *folder != root().join("tests/fixtures"), "{name}: {architecture} does not run");
    if !runs {
        println!("left out: {name}, {architecture} does not run");
    }
    runs
}

/// One of the project's own models for each kind that a pass treats in its own way: fused and quantised, of several formats, biased,
/// norms over heads, experts, windows and sinks, recurrent, floats.
pub fn of_many_kinds() -> Vec<String> {
    let kinds =
        ["qwen2-tiny-q4_k_m", "llama-tiny-q4_k_m", "qwen3moe-tiny-q4_k_m", "gpt-oss-tiny-f16", "gemma3-tiny-f16"];
    kinds.into_iter().chain(["qwen35-tiny-f16", "phi3-tiny-f16"]).map(|name| format!("{name}.gguf")).collect()
}

/// A model of the project's own fixtures.
pub fn own(name: &str) -> Golden {
    read(&root().join("tests/fixtures"), name.to_string())
}

fn read(folder: &Path, name: String) -> Golden {
    let golden = folder.join("golden");
    let text = std::fs::read_to_string(golden.join(format!("{name}.json"))).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let tensors_path = golden.join(format!("{name}.safetensors"));
    let tensors = if tensors_path.exists() { Trace::load(&tensors_path).unwrap() } else { Trace::new() };

    let prompt = |prompt_name: String, json: &Value| Prompt {
        ids: numbers(json, "ids", |v| v.as_u64().map(|v| v as u32)),
        greedy: numbers(json, "greedy", |v| v.as_u64().map(|v| v as u32)),
        margins: numbers(json, "margins", Value::as_f64),
        logits: tensors.get(&format!("{prompt_name}.logits")).cloned(),
        name: prompt_name,
    };
    let prompts: Vec<Prompt> = match &json["prompts"] {
        Value::Object(prompts) => prompts.iter().map(|(name, json)| prompt(name.clone(), json)).collect(),
        Value::Array(prompts) => prompts.iter().enumerate().map(|(i, json)| prompt(i.to_string(), json)).collect(),
        other => panic!("{name}: prompts: {other}"),
    };
    assert!(!prompts.is_empty(), "{name} has no prompts");

    const PREFIX: &str = "short.trace.";
    let traced = tensors.tensors().iter().filter_map(|t| {
        let name = t.name.strip_prefix(PREFIX)?.to_string();
        Some(TraceTensor { name, ..t.clone() })
    });
    Golden { model: folder.join(format!("models/{name}.gguf")), prompts, trace: traced.collect(), name }
}

fn numbers<T>(json: &Value, key: &str, convert: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    let values = json[key].as_array().unwrap_or_else(|| panic!("{key}: {json}"));
    values.iter().map(|v| convert(v).unwrap_or_else(|| panic!("{key}: {v}"))).collect()
}
