//! Attention over one vector for all heads, against its definition on the vectors as the cache has them.

use ferrowarp::gpu::kernels::{AttentionShape, CacheType, LatentAttention};
use half::{bf16, f16};

use crate::support::*;

/// Rounds as a cache of floats does; Q8_0's rounding is in the tolerance.
fn kept(cache_type: CacheType, x: f32) -> f64 {
    match cache_type {
        CacheType::F32 | CacheType::Q8_0 => f64::from(x),
        CacheType::F16 => f64::from(f16::from_f32(x).to_f32()),
        CacheType::BF16 => f64::from(bf16::from_f32(x).to_f32()),
    }
}

#[test]
fn every_head_attends_to_the_same_vectors() {
    let gpu = gpu();
    let mut random = Random::new();
    // DeepSeek's own sizes, small ones, and the longest.
    for (dim, value_dim, n_heads, n_past, n_tokens) in [(576, 512, 3, 4, 3), (96, 64, 4, 0, 9), (768, 768, 1, 1, 1)] {
        for cache_type in CacheType::ALL {
            let n_keys = n_past + n_tokens;
            let vectors = random.values(n_keys * dim, 1.0);
            let q = random.values(n_tokens * n_heads * dim, 1.0);
            let pages = Pages::of_one(&gpu, &mut random, n_keys + 2, n_keys);
            let n_pages = pages.n_pages;
            let shape =
                AttentionShape { n_tokens: n_keys, n_heads, n_kv_heads: 1, head_dim: dim, n_pages, window: None };
            let cache = gpu.alloc::<u8>("cache", shape.cache_bytes(cache_type)).unwrap();
            let all: Vec<u32> = (0..n_keys as u32).collect();
            let (device_vectors, positions) =
                (gpu.upload("vectors", &vectors).unwrap(), gpu.upload("positions", &all).unwrap());
            gpu.cache_store(shape, &device_vectors, &positions, pages.get(), &cache, cache_type, 1.0).unwrap();

            let out = Output::<f32>::new(&gpu, n_tokens * n_heads * value_dim);
            let stride = n_keys + 1;
            let softmax = gpu.alloc::<f32>("probabilities", n_heads * n_tokens * stride).unwrap();
            gpu.fill(&softmax, 0).unwrap();
            let (device_q, positions) =
                (gpu.upload("q", &q).unwrap(), gpu.upload("positions", &all[n_past..]).unwrap());
            gpu.latent_attention(&LatentAttention {
                n_tokens,
                n_heads,
                dim,
                value_dim,
                n_pages,
                q: &device_q,
                cache: &cache,
                cache_type,
                positions: &positions,
                pages: pages.get(),
                out: &out,
                probabilities: Some((&softmax, stride)),
                scale: 0.125,
            })
            .unwrap();

            let vector = |key: usize| vectors[key * dim..][..dim].iter().map(|x| kept(cache_type, *x));
            let (mut want, mut want_softmax) = (Vec::new(), vec![0.0; n_heads * n_tokens * stride]);
            for token in 0..n_tokens {
                for head in 0..n_heads {
                    let q = &q[(token * n_heads + head) * dim..][..dim];
                    let score = |key: usize| vector(key).zip(q).map(|(k, q)| k * f64::from(*q)).sum::<f64>() * 0.125;
                    let powers: Vec<f64> = (0..=n_past + token).map(|key| score(key).exp()).collect();
                    let sum: f64 = powers.iter().sum();
                    let mut row = vec![0.0; value_dim];
                    for (key, power) in powers.iter().enumerate() {
                        want_softmax[(head * n_tokens + token) * stride + key] = power / sum;
                        row.iter_mut().zip(vector(key)).for_each(|(row, v)| *row += power / sum * v);
                    }
                    want.extend(row);
                }
            }
            // Sums of up to 768 products in trees; blocks of Q8_0 have steps of a hundredth.
            let tolerance = if cache_type == CacheType::Q8_0 { 6e-2 } else { 2e-5 };
            let what = format!("{cache_type} {value_dim} of {dim}");
            assert_close(&what, &out.read(&gpu), &want, tolerance, 0.0);
            assert_close(&what, &gpu.read(&softmax).unwrap(), &want_softmax, tolerance, 0.0);
        }
    }
}

#[test]
fn vectors_that_there_is_no_kernel_for_are_refused() {
    for (dim, value_dim) in [(772, 512), (576, 580), (90, 64), (96, 0)] {
        for cache_type in CacheType::ALL {
            assert!(cache_type.check_latent(dim, value_dim).is_err(), "{cache_type} {value_dim} of {dim}");
        }
    }
    assert!(CacheType::Q8_0.check_latent(72, 64).is_err() && CacheType::F16.check_latent(72, 64).is_ok());
}
