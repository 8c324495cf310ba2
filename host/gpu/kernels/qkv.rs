//! Launches the kernels in `kernels/qkv.rs`.

use half::{bf16, f16};
use kernels::qkv::*;

use super::{AttentionShape, CacheType, NormAndRope, PageTables, count, expect_len};
use crate::gpu::{Gpu, GpuError, Slice};

/// Many tokens' queries, keys and values, from their projections to where attention reads them; see [`Gpu::qkv`].
#[derive(Clone, Copy)]
pub struct Qkv<'a> {
    /// Tokens, heads, and the cache's pages.
    pub shape: AttentionShape,
    /// `[n_tokens][n_heads + 2 · n_kv_heads][head_dim]`: queries, keys and values as the projections leave them.
    pub product: &'a Slice<f32>,
    /// `[n_heads + 2 · n_kv_heads][head_dim]`.
    pub bias: Option<&'a Slice<f32>>,
    /// What becomes of queries and keys before attention.
    pub norm_and_rope: NormAndRope<'a>,
    /// What queries are multiplied by besides the magnitude of their rotated values.
    pub q_scale: f32,
    /// `[n_tokens]`.
    pub positions: &'a Slice<u32>,
    /// Where keys and values go in the cache; not given where they are to be left beside one another, a row a token.
    pub pages: Option<PageTables<'a>>,
    /// `[n_tokens][n_heads][head_dim]` of the type below.
    pub q: &'a Slice<u8>,
    /// The layer's caches of that type, or without pages in the shape `[n_tokens][n_kv_heads][head_dim]`.
    pub keys: &'a Slice<u8>,
    /// As `keys`.
    pub values: &'a Slice<u8>,
    /// The type of queries, keys and values: not Q8_0.
    pub element: CacheType,
}

impl Gpu {
    /// Bias, norms over heads and RoPE, as [`Gpu::rmsnorm`] and [`Gpu::rope`] do; then queries times `q_scale` to `q`, and keys,
    /// without RoPE's magnitude, and values to the cache at `positions`.
    pub fn qkv(&self, operands: &Qkv) -> Result<(), GpuError> {
        let Qkv { shape, norm_and_rope, pages, element, .. } = *operands;
        let NormAndRope { q_norm, k_norm, epsilon, frequencies, n_rot, magnitude, .. } = norm_and_rope;
        let AttentionShape { n_tokens, n_heads, n_kv_heads, head_dim, .. } = shape;
        norm_and_rope.expect_head_dim(head_dim);
        let (growth_scale, growth_length) = norm_and_rope.growth();
        let heads = n_heads + 2 * n_kv_heads;
        let kv_bytes = match pages {
            None => element.bytes(n_tokens * n_kv_heads, head_dim),
            Some(_) => shape.cache_bytes(element),
        };
        pages.inspect(|pages| pages.expect(n_tokens));
        expect_len("product", operands.product, n_tokens * heads * head_dim);
        operands.bias.inspect(|bias| expect_len("bias", bias, heads * head_dim));
        expect_len("positions", operands.positions, n_tokens);
        expect_len("q", operands.q, element.bytes(n_tokens * n_heads, head_dim));
        expect_len("keys", operands.keys, kv_bytes);
        expect_len("values", operands.values, kv_bytes);
        let grid = [count(heads.div_ceil(HEADS as usize)), count(n_tokens), 1];
        macro_rules! launch {
            ($kernel:ident, $element:ty) => {
                // SAFETY: the kernel waits before it reads; the slices hold what the contract asks for; positions, slots and
                // tables are the caller's promise.
                unsafe {
                    self.launch_early(
                        $kernel,
                        grid,
                        BLOCK,
                        (
                            operands.product,
                            operands.bias,
                            q_norm,
                            k_norm,
                            frequencies,
                            operands.positions,
                            pages.map(|pages| pages.tables),
                            pages.map(|pages| pages.slots),
                            &*operands.q.cast::<$element>(),
                            &*operands.keys.cast::<$element>(),
                            &*operands.values.cast::<$element>(),
                            operands.q_scale,
                            growth_scale,
                            magnitude,
                            epsilon,
                            count(n_heads),
                            count(n_kv_heads),
                            count(head_dim),
                            count(n_rot),
                            norm_and_rope.neighbours(),
                            growth_length,
                            pages.map_or(0, |pages| count(pages.stride)),
                        ),
                    )
                }
            };
        }
        match element {
            CacheType::F32 => launch!(qkv_f32, f32),
            CacheType::F16 => launch!(qkv_f16, f16),
            CacheType::BF16 => launch!(qkv_bf16, bf16),
            CacheType::Q8_0 => panic!("Q8_0 keys and values are made by cache_store"),
        }
    }
}
