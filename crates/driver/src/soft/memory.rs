//! Device memory, its copies and fills.
//!
//! softcuda checks each device address and range; a wrong one is `CUDA_ERROR_INVALID_VALUE`, with the nearest
//! allocation in the text. Under the sanitizer a copy to the host is a read: every byte of it must have been written. A
//! length of 0 copies nothing and succeeds. The calls with a stream do what those without do, in order, and done when
//! they return; or they leave it to the graph, where the stream captures.

use std::collections::BTreeMap;
use std::ffi::{c_uchar, c_uint, c_ushort, c_void};
use std::ptr;
use std::slice;
use std::sync::{Mutex, MutexGuard, PoisonError};

use softcuda::Device;

use super::owner::{self, Owner};
use super::work::{Pattern, Work};
use super::{Failure, Outcome, device_at, devices, give, host, pool, stream};
use crate::sys::*;

/// Whose an allocation is.
#[derive(Clone, Copy)]
pub(super) struct Allocated {
    pub owner: Owner,
    /// The handle of the memory pool that it came from; 0 for none.
    pub pool: usize,
}

/// The live device allocations, by address.
static ALLOCATED: Mutex<BTreeMap<CUdeviceptr, Allocated>> = Mutex::new(BTreeMap::new());

/// The default stream, which the calls without a stream are for.
const LEGACY: CUstream = ptr::null_mut();

fn allocated() -> MutexGuard<'static, BTreeMap<CUdeviceptr, Allocated>> {
    ALLOCATED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Frees what a context owns.
pub(crate) fn release(owner: Owner) {
    allocated().retain(|&address, of| {
        let device = Device::ordinal_of(address).and_then(|ordinal| devices().get(ordinal as usize));
        if of.owner == owner
            && let Some(device) = device
        {
            // The map holds live addresses only, and a context that ends has nobody to report to.
            if let Ok((_, bytes)) = device.address_range(address) {
                pool::give_back(of.pool, bytes);
            }
            let _ = device.free(address);
        }
        of.owner != owner
    });
}

/// Whose the allocation that begins at an address is; none for a module's variable.
pub(super) fn allocation(address: CUdeviceptr) -> Option<Allocated> {
    allocated().get(&address).copied()
}

pub(crate) unsafe fn allocate(address: *mut CUdeviceptr, bytes: usize) -> Outcome {
    // SAFETY: the caller's pointer for the address.
    unsafe { allocate_on(owner::current_device()?, 0, address, bytes) }
}

/// Allocates on a device, from a pool where `pool` is not 0.
///
/// # Safety
/// - `address` is null or valid for a write.
pub(super) unsafe fn allocate_on(device: &Device, pool: usize, address: *mut CUdeviceptr, bytes: usize) -> Outcome {
    let owner = owner::current()?;
    if address.is_null() {
        return Err(Failure::invalid_value("the pointer for the address is null"));
    }
    let start = device.alloc(bytes)?;
    allocated().insert(start, Allocated { owner, pool });
    // SAFETY: the caller's pointer for the address.
    unsafe { give(address, start) }
}

/// Rows of `width` bytes, the first and every following one at a multiple of 512 bytes.
pub(crate) unsafe fn allocate_rows(
    address: *mut CUdeviceptr,
    pitch: *mut usize,
    width: usize,
    height: usize,
    element: c_uint,
) -> Outcome {
    if !matches!(element, 4 | 8 | 16) {
        return Err(Failure::invalid_value(format!("elements of {element} bytes; expected 4, 8 or 16")));
    }
    let too_much = || Failure::new(CUDA_ERROR_OUT_OF_MEMORY, format!("{height} rows of {width} bytes"));
    let padded = width.checked_next_multiple_of(512).ok_or_else(too_much)?;
    let bytes = padded.checked_mul(height).ok_or_else(too_much)?;
    // SAFETY: the caller's pointers for the answers.
    unsafe {
        give(pitch, padded)?;
        allocate(address, bytes)
    }
}

pub(crate) fn free(address: CUdeviceptr) -> Outcome {
    owner::current()?;
    if host::free_managed(address)? {
        return Ok(());
    }
    let device = device_at(address)?;
    let mut owners = allocated();
    if !owners.contains_key(&address) && device.address_range(address).is_ok_and(|(base, _)| base == address) {
        return Err(Failure::invalid_value(format!("{address:#x} is a module's variable, which its module frees")));
    }
    let range = device.address_range(address);
    device.free(address)?;
    if let (Some(of), Ok((_, bytes))) = (owners.remove(&address), range) {
        pool::give_back(of.pool, bytes);
    }
    Ok(())
}

/// What a pool is for: the current device's gives the memory.
pub(crate) unsafe fn allocate_async(address: *mut CUdeviceptr, bytes: usize, stream: CUstream) -> Outcome {
    // SAFETY: the caller's pointer for the address.
    unsafe { pool::allocate(address, bytes, pool::current()?, stream) }
}

pub(crate) fn free_async(address: CUdeviceptr, stream: CUstream) -> Outcome {
    stream::check(stream)?;
    free(address)
}

pub(crate) unsafe fn info(free: *mut usize, total: *mut usize) -> Outcome {
    owner::current()?;
    let (free_bytes, total_bytes) = owner::current_device()?.memory_info();
    // SAFETY: the caller's pointers for the two sizes.
    unsafe {
        give(free, free_bytes)?;
        give(total, total_bytes)
    }
}

/// The allocation that an address lies in. Either pointer may be null.
pub(crate) unsafe fn address_range(base: *mut CUdeviceptr, bytes: *mut usize, address: CUdeviceptr) -> Outcome {
    owner::current()?;
    let (start, length) = device_at(address)?
        .address_range(address)
        .map_err(|fault| Failure { result: CUDA_ERROR_NOT_FOUND, ..Failure::from(fault) })?;
    if !base.is_null() {
        // SAFETY: the caller's pointer for the start.
        unsafe { give(base, start) }?;
    }
    if !bytes.is_null() {
        // SAFETY: the caller's pointer for the length.
        unsafe { give(bytes, length) }?;
    }
    Ok(())
}

/// Accepts a range of an allocation.
pub(super) fn expect_on_device(address: CUdeviceptr, bytes: usize) -> Outcome {
    if bytes > 0 {
        device_at(address)?.host_pointer(address, bytes)?;
    }
    Ok(())
}

/// Refuses an address of a device's memory, which only looks like a pointer.
fn expect_on_host(address: usize) -> Outcome {
    match Device::ordinal_of(address as u64) {
        Some(ordinal) => Err(Failure::invalid_value(format!(
            "{address:#x}, given as host memory, is an address of device {ordinal} (cuMemcpy takes either)"
        ))),
        None => Ok(()),
    }
}

/// The caller's bytes.
///
/// # Safety
/// - `from` is null or valid for reads of `bytes` bytes, which nothing writes meanwhile.
unsafe fn host_bytes<'a>(from: *const c_void, bytes: usize) -> Result<&'a [u8], Failure> {
    expect_on_host(from.addr())?;
    match (from.is_null(), bytes) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Failure::invalid_value("the host pointer is null")),
        // SAFETY: not null; the caller promises the rest.
        (false, _) => Ok(unsafe { slice::from_raw_parts(from.cast(), bytes) }),
    }
}

pub(crate) unsafe fn copy_to_device(to: CUdeviceptr, from: *const c_void, bytes: usize) -> Outcome {
    owner::current()?;
    // SAFETY: the caller promises `bytes` readable bytes.
    let from = unsafe { host_bytes(from, bytes) }?;
    if bytes > 0 {
        device_at(to)?.write(to, from)?;
    }
    Ok(())
}

pub(crate) unsafe fn copy_to_host(to: *mut c_void, from: CUdeviceptr, bytes: usize) -> Outcome {
    owner::current()?;
    if bytes == 0 {
        return Ok(());
    }
    if to.is_null() {
        return Err(Failure::invalid_value("the host pointer is null"));
    }
    expect_on_host(to.addr())?;
    // SAFETY: not null; the caller promises `bytes` bytes of memory that may be written. They may be uninitialised:
    // the slice is only written to.
    let to = unsafe { slice::from_raw_parts_mut(to.cast::<u8>(), bytes) };
    let device = device_at(from)?;
    device.check_initialised(from, bytes)?;
    device.read(from, to)?;
    Ok(())
}

pub(crate) fn copy_on_device(to: CUdeviceptr, from: CUdeviceptr, bytes: usize) -> Outcome {
    copy_on_device_async(to, from, bytes, LEGACY)
}

pub(super) fn copy_on_device_now(to: CUdeviceptr, from: CUdeviceptr, bytes: usize) -> Outcome {
    owner::current()?;
    if bytes > 0 {
        device_at(to)?.copy_from(to, device_at(from)?, from, bytes)?;
    }
    Ok(())
}

pub(crate) unsafe fn copy_to_device_async(
    to: CUdeviceptr,
    from: *const c_void,
    bytes: usize,
    stream: CUstream,
) -> Outcome {
    // SAFETY: as for `copy_to_device`.
    unsafe { stream::submit(stream, Work::CopyToDevice { to, from, bytes }) }
}

pub(crate) unsafe fn copy_to_host_async(to: *mut c_void, from: CUdeviceptr, bytes: usize, stream: CUstream) -> Outcome {
    // SAFETY: as for `copy_to_host`.
    unsafe { stream::submit(stream, Work::CopyToHost { to, from, bytes }) }
}

pub(crate) fn copy_on_device_async(to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream) -> Outcome {
    // SAFETY: no host memory is touched.
    unsafe { stream::submit(stream, Work::CopyOnDevice { to, from, bytes }) }
}

pub(super) fn fill(address: CUdeviceptr, pattern: Pattern, count: usize) -> Outcome {
    owner::current()?;
    if count == 0 {
        return Ok(());
    }
    let device = device_at(address)?;
    match pattern {
        Pattern::Bytes1(value) => device.fill(address, value, count)?,
        Pattern::Bytes2(value) => device.fill(address, value, count)?,
        Pattern::Bytes4(value) => device.fill(address, value, count)?,
    }
    Ok(())
}

pub(crate) fn fill_8(address: CUdeviceptr, value: c_uchar, count: usize) -> Outcome {
    fill_8_async(address, value, count, LEGACY)
}

pub(crate) fn fill_16(address: CUdeviceptr, value: c_ushort, count: usize) -> Outcome {
    fill_16_async(address, value, count, LEGACY)
}

pub(crate) fn fill_32(address: CUdeviceptr, value: c_uint, count: usize) -> Outcome {
    fill_32_async(address, value, count, LEGACY)
}

fn fill_async(stream: CUstream, address: CUdeviceptr, pattern: Pattern, count: usize) -> Outcome {
    // SAFETY: no host memory is touched.
    unsafe { stream::submit(stream, Work::Fill { address, pattern, count }) }
}

pub(crate) fn fill_8_async(address: CUdeviceptr, value: c_uchar, count: usize, stream: CUstream) -> Outcome {
    fill_async(stream, address, Pattern::Bytes1([value]), count)
}

pub(crate) fn fill_16_async(address: CUdeviceptr, value: c_ushort, count: usize, stream: CUstream) -> Outcome {
    fill_async(stream, address, Pattern::Bytes2(value.to_le_bytes()), count)
}

pub(crate) fn fill_32_async(address: CUdeviceptr, value: c_uint, count: usize, stream: CUstream) -> Outcome {
    fill_async(stream, address, Pattern::Bytes4(value.to_le_bytes()), count)
}
