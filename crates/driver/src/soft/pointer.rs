//! What an address is.

use std::ffi::{c_int, c_uint, c_ulonglong, c_void};

use softcuda::Device;

use super::host::{self, Kind};
use super::owner::{self, Owner};
use super::{Failure, Outcome, devices, give, memory};
use crate::sys::*;

/// Memory that the driver API knows.
struct Known {
    start: u64,
    bytes: usize,
    /// The context that it was made in; none for a module's variable.
    owner: Option<Owner>,
    ordinal: c_int,
    pool: usize,
    host: Option<Kind>,
}

fn find(address: CUdeviceptr) -> Result<Known, Failure> {
    owner::current()?;
    if let Some(host) = host::find(address) {
        let ordinal = owner::device_of(host.owner).or_else(|_| owner::current_device())?.config().ordinal;
        return Ok(Known {
            start: host.start as u64,
            bytes: host.bytes,
            owner: Some(host.owner),
            ordinal: ordinal as c_int,
            pool: 0,
            host: Some(host.kind),
        });
    }
    let unknown = || Failure::invalid_value(format!("{address:#x} is in no memory that softcuda knows"));
    let ordinal = Device::ordinal_of(address).ok_or_else(unknown)?;
    let device = devices().get(ordinal as usize).ok_or_else(unknown)?;
    let (start, bytes) = device.address_range(address).map_err(|_| unknown())?;
    let allocation = memory::allocation(start);
    Ok(Known {
        start,
        bytes,
        owner: allocation.map(|of| of.owner),
        ordinal: ordinal as c_int,
        pool: allocation.map_or(0, |of| of.pool),
        host: None,
    })
}

/// # Safety
/// - `value` is null or valid for a write of the attribute's type.
unsafe fn answer(known: &Known, attribute: c_uint, value: *mut c_void, address: CUdeviceptr) -> Outcome {
    const HOST: c_uint = 1;
    const DEVICE: c_uint = 2;
    let context = || {
        let Some(Owner(handle)) = known.owner else {
            return owner::current().map(|Owner(handle)| handle);
        };
        Ok(handle)
    };
    // SAFETY: the caller's pointer, for the types that cuda.h gives the attributes.
    unsafe {
        let flag = |answer: bool| give(value.cast::<u8>(), u8::from(answer));
        match attribute {
            // CONTEXT
            1 => give(value.cast::<usize>(), context()?),
            // MEMORY_TYPE: managed memory counts as a device's.
            2 => {
                let is_host = matches!(known.host, Some(Kind::PageLocked | Kind::Registered));
                give(value.cast::<c_uint>(), if is_host { HOST } else { DEVICE })
            }
            // DEVICE_POINTER
            3 => give(value.cast::<CUdeviceptr>(), address),
            // HOST_POINTER
            4 => match known.host {
                Some(_) => give(value.cast::<u64>(), address),
                None => Err(Failure::invalid_value(format!("{address:#x} is no address of the host"))),
            },
            // SYNC_MEMOPS: every operation is done when its call returns.
            6 => flag(true),
            // BUFFER_ID: an address is never given out twice.
            7 => give(value.cast::<c_ulonglong>(), known.start),
            // IS_MANAGED
            8 => flag(known.host == Some(Kind::Managed)),
            // DEVICE_ORDINAL
            9 => give(value.cast::<c_int>(), known.ordinal),
            // IS_LEGACY_CUDA_IPC_CAPABLE, IS_GPU_DIRECT_RDMA_CAPABLE, IS_HW_DECOMPRESS_CAPABLE
            10 | 15 | 21 => flag(false),
            // RANGE_START_ADDR, MAPPING_BASE_ADDR
            11 | 19 => give(value.cast::<u64>(), known.start),
            // RANGE_SIZE, MAPPING_SIZE
            12 | 18 => give(value.cast::<usize>(), known.bytes),
            // MAPPED
            13 => flag(true),
            // ALLOWED_HANDLE_TYPES
            14 => give(value.cast::<c_ulonglong>(), 0),
            // ACCESS_FLAGS: to be read and written
            16 => give(value.cast::<c_uint>(), 3),
            // MEMPOOL_HANDLE
            17 => give(value.cast::<usize>(), known.pool),
            // MEMORY_BLOCK_ID
            20 => give(value.cast::<c_ulonglong>(), known.start),
            _ => Err(Failure::invalid_value(format!("pointer attribute {attribute} is none that softcuda knows"))),
        }
    }
}

pub(crate) unsafe fn attribute(value: *mut c_void, attribute: c_uint, address: CUdeviceptr) -> Outcome {
    // SAFETY: the caller's pointer for the value.
    unsafe { answer(&find(address)?, attribute, value, address) }
}

/// Of an address that nobody knows, which is then the host's, every attribute is 0.
pub(crate) unsafe fn attributes(
    count: c_uint,
    attributes: *const c_uint,
    values: *const *mut c_void,
    address: CUdeviceptr,
) -> Outcome {
    owner::current()?;
    if attributes.is_null() || values.is_null() {
        return Err(Failure::invalid_value(format!("{count} attributes, in null arrays")));
    }
    let known = find(address).ok();
    for index in 0..count as usize {
        // SAFETY: the caller promises `count` elements in both.
        let (attribute, value) = unsafe { (*attributes.add(index), *values.add(index)) };
        // SAFETY: the caller's pointer for the value.
        let answered = known.as_ref().is_some_and(|known| unsafe { answer(known, attribute, value, address) }.is_ok());
        if answered || value.is_null() {
            continue;
        }
        let nothing: &[u8] = match attribute {
            6 | 8 | 10 | 13 | 15 | 21 => &[0],
            // DEVICE_ORDINAL: no device
            9 => &(-2i32).to_le_bytes(),
            2 | 16 => &[0; 4],
            5 => &[0; 16],
            _ => &[0; 8],
        };
        // SAFETY: not null; the caller promises room for the attribute's type, which is so long.
        unsafe { std::ptr::copy_nonoverlapping(nothing.as_ptr(), value.cast::<u8>(), nothing.len()) };
    }
    Ok(())
}

/// SYNC_MEMOPS is the one attribute that can be set, and it is always so.
pub(crate) unsafe fn set_attribute(value: *const c_void, attribute: c_uint, address: CUdeviceptr) -> Outcome {
    find(address)?;
    match attribute {
        6 if !value.is_null() => Ok(()),
        _ => Err(Failure::invalid_value(format!("pointer attribute {attribute} cannot be set"))),
    }
}
