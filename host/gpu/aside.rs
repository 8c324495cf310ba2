//! A second stream, for kernels that run beside what the first one does, and marks that order the two.

use std::cell::Cell;

use cust::{
    stream::{Stream, StreamFlags},
    sys::{CUevent, CUevent_flags_enum, cuEventCreate, cuEventDestroy_v2, cuEventRecord, cuStreamWaitEvent},
};

use super::{Gpu, GpuError, check, driver_call};

/// The second stream. Its blocks go before those of the first where both wait for room: what it does is wanted soon, and a
/// matrix product would leave it nothing before its last blocks.
const PRIORITY: i32 = -1;

/// The second stream of a device.
pub(super) struct Aside {
    stream: Stream,
    /// Whether launches go to it.
    active: Cell<bool>,
}

impl Aside {
    pub(super) fn new() -> Result<Aside, GpuError> {
        let stream = Stream::new(StreamFlags::NON_BLOCKING, Some(PRIORITY));
        Ok(Aside { stream: driver_call(|| "creating a stream".into(), stream)?, active: Cell::new(false) })
    }
}

/// A place in a stream that work of the other can wait for.
///
/// Like a buffer, it is dropped before the [`Gpu`] that it was made on.
pub struct Mark(CUevent);

impl Drop for Mark {
    fn drop(&mut self) {
        // SAFETY: the event is this value's own; one that is still to be passed is freed later. A failure leaves nothing to
        // be done.
        let _ = unsafe { cuEventDestroy_v2(self.0) };
    }
}

impl Gpu {
    /// The stream that launches go to.
    pub(super) fn current_stream(&self) -> &Stream {
        if self.aside.active.get() { &self.aside.stream } else { &self.stream }
    }

    /// A mark that was not set: nothing waits for it.
    pub fn mark(&self) -> Result<Mark, GpuError> {
        let mut event = std::ptr::null_mut();
        // SAFETY: the pointer leads to where the event goes.
        let result = unsafe { cuEventCreate(&mut event, CUevent_flags_enum::CU_EVENT_DISABLE_TIMING as u32) };
        check(|| "creating an event".into(), result)?;
        Ok(Mark(event))
    }

    /// Sets a mark behind all that was enqueued here: on the first stream, or on the second within [`Gpu::aside`].
    pub fn set(&self, mark: &Mark) -> Result<(), GpuError> {
        // SAFETY: stream and event are live.
        let result = unsafe { cuEventRecord(mark.0, self.current_stream().as_inner()) };
        check(|| "recording an event".into(), result)
    }

    /// Lets what is enqueued here from now on wait for where the mark was set last.
    pub fn pass(&self, mark: &Mark) -> Result<(), GpuError> {
        // SAFETY: stream and event are live.
        let result = unsafe { cuStreamWaitEvent(self.current_stream().as_inner(), mark.0, 0) };
        check(|| "waiting for an event".into(), result)
    }

    /// Runs `enqueue`, whose kernels go to the second stream. It waits for nothing on the first but marks that it passes,
    /// and the first waits for it likewise. It must not copy, read or multiply.
    pub fn aside<T>(&self, enqueue: impl FnOnce() -> Result<T, GpuError>) -> Result<T, GpuError> {
        let before = self.aside.active.replace(true);
        let result = enqueue();
        self.aside.active.set(before);
        result
    }
}

#[cfg(test)]
mod tests {
    use driver::DeviceChoice;

    use super::*;

    #[test]
    fn kernels_aside_are_ordered_by_marks() {
        let gpu = Gpu::open(DeviceChoice::Soft).unwrap();
        let ones = gpu.upload("ones", &[1.0f32; 256]).unwrap();
        let (a, b) = (gpu.alloc::<f32>("a", 256).unwrap(), gpu.alloc::<f32>("b", 256).unwrap());
        let (filled, done) = (gpu.mark().unwrap(), gpu.mark().unwrap());
        gpu.aside(|| {
            gpu.pass(&done)?;
            gpu.swiglu(&ones, &ones, &a, 256)?;
            gpu.set(&filled)
        })
        .unwrap();
        gpu.pass(&filled).unwrap();
        gpu.swiglu(&a, &ones, &b, 256).unwrap();
        gpu.set(&done).unwrap();
        let silu = |x: f32| x / (1.0 + (-x).exp());
        let got = gpu.read(&b).unwrap();
        assert!(got.iter().all(|value| (value - silu(silu(1.0))).abs() < 1e-6), "{got:?}");
        // A failure aside leaves the first stream in its place.
        let failed: Result<(), GpuError> =
            gpu.aside(|| Err(GpuError::Driver { action: "a".into(), detail: "b".into() }));
        assert!(failed.is_err() && !gpu.aside.active.get());
    }
}
