//! Block formats: how values are packed, and how to get them back.
//!
//! A quantised row is a sequence of blocks. Each block holds small integers and one or two half-precision scales; the larger
//! "K" blocks of 256 values also hold a scale for each 16 or 32 of them, relative to the block's own. The layouts are those of
//! ggml-common.h; every struct here has the same bytes in the same places, and no alignment, so a row can be viewed anywhere in a
//! file. All numbers are little-endian.
//!
//! Dequantising computes in single precision, in the order in which ggml does: the results are the same bits. A new type is a
//! struct with [`Block`] implemented, and a row in [`dequantise`].

mod iq4;
mod k_scales;
mod mxfp4;
mod plain;
mod q2_k;
mod q3_k;
mod q4;
mod q4_k;
mod q5;
mod q5_k;
mod q6_k;
mod q8;

use crate::gguf::TensorType;

pub use iq4::{BlockIq4Nl, BlockIq4Xs};
pub use mxfp4::BlockMxfp4;
pub use plain::{BlockBf16, BlockF16, BlockF32};
pub use q2_k::BlockQ2K;
pub use q3_k::BlockQ3K;
pub use q4::{BlockQ4_0, BlockQ4_1};
pub use q4_k::BlockQ4K;
pub use q5::{BlockQ5_0, BlockQ5_1};
pub use q5_k::BlockQ5K;
pub use q6_k::BlockQ6K;
pub use q8::BlockQ8_0;

/// One block of a tensor type, exactly as it lies in a file.
pub trait Block: bytemuck::Pod {
    /// The type whose block this is.
    const TYPE: TensorType;

    /// Writes the block's values to `out`: `TYPE.block_elements()` of them.
    fn dequantise(&self, out: &mut [f32]);
}

/// Writes the values packed in `bytes` to `out`.
///
/// # Panics
/// If `bytes` is not exactly the blocks of `out.len()` values.
pub fn dequantise(tensor_type: TensorType, bytes: &[u8], out: &mut [f32]) {
    match tensor_type {
        TensorType::F32 => blocks::<BlockF32>(bytes, out),
        TensorType::F16 => blocks::<BlockF16>(bytes, out),
        TensorType::BF16 => blocks::<BlockBf16>(bytes, out),
        TensorType::Q8_0 => blocks::<BlockQ8_0>(bytes, out),
        TensorType::Q4_0 => blocks::<BlockQ4_0>(bytes, out),
        TensorType::Q4_1 => blocks::<BlockQ4_1>(bytes, out),
        TensorType::Q5_0 => blocks::<BlockQ5_0>(bytes, out),
        TensorType::Q5_1 => blocks::<BlockQ5_1>(bytes, out),
        TensorType::Q2_K => blocks::<BlockQ2K>(bytes, out),
        TensorType::Q3_K => blocks::<BlockQ3K>(bytes, out),
        TensorType::Q4_K => blocks::<BlockQ4K>(bytes, out),
        TensorType::Q5_K => blocks::<BlockQ5K>(bytes, out),
        TensorType::Q6_K => blocks::<BlockQ6K>(bytes, out),
        TensorType::IQ4_NL => blocks::<BlockIq4Nl>(bytes, out),
        TensorType::IQ4_XS => blocks::<BlockIq4Xs>(bytes, out),
        TensorType::MXFP4 => blocks::<BlockMxfp4>(bytes, out),
    }
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
