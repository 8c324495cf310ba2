//! Q2_K: 256 integers of 2 bits, in 16 runs of 16 with a 4-bit scale and minimum each.

use cuda_std::{float, types::two_f16};

use super::{Block, Fields, GROUP, Packed, Plane, Planes, eight, load_f16, run::dot_unsigned};
use crate::gemv::activations::{Runs, Scale};

/// 16 bytes of scales (low half) and minima (high half), 64 bytes of integers, `d`, `dmin` (f16):
/// value = d · scale · q − dmin · minimum.
///
/// The block is two halves of 128 values with 32 bytes each; value `32·s + l` of a half is bits `2s` and `2s + 1` of byte `l`.
#[derive(Clone, Copy)]
pub struct Q2K;

/// The 2-bit integer of value `8 · group + index`, `qs` being the 64 bytes; Q3_K's low bits lie so too.
#[inline(always)]
pub unsafe fn two_bits(qs: *const u8, group: usize, index: usize) -> u8 {
    let (half, first) = (group / 16, group % 16 * GROUP);
    let byte = unsafe { *qs.add(half * 32 + first % 32 + index) };
    byte >> (first / 32 * 2) & 3
}

impl Block for Q2K {
    const ELEMENTS: usize = 256;
    const PLANES: &'static [Plane] = &[Plane::new(16, 64), Plane::new(0, 16), Plane::new(80, 4)];

    #[inline(always)]
    unsafe fn values(Fields([qs, scales, d, _]): Fields, group: usize) -> [f32; GROUP] {
        let (d, dmin) = unsafe { (load_f16(d), load_f16(d.add(2))) };
        let packed = unsafe { *scales.add(group / 2) };
        let (scale, minimum) = (d * f32::from(packed & 15), dmin * f32::from(packed >> 4));
        eight(|index| scale * f32::from(unsafe { two_bits(qs, group, index) }) - minimum)
    }
}

/// The activations beside 16 bytes of 2-bit integers: four runs of 16 that lie 32 values apart.
pub struct FourRuns {
    /// The runs' integers.
    pub integers: [[u32; 4]; 4],
    /// The runs' scales and sums.
    pub scales: [Scale; 4],
    /// The chunk's place in its block, 0 to 3: its half, and which 16 of the half's 32 bytes.
    pub chunk: u32,
}

impl FourRuns {
    /// Beside chunk `chunk`, four of which make a block.
    #[inline(always)]
    pub unsafe fn of(staged: impl Runs, chunk: u32) -> FourRuns {
        let first = 8 * (chunk / 2) + chunk % 2;
        let runs = [first, first + 2, first + 4, first + 6];
        unsafe {
            FourRuns {
                integers: runs.map(|run| staged.integers(run)),
                scales: runs.map(|run| staged.scale(run)),
                chunk: chunk % 4,
            }
        }
    }
}

impl Packed for Q2K {
    const CHUNK: u32 = 64;
    const AHEAD: bool = false;
    type Bits = ([u32; 4], [u32; 2], u32);
    type X = FourRuns;

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        // The eight scales of the chunk's half.
        unsafe { (planes.stream(0, chunk), planes.eight(1, chunk / 2), planes.word(2, chunk / 4)) }
    }

    #[inline(always)]
    unsafe fn x(staged: impl Runs, chunk: u32) -> FourRuns {
        unsafe { FourRuns::of(staged, chunk) }
    }

    #[inline(always)]
    fn dot((qs, packed, dm): Self::Bits, x: &FourRuns, sum: f32) -> f32 {
        let (d, dmin) = two_f16(dm);
        let (mut scaled, mut minimum, mut run) = (0.0, 0.0, 0);
        while run < 4 {
            let q = qs.map(|word| word >> (2 * run) & 0x0303_0303);
            let product = dot_unsigned(q, x.integers[run]) as f32;
            // Byte 2·run + chunk % 2 of the eight.
            let byte = packed[run / 2] >> (run % 2 * 16) >> (x.chunk % 2 * 8);
            scaled = float::fma((byte & 15) as f32 * x.scales[run].scale, product, scaled);
            minimum = float::fma((byte >> 4 & 15) as f32, x.scales[run].sum, minimum);
            run += 1;
        }
        float::fma(d, scaled, float::fma(-dmin, minimum, sum))
    }
}
