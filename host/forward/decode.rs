//! A token at a time: the pass for one token, captured as a graph and replayed.
//!
//! The step reads the token and its position from device memory; behind it is what the next token is chosen by, its [`Choice`]. The greedy
//! choice leaves there itself and the next position: the next step may follow without a word from the host. Each launch waits for the one
//! before it no sooner than it needs to (programmatic dependent launch).
//!
//! A sampler that draws from the largest logits gets these alone. It runs on the host: its probabilities must be llama.cpp's to the last
//! bit, and so its exponentials the C library's.
//!
//! A graph holds launches with their grids. All are the same for every token but attention's, whose keys are spread over more blocks the
//! more there are, in a few [`KeySplits`]: there is a graph for each combination of these that was met. All of them make the choice that was
//! asked for last: a generation asks for the same one at each token.

use super::{
    Engine, EngineError,
    lower::Launch,
    memory::Uses,
    run::{Run, key_splits},
};
use crate::{
    gpu::{
        Buffer, Gpu, GpuError, Graph, Pinned, Slice,
        kernels::{ArgmaxScratch, AttentionShape, KeySplits, MAX_TOP_K, NO_CHOICE, TopKScratch},
    },
    trace::Recorder,
};

/// What a decoding step has besides its pass.
pub(super) struct Decode {
    input: Buffer<u32>,  // [2]: the token, its position
    staged: Pinned<u32>, // [2]: the same, on the host
    argmax: ArgmaxScratch,
    top_k: TopKScratch,
    largest: Buffer<u32>, // [MAX_TOP_K][2]: ids and logits
    chosen: Pinned<u32>,  // [MAX_TOP_K][2]: the choice, on the host
    choice: Choice,
    /// Whether the choice was made by the logits that are there.
    has_choice: bool,
    graphs: Vec<(Vec<KeySplits>, Graph)>,
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

/// Every allocation that [`Decode::new`] makes, in its order.
pub(super) fn uses(vocab_size: usize, uses: &mut Uses) {
    let of_choice = ArgmaxScratch::elements(1).into_iter().chain(TopKScratch::elements(vocab_size));
    for elements in [2].into_iter().chain(of_choice).chain([2 * MAX_TOP_K]) {
        uses.add("choice", elements * size_of::<u32>());
    }
}

impl Decode {
    pub(super) fn new(gpu: &Gpu, vocab_size: usize) -> Result<Decode, GpuError> {
        Ok(Decode {
            input: gpu.alloc("a token", 2)?,
            staged: gpu.alloc_pinned("a token", 2)?,
            argmax: ArgmaxScratch::new(gpu, 1)?,
            top_k: TopKScratch::new(gpu, vocab_size)?,
            largest: gpu.alloc("top-k", 2 * MAX_TOP_K)?,
            chosen: gpu.alloc_pinned("a choice", 2 * MAX_TOP_K)?,
            choice: Choice::Greedy { n_tokens: vocab_size },
            has_choice: false,
            graphs: Vec::new(),
        })
    }

    /// The launches are others now.
    pub(super) fn forget_graphs(&mut self) {
        self.graphs.clear();
    }

    /// The logits are no longer those of a decoding step.
    pub(super) fn forget_choice(&mut self) {
        self.has_choice = false;
    }
}

impl Engine {
    /// Runs one token through the model; its logits are left on the device.
    pub fn decode(&mut self, token: u32) -> Result<(), EngineError> {
        self.prepare(&[token])?;
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
        let Engine { gpu, config, logits, decode: d, .. } = self;
        match d.choice {
            Choice::Greedy { n_tokens } => {
                gpu.argmax(&d.argmax, logits, &d.input.slice(0..1), position, 1, n_tokens, config.vocab_size)
            }
            Choice::Largest { n_tokens, k } => gpu.top_k(&d.top_k, logits, &d.largest, n_tokens, k),
        }
    }

    /// How many kernels the next decoding step runs.
    pub fn launches_per_token(&mut self) -> Result<usize, EngineError> {
        let graph = self.graph()?;
        Ok(self.decode.graphs[graph].1.n_kernels())
    }

    /// The graph for the next token's numbers of keys, captured where this is the first time.
    fn graph(&mut self) -> Result<usize, EngineError> {
        let splits = self.splits();
        if let Some(index) = self.decode.graphs.iter().position(|(of, _)| *of == splits) {
            return Ok(index);
        }
        let graph = self.gpu.capture(|| {
            let (token, position) = (self.decode.input.slice(0..1), self.decode.input.slice(1..2));
            let run = self.run(&self.one, 1, 0..1);
            Run { tokens: &token, positions: &position, ..run }.launch(&mut Recorder::off())?;
            Ok::<_, EngineError>(self.enqueue_choice(Some(&position))?)
        })?;
        self.decode.graphs.push((splits, graph));
        Ok(self.decode.graphs.len() - 1)
    }

    /// How the next token's attention is split, in each way that some layer's is.
    fn splits(&self) -> Vec<KeySplits> {
        let mut splits: Vec<KeySplits> = Vec::new();
        let mut last = None;
        for step in &self.one.pass.steps {
            let Launch::AttentionToken { heads, .. } = &step.launch else { continue };
            let shape = self.cache.shape(heads.cache);
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
                n_context: self.cache.n_context,
                window: shape.window,
            };
            let of_layer = key_splits(shape, self.n_past, self.gpu.multiprocessors());
            if !splits.contains(&of_layer) {
                splits.push(of_layer);
            }
        }
        splits
    }
}
