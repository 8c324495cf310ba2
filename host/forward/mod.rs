//! The forward pass on the device.
//!
//! [`Engine::forward`] takes the next tokens of the sequence, one in decoding or a chunk of a prompt, and leaves logits on the device. What is
//! launched in which order comes from the model's figure ([`crate::model::figure`]) by way of a pass (`lower`): one for a token, one for
//! many, and the exact one, an operation at a time. Everything is allocated when the engine is made: a step only copies tokens in and
//! launches.
//!
//! Activations are `f32` throughout, the residual stream above all: some models' residuals pass the range of f16. Weights and cache keep
//! their own types.

mod cache;
mod decode;
mod error;
pub mod explain;
mod lower;
mod memory;
mod plan;
mod range;
mod run;
mod state;
mod unpack;
mod weights;

use std::ops::Range;

use crate::{
    gguf::Gguf,
    gpu::{Activations, Buffer, Gpu, GpuError, Matmul, Pinned, kernels::CacheType},
    model::{Config, Figure, Model},
    trace::{Recorder, Trace},
};

use cache::KvCache;
use decode::Decode;
pub use error::EngineError;
pub use lower::Launch;
use lower::Pass;
use memory::{Layout, Scratch};
pub use plan::{MemoryPlan, Size};
use plan::{Passes, TokenAttentionSizes};
use range::Ranges;
use run::{Run, TokenAttention};
use unpack::Rooms;
pub use weights::{DeviceWeights, MatrixSource, turns};

/// How an engine is set up.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Positions to have room for; 0 for the model's own context length; that, or 4096 where that is less, if not given.
    pub n_context: Option<usize>,
    /// The type of the KV cache.
    pub cache_type: CacheType,
    /// What quantised weights are multiplied with where a token goes through the layers alone.
    pub activations: Activations,
    /// The most tokens that go through the layers together.
    pub n_batch: usize,
    /// Whether logits of every token may be asked for, not only of the last: memory for `n_batch` rows of them.
    pub all_logits: bool,
    /// Whether every operation is a launch of its own, so that all values of the figure can be recorded.
    pub exact: bool,
    /// Bytes of device memory to take at most, where that is less than what is free.
    pub memory_limit: Option<u64>,
    /// Where matrices come from.
    pub matrices: MatrixSource,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            n_context: None,
            cache_type: CacheType::F16,
            activations: Activations::default(),
            n_batch: 2048,
            all_logits: false,
            exact: false,
            memory_limit: None,
            matrices: MatrixSource::File,
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

/// A pass that can be launched.
struct Ready {
    pass: Pass,
    layout: Layout,
    /// The pass's scales.
    scales: Vec<f32>,
    rooms: Option<Rooms>,
}

impl Ready {
    /// Measures the weights, where the pass rounds to f16.
    fn new(
        gpu: &Gpu,
        model: &Model,
        weights: &DeviceWeights,
        (pass, layout): (Pass, Layout),
    ) -> Result<Ready, EngineError> {
        if !pass.steps.iter().any(|step| matches!(step.launch, Launch::Product { .. })) {
            return Ok(Ready { pass, layout, scales: Vec::new(), rooms: None });
        }
        let rooms = Rooms::new(gpu, model, &pass)?;
        let ranges = Ranges::new(gpu, &model.figure, weights, &rooms)?;
        for step in &pass.steps {
            if let (Launch::Product { stack, .. }, Some(made)) = (&step.launch, step.makes.first()) {
                let layer = model.figure.maker(made.value).and_then(|node| node.layer).unwrap_or(0);
                ranges.expect_f16(weights.stack(*stack), layer)?;
            }
        }
        let scales = pass.scales.iter().map(|bound| ranges.scale(bound)).collect::<Result<_, _>>()?;
        drop(ranges);
        Ok(Ready { pass, layout, scales, rooms: Some(rooms) })
    }
}

/// A model on the device with one sequence in its cache.
pub struct Engine {
    config: Config,
    figure: Figure,
    plan: MemoryPlan,
    weights: DeviceWeights,
    cache: KvCache,
    one: Ready,
    several: Option<Ready>,
    scratch: Scratch,
    attention: TokenAttention,
    matmul: Matmul,
    tokens: Buffer<u32>,    // [n_batch]
    positions: Buffer<u32>, // [n_batch]
    staged: Pinned<u32>,    // [2][n_batch]: tokens, then positions
    logits: Buffer<f32>,    // [1 or n_batch][vocab_size]
    decode: Decode,
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
        let model = Model::open(gguf)?;
        let (mut plan, passes) = MemoryPlan::with_passes(gguf, &model, &options)?;
        let (free, _) = gpu.memory()?;
        plan.expect_room(gguf, &model, &options, gpu.backend(), free as u64)?;
        // The weights first: loading them takes a buffer that the rest then has the place of.
        let weights = DeviceWeights::upload(&gpu, &model, plan.n_context, options.matrices, progress)?;
        gpu.expect_cublas()?;
        let Passes { one, several, matmul } = passes;
        let cache = KvCache::new(&gpu, &model.figure, plan.n_context, options.cache_type)?;
        let several = several.map(|pass| Ready::new(&gpu, &model, &weights, pass)).transpose()?;
        let one = Ready::new(&gpu, &model, &weights, one)?;
        let layouts: Vec<&Layout> = [Some(&one), several.as_ref()].into_iter().flatten().map(|r| &r.layout).collect();
        let scratch = Scratch::new(&gpu, &layouts)?;
        let attention = {
            let TokenAttentionSizes { parts, arrivals } = TokenAttentionSizes::new(&model.figure, plan.n_context);
            let arrivals = gpu.alloc("attention", arrivals)?;
            gpu.fill(&arrivals, 0)?;
            TokenAttention { parts: gpu.alloc("attention", parts)?, arrivals }
        };
        let n_batch = plan.n_batch;
        Ok(Engine {
            cache,
            one,
            several,
            scratch,
            attention,
            matmul: Matmul::new(&gpu, matmul.tokens, matmul.columns, matmul.unpacked, options.activations)?,
            tokens: gpu.alloc("tokens", n_batch)?,
            positions: gpu.alloc("positions", n_batch)?,
            staged: gpu.alloc_pinned("tokens", 2 * n_batch)?,
            logits: gpu.alloc("logits", plan.logit_rows * model.config.vocab_size)?,
            decode: Decode::new(&gpu, model.config.vocab_size)?,
            weights,
            config: model.config,
            figure: model.figure,
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

    /// The model's operations.
    pub fn figure(&self) -> &Figure {
        &self.figure
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The weights.
    pub fn weights(&self) -> &DeviceWeights {
        &self.weights
    }

    /// The addresses of the allocations that a token streams through: those that hold matrices, and the keys' and the values'.
    pub fn streamed(&self) -> Vec<u64> {
        let mut addresses = self.cache.addresses().to_vec();
        addresses.extend(self.weights.stacks().iter().map(|weights| weights.data.address()));
        addresses
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

    /// Forgets the sequence. The cache's old content is never read: attention looks no further than its token's position, and the first
    /// token begins recurrent states anew.
    pub fn reset(&mut self) {
        self.n_past = 0;
    }

    /// The last token's logits, `[vocab_size]`.
    pub fn logits(&mut self) -> Result<Vec<f32>, EngineError> {
        self.logit_rows(1)
    }

    /// The first `rows` rows of logits that the last forward pass left, `[rows][vocab_size]`.
    pub fn logit_rows(&mut self, rows: usize) -> Result<Vec<f32>, EngineError> {
        let logits = self.gpu.read(&self.logits.slice(0..rows * self.config.vocab_size))?;
        self.staging = false;
        Ok(logits)
    }

    /// The last token's logits into memory of the caller's: its first `logits.len()` entries.
    pub fn logits_into(&mut self, logits: &mut [f32]) -> Result<(), EngineError> {
        self.gpu.read_into(&self.logits.slice(0..logits.len()), logits)?;
        self.staging = false;
        Ok(())
    }

    /// Fails where the tokens are none of the model's or more than the cache has room for; a sequence's first begin recurrent states anew.
    fn prepare(&self, tokens: &[u32]) -> Result<(), EngineError> {
        let (n_past, n_context) = (self.n_past, self.cache.n_context);
        if n_past + tokens.len() > n_context {
            return Err(EngineError::ContextFull { n_past, n_new: tokens.len(), n_context });
        }
        match tokens.iter().find(|token| **token as usize >= self.config.vocab_size) {
            Some(token) => Err(EngineError::Token { found: *token, vocab_size: self.config.vocab_size }),
            None if n_past == 0 => Ok(self.cache.reset(&self.gpu)?),
            None => Ok(()),
        }
    }

    /// Copies tokens and their positions to the device.
    fn stage(&mut self, tokens: &[u32]) -> Result<(), GpuError> {
        if self.staging {
            self.gpu.synchronise()?;
        }
        let n = tokens.len();
        self.staged[..n].copy_from_slice(tokens);
        for (index, position) in self.staged[n..2 * n].iter_mut().enumerate() {
            *position = (self.n_past + index) as u32;
        }
        self.staging = true;
        // SAFETY: the pinned memory lives as long as the engine, and is not written before the next synchronisation.
        unsafe {
            self.gpu.enqueue_write(&self.tokens, &self.staged[..n])?;
            self.gpu.enqueue_write(&self.positions, &self.staged[n..2 * n])
        }
    }

    /// One pass of up to `n_batch` tokens through the model, which become part of the sequence. The launches are those that generation
    /// makes, recorded or not.
    pub fn forward(&mut self, tokens: &[u32], logits: Logits, trace: &mut Recorder) -> Result<(), EngineError> {
        if let ([token], false) = (tokens, trace.is_on()) {
            return self.decode(*token);
        }
        let n = tokens.len();
        self.prepare(tokens)?;
        assert!(0 < n && n <= self.plan.n_batch, "a forward pass over {n} tokens, of at most {}", self.plan.n_batch);
        self.stage(tokens)?;
        let wanted = match logits {
            Logits::None => n..n,
            Logits::Last => n - 1..n,
            Logits::All => 0..n,
        };
        assert!(wanted.len() <= self.plan.logit_rows, "logits of {n} tokens, room for {}", self.plan.logit_rows);
        let ready = if n == 1 { &self.one } else { self.several.as_ref().expect("a pass for several tokens") };
        self.run(ready, n, wanted).launch(trace)?;
        self.n_past += n;
        self.decode.forget_choice();
        Ok(())
    }

    /// Runs `ids` through the engine, `step` at a time, and collects every value that the launches leave; `logits` besides, which no other
    /// operation's name can be.
    ///
    /// # Errors
    /// Those of [`Engine::forward`].
    pub fn trace(&mut self, ids: &[u32], step: usize) -> Result<Trace, EngineError> {
        let mut trace = Trace::new();
        for chunk in ids.chunks(step) {
            let mut sink = |name: &str, shape: &[usize], data: &[f32]| {
                trace.append(name, shape, data);
                if name == "result_output" {
                    trace.append("logits", shape, data);
                }
            };
            self.forward(chunk, Logits::All, &mut Recorder::new(&mut sink))?;
        }
        Ok(trace)
    }

    /// Changes launches, of the pass for one token and of that for several: for tests, which plant faults there and see them found.
    pub fn edit_launches(&mut self, mut edit: impl FnMut(&mut Launch)) {
        for ready in [Some(&mut self.one), self.several.as_mut()].into_iter().flatten() {
            ready.pass.steps.iter_mut().for_each(|step| edit(&mut step.launch));
        }
        self.decode.forget_graphs();
    }

    /// Changes the figure, of which launches take shapes: for tests, as [`Engine::edit_launches`].
    pub fn edit_figure(&mut self, edit: impl FnOnce(&mut Figure)) {
        edit(&mut self.figure);
        self.decode.forget_graphs();
    }

    /// A pass over the staged tokens.
    fn run<'a>(&'a self, ready: &'a Ready, n_tokens: usize, wanted: Range<usize>) -> Run<'a> {
        Run {
            gpu: &self.gpu,
            figure: &self.figure,
            weights: &self.weights,
            cache: &self.cache,
            pass: &ready.pass,
            layout: &ready.layout,
            scratch: &self.scratch,
            scales: &ready.scales,
            rooms: ready.rooms.as_ref(),
            matmul: &self.matmul,
            attention: &self.attention,
            logits: &self.logits,
            tokens: &self.tokens,
            positions: &self.positions,
            n_past: self.n_past,
            n_tokens,
            wanted,
        }
    }
}
