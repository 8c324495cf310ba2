//! The weights on the device.
//!
//! Matrices that are multiplied with the same input are stored one above the other, so that one product serves them: queries,
//! keys and values; gate and up projection.

use std::rc::Rc;

use crate::{
    gpu::{Buffer, Gpu, Transfer, Weights, parts},
    model::{Config, LayerWeights, ModelWeights, WeightView},
    synth::{fill_on_device, matrix_deviation},
};

use super::EngineError;

/// A layer's weights. `heads·dim` stands for `n_heads · head_dim`, `kv·dim` for `n_kv_heads · head_dim`.
pub struct DeviceLayer {
    /// RMSNorm before attention: `[n_embd]`.
    pub attn_norm: Buffer<f32>,
    /// Queries, keys and values: `heads·dim`, `kv·dim` and `kv·dim` rows of `n_embd`.
    pub attn_qkv: Weights,
    /// Their biases, zero for those that have none: `[heads·dim + 2 · kv·dim]`.
    pub attn_qkv_bias: Option<Buffer<f32>>,
    /// RMSNorm over each query head: `[head_dim]`.
    pub attn_q_norm: Option<Buffer<f32>>,
    /// RMSNorm over each key head: `[head_dim]`.
    pub attn_k_norm: Option<Buffer<f32>>,
    /// Output projection: `n_embd` rows of `heads·dim`.
    pub attn_output: Weights,
    /// Its bias: `[n_embd]`.
    pub attn_output_bias: Option<Buffer<f32>>,
    /// RMSNorm before the feed-forward network: `[n_embd]`.
    pub ffn_norm: Buffer<f32>,
    /// The feed-forward network.
    pub ffn: FeedForward,
}

/// A layer's feed-forward network.
pub enum FeedForward {
    /// One for all tokens.
    Dense {
        /// Gate and up projection: `n_ff` rows of `n_embd` each.
        gate_up: Weights,
        /// `n_embd` rows of `n_ff`.
        down: Weights,
    },
    /// A mixture of experts; all but the router are stacks of `n_experts`.
    Mixture {
        /// `n_experts` rows of `n_embd`.
        router: Weights,
        /// Gate and up projection: `n_ff` rows of `n_embd` each.
        gate_up: Weights,
        /// `n_embd` rows of `n_ff`.
        down: Weights,
    },
}

/// A model's weights, uploaded once, in the file's own types.
pub struct DeviceWeights {
    /// `vocab_size` rows of `n_embd`.
    pub token_embd: Rc<Weights>,
    /// The last RMSNorm: `[n_embd]`.
    pub output_norm: Buffer<f32>,
    /// `vocab_size` rows of `n_embd`; the embedding itself where the file ties the two.
    pub output: Rc<Weights>,
    /// RoPE's frequencies `[n_rot/2][2]`, in turns per position, as a high and a low part.
    pub rope_frequencies: Buffer<f32>,
    /// What RoPE multiplies the rotated values by.
    pub rope_magnitude: f32,
    /// The layers, first to last.
    pub layers: Vec<DeviceLayer>,
}

/// Matrices over the same input that one buffer holds.
fn stacks<'v>(layer: &LayerWeights<'v>) -> Vec<Vec<WeightView<'v>>> {
    let attention = [vec![layer.attn_q, layer.attn_k, layer.attn_v], vec![layer.attn_output]];
    let feed_forward = match layer.ffn_gate_inp {
        Some(router) => vec![vec![router], vec![layer.ffn_gate, layer.ffn_up], vec![layer.ffn_down]],
        None => vec![vec![layer.ffn_gate, layer.ffn_up], vec![layer.ffn_down]],
    };
    attention.into_iter().chain(feed_forward).collect()
}

/// Bytes that a stack takes.
fn stack_bytes(views: &[WeightView]) -> usize {
    let types: Vec<_> = views.iter().map(|view| (view.tensor_type, view.rows)).collect();
    parts(&types, views[0].cols, views[0].matrices).1
}

/// Bytes of each allocation that [`DeviceWeights::upload`] makes.
pub fn allocations(config: &Config, weights: &ModelWeights) -> Vec<usize> {
    let floats = |n: usize| n * size_of::<f32>();
    let mut bytes = vec![weights.token_embd.data.len(), weights.output_norm.data.len(), floats(config.rope.n_rot)];
    if !config.tied_output {
        bytes.push(weights.output.data.len());
    }
    for layer in &weights.layers {
        bytes.extend(stacks(layer).iter().map(|stack| stack_bytes(stack)));
        let vectors = [Some(layer.attn_norm), Some(layer.ffn_norm), layer.attn_q_norm, layer.attn_k_norm];
        bytes.extend(vectors.into_iter().chain([layer.attn_output_bias]).flatten().map(|view| view.data.len()));
        if layer.has_qkv_bias() {
            bytes.push(floats(layer.attn_q.rows + layer.attn_k.rows + layer.attn_v.rows));
        }
    }
    bytes
}

/// Where matrices come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixSource {
    /// The file.
    File,
    /// Nowhere: random values are made on the device, for measurements ([`Gguf::lacks_matrices`](crate::gguf::Gguf)).
    Noise,
}

/// Allocates views one after another, and notes what goes there.
struct Allocator<'a, 'v> {
    gpu: &'a Gpu,
    source: MatrixSource,
    transfers: Vec<Transfer<'v>>,
}

impl<'v> Allocator<'_, 'v> {
    /// Matrices one above the other.
    fn stack(&mut self, views: &[WeightView<'v>]) -> Result<Weights, EngineError> {
        let types: Vec<_> = views.iter().map(|view| (view.tensor_type, view.rows)).collect();
        let (n_in, n_matrices) = (views[0].cols, views[0].matrices);
        let (parts, bytes) = parts(&types, n_in, n_matrices);
        let n_out = views.iter().map(|view| view.rows).sum();
        let weights = Weights { data: self.gpu.alloc(views[0].name, bytes)?, parts, n_matrices, n_out, n_in };
        if self.source == MatrixSource::Noise {
            // Each stack has a random stream of its own, by where it lies.
            let stream = (weights.data.address() >> 8) as u32;
            fill_on_device(self.gpu, &weights, matrix_deviation(n_in as u64), stream)?;
            return Ok(weights);
        }
        let mut before = 0;
        for view in views {
            self.transfers.push(Transfer::of_rows(weights.rows(before..before + view.rows), view.data));
            before += view.rows;
        }
        Ok(weights)
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

    /// The biases of queries, keys and values.
    fn qkv_bias(&mut self, layer: &LayerWeights<'v>) -> Result<Option<Buffer<f32>>, EngineError> {
        if !layer.has_qkv_bias() {
            return Ok(None);
        }
        let biases =
            [(layer.attn_q, layer.attn_q_bias), (layer.attn_k, layer.attn_k_bias), (layer.attn_v, layer.attn_v_bias)];
        let all = self.gpu.alloc("biases", biases.iter().map(|(matrix, _)| matrix.rows).sum())?;
        self.gpu.fill(&all, 0)?;
        let mut before = 0;
        for (matrix, bias) in biases {
            if let Some(bias) = bias {
                self.transfers.push(Transfer::new(&all.slice(before..before + matrix.rows), bias.data));
            }
            before += matrix.rows;
        }
        Ok(Some(all))
    }

    fn layer(&mut self, layer: &LayerWeights<'v>) -> Result<DeviceLayer, EngineError> {
        let mut stacks = stacks(layer).into_iter();
        let mut next = |allocator: &mut Self| allocator.stack(&stacks.next().expect("as many as `stacks` lists"));
        Ok(DeviceLayer {
            attn_norm: self.vector(&layer.attn_norm)?,
            attn_qkv: next(self)?,
            attn_qkv_bias: self.qkv_bias(layer)?,
            attn_q_norm: self.optional(&layer.attn_q_norm)?,
            attn_k_norm: self.optional(&layer.attn_k_norm)?,
            attn_output: next(self)?,
            attn_output_bias: self.optional(&layer.attn_output_bias)?,
            ffn_norm: self.vector(&layer.ffn_norm)?,
            ffn: match layer.ffn_gate_inp {
                None => FeedForward::Dense { gate_up: next(self)?, down: next(self)? },
                Some(_) => FeedForward::Mixture { router: next(self)?, gate_up: next(self)?, down: next(self)? },
            },
        })
    }
}

impl DeviceWeights {
    /// Allocates and uploads a model; `progress` is told bytes done and bytes in all.
    pub fn upload(
        gpu: &Gpu,
        config: &Config,
        weights: &ModelWeights,
        source: MatrixSource,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<DeviceWeights, EngineError> {
        let mut allocator = Allocator { gpu, source, transfers: Vec::new() };
        let token_embd = Rc::new(allocator.stack(&[weights.token_embd])?);
        let output = if config.tied_output { token_embd.clone() } else { Rc::new(allocator.stack(&[weights.output])?) };
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

/// The most elements that a quantised matrix has: what unpacking one takes room for. Only products with several tokens unpack:
/// the layers' in batches, and the head's where there are several rows of logits. Stacks of experts are multiplied packed.
pub fn largest_quantised(weights: &ModelWeights, n_batch: usize, logit_rows: usize) -> usize {
    let of_layer =
        |layer: &LayerWeights| stacks(layer).iter().map(|stack| quantised_elements(stack)).max().unwrap_or(0);
    let layers = weights.layers.iter().map(of_layer).max().unwrap_or(0);
    let head = quantised_elements(&[weights.output]);
    let in_batches = if n_batch > 1 { layers } else { 0 };
    in_batches.max(if logit_rows > 1 { head } else { 0 })
}

/// The most elements that a quantised router of experts has.
pub fn largest_router(weights: &ModelWeights) -> usize {
    let routers = weights.layers.iter().filter_map(|layer| layer.ffn_gate_inp);
    routers.map(|router| quantised_elements(&[router])).max().unwrap_or(0)
}

/// Elements of a stack of which a part is quantised.
fn quantised_elements(views: &[WeightView]) -> usize {
    let unpacked = views.iter().any(|view| view.tensor_type.is_quantised() && view.matrices == 1);
    if unpacked { views.iter().map(WeightView::elements).sum() } else { 0 }
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
