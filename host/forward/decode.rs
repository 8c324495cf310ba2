//! A token at a time of each of some sequences, or several that were drafted: the pass for one token, captured as a graph and replayed.
//!
//! The step reads the tokens, their positions and whose they are from device memory; behind it is what the next tokens are chosen by, their
//! [`Choice`]. Each launch waits for the one before it no sooner than it needs to (programmatic dependent launch). A row's logits are the
//! same, bit for bit, whatever other rows there are: no kernel of the pass sums in an order that depends on them. Many rows go through a pass
//! on tensor cores instead, where that takes less time and `batch_invariant` does not forbid it.
//!
//! Where each sequence goes on with its largest logit's token, the step behind is enqueued before anybody has read the choices (`ahead.rs`).
//!
//! Tokens of one sequence go through all of a layer together; as each sees the keys of those before it, attention stores all keys first and
//! then attends, in two launches. What was drafted wrongly is taken back ([`Engine::take_back`]).
//!
//! A sampler that draws from the largest logits gets these alone. It runs on the host: its probabilities must be llama.cpp's to the last
//! bit, and so its exponentials the C library's.
//!
//! A graph holds launches with their grids. All are the same for every token but attention's, whose keys are spread over more blocks the
//! more there are, in a few [`KeySplits`]: there is a graph for each number of rows, of which there are few, whether they share sequences or not, and each combination
//! of these that was met, of which the last used are kept. Numbers of rows are rounded up, the last row being there several times, so that few graphs serve a
//! company that comes and goes. All of them make the choice that was asked for last: a generation asks for the same
//! one at each token.

use super::{
    Engine, EngineError, FIRST,
    ahead::Behind,
    lower::{Launch, Step},
    memory::Uses,
    run::{MANY_ROWS, Run, key_splits},
    unpack::is_packed,
};
use crate::{
    cache::{Origin, SequenceId},
    gpu::{
        Buffer, Gpu, GpuError, Graph, Pinned, SubSlice, Weights,
        kernels::{ArgmaxScratch, AttentionShape, KeySplits, MAX_TOP_K, NO_CHOICE, TopKScratch},
    },
    model::figure::Op,
    trace::Recorder,
};

/// Graphs that are kept: a capture takes some milliseconds, and its graph a megabyte.
const MOST_GRAPHS: usize = 64;

/// What a decoding step has besides its pass.
pub(super) struct Decode {
    pub(super) input: Buffer<u32>, // [3][n_rows]: tokens, positions, and the numbers of their sequences
    staged: Pinned<u32>,           // [3][n_rows]: the same, on the host
    argmax: ArgmaxScratch,
    top_k: TopKScratch,
    pub(super) best: Buffer<u32>,   // [n_rows]: the tokens with the largest logits
    largest: Buffer<u32>,           // [n_rows][MAX_TOP_K][2]: ids and logits, rows as long as the choice
    pub(super) chosen: Pinned<u32>, // [n_rows][MAX_TOP_K][2]: a choice, on the host
    pub(super) choice: Choice,
    /// Rows that the last step left logits of.
    pub(super) n_rows: usize,
    /// Whether the choice was made by the logits that are there.
    pub(super) has_choice: bool,
    /// The last used behind the others.
    pub(super) graphs: Vec<(Key, Graph)>,
    /// The step behind the last one.
    pub(super) behind: Behind,
}

/// What a graph is for.
#[derive(PartialEq, Eq)]
pub(super) struct Key {
    n_rows: usize,
    shares_sequences: bool,
    on_tensor_cores: bool,
    /// How the rows' attention is split.
    splits: Vec<KeySplits>,
    /// Whose states it carries on, where there are any.
    state_of: Option<SequenceId>,
}

/// The rows of a step.
pub(super) struct StepRows<'a> {
    pub(super) rows: &'a [(SequenceId, u32)],
    /// Each row's position.
    pub(super) positions: Vec<usize>,
    /// The rows that are the first of their sequence.
    pub(super) firsts: Vec<usize>,
    /// Rows on the device: behind these, the last one again.
    pub(super) n_all: usize,
}

impl StepRows<'_> {
    pub(super) fn new(rows: &[(SequenceId, u32)], n_tokens: impl Fn(SequenceId) -> usize) -> StepRows<'_> {
        let (mut positions, mut firsts) = (Vec::with_capacity(rows.len()), Vec::new());
        for (index, (id, _)) in rows.iter().enumerate() {
            let n_before = rows[..index].iter().filter(|(other, _)| other == id).count();
            if n_before == 0 {
                firsts.push(index);
            }
            positions.push(n_tokens(*id) + n_before);
        }
        StepRows { rows, positions, firsts, n_all: rows.len() }
    }

    /// Whether some are neighbours in one sequence.
    pub(super) fn shares_sequences(&self) -> bool {
        self.firsts.len() < self.rows.len()
    }

    /// The most tokens before any of them.
    fn n_past(&self) -> usize {
        self.positions.iter().copied().max().unwrap_or(0)
    }
}

/// How a step goes through the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// All rows by the pass for one token, as a graph.
    Lanes,
    /// All rows by the pass on tensor cores, as a graph; where experts read their weights once for all of their tokens, which few rows do not make
    /// them, and whose sums are others.
    TensorCores { experts_together: bool },
    /// The same, launch by launch.
    Launches,
    /// Each row as a step of its own.
    OneByOne,
}

/// What comes behind a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nobody knows.
    Anything,
    /// Most likely a step of the same sequences, or of some of them in the same order, with these choices, and nothing before it.
    EachGoesOn,
}

impl Then {
    /// Where so many steps are left.
    pub fn unless_last(left: usize) -> Then {
        if left == 0 { Then::Anything } else { Then::EachGoesOn }
    }
}

/// What the device finds in each row of logits, among the first `n_tokens` of the vocabulary: a file may pad it past the tokenizer's
/// last token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// The token with the largest, in `best`.
    Greedy { n_tokens: usize },
    /// The `k` largest, in `largest`.
    Largest { n_tokens: usize, k: usize },
}

/// Every allocation that [`Decode::new`] makes, in its order.
pub(super) fn uses(n_rows: usize, vocab_size: usize, uses: &mut Uses) {
    let of_choice = ArgmaxScratch::elements(n_rows).into_iter().chain(TopKScratch::elements(n_rows, vocab_size));
    for elements in [3 * n_rows].into_iter().chain(of_choice).chain([n_rows, n_rows * 2 * MAX_TOP_K, n_rows]) {
        uses.add("choice", elements * size_of::<u32>());
    }
}

impl Decode {
    pub(super) fn new(gpu: &Gpu, n_rows: usize, vocab_size: usize) -> Result<Decode, GpuError> {
        Ok(Decode {
            input: gpu.alloc("tokens", 3 * n_rows)?,
            staged: gpu.alloc_pinned("tokens", 3 * n_rows)?,
            argmax: ArgmaxScratch::new(gpu, n_rows)?,
            top_k: TopKScratch::new(gpu, n_rows, vocab_size)?,
            best: gpu.alloc("argmax", n_rows)?,
            largest: gpu.alloc("top-k", n_rows * 2 * MAX_TOP_K)?,
            chosen: gpu.alloc_pinned("a choice", n_rows * 2 * MAX_TOP_K)?,
            choice: Choice::Greedy { n_tokens: vocab_size },
            n_rows: 1,
            has_choice: false,
            graphs: Vec::new(),
            behind: Behind::new(gpu, n_rows)?,
        })
    }

    /// The launches are others now.
    pub(super) fn forget_graphs(&mut self) {
        self.graphs.clear();
        self.behind.forget();
    }

    /// The logits are no longer those of a decoding step, but of a prompt's pass, so many rows.
    pub(super) fn left(&mut self, n_rows: usize) {
        (self.n_rows, self.has_choice) = (n_rows, false);
        self.behind.left();
    }
}

impl Engine {
    /// Runs one token through the model; its logits are left on the device.
    pub fn decode(&mut self, token: u32) -> Result<(), EngineError> {
        self.decode_rows(&[(FIRST, token)])
    }

    /// Runs a token of each of some sequences through the model, or several that follow one another; the logits of `rows[i]` are left as row
    /// i. Tokens of several sequences take the fewest launches where the first of all come before the second of any, and so on.
    ///
    /// A row's logits are those that its token has alone, bit for bit, where the step does not go through tensor cores. That depends on the
    /// number of sequences, not on how many tokens of each there are: what is drafted changes nothing where one sequence is there.
    ///
    /// # Errors
    /// A token is none of the model's, there is no room for it, or the device failed.
    ///
    /// # Panics
    /// Where there are no rows or more than [`Engine::n_rows`], or several of one sequence of a model that takes no drafts
    /// ([`EngineOptions::n_drafted`](super::EngineOptions::n_drafted)).
    pub fn decode_rows(&mut self, rows: &[(SequenceId, u32)]) -> Result<(), EngineError> {
        let n = rows.len();
        assert!((1..=self.n_rows()).contains(&n), "{n} rows of a step, of at most {}", self.n_rows());
        let mut step = StepRows::new(rows, |id| self.cache.pages.n_tokens(id));
        for first in &step.firsts {
            let id = rows[*first].0;
            let tokens: Vec<u32> = rows[*first..].iter().filter(|(of, _)| *of == id).map(|(_, token)| *token).collect();
            self.prepare(id, &tokens)?;
        }
        let way = self.way(&mut step);
        if way == Way::OneByOne {
            assert!(!step.shares_sequences(), "two tokens of one sequence in a step of a model that takes no drafts");
            self.decode.behind.left();
            return self.one_by_one(rows);
        }
        if !self.goes_on(&step, way) {
            match way {
                Way::Launches => self.step_without_graph(&step)?,
                _ => self.step(&step, way)?,
            }
        }
        for (id, token) in rows {
            self.cache.pages.advance(*id, &[*token], Origin::Token);
        }
        self.decode.behind.stepped(&step, way);
        Ok(())
    }

    /// How these rows go through the model, and how many there are then.
    pub(super) fn way(&self, step: &mut StepRows) -> Way {
        let n = step.rows.len();
        let on_tensor_cores = self.rows.is_some() && step.firsts.len() >= self.least_rows;
        // An eighth more at most.
        let unit = (n.next_power_of_two() / 8).max(1);
        let rounded = |most: usize| n.next_multiple_of(unit).min(most).min(self.n_rows());
        if on_tensor_cores && n <= self.most_captured {
            step.n_all = rounded(self.most_captured);
            return Way::TensorCores { experts_together: step.n_all >= self.least_together };
        }
        if on_tensor_cores {
            return Way::Launches;
        }
        if n > 1 && !self.one.pass.takes_rows {
            return Way::OneByOne;
        }
        step.n_all = rounded(usize::MAX);
        Way::Lanes
    }

    /// From how many rows on products on tensor cores take less time than those that give each row the bits that it has alone: weights need no unpacking
    /// in memory where there is a product for them. On an H200 a step of two rows takes 0.70 ms with them, and 0.71 without, at Qwen2.5-0.5B
    /// Q8_0; at 1.5B Q4_K_M 1.19 and 1.44, at 7B Q4_K_M 2.35 and 2.82 (`benches/results/2026-11-30-h200-few.md`). Of a mixture's experts a few rows hardly share any, and
    /// its other products take eight rows at once either way: Qwen3-30B-A3B Q4_K_M writes 770, 1 240 and 1 760 tokens/s with 2, 4 and 8 rows without, and 610, 1 130 and
    /// 1 715 with them (`benches/results/2026-11-30-h200-order.md`). A mixture of floats has nothing that takes several rows at once: in BF16 the same one writes 503
    /// and 1 000 tokens/s with 2 and 8 rows without, and 426 and 1 263 with them (`benches/results/2026-11-30-h200-ahead.md`).
    pub(super) fn find_least_rows(&self) -> usize {
        const OF_A_MIXTURE: usize = 9;
        const OF_A_MIXTURE_OF_FLOATS: usize = 4;
        let stacks = self.weights.stacks();
        let is_float = |weights: &Weights| weights.parts.iter().all(|part| !part.tensor_type.is_quantised());
        let rooms = self.several.as_ref().and_then(|several| several.rooms.as_ref());
        let has_experts = self.figure.nodes.iter().any(|node| matches!(node.op, Op::ExpertProduct { .. }));
        if stacks.iter().all(is_float) {
            return if has_experts { OF_A_MIXTURE_OF_FLOATS } else { 2 };
        }
        if !rooms.is_some_and(|rooms| rooms.multiplies_packed(&self.weights)) {
            return MANY_ROWS;
        }
        let at_once = |weights: &Weights| {
            let mut packed = weights.parts.iter().filter(|part| part.tensor_type.is_quantised());
            packed.all(|part| Gpu::multiplied_at_once(part.tensor_type, weights.n_in).is_some())
        };
        if has_experts && stacks.iter().all(at_once) { OF_A_MIXTURE } else { 2 }
    }

    /// With how many rows a step on tensor cores is nothing but kernels: a library's products are not captured.
    pub(super) fn find_most_captured(&self) -> usize {
        let Some((pass, _)) = &self.rows else { return 0 };
        let is_kernel = |(index, step): (usize, &Step)| match &step.launch {
            Launch::Product { stack, .. } => is_packed(self.weights.stack(*stack)),
            Launch::Matmul { weight, .. } => {
                let rows = self.weights.rows(weight);
                index >= pass.head && Gpu::has_gemm(rows.tensor_type(), rows.n_in())
            }
            _ => true,
        };
        let rooms = self.several.as_ref().and_then(|several| several.rooms.as_ref());
        let most = rooms.map_or(Gpu::MOST_GEMM_TOKENS, |rooms| rooms.most_packed);
        if pass.steps.iter().enumerate().all(is_kernel) { most } else { 0 }
    }

    /// The launches of a step on tensor cores whose rows have room, one by one.
    fn step_without_graph(&mut self, step: &StepRows) -> Result<(), EngineError> {
        self.enqueue_input(step)?;
        self.launch_rows(step, true)?;
        (self.decode.n_rows, self.decode.has_choice) = (step.rows.len(), false);
        Ok(())
    }

    /// A step's pass, on tensor cores or not.
    fn launch_rows(&self, step: &StepRows, on_tensor_cores: bool) -> Result<(), GpuError> {
        let (n, n_past, first) = (step.n_all, step.n_past(), step.rows[0].0);
        let input = &self.decode.input;
        let of = |part: usize| -> SubSlice<u32> { input.slice(part * n..(part + 1) * n) };
        let inputs = [of(0), of(1), of(2)];
        if !on_tensor_cores {
            let run = self.run(&self.one, &inputs, first, n_past, 0..n);
            return Run { shares_sequences: step.shares_sequences(), decodes: true, ..run }
                .launch(&mut Recorder::off());
        }
        let (pass, layout) = self.rows.as_ref().expect("as the caller found");
        let several = self.several.as_ref().expect("a pass whose rooms this one has");
        let run = self.run(several, &inputs, first, n_past, 0..n);
        let scratch = &self.scratch;
        Run { pass, layout, scratch, shares_sequences: step.shares_sequences(), decodes: true, ..run }
            .launch(&mut Recorder::off())
    }

    /// The rows of a model whose pass takes one at a time.
    fn one_by_one(&mut self, rows: &[(SequenceId, u32)]) -> Result<(), EngineError> {
        let vocab_size = self.config.vocab_size;
        // Each leaves its logits as row 0; the first row comes last.
        for (index, (id, token)) in rows.iter().enumerate().rev() {
            let row = [(*id, *token)];
            let step = StepRows::new(&row, |id| self.cache.pages.n_tokens(id));
            self.step(&step, Way::Lanes)?;
            self.cache.pages.advance(*id, &[*token], Origin::Token);
            if index > 0 {
                let row = |index: usize| self.logits.slice(index * vocab_size..(index + 1) * vocab_size).into_cast();
                self.gpu.copy(&row(0), &row(index))?;
            }
        }
        (self.decode.n_rows, self.decode.has_choice) = (rows.len(), false);
        Ok(())
    }

    /// The graph of a step whose rows have room, and of the choice.
    pub(super) fn step(&mut self, step: &StepRows, way: Way) -> Result<(), EngineError> {
        let graph = self.graph(step, way)?;
        self.enqueue_input(step)?;
        // SAFETY: the buffers that the graph uses live as long as the engine.
        unsafe { self.decode.graphs[graph].1.launch(&self.gpu)? };
        (self.decode.n_rows, self.decode.has_choice) = (step.n_all, true);
        Ok(())
    }

    /// Enqueues the copy of a step's rows to the device.
    fn enqueue_input(&mut self, step: &StepRows) -> Result<(), EngineError> {
        let n = step.n_all;
        if self.is_staging {
            self.gpu.synchronise()?;
            self.landed();
        }
        let Decode { input, staged, .. } = &mut self.decode;
        for index in 0..n {
            let row = index.min(step.rows.len() - 1);
            let (id, token) = step.rows[row];
            staged[index] = token;
            staged[n + index] = step.positions[row] as u32;
            staged[2 * n + index] = id.0;
        }
        self.is_staging = true;
        // SAFETY: the pinned memory lives as long as the engine, and is not written before the next synchronisation.
        unsafe { self.gpu.enqueue_write(input, &staged[..3 * n])? };
        Ok(())
    }

    /// The token with the largest logit among the first `n_tokens` of the vocabulary, chosen on the device. A file may
    /// pad its vocabulary past the tokenizer's last token; the padding is never chosen.
    ///
    /// # Errors
    /// [`EngineError::NoChoice`] where one of these logits is NaN or none is above −∞, and what the device reports.
    pub fn greedy(&mut self, n_tokens: usize, then: Then) -> Result<u32, EngineError> {
        let mut best = [0];
        self.greedy_rows(n_tokens, &mut best, then)?;
        match best[0] {
            NO_CHOICE => Err(EngineError::NoChoice),
            token => Ok(token),
        }
    }

    /// The same of each row of the last step; [`NO_CHOICE`] where there is none.
    ///
    /// # Errors
    /// What the device reports.
    pub fn greedy_rows(&mut self, n_tokens: usize, best: &mut [u32], then: Then) -> Result<(), EngineError> {
        let n_tokens = n_tokens.min(self.config.vocab_size);
        self.choose(Choice::Greedy { n_tokens })?;
        if then == Then::EachGoesOn && self.begin_behind(n_tokens, best)? {
            return Ok(());
        }
        // By way of pinned memory, which takes 2 µs less.
        let n = self.decode.n_rows;
        self.gpu.read_into(&self.decode.best.slice(0..n), &mut self.decode.chosen[..n])?;
        self.landed();
        for (row, best) in best.iter_mut().enumerate() {
            *best = self.decode.chosen[self.decode.behind.place(row)];
        }
        Ok(())
    }

    /// Tokens and logits of the largest logits among the first `n_tokens` of the vocabulary, found on the device, into memory
    /// of the caller's: in descending order, equal ones by ascending id. NaN comes before all others, and −0 counts as 0.
    ///
    /// # Panics
    /// Where there is room for more than [`Engine::MAX_LARGEST`] or for more than there are.
    pub fn largest_into(&mut self, n_tokens: usize, largest: &mut [(u32, f32)]) -> Result<(), EngineError> {
        self.largest_of_rows(n_tokens, largest.len(), largest)
    }

    /// The same of each row of the last step: `k` of the first row, then of the next.
    ///
    /// # Errors
    /// What the device reports.
    ///
    /// # Panics
    /// As [`Engine::largest_into`].
    pub fn largest_of_rows(
        &mut self,
        n_tokens: usize,
        k: usize,
        largest: &mut [(u32, f32)],
    ) -> Result<(), EngineError> {
        self.choose(Choice::Largest { n_tokens: n_tokens.min(self.config.vocab_size), k })?;
        let n = 2 * k * self.decode.n_rows;
        self.gpu.read_into(&self.decode.largest.slice(0..n), &mut self.decode.chosen[..n])?;
        self.landed();
        for (row, largest) in largest.chunks_exact_mut(k).enumerate() {
            let found = &self.decode.chosen[2 * k * self.decode.behind.place(row)..];
            for (place, found) in largest.iter_mut().zip(found.chunks_exact(2)) {
                *place = (found[0], f32::from_bits(found[1]));
            }
        }
        Ok(())
    }

    /// The most logits of a row that [`Engine::largest_into`] finds.
    pub const MAX_LARGEST: usize = MAX_TOP_K;

    /// Whether [`Engine::largest_of_rows`] can look at several rows: they must begin at 16-byte boundaries.
    pub fn finds_largest_of_rows(&self) -> bool {
        self.n_rows() == 1 || self.config.vocab_size.is_multiple_of(4)
    }

    /// Makes the choice, where the last step has not, and has the next steps make it.
    fn choose(&mut self, choice: Choice) -> Result<(), EngineError> {
        self.come_back()?;
        if self.decode.choice != choice {
            // The graphs make another.
            self.decode.graphs.clear();
            (self.decode.choice, self.decode.has_choice) = (choice, false);
        }
        if !self.decode.has_choice {
            self.enqueue_choice(self.decode.n_rows)?;
            self.decode.has_choice = true;
        }
        Ok(())
    }

    /// Enqueues the choice by the first rows of logits.
    fn enqueue_choice(&self, n_rows: usize) -> Result<(), GpuError> {
        let Engine { gpu, config, logits, decode: d, .. } = self;
        match d.choice {
            Choice::Greedy { n_tokens } => {
                gpu.argmax(&d.argmax, logits, &d.best.slice(0..n_rows), n_rows, n_tokens, config.vocab_size)
            }
            Choice::Largest { n_tokens, k } => {
                gpu.top_k(&d.top_k, logits, &d.largest, n_rows, n_tokens, config.vocab_size, k)
            }
        }
    }

    /// How many kernels the next decoding step of the first sequence runs.
    pub fn launches_per_token(&mut self) -> Result<usize, EngineError> {
        let step = StepRows::new(&[(FIRST, 0)], |id| self.cache.pages.n_tokens(id));
        let graph = self.graph(&step, Way::Lanes)?;
        Ok(self.decode.graphs[graph].1.n_kernels())
    }

    /// The graph for these rows' numbers of keys, captured where this is the first time.
    pub(super) fn graph(&mut self, step: &StepRows, way: Way) -> Result<usize, EngineError> {
        let on_tensor_cores = matches!(way, Way::TensorCores { .. });
        let key = Key {
            n_rows: step.n_all,
            shares_sequences: step.shares_sequences(),
            on_tensor_cores,
            splits: self.splits(step.n_past(), on_tensor_cores),
            state_of: self.is_recurrent().then_some(step.rows[0].0),
        };
        let graphs = &mut self.decode.graphs;
        match graphs.iter().position(|(of, _)| *of == key) {
            Some(index) => graphs[index..].rotate_left(1),
            None => {
                let graph = self.gpu.capture(|| {
                    self.launch_rows(step, on_tensor_cores)?;
                    Ok::<_, EngineError>(self.enqueue_choice(step.n_all)?)
                })?;
                let graphs = &mut self.decode.graphs;
                if graphs.len() == MOST_GRAPHS {
                    graphs.remove(0);
                }
                graphs.push((key, graph));
            }
        }
        Ok(self.decode.graphs.len() - 1)
    }

    /// How attention is split of a token behind so many others, in each way that some layer's is.
    fn splits(&self, n_past: usize, on_tensor_cores: bool) -> Vec<KeySplits> {
        let mut splits: Vec<KeySplits> = Vec::new();
        let mut last = None;
        for step in &self.one.pass.steps {
            let Launch::AttentionToken { heads, .. } = &step.launch else { continue };
            let (shape, n_pages) = (self.cache.shape(heads.cache), self.cache.n_pages(heads.cache));
            // Layers are much alike.
            if last == Some((shape, heads.n_heads)) {
                continue;
            }
            last = Some((shape, heads.n_heads));
            let shape = AttentionShape {
                n_tokens: 1,
                n_heads: heads.n_heads,
                n_kv_heads: shape.n_kv_heads,
                head_dim: shape.head_dim,
                n_pages,
                window: shape.window,
            };
            let of_layer = key_splits(shape, n_past, self.gpu.multiprocessors(), on_tensor_cores);
            if !splits.contains(&of_layer) {
                splits.push(of_layer);
            }
        }
        splits
    }
}
