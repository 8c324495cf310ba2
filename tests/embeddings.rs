//! Embeddings against llama.cpp's `/embeddings`, over every model of the project's fixtures (`tests/fixtures/embeddings/make.py`).
//!
//! The numbers are of the same weights in F32, with an F32 cache. PyPI's llama.cpp looks GELU up in a table of F16 values, which moves those of
//! Gemma by 1.3e-4 (`../shared/FAMILIES.md` says how the logits' goldens avoid that); without it a token at a time is within 1e-6.
//!
//! | way | largest difference of a number of the vector, which has length 1 | measured |
//! |---|---|---|
//! | a token at a time, F32 cache | 2e-4 | 1.3e-4 |
//! | in chunks, F32 cache | 1e-3: activations and weights are rounded to 16 bits | 5e-4 |

mod support;

use driver::DeviceChoice;
use ferrowarp::{
    forward::{Chunk, Engine, EngineOptions, FIRST},
    gguf::Gguf,
    gpu::{Activations, Gpu, kernels::CacheType},
    model::{Pooled, Pooling},
    trace::Trace,
};
use support::{fixtures::own, places::root};

const POOLINGS: [Pooling; 3] = [Pooling::Mean, Pooling::Last, Pooling::Cls];

#[allow(clippy::print_stdout, reason = "a test says what it measured")]
fn check(n_batch: usize, tolerance: f32) {
    let want = Trace::load(&root().join("tests/fixtures/embeddings/embeddings.safetensors")).unwrap();
    let device: DeviceChoice = std::env::var("FERROWARP_DEVICE")
        .map_or(DeviceChoice::Auto, |choice| choice.parse().expect("FERROWARP_DEVICE"));
    let names: Vec<&str> = want.tensors().iter().filter_map(|tensor| tensor.name.strip_suffix(".mean")).collect();
    assert!(names.len() >= 20, "{} models", names.len());
    for name in names {
        let golden = own(name);
        let ids = &golden.prompts.iter().find(|prompt| prompt.name == "short").expect("a short prompt").ids;
        let gguf = Gguf::open(&golden.model).unwrap();
        let options = EngineOptions {
            cache_type: CacheType::F32,
            activations: Activations::F32,
            n_batch,
            ..EngineOptions::default()
        };
        let mut engine = Engine::load(Gpu::open(device).unwrap(), &gguf, options, &mut |_, _| {}).unwrap();
        // All states once, and of them what each pooling wants.
        let mut pooled = POOLINGS.map(|pooling| Pooled::new(pooling, ids.len()));
        for start in (0..ids.len()).step_by(n_batch) {
            let chunk = start..ids.len().min(start + n_batch);
            let all = Chunk { id: FIRST, tokens: &ids[chunk.clone()], wanted: 0..chunk.len() };
            let states = engine.states_of(&[all]).unwrap();
            let n_embd = states.len() / chunk.len();
            for pooled in &mut pooled {
                let wanted = pooled.pooling().wanted(chunk.clone(), ids.len());
                pooled.add(chunk.clone(), &states[wanted.start * n_embd..wanted.end * n_embd]);
            }
        }
        for pooled in &pooled {
            let (pooling, got) = (pooled.pooling(), pooled.finish().unwrap());
            let want = &want.get(&format!("{name}.{pooling}")).unwrap().data;
            assert_eq!(got.len(), want.len(), "{name}");
            let most = got.iter().zip(want).map(|(got, want)| (got - want).abs()).fold(0.0, f32::max);
            println!("{name}, {n_batch} at a time, {pooling}: {most:.1e}");
            assert!(most < tolerance, "{name}, {n_batch} at a time, {pooling}: {most}");
        }
        // The rows that are wanted alone are the same rows.
        let last = engine.embed(ids, Pooling::Last).unwrap();
        assert_eq!(last, pooled[1].finish().unwrap(), "{name}, {n_batch} at a time");
    }
}

#[test]
fn token_by_token_they_are_llama_cpps() {
    check(1, 2e-4);
}

#[test]
fn in_chunks_they_are_llama_cpps() {
    check(8, 1e-3);
}
