//! The entry points over softcuda.
//!
//! One softcuda device stands for ordinal 0. The host sees what it would see of a GPU, with two differences that make a
//! failure easier to find: every operation is done when the call returns, so the call that caused a fault is the call
//! that reports it; and a fault leaves the context usable.
//!
//! Handles are numbers, never pointers: each kind has a `Registry` of the live ones, and a handle
//! that is not in it (stale, of another kind, invented) is `CUDA_ERROR_INVALID_HANDLE`. Device addresses are softcuda's,
//! which checks every one. What cannot be checked is host memory: there the caller's word holds, as with a real driver.
//!
//! | module | serves |
//! |---|---|
//! | `properties` | `cuInit`, `cuDevice*`, the texts of error codes |
//! | `context`, `owner` | `cuDevicePrimaryCtx*`, `cuCtx*` |
//! | `memory` | `cuMem*`, `cuMemcpy*`, `cuMemset*` |
//! | `module` | `cuModule*`, `cuFunc*` |
//! | `launch`, `occupancy` | `cuLaunch*Kernel*`, `cuOccupancy*` |
//! | `stream` | `cuStream*`, `cuEvent*`, host functions |
//! | `work` | what a stream is given, as values |
//! | `capture`, `graph` | `cuStream*Capture*`, `cuGraph*` |
//! | `cublas` | `cublas*`, by the `gemm` crate |

pub(crate) mod capture;
pub(crate) mod context;
pub(crate) mod cublas;
pub(crate) mod graph;
#[allow(clippy::too_many_arguments, reason = "the signatures are the driver API's")]
pub(crate) mod launch;
pub(crate) mod memory;
pub(crate) mod module;
pub(crate) mod occupancy;
mod owner;
pub(crate) mod properties;
mod registry;
pub(crate) mod stream;
pub(crate) mod work;

use std::cell::RefCell;
use std::env;
use std::sync::OnceLock;

pub use softcuda::{Class, LaunchRecord};
use softcuda::{Device, DeviceConfig, Fault, FaultKind};

use crate::error;
use crate::sys::*;

static DEVICE: OnceLock<Device> = OnceLock::new();

thread_local! {
    static LAST_FAULT: RefCell<Option<Fault>> = const { RefCell::new(None) };
}

/// The software device, where [`crate::select`] chose it: its sanitizer, counters and launch records.
pub fn device() -> Option<&'static Device> {
    DEVICE.get()
}

/// The last fault of the software device that a call on this thread returned: its kind, kernel, PTX line, block and
/// thread. Calls that succeed leave it.
pub fn last_fault() -> Option<Fault> {
    LAST_FAULT.with(|last| last.borrow().clone())
}

/// Makes the device, once. `FERROWARP_SANITIZER=1` has its sanitizer on from the start.
pub(crate) fn start() {
    DEVICE.get_or_init(|| {
        let device = Device::new(DeviceConfig::default());
        device.set_sanitizer(env::var_os("FERROWARP_SANITIZER").is_some_and(|value| value == "1"));
        device
    });
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
            FaultKind::OutOfBounds | FaultKind::UseAfterFree => CUDA_ERROR_ILLEGAL_ADDRESS,
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
            error::record(format!("{name}: {result}: {text}"));
            result
        }
    }
}

/// The device, for an entry point that may be called before `cuInit` in error.
fn initialised_device() -> Result<&'static Device, Failure> {
    match DEVICE.get() {
        Some(device) if properties::is_initialised() => Ok(device),
        _ => Err(Failure::new(CUDA_ERROR_NOT_INITIALIZED, "cuInit was not called")),
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
