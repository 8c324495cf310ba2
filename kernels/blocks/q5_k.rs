//! Q5_K: 256 integers of 5 bits, in 8 runs of 32 with a 6-bit scale and minimum each.

use super::{
    Block, Fields, GROUP, Order, Packed, Plane, Planes,
    bytes::Bytes,
    eight,
    halves::Halves,
    k_scales::scale_and_minimum,
    load_f16,
    q4_k::{OfRun, scale_and_minimum_of_run, scaled_run, scales},
    q5::{bytes, dot, four, integer},
};
use crate::gemv::activations::{Q8, Scale};

/// `d`, `dmin` (f16), 12 bytes of scales and minima, 32 bytes of fifth bits, then 128 bytes as in Q4_K:
/// value = d · scale · q − dmin · minimum. In the file bit `r` of byte `l` of the fifth bits belongs to value `l` of run `r`.
#[derive(Clone, Copy)]
pub struct Q5K;

impl Block for Q5K {
    const TYPE: u32 = 13;
    const ELEMENTS: usize = 256;
    const PLANES: &'static [Plane] = &[
        Plane::ordered(48, 128, Order::Nibbles),
        Plane::ordered(16, 32, Order::Fifths),
        Plane::ordered(0, 16, Order::Scales),
    ];

    #[inline(always)]
    unsafe fn values(Fields([qs, fifths, header, _]): Fields, group: usize) -> [f32; GROUP] {
        let run = group / 4;
        let (scale, minimum) = unsafe { scale_and_minimum(header, run) };
        let (d, dmin) = unsafe { (load_f16(header), load_f16(header.add(2))) };
        let (scale, minimum) = (d * scale, dmin * minimum);
        let (qs, fifths) = unsafe { (qs.add(16 * run), fifths.add(4 * run)) };
        eight(|index| scale * unsafe { integer(qs, fifths, group % 4, index) } as f32 - minimum)
    }
}

/// A chunk is a run.
impl Packed for Q5K {
    const CHUNK: u32 = 32;
    const AHEAD: bool = false;
    type Bits = ([u32; 4], u32, [u32; 4]);
    type X = OfRun;

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.word(1, chunk), planes.sixteen(2, chunk / 8)) }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> OfRun {
        unsafe { OfRun::of(staged, chunk) }
    }

    #[inline(always)]
    fn dot((qs, fifths, header): Self::Bits, x: &OfRun, sum: f32) -> f32 {
        x.scaled(header, dot(qs, fifths, &x.pair), sum)
    }
}

impl Bytes for Q5K {
    const SCALES: usize = 2;

    #[inline(always)]
    fn bytes((qs, fifths, _): Self::Bits) -> [[u32; 4]; 2] {
        bytes(qs, fifths)
    }

    #[inline(always)]
    fn scales((.., header): Self::Bits, chunk: u32) -> [u32; 3] {
        scale_and_minimum_of_run(header, chunk)
    }

    #[inline(always)]
    fn scaled(scales: [u32; 3], x: [Scale; 2], products: [f32; 2], sum: f32) -> f32 {
        scaled_run(scales, x, products, sum)
    }
}

impl Halves for Q5K {
    const OFFSET: u32 = 0;
    const MOST_IN_PAIRS: usize = 16;
    type Bits = ([u32; 4], u32, [u32; 4]);

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { <Q5K as Packed>::load(planes, chunk) }
    }

    #[inline(always)]
    unsafe fn load_second(planes: Planes, chunk: u32, (_, _, header): Self::Bits) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.word(1, chunk), header) }
    }

    #[inline(always)]
    fn four((qs, fifths, _): Self::Bits, index: usize) -> u32 {
        four(qs, fifths, index)
    }

    #[inline(always)]
    fn scales((_, _, header): Self::Bits, chunk: u32) -> [[u32; 2]; 2] {
        scales(header, chunk % 8)
    }
}
