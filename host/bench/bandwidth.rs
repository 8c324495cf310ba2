//! What this device's memory and its matrix units can do, measured in the same process as what is compared with it.

use half::f16;
use serde::Serialize;

use crate::{
    gguf::TensorType,
    gpu::{Activations, Gpu, GpuError, Matmul, Weights},
};

/// The largest buffer that is read or copied, in bytes: far beyond every cache, and the launch does not count.
const LARGEST: usize = 2 << 30;

/// Measurements of each, after one that does not count. The best one is taken: anything less is something else's doing.
const REPETITIONS: usize = 5;

/// The measured peaks.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Peaks {
    /// Bytes read per second.
    pub read: f64,
    /// Bytes copied per second, those read and those written.
    pub copy: f64,
    /// Floating-point operations per second of a large product of f16 matrices.
    pub matmul: f64,
}

impl Peaks {
    /// Measures them, in memory that is free again afterwards.
    ///
    /// # Errors
    /// The device failed.
    pub fn measure(gpu: &Gpu) -> Result<Peaks, GpuError> {
        Ok(Peaks { read: read(gpu)?, copy: copy(gpu)?, matmul: matmul(gpu)? })
    }
}

/// A length in words for buffers of which `n` together leave most of the device's memory alone.
fn words(gpu: &Gpu, n: usize) -> Result<usize, GpuError> {
    let (free, _) = gpu.memory()?;
    Ok(LARGEST.min(free / 4 / n) / 1024 * 1024 / size_of::<u32>())
}

fn read(gpu: &Gpu) -> Result<f64, GpuError> {
    let data = gpu.alloc::<u32>("the bandwidth's measurement", words(gpu, 1)?)?;
    let parts = gpu.alloc::<u32>("the bandwidth's measurement", gpu.bandwidth_parts())?;
    gpu.fill(&data, 1)?;
    best_rate(gpu, (data.len() * size_of::<u32>()) as f64, || gpu.bandwidth_read(&data, &parts))
}

fn copy(gpu: &Gpu) -> Result<f64, GpuError> {
    let data = gpu.alloc::<u32>("the bandwidth's measurement", words(gpu, 2)?)?;
    let out = gpu.alloc::<u32>("the bandwidth's measurement", data.len())?;
    gpu.fill(&data, 1)?;
    best_rate(gpu, (2 * data.len() * size_of::<u32>()) as f64, || gpu.bandwidth_copy(&data, &out))
}

/// A product of square matrices by cuBLAS, with all that this program does around one.
fn matmul(gpu: &Gpu) -> Result<f64, GpuError> {
    let n: usize = 8192;
    let data = gpu.alloc::<u8>("a matrix", n * n * size_of::<f16>())?;
    gpu.noise_floats(&data.cast::<f16>(), 0.0, 0.02, 1)?;
    let weights = Weights::of_one_type(data, TensorType::F16, 1, n, n);
    let (x, out) = (gpu.alloc::<f32>("a matrix", n * n)?, gpu.alloc::<f32>("a matrix", n * n)?);
    gpu.noise_floats(&x, 0.0, 1.0, 2)?;
    let scratch = Matmul::new(gpu, n, n, 0, Activations::default())?;
    best_rate(gpu, 2.0 * (n as f64).powi(3), || gpu.matmul(&scratch, weights.all(), &x, None, None, &out, n))
}

/// The most of `amount` per second that a launch did.
fn best_rate(gpu: &Gpu, amount: f64, launch: impl Fn() -> Result<(), GpuError>) -> Result<f64, GpuError> {
    launch()?;
    let mut best = 0f64;
    for _ in 0..REPETITIONS {
        let time = gpu.time(&launch)?;
        best = best.max(amount / time.as_secs_f64());
    }
    Ok(best)
}
