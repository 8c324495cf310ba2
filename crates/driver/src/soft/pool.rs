//! Memory pools: a name for whose memory an allocation in stream order is, with counts.
//!
//! Nothing is kept back: memory is given back when it is freed, so what is reserved is what is used.

use std::ffi::{c_int, c_uint, c_ulonglong, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use softcuda::Device;

use super::owner;
use super::registry::Registry;
use super::{Failure, Outcome, give, memory, properties, stream};
use crate::sys::*;

struct Pool {
    device: &'static Device,
    /// Whether it is the device's own, which lives for ever.
    is_default: bool,
    /// Attributes 1 to 4: three kinds of reuse, and how much a pool may keep back.
    settings: [AtomicU64; 4],
    used: AtomicU64,
    most_used: AtomicU64,
}

static POOLS: Registry<Pool> = Registry::new("memory pool");

/// The default and the current pool of each device, by handle; 0 where it is not made yet.
static DEFAULT: [AtomicUsize; Device::MOST as usize] = [const { AtomicUsize::new(0) }; Device::MOST as usize];
static CURRENT: [AtomicUsize; Device::MOST as usize] = [const { AtomicUsize::new(0) }; Device::MOST as usize];

fn make(device: &'static Device, is_default: bool) -> CUmemoryPool {
    let settings = [1, 1, 1, 0].map(AtomicU64::new);
    let (used, most_used) = (AtomicU64::new(0), AtomicU64::new(0));
    POOLS.insert(Pool { device, is_default, settings, used, most_used })
}

fn default_of(device: &'static Device) -> CUmemoryPool {
    let place = &DEFAULT[device.config().ordinal as usize];
    let known = place.load(Ordering::Acquire);
    if known != 0 {
        return ptr::without_provenance_mut(known);
    }
    let made = make(device, true);
    match place.compare_exchange(0, made.addr(), Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => made,
        Err(other) => {
            // Another thread was first; nobody has seen this one.
            let _ = POOLS.remove(made);
            ptr::without_provenance_mut(other)
        }
    }
}

fn current_of(device: &'static Device) -> CUmemoryPool {
    match CURRENT[device.config().ordinal as usize].load(Ordering::Acquire) {
        0 => default_of(device),
        handle => ptr::without_provenance_mut(handle),
    }
}

/// The current pool of the current device.
pub(super) fn current() -> Result<CUmemoryPool, Failure> {
    owner::current_device().map(current_of)
}

pub(crate) unsafe fn allocate(
    address: *mut CUdeviceptr,
    bytes: usize,
    pool: CUmemoryPool,
    stream: CUstream,
) -> Outcome {
    stream::check(stream)?;
    let of = POOLS.get(pool)?;
    // SAFETY: the caller's pointer for the address.
    unsafe { memory::allocate_on(of.device, pool.addr(), address, bytes) }?;
    let used = of.used.fetch_add(bytes as u64, Ordering::AcqRel) + bytes as u64;
    of.most_used.fetch_max(used, Ordering::AcqRel);
    Ok(())
}

/// Counts memory of a pool as freed. The pool may have ended.
pub(super) fn give_back(pool: usize, bytes: usize) {
    if let Ok(pool) = POOLS.get(ptr::without_provenance_mut(pool)) {
        pool.used.fetch_sub(bytes as u64, Ordering::AcqRel);
    }
}

/// The device that a location means.
///
/// # Safety
/// - `location` is null or valid for a read.
unsafe fn device_of(location: *const CUmemLocation) -> Result<&'static Device, Failure> {
    const DEVICE: c_uint = 1;
    if location.is_null() {
        return Err(Failure::invalid_value("the pointer to the location is null"));
    }
    // SAFETY: not null; the caller promises the rest.
    let location = unsafe { location.read_unaligned() };
    match location.kind {
        DEVICE => properties::device(location.id),
        other => Err(Failure::new(
            CUDA_ERROR_NOT_SUPPORTED,
            format!("memory location type {other}; softcuda's pools are of a device (1)"),
        )),
    }
}

pub(crate) unsafe fn create(pool: *mut CUmemoryPool, properties: *const CUmemPoolProps) -> Outcome {
    if properties.is_null() {
        return Err(Failure::invalid_value("the pointer to the pool's properties is null"));
    }
    // SAFETY: not null; the caller promises a structure.
    let properties = unsafe { properties.read_unaligned() };
    if properties.handleTypes != 0 {
        return Err(Failure::new(CUDA_ERROR_NOT_SUPPORTED, "softcuda shares no memory between processes"));
    }
    // SAFETY: the location is here.
    let device = unsafe { device_of(&properties.location) }?;
    // SAFETY: the caller's pointer for the handle.
    unsafe { give(pool, make(device, false)) }
}

pub(crate) fn destroy(pool: CUmemoryPool) -> Outcome {
    let known = POOLS.get(pool)?;
    if known.is_default {
        return Err(Failure::invalid_value("a device's default pool is never destroyed"));
    }
    let place = &CURRENT[known.device.config().ordinal as usize];
    // Where it was current, the default pool is from now on.
    let _ = place.compare_exchange(pool.addr(), 0, Ordering::AcqRel, Ordering::Acquire);
    POOLS.remove(pool).map(drop)
}

pub(crate) unsafe fn device_default(pool: *mut CUmemoryPool, device: CUdevice) -> Outcome {
    // SAFETY: the caller's pointer for the handle.
    unsafe { give(pool, default_of(properties::device(device)?)) }
}

pub(crate) unsafe fn device_current(pool: *mut CUmemoryPool, device: CUdevice) -> Outcome {
    // SAFETY: the caller's pointer for the handle.
    unsafe { give(pool, current_of(properties::device(device)?)) }
}

pub(crate) fn set_device_current(device: CUdevice, pool: CUmemoryPool) -> Outcome {
    let device = properties::device(device)?;
    expect_of(&*POOLS.get(pool)?, device)?;
    CURRENT[device.config().ordinal as usize].store(pool.addr(), Ordering::Release);
    Ok(())
}

fn expect_of(pool: &Pool, device: &Device) -> Outcome {
    let (of, wanted) = (pool.device.config().ordinal, device.config().ordinal);
    match of == wanted {
        true => Ok(()),
        false => Err(Failure::invalid_value(format!("a pool of device {of} for device {wanted}"))),
    }
}

pub(crate) unsafe fn location_default(
    pool: *mut CUmemoryPool,
    location: *const CUmemLocation,
    _allocation: c_uint,
) -> Outcome {
    // SAFETY: the caller's location, and its pointer for the handle.
    unsafe { give(pool, default_of(device_of(location)?)) }
}

pub(crate) unsafe fn location_current(
    pool: *mut CUmemoryPool,
    location: *const CUmemLocation,
    _allocation: c_uint,
) -> Outcome {
    // SAFETY: the caller's location, and its pointer for the handle.
    unsafe { give(pool, current_of(device_of(location)?)) }
}

pub(crate) unsafe fn set_location_current(
    location: *const CUmemLocation,
    _allocation: c_uint,
    pool: CUmemoryPool,
) -> Outcome {
    // SAFETY: the caller's location.
    let device = unsafe { device_of(location) }?;
    set_device_current(device.config().ordinal as CUdevice, pool)
}

pub(crate) fn trim(pool: CUmemoryPool, _keep: usize) -> Outcome {
    POOLS.get(pool).map(drop)
}

const RELEASE_THRESHOLD: c_uint = 4;
const RESERVED_CURRENT: c_uint = 5;
const RESERVED_HIGH: c_uint = 6;
const USED_CURRENT: c_uint = 7;
const USED_HIGH: c_uint = 8;

/// An `int` for the kinds of reuse, otherwise 64 bits.
pub(crate) unsafe fn get_attribute(pool: CUmemoryPool, attribute: c_uint, value: *mut c_void) -> Outcome {
    let pool = POOLS.get(pool)?;
    let of = |value: &AtomicU64| value.load(Ordering::Acquire);
    let answer = match attribute {
        1..=RELEASE_THRESHOLD => of(&pool.settings[attribute as usize - 1]),
        RESERVED_CURRENT | USED_CURRENT => of(&pool.used),
        RESERVED_HIGH | USED_HIGH => of(&pool.most_used),
        _ => return Err(Failure::invalid_value(format!("pool attribute {attribute}; expected 1 to 8"))),
    };
    // SAFETY: the caller's pointer for a value of the attribute's type.
    unsafe {
        match attribute {
            1..RELEASE_THRESHOLD => give(value.cast::<c_int>(), answer as c_int),
            _ => give(value.cast::<c_ulonglong>(), answer),
        }
    }
}

pub(crate) unsafe fn set_attribute(pool: CUmemoryPool, attribute: c_uint, value: *mut c_void) -> Outcome {
    let pool = POOLS.get(pool)?;
    if value.is_null() {
        return Err(Failure::invalid_value("the pointer to the value is null"));
    }
    // SAFETY: not null; the caller promises a value of the attribute's type.
    let value = unsafe {
        match attribute {
            1..RELEASE_THRESHOLD => value.cast::<c_int>().read_unaligned() as u64,
            _ => value.cast::<c_ulonglong>().read_unaligned(),
        }
    };
    match attribute {
        1..=RELEASE_THRESHOLD => pool.settings[attribute as usize - 1].store(value, Ordering::Release),
        // The most that was used may be reset, to what is used now.
        RESERVED_HIGH | USED_HIGH if value == 0 => {
            pool.most_used.store(pool.used.load(Ordering::Acquire), Ordering::Release);
        }
        _ => return Err(Failure::invalid_value(format!("pool attribute {attribute} cannot be set to {value}"))),
    }
    Ok(())
}

/// Another device's access to a pool: as its access to the pool's device.
pub(crate) unsafe fn set_access(pool: CUmemoryPool, access: *const CUmemAccessDesc, count: usize) -> Outcome {
    let pool = POOLS.get(pool)?;
    for index in 0..count {
        // SAFETY: the caller promises `count` elements.
        let access = unsafe { access.add(index).read_unaligned() };
        // SAFETY: the location is here.
        let device = unsafe { device_of(&access.location) }?;
        match access.flags {
            _ if ptr::eq(device, pool.device) => {}
            0 => device.disable_peer_access(pool.device),
            1 | 3 => device.enable_peer_access(pool.device),
            other => return Err(Failure::invalid_value(format!("access flags {other}; expected 0, 1 or 3"))),
        }
    }
    Ok(())
}

pub(crate) unsafe fn get_access(flags: *mut c_uint, pool: CUmemoryPool, location: *const CUmemLocation) -> Outcome {
    let pool: Arc<Pool> = POOLS.get(pool)?;
    // SAFETY: the caller's location.
    let device = unsafe { device_of(location) }?;
    let has_access = ptr::eq(device, pool.device) || device.has_peer_access(pool.device);
    // SAFETY: the caller's pointer for the flags.
    unsafe { give(flags, if has_access { 3 } else { 0 }) }
}
