//! Launches the kernels in `kernels/attention_decode/`.

use half::{bf16, f16};
use kernels::attention_decode::*;

use super::{AttentionShape, CacheType, NormAndRope, Order, PageTables, count, expect_len, quantised_len};
use crate::gpu::{Gpu, GpuError, Slice, launch::Launch};

/// The attention of tokens of some sequences, from their projections to the attended values; see [`Gpu::attention_decode`].
#[derive(Clone, Copy)]
pub struct AttentionDecode<'a> {
    /// The tokens; their heads, the cache's pages, and the sliding window where there is one.
    pub shape: AttentionShape,
    /// `[n_tokens][qkv_stride]`, of which the first are `[n_heads + 2 · n_kv_heads][head_dim]`: queries, keys and values as the
    /// projections and their bias leave them.
    pub qkv: &'a Slice<f32>,
    /// Values from a token's projections to the next one's.
    pub qkv_stride: usize,
    /// `[n_tokens]`.
    pub positions: &'a Slice<u32>,
    /// Where each sequence's positions are.
    pub pages: PageTables<'a>,
    /// What becomes of queries and keys before attention.
    pub norm_and_rope: NormAndRope<'a>,
    /// What scores are multiplied by, besides the magnitude.
    pub scale: f32,
    /// The layer's caches, filled before the positions.
    pub keys: &'a Slice<u8>,
    /// As `keys`.
    pub values: &'a Slice<u8>,
    /// Their type.
    pub cache_type: CacheType,
    /// Over how many blocks a head's positions are spread, of the token that sees most.
    pub splits: KeySplits,
    /// What the splits leave for the one that merges them: [`AttentionScratch::parts`].
    pub parts: &'a Slice<f32>,
    /// [`AttentionScratch::arrivals`], all zero; zero again afterwards.
    pub arrivals: &'a Slice<u32>,
    /// `[n_tokens][n_heads][head_dim]`.
    pub out: Attended<'a>,
    /// Whether some of the tokens are neighbours in one sequence and see each other's keys: then these are stored by a launch of their own.
    pub shares_sequences: bool,
}

/// Where attended values go.
#[derive(Clone, Copy)]
pub enum Attended<'a> {
    /// As they are.
    F32(&'a Slice<f32>),
    /// As a product takes each token's: 8-bit integers with a scale for each 16, [`quantised_len`] words.
    Quantised(&'a Slice<u32>),
    /// Multiplied by a number, as products on tensor cores take them.
    F16(&'a Slice<f16>, f32, Order),
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
    /// For so many tokens of a model with these heads, and a number of splits.
    pub fn new(
        n_tokens: usize,
        n_heads: usize,
        n_kv_heads: usize,
        head_dim: usize,
        n_splits: usize,
    ) -> AttentionScratch {
        // For blocks of few heads and of many, whichever the cache's type takes.
        let rows = |heads: usize| n_tokens * n_kv_heads * (n_heads / n_kv_heads).div_ceil(heads);
        let parts = |heads: usize| rows(heads) * n_splits * heads * (head_dim + 2);
        AttentionScratch { parts: parts(LANES_HEADS).max(parts(TENSOR_HEADS)), arrivals: rows(LANES_HEADS) }
    }
}

/// How attention in decoding is split while the number of keys that it sees stays within a bound. A captured launch is good
/// for every position of the bound, and is made anew beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySplits {
    /// Blocks that share a head's keys, at most.
    pub n_splits: usize,
    /// The most blocks that any number of keys has on this device: with it, and with
    pub room: usize,
    /// how many keys are worth one, a token's position alone says how its keys are split.
    pub keys_per_split: usize,
}

/// Blocks that a multiprocessor has room for at a time, by their registers. More would run one after another.
const BLOCKS_PER_MULTIPROCESSOR: usize = 2;

impl KeySplits {
    /// For `n_keys` keys of a sequence that has the device for itself, one of that many multiprocessors.
    pub fn new(n_keys: usize, n_heads: usize, n_kv_heads: usize, n_multiprocessors: usize) -> KeySplits {
        KeySplits::by(KEYS_PER_SPLIT, n_keys, n_heads, n_kv_heads, n_multiprocessors)
    }

    /// For `n_keys` keys of one of many sequences.
    pub fn of_many(n_keys: usize, n_heads: usize, n_kv_heads: usize, n_multiprocessors: usize) -> KeySplits {
        KeySplits::by(KEYS_PER_SPLIT_OF_MANY, n_keys, n_heads, n_kv_heads, n_multiprocessors)
    }

    fn by(per_split: u32, n_keys: usize, n_heads: usize, n_kv_heads: usize, n_multiprocessors: usize) -> KeySplits {
        let blocks = n_kv_heads * (n_heads / n_kv_heads).div_ceil(TENSOR_HEADS);
        let room = (BLOCKS_PER_MULTIPROCESSOR * n_multiprocessors / blocks).clamp(1, MAX_SPLITS as usize);
        let n_splits = n_splits(count(n_keys), count(room), per_split) as usize;
        KeySplits { n_splits, room, keys_per_split: per_split as usize }
    }
}

impl Gpu {
    /// Norms over heads, RoPE, the new keys and values into the cache at `positions`, and
    /// out[token][head] = softmax(q[head] · Kᵀ · scale · magnitude) · V over the positions up to the token's, as [`Gpu::rmsnorm`],
    /// [`Gpu::rope`], [`Gpu::cache_store`] and [`Gpu::attention`] do, in one launch, or two where
    /// tokens share a sequence. A token's values do not depend on the others.
    pub fn attention_decode(&self, operands: &AttentionDecode) -> Result<(), GpuError> {
        let AttentionDecode { shape, norm_and_rope, cache_type, splits, pages, qkv_stride, .. } = *operands;
        let NormAndRope { q_norm, k_norm, epsilon, frequencies, n_rot, magnitude, .. } = norm_and_rope;
        let AttentionShape { n_tokens, n_heads, n_kv_heads, head_dim, n_pages, window } = shape;
        let KeySplits { n_splits, room, keys_per_split } = splits;
        assert!(n_kv_heads > 0 && n_heads.is_multiple_of(n_kv_heads), "{n_heads} heads over {n_kv_heads} KV heads");
        norm_and_rope.expect_head_dim(head_dim);
        let (growth_scale, growth_length) = norm_and_rope.growth();
        assert!(window != Some(0), "a sliding window holds at least the token itself");
        assert!((1..=MAX_SPLITS as usize).contains(&room), "{room} splits, of at most {MAX_SPLITS}");
        assert!((1..=room).contains(&n_splits), "{n_splits} splits, of at most {room}");
        assert!(
            keys_per_split.is_power_of_two() && keys_per_split >= STEP as usize,
            "{keys_per_split} keys for a split: expected a power of two"
        );
        let cache_len = shape.cache_bytes(cache_type);
        let row = (n_heads + 2 * n_kv_heads) * head_dim;
        assert!(qkv_stride >= row && qkv_stride.is_multiple_of(4), "{qkv_stride} values between projections of {row}");
        expect_len("qkv", operands.qkv, (n_tokens - 1) * qkv_stride + row);
        expect_len("positions", operands.positions, n_tokens);
        pages.expect(n_tokens);
        expect_len("keys", operands.keys, cache_len);
        expect_len("values", operands.values, cache_len);
        let n_values = n_tokens * n_heads * head_dim;
        let (mut out, mut quantised_out, mut out_f16, mut out_scale, mut in_steps) = (None, None, None, 1.0, false);
        match operands.out {
            Attended::F32(values) => {
                expect_len("out", values, n_values);
                out = Some(values);
            }
            Attended::Quantised(words) => {
                expect_len("out", words, n_tokens * quantised_len(n_heads * head_dim));
                quantised_out = Some(words);
            }
            Attended::F16(values, scale, order) => {
                expect_len("out", values, n_values);
                order.expect(n_heads * head_dim);
                (out_f16, out_scale, in_steps) = (Some(values), scale, order == Order::Steps);
            }
        }
        if n_splits > 1 {
            let scratch = AttentionScratch::new(n_tokens, n_heads, n_kv_heads, head_dim, n_splits);
            expect_len("parts", operands.parts, scratch.parts);
            expect_len("arrivals", operands.arrivals, scratch.arrivals);
        }
        let heads = heads(8 * cache_type.bytes(1, 32) / 32, head_dim);
        let rows = count(n_tokens * n_kv_heads);
        let grid = |x| Launch::new([x, count(n_splits), rows], BLOCK);
        let all = grid(count((n_heads / n_kv_heads).div_ceil(heads)));
        // The kernel loads keys before it waits: where the launch before it writes them it may not begin sooner.
        let parts: &[(u32, Launch)] = if operands.shares_sequences {
            &[(STORE, grid(1).early()), (ATTEND, all)]
        } else {
            &[(WHOLE, all.early())]
        };
        macro_rules! launch {
            ($kernel:ident, $element:ty) => {
                // SAFETY: the slices hold what the contract asks for; positions, slots, tables, the cache's content
                // and that the arrivals are zero are the caller's promise.
                parts.iter().try_for_each(|(part, launch)| unsafe {
                    self.launch_as(
                        $kernel,
                        *launch,
                        (
                            operands.qkv,
                            operands.positions,
                            pages.tables,
                            pages.slots,
                            frequencies,
                            q_norm,
                            k_norm,
                            &*operands.keys.cast::<$element>(),
                            &*operands.values.cast::<$element>(),
                            out,
                            quantised_out,
                            out_f16,
                            operands.parts,
                            operands.arrivals,
                            epsilon,
                            operands.scale * magnitude,
                            growth_scale,
                            magnitude,
                            count(n_kv_heads),
                            count(n_heads / n_kv_heads),
                            count(qkv_stride),
                            count(pages.stride),
                            count(n_pages),
                            count(room),
                            count(keys_per_split),
                            window.map_or(u32::MAX, count),
                            count(n_rot),
                            norm_and_rope.neighbours(),
                            growth_length,
                            *part,
                            out_scale,
                            u32::from(in_steps),
                        ),
                    )
                })
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
        let splits = |n_keys, n_heads, n_kv_heads| KeySplits::new(n_keys, n_heads, n_kv_heads, 132).n_splits;
        // Qwen2.5-0.5B, Qwen2.5-7B, Llama-3-8B and a model without grouped queries.
        assert_eq!(splits(1, 14, 2), 1);
        assert_eq!(splits(256, 14, 2), 1);
        assert_eq!(splits(257, 14, 2), 4);
        assert_eq!(splits(32_768, 14, 2), 64);
        assert_eq!(splits(4096, 28, 4), 32);
        assert_eq!(splits(4097, 28, 4), 64);
        assert_eq!(splits(100_000, 32, 8), 33);
        assert_eq!(splits(4096, 32, 32), 8);
        // Of many sequences' keys twice as many are a block's.
        let of_many = |n_keys, n_heads, n_kv_heads| KeySplits::of_many(n_keys, n_heads, n_kv_heads, 132).n_splits;
        assert_eq!(of_many(512, 28, 4), 1);
        assert_eq!(of_many(513, 28, 4), 4);
        assert_eq!(of_many(4096, 28, 4), 16);
        assert_eq!(of_many(32_768, 14, 2), 64);
        // One multiprocessor is full with one split.
        assert_eq!(KeySplits::new(4096, 32, 8, 1).n_splits, 1);
    }
}
