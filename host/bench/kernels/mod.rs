//! Each kernel at the shapes that real models give it.
//!
//! The table is in `decode.rs`, `counts.rs`, `prefill.rs`, `prompt.rs`, `families.rs` and `other.rs`: a row is a name, a shape, the bytes that the kernel
//! cannot avoid moving (or the operations that it does), and how to make its operands and launch it. Adding a kernel is adding a row;
//! `tests/budgets.rs` fails while a registered kernel is in none.
//!
//! A time is one from a cold cache: every launch has operands of its own, and before each round of them the cache is filled
//! with something else. That reading also keeps the device busy while the round is enqueued, so the events around the round
//! see kernels that follow each other at once.

mod counts;
mod decode;
mod families;
mod other;
mod prefill;
mod prompt;

use crate::{
    bench::{
        Peaks,
        counters::{Counts, recorded},
        sample::Sample,
    },
    gguf::TensorType,
    gpu::{Buffer, Element, Gpu, GpuError, Weights},
    synth::fill_on_device,
};
use driver::Backend;

/// Enqueues a kernel.
type Run = Box<dyn Fn(&Gpu) -> Result<(), GpuError>>;

/// Makes operands of its own for a launch.
type Prepare = Box<dyn Fn(&Gpu) -> Result<Launch, GpuError>>;

/// A launch on operands that it owns.
struct Launch {
    run: Run,
    /// Addresses of the operands that are too large for a cache: matrices, keys and values.
    streamed: Vec<u64>,
}

/// A kernel at a shape.
pub struct Row {
    /// The kernel's name, or that of the function that launches several.
    pub kernel: String,
    /// The shape, as a person would say it.
    pub shape: String,
    /// Whether it is small enough to be counted on every test run.
    pub small: bool,
    /// Bytes that must move: operands read once and results written once.
    pub bytes: u64,
    /// Floating-point operations, where these and not the memory are the limit.
    pub operations: Option<f64>,
    /// Of these, bytes of the operands that are too large for a cache.
    pub streamed_bytes: u64,
    /// Makes operands of its own for a launch.
    prepare: Prepare,
}

impl Row {
    fn new<L>(
        kernel: impl Into<String>,
        shape: impl Into<String>,
        bytes: usize,
        prepare: impl Fn(&Gpu) -> Result<L, GpuError> + 'static,
    ) -> Row
    where
        L: Fn(&Gpu) -> Result<(), GpuError> + 'static,
    {
        Row::streaming(kernel, shape, (bytes, 0), move |gpu| Ok((prepare(gpu)?, Vec::new())))
    }

    /// A row that reads `bytes.1` of its `bytes.0` from operands that are too large for a cache; `prepare` gives their
    /// addresses with the launch.
    fn streaming<L>(
        kernel: impl Into<String>,
        shape: impl Into<String>,
        bytes: (usize, usize),
        prepare: impl Fn(&Gpu) -> Result<(L, Vec<u64>), GpuError> + 'static,
    ) -> Row
    where
        L: Fn(&Gpu) -> Result<(), GpuError> + 'static,
    {
        Row {
            kernel: kernel.into(),
            shape: shape.into(),
            small: false,
            bytes: bytes.0 as u64,
            operations: None,
            streamed_bytes: bytes.1 as u64,
            prepare: Box::new(move |gpu| {
                let (run, streamed) = prepare(gpu)?;
                Ok(Launch { run: Box::new(run), streamed })
            }),
        }
    }

    /// Counted on every test run.
    fn small(self) -> Row {
        Row { small: true, ..self }
    }

    fn operations(self, operations: f64) -> Row {
        Row { operations: Some(operations), ..self }
    }

    /// The row's name: kernel and shape.
    pub fn name(&self) -> String {
        format!("{} {}", self.kernel, self.shape)
    }

    /// What one launch counts on softcuda, and the names of the kernels that it was.
    ///
    /// # Errors
    /// The device failed.
    ///
    /// # Panics
    /// Elsewhere than on softcuda.
    pub fn count(&self, gpu: &Gpu) -> Result<(Counts, Vec<String>), GpuError> {
        let launch = (self.prepare)(gpu)?;
        let (result, records) = recorded(|| (launch.run)(gpu));
        result?;
        let records = records.expect("only softcuda counts");
        Ok((Counts::of(&records, &launch.streamed), records.into_iter().map(|record| record.kernel).collect()))
    }
}

/// Every row.
pub fn rows() -> Vec<Row> {
    let mut rows = decode::rows();
    rows.extend(counts::rows());
    rows.extend(prompt::rows());
    rows.extend(prefill::rows());
    rows.extend(families::rows());
    rows.extend(other::rows());
    rows
}

/// Bytes of all operands of a round at least, where a round has not the most launches.
const ROUND_BYTES: u64 = 1 << 30;
/// Launches of a round at most, and at least.
const ROUND: (u64, u64) = (16, 2);
/// Bytes read before a round: many times the largest cache, and enough to enqueue a round meanwhile.
const FLUSH_BYTES: usize = 1 << 30;

/// Times rows on a GPU.
pub struct Timer<'a> {
    gpu: &'a Gpu,
    flushed: Buffer<u32>,
    parts: Buffer<u32>,
}

/// A row's time beside the device's peaks.
#[derive(Clone, Debug)]
pub struct Timed {
    /// Seconds of a launch, by round.
    pub seconds: Sample,
    /// Bytes per second.
    pub bandwidth: f64,
    /// Floating-point operations per second, of a row that counts them.
    pub operations: Option<f64>,
    /// The part of the peak that this is: of operations where the row counts them, else of reading.
    pub of_peak: f64,
}

impl<'a> Timer<'a> {
    /// Takes the memory that the cache is flushed with.
    ///
    /// # Errors
    /// There is too little of it.
    pub fn new(gpu: &'a Gpu) -> Result<Timer<'a>, GpuError> {
        let flushed = gpu.alloc("flushing the cache", FLUSH_BYTES / size_of::<u32>())?;
        gpu.fill(&flushed, 1)?;
        Ok(Timer { gpu, flushed, parts: gpu.alloc("flushing the cache", gpu.bandwidth_parts())? })
    }

    /// Times `rounds` rounds of launches.
    ///
    /// # Errors
    /// The device failed.
    pub fn time(&self, row: &Row, peaks: &Peaks, rounds: usize) -> Result<Timed, GpuError> {
        let n = (ROUND_BYTES / row.bytes.max(1)).clamp(ROUND.1, ROUND.0);
        let launches: Vec<Launch> = (0..n).map(|_| (row.prepare)(self.gpu)).collect::<Result<_, _>>()?;
        let round = || launches.iter().try_for_each(|launch| (launch.run)(self.gpu));
        round()?;
        let mut seconds = Sample::default();
        for _ in 0..rounds {
            self.gpu.bandwidth_read(&self.flushed, &self.parts)?;
            seconds.0.push(self.gpu.time(round)?.as_secs_f64() / n as f64);
        }
        let bandwidth = row.bytes as f64 / seconds.mean();
        let operations = row.operations.map(|operations| operations / seconds.mean());
        let of_peak = operations.map_or(bandwidth / peaks.read, |operations| operations / peaks.matmul);
        Ok(Timed { seconds, bandwidth, operations, of_peak })
    }
}

/// Random values on the device.
fn values(gpu: &Gpu, n: usize) -> Result<Buffer<f32>, GpuError> {
    let buffer = gpu.alloc("values", n)?;
    gpu.noise_floats(&buffer, 0.0, 1.0, 1)?;
    Ok(buffer)
}

/// Room for a result.
fn room<T: Element>(gpu: &Gpu, n: usize) -> Result<Buffer<T>, GpuError> {
    gpu.alloc("a result", n)
}

/// Bytes of a matrix in a file.
fn matrix_bytes(tensor_type: TensorType, n_out: usize, n_in: usize) -> usize {
    tensor_type.row_bytes(n_in as u64).map_or(0, |bytes| bytes as usize) * n_out
}

/// A random matrix, or a stack.
fn matrices(
    gpu: &Gpu,
    tensor_type: TensorType,
    n_matrices: usize,
    n_out: usize,
    n_in: usize,
) -> Result<Weights, GpuError> {
    let data = gpu.alloc("a matrix", matrix_bytes(tensor_type, n_matrices * n_out, n_in))?;
    filled(gpu, Weights::of_one_type(data, tensor_type, n_matrices, n_out, n_in))
}

/// The same with random values. What softcuda counts does not depend on them, so there they are zero.
fn filled(gpu: &Gpu, weights: Weights) -> Result<Weights, GpuError> {
    match gpu.backend() {
        Backend::Soft => gpu.fill(&weights.data, 0)?,
        Backend::Cuda => fill_on_device(gpu, &weights, 1.0 / (weights.n_in as f64).sqrt(), 1)?,
    }
    Ok(weights)
}

/// A random matrix.
fn matrix(gpu: &Gpu, tensor_type: TensorType, n_out: usize, n_in: usize) -> Result<Weights, GpuError> {
    matrices(gpu, tensor_type, 1, n_out, n_in)
}

/// A layer's matrices, by what they are for.
const QKV: &str = "qkv";
const OUTPUT: &str = "attention output";
const GATE_UP: &str = "gate and up";
const DOWN: &str = "down";

/// The widths of a model whose shapes are in the table.
#[derive(Clone, Copy)]
struct Widths {
    name: &'static str,
    n_embd: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    n_ff: usize,
    n_vocab: usize,
}

impl Widths {
    /// Of a published shape, under a short name.
    fn of(name: &'static str, shape: &str) -> Widths {
        let shape = crate::synth::Shape::find(shape).expect("a published shape");
        Widths {
            name,
            n_embd: shape.n_embd as usize,
            n_heads: shape.n_heads as usize,
            n_kv_heads: shape.n_kv_heads as usize,
            head_dim: shape.head_dim as usize,
            n_ff: shape.n_ff as usize,
            n_vocab: shape.vocab_size as usize,
        }
    }

    /// Qwen2.5-0.5B, whose layers are small enough for every test run.
    fn small() -> Widths {
        Widths::of("0.5B", "qwen2.5-0.5b")
    }

    /// The models that speed is measured with.
    fn all() -> [Widths; 3] {
        [Widths::small(), Widths::of("7B", "qwen2.5-7b"), Widths::of("8B", "llama3-8b")]
    }

    /// A layer's matrices: name, rows, columns.
    fn matrices(&self) -> [(&'static str, usize, usize); 4] {
        let (q, kv) = (self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim);
        [
            (QKV, q + 2 * kv, self.n_embd),
            (OUTPUT, self.n_embd, q),
            (GATE_UP, 2 * self.n_ff, self.n_embd),
            (DOWN, self.n_embd, self.n_ff),
        ]
    }
}
