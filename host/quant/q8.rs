//! Q8_0: 32 values of 8 bits.

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use super::{Block, Scale, f16};
use crate::gguf::TensorType;

/// `value = d · q`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// Scale, half precision.
    pub d: [u8; 2],
    /// The values, in order.
    pub qs: [i8; 32],
}

impl Block for BlockQ8_0 {
    const TYPE: TensorType = TensorType::Q8_0;
    const SCALE: Scale = Scale::Half { deviation: 73.9, at: offset_of!(BlockQ8_0, d) };

    fn dequantise(&self, out: &mut [f32]) {
        let d = f16(self.d);
        for (out, q) in out.iter_mut().zip(self.qs) {
            *out = d * f32::from(q);
        }
    }
}
