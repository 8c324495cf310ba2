//! The row of a token's position and head = factor · x[token][head], in the pages of its sequence, and nothing else changes.

use ferrowarp::gpu::kernels::{AttentionShape, CacheType};
use half::{bf16, f16};

use crate::support::*;

#[test]
fn keys_land_at_their_heads_and_positions() {
    let gpu = gpu();
    let mut random = Random::new();
    for cache_type in [CacheType::F32, CacheType::F16, CacheType::BF16] {
        for (n_kv_heads, head_dim) in [(1, 64), (3, 80), (2, 256), (2, 100), (1, 4)] {
            // Of three sequences, in their first, third and first page.
            let (positions, slots) = ([2, 70, 0], [1, 0, 2]);
            let n_tokens = positions.len();
            let pages = Pages::new(&gpu, &mut random, 3, 96, &slots);
            let n_pages = pages.n_pages;
            let shape = AttentionShape { n_tokens, n_heads: n_kv_heads, n_kv_heads, head_dim, n_pages, window: None };
            let row_of = |token: usize, head: usize| {
                pages.row(n_kv_heads, slots[token] as usize, head, positions[token] as usize)
            };
            let written = |row: usize| {
                let pairs = (0..n_tokens).flat_map(|token| (0..n_kv_heads).map(move |head| (token, head)));
                pairs.into_iter().find(|(token, head)| row_of(*token, *head) == row)
            };
            let x = random.values(n_tokens * n_kv_heads * head_dim, 3.0);
            let cache = Output::<u8>::new(&gpu, shape.cache_bytes(cache_type));
            let device_positions = gpu.upload("positions", &positions).unwrap();
            let device_x = gpu.upload("x", &x).unwrap();
            gpu.cache_store(shape, &device_x, &device_positions, pages.get(), &cache, cache_type, 0.5).unwrap();
            let got = cache.read(&gpu);
            for (index, cell) in got.chunks(cache_type.bytes(1, head_dim)).enumerate() {
                let Some((token, head)) = written(index) else {
                    assert!(cell.iter().all(|byte| *byte == 0xff), "row {index} was touched");
                    continue;
                };
                let row = &x[(token * n_kv_heads + head) * head_dim..][..head_dim];
                let want: Vec<u8> = match cache_type {
                    CacheType::F32 => row.iter().flat_map(|v| (0.5 * v).to_le_bytes()).collect(),
                    CacheType::F16 => row.iter().flat_map(|v| f16::from_f32(0.5 * v).to_le_bytes()).collect(),
                    CacheType::BF16 => row.iter().flat_map(|v| bf16::from_f32(0.5 * v).to_le_bytes()).collect(),
                    CacheType::Q8_0 => unreachable!("tested below"),
                };
                assert_eq!(cell, want, "{cache_type} head {head} token {token}");
            }
        }
    }
}

#[test]
fn q8_0_rows_are_turned_integers_with_a_scale_for_each_32() {
    let gpu = gpu();
    let mut random = Random::new();
    for (n_kv_heads, head_dim) in [(1, 64), (3, 96), (2, 256)] {
        let positions = [1, 34];
        let n_tokens = positions.len();
        let pages = Pages::of_one(&gpu, &mut random, 40, n_tokens);
        let n_pages = pages.n_pages;
        let shape = AttentionShape { n_tokens, n_heads: n_kv_heads, n_kv_heads, head_dim, n_pages, window: None };
        let written = |row: usize| {
            let pairs = (0..n_tokens).flat_map(|token| (0..n_kv_heads).map(move |head| (token, head)));
            pairs.into_iter().find(|(token, head)| pages.row(n_kv_heads, 0, *head, positions[*token] as usize) == row)
        };
        let mut x = random.values(n_tokens * n_kv_heads * head_dim, 3.0);
        x[..32].fill(0.0);
        let n_rows = pages.n_rows(n_kv_heads);
        let cache = Output::<u8>::new(&gpu, CacheType::Q8_0.bytes(n_rows, head_dim));
        let (device_x, device_positions) = (gpu.upload("x", &x).unwrap(), gpu.upload("positions", &positions).unwrap());
        gpu.cache_store(shape, &device_x, &device_positions, pages.get(), &cache, CacheType::Q8_0, 1.0).unwrap();
        let got = cache.read(&gpu);
        let (integers, scales) = got.split_at(n_rows * head_dim);
        let scales: Vec<f16> = scales.chunks(2).map(|b| f16::from_le_bytes([b[0], b[1]])).collect();
        for row in 0..n_rows {
            let Some((token, head)) = written(row) else {
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
