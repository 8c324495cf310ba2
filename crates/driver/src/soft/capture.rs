//! Stream capture: a stream that captures runs nothing and keeps what it is given, for a graph.
//!
//! What may not happen meanwhile is refused as the driver API has it, and ends the capture's worth: the next
//! `cuStreamEndCapture` gives no graph. Three refusals are stricter than a GPU's, because a graph that relied on them
//! would be slow or would read memory that is gone: host memory of a copy must be page-locked, memory is not allocated in
//! a capture, and a capture stays on one stream.
//!
//! Of the capture modes, relaxed restricts nobody, thread-local its own thread, global every thread. To wait for a whole
//! context spoils the captures of its streams in any mode, whichever thread does it.

use std::ffi::{c_uint, c_ulonglong, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};

use super::owner::Owner;
use super::stream;
use super::work::Work;
use super::{Failure, Outcome, graph};
use crate::class::Class;
use crate::sys::*;

/// A capture in progress, or one that something has spoilt.
pub(crate) struct Capture {
    thread: ThreadId,
    mode: c_uint,
    work: Vec<Work>,
    /// What spoilt it.
    invalid: Option<String>,
}

/// Streams that capture, by handle; one that was destroyed may still be among them. Locked before a stream's capture, never
/// after it.
static CAPTURING: Mutex<Vec<usize>> = Mutex::new(Vec::new());
/// Their number, for the calls in between to see quickly that there is none.
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn change_list(change: impl FnOnce(&mut Vec<usize>)) {
    let mut list = CAPTURING.lock().unwrap_or_else(PoisonError::into_inner);
    change(&mut list);
    COUNT.store(list.len(), Ordering::Release);
}

pub(crate) fn begin(stream: CUstream, mode: c_uint) -> Outcome {
    if mode > CU_STREAM_CAPTURE_MODE_RELAXED {
        return Err(Failure::invalid_value(format!("capture mode {mode}; expected 0, 1 or 2")));
    }
    let target = stream::with_capture(stream)?.ok_or_else(|| {
        Failure::new(
            CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
            "a default stream cannot capture; make one with cuStreamCreate",
        )
    })?;
    let mut capture = target.capture();
    if capture.is_some() {
        return Err(Failure::new(CUDA_ERROR_ILLEGAL_STATE, "the stream captures already"));
    }
    *capture = Some(Capture { thread: thread::current().id(), mode, work: Vec::new(), invalid: None });
    drop(capture);
    change_list(|list| list.push(stream.addr()));
    Ok(())
}

/// Ends the capture, whatever became of it, except from a thread that may not.
pub(crate) unsafe fn end(stream: CUstream, graph: *mut CUgraph) -> Outcome {
    if graph.is_null() {
        return Err(Failure::invalid_value("the pointer for the graph's handle is null"));
    }
    let idle = || Failure::new(CUDA_ERROR_ILLEGAL_STATE, "the stream does not capture");
    let target = stream::with_capture(stream)?.ok_or_else(idle)?;
    let mut capture = target.capture();
    let current = capture.as_ref().ok_or_else(idle)?;
    if current.mode != CU_STREAM_CAPTURE_MODE_RELAXED && current.thread != thread::current().id() {
        return Err(Failure::new(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "another thread began this capture"));
    }
    let Some(ended) = capture.take() else {
        return Err(idle());
    };
    drop(capture);
    change_list(|list| list.retain(|&handle| handle != stream.addr()));
    // SAFETY: the caller's pointer for the handle.
    unsafe { super::give(graph, std::ptr::null_mut()) }?;
    match ended.invalid {
        Some(reason) => {
            Err(Failure::new(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, format!("the capture became invalid: {reason}")))
        }
        // SAFETY: as above.
        None => unsafe { super::give(graph, graph::create(ended.work)?) },
    }
}

pub(crate) unsafe fn status(stream: CUstream, status: *mut c_uint) -> Outcome {
    let state = match stream::with_capture(stream)? {
        None => CU_STREAM_CAPTURE_STATUS_NONE,
        Some(target) => match &*target.capture() {
            None => CU_STREAM_CAPTURE_STATUS_NONE,
            Some(Capture { invalid: None, .. }) => CU_STREAM_CAPTURE_STATUS_ACTIVE,
            Some(_) => CU_STREAM_CAPTURE_STATUS_INVALIDATED,
        },
    };
    // SAFETY: the caller's pointer for the status.
    unsafe { super::give(status, state) }
}

/// Keeps the work where the stream captures; gives it back where it is to run now.
pub(crate) fn keep(stream: CUstream, work: Work) -> Result<Option<Work>, Failure> {
    if COUNT.load(Ordering::Acquire) == 0 {
        return Ok(Some(work));
    }
    let Some(target) = stream::with_capture(stream)? else {
        return legacy(stream).map(|()| Some(work));
    };
    let mut capture = target.capture();
    let Some(current) = &mut *capture else {
        return Ok(Some(work));
    };
    if let Some(reason) = &current.invalid {
        return Err(Failure::new(
            CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
            format!("the stream's capture became invalid before: {reason}"),
        ));
    }
    if current.mode != CU_STREAM_CAPTURE_MODE_RELAXED && current.thread != thread::current().id() {
        let failure = Failure::new(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "another thread began the stream's capture");
        current.invalid = Some(failure.text.clone());
        return Err(failure);
    }
    match work.check_for_graph() {
        Ok(()) => current.work.push(work),
        Err(failure) => {
            current.invalid = Some(failure.text.clone());
            return Err(failure);
        }
    }
    Ok(None)
}

/// Spoils the stream's capture, where there is one, because of a failure: for operations that were refused before they
/// became [`Work`].
pub(crate) fn spoil(stream: CUstream, failure: Failure) -> Failure {
    if COUNT.load(Ordering::Acquire) > 0
        && let Ok(Some(target)) = stream::with_capture(stream)
        && let Some(capture) = &mut *target.capture()
    {
        capture.invalid.get_or_insert_with(|| failure.text.clone());
    }
    failure
}

/// Refuses what a capturing stream cannot take, and spoils its capture.
pub(crate) fn refuse(stream: CUstream, what: &str) -> Outcome {
    if COUNT.load(Ordering::Acquire) == 0 {
        return Ok(());
    }
    let captures = stream::with_capture(stream)?.is_some_and(|target| target.capture().is_some());
    if !captures {
        return Ok(());
    }
    let text = format!("the stream captures; softcuda does not capture {what}");
    Err(spoil(stream, Failure::new(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, text)))
}

/// Work on the legacy default stream would wait for every stream that is not `CU_STREAM_NON_BLOCKING`, and make them
/// wait: it spoils the captures of those, and is refused to a thread that captures.
fn legacy(stream: CUstream) -> Outcome {
    let me = thread::current().id();
    let text = "the legacy default stream waits for the streams that capture";
    match stream::is_per_thread(stream) {
        true => Ok(()),
        false => spoil_where(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, text, |capture, stream| {
            stream.is_blocking() || is_bound(capture, me)
        }),
    }
}

/// Whether the capture binds this thread to calls that are safe in it.
fn is_bound(capture: &Capture, thread: ThreadId) -> bool {
    match capture.mode {
        CU_STREAM_CAPTURE_MODE_GLOBAL => true,
        CU_STREAM_CAPTURE_MODE_THREAD_LOCAL => capture.thread == thread,
        _ => false,
    }
}

/// Lets a call of this class pass, or refuses it because it would make the host wait, or change memory, in the middle of
/// a capture.
pub(crate) fn permit(class: Class) -> Outcome {
    let what = match class {
        _ if COUNT.load(Ordering::Acquire) == 0 => return Ok(()),
        Class::Allocate => "memory cannot be allocated",
        Class::Free => "memory cannot be freed",
        Class::Wait => "the host cannot wait for the device",
        Class::CopyAndWait => "a copy that the host waits for cannot be made",
        Class::Module => "a module cannot be loaded or unloaded",
        _ => return Ok(()),
    };
    let me = thread::current().id();
    let text = format!("{what} while a stream captures");
    spoil_where(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, &text, |capture, _| is_bound(capture, me))
}

/// Refuses to wait for all streams of a context while one of them captures.
pub(crate) fn wait_for_all(owner: Owner) -> Outcome {
    if COUNT.load(Ordering::Acquire) == 0 {
        return Ok(());
    }
    let text = "the host cannot wait for a context while one of its streams captures";
    spoil_where(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, text, |_, stream| stream.is_of(owner))
}

/// Spoils each capture that `concerns`, which is told its stream; an error where there is one.
fn spoil_where(result: CUresult, text: &str, concerns: impl Fn(&Capture, &stream::Stream) -> bool) -> Outcome {
    let mut outcome = Ok(());
    let mut list = CAPTURING.lock().unwrap_or_else(PoisonError::into_inner);
    list.retain(|&handle| {
        let Some(target) = stream::live(handle) else {
            return false;
        };
        let mut capture = target.capture();
        let Some(capture) = &mut *capture else {
            return false;
        };
        if concerns(capture, &target) {
            capture.invalid.get_or_insert_with(|| text.to_owned());
            outcome = Err(Failure::new(result, text));
        }
        true
    });
    COUNT.store(list.len(), Ordering::Release);
    outcome
}

/// The capture's state; its identity, which is the stream's; no graph to be changed while it grows.
pub(crate) unsafe fn info(
    stream: CUstream,
    status: *mut c_uint,
    id: *mut c_ulonglong,
    graph: *mut CUgraph,
    dependencies: *mut *const CUgraphNode,
    count: *mut usize,
) -> Outcome {
    // SAFETY: the caller's pointers, of which all but the first may be null.
    unsafe {
        self::status(stream, status)?;
        if !id.is_null() {
            super::give(id, stream.addr() as c_ulonglong)?;
        }
        if !graph.is_null() {
            super::give(graph, std::ptr::null_mut())?;
        }
        if !dependencies.is_null() {
            super::give(dependencies, std::ptr::null())?;
        }
        if !count.is_null() {
            super::give(count, 0)?;
        }
    }
    Ok(())
}

/// As [`info`], with the data of edges, of which there are none.
pub(crate) unsafe fn info_with_edges(
    stream: CUstream,
    status: *mut c_uint,
    id: *mut c_ulonglong,
    graph: *mut CUgraph,
    dependencies: *mut *const CUgraphNode,
    edges: *mut *const c_void,
    count: *mut usize,
) -> Outcome {
    // SAFETY: as for `info`.
    unsafe {
        if !edges.is_null() {
            super::give(edges, std::ptr::null())?;
        }
        info(stream, status, id, graph, dependencies, count)
    }
}
