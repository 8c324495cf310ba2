//! Q2_K: 256 integers of 2 bits, in 16 runs of 16 with a 4-bit scale and minimum each.

use cuda_std::{float, halves as words, integer, types::two_f16};

use super::{
    Block, Fields, GROUP, Order, Packed, Plane, Planes, eight,
    halves::{Halves, Masks, fields},
    load_f16,
    run::dot_unsigned,
};
use crate::gemv::activations::{Q8, Scale};

/// 16 bytes of scales (low half) and minima (high half), 64 bytes of integers, `d`, `dmin` (f16):
/// value = d · scale · q − dmin · minimum.
///
/// In the file the block is two halves of 128 values with 32 bytes each; value `32·s + l` of a half is bits `2s` and `2s + 1` of byte `l`.
#[derive(Clone, Copy)]
pub struct Q2K;

/// The 2-bit integer of value `8 · group + index`, `qs` being the 64 bytes as [`Order::Pairs`] has them, 4-byte aligned.
#[inline(always)]
pub unsafe fn two_bits(qs: *const u8, group: usize, index: usize) -> u32 {
    let word = unsafe { *qs.cast::<u32>().add(group / 2) };
    word >> (group % 2 * 4) >> (index % 4 * 8 + index / 4 * 2) & 3
}

impl Block for Q2K {
    const TYPE: u32 = 10;
    const ELEMENTS: usize = 256;
    const PLANES: &'static [Plane] = &[Plane::ordered(16, 64, Order::Pairs), Plane::new(0, 16), Plane::new(80, 4)];

    #[inline(always)]
    unsafe fn values(Fields([qs, scales, d, _]): Fields, group: usize) -> [f32; GROUP] {
        let (d, dmin) = unsafe { (load_f16(d), load_f16(d.add(2))) };
        let packed = unsafe { *scales.add(group / 2) };
        let (scale, minimum) = (d * f32::from(packed & 15), dmin * f32::from(packed >> 4));
        eight(|index| scale * unsafe { two_bits(qs, group, index) } as f32 - minimum)
    }
}

/// The activations beside 64 values: four runs of 16.
pub struct FourRuns {
    /// The runs' integers.
    pub integers: [[u32; 4]; 4],
    /// The runs' scales and sums.
    pub scales: [Scale; 4],
}

impl FourRuns {
    /// Beside chunk `chunk`.
    #[inline(always)]
    pub unsafe fn of(staged: Q8, chunk: u32) -> FourRuns {
        let first = 4 * chunk;
        unsafe {
            let ([a, b], [c, d]) = (staged.two_scales(first), staged.two_scales(first + 2));
            let integers = [first, first + 1, first + 2, first + 3].map(|run| staged.integers(run));
            FourRuns { integers, scales: [a, b, c, d] }
        }
    }
}

/// The integers of a run of 16, four to a word.
#[inline(always)]
pub fn run_of_pairs(word: u32) -> [u32; 4] {
    [word, word >> 2, word >> 4, word >> 6].map(|word| word & 0x0303_0303)
}

/// Integers 4 · index to 4 · index + 3 of 32, one to a byte.
#[inline(always)]
pub fn four_pairs(qs: [u32; 2], index: usize) -> u32 {
    qs[index / 4] >> (index % 4 * 2) & 0x0303_0303
}

/// A chunk is four runs.
impl Packed for Q2K {
    const CHUNK: u32 = 64;
    const AHEAD: bool = false;
    type Bits = ([u32; 4], u32, u32);
    type X = FourRuns;

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.word(1, chunk), planes.word(2, chunk / 4)) }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> FourRuns {
        unsafe { FourRuns::of(staged, chunk) }
    }

    #[inline(always)]
    fn dot((qs, packed, dm): Self::Bits, x: &FourRuns, sum: f32) -> f32 {
        let (d, dmin) = two_f16(dm);
        let (mut scaled, mut minimum, mut run) = (0.0, 0.0, 0);
        while run < 4 {
            let product = dot_unsigned(run_of_pairs(qs[run]), x.integers[run]) as f32;
            let byte = packed >> (8 * run);
            scaled = float::fma((byte & 15) as f32 * x.scales[run].scale, product, scaled);
            minimum = float::fma((byte >> 4 & 15) as f32, x.scales[run].sum, minimum);
            run += 1;
        }
        float::fma(d, scaled, float::fma(-dmin, minimum, sum))
    }
}

/// A chunk is two runs.
impl Halves for Q2K {
    const OFFSET: u32 = 0;
    type Bits = ([u32; 2], u32, u32);

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream_eight(0, chunk), planes.half(1, chunk), planes.word(2, chunk / 8)) }
    }

    #[inline(always)]
    unsafe fn load_second(planes: Planes, chunk: u32, (_, _, dm): Self::Bits) -> Self::Bits {
        unsafe { (planes.stream_eight(0, chunk), planes.half(1, chunk), dm) }
    }

    #[inline(always)]
    fn four((qs, _, _): Self::Bits, index: usize) -> u32 {
        four_pairs(qs, index)
    }

    #[inline(always)]
    fn halves((qs, _, _): Self::Bits, index: usize, masks: Masks) -> [u32; 2] {
        fields::<2, 0>(qs[index / 4], index as u32 % 4 * 2, masks)
    }

    #[inline(always)]
    fn scales((_, packed, dm): Self::Bits, _chunk: u32) -> [[u32; 2]; 2] {
        // A byte in either half: its scale behind the exponent of 1024, its minimum behind that of 64.
        const EXPONENTS: u32 = 0x5400_6400;
        [0x4040, 0x4141].map(
            #[inline(always)]
            |bytes| {
                let both = integer::pick_bytes(packed, 0, bytes) & 0x00f0_000f | EXPONENTS;
                let both = words::mul(words::sub(both, EXPONENTS), dm);
                [words::lower(both), words::neg(words::upper(both))]
            },
        )
    }
}
