//! softmax(q · Kᵀ · scale) · V over the keys a token sees, each query head reading its KV head; with soft caps and sinks.

use ferrowarp::gpu::{
    Gpu,
    kernels::{Attention, AttentionShape, CacheType},
};
use half::{bf16, f16};

use crate::support::*;

/// What changes scores and their softmax in some models.
#[derive(Clone, Default)]
pub struct Scores {
    /// What natural scores are held within.
    pub soft_cap: Option<f32>,
    /// `[n_heads]`.
    pub sinks: Option<Vec<f32>>,
}

/// What a reference reads: the cache's values, and where a token's positions are in it.
#[derive(Clone, Copy)]
pub struct Cached<'a> {
    pub keys: &'a [f64],
    pub values: &'a [f64],
    pub pages: &'a Pages,
    /// `[n_tokens]`.
    pub slots: &'a [u32],
}

/// Outputs `[n_tokens][n_heads][head_dim]`.
pub fn reference(shape: AttentionShape, q: &[f32], cached: Cached, positions: &[u32], scale: f32) -> Vec<f64> {
    let stride = *positions.iter().max().unwrap() as usize + 1;
    reference_of_scores(shape, &Scores::default(), q, cached, positions, scale, stride).1
}

/// Softmax rows `[n_heads][n_tokens][stride]` and outputs, for any scores.
pub fn reference_of_scores(
    shape: AttentionShape,
    scores: &Scores,
    q: &[f32],
    cached: Cached,
    positions: &[u32],
    scale: f32,
    stride: usize,
) -> (Vec<f64>, Vec<f64>) {
    let AttentionShape { n_tokens, n_heads, n_kv_heads, head_dim, window, .. } = shape;
    let Cached { keys, values, pages, slots } = cached;
    let mut softmax = vec![0.0; n_heads * n_tokens * stride];
    let mut out = vec![0.0; n_tokens * n_heads * head_dim];
    for token in 0..n_tokens {
        for head in 0..n_heads {
            let kv_head = head / (n_heads / n_kv_heads);
            let n_keys = positions[token] as usize + 1;
            let seen = n_keys.saturating_sub(window.unwrap_or(n_keys))..n_keys;
            let row = (token * n_heads + head) * head_dim;
            let query = &q[row..][..head_dim];
            let cell = |cache: &[f64], key: usize| {
                cache[pages.row(n_kv_heads, slots[token] as usize, kv_head, key) * head_dim..][..head_dim].to_vec()
            };
            let score = |key: usize| {
                let products = cell(keys, key).iter().zip(query).map(|(k, q)| k * f64::from(*q)).sum::<f64>();
                let score = products * f64::from(scale);
                scores.soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
            };
            let sink = scores.sinks.as_ref().map(|sinks| f64::from(sinks[head]));
            let scores: Vec<f64> = seen.clone().map(score).collect();
            let largest = scores.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let sum: f64 = weights.iter().sum::<f64>() + sink.map_or(0.0, |sink| (sink - largest).exp());
            for (key, weight) in seen.zip(&weights) {
                softmax[(head * n_tokens + token) * stride + key] = weight / sum;
                for (out, value) in out[row..][..head_dim].iter_mut().zip(cell(values, key)) {
                    *out += weight / sum * value;
                }
            }
        }
    }
    (softmax, out)
}

/// A random layer's cache of `n_rows` rows in its type's bytes, and its values exactly.
pub fn cache(random: &mut Random, cache_type: CacheType, n_rows: usize, head_dim: usize) -> (Vec<u8>, Vec<f64>) {
    let values = random.values(n_rows * head_dim, 1.0);
    match cache_type {
        CacheType::F32 => (bytemuck::cast_slice(&values).to_vec(), as_f64(&values)),
        CacheType::F16 => {
            let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
            (bytemuck::cast_slice(&halves).to_vec(), halves.iter().map(|half| half.to_f64()).collect())
        }
        CacheType::BF16 => {
            let halves: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
            (bytemuck::cast_slice(&halves).to_vec(), halves.iter().map(|half| half.to_f64()).collect())
        }
        CacheType::Q8_0 => {
            // All integers first, then a scale for each 32.
            let integers: Vec<i8> = values.iter().map(|value| (value * 127.0) as i8).collect();
            let scales: Vec<f16> =
                (0..values.len() / 32).map(|_| f16::from_f32(0.008 + 0.004 * random.value())).collect();
            let exact = |(index, q): (usize, &i8)| f64::from(*q) * scales[index / 32].to_f64();
            let bytes = [bytemuck::cast_slice(&integers), bytemuck::cast_slice::<f16, u8>(&scales)].concat();
            let turned: Vec<f64> = integers.iter().enumerate().map(exact).collect();
            // The cache holds each block of 32 turned.
            (bytes, turned.chunks(32).flat_map(hadamard).collect())
        }
    }
}

struct Case {
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    positions: Vec<u32>,
    window: Option<usize>,
    /// What multiplies the scores: larger ones make the softmax sharper.
    scale: f32,
    scores: Scores,
}

impl Case {
    fn new(n_heads: usize, n_kv_heads: usize, head_dim: usize, positions: Vec<u32>) -> Case {
        let scale = 1.0 / (head_dim as f32).sqrt();
        Case { n_heads, n_kv_heads, head_dim, positions, window: None, scale, scores: Scores::default() }
    }
}

fn run(gpu: &Gpu, case: &Case, cache_type: CacheType) {
    let mut random = Random::new();
    let Case { n_heads, n_kv_heads, head_dim, window, scale, ref scores, .. } = *case;
    let positions = &case.positions;
    let stride = *positions.iter().max().unwrap() as usize + 3;
    let n_tokens = positions.len();
    // Tokens of two sequences in turns.
    let slots: Vec<u32> = (0..n_tokens as u32).map(|token| token % 2).collect();
    let pages = Pages::new(gpu, &mut random, 2, stride, &slots);
    let shape = AttentionShape { n_tokens, n_heads, n_kv_heads, head_dim, n_pages: pages.n_pages, window };
    let q = random.values(n_tokens * n_heads * head_dim, 1.0);
    let n_rows = pages.n_rows(n_kv_heads);
    let (key_bytes, keys) = cache(&mut random, cache_type, n_rows, head_dim);
    let (value_bytes, values) = cache(&mut random, cache_type, n_rows, head_dim);
    let cached = Cached { keys: &keys, values: &values, pages: &pages, slots: &slots };
    let (want_softmax, want) = reference_of_scores(shape, scores, &q, cached, positions, scale, stride);

    let out = Output::new(gpu, n_tokens * n_heads * head_dim);
    let softmax = Output::<f32>::new(gpu, n_heads * n_tokens * stride);
    gpu.fill(&softmax.slice(0..n_heads * n_tokens * stride), 0).unwrap();
    let sinks = scores.sinks.as_ref().map(|sinks| gpu.upload("sinks", sinks).unwrap());
    gpu.attention(&Attention {
        shape,
        q: &gpu.upload("q", &q).unwrap(),
        keys: &gpu.upload("keys", &key_bytes).unwrap(),
        values: &gpu.upload("values", &value_bytes).unwrap(),
        cache_type,
        positions: &gpu.upload("positions", positions).unwrap(),
        pages: pages.get(),
        out: &out,
        probabilities: Some((&softmax, stride)),
        scale,
        soft_cap: scores.soft_cap,
        sinks: sinks.as_deref(),
    })
    .unwrap();
    let what = format!("{cache_type} {shape:?} at {positions:?}");
    // A score is a sum of head_dim products ≤ 1 (error ≤ ~1e-6 · √head_dim · scale here) and e^x passes an absolute error
    // on as a relative one. A cap's tangent is within 8e-7 of itself.
    let relative = 4e-6 * f64::from(scale).max(1.0) + 1e-6 * f64::from(scores.soft_cap.unwrap_or(0.0));
    let got = softmax.read(gpu);
    assert_close(&format!("softmax {what}"), &got, &want_softmax, 1e-7, relative);
    if scores.sinks.is_none() {
        for row in got.chunks(stride) {
            let sum: f64 = row.iter().map(|value| f64::from(*value)).sum();
            assert!((sum - 1.0).abs() < 1e-5, "a softmax row sums to {sum}: {what}");
        }
    }
    assert_close(&what, &out.read(gpu), &want, relative, relative);
}

/// Sizes of heads that exist, the smallest, and some that no model has, of those that this cache takes.
fn head_dims(cache_type: CacheType) -> impl Iterator<Item = usize> {
    let sizes = [4, 32, 48, 64, 80, 96, 100, 112, 120, 128, 192, 224, 252, 256];
    sizes.into_iter().filter(move |head_dim| cache_type.check_head_dim(*head_dim).is_ok())
}

#[test]
fn attention_in_decoding_agrees_with_its_definition() {
    let gpu = gpu();
    for cache_type in CacheType::ALL {
        for head_dim in head_dims(cache_type) {
            // One token at a time, at positions around a warp's and a block's share of keys, and head ratios of 2 and 7.
            for (position, n_heads, n_kv_heads) in [(0, 2, 1), (1, 2, 2), (7, 7, 1), (33, 7, 1), (130, 2, 1)] {
                run(&gpu, &Case::new(n_heads, n_kv_heads, head_dim, vec![position]), cache_type);
            }
        }
    }
}

#[test]
fn attention_in_prefill_is_causal() {
    let gpu = gpu();
    for cache_type in CacheType::ALL {
        for head_dim in head_dims(cache_type) {
            // A chunk of consecutive positions that starts after others.
            run(&gpu, &Case::new(4, 2, head_dim, (5..24).collect()), cache_type);
        }
    }
}

#[test]
fn attention_survives_large_scores() {
    let gpu = gpu();
    // Scores of hundreds: e^score overflows unless the largest is subtracted first.
    run(&gpu, &Case { scale: 60.0, ..Case::new(2, 1, 64, vec![40, 41]) }, CacheType::F32);
}

#[test]
fn a_sliding_window_hides_older_keys() {
    let gpu = gpu();
    for window in [1, 5, 16, 100] {
        let positions = vec![0, 3, 20, 50];
        run(&gpu, &Case { window: Some(window), ..Case::new(2, 1, 64, positions) }, CacheType::F16);
    }
}

#[test]
fn sinks_take_weight_from_all_keys() {
    let gpu = gpu();
    let mut random = Random::new();
    for (first, n_tokens, window, scale) in [(0, 1, None, 0.1), (130, 1, None, 1.0), (3, 9, Some(4), 0.3)] {
        // Of scores like the keys', far above them and far below.
        for (mean, spread) in [(0.0, 2.0), (90.0, 1.0), (-300.0, 1.0)] {
            let sinks = random.values(6, spread).iter().map(|sink| sink + mean).collect();
            let scores = Scores { sinks: Some(sinks), soft_cap: None };
            let positions = (first..first + n_tokens).collect();
            run(&gpu, &Case { window, scale, scores, ..Case::new(6, 2, 64, positions) }, CacheType::F32);
        }
    }
}

#[test]
fn soft_caps_hold_scores_down() {
    let gpu = gpu();
    for (cap, scale) in [(50.0, 0.1), (50.0, 20.0), (1.0, 3.0)] {
        let scores = Scores { soft_cap: Some(cap), sinks: None };
        run(&gpu, &Case { scale, scores: scores.clone(), ..Case::new(4, 2, 128, vec![70]) }, CacheType::F32);
        // With sinks, which are not capped, and a window.
        let scores = Scores { sinks: Some(vec![0.3, 40.0, -2.0, 1.5]), ..scores };
        let window = Some(9);
        run(&gpu, &Case { scale, scores, window, ..Case::new(4, 2, 48, (20..31).collect()) }, CacheType::F16);
    }
}

#[test]
fn heads_that_do_not_fit_are_refused_with_what_does() {
    let refused = |cache_type: CacheType, head_dim| cache_type.check_head_dim(head_dim).unwrap_err();
    assert_eq!(refused(CacheType::Q8_0, 80), "a q8_0 cache has heads of a multiple of 32 values up to 256, found 80");
    for (cache_type, head_dim) in [(CacheType::F16, 66), (CacheType::F32, 0), (CacheType::BF16, 260)] {
        assert!(refused(cache_type, head_dim).contains("a multiple of 4 values up to 256"));
    }
}
