//! The table of formats, and the kernels that each of them has.

use cuda_std::{F16, kernel};

#[cfg(not(target_arch = "nvptx64"))]
use super::Plane;
use super::{
    Block, Integers, Packed, WideIntegers, dequantise, embedding, exact, iq1, iq2, iq3, iq4, mxfp4, nvfp4, q2_k, q3_k,
    q4, q4_k, q5, q5_k, q6_k, q8, tq,
};
use crate::{
    gemm::gemm_kernels,
    gemv::{
        few::gemv_few,
        gemv, gemv_kernels,
        many::{gemv_many, gemv_many_kernels},
        sum::{gemv_sum, gemv_sum_kernels},
    },
};

/// The kernels of one block format, and what their launcher must know.
#[cfg(not(target_arch = "nvptx64"))]
pub struct BlockKernels {
    /// The number of the format's type, ggml's.
    pub tensor_type: u32,
    /// Values of a block.
    pub elements: usize,
    /// The fields.
    pub planes: &'static [Plane],
    /// Values that a lane takes at a time in the product with 8-bit activations.
    pub chunk: u32,
    /// Blocks of eight warps of that product that a multiprocessor has room for, by their registers.
    pub resident: usize,
    /// The product with 8-bit activations.
    pub gemv: cuda_std::Kernel<crate::gemv::Parameters>,
    /// The product with 16-bit activations.
    pub gemv_wide: cuda_std::Kernel<crate::gemv::Parameters>,
    /// The products of several vectors on tensor cores with 8-bit activations and with 16-bit ones, where chunks are a [`Bytes`](super::Bytes)'s.
    pub gemv_few: Option<[cuda_std::Kernel<crate::gemv::many::ManyParameters>; 2]>,
    /// The same on lanes, for formats with other chunks; those that unpack by tables have neither.
    pub gemv_many: Option<[cuda_std::Kernel<crate::gemv::many::ManyParameters>; 2]>,
    /// The products of a few tokens on tensor cores, for up to 8, 16, 32 and 64 of them in a block.
    pub gemm: [cuda_std::Kernel<crate::gemm::GemmParameters>; 4],
    /// The same for small matrices in an image for Hopper, where each group of warps has a unit: of the formats that most models have.
    pub gemm_apart: Option<[cuda_std::Kernel<crate::gemm::GemmParameters>; 4]>,
    /// The product with `f32` activations.
    pub gemv_exact: cuda_std::Kernel<crate::gemv::Parameters>,
    /// The products of a token with its experts, added up, with 8-bit activations: of the formats that mixtures of experts have.
    pub gemv_sum: Option<cuda_std::Kernel<crate::gemv::sum::SumParameters>>,
    /// The embedding row.
    pub embedding: cuda_std::Kernel<(*const u8, u32, *const u32, *mut f32, u32)>,
    /// The conversion to f16.
    pub dequantise: cuda_std::Kernel<(*const u8, u32, u32, *mut F16, u64)>,
}

/// All of so many kernels, where there are any.
#[cfg(not(target_arch = "nvptx64"))]
const fn all<P: Copy, const N: usize>(kernels: &[cuda_std::Kernel<P>]) -> Option<[cuda_std::Kernel<P>; N]> {
    if let Some(kernels) = kernels.first_chunk::<N>() { Some(*kernels) } else { None }
}

/// The one of at most one kernel.
#[cfg(not(target_arch = "nvptx64"))]
const fn one<P: Copy>(kernels: &[cuda_std::Kernel<P>]) -> Option<cuda_std::Kernel<P>> {
    if let [kernel] = kernels { Some(*kernel) } else { None }
}

macro_rules! formats {
    ($(
        $block:ty: $gemv:ident[$resident:literal] $gemv_wide:ident $gemv_exact:ident
        $embedding:ident $dequantise:ident $(sum $gemv_sum:ident)?
        $(few $gemv_few:ident $gemv_few_wide:ident)?
        $(many $gemv_many:ident $gemv_many_wide:ident)?
        gemm $gemm_8:ident $gemm_16:ident $gemm_32:ident $gemm_64:ident
        $(apart $apart_8:ident $apart_16:ident $apart_32:ident $apart_64:ident)?;
    )*) => {
        $(
            $(gemv_many_kernels! {
                /// A product of several vectors with packed blocks and 8-bit activations, on tensor cores.
                $gemv_few[512] => gemv_few::<$block, 1>;
                /// A product of several vectors with packed blocks and 16-bit activations, on tensor cores.
                $gemv_few_wide[512] => gemv_few::<$block, 2>;
            })?

            $(gemv_many_kernels! {
                /// A product of several vectors with packed blocks and 8-bit activations.
                $gemv_many[256] => gemv_many::<Integers<$block>>;
                /// A product of several vectors with packed blocks and 16-bit activations.
                $gemv_many_wide[256] => gemv_many::<WideIntegers<$block>>;
            })?

            gemm_kernels! {
                /// A product of a few tokens with packed blocks, 8 to a block.
                $gemm_8 => $block, warps 1 1, threads 256, groups 4 false;
                /// A product of a few tokens with packed blocks, 16 to a block.
                $gemm_16 => $block, warps 2 1, threads 256, groups 8 false;
                /// A product of a few tokens with packed blocks, 32 to a block.
                $gemm_32 => $block, warps 4 2, threads 128, groups 16 false;
                /// A product of a few tokens with packed blocks, 64 to a block.
                $gemm_64 => $block, warps 8 2, threads 128, groups 32 false;
            }

            $(gemm_kernels! {
                /// A product of a few tokens with a small matrix of packed blocks, 8 to a block.
                $apart_8 => $block, warps 1 1, threads 256, groups 4 true;
                /// A product of a few tokens with a small matrix of packed blocks, 16 to a block.
                $apart_16 => $block, warps 2 1, threads 256, groups 8 true;
                /// A product of a few tokens with a small matrix of packed blocks, 32 to a block.
                $apart_32 => $block, warps 4 2, threads 128, groups 16 true;
                /// A product of a few tokens with a small matrix of packed blocks, 64 to a block.
                $apart_64 => $block, warps 8 2, threads 128, groups 32 true;
            })?

            gemv_kernels! {
                /// A product with packed blocks and 8-bit activations.
                $gemv[$resident] => gemv::<Integers<$block>>;
                /// A product with packed blocks and 16-bit activations.
                $gemv_wide[$resident] => gemv::<WideIntegers<$block>>;
                /// A product with packed blocks and `f32` activations.
                $gemv_exact[1] => exact::<$block>;
            }

            $(gemv_sum_kernels! {
                /// Products with packed blocks and 8-bit activations, added up.
                $gemv_sum[$resident] => gemv_sum::<Integers<$block>>;
            })?

            /// out[token][..] = table[tokens[token]][..] from planes, with ggml's bits.
            ///
            /// Launch: grid (n_tokens), block ([`BLOCK`](super::BLOCK)).
            ///
            /// # Safety
            /// - `table` is the planes of `n_blocks` blocks, rows of `n_embd` values, `n_embd` a whole number of blocks; `tokens` is
            ///   `[n_tokens]` below the number of rows; `out` is `[n_tokens][n_embd]`, 16-byte aligned.
            #[kernel]
            pub unsafe fn $embedding(table: *const u8, n_blocks: u32, tokens: *const u32, out: *mut f32, n_embd: u32) {
                unsafe { embedding::<$block>(table, n_blocks, tokens, out, n_embd) }
            }

            /// out[i] = value i of block `first_block` and those behind it, rounded to f16.
            ///
            /// A thread takes eight values. Launch: grid (⌈n ÷ (GROUP · BLOCK)⌉), block ([`BLOCK`](super::BLOCK)).
            ///
            /// # Safety
            /// - `weights` is the planes of `n_blocks` blocks; `n` is the values of a whole number of blocks, at most those from
            ///   `first_block` on; `out` is `[n]`, 16-byte aligned.
            #[kernel]
            pub unsafe fn $dequantise(weights: *const u8, n_blocks: u32, first_block: u32, out: *mut F16, n: u64) {
                unsafe { dequantise::<$block>(weights, n_blocks, first_block, out, n) }
            }
        )*

        /// Every format's kernels.
        #[cfg(not(target_arch = "nvptx64"))]
        pub const FORMATS: &[BlockKernels] = &[
            $(BlockKernels {
                tensor_type: <$block as Block>::TYPE,
                elements: <$block as Block>::ELEMENTS,
                planes: <$block as Block>::PLANES,
                chunk: <$block as Packed>::CHUNK,
                resident: $resident,
                gemv: $gemv,
                gemv_wide: $gemv_wide,
                gemv_few: all(&[$($gemv_few, $gemv_few_wide)?]),
                gemv_many: all(&[$($gemv_many, $gemv_many_wide)?]),
                gemm: [$gemm_8, $gemm_16, $gemm_32, $gemm_64],
                gemm_apart: all(&[$($apart_8, $apart_16, $apart_32, $apart_64)?]),
                gemv_exact: $gemv_exact,
                gemv_sum: one(&[$($gemv_sum)?]),
                embedding: $embedding,
                dequantise: $dequantise,
            },)*
        ];
    };
}

formats! {
    q4::Q4_0: gemv_q4_0[2] gemv_wide_q4_0 gemv_exact_q4_0
        embedding_q4_0 dequantise_q4_0 sum gemv_sum_q4_0
        few gemv_few_q4_0 gemv_few_wide_q4_0
        gemm gemm_q4_0_8 gemm_q4_0_16 gemm_q4_0_32 gemm_q4_0_64
        apart gemm_apart_q4_0_8 gemm_apart_q4_0_16 gemm_apart_q4_0_32 gemm_apart_q4_0_64;
    q4::Q4_1: gemv_q4_1[2] gemv_wide_q4_1 gemv_exact_q4_1
        embedding_q4_1 dequantise_q4_1 sum gemv_sum_q4_1
        few gemv_few_q4_1 gemv_few_wide_q4_1
        gemm gemm_q4_1_8 gemm_q4_1_16 gemm_q4_1_32 gemm_q4_1_64;
    q5::Q5_0: gemv_q5_0[2] gemv_wide_q5_0 gemv_exact_q5_0
        embedding_q5_0 dequantise_q5_0 sum gemv_sum_q5_0
        few gemv_few_q5_0 gemv_few_wide_q5_0
        gemm gemm_q5_0_8 gemm_q5_0_16 gemm_q5_0_32 gemm_q5_0_64
        apart gemm_apart_q5_0_8 gemm_apart_q5_0_16 gemm_apart_q5_0_32 gemm_apart_q5_0_64;
    q5::Q5_1: gemv_q5_1[2] gemv_wide_q5_1 gemv_exact_q5_1
        embedding_q5_1 dequantise_q5_1 sum gemv_sum_q5_1
        few gemv_few_q5_1 gemv_few_wide_q5_1
        gemm gemm_q5_1_8 gemm_q5_1_16 gemm_q5_1_32 gemm_q5_1_64;
    q8::Q8_0: gemv_q8_0[2] gemv_wide_q8_0 gemv_exact_q8_0
        embedding_q8_0 dequantise_q8_0 sum gemv_sum_q8_0
        few gemv_few_q8_0 gemv_few_wide_q8_0
        gemm gemm_q8_0_8 gemm_q8_0_16 gemm_q8_0_32 gemm_q8_0_64
        apart gemm_apart_q8_0_8 gemm_apart_q8_0_16 gemm_apart_q8_0_32 gemm_apart_q8_0_64;
    q2_k::Q2K: gemv_q2_k[2] gemv_wide_q2_k gemv_exact_q2_k
        embedding_q2_k dequantise_q2_k sum gemv_sum_q2_k
        many gemv_many_q2_k gemv_many_wide_q2_k
        gemm gemm_q2_k_8 gemm_q2_k_16 gemm_q2_k_32 gemm_q2_k_64;
    q3_k::Q3K: gemv_q3_k[1] gemv_wide_q3_k gemv_exact_q3_k
        embedding_q3_k dequantise_q3_k sum gemv_sum_q3_k
        many gemv_many_q3_k gemv_many_wide_q3_k
        gemm gemm_q3_k_8 gemm_q3_k_16 gemm_q3_k_32 gemm_q3_k_64;
    q4_k::Q4K: gemv_q4_k[2] gemv_wide_q4_k gemv_exact_q4_k
        embedding_q4_k dequantise_q4_k sum gemv_sum_q4_k
        few gemv_few_q4_k gemv_few_wide_q4_k
        gemm gemm_q4_k_8 gemm_q4_k_16 gemm_q4_k_32 gemm_q4_k_64
        apart gemm_apart_q4_k_8 gemm_apart_q4_k_16 gemm_apart_q4_k_32 gemm_apart_q4_k_64;
    q5_k::Q5K: gemv_q5_k[2] gemv_wide_q5_k gemv_exact_q5_k
        embedding_q5_k dequantise_q5_k sum gemv_sum_q5_k
        few gemv_few_q5_k gemv_few_wide_q5_k
        gemm gemm_q5_k_8 gemm_q5_k_16 gemm_q5_k_32 gemm_q5_k_64
        apart gemm_apart_q5_k_8 gemm_apart_q5_k_16 gemm_apart_q5_k_32 gemm_apart_q5_k_64;
    q6_k::Q6K: gemv_q6_k[2] gemv_wide_q6_k gemv_exact_q6_k
        embedding_q6_k dequantise_q6_k sum gemv_sum_q6_k
        few gemv_few_q6_k gemv_few_wide_q6_k
        gemm gemm_q6_k_8 gemm_q6_k_16 gemm_q6_k_32 gemm_q6_k_64
        apart gemm_apart_q6_k_8 gemm_apart_q6_k_16 gemm_apart_q6_k_32 gemm_apart_q6_k_64;
    iq4::Iq4Nl: gemv_iq4_nl[2] gemv_wide_iq4_nl gemv_exact_iq4_nl
        embedding_iq4_nl dequantise_iq4_nl sum gemv_sum_iq4_nl
        few gemv_few_iq4_nl gemv_few_wide_iq4_nl
        gemm gemm_iq4_nl_8 gemm_iq4_nl_16 gemm_iq4_nl_32 gemm_iq4_nl_64;
    iq4::Iq4Xs: gemv_iq4_xs[2] gemv_wide_iq4_xs gemv_exact_iq4_xs
        embedding_iq4_xs dequantise_iq4_xs sum gemv_sum_iq4_xs
        few gemv_few_iq4_xs gemv_few_wide_iq4_xs
        gemm gemm_iq4_xs_8 gemm_iq4_xs_16 gemm_iq4_xs_32 gemm_iq4_xs_64;
    mxfp4::Mxfp4: gemv_mxfp4[2] gemv_wide_mxfp4 gemv_exact_mxfp4
        embedding_mxfp4 dequantise_mxfp4 sum gemv_sum_mxfp4
        few gemv_few_mxfp4 gemv_few_wide_mxfp4
        gemm gemm_mxfp4_8 gemm_mxfp4_16 gemm_mxfp4_32 gemm_mxfp4_64;
    iq1::Iq1S: gemv_iq1_s[2] gemv_wide_iq1_s gemv_exact_iq1_s
        embedding_iq1_s dequantise_iq1_s
        gemm gemm_iq1_s_8 gemm_iq1_s_16 gemm_iq1_s_32 gemm_iq1_s_64;
    iq1::Iq1M: gemv_iq1_m[2] gemv_wide_iq1_m gemv_exact_iq1_m
        embedding_iq1_m dequantise_iq1_m
        gemm gemm_iq1_m_8 gemm_iq1_m_16 gemm_iq1_m_32 gemm_iq1_m_64;
    iq2::Iq2Xxs: gemv_iq2_xxs[2] gemv_wide_iq2_xxs gemv_exact_iq2_xxs
        embedding_iq2_xxs dequantise_iq2_xxs sum gemv_sum_iq2_xxs
        gemm gemm_iq2_xxs_8 gemm_iq2_xxs_16 gemm_iq2_xxs_32 gemm_iq2_xxs_64;
    iq2::Iq2Xs: gemv_iq2_xs[2] gemv_wide_iq2_xs gemv_exact_iq2_xs
        embedding_iq2_xs dequantise_iq2_xs sum gemv_sum_iq2_xs
        gemm gemm_iq2_xs_8 gemm_iq2_xs_16 gemm_iq2_xs_32 gemm_iq2_xs_64;
    iq2::Iq2S: gemv_iq2_s[2] gemv_wide_iq2_s gemv_exact_iq2_s
        embedding_iq2_s dequantise_iq2_s sum gemv_sum_iq2_s
        gemm gemm_iq2_s_8 gemm_iq2_s_16 gemm_iq2_s_32 gemm_iq2_s_64;
    iq3::Iq3Xxs: gemv_iq3_xxs[2] gemv_wide_iq3_xxs gemv_exact_iq3_xxs
        embedding_iq3_xxs dequantise_iq3_xxs sum gemv_sum_iq3_xxs
        gemm gemm_iq3_xxs_8 gemm_iq3_xxs_16 gemm_iq3_xxs_32 gemm_iq3_xxs_64;
    iq3::Iq3S: gemv_iq3_s[1] gemv_wide_iq3_s gemv_exact_iq3_s
        embedding_iq3_s dequantise_iq3_s sum gemv_sum_iq3_s
        gemm gemm_iq3_s_8 gemm_iq3_s_16 gemm_iq3_s_32 gemm_iq3_s_64;
    tq::Tq1_0: gemv_tq1_0[2] gemv_wide_tq1_0 gemv_exact_tq1_0
        embedding_tq1_0 dequantise_tq1_0
        gemm gemm_tq1_0_8 gemm_tq1_0_16 gemm_tq1_0_32 gemm_tq1_0_64;
    tq::Tq2_0: gemv_tq2_0[2] gemv_wide_tq2_0 gemv_exact_tq2_0
        embedding_tq2_0 dequantise_tq2_0
        gemm gemm_tq2_0_8 gemm_tq2_0_16 gemm_tq2_0_32 gemm_tq2_0_64;
    nvfp4::Nvfp4: gemv_nvfp4[2] gemv_wide_nvfp4 gemv_exact_nvfp4
        embedding_nvfp4 dequantise_nvfp4 sum gemv_sum_nvfp4
        few gemv_few_nvfp4 gemv_few_wide_nvfp4
        gemm gemm_nvfp4_8 gemm_nvfp4_16 gemm_nvfp4_32 gemm_nvfp4_64;
}
