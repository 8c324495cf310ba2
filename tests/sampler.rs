//! Sampling against llama.cpp: the same logits, options and seed must give the same tokens, every one.
//!
//! Runs over every `sampler/*.json` in `FERROWARP_FIXTURES` (default `tests/fixtures`), and in `../shared/fixtures`
//! where that lies beside the checkout. A file holds `cases`, each with the options as `params` and the `tokens` that
//! llama.cpp picked, fed back to the chain one by one. The logits of case *i* are either the tensor `case{i}.logits`
//! (f32, [steps, vocabulary]) in the `.safetensors` of the same name, or made by the recipe under `generated`.

use std::path::{Path, PathBuf};

use ferrowarp::sample::{DryBreakers, Mt19937, SampleError, Sampled, Sampler, SamplerOptions, Stage, TokenMask};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    #[serde(rename = "source")]
    _source: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    params: SamplerOptions,
    tokens: Vec<u32>,
    /// Tokens accepted before the first draw.
    #[serde(default)]
    prompt: Vec<u32>,
    /// DRY breakers as token sequences.
    #[serde(default)]
    dry_breakers: Vec<Vec<u32>>,
    generated: Option<Recipe>,
}

/// Logits from mt19937 outputs `r`: with `u = (r mod levels) / levels`, each is `scale · u · u · u − 4` in f32, so few
/// `levels` give many equal logits.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    seed: u32,
    n_vocab: usize,
    levels: u32,
    scale: f32,
}

impl Recipe {
    fn logits(&self, steps: usize) -> Vec<Vec<f32>> {
        let mut generator = Mt19937::new(self.seed);
        let mut logit = || {
            let u = (generator.next_u32() % self.levels) as f32 / self.levels as f32;
            self.scale * u * u * u - 4.0
        };
        (0..steps).map(|_| (0..self.n_vocab).map(|_| logit()).collect()).collect()
    }
}

#[test]
fn tokens_are_llama_cpps() {
    let own = std::env::var_os("FERROWARP_FIXTURES").map_or_else(|| "tests/fixtures".into(), PathBuf::from);
    let mut files = json_files(&own.join("sampler"));
    assert!(!files.is_empty(), "no sampler/*.json in {}", own.display());
    let shared = Path::new("../shared/fixtures/sampler");
    if shared.is_dir() {
        files.extend(json_files(shared));
    }

    let mut wrong = Vec::new();
    for file in &files {
        let fixture: Fixture = serde_json::from_slice(&std::fs::read(file).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(!fixture.cases.is_empty(), "{} has no cases", file.display());
        for (i, case) in fixture.cases.iter().enumerate() {
            let logits = match &case.generated {
                Some(recipe) => recipe.logits(case.tokens.len()),
                None => stored_logits(&file.with_extension("safetensors"), &format!("case{i}.logits")),
            };
            let got = sample_all(case, &logits);
            if let Some(step) = (0..got.len()).find(|&step| got[step] != case.tokens[step]) {
                wrong.push(format!(
                    "{} case {i} step {step}: drew {}, llama.cpp {}; options {:?}",
                    file.display(),
                    got[step],
                    case.tokens[step],
                    case.params
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Draws a token from every row, feeding llama.cpp's choice back so that one difference does not cause the next.
fn sample_all(case: &Case, logits: &[Vec<f32>]) -> Vec<u32> {
    assert_eq!(logits.len(), case.tokens.len());
    let breakers = DryBreakers::from_sequences(case.dry_breakers.iter().map(Vec::as_slice));
    let mut sampler = Sampler::new(case.params.clone(), logits[0].len(), breakers).unwrap();
    for &token in &case.prompt {
        sampler.accept(token);
    }
    let mut shortlisting = sampler.clone();
    logits
        .iter()
        .zip(&case.tokens)
        .map(|(row, &token)| {
            let sampled = sampler.sample(row).unwrap();
            sampler.accept(token);
            let (same, _) = by_shortlist(&mut shortlisting, row, row.len());
            assert_eq!(same, Ok(sampled), "by the largest logits alone; options {:?}", case.params);
            shortlisting.accept(token);
            sampled.id
        })
        .collect()
}

/// Draws from the largest logits where the chain can do with these and they decide, else from the row. Also says whether
/// they did.
fn by_shortlist(sampler: &mut Sampler, row: &[f32], limit: usize) -> (Result<Sampled, SampleError>, bool) {
    let plain = |logit: f32| if logit.is_nan() { f32::NAN } else { logit + 0.0 };
    if let Some(len) = sampler.shortlist_len(limit) {
        let mut largest: Vec<(u32, f32)> = (0..).zip(row.iter().map(|&logit| plain(logit))).collect();
        largest.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        match sampler.sample_shortlist(&largest[..len]) {
            Ok(Some(sampled)) => return (Ok(sampled), true),
            Ok(None) => {}
            Err(error) => return (Err(error), true),
        }
    }
    (sampler.sample(row), false)
}

fn json_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    files
}

fn stored_logits(file: &Path, name: &str) -> Vec<Vec<f32>> {
    let bytes = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = tensors.tensor(name).unwrap_or_else(|error| panic!("{} {name}: {error}", file.display()));
    let values: Vec<f32> =
        tensor.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    values.chunks_exact(tensor.shape()[1]).map(<[f32]>::to_vec).collect()
}

#[test]
fn the_same_seed_repeats_and_reset_starts_over() {
    let logits: Vec<f32> = (0..200).map(|i| (i as f32 * 0.37).sin()).collect();
    let options = SamplerOptions {
        xtc_probability: 0.5,
        xtc_threshold: 0.01,
        repeat_penalty: 1.1,
        dry_multiplier: 0.5,
        top_k: 0,
        ..SamplerOptions::default()
    };
    let mut sampler = Sampler::new(options.clone(), logits.len(), DryBreakers::default()).unwrap();
    let run = |sampler: &mut Sampler| -> Vec<u32> {
        (0..30)
            .map(|_| {
                let id = sampler.sample(&logits).unwrap().id;
                sampler.accept(id);
                id
            })
            .collect()
    };
    let first = run(&mut sampler);
    sampler.reset();
    assert_eq!(run(&mut sampler), first);

    // The seed that the system gave is reported, and gives the same tokens again.
    let again = SamplerOptions { seed: Some(sampler.seed()), ..options.clone() };
    assert_eq!(run(&mut Sampler::new(again, logits.len(), DryBreakers::default()).unwrap()), first);
    let other = SamplerOptions { seed: Some(sampler.seed() ^ 1), ..options };
    assert_ne!(run(&mut Sampler::new(other, logits.len(), DryBreakers::default()).unwrap()), first);
}

#[test]
fn greedy_takes_the_first_of_equal_maxima() {
    let options = SamplerOptions { temp: 0.0, ..SamplerOptions::default() };
    let mut logits = vec![0.0; 500];
    for id in [90, 91, 300, 499] {
        logits[id] = 2.5;
    }
    let mut sampler = Sampler::new(options, logits.len(), DryBreakers::default()).unwrap();
    let sampled = sampler.sample(&logits).unwrap();
    assert_eq!((sampled.id, sampled.probability), (90, 1.0));
}

#[test]
fn bad_rows_are_errors() {
    let mut sampler = Sampler::new(SamplerOptions::default(), 3, DryBreakers::default()).unwrap();
    let error = sampler.sample(&[0.0; 4]).unwrap_err().to_string();
    assert_eq!(error, "the row of logits has 4 entries: expected one for each of the 3 tokens of the vocabulary");
    let error = sampler.sample_allowed(&[0.0; 3], &TokenMask::none(5)).unwrap_err().to_string();
    assert!(error.starts_with("the token mask has 5 entries"), "{error}");
    let error = sampler.sample(&[f32::NAN, f32::NEG_INFINITY, f32::NAN]).unwrap_err();
    assert_eq!(error, SampleError::NotNumbers { nan: 2, n_vocab: 3 });
    let error = sampler.sample_allowed(&[0.0; 3], &TokenMask::none(3)).unwrap_err();
    assert_eq!(error, SampleError::NothingToDraw { n_vocab: 3 });
    // One NaN is enough, whatever the way of choosing and whatever the mask leaves.
    let mut allowed = TokenMask::none(3);
    allowed.allow(2);
    let greedy = SamplerOptions { temp: 0.0, ..SamplerOptions::default() };
    let mirostat = SamplerOptions { mirostat: 2, ..SamplerOptions::default() };
    for options in [SamplerOptions::default(), greedy, mirostat] {
        let mut sampler = Sampler::new(options, 3, DryBreakers::default()).unwrap();
        let row = [2.0, -f32::NAN, 1.0];
        let want = SampleError::NotNumbers { nan: 1, n_vocab: 3 };
        assert_eq!(sampler.sample(&row).unwrap_err(), want);
        assert_eq!(sampler.sample_allowed(&row, &allowed).unwrap_err(), want);
    }

    let bias = SamplerOptions { logit_bias: vec![(3, 1.0)], ..SamplerOptions::default() };
    let error = Sampler::new(bias, 3, DryBreakers::default()).err().unwrap().to_string();
    assert_eq!(error, "--logit-bias is on token 3: expected a token id below the size of the vocabulary");
}

/// Any logit at all, the special values often.
fn any_logit() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -12.0f32..12.0,
        2 => prop_oneof![Just(0.0f32), Just(3.5), Just(-3.5)],
        1 => any::<f32>(),
        1 => prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY), Just(f32::MAX), Just(f32::MIN)],
    ]
}

/// Options within their limits, each stage on about as often as off.
fn any_options() -> impl Strategy<Value = SamplerOptions> {
    let truncation = (0u32..300, 0.0..=1.0f32, 0.0..=1.0f32, 0.0..=1.0f32, -1.0f32..3.0, 0u32..5);
    let penalties = (0u32..10, 0.01f32..3.0, -2.0f32..2.0, -2.0f32..2.0, 0.0f32..2.0, 0.5f32..3.0, 0u32..4);
    let heat = (-0.5f32..2.0, 0.0f32..2.0, 0.0f32..3.0, 0.0..=1.0f32, 0.0..=1.0f32);
    let rest = (any::<u32>(), 0u32..=2, 0.0f32..8.0, 0.0f32..2.0, Just(Stage::DEFAULT_ORDER.to_vec()).prop_shuffle());
    (truncation, penalties, heat, rest, any::<[bool; 8]>()).prop_map(|(cut, penalty, heat, rest, on)| {
        let plain = SamplerOptions::default();
        SamplerOptions {
            top_k: if on[0] { cut.0 } else { 0 },
            top_p: if on[1] { cut.1 } else { 1.0 },
            min_p: if on[2] { cut.2 } else { 0.0 },
            typical_p: if on[3] { cut.3 } else { 1.0 },
            top_n_sigma: cut.4,
            min_keep: cut.5,
            repeat_last_n: penalty.0,
            repeat_penalty: penalty.1,
            presence_penalty: penalty.2,
            frequency_penalty: penalty.3,
            dry_multiplier: penalty.4,
            dry_base: penalty.5,
            dry_allowed_length: penalty.6,
            temp: heat.0,
            dynatemp_range: if on[4] { heat.1 } else { 0.0 },
            dynatemp_exponent: heat.2,
            xtc_probability: if on[5] { heat.3 } else { 0.0 },
            xtc_threshold: heat.4,
            seed: Some(rest.0),
            mirostat: if on[6] { rest.1 } else { 0 },
            mirostat_tau: rest.2,
            mirostat_eta: rest.3,
            samplers: if on[7] { rest.4 } else { plain.samplers },
            ..plain
        }
    })
}

/// Which chains can do with a shortlist, and how long it is.
#[test]
fn a_shortlist_is_as_long_as_the_chain_needs() {
    let plain = SamplerOptions::default();
    let top_k_later = [Stage::Penalties, Stage::TopP, Stage::TopK].to_vec();
    for (options, want) in [
        (plain.clone(), Some(41)),
        (SamplerOptions { top_k: 511, ..plain.clone() }, Some(512)),
        (SamplerOptions { top_k: 512, ..plain.clone() }, None),
        (SamplerOptions { top_k: 0, ..plain.clone() }, None),
        (SamplerOptions { temp: 0.0, ..plain.clone() }, Some(2)),
        (SamplerOptions { repeat_penalty: 1.1, ..plain.clone() }, Some(105)),
        (SamplerOptions { repeat_penalty: 0.9, ..plain.clone() }, None),
        (SamplerOptions { presence_penalty: -0.5, ..plain.clone() }, None),
        (SamplerOptions { dry_multiplier: 0.5, dry_penalty_last_n: u32::MAX, ..plain.clone() }, Some(512)),
        (SamplerOptions { dry_multiplier: -0.5, ..plain.clone() }, None),
        (SamplerOptions { logit_bias: vec![(3, f32::NEG_INFINITY)], ..plain.clone() }, Some(42)),
        (SamplerOptions { logit_bias: vec![(3, 0.5)], ..plain.clone() }, None),
        (SamplerOptions { top_n_sigma: 2.0, ..plain.clone() }, None),
        (SamplerOptions { mirostat: 2, ..plain.clone() }, None),
        (SamplerOptions { samplers: top_k_later.clone(), ..plain.clone() }, None),
        (SamplerOptions { samplers: top_k_later, top_p: 1.0, ..plain }, Some(41)),
    ] {
        let sampler = Sampler::new(options.clone(), 1000, DryBreakers::default()).unwrap();
        assert_eq!(sampler.shortlist_len(512), want, "{options:?}");
    }
}

/// Logits without equal ones decide by their shortlist; one more than k of them is enough.
#[test]
fn a_shortlist_decides_where_no_two_logits_are_equal() {
    let row: Vec<f32> = (0..5000).map(|i| ((i * 1237 % 5000) as f32 * 0.001).sin() * 9.0).collect();
    let options = SamplerOptions { seed: Some(4), temp: 1.3, ..SamplerOptions::default() };
    let mut sampler = Sampler::new(options, row.len(), DryBreakers::default()).unwrap();
    let mut whole = sampler.clone();
    for _ in 0..50 {
        let sampled = whole.sample(&row);
        assert_eq!(by_shortlist(&mut sampler, &row, 512), (sampled, true));
    }
    let mut equal = row;
    equal.fill(1.5);
    assert!(!by_shortlist(&mut sampler, &equal, 512).1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Whatever the logits and options, the largest logits draw what the whole row does, or say that they cannot.
    #[test]
    fn a_shortlist_draws_what_the_whole_row_does(
        options in any_options(),
        top_k in 1u32..60,
        first in any::<bool>(),
        lowers in any::<bool>(),
        rows in proptest::collection::vec(proptest::collection::vec(any_logit(), 300), 1..6),
        biases in proptest::collection::vec((0u32..300, -5.0f32..0.5), 0..3),
    ) {
        let mut options = SamplerOptions { logit_bias: biases, ..options };
        if first {
            // As a rule a random chain needs the whole row: half of them shall not.
            options.samplers.retain(|stage| *stage != Stage::TopK);
            options.samplers.insert(0, Stage::TopK);
            (options.top_k, options.mirostat, options.temp) = (top_k, 0, options.temp.abs());
        }
        if lowers {
            options.repeat_penalty = options.repeat_penalty.max(1.0);
            options.presence_penalty = options.presence_penalty.abs();
            options.frequency_penalty = options.frequency_penalty.abs();
            options.logit_bias.iter_mut().for_each(|(_, bias)| *bias = -bias.abs());
        }
        let breakers = DryBreakers::from_sequences([&[1u32][..], &[2, 3]]);
        let mut whole = Sampler::new(options, 300, breakers).unwrap();
        let mut sampler = whole.clone();
        for row in rows {
            let want = whole.sample(&row);
            let (got, by_the_largest) = by_shortlist(&mut sampler, &row, 128);
            match (&want, &got) {
                (Ok(want), Ok(got)) => {
                    prop_assert_eq!(want, got, "by the largest: {}", by_the_largest);
                    whole.accept(want.id);
                    sampler.accept(want.id);
                }
                (Err(_), Err(_)) => break,
                _ => prop_assert!(false, "{:?} from the row, {:?} from the largest", want, got),
            }
        }
    }

    /// Whatever the logits and options, a token comes out that nothing excludes, or the error that says all are.
    #[test]
    fn an_excluded_token_is_never_drawn(
        options in any_options(),
        rows in proptest::collection::vec(proptest::collection::vec(any_logit(), 40), 1..8),
        banned in proptest::collection::vec(0u32..40, 0..39),
        masked in proptest::collection::vec(any::<bool>(), 40),
        use_mask in any::<bool>(),
    ) {
        let options = SamplerOptions {
            logit_bias: banned.iter().map(|&id| (id, f32::NEG_INFINITY)).collect(),
            ..options
        };
        let mut mask = TokenMask::none(40);
        for id in 0..40 {
            if !use_mask || masked[id as usize] {
                mask.allow(id);
            }
        }
        let breakers = DryBreakers::from_sequences([&[1u32][..], &[2, 3]]);
        let mut sampler = Sampler::new(options, 40, breakers).unwrap();
        for row in rows {
            let drawable = |id: u32| {
                let logit = row[id as usize];
                logit != f32::NEG_INFINITY && !banned.contains(&id) && mask.allows(id)
            };
            match if use_mask { sampler.sample_allowed(&row, &mask) } else { sampler.sample(&row) } {
                Ok(sampled) => {
                    prop_assert!(drawable(sampled.id), "drew {:?}", sampled);
                    prop_assert!(sampled.probability > 0.0 && sampled.probability <= 1.0, "{:?}", sampled);
                    sampler.accept(sampled.id);
                }
                Err(SampleError::NotNumbers { nan, .. }) => {
                    prop_assert_eq!(nan, row.iter().filter(|logit| logit.is_nan()).count());
                    prop_assert!(nan > 0);
                }
                // A logit near the end of the f32 range can be scaled to −∞, so a few tokens may be lost; not all forty.
                Err(error) => prop_assert!((0..40).filter(|&id| drawable(id) && row[id as usize] > -1e30).count() == 0, "{}", error),
            }
        }
    }
}
