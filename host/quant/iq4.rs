//! IQ4_NL and IQ4_XS: 4-bit indices into sixteen values that are denser near zero.

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use super::{Block, Scale, f16};
use crate::gguf::TensorType;

/// What an index stands for (`kvalues_iq4nl` in ggml-common.h).
pub const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// `value = d · IQ4_VALUES[q]`, 32 of them.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq4Nl {
    /// Scale, half precision.
    pub d: [u8; 2],
    /// Indices `j` and, above, `j + 16`.
    pub qs: [u8; 16],
}

/// `value = d · (scale − 32) · IQ4_VALUES[q]`, 256 of them in 8 groups of 32.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq4Xs {
    /// Scale of the scales, half precision.
    pub d: [u8; 2],
    /// The upper two bits of group `g`'s scale at bit `2g`, little-endian.
    pub scales_h: [u8; 2],
    /// The low four bits of the scales of groups `2i` and, above, `2i + 1`.
    pub scales_l: [u8; 4],
    /// For each group 16 bytes: indices `j` and, above, `j + 16`.
    pub qs: [u8; 128],
}

/// Writes the 32 values of 16 bytes of indices.
fn look_up(scale: f32, qs: &[u8], out: &mut [f32]) {
    for (j, q) in qs.iter().enumerate() {
        out[j] = scale * f32::from(IQ4_VALUES[usize::from(q & 15)]);
        out[j + 16] = scale * f32::from(IQ4_VALUES[usize::from(q >> 4)]);
    }
}

impl Block for BlockIq4Nl {
    const TYPE: TensorType = TensorType::IQ4_NL;
    const SCALE: Scale = Scale::Half { deviation: 67.4, at: offset_of!(BlockIq4Nl, d) };

    fn dequantise(&self, out: &mut [f32]) {
        look_up(f16(self.d), &self.qs, out);
    }
}

impl Block for BlockIq4Xs {
    const TYPE: TensorType = TensorType::IQ4_XS;
    const SCALE: Scale = Scale::Half { deviation: 1246.0, at: offset_of!(BlockIq4Xs, d) };

    fn dequantise(&self, out: &mut [f32]) {
        let d = f16(self.d);
        let high = u16::from_le_bytes(self.scales_h);
        let groups = self.qs.chunks_exact(16).zip(out.chunks_exact_mut(32));
        for (group, (qs, out)) in groups.enumerate() {
            let low = self.scales_l[group / 2] >> (group % 2 * 4) & 15;
            let scale = i32::from(low) | i32::from(high >> (group * 2) & 3) << 4;
            look_up(d * (scale - 32) as f32, qs, out);
        }
    }
}
