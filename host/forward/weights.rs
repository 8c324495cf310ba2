//! The weights on the device.

use std::rc::Rc;

use crate::{
    gpu::{Buffer, Gpu, Transfer, Weights},
    model::{Config, LayerWeights, ModelWeights, WeightView},
};

use super::EngineError;

/// A layer's weights. Shapes as in [`LayerWeights`].
#[allow(missing_docs)] // as there
pub struct DeviceLayer {
    pub attn_norm: Buffer<f32>,
    pub attn_q: Weights,
    pub attn_q_bias: Option<Buffer<f32>>,
    pub attn_q_norm: Option<Buffer<f32>>,
    pub attn_k: Weights,
    pub attn_k_bias: Option<Buffer<f32>>,
    pub attn_k_norm: Option<Buffer<f32>>,
    pub attn_v: Weights,
    pub attn_v_bias: Option<Buffer<f32>>,
    pub attn_output: Weights,
    pub attn_output_bias: Option<Buffer<f32>>,
    pub ffn_norm: Buffer<f32>,
    /// The router of a mixture of experts, `[n_experts][n_embd]`; the three matrices after it are stacks then.
    pub ffn_gate_inp: Option<Weights>,
    pub ffn_gate: Weights,
    pub ffn_up: Weights,
    pub ffn_down: Weights,
}

/// A model's weights, uploaded once, in the file's own types. Shapes as in [`ModelWeights`].
#[allow(missing_docs)] // as there
pub struct DeviceWeights {
    pub token_embd: Rc<Weights>,
    pub output_norm: Buffer<f32>,
    /// The embedding itself where the file ties the two.
    pub output: Rc<Weights>,
    /// RoPE's frequencies `[n_rot/2][2]`, in turns per position, as a high and a low part.
    pub rope_frequencies: Buffer<f32>,
    /// What RoPE multiplies the rotated values by.
    pub rope_magnitude: f32,
    pub layers: Vec<DeviceLayer>,
}

/// Allocates views one after another, and notes what goes there.
struct Allocator<'a, 'v> {
    gpu: &'a Gpu,
    transfers: Vec<Transfer<'v>>,
}

impl<'v> Allocator<'_, 'v> {
    /// A matrix, `[rows][cols]`, the file's bytes as they are.
    fn matrix(&mut self, view: &WeightView<'v>) -> Result<Weights, EngineError> {
        let data = self.gpu.alloc(view.name, view.data.len())?;
        self.transfers.push(Transfer::new(&data, view.data));
        Ok(Weights {
            data,
            tensor_type: view.tensor_type,
            n_matrices: view.matrices,
            n_out: view.rows,
            n_in: view.cols,
        })
    }

    /// A vector of `f32`: the file's bytes are the device's, both little-endian.
    fn vector(&mut self, view: &WeightView<'v>) -> Result<Buffer<f32>, EngineError> {
        let buffer = self.gpu.alloc(view.name, view.elements())?;
        self.transfers.push(Transfer::new(&buffer, view.data));
        Ok(buffer)
    }

    fn optional(&mut self, view: &Option<WeightView<'v>>) -> Result<Option<Buffer<f32>>, EngineError> {
        view.as_ref().map(|view| self.vector(view)).transpose()
    }

    fn layer(&mut self, layer: &LayerWeights<'v>) -> Result<DeviceLayer, EngineError> {
        Ok(DeviceLayer {
            attn_norm: self.vector(&layer.attn_norm)?,
            attn_q: self.matrix(&layer.attn_q)?,
            attn_q_bias: self.optional(&layer.attn_q_bias)?,
            attn_q_norm: self.optional(&layer.attn_q_norm)?,
            attn_k: self.matrix(&layer.attn_k)?,
            attn_k_bias: self.optional(&layer.attn_k_bias)?,
            attn_k_norm: self.optional(&layer.attn_k_norm)?,
            attn_v: self.matrix(&layer.attn_v)?,
            attn_v_bias: self.optional(&layer.attn_v_bias)?,
            attn_output: self.matrix(&layer.attn_output)?,
            attn_output_bias: self.optional(&layer.attn_output_bias)?,
            ffn_norm: self.vector(&layer.ffn_norm)?,
            ffn_gate_inp: layer.ffn_gate_inp.as_ref().map(|router| self.matrix(router)).transpose()?,
            ffn_gate: self.matrix(&layer.ffn_gate)?,
            ffn_up: self.matrix(&layer.ffn_up)?,
            ffn_down: self.matrix(&layer.ffn_down)?,
        })
    }
}

impl DeviceWeights {
    /// Allocates and uploads a model; `progress` is told bytes done and bytes in all.
    pub fn upload(
        gpu: &Gpu,
        config: &Config,
        weights: &ModelWeights,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<DeviceWeights, EngineError> {
        let mut allocator = Allocator { gpu, transfers: Vec::new() };
        let token_embd = Rc::new(allocator.matrix(&weights.token_embd)?);
        let output = if config.tied_output { token_embd.clone() } else { Rc::new(allocator.matrix(&weights.output)?) };
        let rope = config.rope.table();
        let on_device = DeviceWeights {
            token_embd,
            output_norm: allocator.vector(&weights.output_norm)?,
            output,
            rope_frequencies: gpu.upload("RoPE frequencies", &turns(&rope.frequencies))?,
            rope_magnitude: rope.magnitude as f32,
            layers: weights.layers.iter().map(|layer| allocator.layer(layer)).collect::<Result<_, _>>()?,
        };
        // SAFETY: everything that the transfers go to is in `on_device`.
        unsafe { gpu.upload_all(&allocator.transfers, progress)? };
        Ok(on_device)
    }
}

/// The most elements that a matrix of a quantised type has: what unpacking one takes room for. Only products with several
/// tokens unpack: the layers' in batches, and the head's where there are several rows of logits. Stacks of experts are
/// multiplied packed.
pub fn largest_quantised(weights: &ModelWeights, n_batch: usize, logit_rows: usize) -> usize {
    let of_layer = |layer: &LayerWeights| {
        let attention = [layer.attn_q, layer.attn_k, layer.attn_v, layer.attn_output];
        let feed_forward = [layer.ffn_gate, layer.ffn_up, layer.ffn_down];
        largest(&attention).max(largest(&feed_forward))
    };
    let layers = weights.layers.iter().map(of_layer).max().unwrap_or(0);
    let head = largest(&[weights.output]);
    let in_batches = if n_batch > 1 { layers } else { 0 };
    in_batches.max(if logit_rows > 1 { head } else { 0 })
}

fn largest(views: &[WeightView]) -> usize {
    let unpacked = views.iter().filter(|view| view.tensor_type.is_quantised() && view.matrices == 1);
    unpacked.map(WeightView::elements).max().unwrap_or(0)
}

/// Frequencies in radians per position as turns per position, each the sum of a high and a low `f32`: `[n][2]`.
pub fn turns(radians: &[f64]) -> Vec<f32> {
    let split = |frequency: &f64| {
        let turns = frequency / std::f64::consts::TAU;
        let high = turns as f32;
        [high, (turns - f64::from(high)) as f32]
    };
    radians.iter().flat_map(split).collect()
}
