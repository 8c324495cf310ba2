//! Q5_0 and Q5_1: 32 integers of 5 bits. The low four lie as in Q4_0; in the file bit `i` of a little-endian word is the
//! fifth of value `i`.

use cuda_std::halves::{lower, upper};

use super::{
    Block, Fields, GROUP, Order, Packed, Plane, Planes,
    bytes::Bytes,
    eight,
    halves::{Halves, four_nibbles, of_both},
    load_f16,
    q4::{nibble, with_minimum, with_offset},
    run::{Pair, high_halves, low_halves},
};
use crate::gemv::activations::{Q8, Scale};

/// `d` (f16), the word of fifth bits, then 16 bytes: value = d · (q − 16).
#[derive(Clone, Copy)]
pub struct Q5_0;

/// `d`, `m` (f16), the word of fifth bits, then 16 bytes: value = d · q + m.
#[derive(Clone, Copy)]
pub struct Q5_1;

/// The 5-bit integer of value `8 · group + index`, `fifths` being the word's bytes as [`Order`] has them.
#[inline(always)]
pub unsafe fn integer(qs: *const u8, fifths: *const u8, group: usize, index: usize) -> u32 {
    let value = group * GROUP + index;
    let high = unsafe { *fifths.add(value % 4) } >> (value / 4) & 1;
    unsafe { nibble(qs, group, index) | u32::from(high) << 4 }
}

/// The fifth bits of 32 values as bit 4 of a byte each: those of values 0 to 15, then of 16 to 31, four to a word.
#[inline(always)]
fn fifth_bits(word: u32) -> ([u32; 4], [u32; 4]) {
    let of_each_byte = |word: u32| word & 0x1010_1010;
    (
        [word << 4, word << 3, word << 2, word << 1].map(of_each_byte),
        [word, word >> 1, word >> 2, word >> 3].map(of_each_byte),
    )
}

/// Σ q · x over a block.
#[inline(always)]
pub fn dot(qs: [u32; 4], fifths: u32, x: &Pair) -> f32 {
    let [low, high] = bytes(qs, fifths);
    x.dot(low, high)
}

/// Both runs' integers.
#[inline(always)]
pub fn bytes(qs: [u32; 4], fifths: u32) -> [[u32; 4]; 2] {
    let (low, high) = fifth_bits(fifths);
    [low_halves(qs, low), high_halves(qs, high)]
}

impl Block for Q5_0 {
    const TYPE: u32 = 6;
    const ELEMENTS: usize = 32;
    const PLANES: &'static [Plane] = &[Plane::new(6, 16), Plane::ordered(2, 4, Order::Fifth), Plane::new(0, 2)];

    #[inline(always)]
    unsafe fn values(Fields([qs, fifths, d, _]): Fields, group: usize) -> [f32; GROUP] {
        let d = unsafe { load_f16(d) };
        eight(|index| d * (unsafe { integer(qs, fifths, group, index) } as i32 - 16) as f32)
    }
}

impl Packed for Q5_0 {
    const CHUNK: u32 = 32;
    type Bits = ([u32; 4], u32, f32);
    type X = Pair;

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.word(1, chunk), planes.f16(2, chunk)) }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> Pair {
        unsafe { Pair::of(staged, chunk) }
    }

    #[inline(always)]
    fn dot((qs, fifths, d): Self::Bits, x: &Pair, sum: f32) -> f32 {
        x.with_offset(d, dot(qs, fifths, x), -16.0, sum)
    }
}

impl Block for Q5_1 {
    const TYPE: u32 = 7;
    const ELEMENTS: usize = 32;
    const PLANES: &'static [Plane] = &[Plane::new(8, 16), Plane::ordered(4, 4, Order::Fifth), Plane::new(0, 4)];

    #[inline(always)]
    unsafe fn values(Fields([qs, fifths, d, _]): Fields, group: usize) -> [f32; GROUP] {
        let (d, m) = unsafe { (load_f16(d), load_f16(d.add(2))) };
        eight(|index| d * unsafe { integer(qs, fifths, group, index) } as f32 + m)
    }
}

impl Packed for Q5_1 {
    const CHUNK: u32 = 32;
    type Bits = ([u32; 4], u32, u32);
    type X = Pair;

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.word(1, chunk), planes.word(2, chunk)) }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> Pair {
        unsafe { Pair::of(staged, chunk) }
    }

    #[inline(always)]
    fn dot((qs, fifths, dm): Self::Bits, x: &Pair, sum: f32) -> f32 {
        x.with_minimum(dm, dot(qs, fifths, x), sum)
    }
}

impl Bytes for Q5_0 {
    const SCALES: usize = 1;

    #[inline(always)]
    fn bytes((qs, fifths, _): Self::Bits) -> [[u32; 4]; 2] {
        bytes(qs, fifths)
    }

    #[inline(always)]
    fn scales((.., d): Self::Bits, _chunk: u32) -> [u32; 3] {
        [d.to_bits(), 0, 0]
    }

    #[inline(always)]
    fn scaled([d, ..]: [u32; 3], x: [Scale; 2], products: [f32; 2], sum: f32) -> f32 {
        with_offset(d, x, products, -16.0, sum)
    }
}

impl Bytes for Q5_1 {
    const SCALES: usize = 1;

    #[inline(always)]
    fn bytes((qs, fifths, _): Self::Bits) -> [[u32; 4]; 2] {
        bytes(qs, fifths)
    }

    #[inline(always)]
    fn scales((.., dm): Self::Bits, _chunk: u32) -> [u32; 3] {
        [dm, 0, 0]
    }

    #[inline(always)]
    fn scaled([dm, ..]: [u32; 3], x: [Scale; 2], products: [f32; 2], sum: f32) -> f32 {
        with_minimum(dm, x, products, sum)
    }
}

/// Four of a block's integers: the bits of word `index` are the `index`-th from below in each byte of `fifths`.
#[inline(always)]
pub fn four(qs: [u32; 4], fifths: u32, index: usize) -> u32 {
    four_nibbles(qs, index) | fifths.rotate_right(index as u32 + 28) & 0x1010_1010
}

impl Halves for Q5_0 {
    const OFFSET: u32 = 16;
    type Bits = ([u32; 4], u32, u32);

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.word(1, chunk), planes.half(2, chunk)) }
    }

    #[inline(always)]
    fn four((qs, fifths, _): Self::Bits, index: usize) -> u32 {
        four(qs, fifths, index)
    }

    #[inline(always)]
    fn scales((_, _, d): Self::Bits, _chunk: u32) -> [[u32; 2]; 2] {
        of_both(lower(d), 0)
    }
}

impl Halves for Q5_1 {
    const OFFSET: u32 = 0;
    type Bits = ([u32; 4], u32, u32);

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { <Q5_1 as Packed>::load(planes, chunk) }
    }

    #[inline(always)]
    fn four((qs, fifths, _): Self::Bits, index: usize) -> u32 {
        four(qs, fifths, index)
    }

    #[inline(always)]
    fn scales((_, _, dm): Self::Bits, _chunk: u32) -> [[u32; 2]; 2] {
        of_both(lower(dm), upper(dm))
    }
}
