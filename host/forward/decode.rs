//! A token at a time: the decoding step, captured as a graph and replayed.
//!
//! Five launches a layer, each waiting for the one before it no sooner than it needs to (programmatic dependent launch):
//!
//! 1. RMSNorm, queries, keys and values, their bias;
//! 2. norms over heads, RoPE, the new key and value into the cache, attention;
//! 3. output projection, bias, residual;
//! 4. RMSNorm, gate and up projection, SwiGLU;
//! 5. down projection, residual;
//!
//! and three around them: the token's embedding; the last RMSNorm and the logits; the greedy choice. The step reads the token
//! and its position from device memory, and leaves there the greedy choice and the next position: the next step may follow
//! without a word from the host.
//!
//! A graph holds launches with their grids. All are the same for every token but attention's, whose keys are spread over more
//! blocks the more there are, in a few [`KeySplits`]: there is a graph for each of these that was met.
//!
//! Where a file mixes types within queries, keys and values there is a launch for each type; a mixture of experts takes the
//! wide path's launches in place of 4 and 5.

use super::{Engine, EngineError, EngineOptions, FeedForward};
use crate::{
    gpu::{
        Activations, Buffer, Gpu, GpuError, Graph, Pinned, Rows, Slice,
        kernels::{
            ArgmaxScratch, AttentionDecode, AttentionScratch, AttentionShape, Gemv, Input, KeySplits, Output,
            quantised_len,
        },
    },
    model::Config,
    trace::Recorder,
};

/// What a decoding step has besides the wide path's scratch.
pub(super) struct Decode {
    input: Buffer<u32>,    // [2]: the token, its position
    staged: Pinned<u32>,   // [2]: the same, on the host
    qkv: Buffer<f32>,      // [n_heads + 2 · n_kv_heads][head_dim]
    gate: Buffer<u32>,     // [n_ff] of SwiGLU's output, quantised
    parts: Buffer<f32>,    // attention's splits
    arrivals: Buffer<u32>, // the same
    argmax: ArgmaxScratch,
    activations: Activations,
    /// How many tokens the greedy choice is among: the vocabulary without its padding.
    n_choices: usize,
    /// Whether `input` holds the greedy choice that belongs to the logits.
    has_choice: bool,
    graphs: Vec<(KeySplits, Graph)>,
}

/// More multiprocessors than any device has: what is allocated does not depend on the device.
const MULTIPROCESSORS: usize = 1024;

/// The elements of attention's scratch for any number of keys of a cache with that many positions.
fn attention_scratch(config: &Config, n_context: usize) -> AttentionScratch {
    let Config { n_heads, n_kv_heads, head_dim, .. } = *config;
    let widest = KeySplits::new(n_context, n_heads, n_kv_heads, MULTIPROCESSORS);
    AttentionScratch::new(n_heads, n_kv_heads, head_dim, widest.n_splits)
}

/// Values of queries, keys and values of a token.
fn qkv_len(config: &Config) -> usize {
    (config.n_heads + 2 * config.n_kv_heads) * config.head_dim
}

/// The elements of the step's allocations, 4 bytes each.
pub(super) fn allocations(config: &Config, n_context: usize) -> Vec<usize> {
    let AttentionScratch { parts, arrivals } = attention_scratch(config, n_context);
    [2, qkv_len(config), quantised_len(config.n_ff), parts, arrivals]
        .into_iter()
        .chain(ArgmaxScratch::elements(1))
        .collect()
}

impl Decode {
    pub(super) fn new(
        gpu: &Gpu,
        config: &Config,
        n_context: usize,
        options: &EngineOptions,
    ) -> Result<Decode, GpuError> {
        let scratch = attention_scratch(config, n_context);
        let arrivals = gpu.alloc("attention", scratch.arrivals)?;
        gpu.fill(&arrivals, 0)?;
        Ok(Decode {
            input: gpu.alloc("a token", 2)?,
            staged: gpu.alloc_pinned("a token", 2)?,
            qkv: gpu.alloc("activations", qkv_len(config))?,
            gate: gpu.alloc("activations", quantised_len(config.n_ff))?,
            parts: gpu.alloc("attention", scratch.parts)?,
            arrivals,
            argmax: ArgmaxScratch::new(gpu, 1)?,
            activations: options.activations,
            n_choices: config.vocab_size,
            has_choice: false,
            graphs: Vec::new(),
        })
    }
}

impl Decode {
    /// The logits are no longer those of a decoding step.
    pub(super) fn forget_choice(&mut self) {
        self.has_choice = false;
    }
}

impl Engine {
    /// Runs one token through the model; its logits are left on the device.
    pub fn decode(&mut self, token: u32) -> Result<(), EngineError> {
        self.expect_room(&[token])?;
        let graph = self.graph()?;
        if self.staging {
            self.gpu.synchronise()?;
        }
        let Decode { input, staged, graphs, .. } = &mut self.decode;
        staged.copy_from_slice(&[token, self.n_past as u32]);
        self.staging = true;
        // SAFETY: the pinned memory lives as long as the engine, and is not written before the next synchronisation; so do the
        // buffers that the graph uses.
        unsafe {
            self.gpu.enqueue_write(input, staged)?;
            graphs[graph].1.launch(&self.gpu)?;
        }
        self.n_past += 1;
        self.decode.has_choice = true;
        Ok(())
    }

    /// The token with the largest logit among the first `n_tokens` of the vocabulary, chosen on the device. A file may
    /// pad its vocabulary past the tokenizer's last token; the padding is never chosen.
    pub fn greedy(&mut self, n_tokens: usize) -> Result<u32, EngineError> {
        let (stride, decode) = (self.config.vocab_size, &mut self.decode);
        let n_tokens = n_tokens.min(stride);
        if decode.n_choices != n_tokens {
            // The graphs choose among others.
            decode.graphs.clear();
            (decode.n_choices, decode.has_choice) = (n_tokens, false);
        }
        let token = decode.input.slice(0..1);
        if !decode.has_choice {
            self.gpu.argmax(&decode.argmax, &self.scratch.logits, &token, None, 1, n_tokens, stride)?;
        }
        let mut best = [0];
        self.gpu.read_into(&token, &mut best)?;
        self.staging = false;
        Ok(best[0])
    }

    /// How many kernels the next decoding step runs.
    pub fn launches_per_token(&mut self) -> Result<usize, EngineError> {
        let graph = self.graph()?;
        Ok(self.decode.graphs[graph].1.n_kernels())
    }

    /// The graph for the next token's number of keys, captured where this is the first time.
    fn graph(&mut self) -> Result<usize, EngineError> {
        let Config { n_heads, n_kv_heads, sliding_window, .. } = self.config;
        let n_keys = sliding_window.map_or(self.n_past + 1, |window| window.min(self.n_past + 1));
        let splits = KeySplits::new(n_keys, n_heads, n_kv_heads, self.gpu.multiprocessors());
        if let Some(index) = self.decode.graphs.iter().position(|(of, _)| *of == splits) {
            return Ok(index);
        }
        let mut failed = None;
        let graph = self.gpu.capture(|| match self.step(splits.n_splits) {
            Ok(()) => Ok(()),
            Err(EngineError::Gpu(error)) => Err(error),
            Err(other) => {
                failed = Some(other);
                Ok(())
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        self.decode.graphs.push((splits, graph));
        Ok(self.decode.graphs.len() - 1)
    }

    /// One token: from `input` to the logits, the greedy choice and the next position.
    fn step(&self, n_splits: usize) -> Result<(), EngineError> {
        let Engine { gpu, config, weights, cache, scratch: s, decode: d, .. } = self;
        let (token, position) = (d.input.slice(0..1), d.input.slice(1..2));
        let shape = AttentionShape {
            n_tokens: 1,
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            n_context: cache.n_context,
            window: config.sliding_window,
        };
        gpu.embedding(weights.token_embd.all(), &token, &s.x, 1)?;
        for (il, layer) in weights.layers.iter().enumerate() {
            // x → ffn_inp
            let attn_norm = Some((&*layer.attn_norm, config.rms_epsilon));
            let mut row = 0;
            for rows in layer.attn_qkv.rows_of_parts() {
                let range = row..row + rows.n_out;
                let bias = layer.attn_qkv_bias.as_ref().map(|bias| bias.slice(range.clone()));
                let out = d.qkv.slice(range.clone());
                gpu.gemv(&Gemv { norm: attn_norm, bias: bias.as_deref(), ..self.product(rows, &s.x, &out) })?;
                row = range.end;
            }
            gpu.attention_decode(&AttentionDecode {
                shape,
                qkv: &d.qkv,
                position: &position,
                q_norm: layer.attn_q_norm.as_deref(),
                k_norm: layer.attn_k_norm.as_deref(),
                epsilon: config.rms_epsilon,
                frequencies: &weights.rope_frequencies,
                n_rot: config.rope.n_rot,
                pairing: config.rope.pairing,
                magnitude: weights.rope_magnitude,
                scale: config.attention_scale,
                keys: &cache.keys(il),
                values: &cache.values(il),
                cache_type: cache.cache_type,
                n_splits,
                parts: &d.parts,
                arrivals: &d.arrivals,
                out: &s.attended,
            })?;
            let output = self.product(layer.attn_output.all(), &s.attended, &s.ffn_inp);
            gpu.gemv(&Gemv { bias: layer.attn_output_bias.as_deref(), residual: Some(&s.x), ..output })?;

            // ffn_inp → x
            let ffn_norm = (&*layer.ffn_norm, config.rms_epsilon);
            match (&layer.ffn, config.experts) {
                (FeedForward::Dense { gate_up, down }, _) => {
                    // Between the two products activations are 8-bit integers where the second wants them so.
                    let quantised = d.activations == Activations::Q8 && down.all().tensor_type().is_quantised();
                    let mut gate = Output::F32(&s.gate);
                    let mut product = self.product(down.all(), &s.gate, &s.x);
                    if let [_] = gate_up.parts[..] {
                        if quantised {
                            (gate, product.x) = (Output::Quantised(&d.gate), Input::Quantised(&d.gate));
                        }
                        let gate_up = self.product(gate_up.all(), &s.ffn_inp, &s.gate);
                        gpu.gemv(&Gemv { norm: Some(ffn_norm), swiglu: true, out: gate, ..gate_up })?;
                    } else {
                        for (rows, out) in gate_up.rows_of_parts().zip([&s.gate, &s.up]) {
                            gpu.gemv(&Gemv { norm: Some(ffn_norm), ..self.product(rows, &s.ffn_inp, out) })?;
                        }
                        gpu.swiglu(&s.gate, &s.up, &s.gate, config.n_ff)?;
                    }
                    gpu.gemv(&Gemv { residual: Some(&s.ffn_inp), ..product })?;
                }
                (FeedForward::Mixture { .. }, shape) => {
                    gpu.rmsnorm(&s.ffn_inp, ffn_norm.0, &s.normed, 1, ffn_norm.1)?;
                    let shape = shape.expect("a model with experts has their shape");
                    self.mixture(il, shape, &s.ffn_inp, 1, &mut Recorder::off())?;
                }
            }
        }
        let output_norm = Some((&*weights.output_norm, config.rms_epsilon));
        gpu.gemv(&Gemv { norm: output_norm, ..self.product(weights.output.all(), &s.x, &s.logits) })?;
        Ok(gpu.argmax(&d.argmax, &s.logits, &token, Some(&position), 1, d.n_choices, config.vocab_size)?)
    }

    fn product<'a>(&self, weights: Rows<'a>, x: &'a Slice<f32>, out: &'a Slice<f32>) -> Gemv<'a> {
        Gemv::new(weights, x, out).activations(self.decode.activations)
    }
}
