//! A format's values as pairs of f16, made in registers: for products on tensor cores (`gemm.rs`).

use super::{Block, Planes};

/// A format whose chunks of [`CHUNK`](crate::gemm::CHUNK) values are integers of a byte, scaled, with a minimum or without.
pub trait Halves: Block {
    /// What integers without sign are more than they mean: value = (q − OFFSET) · scale + minimum.
    const OFFSET: u32;

    /// A chunk, as loaded: nothing that is made of it, which would wait for it.
    type Bits: Copy;

    /// Loads a chunk, counted over all rows.
    ///
    /// # Safety
    /// - The chunk is within the planes, which are global addresses.
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits;

    /// Integers 4 · index to 4 · index + 3, one to a byte. `index` is a constant after inlining, as are those of the arrays in `bits`: an
    /// array that was made here would go to local memory.
    fn four(bits: Self::Bits, index: usize) -> u32;

    /// Scale and minimum of the first and the last 16 values, each an f16 in both halves of its word; `chunk` is the chunk's place in
    /// its row.
    fn scales(bits: Self::Bits, chunk: u32) -> [[u32; 2]; 2];
}

/// An f16, by its bits, in both halves of a word.
#[inline(always)]
pub fn twice(half: u32) -> u32 {
    half * 0x0001_0001
}

/// For the whole chunk the same scale and minimum.
#[inline(always)]
pub fn of_both(scale: u32, minimum: u32) -> [[u32; 2]; 2] {
    [[scale, minimum]; 2]
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
