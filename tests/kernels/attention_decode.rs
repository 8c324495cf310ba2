//! One token's norms, RoPE, cache and attention in one launch: the cache as the separate kernels leave it, bit for bit, and the
//! output by its definition, over what the cache then holds.

use ferrowarp::{
    forward::turns,
    gpu::{
        Gpu,
        kernels::{
            self, Attention, AttentionDecode, AttentionScratch, AttentionShape, CacheType, NormAndRope, RopeShape,
        },
    },
    model::RopePairing,
};
use half::{bf16, f16};

use crate::{attention::reference, support::*};

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
    norms: bool,
    position: usize,
    window: Option<usize>,
    n_splits: usize,
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
            norms: false,
            position: 40,
            window: None,
            n_splits: 1,
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
    let Case { cache_type, n_kv_heads, group, head_dim, n_rot, pairing, magnitude, position, window, n_splits, .. } =
        case;
    let n_heads = n_kv_heads * group;
    let n_context = position + 3;
    let n_rows = n_kv_heads * n_context;
    let shape = AttentionShape { n_tokens: 1, n_heads, n_kv_heads, head_dim, n_context, window };
    let qkv = random.values((n_heads + 2 * n_kv_heads) * head_dim, 1.5);
    let radians: Vec<f64> = (0..n_rot / 2).map(|pair| 1e4f64.powf(-2.0 * pair as f64 / n_rot as f64)).collect();
    let frequencies = gpu.upload("frequencies", &turns(&radians)).unwrap();
    let norm = case.norms.then(|| gpu.upload("norm", &random.values(2 * head_dim, 2.0)).unwrap());
    let (q_norm, k_norm) = match &norm {
        Some(norm) => (Some(norm.slice(0..head_dim)), Some(norm.slice(head_dim..2 * head_dim))),
        None => (None, None),
    };
    let (q_norm, k_norm) = (q_norm.as_deref(), k_norm.as_deref());
    let (epsilon, scale) = (1e-5, case.sharpness / (head_dim as f32).sqrt());
    let device_position = gpu.upload("position", &[position as u32]).unwrap();

    // From the position on the cache is poison: NaN in every type.
    let mut cache = || {
        let mut bytes = crate::attention::cache(&mut random, cache_type, n_rows, head_dim).0;
        for row in (0..n_rows).filter(|row| row % n_context >= position) {
            for range in row_bytes(cache_type, n_rows, head_dim, row) {
                bytes[range].fill(0xff);
            }
        }
        bytes
    };
    let before = [cache(), cache()];

    // The same by the separate kernels, up to the cache.
    let separate = gpu.upload("qkv", &qkv).unwrap();
    let (q_len, kv_len) = (n_heads * head_dim, n_kv_heads * head_dim);
    let part = |start: usize, len: usize| separate.slice(start..start + len);
    let (q, k, v) = (part(0, q_len), part(q_len, kv_len), part(q_len + kv_len, kv_len));
    for (x, heads, norm) in [(&q, n_heads, q_norm), (&k, n_kv_heads, k_norm)] {
        if let Some(norm) = norm {
            gpu.rmsnorm(x, norm, x, heads, epsilon).unwrap();
        }
        let shape = RopeShape { n_tokens: 1, n_heads: heads, head_dim, n_rot, pairing };
        gpu.rope(shape, x, &device_position, &frequencies, magnitude).unwrap();
    }
    let stored = [(&k, magnitude.recip(), &before[0]), (&v, 1.0, &before[1])].map(|(x, factor, before)| {
        let cache = gpu.upload("cache", before).unwrap();
        gpu.cache_store(shape, x, &device_position, &cache, cache_type, factor).unwrap();
        gpu.read(&cache).unwrap()
    });
    let [keys, values] = [0, 1].map(|which| values_of(cache_type, &stored[which], n_rows, head_dim));
    let q = gpu.read(&q).unwrap();
    let (_, want) = reference(shape, &q, &keys, &values, &[position as u32], scale * magnitude);

    let device_qkv = gpu.upload("qkv", &qkv).unwrap();
    let caches = [0, 1].map(|which| {
        let cache = Output::<u8>::new(gpu, before[which].len());
        gpu.write(&cache.slice(0..before[which].len()), &before[which]).unwrap();
        cache
    });
    let scratch = AttentionScratch::new(n_heads, n_kv_heads, head_dim, n_splits);
    let parts = Output::<f32>::new(gpu, scratch.parts);
    let arrivals = Output::<u32>::new(gpu, scratch.arrivals);
    gpu.write(&arrivals.slice(0..scratch.arrivals), &vec![0; scratch.arrivals]).unwrap();
    let launch = |out: kernels::Output| {
        gpu.attention_decode(&AttentionDecode {
            shape,
            qkv: &device_qkv,
            position: &device_position,
            norm_and_rope: NormAndRope {
                q_norm,
                k_norm,
                epsilon,
                frequencies: &frequencies,
                n_rot,
                pairing,
                magnitude,
            },
            scale,
            keys: &caches[0],
            values: &caches[1],
            cache_type,
            n_splits,
            parts: &parts,
            arrivals: &arrivals,
            out,
        })
        .unwrap_or_else(|error| panic!("{case:?}: {error}"));
    };
    let floats = || {
        let out = Output::new(gpu, q_len);
        launch(kernels::Output::F32(&out));
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
    let quantised = Output::<u32>::new(gpu, kernels::quantised_len(q_len));
    launch(kernels::Output::Quantised(&quantised));
    let words = quantised.read(gpu);
    let (integers, scales) = words.split_at(q_len / 4);
    let integers: Vec<f32> =
        integers.iter().flat_map(|word| word.to_le_bytes()).map(|byte| f32::from(byte as i8)).collect();
    for (run, values) in got.chunks(16).enumerate() {
        let [scale, sum] = [scales[2 * run], scales[2 * run + 1]].map(f32::from_bits);
        let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        assert!(
            (scale - largest / 127.0).abs() <= 1e-6 * largest,
            "run {run}: scale {scale}, largest {largest}: {case:?}"
        );
        let integers = &integers[16 * run..16 * run + 16];
        for (value, integer) in values.iter().zip(integers) {
            // An approximate inverse may choose the other neighbour where both are equally near.
            assert!((value - scale * integer).abs() <= 0.5001 * scale, "{value} as {integer} · {scale}: {case:?}");
        }
        let want = scale * integers.iter().sum::<f32>();
        assert!((sum - want).abs() <= 1e-5 * want.abs(), "run {run}: sum {sum}, want {want}: {case:?}");
    }
    parts.read(gpu);
}

#[test]
fn every_cache_type_and_head_size() {
    let gpu = gpu();
    for cache_type in CacheType::ALL {
        for head_dim in cache_type.head_dims() {
            for (position, n_splits, group) in [(0, 1, 1), (65, 1, 4), (200, 3, 5)] {
                run(&gpu, Case { position, n_splits, group, ..Case::new(cache_type, head_dim) });
            }
        }
    }
}

#[test]
fn every_group_of_query_heads() {
    let gpu = gpu();
    for (index, group) in [1, 2, 4, 7, 8, 16].into_iter().enumerate() {
        for (cache_type, head_dim) in [(CacheType::F16, 64), (CacheType::Q8_0, 128)] {
            let n_splits = [1, 3][index % 2];
            run(
                &gpu,
                Case { group, n_splits, position: 70, n_kv_heads: 1 + index % 3, ..Case::new(cache_type, head_dim) },
            );
        }
    }
}

#[test]
fn every_number_of_splits_serves_every_position() {
    let gpu = gpu();
    for position in [0, 1, 31, 63, 64, 65, 127, 128, 200] {
        for n_splits in [1, 2, 3, 8] {
            run(&gpu, Case { position, n_splits, n_kv_heads: 1, ..Case::new(CacheType::F16, 64) });
        }
    }
    // A split a position, and as many as there can be.
    run(&gpu, Case { position: 63, n_splits: 64, n_kv_heads: 1, ..Case::new(CacheType::F16, 128) });
    run(&gpu, Case { position: 300, n_splits: 64, n_kv_heads: 1, ..Case::new(CacheType::BF16, 256) });
}

#[test]
fn a_sliding_window_hides_older_keys_from_every_split() {
    let gpu = gpu();
    for (window, n_splits) in [(1, 1), (1, 3), (5, 2), (64, 1), (64, 3), (1000, 2)] {
        run(&gpu, Case { window: Some(window), n_splits, position: 150, ..Case::new(CacheType::F16, 64) });
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
    for n_splits in [1, 2] {
        run(&gpu, Case { sharpness: 480.0, n_splits, ..Case::new(CacheType::F32, 64) });
    }
}

#[test]
fn a_generation_reads_what_it_wrote() {
    let gpu = gpu();
    let mut random = Random::new();
    let (n_heads, n_kv_heads, head_dim, n_context, n_splits) = (6, 2, 64, 40, 2);
    let frequencies = gpu.upload("frequencies", &turns(&[1.0; 32])).unwrap();
    let scratch = AttentionScratch::new(n_heads, n_kv_heads, head_dim, n_splits);
    let parts = Output::<f32>::new(&gpu, scratch.parts);
    let arrivals = gpu.upload("arrivals", &vec![0; scratch.arrivals]).unwrap();
    for cache_type in [CacheType::F16, CacheType::Q8_0] {
        let cache_len = cache_type.bytes(n_kv_heads * n_context, head_dim);
        let (keys, values) = (Output::<u8>::new(&gpu, cache_len), Output::<u8>::new(&gpu, cache_len));
        for position in 0..n_context {
            let shape = AttentionShape { n_tokens: 1, n_heads, n_kv_heads, head_dim, n_context, window: None };
            let qkv = gpu.upload("qkv", &random.values((n_heads + 2 * n_kv_heads) * head_dim, 1.5)).unwrap();
            let device_position = gpu.upload("position", &[position as u32]).unwrap();
            let out = Output::<f32>::new(&gpu, n_heads * head_dim);
            gpu.attention_decode(&AttentionDecode {
                shape,
                qkv: &qkv,
                position: &device_position,
                norm_and_rope: NormAndRope {
                    q_norm: None,
                    k_norm: None,
                    epsilon: 0.0,
                    frequencies: &frequencies,
                    n_rot: head_dim,
                    pairing: RopePairing::Neighbours,
                    magnitude: 1.0,
                },
                scale: 0.125,
                keys: &keys,
                values: &values,
                cache_type,
                n_splits,
                parts: &parts,
                arrivals: &arrivals,
                out: kernels::Output::F32(&out),
            })
            .unwrap();
            // What the launch left in the cache, by the kernel that only reads it.
            let rope = RopeShape { n_tokens: 1, n_heads, head_dim, n_rot: head_dim, pairing: RopePairing::Neighbours };
            gpu.rope(rope, &qkv, &device_position, &frequencies, 1.0).unwrap();
            let want = Output::<f32>::new(&gpu, n_heads * head_dim);
            gpu.attention(&Attention {
                shape,
                q: &qkv,
                keys: &keys,
                values: &values,
                cache_type,
                positions: &device_position,
                out: &want,
                probabilities: None,
                scale: 0.125,
                soft_cap: None,
                sinks: None,
            })
            .unwrap();
            let want = as_f64(&want.read(&gpu));
            assert_close(&format!("{cache_type} at {position}"), &out.read(&gpu), &want, 1e-5, 1e-5);
        }
    }
}
