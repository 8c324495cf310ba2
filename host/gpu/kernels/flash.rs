//! Launches the kernels in `kernels/flash/`.

use std::f32::consts::LOG2_E;

use half::{bf16, f16};
use kernels::flash::*;

use super::{AttentionShape, CacheType, PageTables, count, expect_len};
use crate::gpu::{Gpu, GpuError, Slice};

/// The tokens of a pass by sequence: each chunk is at consecutive positions of one.
#[derive(Clone, Copy)]
pub struct Chunks<'a> {
    /// `[n_chunks + 1]`, ascending: the first token of each, and the number of all.
    pub starts: &'a Slice<u32>,
    /// Tokens of the longest.
    pub longest: usize,
}

impl Chunks<'_> {
    /// How many there are.
    pub fn n(&self) -> usize {
        self.starts.len() - 1
    }
}

/// How many rows a warp of flash attention takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlashRows {
    /// 16: for every shape.
    One,
    /// 32, which halves the reading of shared memory: for a cache of f16, heads of 64, and neither a sliding window nor anything in
    /// [`FlashScores`].
    Two,
}

/// What becomes of scores besides the softmax.
#[derive(Clone, Copy, Default)]
pub struct FlashScores<'a> {
    /// `[n_heads]`: a score of each head that takes part in the softmax and has no value.
    pub sinks: Option<&'a Slice<f32>>,
    /// Scores become cap · tanh(score / cap), before the factor log₂ e.
    pub soft_cap: Option<f32>,
}

impl FlashScores<'_> {
    /// Whether nothing does.
    fn are_plain(&self) -> bool {
        self.sinks.is_none() && self.soft_cap.is_none()
    }
}

impl FlashRows {
    /// Rows of a block.
    fn of_block(self) -> usize {
        let fragments = if self == FlashRows::Two { 2 } else { 1 };
        fragments * (ROWS * N_WARPS) as usize
    }

    /// The more, behind `n_past` other tokens, where there are blocks enough for the device's multiprocessors all the same. On the
    /// diagonal of a prompt's beginning smaller tiles waste less: of 2048 tokens the more rows take 57 µs, not 52, behind
    /// none, and 435 µs, not 507, behind 14336 (H200, heads of Qwen2.5-0.5B).
    pub fn choose(
        shape: AttentionShape,
        scores: FlashScores,
        n_past: usize,
        cache_type: CacheType,
        multiprocessors: usize,
    ) -> FlashRows {
        let AttentionShape { n_tokens, n_heads, n_kv_heads, head_dim, window, .. } = shape;
        let can = cache_type == CacheType::F16 && head_dim == 64 && window.is_none() && scores.are_plain();
        let blocks = n_kv_heads * (n_tokens * (n_heads / n_kv_heads)).div_ceil(FlashRows::Two.of_block());
        if can && n_past >= 2 * n_tokens && 2 * blocks >= 3 * multiprocessors { FlashRows::Two } else { FlashRows::One }
    }
}

impl Gpu {
    /// out[token][head] = out_scale · softmax₂(q · Kᵀ) · V in f16 over the keys of the token's sequence at positions up to its own, which
    /// are in the cache. `q` is of the cache's type, f16 or bf16, times whatever scale the scores have
    /// and log₂ e: softmax₂ takes powers of two. `rows` is for speed: [`FlashRows::choose`].
    #[allow(clippy::too_many_arguments)]
    pub fn flash(
        &self,
        shape: AttentionShape,
        q: &Slice<u16>,
        keys: &Slice<u8>,
        values: &Slice<u8>,
        cache_type: CacheType,
        positions: &Slice<u32>,
        pages: PageTables,
        chunks: Chunks,
        out: &Slice<f16>,
        out_scale: f32,
        scores: FlashScores,
        rows: FlashRows,
    ) -> Result<(), GpuError> {
        let AttentionShape { n_tokens, n_heads, n_kv_heads, head_dim, window, .. } = shape;
        assert!(n_kv_heads > 0 && n_heads.is_multiple_of(n_kv_heads), "{n_heads} heads over {n_kv_heads} KV heads");
        let cache_len = shape.cache_bytes(cache_type);
        pages.expect(n_tokens);
        assert!(chunks.n() > 0 && (1..=n_tokens).contains(&chunks.longest), "{} of {n_tokens} tokens", chunks.longest);
        let n_elements = n_tokens * n_heads * head_dim;
        assert!(u32::try_from(n_elements).is_ok(), "{n_elements} elements of queries");
        expect_len("q", q, n_elements);
        expect_len("keys", keys, cache_len);
        expect_len("values", values, cache_len);
        expect_len("positions", positions, n_tokens);
        expect_len("out", out, n_elements);
        scores.sinks.inspect(|sinks| expect_len("sinks", sinks, n_heads));
        assert!(scores.soft_cap.is_none_or(|cap| cap > 0.0), "a soft cap is positive");
        let cap = scores.soft_cap.map_or(0.0, |cap| cap * LOG2_E);
        let cap_rate = scores.soft_cap.map_or(0.0, |_| 2.0 * LOG2_E / cap);
        assert!(window != Some(0), "a sliding window holds at least the token itself");
        let ratio = n_heads / n_kv_heads;
        let grid = [count(n_kv_heads), count((chunks.longest * ratio).div_ceil(rows.of_block())), count(chunks.n())];
        macro_rules! launch {
            ($kernel:ident, $element:ty) => {
                // SAFETY: the kernel waits before it reads; the slices hold what the contract asks for; positions, slots,
                // tables and chunks are the caller's promise.
                unsafe {
                    self.launch_early(
                        $kernel,
                        grid,
                        BLOCK,
                        (
                            &*q.cast::<$element>(),
                            &*keys.cast::<$element>(),
                            &*values.cast::<$element>(),
                            positions,
                            pages.tables,
                            pages.slots,
                            chunks.starts,
                            out,
                            out_scale,
                            count(ratio),
                            count(pages.stride),
                            window.map_or(u32::MAX, count),
                            scores.sinks,
                            cap,
                            cap_rate,
                        ),
                    )
                }
            };
        }
        if rows == FlashRows::Two {
            assert!(
                cache_type == CacheType::F16 && head_dim == 64 && window.is_none() && scores.are_plain(),
                "{rows:?} fragments: {shape:?}"
            );
            return launch!(flash_f16_64_wide, f16);
        }
        match (cache_type, head_dim) {
            (CacheType::F16, 64) => launch!(flash_f16_64, f16),
            (CacheType::F16, 80) => launch!(flash_f16_80, f16),
            (CacheType::F16, 96) => launch!(flash_f16_96, f16),
            (CacheType::F16, 128) => launch!(flash_f16_128, f16),
            (CacheType::F16, 256) => launch!(flash_f16_256, f16),
            (CacheType::BF16, 64) => launch!(flash_bf16_64, bf16),
            (CacheType::BF16, 80) => launch!(flash_bf16_80, bf16),
            (CacheType::BF16, 96) => launch!(flash_bf16_96, bf16),
            (CacheType::BF16, 128) => launch!(flash_bf16_128, bf16),
            (CacheType::BF16, 256) => launch!(flash_bf16_256, bf16),
            (_, other) => panic!("no flash attention for a {cache_type} cache of {other} values"),
        }
    }
}
