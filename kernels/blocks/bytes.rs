//! A format's chunks as 8-bit integers with sign, for products on tensor cores that have the bits of those with one vector
//! (`gemv/few/`).

use cuda_std::float;

use super::Packed;
use crate::gemv::activations::Scale;

/// A format whose chunk is two runs of 16 integers, which 8-bit activations multiply.
pub trait Bytes: Packed {
    /// How many words [`scales`](Bytes::scales) gives; the rest are not looked at.
    const SCALES: usize;

    /// The integers of both runs, four to a word.
    fn bytes(bits: Self::Bits) -> [[u32; 4]; 2];

    /// What a chunk's sums are scaled by; `chunk` is its place in its row.
    fn scales(bits: Self::Bits, chunk: u32) -> [u32; 3];

    /// sum + the products of a chunk, from each run's Σ q · x without scales: what [`Packed::dot`] makes of it, bit for bit.
    fn scaled(scales: [u32; 3], x: [Scale; 2], products: [f32; 2], sum: f32) -> f32;
}

/// Σ q · x over both runs.
#[inline(always)]
pub fn product(x: [Scale; 2], [low, high]: [f32; 2]) -> f32 {
    float::fma(high, x[1].scale, low * x[0].scale)
}

/// Σ x.
#[inline(always)]
pub fn sum_of_x(x: [Scale; 2]) -> f32 {
    x[0].sum + x[1].sum
}
