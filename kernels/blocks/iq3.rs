//! IQ3_XXS and IQ3_S: signs, and indices of four magnitudes each into a codebook.
//!
//! A codebook's entry is four bytes. Where a value is negative its byte is inverted, which makes q to −q − 1: so the product is
//! short of Σ x over the negative values. In IQ3_S a value is 2 q + 1, of which that makes −(2 q + 1): nothing is missing.

use cuda_std::{F16, float, halves as words, integer};

use super::{
    Block, Fields, GROUP, Order, Packed, Plane, Planes,
    codebooks::{Codebook, Iq3S as Iq3SBook, Iq3Xxs as Iq3XxsBook, byte, quartet_signs, with_every_eighth_sign},
    eight,
    halves::{EXPONENTS, Halves, Masks, SIGNED, of_both, scale_and_half, twice, unsigned},
    load_f16,
    run::Pair,
};
use crate::gemv::activations::Q8;

/// `d` (f16), then for each four values an index, then for each run of 32 a word of 4 · 7 signs and, above, a scale of 4 bits:
/// value = d · (scale + ½) / 2 · ± magnitude.
#[derive(Clone, Copy)]
pub struct Iq3Xxs;

/// `d` (f16), then for each four values the lower byte of an index, then for each its ninth bit, then all signs, then a scale of 4
/// bits for each run of 32: value = d · (2 · scale + 1) · ± magnitude.
#[derive(Clone, Copy)]
pub struct Iq3S;

/// The values of two neighbouring entries as floats, `signs` as [`Order::Quartets`] says and `octet` their place in the run.
#[inline(always)]
fn floats(scale: f32, entries: [u32; 2], signs: u32, octet: usize) -> [f32; GROUP] {
    eight(|value| {
        let (half, v) = (value / 4, value % 4);
        let magnitude = byte(entries[half], v as u32) as f32;
        scale * if signs >> (8 * v + 4 * half + octet) & 1 == 0 { magnitude } else { -magnitude }
    })
}

#[inline(always)]
unsafe fn word(field: *const u8, index: usize) -> u32 {
    unsafe { *field.cast::<u32>().add(index) }
}

impl Block for Iq3Xxs {
    const TYPE: u32 = 18;
    const ELEMENTS: usize = 256;
    const PLANES: &'static [Plane] =
        &[Plane::new(2, 64), Plane::ordered(66, 32, Order::SevensToQuartets), Plane::new(0, 2)];

    #[inline(always)]
    unsafe fn values(Fields([qs, signs, d, _]): Fields, group: usize) -> [f32; GROUP] {
        unsafe {
            let signs = word(signs, group / 4);
            let entries = [0, 1].map(|half| Iq3XxsBook::at(usize::from(*qs.add(2 * group + half))));
            let scale = load_f16(d) * (0.5 + (signs >> 28) as f32) * 0.5;
            floats(scale, entries, with_every_eighth_sign(signs), group % 4)
        }
    }
}

/// A chunk is two runs, in both.
impl Packed for Iq3Xxs {
    const CHUNK: u32 = 64;
    const AHEAD: bool = false;
    type Bits = ([u32; 4], [u32; 2], u32);
    type X = [Pair; 2];

    #[inline(always)]
    unsafe fn prepare() {
        unsafe { Iq3XxsBook::stage() }
    }

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.eight(1, chunk), planes.half(2, chunk / 4)) }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> [Pair; 2] {
        unsafe { Pair::two(staged, chunk) }
    }

    #[inline(always)]
    fn dot((qs, signs, d): Self::Bits, x: &[Pair; 2], sum: f32) -> f32 {
        let d = F16::from_bits(d as u16).to_f32() * 0.5;
        let (mut sum, mut index) = (sum, 0);
        while index < 2 {
            let signs_of_run = with_every_eighth_sign(signs[index]);
            let (mut products, mut missing, mut entry) = ([0, 0], [0, 0], 0);
            while entry < 8 {
                let (word, half) = (2 * index + entry / 4, entry / 4);
                // SAFETY: a byte.
                let magnitudes = unsafe { Iq3XxsBook::get(byte(qs[word], entry as u32 % 4)) };
                let (minus, x) = (quartet_signs(signs_of_run, entry as u32), x[index].word(entry));
                products[half] = integer::dot4(magnitudes ^ minus, x, products[half]);
                // A byte of ones is −1.
                missing[half] = integer::dot4(minus, x, missing[half]);
                entry += 1;
            }
            let scale = d * (0.5 + (signs[index] >> 28) as f32);
            sum = float::fma(scale, x[index].scaled(products[0] - missing[0], products[1] - missing[1]), sum);
            index += 1;
        }
        sum
    }
}

/// A chunk is a run, in both.
impl Halves for Iq3Xxs {
    const OFFSET: u32 = SIGNED;
    type Bits = ([u32; 2], u32, u32);

    #[inline(always)]
    unsafe fn prepare() {
        unsafe { Iq3XxsBook::stage() }
    }

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream_eight(0, chunk), planes.word(1, chunk), planes.half(2, chunk / 8)) }
    }

    #[inline(always)]
    unsafe fn load_second(planes: Planes, chunk: u32, (_, _, d): Self::Bits) -> Self::Bits {
        unsafe { (planes.stream_eight(0, chunk), planes.word(1, chunk), d) }
    }

    #[inline(always)]
    fn four((qs, signs, _): Self::Bits, index: usize) -> u32 {
        // SAFETY: a byte.
        let magnitudes = unsafe { Iq3XxsBook::get(byte(qs[index / 4], index as u32 % 4)) };
        let minus = quartet_signs(with_every_eighth_sign(signs), index as u32);
        // What an inverted byte is short of; at most 128 of 255, so none takes part in the next.
        unsigned(magnitudes ^ minus) + (minus & 0x0101_0101)
    }

    /// The magnitudes, with the signs as an f16's.
    #[inline(always)]
    fn halves((qs, signs, _): Self::Bits, index: usize, _masks: Masks) -> [u32; 2] {
        // SAFETY: a byte.
        let magnitudes = unsafe { Iq3XxsBook::get(byte(qs[index / 4], index as u32 % 4)) };
        let signs = with_every_eighth_sign(signs) << (7 - (index % 2 * 4 + index / 2));
        let half = |bytes, signs| {
            let magnitudes = words::sub(integer::pick_bytes(magnitudes, EXPONENTS, bytes), const { twice(0x6400) });
            magnitudes ^ signs & const { twice(0x8000) }
        };
        [half(0x4240, signs << 8), half(0x4341, signs)]
    }

    #[inline(always)]
    fn scales((_, signs, d): Self::Bits, _chunk: u32) -> [[u32; 2]; 2] {
        // Behind 512 they are halves.
        of_both(scale_and_half::<0x6000>(d, signs >> 28), 0)
    }
}

impl Block for Iq3S {
    const TYPE: u32 = 21;
    const ELEMENTS: usize = 256;
    const PLANES: &'static [Plane] =
        &[Plane::new(2, 64), Plane::ordered(66, 40, Order::NinthsAndQuartets), Plane::new(106, 4), Plane::new(0, 2)];

    #[inline(always)]
    unsafe fn values(Fields([qs, signs, scales, d]): Fields, group: usize) -> [f32; GROUP] {
        let run = group / 4;
        unsafe {
            let ninths = usize::from(*signs.add(32 + run)) >> (2 * (group % 4));
            let entries =
                [0, 1].map(|half| Iq3SBook::at(usize::from(*qs.add(2 * group + half)) | (ninths >> half & 1) << 8));
            let scale = *scales.add(run / 2) >> (run % 2 * 4) & 15;
            let scale = load_f16(d) * (1 + 2 * u32::from(scale)) as f32;
            floats(scale, entries.map(|entry| 2 * entry + 0x0101_0101), word(signs, run), group % 4)
        }
    }
}

impl Packed for Iq3S {
    const CHUNK: u32 = 64;
    const AHEAD: bool = false;
    /// Indices, signs, ninth bits, scales, d.
    type Bits = ([u32; 4], [u32; 2], u32, u32, u32);
    type X = [Pair; 2];

    #[inline(always)]
    unsafe fn prepare() {
        unsafe { Iq3SBook::stage() }
    }

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        let (block, in_block) = (chunk / 4, chunk % 4);
        unsafe {
            (
                planes.stream(0, chunk),
                planes.eight(1, 5 * block + in_block),
                planes.half(1, 20 * block + 16 + in_block),
                planes.byte(2, chunk),
                planes.half(3, block),
            )
        }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> [Pair; 2] {
        unsafe { Pair::two(staged, chunk) }
    }

    #[inline(always)]
    fn dot((qs, signs, ninths, scales, d): Self::Bits, x: &[Pair; 2], sum: f32) -> f32 {
        let d = F16::from_bits(d as u16).to_f32();
        let (mut sum, mut index) = (sum, 0);
        while index < 2 {
            let ninths = ninths >> (8 * index) << 8;
            let (mut products, mut entry) = ([0, 0], 0);
            while entry < 8 {
                let (word, half) = (2 * index + entry / 4, entry / 4);
                let number = byte(qs[word], entry as u32 % 4) | ninths >> entry & 0x100;
                // SAFETY: nine bits.
                let halved = unsafe { Iq3SBook::get(number) };
                let minus = quartet_signs(signs[index], entry as u32);
                products[half] = integer::dot4(halved ^ minus, x[index].word(entry), products[half]);
                entry += 1;
            }
            let product = float::fma(2.0, x[index].scaled(products[0], products[1]), x[index].sum());
            sum = float::fma(d * (1 + 2 * (scales >> (4 * index) & 15)) as f32, product, sum);
            index += 1;
        }
        sum
    }
}

/// What is 2 q + 1 or −(2 q + 1) is twice q or −q − 1, and one.
impl Halves for Iq3S {
    const OFFSET: u32 = SIGNED;
    /// Indices, signs, ninth bits, scales, d.
    type Bits = ([u32; 2], u32, u32, u32, u32);

    #[inline(always)]
    unsafe fn prepare() {
        unsafe { Iq3SBook::stage() }
    }

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        let d = unsafe { planes.half(3, chunk / 8) };
        unsafe { Self::load_second(planes, chunk, ([0; 2], 0, 0, 0, d)) }
    }

    #[inline(always)]
    unsafe fn load_second(planes: Planes, chunk: u32, (.., d): Self::Bits) -> Self::Bits {
        let (block, in_block) = (chunk / 8, chunk % 8);
        unsafe {
            (
                planes.stream_eight(0, chunk),
                planes.word(1, 10 * block + in_block),
                planes.byte(1, 40 * block + 32 + in_block),
                planes.byte(2, chunk / 2),
                d,
            )
        }
    }

    #[inline(always)]
    fn four((qs, signs, ninths, _, _): Self::Bits, index: usize) -> u32 {
        let number = byte(qs[index / 4], index as u32 % 4) | ninths << (8 - index) & 0x100;
        // SAFETY: nine bits.
        let halved = unsafe { Iq3SBook::get(number) };
        unsigned(halved ^ quartet_signs(signs, index as u32))
    }

    #[inline(always)]
    fn scales((.., scales, d): Self::Bits, chunk: u32) -> [[u32; 2]; 2] {
        // Behind 2048 a scale counts twice; that is the minimum.
        let minimum = scale_and_half::<0x6800>(d, scales >> (chunk % 2 * 4) & 15);
        of_both(words::mul(minimum, const { twice(0x4000) }), minimum)
    }
}
