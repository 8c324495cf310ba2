//! Launches the kernels in `kernels/rope.rs`.

use kernels::rope::{BLOCK, rope_halves, rope_neighbours};

use super::{count, expect_len};
use crate::{
    gpu::{Gpu, GpuError, Slice},
    model::{RopePairing, Temperature},
};

/// The shape of what is rotated: `[n_tokens][n_heads][head_dim]`, the first `n_rot` values of each head.
#[derive(Clone, Copy, Debug)]
pub struct RopeShape {
    /// Tokens.
    pub n_tokens: usize,
    /// Heads.
    pub n_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Values that are rotated; even, at most `head_dim`.
    pub n_rot: usize,
    /// Which values form a pair.
    pub pairing: RopePairing,
}

/// What becomes of queries and keys between their projection and attention: a norm over each head, where the family has one, and
/// RoPE.
#[derive(Clone, Copy)]
pub struct NormAndRope<'a> {
    /// `[head_dim]`: weights of the norm over each query head, where the family has one.
    pub q_norm: Option<&'a Slice<f32>>,
    /// `[head_dim]`: the same for key heads.
    pub k_norm: Option<&'a Slice<f32>>,
    /// The norms' epsilon.
    pub epsilon: f32,
    /// `[n_rot/2][2]`: turns per position, high and low part.
    pub frequencies: &'a Slice<f32>,
    /// Values of a head that RoPE rotates; even, at most `head_dim`.
    pub n_rot: usize,
    /// Which of them form a pair.
    pub pairing: RopePairing,
    /// RoPE's magnitude (YaRN's attention factor), else 1.
    pub magnitude: f32,
    /// How queries grow by their position, where the family has that.
    pub growth: Option<Temperature>,
}

impl NormAndRope<'_> {
    /// Checks that heads of this size can go through it.
    pub(super) fn expect_head_dim(&self, head_dim: usize) {
        let NormAndRope { q_norm, k_norm, frequencies, n_rot, .. } = *self;
        assert!(n_rot.is_multiple_of(2) && n_rot <= head_dim, "rotating {n_rot} of {head_dim} values");
        q_norm.inspect(|norm| expect_len("q_norm", norm, head_dim));
        k_norm.inspect(|norm| expect_len("k_norm", norm, head_dim));
        expect_len("frequencies", frequencies, n_rot);
    }

    /// The growth as the kernels take it: over so many positions there is none; 0 is none at all.
    pub(super) fn growth(&self) -> (f32, u32) {
        self.growth.map_or((0.0, 0), |Temperature { scale, length }| {
            assert!(length > 0, "growth over no positions");
            // No position is beyond 2^24.
            (scale, u32::try_from(length).unwrap_or(u32::MAX))
        })
    }

    /// The pairing as the kernels take it.
    pub(super) fn neighbours(&self) -> u32 {
        u32::from(self.pairing == RopePairing::Neighbours)
    }
}

impl Gpu {
    /// Rotates `x` in place. `frequencies` is `[n_rot/2][2]`: turns per position, high and low part; `magnitude`
    /// multiplies the rotated values.
    pub fn rope(
        &self,
        shape: RopeShape,
        x: &Slice<f32>,
        positions: &Slice<u32>,
        frequencies: &Slice<f32>,
        magnitude: f32,
    ) -> Result<(), GpuError> {
        let RopeShape { n_tokens, n_heads, head_dim, n_rot, pairing } = shape;
        assert!(n_rot.is_multiple_of(2) && n_rot <= head_dim, "rotating {n_rot} of {head_dim} values");
        expect_len("x", x, n_tokens * n_heads * head_dim);
        expect_len("positions", positions, n_tokens);
        expect_len("frequencies", frequencies, n_rot);
        let grid = [count((n_heads * n_rot / 2).div_ceil(BLOCK as usize)), count(n_tokens), 1];
        let kernel = match pairing {
            RopePairing::Halves => rope_halves,
            RopePairing::Neighbours => rope_neighbours,
        };
        let arguments = (x, positions, frequencies, magnitude, count(n_heads), count(head_dim), count(n_rot));
        // SAFETY: the slices hold what the contract asks for.
        unsafe { self.launch(kernel, grid, BLOCK, arguments) }
    }
}
