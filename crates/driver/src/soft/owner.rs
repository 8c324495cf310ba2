//! Which contexts exist, which one is current, and so who owns what is made.

use std::cell::RefCell;
use std::ptr;
use std::sync::atomic::AtomicU32;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::registry::Registry;
use super::{Failure, initialised_device};
use crate::sys::*;

/// A context.
pub(super) struct Context {
    pub(super) flags: AtomicU32,
    pub(super) primary: bool,
}

/// Those that exist.
pub(super) static CONTEXTS: Registry<Context> = Registry::new("context");

/// The primary context: how often it is retained (0 is ended), and its handle once it had one.
pub(super) struct Primary {
    pub(super) retained: u32,
    pub(super) handle: Option<usize>,
    pub(super) flags: u32,
}

static PRIMARY: Mutex<Primary> = Mutex::new(Primary { retained: 0, handle: None, flags: 0 });

thread_local! {
    /// This thread's stack of context handles.
    pub(super) static STACK: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn primary() -> MutexGuard<'static, Primary> {
    PRIMARY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names the context that owns a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner(pub(super) usize);

/// The current context of this thread.
///
/// # Errors
/// `CUDA_ERROR_NOT_INITIALIZED`, `CUDA_ERROR_INVALID_CONTEXT` where none is current, `CUDA_ERROR_CONTEXT_IS_DESTROYED`.
pub(crate) fn current() -> Result<Owner, Failure> {
    initialised_device()?;
    let handle = STACK
        .with(|stack| stack.borrow().last().copied())
        .ok_or_else(|| Failure::new(CUDA_ERROR_INVALID_CONTEXT, "no context is current on this thread"))?;
    live(ptr::without_provenance_mut(handle)).map_err(|_| {
        Failure::new(CUDA_ERROR_CONTEXT_IS_DESTROYED, "the context that is current on this thread has ended")
    })?;
    Ok(Owner(handle))
}

/// A context that exists and, where it is the primary one, is retained.
pub(super) fn live(handle: CUcontext) -> Result<std::sync::Arc<Context>, Failure> {
    let invalid =
        || Failure::new(CUDA_ERROR_INVALID_CONTEXT, format!("{handle:p} is not the handle of a live context"));
    let context = CONTEXTS.get(handle).map_err(|_| invalid())?;
    if context.primary && primary().retained == 0 {
        return Err(invalid());
    }
    Ok(context)
}
