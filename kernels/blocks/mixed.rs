//! Products with two matrices of different formats, one above the other: queries, keys and values, whose values have more bits
//! in many files.
//!
//! Each is [`gemv`](crate::gemv) of the first matrix in the first blocks of threads, and of the second in the others. A block has
//! one format, so the choice between them is made once and costs nothing but registers: a kernel has as many as the format that
//! needs most. So there are several, for the formats that llama.cpp's mixes put together (`llama_tensor_get_type` in
//! `llama-quant.cpp`): where 256 divides the rows, where it does not, and those with Q3_K, which needs more than the others.

use core::ptr::{null, null_mut};

use cuda_std::{kernel, thread};

use super::{Block, Integers, iq4, q2_k, q3_k, q4_k, q5, q5_k, q6_k, q8};
use crate::gemv::{Operands, Turns, gemv_turns};

/// A product with two formats, and what its launcher must know.
#[cfg(not(target_arch = "nvptx64"))]
pub struct MixedKernel {
    /// The formats that it has, by their types' numbers, which are ggml's.
    pub formats: &'static [u32],
    /// Blocks of eight warps that a multiprocessor has room for.
    pub resident: usize,
    /// The kernel.
    pub kernel: cuda_std::Kernel<Parameters>,
}

/// The parameters of a product with two formats.
#[cfg(not(target_arch = "nvptx64"))]
#[rustfmt::skip]
pub type Parameters = (
    *const u8, u32, u32, u32, *const u8, u32, u32, u32, *const f32, *const f32, f32, *const f32, *mut f32, u32, u32, u32,
);

macro_rules! mixed_kernels {
    ($($(#[$doc:meta])* $name:ident[$resident:literal]: $($block:ty),*;)*) => {
        $(
            $(#[$doc])*
            ///
            /// out = [first; second] · x (+ bias), x having gone through RMSNorm where `norm` is not null, with 8-bit activations.
            ///
            /// Launch: grid (> `first_grid`), of which the blocks before `first_grid` take turns over the first matrix's rows and the
            /// others over the second's; block (a multiple of 32 · 2^split, at most 32 · [`MAX_WARPS`](crate::gemv::MAX_WARPS));
            /// dynamic shared memory as `kernels::gemv::activations` says for 8 bits.
            ///
            /// # Safety
            /// - `first` and `second` are matrices of rows of `n_in` and of `first_rows` and `second_rows` rows, of formats by
            ///   their types' numbers, in planes as `kernels::blocks` says, `first_blocks` and `second_blocks` blocks in all,
            ///   16-byte aligned. `n_in ≥ 1` is a whole number of blocks of both; no number of rows is 0, nor is `first_grid`.
            /// - `x` is `[n_in]`, 16-byte aligned; `norm` null or such; `bias` null or `[first_rows + second_rows]`; `out` as long.
            #[kernel(threads = 256, blocks = $resident)]
            pub unsafe fn $name(
                first: *const u8,
                first_blocks: u32,
                first_format: u32,
                first_rows: u32,
                second: *const u8,
                second_blocks: u32,
                second_format: u32,
                second_rows: u32,
                x: *const f32,
                norm: *const f32,
                epsilon: f32,
                bias: *const f32,
                out: *mut f32,
                n_in: u32,
                first_grid: u32,
                split: u32,
            ) {
                let is_first = thread::block_idx_x() < first_grid;
                let operands = Operands {
                    weights: if is_first { first } else { second },
                    n_blocks: if is_first { first_blocks } else { second_blocks },
                    // Outputs are counted over both matrices, rows over each.
                    first_row: if is_first { 0 } else { first_rows.wrapping_neg() },
                    x,
                    quantised_x: null(),
                    norm,
                    epsilon,
                    bias,
                    residual: null(),
                    out,
                    quantised_out: null_mut(),
                    experts: null(),
                    n_in,
                    n_out: if is_first { first_rows } else { first_rows + second_rows },
                    to_up: 0,
                    share: 1,
                    split,
                };
                let turns = if is_first {
                    Turns { block: thread::block_idx_x(), n_blocks: first_grid, first: 0 }
                } else {
                    let n_blocks = thread::grid_dim_x() - first_grid;
                    Turns { block: thread::block_idx_x() - first_grid, n_blocks, first: first_rows }
                };
                let format = if is_first { first_format } else { second_format };
                $(
                    if format == <$block as Block>::TYPE {
                        return unsafe { gemv_turns::<Integers<$block>>(&operands, turns) };
                    }
                )*
            }
        )*

        /// The kernels of this file.
        #[cfg(not(target_arch = "nvptx64"))]
        pub const MIXED: &[MixedKernel] = &[
            $(MixedKernel { formats: &[$(<$block as Block>::TYPE),*], resident: $resident, kernel: $name },)*
        ];
    };
}

mixed_kernels! {
    /// Formats for rows of whole 256s.
    gemv_mixed_k[2]: q2_k::Q2K, q4_k::Q4K, q5_k::Q5K, q6_k::Q6K, q8::Q8_0, iq4::Iq4Xs;
    /// Formats for rows of whole 32s, and what IQ4_NL has beside it.
    gemv_mixed_32[2]: iq4::Iq4Nl, q5::Q5_0, q5::Q5_1, q8::Q8_0, q5_k::Q5K;
    /// Formats beside Q3_K.
    gemv_mixed_q3_k[1]: q3_k::Q3K, q2_k::Q2K, q4_k::Q4K, q5_k::Q5K, q8::Q8_0;
}
