//! F32, F16 and BF16: a block is one value.

use bytemuck::{Pod, Zeroable};

use super::{Block, Scale};
use crate::gguf::TensorType;

/// A single-precision value.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockF32(pub [u8; 4]);

/// A half-precision value.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockF16(pub [u8; 2]);

/// The upper half of a single-precision value.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockBf16(pub [u8; 2]);

impl Block for BlockF32 {
    const TYPE: TensorType = TensorType::F32;
    const SCALE: Scale = Scale::None;

    fn dequantise(&self, out: &mut [f32]) {
        out[0] = f32::from_le_bytes(self.0);
    }
}

impl Block for BlockF16 {
    const TYPE: TensorType = TensorType::F16;
    const SCALE: Scale = Scale::None;

    fn dequantise(&self, out: &mut [f32]) {
        out[0] = super::f16(self.0);
    }
}

impl Block for BlockBf16 {
    const TYPE: TensorType = TensorType::BF16;
    const SCALE: Scale = Scale::None;

    fn dequantise(&self, out: &mut [f32]) {
        out[0] = f32::from_le_bytes([0, 0, self.0[0], self.0[1]]);
    }
}
