//! cache[head][positions[token] % n_context] = factor · x[token][head], and nothing else changes.

use ferrowarp::gpu::kernels::{AttentionShape, CacheType};
use half::{bf16, f16};

use crate::support::*;

#[test]
fn keys_land_at_their_heads_and_positions() {
    let gpu = gpu();
    let mut random = Random::new();
    for cache_type in [CacheType::F32, CacheType::F16, CacheType::BF16] {
        for (n_kv_heads, head_dim, n_context) in [(1, 64, 9), (3, 80, 5), (2, 256, 7), (2, 100, 4), (1, 4, 6)] {
            // The last is in a ring's last row.
            let positions = [2, 0, 3 * n_context as u32 - 1];
            let n_tokens = positions.len();
            let shape = AttentionShape { n_tokens, n_heads: n_kv_heads, n_kv_heads, head_dim, n_context, window: None };
            let x = random.values(n_tokens * n_kv_heads * head_dim, 3.0);
            let cache = Output::<u8>::new(&gpu, cache_type.bytes(n_kv_heads * n_context, head_dim));
            let device_positions = gpu.upload("positions", &positions).unwrap();
            gpu.cache_store(shape, &gpu.upload("x", &x).unwrap(), &device_positions, &cache, cache_type, 0.5).unwrap();
            let got = cache.read(&gpu);
            for (index, cell) in got.chunks(cache_type.bytes(1, head_dim)).enumerate() {
                let (head, position) = (index / n_context, index % n_context);
                let Some(token) = positions.iter().position(|at| *at as usize % n_context == position) else {
                    assert!(cell.iter().all(|byte| *byte == 0xff), "head {head} position {position} was touched");
                    continue;
                };
                let row = &x[(token * n_kv_heads + head) * head_dim..][..head_dim];
                let want: Vec<u8> = match cache_type {
                    CacheType::F32 => row.iter().flat_map(|v| (0.5 * v).to_le_bytes()).collect(),
                    CacheType::F16 => row.iter().flat_map(|v| f16::from_f32(0.5 * v).to_le_bytes()).collect(),
                    CacheType::BF16 => row.iter().flat_map(|v| bf16::from_f32(0.5 * v).to_le_bytes()).collect(),
                    CacheType::Q8_0 => unreachable!("tested below"),
                };
                assert_eq!(cell, want, "{cache_type} head {head} position {position}");
            }
        }
    }
}

#[test]
fn q8_0_rows_are_turned_integers_with_a_scale_for_each_32() {
    let gpu = gpu();
    let mut random = Random::new();
    for (n_kv_heads, head_dim, n_context) in [(1, 64, 4), (3, 96, 5), (2, 256, 3)] {
        // The second is in a ring's row 2.
        let positions = [1, n_context as u32 + 2];
        let n_tokens = positions.len();
        let shape = AttentionShape { n_tokens, n_heads: n_kv_heads, n_kv_heads, head_dim, n_context, window: None };
        let mut x = random.values(n_tokens * n_kv_heads * head_dim, 3.0);
        x[..32].fill(0.0);
        let n_rows = n_kv_heads * n_context;
        let cache = Output::<u8>::new(&gpu, CacheType::Q8_0.bytes(n_rows, head_dim));
        let (device_x, device_positions) = (gpu.upload("x", &x).unwrap(), gpu.upload("positions", &positions).unwrap());
        gpu.cache_store(shape, &device_x, &device_positions, &cache, CacheType::Q8_0, 1.0).unwrap();
        let got = cache.read(&gpu);
        let (integers, scales) = got.split_at(n_rows * head_dim);
        let scales: Vec<f16> = scales.chunks(2).map(|b| f16::from_le_bytes([b[0], b[1]])).collect();
        for row in 0..n_rows {
            let (head, position) = (row / n_context, row % n_context);
            let Some(token) = positions.iter().position(|at| *at as usize % n_context == position) else {
                assert!(
                    integers[row * head_dim..][..head_dim].iter().all(|byte| *byte == 0xff),
                    "row {row} was touched"
                );
                continue;
            };
            for block in 0..head_dim / 32 {
                let start = (token * n_kv_heads + head) * head_dim + block * 32;
                let want = hadamard(&as_f64(&x[start..start + 32]));
                let largest = want.iter().fold(0f64, |largest, value| largest.max(value.abs()));
                let scale = scales[row * (head_dim / 32) + block].to_f64();
                // An f16 has 11 bits; the transform was rounded in f32 before.
                assert!((scale - largest / 127.0).abs() <= largest / 127.0 * 6e-4, "row {row}: {scale}");
                for (element, want) in want.iter().enumerate() {
                    let integer = integers[row * head_dim + block * 32 + element] as i8;
                    let value = f64::from(integer) * scale;
                    // Half a step; the largest value may be cut by the scale's rounding.
                    let tolerance = 0.5 * scale + largest * 6e-4;
                    assert!((value - want).abs() <= tolerance, "row {row}: {value} for {want}");
                }
            }
        }
    }
}
