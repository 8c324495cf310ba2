//! Rotary position embedding (Su et al., 2021): pair `i` of a head is turned by position · frequency[i].
//!
//! The angle is needed modulo a turn, and for a long context position · frequency is large: in radians and `f32` it would
//! lose the fraction that matters. The host therefore gives each frequency in *turns* per position, as the sum of two
//! `f32`, high and low. position · high is split by `fma` into its rounded product and the exact remainder, whole turns
//! drop out exactly, and what is left, at most half a turn, goes to the special-function unit, whose sine and cosine are
//! good to 2^-20.5 there.
//!
//! Two pairings exist: (i, i + n_rot/2), "halves", used by Qwen; and (2i, 2i+1), "neighbours", used by Llama files in GGUF.

use cuda_std::{float, kernel, thread};

/// The block's number of threads.
pub const BLOCK: u32 = 128;

/// (cos, sin) of position · frequency.
///
/// # Safety
/// - `frequencies` is `[n_rot/2][2]` as the kernels take it, `pair` below `n_rot/2`, `position` below 2^24.
#[inline(always)]
pub(crate) unsafe fn rotation(frequencies: *const f32, pair: u32, position: u32) -> (f32, f32) {
    let (high, low) = unsafe { (*frequencies.add(2 * pair as usize), *frequencies.add(2 * pair as usize + 1)) };
    let position = position as f32; // exact below 2^24
    let product = position * high;
    let remainder = float::fma(position, high, -product) + position * low;
    let turns = (product - float::round(product)) + remainder;
    let angle = turns * core::f32::consts::TAU;
    (float::cos_approx(angle), float::sin_approx(angle))
}

/// The pair (a, b) turned by an angle of which these are cosine and sine, times the magnitude.
#[inline(always)]
pub(crate) fn turn(a: f32, b: f32, (cos, sin): (f32, f32), magnitude: f32) -> (f32, f32) {
    let (cos, sin) = (cos * magnitude, sin * magnitude);
    (float::fma(a, cos, -(b * sin)), float::fma(a, sin, b * cos))
}

/// The elements of a head that form a pair.
#[inline(always)]
pub(crate) fn elements(pair: u32, n_rot: u32, neighbours: bool) -> (u32, u32) {
    if neighbours { (2 * pair, 2 * pair + 1) } else { (pair, pair + n_rot / 2) }
}

/// One thread a pair: grid.x covers the pairs of all heads of a token, grid.y the tokens.
#[inline(always)]
unsafe fn rope(
    x: *mut f32,
    positions: *const u32,
    frequencies: *const f32,
    magnitude: f32,
    n_heads: u32,
    head_dim: u32,
    n_rot: u32,
    neighbours: bool,
) {
    let half = n_rot / 2;
    let index = thread::index_1d();
    if index >= n_heads * half {
        return;
    }
    let token = thread::block_idx_y();
    // SAFETY: index < n_heads · half, so half is not zero; said here so that no division is guarded by a panic.
    unsafe { core::hint::assert_unchecked(half > 0) }
    let (head, pair) = (index / half, index % half);
    let angle = unsafe { rotation(frequencies, pair, *positions.add(token as usize)) };
    let head = unsafe { x.add((token as usize * n_heads as usize + head as usize) * head_dim as usize) };
    let (first, second) = elements(pair, n_rot, neighbours);
    unsafe {
        let (first, second) = (head.add(first as usize), head.add(second as usize));
        (*first, *second) = turn(*first, *second, angle, magnitude);
    }
}

macro_rules! pairing {
    ($($(#[$doc:meta])* $name:ident: $neighbours:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// Rotates the first `n_rot` values of each head in place and multiplies them by `magnitude` (YaRN's attention
        /// factor, else 1). Launch: grid (⌈n_heads · n_rot/2 ÷ BLOCK⌉, n_tokens), block ([`BLOCK`]).
        ///
        /// # Safety
        /// - `x` is `[n_tokens][n_heads][head_dim]`, `positions` is `[n_tokens]` with values below 2^24, `frequencies` is
        ///   `[n_rot/2][2]` (turns per position, high and low part), `n_rot` is even and at most `head_dim`.
        #[kernel]
        pub unsafe fn $name(
            x: *mut f32,
            positions: *const u32,
            frequencies: *const f32,
            magnitude: f32,
            n_heads: u32,
            head_dim: u32,
            n_rot: u32,
        ) {
            unsafe { rope(x, positions, frequencies, magnitude, n_heads, head_dim, n_rot, $neighbours) }
        }
    )*};
}

pairing! {
    /// RoPE over the pairs (i, i + n_rot/2).
    rope_halves: false;
    /// RoPE over the pairs (2i, 2i + 1).
    rope_neighbours: true;
}
