//! The forward pass on the device.
//!
//! [`Engine::forward`] takes the next tokens of the sequence, one in decoding or a chunk of a prompt, and leaves logits on
//! the device. It reads from top to bottom like the model's figure; each buffer has its shape beside it. Everything is
//! allocated when the engine is made: a step only copies tokens in and launches.
//!
//! Here is the way that takes an operation at a time, for tokens whose every intermediate is recorded and for models of F32.
//! Many tokens together go through [`prefill`] otherwise.
//!
//! Activations are `f32` throughout, the residual stream above all: some models' residuals pass the range of f16. Weights
//! and cache keep their own types.

mod cache;
mod decode;
mod decode_mode;
mod error;
mod plan;
mod prefill;
mod sizes;
mod state;
mod trace;
mod traffic;
mod weights;

use std::ops::Range;

use crate::{
    gguf::Gguf,
    gpu::{
        Activations, Buffer, Gpu, GpuError, Matmul, Pinned, Slice,
        kernels::{AttentionShape, CacheType, Experts as Chosen, Gemv, RopeShape},
    },
    model::{Config, Experts, ModelWeights},
    trace::Recorder,
};

use cache::KvCache;
use decode::Decode;
pub use decode_mode::DecodeMode;
pub use error::EngineError;
pub use plan::{MemoryPlan, ScratchPlan, Size};
use prefill::Prefill;
use sizes::Sizes;
use trace::{probabilities, record};
pub use weights::{DeviceLayer, DeviceWeights, FeedForward, MatrixSource, turns};

/// How an engine is set up.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Positions to have room for; 0 for the model's own context length; that, or 4096 where that is less, if not given.
    pub n_context: Option<usize>,
    /// The type of the KV cache.
    pub cache_type: CacheType,
    /// What quantised weights are multiplied with where a token goes through the layers alone.
    pub activations: Activations,
    /// How a token goes through the layers alone.
    pub decode: DecodeMode,
    /// The most tokens that go through the layers together.
    pub n_batch: usize,
    /// Whether logits of every token may be asked for, not only of the last: memory for `n_batch` rows of them.
    pub all_logits: bool,
    /// Bytes of device memory to take at most, where that is less than what is free.
    pub memory_limit: Option<u64>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            n_context: None,
            cache_type: CacheType::F16,
            activations: Activations::default(),
            decode: DecodeMode::default(),
            n_batch: 2048,
            all_logits: false,
            memory_limit: None,
        }
    }
}

/// Which tokens' logits a forward pass computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// None: more of the prompt follows.
    None,
    /// The last token's, as row 0.
    Last,
    /// Every token's.
    All,
}

/// Activations, allocated once. `rows` is `n_batch`, or 1 where many tokens have buffers of their own ([`Prefill`]).
struct Scratch {
    tokens: Buffer<u32>,    // [n_batch]
    positions: Buffer<u32>, // [n_batch]
    x: Buffer<f32>,         // [n_batch][n_embd], the residual stream
    ffn_inp: Buffer<f32>,   // [rows][n_embd], the residual stream after attention
    normed: Buffer<f32>,    // [rows][n_embd], or as many as experts or logits are computed for
    q: Buffer<f32>,         // [rows][n_heads][head_dim]
    k: Buffer<f32>,         // [rows][n_kv_heads][head_dim]
    v: Buffer<f32>,         // [rows][n_kv_heads][head_dim]
    attended: Buffer<f32>,  // [rows][n_heads][head_dim]
    gate: Buffer<f32>,      // [rows][n_ff], or with experts [n_batch][n_used][n_ff]
    up: Buffer<f32>,        // [rows][n_ff], or with experts [n_batch][n_used][n_ff]
    mixture: Option<Mixture>,
    logits: Buffer<f32>, // [1 or n_batch][vocab_size]
    matmul: Matmul,
    staged: Pinned<u32>, // [2][n_batch]: tokens, then positions
}

/// What a mixture of experts needs besides.
struct Mixture {
    logits: Buffer<f32>,  // [n_batch][n_experts]
    experts: Buffer<u32>, // [n_batch][n_used]
    weights: Buffer<f32>, // [n_batch][n_used]
    parts: Buffer<f32>,   // [n_batch][n_used][n_embd]
}

impl Mixture {
    fn new(gpu: &Gpu, shape: Experts, n_embd: usize, n_batch: usize) -> Result<Mixture, GpuError> {
        let n_pairs = n_batch * shape.n_used;
        Ok(Mixture {
            logits: gpu.alloc("router logits", n_batch * shape.n_experts)?,
            experts: gpu.alloc("chosen experts", n_pairs)?,
            weights: gpu.alloc("expert weights", n_pairs)?,
            parts: gpu.alloc("expert outputs", n_pairs * n_embd)?,
        })
    }
}

impl Scratch {
    fn new(gpu: &Gpu, config: &Config, sizes: &Sizes, activations: Activations) -> Result<Scratch, GpuError> {
        let Sizes { n_batch, logit_rows, rows, normed_rows, ffn_rows, .. } = *sizes;
        let heads = config.n_heads * config.head_dim;
        let kv_heads = config.n_kv_heads * config.head_dim;
        let alloc = |len| gpu.alloc("activations", len);
        Ok(Scratch {
            tokens: gpu.alloc("tokens", n_batch)?,
            positions: gpu.alloc("positions", n_batch)?,
            x: alloc(n_batch * config.n_embd)?,
            ffn_inp: alloc(rows * config.n_embd)?,
            normed: alloc(normed_rows * config.n_embd)?,
            q: alloc(rows * heads)?,
            k: alloc(rows * kv_heads)?,
            v: alloc(rows * kv_heads)?,
            attended: alloc(rows * heads)?,
            gate: alloc(ffn_rows * config.n_ff)?,
            up: alloc(ffn_rows * config.n_ff)?,
            mixture: match config.experts {
                Some(shape) => Some(Mixture::new(gpu, shape, config.n_embd, n_batch)?),
                None => None,
            },
            logits: gpu.alloc("logits", logit_rows * config.vocab_size)?,
            matmul: Matmul::new(gpu, sizes.matmul_rows, sizes.matmul_columns, sizes.unpacked, activations)?,
            staged: gpu.alloc_pinned("tokens", 2 * n_batch)?,
        })
    }
}

/// A model on the device with one sequence in its cache.
pub struct Engine {
    config: Config,
    plan: MemoryPlan,
    weights: DeviceWeights,
    cache: KvCache,
    scratch: Scratch,
    decode: Decode,
    prefill: Option<Prefill>,
    /// Tokens in the cache: the next token's position.
    n_past: usize,
    /// Whether a copy from pinned memory may still be under way.
    staging: bool,
    // Last, so that everything on the device is freed before it.
    gpu: Gpu,
}

impl Engine {
    /// Uploads the model and allocates all that generation needs. `progress` is told bytes done and bytes in all.
    pub fn load(
        gpu: Gpu,
        gguf: &Gguf,
        options: EngineOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Engine, EngineError> {
        let config = Config::from_gguf(gguf)?;
        let views = ModelWeights::new(gguf, &config)?;
        let source = if gguf.lacks_matrices() { MatrixSource::Noise } else { MatrixSource::File };
        let mut plan = MemoryPlan::new(gguf, &config, &options)?;
        let (free, _) = gpu.memory()?;
        plan.expect_room(gguf, &config, &options, gpu.backend(), free as u64)?;
        // The weights first: loading them takes a buffer that the rest then has the place of.
        let weights = DeviceWeights::upload(&gpu, &config, &views, source, progress)?;
        gpu.expect_cublas()?;
        Ok(Engine {
            cache: KvCache::new(&gpu, &config, plan.n_context, options.cache_type)?,
            decode: Decode::new(&gpu, &config, plan.n_context, &options)?,
            scratch: Scratch::new(&gpu, &config, &plan.sizes, options.activations)?,
            prefill: match &plan.sizes.prefill {
                Some(sizes) => Some(Prefill::new(&gpu, &config, options.cache_type, sizes, &weights.layers)?),
                None => None,
            },
            weights,
            config,
            plan,
            n_past: 0,
            staging: false,
            gpu,
        })
    }

    /// What the model takes of the device's memory, and for what.
    pub fn plan(&self) -> &MemoryPlan {
        &self.plan
    }

    /// The model's hyperparameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The weights.
    pub fn weights(&self) -> &DeviceWeights {
        &self.weights
    }

    /// Positions there is room for.
    pub fn n_context(&self) -> usize {
        self.cache.n_context
    }

    /// The most tokens of one forward pass.
    pub fn n_batch(&self) -> usize {
        self.plan.n_batch
    }

    /// Tokens seen so far.
    pub fn n_past(&self) -> usize {
        self.n_past
    }

    /// Forgets the sequence. The cache's old content is never read: attention looks no further than its token's position.
    pub fn reset(&mut self) {
        self.n_past = 0;
    }

    /// The last token's logits, `[vocab_size]`.
    pub fn logits(&mut self) -> Result<Vec<f32>, EngineError> {
        self.logit_rows(1)
    }

    /// The first `rows` rows of logits that the last forward pass left, `[rows][vocab_size]`.
    pub fn logit_rows(&mut self, rows: usize) -> Result<Vec<f32>, EngineError> {
        let logits = self.gpu.read(&self.scratch.logits.slice(0..rows * self.config.vocab_size))?;
        self.staging = false;
        Ok(logits)
    }

    /// The last token's logits into memory of the caller's: its first `logits.len()` entries.
    pub fn logits_into(&mut self, logits: &mut [f32]) -> Result<(), EngineError> {
        self.gpu.read_into(&self.scratch.logits.slice(0..logits.len()), logits)?;
        self.staging = false;
        Ok(())
    }

    /// Fails where the tokens are none of the model's or more than the cache has room for.
    fn expect_room(&self, tokens: &[u32]) -> Result<(), EngineError> {
        let (n_past, n_context) = (self.n_past, self.cache.n_context);
        if n_past + tokens.len() > n_context {
            return Err(EngineError::ContextFull { n_past, n_new: tokens.len(), n_context });
        }
        match tokens.iter().find(|token| **token as usize >= self.config.vocab_size) {
            Some(token) => Err(EngineError::Token { found: *token, vocab_size: self.config.vocab_size }),
            None => Ok(()),
        }
    }

    /// Copies tokens and their positions to the device.
    fn stage(&mut self, tokens: &[u32]) -> Result<(), GpuError> {
        if self.staging {
            self.gpu.synchronise()?;
        }
        let n = tokens.len();
        let Scratch { staged, tokens: device_tokens, positions, .. } = &mut self.scratch;
        staged[..n].copy_from_slice(tokens);
        for (index, position) in staged[n..2 * n].iter_mut().enumerate() {
            *position = (self.n_past + index) as u32;
        }
        self.staging = true;
        // SAFETY: the pinned memory lives as long as the engine, and is not written before the next synchronisation.
        unsafe {
            self.gpu.enqueue_write(device_tokens, &staged[..n])?;
            self.gpu.enqueue_write(positions, &staged[n..2 * n])
        }
    }

    /// One pass of up to `n_batch` tokens through the model, which become part of the sequence. A token alone goes the way of
    /// decoding, unless its intermediates are recorded.
    pub fn forward(&mut self, tokens: &[u32], logits: Logits, trace: &mut Recorder) -> Result<(), EngineError> {
        if let ([token], false) = (tokens, trace.is_on()) {
            return self.decode(*token);
        }
        let n = tokens.len();
        self.expect_room(tokens)?;
        assert!(0 < n && n <= self.plan.n_batch, "a forward pass over {n} tokens, of at most {}", self.plan.n_batch);
        self.stage(tokens)?;
        match &self.prefill {
            Some(prefill) if n > 1 => self.prefill(prefill, n, trace)?,
            _ => self.layers(n, trace)?,
        }
        match logits {
            Logits::None => {}
            Logits::Last => self.head(n - 1..n, trace)?,
            Logits::All => self.head(0..n, trace)?,
        }
        self.n_past += n;
        self.decode.forget_choice();
        Ok(())
    }

    /// From the `n` staged tokens to the residual stream `x` after the last layer.
    fn layers(&self, n: usize, trace: &mut Recorder) -> Result<(), EngineError> {
        let Engine { gpu, config, weights, scratch: s, .. } = self;
        let (n_embd, epsilon) = (config.n_embd, config.rms_epsilon);
        gpu.embedding(weights.token_embd.all(), &s.tokens, &s.x, n)?;
        record(trace, gpu, "inp_embd", None, &s.x, &[n, n_embd])?;

        for (il, layer) in weights.layers.iter().enumerate() {
            // x → ffn_inp
            gpu.rmsnorm(&s.x, &layer.attn_norm, &s.normed, n, epsilon)?;
            record(trace, gpu, "attn_norm", Some(il), &s.normed, &[n, n_embd])?;
            self.attention(il, n, trace)?;

            // ffn_inp → x
            gpu.rmsnorm(&s.ffn_inp, &layer.ffn_norm, &s.normed, n, epsilon)?;
            record(trace, gpu, "ffn_norm", Some(il), &s.normed, &[n, n_embd])?;
            match (&layer.ffn, config.experts) {
                (FeedForward::Mixture { .. }, Some(shape)) => self.mixture(il, shape, &s.ffn_inp, None, n, trace)?,
                _ => self.feed_forward(il, n, trace)?,
            }
            record(trace, gpu, "l_out", Some(il), &s.x, &[n, n_embd])?;
        }
        Ok(())
    }

    /// From the residual stream of these tokens to their logits.
    fn head(&self, tokens: Range<usize>, trace: &mut Recorder) -> Result<(), EngineError> {
        let Engine { gpu, config, weights, scratch: s, .. } = self;
        let (n, n_embd) = (tokens.len(), config.n_embd);
        assert!(n <= self.plan.logit_rows(), "logits of {n} tokens, room for {}", self.plan.logit_rows());
        let x = s.x.slice(tokens.start * n_embd..tokens.end * n_embd);
        gpu.rmsnorm(&x, &weights.output_norm, &s.normed, n, config.rms_epsilon)?;
        record(trace, gpu, "result_norm", None, &s.normed, &[n, n_embd])?;
        gpu.matmul(&s.matmul, weights.output.all(), &s.normed, None, None, &s.logits, n)?;
        record(trace, gpu, "result_output", None, &s.logits, &[n, config.vocab_size])?;
        Ok(())
    }

    /// The feed-forward network of a layer: from `normed` and the residual stream `ffn_inp` to `x`.
    fn feed_forward(&self, il: usize, n: usize, trace: &mut Recorder) -> Result<(), EngineError> {
        let Engine { gpu, config, weights, scratch: s, .. } = self;
        let (n_embd, n_ff) = (config.n_embd, config.n_ff);
        let FeedForward::Dense { gate_up, down } = &weights.layers[il].ffn else {
            panic!("layer {il} is a mixture of experts")
        };
        let (gate, up, down) = (gate_up.rows(0..n_ff), gate_up.rows(n_ff..2 * n_ff), down.all());
        gpu.matmul(&s.matmul, up, &s.normed, None, None, &s.up, n)?;
        record(trace, gpu, "ffn_up", Some(il), &s.up, &[n, n_ff])?;
        gpu.matmul(&s.matmul, gate, &s.normed, None, None, &s.gate, n)?;
        record(trace, gpu, "ffn_gate", Some(il), &s.gate, &[n, n_ff])?;
        gpu.swiglu(&s.gate, &s.up, &s.gate, n * n_ff)?;
        record(trace, gpu, "ffn_swiglu", Some(il), &s.gate, &[n, n_ff])?;
        if trace.is_on() {
            gpu.matmul(&s.matmul, down, &s.gate, None, None, &s.x, n)?;
            record(trace, gpu, "ffn_out", Some(il), &s.x, &[n, n_embd])?;
        }
        Ok(gpu.matmul(&s.matmul, down, &s.gate, None, Some(&s.ffn_inp), &s.x, n)?)
    }

    /// A mixture of feed-forward networks in place of one, from `normed` and the residual stream, which may be `x`, to `x`: each
    /// token's row goes through the experts that the router chooses for it. One vector at a time, whatever the number of tokens:
    /// neighbours rarely share their experts. One token may come from the residual stream alone, with the `norm` that makes
    /// `normed` of it.
    fn mixture(
        &self,
        il: usize,
        shape: Experts,
        residual: &Slice<f32>,
        norm: Option<(&Slice<f32>, f32)>,
        n: usize,
        trace: &mut Recorder,
    ) -> Result<(), EngineError> {
        let Engine { gpu, config, weights, scratch: s, .. } = self;
        let FeedForward::Mixture { router, gate_up, down } = &weights.layers[il].ffn else {
            panic!("layer {il} has no experts")
        };
        let m = s.mixture.as_ref().expect("allocated for a model with experts");
        let (n_embd, n_used) = (config.n_embd, shape.n_used);
        let n_pairs = n * n_used;
        let x = if norm.is_some() { residual } else { &s.normed };
        match norm {
            None => gpu.matmul(&s.matmul, router.all(), x, None, None, &m.logits, n)?,
            Some(_) => {
                assert_eq!(n, 1, "the norm is made with a product, which takes one token");
                gpu.gemv(&Gemv { norm, ..Gemv::new(router.all(), x, &m.logits).activations(s.matmul.activations()) })?;
            }
        }
        record(trace, gpu, "ffn_moe_logits", Some(il), &m.logits, &[n, shape.n_experts])?;
        gpu.experts_route(shape, &m.logits, &m.experts, &m.weights, n)?;
        record(trace, gpu, "ffn_moe_weights", Some(il), &m.weights, &[n, n_used])?;
        let product = |rows, x, out, share, norm, swiglu| {
            let experts = Some(Chosen { chosen: &m.experts, n_vectors: n_pairs, share });
            let gemv = Gemv::new(rows, x, out).activations(s.matmul.activations());
            gpu.gemv(&Gemv { experts, norm, swiglu, ..gemv })
        };
        if let [_] = gate_up.parts[..] {
            product(gate_up.all(), x, &s.gate, n_used, norm, true)?;
        } else {
            for (rows, out) in gate_up.rows_of_parts().zip([&s.gate, &s.up]) {
                product(rows, x, out, n_used, norm, false)?;
            }
            gpu.swiglu(&s.gate, &s.up, &s.gate, n_pairs * config.n_ff)?;
        }
        product(down.all(), &s.gate, &m.parts, 1, None, false)?;
        if trace.is_on() {
            let out = gpu.alloc("a trace", n * n_embd)?;
            gpu.experts_combine(&m.parts, &m.weights, None, &out, n, n_embd, n_used)?;
            record(trace, gpu, "ffn_moe_out", Some(il), &out, &[n, n_embd])?;
        }
        Ok(gpu.experts_combine(&m.parts, &m.weights, Some(residual), &s.x, n, n_embd, n_used)?)
    }

    /// The shapes of attention for `n` tokens.
    fn attention_shape(&self, n: usize) -> AttentionShape {
        let Config { n_heads, n_kv_heads, head_dim, sliding_window, .. } = self.config;
        AttentionShape {
            n_tokens: n,
            n_heads,
            n_kv_heads,
            head_dim,
            n_context: self.cache.n_context,
            window: sliding_window,
        }
    }

    /// The attention half of a layer: from `normed` and the residual stream `x` to `ffn_inp`.
    fn attention(&self, il: usize, n: usize, trace: &mut Recorder) -> Result<(), EngineError> {
        let Engine { gpu, config, weights, cache, scratch: s, .. } = self;
        let layer = &weights.layers[il];
        let (n_heads, n_kv_heads, head_dim) = (config.n_heads, config.n_kv_heads, config.head_dim);
        let shape = self.attention_shape(n);

        self.query_key("Qcur", il, n, n_heads, trace)?;
        self.query_key("Kcur", il, n, n_kv_heads, trace)?;
        let heads = n_heads + n_kv_heads;
        self.project("Vcur", il, heads..heads + n_kv_heads, &s.v, n, trace)?;
        record(trace, gpu, "Vcur", Some(il), &s.v, &[n, n_kv_heads, head_dim])?;

        let (keys, values) = (cache.keys(il), cache.values(il));
        // RoPE's magnitude (YaRN's attention factor) belongs to the scores: keys are kept without it.
        let magnitude = weights.rope_magnitude;
        let cache_type = cache.cache_type;
        gpu.cache_store(shape, &s.k, &s.positions, &keys, cache_type, magnitude.recip())?;
        gpu.cache_store(shape, &s.v, &s.positions, &values, cache_type, 1.0)?;
        let probabilities = probabilities(trace, gpu, n_heads, n, self.n_past + n)?;
        gpu.attention(
            shape,
            &s.q,
            &keys,
            &values,
            cache.cache_type,
            &s.positions,
            &s.attended,
            probabilities.as_ref().map(|(buffer, stride)| (&**buffer, *stride)),
            config.attention_scale * magnitude,
        )?;
        if let Some((buffer, stride)) = &probabilities {
            record(trace, gpu, "kq_soft_max", Some(il), buffer, &[n_heads, n, *stride])?;
        }
        record(trace, gpu, "kqv_out", Some(il), &s.attended, &[n, n_heads * head_dim])?;

        let bias = layer.attn_output_bias.as_deref();
        if trace.is_on() {
            gpu.matmul(&s.matmul, layer.attn_output.all(), &s.attended, bias, None, &s.ffn_inp, n)?;
            record(trace, gpu, "attn_out", Some(il), &s.ffn_inp, &[n, config.n_embd])?;
        }
        gpu.matmul(&s.matmul, layer.attn_output.all(), &s.attended, bias, Some(&s.x), &s.ffn_inp, n)?;
        record(trace, gpu, "ffn_inp", Some(il), &s.ffn_inp, &[n, config.n_embd])?;
        Ok(())
    }

    /// Queries or keys of a layer: projection, bias, the norm over each head where the family has one, and RoPE.
    fn query_key(
        &self,
        name: &str,
        il: usize,
        n: usize,
        n_heads: usize,
        trace: &mut Recorder,
    ) -> Result<(), EngineError> {
        let Engine { gpu, config, weights, scratch: s, .. } = self;
        let layer = &weights.layers[il];
        let head_dim = config.head_dim;
        let (heads, norm, out) = match name {
            "Qcur" => (0..n_heads, &layer.attn_q_norm, &s.q),
            _ => (config.n_heads..config.n_heads + n_heads, &layer.attn_k_norm, &s.k),
        };
        self.project(name, il, heads, out, n, trace)?;
        record(trace, gpu, name, Some(il), out, &[n, n_heads, head_dim])?;
        if let Some(norm) = norm {
            gpu.rmsnorm(out, norm, out, n * n_heads, config.rms_epsilon)?;
            record(trace, gpu, &format!("{name}_normed"), Some(il), out, &[n, n_heads, head_dim])?;
        }
        let shape =
            RopeShape { n_tokens: n, n_heads, head_dim, n_rot: config.rope.n_rot, pairing: config.rope.pairing };
        gpu.rope(shape, out, &s.positions, &weights.rope_frequencies, weights.rope_magnitude)?;
        record(trace, gpu, name, Some(il), out, &[n, n_heads, head_dim])?;
        Ok(())
    }

    /// out = weights · normed + bias, for some of the heads of [queries, keys, values]. When tracing, the product is recorded before the bias too.
    fn project(
        &self,
        name: &str,
        il: usize,
        heads: Range<usize>,
        out: &Slice<f32>,
        n: usize,
        trace: &mut Recorder,
    ) -> Result<(), EngineError> {
        let Engine { gpu, config, weights, scratch: s, .. } = self;
        let layer = &weights.layers[il];
        let rows = heads.start * config.head_dim..heads.end * config.head_dim;
        let weights = layer.attn_qkv.rows(rows.clone());
        let bias = layer.attn_qkv_bias.as_ref().map(|bias| bias.slice(rows));
        if trace.is_on() && bias.is_some() {
            gpu.matmul(&s.matmul, weights, &s.normed, None, None, out, n)?;
            record(trace, gpu, name, Some(il), out, &[n, weights.n_out])?;
        }
        gpu.matmul(&s.matmul, weights, &s.normed, bias.as_deref(), None, out, n)?;
        record(trace, gpu, name, Some(il), out, &[n, weights.n_out])?;
        Ok(())
    }
}
