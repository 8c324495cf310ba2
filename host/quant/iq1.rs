//! IQ1_S and IQ1_M: indices of eight values −1, 0 and 1 each into a codebook, and an eighth more or less on all eight.

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};
use kernels::blocks::codebooks::IQ1;

use super::{Block, Scale, f16};
use crate::gguf::TensorType;

/// `value = d · (2 · scale + 1) · (entry ± ⅛)`, 256 of them in 8 groups of 32.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq1S {
    /// Scale of the scales, half precision.
    pub d: [u8; 2],
    /// The lower bytes of the indices, one for each 8 values.
    pub qs: [u8; 32],
    /// For each group 16 bits, little-endian: the upper three bits of its four indices, three of its scale, and whether the shift
    /// is down.
    pub qh: [[u8; 2]; 8],
}

/// `value = d · (2 · scale + 1) · (entry ± ⅛)`, 256 of them in 16 groups of 16.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq1M {
    /// The lower bytes of the indices, one for each 8 values.
    pub qs: [u8; 32],
    /// A half-byte for each index: its upper three bits, and whether the shift is down.
    pub qh: [u8; 16],
    /// For each four groups 16 bits, little-endian: three of the scale of each, and four of those of `d`.
    pub scales: [[u8; 2]; 4],
}

/// Writes the eight values of an entry.
fn look_up(scale: f32, index: usize, is_down: bool, out: &mut [f32]) {
    let shift = if is_down { -0.125 } else { 0.125 };
    for (i, out) in out.iter_mut().enumerate() {
        let entry = (IQ1.0[index] >> (4 * i) & 15) as f32 - 1.0;
        *out = scale * (entry + shift);
    }
}

impl Block for BlockIq1S {
    const TYPE: TensorType = TensorType::IQ1_S;
    const SCALE: Scale = Scale::Half { deviation: 7.19, at: offset_of!(BlockIq1S, d) };

    fn dequantise(&self, out: &mut [f32]) {
        let d = f16(self.d);
        for (group, out) in out.chunks_exact_mut(32).enumerate() {
            let qh = u16::from_le_bytes(self.qh[group]);
            let scale = d * f32::from(2 * (qh >> 12 & 7) + 1);
            for (i, out) in out.chunks_exact_mut(8).enumerate() {
                let index = usize::from(self.qs[4 * group + i]) | usize::from(qh >> (3 * i) & 7) << 8;
                look_up(scale, index, qh & 0x8000 != 0, out);
            }
        }
    }
}

impl Block for BlockIq1M {
    const TYPE: TensorType = TensorType::IQ1_M;
    const SCALE: Scale = Scale::Pieces { deviation: 7.2, at: offset_of!(BlockIq1M, scales) };

    fn dequantise(&self, out: &mut [f32]) {
        let scales = self.scales.map(u16::from_le_bytes);
        let d = scales.iter().rev().fold(0, |d, word| d << 4 | word >> 12);
        let d = half::f16::from_bits(d).to_f32();
        for (i, out) in out.chunks_exact_mut(8).enumerate() {
            let group = i / 2;
            let scale = d * f32::from(2 * (scales[group / 4] >> (group % 4 * 3) & 7) + 1);
            let qh = self.qh[i / 2] >> (i % 2 * 4);
            look_up(scale, usize::from(self.qs[i]) | usize::from(qh & 7) << 8, qh & 8 != 0, out);
        }
    }
}
