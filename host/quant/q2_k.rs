//! Q2_K: 256 values of 2 bits, in 16 groups of 16 with a 4-bit scale and a 4-bit minimum each.

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use super::{Block, Scale, f16};
use crate::gguf::TensorType;

/// `value = d · scale · q − dmin · minimum`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ2K {
    /// Group `g`'s scale in the low half, its minimum in the high half.
    pub scales: [u8; 16],
    /// Two halves of 128 values, 32 bytes each. In a half, value `32·s + l` is bits `2s` and `2s + 1` of byte `l`.
    pub qs: [u8; 64],
    /// Scale of the scales, half precision.
    pub d: [u8; 2],
    /// Scale of the minima, half precision.
    pub dmin: [u8; 2],
}

impl Block for BlockQ2K {
    const TYPE: TensorType = TensorType::Q2_K;
    const SCALE: Scale =
        Scale::Halves { deviation: 13.87, at: offset_of!(BlockQ2K, d), second: offset_of!(BlockQ2K, dmin), ratio: 1.5 };

    fn dequantise(&self, out: &mut [f32]) {
        let (d, dmin) = (f16(self.d), f16(self.dmin));
        for (group, out) in out.chunks_exact_mut(16).enumerate() {
            let scale = d * f32::from(self.scales[group] & 15);
            let minimum = dmin * f32::from(self.scales[group] >> 4);
            let (half, shift, first) = (group / 8, group % 8 / 2 * 2, group % 2 * 16);
            for (l, out) in out.iter_mut().enumerate() {
                let q = self.qs[half * 32 + first + l] >> shift & 3;
                *out = scale * f32::from(q) - minimum;
            }
        }
    }
}
