//! Launches the kernels in `kernels/attention.rs`.

use half::{bf16, f16};
use kernels::attention::*;

use super::{CacheType, PAGE, count, expect_aligned, expect_len};
use crate::gpu::{Gpu, GpuError, Slice};

/// The head sizes that the fast attention kernels, `attention_decode` and `flash`, exist for. [`Gpu::attention`] takes any that
/// the cache does.
pub const HEAD_DIMS: [usize; 5] = [64, 80, 96, 128, 256];

/// The shapes of one attention: queries `[n_tokens][n_heads][head_dim]` over a layer's cache
/// `[n_pages][n_kv_heads][PAGE][head_dim]`.
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
    /// Pages of the cache, of [`PAGE`](super::PAGE) positions each.
    pub n_pages: usize,
    /// How many positions a token sees, its own included; all before it where there is no window.
    pub window: Option<usize>,
}

/// Which pages of a layer's cache have the positions of each token's sequence.
#[derive(Clone, Copy)]
pub struct PageTables<'a> {
    /// `[n_slots][stride]`: page tables, entry p / [`PAGE`](super::PAGE) for position p.
    pub tables: &'a Slice<u32>,
    /// Entries of a table.
    pub stride: usize,
    /// `[n_tokens]`: whose table is each token's.
    pub slots: &'a Slice<u32>,
}

impl PageTables<'_> {
    /// Fails where there are not so many tokens, or is no table.
    pub(super) fn expect(&self, n_tokens: usize) {
        expect_len("slots", self.slots, n_tokens);
        expect_len("page tables", self.tables, self.stride);
    }
}

impl AttentionShape {
    /// Bytes of the keys, or of the values.
    pub fn cache_bytes(&self, cache_type: CacheType) -> usize {
        cache_type.bytes(self.n_pages * self.n_kv_heads * PAGE, self.head_dim)
    }
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
    /// Where.
    pub pages: PageTables<'a>,
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
        let Attention { shape, q, keys, values, cache_type, positions, pages, out, probabilities, .. } = *attention;
        let Attention { scale, soft_cap, sinks, .. } = *attention;
        let AttentionShape { n_tokens, n_heads, n_kv_heads, head_dim, n_pages, window } = shape;
        assert!(n_kv_heads > 0 && n_heads.is_multiple_of(n_kv_heads), "{n_heads} heads over {n_kv_heads} KV heads");
        cache_type.check_head_dim(head_dim).unwrap_or_else(|error| panic!("{error}"));
        let cache_len = shape.cache_bytes(cache_type);
        pages.expect(n_tokens);
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
                // SAFETY: the slices hold what the contract asks for; positions, slots and tables are the caller's promise. The
                // kernel waits before it reads.
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
                            pages.tables,
                            pages.slots,
                            sinks,
                            out,
                            probabilities.map(|(slice, _)| slice),
                            scale,
                            soft_cap.unwrap_or(0.0),
                            count(n_kv_heads),
                            count(head_dim),
                            count(pages.stride),
                            count(n_pages),
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
