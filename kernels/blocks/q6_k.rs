//! Q6_K: 256 integers of 6 bits, in 16 runs of 16 with an 8-bit scale each.

use cuda_std::{F16, float, halves::both};

use super::{
    Block, Fields, GROUP, Order, Packed, Plane, Planes,
    bytes::Bytes,
    eight,
    halves::{Halves, four_nibbles},
    load_f16,
    q4::nibble,
    run::{Pair, high_halves, low_halves},
};
use crate::gemv::activations::{Q8, Scale};

/// 128 bytes of low halves, 64 bytes of upper bits, 16 `i8` scales, `d` (f16): value = d · scale · (q − 32).
#[derive(Clone, Copy)]
pub struct Q6K;

impl Block for Q6K {
    const TYPE: u32 = 14;
    const ELEMENTS: usize = 256;
    const PLANES: &'static [Plane] = &[
        Plane::ordered(0, 128, Order::LowNibbles),
        Plane::ordered(128, 64, Order::Pairs),
        Plane::new(192, 16),
        Plane::new(208, 2),
    ];

    #[inline(always)]
    unsafe fn values(Fields([ql, qh, scales, d]): Fields, group: usize) -> [f32; GROUP] {
        let d = unsafe { load_f16(d) };
        let scale = d * f32::from(unsafe { *scales.add(group / 2) } as i8);
        let (ql, qh) = unsafe { (ql.add(group / 4 * 16), qh.add(group / 2 * 4)) };
        eight(|index| {
            let value = group % 2 * GROUP + index;
            let upper = unsafe { *qh.add(value % 4) } >> (value / 4 * 2) & 3;
            let q = unsafe { nibble(ql, group % 4, index) } | u32::from(upper) << 4;
            scale * (q as i32 - 32) as f32
        })
    }
}

/// The activations beside two runs: 32 values.
pub struct X {
    pair: Pair,
    /// −32 · Σ x of each.
    offsets: [f32; 2],
}

/// The upper bits of 16 values as bits 4 and 5 of a byte each, four to a word.
#[inline(always)]
fn upper_pairs(word: u32) -> [u32; 4] {
    [word << 4, word << 2, word, word >> 2].map(|word| word & 0x3030_3030)
}

/// A chunk is two runs.
impl Packed for Q6K {
    const CHUNK: u32 = 32;
    const AHEAD: bool = false;
    type Bits = ([u32; 4], [u32; 2], u32, f32);
    type X = X;

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.eight(1, chunk), planes.half(2, chunk), planes.f16(3, chunk / 8)) }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> X {
        let pair = unsafe { Pair::of(staged, chunk) };
        X { offsets: pair.sums().map(|sum| -32.0 * sum), pair }
    }

    #[inline(always)]
    fn dot((ql, qh, scales, d): Self::Bits, x: &X, sum: f32) -> f32 {
        let [low, high] = x.pair.products(low_halves(ql, upper_pairs(qh[0])), high_halves(ql, upper_pairs(qh[1])));
        // Σ (q − 32) · x
        let (low, high) =
            (float::fma(low, x.pair.scale(0), x.offsets[0]), float::fma(high, x.pair.scale(1), x.offsets[1]));
        let scale = |of: u32| f32::from((scales >> (8 * of)) as u8 as i8);
        float::fma(d, float::fma(scale(1), high, scale(0) * low), sum)
    }
}

impl Bytes for Q6K {
    const SCALES: usize = 3;

    #[inline(always)]
    fn bytes((ql, qh, ..): Self::Bits) -> [[u32; 4]; 2] {
        [low_halves(ql, upper_pairs(qh[0])), high_halves(ql, upper_pairs(qh[1]))]
    }

    #[inline(always)]
    fn scales((_, _, scales, d): Self::Bits, _chunk: u32) -> [u32; 3] {
        let scale = |of: u32| f32::from((scales >> (8 * of)) as u8 as i8).to_bits();
        [d.to_bits(), scale(0), scale(1)]
    }

    #[inline(always)]
    fn scaled(scales: [u32; 3], x: [Scale; 2], products: [f32; 2], sum: f32) -> f32 {
        let [d, first, second] = scales.map(f32::from_bits);
        let of = |run: usize| float::fma(products[run], x[run].scale, -32.0 * x[run].sum);
        float::fma(d, float::fma(second, of(1), first * of(0)), sum)
    }
}

impl Halves for Q6K {
    const OFFSET: u32 = 32;
    const MOST_IN_PAIRS: usize = 32;
    type Bits = ([u32; 4], [u32; 2], u32, u32);

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.eight(1, chunk), planes.half(2, chunk), planes.half(3, chunk / 8)) }
    }

    #[inline(always)]
    unsafe fn load_second(planes: Planes, chunk: u32, (.., d): Self::Bits) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.eight(1, chunk), planes.half(2, chunk), d) }
    }

    #[inline(always)]
    fn four((ql, qh, _, _): Self::Bits, index: usize) -> u32 {
        four_nibbles(ql, index) | upper_pairs(qh[index / 4])[index % 4]
    }

    #[inline(always)]
    fn scales((_, _, scales, d): Self::Bits, _chunk: u32) -> [[u32; 2]; 2] {
        let d = F16::from_bits(d as u16).to_f32();
        [0, 8].map(|shift| [both(d * f32::from((scales >> shift) as u8 as i8)), 0])
    }
}
