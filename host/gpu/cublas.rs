//! The cuBLAS handle, made while a program's start does something else: opening the library and starting it takes as long as
//! loading a small model.

use std::{
    cell::{OnceCell, RefCell},
    thread::{self, JoinHandle},
};

use cust::{context::Context, device::Device, sys::CUstream};
use driver::cublas::{CublasError, Handle};

use super::{GpuError, driver_call};

/// A handle that is being made, or made; or none, where there is no cuBLAS: then products are kernels' (`kernels/product/`).
pub(super) struct Cublas {
    stream: CUstream,
    starting: RefCell<Option<JoinHandle<Result<Handle, GpuError>>>>,
    handle: OnceCell<Option<Handle>>,
}

impl Cublas {
    /// None, whatever there is.
    pub(super) fn none(stream: CUstream) -> Cublas {
        Cublas { stream, starting: RefCell::new(None), handle: OnceCell::from(None) }
    }

    /// Begins to make the handle for products on a stream, which must outlive this value.
    pub(super) fn start(device: Device, stream: CUstream) -> Cublas {
        let start = move || {
            // The device's context is one for all threads.
            let _context = driver_call(|| "creating a context".into(), Context::new(device))?;
            Ok(Handle::new()?)
        };
        Cublas { stream, starting: RefCell::new(Some(thread::spawn(start))), handle: OnceCell::new() }
    }

    /// The handle, waited for where it is not ready, and tried again where it could not be made; or none, where there is no cuBLAS on this
    /// machine or is to be none.
    ///
    /// # Errors
    /// There is one, and it cannot be made.
    pub(super) fn get(&self) -> Result<Option<&Handle>, GpuError> {
        if self.handle.get().is_none() {
            let made = match self.starting.take() {
                Some(starting) => starting.join().expect("starting cuBLAS does not panic"),
                None => Handle::new().map_err(GpuError::from),
            };
            let handle = match made {
                Err(GpuError::Cublas(CublasError::Absent { .. } | CublasError::TurnedOff)) => None,
                made => Some(made?),
            };
            if let Some(handle) = &handle {
                // SAFETY: the stream belongs to the device's context and outlives the handle, says who called `start`.
                unsafe { handle.set_stream(self.stream.cast())? };
            }
            let _ = self.handle.set(handle);
        }
        Ok(self.handle.get().expect("it was just put there").as_ref())
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

    use driver::DeviceChoice;

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
    fn where_there_is_no_cublas_there_is_no_handle() {
        let gpu = Gpu::open(DeviceChoice::Soft).unwrap();
        for absence in [CublasError::TurnedOff, CublasError::Absent { attempts: Vec::new() }] {
            let absent = thread::spawn(|| Err(absence.into()));
            let cublas =
                Cublas { stream: gpu.stream.as_inner(), starting: RefCell::new(Some(absent)), handle: OnceCell::new() };
            assert!(cublas.get().unwrap().is_none());
        }
        // What was named, or does not start, is missed.
        let missed = thread::spawn(|| Err(CublasError::NotFound { attempts: Vec::new() }.into()));
        let cublas =
            Cublas { stream: gpu.stream.as_inner(), starting: RefCell::new(Some(missed)), handle: OnceCell::new() };
        assert!(matches!(cublas.get(), Err(GpuError::Cublas(CublasError::NotFound { .. }))));
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
