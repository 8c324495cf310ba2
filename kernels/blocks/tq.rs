//! TQ1_0 and TQ2_0: values −1, 0 and 1 with one scale, packed as digits of base three or as two bits.

use cuda_std::{
    F16, float,
    halves::{self, lower},
    integer,
    unroll::unroll,
};

use super::{
    Block, Fields, GROUP, Order, Packed, Plane, Planes, eight,
    halves::{EXPONENTS, Halves, Masks, fields, of_both, twice},
    load_f16,
    q2_k::{FourRuns, four_pairs, run_of_pairs, two_bits},
    run::{Pair, dot_unsigned},
};
use crate::gemv::activations::Q8;

/// 48 bytes of five digits and 4 of four, `d` (f16): value = d · (digit − 1).
///
/// Digit `n` of a byte is the upper byte of three times what is left when the byte is multiplied with 3ⁿ and cut to eight bits.
/// On the device the values lie as [`Order::Digits`] says.
#[derive(Clone, Copy)]
pub struct Tq1_0;

/// 64 bytes of integers of two bits as in Q2_K, `d` (f16): value = d · (q − 1).
#[derive(Clone, Copy)]
pub struct Tq2_0;

impl Block for Tq1_0 {
    const TYPE: u32 = 34;
    const ELEMENTS: usize = 256;
    const PLANES: &'static [Plane] = &[Plane::ordered(0, 52, Order::Digits), Plane::new(52, 2)];

    #[inline(always)]
    unsafe fn values(Fields([qs, d, ..]): Fields, group: usize) -> [f32; GROUP] {
        let d = unsafe { load_f16(d) };
        let chunk = group / 8;
        eight(|index| {
            // The four values that are the same digit of a word's bytes.
            let four = group % 8 * 2 + index / 4;
            let (word, digit) = match four {
                0..5 => (3 * chunk, four),
                5..8 => (3 * chunk + 1, four - 5),
                8..13 => (3 * chunk + 2, four - 8),
                13 | 14 => (3 * chunk + 1, four - 10),
                _ => (12, chunk),
            };
            let byte = u32::from(unsafe { *qs.add(4 * word + index % 4) });
            let left = (byte * power_of_three(digit as u32)) & 0xff;
            d * (((3 * left) >> 8) as f32 - 1.0)
        })
    }
}

/// 3ⁿ, n below 5.
#[inline(always)]
fn power_of_three(n: u32) -> u32 {
    if n == 4 { 81 } else { 0x1b09_0301 >> (8 * n) & 0xff }
}

/// The bytes of a word, in the lower halves of four of 16 bits.
struct Digits {
    even: u32,
    odd: u32,
}

const LOWER: u32 = 0x00ff_00ff;

impl Digits {
    #[inline(always)]
    fn of(word: u32) -> Digits {
        Digits { even: word & LOWER, odd: word >> 8 & LOWER }
    }

    /// Leaves out the first digits, as many as `power` is a power of three.
    #[inline(always)]
    fn skip(self, power: u32) -> Digits {
        Digits { even: (self.even * power) & LOWER, odd: (self.odd * power) & LOWER }
    }

    /// The next digit of each byte.
    #[inline(always)]
    fn next(&mut self) -> u32 {
        let (even, odd) = (3 * self.even, 3 * self.odd);
        (self.even, self.odd) = (even & LOWER, odd & LOWER);
        integer::pick_bytes(even, odd, 0x7351)
    }
}

/// A chunk is two runs.
impl Packed for Tq1_0 {
    const CHUNK: u32 = 64;
    type Bits = ([u32; 3], u32, u32);
    /// And the chunk's place in its block.
    type X = ([Pair; 2], u32);

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        let (block, in_block) = (chunk / 4, chunk % 4);
        unsafe {
            (
                [0, 1, 2].map(|word| planes.word(0, 13 * block + 3 * in_block + word)),
                planes.word(0, 13 * block + 12),
                planes.half(1, block),
            )
        }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> Self::X {
        (unsafe { Pair::two(staged, chunk) }, chunk % 4)
    }

    #[inline(always)]
    fn dot((words, last, d): Self::Bits, (x, chunk): &Self::X, sum: f32) -> f32 {
        let d = F16::from_bits(d as u16).to_f32();
        let [a, b, c] = words.map(Digits::of);
        let mut words = [a, b, c, Digits::of(last).skip(power_of_three(*chunk))];
        let mut products = [0; 4];
        unroll(
            16,
            #[inline(always)]
            |four| {
                let digits = words[[0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 1, 1, 3][four]].next();
                products[four / 4] = integer::dot4(digits, x[four / 8].word(four % 8), products[four / 4]);
            },
        );
        let [first, second] = [x[0].scaled(products[0], products[1]), x[1].scaled(products[2], products[3])];
        float::fma(d, first + second - (x[0].sum() + x[1].sum()), sum)
    }
}

/// A chunk is one of the two runs that have a word of digits each and share another.
impl Halves for Tq1_0 {
    const OFFSET: u32 = 1;
    /// The word with the run's first five digits; that with the next two, and which powers of three leave out those before: see `left`; the word with
    /// the last one; `d`.
    type Bits = ([u32; 3], u32, u32);

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        let d = unsafe { planes.half(1, chunk / 8) };
        unsafe { Self::load_second(planes, chunk, ([0; 3], 0, d)) }
    }

    #[inline(always)]
    unsafe fn load_second(planes: Planes, chunk: u32, (_, _, d): Self::Bits) -> Self::Bits {
        let (block, pair, is_second) = (chunk / 8, chunk % 8 / 2, chunk % 2 == 1);
        let (first, shared) = (13 * block + 3 * pair + chunk % 2 * 2, 13 * block + 3 * pair + 1);
        let (last, powers) =
            if is_second { (13 * block + 12, 27 | power_of_three(pair) << 8) } else { (shared, 1 | 9 << 8) };
        unsafe { ([planes.word(0, first), planes.word(0, shared), planes.word(0, last)], powers, d) }
    }

    #[inline(always)]
    fn four(bits: Self::Bits, index: usize) -> u32 {
        let [even, odd] = tripled(bits, index);
        integer::pick_bytes(even, odd, 0x7351)
    }

    #[inline(always)]
    fn halves(bits: Self::Bits, index: usize, _masks: Masks) -> [u32; 2] {
        tripled(bits, index).map(
            #[inline(always)]
            |digits| {
                let integers = integer::pick_bytes(digits, EXPONENTS, 0x4341);
                halves::sub(integers, const { twice(0x6400 + Self::OFFSET) })
            },
        )
    }

    #[inline(always)]
    fn scales((_, _, d): Self::Bits, _chunk: u32) -> [[u32; 2]; 2] {
        of_both(lower(d), 0)
    }
}

/// Digits 4 · index to 4 · index + 3 of a run, in the upper bytes of four times 16 bits.
#[inline(always)]
fn tripled(([first, shared, last], powers, _): <Tq1_0 as Halves>::Bits, index: usize) -> [u32; 2] {
    let left = match index {
        0..5 => Digits::of(first).skip(power_of_three(index as u32)),
        5 | 6 => Digits::of(shared).skip(powers & 0xff).skip(power_of_three(index as u32 - 5)),
        _ => Digits::of(last).skip(powers >> 8),
    };
    [3 * left.even, 3 * left.odd]
}

impl Block for Tq2_0 {
    const TYPE: u32 = 35;
    const ELEMENTS: usize = 256;
    const PLANES: &'static [Plane] = &[Plane::ordered(0, 64, Order::Pairs), Plane::new(64, 2)];

    #[inline(always)]
    unsafe fn values(Fields([qs, d, ..]): Fields, group: usize) -> [f32; GROUP] {
        let d = unsafe { load_f16(d) };
        eight(|index| d * (unsafe { two_bits(qs, group, index) } as f32 - 1.0))
    }
}

impl Packed for Tq2_0 {
    const CHUNK: u32 = 64;
    type Bits = ([u32; 4], u32);
    type X = FourRuns;

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.half(1, chunk / 4)) }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> FourRuns {
        unsafe { FourRuns::of(staged, chunk) }
    }

    #[inline(always)]
    fn dot((qs, d): Self::Bits, x: &FourRuns, sum: f32) -> f32 {
        let (mut scaled, mut run) = (0.0, 0);
        while run < 4 {
            let product = dot_unsigned(run_of_pairs(qs[run]), x.integers[run]) as f32;
            scaled = float::fma(product, x.scales[run].scale, scaled - x.scales[run].sum);
            run += 1;
        }
        float::fma(F16::from_bits(d as u16).to_f32(), scaled, sum)
    }
}

/// A chunk is two runs.
impl Halves for Tq2_0 {
    const OFFSET: u32 = 1;
    type Bits = ([u32; 2], u32);

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream_eight(0, chunk), planes.half(1, chunk / 8)) }
    }

    #[inline(always)]
    unsafe fn load_second(planes: Planes, chunk: u32, (_, d): Self::Bits) -> Self::Bits {
        unsafe { (planes.stream_eight(0, chunk), d) }
    }

    #[inline(always)]
    fn four((qs, _): Self::Bits, index: usize) -> u32 {
        four_pairs(qs, index)
    }

    #[inline(always)]
    fn halves((qs, _): Self::Bits, index: usize, masks: Masks) -> [u32; 2] {
        fields::<2, 1>(qs[index / 4], index as u32 % 4 * 2, masks)
    }

    #[inline(always)]
    fn scales((_, d): Self::Bits, _chunk: u32) -> [[u32; 2]; 2] {
        of_both(lower(d), 0)
    }
}
