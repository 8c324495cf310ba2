//! The device: memory, the kernels' launchers and cuBLAS, on one stream.
//!
//! Everything here goes through `cust` to the `cu*` entry points, which [`driver`] serves from the NVIDIA driver or from
//! softcuda; nothing in this module knows which.
//!
//! Device memory is not Rust memory. A [`Slice`] names a range of it and is shared freely: kernels and copies are
//! enqueued on one stream and run in that order, so a launch that writes through a `&Slice` races with nothing.

mod buffer;
mod cublas;
mod graph;
pub mod image;
pub mod kernels;
mod launch;
mod launched;
mod matmul;
mod side_stream;
mod timing;
mod upload;
mod weights;

use std::{cell::OnceCell, collections::HashMap};

use cust::{
    context::Context,
    device::{Device, DeviceAttribute},
    error::CudaError,
    module::Module,
    stream::{Stream, StreamFlags},
    sys::{CUresult, CUstream, cudaError_enum},
};
use driver::{Backend, DeviceChoice};

pub use buffer::{Buffer, Element, Pinned, Slice, SubSlice};
use cublas::Cublas;
pub use graph::Graph;
pub use image::Image;
use launch::Function;
pub use launched::launched;
pub use matmul::{Activations, Factors, Matmul, Product};
pub use side_stream::Event;
use side_stream::SideStream;
pub use upload::Transfer;
pub use weights::{Part, Rows, Weights, arrange, parts};

/// What went wrong on the device.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// No device as asked for.
    #[error(transparent)]
    Select(#[from] driver::SelectError),
    /// A driver call failed.
    #[error("{action}: {detail}")]
    Driver {
        /// What was being done.
        action: String,
        /// The driver's code, or what is known beyond it: a softcuda fault, for one.
        detail: String,
    },
    /// Not enough device memory.
    #[error(
        "{what} needs {needed} bytes of device memory and {free} of {total} are free: choose a smaller model or context (-c)"
    )]
    OutOfMemory {
        /// What the memory was for.
        what: String,
        /// Bytes asked for.
        needed: usize,
        /// Bytes free.
        free: usize,
        /// Bytes the device has.
        total: usize,
    },
    /// The device runs none of the kernels' images, or not the one asked for.
    #[error(transparent)]
    Image(#[from] image::ImageError),
    /// cuBLAS is missing or failed.
    #[error(transparent)]
    Cublas(#[from] driver::cublas::CublasError),
}

/// Turns a result of `cust`'s into one that says what was being done.
fn driver_call<T>(action: impl FnOnce() -> String, result: Result<T, CudaError>) -> Result<T, GpuError> {
    result.map_err(|error| driver_error(action(), &error))
}

/// The same for a driver function called directly, as `cust` declares it.
fn check(action: impl FnOnce() -> String, result: CUresult) -> Result<(), GpuError> {
    match result {
        cudaError_enum::CUDA_SUCCESS => Ok(()),
        error => Err(driver_error(action(), &error)),
    }
}

/// The same for a driver function that `cust` does not declare.
fn check_call(action: impl FnOnce() -> String, result: driver::sys::CUresult) -> Result<(), GpuError> {
    match result {
        driver::sys::CUDA_SUCCESS => Ok(()),
        error => Err(driver_error(action(), &error)),
    }
}

fn driver_error(action: String, error: &dyn std::fmt::Debug) -> GpuError {
    let detail = driver::last_error().unwrap_or_else(|| format!("{error:?}"));
    GpuError::Driver { action, detail }
}

/// The device's compute capability: generation and revision.
fn capability(device: &Device) -> Result<(u32, u32), GpuError> {
    let part = |attribute| {
        let value = device.get_attribute(attribute);
        Ok::<_, GpuError>(driver_call(|| "reading the compute capability".into(), value)?.unsigned_abs())
    };
    Ok((part(DeviceAttribute::ComputeCapabilityMajor)?, part(DeviceAttribute::ComputeCapabilityMinor)?))
}

/// One device with its context, stream, loaded kernels and cuBLAS handle. Belongs to the thread that opened it.
pub struct Gpu {
    // In the order in which they must be dropped: each needs those after it.
    cublas: Cublas,
    functions: HashMap<&'static str, OnceCell<Function>>,
    module: Module,
    image: &'static Image,
    stream: Stream,
    side_stream: SideStream,
    device: Device,
    multiprocessors: usize,
    backend: Backend,
    _context: Context,
}

impl Gpu {
    /// Opens the chosen device and loads the kernels.
    pub fn open(choice: DeviceChoice) -> Result<Gpu, GpuError> {
        Gpu::open_with(choice, Cublas::start)
    }

    /// As [`Gpu::open`], without cuBLAS, as on a machine that has none: products of many tokens go through `kernels/product/`.
    pub fn open_without_cublas(choice: DeviceChoice) -> Result<Gpu, GpuError> {
        Gpu::open_with(choice, |_, stream| Cublas::none(stream))
    }

    fn open_with(choice: DeviceChoice, cublas: fn(Device, CUstream) -> Cublas) -> Result<Gpu, GpuError> {
        let backend = driver::select(choice)?;
        driver_call(|| "starting CUDA".into(), cust::init(cust::CudaFlags::empty()))?;
        let device = driver_call(|| "opening device 0".into(), Device::get_device(0))?;
        let context = driver_call(|| "creating a context".into(), Context::new(device))?;
        let stream = driver_call(|| "creating a stream".into(), Stream::new(StreamFlags::NON_BLOCKING, None))?;
        let multiprocessors = device.get_attribute(DeviceAttribute::MultiprocessorCount);
        let multiprocessors = driver_call(|| "reading the number of multiprocessors".into(), multiprocessors)?;
        let cublas = cublas(device, stream.as_inner());
        let images = image::candidates(capability(&device)?, backend == Backend::Cuda)?;
        let (module, image) = image::load(&images, backend == Backend::Soft)?;
        let functions = image::KERNELS.iter().map(|&kernel| (kernel, OnceCell::new())).collect();
        let gpu = Gpu {
            cublas,
            functions,
            module,
            image,
            stream,
            side_stream: SideStream::new()?,
            device,
            multiprocessors: multiprocessors.unsigned_abs() as usize,
            backend,
            _context: context,
        };
        // A driver may have to wait for the device to load one, which it must not do while launches are captured as a graph. softcuda never
        // waits, and reads those that are launched.
        if backend == Backend::Cuda {
            for kernel in image::KERNELS {
                gpu.function(kernel)?;
            }
        }
        Ok(gpu)
    }

    /// A kernel of the loaded image.
    fn function(&self, kernel: &str) -> Result<&Function, GpuError> {
        let cell = &self.functions[kernel];
        if let Some(function) = cell.get() {
            return Ok(function);
        }
        let function = driver_call(|| format!("finding the kernel `{kernel}`"), self.module.get_function(kernel))?;
        let function = Function::new(&function)?;
        Ok(cell.get_or_init(|| function))
    }

    /// Whether this is the NVIDIA driver's device or softcuda's.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// The device's name, as `generate --format json` and `-v` show it.
    pub fn name(&self) -> Result<String, GpuError> {
        driver_call(|| "reading the device's name".into(), self.device.name())
    }

    /// The form of the kernels that was loaded.
    pub fn image(&self) -> &'static Image {
        self.image
    }

    /// The number of multiprocessors.
    pub fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// What multiplies many tokens: cuBLAS' file and version, or this program's kernels. Waits until cuBLAS, which starts beside everything
    /// else, has started.
    ///
    /// # Errors
    /// There is one, and it does not run here.
    pub fn multiplies_with(&self) -> Result<String, GpuError> {
        Ok(self.cublas.get()?.map_or_else(|| "this program's kernels".to_owned(), |cublas| cublas.library()))
    }

    /// Free bytes of the chosen device's memory, for who wants no more of it than that.
    pub fn free_memory(choice: DeviceChoice) -> Result<(Backend, usize), GpuError> {
        let backend = driver::select(choice)?;
        driver_call(|| "starting CUDA".into(), cust::init(cust::CudaFlags::empty()))?;
        let device = driver_call(|| "opening device 0".into(), Device::get_device(0))?;
        let _context = driver_call(|| "creating a context".into(), Context::new(device))?;
        let (free, _) = driver_call(|| "reading the free memory".into(), cust::memory::mem_get_info())?;
        Ok((backend, free))
    }

    /// Free and total device memory in bytes.
    pub fn memory(&self) -> Result<(usize, usize), GpuError> {
        driver_call(|| "reading the free memory".into(), cust::memory::mem_get_info())
    }

    /// Waits until all that was enqueued has run.
    pub fn synchronise(&self) -> Result<(), GpuError> {
        driver_call(|| "running the kernels".into(), self.stream.synchronize())
    }
}
