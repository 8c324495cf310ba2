//! Contexts: the primary one, which cust's `Context` retains, and those made by `cuCtxCreate`.
//!
//! A context owns memory, modules, streams and events; when it ends they end with it. Each thread has a stack of
//! contexts whose top is current. The primary context keeps its handle when it ends and is retained anew, as a real one
//! does, so a thread that still has it current goes on with it.

use std::ffi::{c_int, c_uint};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use super::owner::{CONTEXTS, Context, Owner, STACK, current, live, primary};
use super::{Failure, Outcome, capture, give, graph, initialised_device, memory, module, properties, stream};
use crate::sys::*;

/// Ends what a context owns.
fn release(owner: Owner) {
    graph::release(owner);
    module::release(owner);
    stream::release(owner);
    memory::release(owner);
}

fn valid_flags(flags: c_uint) -> Result<(), Failure> {
    // The scheduling bits exclude one another; mapped host memory (8) and kept local memory (16) may be added.
    match (flags & 0x7, flags & !0x1f) {
        (0 | 1 | 2 | 4, 0) => Ok(()),
        _ => Err(Failure::invalid_value(format!("context flags {flags:#x} are not a valid combination"))),
    }
}

pub(crate) unsafe fn primary_retain(context: *mut CUcontext, device: CUdevice) -> Outcome {
    properties::check_device(device)?;
    let mut primary = primary();
    let handle = *primary
        .handle
        .get_or_insert_with(|| CONTEXTS.insert(Context { flags: AtomicU32::new(0), primary: true }).addr());
    let handle = ptr::without_provenance_mut(handle);
    // SAFETY: the caller's pointer for the handle.
    unsafe { give(context, handle) }?;
    if primary.retained == 0 {
        CONTEXTS.get(handle)?.flags.store(primary.flags, Ordering::Relaxed);
    }
    primary.retained += 1;
    Ok(())
}

pub(crate) fn primary_release(device: CUdevice) -> Outcome {
    properties::check_device(device)?;
    let mut primary = primary();
    match (primary.retained, primary.handle) {
        (0, _) | (_, None) => Err(Failure::new(CUDA_ERROR_INVALID_CONTEXT, "the primary context is not retained")),
        (1, Some(handle)) => {
            // Under the lock: who retains it meanwhile gets it empty, and keeps what it then puts in.
            release(Owner(handle));
            primary.retained = 0;
            Ok(())
        }
        _ => {
            primary.retained -= 1;
            Ok(())
        }
    }
}

pub(crate) fn primary_reset(device: CUdevice) -> Outcome {
    properties::check_device(device)?;
    // What the context owns ends; who retained it keeps it, as an empty one.
    if let Some(handle) = primary().handle {
        release(Owner(handle));
    }
    Ok(())
}

pub(crate) fn primary_set_flags(device: CUdevice, flags: c_uint) -> Outcome {
    properties::check_device(device)?;
    valid_flags(flags)?;
    let mut primary = primary();
    primary.flags = flags;
    if let Some(handle) = primary.handle {
        CONTEXTS.get(ptr::without_provenance_mut(handle))?.flags.store(flags, Ordering::Relaxed);
    }
    Ok(())
}

pub(crate) unsafe fn primary_state(device: CUdevice, flags: *mut c_uint, active: *mut c_int) -> Outcome {
    properties::check_device(device)?;
    let primary = primary();
    // SAFETY: the caller's pointers for the two answers.
    unsafe {
        give(flags, primary.flags)?;
        give(active, c_int::from(primary.retained > 0))
    }
}

pub(crate) unsafe fn create(context: *mut CUcontext, flags: c_uint, device: CUdevice) -> Outcome {
    properties::check_device(device)?;
    valid_flags(flags)?;
    let handle = CONTEXTS.insert(Context { flags: AtomicU32::new(flags), primary: false });
    // SAFETY: the caller's pointer for the handle.
    if let Err(failure) = unsafe { give(context, handle) } {
        CONTEXTS.remove(handle)?;
        return Err(failure);
    }
    STACK.with(|stack| stack.borrow_mut().push(handle.addr()));
    Ok(())
}

pub(crate) fn destroy(context: CUcontext) -> Outcome {
    if live(context)?.primary {
        return Err(Failure::new(
            CUDA_ERROR_INVALID_CONTEXT,
            "a primary context is released with cuDevicePrimaryCtxRelease, not destroyed",
        ));
    }
    CONTEXTS.remove(context)?;
    release(Owner(context.addr()));
    STACK.with(|stack| {
        let mut stack = stack.borrow_mut();
        if stack.last() == Some(&context.addr()) {
            stack.pop();
        }
    });
    Ok(())
}

pub(crate) fn push_current(context: CUcontext) -> Outcome {
    initialised_device()?;
    live(context)?;
    STACK.with(|stack| stack.borrow_mut().push(context.addr()));
    Ok(())
}

pub(crate) unsafe fn pop_current(context: *mut CUcontext) -> Outcome {
    initialised_device()?;
    let Some(handle) = STACK.with(|stack| stack.borrow_mut().pop()) else {
        return Err(Failure::new(CUDA_ERROR_INVALID_CONTEXT, "no context is current on this thread"));
    };
    // The pointer may be null: the caller then does not want the handle.
    match context.is_null() {
        true => Ok(()),
        // SAFETY: the caller's pointer for the handle.
        false => unsafe { give(context, ptr::without_provenance_mut(handle)) },
    }
}

pub(crate) fn set_current(context: CUcontext) -> Outcome {
    initialised_device()?;
    if !context.is_null() {
        live(context)?;
    }
    STACK.with(|stack| {
        let mut stack = stack.borrow_mut();
        stack.pop();
        if !context.is_null() {
            stack.push(context.addr());
        }
    });
    Ok(())
}

pub(crate) unsafe fn get_current(context: *mut CUcontext) -> Outcome {
    initialised_device()?;
    let handle = STACK.with(|stack| stack.borrow().last().copied()).unwrap_or(0);
    // SAFETY: the caller's pointer for the handle.
    unsafe { give(context, ptr::without_provenance_mut(handle)) }
}

pub(crate) unsafe fn get_device(device: *mut CUdevice) -> Outcome {
    current()?;
    // SAFETY: the caller's pointer for the ordinal.
    unsafe { give(device, 0) }
}

pub(crate) unsafe fn get_flags(flags: *mut c_uint) -> Outcome {
    let Owner(handle) = current()?;
    let context = live(ptr::without_provenance_mut(handle))?;
    // SAFETY: the caller's pointer for the flags.
    unsafe { give(flags, context.flags.load(Ordering::Relaxed)) }
}

pub(crate) unsafe fn api_version(context: CUcontext, version: *mut c_uint) -> Outcome {
    if context.is_null() {
        current()?;
    } else {
        live(context)?;
    }
    // SAFETY: the caller's pointer for the version.
    unsafe { give(version, properties::DRIVER_VERSION as c_uint) }
}

/// Every operation was done when its call returned: there is nothing to wait for.
pub(crate) fn synchronize() -> Outcome {
    capture::wait_for_all(current()?)?;
    initialised_device()?.end_chain();
    Ok(())
}

/// A device whose cache and shared memory are apart has no preference (`CU_FUNC_CACHE_PREFER_NONE`).
pub(crate) unsafe fn get_cache_config(config: *mut c_uint) -> Outcome {
    current()?;
    // SAFETY: the caller's pointer for the preference.
    unsafe { give(config, 0) }
}

/// A preference, which such a device does not follow.
pub(crate) fn set_cache_config(config: c_uint) -> Outcome {
    current()?;
    properties::check_cache_config(config)
}

/// The banks of shared memory are 4 bytes wide (`CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE`).
pub(crate) unsafe fn get_shared_memory_config(config: *mut c_uint) -> Outcome {
    current()?;
    // SAFETY: the caller's pointer for the configuration.
    unsafe { give(config, 1) }
}

/// A preference, which a device with banks of one width does not follow.
pub(crate) fn set_shared_memory_config(config: c_uint) -> Outcome {
    current()?;
    properties::check_shared_memory_config(config)
}

/// All streams have one priority, 0.
pub(crate) unsafe fn stream_priority_range(least: *mut c_int, greatest: *mut c_int) -> Outcome {
    current()?;
    for bound in [least, greatest] {
        if !bound.is_null() {
            // SAFETY: the caller's pointers; either may be null.
            unsafe { give(bound, 0) }?;
        }
    }
    Ok(())
}
