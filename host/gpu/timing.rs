//! How long the device takes, by its own clock: two events around what is enqueued between them.

use std::time::Duration;

use cust::event::{Event, EventFlags};

use super::{Gpu, GpuError, driver_call};

impl Gpu {
    /// Runs `enqueue` and waits for what it enqueued; gives the time that this took the device, in which the host's time to
    /// enqueue does not count where the device has something to do meanwhile.
    ///
    /// On softcuda, which runs everything when it is enqueued, it is the host's time.
    pub fn time<E: From<GpuError>>(&self, enqueue: impl FnOnce() -> Result<(), E>) -> Result<Duration, E> {
        let event = || driver_call(|| "creating an event".into(), Event::new(EventFlags::DEFAULT));
        let (start, end) = (event()?, event()?);
        let record = |event: &Event| driver_call(|| "recording an event".into(), event.record(&self.stream));
        record(&start)?;
        enqueue()?;
        record(&end)?;
        self.synchronise()?;
        let milliseconds = driver_call(|| "reading the events".into(), end.elapsed_time_f32(&start))?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
    }
}
