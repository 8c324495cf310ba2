//! The device's shortlist draws what the whole row does: the same models, seeds and settings give the same tokens.

use driver::{DeviceChoice, calls};
use ferrowarp::{
    forward::{Engine, EngineOptions, Logits, Then},
    generate::{Limits, Request, generate},
    gguf::Gguf,
    gpu::Gpu,
    sample::{DryBreakers, Sampler, SamplerOptions, Stage},
    session::Session,
    synth::{FileType, SHAPES, Synth},
    tokenizer::{Ends, Special, Tokenizer},
    trace::Recorder,
};

/// A model of random weights for each family, and one that writes text.
fn models() -> Vec<Gguf> {
    let tiny = SHAPES.iter().filter(|shape| shape.name.starts_with("tiny-"));
    let mut models: Vec<Gguf> = tiny
        .map(|shape| {
            let mut bytes = Vec::new();
            Synth::new(shape, FileType::Q8_0, 5).write(&mut bytes, &mut |_| {}).unwrap();
            Gguf::from_bytes(bytes, shape.name).unwrap()
        })
        .collect();
    let haiku = include_bytes!("../models/haiku/haiku.gguf").to_vec();
    models.push(Gguf::from_bytes(haiku, "haiku").unwrap());
    assert_eq!(models.len(), 5);
    models
}

fn session(gguf: &Gguf) -> Session {
    let choice = std::env::var("FERROWARP_DEVICE");
    let choice: DeviceChoice = choice.map_or(DeviceChoice::Auto, |choice| choice.parse().expect("FERROWARP_DEVICE"));
    let options = EngineOptions { n_context: Some(128), n_batch: 32, ..EngineOptions::default() };
    Session::new(Engine::load(Gpu::open(choice).unwrap(), gguf, options, &mut |_, _| {}).unwrap())
}

/// Settings whose chains begin with a cut.
fn settings() -> Vec<SamplerOptions> {
    let plain = SamplerOptions::default();
    vec![
        plain.clone(),
        SamplerOptions { top_k: 1, ..plain.clone() },
        SamplerOptions { top_k: 200, top_p: 1.0, min_p: 0.0, temp: 1.5, ..plain.clone() },
        SamplerOptions { repeat_penalty: 1.3, presence_penalty: 0.2, frequency_penalty: 0.1, ..plain.clone() },
        SamplerOptions { dry_multiplier: 0.8, dry_allowed_length: 1, temp: 1.2, ..plain.clone() },
        SamplerOptions { logit_bias: vec![(7, f32::NEG_INFINITY), (40, -2.0)], ..plain.clone() },
        SamplerOptions { repeat_penalty: 1.2, temp: 0.0, ..plain.clone() },
        SamplerOptions { typical_p: 0.9, xtc_probability: 0.5, xtc_threshold: 0.05, min_keep: 2, ..plain.clone() },
        SamplerOptions { dynatemp_range: 0.5, samplers: vec![Stage::TopK, Stage::Temperature, Stage::TopP], ..plain },
    ]
}

const STEPS: usize = 8;

/// What the chain draws from whole rows.
fn from_rows(session: &mut Session, prompt: &[u32], n_tokens: usize, sampler: &mut Sampler) -> Vec<u32> {
    prompt.iter().for_each(|id| sampler.accept(*id));
    session.prompt(prompt, None).unwrap();
    let mut row = vec![0.0; n_tokens];
    let mut ids = Vec::new();
    loop {
        session.engine().logits_into(&mut row).unwrap();
        let id = sampler.sample(&row).unwrap().id;
        sampler.accept(id);
        ids.push(id);
        if ids.len() == STEPS {
            return ids;
        }
        session.decode(&[id]).unwrap();
    }
}

#[test]
fn the_devices_shortlist_draws_what_the_whole_row_does() {
    let first_seed = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    let first_seed: u32 =
        std::env::var("FERROWARP_SEED").map_or(first_seed, |seed| seed.parse().expect("FERROWARP_SEED"));
    println!("FERROWARP_SEED={first_seed}");
    let mut seeds = first_seed..;
    for gguf in models() {
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        let prompt = tokenizer.encode("a b a b a", Special::Text, Ends::AsFileSays).unwrap();
        let n_tokens = tokenizer.vocab_size();
        let (mut on_device, mut on_host) = (session(&gguf), session(&gguf));
        for (index, options) in settings().into_iter().enumerate() {
            let seed = seeds.next().unwrap();
            let options = SamplerOptions { seed: Some(seed), ..options };
            let breakers = DryBreakers::from_sequences([&[3u32][..]]);
            let mut sampler = Sampler::new(options, n_tokens, breakers).unwrap();
            assert!(sampler.shortlist_len(Engine::MAX_LARGEST).is_some(), "setting {index} has no shortlist");
            let want = from_rows(&mut on_host, &prompt, n_tokens, &mut sampler.clone());
            on_device.reset();
            let request = Request {
                model: "the model",
                prompt: &prompt,
                sampler: &mut sampler,
                constraint: None,
                stop: &[],
                limits: Limits { n_predict: Some(STEPS), ignore_eos: true, shift_keeping: None },
                logprobs: None,
                interrupt: None,
                speculation: None,
            };
            let got = generate(&mut on_device, &tokenizer, request, &mut |_| true).unwrap().ids;
            assert_eq!(got, want, "{}, setting {index}, seed {seed}", gguf.name());
            on_host.reset();
        }
    }
}

/// A step of sampling launches as many kernels as a greedy one, and copies the shortlist alone.
#[test]
fn a_sampled_step_allocates_nothing_and_copies_the_shortlist() {
    let gguf = models().pop().unwrap();
    let n_tokens = Tokenizer::from_gguf(&gguf).unwrap().vocab_size();
    let mut session = session(&gguf);
    let engine = session.engine();
    engine.forward(&[5, 6, 7], Logits::Last, &mut Recorder::off()).unwrap();
    engine.greedy(n_tokens, Then::Anything).unwrap();
    let n_greedy = engine.launches_per_token().unwrap();
    let mut largest = [(0, 0.0); 41];
    engine.largest_into(n_tokens, &mut largest).unwrap();
    assert_eq!(engine.launches_per_token().unwrap(), n_greedy);
    for step in 0..10 {
        let before = calls::counts();
        engine.decode(largest[step].0).unwrap();
        let pass = calls::counts().since(&before);
        assert_eq!(pass.allocations() + pass.frees() + pass.synchronisations(), 0, "step {step}: {pass:?}");
        assert_eq!((pass.launches(), pass.graph_launches()), (0, 1), "step {step}: {pass:?}");
        engine.largest_into(n_tokens, &mut largest).unwrap();
        let whole = calls::counts().since(&before);
        assert_eq!(whole.allocations() + whole.frees() + whole.launches(), 0, "step {step}: {whole:?}");

        let row = engine.logits().unwrap();
        let mut want: Vec<(u32, f32)> = (0..).zip(row[..n_tokens].iter().copied()).collect();
        want.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        assert_eq!(largest[..], want[..41], "step {step}");
    }
}
