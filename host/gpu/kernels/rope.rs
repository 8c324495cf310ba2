//! Launches the kernels in `kernels/rope.rs`.

use kernels::rope::{BLOCK, rope_halves, rope_neighbours};

use super::{count, expect_len};
use crate::{
    gpu::{Gpu, GpuError, Slice},
    model::RopePairing,
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
