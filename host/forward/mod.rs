//! The forward pass on the device.
//!
//! [`Engine::forward`] takes the next tokens of the sequence, one in decoding or a chunk of a prompt, and leaves logits on the device. What is
//! launched in which order comes from the model's figure ([`crate::model::figure`]) by way of a pass (`lower`): one for a token, one for
//! many, and the exact one, an operation at a time. Everything is allocated when the engine is made: a step only copies tokens in and
//! launches.
//!
//! Activations are `f32` throughout, the residual stream above all: some models' residuals pass the range of f16. Weights and cache keep
//! their own types.

mod ahead;
mod cache;
mod chunks;
mod decode;
mod embed;
mod error;
mod experts;
pub mod explain;
mod lower;
mod memory;
mod plan;
mod range;
mod run;
mod share;
mod state;
mod unpack;
mod weights;

use std::{cell::Cell, ops::Range};

use driver::Backend;

use crate::{
    cache::SequenceId,
    gguf::Gguf,
    gpu::{
        Activations, Buffer, Gpu, GpuError, Matmul, Pinned, SubSlice,
        kernels::{CacheType, GemmScratch, Staging},
    },
    model::{
        Config, Figure, Model,
        figure::{Node, Op},
    },
    trace::{Recorder, Trace},
};

use cache::KvCache;
pub use chunks::Chunk;
use chunks::{Placed, staged_len};
use decode::Decode;
pub use decode::Then;
pub use error::EngineError;
use experts::ExpertScratch;
pub use lower::Launch;
use lower::Pass;
use memory::{Layout, Scratch};
pub use plan::{DEFAULT_CONTEXT, MemoryPlan, Size};
use plan::{Passes, TokenAttentionSizes};
use range::Ranges;
use run::{Run, TokenAttention};
pub use share::Share;
pub use state::StepBytes;
use unpack::Rooms;
pub use weights::{DeviceWeights, MatrixSource, turns};

/// How an engine is set up.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Positions that a sequence has room for; 0 for the model's own context length; that, or 4096 where that is less, if not given.
    pub n_context: Option<usize>,
    /// Sequences at a time, each of which has a row of a decoding step.
    pub n_sequences: usize,
    /// Rows of a decoding step besides: for tokens that follow a sequence's next one, as far as they were drafted.
    pub n_drafted: usize,
    /// Positions of all sequences together; as many as all could have, where there is memory for them, if not given.
    pub n_positions: Option<usize>,
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
    /// Whether a sequence's logits may not depend, in their last bits, on the others: products of many rows stay those of one, which sum in
    /// one order, and are not left to tensor cores; and a prompt shares only whole chunks, so that it is cut as it is alone,
    /// and goes through the model without others.
    pub batch_invariant: bool,
    /// Whether a step that goes on with the last one's choices is begun before these are read ([`Then`]); if not given, on a GPU, which works by itself, and never
    /// where a model carries on a state.
    pub steps_ahead: Option<bool>,
    /// Bytes of device memory to take at most, where that is less than what is free.
    pub memory_limit: Option<u64>,
    /// Where matrices come from.
    pub matrices: MatrixSource,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            n_context: None,
            n_sequences: 1,
            n_drafted: 0,
            n_positions: None,
            cache_type: CacheType::F16,
            activations: Activations::default(),
            n_batch: 2048,
            all_logits: false,
            exact: false,
            batch_invariant: false,
            steps_ahead: None,
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
    /// Measures the weights, where the pass rounds to f16, or the one `of_rows` that shares its rooms does.
    fn new(
        gpu: &Gpu,
        (file, model): (&str, &Model),
        weights: &DeviceWeights,
        (pass, layout): (Pass, Layout),
        of_rows: bool,
    ) -> Result<Ready, EngineError> {
        if !pass.steps.iter().any(|step| matches!(step.launch, Launch::Product { .. })) {
            return Ok(Ready { pass, layout, scales: Vec::new(), rooms: None });
        }
        let rooms = Rooms::new(gpu, model, &pass)?;
        let ranges = Ranges::new(gpu, &model.figure, weights, &rooms)?;
        for (index, step) in pass.steps.iter().enumerate() {
            let stack = match &step.launch {
                Launch::Product { stack, .. } => *stack,
                Launch::Gemv { experts: Some(_), weight, .. } => weight.stack,
                Launch::Matmul { weight, .. } if index >= pass.head && of_rows => weight.stack,
                _ => continue,
            };
            let multiplies = |node: &&Node| match &node.op {
                Op::Product { weight, .. } | Op::ExpertProduct { weight, .. } => weight.stack == stack,
                _ => false,
            };
            let layer = model.figure.nodes.iter().find(multiplies).and_then(|node| node.layer);
            let place = layer.map_or(format!("{file}: the head"), |layer| format!("{file}: layer {layer}"));
            ranges.expect_f16(weights.stack(stack), &place)?;
        }
        let scales = pass.scales.iter().map(|bound| ranges.scale(bound)).collect::<Result<_, _>>()?;
        drop(ranges);
        Ok(Ready { pass, layout, scales, rooms: Some(rooms) })
    }
}

/// The sequence that is there from the beginning, and that methods which name none mean.
pub const FIRST: SequenceId = SequenceId(0);

/// A model on the device with the sequences in its cache.
pub struct Engine {
    config: Config,
    figure: Figure,
    plan: MemoryPlan,
    weights: DeviceWeights,
    cache: KvCache,
    one: Ready,
    several: Option<Ready>,
    /// For many sequences' tokens; its rooms and scales are those of `several`.
    rows: Option<(Pass, Layout)>,
    scratch: Scratch,
    /// What the pass for several tokens works in, where steps of others may come between its parts.
    prompt_scratch: Option<Scratch>,
    /// The pass for several tokens that is not over, and whose they are.
    part: Option<(Vec<SequenceId>, Share)>,
    attention: TokenAttention,
    matmul: Matmul,
    gemm: GemmScratch,
    experts: ExpertScratch,
    staging: Staging,
    input: Buffer<u32>,  // of a pass for several tokens: see `Engine::stage`
    staged: Pinned<u32>, // the same, on the host
    logits: Buffer<f32>, // [logit_rows][vocab_size]
    decode: Decode,
    /// Whether a copy from pinned memory may still be under way.
    is_staging: bool,
    /// From how many sequences on a step goes through tensor cores, and up to how many rows as a graph.
    least_rows: usize,
    most_captured: usize,
    /// From how many rows on its products with experts are made together.
    least_together: usize,
    /// [`EngineOptions::steps_ahead`], where the model allows it.
    steps_ahead: bool,
    /// [`EngineOptions::batch_invariant`].
    batch_invariant: bool,
    /// [`EngineOptions::exact`].
    exact: bool,
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
        let (free, _) = gpu.memory()?;
        let options = options.within(gguf, &model, gpu.backend(), free as u64)?;
        let (mut plan, passes) = MemoryPlan::with_passes(gguf, &model, &options)?;
        plan.expect_room(gguf, &model, &options, gpu.backend(), free as u64)?;
        // The weights first: loading them takes a buffer that the rest then has the place of.
        let weights = DeviceWeights::upload(&gpu, &model, plan.n_context, options.matrices, progress)?;
        gpu.multiplies_with()?;
        let Passes { one, several, rows, matmul, gemm, experts } = passes;
        let mut cache = KvCache::new(&gpu, &model.figure, plan.cache_size, options.cache_type)?;
        assert_eq!(cache.pages.open(), Some(FIRST), "the first of the slots");
        let named = (gguf.name(), &model);
        let several = several.map(|pass| Ready::new(&gpu, named, &weights, pass, rows.is_some())).transpose()?;
        let one = Ready::new(&gpu, named, &weights, one, false)?;
        let layouts =
            [Some(&one.layout), several.as_ref().map(|ready| &ready.layout), rows.as_ref().map(|(_, layout)| layout)];
        let scratches = memory::scratches(layouts, plan.cache_size.n_sequences);
        let mut scratches =
            scratches.map(|layouts| Scratch::new(&gpu, &layouts)).collect::<Result<Vec<_>, _>>()?.into_iter();
        let scratch = scratches.next().expect("one of the pass for one token");
        let prompt_scratch = scratches.next();
        let attention = {
            let TokenAttentionSizes { parts, arrivals } =
                TokenAttentionSizes::new(&model.figure, plan.cache_size.n_context, plan.n_rows);
            let arrivals = gpu.alloc("attention", arrivals)?;
            gpu.fill(&arrivals, 0)?;
            TokenAttention { parts: gpu.alloc("attention", parts)?, arrivals }
        };
        let n_batch = plan.n_batch;
        let mut engine = Engine {
            least_rows: 0,
            most_captured: 0,
            least_together: 0,
            // A state does not go back.
            steps_ahead: options.steps_ahead.unwrap_or(gpu.backend() == Backend::Cuda)
                && model.figure.states.is_empty(),
            cache,
            one,
            several,
            rows,
            scratch,
            prompt_scratch,
            part: None,
            attention,
            matmul: Matmul::new(&gpu, matmul.tokens, matmul.columns, matmul.unpacked, options.activations)?,
            gemm: GemmScratch::new(&gpu, gemm)?,
            experts: ExpertScratch::new(&gpu, experts)?,
            staging: Staging::new(&gpu, plan.n_rows, plan.columns)?,
            input: gpu.alloc("tokens", staged_len(n_batch, plan.n_rows))?,
            staged: gpu.alloc_pinned("tokens", staged_len(n_batch, plan.n_rows))?,
            logits: gpu.alloc("logits", plan.logit_rows * model.config.vocab_size)?,
            decode: Decode::new(&gpu, plan.n_rows, model.config.vocab_size)?,
            weights,
            config: model.config,
            figure: model.figure,
            plan,
            is_staging: false,
            batch_invariant: options.batch_invariant,
            exact: options.exact,
            gpu,
        };
        (engine.least_rows, engine.most_captured) = (engine.find_least_rows(), engine.find_most_captured());
        engine.least_together = engine.find_least_together();
        Ok(engine)
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

    /// Positions that a sequence has room for.
    pub fn n_context(&self) -> usize {
        self.cache.n_context
    }

    /// The most tokens of one forward pass.
    pub fn n_batch(&self) -> usize {
        self.plan.n_batch
    }

    /// Tokens seen so far.
    pub fn n_past(&self) -> usize {
        self.cache.pages.n_tokens(FIRST)
    }

    /// Forgets the sequence. The cache's old content is never read: attention looks no further than its token's position, and the first
    /// token begins recurrent states anew.
    pub fn reset(&mut self) {
        self.part.take_if(|(of, _)| of.contains(&FIRST));
        self.decode.behind.forget();
        self.cache.pages.truncate(FIRST, 0);
    }

    /// The last token's logits, `[vocab_size]`.
    pub fn logits(&mut self) -> Result<Vec<f32>, EngineError> {
        self.logit_rows(1)
    }

    /// The first `rows` rows of logits that the last forward pass left, `[rows][vocab_size]`.
    pub fn logit_rows(&mut self, rows: usize) -> Result<Vec<f32>, EngineError> {
        let vocab_size = self.config.vocab_size;
        let mut logits = vec![0.0; rows * vocab_size];
        self.come_back()?;
        if self.decode.behind.are_in_place() {
            self.gpu.read_into(&self.logits.slice(0..logits.len()), &mut logits)?;
            self.landed();
            return Ok(logits);
        }
        logits.chunks_exact_mut(vocab_size).enumerate().try_for_each(|(row, logits)| self.row_into(row, logits))?;
        Ok(logits)
    }

    /// The last token's logits into memory of the caller's: its first `logits.len()` entries.
    pub fn logits_into(&mut self, logits: &mut [f32]) -> Result<(), EngineError> {
        self.row_into(0, logits)
    }

    /// The same of any row that the last step left.
    pub fn row_into(&mut self, row: usize, logits: &mut [f32]) -> Result<(), EngineError> {
        self.come_back()?;
        let start = self.decode.behind.place(row) * self.config.vocab_size;
        self.gpu.read_into(&self.logits.slice(start..start + logits.len()), logits)?;
        self.landed();
        Ok(())
    }

    /// The stream has run all copies from pinned memory.
    fn landed(&mut self) {
        self.is_staging = false;
        self.cache.landed();
    }

    /// Fails where the tokens are none of the model's or more than the cache has room for; takes pages for them.
    fn prepare(&mut self, id: SequenceId, tokens: &[u32]) -> Result<(), EngineError> {
        let (n_past, n_context) = (self.cache.pages.n_tokens(id), self.cache.n_context);
        if n_past + tokens.len() > n_context {
            return Err(EngineError::ContextFull { n_past, n_new: tokens.len(), n_context });
        }
        match tokens.iter().find(|token| **token as usize >= self.config.vocab_size) {
            Some(token) => Err(EngineError::Token { found: *token, vocab_size: self.config.vocab_size }),
            None => self.cache.reserve(&self.gpu, id, tokens.len()),
        }
    }

    /// One pass of up to `n_batch` tokens through the model, which become part of the sequence. The launches are those that generation
    /// makes, recorded or not.
    pub fn forward(&mut self, tokens: &[u32], logits: Logits, trace: &mut Recorder) -> Result<(), EngineError> {
        self.forward_of(FIRST, tokens, logits, trace)
    }

    /// [`Engine::forward`] of any sequence.
    pub fn forward_of(
        &mut self,
        id: SequenceId,
        tokens: &[u32],
        logits: Logits,
        trace: &mut Recorder,
    ) -> Result<(), EngineError> {
        if let ([token], false) = (tokens, trace.is_on()) {
            return self.decode_rows(&[(id, *token)]);
        }
        let n = tokens.len();
        let wanted = match logits {
            Logits::None => n..n,
            Logits::Last => n.saturating_sub(1)..n,
            Logits::All => 0..n,
        };
        assert!(wanted.len() <= self.plan.logit_rows, "logits of {n} tokens, room for {}", self.plan.logit_rows);
        self.pass_part(&[Chunk { id, tokens, wanted }], false, Share::WHOLE, trace)?;
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

    /// A pass over tokens that are on the device: the tokens, their positions and the numbers of their sequences; where the model has
    /// states they are all of sequence `id`. `n_past` is the most tokens before any of them.
    fn run<'a>(
        &'a self,
        ready: &'a Ready,
        [tokens, positions, slots]: &'a [SubSlice<'a, u32>; 3],
        id: SequenceId,
        n_past: usize,
        wanted: Range<usize>,
    ) -> Run<'a> {
        Run {
            gpu: &self.gpu,
            figure: &self.figure,
            weights: &self.weights,
            cache: &self.cache,
            pass: &ready.pass,
            layout: &ready.layout,
            scratch: match &self.prompt_scratch {
                Some(scratch) if !std::ptr::eq(ready, &self.one) => scratch,
                _ => &self.scratch,
            },
            scales: &ready.scales,
            rooms: ready.rooms.as_ref(),
            matmul: &self.matmul,
            gemm: &self.gemm,
            // A token's pass says the same of it in any company, and the exact one rounds nothing.
            experts: (!self.exact && !std::ptr::eq(ready, &self.one)).then_some(&self.experts),
            sorted: Cell::new(None),
            staging: &self.staging,
            attention: &self.attention,
            logits: &self.logits,
            n_tokens: tokens.len(),
            tokens,
            positions,
            slots,
            id,
            n_past,
            shares_sequences: false,
            wanted,
            gathered: &[],
            chunks: None,
            decodes: false,
            ends_in_states: false,
        }
    }
}
