//! Contexts: the primary one, which cust's `Context` retains, and those made by `cuCtxCreate`.
//!
//! A context owns memory, modules, streams and events; when it ends they end with it. Each thread has a stack of
//! contexts whose top is current. The primary context keeps its handle when it ends and is retained anew, as a real one
//! does, so a thread that still has it current goes on with it.

use std::ffi::{c_int, c_uint, c_ulonglong, c_void};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::owner::{CONTEXTS, Context, Owner, STACK, current, current_context, current_device, live, primary};
use super::{
    Failure, Outcome, capture, give, graph, host, initialised, library, memory, module, peer, properties, stream,
};
use crate::sys::*;

/// Ends what a context owns.
fn release(owner: Owner) {
    graph::release(owner);
    library::release(owner);
    module::release(owner);
    stream::release(owner);
    memory::release(owner);
    host::release(owner);
}

/// The ordinal of a device that exists, as an index.
fn ordinal(device: CUdevice) -> Result<usize, Failure> {
    properties::device(device).map(|device| device.config().ordinal as usize)
}

fn valid_flags(flags: c_uint) -> Result<(), Failure> {
    // The scheduling bits exclude one another; mapped host memory (8) and kept local memory (16) may be added.
    match (flags & 0x7, flags & !0x1f) {
        (0 | 1 | 2 | 4, 0) => Ok(()),
        _ => Err(Failure::invalid_value(format!("context flags {flags:#x} are not a valid combination"))),
    }
}

pub(crate) unsafe fn primary_retain(context: *mut CUcontext, device: CUdevice) -> Outcome {
    let ordinal = ordinal(device)?;
    let mut primary = primary(ordinal);
    let handle = *primary.handle.get_or_insert_with(|| CONTEXTS.insert(Context::new(ordinal, true, 0)).addr());
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
    let mut primary = primary(ordinal(device)?);
    match (primary.retained, primary.handle) {
        (0, _) | (_, None) => Err(Failure::new(CUDA_ERROR_INVALID_CONTEXT, "the primary context is not retained")),
        (1, Some(handle)) => {
            // Under the lock: who retains it meanwhile gets it empty, and keeps what it then puts in.
            release(Owner(handle));
            peer::release(device)?;
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
    // What the context owns ends; who retained it keeps it, as an empty one.
    if let Some(handle) = primary(ordinal(device)?).handle {
        release(Owner(handle));
    }
    Ok(())
}

pub(crate) fn primary_set_flags(device: CUdevice, flags: c_uint) -> Outcome {
    let ordinal = ordinal(device)?;
    valid_flags(flags)?;
    let mut primary = primary(ordinal);
    primary.flags = flags;
    if let Some(handle) = primary.handle {
        CONTEXTS.get(ptr::without_provenance_mut(handle))?.flags.store(flags, Ordering::Relaxed);
    }
    Ok(())
}

pub(crate) unsafe fn primary_state(device: CUdevice, flags: *mut c_uint, active: *mut c_int) -> Outcome {
    let primary = primary(ordinal(device)?);
    // SAFETY: the caller's pointers for the two answers.
    unsafe {
        give(flags, primary.flags)?;
        give(active, c_int::from(primary.retained > 0))
    }
}

pub(crate) unsafe fn create(context: *mut CUcontext, flags: c_uint, device: CUdevice) -> Outcome {
    let ordinal = ordinal(device)?;
    valid_flags(flags)?;
    let handle = CONTEXTS.insert(Context::new(ordinal, false, flags));
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
    initialised()?;
    live(context)?;
    STACK.with(|stack| stack.borrow_mut().push(context.addr()));
    Ok(())
}

pub(crate) unsafe fn pop_current(context: *mut CUcontext) -> Outcome {
    initialised()?;
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
    initialised()?;
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
    initialised()?;
    let handle = STACK.with(|stack| stack.borrow().last().copied()).unwrap_or(0);
    // SAFETY: the caller's pointer for the handle.
    unsafe { give(context, ptr::without_provenance_mut(handle)) }
}

pub(crate) unsafe fn get_device(device: *mut CUdevice) -> Outcome {
    let (_, context) = current_context()?;
    // SAFETY: the caller's pointer for the ordinal.
    unsafe { give(device, context.device as CUdevice) }
}

pub(crate) unsafe fn get_flags(flags: *mut c_uint) -> Outcome {
    let (_, context) = current_context()?;
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
    current_device()?.end_chain();
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

/// Sets one of cuda.h's limits. softcuda keeps the value; its stacks and heaps take what they need.
pub(crate) fn set_limit(limit: c_uint, value: usize) -> Outcome {
    limit_of(&current_context()?.1, limit)?.store(value, Ordering::Relaxed);
    Ok(())
}

pub(crate) unsafe fn get_limit(value: *mut usize, limit: c_uint) -> Outcome {
    let (_, context) = current_context()?;
    // SAFETY: the caller's pointer for the limit.
    unsafe { give(value, limit_of(&context, limit)?.load(Ordering::Relaxed)) }
}

fn limit_of(context: &Context, limit: c_uint) -> Result<&AtomicUsize, Failure> {
    let known = context.limits.get(limit as usize);
    known.ok_or_else(|| Failure::new(CUDA_ERROR_UNSUPPORTED_LIMIT, format!("limit {limit}; expected 0 to 6")))
}

/// `cuCtxCreate` of CUDA 11.4 to 12.4: an execution affinity asks for a part of the multiprocessors.
pub(crate) unsafe fn create_with_affinity(
    context: *mut CUcontext,
    affinities: *const c_void,
    count: c_int,
    flags: c_uint,
    device: CUdevice,
) -> Outcome {
    if !affinities.is_null() || count != 0 {
        return Err(Failure::new(CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY, "softcuda has no execution affinity"));
    }
    // SAFETY: the caller's pointer for the handle.
    unsafe { create(context, flags, device) }
}

/// `cuCtxCreate` since CUDA 12.5.
pub(crate) unsafe fn create_with_parameters(
    context: *mut CUcontext,
    parameters: *const CUctxCreateParams,
    flags: c_uint,
    device: CUdevice,
) -> Outcome {
    if !parameters.is_null() {
        // SAFETY: not null; the caller promises a structure.
        let parameters = unsafe { parameters.read_unaligned() };
        if parameters.affinity_count != 0 || !parameters.cig.is_null() {
            let text = "softcuda has no execution affinity and shares no context with graphics";
            return Err(Failure::new(CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY, text));
        }
    }
    // SAFETY: the caller's pointer for the handle.
    unsafe { create(context, flags, device) }
}

/// The context that a handle names; null is the current one.
fn given_or_current(context: CUcontext) -> Result<CUcontext, Failure> {
    if context.is_null() {
        return current().map(|Owner(handle)| ptr::without_provenance_mut(handle));
    }
    initialised()?;
    live(context).map(|_| context)
}

pub(crate) unsafe fn get_device_of(device: *mut CUdevice, context: CUcontext) -> Outcome {
    let context = live(given_or_current(context)?)?;
    // SAFETY: the caller's pointer for the ordinal.
    unsafe { give(device, context.device as CUdevice) }
}

pub(crate) fn synchronize_one(context: CUcontext) -> Outcome {
    let owner = Owner(given_or_current(context)?.addr());
    capture::wait_for_all(owner)?;
    super::owner::device_of(owner)?.end_chain();
    Ok(())
}

/// A handle is never used twice: it is the identity, too.
pub(crate) unsafe fn get_id(context: CUcontext, id: *mut c_ulonglong) -> Outcome {
    let context = given_or_current(context)?;
    // SAFETY: the caller's pointer for the number.
    unsafe { give(id, context.addr() as c_ulonglong) }
}

pub(crate) fn set_flags(flags: c_uint) -> Outcome {
    valid_flags(flags)?;
    current_context()?.1.flags.store(flags, Ordering::Relaxed);
    Ok(())
}

/// Nothing persists in a cache.
pub(crate) fn reset_persisting_cache() -> Outcome {
    current().map(drop)
}
