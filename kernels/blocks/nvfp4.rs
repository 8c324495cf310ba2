//! NVFP4: 64 four-bit floats (E2M1) as in MXFP4, with a scale that is an eight-bit float without sign (E4M3) for each 16.

use cuda_std::{float, halves::both};

use super::{
    Block, Fields, GROUP, Order, Packed, Plane, Planes,
    bytes::Bytes,
    eight,
    halves::{Halves, SIGNED},
    look_up::look_up,
    mxfp4::{DOUBLED, doubled, four},
    q4::nibble,
    run::Pair,
};
use crate::gemv::activations::{Q8, Scale};

/// Four scales, then 8 bytes for each 16 values, value `i` in the low half of byte `i` and value `i + 8` in its high half; on the
/// device a run of 32 lies as in Q4_0.
#[derive(Clone, Copy)]
pub struct Nvfp4;

/// Half of a scale, since the values are doubled: four bits of exponent, biased by 7, and three of mantissa. Where all seven are
/// ones it is no number, and ggml takes 0.
#[inline(always)]
fn half_scale(scale: u32) -> f32 {
    // As the lowest exponents of a float, of which zero has no leading one either; then 2^(127 − 7 − 1) times as large.
    let float = f32::from_bits((scale & 0x7f) << 20) * f32::from_bits((127 + 119) << 23);
    if scale == 0x7f { 0.0 } else { float }
}

impl Block for Nvfp4 {
    const TYPE: u32 = 40;
    const ELEMENTS: usize = 64;
    const PLANES: &'static [Plane] = &[Plane::ordered(4, 32, Order::Sixteens), Plane::new(0, 4)];

    #[inline(always)]
    unsafe fn values(Fields([qs, scales, ..]): Fields, group: usize) -> [f32; GROUP] {
        let scale = half_scale(u32::from(unsafe { *scales.add(group / 2) }));
        let qs = unsafe { qs.add(group / 4 * 16) };
        eight(|index| scale * doubled(unsafe { nibble(qs, group % 4, index) }))
    }
}

/// A chunk is a run.
impl Packed for Nvfp4 {
    const CHUNK: u32 = 32;
    type Bits = ([u32; 4], u32);
    type X = Pair;

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.half(1, chunk)) }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> Pair {
        unsafe { Pair::of(staged, chunk) }
    }

    #[inline(always)]
    fn dot((qs, scales): Self::Bits, x: &Pair, sum: f32) -> f32 {
        let (low, high) = look_up(DOUBLED, qs);
        let [first, second] = x.dots_signed(low, high);
        float::fma(half_scale(scales & 0xff), first, float::fma(half_scale(scales >> 8), second, sum))
    }
}

impl Bytes for Nvfp4 {
    const SCALES: usize = 2;

    #[inline(always)]
    fn bytes((qs, _): Self::Bits) -> [[u32; 4]; 2] {
        look_up(DOUBLED, qs).into()
    }

    #[inline(always)]
    fn scales((_, scales): Self::Bits, _chunk: u32) -> [u32; 3] {
        [half_scale(scales & 0xff).to_bits(), half_scale(scales >> 8).to_bits(), 0]
    }

    #[inline(always)]
    fn scaled(scales: [u32; 3], x: [Scale; 2], products: [f32; 2], sum: f32) -> f32 {
        let of = |run: usize| products[run] * x[run].scale;
        let [first, second, _] = scales.map(f32::from_bits);
        float::fma(first, of(0), float::fma(second, of(1), sum))
    }
}

impl Halves for Nvfp4 {
    const OFFSET: u32 = SIGNED;
    type Bits = ([u32; 4], u32);

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { <Nvfp4 as Packed>::load(planes, chunk) }
    }

    #[inline(always)]
    fn four((qs, _): Self::Bits, index: usize) -> u32 {
        four(qs, index)
    }

    #[inline(always)]
    fn scales((_, scales): Self::Bits, _chunk: u32) -> [[u32; 2]; 2] {
        [scales & 0xff, scales >> 8].map(|scale| [both(half_scale(scale)), 0])
    }
}
