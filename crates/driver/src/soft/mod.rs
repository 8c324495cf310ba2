//! The entry points over softcuda.
//!
//! One softcuda device stands for each ordinal: device 0, and others where `SOFTCUDA_DEVICES` asks for them. The host sees what it would see of a GPU, with two differences that make a
//! failure easier to find: every operation is done when the call returns, so the call that caused a fault is the call
//! that reports it; and a fault leaves the context usable.
//!
//! Addresses are unified, as under CUDA: each says which device's memory it is in, or that it is the host's. Page-locked,
//! registered and managed memory is the host's, which kernels of every device access at the same address.
//!
//! Handles are numbers, never pointers: each kind has a `Registry` of the live ones, and a handle
//! that is not in it (stale, of another kind, invented) is `CUDA_ERROR_INVALID_HANDLE`. Device addresses are softcuda's,
//! which checks every one. What cannot be checked is host memory: there the caller's word holds, as with a real driver.
//!
//! | module | serves |
//! |---|---|
//! | `properties` | `cuInit`, `cuDevice*`, the texts of error codes |
//! | `context`, `owner` | `cuDevicePrimaryCtx*`, `cuCtx*` |
//! | `peer` | access and copies between devices |
//! | `memory`, `copy` | `cuMem*`, `cuMemcpy*`, `cuMemset*` |
//! | `host`, `pool`, `pointer` | memory of the host that kernels reach, memory pools, what an address is |
//! | `module`, `library`, `link` | `cuModule*`, `cuFunc*`, `cuLibrary*`, `cuKernel*`, `cuLink*` |
//! | `image` | the PTX in what a module is loaded from |
//! | `launch`, `occupancy` | `cuLaunch*Kernel*`, `cuOccupancy*` |
//! | `stream` | `cuStream*`, `cuEvent*`, host functions |
//! | `work` | what a stream is given, as values |
//! | `capture`, `graph` | `cuStream*Capture*`, `cuGraph*` |
//! | `cublas` | `cublas*`, by the `gemm` crate |

pub(crate) mod capture;
pub(crate) mod context;
pub(crate) mod copy;
pub(crate) mod cublas;
pub(crate) mod graph;
pub(crate) mod host;
mod image;
#[allow(clippy::too_many_arguments, reason = "the signatures are the driver API's")]
pub(crate) mod launch;
mod leaks;
#[allow(clippy::too_many_arguments, reason = "the signatures are the driver API's")]
pub(crate) mod library;
#[allow(clippy::too_many_arguments, reason = "the signatures are the driver API's")]
pub(crate) mod link;
pub(crate) mod memory;
pub(crate) mod module;
pub(crate) mod occupancy;
mod owner;
pub(crate) mod peer;
pub(crate) mod pointer;
pub(crate) mod pool;
pub(crate) mod properties;
mod registry;
pub(crate) mod stream;
pub(crate) mod tensor_map;
pub(crate) mod work;

use std::cell::RefCell;
use std::env;
use std::sync::OnceLock;

pub use image::keep;
pub use softcuda::{Class, LaunchRecord, set_profile, write_profile};
use softcuda::{Device, DeviceConfig, Fault, FaultKind};

use crate::error::{self, SelectError};
use crate::sys::*;

static DEVICES: OnceLock<Vec<Device>> = OnceLock::new();

thread_local! {
    static LAST_FAULT: RefCell<Option<Fault>> = const { RefCell::new(None) };
}

/// The first software device, where [`crate::select`] chose softcuda: its sanitizer, counters and launch records.
pub fn device() -> Option<&'static Device> {
    devices().first()
}

/// The software devices, by ordinal; none where [`crate::select`] did not choose softcuda.
pub fn devices() -> &'static [Device] {
    DEVICES.get().map_or(&[], Vec::as_slice)
}

/// The last fault of the software device that a call on this thread returned: its kind, kernel, PTX line, block and
/// thread. Calls that succeed leave it.
pub fn last_fault() -> Option<Fault> {
    LAST_FAULT.with(|last| last.borrow().clone())
}

/// Makes the devices, once: as many as `SOFTCUDA_DEVICES` says, one where it is unset. `FERROWARP_SANITIZER=1` has their
/// sanitizers on from the start.
pub(crate) fn start() -> Result<(), SelectError> {
    let count = match env::var("SOFTCUDA_DEVICES") {
        Err(env::VarError::NotPresent) => 1,
        Err(env::VarError::NotUnicode(found)) => {
            return Err(SelectError::DeviceCount { found: found.to_string_lossy().into_owned() });
        }
        Ok(found) => match found.parse() {
            Ok(count) if (1..=Device::MOST).contains(&count) => count,
            _ => return Err(SelectError::DeviceCount { found }),
        },
    };
    leaks::tell_at_exit();
    DEVICES.get_or_init(|| {
        let sanitizer = env::var_os("FERROWARP_SANITIZER").is_some_and(|value| value == "1");
        let make = |ordinal| {
            let device = Device::new(DeviceConfig { ordinal, ..DeviceConfig::default() });
            device.set_sanitizer(sanitizer);
            device
        };
        (0..count).map(make).collect()
    });
    Ok(())
}

/// Why a call failed: the code for cust, the sentence for people.
#[derive(Debug)]
pub(crate) struct Failure {
    pub result: CUresult,
    pub text: String,
}

pub(crate) type Outcome = Result<(), Failure>;

impl Failure {
    pub fn new(result: CUresult, text: impl Into<String>) -> Self {
        Failure { result, text: text.into() }
    }

    pub fn invalid_value(text: impl Into<String>) -> Self {
        Failure::new(CUDA_ERROR_INVALID_VALUE, text)
    }
}

/// A fault becomes the code that a GPU would answer with, and stays for [`last_fault`].
impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        let result = match fault.kind() {
            FaultKind::OutOfMemory => CUDA_ERROR_OUT_OF_MEMORY,
            FaultKind::InvalidLaunch => CUDA_ERROR_INVALID_VALUE,
            // In a host call the address is an argument; in a kernel it is an access.
            _ if fault.location().is_none() => CUDA_ERROR_INVALID_VALUE,
            FaultKind::OutOfBounds | FaultKind::UseAfterFree | FaultKind::NoPeerAccess => CUDA_ERROR_ILLEGAL_ADDRESS,
            FaultKind::Misaligned => CUDA_ERROR_MISALIGNED_ADDRESS,
            FaultKind::Timeout => CUDA_ERROR_LAUNCH_TIMEOUT,
            FaultKind::Assertion => CUDA_ERROR_ASSERT,
            FaultKind::UnknownInstruction => CUDA_ERROR_ILLEGAL_INSTRUCTION,
            _ => CUDA_ERROR_LAUNCH_FAILED,
        };
        let text = fault.to_string();
        LAST_FAULT.set(Some(fault));
        Failure { result, text }
    }
}

/// Gives the code and keeps the text: every softcuda entry point ends here.
pub(crate) fn finish(name: &str, outcome: Outcome) -> CUresult {
    match outcome {
        Ok(()) => CUDA_SUCCESS,
        Err(Failure { result, .. }) if result == CUDA_ERROR_NOT_READY => result,
        Err(Failure { result, text }) => {
            error::report(result, format!("{name}: {result}: {text}"));
            result
        }
    }
}

/// The devices, for an entry point that may be called before `cuInit` in error.
fn initialised() -> Result<&'static [Device], Failure> {
    match devices() {
        devices if !devices.is_empty() && properties::is_initialised() => Ok(devices),
        _ => Err(Failure::new(CUDA_ERROR_NOT_INITIALIZED, "cuInit was not called")),
    }
}

/// The device in whose memory an address is; the current one for an address of the host, which all devices share.
fn device_at(address: CUdeviceptr) -> Result<&'static Device, Failure> {
    match Device::ordinal_of(address).and_then(|ordinal| initialised().ok()?.get(ordinal as usize)) {
        Some(device) => Ok(device),
        None => owner::current_device(),
    }
}

/// Writes a result through the pointer that the caller gave for it.
///
/// # Safety
/// - The pointer is null or valid for a write of a `T`.
unsafe fn give<T>(to: *mut T, value: T) -> Outcome {
    if to.is_null() {
        return Err(Failure::invalid_value("the pointer for the result is null"));
    }
    // SAFETY: not null, and the caller promises the rest. The caller's alignment is not promised.
    unsafe { to.write_unaligned(value) };
    Ok(())
}
