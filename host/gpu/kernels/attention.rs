//! Launches the kernels in `kernels/attention.rs`.

use half::{bf16, f16};
use kernels::attention::*;

use super::{CacheType, count, expect_aligned, expect_len};
use crate::gpu::{Gpu, GpuError, Slice};

/// The head sizes that the fast attention kernels, `attention_decode` and `flash`, exist for. [`Gpu::attention`] takes any that
/// the cache does.
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
    /// Values of a head; see [`CacheType::check_head_dim`] and [`HEAD_DIMS`].
    pub head_dim: usize,
    /// Rows that a head has in the cache: position p is in row `p % n_context`. [`Gpu::cache_store`] and [`Gpu::attention`] take
    /// positions beyond `n_context`, which make the cache of a layer with a `window` a ring; it then has
    /// `window + n_tokens − 1` rows at least, as a chunk of tokens is stored before it attends. The others take positions below
    /// `n_context` only.
    pub n_context: usize,
    /// How many positions a token sees, its own included; all before it where there is no window.
    pub window: Option<usize>,
}

/// An attention by its definition: what [`Gpu::attention`] reads and writes.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// The shapes.
    pub shape: AttentionShape,
    /// `[n_tokens][n_heads][head_dim]`.
    pub q: &'a Slice<f32>,
    /// The layer's keys, in the cache's bytes.
    pub keys: &'a Slice<u8>,
    /// The layer's values likewise.
    pub values: &'a Slice<u8>,
    /// The type of both.
    pub cache_type: CacheType,
    /// `[n_tokens]`; what each token sees is in the cache.
    pub positions: &'a Slice<u32>,
    /// `[n_tokens][n_heads][head_dim]`.
    pub out: &'a Slice<f32>,
    /// Gets the softmax itself, `[n_heads][n_tokens][stride]`, of which only the keys seen are written; and the stride, which
    /// is above every position.
    pub probabilities: Option<(&'a Slice<f32>, usize)>,
    /// What scores are multiplied by.
    pub scale: f32,
    /// Makes a score, once scaled, cap · tanh(score / cap).
    pub soft_cap: Option<f32>,
    /// `[n_heads]`: a score for each head that joins the softmax as it is, with no value behind it.
    pub sinks: Option<&'a Slice<f32>>,
}

impl Gpu {
    /// out[token][head] = softmax(q · Kᵀ · scale) · V over the keys at positions up to positions[token].
    pub fn attention(&self, attention: &Attention) -> Result<(), GpuError> {
        let Attention { shape, q, keys, values, cache_type, positions, out, probabilities, scale, soft_cap, sinks } =
            *attention;
        let AttentionShape { n_tokens, n_heads, n_kv_heads, head_dim, n_context, window } = shape;
        assert!(n_kv_heads > 0 && n_heads.is_multiple_of(n_kv_heads), "{n_heads} heads over {n_kv_heads} KV heads");
        assert!(n_context > 0, "a cache without rows");
        cache_type.check_head_dim(head_dim).unwrap_or_else(|error| panic!("{error}"));
        let cache_len = cache_type.bytes(n_kv_heads * n_context, head_dim);
        expect_len("q", q, n_tokens * n_heads * head_dim);
        expect_len("keys", keys, cache_len);
        expect_len("values", values, cache_len);
        expect_len("positions", positions, n_tokens);
        expect_len("out", out, n_tokens * n_heads * head_dim);
        expect_aligned("q", q);
        expect_aligned("keys", keys);
        expect_aligned("values", values);
        sinks.inspect(|sinks| expect_len("sinks", sinks, n_heads));
        assert!(window != Some(0), "a sliding window holds at least the token itself");
        assert!(soft_cap.is_none_or(|cap| cap > 0.0), "a soft cap of {soft_cap:?}");
        let stride = probabilities.map_or(0, |(slice, stride)| {
            expect_len("probabilities", slice, n_heads * n_tokens * stride);
            stride
        });
        let grid = [count(n_heads), count(n_tokens), 1];
        macro_rules! launch {
            ($kernel:ident, $element:ty) => {
                // SAFETY: the slices hold what the contract asks for; the positions are the caller's promise, and a row is
                // within the cache whatever they are. The kernel waits before it reads.
                unsafe {
                    self.launch_early(
                        $kernel,
                        grid,
                        BLOCK,
                        (
                            q,
                            &*keys.cast::<$element>(),
                            &*values.cast::<$element>(),
                            positions,
                            sinks,
                            out,
                            probabilities.map(|(slice, _)| slice),
                            scale,
                            soft_cap.unwrap_or(0.0),
                            count(n_kv_heads),
                            count(head_dim),
                            count(n_context),
                            window.map_or(u32::MAX, count),
                            count(stride),
                        ),
                    )
                }
            };
        }
        match cache_type {
            CacheType::F32 => launch!(attention_f32, f32),
            CacheType::F16 => launch!(attention_f16, f16),
            CacheType::BF16 => launch!(attention_bf16, bf16),
            CacheType::Q8_0 => launch!(attention_q8_0, i8),
        }
    }
}
