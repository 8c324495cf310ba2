//! What the kernel tests share: the device, random values, poisoned outputs and comparison.

use std::{collections::BTreeSet, ops::Deref, path::PathBuf, sync::Mutex};

use driver::{Backend, DeviceChoice};
use ferrowarp::{
    gguf::TensorType,
    gpu::{
        Buffer, Element, Gpu, GpuError, Weights, arrange,
        kernels::{PAGE, PageTables},
    },
};
use half::{bf16, f16};
pub use warp_test::Random;
use warp_test::Tolerance;

/// Elements behind an output that no kernel may touch.
const MARGIN: usize = 64;

/// The byte that outputs are filled with: as `f32` it is a NaN.
const POISON: u8 = 0xff;

/// Where the kernels that the tests launched are written, a name a line, if anywhere: `FERROWARP_LAUNCHED`.
pub fn launched_file() -> Option<PathBuf> {
    std::env::var_os("FERROWARP_LAUNCHED").map(PathBuf::from)
}

/// A test's device, which says at the test's end what the tests so far have launched.
pub struct TestGpu(Gpu);

impl Deref for TestGpu {
    type Target = Gpu;

    fn deref(&self) -> &Gpu {
        &self.0
    }
}

impl Drop for TestGpu {
    #[allow(clippy::print_stderr)] // a test says what it measured
    fn drop(&mut self) {
        static WRITING: Mutex<()> = Mutex::new(());
        let Some(file) = launched_file() else {
            return;
        };
        let _alone = WRITING.lock();
        let names: BTreeSet<&str> = ferrowarp::gpu::launched();
        let lines: String = names.iter().map(|name| format!("{name}\n")).collect();
        if let Err(error) = std::fs::write(&file, lines) {
            // A test that fails drops its device too: no second panic.
            eprintln!("{}: {error}", file.display());
        }
    }
}

/// Opens the device that `FERROWARP_DEVICE` names, on softcuda with the sanitizer on.
pub fn gpu() -> TestGpu {
    opened(Gpu::open)
}

/// The same, as if there were no cuBLAS.
pub fn gpu_without_cublas() -> TestGpu {
    opened(Gpu::open_without_cublas)
}

fn opened(open: fn(DeviceChoice) -> Result<Gpu, GpuError>) -> TestGpu {
    let choice = std::env::var("FERROWARP_DEVICE").unwrap_or_else(|_| "auto".into());
    let choice: DeviceChoice = choice.parse().expect("FERROWARP_DEVICE");
    let gpu = open(choice).expect("the device asked for");
    if gpu.backend() == Backend::Soft {
        driver::soft::device().expect("softcuda").set_sanitizer(true);
    }
    TestGpu(gpu)
}

/// An output buffer that holds nothing but poison.
pub struct Output<T: Element> {
    buffer: Buffer<T>,
    len: usize,
}

impl<T: Element> std::ops::Deref for Output<T> {
    type Target = Buffer<T>;

    fn deref(&self) -> &Buffer<T> {
        &self.buffer
    }
}

impl<T: Element> Output<T> {
    pub fn new(gpu: &Gpu, len: usize) -> Output<T> {
        let buffer = gpu.alloc("a test's output", len + MARGIN).unwrap();
        gpu.fill(&buffer, POISON).unwrap();
        Output { buffer, len }
    }

    /// The output, after a check that the margin is as it was.
    pub fn read(&self, gpu: &Gpu) -> Vec<T> {
        let mut values = gpu.read(&self.buffer).unwrap();
        let margin = values.split_off(self.len);
        assert!(
            bytemuck::cast_slice::<T, u8>(&margin).iter().all(|byte| *byte == POISON),
            "the kernel wrote past its output of {} elements",
            self.len
        );
        values
    }
}

/// Activations `[n_tokens][n]` in the order of `kernels::gemm::steps`.
pub fn in_steps<T: Copy>(rows: &[T], n: usize) -> Vec<T> {
    let mut steps = rows.to_vec();
    for (at, value) in rows.iter().enumerate() {
        steps[kernels::gemm::steps::index((at / n) as u32, (at % n) as u32, (rows.len() / n) as u32) as usize] = *value;
    }
    steps
}

/// Fails where |got − want| > absolute + relative · |want| for some element, and names the worst.
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], want: &[f64], absolute: f64, relative: f64) {
    warp_test::assert_within(got, want, Tolerance { absolute, relative }, what);
}

pub const FLOATS: [TensorType; 3] = [TensorType::F32, TensorType::F16, TensorType::BF16];

/// A random weight matrix of floats on the device, and its values as the type holds them.
pub fn weights(
    gpu: &Gpu,
    random: &mut Random,
    tensor_type: TensorType,
    n_out: usize,
    n_in: usize,
) -> (Weights, Vec<f64>) {
    let values = random.values(n_out * n_in, 1.0);
    let (bytes, exact): (Vec<u8>, Vec<f64>) = match tensor_type {
        TensorType::F32 => (bytemuck::cast_slice(&values).to_vec(), values.iter().map(|v| f64::from(*v)).collect()),
        TensorType::F16 => {
            let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
            (bytemuck::cast_slice(&halves).to_vec(), halves.iter().map(|half| half.to_f64()).collect())
        }
        TensorType::BF16 => {
            let halves: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
            (bytemuck::cast_slice(&halves).to_vec(), halves.iter().map(|half| half.to_f64()).collect())
        }
        packed => panic!("{packed} is no float"),
    };
    let data = gpu.upload("weights", &bytes).unwrap();
    (Weights::of_one_type(data, tensor_type, 1, n_out, n_in), exact)
}

/// A stack of quantised matrices on the device from blocks as in a file.
pub fn packed(
    gpu: &Gpu,
    tensor_type: TensorType,
    blocks: &[u8],
    n_matrices: usize,
    n_out: usize,
    n_in: usize,
) -> Weights {
    let data = gpu.upload("blocks", &arrange(tensor_type, blocks)).unwrap();
    Weights::of_one_type(data, tensor_type, n_matrices, n_out, n_in)
}

/// Page tables of some sequences over a cache with pages to spare: in no order, as a cache's are that was used for long.
pub struct Pages {
    pub n_pages: usize,
    stride: usize,
    tables: Vec<u32>,
    on_device: Buffer<u32>,
    slots: Buffer<u32>,
}

impl Pages {
    /// For `n_sequences` of up to `n_positions`, and for tokens of the sequences `slots`.
    pub fn new(gpu: &Gpu, random: &mut Random, n_sequences: usize, n_positions: usize, slots: &[u32]) -> Pages {
        let stride = n_positions.div_ceil(PAGE);
        let n_pages = n_sequences * stride + 2;
        let mut pages: Vec<u32> = (0..n_pages as u32).collect();
        for index in 0..n_pages {
            pages.swap(index, index + random.below(n_pages - index));
        }
        pages.truncate(n_sequences * stride);
        let (on_device, slots) = (gpu.upload("page tables", &pages).unwrap(), gpu.upload("slots", slots).unwrap());
        Pages { n_pages, stride, tables: pages, on_device, slots }
    }

    /// Of one sequence, for launches of so many tokens.
    pub fn of_one(gpu: &Gpu, random: &mut Random, n_positions: usize, n_tokens: usize) -> Pages {
        Pages::new(gpu, random, 1, n_positions, &vec![0; n_tokens])
    }

    pub fn get(&self) -> PageTables<'_> {
        PageTables { tables: &self.on_device, stride: self.stride, slots: &self.slots }
    }

    /// Rows of a layer's cache.
    pub fn n_rows(&self, n_kv_heads: usize) -> usize {
        self.n_pages * n_kv_heads * PAGE
    }

    /// The row of a position in the cache `[n_pages][n_kv_heads][PAGE]`.
    pub fn row(&self, n_kv_heads: usize, slot: usize, kv_head: usize, position: usize) -> usize {
        let page = self.tables[slot * self.stride + position / PAGE] as usize;
        (page * n_kv_heads + kv_head) * PAGE + position % PAGE
    }
}

/// The orthogonal Walsh–Hadamard transform of 32 values, which is its own inverse: out[i] = Σ_j ±x[j] / √32, the sign being
/// that of the number of bits that `i` and `j` have in common.
pub fn hadamard(block: &[f64]) -> Vec<f64> {
    assert_eq!(block.len(), 32);
    let sign = |i: usize, j: usize| {
        if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 }
    };
    let value = |i: usize| block.iter().enumerate().map(|(j, x)| sign(i, j) * x).sum::<f64>() / 32f64.sqrt();
    (0..32).map(value).collect()
}

pub fn as_f64(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}
