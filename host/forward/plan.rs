//! How much device memory a model takes, known before anything is allocated.
//!
//! [`MemoryPlan::new`] adds up every allocation that loading makes: the weights as they lie in the file, the KV cache, and
//! the scratch that a forward pass works in. [`MemoryPlan::expect_room`] compares the sum with what is free, and where it
//! is too much looks for a shorter context or a smaller cache type that would do. `tests/memory.rs` holds the plan to what
//! the device really gave away, byte by byte.

use std::{collections::BTreeMap, fmt};

use driver::Backend;
use serde::Serialize;

use super::{
    EngineError, EngineOptions,
    cache::{CacheSize, KvCache},
    chunks, decode,
    experts::ExpertSizes,
    lower::{self, Launch, Pass},
    memory::{Layout, MostRows, Scratch, Uses, scratches},
    unpack::Rooms,
    weights,
};
use crate::{
    gguf::Gguf,
    gpu::kernels::{AttentionScratch, CacheType, GemmScratch, KeySplits, PAGE, Staging},
    model::{
        Figure, Model,
        figure::{Op, Stack},
    },
};

/// The context that is taken when none is asked for and the model's is longer: a cache for a model's full context can be
/// larger than the model.
pub const DEFAULT_CONTEXT: usize = 4096;

/// What the NVIDIA driver and cuBLAS take for themselves while a model runs, its workspace (32 MiB on a Hopper) above all.
const CUDA_RESERVE: u64 = 64 << 20;
/// The NVIDIA driver maps large allocations in pages of this size, and rounds those from half of it up.
const CUDA_PAGE: u64 = 2 << 20;
/// It cuts smaller allocations from such a page in units of this size.
const CUDA_UNIT: u64 = 512;

/// Contexts in an advice are a multiple of this, where they are longer.
const ADVISED_STEP: usize = 64;

/// What a model takes of the device's memory, in bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemoryPlan {
    /// Positions that a sequence has room for.
    pub n_context: usize,
    /// Sequences at a time, and positions of them together.
    #[serde(skip)]
    pub(super) cache_size: CacheSize,
    /// Rows of a decoding step.
    #[serde(skip)]
    pub(super) n_rows: usize,
    /// Columns of the widest matrix that several tokens are multiplied with in decoding.
    #[serde(skip)]
    pub(super) columns: usize,
    /// The type of the KV cache.
    #[serde(serialize_with = "as_text")]
    pub cache_type: CacheType,
    /// The most tokens that go through the layers together.
    pub n_batch: usize,
    /// Rows of logits there is room for.
    #[serde(skip)]
    pub(super) logit_rows: usize,
    /// The weights, as they lie in the file, and RoPE's frequencies.
    pub weights: u64,
    /// Keys and values, and what recurrent layers carry on.
    pub cache: u64,
    /// What a forward pass works in, by what it is for.
    pub scratch: BTreeMap<&'static str, u64>,
    /// All of it.
    pub total: u64,
    /// What was free when the plan was compared with a device, or the limit where that is less.
    pub free: Option<u64>,
    /// The allocations one by one.
    #[serde(skip)]
    uses: Uses,
}

/// The passes of an engine, and the buffers of each.
pub(super) struct Passes {
    /// For one token.
    pub one: (Pass, Layout),
    /// For several.
    pub several: Option<(Pass, Layout)>,
    /// For a token of each of many sequences.
    pub rows: Option<(Pass, Layout)>,
    /// What products of several tokens with weights of any type work in.
    pub matmul: MatmulSizes,
    /// Elements of [`GemmScratch`].
    pub gemm: [usize; 2],
    /// Elements of [`ExpertScratch`](super::experts::ExpertScratch).
    pub experts: ExpertSizes,
}

/// Sizes of [`Matmul`](crate::gpu::Matmul)'s buffers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MatmulSizes {
    /// Tokens together.
    pub tokens: usize,
    /// Columns of the widest matrix.
    pub columns: usize,
    /// Elements of the largest quantised matrix.
    pub unpacked: usize,
}

impl MatmulSizes {
    fn new(model: &Model, pass: &Pass, rows: MostRows) -> MatmulSizes {
        let mut sizes = MatmulSizes::default();
        for (index, step) in pass.steps.iter().enumerate() {
            let Launch::Matmul { weight, .. } = &step.launch else { continue };
            let tokens = if index >= pass.head { rows.logits } else { rows.tokens };
            // One token has a product of its own.
            if tokens > 1 {
                let stack = model.figure.stack(weight.stack);
                sizes.tokens = sizes.tokens.max(tokens);
                sizes.columns = sizes.columns.max(stack.n_in);
                if model.is_quantised(stack) {
                    sizes.unpacked = sizes.unpacked.max(weight.rows.len() * stack.n_in);
                }
            }
        }
        sizes
    }

    /// What is enough for both.
    fn max(self, other: MatmulSizes) -> MatmulSizes {
        MatmulSizes {
            tokens: self.tokens.max(other.tokens),
            columns: self.columns.max(other.columns),
            unpacked: self.unpacked.max(other.unpacked),
        }
    }

    fn uses(&self, uses: &mut Uses) {
        // Two for bf16, whose inputs go in as a sum.
        uses.add("matmul inputs", size_of::<u16>() * 2 * self.tokens * self.columns);
        uses.add("matmul inputs", size_of::<f32>() * self.tokens);
        uses.add("unpacked weights", size_of::<u16>() * self.unpacked);
    }
}

/// More multiprocessors than any device has: what is allocated does not depend on the device.
const MULTIPROCESSORS: usize = 1024;

/// Elements of attention's scratch for any number of keys, of the layer that needs most.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenAttentionSizes {
    pub parts: usize,
    pub arrivals: usize,
}

impl TokenAttentionSizes {
    /// For steps of `n_rows` tokens at most.
    pub fn new(figure: &Figure, n_context: usize, n_rows: usize) -> TokenAttentionSizes {
        // One at least: a router's blocks are counted there too.
        let mut sizes = TokenAttentionSizes { parts: 0, arrivals: 1 };
        for node in &figure.nodes {
            let Op::Attention { q, cache, .. } = &node.op else { continue };
            let (n_heads, shape) = (figure.value(*q).shape[0], figure.caches[cache.0]);
            if shape.value_dim.is_some() {
                continue;
            }
            let widest = KeySplits::new(n_context, n_heads, shape.n_kv_heads, MULTIPROCESSORS);
            let (n_kv_heads, head_dim) = (shape.n_kv_heads, shape.head_dim);
            let scratch = AttentionScratch::new(n_rows, n_heads, n_kv_heads, head_dim, widest.n_splits);
            sizes.parts = sizes.parts.max(scratch.parts);
            sizes.arrivals = sizes.arrivals.max(scratch.arrivals);
        }
        sizes
    }
}

impl EngineOptions {
    /// The same with positions for all sequences together, where they are not given: as many as all could have, or what fits, but
    /// no fewer than one sequence has.
    ///
    /// # Errors
    /// As [`MemoryPlan::new`].
    pub(super) fn within(
        self,
        gguf: &Gguf,
        model: &Model,
        backend: Backend,
        free: u64,
    ) -> Result<EngineOptions, EngineError> {
        if self.n_positions.is_some() || self.n_sequences <= 1 {
            return Ok(self);
        }
        let with = |n_positions: usize| EngineOptions { n_positions: Some(n_positions), ..self };
        let n_context = MemoryPlan::new(gguf, model, &with(1))?.n_context;
        let free = self.memory_limit.map_or(free, |limit| limit.min(free));
        let least = MemoryPlan::new(gguf, model, &with(n_context))?;
        let page = MemoryPlan::new(gguf, model, &with(n_context + PAGE))?.cache.saturating_sub(least.cache).max(1);
        // Some room is left to whoever else uses the device.
        let left = (free.saturating_sub(least.needed(backend)) as f64 * 0.9) as u64;
        let n_positions = n_context + (left / page) as usize * PAGE;
        Ok(with(n_positions.min(self.n_sequences * n_context.next_multiple_of(PAGE))))
    }
}

impl MemoryPlan {
    /// Plans a model's memory.
    ///
    /// # Errors
    /// The context asked for is not one that the model has, or there are no kernels for its heads with that cache.
    pub fn new(gguf: &Gguf, model: &Model, options: &EngineOptions) -> Result<MemoryPlan, EngineError> {
        Ok(MemoryPlan::with_passes(gguf, model, options)?.0)
    }

    /// The same, with the passes that it is for.
    pub(super) fn with_passes(
        gguf: &Gguf,
        model: &Model,
        options: &EngineOptions,
    ) -> Result<(MemoryPlan, Passes), EngineError> {
        let (config, figure, cache_type) = (&model.config, &model.figure, options.cache_type);
        for cache in &figure.caches {
            let fits = match cache.value_dim {
                Some(value_dim) => cache_type.check_latent(cache.head_dim, value_dim),
                None => cache_type.check_head_dim(cache.head_dim),
            };
            if let Err(expected) = fits {
                return Err(EngineError::HeadDim { file: gguf.name().to_owned(), expected });
            }
        }
        let n_context = match options.n_context {
            None => config.context_length.min(DEFAULT_CONTEXT),
            Some(0) => config.context_length,
            Some(n_context) => n_context,
        };
        if n_context > config.context_length {
            return Err(EngineError::Context {
                file: gguf.name().to_owned(),
                asked: n_context,
                available: config.context_length,
            });
        }
        let n_sequences = options.n_sequences.max(1);
        let n_rows = n_sequences + options.n_drafted;
        // Prompts that go together may have more tokens than one has room for.
        let n_together = if options.batch_invariant || !figure.states.is_empty() { 1 } else { n_sequences };
        let n_batch = options.n_batch.clamp(1, n_together * n_context);
        let logit_rows = n_rows.max(if options.all_logits { n_batch } else { 1 });
        let n_positions = options.n_positions.unwrap_or(n_sequences * n_context.next_multiple_of(PAGE)).max(1);
        let n_grown = n_batch.max(1 + options.n_drafted).min(n_context);
        let cache_size = CacheSize { n_sequences, n_context, n_positions, n_batch: n_grown };

        let lowering = lower::Options { activations: options.activations, cache_type };
        let rows = MostRows { tokens: n_batch, logits: logit_rows };
        let of_one = MostRows { tokens: n_rows, logits: n_rows };
        let one = if options.exact { Pass::exact(model, lowering) } else { Pass::token(model, lowering) };
        if options.n_drafted > 0 {
            let drafts = |reason| EngineError::Drafts { file: gguf.name().to_owned(), reason };
            if !figure.states.is_empty() {
                return Err(drafts(
                    "the states of its recurrent layers cannot go back to before a token that was wrong",
                ));
            }
            if !one.takes_rows {
                return Err(drafts(
                    "its layers take one token at a time, so several take as long as one after another",
                ));
            }
        }
        let several = (n_batch > 1).then(|| {
            let many = if options.exact { None } else { Pass::many(model, lowering) };
            many.unwrap_or_else(|| Pass::exact(model, lowering))
        });
        // Its products are those of the pass for several tokens, whose rooms it has.
        let rows_pass = (n_sequences > 1 && several.is_some() && !options.exact && !options.batch_invariant)
            .then(|| Pass::rows(model, lowering))
            .flatten();
        let of_several = several.as_ref().map(|pass| MatmulSizes::new(model, pass, rows)).unwrap_or_default();
        let of_rows = rows_pass.as_ref().map(|pass| MatmulSizes::new(model, pass, of_one)).unwrap_or_default();
        let matmul = of_several.max(of_rows);
        let of_experts = |pass: &Pass, rows| ExpertSizes::new(model, pass, rows);
        let experts = match &several {
            Some(pass) if !options.exact => of_experts(pass, rows),
            _ => ExpertSizes::default(),
        };
        let experts = experts.max(rows_pass.as_ref().map(|pass| of_experts(pass, of_one)).unwrap_or_default());
        let with_layout = |pass: Pass, rows| {
            let layout = Layout::new(&pass, rows);
            (pass, layout)
        };
        let in_f16 = rows_pass.is_some();
        let parts = |stack: &Stack| model.types(stack).into_iter().map(|(_, n_out)| n_out).collect();
        let matrices = figure.stacks.iter().filter(|_| in_f16).map(|stack| (parts(stack), stack.n_in));
        let gemm = GemmScratch::elements(matrices, n_rows);
        let passes = Passes {
            one: with_layout(one, of_one),
            several: several.map(|pass| with_layout(pass, rows)),
            rows: rows_pass.map(|pass| with_layout(pass, of_one)),
            matmul,
            gemm,
            experts,
        };

        let mut uses = Uses::default();
        weights::uses(model, &mut uses);
        KvCache::uses(figure, cache_size, cache_type, &mut uses);
        for (pass, _) in passes.several.iter().chain([&passes.one]) {
            Rooms::uses(model, pass, &mut uses);
        }
        let layouts = [Some(&passes.one), passes.several.as_ref(), passes.rows.as_ref()];
        let layouts = layouts.map(|pass| pass.map(|(_, layout)| layout));
        for layouts in scratches(layouts, n_sequences) {
            Scratch::sizes(&layouts).into_iter().for_each(|bytes| uses.add("activations", bytes));
        }
        let attention = TokenAttentionSizes::new(figure, n_context, n_rows);
        uses.add("attention", attention.arrivals * size_of::<u32>());
        uses.add("attention", attention.parts * size_of::<f32>());
        matmul.uses(&mut uses);
        for elements in gemm {
            uses.add("matmul", elements * size_of::<u32>());
        }
        experts.uses(&mut uses);
        let columns = figure.stacks.iter().map(|stack| stack.n_in).max().unwrap_or(0);
        for elements in Staging::elements(n_rows, columns) {
            uses.add("activations", elements * size_of::<u32>());
        }
        uses.add("tokens", chunks::staged_len(n_batch, n_rows) * size_of::<u32>());
        uses.add("logits", logit_rows * config.vocab_size * size_of::<f32>());
        decode::uses(n_rows, config.vocab_size, &mut uses);

        const CACHE: [&str; 3] = ["KV cache", "page tables", "recurrent state"];
        let (weights, cache) = (uses.of("weights"), CACHE.iter().map(|name| uses.of(name)).sum());
        let is_scratch = |name: &str| name != "weights" && !CACHE.contains(&name);
        let plan = MemoryPlan {
            n_context,
            cache_size,
            n_rows,
            columns,
            cache_type,
            n_batch,
            logit_rows,
            weights,
            cache,
            scratch: uses.table().into_iter().filter(|(name, _)| is_scratch(name)).collect(),
            total: uses.total(),
            free: None,
            uses,
        };
        Ok((plan, passes))
    }

    /// Bytes that a forward pass works in.
    pub fn scratch_bytes(&self) -> u64 {
        self.scratch.values().sum()
    }

    /// What has to be free on a device: softcuda gives exactly what is asked for, the NVIDIA driver rounds up.
    fn needed(&self, backend: Backend) -> u64 {
        if backend == Backend::Soft {
            return self.total;
        }
        let rounded = |bytes: &u64| match *bytes {
            small if small < CUDA_PAGE / 2 => small.next_multiple_of(CUDA_UNIT),
            large => large.next_multiple_of(CUDA_PAGE),
        };
        self.uses.allocations().map(|bytes| rounded(&bytes)).sum::<u64>() + CUDA_RESERVE
    }

    /// Compares the plan with what is free on a device, within the limit of the options.
    ///
    /// # Errors
    /// It is too much. The message says by how much, and what would fit.
    pub fn expect_room(
        &mut self,
        gguf: &Gguf,
        model: &Model,
        options: &EngineOptions,
        backend: Backend,
        free: u64,
    ) -> Result<(), EngineError> {
        let free = options.memory_limit.map_or(free, |limit| limit.min(free));
        self.free = Some(free);
        let needed = self.needed(backend);
        if needed <= free {
            return Ok(());
        }
        let fits = |n_context: usize, cache_type: CacheType| {
            let options = EngineOptions { n_context: Some(n_context), cache_type, ..*options };
            MemoryPlan::new(gguf, model, &options).is_ok_and(|plan| plan.needed(backend) <= free)
        };
        Err(EngineError::Memory {
            file: gguf.name().to_owned(),
            free: Size(free),
            needed: Size(needed),
            missing: Size(needed - free),
            uses: format!(
                "weights {}, KV cache {}, scratch {}",
                Size(self.weights),
                Size(self.cache),
                Size(self.scratch_bytes())
            ),
            advice: self.advice(fits),
        })
    }

    /// What a person can do, by what `fits`: a context for the cache type asked for, and a smaller type.
    fn advice(&self, fits: impl Fn(usize, CacheType) -> bool) -> String {
        let mut ways = Vec::new();
        if let Some(n_context) = longest(self.n_context, |n| fits(n, self.cache_type)) {
            ways.push(format!("-c {n_context}"));
        }
        // From larger to smaller; F16 before BF16, which is as large.
        let size = |cache_type: CacheType| cache_type.bytes(1, 32);
        let smaller: Vec<CacheType> =
            CacheType::ALL.into_iter().filter(|cache_type| size(*cache_type) < size(self.cache_type)).collect();
        let first_fitting = smaller.iter().find(|smaller| fits(self.n_context, **smaller));
        let smaller = first_fitting.or(smaller.last()).copied();
        if let Some(smaller) = smaller {
            if fits(self.n_context, smaller) {
                ways.push(format!("--cache-type {smaller}"));
            } else if let Some(n_context) = longest(self.n_context, |n| fits(n, smaller)) {
                ways.push(format!("-c {n_context} --cache-type {smaller}"));
            }
        }
        if ways.is_empty() {
            return "no -c or --cache-type would fit, choose a smaller model or a device with more memory".into();
        }
        format!("use {}", ways.join(", or "))
    }
}

/// The longest context below `end` that fits, where there is one; a shorter one never takes more.
fn longest(end: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
    let (mut low, mut high) = (0, end);
    while low + 1 < high {
        let middle = low.midpoint(high);
        if fits(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    let rounded = if low > ADVISED_STEP { low - low % ADVISED_STEP } else { low };
    (rounded > 0).then_some(rounded)
}

fn as_text<S: serde::Serializer>(cache_type: &CacheType, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(cache_type)
}

/// Bytes, shown in the unit that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        let text = match units.iter().find(|(shift, _)| self.0 >> shift > 0) {
            Some((shift, unit)) => format!("{:.2} {unit}", self.0 as f64 / (1u64 << shift) as f64),
            None => format!("{} bytes", self.0),
        };
        f.pad(&text)
    }
}

/// A table of a line for each use.
impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let note = |name: &str| match name {
            "KV cache" => format!("{} positions, {}", self.cache_size.n_positions, self.cache_type),
            "activations" => format!("{} tokens together", self.n_batch),
            _ => String::new(),
        };
        let total = [("in all", self.total)];
        for (name, bytes) in self.uses.table().into_iter().chain(total).filter(|(_, bytes)| *bytes > 0) {
            let line = format!("  {name:<16}  {:>12}  {}", Size(bytes), note(name));
            writeln!(f, "{}", line.trim_end())?;
        }
        match self.free {
            Some(free) => writeln!(f, "  {:<16}  {:>12}", "free", Size(free)),
            None => Ok(()),
        }
    }
}
