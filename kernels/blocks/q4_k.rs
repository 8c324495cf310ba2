//! Q4_K: 256 integers of 4 bits, in 8 runs of 32 with a 6-bit scale and minimum each.

use cuda_std::{float, integer, types::two_f16};

use super::{
    Block, Fields, GROUP, Order, Packed, Plane, Planes,
    bytes::{Bytes, product, sum_of_x},
    eight,
    halves::{Halves, Masks, four_nibbles, nibble_halves, of_both},
    k_scales::{scale_and_four_minima, scale_and_minimum},
    load_f16,
    q4::{halves_as_bytes, nibble},
    run::Pair,
};
use crate::gemv::activations::{Q8, Scale};

/// `d`, `dmin` (f16), 12 bytes of scales and minima, then 128 bytes of integers: value = d · scale · q − dmin · minimum.
#[derive(Clone, Copy)]
pub struct Q4K;

impl Block for Q4K {
    const TYPE: u32 = 12;
    const ELEMENTS: usize = 256;
    const PLANES: &'static [Plane] = &[Plane::ordered(16, 128, Order::Nibbles), Plane::ordered(0, 16, Order::Scales)];

    #[inline(always)]
    unsafe fn values(Fields([qs, header, ..]): Fields, group: usize) -> [f32; GROUP] {
        let run = group / 4;
        let (scale, minimum) = unsafe { scale_and_minimum(header, run) };
        let (d, dmin) = unsafe { (load_f16(header), load_f16(header.add(2))) };
        let (scale, minimum) = (d * scale, dmin * minimum);
        let qs = unsafe { qs.add(16 * run) };
        eight(|index| scale * unsafe { nibble(qs, group % 4, index) } as f32 - minimum)
    }
}

/// The activations beside a run of a K format.
pub struct OfRun {
    pub pair: Pair,
    /// −Σ x / 4.
    quarter: f32,
    /// The run's place in its block, 0 to 7.
    run: u32,
}

impl OfRun {
    /// Beside run `run` of a row, whose place in its block is that of a lane among eight.
    #[inline(always)]
    pub unsafe fn of(staged: Q8, run: u32) -> OfRun {
        let pair = unsafe { Pair::of(staged, run) };
        OfRun { quarter: -0.25 * pair.sum(), pair, run: run % 8 }
    }

    /// sum + Σ (d · scale · q − dmin · minimum) · x, `product` being Σ q · x and `header` the block's 16 bytes.
    #[inline(always)]
    pub fn scaled(&self, header: [u32; 4], product: f32, sum: f32) -> f32 {
        let (d, dmin) = two_f16(header[0]);
        let (scale, four_minima) = scale_and_four_minima([header[1], header[2], header[3]], self.run);
        let sum = float::fma(dmin * four_minima as f32, self.quarter, sum);
        float::fma(d * scale as f32, product, sum)
    }
}

/// A chunk is a run.
impl Packed for Q4K {
    const CHUNK: u32 = 32;
    type Bits = ([u32; 4], [u32; 4]);
    type X = OfRun;

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.sixteen(1, chunk / 8)) }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> OfRun {
        unsafe { OfRun::of(staged, chunk) }
    }

    #[inline(always)]
    fn dot((qs, header): Self::Bits, x: &OfRun, sum: f32) -> f32 {
        x.scaled(header, x.pair.dot_nibbles(qs), sum)
    }
}

/// d · scale and 4 · dmin · minimum of run `run` of a block with these 16 bytes, as [`OfRun::scaled`] has them.
#[inline(always)]
pub fn scale_and_minimum_of_run(header: [u32; 4], run: u32) -> [u32; 3] {
    let (d, dmin) = two_f16(header[0]);
    let (scale, four_minima) = scale_and_four_minima([header[1], header[2], header[3]], run % 8);
    [(d * scale as f32).to_bits(), (dmin * four_minima as f32).to_bits(), 0]
}

/// As [`OfRun::scaled`], from these.
#[inline(always)]
pub fn scaled_run([scale, minimum, _]: [u32; 3], x: [Scale; 2], products: [f32; 2], sum: f32) -> f32 {
    let sum = float::fma(f32::from_bits(minimum), -0.25 * sum_of_x(x), sum);
    float::fma(f32::from_bits(scale), product(x, products), sum)
}

impl Bytes for Q4K {
    const SCALES: usize = 2;

    #[inline(always)]
    fn bytes((qs, _): Self::Bits) -> [[u32; 4]; 2] {
        halves_as_bytes(qs)
    }

    #[inline(always)]
    fn scales((_, header): Self::Bits, chunk: u32) -> [u32; 3] {
        scale_and_minimum_of_run(header, chunk)
    }

    #[inline(always)]
    fn scaled(scales: [u32; 3], x: [Scale; 2], products: [f32; 2], sum: f32) -> f32 {
        scaled_run(scales, x, products, sum)
    }
}

/// Scale and minimum of run `run` of a block with these 16 bytes, as [`Halves::scales`] gives them.
#[inline(always)]
pub fn scales(header: [u32; 4], run: u32) -> [[u32; 2]; 2] {
    let (scale, four_minima) = scale_and_four_minima([header[1], header[2], header[3]], run);
    // Behind the exponents of 1024 and of 256 these bits are units, and exact f16; their products are rounded once.
    const EXPONENTS: u32 = 0x5c00_6400;
    let exact = cuda_std::halves::sub(integer::pick_bytes(scale, four_minima, 0x5410) | EXPONENTS, EXPONENTS);
    let both = cuda_std::halves::mul(exact, header[0]);
    of_both(cuda_std::halves::lower(both), cuda_std::halves::neg(cuda_std::halves::upper(both)))
}

impl Halves for Q4K {
    const OFFSET: u32 = 0;
    type Bits = ([u32; 4], [u32; 4]);

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { <Q4K as Packed>::load(planes, chunk) }
    }

    #[inline(always)]
    unsafe fn load_second(planes: Planes, chunk: u32, (_, header): Self::Bits) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), header) }
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
    fn scales((_, header): Self::Bits, chunk: u32) -> [[u32; 2]; 2] {
        scales(header, chunk % 8)
    }
}
