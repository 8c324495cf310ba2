//! The device as the host sees it: its limits, its name, and the texts of error codes.
//!
//! The limits are those of compute capability 9.0, the best that the kernels are compiled for; the number of
//! multiprocessors is the device's own. Neither depends on the machine: a launch that a host derives from them is the same
//! launch everywhere.

use std::ffi::{c_char, c_int, c_uint};
use std::sync::atomic::{AtomicBool, Ordering};

use softcuda::{Device, DeviceConfig};

use super::{Failure, Outcome, give, initialised};
use crate::sys::*;

/// As `cuDriverGetVersion` gives it: CUDA 13.5, whose programs it is to run.
pub(crate) const DRIVER_VERSION: c_int = 13_050;
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

/// The device of an ordinal.
pub(crate) fn device(ordinal: CUdevice) -> Result<&'static Device, Failure> {
    let devices = initialised()?;
    let known = usize::try_from(ordinal).ok().and_then(|ordinal| devices.get(ordinal));
    known.ok_or_else(|| {
        let text = match devices.len() {
            1 => format!("device {ordinal}; softcuda has device 0 only (SOFTCUDA_DEVICES=2 gives it two)"),
            count => format!("device {ordinal}; softcuda has devices 0 to {}", count - 1),
        };
        Failure::new(CUDA_ERROR_INVALID_DEVICE, text)
    })
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
    let devices = initialised()?;
    // SAFETY: the caller's pointer for the number.
    unsafe { give(count, devices.len() as c_int) }
}

pub(crate) unsafe fn device_get(device: *mut CUdevice, ordinal: c_int) -> Outcome {
    self::device(ordinal)?;
    // SAFETY: the caller's pointer for the device.
    unsafe { give(device, ordinal) }
}

pub(crate) unsafe fn device_name(name: *mut c_char, capacity: c_int, device: CUdevice) -> Outcome {
    const NAME: &str = "softcuda";
    self::device(device)?;
    // SAFETY: the caller's room.
    unsafe { give_string(name, capacity, NAME) }
}

/// Gives a text, as much of it as there is room for.
///
/// # Safety
/// - `to` is null or has room for `capacity` bytes.
unsafe fn give_string(to: *mut c_char, capacity: c_int, text: &str) -> Outcome {
    if to.is_null() || capacity < 1 {
        return Err(Failure::invalid_value(format!("no room for the text: {capacity} bytes at {to:p}")));
    }
    let length = text.len().min(capacity as usize - 1);
    // SAFETY: not null; the caller promises `capacity` bytes, of which these are `length` and a NUL.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), to, length);
        to.add(length).write(0);
    }
    Ok(())
}

pub(crate) unsafe fn device_uuid(uuid: *mut CUuuid, device: CUdevice) -> Outcome {
    self::device(device)?;
    let mut bytes = *b"softcuda\0\0\0\0\0\0\0\0";
    bytes[15] = device as u8;
    // SAFETY: the caller's pointer for the identity.
    unsafe { give(uuid, CUuuid { bytes }) }
}

pub(crate) unsafe fn total_memory(bytes: *mut usize, device: CUdevice) -> Outcome {
    let (_, total) = self::device(device)?.memory_info();
    // SAFETY: the caller's pointer for the size.
    unsafe { give(bytes, total) }
}

pub(crate) unsafe fn device_attribute(value: *mut c_int, attribute: c_uint, device: CUdevice) -> Outcome {
    let answer = attribute_value(attribute, self::device(device)?.config())
        .ok_or_else(|| Failure::invalid_value(format!("softcuda has no answer for device attribute {attribute}")))?;
    // SAFETY: the caller's pointer for the value.
    unsafe { give(value, answer as c_int) }
}

/// 1 where blocks can be launched in clusters.
pub(crate) fn clusters(config: &DeviceConfig) -> u32 {
    u32::from(config.compute_capability.0 >= 9)
}

/// The last `CU_DEVICE_ATTRIBUTE_*` of CUDA 13.5.
const LAST_ATTRIBUTE: c_uint = 161;

/// The value of a `CU_DEVICE_ATTRIBUTE_*`. One that is not listed asks whether the device has a thing, or how large it is, and
/// is 0: it has none. So it is with textures, surfaces and memory that is shared between processes.
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
        11 => i32::MAX as u32,             // MAX_PITCH
        12 | 82 => 64 << 10,               // MAX_REGISTERS_PER_BLOCK, MAX_REGISTERS_PER_MULTIPROCESSOR
        13 | 36 => 1_000_000,              // CLOCK_RATE, MEMORY_CLOCK_RATE, in kHz: a GHz, so that a quotient exists
        14 | 51 => 512,                    // TEXTURE_ALIGNMENT, TEXTURE_PITCH_ALIGNMENT
        16 => config.sm_count,             // MULTIPROCESSOR_COUNT
        19 => 1,                           // CAN_MAP_HOST_MEMORY
        34 => config.ordinal,              // PCI_DEVICE_ID
        37 => 64,                          // GLOBAL_MEMORY_BUS_WIDTH, in bits
        39 => THREADS_PER_MULTIPROCESSOR,  // MAX_THREADS_PER_MULTIPROCESSOR
        41 => 1,                           // UNIFIED_ADDRESSING
        75 => config.compute_capability.0, // COMPUTE_CAPABILITY_MAJOR
        76 => config.compute_capability.1, // COMPUTE_CAPABILITY_MINOR
        79 | 80 => 1,                      // GLOBAL_L1_CACHE_SUPPORTED, LOCAL_L1_CACHE_SUPPORTED
        81 => SHARED_PER_MULTIPROCESSOR,   // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        83 => 1,                           // MANAGED_MEMORY
        87 => 2,                           // SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO
        89 => 1,                           // CONCURRENT_MANAGED_ACCESS
        91 => 1,                           // CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM
        95 => 1,                           // COOPERATIVE_LAUNCH
        97 => SHARED_PER_BLOCK_OPT_IN,     // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        99 => 1,                           // HOST_REGISTER_SUPPORTED
        101 => 1,                          // DIRECT_MANAGED_MEM_ACCESS_FROM_HOST
        106 => BLOCKS_PER_MULTIPROCESSOR,  // MAX_BLOCKS_PER_MULTIPROCESSOR
        111 => SHARED_RESERVED_PER_BLOCK,  // RESERVED_SHARED_MEMORY_PER_BLOCK
        115 => 1,                          // MEMORY_POOLS_SUPPORTED
        120 => clusters(config),           // CLUSTER_LAUNCH
        131 | 134 => u32::MAX,             // NUMA_ID, HOST_NUMA_ID: -1, none
        _ if (1..=LAST_ATTRIBUTE).contains(&attribute) => 0,
        _ => return None,
    })
}

/// `0000:00:01.0` is device 1.
pub(crate) unsafe fn pci_bus_id(text: *mut c_char, capacity: c_int, device: CUdevice) -> Outcome {
    self::device(device)?;
    // SAFETY: the caller's room.
    unsafe { give_string(text, capacity, &format!("0000:00:{device:02x}.0")) }
}

pub(crate) unsafe fn by_pci_bus_id(device: *mut CUdevice, text: *const c_char) -> Outcome {
    // SAFETY: the caller promises a C string.
    let text = unsafe { super::module::c_string(text, "PCI bus id") }?.to_string_lossy();
    let number = || {
        let (bus, slot) = text.rsplit_once(':')?;
        let slot = slot.split_once('.').map_or(slot, |(slot, _function)| slot);
        let bus = bus.rsplit_once(':').map_or(bus, |(_domain, bus)| bus);
        (u8::from_str_radix(bus, 16).ok()? == 0).then_some(())?;
        CUdevice::from_str_radix(slot, 16).ok()
    };
    let unknown = || Failure::new(CUDA_ERROR_INVALID_DEVICE, format!("no device has the PCI bus id {text:?}"));
    let ordinal = number().ok_or_else(unknown)?;
    self::device(ordinal).map_err(|_| unknown())?;
    // SAFETY: the caller's pointer for the device.
    unsafe { give(device, ordinal) }
}

pub(crate) unsafe fn compute_capability(major: *mut c_int, minor: *mut c_int, device: CUdevice) -> Outcome {
    let capability = self::device(device)?.config().compute_capability;
    // SAFETY: the caller's pointers for the numbers.
    unsafe {
        give(major, capability.0 as c_int)?;
        give(minor, capability.1 as c_int)
    }
}

/// cuda.h's `CUdevprop`: thirteen of the attributes as one structure.
pub(crate) unsafe fn properties(values: *mut [c_int; 14], device: CUdevice) -> Outcome {
    let config = self::device(device)?.config();
    // 3 extents of a block, 3 of a grid, shared and constant memory, warp, pitch, registers, clock rate, texture alignment
    let attributes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14];
    // SAFETY: the caller's pointer for the structure.
    unsafe { give(values, attributes.map(|attribute| attribute_value(attribute, config).unwrap_or(0) as c_int)) }
}

/// A context cannot have a part of the multiprocessors.
pub(crate) unsafe fn affinity_support(answer: *mut c_int, _kind: c_uint, device: CUdevice) -> Outcome {
    self::device(device)?;
    // SAFETY: the caller's pointer for the answer.
    unsafe { give(answer, 0) }
}

/// A profiler that looks from outside has nothing to switch.
pub(crate) fn profiler() -> Outcome {
    initialised().map(drop)
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
