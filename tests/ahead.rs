//! Steps that are begun before their tokens are read: the words are those of an engine that begins none, to the last bit of the logits.

use std::path::PathBuf;

use driver::{DeviceChoice, calls};
use ferrowarp::{
    cache::SequenceId,
    forward::{Chunk, Engine, EngineOptions, FIRST, Share, Then},
    generate::{EngineRow, Found, LogitRow as _},
    gguf::Gguf,
    gpu::{Gpu, kernels::NO_CHOICE},
};

mod support;

use support::random::Random;

fn model(name: &str) -> Gguf {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/fixtures/models", name].iter().collect();
    Gguf::open(&path).unwrap()
}

fn engine(gguf: &Gguf, steps_ahead: bool, batch_invariant: bool) -> Engine {
    let choice = std::env::var("FERROWARP_DEVICE").unwrap_or_else(|_| "auto".into());
    let choice: DeviceChoice = choice.parse().expect("FERROWARP_DEVICE");
    let gpu = Gpu::open(choice).expect("the device asked for");
    let options = EngineOptions {
        n_context: Some(160),
        n_batch: 64,
        n_sequences: 12,
        batch_invariant,
        steps_ahead: Some(steps_ahead),
        ..EngineOptions::default()
    };
    Engine::load(gpu, gguf, options, &mut |_, _| {}).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn prompts(engine: &mut Engine, prompts: &[Vec<u32>]) -> Vec<SequenceId> {
    let of = |engine: &mut Engine, index: usize| if index == 0 { FIRST } else { engine.open().unwrap() };
    let ids: Vec<SequenceId> = (0..prompts.len()).map(|index| of(engine, index)).collect();
    for (id, prompt) in ids.iter().zip(prompts) {
        engine.forward_chunks(&[Chunk::last(*id, prompt)], Share::WHOLE).unwrap();
    }
    ids
}

/// Sequences that go on with their greedy choices until one after another ends, or one says something else, beside an engine that begins nothing.
fn check(name: &str, batch_invariant: bool) {
    let gguf = model(name);
    let mut random = Random::new();
    let mut engines = [true, false].map(|ahead| engine(&gguf, ahead, batch_invariant));
    let vocab_size = engines[0].config().vocab_size;
    // More than eight: a step has rows besides.
    let texts: Vec<Vec<u32>> = [3, 20, 31, 33, 9, 2, 5, 17, 8, 30, 4].map(|n| random.tokens(n, vocab_size)).into();
    let mut ids = Vec::new();
    for engine in &mut engines {
        ids = prompts(engine, &texts);
    }
    let mut rows: Vec<(SequenceId, u32)> = ids.iter().map(|id| (*id, random.tokens(1, vocab_size)[0])).collect();
    for step in 0..50 {
        // What is most likely is not always what comes: then that is made anew.
        let then = if random.below(8) == 0 { Then::Anything } else { Then::EachGoesOn };
        // Which logits are looked at, and whether before or behind the choices.
        let (looks_before, looks_behind) = (random.below(6) == 0, random.below(6) == 0);
        let found = engines.each_mut().map(|engine| {
            engine.decode_rows(&rows).unwrap();
            let before = if looks_before { engine.logit_rows(rows.len()).unwrap() } else { Vec::new() };
            let mut best = vec![NO_CHOICE; rows.len()];
            engine.greedy_rows(vocab_size, &mut best, then).unwrap();
            let mut largest = vec![(0, 0.0); 3 * rows.len()];
            if looks_behind {
                engine.largest_of_rows(vocab_size, 3, &mut largest).unwrap();
            }
            let behind = if looks_behind { engine.logit_rows(rows.len()).unwrap() } else { Vec::new() };
            (best, bits(&before), bits(&behind), largest)
        });
        let n = rows.len();
        let (best, before, behind, largest) = &found[0];
        assert!(found[0] == found[1], "{name}: step {step} of {n} rows, {looks_before} {looks_behind}");
        assert!(before.is_empty() || behind.is_empty() || before == behind, "{name}: step {step}");
        assert!(!looks_behind || best.iter().zip(largest.chunks(3)).all(|(best, largest)| *best == largest[0].0));
        for (row, best) in rows.iter_mut().zip(best) {
            row.1 = *best;
        }
        match random.below(12) {
            // One ends; what begins in its slot is another, though it may say the same.
            0 if n > 1 => {
                let (id, _) = rows.remove(random.below(n));
                engines.iter_mut().for_each(|engine| engine.close(id));
            }
            1 if n < 12 => {
                let n = 2 + random.below(30);
                let text = random.tokens(n, vocab_size);
                for engine in &mut engines {
                    let id = engine.open().unwrap();
                    engine.forward_chunks(&[Chunk::last(id, &text)], Share::WHOLE).unwrap();
                    rows.retain(|(of, _)| *of != id);
                    rows.push((id, text[0]));
                }
            }
            2 => rows[0].1 = (rows[0].1 + 1) % vocab_size as u32,
            3 if n > 1 => rows.swap(0, 1),
            // Waits for a step.
            4 if n > 1 => rows.rotate_left(1),
            5 => {
                let (id, _) = rows[0];
                engines.iter_mut().for_each(|engine| engine.take_back(id, 1));
            }
            _ => {}
        }
    }
}

#[test]
fn words_are_those_of_an_engine_that_begins_none() {
    for name in ["qwen2-tiny-q4_k_m.gguf", "qwen3moe-tiny-q4_k_m.gguf", "gemma3-tiny-f16.gguf", "qwen2-tiny-f32.gguf"] {
        [true, false].into_iter().for_each(|batch_invariant| check(name, batch_invariant));
    }
}

/// Whoever's state does not go back is never a step ahead.
#[test]
fn a_recurrent_model_begins_none() {
    let gguf = model("qwen35-tiny-f16.gguf");
    let mut engine = engine(&gguf, true, false);
    prompts(&mut engine, &[vec![1, 2, 3]]);
    for _ in 0..4 {
        engine.decode(5).unwrap();
        let logits = engine.logits().unwrap();
        engine.greedy(engine.config().vocab_size, Then::EachGoesOn).unwrap();
        let before = calls::counts();
        assert!(bits(&engine.logits().unwrap()) == bits(&logits));
        assert_eq!(calls::counts().since(&before).launches(), 0);
    }
}

/// What the host waits for is the choices: the step that was begun needs nothing more of it.
#[test]
fn a_step_that_was_begun_needs_no_call() {
    let gguf = model("qwen2-tiny-q4_k_m.gguf");
    let mut engine = engine(&gguf, true, false);
    let vocab_size = engine.config().vocab_size;
    prompts(&mut engine, &[vec![1, 2, 3]]);
    engine.decode(7).unwrap();
    let mut token = engine.greedy(vocab_size, Then::EachGoesOn).unwrap();
    for _ in 0..40 {
        let before = calls::counts();
        engine.decode(token).unwrap();
        let step = calls::counts().since(&before);
        let made = [step.launches(), step.graph_launches(), step.copies(), step.synchronisations()];
        assert_eq!(made, [0; 4], "{step:?}");
        token = engine.greedy(vocab_size, Then::EachGoesOn).unwrap();
    }
}

/// Once somebody drew from the largest logits, all choices come with them, and no step is begun; but not for ever.
#[test]
fn greedy_steps_are_begun_again_some_time_after_somebody_drew() {
    let gguf = model("qwen2-tiny-q4_k_m.gguf");
    let mut engine = engine(&gguf, true, false);
    let vocab_size = engine.config().vocab_size;
    prompts(&mut engine, &[vec![1, 2, 3]]);
    let (mut found, mut token) = (Found::default(), 7);
    let mut launches = Vec::new();
    for step in 0..60 {
        let before = calls::counts();
        engine.decode(token).unwrap();
        launches.push(calls::counts().since(&before).graph_launches());
        found.left(1);
        let mut row = EngineRow { engine: &mut engine, found: &mut found, row: 0, then: Then::EachGoesOn };
        let mut largest = [(0, 0.0); 3];
        if step == 0 {
            row.largest(vocab_size, &mut largest).unwrap();
            token = largest[0].0;
        } else {
            token = row.greedy(vocab_size).unwrap().unwrap();
        }
    }
    assert!(launches[..30].iter().all(|n| *n == 1) && launches[50..].iter().all(|n| *n == 0), "{launches:?}");
}

/// A row without a choice: what is wrong with it is read from its own logits, and not from those of a step behind it.
#[test]
fn a_row_without_a_choice_keeps_its_logits() {
    const NOT_A_NUMBER: usize = 9;
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/fixtures/models/qwen2-tiny-f32.gguf"].iter().collect();
    let mut bytes = std::fs::read(&path).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    let is_named = |name: &str| gguf.tensors().find(|tensor| tensor.name == name);
    let table = is_named("output.weight").or(is_named("token_embd.weight")).expect("an output matrix");
    let row = table.bytes as usize / table.dims[1] as usize;
    bytes[table.offset as usize + NOT_A_NUMBER * row..][..row].fill(0xff);
    let gguf = Gguf::from_bytes(bytes, "a model with a token that is not a number").unwrap();
    let mut engines = [true, false].map(|ahead| engine(&gguf, ahead, true));
    let found = engines.each_mut().map(|engine| {
        prompts(engine, &[vec![1, 2, 3]]);
        engine.decode(7).unwrap();
        let mut best = [0];
        engine.greedy_rows(NOT_A_NUMBER + 1, &mut best, Then::EachGoesOn).unwrap();
        (best, bits(&engine.logits().unwrap()[..NOT_A_NUMBER]))
    });
    assert!(found[0] == found[1]);
    let (best, logits) = &found[0];
    assert!(*best == [NO_CHOICE] && logits.iter().all(|logit| f32::from_bits(*logit).is_finite()));
}
