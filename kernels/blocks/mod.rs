//! Products with, rows of and conversions from quantised weights, on the packed blocks as they lie in the file.
//!
//! A quantised row is a sequence of blocks; a block holds small integers and their scales. A [`Block`] says how a thread
//! gets eight neighbouring values of one, and the three kernels below are written once over that: the matrix–vector
//! product, the embedding row and the conversion to f16 that feeds cuBLAS. A new type is a file here and a row in the table
//! at the end.
//!
//! Values are computed in `f32` in the order in which ggml does it, without fused operations: they have the same bits.

mod iq4;
mod k_scales;
mod mxfp4;
mod q2_k;
mod q3_k;
mod q4;
mod q4_k;
mod q5;
mod q5_k;
mod q6_k;
mod q8;

use cuda_std::{F16, float, kernel, memory::Vector16, thread, types::pack_f16};

use crate::gemv::Operands;

/// The number of threads of a block in all three kernels.
pub const BLOCK: u32 = 128;

/// Values that a thread takes at a time.
pub const GROUP: usize = 8;

/// A block format. Layouts are those of ggml-common.h; nothing is aligned beyond what is said.
pub trait Block {
    /// Values in a block.
    const ELEMENTS: usize;
    /// Bytes of a block.
    const BYTES: usize;

    /// Values `8 · group` to `8 · group + 7` of a block.
    ///
    /// # Safety
    /// - `block` leads to `BYTES` bytes in global memory, `group < ELEMENTS / 8`.
    unsafe fn values(block: *const u8, group: usize) -> [f32; GROUP];
}

/// The two bytes at `address`, little-endian, wherever it lies.
///
/// # Safety
/// - `address` leads to two bytes.
#[inline(always)]
unsafe fn load_u16(address: *const u8) -> u16 {
    unsafe { u16::from(*address) | u16::from(*address.add(1)) << 8 }
}

/// The half-precision number at `address`.
///
/// # Safety
/// - `address` leads to two bytes.
#[inline(always)]
unsafe fn load_f16(address: *const u8) -> f32 {
    F16::from_bits(unsafe { load_u16(address) }).to_f32()
}

/// Eight values from a function of their index, unrolled.
#[inline(always)]
fn eight(value: impl Fn(usize) -> f32) -> [f32; GROUP] {
    let mut values = [0.0; GROUP];
    let mut index = 0;
    while index < GROUP {
        values[index] = value(index);
        index += 1;
    }
    values
}

/// Values of group `group` of a row.
#[inline(always)]
unsafe fn values_of_row<B: Block>(row: *const u8, group: usize) -> [f32; GROUP] {
    let groups = const { B::ELEMENTS / GROUP };
    unsafe { B::values(row.add(group / groups * B::BYTES), group % groups) }
}

#[inline(always)]
unsafe fn gemv<B: Block>(operands: Operands<u8>) {
    let Some(place) = (unsafe { operands.warp_row() }) else {
        return;
    };
    let n_in = operands.n_in as usize;
    let start = unsafe { operands.weights.add(place.row * (n_in / B::ELEMENTS * B::BYTES)) };
    let mut part = 0.0;
    let mut group = thread::lane() as usize;
    while group < n_in / GROUP {
        let values = unsafe { values_of_row::<B>(start, group) };
        let Vector16(low) = unsafe { *place.x.add(group * GROUP).cast::<Vector16>() };
        let Vector16(high) = unsafe { *place.x.add(group * GROUP + 4).cast::<Vector16>() };
        let mut index = 0;
        while index < 4 {
            part = float::fma(values[index], f32::from_bits(low[index]), part);
            part = float::fma(values[index + 4], f32::from_bits(high[index]), part);
            index += 1;
        }
        group += 32;
    }
    unsafe { operands.finish(&place, part) }
}

#[inline(always)]
unsafe fn embedding<B: Block>(table: *const u8, tokens: *const u32, out: *mut f32, n_embd: u32) {
    let token = thread::block_idx_x() as usize;
    let row_bytes = n_embd as usize / B::ELEMENTS * B::BYTES;
    let row = unsafe { table.add(*tokens.add(token) as usize * row_bytes) };
    let mut group = thread::thread_idx_x() as usize;
    while group < n_embd as usize / GROUP {
        let values = unsafe { values_of_row::<B>(row, group) };
        let target = unsafe { out.add(token * n_embd as usize + group * GROUP).cast::<Vector16>() };
        let four = |first: usize| Vector16([0, 1, 2, 3].map(|index| values[first + index].to_bits()));
        unsafe {
            *target = four(0);
            *target.add(1) = four(4);
        }
        group += BLOCK as usize;
    }
}

#[inline(always)]
unsafe fn dequantise<B: Block>(weights: *const u8, out: *mut F16, n: u64) {
    let group = u64::from(thread::block_idx_x()) * u64::from(BLOCK) + u64::from(thread::thread_idx_x());
    if group * GROUP as u64 >= n {
        return;
    }
    let values = unsafe { values_of_row::<B>(weights, group as usize) };
    let halves = Vector16([0, 2, 4, 6].map(|index| pack_f16(values[index], values[index + 1])));
    unsafe { *out.add(group as usize * GROUP).cast::<Vector16>() = halves }
}

/// The parameters of the products, as in `gemv.rs`.
#[cfg(not(target_arch = "nvptx64"))]
pub type GemvParameters = (*const u8, *const u32, *const f32, *const f32, *const f32, *mut f32, u32, u32, u32);

/// The kernels of one block format.
#[cfg(not(target_arch = "nvptx64"))]
pub struct BlockKernels {
    /// The format's name, ggml's.
    pub name: &'static str,
    /// The matrix–vector product.
    pub gemv: cuda_std::Kernel<GemvParameters>,
    /// The embedding row.
    pub embedding: cuda_std::Kernel<(*const u8, *const u32, *mut f32, u32)>,
    /// The conversion to f16.
    pub dequantise: cuda_std::Kernel<(*const u8, *mut F16, u64)>,
}

macro_rules! formats {
    ($($name:literal, $block:ty: $gemv:ident $embedding:ident $dequantise:ident;)*) => {
        $(
            /// The product of `gemv.rs` on packed blocks.
            ///
            /// A warp takes a row. Launch: grid (⌈n_out ÷ ROWS_PER_BLOCK⌉, n_vectors), block ([`BLOCK`]).
            ///
            /// # Safety
            /// - As for the kernels in `gemv.rs`, but that each row of `weights` is `n_in` values in blocks, `n_in` a whole
            ///   number of them.
            #[kernel]
            pub unsafe fn $gemv(
                weights: *const u8,
                experts: *const u32,
                x: *const f32,
                bias: *const f32,
                residual: *const f32,
                out: *mut f32,
                n_in: u32,
                n_out: u32,
                share: u32,
            ) {
                unsafe { gemv::<$block>(Operands { weights, experts, x, bias, residual, out, n_in, n_out, share }) }
            }

            /// out[token][..] = table[tokens[token]][..] from packed blocks, with ggml's bits.
            ///
            /// Launch: grid (n_tokens), block ([`BLOCK`]).
            ///
            /// # Safety
            /// - `table` is rows of `n_embd` values in blocks, `n_embd` a whole number of them; `tokens` is `[n_tokens]`
            ///   below the number of rows; `out` is `[n_tokens][n_embd]`, 16-byte aligned.
            #[kernel]
            pub unsafe fn $embedding(table: *const u8, tokens: *const u32, out: *mut f32, n_embd: u32) {
                unsafe { embedding::<$block>(table, tokens, out, n_embd) }
            }

            /// out[i] = value i of the packed blocks, rounded to f16.
            ///
            /// A thread takes eight values. Launch: grid (⌈n ÷ (GROUP · BLOCK)⌉), block ([`BLOCK`]).
            ///
            /// # Safety
            /// - `weights` is `n` values in blocks, `n` a whole number of them; `out` is `[n]`, 16-byte aligned.
            #[kernel]
            pub unsafe fn $dequantise(weights: *const u8, out: *mut F16, n: u64) {
                unsafe { dequantise::<$block>(weights, out, n) }
            }
        )*

        /// Every format's kernels.
        #[cfg(not(target_arch = "nvptx64"))]
        pub const FORMATS: &[BlockKernels] = &[
            $(BlockKernels { name: $name, gemv: $gemv, embedding: $embedding, dequantise: $dequantise },)*
        ];

        /// The kernels above, for the registry.
        #[cfg(not(target_arch = "nvptx64"))]
        pub const KERNELS: &[cuda_std::KernelInfo] = &[
            $($gemv.info(), $embedding.info(), $dequantise.info(),)*
        ];
    };
}

formats! {
    "Q4_0", q4::Q4_0: gemv_q4_0 embedding_q4_0 dequantise_q4_0;
    "Q4_1", q4::Q4_1: gemv_q4_1 embedding_q4_1 dequantise_q4_1;
    "Q5_0", q5::Q5_0: gemv_q5_0 embedding_q5_0 dequantise_q5_0;
    "Q5_1", q5::Q5_1: gemv_q5_1 embedding_q5_1 dequantise_q5_1;
    "Q8_0", q8::Q8_0: gemv_q8_0 embedding_q8_0 dequantise_q8_0;
    "Q2_K", q2_k::Q2K: gemv_q2_k embedding_q2_k dequantise_q2_k;
    "Q3_K", q3_k::Q3K: gemv_q3_k embedding_q3_k dequantise_q3_k;
    "Q4_K", q4_k::Q4K: gemv_q4_k embedding_q4_k dequantise_q4_k;
    "Q5_K", q5_k::Q5K: gemv_q5_k embedding_q5_k dequantise_q5_k;
    "Q6_K", q6_k::Q6K: gemv_q6_k embedding_q6_k dequantise_q6_k;
    "IQ4_NL", iq4::Iq4Nl: gemv_iq4_nl embedding_iq4_nl dequantise_iq4_nl;
    "IQ4_XS", iq4::Iq4Xs: gemv_iq4_xs embedding_iq4_xs dequantise_iq4_xs;
    "MXFP4", mxfp4::Mxfp4: gemv_mxfp4 embedding_mxfp4 dequantise_mxfp4;
}
