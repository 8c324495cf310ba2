//! How much device memory a model takes, known before anything is allocated.
//!
//! [`MemoryPlan::new`] adds up every allocation that loading makes: the weights as they lie in the file, the KV cache, and
//! the scratch that a forward pass works in. [`MemoryPlan::expect_room`] compares the sum with what is free, and where it
//! is too much looks for a shorter context or a smaller cache type that would do. `tests/memory.rs` holds the plan to what
//! the device really gave away, byte by byte.

use std::fmt;

use driver::Backend;
use serde::Serialize;

use super::{EngineError, EngineOptions, cache::KvCache, decode, sizes::Sizes, weights};
use crate::{
    gguf::Gguf,
    gpu::kernels::CacheType,
    model::{Config, ModelWeights},
};

/// The context that is taken when none is asked for and the model's is longer: a cache for a model's full context can be
/// larger than the model.
const DEFAULT_CONTEXT: usize = 4096;

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
    /// Positions there is room for.
    pub n_context: usize,
    /// The type of the KV cache.
    #[serde(serialize_with = "as_text")]
    pub cache_type: CacheType,
    /// The most tokens that go through the layers together.
    pub n_batch: usize,
    /// What a forward pass works in, in elements.
    #[serde(skip)]
    pub(super) sizes: Sizes,
    /// The weights, as they lie in the file, and RoPE's frequencies.
    pub weights: u64,
    /// Keys and values.
    pub cache: u64,
    /// What a forward pass works in.
    pub scratch: ScratchPlan,
    /// All of it.
    pub total: u64,
    /// What was free when the plan was compared with a device, or the limit where that is less.
    pub free: Option<u64>,
    /// The allocations one by one.
    #[serde(skip)]
    allocations: Vec<u64>,
}

/// What a forward pass works in, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ScratchPlan {
    /// Tokens, the residual stream, queries, keys, values, and what is between the feed-forward matrices.
    pub activations: u64,
    /// What a mixture of experts needs besides.
    pub experts: u64,
    /// Logits and the chosen token.
    pub logits: u64,
    /// Inputs of cuBLAS in 16 bits.
    pub matmul_inputs: u64,
    /// Matrices unpacked for cuBLAS.
    pub unpacked_matrix: u64,
}

impl ScratchPlan {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.activations + self.experts + self.logits + self.matmul_inputs + self.unpacked_matrix
    }
}

/// Adds allocations up and remembers each.
#[derive(Default)]
struct Allocations(Vec<u64>);

impl Allocations {
    /// Allocations of that many elements of `size` bytes; their bytes together.
    fn add(&mut self, size: usize, elements: &[usize]) -> u64 {
        let bytes = elements.iter().map(|n| (n * size) as u64);
        self.0.extend(bytes.clone());
        bytes.sum()
    }
}

impl MemoryPlan {
    /// Plans a model's memory.
    ///
    /// # Errors
    /// The context asked for is not one that the model has, there are no kernels for its heads with that cache, or its
    /// tensors are not what its metadata says.
    pub fn new(gguf: &Gguf, config: &Config, options: &EngineOptions) -> Result<MemoryPlan, EngineError> {
        let (found, cache_type) = (config.head_dim, options.cache_type);
        let expected: Vec<usize> = cache_type.head_dims().collect();
        if !expected.contains(&found) {
            return Err(EngineError::HeadDim { file: gguf.name().to_owned(), found, cache_type, expected });
        }
        options.decode.expect_supported(gguf.name(), config, options)?;
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
        let n_batch = options.n_batch.clamp(1, n_context);
        let logit_rows = if options.all_logits { n_batch } else { 1 };
        let views = ModelWeights::new(gguf, config)?;
        let sizes = Sizes::new(config, &views, cache_type, n_batch, logit_rows);
        let mut allocations = Allocations::default();

        let weights = allocations.add(1, &weights::allocations(config, &views));

        let layer_bytes = KvCache::layer_bytes(config, n_context, cache_type);
        let cache = allocations.add(1, &[config.n_layers * layer_bytes; 2]);

        let heads = config.n_heads * config.head_dim;
        let kv_heads = config.n_kv_heads * config.head_dim;
        let n_pairs = n_batch * config.experts.map_or(1, |experts| experts.n_used);
        let Sizes { rows, normed_rows, ffn_rows, matmul_rows, matmul_columns, unpacked, .. } = sizes;
        let (of_prefill, unpacked_by_prefill) =
            sizes.prefill.as_ref().map_or_else(Default::default, |prefill| (prefill.activations(), prefill.unpacked()));
        let of_prefill = allocations.add(1, &of_prefill);
        let unpacked_by_prefill = allocations.add(1, &unpacked_by_prefill);
        let mut words = |elements: &[usize]| allocations.add(size_of::<f32>(), elements);
        let scratch = ScratchPlan {
            activations: of_prefill
                + words(&decode::allocations(config, n_context, options.decode))
                + words(&[n_batch; 2])
                + words(&[n_batch * config.n_embd, rows * config.n_embd, normed_rows * config.n_embd])
                + words(&[rows * heads; 2])
                + words(&[rows * kv_heads; 2])
                + words(&[ffn_rows * config.n_ff; 2]),
            experts: config.experts.map_or(0, |experts| {
                words(&[n_batch * experts.n_experts, n_pairs, n_pairs]) + words(&[n_pairs * config.n_embd])
            }),
            logits: words(&[logit_rows * config.vocab_size]),
            matmul_inputs: words(&[matmul_rows])
                // Two for bf16, whose inputs go in as a sum.
                + allocations.add(size_of::<u16>(), &[2 * matmul_rows * matmul_columns]),
            unpacked_matrix: unpacked_by_prefill + allocations.add(size_of::<u16>(), &[unpacked]),
        };
        Ok(MemoryPlan {
            n_context,
            cache_type,
            n_batch,
            sizes,
            weights,
            cache,
            scratch,
            total: weights + cache + scratch.total(),
            free: None,
            allocations: allocations.0,
        })
    }

    /// Rows of logits there is room for.
    pub(super) fn logit_rows(&self) -> usize {
        self.sizes.logit_rows
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
        self.allocations.iter().map(rounded).sum::<u64>() + CUDA_RESERVE
    }

    /// Compares the plan with what is free on a device, within the limit of the options.
    ///
    /// # Errors
    /// It is too much. The message says by how much, and what would fit.
    pub fn expect_room(
        &mut self,
        gguf: &Gguf,
        config: &Config,
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
            MemoryPlan::new(gguf, config, &options).is_ok_and(|plan| plan.needed(backend) <= free)
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
                Size(self.scratch.total())
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
        let (context, cache_type) = (self.n_context, self.cache_type);
        let notes = [
            ("weights", self.weights, String::new()),
            ("KV cache", self.cache, format!("{context} positions, {cache_type}")),
            ("activations", self.scratch.activations, format!("{} tokens together", self.n_batch)),
            ("experts", self.scratch.experts, String::new()),
            ("logits", self.scratch.logits, String::new()),
            ("matmul inputs", self.scratch.matmul_inputs, String::new()),
            ("unpacked weights", self.scratch.unpacked_matrix, String::new()),
            ("in all", self.total, String::new()),
        ];
        for (name, bytes, note) in notes.iter().filter(|(_, bytes, _)| *bytes > 0) {
            let line = format!("  {name:<15}  {:>12}  {note}", Size(*bytes));
            writeln!(f, "{}", line.trim_end())?;
        }
        match self.free {
            Some(free) => writeln!(f, "  {:<15}  {:>12}", "free", Size(free)),
            None => Ok(()),
        }
    }
}
