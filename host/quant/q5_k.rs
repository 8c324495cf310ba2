//! Q5_K: 256 values of 5 bits, in 8 groups of 32 with a 6-bit scale and a 6-bit minimum each.

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use super::k_scales::scale_and_minimum;
use super::{Block, Scale, f16};
use crate::gguf::TensorType;

/// `value = d · scale · q − dmin · minimum`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5K {
    /// Scale of the scales, half precision.
    pub d: [u8; 2],
    /// Scale of the minima, half precision.
    pub dmin: [u8; 2],
    /// The groups' scales and minima, packed as `k_scales` says.
    pub scales: [u8; 12],
    /// The fifth bits: bit `g` of byte `l` belongs to value `l` of group `g`.
    pub qh: [u8; 32],
    /// The low four bits, as in Q4_K.
    pub qs: [u8; 128],
}

impl Block for BlockQ5K {
    const TYPE: TensorType = TensorType::Q5_K;
    const SCALE: Scale = Scale::Halves {
        deviation: 526.9,
        at: offset_of!(BlockQ5K, d),
        second: offset_of!(BlockQ5K, dmin),
        ratio: 15.5,
    };

    fn dequantise(&self, out: &mut [f32]) {
        let (d, dmin) = (f16(self.d), f16(self.dmin));
        for (group, out) in out.chunks_exact_mut(32).enumerate() {
            let (scale, minimum) = scale_and_minimum(&self.scales, group);
            let (scale, minimum) = (d * f32::from(scale), dmin * f32::from(minimum));
            for (l, out) in out.iter_mut().enumerate() {
                let low = self.qs[group / 2 * 32 + l] >> (group % 2 * 4) & 15;
                let high = self.qh[l] >> group & 1;
                *out = scale * f32::from(low | high << 4) - minimum;
            }
        }
    }
}
