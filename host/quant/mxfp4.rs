//! MXFP4: 32 four-bit floats (E2M1) with a power-of-two scale (E8M0), from the OCP Microscaling Formats specification 1.0.

use bytemuck::{Pod, Zeroable};

use super::{Block, Scale};
use crate::gguf::TensorType;

/// Twice the value of each four-bit float: sign, two bits of exponent, one of mantissa. Doubled, they are integers.
pub const MXFP4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// `value = 2^(e − 128) · MXFP4_VALUES[q]`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockMxfp4 {
    /// Exponent of the scale, biased by 127.
    pub e: u8,
    /// Indices `j` and, above, `j + 16`.
    pub qs: [u8; 16],
}

/// `2^(e − 128)`: half of the scale, because the values are doubled. The smallest two are subnormal.
fn half_scale(e: u8) -> f32 {
    f32::from_bits(match e {
        0 | 1 => 0x0020_0000 << e,
        _ => (u32::from(e) - 1) << 23,
    })
}

impl Block for BlockMxfp4 {
    const TYPE: TensorType = TensorType::MXFP4;
    const SCALE: Scale =
        Scale::Bytes { deviation: 5.85, at: 0, n: 1, nearest: |scale| (128.0 + scale.log2()).round() as u8 };

    fn dequantise(&self, out: &mut [f32]) {
        let d = half_scale(self.e);
        for (j, q) in self.qs.iter().enumerate() {
            out[j] = d * f32::from(MXFP4_VALUES[usize::from(q & 15)]);
            out[j + 16] = d * f32::from(MXFP4_VALUES[usize::from(q >> 4)]);
        }
    }
}
