//! Which contexts exist, which one is current, and so who owns what is made.

use std::cell::RefCell;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use softcuda::Device;

use super::registry::Registry;
use super::{Failure, initialised};
use crate::sys::*;

/// A context.
pub(super) struct Context {
    pub(super) flags: AtomicU32,
    pub(super) primary: bool,
    /// The ordinal of its device.
    pub(super) device: usize,
    /// What `cuCtxSetLimit` set, by limit.
    pub(super) limits: [AtomicUsize; 7],
}

impl Context {
    pub(super) fn new(device: usize, primary: bool, flags: u32) -> Context {
        // cuda.h's order: bytes of a thread's stack, of the buffer for printf and of the heap; depth and number of launches
        // by kernels; bytes fetched into the second-level cache, and kept there.
        let limits = [1 << 10, 1 << 20, 8 << 20, 2, 2048, 128, 0].map(AtomicUsize::new);
        Context { flags: AtomicU32::new(flags), primary, device, limits }
    }
}

/// Those that exist.
pub(super) static CONTEXTS: Registry<Context> = Registry::new("context");

/// A device's primary context: how often it is retained (0 is ended), and its handle once it had one.
pub(super) struct Primary {
    pub(super) retained: u32,
    pub(super) handle: Option<usize>,
    pub(super) flags: u32,
}

static PRIMARY: [Mutex<Primary>; Device::MOST as usize] =
    [const { Mutex::new(Primary { retained: 0, handle: None, flags: 0 }) }; Device::MOST as usize];

thread_local! {
    /// This thread's stack of context handles.
    pub(super) static STACK: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// The primary context of a device that exists.
pub(super) fn primary(device: usize) -> MutexGuard<'static, Primary> {
    PRIMARY[device].lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names the context that owns a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner(pub(super) usize);

/// The current context of this thread.
///
/// # Errors
/// `CUDA_ERROR_NOT_INITIALIZED`, `CUDA_ERROR_INVALID_CONTEXT` where none is current, `CUDA_ERROR_CONTEXT_IS_DESTROYED`.
pub(crate) fn current() -> Result<Owner, Failure> {
    current_context().map(|(owner, _)| owner)
}

/// The device of the current context.
pub(crate) fn current_device() -> Result<&'static Device, Failure> {
    let (_, context) = current_context()?;
    Ok(&initialised()?[context.device])
}

/// The device of a live context.
pub(crate) fn device_of(owner: Owner) -> Result<&'static Device, Failure> {
    let context = live(ptr::without_provenance_mut(owner.0))?;
    Ok(&initialised()?[context.device])
}

/// The current context of this thread, as both.
pub(super) fn current_context() -> Result<(Owner, Arc<Context>), Failure> {
    initialised()?;
    let handle = STACK
        .with(|stack| stack.borrow().last().copied())
        .ok_or_else(|| Failure::new(CUDA_ERROR_INVALID_CONTEXT, "no context is current on this thread"))?;
    let context = live(ptr::without_provenance_mut(handle)).map_err(|_| {
        Failure::new(CUDA_ERROR_CONTEXT_IS_DESTROYED, "the context that is current on this thread has ended")
    })?;
    Ok((Owner(handle), context))
}

/// A context that exists and, where it is the primary one, is retained.
pub(super) fn live(handle: CUcontext) -> Result<Arc<Context>, Failure> {
    let invalid =
        || Failure::new(CUDA_ERROR_INVALID_CONTEXT, format!("{handle:p} is not the handle of a live context"));
    let context = CONTEXTS.get(handle).map_err(|_| invalid())?;
    if context.primary && primary(context.device).retained == 0 {
        return Err(invalid());
    }
    Ok(context)
}
