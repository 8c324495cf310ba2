//! Q4_0 and Q4_1: 32 values of 4 bits. Byte `j` holds value `j` in its low half and value `j + 16` in its high half.

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use super::{Block, Scale, f16};
use crate::gguf::TensorType;

/// `value = d · (q − 8)`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4_0 {
    /// Scale, half precision.
    pub d: [u8; 2],
    /// Values `j` and `j + 16`.
    pub qs: [u8; 16],
}

/// `value = d · q + m`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4_1 {
    /// Scale, half precision.
    pub d: [u8; 2],
    /// Minimum, half precision.
    pub m: [u8; 2],
    /// Values `j` and `j + 16`.
    pub qs: [u8; 16],
}

impl Block for BlockQ4_0 {
    const TYPE: TensorType = TensorType::Q4_0;
    const SCALE: Scale = Scale::Half { deviation: 4.64, at: offset_of!(BlockQ4_0, d) };

    fn dequantise(&self, out: &mut [f32]) {
        let d = f16(self.d);
        for (j, q) in self.qs.iter().enumerate() {
            out[j] = d * (i32::from(q & 15) - 8) as f32;
            out[j + 16] = d * (i32::from(q >> 4) - 8) as f32;
        }
    }
}

impl Block for BlockQ4_1 {
    const TYPE: TensorType = TensorType::Q4_1;
    const SCALE: Scale =
        Scale::Halves { deviation: 4.61, at: offset_of!(BlockQ4_1, d), second: offset_of!(BlockQ4_1, m), ratio: -7.5 };

    fn dequantise(&self, out: &mut [f32]) {
        let (d, m) = (f16(self.d), f16(self.m));
        for (j, q) in self.qs.iter().enumerate() {
            out[j] = d * f32::from(q & 15) + m;
            out[j + 16] = d * f32::from(q >> 4) + m;
        }
    }
}
