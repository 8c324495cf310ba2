//! Q4_K: 256 values of 4 bits, in 8 groups of 32 with a 6-bit scale and a 6-bit minimum each.

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use super::k_scales::scale_and_minimum;
use super::{Block, Scale, f16};
use crate::gguf::TensorType;

/// `value = d · scale · q − dmin · minimum`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4K {
    /// Scale of the scales, half precision.
    pub d: [u8; 2],
    /// Scale of the minima, half precision.
    pub dmin: [u8; 2],
    /// The groups' scales and minima, packed as `k_scales` says.
    pub scales: [u8; 12],
    /// Four runs of 32 bytes: run `r` holds group `2r` in the low halves and group `2r + 1` in the high ones.
    pub qs: [u8; 128],
}

impl Block for BlockQ4K {
    const TYPE: TensorType = TensorType::Q4_K;
    const SCALE: Scale =
        Scale::Halves { deviation: 258.3, at: offset_of!(BlockQ4K, d), second: offset_of!(BlockQ4K, dmin), ratio: 7.5 };

    fn dequantise(&self, out: &mut [f32]) {
        let (d, dmin) = (f16(self.d), f16(self.dmin));
        for (group, out) in out.chunks_exact_mut(32).enumerate() {
            let (scale, minimum) = scale_and_minimum(&self.scales, group);
            let (scale, minimum) = (d * f32::from(scale), dmin * f32::from(minimum));
            for (l, out) in out.iter_mut().enumerate() {
                let q = self.qs[group / 2 * 32 + l] >> (group % 2 * 4) & 15;
                *out = scale * f32::from(q) - minimum;
            }
        }
    }
}
