//! TQ1_0 and TQ2_0: values −1, 0 and 1 with one scale, packed as digits of base three or as two bits.

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use super::{Block, Scale, f16};
use crate::gguf::TensorType;

/// `value = d · (digit − 1)`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockTq1_0 {
    /// Digit `n` of the first 32 bytes belongs to value `32·n + byte`; of the other 16 to value `160 + 16·n + byte`, n below 5.
    pub qs: [u8; 48],
    /// Digit `n` belongs to value `240 + 4·n + byte`, n below 4.
    pub qh: [u8; 4],
    /// Scale, half precision.
    pub d: [u8; 2],
}

/// `value = d · (q − 1)`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockTq2_0 {
    /// As in Q2_K.
    pub qs: [u8; 64],
    /// Scale, half precision.
    pub d: [u8; 2],
}

/// Writes the digits of `bytes`, the first of all first, less one and times the scale.
fn digits(d: f32, bytes: &[u8], out: &mut [f32]) {
    let mut left = [0; 32];
    let left = &mut left[..bytes.len()];
    left.copy_from_slice(bytes);
    for out in out.chunks_exact_mut(bytes.len()) {
        for (left, out) in left.iter_mut().zip(out) {
            let digit = ((u16::from(*left) * 3) >> 8) as i16 - 1;
            *left = left.wrapping_mul(3);
            *out = d * f32::from(digit);
        }
    }
}

impl Block for BlockTq1_0 {
    const TYPE: TensorType = TensorType::TQ1_0;
    const SCALE: Scale = Scale::Half { deviation: 0.8173, at: offset_of!(BlockTq1_0, d) };

    fn dequantise(&self, out: &mut [f32]) {
        let d = f16(self.d);
        digits(d, &self.qs[..32], &mut out[..160]);
        digits(d, &self.qs[32..], &mut out[160..240]);
        digits(d, &self.qh, &mut out[240..]);
    }
}

impl Block for BlockTq2_0 {
    const TYPE: TensorType = TensorType::TQ2_0;
    const SCALE: Scale = Scale::Half { deviation: 1.2247, at: offset_of!(BlockTq2_0, d) };

    fn dequantise(&self, out: &mut [f32]) {
        let d = f16(self.d);
        for (i, out) in out.iter_mut().enumerate() {
            let q = self.qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
            *out = d * (f32::from(q) - 1.0);
        }
    }
}
