//! IQ4_NL and IQ4_XS: 4-bit indices into sixteen values that are denser near zero.

use cuda_std::{
    F16, float,
    halves::{both, lower},
};

use super::{
    Block, Fields, GROUP, Packed, Plane, Planes,
    bytes::{Bytes, product},
    eight,
    halves::{Halves, SIGNED, of_both, unsigned},
    load_f16, load_u16,
    look_up::{Table, look_up, look_up_four, table},
    q4::nibble,
    run::Pair,
};
use crate::gemv::activations::{Q8, Scale};

/// The sixteen values: `kvalues_iq4nl` in ggml-common.h.
const VALUES: Table = table([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]);

/// The value that an index stands for: shifts in registers, not a load.
#[inline(always)]
fn value(index: u32) -> f32 {
    let (low, high) = if index & 8 == 0 { (VALUES[0], VALUES[1]) } else { (VALUES[2], VALUES[3]) };
    let word = if index & 4 == 0 { low } else { high };
    f32::from((word >> (index % 4 * 8)) as u8 as i8)
}

/// `d` (f16), then 16 bytes as in Q4_0: value = d · table[q].
#[derive(Clone, Copy)]
pub struct Iq4Nl;

/// `d` (f16), 2 bytes with the upper two bits of eight scales, 4 bytes with their low halves, then eight runs of 16 bytes,
/// each as in Q4_0: value = d · (scale − 32) · table[q].
#[derive(Clone, Copy)]
pub struct Iq4Xs;

impl Block for Iq4Nl {
    const TYPE: u32 = 20;
    const ELEMENTS: usize = 32;
    const PLANES: &'static [Plane] = &[Plane::new(2, 16), Plane::new(0, 2)];

    #[inline(always)]
    unsafe fn values(Fields([qs, d, ..]): Fields, group: usize) -> [f32; GROUP] {
        let d = unsafe { load_f16(d) };
        eight(|index| d * value(unsafe { nibble(qs, group, index) }))
    }
}

impl Packed for Iq4Nl {
    const CHUNK: u32 = 32;
    type Bits = ([u32; 4], f32);
    type X = Pair;

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.f16(1, chunk)) }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> Pair {
        unsafe { Pair::of(staged, chunk) }
    }

    #[inline(always)]
    fn dot((qs, d): Self::Bits, x: &Pair, sum: f32) -> f32 {
        let (low, high) = look_up(VALUES, qs);
        float::fma(d, x.dot_signed(low, high), sum)
    }
}

impl Block for Iq4Xs {
    const TYPE: u32 = 23;
    const ELEMENTS: usize = 256;
    const PLANES: &'static [Plane] = &[Plane::new(8, 128), Plane::new(0, 8)];

    #[inline(always)]
    unsafe fn values(Fields([qs, d, ..]): Fields, group: usize) -> [f32; GROUP] {
        let run = group / 4;
        let high = unsafe { load_u16(d.add(2)) } >> (run * 2) & 3;
        let low = unsafe { *d.add(4 + run / 2) } >> (run % 2 * 4) & 15;
        let scale = unsafe { load_f16(d) } * (i32::from(low) + (i32::from(high) << 4) - 32) as f32;
        eight(|index| scale * value(unsafe { nibble(qs.add(run * 16), group % 4, index) }))
    }
}

/// The scale of run `run` of a block with this header.
#[inline(always)]
fn scale_of_run(header: [u32; 2], run: u32) -> f32 {
    let d = F16::from_bits(header[0] as u16).to_f32();
    let (low, high) = (header[1] >> (4 * run) & 15, header[0] >> (16 + 2 * run) & 3);
    d * ((low | high << 4) as f32 - 32.0)
}

/// A chunk is a run: its 16 bytes, the block's header, and which of its eight runs it is.
impl Packed for Iq4Xs {
    const CHUNK: u32 = 32;
    type Bits = ([u32; 4], [u32; 2]);
    type X = (Pair, u32);

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.eight(1, chunk / 8)) }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> (Pair, u32) {
        (unsafe { Pair::of(staged, chunk) }, chunk % 8)
    }

    #[inline(always)]
    fn dot((qs, header): Self::Bits, (x, run): &(Pair, u32), sum: f32) -> f32 {
        let scale = scale_of_run(header, *run);
        let (low, high) = look_up(VALUES, qs);
        float::fma(scale, x.dot_signed(low, high), sum)
    }
}

impl Bytes for Iq4Nl {
    const SCALES: usize = 1;

    #[inline(always)]
    fn bytes((qs, _): Self::Bits) -> [[u32; 4]; 2] {
        look_up(VALUES, qs).into()
    }

    #[inline(always)]
    fn scales((_, d): Self::Bits, _chunk: u32) -> [u32; 3] {
        [d.to_bits(), 0, 0]
    }

    #[inline(always)]
    fn scaled([d, ..]: [u32; 3], x: [Scale; 2], products: [f32; 2], sum: f32) -> f32 {
        float::fma(f32::from_bits(d), product(x, products), sum)
    }
}

impl Bytes for Iq4Xs {
    const SCALES: usize = 1;

    #[inline(always)]
    fn bytes((qs, _): Self::Bits) -> [[u32; 4]; 2] {
        look_up(VALUES, qs).into()
    }

    #[inline(always)]
    fn scales((_, header): Self::Bits, chunk: u32) -> [u32; 3] {
        [scale_of_run(header, chunk % 8).to_bits(), 0, 0]
    }

    #[inline(always)]
    fn scaled([scale, ..]: [u32; 3], x: [Scale; 2], products: [f32; 2], sum: f32) -> f32 {
        float::fma(f32::from_bits(scale), product(x, products), sum)
    }
}

/// The values that four indices stand for.
#[inline(always)]
fn four(qs: [u32; 4], index: usize) -> u32 {
    unsigned(look_up_four(VALUES, qs, index))
}

impl Halves for Iq4Nl {
    const OFFSET: u32 = SIGNED;
    type Bits = ([u32; 4], u32);

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), planes.half(1, chunk)) }
    }

    #[inline(always)]
    fn four((qs, _): Self::Bits, index: usize) -> u32 {
        four(qs, index)
    }

    #[inline(always)]
    fn scales((_, d): Self::Bits, _chunk: u32) -> [[u32; 2]; 2] {
        of_both(lower(d), 0)
    }
}

impl Halves for Iq4Xs {
    const OFFSET: u32 = SIGNED;
    type Bits = ([u32; 4], [u32; 2]);

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        unsafe { <Iq4Xs as Packed>::load(planes, chunk) }
    }

    #[inline(always)]
    unsafe fn load_second(planes: Planes, chunk: u32, (_, header): Self::Bits) -> Self::Bits {
        unsafe { (planes.stream(0, chunk), header) }
    }

    #[inline(always)]
    fn four((qs, _): Self::Bits, index: usize) -> u32 {
        four(qs, index)
    }

    #[inline(always)]
    fn scales((_, header): Self::Bits, chunk: u32) -> [[u32; 2]; 2] {
        of_both(both(scale_of_run(header, chunk % 8)), 0)
    }
}
