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
//! and three around them: the token's embedding; the last RMSNorm and the logits; what the next token is chosen by, its
//! [`Choice`]. The step reads the token and its position from device memory. The greedy choice leaves there itself and the next
//! position: the next step may follow without a word from the host.
//!
//! A sampler that draws from the largest logits gets these alone. It runs on the host: its probabilities must be llama.cpp's
//! to the last bit, and so its exponentials the C library's.
//!
//! A graph holds launches with their grids. All are the same for every token but attention's, whose keys are spread over more
//! blocks the more there are, in a few [`KeySplits`]: there is a graph for each of these that was met. All of them make the
//! choice that was asked for last: a generation asks for the same one at each token.
//!
//! [`DecodeMode::Persistent`] makes one launch of all of these ([`Gpu::record`]), up to the greedy choice; what differs between
//! numbers of keys is then written anew where their number passes into another [`KeySplits`].
//!
//! Where a file mixes types within queries, keys and values, one launch has them all the same, if they are a pair of
//! llama.cpp's mixes; of others, and of gate and up projection, there is a launch for each type. A mixture of experts takes five
//! launches in place of 4 and 5: the router's logits, its choice, the chosen experts' gate and up projection, their down projection,
//! and the weighted sum.

use super::{DecodeMode, Engine, EngineError, EngineOptions, FeedForward};
use crate::{
    gpu::{
        Activations, Buffer, Gpu, GpuError, Graph, Pinned, Residents, Rows, Slice,
        kernels::{
            ArgmaxScratch, AttentionDecode, AttentionScratch, AttentionShape, Gemv, GemvParts, Input, KeySplits,
            MAX_TOP_K, NO_CHOICE, Output, TopKScratch, quantised_len,
        },
        program_len,
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
    attended: Buffer<u32>, // [n_heads][head_dim], quantised
    parts: Buffer<f32>,    // attention's splits
    arrivals: Buffer<u32>, // the same
    argmax: ArgmaxScratch,
    top_k: TopKScratch,
    largest: Buffer<u32>, // [MAX_TOP_K][2]: ids and logits
    chosen: Pinned<u32>,  // [MAX_TOP_K][2]: the choice, on the host
    activations: Activations,
    choice: Choice,
    /// Whether the choice was made by the logits that are there.
    has_choice: bool,
    graphs: Vec<(KeySplits, Graph)>,
    persistent: Option<Persistent>,
}

/// What the step needs as one launch.
struct Persistent {
    program: Buffer<u32>, // the launches, with room for as many as any such model has
    counter: Buffer<u32>, // [1]
    /// What the program was written for, as it is now.
    written: Option<(KeySplits, Residents)>,
}

impl Persistent {
    fn new(gpu: &Gpu, config: &Config) -> Result<Persistent, GpuError> {
        let persistent = Persistent {
            program: gpu.alloc("the program of a step", program_len(most_launches(config)))?,
            counter: gpu.alloc("the program of a step", 1)?,
            written: None,
        };
        gpu.fill(&persistent.counter, 0)?;
        Ok(persistent)
    }
}

/// The most launches of a step without experts: queries, keys and values, and gate and up, may be of a type each.
fn most_launches(config: &Config) -> usize {
    9 * config.n_layers + 3
}

/// What the device finds in the logits, among the first `n_tokens` of the vocabulary: a file may pad it past the tokenizer's
/// last token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// The token with the largest, in `input`.
    Greedy { n_tokens: usize },
    /// The `k` largest, in `largest`.
    Largest { n_tokens: usize, k: usize },
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
pub(super) fn allocations(config: &Config, n_context: usize, mode: DecodeMode) -> Vec<usize> {
    let AttentionScratch { parts, arrivals } = attention_scratch(config, n_context);
    let of_persistent = match mode {
        DecodeMode::Graph => vec![],
        DecodeMode::Persistent => vec![program_len(most_launches(config)), 1],
    };
    [2, qkv_len(config), quantised_len(config.n_ff), quantised_len(config.n_heads * config.head_dim), parts, arrivals]
        .into_iter()
        .chain(of_persistent)
        .chain(ArgmaxScratch::elements(1))
        .chain(TopKScratch::elements(config.vocab_size))
        .chain([2 * MAX_TOP_K])
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
            attended: gpu.alloc("activations", quantised_len(config.n_heads * config.head_dim))?,
            parts: gpu.alloc("attention", scratch.parts)?,
            arrivals,
            argmax: ArgmaxScratch::new(gpu, 1)?,
            top_k: TopKScratch::new(gpu, config.vocab_size)?,
            largest: gpu.alloc("top-k", 2 * MAX_TOP_K)?,
            chosen: gpu.alloc_pinned("a choice", 2 * MAX_TOP_K)?,
            activations: options.activations,
            choice: Choice::Greedy { n_tokens: config.vocab_size },
            has_choice: false,
            graphs: Vec::new(),
            persistent: match options.decode {
                DecodeMode::Graph => None,
                DecodeMode::Persistent => Some(Persistent::new(gpu, config)?),
            },
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
    ///
    /// # Errors
    /// [`EngineError::NoChoice`] where one of these logits is NaN or none is above −∞, and what the device reports.
    pub fn greedy(&mut self, n_tokens: usize) -> Result<u32, EngineError> {
        let n_tokens = n_tokens.min(self.config.vocab_size);
        self.choose(Choice::Greedy { n_tokens })?;
        let Decode { input, chosen, .. } = &mut self.decode;
        self.gpu.read_into(&input.slice(0..1), &mut chosen[..1])?;
        self.staging = false;
        match self.decode.chosen[0] {
            NO_CHOICE => Err(EngineError::NoChoice),
            token => Ok(token),
        }
    }

    /// Tokens and logits of the largest logits among the first `n_tokens` of the vocabulary, found on the device, into memory
    /// of the caller's: in descending order, equal ones by ascending id. NaN comes before all others, and −0 counts as 0.
    ///
    /// # Panics
    /// Where there is room for more than [`Engine::MAX_LARGEST`] or for more than there are.
    pub fn largest_into(&mut self, n_tokens: usize, largest: &mut [(u32, f32)]) -> Result<(), EngineError> {
        let k = largest.len();
        self.choose(Choice::Largest { n_tokens: n_tokens.min(self.config.vocab_size), k })?;
        let found = &mut self.decode.chosen[..2 * k];
        self.gpu.read_into(&self.decode.largest.slice(0..2 * k), found)?;
        self.staging = false;
        for (place, found) in largest.iter_mut().zip(found.chunks_exact(2)) {
            *place = (found[0], f32::from_bits(found[1]));
        }
        Ok(())
    }

    /// The most logits that [`Engine::largest_into`] finds.
    pub const MAX_LARGEST: usize = MAX_TOP_K;

    /// Makes the choice, where the last step has not, and has the next steps make it.
    fn choose(&mut self, choice: Choice) -> Result<(), EngineError> {
        if self.decode.choice != choice {
            // The graphs make another.
            self.decode.graphs.clear();
            if let Some(persistent) = &mut self.decode.persistent {
                persistent.written = None;
            }
            (self.decode.choice, self.decode.has_choice) = (choice, false);
        }
        if !self.decode.has_choice {
            self.enqueue_choice(None)?;
            self.decode.has_choice = true;
        }
        Ok(())
    }

    /// Enqueues the choice by the logits of one token; the greedy one moves the position on, where it is given.
    fn enqueue_choice(&self, position: Option<&Slice<u32>>) -> Result<(), GpuError> {
        let Engine { gpu, config, scratch: s, decode: d, .. } = self;
        match d.choice {
            Choice::Greedy { n_tokens } => {
                gpu.argmax(&d.argmax, &s.logits, &d.input.slice(0..1), position, 1, n_tokens, config.vocab_size)
            }
            Choice::Largest { n_tokens, k } => gpu.top_k(&d.top_k, &s.logits, &d.largest, n_tokens, k),
        }
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
        if self.decode.persistent.is_some() {
            return self.program(splits);
        }
        if let Some(index) = self.decode.graphs.iter().position(|(of, _)| *of == splits) {
            return Ok(index);
        }
        let graph = self.gpu.capture(|| {
            self.step(splits.n_splits)?;
            Ok::<_, EngineError>(self.enqueue_choice(Some(&self.decode.input.slice(1..2)))?)
        })?;
        self.decode.graphs.push((splits, graph));
        Ok(self.decode.graphs.len() - 1)
    }

    /// Makes the program the one for these splits, and gives the graph that launches it, and the choice where that is another than
    /// the program's own.
    fn program(&mut self, splits: KeySplits) -> Result<usize, EngineError> {
        let Engine { gpu, config, decode: d, .. } = &*self;
        let persistent = d.persistent.as_ref().expect("a program of the step");
        let written = persistent.written;
        if written.is_some_and(|(of, _)| of == splits) {
            return Ok(0);
        }
        let (n_tokens, others) = match d.choice {
            Choice::Greedy { n_tokens } => (n_tokens, false),
            Choice::Largest { n_tokens, .. } => (n_tokens, true),
        };
        let (token, position) = (d.input.slice(0..1), d.input.slice(1..2));
        let made = gpu.record(|| {
            self.step(splits.n_splits)?;
            let logits = &self.scratch.logits;
            Ok::<_, EngineError>(gpu.argmax(
                &d.argmax,
                logits,
                &token,
                Some(&position),
                1,
                n_tokens,
                config.vocab_size,
            )?)
        })?;
        gpu.write(&persistent.program, &made.words)?;
        // The launch is the same for all splits.
        let mut graph = None;
        if written.is_none_or(|(_, residents)| residents != made.residents) {
            let program = persistent.program.slice(0..made.words.len());
            graph = Some(gpu.capture(|| {
                // SAFETY: the program was written, and is for these residents; the counter began at zero. What it uses is the
                // engine's, as with a graph of the same launches.
                unsafe { gpu.persistent(&program, &persistent.counter, made.residents)? }
                if others { self.enqueue_choice(None) } else { Ok(()) }
            })?);
        }
        self.staging = false;
        if let Some(graph) = graph {
            self.decode.graphs = vec![(splits, graph)];
        }
        self.decode.persistent.as_mut().expect("as above").written = Some((splits, made.residents));
        Ok(0)
    }

    /// One token: from `input` to the logits.
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
            gpu.gemv_parts(&GemvParts {
                weights: &layer.attn_qkv,
                x: &s.x,
                norm: attn_norm,
                bias: layer.attn_qkv_bias.as_deref(),
                out: &d.qkv,
                activations: d.activations,
            })?;
            // Between two products activations are 8-bit integers where the second wants them so.
            let takes_integers = |rows: Rows| d.activations == Activations::Q8 && rows.tensor_type().is_quantised();
            let mut output = self.product(layer.attn_output.all(), &s.attended, &s.ffn_inp);
            let mut attended = Output::F32(&s.attended);
            if takes_integers(layer.attn_output.all()) {
                (attended, output.x) = (Output::Quantised(&d.attended), Input::Quantised(&d.attended));
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
                out: attended,
            })?;
            gpu.gemv(&Gemv { bias: layer.attn_output_bias.as_deref(), residual: Some(&s.x), ..output })?;

            // ffn_inp → x
            let ffn_norm = (&*layer.ffn_norm, config.rms_epsilon);
            match (&layer.ffn, config.experts) {
                (FeedForward::Dense { gate_up, down }, _) => {
                    let mut gate = Output::F32(&s.gate);
                    let mut product = self.product(down.all(), &s.gate, &s.x);
                    if let [_] = gate_up.parts[..] {
                        if takes_integers(down.all()) {
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
                    let shape = shape.expect("a model with experts has their shape");
                    self.mixture(il, shape, &s.ffn_inp, Some(ffn_norm), 1, &mut Recorder::off())?;
                }
            }
        }
        let output_norm = Some((&*weights.output_norm, config.rms_epsilon));
        Ok(gpu.gemv(&Gemv { norm: output_norm, ..self.product(weights.output.all(), &s.x, &s.logits) })?)
    }

    fn product<'a>(&self, weights: Rows<'a>, x: &'a Slice<f32>, out: &'a Slice<f32>) -> Gemv<'a> {
        Gemv::new(weights, x, out).activations(self.decode.activations)
    }
}
