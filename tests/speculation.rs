//! Guesses change when a text is there and not which: the same tokens with and without, whoever guesses, and the same distribution.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use driver::DeviceChoice;
use ferrowarp::{
    cache::SequenceId,
    engine::{Answer, AnswerRequest, Device, Scheduler},
    forward::{Engine, EngineError, EngineOptions, Logits},
    generate::{Generation, Limits, Request, Stop, constraint_vocabulary, generate, sampler},
    gguf::Gguf,
    gpu::{Gpu, kernels::CacheType},
    sample::{Constraint, SamplerOptions},
    session::Session,
    speculate::{Counts, DraftModel, Drafter, Drafting, Ngrams, Speculation, Wanted, common_tokens},
    tokenizer::{ControlText, Ends, Special, Tokenizer},
    trace::Recorder,
};

mod support;

use support::random::Random;

fn fixture(name: &str) -> Gguf {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/fixtures/models", name].iter().collect();
    Gguf::open(&path).unwrap()
}

fn haiku() -> Gguf {
    Gguf::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/haiku/haiku.gguf").as_path()).unwrap()
}

fn engine(gguf: &Gguf, options: EngineOptions) -> Engine {
    let choice = std::env::var("FERROWARP_DEVICE").unwrap_or_else(|_| "auto".into());
    let choice: DeviceChoice = choice.parse().expect("FERROWARP_DEVICE");
    Engine::load(Gpu::open(choice).expect("the device asked for"), gguf, options, &mut |_, _| {}).unwrap()
}

fn options() -> EngineOptions {
    EngineOptions { n_context: Some(160), n_batch: 64, n_drafted: 6, ..EngineOptions::default() }
}

/// Guesses right so many times of a hundred, since it knows the texts.
struct Planted {
    texts: Vec<Vec<u32>>,
    percent: usize,
    n_vocab: usize,
    random: Random,
}

impl Drafter for Planted {
    fn draft(&mut self, wanted: &[Wanted]) -> Result<Vec<Vec<u32>>, EngineError> {
        let mut of = |wanted: &Wanted| {
            let known = self.texts.iter().find(|known| known.starts_with(wanted.text));
            let rest = known.map_or(&[][..], |known| &known[wanted.text.len()..]);
            let guess = |at: usize| match rest.get(at) {
                Some(token) if self.random.below(100) < self.percent => *token,
                _ => self.random.below(self.n_vocab) as u32,
            };
            (0..wanted.n).map(guess).collect()
        };
        Ok(wanted.iter().map(&mut of).collect())
    }

    fn forget(&mut self, _: SequenceId) {}
}

/// A model that guesses as if that cost nothing: one as large as the other would else not be asked.
struct Free(DraftModel);

impl Drafter for Free {
    fn draft(&mut self, wanted: &[Wanted]) -> Result<Vec<Vec<u32>>, EngineError> {
        self.0.draft(wanted)
    }

    fn forget(&mut self, id: SequenceId) {
        self.0.forget(id);
    }
}

/// A request without what differs.
struct Asked<'a> {
    tokenizer: &'a Tokenizer,
    prompt: &'a [u32],
    sampling: SamplerOptions,
    limits: Limits,
    stop: &'a [String],
    logprobs: Option<usize>,
    grammar: Option<&'a str>,
}

impl<'a> Asked<'a> {
    fn new(tokenizer: &'a Tokenizer, prompt: &'a [u32], sampling: SamplerOptions, n: usize) -> Asked<'a> {
        let limits = Limits { n_predict: Some(n), ignore_eos: true, shift_keeping: None };
        Asked { tokenizer, prompt, sampling, limits, stop: &[], logprobs: None, grammar: None }
    }

    fn constraint(&self) -> Option<Constraint> {
        let vocabulary = || constraint_vocabulary(self.tokenizer).unwrap();
        self.grammar.map(|grammar| Constraint::from_grammar("a grammar", grammar, &vocabulary()).unwrap())
    }

    /// What comes of it; the session is left as it would be without guesses.
    fn of(&self, session: &mut Session, speculation: Option<&mut Speculation>) -> Generation {
        let n_vocab = self.tokenizer.vocab_size().min(session.engine().config().vocab_size);
        let mut sampler = sampler(self.sampling.clone(), self.tokenizer, n_vocab).unwrap();
        let mut constraint = self.constraint();
        let request = Request {
            model: "the model",
            prompt: self.prompt,
            sampler: &mut sampler,
            constraint: constraint.as_mut(),
            stop: self.stop,
            limits: self.limits,
            logprobs: self.logprobs,
            interrupt: None,
            speculation,
        };
        generate(session, self.tokenizer, request, &mut |_| true).unwrap()
    }
}

/// The same text, reason, log probabilities and cache.
fn expect_same(
    what: &str,
    session: &mut Session,
    asked: &Asked,
    want: &(Generation, Vec<u32>),
    drafter: Box<dyn Drafter>,
) -> Counts {
    let drafting = Drafting::new(drafter, session.engine(), 6);
    let mut speculation = Speculation::new(drafting);
    session.reset();
    let got = asked.of(session, Some(&mut speculation));
    let (want, left) = want;
    assert_eq!(got.ids, want.ids, "{what}");
    assert_eq!((&got.text, &got.stop, &got.logprobs), (&want.text, &want.stop, &want.logprobs), "{what}");
    assert_eq!((got.n_shifts, session.ids()), (want.n_shifts, left.as_slice()), "{what}");
    let n_pages = session.ids().len().div_ceil(32);
    if session.engine().figure().caches.iter().all(|cache| cache.window.is_none()) {
        assert_eq!(session.engine().pages().0, n_pages, "{what}: pages");
    }
    let counts = got.drafts.expect("what was guessed");
    assert!(counts.n_kept <= counts.n_drafted, "{what}: {counts:?}");
    // Every step brings a token, and every right guess one more.
    let n_decoded = got.ids.len() as u64 - 1;
    assert!(
        counts.n_steps + counts.n_kept == n_decoded || got.n_shifts > 0 || want.stop == Stop::ContextFull,
        "{what}: {counts:?}"
    );
    counts
}

fn alone(session: &mut Session, asked: &Asked) -> (Generation, Vec<u32>) {
    session.reset();
    let generation = asked.of(session, None);
    assert_eq!(generation.drafts, None);
    (generation, session.ids().to_vec())
}

fn drawn(seed: u32) -> SamplerOptions {
    SamplerOptions { seed: Some(seed), temp: 0.9, repeat_penalty: 1.1, ..SamplerOptions::default() }
}

fn greedy() -> SamplerOptions {
    SamplerOptions { temp: 0.0, ..SamplerOptions::default() }
}

/// Models and caches of each kind, greedy and drawn, with guesses that are right never, often and always.
#[test]
fn texts_are_the_same_whoever_guesses() {
    let mut random = Random::new();
    let f16 = options();
    let cases = [
        ("qwen2-tiny-q4_k_m.gguf", f16),
        ("llama-tiny-q4_k_m.gguf", EngineOptions { cache_type: CacheType::Q8_0, ..f16 }),
        ("qwen3moe-tiny-q4_k_m.gguf", f16),
    ];
    for (name, options) in cases {
        let gguf = fixture(name);
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        let mut session = Session::new(engine(&gguf, options));
        let n_vocab = tokenizer.vocab_size().min(session.engine().config().vocab_size);
        // Over the end of a page.
        let prompt: Vec<u32> = (0..20 + random.below(20)).map(|_| random.below(n_vocab) as u32).collect();
        for sampling in [greedy(), drawn(random.below(1000) as u32)] {
            let asked = Asked::new(&tokenizer, &prompt, sampling, 14);
            let want = alone(&mut session, &asked);
            let text = [prompt.as_slice(), &want.0.ids].concat();
            for percent in [0, 70, 100] {
                let seed = random.below(1 << 30) as u64;
                let planted = Planted { texts: vec![text.clone()], percent, n_vocab, random: Random(seed) };
                let counts =
                    expect_same(&format!("{name}, {percent} % right"), &mut session, &asked, &want, Box::new(planted));
                match percent {
                    100 => assert!(counts.n_kept == counts.n_drafted && counts.n_steps <= 9, "{name}: {counts:?}"),
                    // Some steps of several, and one now and then.
                    0 => assert!(counts.n_kept <= 1 && counts.n_drafted <= 18, "{name}: {counts:?}"),
                    _ => {}
                }
            }
            expect_same(&format!("{name}, n-grams"), &mut session, &asked, &want, Box::<Ngrams>::default());
        }
    }
}

/// All that ends a text, or goes along with it, falls into a step with guesses.
#[test]
fn ends_limits_and_constraints_hold_within_a_step() {
    let gguf = haiku();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let mut session = Session::new(engine(&gguf, EngineOptions { n_context: Some(40), ..options() }));
    let n_vocab = tokenizer.vocab_size().min(session.engine().config().vocab_size);
    let prompt = tokenizer.encode("the rain on the tin roof", Special::Text, Ends::AsFileSays).unwrap();
    let plain = || Asked::new(&tokenizer, &prompt, drawn(5), 12);
    let stop = ["o".to_owned(), "\n".to_owned()];
    let free = Limits { n_predict: None, ignore_eos: true, shift_keeping: None };
    let asked = [
        ("a stop string", Asked { stop: &stop, ..plain() }),
        ("log probabilities", Asked { logprobs: Some(2), ..plain() }),
        ("one token", Asked::new(&tokenizer, &prompt, drawn(6), 1)),
        ("two tokens", Asked::new(&tokenizer, &prompt, greedy(), 2)),
        ("an end of the turn", Asked { limits: Limits { ignore_eos: false, ..free }, ..plain() }),
        ("a full context", Asked { limits: free, ..plain() }),
        ("a shift", Asked { limits: Limits { n_predict: Some(45), shift_keeping: Some(3), ..free }, ..plain() }),
        ("a grammar", Asked { grammar: Some("root ::= (\"tin \" | \"rain \" | \"roof \")*"), ..plain() }),
    ];
    for (what, asked) in asked {
        let want = alone(&mut session, &asked);
        let text = [prompt.as_slice(), &want.0.ids].concat();
        for percent in [70, 100] {
            let planted = Planted { texts: vec![text.clone()], percent, n_vocab, random: Random(1) };
            expect_same(&format!("{what}, {percent} %"), &mut session, &asked, &want, Box::new(planted));
        }
        expect_same(&format!("{what}, n-grams"), &mut session, &asked, &want, Box::<Ngrams>::default());
    }
}

/// A model that drafts: the same one is always right; its text may be cut, go on otherwise and be longer than a chunk.
#[test]
fn a_model_drafts_for_another() {
    let gguf = haiku();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    assert_eq!(common_tokens(&gguf, &gguf).unwrap(), tokenizer.vocab_size());
    let mut session = Session::new(engine(&gguf, options()));
    let small = EngineOptions { n_drafted: 0, n_batch: 16, ..options() };
    let mut model = DraftModel::new(engine(&gguf, small), gguf.name(), tokenizer.vocab_size()).unwrap();
    let prompt = tokenizer.encode("the rain on the tin roof", Special::Text, Ends::AsFileSays).unwrap();
    let asked = Asked::new(&tokenizer, &prompt, greedy(), 16);
    let want = alone(&mut session, &asked);
    let text = [prompt.as_slice(), &want.0.ids].concat();
    let id = SequenceId(3);
    let mut draft = |text: &[u32], n| model.draft(&[Wanted { id, text, n }]).unwrap().remove(0);
    // A chunk of sixteen at a time, then what follows; what has no room has no guess.
    let n = prompt.len() + 11;
    let mut n_empty = 0;
    let found = loop {
        let found = draft(&text[..n], 5);
        if !found.is_empty() {
            break found;
        }
        n_empty += 1;
    };
    assert_eq!(n_empty, (n - 1).div_ceil(16) - 1);
    // The prompt went through another pass in it, which may round otherwise where the first choice is no clear one.
    assert_eq!(found[0], text[n], "{found:?}, {:?}", &text[n..]);
    assert_eq!(draft(&text[..n - 4], 3).len(), 3);
    assert_eq!(draft(&[&text[..n - 4], &[1, 2, 3]].concat(), 3).len(), 3);
    assert_eq!(draft(&vec![1; 160], 3), [0; 0]);

    model.forget(id);

    // By what it costs it is of no use.
    let large = DraftModel::new(engine(&gguf, small), gguf.name(), tokenizer.vocab_size()).unwrap();
    let counts = expect_same("a model as large", &mut session, &asked, &want, Box::new(large));
    assert_eq!((counts.n_drafted, counts.n_steps), (0, 15));
    let counts = expect_same("a model", &mut session, &asked, &want, Box::new(Free(model)));
    assert!(counts.n_kept > 5, "{counts:?}");
    let again = DraftModel::new(engine(&gguf, small), gguf.name(), tokenizer.vocab_size()).unwrap();
    let drawn = Asked::new(&tokenizer, &prompt, drawn(3), 16);
    let want = alone(&mut session, &drawn);
    let counts = expect_same("a model, drawn", &mut session, &drawn, &want, Box::new(Free(again)));
    assert!(counts.n_drafted > 0, "{counts:?}");

    // One that is smaller: another form of the same weights.
    let (gguf, smaller) = (fixture("qwen2-tiny-f32.gguf"), fixture("qwen2-tiny-q4_k_m.gguf"));
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let n_tokens = common_tokens(&gguf, &smaller).unwrap();
    let model = DraftModel::new(engine(&smaller, small), smaller.name(), n_tokens).unwrap();
    let mut session = Session::new(engine(&gguf, options()));
    let prompt: Vec<u32> = (0..30).map(|at| at * 7 % n_tokens as u32).collect();
    let asked = Asked::new(&tokenizer, &prompt, greedy(), 16);
    let want = alone(&mut session, &asked);
    let counts = expect_same("a smaller model", &mut session, &asked, &want, Box::new(model));
    assert!(counts.n_drafted > 0, "{counts:?}");

    let other = fixture("llama-tiny-q4_k_m.gguf");
    let gguf = haiku();
    let error = common_tokens(&gguf, &other).unwrap_err().to_string();
    assert!(
        error.starts_with(other.name()) && error.contains(gguf.name()) && error.contains("tokenizer.ggml"),
        "{error}"
    );
    let recurrent = fixture("qwen35-tiny-f16.gguf");
    let error = DraftModel::new(engine(&recurrent, small), recurrent.name(), 10).err().expect("an error").to_string();
    assert!(error.starts_with(recurrent.name()) && error.contains("recurrent"), "{error}");
}

/// Answers of many sequences, with guesses for all of them: each is what it is alone.
#[test]
fn answers_in_company_are_the_same_with_guesses() {
    let gguf = haiku();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let mut random = Random::new();
    let one = EngineOptions { n_context: Some(128), n_batch: 32, batch_invariant: true, ..EngineOptions::default() };
    let mut session = Session::new(engine(&gguf, one));
    let n_vocab = tokenizer.vocab_size().min(session.engine().config().vocab_size);
    let topics = ["rain", "the sea", "a river at night", "tea", "winter birds"];
    let prompts: Vec<Vec<u32>> =
        topics.iter().map(|topic| tokenizer.encode(topic, Special::Text, Ends::AsFileSays).unwrap()).collect();
    let sampling = |index: usize| if index == 0 { greedy() } else { drawn(index as u32) };
    let mut want = Vec::new();
    for (index, prompt) in prompts.iter().enumerate() {
        want.push(alone(&mut session, &Asked::new(&tokenizer, prompt, sampling(index), 14)).0);
    }
    let texts: Vec<Vec<u32>> =
        prompts.iter().zip(&want).map(|(prompt, want)| [prompt.as_slice(), &want.ids].concat()).collect();
    drop(session);
    // Fewer slots than answers, fewer rows than guesses that are wanted, and pages for little more than two.
    let many = EngineOptions { n_sequences: 3, n_drafted: 8, n_positions: Some(128), ..one };
    let small = EngineOptions { n_sequences: 3, n_positions: Some(128), ..one };
    let drafters: [Box<dyn Drafter>; 3] = [
        Box::new(Planted { texts, percent: 75, n_vocab, random: Random(random.below(1 << 30) as u64) }),
        Box::<Ngrams>::default(),
        Box::new(Free(DraftModel::new(engine(&gguf, small), gguf.name(), n_vocab).unwrap())),
    ];
    for (number, drafter) in drafters.into_iter().enumerate() {
        let engine = engine(&gguf, many);
        let drafting = Drafting::new(drafter, &engine, 6);
        let mut device = Device::drafting(engine, Some(drafting));
        let mut scheduler: Scheduler<Answer> = Scheduler::new(&device, n_vocab);
        for (index, prompt) in prompts.iter().enumerate() {
            let request = AnswerRequest {
                model: "the model",
                prompt,
                sampler: sampler(sampling(index), &tokenizer, n_vocab).unwrap(),
                constraint: None,
                trigger: None,
                control: ControlText::Hide,
                stop: &[],
                limits: Limits { n_predict: Some(14), ignore_eos: true, shift_keeping: None },
                logprobs: None,
            };
            scheduler.submit(&device, prompt, [Answer::new(request, &tokenizer, n_vocab, None)]).unwrap();
        }
        let mut n_kept = 0;
        while !scheduler.is_idle() {
            for finished in scheduler.step(&mut device).unwrap() {
                let key = finished.key as usize;
                let got = Answer::end(finished).generation.unwrap();
                assert_eq!(got.ids, want[key].ids, "drafter {number}, answer {key}");
                n_kept += got.drafts.expect("what was guessed").n_kept;
            }
        }
        let done = scheduler.statistics();
        assert_eq!(done.n_kept, n_kept, "{done:?}");
        // Five answers of fourteen tokens, all but the first of each by decoding.
        assert!(number == 1 || (done.n_kept > 10 && done.n_kept <= done.n_drafted), "drafter {number}: {done:?}");
        assert_eq!(device.into_engine().pages().0, 0);
    }
}

/// Three tokens drawn from the two likeliest each time, with guesses of which many are right, are distributed as the model says.
#[test]
fn drawn_texts_keep_their_distribution() {
    /// Texts drawn.
    const N: usize = 120;
    let gguf = haiku();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let mut session = Session::new(engine(&gguf, options()));
    let n_vocab = tokenizer.vocab_size().min(session.engine().config().vocab_size);
    let prompt = tokenizer.encode("the", Special::Text, Ends::AsFileSays).unwrap();
    // What the model says, from logits computed without any guesses.
    let mut likeliest = |text: &[u32]| -> Vec<(u32, f64)> {
        session.reset();
        let engine = session.engine();
        engine.reset();
        engine.forward(&prompt, Logits::Last, &mut Recorder::off()).unwrap();
        text.iter().for_each(|token| engine.decode(*token).unwrap());
        let logits = engine.logits().unwrap();
        let mut ids: Vec<u32> = (0..n_vocab as u32).collect();
        ids.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
        let weight = |id: u32| f64::from(logits[id as usize] - logits[ids[0] as usize]).exp();
        let sum: f64 = ids[..2].iter().map(|id| weight(*id)).sum();
        ids[..2].iter().map(|id| (*id, weight(*id) / sum)).collect()
    };
    let mut expected: BTreeMap<Vec<u32>, f64> = BTreeMap::from([(Vec::new(), 1.0)]);
    for _ in 0..3 {
        let before = std::mem::take(&mut expected);
        for (text, chance) in before {
            expected
                .extend(likeliest(&text).into_iter().map(|(id, of)| ([text.as_slice(), &[id]].concat(), chance * of)));
        }
    }
    assert_eq!(expected.len(), 8);
    // The likeliest texts are what is guessed.
    let mut texts: Vec<(&Vec<u32>, f64)> = expected.iter().map(|(text, chance)| (text, *chance)).collect();
    texts.sort_by(|a, b| b.1.total_cmp(&a.1));
    let texts: Vec<Vec<u32>> = texts.iter().map(|(text, _)| [prompt.as_slice(), text].concat()).collect();
    session.reset();
    let mut drawn: BTreeMap<Vec<u32>, f64> = BTreeMap::new();
    let mut guessed: BTreeMap<Vec<u32>, f64> = BTreeMap::new();
    let (mut n_drafted, mut n_kept) = (0, 0);
    for seed in 0..N {
        let sampling = SamplerOptions {
            seed: Some(seed as u32),
            temp: 1.0,
            top_k: 2,
            top_p: 1.0,
            min_p: 0.0,
            ..SamplerOptions::default()
        };
        // Each text begins with the first beliefs: it always guesses.
        let planted = Planted { texts: texts.clone(), percent: 100, n_vocab, random: Random(0) };
        let mut speculation = Speculation::new(Drafting::new(Box::new(planted), session.engine(), 6));
        let generation = Asked::new(&tokenizer, &prompt, sampling, 3).of(&mut session, Some(&mut speculation));
        let counts = generation.drafts.expect("what was guessed");
        (n_drafted, n_kept) = (n_drafted + counts.n_drafted, n_kept + counts.n_kept);
        // What it would be if every guess were kept.
        let first = [prompt.as_slice(), &generation.ids[..1]].concat();
        let kept = texts.iter().find(|text| text.starts_with(&first)).expect("a guess");
        *guessed.entry(kept[prompt.len()..].to_vec()).or_default() += 1.0;
        *drawn.entry(generation.ids).or_default() += 1.0;
    }
    assert!(n_drafted >= N as u64 && n_kept > n_drafted / 5 && n_kept < n_drafted, "{n_kept} of {n_drafted}");
    // Pearson's statistic, rare texts together so that each class is expected ten times.
    let statistic = |counts: &BTreeMap<Vec<u32>, f64>| {
        assert!(counts.keys().all(|text| expected.contains_key(text)), "{counts:?}");
        let (mut sum, mut classes, mut rare) = (0.0, 0, (0.0, 0.0));
        for (text, chance) in &expected {
            let (want, got) = (chance * N as f64, counts.get(text).copied().unwrap_or(0.0));
            if want < 10.0 {
                rare = (rare.0 + want, rare.1 + got);
            } else {
                sum += (got - want).powi(2) / want;
                classes += 1;
            }
        }
        if rare.0 > 0.0 {
            sum += (rare.1 - rare.0).powi(2) / rare.0;
            classes += 1;
        }
        (sum, classes - 1)
    };
    // A fair sample passes it once in a thousand (Wilson and Hilferty's approximation of the quantile); the seeds are fixed.
    let limit = |degrees: i32| {
        let n = f64::from(degrees);
        n * (1.0 - 2.0 / (9.0 * n) + 3.09 * (2.0 / (9.0 * n)).sqrt()).powi(3)
    };
    let (fair, degrees) = statistic(&drawn);
    assert!(degrees >= 2 && fair < limit(degrees), "{fair} with {degrees} degrees of freedom: {drawn:?}");
    // And the test sees guesses that are kept too often.
    let (unfair, degrees) = statistic(&guessed);
    assert!(unfair > 2.0 * limit(degrees), "{unfair}");
}
