//! Many tokens at once: a chunk of a prompt through the layers, at the speed of the tensor cores.
//!
//! Nearly all time is cuBLAS's, in products of f16, so everything around them is arranged to be little and to move few bytes.
//! A layer is nine launches:
//!
//! | launch | reads, writes, bytes a token (n_embd = e, n_ff = f, heads · head_dim = h, KV heads' = k) |
//! |---|---|
//! | RMSNorm, to f16 | x, normed: 4e + 2e |
//! | product with [Wq; Wk; Wv] | normed, qkv in f32: 2e + 4(h + 2k) |
//! | bias, norms over heads, RoPE, cache | qkv, queries, cache: 4(h + 2k) + 2(h + 2k) |
//! | flash attention | queries, attended, and the cache: 2h + 2h |
//! | product with Wo, added to x | attended, x: 2h + 8e |
//! | RMSNorm, to f16 | x, normed: 4e + 2e |
//! | product with [gate; up] | normed, gate and up in f16: 2e + 4f |
//! | SwiGLU, to f16 | gate and up, their product: 4f + 2f |
//! | product with the down projection, added to x | product, x: 2f + 8e |
//!
//! and each weight once in f16, after being unpacked from what it is in the file, if that is another type. The residual
//! stream x is f32 throughout. A layer with experts has a mixture's launches in place of the last four.
//!
//! Two products add to x as they end (cuBLAS's β = 1), so x is neither read nor written in a kernel of its own. What is
//! rounded to f16 between two products could be too large for it; a power of two, made for each layer when the model is
//! loaded, then takes it back into the range: see [`range`].
//!
//! # Unpacking
//!
//! Quantised weights, and bf16, are unpacked to f16 for a product, each of a layer's four matrices into a buffer of its own. As
//! soon as a product is done its buffer is filled with the next layer's matrix, on a side stream: while the other three
//! products of the layer run.
//!
//! # When
//!
//! All matrices of the layers are of another type than F32, which would lose precision, and rows are whole 16-byte vectors
//! of f16. Other models go an operation at a time, whatever the number of tokens.

mod range;
mod trace;

use half::f16;

use super::{DeviceLayer, Engine, EngineError, FeedForward, record};
use crate::{
    gguf::TensorType,
    gpu::{
        Buffer, Event, Gpu, GpuError, Product, Slice, SubSlice, Weights,
        kernels::{AttentionShape, CacheType, FlashRows, NormAndRope, Qkv},
    },
    model::{Config, LayerWeights, ModelWeights, WeightView},
    trace::Recorder,
};
use range::{Ranges, Scales};
use trace::record_f16;

/// The matrices of a layer that many tokens are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Matrix {
    Qkv,
    Output,
    GateUp,
    Down,
}

impl Matrix {
    const ALL: [Matrix; 4] = [Matrix::Qkv, Matrix::Output, Matrix::GateUp, Matrix::Down];

    /// The matrix of a layer, where it has one.
    fn of(self, layer: &DeviceLayer) -> Option<&Weights> {
        match (self, &layer.ffn) {
            (Matrix::Qkv, _) => Some(&layer.attn_qkv),
            (Matrix::Output, _) => Some(&layer.attn_output),
            (Matrix::GateUp, FeedForward::Dense { gate_up, .. }) => Some(gate_up),
            (Matrix::Down, FeedForward::Dense { down, .. }) => Some(down),
            (_, FeedForward::Mixture { .. }) => None,
        }
    }

    /// What it is made of in the file.
    fn views<'v>(self, layer: &LayerWeights<'v>) -> Vec<WeightView<'v>> {
        let dense = layer.ffn_gate_inp.is_none();
        match self {
            Matrix::Qkv => vec![layer.attn_q, layer.attn_k, layer.attn_v],
            Matrix::Output => vec![layer.attn_output],
            Matrix::GateUp if dense => vec![layer.ffn_gate, layer.ffn_up],
            Matrix::Down if dense => vec![layer.ffn_down],
            _ => vec![],
        }
    }
}

/// Elements of each buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    normed: usize,   // f16
    qkv: usize,      // f32
    q: usize,        // bytes
    kv: usize,       // f32: keys, and as many values, where the cache takes them from there
    attended: usize, // f16
    exact: usize,    // f32: the same where no flash attention is to be had
    gate_up: usize,  // f16
    swiglu: usize,   // f16
    unpacked: [usize; 4],
}

impl Sizes {
    /// For a model, if its prefill goes this way.
    pub fn new(config: &Config, weights: &ModelWeights, cache_type: CacheType, n_batch: usize) -> Option<Sizes> {
        let Config { n_embd, n_heads, n_kv_heads, head_dim, n_ff, .. } = *config;
        let matrices = |matrix: Matrix| weights.layers.iter().map(move |layer| matrix.views(layer));
        let whole = |n: usize| n.is_multiple_of(8);
        let dense = config.experts.is_none();
        let fits = whole(n_embd) && whole(head_dim) && (whole(n_ff) || !dense);
        let exact =
            Matrix::ALL.into_iter().flat_map(matrices).flatten().any(|view| view.tensor_type == TensorType::F32);
        if n_batch <= 1 || !fits || exact {
            return None;
        }
        let (heads, kv_heads, n_ff) = (n_heads * head_dim, n_kv_heads * head_dim, if dense { n_ff } else { 0 });
        let unpacked = |matrix: Matrix| {
            let packed = matrices(matrix).filter(|views| views.iter().any(|view| view.tensor_type != TensorType::F16));
            packed.map(|views| views.iter().map(WeightView::elements).sum()).max().unwrap_or(0)
        };
        let flash = has_flash(cache_type);
        Some(Sizes {
            normed: n_batch * n_embd,
            qkv: n_batch * (heads + 2 * kv_heads),
            q: query_type(cache_type).bytes(n_batch * n_heads, head_dim),
            kv: if cache_type == CacheType::Q8_0 { n_batch * kv_heads } else { 0 },
            attended: n_batch * heads,
            exact: if flash { 0 } else { n_batch * heads },
            gate_up: n_batch * 2 * n_ff,
            swiglu: n_batch * n_ff,
            unpacked: Matrix::ALL.map(unpacked),
        })
    }

    /// Bytes of each allocation for activations.
    pub fn activations(&self) -> Vec<usize> {
        let Sizes { normed, qkv, q, kv, attended, exact, gate_up, swiglu, .. } = *self;
        vec![2 * normed, 4 * qkv, q, 4 * kv, 4 * kv, 2 * attended, 4 * exact, 2 * gate_up, 2 * swiglu]
    }

    /// Bytes of each allocation for unpacked matrices.
    pub fn unpacked(&self) -> Vec<usize> {
        self.unpacked.iter().map(|elements| 2 * elements).collect()
    }
}

/// Whether there is flash attention over such a cache; over the others attention takes a token at a time.
fn has_flash(cache_type: CacheType) -> bool {
    matches!(cache_type, CacheType::F16 | CacheType::BF16)
}

/// What queries are kept in: flash attention multiplies the cache with its own type.
fn query_type(cache_type: CacheType) -> CacheType {
    if has_flash(cache_type) { cache_type } else { CacheType::F32 }
}

/// What prefill has of its own.
pub struct Prefill {
    normed: Buffer<f16>,   // [n_batch][n_embd], times the layer's scale
    qkv: Buffer<f32>,      // [n_batch][n_heads + 2 n_kv_heads][head_dim], as the product leaves it
    q: Buffer<u8>,         // [n_batch][n_heads][head_dim] of the query type, for attention
    k: Buffer<f32>,        // [n_batch][n_kv_heads][head_dim], for a Q8_0 cache
    v: Buffer<f32>,        // [n_batch][n_kv_heads][head_dim], for a Q8_0 cache
    attended: Buffer<f16>, // [n_batch][n_heads][head_dim], times the layer's scale
    exact: Buffer<f32>,    // [n_batch][n_heads][head_dim], without flash attention
    gate_up: Buffer<f16>,  // [n_batch][2][n_ff], times the layer's scale
    swiglu: Buffer<f16>,   // [n_batch][n_ff], times the layer's scale
    unpacked: [Unpacked; 4],
    scales: Vec<Scales>,
}

/// Room for one of a layer's matrices in f16, and where the streams are with it.
struct Unpacked {
    /// The largest of its kind that is not f16 in the file.
    values: Buffer<f16>,
    /// The side stream has filled it.
    filled: Event,
    /// The main stream has multiplied it.
    done: Event,
}

impl Unpacked {
    fn new(gpu: &Gpu, elements: usize) -> Result<Unpacked, GpuError> {
        let values = gpu.alloc("an unpacked matrix", elements)?;
        Ok(Unpacked { values, filled: gpu.event()?, done: gpu.event()? })
    }

    /// Fills it with the matrix, as soon as the product that it was filled for before is done.
    fn fill(&self, gpu: &Gpu, weights: &Weights) -> Result<(), GpuError> {
        gpu.on_side_stream(|| {
            gpu.wait(&self.done)?;
            let mut before = 0;
            for rows in weights.rows_of_parts() {
                let n = rows.n_out * rows.n_in();
                let out = self.values.slice(before..before + n);
                match rows.tensor_type() {
                    TensorType::F16 => gpu.range_to_f16_f16(&rows.floats().cast(), &out, 1.0, n)?,
                    TensorType::BF16 => gpu.range_to_f16_bf16(&rows.floats().cast(), &out, 1.0, n)?,
                    _ => gpu.dequantise(rows, &out)?,
                }
                before += n;
            }
            gpu.record(&self.filled)
        })
    }
}

/// The matrix where the file has it as f16.
fn in_f16(weights: &Weights) -> Option<SubSlice<'_, f16>> {
    match weights.parts.as_slice() {
        [part] if part.tensor_type == TensorType::F16 => Some(weights.all().floats().into_cast()),
        _ => None,
    }
}

impl Prefill {
    /// Allocates, and measures the weights.
    pub fn new(
        gpu: &Gpu,
        config: &Config,
        cache_type: CacheType,
        sizes: &Sizes,
        layers: &[DeviceLayer],
    ) -> Result<Prefill, EngineError> {
        let [a, b, c, d] = sizes.unpacked.map(|elements| Unpacked::new(gpu, elements));
        let unpacked = [a?, b?, c?, d?];
        let activations = "activations of prompts";
        Ok(Prefill {
            scales: {
                let largest = unpacked.iter().map(|room| &room.values).max_by_key(|values| values.len());
                let ranges = Ranges::new(gpu, config, cache_type, largest.expect("there are four"))?;
                layers.iter().enumerate().map(|(il, layer)| ranges.of(il, layer)).collect::<Result<_, _>>()?
            },
            normed: gpu.alloc(activations, sizes.normed)?,
            qkv: gpu.alloc(activations, sizes.qkv)?,
            q: gpu.alloc(activations, sizes.q)?,
            k: gpu.alloc(activations, sizes.kv)?,
            v: gpu.alloc(activations, sizes.kv)?,
            attended: gpu.alloc(activations, sizes.attended)?,
            exact: gpu.alloc(activations, sizes.exact)?,
            gate_up: gpu.alloc(activations, sizes.gate_up)?,
            swiglu: gpu.alloc(activations, sizes.swiglu)?,
            unpacked,
        })
    }

    /// Begins to unpack a layer's matrix, where there is such a layer and that is needed.
    fn fill(&self, gpu: &Gpu, layer: Option<&DeviceLayer>, matrix: Matrix) -> Result<(), GpuError> {
        match layer.and_then(|layer| matrix.of(layer)) {
            Some(weights) if in_f16(weights).is_none() => self.unpacked[matrix as usize].fill(gpu, weights),
            _ => Ok(()),
        }
    }

    /// out = alpha · matrix · x + beta · out for each of `n` tokens, with a matrix that is f16 or was begun to be unpacked.
    #[allow(clippy::too_many_arguments)]
    fn multiply(
        &self,
        gpu: &Gpu,
        layer: &DeviceLayer,
        matrix: Matrix,
        x: &Slice<f16>,
        out: Product,
        (alpha, beta): (f32, f32),
        n: usize,
    ) -> Result<(), GpuError> {
        let weights = matrix.of(layer).expect("a layer of a dense model");
        let (n_out, n_in) = (weights.n_out, weights.n_in);
        if let Some(values) = in_f16(weights) {
            return gpu.product(&values, n_out, n_in, x, out, alpha, beta, n);
        }
        let room = &self.unpacked[matrix as usize];
        gpu.wait(&room.filled)?;
        gpu.product(&room.values, n_out, n_in, x, out, alpha, beta, n)?;
        gpu.record(&room.done)
    }
}

impl Engine {
    /// From the `n` staged tokens to the residual stream `x` after the last layer.
    pub(super) fn prefill(&self, p: &Prefill, n: usize, trace: &mut Recorder) -> Result<(), EngineError> {
        let Engine { gpu, config, weights, scratch: s, .. } = self;
        let (n_embd, epsilon) = (config.n_embd, config.rms_epsilon);
        gpu.embedding(weights.token_embd.all(), &s.tokens, &s.x, n)?;
        record(trace, gpu, "inp_embd", None, &s.x, &[n, n_embd])?;
        for matrix in Matrix::ALL {
            p.fill(gpu, weights.layers.first(), matrix)?;
        }

        for (il, (layer, scales)) in weights.layers.iter().zip(&p.scales).enumerate() {
            gpu.rmsnorm_f16(&s.x, &layer.attn_norm, &p.normed, n, epsilon, scales.attn_norm)?;
            record_f16(trace, gpu, "attn_norm", il, &p.normed, scales.attn_norm, &[n, n_embd])?;
            self.attend(p, il, n, trace)?;
            record(trace, gpu, "ffn_inp", Some(il), &s.x, &[n, n_embd])?;

            match (&layer.ffn, config.experts) {
                (FeedForward::Mixture { .. }, Some(shape)) => {
                    gpu.rmsnorm(&s.x, &layer.ffn_norm, &s.normed, n, epsilon)?;
                    record(trace, gpu, "ffn_norm", Some(il), &s.normed, &[n, n_embd])?;
                    self.mixture(il, shape, &s.x, None, n, trace)?;
                }
                _ => self.feed_forward_of_many(p, il, n, trace)?,
            }
            record(trace, gpu, "l_out", Some(il), &s.x, &[n, n_embd])?;
        }
        Ok(())
    }

    /// A product with a matrix of a layer, after which the next layer's is unpacked.
    #[allow(clippy::too_many_arguments)]
    fn product_of_many(
        &self,
        p: &Prefill,
        il: usize,
        matrix: Matrix,
        x: &Slice<f16>,
        out: Product,
        factors: (f32, f32),
        n: usize,
    ) -> Result<(), GpuError> {
        let Engine { gpu, weights, .. } = self;
        p.multiply(gpu, &weights.layers[il], matrix, x, out, factors, n)?;
        p.fill(gpu, weights.layers.get(il + 1), matrix)
    }

    /// The attention half of a layer: adds to `x` what it makes of `normed`.
    fn attend(&self, p: &Prefill, il: usize, n: usize, trace: &mut Recorder) -> Result<(), EngineError> {
        let Engine { gpu, config, weights, cache, scratch: s, .. } = self;
        let (layer, scales) = (&weights.layers[il], &p.scales[il]);
        let shape = self.attention_shape(n);
        let (keys, values) = (cache.keys(il), cache.values(il));
        // RoPE's magnitude belongs to the scores: keys are kept without it.
        let score_scale = config.attention_scale * weights.rope_magnitude;
        let flash = has_flash(cache.cache_type);

        let factors = (scales.attn_norm.recip(), 0.0);
        self.product_of_many(p, il, Matrix::Qkv, &p.normed, Product::F32(&p.qkv), factors, n)?;
        let packed = cache.cache_type == CacheType::Q8_0;
        let qkv = Qkv {
            shape: if packed { AttentionShape { n_context: 0, ..shape } } else { shape },
            product: &p.qkv,
            bias: layer.attn_qkv_bias.as_deref(),
            norm_and_rope: NormAndRope {
                q_norm: layer.attn_q_norm.as_deref(),
                k_norm: layer.attn_k_norm.as_deref(),
                epsilon: config.rms_epsilon,
                frequencies: &weights.rope_frequencies,
                n_rot: config.rope.n_rot,
                pairing: config.rope.pairing,
                magnitude: weights.rope_magnitude,
            },
            // Flash attention takes powers of two.
            q_scale: if flash { score_scale * std::f32::consts::LOG2_E } else { 1.0 },
            positions: &s.positions,
            q: &p.q,
            keys: if packed { &p.k.cast() } else { &keys },
            values: if packed { &p.v.cast() } else { &values },
            element: query_type(cache.cache_type),
        };
        gpu.qkv(&qkv)?;
        if packed {
            gpu.cache_store(shape, &p.k, &s.positions, &keys, cache.cache_type, 1.0)?;
            gpu.cache_store(shape, &p.v, &s.positions, &values, cache.cache_type, 1.0)?;
        }
        if trace.is_on() {
            self.trace_attention(&qkv, il, n, trace)?;
        }
        if flash {
            let (q, cache_type) = (p.q.cast(), cache.cache_type);
            let rows = FlashRows::choose(shape, self.n_past, cache_type, gpu.multiprocessors());
            let scale = scales.attended;
            gpu.flash(shape, &q, &keys, &values, cache_type, &s.positions, &p.attended, scale, rows)?;
        } else {
            let q = p.q.cast();
            let (cache_type, positions) = (cache.cache_type, &s.positions);
            gpu.attention(shape, &q, &keys, &values, cache_type, positions, &p.exact, None, score_scale)?;
            gpu.range_to_f16_f32(&p.exact, &p.attended, scales.attended, n * config.n_heads * config.head_dim)?;
        }
        let heads = config.n_heads * config.head_dim;
        record_f16(trace, gpu, "kqv_out", il, &p.attended, scales.attended, &[n, heads])?;

        let bias = layer.attn_output_bias.as_deref();
        if trace.is_on() {
            self.trace_product("attn_out", p, il, Matrix::Output, &p.attended, scales.attended, bias, n, trace)?;
        }
        let factors = (scales.attended.recip(), 1.0);
        self.product_of_many(p, il, Matrix::Output, &p.attended, Product::F32(&s.x), factors, n)?;
        if bias.is_some() {
            gpu.matmul_epilogue(&s.x, None, bias, None, &s.x, n, config.n_embd)?;
        }
        Ok(())
    }

    /// The feed-forward network of a layer: adds to `x` what it makes of it.
    fn feed_forward_of_many(&self, p: &Prefill, il: usize, n: usize, trace: &mut Recorder) -> Result<(), EngineError> {
        let Engine { gpu, config, weights, scratch: s, .. } = self;
        let (layer, scales) = (&weights.layers[il], &p.scales[il]);
        let (n_embd, n_ff) = (config.n_embd, config.n_ff);
        gpu.rmsnorm_f16(&s.x, &layer.ffn_norm, &p.normed, n, config.rms_epsilon, scales.ffn_norm)?;
        record_f16(trace, gpu, "ffn_norm", il, &p.normed, scales.ffn_norm, &[n, n_embd])?;

        let factors = (scales.gate_up / scales.ffn_norm, 0.0);
        self.product_of_many(p, il, Matrix::GateUp, &p.normed, Product::F16(&p.gate_up), factors, n)?;
        if trace.is_on() {
            self.trace_gate_up(p, il, n, trace)?;
        }
        gpu.swiglu_f16(&p.gate_up, &p.swiglu, n, n_ff, scales.gate_up.recip(), scales.swiglu)?;
        record_f16(trace, gpu, "ffn_swiglu", il, &p.swiglu, scales.swiglu, &[n, n_ff])?;

        if trace.is_on() {
            self.trace_product("ffn_out", p, il, Matrix::Down, &p.swiglu, scales.swiglu, None, n, trace)?;
        }
        let factors = (scales.swiglu.recip(), 1.0);
        Ok(self.product_of_many(p, il, Matrix::Down, &p.swiglu, Product::F32(&s.x), factors, n)?)
    }
}
