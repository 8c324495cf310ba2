//! Several devices: which may access which, and copies between them.
//!
//! Access is kept by pairs of devices: what one context of a device enables, its other contexts have too. Copies need no
//! access, as with a real driver, which takes them through the host.

use std::ffi::{c_int, c_uint};

use softcuda::Device;

use super::owner::{self, Owner};
use super::{Failure, Outcome, copy, devices, give, initialised, properties};
use crate::sys::*;

pub(crate) unsafe fn can_access(answer: *mut c_int, device: CUdevice, peer: CUdevice) -> Outcome {
    properties::device(device)?;
    properties::device(peer)?;
    // SAFETY: the caller's pointer for the answer.
    unsafe { give(answer, c_int::from(device != peer)) }
}

/// How two devices are connected: all alike, with access and atomics, without CUDA arrays.
pub(crate) unsafe fn attribute(value: *mut c_int, attribute: c_uint, device: CUdevice, peer: CUdevice) -> Outcome {
    const PERFORMANCE_RANK: c_uint = 1;
    const ACCESS_SUPPORTED: c_uint = 2;
    const NATIVE_ATOMIC_SUPPORTED: c_uint = 3;
    const ARRAY_ACCESS_SUPPORTED: c_uint = 4;
    properties::device(device)?;
    properties::device(peer)?;
    if device == peer {
        return Err(Failure::new(CUDA_ERROR_INVALID_DEVICE, format!("device {device} is no peer of itself")));
    }
    let answer = match attribute {
        PERFORMANCE_RANK | ARRAY_ACCESS_SUPPORTED => 0,
        ACCESS_SUPPORTED | NATIVE_ATOMIC_SUPPORTED => 1,
        _ => return Err(Failure::invalid_value(format!("peer attribute {attribute}; expected 1 to 4"))),
    };
    // SAFETY: the caller's pointer for the value.
    unsafe { give(value, answer) }
}

/// The current device, and that of another context.
fn pair(peer: CUcontext) -> Result<(&'static Device, &'static Device), Failure> {
    let device = owner::current_device()?;
    let peer = owner::device_of(Owner(peer.addr()))?;
    if device.config().ordinal == peer.config().ordinal {
        let text = format!("device {} is no peer of itself", peer.config().ordinal);
        return Err(Failure::new(CUDA_ERROR_INVALID_CONTEXT, text));
    }
    Ok((device, peer))
}

/// Lets kernels of the current device access the memory of another context's device.
pub(crate) fn enable(peer: CUcontext, flags: c_uint) -> Outcome {
    let (device, peer) = pair(peer)?;
    if flags != 0 {
        return Err(Failure::invalid_value(format!("peer access flags {flags:#x}; expected 0")));
    }
    if device.has_peer_access(peer) {
        let text = format!("device {} has access to device {}", device.config().ordinal, peer.config().ordinal);
        return Err(Failure::new(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, text));
    }
    device.enable_peer_access(peer);
    Ok(())
}

pub(crate) fn disable(peer: CUcontext) -> Outcome {
    let (device, peer) = pair(peer)?;
    if !device.has_peer_access(peer) {
        let text = format!("device {} has no access to device {}", device.config().ordinal, peer.config().ordinal);
        return Err(Failure::new(CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, text));
    }
    device.disable_peer_access(peer);
    Ok(())
}

/// Ends what a device's primary context enabled.
pub(crate) fn release(device: CUdevice) -> Outcome {
    let device = properties::device(device)?;
    devices().iter().for_each(|peer| device.disable_peer_access(peer));
    Ok(())
}

/// Refuses memory that is not of the context's device.
fn expect(address: CUdeviceptr, context: CUcontext) -> Outcome {
    initialised()?;
    let device = owner::device_of(Owner(context.addr()))?.config().ordinal;
    match Device::ordinal_of(address) {
        Some(other) if other != device => {
            Err(Failure::invalid_value(format!("{address:#x} is of device {other}, its context of device {device}")))
        }
        _ => Ok(()),
    }
}

pub(crate) unsafe fn copy(
    to: CUdeviceptr,
    to_context: CUcontext,
    from: CUdeviceptr,
    from_context: CUcontext,
    bytes: usize,
) -> Outcome {
    expect(to, to_context)?;
    expect(from, from_context)?;
    // SAFETY: the caller's promise for what is not a device's.
    unsafe { copy::copy(to, from, bytes) }
}

pub(crate) unsafe fn copy_async(
    to: CUdeviceptr,
    to_context: CUcontext,
    from: CUdeviceptr,
    from_context: CUcontext,
    bytes: usize,
    stream: CUstream,
) -> Outcome {
    expect(to, to_context)?;
    expect(from, from_context)?;
    // SAFETY: the caller's promise for what is not a device's.
    unsafe { copy::copy_async(to, from, bytes, stream) }
}
