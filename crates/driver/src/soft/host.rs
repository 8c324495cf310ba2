//! Host memory that kernels of every device access at its own address: page-locked, registered and managed.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint, c_void};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::owner::{self, Owner};
use super::{Failure, Outcome, devices, give, initialised};
use crate::sys::*;

/// How host memory came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `cuMemAllocHost`, `cuMemHostAlloc`.
    PageLocked,
    /// `cuMemHostRegister`: the caller's.
    Registered,
    /// `cuMemAllocManaged`.
    Managed,
}

/// A range of host memory.
#[derive(Clone, Copy)]
pub(super) struct Host {
    pub start: usize,
    pub bytes: usize,
    pub kind: Kind,
    pub owner: Owner,
    flags: c_uint,
}

/// The live ranges, by address.
static HOST: Mutex<BTreeMap<usize, Host>> = Mutex::new(BTreeMap::new());

const PAGE: usize = 4096;

fn known() -> MutexGuard<'static, BTreeMap<usize, Host>> {
    HOST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The range that an address lies in.
pub(super) fn find(address: u64) -> Option<Host> {
    let address = usize::try_from(address).ok()?;
    let known = known();
    let (_, host) = known.range(..=address).next_back()?;
    (address - host.start < host.bytes).then_some(*host)
}

/// Ends a context's managed memory. Page-locked memory is the host's, which may use it until it is freed.
pub(crate) fn release(owner: Owner) {
    known().retain(|_, host| {
        let ends = host.kind == Kind::Managed && host.owner == owner;
        if ends {
            // SAFETY: the map held it: managed memory that nobody has freed.
            unsafe { give_back(host) };
        }
        !ends
    });
}

/// Has every device know the range.
///
/// # Safety
/// - The memory stays valid for reads and writes until it leaves the map.
unsafe fn keep(memory: *mut u8, bytes: usize, kind: Kind, owner: Owner, flags: c_uint) -> Outcome {
    for (count, device) in devices().iter().enumerate() {
        // SAFETY: the caller's promise.
        if let Err(fault) = unsafe { device.map_host(memory, bytes) } {
            for device in &devices()[..count] {
                device.unmap_host(memory.addr() as u64)?;
            }
            return Err(match kind {
                Kind::Registered => Failure::new(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, fault.to_string()),
                _ => fault.into(),
            });
        }
    }
    known().insert(memory.addr(), Host { start: memory.addr(), bytes, kind, owner, flags });
    Ok(())
}

fn forget(host: &Host) {
    for device in devices() {
        // Every device knows what is in the map.
        let _ = device.unmap_host(host.start as u64);
    }
}

/// The layout that memory of this length was allocated with.
fn layout(bytes: usize) -> Result<Layout, Failure> {
    match Layout::from_size_align(bytes, PAGE) {
        Ok(layout) if bytes > 0 => Ok(layout),
        _ => Err(Failure::invalid_value(format!("{bytes} bytes of host memory asked for"))),
    }
}

/// # Safety
/// - The range was allocated by `allocate_kind`, is in no map any more, and is given back once.
unsafe fn give_back(host: &Host) {
    forget(host);
    if let Ok(layout) = layout(host.bytes) {
        // SAFETY: allocated with this layout, and not yet freed.
        unsafe { dealloc(ptr::with_exposed_provenance_mut(host.start), layout) };
    }
}

fn allocate_kind(bytes: usize, kind: Kind, flags: c_uint) -> Result<*mut c_void, Failure> {
    let owner = owner::current()?;
    let layout = layout(bytes)?;
    // SAFETY: the layout has a size of at least 1.
    let allocated = unsafe { alloc_zeroed(layout) };
    if allocated.is_null() {
        return Err(Failure::new(CUDA_ERROR_OUT_OF_MEMORY, format!("the host has no {bytes} bytes")));
    }
    allocated.expose_provenance();
    // SAFETY: it is freed only after it has left the map.
    if let Err(failure) = unsafe { keep(allocated, bytes, kind, owner, flags) } {
        // SAFETY: allocated above with this layout, and given to nobody.
        unsafe { dealloc(allocated, layout) };
        return Err(failure);
    }
    Ok(allocated.cast())
}

fn expect_pointer<T>(to: *mut T) -> Outcome {
    match to.is_null() {
        true => Err(Failure::invalid_value("the pointer for the address is null")),
        false => Ok(()),
    }
}

pub(crate) unsafe fn allocate(pointer: *mut *mut c_void, bytes: usize) -> Outcome {
    // SAFETY: the caller's pointer for the address.
    unsafe { allocate_with_flags(pointer, bytes, 0) }
}

/// Portable (1), mapped (2) and write-combined (4): the first two are always so, the third is a hint.
pub(crate) unsafe fn allocate_with_flags(pointer: *mut *mut c_void, bytes: usize, flags: c_uint) -> Outcome {
    expect_pointer(pointer)?;
    if flags > 7 {
        return Err(Failure::invalid_value(format!("host allocation flags {flags:#x}; expected a sum of 1, 2 and 4")));
    }
    // SAFETY: the caller's pointer for the address.
    unsafe { give(pointer, allocate_kind(bytes, Kind::PageLocked, flags)?) }
}

pub(crate) unsafe fn allocate_managed(address: *mut CUdeviceptr, bytes: usize, flags: c_uint) -> Outcome {
    expect_pointer(address)?;
    if !matches!(flags, 1 | 2) {
        return Err(Failure::invalid_value(format!(
            "managed memory flags {flags:#x}; expected 1 (global) or 2 (host)"
        )));
    }
    let allocated = allocate_kind(bytes, Kind::Managed, flags)?;
    // SAFETY: the caller's pointer for the address.
    unsafe { give(address, allocated.addr() as CUdeviceptr) }
}

/// Removes the range of a kind that begins at an address.
fn take(start: usize, kind: Kind) -> Option<Host> {
    let mut known = known();
    known.get(&start).filter(|host| host.kind == kind)?;
    known.remove(&start)
}

/// Frees managed memory, where the address is its start.
pub(super) fn free_managed(address: CUdeviceptr) -> Result<bool, Failure> {
    owner::current()?;
    let Some(host) = usize::try_from(address).ok().and_then(|start| take(start, Kind::Managed)) else {
        return Ok(false);
    };
    // SAFETY: the map held it, and does no more.
    unsafe { give_back(&host) };
    Ok(true)
}

pub(crate) fn free(pointer: *mut c_void) -> Outcome {
    owner::current()?;
    let host = take(pointer.addr(), Kind::PageLocked)
        .ok_or_else(|| Failure::invalid_value(format!("{pointer:p} is not a live page-locked allocation")))?;
    // SAFETY: the map held it, and does no more.
    unsafe { give_back(&host) };
    Ok(())
}

/// Portable (1), mapped (2), another device's (4) and read-only (8) memory are all registered alike.
pub(crate) unsafe fn register(pointer: *mut c_void, bytes: usize, flags: c_uint) -> Outcome {
    let owner = owner::current()?;
    if flags > 15 {
        return Err(Failure::invalid_value(format!("registration flags {flags:#x}; expected a sum of 1, 2, 4 and 8")));
    }
    if pointer.is_null() || bytes == 0 {
        return Err(Failure::invalid_value(format!("{bytes} bytes of host memory at {pointer:p} to be registered")));
    }
    // SAFETY: the caller promises that the memory stays until it is unregistered.
    unsafe { keep(pointer.cast(), bytes, Kind::Registered, owner, flags) }
}

pub(crate) fn unregister(pointer: *mut c_void) -> Outcome {
    owner::current()?;
    let host = take(pointer.addr(), Kind::Registered).ok_or_else(|| {
        Failure::new(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, format!("no registered memory starts at {pointer:p}"))
    })?;
    forget(&host);
    Ok(())
}

fn find_or_refuse(pointer: *mut c_void) -> Result<Host, Failure> {
    owner::current()?;
    find(pointer.addr() as u64).ok_or_else(|| {
        Failure::invalid_value(format!("{pointer:p} is in no page-locked, registered or managed memory"))
    })
}

/// The address at which kernels reach host memory: its own.
pub(crate) unsafe fn device_pointer(address: *mut CUdeviceptr, pointer: *mut c_void, flags: c_uint) -> Outcome {
    find_or_refuse(pointer)?;
    if flags != 0 {
        return Err(Failure::invalid_value(format!("flags {flags:#x}; expected 0")));
    }
    // SAFETY: the caller's pointer for the address.
    unsafe { give(address, pointer.addr() as CUdeviceptr) }
}

pub(crate) unsafe fn flags(flags: *mut c_uint, pointer: *mut c_void) -> Outcome {
    // SAFETY: the caller's pointer for the flags.
    unsafe { give(flags, find_or_refuse(pointer)?.flags) }
}

/// Accepts a range of page-locked host memory, for a copy that happens later.
pub(super) fn expect_page_locked(address: usize, bytes: usize) -> Outcome {
    let inside = |host: Host| bytes <= host.bytes - (address - host.start);
    if bytes == 0 || find(address as u64).is_some_and(inside) {
        return Ok(());
    }
    Err(Failure::new(
        CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
        format!("a captured copy of {bytes} bytes of host memory at {address:#x}, which is not page-locked"),
    ))
}

/// Managed memory is where it is: advice changes nothing.
pub(crate) fn advise(address: CUdeviceptr, bytes: usize, _advice: c_uint, _device: CUdevice) -> Outcome {
    expect_managed(address, bytes)
}

pub(crate) fn advise_for_location(
    address: CUdeviceptr,
    bytes: usize,
    _advice: c_uint,
    _location: CUmemLocation,
) -> Outcome {
    expect_managed(address, bytes)
}

/// Managed memory is where it is: nothing has to be brought nearer.
pub(crate) fn prefetch(address: CUdeviceptr, bytes: usize, device: CUdevice, stream: CUstream) -> Outcome {
    const CPU: c_int = -1;
    super::stream::check(stream)?;
    if device != CPU {
        super::properties::device(device)?;
    }
    expect_managed(address, bytes)
}

pub(crate) fn prefetch_to_location(
    address: CUdeviceptr,
    bytes: usize,
    _location: CUmemLocation,
    _flags: c_uint,
    stream: CUstream,
) -> Outcome {
    super::stream::check(stream)?;
    expect_managed(address, bytes)
}

pub(super) fn expect_managed(address: CUdeviceptr, bytes: usize) -> Outcome {
    initialised()?;
    let inside = |host: &Host| host.kind == Kind::Managed && bytes <= host.bytes - (address as usize - host.start);
    match find(address).filter(inside) {
        Some(_) => Ok(()),
        None => Err(Failure::invalid_value(format!("the {bytes} bytes at {address:#x} are not managed memory"))),
    }
}
