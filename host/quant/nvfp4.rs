//! NVFP4: 64 four-bit floats (E2M1) as in MXFP4, with a scale that is an eight-bit float without sign (E4M3) for each 16.

use bytemuck::{Pod, Zeroable};

use super::{Block, Scale, mxfp4::MXFP4_VALUES};
use crate::gguf::TensorType;

/// `value = scale / 2 · MXFP4_VALUES[q]`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockNvfp4 {
    /// The scales of the four groups of 16: four bits of exponent, biased by 7, and three of mantissa.
    pub scales: [u8; 4],
    /// For each group 8 bytes: indices `j` and, above, `j + 8`.
    pub qs: [[u8; 8]; 4],
}

/// Half of a scale, because the values are doubled. Seven ones are no number, and ggml takes 0; it overlooks the eighth bit.
fn half_scale(scale: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(scale >> 3 & 15), f32::from(scale & 7));
    match (scale, exponent) {
        (0x7f, _) => 0.0,
        (_, 0) => mantissa * 2f32.powi(-10),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 8),
    }
}

/// The nearest scale.
fn nearest(scale: f64) -> u8 {
    let distance = |byte: u8| (f64::from(half_scale(byte)) - scale).abs();
    (0..0x7f).min_by(|a, b| distance(*a).total_cmp(&distance(*b))).unwrap_or(0)
}

impl Block for BlockNvfp4 {
    const TYPE: TensorType = TensorType::NVFP4;
    const SCALE: Scale = Scale::Bytes { deviation: 5.85, at: 0, n: 4, nearest };

    fn dequantise(&self, out: &mut [f32]) {
        for (group, out) in out.chunks_exact_mut(16).enumerate() {
            let d = half_scale(self.scales[group]);
            for (j, q) in self.qs[group].iter().enumerate() {
                out[j] = d * f32::from(MXFP4_VALUES[usize::from(q & 15)]);
                out[j + 8] = d * f32::from(MXFP4_VALUES[usize::from(q >> 4)]);
            }
        }
    }
}
