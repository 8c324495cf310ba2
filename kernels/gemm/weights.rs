//! What products of a few tokens are made with: blocks of any format, and floats of 16 bits.

use super::MOST_TOKENS;
use crate::blocks::{Halves, Masks, Planes};

/// Weights whose rows are chunks of [`CHUNK`](super::CHUNK) values, of which a lane makes pairs of f16.
///
/// Of a chunk the four values 4 · index to 4 · index + 3 are made at a time. `index` is a constant after inlining, as are those of the arrays in
/// [`Bits`](Weights::Bits): an array that was made here would go to local memory.
pub trait Weights: Copy {
    /// Whether values are multiples of a scale, with a minimum or without; elsewhere they are what is made of their bits.
    const IS_SCALED: bool;

    /// With how many tokens groups of warps have registers for two steps' chunks; and the same where groups have a unit each, behind which there is
    /// nothing to load.
    const MOST_IN_PAIRS: [usize; 2];

    /// With how many tokens groups have registers for the f16 of two products beside those of the two before, which are still read.
    const MOST_IN_TURN: usize;

    /// With how many tokens warps by themselves have two steps' chunks under way, and not one's.
    const MOST_IN_SLOTS: usize;

    /// Where the weights are.
    type Source: Copy;

    /// A chunk, as loaded: nothing that is made of it, which would wait for it.
    type Bits: Copy;

    /// Puts what values are looked up in into shared memory. Collective over the block, which meets at a barrier before the first product.
    ///
    /// # Safety
    /// - Called once in a launch.
    #[inline(always)]
    unsafe fn prepare() {}

    /// The weights from a global address on, `n_blocks` blocks where there are blocks.
    fn source(weights: *const u8, n_blocks: u32) -> Self::Source;

    /// Loads a chunk, counted over all rows.
    ///
    /// # Safety
    /// - The chunk is one of the source's.
    unsafe fn load(source: Self::Source, chunk: u32) -> Self::Bits;

    /// As [`Halves::load_second`].
    ///
    /// # Safety
    /// - As there.
    #[inline(always)]
    unsafe fn load_second(source: Self::Source, chunk: u32, _first: Self::Bits) -> Self::Bits {
        unsafe { Self::load(source, chunk) }
    }

    /// As [`Halves::scales`], where values are scaled.
    fn scales(bits: Self::Bits, chunk: u32) -> [[u32; 2]; 2];

    /// The first value and the third of four, then the second and the fourth: f16 that are not scaled yet. Behind [`prepare`](Weights::prepare) and its
    /// barrier.
    fn every_second(bits: Self::Bits, index: usize, masks: Masks) -> [u32; 2];

    /// The first two of four values, then the last two; as [`every_second`](Weights::every_second).
    fn neighbours(bits: Self::Bits, index: usize) -> [u32; 2];
}

/// Integers of a byte, scaled, with a minimum or without.
impl<B: Halves> Weights for B {
    const IS_SCALED: bool = true;
    const MOST_IN_PAIRS: [usize; 2] = [B::MOST_IN_PAIRS, MOST_TOKENS];
    const MOST_IN_TURN: usize = MOST_TOKENS;
    const MOST_IN_SLOTS: usize = MOST_TOKENS;
    type Source = Planes;
    type Bits = B::Bits;

    #[inline(always)]
    unsafe fn prepare() {
        unsafe { B::prepare() }
    }

    #[inline(always)]
    fn source(weights: *const u8, n_blocks: u32) -> Planes {
        Planes::of::<B>(weights, n_blocks)
    }

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> B::Bits {
        unsafe { B::load(planes, chunk) }
    }

    #[inline(always)]
    unsafe fn load_second(planes: Planes, chunk: u32, first: B::Bits) -> B::Bits {
        unsafe { B::load_second(planes, chunk, first) }
    }

    #[inline(always)]
    fn scales(bits: B::Bits, chunk: u32) -> [[u32; 2]; 2] {
        B::scales(bits, chunk)
    }

    #[inline(always)]
    fn every_second(bits: B::Bits, index: usize, masks: Masks) -> [u32; 2] {
        B::halves(bits, index, masks)
    }

    #[inline(always)]
    fn neighbours(bits: B::Bits, index: usize) -> [u32; 2] {
        B::neighbours(bits, index)
    }
}
