//! IQ3_XXS and IQ3_S: signs, and indices of four magnitudes each into a codebook.

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};
use kernels::blocks::codebooks::{IQ3_S, IQ3_XXS};

use super::{
    Block, Scale, f16,
    iq2::{eight_signs, signed},
};
use crate::gguf::TensorType;

/// `value = d · (scale + ½) / 2 · ± magnitude`, 256 of them in 8 groups of 32.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq3Xxs {
    /// Scale of the scales, half precision.
    pub d: [u8; 2],
    /// Indices, one for each 4 values.
    pub qs: [u8; 64],
    /// For each group 32 bits, little-endian: seven signs for each 8 values, and the scale.
    pub signs: [[u8; 4]; 8],
}

/// `value = d · (2 · scale + 1) · ± magnitude`, 256 of them in 8 groups of 32.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq3S {
    /// Scale of the scales, half precision.
    pub d: [u8; 2],
    /// The lower bytes of the indices, one for each 4 values.
    pub qs: [u8; 64],
    /// Their ninth bits.
    pub qh: [u8; 8],
    /// The values' signs.
    pub signs: [u8; 32],
    /// The scales of two groups each, the first in the low half.
    pub scales: [u8; 4],
}

/// Writes the eight values of two entries, whose bytes are magnitudes.
fn look_up(scale: f32, entries: [u32; 2], signs: u8, out: &mut [f32]) {
    for (i, out) in out.iter_mut().enumerate() {
        let magnitude = entries[i / 4] >> (i % 4 * 8) & 0xff;
        *out = signed(scale * magnitude as f32, signs, i);
    }
}

impl Block for BlockIq3Xxs {
    const TYPE: TensorType = TensorType::IQ3_XXS;
    const SCALE: Scale = Scale::Half { deviation: 142.4, at: offset_of!(BlockIq3Xxs, d) };

    fn dequantise(&self, out: &mut [f32]) {
        let d = f16(self.d);
        for (i, out) in out.chunks_exact_mut(8).enumerate() {
            let bits = u32::from_le_bytes(self.signs[i / 4]);
            let scale = d * (0.5 + (bits >> 28) as f32) * 0.5;
            let entries = [0, 1].map(|half| IQ3_XXS.0[usize::from(self.qs[2 * i + half])]);
            look_up(scale, entries, eight_signs(bits >> (i % 4 * 7)), out);
        }
    }
}

impl Block for BlockIq3S {
    const TYPE: TensorType = TensorType::IQ3_S;
    const SCALE: Scale = Scale::Half { deviation: 140.1, at: offset_of!(BlockIq3S, d) };

    fn dequantise(&self, out: &mut [f32]) {
        let d = f16(self.d);
        for (i, out) in out.chunks_exact_mut(8).enumerate() {
            let scale = d * f32::from(2 * (self.scales[i / 8] >> (i / 4 % 2 * 4) & 15) + 1);
            let entry = |half: usize| {
                let (at, ninth) = (2 * i + half, self.qh[i / 4] >> (i % 4 * 2 + half) & 1);
                // The codebook has what is left of a magnitude when one is taken off and the rest is halved.
                2 * IQ3_S.0[usize::from(self.qs[at]) | usize::from(ninth) << 8] + 0x0101_0101
            };
            look_up(scale, [entry(0), entry(1)], self.signs[i], out);
        }
    }
}
