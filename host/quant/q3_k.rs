//! Q3_K: 256 values of 3 bits, in 16 groups of 16 with a 6-bit scale each.

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use super::{Block, Scale, f16};
use crate::gguf::TensorType;

/// `value = d · (scale − 32) · (q − 4)`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ3K {
    /// The third bits: bit `b` of byte `l` belongs to value `32·b + l`.
    pub hmask: [u8; 32],
    /// The low two bits, as in Q2_K.
    pub qs: [u8; 64],
    /// Low four bits of scale `g` in byte `g % 8` (low half for `g < 8`), then its upper two in byte `8 + g % 4`, at bit `2·(g / 4)`.
    pub scales: [u8; 12],
    /// Scale of the scales, half precision.
    pub d: [u8; 2],
}

impl Block for BlockQ3K {
    const TYPE: TensorType = TensorType::Q3_K;
    const SCALE: Scale = Scale::Half { deviation: 43.3, at: offset_of!(BlockQ3K, d) };

    fn dequantise(&self, out: &mut [f32]) {
        let d = f16(self.d);
        for (group, out) in out.chunks_exact_mut(16).enumerate() {
            let low = self.scales[group % 8] >> (group / 8 * 4) & 15;
            let high = self.scales[8 + group % 4] >> (group / 4 * 2) & 3;
            let scale = d * (i32::from(low | high << 4) - 32) as f32;
            let (half, shift, first) = (group / 8, group % 8 / 2 * 2, group % 2 * 16);
            for (l, out) in out.iter_mut().enumerate() {
                let low = self.qs[half * 32 + first + l] >> shift & 3;
                let high = self.hmask[first + l] >> (group / 2) & 1;
                *out = scale * (i32::from(low | high << 2) - 4) as f32;
            }
        }
    }
}
