//! Two real models, as people have them, against what llama.cpp makes of them (`tests/real`, whose README says how its numbers were made).
//!
//! The models are not in the tree: `./x test-real` fetches them and runs these tests, an ordinary run lists them as ignored. Without the
//! models they fail.

#[path = "support/places.rs"]
mod places;

use std::{path::PathBuf, process::Command};

use driver::DeviceChoice;
use ferrowarp::{
    chat::{CHATML, ChatError, ChatTemplate, Message, RenderOptions},
    forward::{Engine, EngineOptions, Logits, Then},
    gguf::Gguf,
    gpu::{Activations, Gpu, kernels::CacheType},
    model::Pooling,
    tokenizer::{ControlText, Ends, Piece, Special, StreamDecoder, Tokenizer},
    trace::{Recorder, Trace},
};
use serde_json::Value;

const MODELS: [&str; 2] = ["SmolLM2-135M-Instruct.Q4_1", "gemma-3-270m-q4_k_m"];

/// A nearer choice may fall either way.
const CERTAIN_MARGIN: f64 = 0.1;
/// Of each prompt's 24 steps, how many are compared with exact settings, which are slow in software.
const EXACT_STEPS: usize = 8;
/// Relative.
const PERPLEXITY: f64 = 5e-3;

/// A model and llama.cpp's numbers for it.
struct Real {
    name: &'static str,
    path: PathBuf,
    golden: Value,
}

impl Real {
    fn all() -> impl Iterator<Item = Real> {
        let folder =
            std::env::var_os("FERROWARP_MODELS").map_or_else(|| places::root().join("target/models"), PathBuf::from);
        MODELS.into_iter().map(move |name| {
            let path = folder.join(format!("{name}.gguf"));
            assert!(path.exists(), "{}: missing; `./x models` fetches it", path.display());
            let golden = places::root().join(format!("tests/real/{name}.json"));
            let golden =
                std::fs::read_to_string(&golden).unwrap_or_else(|error| panic!("{}: {error}", golden.display()));
            Real { name, path, golden: serde_json::from_str(&golden).unwrap() }
        })
    }

    fn open(&self) -> (Gguf, Tokenizer) {
        let gguf = Gguf::open(&self.path).unwrap_or_else(|error| panic!("{error}"));
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        (gguf, tokenizer)
    }

    fn prompts(&self) -> &[Value] {
        self.list("prompts")
    }

    fn list(&self, key: &str) -> &[Value] {
        self.golden[key].as_array().unwrap()
    }

    /// Runs the program with this model.
    fn output(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(places::program());
        command.args(arguments).arg("-m").arg(&self.path);
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}, {arguments:?}: {error}", self.name);
        String::from_utf8(output.stdout).unwrap()
    }
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
#[ignore = "needs real models: ./x test-real"]
fn tokens_templates_and_ends_are_llama_cpps() {
    for real in Real::all() {
        let (gguf, tokenizer) = real.open();
        for case in real.list("texts") {
            let text = case["text"].as_str().unwrap();
            for (special, key) in [(Special::Text, "ids"), (Special::Parse, "ids_special")] {
                let found = tokenizer.encode(text, special, Ends::Bare).unwrap();
                assert_eq!(found, ids(&case[key]), "{}: {key} of {text:?}", real.name);
            }
        }
        let ends: Vec<u32> = tokenizer.end_of_generation().iter().copied().collect();
        assert_eq!(ends, ids(&real.golden["ends"]), "{}", real.name);

        let template = ChatTemplate::from_gguf(&gguf, &tokenizer);
        // llama.cpp has ChatML for a file without a template, even where it is only text to the model; here that is asked for.
        let template = match template {
            Err(ChatError::NoTemplate { .. }) => ChatTemplate::new("chatml", CHATML, &tokenizer),
            template => template,
        };
        let template = template.unwrap_or_else(|error| panic!("{error}"));
        for prompt in real.prompts() {
            let text = prompt["text"].as_str().unwrap();
            let found = match prompt["asked"].as_str() {
                None => tokenizer.encode(text, Special::Text, Ends::AsFileSays).unwrap(),
                Some(asked) => {
                    let pieces = template.render(&[Message::new("user", asked)], &RenderOptions::default()).unwrap();
                    let rendered: String = pieces.iter().map(|piece: &Piece| piece.text.as_str()).collect();
                    assert_eq!(rendered, text, "{}", real.name);
                    tokenizer.encode_pieces(&pieces, Ends::AsFileSays).unwrap()
                }
            };
            assert_eq!(found, ids(&prompt["ids"]), "{}: {text:?}", real.name);
        }
    }
}

/// How many first choices were llama.cpp's.
#[derive(Default)]
struct Count {
    steps: usize,
    equal: usize,
    certain: usize,
    /// Certain ones that were not, in words.
    wrong: Vec<String>,
}

/// Takes each prompt in as generation does, then llama.cpp's answer token by token, and compares the first choice at each step.
#[allow(clippy::print_stdout, reason = "a test says what it measured")]
fn first_choices(real: &Real, activations: Activations, cache_type: CacheType, steps: usize) -> Count {
    let (gguf, tokenizer) = real.open();
    let device = std::env::var("FERROWARP_DEVICE").map_or(DeviceChoice::Auto, |choice| choice.parse().unwrap());
    let options =
        EngineOptions { n_context: Some(256), n_batch: 128, activations, cache_type, ..EngineOptions::default() };
    let mut engine = Engine::load(Gpu::open(device).unwrap(), &gguf, options, &mut |_, _| {}).unwrap();
    let n_vocab = tokenizer.vocab_size().min(engine.config().vocab_size);
    let mut count = Count::default();
    for prompt in real.prompts() {
        engine.reset();
        engine.forward(&ids(&prompt["ids"]), Logits::Last, &mut Recorder::off()).unwrap();
        let greedy = ids(&prompt["greedy"]);
        let margins = prompt["margins"].as_array().unwrap();
        assert_eq!(greedy.len(), margins.len());
        let steps = steps.min(greedy.len());
        for (step, (&want, margin)) in greedy.iter().zip(margins).take(steps).enumerate() {
            let got = engine.greedy(n_vocab, Then::Anything).unwrap();
            let is_certain = margin.as_f64().unwrap() > CERTAIN_MARGIN;
            count.steps += 1;
            count.equal += usize::from(got == want);
            count.certain += usize::from(is_certain);
            if is_certain && got != want {
                let text = prompt["asked"].as_str().or(prompt["text"].as_str()).unwrap();
                count.wrong.push(format!("{text:?}, step {step}: {got}, llama.cpp {want} by {margin}"));
            }
            if step + 1 < steps {
                engine.decode(want).unwrap();
            }
        }
    }
    println!(
        "{}, {activations:?} activations, {cache_type:?} cache: {} of {} first choices equal; of {} certain ones not equal: {:?}",
        real.name, count.equal, count.steps, count.certain, count.wrong
    );
    count
}

/// llama.cpp's numbers are those of the weights in F32, without rounding on the way.
#[test]
#[ignore = "needs real models: ./x test-real"]
fn first_choices_are_llama_cpps() {
    for real in Real::all() {
        let exact = first_choices(&real, Activations::F32, CacheType::F32, EXACT_STEPS);
        assert!(exact.certain >= 60, "{}: {} certain steps", real.name, exact.certain);
        assert!(exact.wrong.is_empty(), "{}: {:?}", real.name, exact.wrong);
    }
}

/// What rounding changes by default is no more than what it changes in llama.cpp by default.
#[test]
#[ignore = "needs real models: ./x test-real"]
fn default_settings_choose_no_worse_than_llama_cpps() {
    for real in Real::all() {
        let usual = first_choices(&real, Activations::default(), EngineOptions::default().cache_type, usize::MAX);
        let llama_cpp = real.golden["first_choices_by_default"].as_f64().unwrap();
        let share = usual.equal as f64 / usual.steps as f64;
        println!("{}: {share:.4} of the first choices equal, llama.cpp by default {llama_cpp:.4}", real.name);
        assert!(
            share >= llama_cpp,
            "{}: {share} of the first choices are the exact ones, llama.cpp's {llama_cpp}",
            real.name
        );
    }
}

/// The program as a person runs it: the text of llama.cpp's answer, up to where the model ends its turn. Two of these first choices lead
/// by less than 0.1, so 8-bit activations may answer otherwise.
#[test]
#[ignore = "needs real models: ./x test-real"]
fn questions_are_answered() {
    let real = Real::all().next().unwrap();
    let (_, tokenizer) = real.open();
    for prompt in &real.prompts()[..2] {
        let mut decoder = StreamDecoder::new(&tokenizer, ControlText::Hide);
        let ends = tokenizer.end_of_generation();
        let answer = ids(&prompt["greedy"]);
        let tokens = answer.iter().take_while(|id| !ends.contains(id));
        let mut want: String = tokens.map(|id| decoder.push(*id).unwrap()).collect();
        want += &decoder.finish();
        let asked = prompt["asked"].as_str().unwrap();
        let got = real.output(&["generate", "--temp", "0", "-n", "24", "--activations", "f32", "-p", asked]);
        println!("{asked} {got}");
        assert_eq!(got.trim_end(), want.trim_end(), "{asked}");
    }
}

#[test]
#[ignore = "needs real models: ./x test-real"]
fn perplexity_is_llama_cpps() {
    let text = places::root().join("tests/real/text.txt");
    let text = text.to_str().unwrap();
    for real in Real::all() {
        let measured = &real.golden["perplexity"];
        let [window, windows] = ["window", "windows"].map(|key| measured[key].to_string());
        let arguments = ["perplexity", "-f", text, "-c", &window, "--chunks", &windows, "--format", "json"];
        let got: Value = serde_json::from_str(&real.output(&arguments)).unwrap();
        let (got, want) = (got["perplexity"].as_f64().unwrap(), measured["value"].as_f64().unwrap());
        println!("{}: perplexity {got:.4}, llama.cpp {want:.4}", real.name);
        assert!((got / want - 1.0).abs() < PERPLEXITY, "{}: {got}, llama.cpp {want}", real.name);
    }
}

/// tests/fixtures/embeddings/make.py has the same.
const TEXTS: [&str; 2] =
    ["The lighthouse keeper counted forty-six ships before the fog came in.", "Pâté, 12 345,67 € — naïve?"];

/// Of each number of a vector of length 1. Weights and activations are rounded to f16 on the way, and llama.cpp's here are not.
const EMBEDDING: f32 = 1e-3;

#[test]
#[ignore = "needs real models: ./x test-real"]
#[allow(clippy::print_stdout, reason = "a test says what it measured")]
fn embeddings_are_llama_cpps() {
    let golden = Trace::load(&places::root().join("tests/real/embeddings.safetensors")).unwrap();
    for real in Real::all() {
        let (gguf, tokenizer) = real.open();
        let device = std::env::var("FERROWARP_DEVICE").map_or(DeviceChoice::Auto, |choice| choice.parse().unwrap());
        let options = EngineOptions { n_context: Some(64), ..EngineOptions::default() };
        let mut engine = Engine::load(Gpu::open(device).unwrap(), &gguf, options, &mut |_, _| {}).unwrap();
        for (index, text) in TEXTS.iter().enumerate() {
            let of = |what: &str| &golden.get(&format!("{}.{index}.{what}", real.name)).unwrap().data;
            let ids = tokenizer.encode(text, Special::Parse, Ends::AsFileSays).unwrap();
            assert_eq!(ids.iter().map(|id| *id as f32).collect::<Vec<f32>>(), *of("ids"), "{}: {text}", real.name);
            for pooling in [Pooling::Mean, Pooling::Last, Pooling::Cls] {
                let (got, want) = (engine.embed(&ids, pooling).unwrap(), of(&pooling.to_string()));
                let most = got.iter().zip(want).map(|(got, want)| (got - want).abs()).fold(0.0, f32::max);
                println!("{}: text {index}, {pooling}: {most:.1e} apart at most", real.name);
                assert!(most < EMBEDDING, "{}: text {index}, {pooling}: {most}", real.name);
            }
        }
    }
}
