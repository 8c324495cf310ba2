//! MXFP4: 32 four-bit floats (E2M1) with a power-of-two scale (E8M0), from the OCP Microscaling Formats specification 1.0.

use cuda_std::{float, halves::both};

use super::{
    Block, Fields, GROUP, Packed, Plane, Planes,
    bytes::{Bytes, product},
    eight,
    halves::{Halves, SIGNED, of_both, unsigned},
    look_up::{Table, look_up, look_up_four, table},
    q4::nibble,
    run::Pair,
};
use crate::gemv::activations::{Q8, Scale};

/// The exponent, biased by 127, then 16 bytes as in Q4_0.
#[derive(Clone, Copy)]
pub struct Mxfp4;

/// Twice the values of the four-bit floats, which are integers: sign, two bits of exponent, one of mantissa. ggml's table has
/// no negative zero either.
pub const DOUBLED: Table = table([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12]);

/// Twice the value of a four-bit float.
#[inline(always)]
pub fn doubled(bits: u32) -> f32 {
    // 0, 1, 2, 3, 4, 6, 8 and 12, four bits each, the first lowest.
    let magnitude = (0xc864_3210u32 >> (bits % 8 * 4) & 15) as i32;
    (if bits < 8 { magnitude } else { -magnitude }) as f32
}

/// 2^(exponent − 128), half of the scale since the values are doubled; the smallest two are subnormal.
#[inline(always)]
fn half_scale(exponent: u32) -> f32 {
    f32::from_bits(if exponent < 2 { 0x0020_0000 << exponent } else { (exponent - 1) << 23 })
}

impl Block for Mxfp4 {
    const TYPE: u32 = 39;
    const ELEMENTS: usize = 32;
    const PLANES: &'static [Plane] = &[Plane::new(1, 16), Plane::new(0, 1)];

    #[inline(always)]
    unsafe fn values(Fields([qs, exponent, ..]): Fields, group: usize) -> [f32; GROUP] {
        let scale = half_scale(u32::from(unsafe { *exponent }));
        eight(|index| scale * doubled(unsafe { nibble(qs, group, index) }))
    }
}

impl Packed for Mxfp4 {
    const CHUNK: u32 = 32;
    type Bits = ([u32; 4], u32);
    type X = Pair;

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.byte(1, chunk)) }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> Pair {
        unsafe { Pair::of(staged, chunk) }
    }

    #[inline(always)]
    fn dot((qs, exponent): Self::Bits, x: &Pair, sum: f32) -> f32 {
        let (low, high) = look_up(DOUBLED, qs);
        float::fma(half_scale(exponent), x.dot_signed(low, high), sum)
    }
}

impl Bytes for Mxfp4 {
    const SCALES: usize = 1;

    #[inline(always)]
    fn bytes((qs, _): Self::Bits) -> [[u32; 4]; 2] {
        look_up(DOUBLED, qs).into()
    }

    #[inline(always)]
    fn scales((_, exponent): Self::Bits, _chunk: u32) -> [u32; 3] {
        [half_scale(exponent).to_bits(), 0, 0]
    }

    #[inline(always)]
    fn scaled([scale, ..]: [u32; 3], x: [Scale; 2], products: [f32; 2], sum: f32) -> f32 {
        float::fma(f32::from_bits(scale), product(x, products), sum)
    }
}

/// The doubled values of four half-bytes.
#[inline(always)]
pub fn four(qs: [u32; 4], index: usize) -> u32 {
    unsigned(look_up_four(DOUBLED, qs, index))
}

impl Halves for Mxfp4 {
    const OFFSET: u32 = SIGNED;
    type Bits = ([u32; 4], u32);

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { <Mxfp4 as Packed>::load(planes, chunk) }
    }

    #[inline(always)]
    fn four((qs, _): Self::Bits, index: usize) -> u32 {
        four(qs, index)
    }

    #[inline(always)]
    fn scales((_, exponent): Self::Bits, _chunk: u32) -> [[u32; 2]; 2] {
        of_both(both(half_scale(exponent)), 0)
    }
}
