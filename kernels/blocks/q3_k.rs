//! Q3_K: 256 integers of 3 bits, in 16 runs of 16 with a 6-bit scale each.

use cuda_std::float;

use super::{
    Block, Fields, GROUP, Packed, Plane, Planes, eight, load_f16,
    q2_k::{FourRuns, two_bits},
    run::dot_unsigned,
};
use crate::gemv::activations::Q8;

/// 32 bytes of third bits (bit `b` of byte `l` belongs to value `32·b + l`), 64 bytes of low bits as in Q2_K, 12 bytes of
/// scales, `d` (f16): value = d · (scale − 32) · (q − 4).
///
/// Scale `r` has its low four bits in byte `r % 8` (low half for `r < 8`) and its upper two in byte `8 + r % 4`, at bit
/// `2·(r / 4)`.
#[derive(Clone, Copy)]
pub struct Q3K;

impl Block for Q3K {
    const TYPE: u32 = 11;
    const ELEMENTS: usize = 256;
    const PLANES: &'static [Plane] = &[Plane::new(32, 64), Plane::new(0, 32), Plane::new(96, 12), Plane::new(108, 2)];

    #[inline(always)]
    unsafe fn values(Fields([qs, thirds, scales, d]): Fields, group: usize) -> [f32; GROUP] {
        let run = group / 2;
        let low = unsafe { *scales.add(run % 8) } >> (run / 8 * 4) & 15;
        let high = unsafe { *scales.add(8 + run % 4) } >> (run / 4 * 2) & 3;
        let scale = unsafe { load_f16(d) } * (i32::from(low | high << 4) - 32) as f32;
        let third = unsafe { thirds.add(group % 4 * GROUP) };
        eight(|index| {
            let low = unsafe { two_bits(qs, group, index) };
            let high = unsafe { *third.add(index) } >> (group / 4) & 1;
            scale * (i32::from(low | high << 2) - 4) as f32
        })
    }
}

impl Packed for Q3K {
    const CHUNK: u32 = 64;
    const AHEAD: bool = false;
    type Bits = ([u32; 4], [u32; 4], [u32; 3], f32);
    type X = FourRuns;

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        let block = chunk / 4;
        unsafe {
            (
                planes.stream(0, chunk),
                planes.sixteen(1, 2 * block + chunk % 2),
                [0, 1, 2].map(|word| planes.word(2, 3 * block + word)),
                planes.f16(3, block),
            )
        }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> FourRuns {
        unsafe { FourRuns::of(staged, chunk) }
    }

    #[inline(always)]
    fn dot((qs, thirds, scales, d): Self::Bits, x: &FourRuns, sum: f32) -> f32 {
        let (half, sixteen) = (x.chunk / 2, x.chunk % 2);
        let (mut scaled, mut run) = (0.0, 0);
        while run < 4 {
            let third = thirds.map(|word| word >> (4 * half + run) << 2 & 0x0404_0404);
            let q = [0, 1, 2, 3].map(|word| qs[word] >> (2 * run) & 0x0303_0303 | third[word]);
            // Σ (q − 4) · x
            let product = dot_unsigned(q, x.integers[run as usize]) as f32;
            let part = float::fma(product, x.scales[run as usize].scale, -4.0 * x.scales[run as usize].sum);
            // Scale r = 8·half + 2·run + sixteen.
            let low = scales[run as usize / 2] >> (run % 2 * 16) >> (sixteen * 8) >> (half * 4) & 15;
            let high = scales[2] >> (run % 2 * 16) >> (sixteen * 8) >> (2 * (2 * half + run / 2)) & 3;
            scaled = float::fma((low | high << 4) as f32 - 32.0, part, scaled);
            run += 1;
        }
        float::fma(d, scaled, sum)
    }
}
