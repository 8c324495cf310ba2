//! Q5_0 and Q5_1: 32 values of 5 bits. The low four lie as in Q4_0; bit `i` of `qh` is the fifth of value `i`.

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use super::{Block, Scale, f16};
use crate::gguf::TensorType;

/// `value = d · (q − 16)`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5_0 {
    /// Scale, half precision.
    pub d: [u8; 2],
    /// The fifth bits, little-endian.
    pub qh: [u8; 4],
    /// The low four bits of values `j` and `j + 16`.
    pub qs: [u8; 16],
}

/// `value = d · q + m`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5_1 {
    /// Scale, half precision.
    pub d: [u8; 2],
    /// Minimum, half precision.
    pub m: [u8; 2],
    /// The fifth bits, little-endian.
    pub qh: [u8; 4],
    /// The low four bits of values `j` and `j + 16`.
    pub qs: [u8; 16],
}

/// The 32 five-bit integers.
fn unpack(qh: [u8; 4], qs: &[u8; 16]) -> [u8; 32] {
    let high = u32::from_le_bytes(qh);
    std::array::from_fn(|i| {
        let low = if i < 16 { qs[i] & 15 } else { qs[i - 16] >> 4 };
        low | ((high >> i & 1) as u8) << 4
    })
}

impl Block for BlockQ5_0 {
    const TYPE: TensorType = TensorType::Q5_0;
    const SCALE: Scale = Scale::Half { deviation: 9.25, at: offset_of!(BlockQ5_0, d) };

    fn dequantise(&self, out: &mut [f32]) {
        let d = f16(self.d);
        for (out, q) in out.iter_mut().zip(unpack(self.qh, &self.qs)) {
            *out = d * (i32::from(q) - 16) as f32;
        }
    }
}

impl Block for BlockQ5_1 {
    const TYPE: TensorType = TensorType::Q5_1;
    const SCALE: Scale =
        Scale::Halves { deviation: 9.23, at: offset_of!(BlockQ5_1, d), second: offset_of!(BlockQ5_1, m), ratio: -15.5 };

    fn dequantise(&self, out: &mut [f32]) {
        let (d, m) = (f16(self.d), f16(self.m));
        for (out, q) in out.iter_mut().zip(unpack(self.qh, &self.qs)) {
            *out = d * f32::from(q) + m;
        }
    }
}
