//! Streams and events.
//!
//! An operation is done when its call returns, so a stream has no queue: it is a handle with flags, and what it has
//! captured while it does that. Order within and
//! between streams is the order of the calls, which is one that a GPU could have chosen. An event remembers when it was
//! recorded, on a monotonic clock; since the work before it was done by then, times between events are the times that
//! the work took.

use std::cell::Cell;
use std::ffi::{c_int, c_uint, c_ulonglong, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use softcuda::Device;

use super::capture::{self, Capture};
use super::owner::{self, Owner};
use super::registry::Registry;
use super::work::Work;
use super::{Failure, Outcome, give};
use crate::sys::*;

pub(crate) struct Stream {
    owner: Owner,
    flags: c_uint,
    capture: Mutex<Option<Capture>>,
}

impl Stream {
    /// The capture in progress, if there is one.
    pub fn capture(&self) -> MutexGuard<'_, Option<Capture>> {
        self.capture.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was made in this context.
    pub fn is_of(&self, owner: Owner) -> bool {
        self.owner == owner
    }

    /// Whether the legacy default stream waits for this one: it was made without `CU_STREAM_NON_BLOCKING`.
    pub fn is_blocking(&self) -> bool {
        self.flags & 1 == 0
    }
}

struct Event {
    owner: Owner,
    timing: bool,
    recorded: Mutex<Option<Instant>>,
}

static STREAMS: Registry<Stream> = Registry::new("stream");
static EVENTS: Registry<Event> = Registry::new("event");

/// Ends the streams and events of a context.
pub(crate) fn release(owner: Owner) {
    STREAMS.retain(|stream| stream.owner != owner);
    EVENTS.retain(|event| event.owner != owner);
}

/// Whether the handle is one of the default streams, which are always there: null, `CU_STREAM_LEGACY` (1),
/// `CU_STREAM_PER_THREAD` (2).
fn is_default(stream: CUstream) -> bool {
    stream.addr() <= 2
}

/// Accepts a default stream or a live one, with a context current.
pub(crate) fn check(stream: CUstream) -> Outcome {
    owner::current()?;
    if !is_default(stream) {
        STREAMS.get(stream)?;
    }
    Ok(())
}

/// The device that works for the stream.
pub(crate) fn device(stream: CUstream) -> Result<&'static Device, Failure> {
    check(stream)?;
    if is_default(stream) { owner::current_device() } else { owner::device_of(STREAMS.get(stream)?.owner) }
}

thread_local! {
    static PER_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, a null stream means this thread's default stream: for programs that were compiled so.
pub(crate) struct PerThread(bool);

/// See [`PerThread`].
pub(crate) fn per_thread() -> PerThread {
    PerThread(PER_THREAD.replace(true))
}

impl Drop for PerThread {
    fn drop(&mut self) {
        PER_THREAD.set(self.0);
    }
}

/// Whether the stream is this thread's default stream.
pub(crate) fn is_per_thread(stream: CUstream) -> bool {
    const HANDLE: usize = 2;
    stream.addr() == HANDLE || (stream.is_null() && PER_THREAD.get())
}

/// The stream that may capture, with a context current; none for a default stream.
pub(crate) fn with_capture(stream: CUstream) -> Result<Option<Arc<Stream>>, Failure> {
    owner::current()?;
    if is_default(stream) { Ok(None) } else { STREAMS.get(stream).map(Some) }
}

/// The stream of a handle's number, if it still lives.
pub(crate) fn live(handle: usize) -> Option<Arc<Stream>> {
    STREAMS.get(std::ptr::without_provenance_mut(handle)).ok()
}

/// Does the work, or keeps it where the stream captures.
///
/// # Safety
/// - As for [`Work::run`], now and, where the stream captures, whenever the graph is launched.
pub(crate) unsafe fn submit(stream: CUstream, work: Work) -> Outcome {
    check(stream)?;
    match capture::keep(stream, work)? {
        // SAFETY: the caller's promise.
        Some(work) => unsafe { work.run() },
        None => Ok(()),
    }
}

pub(crate) unsafe fn create(stream: *mut CUstream, flags: c_uint) -> Outcome {
    let owner = owner::current()?;
    if flags > 1 {
        return Err(Failure::invalid_value(format!("stream flags {flags:#x}; expected 0 or 1 (non-blocking)")));
    }
    if stream.is_null() {
        return Err(Failure::invalid_value("the pointer for the handle is null"));
    }
    // SAFETY: the caller's pointer for the handle.
    unsafe { give(stream, STREAMS.insert(Stream { owner, flags, capture: Mutex::new(None) })) }
}

/// Any priority is taken: the device has one, 0, to which a value outside the range is brought.
pub(crate) unsafe fn create_with_priority(stream: *mut CUstream, flags: c_uint, _priority: c_int) -> Outcome {
    // SAFETY: the caller's pointer for the handle.
    unsafe { create(stream, flags) }
}

pub(crate) fn destroy(stream: CUstream) -> Outcome {
    owner::current()?;
    STREAMS.remove(stream).map(drop)
}

pub(crate) unsafe fn get_flags(stream: CUstream, flags: *mut c_uint) -> Outcome {
    check(stream)?;
    let of_stream = if is_default(stream) { 0 } else { STREAMS.get(stream)?.flags };
    // SAFETY: the caller's pointer for the flags.
    unsafe { give(flags, of_stream) }
}

pub(crate) unsafe fn get_priority(stream: CUstream, priority: *mut c_int) -> Outcome {
    check(stream)?;
    // SAFETY: the caller's pointer for the priority.
    unsafe { give(priority, 0) }
}

/// There is nothing to wait for.
pub(crate) fn synchronize(stream: CUstream) -> Outcome {
    check(stream)?;
    owner::current_device()?.end_chain();
    Ok(())
}

/// The answer is always "done".
pub(crate) fn query(stream: CUstream) -> Outcome {
    check(stream)?;
    capture::refuse(stream, "a question whether it is done")
}

/// The work before the event is done already.
pub(crate) fn wait_event(stream: CUstream, event: CUevent, flags: c_uint) -> Outcome {
    check(stream)?;
    capture::refuse(stream, "a wait for an event")?;
    EVENTS.get(event)?;
    match flags {
        0 | 1 => Ok(()),
        _ => Err(Failure::invalid_value(format!("wait flags {flags:#x}; expected 0 or 1"))),
    }
}

/// The work before the function is done: its turn is now, or where it stands in the graph.
pub(crate) unsafe fn launch_host_function(stream: CUstream, function: CUhostFn, user_data: *mut c_void) -> Outcome {
    check(stream)?;
    let function = function.ok_or_else(|| Failure::invalid_value("the host function is null"))?;
    // SAFETY: the caller gives a function that may be called with its data.
    unsafe { submit(stream, Work::HostFunction { function, user_data }) }
}

pub(crate) unsafe fn add_callback(
    stream: CUstream,
    callback: CUstreamCallback,
    user_data: *mut c_void,
    flags: c_uint,
) -> Outcome {
    check(stream)?;
    if flags != 0 {
        return Err(Failure::invalid_value(format!("callback flags {flags:#x}; expected 0")));
    }
    capture::refuse(stream, "a callback (cuLaunchHostFunc it does)")?;
    let callback = callback.ok_or_else(|| Failure::invalid_value("the callback is null"))?;
    // SAFETY: the caller gives a function that may be called once with its data.
    unsafe { callback(stream, CUDA_SUCCESS, user_data) };
    Ok(())
}

pub(crate) unsafe fn event_create(event: *mut CUevent, flags: c_uint) -> Outcome {
    const DISABLE_TIMING: c_uint = 2;
    const INTERPROCESS: c_uint = 4;
    let owner = owner::current()?;
    if flags > 7 || (flags & INTERPROCESS != 0 && flags & DISABLE_TIMING == 0) {
        return Err(Failure::invalid_value(format!("event flags {flags:#x} are not a valid combination")));
    }
    if flags & INTERPROCESS != 0 {
        return Err(Failure::new(CUDA_ERROR_NOT_SUPPORTED, "softcuda shares no events between processes"));
    }
    if event.is_null() {
        return Err(Failure::invalid_value("the pointer for the handle is null"));
    }
    let created = EVENTS.insert(Event { owner, timing: flags & DISABLE_TIMING == 0, recorded: Mutex::new(None) });
    // SAFETY: the caller's pointer for the handle.
    unsafe { give(event, created) }
}

pub(crate) fn event_destroy(event: CUevent) -> Outcome {
    owner::current()?;
    EVENTS.remove(event).map(drop)
}

pub(crate) fn event_record(event: CUevent, stream: CUstream) -> Outcome {
    check(stream)?;
    capture::refuse(stream, "an event")?;
    *EVENTS.get(event)?.recorded.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    Ok(())
}

/// "Done", also for an event that was never recorded.
pub(crate) fn event_query(event: CUevent) -> Outcome {
    owner::current()?;
    EVENTS.get(event).map(drop)
}

pub(crate) fn event_synchronize(event: CUevent) -> Outcome {
    event_query(event)
}

pub(crate) unsafe fn event_elapsed(milliseconds: *mut f32, start: CUevent, end: CUevent) -> Outcome {
    owner::current()?;
    let recorded = |which: &str, event: CUevent| {
        let event = EVENTS.get(event)?;
        if !event.timing {
            return Err(Failure::new(CUDA_ERROR_INVALID_HANDLE, format!("the {which} event was made without timing")));
        }
        let recorded = *event.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.ok_or_else(|| Failure::new(CUDA_ERROR_INVALID_HANDLE, format!("the {which} event was never recorded")))
    };
    let (start, end) = (recorded("start", start)?, recorded("end", end)?);
    let elapsed = match end.checked_duration_since(start) {
        Some(later) => later.as_secs_f64(),
        None => -start.duration_since(end).as_secs_f64(),
    };
    // SAFETY: the caller's pointer for the time.
    unsafe { give(milliseconds, (elapsed * 1e3) as f32) }
}

/// Flags 1 makes an external node of a captured record, which softcuda does not capture.
pub(crate) fn event_record_with_flags(event: CUevent, stream: CUstream, flags: c_uint) -> Outcome {
    match flags {
        0 | 1 => event_record(event, stream),
        _ => Err(Failure::invalid_value(format!("record flags {flags:#x}; expected 0 or 1"))),
    }
}

pub(crate) unsafe fn get_context(stream: CUstream, context: *mut CUcontext) -> Outcome {
    check(stream)?;
    let Owner(handle) = if is_default(stream) { owner::current()? } else { STREAMS.get(stream)?.owner };
    // SAFETY: the caller's pointer for the handle.
    unsafe { give(context, std::ptr::without_provenance_mut(handle)) }
}

/// The second handle is that of a green context, which no stream has.
pub(crate) unsafe fn get_contexts(stream: CUstream, context: *mut CUcontext, green: *mut *mut c_void) -> Outcome {
    if !green.is_null() {
        // SAFETY: the caller's pointer for the handle.
        unsafe { give(green, std::ptr::null_mut()) }?;
    }
    // SAFETY: the caller's pointer for the handle.
    unsafe { get_context(stream, context) }
}

/// A handle is never used twice: it is the identity, too.
pub(crate) unsafe fn get_id(stream: CUstream, id: *mut c_ulonglong) -> Outcome {
    check(stream)?;
    let of_stream = if is_per_thread(stream) { 2 } else { stream.addr().max(1) };
    // SAFETY: the caller's pointer for the number.
    unsafe { give(id, of_stream as c_ulonglong) }
}

pub(crate) unsafe fn get_device(stream: CUstream, device: *mut CUdevice) -> Outcome {
    // SAFETY: the caller's pointer for the ordinal.
    unsafe { give(device, self::device(stream)?.config().ordinal as CUdevice) }
}

/// Managed memory belongs to no stream: nothing is to be done.
pub(crate) fn attach_memory(stream: CUstream, address: CUdeviceptr, bytes: usize, flags: c_uint) -> Outcome {
    check(stream)?;
    if !matches!(flags, 1 | 2 | 4) {
        return Err(Failure::invalid_value(format!("attachment flags {flags:#x}; expected 1, 2 or 4")));
    }
    super::host::expect_managed(address, bytes.max(1))
}
