//! IQ1_S and IQ1_M: indices of eight values −1, 0 and 1 each into a codebook, and an eighth more or less on all eight.
//!
//! Eight times a value and its shift is an integer, one of three; so a codebook's half-bytes pick bytes, as in IQ2, from the
//! three of the shift's sign.

use cuda_std::{F16, float, integer::pick_bytes};

use super::{
    Block, Fields, GROUP, Order, Packed, Plane, Planes,
    codebooks::{Codebook, Iq1, byte},
    eight,
    halves::{Halves, SIGNED, of_both, scale_and_half, scales_and_half, unsigned},
    load_f16,
    run::Pair,
};
use crate::gemv::activations::Q8;

/// `d` (f16), then for each eight values the lower byte of an index, then for each run of 32 values 16 bits: 3 for each index, 3 of
/// a scale and the shift's sign. value = d · (2 · scale + 1) · (−1, 0 or 1 ± ⅛).
#[derive(Clone, Copy)]
pub struct Iq1S;

/// For each eight values the lower byte of an index; then for each a half-byte of its upper 3 bits and the shift's sign; then for
/// each 64 values 16 bits: a scale of 3 for each 16 of them, and 4 of the 16 bits of `d`. value as above.
#[derive(Clone, Copy)]
pub struct Iq1M;

/// Eight times −1, 0 and 1, shifted up, and shifted down.
const UP: u32 = u32::from_le_bytes([-7i8 as u8, 1, 9, 0]);
const DOWN: u32 = u32::from_le_bytes([-9i8 as u8, -1i8 as u8, 7, 0]);

/// Eight values, each eight times as large.
#[inline(always)]
unsafe fn octet(index: u32, is_down: bool) -> [u32; 2] {
    let entry = unsafe { Iq1::get(index) };
    let values = if is_down { DOWN } else { UP };
    [pick_bytes(values, 0, entry), pick_bytes(values, 0, entry >> 16)]
}

/// Values 4 · index to 4 · index + 3 of a run, each eight times as large and [`SIGNED`] more, of which `octet` is the entry.
///
/// # Safety
/// - The entry is one of the codebook's.
#[inline(always)]
unsafe fn four(octet: u32, is_down: bool, index: usize) -> u32 {
    let entry = unsafe { Iq1::get(octet) };
    let values = unsigned(if is_down { DOWN } else { UP });
    pick_bytes(values, 0, entry >> (index % 2 * 16))
}

/// The f16 behind which the bits of a scale are quarters, so that (2 · scale + 1) / 8 is a scale and a half: see [`scale_and_half`].
const QUARTERS: u32 = 0x5c00;

/// The values of entry `index` as floats.
#[inline(always)]
unsafe fn floats(scale: f32, index: u32, is_down: bool) -> [f32; GROUP] {
    let entry = unsafe { Iq1::at(index as usize) };
    let shift = if is_down { -0.125 } else { 0.125 };
    eight(|value| scale * ((entry >> (4 * value) & 3) as f32 - 1.0 + shift))
}

#[inline(always)]
unsafe fn word(field: *const u8, index: usize) -> u32 {
    unsafe { *field.cast::<u32>().add(index) }
}

/// Of scale `scale`, the factor beside `d`.
#[inline(always)]
fn odd(scale: u32) -> f32 {
    (2 * scale + 1) as f32
}

impl Block for Iq1S {
    const TYPE: u32 = 19;
    const ELEMENTS: usize = 256;
    const PLANES: &'static [Plane] = &[Plane::new(2, 32), Plane::new(34, 16), Plane::new(0, 2)];

    #[inline(always)]
    unsafe fn values(Fields([qs, upper, d, _]): Fields, group: usize) -> [f32; GROUP] {
        let (run, octet) = (group / 4, group % 4);
        unsafe {
            let upper = word(upper, run / 2) >> (run % 2 * 16);
            let index = u32::from(*qs.add(group)) | (upper >> (3 * octet) & 7) << 8;
            floats(load_f16(d) * odd(upper >> 12 & 7), index, upper & 0x8000 != 0)
        }
    }
}

/// A chunk is two runs, in both.
impl Packed for Iq1S {
    const CHUNK: u32 = 64;
    type Bits = ([u32; 2], u32, u32);
    type X = [Pair; 2];

    #[inline(always)]
    unsafe fn prepare() {
        unsafe { Iq1::stage() }
    }

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.eight(0, chunk), planes.word(1, chunk), planes.half(2, chunk / 4)) }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> [Pair; 2] {
        unsafe { Pair::two(staged, chunk) }
    }

    #[inline(always)]
    fn dot((qs, upper, d): Self::Bits, x: &[Pair; 2], sum: f32) -> f32 {
        let d = F16::from_bits(d as u16).to_f32() * 0.125;
        let (mut sum, mut index) = (sum, 0);
        while index < 2 {
            let upper = upper >> (16 * index);
            let is_down = upper & 0x8000 != 0;
            let bits = [upper << 8, upper << 5, upper << 2, upper >> 1];
            let [a, b, c, d_] = [0, 1, 2, 3].map(|octet_| {
                let entry = byte(qs[index], octet_) | bits[octet_ as usize] & 0x700;
                // SAFETY: eleven bits.
                unsafe { octet(entry, is_down) }
            });
            let product = x[index].dot_signed([a[0], a[1], b[0], b[1]], [c[0], c[1], d_[0], d_[1]]);
            sum = float::fma(d * odd(upper >> 12 & 7), product, sum);
            index += 1;
        }
        sum
    }
}

/// A chunk is a run, in both.
impl Halves for Iq1S {
    const OFFSET: u32 = SIGNED;
    type Bits = (u32, u32, u32);

    #[inline(always)]
    unsafe fn prepare() {
        unsafe { Iq1::stage() }
    }

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.word(0, chunk), planes.half(1, chunk), planes.half(2, chunk / 8)) }
    }

    #[inline(always)]
    unsafe fn load_second(planes: Planes, chunk: u32, (_, _, d): Self::Bits) -> Self::Bits {
        unsafe { (planes.word(0, chunk), planes.half(1, chunk), d) }
    }

    #[inline(always)]
    fn four((qs, upper, _): Self::Bits, index: usize) -> u32 {
        let octet = index / 2;
        let bits = [upper << 8, upper << 5, upper << 2, upper >> 1][octet];
        // SAFETY: eleven bits.
        unsafe { four(byte(qs, octet as u32) | bits & 0x700, upper & 0x8000 != 0, index) }
    }

    #[inline(always)]
    fn scales((_, upper, d): Self::Bits, _chunk: u32) -> [[u32; 2]; 2] {
        of_both(scale_and_half::<QUARTERS>(d, upper >> 12 & 7), 0)
    }
}

impl Block for Iq1M {
    const TYPE: u32 = 29;
    const ELEMENTS: usize = 256;
    const PLANES: &'static [Plane] = &[Plane::new(0, 32), Plane::new(32, 16), Plane::ordered(48, 8, Order::ScaleFirst)];

    #[inline(always)]
    unsafe fn values(Fields([qs, upper, scales, _]): Fields, group: usize) -> [f32; GROUP] {
        unsafe {
            let upper = u32::from(*upper.add(group / 2)) >> (group % 2 * 4);
            let index = u32::from(*qs.add(group)) | (upper & 7) << 8;
            let words = [word(scales, 0), word(scales, 1)];
            let scale = scales_of(words, group as u32 / 8) >> (group % 8 / 2 * 3) & 7;
            floats(F16::from_bits(words[0] as u16).to_f32() * odd(scale), index, upper & 8 != 0)
        }
    }
}

/// The four scales of chunk `chunk` of four, 3 bits each, in the lowest bits: see [`Order::ScaleFirst`].
#[inline(always)]
fn scales_of([low, high]: [u32; 2], chunk: u32) -> u32 {
    ((u64::from(high) << 32 | u64::from(low)) >> (16 + 12 * chunk)) as u32
}

impl Packed for Iq1M {
    const CHUNK: u32 = 64;
    type Bits = ([u32; 2], u32, [u32; 2]);
    type X = ([Pair; 2], u32);

    #[inline(always)]
    unsafe fn prepare() {
        unsafe { Iq1::stage() }
    }

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.eight(0, chunk), planes.word(1, chunk), planes.eight(2, chunk / 4)) }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> ([Pair; 2], u32) {
        (unsafe { Pair::two(staged, chunk) }, chunk % 4)
    }

    #[inline(always)]
    fn dot((qs, upper, scales): Self::Bits, (x, chunk): &([Pair; 2], u32), sum: f32) -> f32 {
        let d = F16::from_bits(scales[0] as u16).to_f32() * 0.125;
        let scales = scales_of(scales, *chunk);
        let (mut sum, mut index) = (sum, 0);
        while index < 2 {
            let upper = upper >> (16 * index);
            let bits = [upper << 8, upper << 4, upper, upper >> 4];
            let [a, b, c, d_] = [0, 1, 2, 3].map(|octet_| {
                let bits = bits[octet_ as usize];
                // SAFETY: eleven bits.
                unsafe { octet(byte(qs[index], octet_) | bits & 0x700, bits & 0x800 != 0) }
            });
            let [first, second] = x[index].dots_signed([a[0], a[1], b[0], b[1]], [c[0], c[1], d_[0], d_[1]]);
            let scales = scales >> (6 * index);
            sum = float::fma(d * odd(scales & 7), first, float::fma(d * odd(scales >> 3 & 7), second, sum));
            index += 1;
        }
        sum
    }
}

impl Halves for Iq1M {
    const OFFSET: u32 = SIGNED;
    type Bits = (u32, u32, [u32; 2]);

    #[inline(always)]
    unsafe fn prepare() {
        unsafe { Iq1::stage() }
    }

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.word(0, chunk), planes.half(1, chunk), planes.eight(2, chunk / 8)) }
    }

    #[inline(always)]
    unsafe fn load_second(planes: Planes, chunk: u32, (_, _, scales): Self::Bits) -> Self::Bits {
        unsafe { (planes.word(0, chunk), planes.half(1, chunk), scales) }
    }

    #[inline(always)]
    fn four((qs, upper, _): Self::Bits, index: usize) -> u32 {
        let octet = index / 2;
        let bits = [upper << 8, upper << 4, upper, upper >> 4][octet];
        // SAFETY: eleven bits.
        unsafe { four(byte(qs, octet as u32) | bits & 0x700, bits & 0x800 != 0, index) }
    }

    #[inline(always)]
    fn scales((_, _, scales): Self::Bits, chunk: u32) -> [[u32; 2]; 2] {
        let of_run = scales_of(scales, chunk % 8 / 2) >> (chunk % 2 * 6);
        scales_and_half::<QUARTERS>(scales[0], of_run & 7 | of_run << 1 & 0x70).map(|scale| [scale, 0])
    }
}
