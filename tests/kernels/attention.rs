//! softmax(q · Kᵀ · scale) · V over the keys a token sees, each query head reading its KV head.

use ferrowarp::gpu::kernels::{AttentionShape, CacheType};
use half::{bf16, f16};

use crate::support::*;

/// Softmax rows `[n_heads][n_tokens][n_context]` and outputs `[n_tokens][n_heads][head_dim]`.
pub fn reference(
    shape: AttentionShape,
    q: &[f32],
    keys: &[f64],
    values: &[f64],
    positions: &[u32],
    scale: f32,
) -> (Vec<f64>, Vec<f64>) {
    let AttentionShape { n_tokens, n_heads, n_kv_heads, head_dim, n_context, window } = shape;
    let mut softmax = vec![0.0; n_heads * n_tokens * n_context];
    let mut out = vec![0.0; n_tokens * n_heads * head_dim];
    for token in 0..n_tokens {
        for head in 0..n_heads {
            let kv_head = head / (n_heads / n_kv_heads);
            let n_keys = positions[token] as usize + 1;
            let seen = n_keys.saturating_sub(window.unwrap_or(n_keys))..n_keys;
            let row = (token * n_heads + head) * head_dim;
            let query = &q[row..][..head_dim];
            let cell = |cache: &[f64], key: usize| cache[(kv_head * n_context + key) * head_dim..][..head_dim].to_vec();
            let score = |key: usize| {
                let products = cell(keys, key).iter().zip(query).map(|(k, q)| k * f64::from(*q)).sum::<f64>();
                products * f64::from(scale)
            };
            let scores: Vec<f64> = seen.clone().map(score).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for (key, weight) in seen.zip(&weights) {
                softmax[(head * n_tokens + token) * n_context + key] = weight / sum;
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
}

fn run(case: &Case, cache_type: CacheType) {
    let gpu = gpu();
    let mut random = Random::new();
    let Case { n_heads, n_kv_heads, head_dim, window, scale, .. } = *case;
    let positions = &case.positions;
    let n_context = *positions.iter().max().unwrap() as usize + 3;
    let n_tokens = positions.len();
    let shape = AttentionShape { n_tokens, n_heads, n_kv_heads, head_dim, n_context, window };
    let q = random.values(n_tokens * n_heads * head_dim, 1.0);
    let (key_bytes, keys) = cache(&mut random, cache_type, n_kv_heads * n_context, head_dim);
    let (value_bytes, values) = cache(&mut random, cache_type, n_kv_heads * n_context, head_dim);
    let (want_softmax, want) = reference(shape, &q, &keys, &values, positions, scale);

    let out = Output::new(&gpu, n_tokens * n_heads * head_dim);
    let softmax = Output::<f32>::new(&gpu, n_heads * n_tokens * n_context);
    gpu.fill(&softmax.slice(0..n_heads * n_tokens * n_context), 0).unwrap();
    gpu.attention(
        shape,
        &gpu.upload("q", &q).unwrap(),
        &gpu.upload("keys", &key_bytes).unwrap(),
        &gpu.upload("values", &value_bytes).unwrap(),
        cache_type,
        &gpu.upload("positions", positions).unwrap(),
        &out,
        Some((&softmax, n_context)),
        scale,
    )
    .unwrap();
    let what = format!("{cache_type} {shape:?} at {positions:?}");
    // A score is a sum of head_dim products ≤ 1 (error ≤ ~1e-6 · √head_dim · scale here) and e^x passes an absolute error
    // on as a relative one.
    let relative = 4e-6 * f64::from(scale).max(1.0);
    let got = softmax.read(&gpu);
    assert_close(&format!("softmax {what}"), &got, &want_softmax, 1e-7, relative);
    for row in got.chunks(n_context) {
        let sum: f64 = row.iter().map(|value| f64::from(*value)).sum();
        assert!((sum - 1.0).abs() < 1e-5, "a softmax row sums to {sum}: {what}");
    }
    assert_close(&what, &out.read(&gpu), &want, relative, relative);
}

#[test]
fn attention_in_decoding_agrees_with_its_definition() {
    for cache_type in CacheType::ALL {
        for head_dim in cache_type.head_dims() {
            // One token at a time, at positions around a warp's and a block's share of keys, and head ratios of 2 and 7.
            for (position, n_heads, n_kv_heads) in [(0, 2, 1), (1, 2, 2), (7, 7, 1), (33, 14, 2), (130, 4, 2)] {
                let case = Case {
                    n_heads,
                    n_kv_heads,
                    head_dim,
                    positions: vec![position],
                    window: None,
                    scale: 1.0 / (head_dim as f32).sqrt(),
                };
                run(&case, cache_type);
            }
        }
    }
}

#[test]
fn attention_in_prefill_is_causal() {
    for cache_type in CacheType::ALL {
        for head_dim in cache_type.head_dims() {
            // A chunk of consecutive positions that starts after others.
            let positions = (5..24).collect();
            let scale = 1.0 / (head_dim as f32).sqrt();
            run(&Case { n_heads: 4, n_kv_heads: 2, head_dim, positions, window: None, scale }, cache_type);
        }
    }
}

#[test]
fn attention_survives_large_scores() {
    // Scores of hundreds: e^score overflows unless the largest is subtracted first.
    let case = Case { n_heads: 2, n_kv_heads: 1, head_dim: 64, positions: vec![40, 41], window: None, scale: 60.0 };
    run(&case, CacheType::F32);
}

#[test]
fn a_sliding_window_hides_older_keys() {
    for window in [1, 5, 16, 100] {
        let scale = 0.125;
        let positions = vec![0, 3, 20, 50];
        run(&Case { n_heads: 2, n_kv_heads: 1, head_dim: 64, positions, window: Some(window), scale }, CacheType::F16);
    }
}
