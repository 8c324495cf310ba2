//! Q6_K: 256 values of 6 bits, in 16 groups of 16 with an 8-bit scale each.

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use super::{Block, Scale, f16};
use crate::gguf::TensorType;

/// `value = d · scale · (q − 32)`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ6K {
    /// Two halves of 128 values, 64 bytes each. In a half, byte `l` holds the low four bits of values `l` and, above, `64 + l`.
    pub ql: [u8; 128],
    /// The upper two bits, 32 bytes for each half: value `32·s + l` of a half has bits `2s` and `2s + 1` of byte `l`.
    pub qh: [u8; 64],
    /// Scale of each 16 values.
    pub scales: [i8; 16],
    /// Scale of the scales, half precision.
    pub d: [u8; 2],
}

impl Block for BlockQ6K {
    const TYPE: TensorType = TensorType::Q6_K;
    const SCALE: Scale = Scale::Half { deviation: 1365.7, at: offset_of!(BlockQ6K, d) };

    fn dequantise(&self, out: &mut [f32]) {
        let d = f16(self.d);
        for (group, out) in out.chunks_exact_mut(16).enumerate() {
            let scale = d * f32::from(self.scales[group]);
            let half = group / 8;
            for (l, out) in out.iter_mut().enumerate() {
                // The value's place in its half.
                let i = group % 8 * 16 + l;
                let low = self.ql[half * 64 + i % 64] >> (i / 64 * 4) & 15;
                let high = self.qh[half * 32 + i % 32] >> (i / 32 * 2) & 3;
                *out = scale * (i32::from(low | high << 4) - 32) as f32;
            }
        }
    }
}
