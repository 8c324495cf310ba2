//! The powers of two that keep products of f16 within its range: see `kernels/range.rs`.

use half::f16;

use super::{DeviceWeights, EngineError, lower::Bound, unpack::Rooms};
use crate::{
    gguf::TensorType,
    gpu::{Buffer, Gpu, GpuError, Rows, Slice, Weights},
    model::{
        Figure,
        figure::{Matrix, VectorId},
    },
};

/// Bounds stay below this; f16 ends at 65504, and inputs are rounded before they are multiplied.
const LARGEST: f64 = 64_000.0;

/// The largest power of two, at most 1, that makes `bound` times it no more than [`LARGEST`].
fn scale(bound: f64) -> f32 {
    headroom(bound).min(1.0)
}

/// The largest power of two, at most 2^30, that makes `bound` times it no more than [`LARGEST`].
fn headroom(bound: f64) -> f32 {
    (LARGEST / bound).log2().floor().min(30.0).exp2() as f32
}

/// For averages of values that nothing is known to bound, of a type with f32's range: room for a thousand times what f16 has, while values
/// down to 2^-4 keep all bits.
const VALUES: f32 = 1.0 / 1024.0;

/// What a unit can be at most, by what its gates, the first half, and the others can be.
fn unit_bound(bounds: &[f64]) -> f64 {
    let (gate, up) = bounds.split_at(bounds.len() / 2);
    // |act(g)| ≤ |g| for each of the units, and the clamped one adds 1 to the other factor.
    gate.iter().zip(up).map(|(gate, up)| gate * (up + 1.0)).fold(0.0, f64::max)
}

/// Computes the scales of a pass.
pub struct Ranges<'a> {
    gpu: &'a Gpu,
    figure: &'a Figure,
    weights: &'a DeviceWeights,
    /// Room for any stack that is measured and is not f16.
    unpacked: &'a Slice<f16>,
    /// `[rows][2]` of the tallest.
    measured: Buffer<f32>,
}

impl<'a> Ranges<'a> {
    /// For the stacks that have these rooms.
    pub fn new(
        gpu: &'a Gpu,
        figure: &'a Figure,
        weights: &'a DeviceWeights,
        rooms: &'a Rooms,
    ) -> Result<Ranges<'a>, GpuError> {
        let rows = rooms.all_stacks().map(|stack| weights.stack(stack).n_out).max().unwrap_or(0);
        let measured = gpu.alloc("norms of weights", 2 * rows)?;
        Ok(Ranges { gpu, figure, weights, unpacked: rooms.largest(), measured })
    }

    /// What values of that bound are multiplied by.
    pub fn scale(&self, bound: &Bound) -> Result<f32, EngineError> {
        let largest = |bounds: &[f64]| bounds.iter().copied().fold(0.0, f64::max);
        let bound = match bound {
            Bound::None => return Ok(1.0),
            Bound::Values => return Ok(VALUES),
            Bound::Norm(weight) => (self.figure.vector(*weight).len() as f64).sqrt() * self.largest(*weight)?,
            Bound::Product { rows, norm } => largest(&self.bounds(rows, *norm)?),
            Bound::Average { rows, norm, bias } => {
                let bounds = self.bounds(rows, Some(*norm))?;
                let biases = match bias {
                    Some(bias) => self.gpu.read(&self.weights.span(bias))?,
                    None => vec![0.0; bounds.len()],
                };
                let values = bounds.iter().zip(&biases).map(|(bound, bias)| bound + f64::from(bias.abs()));
                values.fold(0.0, f64::max)
            }
            Bound::Glu { rows, norm } => unit_bound(&self.bounds(rows, Some(*norm))?),
            Bound::GluHeadroom { rows } => return Ok(headroom(unit_bound(&self.bounds(rows, None)?))),
        };
        Ok(scale(bound))
    }

    /// √n · ‖row ∘ norm‖ for each row: what the row makes of a normalised token at most, or without a norm of one of that length.
    fn bounds(&self, matrix: &Matrix, norm: Option<VectorId>) -> Result<Vec<f64>, GpuError> {
        let weights = self.weights.stack(matrix.stack);
        let root = (weights.n_in as f64).sqrt();
        let mut bounds = Vec::with_capacity(matrix.rows.len());
        let mut first = 0;
        for part in weights.rows_of_parts() {
            let rows = first.max(matrix.rows.start)..(first + part.n_out).min(matrix.rows.end);
            first += part.n_out;
            if rows.is_empty() {
                continue;
            }
            let measured = self.measure(weights.rows(rows), norm)?;
            bounds.extend(measured.chunks_exact(2).map(|pair| root * f64::from(pair[0])));
        }
        Ok(bounds)
    }

    /// Fails where a weight of bf16, which has f32's range, is beyond f16's; `place` says where it is.
    pub fn expect_f16(&self, weights: &Weights, place: &str) -> Result<(), EngineError> {
        let at_once = self.measured.len() / 2;
        for part in weights.parts.iter().filter(|part| part.tensor_type == TensorType::BF16) {
            let (n_rows, n_in) = (weights.n_matrices * part.n_out, weights.n_in);
            let values = weights.data.slice(part.start..part.start + part.bytes).into_cast();
            for first in (0..n_rows).step_by(at_once) {
                let n = at_once.min(n_rows - first);
                let rows = values.slice(first * n_in..(first + n) * n_in);
                self.gpu.range_rows_bf16(&rows, None, &self.measured, n, n_in)?;
                let measured = self.gpu.read(&self.measured.slice(0..2 * n))?;
                let found = measured.chunks_exact(2).map(|pair| pair[1]).fold(0.0, f32::max);
                if found > f16::MAX.to_f32() {
                    return Err(EngineError::WeightRange { place: place.to_owned(), found });
                }
            }
        }
        Ok(())
    }

    /// The norm and the largest magnitude of each row.
    fn measure(&self, rows: Rows, norm: Option<VectorId>) -> Result<Vec<f32>, GpuError> {
        let (gpu, n_out, n_in) = (self.gpu, rows.n_out, rows.n_in());
        let norm = norm.map(|norm| &**self.weights.vector(norm));
        match rows.tensor_type() {
            TensorType::F16 => gpu.range_rows_f16(&rows.floats().cast(), norm, &self.measured, n_out, n_in)?,
            TensorType::BF16 => gpu.range_rows_bf16(&rows.floats().cast(), norm, &self.measured, n_out, n_in)?,
            _ => {
                gpu.dequantise(rows, self.unpacked)?;
                gpu.range_rows_f16(self.unpacked, norm, &self.measured, n_out, n_in)?;
            }
        }
        gpu.read(&self.measured.slice(0..2 * n_out))
    }

    fn largest(&self, norm: VectorId) -> Result<f64, GpuError> {
        let weights = self.gpu.read(self.weights.vector(norm))?;
        Ok(weights.iter().fold(0.0, |largest, weight| f64::max(largest, f64::from(weight.abs()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_powers_of_two_and_no_larger_than_needed() {
        for (bound, want) in [(0.0, 1.0), (63_000.0, 1.0), (65_000.0, 0.5), (128_000.0, 0.5), (1e6, 0.0625)] {
            assert_eq!(scale(bound), want, "{bound}");
        }
        for bound in [1e5, 3e7, 1e12, 1e30] {
            let scaled = f64::from(scale(bound)) * bound;
            assert!(LARGEST / 2.0 < scaled && scaled <= LARGEST, "{bound} became {scaled}");
        }
    }
}
