//! Launches the kernels in `kernels/attention_decode/`.

use half::{bf16, f16};
use kernels::attention_decode::*;

use super::{AttentionShape, CacheType, NormAndRope, Output, count, expect_len, quantised_len};
use crate::gpu::{Gpu, GpuError, Slice, launch::Launch};

/// One token's attention, from its projections to the attended values; see [`Gpu::attention_decode`].
#[derive(Clone, Copy)]
pub struct AttentionDecode<'a> {
    /// One token; its heads, the cache's room, and the sliding window where there is one.
    pub shape: AttentionShape,
    /// `[n_heads + 2 · n_kv_heads][head_dim]`: queries, keys and values as the projections and their bias leave them.
    pub qkv: &'a Slice<f32>,
    /// `[1]`: the token's position, below `n_context`.
    pub position: &'a Slice<u32>,
    /// What becomes of queries and keys before attention.
    pub norm_and_rope: NormAndRope<'a>,
    /// What scores are multiplied by, besides the magnitude.
    pub scale: f32,
    /// The layer's caches, filled before the position.
    pub keys: &'a Slice<u8>,
    /// As `keys`.
    pub values: &'a Slice<u8>,
    /// Their type.
    pub cache_type: CacheType,
    /// Over how many blocks a head's positions are spread; at most [`MAX_SPLITS`]. Any number serves any position.
    pub n_splits: usize,
    /// What the splits leave for the one that merges them: [`AttentionScratch::parts`].
    pub parts: &'a Slice<f32>,
    /// [`AttentionScratch::arrivals`], all zero; zero again afterwards.
    pub arrivals: &'a Slice<u32>,
    /// `[n_heads][head_dim]`, as they are or as a product takes them quantised.
    pub out: Output<'a>,
}

/// The memory that a launch with several splits needs, in elements. Launches that run one after another share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionScratch {
    /// `f32`, of any content.
    pub parts: usize,
    /// `u32`, zero before the first launch.
    pub arrivals: usize,
}

impl AttentionScratch {
    /// For a model's heads and a number of splits.
    pub fn new(n_heads: usize, n_kv_heads: usize, head_dim: usize, n_splits: usize) -> AttentionScratch {
        // For blocks of few heads and of many, whichever the cache's type takes.
        let rows = |heads: usize| n_kv_heads * (n_heads / n_kv_heads).div_ceil(heads);
        let parts = |heads: usize| rows(heads) * n_splits * heads * (head_dim + 2);
        AttentionScratch { parts: parts(LANES_HEADS).max(parts(TENSOR_HEADS)), arrivals: rows(LANES_HEADS) }
    }
}

/// How attention in decoding is split while the number of keys that it sees stays within a bound. A captured launch is good
/// for every position of the bound, and is made anew beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySplits {
    /// Blocks that share a head's keys.
    pub n_splits: usize,
    /// The most keys, those of the sliding window where there is one.
    pub most_keys: usize,
}

/// Keys that one block attends to sooner than several do. A second block costs two trips through the L2 cache, to leave its
/// part there and to be counted, and one more to merge the parts, together about a microsecond; in which a block reads and
/// computes on some 200 keys.
const UNSPLIT: usize = 256;

/// Keys that are worth a block of their own: a tile on tensor cores for each of its eight warps, all loaded at once.
const KEYS_PER_SPLIT: usize = 128;

/// Blocks that a multiprocessor has room for at a time, by their registers. More would run one after another.
const BLOCKS_PER_MULTIPROCESSOR: usize = 2;

impl KeySplits {
    /// For `n_keys` keys, on a device of that many multiprocessors. Bounds are powers of two: within one at least half of
    /// the keys are there and every block has work, and a long generation passes few of them.
    pub fn new(n_keys: usize, n_heads: usize, n_kv_heads: usize, n_multiprocessors: usize) -> KeySplits {
        let most_keys = n_keys.next_power_of_two().max(UNSPLIT);
        if most_keys == UNSPLIT {
            return KeySplits { n_splits: 1, most_keys };
        }
        let blocks = n_kv_heads * (n_heads / n_kv_heads).div_ceil(TENSOR_HEADS);
        let room = (BLOCKS_PER_MULTIPROCESSOR * n_multiprocessors / blocks).clamp(1, MAX_SPLITS as usize);
        KeySplits { n_splits: room.min(most_keys / KEYS_PER_SPLIT), most_keys }
    }
}

impl Gpu {
    /// Norms over heads, RoPE, the new key and value into the cache at `position`, and
    /// out[head] = softmax(q[head] · Kᵀ · scale · magnitude) · V over the positions up to it, as [`Gpu::rmsnorm`], [`Gpu::rope`],
    /// [`Gpu::cache_store`] and [`Gpu::attention`] do for one token, in one launch.
    pub fn attention_decode(&self, operands: &AttentionDecode) -> Result<(), GpuError> {
        let AttentionDecode { shape, norm_and_rope, cache_type, n_splits, .. } = *operands;
        let NormAndRope { q_norm, k_norm, epsilon, frequencies, n_rot, magnitude, .. } = norm_and_rope;
        let AttentionShape { n_tokens, n_heads, n_kv_heads, head_dim, n_context, window } = shape;
        assert_eq!(n_tokens, 1, "decoding takes one token");
        assert!(n_kv_heads > 0 && n_heads.is_multiple_of(n_kv_heads), "{n_heads} heads over {n_kv_heads} KV heads");
        norm_and_rope.expect_head_dim(head_dim);
        assert!(window != Some(0), "a sliding window holds at least the token itself");
        assert!((1..=MAX_SPLITS as usize).contains(&n_splits), "{n_splits} splits, of at most {MAX_SPLITS}");
        let cache_len = cache_type.bytes(n_kv_heads * n_context, head_dim);
        expect_len("qkv", operands.qkv, (n_heads + 2 * n_kv_heads) * head_dim);
        expect_len("position", operands.position, 1);
        expect_len("keys", operands.keys, cache_len);
        expect_len("values", operands.values, cache_len);
        let (out, quantised_out) = match operands.out {
            Output::F32(out) => {
                expect_len("out", out, n_heads * head_dim);
                (Some(out), None)
            }
            Output::Quantised(out) => {
                expect_len("out", out, quantised_len(n_heads * head_dim));
                (None, Some(out))
            }
        };
        if n_splits > 1 {
            let scratch = AttentionScratch::new(n_heads, n_kv_heads, head_dim, n_splits);
            expect_len("parts", operands.parts, scratch.parts);
            expect_len("arrivals", operands.arrivals, scratch.arrivals);
        }
        let heads = heads(8 * cache_type.bytes(1, 32) / 32, head_dim);
        let grid = [count((n_heads / n_kv_heads).div_ceil(heads)), count(n_splits), count(n_kv_heads)];
        let launch = Launch::new(grid, BLOCK).early();
        macro_rules! launch {
            ($kernel:ident, $element:ty) => {
                // SAFETY: the slices hold what the contract asks for; the position, the cache's content and that the
                // arrivals are zero are the caller's promise.
                unsafe {
                    self.launch_as(
                        $kernel,
                        launch,
                        (
                            operands.qkv,
                            operands.position,
                            frequencies,
                            q_norm,
                            k_norm,
                            &*operands.keys.cast::<$element>(),
                            &*operands.values.cast::<$element>(),
                            out,
                            quantised_out,
                            operands.parts,
                            operands.arrivals,
                            epsilon,
                            operands.scale * magnitude,
                            magnitude,
                            count(n_kv_heads),
                            count(n_heads / n_kv_heads),
                            count(n_context),
                            window.map_or(u32::MAX, count),
                            count(n_rot),
                            norm_and_rope.neighbours(),
                        ),
                    )
                }
            };
        }
        match (cache_type, head_dim) {
            (CacheType::F32, 64) => launch!(attention_decode_f32_64, f32),
            (CacheType::F32, 80) => launch!(attention_decode_f32_80, f32),
            (CacheType::F32, 96) => launch!(attention_decode_f32_96, f32),
            (CacheType::F32, 128) => launch!(attention_decode_f32_128, f32),
            (CacheType::F32, 256) => launch!(attention_decode_f32_256, f32),
            (CacheType::F16, 64) => launch!(attention_decode_f16_64, f16),
            (CacheType::F16, 80) => launch!(attention_decode_f16_80, f16),
            (CacheType::F16, 96) => launch!(attention_decode_f16_96, f16),
            (CacheType::F16, 128) => launch!(attention_decode_f16_128, f16),
            (CacheType::F16, 256) => launch!(attention_decode_f16_256, f16),
            (CacheType::BF16, 64) => launch!(attention_decode_bf16_64, bf16),
            (CacheType::BF16, 80) => launch!(attention_decode_bf16_80, bf16),
            (CacheType::BF16, 96) => launch!(attention_decode_bf16_96, bf16),
            (CacheType::BF16, 128) => launch!(attention_decode_bf16_128, bf16),
            (CacheType::BF16, 256) => launch!(attention_decode_bf16_256, bf16),
            (CacheType::Q8_0, 64) => launch!(attention_decode_q8_0_64, i8),
            (CacheType::Q8_0, 96) => launch!(attention_decode_q8_0_96, i8),
            (CacheType::Q8_0, 128) => launch!(attention_decode_q8_0_128, i8),
            (CacheType::Q8_0, 256) => launch!(attention_decode_q8_0_256, i8),
            (_, other) => panic!("no attention kernel for a {cache_type} cache of {other} values"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_fill_the_device_where_there_are_keys_for_it() {
        let splits = |n_keys, n_heads, n_kv_heads| {
            let KeySplits { n_splits, most_keys } = KeySplits::new(n_keys, n_heads, n_kv_heads, 132);
            (n_splits, most_keys)
        };
        // Qwen2.5-0.5B, Qwen2.5-7B, Llama-3-8B and a model without grouped queries.
        assert_eq!(splits(1, 14, 2), (1, 256));
        assert_eq!(splits(256, 14, 2), (1, 256));
        assert_eq!(splits(257, 14, 2), (4, 512));
        assert_eq!(splits(32_768, 14, 2), (64, 32_768));
        assert_eq!(splits(4096, 28, 4), (32, 4096));
        assert_eq!(splits(4097, 28, 4), (64, 8192));
        assert_eq!(splits(100_000, 32, 8), (33, 131_072));
        assert_eq!(splits(4096, 32, 32), (8, 4096));
        // One multiprocessor is full with one split.
        assert_eq!(KeySplits::new(4096, 32, 8, 1).n_splits, 1);
    }
}
