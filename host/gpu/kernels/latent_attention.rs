//! Launches the kernels in `kernels/latent_attention.rs`.

use half::{bf16, f16};
use kernels::latent_attention::*;

use super::{CacheType, PAGE, PageTables, count, expect_aligned, expect_len};
use crate::gpu::{Gpu, GpuError, Slice};

/// An attention over a cache of one vector for all heads: what [`Gpu::latent_attention`] reads and writes.
#[derive(Clone, Copy)]
pub struct LatentAttention<'a> {
    /// Tokens, a row of queries each.
    pub n_tokens: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Values of a query, and of a vector.
    pub dim: usize,
    /// The first so many are the value.
    pub value_dim: usize,
    /// Pages of the cache.
    pub n_pages: usize,
    /// `[n_tokens][n_heads][dim]`.
    pub q: &'a Slice<f32>,
    /// The layer's vectors, in the cache's bytes.
    pub cache: &'a Slice<u8>,
    /// Their type.
    pub cache_type: CacheType,
    /// `[n_tokens]`; what each token sees is in the cache.
    pub positions: &'a Slice<u32>,
    /// Where.
    pub pages: PageTables<'a>,
    /// `[n_tokens][n_heads][value_dim]`.
    pub out: &'a Slice<f32>,
    /// Gets the softmax itself, `[n_heads][n_tokens][stride]`, of which only the vectors seen are written; and the stride, which is above
    /// every position.
    pub probabilities: Option<(&'a Slice<f32>, usize)>,
    /// What scores are multiplied by.
    pub scale: f32,
}

impl CacheType {
    /// Whether a vector of `dim` values, of which the first `value_dim` are the value, can be kept and attended to by
    /// [`Gpu::latent_attention`].
    ///
    /// # Errors
    /// It cannot; the words say what vectors can.
    pub fn check_latent(self, dim: usize, value_dim: usize) -> Result<(), String> {
        let multiple = if self == CacheType::Q8_0 { 32 } else { 8 };
        let is_whole = |n: usize| n > 0 && n.is_multiple_of(multiple);
        if is_whole(dim) && is_whole(value_dim) && value_dim <= dim && dim <= MAX_DIM {
            return Ok(());
        }
        Err(format!(
            "a {self} cache of latent attention has vectors of a multiple of {multiple} values up to {MAX_DIM}, and so many of them as \
             values, found {dim} and {value_dim}"
        ))
    }
}

impl Gpu {
    /// out[token][head] = softmax(q · Kᵀ · scale) · V over the vectors at positions up to positions[token], the first values of which are V.
    pub fn latent_attention(&self, attention: &LatentAttention) -> Result<(), GpuError> {
        let LatentAttention { n_tokens, n_heads, dim, value_dim, n_pages, cache_type, pages, .. } = *attention;
        let LatentAttention { q, cache, positions, out, probabilities, scale, .. } = *attention;
        cache_type.check_latent(dim, value_dim).unwrap_or_else(|error| panic!("{error}"));
        expect_len("q", q, n_tokens * n_heads * dim);
        expect_len("cache", cache, cache_type.bytes(n_pages * PAGE, dim));
        pages.expect(n_tokens);
        expect_len("positions", positions, n_tokens);
        expect_len("out", out, n_tokens * n_heads * value_dim);
        expect_aligned("q", q);
        expect_aligned("cache", cache);
        let stride = probabilities.map_or(0, |(slice, stride)| {
            expect_len("probabilities", slice, n_heads * n_tokens * stride);
            stride
        });
        let grid = [count(n_heads), count(n_tokens), 1];
        macro_rules! launch {
            ($kernel:ident, $element:ty) => {
                // SAFETY: the slices hold what the contract asks for; the positions are the caller's promise. The kernel waits before it
                // reads.
                unsafe {
                    self.launch_early(
                        $kernel,
                        grid,
                        BLOCK,
                        (
                            q,
                            &*cache.cast::<$element>(),
                            positions,
                            pages.tables,
                            pages.slots,
                            out,
                            probabilities.map(|(slice, _)| slice),
                            scale,
                            count(dim),
                            count(value_dim),
                            count(pages.stride),
                            count(n_pages),
                            count(stride),
                        ),
                    )
                }
            };
        }
        match cache_type {
            CacheType::F32 => launch!(latent_attention_f32, f32),
            CacheType::F16 => launch!(latent_attention_f16, f16),
            CacheType::BF16 => launch!(latent_attention_bf16, bf16),
            CacheType::Q8_0 => launch!(latent_attention_q8_0, i8),
        }
    }
}
