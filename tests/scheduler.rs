//! A scheduler over a model on a device: what its sequences say and become is what they do alone.

use std::path::Path;

use driver::DeviceChoice;
use ferrowarp::{
    bench::measure_served,
    engine::{Answer, AnswerRequest, Device, Key, Scheduler, Work, WorkEnd},
    forward::{Engine, EngineOptions},
    generate::{Limits, sampler},
    gguf::Gguf,
    gpu::Gpu,
    model::Pooling,
    sample::SamplerOptions,
    tokenizer::{ControlText, Tokenizer},
    trace::relative_error,
};

mod support;

use support::random::Random;

fn engine(gguf: &Gguf, options: EngineOptions) -> Engine {
    let choice = std::env::var("FERROWARP_DEVICE").unwrap_or_else(|_| "auto".into());
    let choice: DeviceChoice = choice.parse().expect("FERROWARP_DEVICE");
    let gpu = Gpu::open(choice).expect("the device asked for");
    Engine::load(gpu, gguf, options, &mut |_, _| {}).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Embeddings beside answers: the vectors are those of an engine with nothing else to do, bit for bit where that is asked for, and the clock's sums
/// hold together.
#[test]
fn embeddings_and_answers_share_an_engine() {
    [true, false].into_iter().for_each(share_an_engine);
}

fn share_an_engine(batch_invariant: bool) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/qwen2-tiny-f32.gguf");
    let gguf = Gguf::open(&path).unwrap();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let options = EngineOptions {
        n_context: Some(128),
        n_batch: 16,
        n_sequences: 3,
        batch_invariant,
        ..EngineOptions::default()
    };
    let mut alone = engine(&gguf, EngineOptions { n_sequences: 1, ..options });
    let n_tokens = tokenizer.vocab_size().min(alone.config().vocab_size);
    let mut random = Random::new();
    let mut device = Device::new(engine(&gguf, options));
    let mut scheduler: Scheduler<Work> = Scheduler::new(&device, n_tokens);
    let mut wanted: Vec<(Key, Vec<f32>)> = Vec::new();
    let (mut n_answers, mut n_embeddings) = (0, 0);
    for (n, pooling) in [
        (40, Pooling::Mean),
        (1, Pooling::Mean),
        (17, Pooling::Last),
        (5, Pooling::Last),
        (7, Pooling::Last),
        (33, Pooling::Cls),
    ] {
        let prompt = random.tokens(5 + n % 7, n_tokens);
        let request = AnswerRequest {
            model: "the model",
            prompt: &prompt,
            sampler: sampler(SamplerOptions::default(), &tokenizer, n_tokens).unwrap(),
            constraint: None,
            trigger: None,
            control: ControlText::Hide,
            stop: &[],
            limits: Limits { n_predict: Some(6), ignore_eos: true, shift_keeping: None },
            logprobs: None,
        };
        let answer = Work::answer(Answer::new(request, &tokenizer, n_tokens, None));
        scheduler.submit(&device, &prompt, [answer]).unwrap();
        let text = random.tokens(n, n_tokens);
        let keys = scheduler.submit(&device, &text, [Work::embedding(pooling, n)]).unwrap();
        wanted.push((keys[0], alone.embed(&text, pooling).unwrap()));
    }
    while !scheduler.is_idle() {
        for finished in scheduler.step(&mut device).unwrap() {
            let key = finished.key;
            match Work::end(finished) {
                WorkEnd::Answer(end) => {
                    assert_eq!(end.generation.unwrap().ids.len(), 6);
                    n_answers += 1;
                }
                WorkEnd::Embedding(vector) => {
                    let (_, want) = wanted.iter().find(|(of, _)| *of == key).expect("an embedding's key");
                    let got = vector.unwrap();
                    assert!(!batch_invariant || bits(&got) == bits(want), "embedding {key}");
                    let error = relative_error(&got, want);
                    assert!(error < 1e-3, "embedding {key}: {error:e}");
                    n_embeddings += 1;
                }
            }
        }
    }
    assert_eq!((n_answers, n_embeddings), (6, 6));
    let done = scheduler.statistics();
    assert!(done.runner_time <= done.time && done.longest_gap <= done.time && !done.longest_gap.is_zero(), "{done:?}");

    // What `bench --parallel` does on a GPU.
    let served = measure_served(&mut device, &tokenizer, 2, [8, 4, 40]).unwrap().expect("logits that are numbers");
    assert!(served.n_steps >= 6 && !served.longest_gap.is_zero(), "{served:?}");
    assert_eq!(device.into_engine().n_past(), 0);
}
