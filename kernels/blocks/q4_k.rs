//! Q4_K: 256 integers of 4 bits, in 8 runs of 32 with a 6-bit scale and minimum each.

use cuda_std::{float, types::two_f16};

use super::{
    Block, Fields, GROUP, Packed, Plane, Planes, eight,
    k_scales::{pair_of_runs, scale_and_minimum},
    load_f16,
    run::{dot_unsigned, high_halves, low_halves},
};
use crate::gemv::activations::{Q8, Scale};

/// `d`, `dmin` (f16), 12 bytes of scales and minima, then four times 32 bytes, each holding a run in its low halves and the
/// next in its high ones: value = d · scale · q − dmin · minimum.
#[derive(Clone, Copy)]
pub struct Q4K;

impl Block for Q4K {
    const ELEMENTS: usize = 256;
    const PLANES: &'static [Plane] = &[Plane { offset: 16, size: 128 }, Plane { offset: 0, size: 16 }];

    #[inline(always)]
    unsafe fn values(Fields([qs, d, ..]): Fields, group: usize) -> [f32; GROUP] {
        let run = group / 4;
        let (scale, minimum) = unsafe { scale_and_minimum(d.add(4), run) };
        let (d, dmin) = unsafe { (load_f16(d), load_f16(d.add(2))) };
        let (scale, minimum) = (d * scale, dmin * minimum);
        let qs = unsafe { qs.add(run / 2 * 32 + group % 4 * GROUP) };
        eight(|index| {
            let q = unsafe { *qs.add(index) } >> (run % 2 * 4) & 15;
            scale * f32::from(q) - minimum
        })
    }
}

/// The activations beside the 16 bytes of a chunk: half a run each, in two neighbouring runs.
pub struct TwoHalves {
    low: [u32; 4],
    high: [u32; 4],
    scales: [Scale; 2],
    /// The runs' pair within the block, 0 to 3.
    pub pair: u32,
}

impl TwoHalves {
    /// Beside chunk `chunk`, eight of which make a block.
    #[inline(always)]
    pub unsafe fn of(staged: Q8, chunk: u32) -> TwoHalves {
        let (pair, half) = (chunk / 2, chunk % 2);
        unsafe {
            TwoHalves {
                low: staged.integers(4 * pair + half),
                high: staged.integers(4 * pair + half + 2),
                scales: [staged.scale(4 * pair + half), staged.scale(4 * pair + half + 2)],
                pair: pair % 4,
            }
        }
    }

    /// sum + Σ (d · scale · q − dmin · minimum) · x, `q` being without sign and `header` the block's first 16 bytes.
    #[inline(always)]
    pub fn dot(&self, low: [u32; 4], high: [u32; 4], header: [u32; 4], sum: f32) -> f32 {
        let (d, dmin) = two_f16(header[0]);
        let (scales, minima) = pair_of_runs([header[1], header[2], header[3]], self.pair);
        let byte = |pair: u32, index: u32| (pair >> (8 * index) & 0xff) as f32;
        let low = dot_unsigned(low, self.low) as f32 * self.scales[0].scale;
        let high = dot_unsigned(high, self.high) as f32 * self.scales[1].scale;
        let scaled = float::fma(byte(scales, 1), high, byte(scales, 0) * low);
        let minimum = float::fma(byte(minima, 1), self.scales[1].sum, byte(minima, 0) * self.scales[0].sum);
        float::fma(d, scaled, float::fma(-dmin, minimum, sum))
    }
}

impl Packed for Q4K {
    const CHUNK: u32 = 32;
    type Bits = ([u32; 4], [u32; 4]);
    type X = TwoHalves;

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.sixteen(1, chunk / 8)) }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> TwoHalves {
        unsafe { TwoHalves::of(staged, chunk) }
    }

    #[inline(always)]
    fn dot((qs, header): Self::Bits, x: &TwoHalves, sum: f32) -> f32 {
        x.dot(low_halves(qs, [0; 4]), high_halves(qs, [0; 4]), header, sum)
    }
}
