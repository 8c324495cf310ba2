//! Block formats: how values are packed, and how to get them back.
//!
//! A quantised row is a sequence of blocks. Each block holds small integers and one or two half-precision scales; the larger
//! "K" blocks of 256 values also hold a scale for each 16 or 32 of them, relative to the block's own. The layouts are those of
//! ggml-common.h; every struct here has the same bytes in the same places, and no alignment, so a row can be viewed anywhere in a
//! file. All numbers are little-endian.
//!
//! Dequantising computes in single precision, in the order in which ggml does: the results are the same bits. A new type is a
//! struct with [`Block`] implemented, and a row in the table below.

mod iq1;
mod iq2;
mod iq3;
mod iq4;
mod k_scales;
mod mxfp4;
mod nvfp4;
mod plain;
mod q2_k;
mod q3_k;
mod q4;
mod q4_k;
mod q5;
mod q5_k;
mod q6_k;
mod q8;
mod tq;

use crate::gguf::TensorType;

/// One block of a tensor type, exactly as it lies in a file.
pub trait Block: bytemuck::Pod {
    /// The type whose block this is.
    const TYPE: TensorType;
    /// Where its scale is: what whoever makes blocks of random bits must set.
    const SCALE: Scale;

    /// Writes the block's values to `out`: `TYPE.block_elements()` of them.
    fn dequantise(&self, out: &mut [f32]);
}

/// The scale of a type's blocks. All other bits of a block may be anything.
///
/// `deviation` is the root mean square of the block's values where the scale is 1 and the other bits are random.
#[derive(Clone, Copy, Debug)]
pub enum Scale {
    /// None: the values are floats.
    None,
    /// A half-precision number at byte `at`.
    Half {
        /// As above.
        deviation: f64,
        /// Its first byte.
        at: usize,
    },
    /// Two half-precision numbers: the scale, and a minimum or an offset.
    Halves {
        /// As above, the second number centring the values.
        deviation: f64,
        /// The scale's first byte.
        at: usize,
        /// The second number's first byte.
        second: usize,
        /// What it is to the scale, where it centres the values.
        ratio: f64,
    },
    /// A half-precision number in four pieces, the lowest first: the upper half-bytes of the 16-bit words at byte `at`.
    Pieces {
        /// As above.
        deviation: f64,
        /// The first word's first byte.
        at: usize,
    },
    /// Bytes that scale a part of the block each.
    Bytes {
        /// As above.
        deviation: f64,
        /// The first byte.
        at: usize,
        /// How many there are.
        n: usize,
        /// The byte that is nearest to a scale.
        nearest: fn(f64) -> u8,
    },
}

macro_rules! block_types {
    ($($variant:ident $block:ty;)*) => {
        /// Writes the values packed in `bytes` to `out`.
        ///
        /// # Panics
        /// If `bytes` is not exactly the blocks of `out.len()` values.
        pub fn dequantise(tensor_type: TensorType, bytes: &[u8], out: &mut [f32]) {
            match tensor_type {
                $(TensorType::$variant => blocks::<$block>(bytes, out),)*
            }
        }

        /// The scale of a type's blocks.
        pub const fn scale(tensor_type: TensorType) -> Scale {
            match tensor_type {
                $(TensorType::$variant => <$block>::SCALE,)*
            }
        }
    };
}

block_types! {
    F32 plain::BlockF32;
    F16 plain::BlockF16;
    BF16 plain::BlockBf16;
    Q8_0 q8::BlockQ8_0;
    Q4_0 q4::BlockQ4_0;
    Q4_1 q4::BlockQ4_1;
    Q5_0 q5::BlockQ5_0;
    Q5_1 q5::BlockQ5_1;
    Q2_K q2_k::BlockQ2K;
    Q3_K q3_k::BlockQ3K;
    Q4_K q4_k::BlockQ4K;
    Q5_K q5_k::BlockQ5K;
    Q6_K q6_k::BlockQ6K;
    IQ1_S iq1::BlockIq1S;
    IQ1_M iq1::BlockIq1M;
    IQ2_XXS iq2::BlockIq2Xxs;
    IQ2_XS iq2::BlockIq2Xs;
    IQ2_S iq2::BlockIq2S;
    IQ3_XXS iq3::BlockIq3Xxs;
    IQ3_S iq3::BlockIq3S;
    IQ4_NL iq4::BlockIq4Nl;
    IQ4_XS iq4::BlockIq4Xs;
    TQ1_0 tq::BlockTq1_0;
    TQ2_0 tq::BlockTq2_0;
    MXFP4 mxfp4::BlockMxfp4;
    NVFP4 nvfp4::BlockNvfp4;
}

fn blocks<B: Block>(bytes: &[u8], out: &mut [f32]) {
    const {
        assert!(size_of::<B>() as u64 == B::TYPE.block_bytes(), "a block has the size its type says");
        assert!(align_of::<B>() == 1, "a block can lie anywhere in a file");
    }
    let elements = B::TYPE.block_elements() as usize;
    let blocks: &[B] = bytemuck::cast_slice(bytes);
    assert_eq!(blocks.len() * elements, out.len(), "{} blocks of {}", blocks.len(), B::TYPE);
    for (block, out) in blocks.iter().zip(out.chunks_exact_mut(elements)) {
        block.dequantise(out);
    }
}

/// A half-precision number from its bytes.
fn f16(bytes: [u8; 2]) -> f32 {
    half::f16::from_le_bytes(bytes).to_f32()
}
