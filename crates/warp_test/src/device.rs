//! The device that a test runs on.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::env;
use std::rc::Rc;

use bytemuck::Pod;
use cuda_std::tensor_map::Descriptor;
use cuda_std::{Arguments, Kernel};
use driver::{Backend, DeviceChoice};

use crate::cuda::Cuda;
use crate::soft::Soft;
use crate::{Buffer, Launch, Launched, Tiles};

/// Why something could not be done on a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // each variant's text is its documentation
pub enum Error {
    /// What softcuda or its sanitizer found.
    #[error("{0}")]
    Fault(#[from] softcuda::Fault),
    #[error("{0}")]
    Driver(String),
    #[error("{0}")]
    NoDevice(#[from] driver::SelectError),
    #[error("{0}")]
    Choice(String),
    #[error(
        "the kernel `{kernel}` has no image: let its crate's build.rs be `fn main() {{ cuda_builder::build_kernels() }}`, and \
         mark it #[kernel] in src/"
    )]
    NoImage { kernel: String },
    #[error("the image of the crate `{image}` has no kernel `{kernel}`: kernels belong into the crate's library, src/")]
    NoKernel { kernel: String, image: String },
    #[error("the image of the crate `{image}`: {problem}")]
    Image { image: String, problem: String },
    #[error("a tensor map: {0}")]
    TensorMap(String),
    #[error("the kernel `{kernel}` has {found} parameters in its image and {expected} in its handle")]
    Parameters { kernel: String, found: usize, expected: usize },
}

impl Error {
    /// The fault, where softcuda found one: its kind, and where the kernel was.
    pub fn fault(&self) -> Option<&softcuda::Fault> {
        match self {
            Error::Fault(fault) => Some(fault),
            _ => None,
        }
    }
}

/// What came of an operation, or a panic at the line of the test that asked for it.
#[track_caller]
pub(crate) fn done<T>(result: Result<T, Error>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

/// A device for tests: softcuda, its sanitizer on, or the first NVIDIA GPU.
///
/// What goes wrong is a panic that says what and at which line of the test: a fault of the kernel, with its place; memory
/// that is not there. [`Device::try_launch`] gives the fault to a test that expects it.
pub struct Device {
    inner: Rc<Inner>,
}

pub(crate) struct Inner {
    backend: Memory,
    launched: RefCell<BTreeSet<&'static str>>,
}

enum Memory {
    Soft(Soft),
    Cuda(Cuda),
}

impl Device {
    /// The device that `FERROWARP_DEVICE` names (`auto`, `cuda`, `soft`), `auto` unless told: the GPU where there is one.
    ///
    /// # Panics
    /// The variable says something else, or asks for a GPU that is not there.
    #[track_caller]
    #[allow(clippy::new_without_default, reason = "a default does not panic")]
    pub fn new() -> Device {
        let choice = env::var("FERROWARP_DEVICE").ok().filter(|choice| !choice.is_empty());
        let choice = choice.map_or(Ok(DeviceChoice::Auto), |choice| choice.parse());
        let device = choice.map_err(|error| Error::Choice(format!("FERROWARP_DEVICE: {error}"))).and_then(Device::open);
        done(device)
    }

    /// A device by choice.
    ///
    /// # Errors
    /// A GPU is asked for and there is none that can be used; the error says where a driver was looked for.
    pub fn open(choice: DeviceChoice) -> Result<Device, Error> {
        match choice {
            DeviceChoice::Soft => Ok(Device::soft()),
            DeviceChoice::Cuda => Ok(Device::of(Memory::Cuda(Cuda::new()?))),
            DeviceChoice::Auto => match Cuda::new() {
                Ok(cuda) => Ok(Device::of(Memory::Cuda(cuda))),
                Err(Error::NoDevice(_)) => Ok(Device::soft()),
                Err(error) => Err(error),
            },
        }
    }

    /// A new softcuda device, empty, its sanitizer on.
    pub fn soft() -> Device {
        Device::of(Memory::Soft(Soft::new()))
    }

    fn of(backend: Memory) -> Device {
        Device { inner: Rc::new(Inner { backend, launched: RefCell::default() }) }
    }

    /// What the device is.
    pub fn backend(&self) -> Backend {
        match self.inner.backend {
            Memory::Soft(_) => Backend::Soft,
            Memory::Cuda(_) => Backend::Cuda,
        }
    }

    /// Switches softcuda's sanitizer, from the next launch on: without it a launch is several times as fast, and races and
    /// reads of memory that nobody wrote go unnoticed. A GPU has none.
    pub fn set_sanitizer(&self, on: bool) {
        if let Memory::Soft(soft) = &self.inner.backend {
            soft.set_sanitizer(on);
        }
    }

    /// A buffer with a copy of the values.
    ///
    /// # Panics
    /// There is too little memory, or there are no values.
    #[track_caller]
    pub fn upload<T: Pod>(&self, values: &[T]) -> Buffer<T> {
        let buffer = self.alloc(values.len());
        buffer.write(values);
        buffer
    }

    /// A buffer of `len` elements that hold nothing: reading one that no kernel wrote is a fault on softcuda, and bytes of
    /// `0xff` on a GPU, NaN as floats. Writing past its end is a fault there, and on a GPU noticed by [`Buffer::read`].
    ///
    /// # Panics
    /// There is too little memory, or `len` is 0.
    #[track_caller]
    pub fn alloc<T: Pod>(&self, len: usize) -> Buffer<T> {
        done(Buffer::new(self.inner.clone(), len))
    }

    /// Runs a kernel to its end.
    ///
    /// # Panics
    /// The launch is refused, or the kernel fails: the text is softcuda's fault, or the driver's error.
    ///
    /// # Safety
    /// - The kernel's contract (its `# Safety` section) holds for this launch and these arguments. softcuda checks every
    ///   access all the same.
    #[track_caller]
    pub unsafe fn launch<P, A: Arguments<P>>(&self, kernel: Kernel<P>, launch: Launch, arguments: A) -> Launched {
        // SAFETY: the caller's contract.
        done(unsafe { self.try_launch(kernel, launch, arguments) })
    }

    /// Runs a kernel to its end, and gives back what went wrong.
    ///
    /// # Errors
    /// As [`Device::launch`] panics.
    ///
    /// # Safety
    /// - As for [`Device::launch`]; on softcuda a test may break it to see the fault.
    pub unsafe fn try_launch<P, A: Arguments<P>>(
        &self,
        kernel: Kernel<P>,
        launch: Launch,
        arguments: A,
    ) -> Result<Launched, Error> {
        let name = kernel.name();
        let image = kernel.image().ok_or_else(|| Error::NoImage { kernel: name.into() })?;
        let arguments = kernel.pack(arguments);
        self.inner.launched.borrow_mut().insert(name);
        let counters = match &self.inner.backend {
            Memory::Soft(soft) => Some(soft.launch(image, name, launch, &arguments)?),
            Memory::Cuda(cuda) => {
                cuda.launch(image, name, launch, &arguments)?;
                None
            }
        };
        Ok(Launched { counters })
    }

    /// On softcuda, the buffers that were not dropped, by their sizes and places.
    pub(crate) fn leaked(&self) -> Vec<String> {
        match &self.inner.backend {
            Memory::Soft(soft) => soft.leaked(),
            Memory::Cuda(_) => Vec::new(),
        }
    }

    /// The names of the kernels that were launched on this device.
    pub fn launched(&self) -> BTreeSet<&'static str> {
        self.inner.launched.borrow().clone()
    }
}

impl Inner {
    pub(crate) fn alloc(&self, bytes: usize) -> Result<u64, Error> {
        match &self.backend {
            Memory::Soft(soft) => Ok(soft.alloc(bytes)?),
            Memory::Cuda(cuda) => cuda.alloc(bytes),
        }
    }

    pub(crate) fn free(&self, address: u64) -> Result<(), Error> {
        match &self.backend {
            Memory::Soft(soft) => Ok(soft.free(address)?),
            Memory::Cuda(cuda) => cuda.free(address),
        }
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        match &self.backend {
            Memory::Soft(soft) => Ok(soft.write(address, bytes)?),
            Memory::Cuda(cuda) => cuda.write(address, bytes),
        }
    }

    pub(crate) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Error> {
        match &self.backend {
            Memory::Soft(soft) => Ok(soft.read(address, bytes)?),
            Memory::Cuda(cuda) => cuda.read(address, bytes),
        }
    }

    /// Describes a tensor at an address; strides in bytes.
    pub(crate) fn tensor_map(
        &self,
        element: u32,
        address: u64,
        tiles: &Tiles,
        strides: &[u64],
    ) -> Result<Descriptor, Error> {
        let (rank, steps) = (tiles.sizes.len(), tiles.all_steps());
        if strides.len() + 1 != rank || tiles.tile.len() != rank || steps.len() != rank {
            return Err(Error::TensorMap(format!(
                "{rank} dimensions, {} strides, a tile of {} dimensions and {} steps; expected a stride fewer than dimensions, and as \
                 many of the others",
                strides.len(),
                tiles.tile.len(),
                steps.len()
            )));
        }
        match &self.backend {
            Memory::Soft(_) => crate::soft::tensor_map(element, address, tiles, strides, &steps),
            Memory::Cuda(cuda) => cuda.tensor_map(element, address, tiles, strides, &steps),
        }
    }
}
