//! softmax₂(q · Kᵀ) · V over the keys a token sees, for many tokens at once: the definition is attention's, with scores in
//! powers of two.

use ferrowarp::gpu::kernels::{AttentionShape, CacheType, Chunks, FlashRows, FlashScores};
use half::{bf16, f16};

use crate::{
    attention::{Cached, Scores, cache, reference_of_scores},
    support::*,
};

/// Random values in the bits of a cache's type, and exactly.
fn halves(random: &mut Random, cache_type: CacheType, len: usize, scale: f32) -> (Vec<u16>, Vec<f32>) {
    let values = random.values(len, scale);
    let both = |value: &f32| match cache_type {
        CacheType::F16 => (f16::from_f32(*value).to_bits(), f16::from_f32(*value).to_f32()),
        _ => (bf16::from_f32(*value).to_bits(), bf16::from_f32(*value).to_f32()),
    };
    values.iter().map(both).unzip()
}

#[derive(Clone, Copy, Debug)]
struct Case {
    n_tokens: usize,
    /// The first token's position.
    first: usize,
    /// Tokens and the first one's position of further chunks, each another sequence's.
    more: &'static [(usize, usize)],
    ratio: usize,
    n_kv_heads: usize,
    window: Option<usize>,
    rows: FlashRows,
    /// Queries are random in this range: the larger, the sharper the softmax.
    size: f32,
    /// What scores are held within.
    soft_cap: Option<f32>,
    /// Sinks of about this size.
    sinks: Option<f32>,
}

const PLAIN: Case = Case {
    n_tokens: 40,
    first: 0,
    more: &[],
    ratio: 2,
    n_kv_heads: 2,
    window: None,
    rows: FlashRows::One,
    size: 0.5,
    soft_cap: None,
    sinks: None,
};

fn run(case: Case, cache_type: CacheType, head_dim: usize) {
    let gpu = gpu();
    let mut random = Random::new();
    let Case { n_tokens, first, more, ratio, n_kv_heads, window, rows, size, soft_cap, sinks } = case;
    let chunks: Vec<(usize, usize)> = [(n_tokens, first)].into_iter().chain(more.iter().copied()).collect();
    let n_heads = ratio * n_kv_heads;
    let (mut starts, mut slots, mut positions) = (vec![0], Vec::new(), Vec::new());
    for (slot, (n, first)) in chunks.iter().enumerate() {
        slots.extend(vec![slot as u32; *n]);
        positions.extend((*first..first + n).map(|position| position as u32));
        starts.push(slots.len() as u32);
    }
    let n_tokens = slots.len();
    let n_positions = chunks.iter().map(|(n, first)| n + first).max().expect("a chunk");
    let pages = Pages::new(&gpu, &mut random, chunks.len(), n_positions + 5, &slots);
    let shape = AttentionShape { n_tokens, n_heads, n_kv_heads, head_dim, n_pages: pages.n_pages, window };
    let (q_bits, q) = halves(&mut random, cache_type, n_tokens * n_heads * head_dim, size);
    let (mut key_bytes, keys) = cache(&mut random, cache_type, pages.n_rows(n_kv_heads), head_dim);
    let (mut value_bytes, values) = cache(&mut random, cache_type, pages.n_rows(n_kv_heads), head_dim);
    let cached = Cached { keys: &keys, values: &values, pages: &pages, slots: &slots };
    let scores = Scores { soft_cap, sinks: sinks.map(|size| random.values(n_heads, size)) };
    let mut want = reference_of_scores(shape, &scores, &q, cached, &positions, std::f32::consts::LN_2, n_positions).1;
    // All but what some token sees is no number.
    let mut seen = std::collections::BTreeSet::new();
    for (slot, (n, first)) in chunks.iter().enumerate() {
        for position in (first + 1).saturating_sub(window.unwrap_or(usize::MAX))..first + n {
            seen.extend((0..n_kv_heads).map(|head| pages.row(n_kv_heads, slot, head, position)));
        }
    }
    for bytes in [&mut key_bytes, &mut value_bytes] {
        for (index, row) in bytes.chunks_mut(2 * head_dim).enumerate() {
            if !seen.contains(&index) {
                row.fill(0xff);
            }
        }
    }
    let out_scale = 0.25;
    want.iter_mut().for_each(|value| *value *= f64::from(out_scale));

    let out = Output::<f16>::new(&gpu, n_tokens * n_heads * head_dim);
    let sinks = scores.sinks.map(|sinks| gpu.upload("sinks", &sinks).unwrap());
    gpu.flash(
        shape,
        &gpu.upload("q", &q_bits).unwrap(),
        &gpu.upload("keys", &key_bytes).unwrap(),
        &gpu.upload("values", &value_bytes).unwrap(),
        cache_type,
        &gpu.upload("positions", &positions).unwrap(),
        pages.get(),
        Chunks {
            starts: &gpu.upload("chunks", &starts).unwrap(),
            longest: chunks.iter().map(|(n, _)| *n).max().unwrap(),
        },
        &out,
        out_scale,
        FlashScores { sinks: sinks.as_deref(), soft_cap },
        rows,
    )
    .unwrap();
    let got: Vec<f32> = out.read(&gpu).iter().map(|half| half.to_f32()).collect();
    // Values are at most 1 and weighted by probabilities that were rounded: half a unit of 11 bits, or of 8. The output is
    // rounded to 11 bits.
    let rounding = if cache_type == CacheType::F16 { 2f64.powi(-11) } else { 2f64.powi(-8) };
    let what = format!("{cache_type} head_dim {head_dim} {case:?}");
    assert_close(&what, &got, &want, rounding * f64::from(out_scale), 2f64.powi(-11));
}

const TYPES: [CacheType; 2] = [CacheType::F16, CacheType::BF16];

#[test]
fn flash_attention_agrees_with_its_definition_for_every_head_size() {
    for cache_type in TYPES {
        for head_dim in cache_type.head_dims() {
            // The chunk starts within a tile of keys, ends within another, and its rows end within a warp's.
            run(Case { n_tokens: 37, first: 45, ..PLAIN }, cache_type, head_dim);
        }
    }
}

#[test]
fn any_number_of_tokens_will_do() {
    let cases =
        [(1, 0, 1, 1), (1, 200, 7, 2), (2, 63, 14, 1), (3, 64, 1, 3), (16, 0, 1, 1), (65, 130, 1, 2), (150, 0, 7, 1)];
    for (n_tokens, first, ratio, n_kv_heads) in cases {
        run(Case { n_tokens, first, ratio, n_kv_heads, ..PLAIN }, CacheType::F16, 64);
    }
}

#[test]
fn chunks_of_several_sequences_see_their_own() {
    // Longer and shorter ones than a block's rows, one of a single token, and none at the same place of a tile of keys.
    let more: &[(usize, usize)] = &[(1, 0), (90, 7), (33, 130), (2, 64)];
    for (cache_type, head_dim) in [(CacheType::F16, 64), (CacheType::BF16, 128)] {
        run(Case { n_tokens: 3, first: 5, more, ..PLAIN }, cache_type, head_dim);
        run(Case { n_tokens: 70, first: 0, more, ratio: 7, n_kv_heads: 1, ..PLAIN }, cache_type, head_dim);
        run(Case { first: 60, more, window: Some(40), sinks: Some(3.0), ..PLAIN }, cache_type, head_dim);
    }
    run(Case { n_tokens: 3, first: 5, more, rows: FlashRows::Two, ..PLAIN }, CacheType::F16, 64);
}

#[test]
fn two_fragments_a_warp_give_the_same() {
    for (n_tokens, first, ratio, n_kv_heads) in
        [(1, 0, 1, 1), (3, 200, 7, 2), (65, 130, 1, 2), (150, 0, 7, 1), (19, 63, 14, 1)]
    {
        let case = Case { n_tokens, first, ratio, n_kv_heads, rows: FlashRows::Two, ..PLAIN };
        run(case, CacheType::F16, 64);
        run(Case { size: 500.0, ..case }, CacheType::F16, 64);
    }
}

#[test]
fn rows_are_chosen_by_the_shape() {
    let choose = |n_past, n_tokens, n_heads, n_kv_heads, head_dim, window| {
        let shape = AttentionShape { n_tokens, n_heads, n_kv_heads, head_dim, n_pages: 128, window };
        FlashRows::choose(shape, FlashScores::default(), n_past, CacheType::F16, 132)
    };
    // Qwen2.5-0.5B with chunks of 512 and of 2048 tokens, the beginning of a prompt, a window, and a larger head.
    assert_eq!(choose(8192, 512, 14, 2, 64, None), FlashRows::One);
    assert_eq!(choose(8192, 2048, 14, 2, 64, None), FlashRows::Two);
    assert_eq!(choose(0, 2048, 14, 2, 64, None), FlashRows::One);
    assert_eq!(choose(8192, 2048, 14, 2, 64, Some(4096)), FlashRows::One);
    assert_eq!(choose(8192, 2048, 28, 4, 128, None), FlashRows::One);
}

#[test]
fn flash_attention_honours_a_sliding_window() {
    for window in [1, 7, 64, 70, 1000] {
        let case = Case { n_tokens: 50, first: 100, window: Some(window), ..PLAIN };
        run(case, CacheType::F16, 64);
        run(Case { ratio: 1, ..case }, CacheType::BF16, 128);
    }
}

#[test]
fn sinks_take_part_in_the_softmax() {
    for (window, sinks) in [(None, 3.0), (Some(40), 8.0), (None, 300.0)] {
        let case = Case { n_tokens: 21, first: 50, ratio: 3, window, sinks: Some(sinks), ..PLAIN };
        run(case, CacheType::F16, 64);
        run(Case { soft_cap: Some(5.0), ..case }, CacheType::BF16, 128);
    }
}

#[test]
fn soft_caps_hold_scores() {
    // Scores of up to 2 · 64 · 0.35 and of thousands, for every head size.
    for size in [2.0, 500.0] {
        for cache_type in TYPES {
            for head_dim in cache_type.head_dims() {
                let case = Case { n_tokens: 21, first: 50, window: Some(64), size, soft_cap: Some(4.0), ..PLAIN };
                run(case, cache_type, head_dim);
            }
        }
    }
}

#[test]
fn flash_attention_survives_large_scores() {
    // Scores of thousands in powers of two: nothing overflows, and rows whose first tile of keys is far below the next are
    // scaled to nothing rather than to NaN.
    run(Case { n_tokens: 20, first: 120, size: 500.0, ..PLAIN }, CacheType::F16, 64);
}
