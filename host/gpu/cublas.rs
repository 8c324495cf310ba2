//! The cuBLAS handle, made while a program's start does something else: opening the library and starting it takes as long as
//! loading a small model.

use std::{
    cell::{OnceCell, RefCell},
    thread::{self, JoinHandle},
};

use cust::{context::Context, device::Device, sys::CUstream};
use driver::cublas::Handle;

use super::{GpuError, driver_call};

/// A handle that is being made, or made.
pub(super) struct Cublas {
    stream: CUstream,
    starting: RefCell<Option<JoinHandle<Result<Handle, GpuError>>>>,
    handle: OnceCell<Handle>,
}

impl Cublas {
    /// Begins to make the handle for products on a stream, which must outlive this value.
    pub(super) fn start(device: Device, stream: CUstream) -> Cublas {
        let start = move || {
            // The device's context is one for all threads.
            let _context = driver_call(|| "creating a context".into(), Context::new(device))?;
            Ok(Handle::new()?)
        };
        Cublas { stream, starting: RefCell::new(Some(thread::spawn(start))), handle: OnceCell::new() }
    }

    /// The handle, waited for where it is not ready.
    ///
    /// # Errors
    /// It could not be made: what is wrong is said once, by the first call.
    pub(super) fn get(&self) -> Result<&Handle, GpuError> {
        if let Some(starting) = self.starting.take() {
            let handle = starting.join().expect("starting cuBLAS does not panic")?;
            // SAFETY: the stream belongs to the device's context and outlives the handle, says who called `start`.
            unsafe { handle.set_stream(self.stream.cast())? };
            let _ = self.handle.set(handle);
        }
        Ok(self.handle.get().expect("whoever uses cuBLAS stops where it is missing"))
    }
}

/// Nothing may still use the context when it goes.
impl Drop for Cublas {
    fn drop(&mut self) {
        if let Some(starting) = self.starting.take() {
            let _ = starting.join();
        }
    }
}
