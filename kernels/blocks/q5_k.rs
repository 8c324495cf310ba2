//! Q5_K: 256 integers of 5 bits, in 8 runs of 32 with a 6-bit scale and minimum each.

use super::{
    Block, Fields, GROUP, Packed, Plane, Planes, eight,
    k_scales::scale_and_minimum,
    load_f16,
    q4_k::TwoHalves,
    run::{high_halves, low_halves},
};
use crate::gemv::activations::Q8;

/// `d`, `dmin` (f16), 12 bytes of scales and minima, 32 bytes of fifth bits (bit `r` of byte `l` belongs to value `l` of run
/// `r`), then 128 bytes as in Q4_K: value = d · scale · q − dmin · minimum.
#[derive(Clone, Copy)]
pub struct Q5K;

impl Block for Q5K {
    const ELEMENTS: usize = 256;
    const PLANES: &'static [Plane] =
        &[Plane { offset: 48, size: 128 }, Plane { offset: 16, size: 32 }, Plane { offset: 0, size: 16 }];

    #[inline(always)]
    unsafe fn values(Fields([qs, fifths, d, _]): Fields, group: usize) -> [f32; GROUP] {
        let run = group / 4;
        let (scale, minimum) = unsafe { scale_and_minimum(d.add(4), run) };
        let (d, dmin) = unsafe { (load_f16(d), load_f16(d.add(2))) };
        let (scale, minimum) = (d * scale, dmin * minimum);
        let first = group % 4 * GROUP;
        let (fifths, qs) = unsafe { (fifths.add(first), qs.add(run / 2 * 32 + first)) };
        eight(|index| {
            let (low, high) = unsafe { (*qs.add(index) >> (run % 2 * 4) & 15, *fifths.add(index) >> run & 1) };
            scale * f32::from(low | high << 4) - minimum
        })
    }
}

impl Packed for Q5K {
    const CHUNK: u32 = 32;
    const AHEAD: bool = false;
    type Bits = ([u32; 4], [u32; 4], [u32; 4]);
    type X = TwoHalves;

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.sixteen(1, chunk / 8 * 2 + chunk % 2), planes.sixteen(2, chunk / 8)) }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> TwoHalves {
        unsafe { TwoHalves::of(staged, chunk) }
    }

    #[inline(always)]
    fn dot((qs, fifths, header): Self::Bits, x: &TwoHalves, sum: f32) -> f32 {
        let fifth = |run: u32| fifths.map(|word| word >> run << 4 & 0x1010_1010);
        x.dot(low_halves(qs, fifth(2 * x.pair)), high_halves(qs, fifth(2 * x.pair + 1)), header, sum)
    }
}
