//! Q3_K: 256 integers of 3 bits, in 16 runs of 16 with a 6-bit scale each.

use cuda_std::{float, halves as words, integer, unroll::unroll};

use super::{
    Block, Fields, GROUP, Order, Packed, Plane, Planes, eight,
    halves::{Halves, Masks, fields},
    load_f16,
    q2_k::FourRuns,
    run::dot_unsigned,
};
use crate::gemv::activations::Q8;

/// 32 bytes of third bits, 64 bytes of low bits, 12 bytes of scales, `d` (f16): value = d · (scale − 32) · (q − 4).
///
/// In the file the low bits lie as in Q2_K, and bit `b` of byte `l` of the third ones belongs to value `32·b + l`. Scale `r` has its low four
/// bits in byte `r % 8` (low half for `r < 8`) and its upper two in byte `8 + r % 4`, at bit `2·(r / 4)`. On the device they lie as
/// [`Order::Threes`] and [`Order::SixBits`] say.
#[derive(Clone, Copy)]
pub struct Q3K;

/// The first and the second scale of a run from its byte and its half-byte.
#[inline(always)]
fn two_scales(byte: u32, half: u32) -> [u32; 2] {
    [byte >> 2 & 63, byte << 4 & 0x30 | half & 15]
}

/// Where values 4 · index to 4 · index + 3 of a run are: a word, and from which bit of its bytes on.
#[inline(always)]
fn place(words: [u32; 3], index: usize) -> (u32, u32) {
    match index {
        6 => (words[0] & 0xc0c0_c0c0 | words[1] >> 1 & 0x2020_2020, 5),
        7 => (words[2] & 0xc0c0_c0c0 | words[1] >> 2 & 0x2020_2020, 5),
        _ => (words[index / 2], index as u32 % 2 * 3),
    }
}

/// Integers 4 · index to 4 · index + 3 of a run, one to a byte.
#[inline(always)]
fn four(words: [u32; 3], index: usize) -> u32 {
    let (word, first) = place(words, index);
    word >> first & 0x0707_0707
}

impl Block for Q3K {
    const TYPE: u32 = 11;
    const ELEMENTS: usize = 256;
    const PLANES: &'static [Plane] =
        &[Plane::ordered(0, 96, Order::Threes), Plane::ordered(96, 12, Order::SixBits), Plane::new(108, 2)];

    #[inline(always)]
    unsafe fn values(Fields([qs, scales, d, _]): Fields, group: usize) -> [f32; GROUP] {
        let run = group / 4;
        let (byte, half) = unsafe { (*scales.add(run), *scales.add(8 + run / 2) >> (run % 2 * 4)) };
        let [first, second] = two_scales(u32::from(byte), u32::from(half));
        let scale = if (group / 2).is_multiple_of(2) { first } else { second };
        let scale = unsafe { load_f16(d) } * (scale as i32 - 32) as f32;
        let word = |index: usize| unsafe { *qs.cast::<u32>().add(if index < 2 { 2 * run + index } else { 16 + run }) };
        let fours = if group % 4 < 3 {
            [word(group % 4), word(group % 4) >> 3]
        } else {
            // Written out: the compiler would keep a loop, and the words in local memory.
            let words = [word(0), word(1), word(2)];
            [four(words, 6), four(words, 7)]
        };
        eight(|index| scale * ((fours[index / 4] >> (index % 4 * 8) & 7) as i32 - 4) as f32)
    }
}

/// A chunk is four runs of 16, which are two of the device's.
impl Packed for Q3K {
    const CHUNK: u32 = 64;
    const AHEAD: bool = false;
    type Bits = ([u32; 4], [u32; 2], u32, u32, f32);
    type X = FourRuns;

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        let block = chunk / 4;
        unsafe {
            (
                planes.stream(0, chunk + 2 * block),
                planes.eight(0, chunk + 8 * block + 8),
                planes.half(1, chunk + 2 * block),
                planes.byte(1, chunk + 8 * block + 8),
                planes.f16(2, block),
            )
        }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> FourRuns {
        unsafe { FourRuns::of(staged, chunk) }
    }

    #[inline(always)]
    fn dot((first, last, bytes, halves, d): Self::Bits, x: &FourRuns, sum: f32) -> f32 {
        let mut scaled = 0.0;
        unroll(
            4,
            #[inline(always)]
            |run| {
                let words = [first[run / 2 * 2], first[run / 2 * 2 + 1], last[run / 2]];
                let q = [0, 1, 2, 3].map(
                    #[inline(always)]
                    |index| four(words, run % 2 * 4 + index),
                );
                // Σ (q − 4) · x
                let product = dot_unsigned(q, x.integers[run]) as f32;
                let part = float::fma(product, x.scales[run].scale, -4.0 * x.scales[run].sum);
                let scale = two_scales(bytes >> (run / 2 * 8), halves >> (run / 2 * 4))[run % 2];
                scaled = float::fma(scale as f32 - 32.0, part, scaled);
            },
        );
        float::fma(d, scaled, sum)
    }
}

/// A chunk is a run of the device's: two of 16.
impl Halves for Q3K {
    const OFFSET: u32 = 4;
    type Bits = ([u32; 2], u32, u32, u32, u32);

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        let d = unsafe { planes.half(2, chunk / 8) };
        unsafe { Self::load_second(planes, chunk, ([0; 2], 0, 0, 0, d)) }
    }

    #[inline(always)]
    unsafe fn load_second(planes: Planes, chunk: u32, (.., d): Self::Bits) -> Self::Bits {
        let block = chunk / 8;
        unsafe {
            (
                planes.stream_eight(0, chunk + 4 * block),
                planes.word(0, chunk + 16 * block + 16),
                planes.byte(1, chunk + 4 * block),
                planes.byte(1, chunk / 2 + 8 * block + 8),
                d,
            )
        }
    }

    #[inline(always)]
    fn four(([a, b], c, ..): Self::Bits, index: usize) -> u32 {
        four([a, b, c], index)
    }

    #[inline(always)]
    fn halves(([a, b], c, ..): Self::Bits, index: usize, masks: Masks) -> [u32; 2] {
        let (word, first) = place([a, b, c], index);
        fields::<3, 4>(word, first, masks)
    }

    #[inline(always)]
    fn scales((_, _, byte, half, d): Self::Bits, chunk: u32) -> [[u32; 2]; 2] {
        // The first scale is behind the exponent of 256; the second, its half-byte below the byte, behind that of 64.
        const EXPONENTS: u32 = 0x5400_5c00;
        const OFFSETS: u32 = (32 << 4) << 16 | 32 << 2;
        let half = half << (4 - chunk % 2 * 4);
        let both = integer::pick_bytes(byte, half, 0x0400) & 0x03f0_00fc | EXPONENTS;
        let both = words::mul(words::sub(both, EXPONENTS + OFFSETS), words::lower(d));
        [[words::lower(both), 0], [words::upper(both), 0]]
    }
}
