//! Q8_0: 32 integers of 8 bits and a scale.

use cuda_std::{float, halves::lower};

use super::{
    Block, Fields, GROUP, Packed, Plane, Planes,
    bytes::{Bytes, product},
    eight,
    halves::{Halves, SIGNED, of_both, unsigned},
    load_f16,
    run::Pair,
};
use crate::gemv::activations::{Q8, Scale};

/// `d` (f16), then 32 `i8`: value = d · q.
#[derive(Clone, Copy)]
pub struct Q8_0;

impl Block for Q8_0 {
    const TYPE: u32 = 8;
    const ELEMENTS: usize = 32;
    const PLANES: &'static [Plane] = &[Plane::new(2, 16), Plane::new(18, 16), Plane::new(0, 2)];

    #[inline(always)]
    unsafe fn values(Fields([low, high, d, _]): Fields, group: usize) -> [f32; GROUP] {
        let d = unsafe { load_f16(d) };
        let qs = unsafe { if group < 2 { low } else { high }.add(group % 2 * GROUP) };
        eight(|index| d * f32::from(unsafe { *qs.add(index) } as i8))
    }
}

/// A chunk is a block, its two halves from planes of their own.
impl Packed for Q8_0 {
    const CHUNK: u32 = 32;
    const AHEAD: bool = false;
    type Bits = ([u32; 4], [u32; 4], f32);
    type X = Pair;

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.stream(1, chunk), planes.f16(2, chunk)) }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> Pair {
        unsafe { Pair::of(staged, chunk) }
    }

    #[inline(always)]
    fn dot((low, high, d): Self::Bits, x: &Pair, sum: f32) -> f32 {
        float::fma(d, x.dot_signed(low, high), sum)
    }
}

impl Bytes for Q8_0 {
    const SCALES: usize = 1;

    #[inline(always)]
    fn bytes((low, high, _): Self::Bits) -> [[u32; 4]; 2] {
        [low, high]
    }

    #[inline(always)]
    fn scales((.., d): Self::Bits, _chunk: u32) -> [u32; 3] {
        [d.to_bits(), 0, 0]
    }

    #[inline(always)]
    fn scaled([d, ..]: [u32; 3], x: [Scale; 2], products: [f32; 2], sum: f32) -> f32 {
        float::fma(f32::from_bits(d), product(x, products), sum)
    }
}

impl Halves for Q8_0 {
    const OFFSET: u32 = SIGNED;
    const MOST_IN_PAIRS: usize = 32;
    type Bits = ([u32; 4], [u32; 4], u32);

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.stream(1, chunk), planes.half(2, chunk)) }
    }

    #[inline(always)]
    fn four((low, high, _): Self::Bits, index: usize) -> u32 {
        unsigned(if index < 4 { low[index] } else { high[index - 4] })
    }

    #[inline(always)]
    fn scales((_, _, d): Self::Bits, _chunk: u32) -> [[u32; 2]; 2] {
        of_both(lower(d), 0)
    }
}
