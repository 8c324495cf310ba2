//! Products of a few tokens with weights in f16 and bf16.
//!
//! A chunk is the 64 bytes of 32 values, four loads of a lane. f16 are what tensor cores take; bf16 become f16 in registers, rounded to nearest where f16 has
//! fewer bits for them, and infinite beyond its range, as where a whole matrix is converted ([`range`](crate::range)).

use core::marker::PhantomData;

use cuda_std::{BF16, F16, integer, memory::load_constant_16, mma::Operand as _};

use super::{Weights, gemm_kernels};
use crate::blocks::Masks;

/// Rows of floats of this type.
#[derive(Clone, Copy)]
pub struct Floats<T>(PhantomData<T>);

/// A float of 16 bits: pairs of f16 from four neighbours, which are two words.
pub trait Float: Copy {
    /// The first and the third, the second and the fourth.
    fn every_second(four: [u32; 2]) -> [u32; 2];

    /// The first two, the last two.
    fn neighbours(four: [u32; 2]) -> [u32; 2];
}

impl Float for F16 {
    #[inline(always)]
    fn every_second([low, high]: [u32; 2]) -> [u32; 2] {
        [integer::pick_bytes(low, high, 0x5410), integer::pick_bytes(low, high, 0x7632)]
    }

    #[inline(always)]
    fn neighbours(four: [u32; 2]) -> [u32; 2] {
        four
    }
}

/// The bf16 in the lower half of a word, and that in the upper one: the upper halves of `f32`.
#[inline(always)]
fn two_bf16(word: u32) -> [f32; 2] {
    [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)]
}

impl Float for BF16 {
    #[inline(always)]
    fn every_second([low, high]: [u32; 2]) -> [u32; 2] {
        let ([a, b], [c, d]) = (two_bf16(low), two_bf16(high));
        [F16::pack(a, c), F16::pack(b, d)]
    }

    #[inline(always)]
    fn neighbours(four: [u32; 2]) -> [u32; 2] {
        four.map(
            #[inline(always)]
            |word| {
                let [a, b] = two_bf16(word);
                F16::pack(a, b)
            },
        )
    }
}

/// Values 4 · index to 4 · index + 3 of a chunk.
#[inline(always)]
fn four(bits: [[u32; 4]; 4], index: usize) -> [u32; 2] {
    [bits[index / 2][index % 2 * 2], bits[index / 2][index % 2 * 2 + 1]]
}

impl<T: Float> Weights for Floats<T> {
    const IS_SCALED: bool = false;
    // A step alone is 64 KB of a multiprocessor's.
    const MOST_IN_PAIRS: [usize; 2] = [0, 32];
    const MOST_IN_TURN: usize = 32;
    const MOST_IN_SLOTS: usize = 8;
    type Source = *const [u8; 16];
    type Bits = [[u32; 4]; 4];

    #[inline(always)]
    fn source(weights: *const u8, _n_blocks: u32) -> *const [u8; 16] {
        weights.cast()
    }

    #[inline(always)]
    unsafe fn load(source: *const [u8; 16], chunk: u32) -> [[u32; 4]; 4] {
        // Two loads share a sector of 32 bytes: the second finds it in the L1 cache.
        let piece = |index: usize| unsafe { load_constant_16(source.add(4 * chunk as usize + index)) };
        [piece(0), piece(1), piece(2), piece(3)]
    }

    #[inline(always)]
    fn scales(_bits: [[u32; 4]; 4], _chunk: u32) -> [[u32; 2]; 2] {
        [[0; 2]; 2]
    }

    #[inline(always)]
    fn every_second(bits: [[u32; 4]; 4], index: usize, _masks: Masks) -> [u32; 2] {
        T::every_second(four(bits, index))
    }

    #[inline(always)]
    fn neighbours(bits: [[u32; 4]; 4], index: usize) -> [u32; 2] {
        T::neighbours(four(bits, index))
    }
}

/// The kernels of one type of floats.
#[cfg(not(target_arch = "nvptx64"))]
pub struct FloatKernels {
    /// For up to 8, 16, 32 and 64 tokens in a block.
    pub gemm: [cuda_std::Kernel<super::GemmParameters>; 4],
    /// The same for small matrices, as a format's.
    pub gemm_apart: [cuda_std::Kernel<super::GemmParameters>; 4],
}

macro_rules! floats {
    ($(
        $(#[$doc:meta])* $table:ident: $element:ty, $what:literal,
        gemm $gemm_8:ident $gemm_16:ident $gemm_32:ident $gemm_64:ident
        apart $apart_8:ident $apart_16:ident $apart_32:ident $apart_64:ident;
    )*) => {$(
        gemm_kernels! {
            #[doc = concat!("A product of a few tokens with ", $what, ", 8 to a block.")]
            $gemm_8 => Floats<$element>, warps 1 1, threads 256, groups 4 false;
            #[doc = concat!("A product of a few tokens with ", $what, ", 16 to a block.")]
            $gemm_16 => Floats<$element>, warps 2 1, threads 256, groups 8 false;
            #[doc = concat!("A product of a few tokens with ", $what, ", 32 to a block.")]
            $gemm_32 => Floats<$element>, warps 4 2, threads 128, groups 16 false;
            #[doc = concat!("A product of a few tokens with ", $what, ", 64 to a block.")]
            $gemm_64 => Floats<$element>, warps 8 2, threads 128, groups 32 false;
            #[doc = concat!("A product of a few tokens with a small matrix of ", $what, ", 8 to a block.")]
            $apart_8 => Floats<$element>, warps 1 1, threads 256, groups 4 true;
            #[doc = concat!("A product of a few tokens with a small matrix of ", $what, ", 16 to a block.")]
            $apart_16 => Floats<$element>, warps 2 1, threads 256, groups 8 true;
            #[doc = concat!("A product of a few tokens with a small matrix of ", $what, ", 32 to a block.")]
            $apart_32 => Floats<$element>, warps 4 2, threads 128, groups 16 true;
            #[doc = concat!("A product of a few tokens with a small matrix of ", $what, ", 64 to a block.")]
            $apart_64 => Floats<$element>, warps 8 2, threads 128, groups 32 true;
        }

        $(#[$doc])*
        #[cfg(not(target_arch = "nvptx64"))]
        pub const $table: FloatKernels = FloatKernels {
            gemm: [$gemm_8, $gemm_16, $gemm_32, $gemm_64],
            gemm_apart: [$apart_8, $apart_16, $apart_32, $apart_64],
        };
    )*};
}

floats! {
    /// The kernels of f16.
    OF_F16: F16, "f16",
        gemm gemm_f16_8 gemm_f16_16 gemm_f16_32 gemm_f16_64
        apart gemm_apart_f16_8 gemm_apart_f16_16 gemm_apart_f16_32 gemm_apart_f16_64;
    /// The kernels of bf16.
    OF_BF16: BF16, "bf16",
        gemm gemm_bf16_8 gemm_bf16_16 gemm_bf16_32 gemm_bf16_64
        apart gemm_apart_bf16_8 gemm_apart_bf16_16 gemm_apart_bf16_32 gemm_apart_bf16_64;
}
