//! Q8_0: 32 integers of 8 bits and a scale.

use cuda_std::float;

use super::{Block, Fields, GROUP, Packed, Plane, Planes, eight, load_f16, run::dot_signed};
use crate::gemv::activations::Q8;

/// `d` (f16), then 32 `i8`: value = d · q.
#[derive(Clone, Copy)]
pub struct Q8_0;

impl Block for Q8_0 {
    const ELEMENTS: usize = 32;
    const PLANES: &'static [Plane] = &[Plane { offset: 2, size: 32 }, Plane { offset: 0, size: 2 }];

    #[inline(always)]
    unsafe fn values(Fields([qs, d, ..]): Fields, group: usize) -> [f32; GROUP] {
        let d = unsafe { load_f16(d) };
        let qs = unsafe { qs.add(group * GROUP) };
        eight(|index| d * f32::from(unsafe { *qs.add(index) } as i8))
    }
}

/// Sixteen activations and their scale.
pub struct X {
    integers: [u32; 4],
    scale: f32,
}

/// A chunk is half a block.
impl Packed for Q8_0 {
    const CHUNK: u32 = 16;
    type Bits = ([u32; 4], f32);
    type X = X;

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.f16(1, chunk / 2)) }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> X {
        unsafe { X { integers: staged.integers(chunk), scale: staged.scale(chunk).scale } }
    }

    #[inline(always)]
    fn dot((qs, d): Self::Bits, x: &X, sum: f32) -> f32 {
        float::fma(d * x.scale, dot_signed(qs, x.integers) as f32, sum)
    }
}
