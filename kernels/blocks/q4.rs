//! Q4_0 and Q4_1: 32 integers of 4 bits. Byte `j` holds value `j` in its low half and value `j + 16` in its high half.

use cuda_std::{
    float,
    halves::{lower, upper},
    types::two_f16,
};

use super::{
    Block, Fields, GROUP, Packed, Plane, Planes,
    bytes::{Bytes, product, sum_of_x},
    eight,
    halves::{Halves, Masks, four_nibbles, nibble_halves, of_both},
    load_f16,
    run::{Pair, high_halves, low_halves},
};
use crate::gemv::activations::{Q8, Scale};

/// `d` (f16), then 16 bytes: value = d · (q − 8).
#[derive(Clone, Copy)]
pub struct Q4_0;

/// `d`, `m` (f16), then 16 bytes: value = d · q + m.
#[derive(Clone, Copy)]
pub struct Q4_1;

/// The 4-bit integer of value `8 · group + index`, `qs` being the 16 bytes.
#[inline(always)]
pub unsafe fn nibble(qs: *const u8, group: usize, index: usize) -> u32 {
    let byte = unsafe { *qs.add(group % 2 * GROUP + index) };
    u32::from(byte >> (group / 2 * 4) & 15)
}

impl Block for Q4_0 {
    const TYPE: u32 = 2;
    const ELEMENTS: usize = 32;
    const PLANES: &'static [Plane] = &[Plane::new(2, 16), Plane::new(0, 2)];

    #[inline(always)]
    unsafe fn values(Fields([qs, d, ..]): Fields, group: usize) -> [f32; GROUP] {
        let d = unsafe { load_f16(d) };
        eight(|index| d * (unsafe { nibble(qs, group, index) } as i32 - 8) as f32)
    }
}

impl Packed for Q4_0 {
    const CHUNK: u32 = 32;
    type Bits = ([u32; 4], f32);
    type X = Pair;

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.f16(1, chunk)) }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> Pair {
        unsafe { Pair::of(staged, chunk) }
    }

    #[inline(always)]
    fn dot((qs, d): Self::Bits, x: &Pair, sum: f32) -> f32 {
        x.with_offset(d, x.dot_nibbles(qs), -8.0, sum)
    }
}

impl Block for Q4_1 {
    const TYPE: u32 = 3;
    const ELEMENTS: usize = 32;
    const PLANES: &'static [Plane] = &[Plane::new(4, 16), Plane::new(0, 4)];

    #[inline(always)]
    unsafe fn values(Fields([qs, d, ..]): Fields, group: usize) -> [f32; GROUP] {
        let (d, m) = unsafe { (load_f16(d), load_f16(d.add(2))) };
        eight(|index| d * unsafe { nibble(qs, group, index) } as f32 + m)
    }
}

impl Packed for Q4_1 {
    const CHUNK: u32 = 32;
    type Bits = ([u32; 4], u32);
    type X = Pair;

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.word(1, chunk)) }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> Pair {
        unsafe { Pair::of(staged, chunk) }
    }

    #[inline(always)]
    fn dot((qs, dm): Self::Bits, x: &Pair, sum: f32) -> f32 {
        x.with_minimum(dm, x.dot_nibbles(qs), sum)
    }
}

/// Both runs' integers: the low halves of sixteen bytes, and the high ones.
#[inline(always)]
pub fn halves_as_bytes(qs: [u32; 4]) -> [[u32; 4]; 2] {
    [low_halves(qs, [0; 4]), high_halves(qs, [0; 4])]
}

/// sum + d · Σ (q + offset) · x, `d` being the bits of an `f32`.
#[inline(always)]
pub fn with_offset(d: u32, x: [Scale; 2], products: [f32; 2], offset: f32, sum: f32) -> f32 {
    float::fma(f32::from_bits(d), float::fma(offset, sum_of_x(x), product(x, products)), sum)
}

/// sum + Σ (d · q + m) · x, `dm` being `d` and `m` in f16.
#[inline(always)]
pub fn with_minimum(dm: u32, x: [Scale; 2], products: [f32; 2], sum: f32) -> f32 {
    let (d, m) = two_f16(dm);
    float::fma(m, sum_of_x(x), float::fma(d, product(x, products), sum))
}

impl Bytes for Q4_0 {
    const SCALES: usize = 1;

    #[inline(always)]
    fn bytes((qs, _): Self::Bits) -> [[u32; 4]; 2] {
        halves_as_bytes(qs)
    }

    #[inline(always)]
    fn scales((_, d): Self::Bits, _chunk: u32) -> [u32; 3] {
        [d.to_bits(), 0, 0]
    }

    #[inline(always)]
    fn scaled([d, ..]: [u32; 3], x: [Scale; 2], products: [f32; 2], sum: f32) -> f32 {
        with_offset(d, x, products, -8.0, sum)
    }
}

impl Bytes for Q4_1 {
    const SCALES: usize = 1;

    #[inline(always)]
    fn bytes((qs, _): Self::Bits) -> [[u32; 4]; 2] {
        halves_as_bytes(qs)
    }

    #[inline(always)]
    fn scales((_, dm): Self::Bits, _chunk: u32) -> [u32; 3] {
        [dm, 0, 0]
    }

    #[inline(always)]
    fn scaled([dm, ..]: [u32; 3], x: [Scale; 2], products: [f32; 2], sum: f32) -> f32 {
        with_minimum(dm, x, products, sum)
    }
}

impl Halves for Q4_0 {
    const OFFSET: u32 = 8;
    type Bits = ([u32; 4], u32);

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.half(1, chunk)) }
    }

    #[inline(always)]
    fn four((qs, _): Self::Bits, index: usize) -> u32 {
        four_nibbles(qs, index)
    }

    #[inline(always)]
    fn halves((qs, _): Self::Bits, index: usize, masks: Masks) -> [u32; 2] {
        nibble_halves::<8>(qs, index, masks)
    }

    #[inline(always)]
    fn scales((_, d): Self::Bits, _chunk: u32) -> [[u32; 2]; 2] {
        of_both(lower(d), 0)
    }
}

impl Halves for Q4_1 {
    const OFFSET: u32 = 0;
    type Bits = ([u32; 4], u32);

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { <Q4_1 as Packed>::load(planes, chunk) }
    }

    #[inline(always)]
    fn four((qs, _): Self::Bits, index: usize) -> u32 {
        four_nibbles(qs, index)
    }

    #[inline(always)]
    fn halves((qs, _): Self::Bits, index: usize, masks: Masks) -> [u32; 2] {
        nibble_halves::<0>(qs, index, masks)
    }

    #[inline(always)]
    fn scales((_, dm): Self::Bits, _chunk: u32) -> [[u32; 2]; 2] {
        of_both(lower(dm), upper(dm))
    }
}
