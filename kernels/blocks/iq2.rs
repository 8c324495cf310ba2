//! IQ2_XXS, IQ2_XS and IQ2_S: signs, and indices of eight magnitudes each into a codebook.
//!
//! A codebook's entry is eight half-bytes, which `prmt` takes as they are: it picks the bytes of four values at a time from the
//! three magnitudes in one register and their negatives in another. So a sign is a bit more in a half-byte.

use cuda_std::{F16, float, integer::pick_bytes};

use super::{
    Block, Fields, GROUP, Order, Packed, Plane, Planes,
    codebooks::{
        Codebook, Iq2S as Iq2SBook, Iq2Xs as Iq2XsBook, Iq2Xxs as Iq2XxsBook, MAGNITUDES, byte, with_eighth_sign,
    },
    eight,
    halves::{Halves, SIGNED, of_both, scale_and_half, scales_and_half, unsigned},
    load_f16,
    run::Pair,
};
use crate::gemv::activations::Q8;

/// `d` (f16), then for each run of 32 a word of four indices and one of 4 · 7 signs and, above, a scale of 4 bits:
/// value = d · (scale + ½) / 4 · ± magnitude.
#[derive(Clone, Copy)]
pub struct Iq2Xxs;

/// `d` (f16), then for each eight values 9 bits of an index and 7 signs, then for each run of 32 two scales of 4 bits, the first
/// of its values below 16: value as above.
#[derive(Clone, Copy)]
pub struct Iq2Xs;

/// `d` (f16), then for each eight values the lower byte of an index, then their signs, then 2 bits for each index, then scales as in
/// IQ2_XS: value as above.
#[derive(Clone, Copy)]
pub struct Iq2S;

/// The magnitudes, and their negatives.
const PLUS: u32 = bytes(1);
const MINUS: u32 = bytes(-1);

const fn bytes(sign: i32) -> u32 {
    let [a, b, c] = MAGNITUDES;
    u32::from_le_bytes([(sign * a as i32) as u8, (sign * b as i32) as u8, (sign * c as i32) as u8, 0])
}

/// Eight values with their signs, the latter each in the second bit from above of its value's half-byte.
#[inline(always)]
fn octet(entry: u32, signs: u32) -> [u32; 2] {
    let selectors = entry | signs & 0x4444_4444;
    [pick_bytes(PLUS, MINUS, selectors), pick_bytes(PLUS, MINUS, selectors >> 16)]
}

/// The 32 values of a run, its signs as [`Order::Octets`] says.
#[inline(always)]
unsafe fn run<C: Codebook>(indices: [u32; 4], signs: u32) -> ([u32; 4], [u32; 4]) {
    let [a, b, c, d] = indices.map(|index| unsafe { C::get(index) });
    let ([a, b], [c, d]) = ([octet(a, signs << 2), octet(b, signs << 1)], [octet(c, signs), octet(d, signs >> 1)]);
    ([a[0], a[1], b[0], b[1]], [c[0], c[1], d[0], d[1]])
}

/// Values 4 · index to 4 · index + 3 of a run, [`SIGNED`] more, of which `octet` is the entry.
///
/// # Safety
/// - The entry is one of the codebook's.
#[inline(always)]
unsafe fn four<C: Codebook>(octet: u32, signs: u32, index: usize) -> u32 {
    let entry = unsafe { C::get(octet) };
    let signs = [signs << 2, signs << 1, signs, signs >> 1][index / 2];
    let selectors = (entry | signs & 0x4444_4444) >> (index % 2 * 16);
    pick_bytes(unsigned(PLUS), unsigned(MINUS), selectors)
}

/// The values of entry `index`, which is octet `octet` of its run, as floats.
#[inline(always)]
unsafe fn floats<C: Codebook>(scale: f32, index: u32, signs: u32, octet: usize) -> [f32; GROUP] {
    let entry = unsafe { C::at(index as usize) };
    let magnitudes = bytes(1);
    eight(|value| {
        let magnitude = byte(magnitudes, entry >> (4 * value) & 3) as f32;
        scale * if signs >> (4 * value + octet) & 1 == 0 { magnitude } else { -magnitude }
    })
}

/// The f16 behind which the bits of a scale are quarters: see [`scale_and_half`].
const QUARTERS: u32 = 0x5c00;

/// d · (scale + ½) / 4.
#[inline(always)]
fn scaled(d: f32, scale: u32) -> f32 {
    d * (0.5 + scale as f32) * 0.25
}

/// The word `index` of a field.
#[inline(always)]
unsafe fn word(field: *const u8, index: usize) -> u32 {
    unsafe { *field.cast::<u32>().add(index) }
}

/// sum + the products of a run whose first 16 values have the scale in the lower half of the byte.
#[inline(always)]
fn dot_two_scales(d: f32, scales: u32, x: &Pair, values: ([u32; 4], [u32; 4]), sum: f32) -> f32 {
    let [first, second] = x.dots_signed(values.0, values.1);
    float::fma(scaled(d, scales & 15), first, float::fma(scaled(d, scales >> 4 & 15), second, sum))
}

impl Block for Iq2Xxs {
    const TYPE: u32 = 16;
    const ELEMENTS: usize = 256;
    const PLANES: &'static [Plane] = &[Plane::ordered(2, 64, Order::Octets), Plane::new(0, 2)];

    #[inline(always)]
    unsafe fn values(Fields([qs, d, ..]): Fields, group: usize) -> [f32; GROUP] {
        let (run, octet) = (group / 4, group % 4);
        unsafe {
            let (indices, signs) = (word(qs, 2 * run), word(qs, 2 * run + 1));
            let scale = scaled(load_f16(d), signs >> 28);
            floats::<Iq2XxsBook>(scale, byte(indices, octet as u32), with_eighth_sign(signs), octet)
        }
    }
}

/// A chunk is two runs, in all three.
impl Packed for Iq2Xxs {
    const CHUNK: u32 = 64;
    type Bits = ([u32; 4], u32);
    type X = [Pair; 2];

    #[inline(always)]
    unsafe fn prepare() {
        unsafe { Iq2XxsBook::stage() }
    }

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.half(1, chunk / 4)) }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> [Pair; 2] {
        unsafe { Pair::two(staged, chunk) }
    }

    #[inline(always)]
    fn dot((qs, d): Self::Bits, x: &[Pair; 2], sum: f32) -> f32 {
        let d = F16::from_bits(d as u16).to_f32();
        let (mut sum, mut index) = (sum, 0);
        while index < 2 {
            let (indices, signs) = (qs[2 * index], qs[2 * index + 1]);
            let indices = [0, 1, 2, 3].map(|octet| byte(indices, octet));
            let (low, high) = unsafe { run::<Iq2XxsBook>(indices, with_eighth_sign(signs)) };
            sum = float::fma(scaled(d, signs >> 28), x[index].dot_signed(low, high), sum);
            index += 1;
        }
        sum
    }
}

/// A chunk is a run, in all three.
impl Halves for Iq2Xxs {
    const OFFSET: u32 = SIGNED;
    type Bits = ([u32; 2], u32);

    #[inline(always)]
    unsafe fn prepare() {
        unsafe { Iq2XxsBook::stage() }
    }

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream_eight(0, chunk), planes.half(1, chunk / 8)) }
    }

    #[inline(always)]
    unsafe fn load_second(planes: Planes, chunk: u32, (_, d): Self::Bits) -> Self::Bits {
        unsafe { (planes.stream_eight(0, chunk), d) }
    }

    #[inline(always)]
    fn four(([indices, signs], _): Self::Bits, index: usize) -> u32 {
        // SAFETY: a byte.
        unsafe { four::<Iq2XxsBook>(byte(indices, index as u32 / 2), with_eighth_sign(signs), index) }
    }

    #[inline(always)]
    fn scales(([_, signs], d): Self::Bits, _chunk: u32) -> [[u32; 2]; 2] {
        of_both(scale_and_half::<QUARTERS>(d, signs >> 28), 0)
    }
}

impl Block for Iq2Xs {
    const TYPE: u32 = 17;
    const ELEMENTS: usize = 256;
    const PLANES: &'static [Plane] =
        &[Plane::ordered(2, 64, Order::NinesAndOctets), Plane::new(66, 8), Plane::new(0, 2)];

    #[inline(always)]
    unsafe fn values(Fields([qs, scales, d, _]): Fields, group: usize) -> [f32; GROUP] {
        let (run, octet) = (group / 4, group % 4);
        unsafe {
            let (indices, signs) = (word(qs, 2 * run), word(qs, 2 * run + 1));
            let index = byte(indices, octet as u32) | (signs >> (28 + octet) & 1) << 8;
            let scale = u32::from(*scales.add(run)) >> (octet / 2 * 4) & 15;
            floats::<Iq2XsBook>(scaled(load_f16(d), scale), index, with_eighth_sign(signs), octet)
        }
    }
}

impl Packed for Iq2Xs {
    const CHUNK: u32 = 64;
    type Bits = ([u32; 4], u32, u32);
    type X = [Pair; 2];

    #[inline(always)]
    unsafe fn prepare() {
        unsafe { Iq2XsBook::stage() }
    }

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.half(1, chunk), planes.half(2, chunk / 4)) }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> [Pair; 2] {
        unsafe { Pair::two(staged, chunk) }
    }

    #[inline(always)]
    fn dot((qs, scales, d): Self::Bits, x: &[Pair; 2], sum: f32) -> f32 {
        let d = F16::from_bits(d as u16).to_f32();
        let (mut sum, mut index) = (sum, 0);
        while index < 2 {
            let (indices, signs) = (qs[2 * index], qs[2 * index + 1]);
            let indices = [0, 1, 2, 3].map(|octet| byte(indices, octet) | signs >> (20 + octet) & 0x100);
            let values = unsafe { run::<Iq2XsBook>(indices, with_eighth_sign(signs)) };
            sum = dot_two_scales(d, scales >> (8 * index), &x[index], values, sum);
            index += 1;
        }
        sum
    }
}

impl Halves for Iq2Xs {
    const OFFSET: u32 = SIGNED;
    type Bits = ([u32; 2], u32, u32);

    #[inline(always)]
    unsafe fn prepare() {
        unsafe { Iq2XsBook::stage() }
    }

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream_eight(0, chunk), planes.byte(1, chunk), planes.half(2, chunk / 8)) }
    }

    #[inline(always)]
    unsafe fn load_second(planes: Planes, chunk: u32, (_, _, d): Self::Bits) -> Self::Bits {
        unsafe { (planes.stream_eight(0, chunk), planes.byte(1, chunk), d) }
    }

    #[inline(always)]
    fn four(([indices, signs], _, _): Self::Bits, index: usize) -> u32 {
        let octet = index as u32 / 2;
        let entry = byte(indices, octet) | signs >> (20 + octet) & 0x100;
        // SAFETY: nine bits.
        unsafe { four::<Iq2XsBook>(entry, with_eighth_sign(signs), index) }
    }

    #[inline(always)]
    fn scales((_, scales, d): Self::Bits, _chunk: u32) -> [[u32; 2]; 2] {
        scales_and_half::<QUARTERS>(d, scales).map(|scale| [scale, 0])
    }
}

impl Block for Iq2S {
    const TYPE: u32 = 22;
    const ELEMENTS: usize = 256;
    const PLANES: &'static [Plane] =
        &[Plane::ordered(2, 64, Order::BytesAndOctets), Plane::ordered(66, 16, Order::InPairs), Plane::new(0, 2)];

    #[inline(always)]
    unsafe fn values(Fields([qs, rest, d, _]): Fields, group: usize) -> [f32; GROUP] {
        let (run, octet) = (group / 4, group % 4);
        unsafe {
            let (indices, signs) = (word(qs, 2 * run), word(qs, 2 * run + 1));
            let rest = word(rest, run / 2) >> (run % 2 * 16);
            let index = byte(indices, octet as u32) | (rest >> (2 * octet) & 3) << 8;
            let scale = rest >> (8 + octet / 2 * 4) & 15;
            floats::<Iq2SBook>(scaled(load_f16(d), scale), index, signs, octet)
        }
    }
}

impl Packed for Iq2S {
    const CHUNK: u32 = 64;
    /// The last word but one: for each run a byte of the upper bits of its indices, then one of its scales.
    type Bits = ([u32; 4], u32, u32);
    type X = [Pair; 2];

    #[inline(always)]
    unsafe fn prepare() {
        unsafe { Iq2SBook::stage() }
    }

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.word(1, chunk), planes.half(2, chunk / 4)) }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> [Pair; 2] {
        unsafe { Pair::two(staged, chunk) }
    }

    #[inline(always)]
    fn dot((qs, rest, d): Self::Bits, x: &[Pair; 2], sum: f32) -> f32 {
        let d = F16::from_bits(d as u16).to_f32();
        let (mut sum, mut index) = (sum, 0);
        while index < 2 {
            let (indices, signs) = (qs[2 * index], qs[2 * index + 1]);
            let upper = rest >> (16 * index);
            let upper = [upper << 8, upper << 6, upper << 4, upper << 2];
            let indices = [0, 1, 2, 3].map(|octet| byte(indices, octet) | upper[octet as usize] & 0x300);
            let values = unsafe { run::<Iq2SBook>(indices, signs) };
            sum = dot_two_scales(d, rest >> (16 * index + 8), &x[index], values, sum);
            index += 1;
        }
        sum
    }
}

impl Halves for Iq2S {
    const OFFSET: u32 = SIGNED;
    type Bits = ([u32; 2], u32, u32);

    #[inline(always)]
    unsafe fn prepare() {
        unsafe { Iq2SBook::stage() }
    }

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream_eight(0, chunk), planes.half(1, chunk), planes.half(2, chunk / 8)) }
    }

    #[inline(always)]
    unsafe fn load_second(planes: Planes, chunk: u32, (_, _, d): Self::Bits) -> Self::Bits {
        unsafe { (planes.stream_eight(0, chunk), planes.half(1, chunk), d) }
    }

    #[inline(always)]
    fn four(([indices, signs], rest, _): Self::Bits, index: usize) -> u32 {
        let octet = index as u32 / 2;
        let entry = byte(indices, octet) | rest << (8 - 2 * octet) & 0x300;
        // SAFETY: ten bits.
        unsafe { four::<Iq2SBook>(entry, signs, index) }
    }

    #[inline(always)]
    fn scales((_, rest, d): Self::Bits, _chunk: u32) -> [[u32; 2]; 2] {
        scales_and_half::<QUARTERS>(d, rest >> 8).map(|scale| [scale, 0])
    }
}
