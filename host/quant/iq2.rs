//! IQ2_XXS, IQ2_XS and IQ2_S: signs, and indices of eight magnitudes each into a codebook.

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};
use kernels::blocks::codebooks::{IQ2_S, IQ2_XS, IQ2_XXS, MAGNITUDES};

use super::{Block, Scale, f16};
use crate::gguf::TensorType;

/// `value = d · (scale + ½) / 4 · ± magnitude`, 256 of them in 8 groups of 32.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq2Xxs {
    /// Scale of the scales, half precision.
    pub d: [u8; 2],
    /// For each group four indices, then 32 bits, little-endian: seven signs for each, and the group's scale.
    pub groups: [[[u8; 4]; 2]; 8],
}

/// `value = d · (scale + ½) / 4 · ± magnitude`, 256 of them in 16 groups of 16.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq2Xs {
    /// Scale of the scales, half precision.
    pub d: [u8; 2],
    /// For each 8 values 16 bits, little-endian: nine of the index, and seven signs.
    pub qs: [[u8; 2]; 32],
    /// The scales of two groups each, the first in the low half.
    pub scales: [u8; 8],
}

/// `value = d · (scale + ½) / 4 · ± magnitude`, 256 of them in 16 groups of 16.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq2S {
    /// Scale of the scales, half precision.
    pub d: [u8; 2],
    /// The lower bytes of the indices, one for each 8 values.
    pub qs: [u8; 32],
    /// Their signs.
    pub signs: [u8; 32],
    /// The upper two bits of four indices each.
    pub qh: [u8; 8],
    /// The scales of two groups each, the first in the low half.
    pub scales: [u8; 8],
}

/// Seven signs, and the eighth, which makes the number of minus signs even.
pub(super) fn eight_signs(seven: u32) -> u8 {
    let seven = seven as u8 & 127;
    seven | ((seven.count_ones() % 2) as u8) << 7
}

/// `value`, or its negative where bit `index` of the signs is set.
pub(super) fn signed(value: f32, signs: u8, index: usize) -> f32 {
    if signs >> index & 1 == 0 { value } else { -value }
}

/// Writes the eight values of an entry.
fn look_up(scale: f32, entry: u32, signs: u8, out: &mut [f32]) {
    for (i, out) in out.iter_mut().enumerate() {
        let magnitude = f32::from(MAGNITUDES[(entry >> (4 * i) & 15) as usize]);
        *out = signed(scale * magnitude, signs, i);
    }
}

/// d · (scale + ½) / 4, of the `i`-th 16 values.
fn scale_of_16(d: f32, scales: &[u8; 8], i: usize) -> f32 {
    d * (0.5 + f32::from(scales[i / 2] >> (i % 2 * 4) & 15)) * 0.25
}

impl Block for BlockIq2Xxs {
    const TYPE: TensorType = TensorType::IQ2_XXS;
    const SCALE: Scale = Scale::Half { deviation: 53.35, at: offset_of!(BlockIq2Xxs, d) };

    fn dequantise(&self, out: &mut [f32]) {
        let d = f16(self.d);
        for ([indices, bits], out) in self.groups.iter().zip(out.chunks_exact_mut(32)) {
            let bits = u32::from_le_bytes(*bits);
            let scale = d * (0.5 + (bits >> 28) as f32) * 0.25;
            for ((i, index), out) in indices.iter().enumerate().zip(out.chunks_exact_mut(8)) {
                look_up(scale, IQ2_XXS.0[usize::from(*index)], eight_signs(bits >> (7 * i)), out);
            }
        }
    }
}

impl Block for BlockIq2Xs {
    const TYPE: TensorType = TensorType::IQ2_XS;
    const SCALE: Scale = Scale::Half { deviation: 55.9, at: offset_of!(BlockIq2Xs, d) };

    fn dequantise(&self, out: &mut [f32]) {
        let d = f16(self.d);
        for (i, out) in out.chunks_exact_mut(8).enumerate() {
            let bits = u16::from_le_bytes(self.qs[i]);
            let scale = scale_of_16(d, &self.scales, i / 2);
            look_up(scale, IQ2_XS.0[usize::from(bits & 511)], eight_signs(u32::from(bits >> 9)), out);
        }
    }
}

impl Block for BlockIq2S {
    const TYPE: TensorType = TensorType::IQ2_S;
    const SCALE: Scale = Scale::Half { deviation: 56.4, at: offset_of!(BlockIq2S, d) };

    fn dequantise(&self, out: &mut [f32]) {
        let d = f16(self.d);
        for (i, out) in out.chunks_exact_mut(8).enumerate() {
            let index = usize::from(self.qs[i]) | usize::from(self.qh[i / 4] >> (i % 4 * 2) & 3) << 8;
            look_up(scale_of_16(d, &self.scales, i / 2), IQ2_S.0[index], self.signs[i], out);
        }
    }
}
