//! Launches the kernels in `kernels/attention.rs`.

use half::{bf16, f16};
use kernels::attention::*;

use super::{CacheType, count, expect_len};
use crate::gpu::{Gpu, GpuError, Slice};

/// The head sizes that attention kernels exist for.
pub const HEAD_DIMS: [usize; 5] = [64, 80, 96, 128, 256];

/// The shapes of one attention: queries `[n_tokens][n_heads][head_dim]` over a layer's cache
/// `[n_kv_heads][n_context][head_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Tokens, a row of queries each.
    pub n_tokens: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Values of a head; one of [`HEAD_DIMS`].
    pub head_dim: usize,
    /// Positions that the cache has room for.
    pub n_context: usize,
    /// How many positions a token sees, its own included; all before it where there is no window.
    pub window: Option<usize>,
}

impl Gpu {
    /// out[token][head] = softmax(q · Kᵀ · scale) · V over the keys at positions up to positions[token], which are below
    /// `n_context` and in the cache. `probabilities`, where given, gets the softmax itself and its row stride:
    /// `[n_heads][n_tokens][stride]`, of which only the keys seen are written.
    #[allow(clippy::too_many_arguments)]
    pub fn attention(
        &self,
        shape: AttentionShape,
        q: &Slice<f32>,
        keys: &Slice<u8>,
        values: &Slice<u8>,
        cache_type: CacheType,
        positions: &Slice<u32>,
        out: &Slice<f32>,
        probabilities: Option<(&Slice<f32>, usize)>,
        scale: f32,
    ) -> Result<(), GpuError> {
        let AttentionShape { n_tokens, n_heads, n_kv_heads, head_dim, n_context, window } = shape;
        assert!(n_kv_heads > 0 && n_heads.is_multiple_of(n_kv_heads), "{n_heads} heads over {n_kv_heads} KV heads");
        let cache_len = cache_type.bytes(n_kv_heads * n_context, head_dim);
        expect_len("q", q, n_tokens * n_heads * head_dim);
        expect_len("keys", keys, cache_len);
        expect_len("values", values, cache_len);
        expect_len("positions", positions, n_tokens);
        expect_len("out", out, n_tokens * n_heads * head_dim);
        assert!(window != Some(0), "a sliding window holds at least the token itself");
        let stride = probabilities.map_or(0, |(slice, stride)| {
            expect_len("probabilities", slice, n_heads * n_tokens * stride);
            stride
        });
        let grid = [count(n_heads), count(n_tokens), 1];
        macro_rules! launch {
            ($kernel:ident, $element:ty) => {
                // SAFETY: the slices hold what the contract asks for; the positions are the caller's promise, and within
                // the cache by `n_context`.
                unsafe {
                    self.launch(
                        $kernel,
                        grid,
                        BLOCK,
                        (
                            q,
                            &*keys.cast::<$element>(),
                            &*values.cast::<$element>(),
                            positions,
                            out,
                            probabilities.map(|(slice, _)| slice),
                            scale,
                            count(n_kv_heads),
                            count(n_context),
                            window.map_or(u32::MAX, count),
                            count(stride),
                        ),
                    )
                }
            };
        }
        match (cache_type, head_dim) {
            (CacheType::F32, 64) => launch!(attention_f32_64, f32),
            (CacheType::F32, 80) => launch!(attention_f32_80, f32),
            (CacheType::F32, 96) => launch!(attention_f32_96, f32),
            (CacheType::F32, 128) => launch!(attention_f32_128, f32),
            (CacheType::F32, 256) => launch!(attention_f32_256, f32),
            (CacheType::F16, 64) => launch!(attention_f16_64, f16),
            (CacheType::F16, 80) => launch!(attention_f16_80, f16),
            (CacheType::F16, 96) => launch!(attention_f16_96, f16),
            (CacheType::F16, 128) => launch!(attention_f16_128, f16),
            (CacheType::F16, 256) => launch!(attention_f16_256, f16),
            (CacheType::BF16, 64) => launch!(attention_bf16_64, bf16),
            (CacheType::BF16, 80) => launch!(attention_bf16_80, bf16),
            (CacheType::BF16, 96) => launch!(attention_bf16_96, bf16),
            (CacheType::BF16, 128) => launch!(attention_bf16_128, bf16),
            (CacheType::BF16, 256) => launch!(attention_bf16_256, bf16),
            (CacheType::Q8_0, 64) => launch!(attention_q8_0_64, i8),
            (CacheType::Q8_0, 96) => launch!(attention_q8_0_96, i8),
            (CacheType::Q8_0, 128) => launch!(attention_q8_0_128, i8),
            (CacheType::Q8_0, 256) => launch!(attention_q8_0_256, i8),
            (_, other) => panic!("no attention kernel for a {cache_type} cache of {other} values"),
        }
    }
}
