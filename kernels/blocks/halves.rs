//! A format's values as pairs of f16, made in registers: for products on tensor cores (`gemm`).

use cuda_std::{
    halves::{self, lower},
    integer,
};

use super::{Block, Planes};

/// A format whose chunks of [`CHUNK`](crate::gemm::CHUNK) values are integers of a byte, scaled, with a minimum or without.
pub trait Halves: Block {
    /// What integers without sign are more than they mean: value = (q − OFFSET) · scale + minimum.
    const OFFSET: u32;

    /// With how many tokens groups of warps have registers for two steps' chunks.
    const MOST_IN_PAIRS: usize = 64;

    /// A chunk, as loaded: nothing that is made of it, which would wait for it.
    type Bits: Copy;

    /// Puts what values are looked up in into shared memory. Collective over the block, which meets at a barrier before the first product.
    ///
    /// # Safety
    /// - Called once in a launch.
    #[inline(always)]
    unsafe fn prepare() {}

    /// Loads a chunk, counted over all rows.
    ///
    /// # Safety
    /// - The chunk is within the planes, which are global addresses.
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits;

    /// Loads a chunk in the second half of 256 values, beside the one four before it: what a block has but once is there already.
    ///
    /// # Safety
    /// - As for [`load`](Halves::load); of a format with blocks of 256, `first` is that chunk.
    #[inline(always)]
    unsafe fn load_second(planes: Planes, chunk: u32, _first: Self::Bits) -> Self::Bits {
        unsafe { Self::load(planes, chunk) }
    }

    /// Integers 4 · index to 4 · index + 3, one to a byte. `index` is a constant after inlining, as are those of the arrays in `bits`: an
    /// array that was made here would go to local memory. Behind [`prepare`](Halves::prepare) and its barrier.
    fn four(bits: Self::Bits, index: usize) -> u32;

    /// Integers 4 · index and 4 · index + 2, then 4 · index + 1 and 4 · index + 3, less [`OFFSET`](Halves::OFFSET): f16, exact.
    #[inline(always)]
    fn halves(bits: Self::Bits, index: usize, _masks: Masks) -> [u32; 2] {
        let integers = Self::four(bits, index);
        let pick = |bytes| integer::pick_bytes(integers, EXPONENTS, bytes);
        let base = twice(0x6400 + Self::OFFSET);
        [halves::sub(pick(0x4240), base), halves::sub(pick(0x4341), base)]
    }

    /// The same of integers 4 · index and 4 · index + 1, then of the last two.
    #[inline(always)]
    fn neighbours(bits: Self::Bits, index: usize) -> [u32; 2] {
        let integers = Self::four(bits, index);
        let pick = |bytes| integer::pick_bytes(integers, EXPONENTS, bytes);
        let base = twice(0x6400 + Self::OFFSET);
        [halves::sub(pick(0x4140), base), halves::sub(pick(0x4342), base)]
    }

    /// Scale and minimum of the first and the last 16 values, each an f16 in both halves of its word; `chunk` is the chunk's place in
    /// its row.
    fn scales(bits: Self::Bits, chunk: u32) -> [[u32; 2]; 2];
}

/// Behind the exponent of 1024 a byte is what is added to that: four of its upper bytes.
pub const EXPONENTS: u32 = 0x6464_6464;

/// Constants of [`fields`] that the assembler must not know.
#[derive(Clone, Copy)]
pub struct Masks {
    /// [`Masks::ABOVE`].
    pub above: u32,
}

impl Masks {
    /// All but the mantissas of two halves.
    pub const ABOVE: u32 = 0xfc00_fc00;
}

/// Of each byte of `word` the `BITS` bits from `first` on, less `OFFSET`, as f16: bytes 0 and 2, then 1 and 3.
///
/// Behind the exponent of 2^(10 − first) these bits are units. What puts them there is one instruction, whatever the bits: it has one constant
/// of its own, which is exponent and mask in one, and one in a register.
#[inline(always)]
pub fn fields<const BITS: u32, const OFFSET: u32>(word: u32, first: u32, masks: Masks) -> [u32; 2] {
    let exponent = 0x6400 - 0x0400 * first;
    let keep = twice(exponent | ((1 << BITS) - 1) << first);
    [word, word >> 8].map(
        #[inline(always)]
        |word| halves::sub(integer::or_and(word, masks.above, keep), twice(exponent + (OFFSET << first))),
    )
}

/// [`Halves::halves`] of sixteen bytes that lie as in Q4_0.
#[inline(always)]
pub fn nibble_halves<const OFFSET: u32>(qs: [u32; 4], index: usize, masks: Masks) -> [u32; 2] {
    fields::<4, OFFSET>(qs[index % 4], index as u32 / 4 * 4, masks)
}

/// An f16, by its bits, in both halves of a word; a constant's.
#[inline(always)]
pub const fn twice(half: u32) -> u32 {
    half * 0x0001_0001
}

/// For the whole chunk the same scale and minimum.
#[inline(always)]
pub fn of_both(scale: u32, minimum: u32) -> [[u32; 2]; 2] {
    [[scale, minimum]; 2]
}

/// d · (scale + ½) · 2^k in both halves, rounded once: `scale` has 4 bits, `d` is an f16 in the lower half, and `EXPONENT` is the f16 2^(10 + k), behind
/// which the scale's bits are units of 2^k.
#[inline(always)]
pub fn scale_and_half<const EXPONENT: u32>(d: u32, scale: u32) -> u32 {
    // What is next below a power of two is half a unit below.
    halves::mul(halves::sub(lower(scale | EXPONENT), const { twice(EXPONENT - 1) }), lower(d))
}

/// The same of two scales: in the lower and the upper half-byte of `scales`, which is a byte.
#[inline(always)]
pub fn scales_and_half<const EXPONENT: u32>(d: u32, scales: u32) -> [u32; 2] {
    let both = (scales | scales << 12) & 0x000f_000f | const { twice(EXPONENT) };
    let both = halves::mul(halves::sub(both, const { twice(EXPONENT - 1) }), lower(d));
    [lower(both), halves::upper(both)]
}

/// Four half-bytes of sixteen bytes that lie as in Q4_0: the low halves hold the first 16 values, the high ones the last.
#[inline(always)]
pub fn four_nibbles(qs: [u32; 4], index: usize) -> u32 {
    qs[index % 4] >> (index / 4 * 4) & 0x0f0f_0f0f
}

/// Signed bytes as bytes without sign that are [`SIGNED`] more.
#[inline(always)]
pub fn unsigned(word: u32) -> u32 {
    word ^ 0x8080_8080
}

/// The offset of signed bytes.
pub const SIGNED: u32 = 128;
