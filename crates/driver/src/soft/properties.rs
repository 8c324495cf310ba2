//! The device as the host sees it: its limits, its name, and the texts of error codes.
//!
//! The limits are those of compute capability 9.0, the best that the kernels are compiled for; the number of
//! multiprocessors is the device's own. Neither depends on the machine: a launch that a host derives from them is the same
//! launch everywhere.

use std::ffi::{c_char, c_int, c_uint};
use std::sync::atomic::{AtomicBool, Ordering};

use softcuda::DeviceConfig;

use super::{Failure, Outcome, give, initialised_device};
use crate::sys::*;

/// As `cuDriverGetVersion` gives it: CUDA 12.0, whose PTX version 8.0 the kernels are in.
pub(crate) const DRIVER_VERSION: c_int = 12_000;
/// Lanes of a warp.
pub(crate) const WARP: u32 = 32;
/// Threads of a block.
pub(crate) const THREADS_PER_BLOCK: u32 = 1024;
/// Extents of a block in x, y, z.
pub(crate) const BLOCK: [u32; 3] = [1024, 1024, 64];
/// Extents of a grid in x, y, z.
pub(crate) const GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];
/// Resident threads of a multiprocessor.
pub(crate) const THREADS_PER_MULTIPROCESSOR: u32 = 2048;
/// Resident blocks of a multiprocessor.
pub(crate) const BLOCKS_PER_MULTIPROCESSOR: u32 = 32;
/// Shared memory of a block, in bytes, where the kernel does not ask for more.
pub(crate) const SHARED_PER_BLOCK: u32 = 48 << 10;
/// Shared memory of a block, in bytes, where the kernel asks for more (`cuFuncSetAttribute`).
pub(crate) const SHARED_PER_BLOCK_OPT_IN: u32 = 227 << 10;
/// Shared memory of a multiprocessor, in bytes.
pub(crate) const SHARED_PER_MULTIPROCESSOR: u32 = 228 << 10;
/// Shared memory, in bytes, that each resident block costs beyond its own.
pub(crate) const SHARED_RESERVED_PER_BLOCK: u32 = 1 << 10;

static INITIALISED: AtomicBool = AtomicBool::new(false);

pub(crate) fn is_initialised() -> bool {
    INITIALISED.load(Ordering::Acquire)
}

/// Accepts ordinal 0.
pub(crate) fn check_device(device: CUdevice) -> Outcome {
    initialised_device()?;
    match device {
        0 => Ok(()),
        _ => Err(Failure::new(CUDA_ERROR_INVALID_DEVICE, format!("device {device}; softcuda has device 0 only"))),
    }
}

pub(crate) fn init(flags: c_uint) -> Outcome {
    if flags != 0 {
        return Err(Failure::invalid_value(format!("cuInit flags {flags:#x}; expected 0")));
    }
    INITIALISED.store(true, Ordering::Release);
    Ok(())
}

/// Needs no `cuInit`, as with a real driver.
pub(crate) unsafe fn driver_version(version: *mut c_int) -> Outcome {
    // SAFETY: the caller's pointer for the version.
    unsafe { give(version, DRIVER_VERSION) }
}

pub(crate) unsafe fn error_string(error: CUresult, text: *mut *const c_char) -> Outcome {
    // SAFETY: the caller's pointer for the text.
    unsafe { give_text(error, error.texts().map(|(_, description)| description.as_ptr()), text) }
}

pub(crate) unsafe fn error_name(error: CUresult, name: *mut *const c_char) -> Outcome {
    // SAFETY: the caller's pointer for the text.
    unsafe { give_text(error, error.texts().map(|(name, _)| name.as_ptr()), name) }
}

/// Gives a constant C string, or null for a code that is none.
///
/// # Safety
/// - `to` is null or valid for a write.
unsafe fn give_text(error: CUresult, text: Option<*const c_char>, to: *mut *const c_char) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { give(to, text.unwrap_or(std::ptr::null())) }?;
    match text {
        Some(_) => Ok(()),
        None => Err(Failure::invalid_value(format!("{} is not a CUresult", error.0))),
    }
}

pub(crate) unsafe fn device_count(count: *mut c_int) -> Outcome {
    initialised_device()?;
    // SAFETY: the caller's pointer for the number.
    unsafe { give(count, 1) }
}

pub(crate) unsafe fn device_get(device: *mut CUdevice, ordinal: c_int) -> Outcome {
    check_device(ordinal)?;
    // SAFETY: the caller's pointer for the device.
    unsafe { give(device, ordinal) }
}

pub(crate) unsafe fn device_name(name: *mut c_char, capacity: c_int, device: CUdevice) -> Outcome {
    const NAME: &str = "softcuda";
    check_device(device)?;
    if name.is_null() || capacity < 1 {
        return Err(Failure::invalid_value(format!("no room for the name: {capacity} bytes at {name:p}")));
    }
    let length = NAME.len().min(capacity as usize - 1);
    // SAFETY: not null; the caller promises `capacity` bytes, of which these are `length` and a NUL.
    unsafe {
        std::ptr::copy_nonoverlapping(NAME.as_ptr().cast(), name, length);
        name.add(length).write(0);
    }
    Ok(())
}

pub(crate) unsafe fn device_uuid(uuid: *mut CUuuid, device: CUdevice) -> Outcome {
    check_device(device)?;
    // SAFETY: the caller's pointer for the identity.
    unsafe { give(uuid, CUuuid { bytes: *b"softcuda\0\0\0\0\0\0\0\0" }) }
}

pub(crate) unsafe fn total_memory(bytes: *mut usize, device: CUdevice) -> Outcome {
    check_device(device)?;
    let (_, total) = initialised_device()?.memory_info();
    // SAFETY: the caller's pointer for the size.
    unsafe { give(bytes, total) }
}

pub(crate) unsafe fn device_attribute(value: *mut c_int, attribute: c_uint, device: CUdevice) -> Outcome {
    check_device(device)?;
    let answer = attribute_value(attribute, initialised_device()?.config())
        .ok_or_else(|| Failure::invalid_value(format!("softcuda has no answer for device attribute {attribute}")))?;
    // SAFETY: the caller's pointer for the value.
    unsafe { give(value, answer as c_int) }
}

/// The value of a `CU_DEVICE_ATTRIBUTE_*`. Those of textures, clocks and caches have none: the device has no such thing.
fn attribute_value(attribute: c_uint, config: &DeviceConfig) -> Option<u32> {
    Some(match attribute {
        1 => THREADS_PER_BLOCK,            // MAX_THREADS_PER_BLOCK
        2 => BLOCK[0],                     // MAX_BLOCK_DIM_X
        3 => BLOCK[1],                     // MAX_BLOCK_DIM_Y
        4 => BLOCK[2],                     // MAX_BLOCK_DIM_Z
        5 => GRID[0],                      // MAX_GRID_DIM_X
        6 => GRID[1],                      // MAX_GRID_DIM_Y
        7 => GRID[2],                      // MAX_GRID_DIM_Z
        8 => SHARED_PER_BLOCK,             // MAX_SHARED_MEMORY_PER_BLOCK
        9 => 64 << 10,                     // TOTAL_CONSTANT_MEMORY
        10 => WARP,                        // WARP_SIZE
        12 | 82 => 64 << 10,               // MAX_REGISTERS_PER_BLOCK, MAX_REGISTERS_PER_MULTIPROCESSOR
        16 => config.sm_count,             // MULTIPROCESSOR_COUNT
        15 | 17 => 0,                      // GPU_OVERLAP, KERNEL_EXEC_TIMEOUT
        18 => 0,                           // INTEGRATED
        19 => 0,                           // CAN_MAP_HOST_MEMORY
        20 => 0,                           // COMPUTE_MODE: default, any number of contexts
        31 => 0,                           // CONCURRENT_KERNELS
        32 => 0,                           // ECC_ENABLED
        39 => THREADS_PER_MULTIPROCESSOR,  // MAX_THREADS_PER_MULTIPROCESSOR
        40 => 0,                           // ASYNC_ENGINE_COUNT
        41 => 0,                           // UNIFIED_ADDRESSING
        75 => config.compute_capability.0, // COMPUTE_CAPABILITY_MAJOR
        76 => config.compute_capability.1, // COMPUTE_CAPABILITY_MINOR
        78 => 0,                           // STREAM_PRIORITIES_SUPPORTED
        81 => SHARED_PER_MULTIPROCESSOR,   // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        83 => 0,                           // MANAGED_MEMORY
        88 | 89 => 0,                      // PAGEABLE_MEMORY_ACCESS, CONCURRENT_MANAGED_ACCESS
        95 => 1,                           // COOPERATIVE_LAUNCH
        96 => 0,                           // COOPERATIVE_MULTI_DEVICE_LAUNCH
        97 => SHARED_PER_BLOCK_OPT_IN,     // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        106 => BLOCKS_PER_MULTIPROCESSOR,  // MAX_BLOCKS_PER_MULTIPROCESSOR
        111 => SHARED_RESERVED_PER_BLOCK,  // RESERVED_SHARED_MEMORY_PER_BLOCK
        115 => 1,                          // MEMORY_POOLS_SUPPORTED: cuMemAllocAsync works
        _ => return None,
    })
}

/// Refuses what is no preference between cache and shared memory.
pub(crate) fn check_cache_config(config: c_uint) -> Outcome {
    match config {
        0..=3 => Ok(()),
        _ => Err(Failure::invalid_value(format!("cache preference {config}; expected 0 to 3"))),
    }
}

/// Refuses what is no configuration of shared memory.
pub(crate) fn check_shared_memory_config(config: c_uint) -> Outcome {
    match config {
        0..=2 => Ok(()),
        _ => Err(Failure::invalid_value(format!("shared memory configuration {config}; expected 0 to 2"))),
    }
}
