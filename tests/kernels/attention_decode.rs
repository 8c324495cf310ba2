//! Norms, RoPE, cache and attention of one token a sequence in one launch: the cache as the separate kernels leave it, bit for bit, and the
//! output by its definition, over what the cache then holds.

use ::kernels::attention_decode::n_splits;
use ferrowarp::{
    forward::turns,
    gpu::{
        Gpu,
        kernels::{
            self, Attention, AttentionDecode, AttentionScratch, AttentionShape, CacheType, KeySplits, NormAndRope,
            PageTables, RopeShape,
        },
    },
    model::{RopePairing, Temperature},
};
use half::{bf16, f16};

use crate::{
    attention::{Cached, reference},
    support::*,
};

#[derive(Clone, Copy, Debug)]
struct Case {
    cache_type: CacheType,
    n_kv_heads: usize,
    /// Query heads of a KV head.
    group: usize,
    head_dim: usize,
    n_rot: usize,
    pairing: RopePairing,
    magnitude: f32,
    growth: Option<Temperature>,
    norms: bool,
    /// Of each sequence's token.
    positions: &'static [usize],
    window: Option<usize>,
    /// The most splits.
    room: usize,
    /// Keys that are worth one.
    keys_per_split: usize,
    /// What multiplies 1/√head_dim: larger ones make the softmax sharper.
    sharpness: f32,
}

impl Case {
    fn new(cache_type: CacheType, head_dim: usize) -> Case {
        Case {
            cache_type,
            n_kv_heads: 2,
            group: 2,
            head_dim,
            n_rot: head_dim,
            pairing: RopePairing::Halves,
            magnitude: 1.0,
            growth: None,
            norms: false,
            positions: &[40],
            window: None,
            room: 64,
            keys_per_split: 128,
            sharpness: 1.0,
        }
    }
}

/// A row's bytes in a cache of `n_rows`: its values, and in Q8_0 its scales behind all values.
fn row_bytes(cache_type: CacheType, n_rows: usize, head_dim: usize, row: usize) -> [std::ops::Range<usize>; 2] {
    let (bytes, scales) = match cache_type {
        CacheType::Q8_0 => (head_dim, head_dim / 16),
        _ => (cache_type.bytes(1, head_dim), 0),
    };
    let first_scale = n_rows * bytes + row * scales;
    [row * bytes..(row + 1) * bytes, first_scale..first_scale + scales]
}

/// What a cache's bytes mean.
fn values_of(cache_type: CacheType, bytes: &[u8], n_rows: usize, head_dim: usize) -> Vec<f64> {
    let halves = |bytes: &[u8]| bytes.chunks(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f64()).collect::<Vec<_>>();
    match cache_type {
        CacheType::F32 => bytes.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect(),
        CacheType::F16 => halves(bytes),
        CacheType::BF16 => bytes.chunks(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f64()).collect(),
        CacheType::Q8_0 => {
            let (integers, scales) = bytes.split_at(n_rows * head_dim);
            let blocks = integers.chunks(32).zip(halves(scales));
            let turned =
                |block: &[u8], scale: f64| block.iter().map(|b| f64::from(*b as i8) * scale).collect::<Vec<_>>();
            blocks.flat_map(|(block, scale)| hadamard(&turned(block, scale))).collect()
        }
    }
}

fn run(gpu: &Gpu, case: Case) {
    let mut random = Random::new();
    let Case {
        cache_type,
        n_kv_heads,
        group,
        head_dim,
        n_rot,
        pairing,
        magnitude,
        positions,
        window,
        room,
        keys_per_split,
        ..
    } = case;
    let (n, n_heads) = (positions.len(), n_kv_heads * group);
    let longest = positions.iter().max().unwrap() + 1;
    // The tokens' sequences in no order, one that has none among them.
    let slots: Vec<u32> = (0..n as u32).rev().map(|slot| slot + u32::from(slot > 0)).collect();
    let pages = Pages::new(gpu, &mut random, n + 1, longest + 2, &slots);
    let n_rows = pages.n_rows(n_kv_heads);
    let shape = AttentionShape { n_tokens: n, n_heads, n_kv_heads, head_dim, n_pages: pages.n_pages, window };
    // Something lies behind the values of each row.
    let (row, behind) = ((n_heads + 2 * n_kv_heads) * head_dim, 8);
    let qkv = random.values(n * (row + behind), 1.5);
    let radians: Vec<f64> = (0..n_rot / 2).map(|pair| 1e4f64.powf(-2.0 * pair as f64 / n_rot as f64)).collect();
    let frequencies = gpu.upload("frequencies", &turns(&radians)).unwrap();
    let norm = case.norms.then(|| gpu.upload("norm", &random.values(2 * head_dim, 2.0)).unwrap());
    let (q_norm, k_norm) = match &norm {
        Some(norm) => (Some(norm.slice(0..head_dim)), Some(norm.slice(head_dim..2 * head_dim))),
        None => (None, None),
    };
    let (q_norm, k_norm) = (q_norm.as_deref(), k_norm.as_deref());
    let (epsilon, scale) = (1e-5, case.sharpness / (head_dim as f32).sqrt());
    let at: Vec<u32> = positions.iter().map(|position| *position as u32).collect();
    let device_positions = gpu.upload("positions", &at).unwrap();

    // What no token has seen is poison: NaN in every type. So is what a window has passed, but for the page that it is in.
    let seen: std::collections::BTreeSet<usize> = (0..n)
        .flat_map(|token| {
            let oldest = (positions[token] + 1).saturating_sub(window.unwrap_or(usize::MAX));
            (oldest / 16 * 16..positions[token]).map(move |position| (token, position))
        })
        .flat_map(|(token, position)| (0..n_kv_heads).map(move |head| (token, head, position)))
        .map(|(token, head, position)| pages.row(n_kv_heads, slots[token] as usize, head, position))
        .collect();
    let mut cache = || {
        let mut bytes = crate::attention::cache(&mut random, cache_type, n_rows, head_dim).0;
        for row in (0..n_rows).filter(|row| !seen.contains(row)) {
            for range in row_bytes(cache_type, n_rows, head_dim, row) {
                bytes[range].fill(0xff);
            }
        }
        bytes
    };
    let before = [cache(), cache()];

    // The same by the separate kernels, up to the cache.
    let (q_len, kv_len) = (n_heads * head_dim, n_kv_heads * head_dim);
    let part = |start: usize, len: usize| -> Vec<f32> {
        qkv.chunks(row + behind).flat_map(|row| row[start..start + len].to_vec()).collect()
    };
    let [q, k, v] = [part(0, q_len), part(q_len, kv_len), part(q_len + kv_len, kv_len)]
        .map(|values| gpu.upload("qkv", &values).unwrap());
    for (x, heads, norm) in [(&q, n_heads, q_norm), (&k, n_kv_heads, k_norm)] {
        if let Some(norm) = norm {
            gpu.rmsnorm(x, norm, x, n * heads, epsilon).unwrap();
        }
        let shape = RopeShape { n_tokens: n, n_heads: heads, head_dim, n_rot, pairing };
        gpu.rope(shape, x, &device_positions, &frequencies, magnitude).unwrap();
    }
    let stored = [(&k, magnitude.recip(), &before[0]), (&v, 1.0, &before[1])].map(|(x, factor, before)| {
        let cache = gpu.upload("cache", before).unwrap();
        gpu.cache_store(shape, x, &device_positions, pages.get(), &cache, cache_type, factor).unwrap();
        gpu.read(&cache).unwrap()
    });
    let [keys, values] = [0, 1].map(|which| values_of(cache_type, &stored[which], n_rows, head_dim));
    if let Some(Temperature { scale, length }) = case.growth {
        gpu.temper(&q, &device_positions, &q, n, q_len, scale, length).unwrap();
    }
    let q = gpu.read(&q).unwrap();
    let cached = Cached { keys: &keys, values: &values, pages: &pages, slots: &slots };
    let want = reference(shape, &q, cached, &at, scale * magnitude);

    let device_qkv = gpu.upload("qkv", &qkv).unwrap();
    let caches = [0, 1].map(|which| {
        let cache = Output::<u8>::new(gpu, before[which].len());
        gpu.write(&cache.slice(0..before[which].len()), &before[which]).unwrap();
        cache
    });
    let n_keys = window.map_or(longest, |window| window.min(longest));
    let n_splits = n_splits(n_keys as u32, room as u32, keys_per_split as u32) as usize;
    let splits = KeySplits { n_splits, room, keys_per_split };
    let scratch = AttentionScratch::new(n, n_heads, n_kv_heads, head_dim, splits.n_splits);
    let parts = Output::<f32>::new(gpu, scratch.parts);
    let arrivals = Output::<u32>::new(gpu, scratch.arrivals);
    gpu.write(&arrivals.slice(0..scratch.arrivals), &vec![0; scratch.arrivals]).unwrap();
    let launch = |out: kernels::Attended| {
        gpu.attention_decode(&AttentionDecode {
            shape,
            qkv: &device_qkv,
            qkv_stride: row + behind,
            positions: &device_positions,
            pages: pages.get(),
            norm_and_rope: NormAndRope {
                q_norm,
                k_norm,
                epsilon,
                frequencies: &frequencies,
                n_rot,
                pairing,
                magnitude,
                growth: case.growth,
            },
            scale,
            keys: &caches[0],
            values: &caches[1],
            cache_type,
            splits,
            parts: &parts,
            arrivals: &arrivals,
            out,
            shares_sequences: false,
        })
        .unwrap_or_else(|error| panic!("{case:?}: {error}"));
    };
    let floats = || {
        let out = Output::new(gpu, n * q_len);
        launch(kernels::Attended::F32(&out));
        out.read(gpu)
    };
    let got = floats();
    for (name, cache, stored) in [("keys", &caches[0], &stored[0]), ("values", &caches[1], &stored[1])] {
        assert!(cache.read(gpu) == *stored, "{name} are not what the cache's own kernel stores: {case:?}");
    }
    // As in attention.rs, of scores with queries twice as large, or larger by their norm; queries and weights have 16 bits
    // over a cache of bf16.
    let queries = if case.norms { 16.0 } else { 2.0 };
    let precision = if cache_type == CacheType::BF16 { 2e-5 } else { 4e-6 };
    let relative = precision * queries * f64::from(scale * magnitude * magnitude).max(1.0);
    assert_close(&format!("{case:?}"), &got, &want, relative, relative);
    // The counters are ready for the next launch, which gives the same bits.
    assert!(arrivals.read(gpu).iter().all(|count| *count == 0), "{case:?}");
    let again = floats();
    assert!(got.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits()), "a second launch differs: {case:?}");
    // As integers: the nearest to the same values, with a scale for each 16 that the largest gives, and their sum.
    let words = kernels::quantised_len(q_len);
    let quantised = Output::<u32>::new(gpu, n * words);
    launch(kernels::Attended::Quantised(&quantised));
    for (words, got) in quantised.read(gpu).chunks(words).zip(got.chunks(q_len)) {
        check_quantised(words, got, &format!("{case:?}"));
    }
    // As f16: the nearest to what they are scaled by.
    let halves = Output::<f16>::new(gpu, n * q_len);
    launch(kernels::Attended::F16(&halves, 0.25, kernels::Order::Rows));
    let want: Vec<f16> = got.iter().map(|got| f16::from_f32(0.25 * got)).collect();
    assert!(halves.read(gpu) == want, "in f16: {case:?}");
    if q_len % 128 == 0 {
        let steps = Output::<f16>::new(gpu, n * q_len);
        launch(kernels::Attended::F16(&steps, 0.25, kernels::Order::Steps));
        assert!(steps.read(gpu) == in_steps(&want, q_len), "in f16 and steps: {case:?}");
    }
    parts.read(gpu);
}

/// The nearest integers to the values, with a scale for each 16 that the largest gives, and their sum.
fn check_quantised(words: &[u32], values: &[f32], what: &str) {
    let (integers, scales) = words.split_at(values.len() / 4);
    let integers: Vec<f32> =
        integers.iter().flat_map(|word| word.to_le_bytes()).map(|byte| f32::from(byte as i8)).collect();
    for (run, values) in values.chunks(16).enumerate() {
        let [scale, sum] = [scales[2 * run], scales[2 * run + 1]].map(f32::from_bits);
        let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        assert!(
            (scale - largest / 127.0).abs() <= 1e-6 * largest,
            "run {run}: scale {scale}, largest {largest}: {what}"
        );
        let integers = &integers[16 * run..16 * run + 16];
        for (value, integer) in values.iter().zip(integers) {
            // An approximate inverse may choose the other neighbour where both are equally near.
            assert!((value - scale * integer).abs() <= 0.5001 * scale, "{value} as {integer} · {scale}: {what}");
        }
        let want = scale * integers.iter().sum::<f32>();
        assert!((sum - want).abs() <= 1e-5 * want.abs(), "run {run}: sum {sum}, want {want}: {what}");
    }
}

#[test]
fn every_cache_type_and_head_size() {
    let gpu = gpu();
    for cache_type in CacheType::ALL {
        for head_dim in cache_type.head_dims() {
            let cases: [(&[usize], usize, usize); 3] = [(&[0], 64, 1), (&[65, 3], 64, 4), (&[300], 3, 5)];
            for (positions, room, group) in cases {
                run(&gpu, Case { positions, room, group, ..Case::new(cache_type, head_dim) });
            }
        }
    }
}

#[test]
fn every_group_of_query_heads() {
    let gpu = gpu();
    for (index, group) in [1, 2, 4, 7, 8, 16].into_iter().enumerate() {
        for (cache_type, head_dim) in [(CacheType::F16, 64), (CacheType::Q8_0, 128)] {
            let positions: &[usize] = [&[70][..], &[270, 5]][index % 2];
            run(&gpu, Case { group, positions, n_kv_heads: 1 + index % 3, ..Case::new(cache_type, head_dim) });
        }
    }
}

#[test]
fn every_position_and_every_room_for_splits() {
    let gpu = gpu();
    let all: [&[usize]; 6] = [&[0, 1, 15], &[16, 17], &[31, 32, 33], &[63, 64, 65], &[255, 256, 257], &[511, 512]];
    for positions in all {
        for room in [1, 2, 3, 64] {
            run(&gpu, Case { positions, room, n_kv_heads: 1, ..Case::new(CacheType::F16, 64) });
        }
    }
    run(&gpu, Case { positions: &[700], n_kv_heads: 1, ..Case::new(CacheType::BF16, 256) });
    // Two splits' keys are one's, and one more are several splits'.
    for (positions, keys_per_split) in [(&[510, 511, 512][..], 256), (&[30, 31, 32, 33], 16), (&[700], 512)] {
        run(&gpu, Case { positions, keys_per_split, n_kv_heads: 1, ..Case::new(CacheType::F16, 64) });
    }
}

#[test]
fn queries_grow_by_their_position() {
    let gpu = gpu();
    let growth = Some(Temperature { scale: 0.4, length: 16 });
    for (cache_type, head_dim) in [(CacheType::F16, 128), (CacheType::Q8_0, 64)] {
        run(&gpu, Case { growth, positions: &[70, 5], magnitude: 1.2, ..Case::new(cache_type, head_dim) });
    }
}

#[test]
fn a_sliding_window_hides_older_keys_from_every_split() {
    let gpu = gpu();
    for window in [1, 5, 64, 300, 1000] {
        for positions in [&[150][..], &[400, 3]] {
            run(&gpu, Case { window: Some(window), positions, ..Case::new(CacheType::F16, 64) });
            run(&gpu, Case { window: Some(window), positions, ..Case::new(CacheType::Q8_0, 64) });
        }
    }
}

/// A token's values are the same bits whatever other tokens there are.
#[test]
fn company_changes_nothing() {
    let gpu = gpu();
    let mut random = Random::new();
    let (n_heads, n_kv_heads, head_dim) = (6, 2, 64);
    let positions = [3u32, 700, 64, 255, 256, 40];
    let n = positions.len();
    let slots: Vec<u32> = (0..n as u32).collect();
    let pages = Pages::new(&gpu, &mut random, n, 704, &slots);
    let row = (n_heads + 2 * n_kv_heads) * head_dim;
    let qkv = random.values(n * row, 1.5);
    let frequencies = gpu.upload("frequencies", &turns(&[0.3; 32])).unwrap();
    for cache_type in [CacheType::F16, CacheType::F32] {
        let cache = crate::attention::cache(&mut random, cache_type, pages.n_rows(n_kv_heads), head_dim).0;
        let run = |rows: &[usize]| {
            let n = rows.len();
            let of_rows = |values: &[u32]| rows.iter().map(|row| values[*row]).collect::<Vec<_>>();
            let (keys, values) = (gpu.upload("keys", &cache).unwrap(), gpu.upload("values", &cache).unwrap());
            let at = gpu.upload("positions", &of_rows(&positions)).unwrap();
            let slots = gpu.upload("slots", &of_rows(&slots)).unwrap();
            let values_of_rows: Vec<f32> = rows.iter().flat_map(|index| qkv[index * row..][..row].to_vec()).collect();
            let longest = rows.iter().map(|row| positions[*row]).max().unwrap() + 1;
            let splits = KeySplits { n_splits: n_splits(longest, 64, 128) as usize, room: 64, keys_per_split: 128 };
            let scratch = AttentionScratch::new(n, n_heads, n_kv_heads, head_dim, splits.n_splits);
            let parts = Output::<f32>::new(&gpu, scratch.parts);
            let arrivals = gpu.upload("arrivals", &vec![0; scratch.arrivals]).unwrap();
            let out = Output::<f32>::new(&gpu, n * n_heads * head_dim);
            let n_pages = pages.n_pages;
            gpu.attention_decode(&AttentionDecode {
                shape: AttentionShape { n_tokens: n, n_heads, n_kv_heads, head_dim, n_pages, window: None },
                qkv: &gpu.upload("qkv", &values_of_rows).unwrap(),
                qkv_stride: row,
                positions: &at,
                pages: PageTables { slots: &slots, ..pages.get() },
                norm_and_rope: NormAndRope {
                    q_norm: None,
                    k_norm: None,
                    epsilon: 0.0,
                    frequencies: &frequencies,
                    n_rot: head_dim,
                    pairing: RopePairing::Halves,
                    magnitude: 1.0,
                    growth: None,
                },
                scale: 0.125,
                keys: &keys,
                values: &values,
                cache_type,
                splits,
                parts: &parts,
                arrivals: &arrivals,
                out: kernels::Attended::F32(&out),
                shares_sequences: false,
            })
            .unwrap();
            out.read(&gpu)
        };
        let together = run(&[0, 1, 2, 3, 4, 5]);
        for (row, together) in together.chunks(n_heads * head_dim).enumerate() {
            let alone = run(&[row]);
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert!(bits(together) == bits(&alone), "{cache_type}: row {row} differs in company");
        }
    }
}

#[test]
fn norms_both_pairings_and_partial_rotation() {
    let gpu = gpu();
    for pairing in [RopePairing::Halves, RopePairing::Neighbours] {
        for norms in [false, true] {
            // n_rot below the head's size, with halves that are no multiple of eight; with YaRN's magnitude.
            for (head_dim, n_rot, magnitude) in
                [(64, 64, 1.0), (128, 64, 1.25), (80, 20, 0.8), (96, 96, 1.1), (256, 2, 1.0)]
            {
                run(&gpu, Case { n_rot, pairing, norms, magnitude, ..Case::new(CacheType::F16, head_dim) });
            }
            run(&gpu, Case { pairing, norms, magnitude: 1.2, ..Case::new(CacheType::F32, 128) });
            run(&gpu, Case { n_rot: 32, pairing, norms, magnitude: 1.2, ..Case::new(CacheType::Q8_0, 64) });
        }
    }
}

#[test]
fn scores_of_hundreds_do_not_overflow() {
    let gpu = gpu();
    for positions in [&[40][..], &[300]] {
        run(&gpu, Case { sharpness: 480.0, positions, ..Case::new(CacheType::F32, 64) });
    }
}

/// As many tokens of one sequence as a step of guesses has, in launches of different numbers of them: each sees the keys of those before it.
#[test]
fn a_generation_reads_what_it_wrote() {
    let gpu = gpu();
    let mut random = Random::new();
    for (n_context, splits, ends) in [
        (40, KeySplits { n_splits: 1, room: 2, keys_per_split: 128 }, &[1, 2, 9, 33, 40][..]),
        // Steps within the first split, across its end and in the last.
        (300, KeySplits { n_splits: 4, room: 4, keys_per_split: 128 }, &[100, 250, 262, 291, 300]),
    ] {
        reads_what_it_wrote(&gpu, &mut random, n_context, splits, ends);
    }
}

/// The sequence's tokens in steps that end before these.
fn reads_what_it_wrote(gpu: &Gpu, random: &mut Random, n_context: usize, splits: KeySplits, ends: &[usize]) {
    let (n_heads, n_kv_heads, head_dim) = (6, 2, 64);
    let row = (n_heads + 2 * n_kv_heads) * head_dim;
    let pages = Pages::of_one(gpu, random, n_context, n_context);
    let n_pages = pages.n_pages;
    let frequencies = gpu.upload("frequencies", &turns(&[1.0; 32])).unwrap();
    let scratch = AttentionScratch::new(n_context, n_heads, n_kv_heads, head_dim, splits.n_splits);
    let parts = Output::<f32>::new(gpu, scratch.parts);
    let arrivals = gpu.upload("arrivals", &vec![0; scratch.arrivals]).unwrap();
    let all: Vec<u32> = (0..n_context as u32).collect();
    let positions = gpu.upload("positions", &all).unwrap();
    let qkv = gpu.upload("qkv", &random.values(n_context * row, 1.5)).unwrap();
    for cache_type in [CacheType::F16, CacheType::Q8_0] {
        let shape = |n_tokens| AttentionShape { n_tokens, n_heads, n_kv_heads, head_dim, n_pages, window: None };
        let cache_len = shape(1).cache_bytes(cache_type);
        let (keys, values) = (Output::<u8>::new(gpu, cache_len), Output::<u8>::new(gpu, cache_len));
        let out = Output::<f32>::new(gpu, n_context * n_heads * head_dim);
        let starts = [0].into_iter().chain(ends.iter().copied());
        for step in starts.zip(ends).map(|(start, end)| start..*end) {
            let tables = pages.get();
            gpu.attention_decode(&AttentionDecode {
                shape: shape(step.len()),
                qkv: &qkv.slice(step.start * row..step.end * row),
                qkv_stride: row,
                positions: &positions.slice(step.clone()),
                pages: PageTables { slots: &tables.slots.slice(step.clone()), ..tables },
                norm_and_rope: NormAndRope {
                    q_norm: None,
                    k_norm: None,
                    epsilon: 0.0,
                    frequencies: &frequencies,
                    n_rot: head_dim,
                    pairing: RopePairing::Neighbours,
                    magnitude: 1.0,
                    growth: None,
                },
                scale: 0.125,
                keys: &keys,
                values: &values,
                cache_type,
                splits,
                parts: &parts,
                arrivals: &arrivals,
                out: kernels::Attended::F32(&out.slice(step.start * n_heads * head_dim..step.end * n_heads * head_dim)),
                // A launch of the whole would load the keys of the one before it too early.
                shares_sequences: true,
            })
            .unwrap();
        }
        let got = out.read(gpu);
        // All where they are few, the last ones where they are many.
        for position in n_context.saturating_sub(60)..n_context {
            // What the launches left in the cache, by the kernel that only reads it.
            let one = position..position + 1;
            let q = gpu.upload("q", &gpu.read(&qkv.slice(position * row..(position + 1) * row)).unwrap()).unwrap();
            let rope = RopeShape { n_tokens: 1, n_heads, head_dim, n_rot: head_dim, pairing: RopePairing::Neighbours };
            gpu.rope(rope, &q, &positions.slice(one.clone()), &frequencies, 1.0).unwrap();
            let want = Output::<f32>::new(gpu, n_heads * head_dim);
            let tables = pages.get();
            gpu.attention(&Attention {
                shape: shape(1),
                q: &q,
                keys: &keys,
                values: &values,
                cache_type,
                positions: &positions.slice(one.clone()),
                pages: PageTables { slots: &tables.slots.slice(one), ..tables },
                out: &want,
                probabilities: None,
                scale: 0.125,
                soft_cap: None,
                sinks: None,
            })
            .unwrap();
            let got = &got[position * n_heads * head_dim..(position + 1) * n_heads * head_dim];
            assert_close(&format!("{cache_type} at {position}"), got, &as_f64(&want.read(gpu)), 1e-5, 1e-5);
        }
    }
}
