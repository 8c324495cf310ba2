//! The side stream: a second stream for kernels that run beside what the main one does, and events that order the two.

use std::cell::Cell;

use cust::{
    stream::{Stream, StreamFlags},
    sys::{
        CUevent, CUevent_flags_enum, cuEventCreate, cuEventDestroy_v2, cuEventRecord, cuEventSynchronize,
        cuStreamWaitEvent,
    },
};

use super::{Gpu, GpuError, check, driver_call};

/// The side stream's. Its blocks go before those of the main stream where both wait for room: what it does is wanted soon, and a
/// matrix product would leave it nothing before its last blocks.
const PRIORITY: i32 = -1;

/// The second stream of a device.
pub(super) struct SideStream {
    stream: Stream,
    /// Whether launches go to it.
    active: Cell<bool>,
}

impl SideStream {
    pub(super) fn new() -> Result<SideStream, GpuError> {
        let stream = Stream::new(StreamFlags::NON_BLOCKING, Some(PRIORITY));
        Ok(SideStream { stream: driver_call(|| "creating a stream".into(), stream)?, active: Cell::new(false) })
    }
}

/// A place in a stream that work of the other can wait for.
///
/// Like a buffer, it is dropped before the [`Gpu`] that it was made on.
pub struct Event(CUevent);

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is this value's own; one that is still to be waited for is freed later. A failure leaves nothing to
        // be done.
        let _ = unsafe { cuEventDestroy_v2(self.0) };
    }
}

impl Gpu {
    /// The stream that launches go to.
    pub(super) fn current_stream(&self) -> &Stream {
        if self.side_stream.active.get() { &self.side_stream.stream } else { &self.stream }
    }

    /// An event that was not recorded: nothing waits for it.
    pub fn event(&self) -> Result<Event, GpuError> {
        let mut event = std::ptr::null_mut();
        // SAFETY: the pointer leads to where the event goes.
        let result = unsafe { cuEventCreate(&mut event, CUevent_flags_enum::CU_EVENT_DISABLE_TIMING as u32) };
        check(|| "creating an event".into(), result)?;
        Ok(Event(event))
    }

    /// Records an event behind all that was enqueued here: on the main stream, or on the side stream within
    /// [`Gpu::on_side_stream`].
    pub fn record(&self, event: &Event) -> Result<(), GpuError> {
        // SAFETY: stream and event are live.
        let result = unsafe { cuEventRecord(event.0, self.current_stream().as_inner()) };
        check(|| "recording an event".into(), result)
    }

    /// Lets what is enqueued here from now on wait for where the event was recorded last.
    pub fn wait(&self, event: &Event) -> Result<(), GpuError> {
        // SAFETY: stream and event are live.
        let result = unsafe { cuStreamWaitEvent(self.current_stream().as_inner(), event.0, 0) };
        check(|| "waiting for an event".into(), result)
    }

    /// Waits until the device has come to where the event was recorded last. What was enqueued behind that runs on.
    pub fn synchronise_with(&self, event: &Event) -> Result<(), GpuError> {
        // SAFETY: the event is live.
        let result = unsafe { cuEventSynchronize(event.0) };
        check(|| "waiting for the device".into(), result)
    }

    /// Runs `enqueue`, whose kernels go to the side stream. That waits for nothing on the main stream but the events that
    /// `enqueue` waits for, and the main stream waits for it likewise. `enqueue` must not copy, read or multiply.
    pub fn on_side_stream<T>(&self, enqueue: impl FnOnce() -> Result<T, GpuError>) -> Result<T, GpuError> {
        let before = self.side_stream.active.replace(true);
        let result = enqueue();
        self.side_stream.active.set(before);
        result
    }
}

#[cfg(test)]
mod tests {
    use driver::DeviceChoice;

    use super::*;
    use crate::gpu::kernels::Glu;

    #[test]
    fn kernels_on_the_side_stream_are_ordered_by_events() {
        let gpu = Gpu::open(DeviceChoice::Soft).unwrap();
        let ones = gpu.upload("ones", &[1.0f32; 256]).unwrap();
        let (a, b) = (gpu.alloc::<f32>("a", 256).unwrap(), gpu.alloc::<f32>("b", 256).unwrap());
        let (filled, done) = (gpu.event().unwrap(), gpu.event().unwrap());
        gpu.on_side_stream(|| {
            gpu.wait(&done)?;
            gpu.glu(Glu::Swiglu, &ones, &ones, &a, 256)?;
            gpu.record(&filled)
        })
        .unwrap();
        gpu.wait(&filled).unwrap();
        gpu.glu(Glu::Swiglu, &a, &ones, &b, 256).unwrap();
        gpu.record(&done).unwrap();
        let silu = |x: f32| x / (1.0 + (-x).exp());
        let got = gpu.read(&b).unwrap();
        assert!(got.iter().all(|value| (value - silu(silu(1.0))).abs() < 1e-6), "{got:?}");
        // A failure there leaves the main stream in its place.
        let failed: Result<(), GpuError> =
            gpu.on_side_stream(|| Err(GpuError::Driver { action: "a".into(), detail: "b".into() }));
        assert!(failed.is_err() && !gpu.side_stream.active.get());
    }
}
