//! Decoding in one launch a token: the numbers of the graph, whatever the types, and what it refuses.

mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};

use assert_cmd::Command;
use driver::{Backend, DeviceChoice, calls};
use ferrowarp::{
    forward::{DecodeMode, Engine, EngineError, EngineOptions, Logits, MemoryPlan},
    gguf::Gguf,
    gpu::{Activations, Gpu, kernels::CacheType},
    model::Config,
    synth::{FileType, Shape, Synth},
    trace::{Recorder, relative_error},
};
use support::fixtures::{goldens, own};

/// A step of one launch adds up in another order than one of many: the products are split differently. A key or value next to the
/// middle between two numbers of the cache's type then falls to the other side, and so does what is rounded to 8 bits in between.
const TOLERANCE_FLOATS: f64 = 1e-3;
const TOLERANCE_8_BIT: f64 = 2e-2;

fn device() -> DeviceChoice {
    std::env::var("FERROWARP_DEVICE").map_or(DeviceChoice::Soft, |choice| choice.parse().expect("FERROWARP_DEVICE"))
}

/// Calls are counted and memory is free for the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

fn load(gguf: &Gguf, options: EngineOptions) -> Engine {
    let gpu = Gpu::open(device()).unwrap();
    Engine::load(gpu, gguf, options, &mut |_, _| {}).unwrap_or_else(|error| panic!("{}: {error}", gguf.name()))
}

fn options(decode: DecodeMode) -> EngineOptions {
    EngineOptions { decode, n_batch: 64, n_context: Some(64), ..EngineOptions::default() }
}

/// Decodes `ids` both ways and then `n` tokens of the graph's choice; gives the largest difference of the logits.
fn difference(gguf: &Gguf, options: EngineOptions, ids: &[u32], n: usize) -> f64 {
    let ways = [DecodeMode::Graph, DecodeMode::Persistent];
    let [mut graph, mut persistent] = ways.map(|decode| load(gguf, EngineOptions { decode, ..options }));
    let n_vocab = graph.config().vocab_size;
    let (mut ids, mut largest) = (ids.to_vec(), 0f64);
    let n_prompt = ids.len();
    for step in 0..n_prompt + n {
        if step >= n_prompt {
            ids.push(graph.greedy(n_vocab).unwrap());
        }
        for engine in [&mut graph, &mut persistent] {
            engine.decode(ids[step]).unwrap();
        }
        let (want, got) = (graph.logits().unwrap(), persistent.logits().unwrap());
        assert!(got.iter().all(|logit| logit.is_finite()), "{} at {step}", gguf.name());
        largest = largest.max(relative_error(&got, &want));
        // The greedy choice on the device is that of the logits, which the graph's tests hold to the reference.
        let best = got[persistent.greedy(n_vocab).unwrap() as usize];
        assert!(got.iter().all(|logit| *logit <= best), "{} at {step}", gguf.name());
    }
    assert_eq!(persistent.launches_per_token().unwrap(), 1);
    largest
}

fn tolerance(gguf: &Gguf) -> f64 {
    let packed = gguf.tensors().any(|tensor| tensor.tensor_type.is_quantised());
    if packed { TOLERANCE_8_BIT } else { TOLERANCE_FLOATS }
}

#[test]
fn golden_models_give_the_same_logits_both_ways() {
    for golden in goldens() {
        let gguf = Gguf::open(&golden.model).unwrap();
        if Config::from_gguf(&gguf).unwrap().experts.is_some() {
            continue;
        }
        let ids = &golden.prompts[0].ids;
        for cache_type in [CacheType::F16, CacheType::BF16] {
            let options = EngineOptions { cache_type, ..options(DecodeMode::Graph) };
            let found = difference(&gguf, options, &ids[..ids.len().min(6)], 4);
            println!("{} {cache_type}: {found:.1e}", golden.name);
            assert!(found <= tolerance(&gguf), "{} {cache_type}: {found:.1e}", golden.name);
        }
    }
}

#[test]
fn every_mix_of_types_gives_the_same_logits_both_ways() {
    for file_type in FileType::ALL {
        let mut bytes = Vec::new();
        let shape = Shape::find("tiny-qwen2").unwrap();
        Synth::new(shape, *file_type, 1).write(&mut bytes, &mut |_| {}).unwrap();
        let gguf = Gguf::from_bytes(bytes, file_type.name()).unwrap();
        let found = difference(&gguf, options(DecodeMode::Graph), &[3, 7], 1);
        println!("{}: {found:.1e}", file_type.name());
        assert!(found <= tolerance(&gguf), "{}: {found:.1e}", file_type.name());
    }
}

#[test]
fn the_program_follows_the_number_of_keys() {
    let gguf = Gguf::open(&own("qwen2-tiny-f16").model).unwrap();
    let options = EngineOptions { n_context: Some(600), n_batch: 600, ..EngineOptions::default() };
    let ids: Vec<u32> = (0..530).map(|index| index * 37 % 500).collect();
    let ways = [DecodeMode::Graph, DecodeMode::Persistent];
    let mut engines = ways.map(|decode| load(&gguf, EngineOptions { decode, ..options }));
    // Up to the last position of a number of splits, and past it; and back.
    for n_before in [254, 510, 254, 3] {
        let [want, got] = engines.each_mut().map(|engine| {
            engine.reset();
            engine.forward(&ids[..n_before], Logits::Last, &mut Recorder::off()).unwrap();
            let step = |id: &u32| {
                engine.decode(*id).unwrap();
                engine.logits().unwrap()
            };
            ids[n_before..n_before + 4].iter().flat_map(step).collect::<Vec<f32>>()
        });
        let found = relative_error(&got, &want);
        println!("{n_before} positions: {found:.1e}");
        assert!(found <= TOLERANCE_FLOATS, "{n_before} positions: {found:.1e}");
    }
}

#[test]
fn a_step_is_one_launch_and_allocates_nothing() {
    let _alone = alone();
    let gguf = Gguf::open(&own("qwen2-tiny-q4_k_m").model).unwrap();
    let mut engine = load(&gguf, options(DecodeMode::Persistent));
    engine.decode(1).unwrap();
    engine.greedy(500).unwrap();
    for step in 0..5 {
        let before = calls::counts();
        engine.decode(7).unwrap();
        let counts = calls::counts().since(&before);
        let others = counts.allocations() + counts.frees() + counts.synchronisations();
        // The first step here is the first among 500 tokens: the program is written anew for them.
        assert!(step == 0 || others == 0, "step {step}: {counts:?}");
        assert!(engine.greedy(500).unwrap() < 500);
    }
    assert_eq!(engine.launches_per_token().unwrap(), 1);
}

#[test]
fn the_largest_logits_are_found_behind_the_program() {
    let gguf = Gguf::open(&own("qwen2-tiny-q4_k_m").model).unwrap();
    let mut engine = load(&gguf, options(DecodeMode::Persistent));
    for token in [5, 9, 2] {
        let mut largest = [(0, 0.0); 10];
        engine.decode(token).unwrap();
        engine.largest_into(500, &mut largest).unwrap();
        let logits = engine.logits().unwrap();
        let mut ids: Vec<u32> = (0..500).collect();
        ids.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
        assert_eq!(largest.map(|(id, _)| id)[..], ids[..10]);
    }
}

#[test]
fn the_plan_has_the_programs_memory() {
    let _alone = alone();
    let gguf = Gguf::open(&own("qwen2-tiny-q4_k_m").model).unwrap();
    let config = Config::from_gguf(&gguf).unwrap();
    let totals = [DecodeMode::Graph, DecodeMode::Persistent].map(|decode| {
        let gpu = Gpu::open(device()).unwrap();
        let exact = gpu.backend() == Backend::Soft;
        let (before, _) = gpu.memory().unwrap();
        let engine = Engine::load(gpu, &gguf, options(decode), &mut |_, _| {}).unwrap();
        let (after, _) = engine.gpu().memory().unwrap();
        let plan = MemoryPlan::new(&gguf, &config, &options(decode)).unwrap();
        // A GPU gives memory in pages, and cuBLAS takes some there.
        assert!(!exact || plan.total == (before - after) as u64, "{decode}: {} of {}", plan.total, before - after);
        plan.total
    });
    assert!(totals[1] > totals[0]);
}

#[test]
fn what_has_no_phases_is_refused_by_name() {
    let refused = |name: &str, options: EngineOptions| {
        let gguf = Gguf::open(&own(name).model).unwrap();
        let gpu = Gpu::open(device()).unwrap();
        match Engine::load(gpu, &gguf, options, &mut |_, _| {}) {
            Err(error @ EngineError::Persistent { .. }) => error.to_string(),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("{name} is refused"),
        }
    };
    let persistent = options(DecodeMode::Persistent);
    for (name, options, found) in [
        ("qwen3moe-tiny-q4_k_m", persistent, "found a mixture of experts"),
        ("qwen2-tiny-f16", EngineOptions { cache_type: CacheType::Q8_0, ..persistent }, "found a cache of type q8_0"),
        ("qwen2-tiny-f16", EngineOptions { cache_type: CacheType::F32, ..persistent }, "found a cache of type f32"),
        ("qwen2-tiny-q4_k_m", EngineOptions { activations: Activations::F32, ..persistent }, "found --activations f32"),
    ] {
        let error = refused(name, options);
        assert!(error.contains(found) && error.ends_with("use --decode graph"), "{error}");
    }
}

#[test]
fn generated_text_is_the_same_under_the_sanitizer() {
    let model = own("qwen2-tiny-q4_k_m").model;
    let text = |decode: &str, sanitizer: &str| {
        let output = Command::cargo_bin("ferrowarp")
            .unwrap()
            .args(["generate", "--temp", "0", "-n", "3", "-p", "a b", "--device", "soft", "--decode", decode, "-m"])
            .arg(&model)
            .env("FERROWARP_SANITIZER", sanitizer)
            .output()
            .unwrap();
        assert!(output.status.success(), "{decode}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    assert_eq!(text("graph", "0"), text("persistent", "1"));
}
