//! The powers of two that keep prefill's products within f16's range: see `kernels/range.rs`.

use half::f16;

use super::super::{DeviceLayer, EngineError, FeedForward};
use crate::{
    gguf::TensorType,
    gpu::{Buffer, Gpu, GpuError, Rows, Slice, Weights, kernels::CacheType},
    model::Config,
};

/// Bounds stay below this; f16 ends at 65504, and inputs are rounded before they are multiplied.
const LARGEST: f64 = 64_000.0;

/// What the results of a layer are multiplied by before they are rounded to f16: powers of two, 1 or less.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scales {
    /// The normalised residual stream before attention.
    pub attn_norm: f32,
    /// What attention makes of the values.
    pub attended: f32,
    /// The normalised residual stream before the feed-forward network.
    pub ffn_norm: f32,
    /// Gate and up projection.
    pub gate_up: f32,
    /// silu(gate) · up.
    pub swiglu: f32,
}

impl Scales {
    /// Where nothing is too large.
    pub const ONE: Scales = Scales { attn_norm: 1.0, attended: 1.0, ffn_norm: 1.0, gate_up: 1.0, swiglu: 1.0 };
}

/// The largest power of two, at most 1, that makes `bound` times it no more than [`LARGEST`].
fn scale(bound: f64) -> f32 {
    let exponent = (LARGEST / bound).log2().floor().min(0.0);
    exponent.exp2() as f32
}

/// Computes the scales of layers.
pub struct Ranges<'a> {
    gpu: &'a Gpu,
    config: &'a Config,
    cache_type: CacheType,
    /// Room for the largest stack that is measured.
    unpacked: &'a Slice<f16>,
    /// `[rows][2]` of the tallest.
    measured: Buffer<f32>,
}

impl<'a> Ranges<'a> {
    /// `unpacked` has room for any stack of the layers that is not f16.
    pub fn new(
        gpu: &'a Gpu,
        config: &'a Config,
        cache_type: CacheType,
        unpacked: &'a Slice<f16>,
    ) -> Result<Ranges<'a>, GpuError> {
        let rows = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim;
        let measured = gpu.alloc("norms of weights", 2 * rows.max(2 * config.n_ff).max(config.n_embd))?;
        Ok(Ranges { gpu, config, cache_type, unpacked, measured })
    }

    /// The scales of layer `il`.
    ///
    /// # Errors
    /// A weight is beyond f16's range, or the device failed.
    pub fn of(&self, il: usize, layer: &DeviceLayer) -> Result<Scales, EngineError> {
        let root = (self.config.n_embd as f64).sqrt();
        let mut scales = Scales {
            attn_norm: scale(root * self.largest(&layer.attn_norm)?),
            // Values in f16 average to nothing beyond f16.
            attended: if self.cache_type == CacheType::F16 { 1.0 } else { scale(self.largest_value(layer)?) },
            ffn_norm: scale(root * self.largest(&layer.ffn_norm)?),
            ..Scales::ONE
        };
        for stack in [&layer.attn_qkv, &layer.attn_output] {
            self.expect_f16(il, stack)?;
        }
        let FeedForward::Dense { gate_up, down } = &layer.ffn else { return Ok(scales) };
        for stack in [gate_up, down] {
            self.expect_f16(il, stack)?;
        }
        let bounds = self.bounds(gate_up, &layer.ffn_norm)?;
        let (gate, up) = bounds.split_at(self.config.n_ff);
        // |silu(g)| ≤ |g|.
        let product = gate.iter().zip(up).map(|(gate, up)| gate * up).fold(0.0, f64::max);
        scales.gate_up = scale(bounds.iter().copied().fold(0.0, f64::max));
        scales.swiglu = scale(product);
        Ok(scales)
    }

    /// A bound for the values of every token.
    fn largest_value(&self, layer: &DeviceLayer) -> Result<f64, EngineError> {
        let Config { n_heads, n_kv_heads, head_dim, .. } = *self.config;
        let bounds = self.bounds(&layer.attn_qkv, &layer.attn_norm)?;
        let biases = match &layer.attn_qkv_bias {
            Some(bias) => self.gpu.read(bias)?,
            None => vec![0.0; bounds.len()],
        };
        let values = (n_heads + n_kv_heads) * head_dim..bounds.len();
        let value = |(bound, bias): (&f64, &f32)| bound + f64::from(bias.abs());
        Ok(bounds[values.clone()].iter().zip(&biases[values]).map(value).fold(0.0, f64::max))
    }

    /// √n · ‖row ∘ norm‖ for each row of a stack: what the row makes of a normalised token at most.
    fn bounds(&self, weights: &Weights, norm: &Slice<f32>) -> Result<Vec<f64>, GpuError> {
        let root = (weights.n_in as f64).sqrt();
        let mut bounds = Vec::with_capacity(weights.n_out);
        for rows in weights.rows_of_parts() {
            let measured = self.measure(rows, Some(norm))?;
            bounds.extend(measured.chunks_exact(2).map(|pair| root * f64::from(pair[0])));
        }
        Ok(bounds)
    }

    /// Fails where a weight of bf16, which has f32's range, is beyond f16's.
    fn expect_f16(&self, layer: usize, weights: &Weights) -> Result<(), EngineError> {
        for rows in weights.rows_of_parts().filter(|rows| rows.tensor_type() == TensorType::BF16) {
            let measured = self.measure(rows, None)?;
            let found = measured.chunks_exact(2).map(|pair| pair[1]).fold(0.0, f32::max);
            if found > f16::MAX.to_f32() {
                return Err(EngineError::WeightRange { layer, found });
            }
        }
        Ok(())
    }

    /// The norm and the largest magnitude of each row.
    fn measure(&self, rows: Rows, norm: Option<&Slice<f32>>) -> Result<Vec<f32>, GpuError> {
        let (gpu, n_out, n_in) = (self.gpu, rows.n_out, rows.n_in());
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

    fn largest(&self, norm: &Slice<f32>) -> Result<f64, GpuError> {
        let weights = self.gpu.read(norm)?;
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
