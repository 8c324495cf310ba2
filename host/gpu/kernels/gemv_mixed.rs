//! Launches the products with two formats in `kernels/blocks/mixed.rs`.

use kernels::{
    blocks::mixed::{MIXED, MixedKernel},
    gemv::{ROWS, activations::bytes_q8},
};

use super::{
    blocks::block_format,
    count, expect_len,
    gemv::{Gemv, Spread, spread},
};
use crate::gpu::{Activations, Gpu, GpuError, Rows, Slice, Weights, launch::Launch};

/// A product with all of a matrix's parts, each of its own type.
#[derive(Clone, Copy)]
pub struct GemvParts<'a> {
    /// One matrix, `[n_out][n_in]`.
    pub weights: &'a Weights,
    /// `[n_in]`.
    pub x: &'a Slice<f32>,
    /// RMSNorm of x before the product: its weights `[n_in]` and ε.
    pub norm: Option<(&'a Slice<f32>, f32)>,
    /// `[n_out]`.
    pub bias: Option<&'a Slice<f32>>,
    /// `[n_out]`.
    pub out: &'a Slice<f32>,
    /// What quantised weights are multiplied with.
    pub activations: Activations,
}

impl GemvParts<'_> {
    /// The two parts that one launch can take together, and its kernel.
    fn pair(&self) -> Option<(&'static MixedKernel, [Rows<'_>; 2])> {
        let mut parts = self.weights.rows_of_parts();
        let (Some(first), Some(second), None) = (parts.next(), parts.next(), parts.next()) else {
            return None;
        };
        let has = |mixed: &&MixedKernel, rows: &Rows| mixed.formats.contains(&rows.tensor_type().name());
        let mixed = MIXED.iter().find(|mixed| has(mixed, &first) && has(mixed, &second))?;
        (self.activations == Activations::Q8).then_some((mixed, [first, second]))
    }
}

impl GemvParts<'_> {
    /// How the launch that takes two parts together is spread, where there is one: its blocks are not.
    pub(super) fn spread(&self, multiprocessors: usize) -> Option<Spread> {
        let (mixed, pair) = self.pair()?;
        let SpreadMixed { blocks, warps, split } =
            spread_mixed(pair.map(|rows| quads_and_chunks(&rows)), multiprocessors, mixed.resident);
        Some(Spread { blocks: blocks[0] + blocks[1], warps, split })
    }
}

impl Gpu {
    /// Enqueues a product with one vector: one launch where the matrix is of one type, or of two with 8-bit activations
    /// that some kernel has together; else a launch for each type.
    pub fn gemv_parts(&self, parts: &GemvParts) -> Result<(), GpuError> {
        let GemvParts { weights, x, norm, bias, out, activations } = *parts;
        assert_eq!(weights.n_matrices, 1, "a matrix, not a stack");
        expect_len("out", out, weights.n_out);
        bias.inspect(|bias| expect_len("bias", bias, weights.n_out));
        if let Some((mixed, pair)) = parts.pair() {
            return self.gemv_mixed(parts, mixed, pair);
        }
        let mut row = 0;
        for rows in weights.rows_of_parts() {
            let range = row..row + rows.n_out;
            row = range.end;
            let bias = bias.map(|bias| bias.slice(range.clone()));
            let out = out.slice(range);
            self.gemv(&Gemv { norm, bias: bias.as_deref(), ..Gemv::new(rows, x, &out).activations(activations) })?;
        }
        Ok(())
    }

    fn gemv_mixed(&self, parts: &GemvParts, mixed: &MixedKernel, [first, second]: [Rows; 2]) -> Result<(), GpuError> {
        let GemvParts { weights, x, norm, bias, out, .. } = *parts;
        let n_in = weights.n_in;
        assert!(x.address().is_multiple_of(16), "x starts on a 16-byte boundary");
        expect_len("x", x, n_in);
        norm.inspect(|(norm, _)| expect_len("norm", norm, n_in));
        let spread =
            spread_mixed([first, second].map(|rows| quads_and_chunks(&rows)), self.multiprocessors(), mixed.resident);
        let [first, second] = [first, second].map(|rows| {
            let name = rows.tensor_type().name();
            let format = mixed.formats.iter().position(|format| *format == name).expect("as in `pair`");
            (rows.part(), count(rows.blocks_of_part()), count(format), count(rows.n_out))
        });
        let arguments = (
            &*first.0,
            first.1,
            first.2,
            first.3,
            &*second.0,
            second.1,
            second.2,
            second.3,
            x,
            norm.map(|(norm, _)| norm),
            norm.map_or(0.0, |(_, epsilon)| epsilon),
            bias,
            out,
            count(n_in),
            spread.blocks[0],
            spread.split,
        );
        let launch = Launch::new([spread.blocks[0] + spread.blocks[1], 1, 1], 32 * spread.warps);
        // SAFETY: the slices hold what the contract asks for; allocations and parts are 256-byte aligned, rows whole blocks, as
        // the file's reader checked.
        unsafe { self.launch_as(mixed.kernel, launch.shared_bytes(bytes_q8(count(n_in))).early(), arguments) }
    }
}

/// Fours of rows, and chunks of a row.
fn quads_and_chunks(rows: &Rows) -> (usize, usize) {
    let chunk = block_format(rows.tensor_type()).chunk as usize;
    (rows.n_out.div_ceil(ROWS as usize), rows.n_in().div_ceil(chunk))
}

/// How a product with two parts is spread over the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SpreadMixed {
    /// Blocks for each part.
    blocks: [u32; 2],
    /// Warps of a block.
    warps: u32,
    /// 2^split warps take turns over the chunks of a row.
    split: u32,
}

/// Spreads two parts, given by their fours of rows and the chunks of a row: as if they were one of the shorter rows, and every
/// block with as many turns.
fn spread_mixed(parts: [(usize, usize); 2], multiprocessors: usize, resident: usize) -> SpreadMixed {
    let [(first, first_chunks), (second, second_chunks)] = parts;
    let chunks = first_chunks.min(second_chunks);
    let Spread { blocks, warps, split } = spread(first + second, chunks, multiprocessors, resident, false);
    let tiles = |quads: usize| quads.div_ceil(warps as usize >> split);
    let turns = tiles(first + second).div_ceil(blocks as usize);
    SpreadMixed { blocks: [first, second].map(|quads| count(tiles(quads).div_ceil(turns))), warps, split }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_shared_by_the_rows() {
        // Queries, keys and values of Qwen2.5-0.5B on an H200: Q5_0 with Q8_0.
        let spread = spread_mixed([(256, 28), (32, 56)], 132, 2);
        assert_eq!(spread, SpreadMixed { blocks: [64, 8], warps: 4, split: 0 });
        // Of 7B: Q4_K with Q6_K, two warps to four rows, and two turns.
        let spread = spread_mixed([(1024, 112), (128, 224)], 132, 2);
        assert_eq!(spread, SpreadMixed { blocks: [128, 16], warps: 8, split: 1 });
        // One four of rows has a block.
        assert_eq!(spread_mixed([(1, 8), (1, 8)], 132, 2).blocks, [1, 1]);
    }

    /// The pairs that llama.cpp's mixes make of queries and keys, and values.
    #[test]
    fn the_mixes_of_files_have_a_kernel() {
        let pairs = "Q2_K Q3_K, Q2_K Q4_K, Q3_K Q4_K, Q3_K Q5_K, Q4_K Q5_K, Q4_K Q6_K, Q5_K Q6_K, IQ4_XS Q5_K, IQ4_NL Q5_K, \
            IQ4_NL Q5_0, IQ4_NL Q5_1, Q5_0 Q5_1, Q5_0 Q8_0, Q5_1 Q8_0, Q4_K Q8_0, Q5_K Q8_0, Q3_K Q8_0, Q6_K Q8_0";
        for pair in pairs.split(", ") {
            let (first, second) = pair.split_once(' ').unwrap();
            let has_both = |mixed: &MixedKernel| [first, second].iter().all(|name| mixed.formats.contains(name));
            assert!(MIXED.iter().any(has_both), "{pair}");
        }
    }
}
