//! Bias, norms and RoPE over the product with [Wq; Wk; Wv], and where the results go.

use ferrowarp::{
    forward::turns,
    gpu::kernels::{AttentionShape, CacheType, NormAndRope, Qkv, RopeShape},
    model::{RopePairing, Temperature},
};
use half::{bf16, f16};

use crate::{rmsnorm, rope, support::*};

const EPSILON: f32 = 1e-6;

#[derive(Clone, Copy, Debug)]
struct Case {
    n_tokens: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    n_rot: usize,
    pairing: RopePairing,
    with_bias: bool,
    with_norms: bool,
    magnitude: f32,
    growth: Option<Temperature>,
}

/// Some heads of every token's row: `[n_tokens][heads.len()][head_dim]`.
fn heads(values: &[f32], n_all: usize, heads: std::ops::Range<usize>, head_dim: usize) -> Vec<f32> {
    values.chunks(n_all * head_dim).flat_map(|row| row[heads.start * head_dim..heads.end * head_dim].to_vec()).collect()
}

/// Bytes of the element type as numbers.
fn numbers(bytes: &[u8], element: CacheType) -> Vec<f32> {
    match element {
        CacheType::F32 => bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        CacheType::F16 => bytes.chunks(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        _ => bytes.chunks(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
    }
}

fn run(case: Case, element: CacheType, first: usize, in_cache: bool) {
    let gpu = gpu();
    let mut random = Random::new();
    let Case { n_tokens, n_heads, n_kv_heads, head_dim, n_rot, pairing, with_bias, with_norms, magnitude, growth } =
        case;
    let n_all = n_heads + 2 * n_kv_heads;
    let product = random.values(n_tokens * n_all * head_dim, 2.0);
    let bias = random.values(n_all * head_dim, 3.0);
    let (q_norm, k_norm) = (random.values(head_dim, 1.5), random.values(head_dim, 1.5));
    let positions: Vec<u32> = (first..first + n_tokens).map(|position| position as u32).collect();
    let radians: Vec<f64> = (0..n_rot / 2).map(|pair| f64::powf(1e4, -2.0 * pair as f64 / n_rot as f64)).collect();
    let q_scale = 0.125;

    // The definition, of the kernels that do one thing each.
    let biased: Vec<f32> = product
        .iter()
        .enumerate()
        .map(|(index, value)| value + if with_bias { bias[index % (n_all * head_dim)] } else { 0.0 })
        .collect();
    let turned = |range: std::ops::Range<usize>, norm: &[f32], magnitude: f32| {
        let shape = RopeShape { n_tokens, n_heads: range.len(), head_dim, n_rot, pairing };
        let values = heads(&biased, n_all, range, head_dim);
        let normed: Vec<f32> = match with_norms {
            true => rmsnorm::reference(&values, norm, EPSILON).iter().map(|value| *value as f32).collect(),
            false => values,
        };
        rope::reference(shape, &normed, &positions, &radians, magnitude)
    };
    let grown = |token: usize| match growth {
        Some(Temperature { scale, length }) => {
            1.0 + f64::from(scale) * ((positions[token] as usize / length + 1) as f64).ln()
        }
        None => 1.0,
    };
    let q = turned(0..n_heads, &q_norm, magnitude);
    let of_head = |(index, q): (usize, &f64)| q * f64::from(q_scale) * grown(index / (n_heads * head_dim));
    let q: Vec<f64> = q.iter().enumerate().map(of_head).collect();
    let k: Vec<f64> =
        turned(n_heads..n_heads + n_kv_heads, &k_norm, magnitude).iter().map(|k| k / f64::from(magnitude)).collect();
    let v = as_f64(&heads(&biased, n_all, n_heads + n_kv_heads..n_all, head_dim));

    let pages = Pages::of_one(&gpu, &mut random, first + n_tokens + 2, n_tokens);
    let kv_rows = if in_cache { pages.n_rows(n_kv_heads) } else { n_tokens * n_kv_heads };
    let q_out = Output::<u8>::new(&gpu, element.bytes(n_tokens * n_heads, head_dim));
    let [k_out, v_out] = [(); 2].map(|()| Output::<u8>::new(&gpu, element.bytes(kv_rows, head_dim)));
    let device = |what: &str, values: &[f32], given: bool| given.then(|| gpu.upload(what, values).unwrap());
    let (bias, q_norm, k_norm) =
        (device("bias", &bias, with_bias), device("norm", &q_norm, with_norms), device("norm", &k_norm, with_norms));
    gpu.qkv(&Qkv {
        shape: AttentionShape { n_tokens, n_heads, n_kv_heads, head_dim, n_pages: pages.n_pages, window: None },
        product: &gpu.upload("product", &product).unwrap(),
        bias: bias.as_deref(),
        norm_and_rope: NormAndRope {
            q_norm: q_norm.as_deref(),
            k_norm: k_norm.as_deref(),
            epsilon: EPSILON,
            frequencies: &gpu.upload("frequencies", &turns(&radians)).unwrap(),
            n_rot,
            pairing,
            magnitude,
            growth,
        },
        q_scale,
        positions: &gpu.upload("positions", &positions).unwrap(),
        pages: in_cache.then(|| pages.get()),
        q: &q_out,
        keys: &k_out,
        values: &v_out,
        element,
    })
    .unwrap();

    let what = format!("{element} at {first}, in the cache: {in_cache}, {case:?}");
    let relative = match element {
        CacheType::F32 => 0.0,
        CacheType::F16 => 2f64.powi(-11),
        _ => 2f64.powi(-8),
    };
    // A norm makes values up to √head_dim · 1.5 = 24 and rounds them once more; RoPE's error is 4e-6 of a pair's length.
    let check =
        |what: &str, got: &[f32], want: &[f64]| assert_close(what, got, want, 1.5e-4 * f64::from(magnitude), relative);
    check(&format!("q of {what}"), &numbers(&q_out.read(&gpu), element), &q);
    for (name, out, want) in [("k", &k_out, &k), ("v", &v_out, &v)] {
        let bytes = out.read(&gpu);
        if !in_cache {
            check(&format!("{name} of {what}"), &numbers(&bytes, element), want);
            continue;
        }
        let places: Vec<(usize, usize, usize)> = (0..n_tokens)
            .flat_map(|token| (0..n_kv_heads).map(move |head| (token, head)))
            .map(|(token, head)| (pages.row(n_kv_heads, 0, head, first + token), token, head))
            .collect();
        for (row, cell) in bytes.chunks(element.bytes(1, head_dim)).enumerate() {
            let Some((_, token, head)) = places.iter().find(|(place, ..)| *place == row) else {
                assert!(cell.iter().all(|byte| *byte == 0xff), "{name}: row {row} was touched: {what}");
                continue;
            };
            let want = &want[(token * n_kv_heads + head) * head_dim..][..head_dim];
            check(&format!("{name} row {row} of {what}"), &numbers(cell, element), want);
        }
    }
}

const CASES: [Case; 4] = [
    Case {
        n_tokens: 3,
        n_heads: 14,
        n_kv_heads: 2,
        head_dim: 64,
        n_rot: 64,
        pairing: RopePairing::Halves,
        with_bias: true,
        with_norms: false,
        magnitude: 1.0,
        growth: None,
    },
    Case {
        n_tokens: 2,
        n_heads: 4,
        n_kv_heads: 1,
        head_dim: 128,
        n_rot: 128,
        pairing: RopePairing::Halves,
        with_bias: false,
        with_norms: true,
        magnitude: 1.25,
        growth: Some(Temperature { scale: 0.1, length: 16 }),
    },
    Case {
        n_tokens: 4,
        n_heads: 3,
        n_kv_heads: 3,
        head_dim: 80,
        n_rot: 20,
        pairing: RopePairing::Neighbours,
        with_bias: true,
        with_norms: true,
        magnitude: 1.25,
        growth: Some(Temperature { scale: 0.5, length: 8192 }),
    },
    Case {
        n_tokens: 1,
        n_heads: 2,
        n_kv_heads: 2,
        head_dim: 256,
        n_rot: 0,
        pairing: RopePairing::Neighbours,
        with_bias: false,
        with_norms: false,
        magnitude: 1.0,
        growth: None,
    },
];

#[test]
fn queries_keys_and_values_get_to_attention_and_cache() {
    for element in [CacheType::F32, CacheType::F16, CacheType::BF16] {
        for case in CASES {
            run(case, element, 30, true);
        }
    }
}

#[test]
fn queries_keys_and_values_are_left_beside_one_another() {
    for case in CASES {
        run(case, CacheType::F32, 1000, false);
    }
}

/// Queries alone, of what is in memory: scaled and brought to a type.
#[test]
fn queries_alone_are_scaled() {
    let gpu = gpu();
    let mut random = Random::new();
    let (n_tokens, n_heads, head_dim) = (3, 5, 96);
    let values = random.values(n_tokens * n_heads * head_dim, 4.0);
    let shape = AttentionShape { n_tokens, n_heads, n_kv_heads: 0, head_dim, n_pages: 0, window: None };
    for element in [CacheType::F16, CacheType::BF16] {
        let q = Output::<u8>::new(&gpu, element.bytes(n_tokens * n_heads, head_dim));
        let nothing = gpu.upload("nothing", &[0u8; 4]).unwrap();
        gpu.qkv(&Qkv {
            shape,
            product: &gpu.upload("x", &values).unwrap(),
            bias: None,
            norm_and_rope: NormAndRope {
                q_norm: None,
                k_norm: None,
                epsilon: 0.0,
                frequencies: &gpu.upload("frequencies", &[0.0f32; 2]).unwrap(),
                n_rot: 0,
                pairing: RopePairing::Halves,
                magnitude: 1.0,
                growth: None,
            },
            q_scale: 0.3,
            positions: &gpu.upload("positions", &[7u32, 8, 9]).unwrap(),
            pages: None,
            q: &q,
            keys: &nothing,
            values: &nothing,
            element,
        })
        .unwrap();
        let want: Vec<f64> = values.iter().map(|value| f64::from(*value) * f64::from(0.3f32)).collect();
        let relative = if element == CacheType::F16 { 2f64.powi(-11) } else { 2f64.powi(-8) };
        // Rounded once in f32 before.
        assert_close(&format!("{element}"), &numbers(&q.read(&gpu), element), &want, 1e-7, relative + 1e-6);
    }
}
