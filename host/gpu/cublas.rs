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

    /// The handle, waited for where it is not ready, and tried again where it could not be made.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn get(&self) -> Result<&Handle, GpuError> {
        if self.handle.get().is_none() {
            let handle = match self.starting.take() {
                Some(starting) => starting.join().expect("starting cuBLAS does not panic")?,
                None => Handle::new()?,
            };
            // SAFETY: the stream belongs to the device's context and outlives the handle, says who called `start`.
            unsafe { handle.set_stream(self.stream.cast())? };
            let _ = self.handle.set(handle);
        }
        Ok(self.handle.get().expect("it was just put there"))
    }

    /// Waits for the start to end, well or not: while a stream captures, no handle is made ([`driver::captures`]), so who waited for
    /// one within a capture would wait for ever.
    pub(super) fn settle(&self) {
        // A failure is the next product's.
        let _ = self.get();
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

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use driver::{DeviceChoice, cublas::CublasError};

    use super::*;
    use crate::gpu::Gpu;

    #[test]
    fn a_start_that_failed_is_an_error_and_then_tried_again() {
        let gpu = Gpu::open(DeviceChoice::Soft).unwrap();
        gpu.cublas.get().unwrap();
        let failing = thread::spawn(|| Err(CublasError::NotSelected.into()));
        let cublas =
            Cublas { stream: gpu.stream.as_inner(), starting: RefCell::new(Some(failing)), handle: OnceCell::new() };
        assert!(matches!(cublas.get(), Err(GpuError::Cublas(CublasError::NotSelected))));
        cublas.get().unwrap();
    }

    #[test]
    fn a_capture_does_not_meet_the_start() {
        let (done, finished) = mpsc::channel();
        thread::spawn(move || {
            let mut gpu = Gpu::open(DeviceChoice::Soft).unwrap();
            gpu.cublas.get().unwrap();
            // One that takes longer than the way into a capture.
            let slow = thread::spawn(|| {
                thread::sleep(Duration::from_millis(200));
                Ok(Handle::new()?)
            });
            gpu.cublas =
                Cublas { stream: gpu.stream.as_inner(), starting: RefCell::new(Some(slow)), handle: OnceCell::new() };
            gpu.capture(|| gpu.cublas.get().map(|_| ())).unwrap();
            done.send(()).unwrap();
        });
        finished.recv_timeout(Duration::from_secs(60)).expect("the capture ends");
    }
}
