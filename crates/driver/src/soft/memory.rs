//! Device memory, page-locked host memory, copies and fills.
//!
//! softcuda checks each device address and range; a wrong one is `CUDA_ERROR_INVALID_VALUE`, with the nearest
//! allocation in the text. Under the sanitizer a copy to the host is a read: every byte of it must have been written. A
//! length of 0 copies nothing and succeeds. The calls with a stream do what those without do, in order, and done when
//! they return; or they leave it to the graph, where the stream captures.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::ffi::{c_uchar, c_uint, c_ushort, c_void};
use std::ptr;
use std::slice;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::owner::{self, Owner};
use super::work::{Pattern, Work};
use super::{Failure, Outcome, device, give, initialised_device, stream};
use crate::sys::*;

/// Which context owns each device allocation, by address.
static OWNERS: Mutex<BTreeMap<CUdeviceptr, Owner>> = Mutex::new(BTreeMap::new());

/// The live page-locked allocations, by address.
static HOST: Mutex<BTreeMap<usize, Layout>> = Mutex::new(BTreeMap::new());

const PAGE: usize = 4096;

/// The default stream, which the calls without a stream are for.
const LEGACY: CUstream = ptr::null_mut();

fn lock<T>(map: &Mutex<T>) -> MutexGuard<'_, T> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Frees what a context owns.
pub(crate) fn release(owner: Owner) {
    let mut owners = lock(&OWNERS);
    owners.retain(|&address, of| {
        if *of == owner
            && let Some(device) = device()
        {
            // The map holds live addresses only, and a context that ends has nobody to report to.
            let _ = device.free(address);
        }
        *of != owner
    });
}

pub(crate) unsafe fn allocate(address: *mut CUdeviceptr, bytes: usize) -> Outcome {
    let owner = owner::current()?;
    let device = initialised_device()?;
    if address.is_null() {
        return Err(Failure::invalid_value("the pointer for the address is null"));
    }
    let allocated = device.alloc(bytes)?;
    lock(&OWNERS).insert(allocated, owner);
    // SAFETY: the caller's pointer for the address.
    unsafe { give(address, allocated) }
}

pub(crate) unsafe fn allocate_async(address: *mut CUdeviceptr, bytes: usize, stream: CUstream) -> Outcome {
    stream::check(stream)?;
    // SAFETY: the caller's pointer for the address.
    unsafe { allocate(address, bytes) }
}

pub(crate) fn free(address: CUdeviceptr) -> Outcome {
    owner::current()?;
    let device = initialised_device()?;
    let mut owners = lock(&OWNERS);
    if !owners.contains_key(&address) && device.address_range(address).is_ok_and(|(base, _)| base == address) {
        return Err(Failure::invalid_value(format!("{address:#x} is a module's variable, which its module frees")));
    }
    device.free(address)?;
    owners.remove(&address);
    Ok(())
}

pub(crate) fn free_async(address: CUdeviceptr, stream: CUstream) -> Outcome {
    stream::check(stream)?;
    free(address)
}

pub(crate) unsafe fn info(free: *mut usize, total: *mut usize) -> Outcome {
    owner::current()?;
    let (free_bytes, total_bytes) = initialised_device()?.memory_info();
    // SAFETY: the caller's pointers for the two sizes.
    unsafe {
        give(free, free_bytes)?;
        give(total, total_bytes)
    }
}

/// The allocation that an address lies in. Either pointer may be null.
pub(crate) unsafe fn address_range(base: *mut CUdeviceptr, bytes: *mut usize, address: CUdeviceptr) -> Outcome {
    owner::current()?;
    let (start, length) = initialised_device()?
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

pub(crate) unsafe fn allocate_host(pointer: *mut *mut c_void, bytes: usize) -> Outcome {
    owner::current()?;
    let layout = match Layout::from_size_align(bytes, PAGE) {
        Ok(layout) if bytes > 0 => layout,
        _ => {
            return Err(Failure::invalid_value(format!("{bytes} bytes of host memory asked for")));
        }
    };
    // SAFETY: the layout has a size of at least 1.
    let allocated = unsafe { alloc_zeroed(layout) };
    if allocated.is_null() {
        return Err(Failure::new(CUDA_ERROR_OUT_OF_MEMORY, format!("the host has no {bytes} bytes")));
    }
    // SAFETY: the caller's pointer for the address.
    if let Err(failure) = unsafe { give(pointer, allocated.cast()) } {
        // SAFETY: allocated above with this layout, and given to nobody.
        unsafe { dealloc(allocated, layout) };
        return Err(failure);
    }
    lock(&HOST).insert(allocated.addr(), layout);
    Ok(())
}

pub(crate) unsafe fn allocate_host_with_flags(pointer: *mut *mut c_void, bytes: usize, flags: c_uint) -> Outcome {
    const DEVICE_MAP: c_uint = 2;
    match flags {
        _ if flags & DEVICE_MAP != 0 => Err(Failure::new(
            CUDA_ERROR_NOT_SUPPORTED,
            "softcuda's kernels cannot reach host memory (CU_MEMHOSTALLOC_DEVICEMAP)",
        )),
        // Portable (1) and write-combined (4): the first is always so, the second is a hint.
        0..=7 => {
            // SAFETY: the caller's pointer for the address.
            unsafe { allocate_host(pointer, bytes) }
        }
        _ => Err(Failure::invalid_value(format!("host allocation flags {flags:#x}; expected a sum of 1, 2 and 4"))),
    }
}

pub(crate) fn free_host(pointer: *mut c_void) -> Outcome {
    owner::current()?;
    let Some(layout) = lock(&HOST).remove(&pointer.addr()) else {
        return Err(Failure::invalid_value(format!("{pointer:p} is not a live page-locked allocation")));
    };
    // SAFETY: the map held it, so it was allocated here with this layout and not yet freed.
    unsafe { dealloc(pointer.cast(), layout) };
    Ok(())
}

/// Accepts a range of page-locked host memory, for a copy that happens later.
pub(super) fn expect_page_locked(address: usize, bytes: usize) -> Outcome {
    let known = lock(&HOST);
    let inside = known
        .range(..=address)
        .next_back()
        .is_some_and(|(&start, layout)| address - start <= layout.size() && bytes <= layout.size() - (address - start));
    if inside || bytes == 0 {
        return Ok(());
    }
    Err(Failure::new(
        CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
        format!("a captured copy of {bytes} bytes of host memory at {address:#x}, which is not page-locked"),
    ))
}

/// Accepts a range of an allocation.
pub(super) fn expect_on_device(address: CUdeviceptr, bytes: usize) -> Outcome {
    if bytes > 0 {
        initialised_device()?.host_pointer(address, bytes)?;
    }
    Ok(())
}

/// The caller's bytes.
///
/// # Safety
/// - `from` is null or valid for reads of `bytes` bytes, which nothing writes meanwhile.
unsafe fn host_bytes<'a>(from: *const c_void, bytes: usize) -> Result<&'a [u8], Failure> {
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
        initialised_device()?.write(to, from)?;
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
    // SAFETY: not null; the caller promises `bytes` bytes of memory that may be written. They may be uninitialised:
    // the slice is only written to.
    let to = unsafe { slice::from_raw_parts_mut(to.cast::<u8>(), bytes) };
    let device = initialised_device()?;
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
        initialised_device()?.copy(to, from, bytes)?;
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

pub(crate) fn fill<const N: usize>(address: CUdeviceptr, value: [u8; N], count: usize) -> Outcome {
    owner::current()?;
    if count > 0 {
        initialised_device()?.fill(address, value, count)?;
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
