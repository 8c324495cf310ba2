//! `CUresult`: the code that every driver call returns, its name and its meaning.
//!
//! The codes are those of `cuda.h` for CUDA 11.4, the version that cust's declarations were made from. cust holds a
//! result in a Rust enum of exactly these values, for which any other number is undefined behaviour, so a newer
//! driver's code that is not in this list must not reach cust: see [`CUresult::known`].

use std::ffi::CStr;
use std::fmt;

/// What a driver call returned. `CUDA_SUCCESS` is 0.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CUresult(pub u32);

macro_rules! results {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        $(
            #[doc = concat!("`CUresult` ", stringify!($code), ": ", $text, ".")]
            pub const $name: CUresult = CUresult($code);
        )*

        /// Every code of CUDA 11.4 as (code, name, description), both texts ending in the NUL byte that C wants.
        const KNOWN: &[(u32, &str, &str)] = &[
            $(($code, concat!(stringify!($name), "\0"), concat!($text, "\0")),)*
        ];
    };
}

results! {
    CUDA_SUCCESS = 0, "no error";
    CUDA_ERROR_INVALID_VALUE = 1, "invalid argument";
    CUDA_ERROR_OUT_OF_MEMORY = 2, "out of memory";
    CUDA_ERROR_NOT_INITIALIZED = 3, "initialization error";
    CUDA_ERROR_DEINITIALIZED = 4, "driver shutting down";
    CUDA_ERROR_PROFILER_DISABLED = 5, "profiler disabled";
    CUDA_ERROR_PROFILER_NOT_INITIALIZED = 6, "profiler not initialized";
    CUDA_ERROR_PROFILER_ALREADY_STARTED = 7, "profiler already started";
    CUDA_ERROR_PROFILER_ALREADY_STOPPED = 8, "profiler already stopped";
    CUDA_ERROR_STUB_LIBRARY = 34, "the library is the toolkit's stub, not a driver";
    CUDA_ERROR_NO_DEVICE = 100, "no CUDA-capable device is detected";
    CUDA_ERROR_INVALID_DEVICE = 101, "invalid device ordinal";
    CUDA_ERROR_DEVICE_NOT_LICENSED = 102, "the device has no valid license";
    CUDA_ERROR_INVALID_IMAGE = 200, "the module image is invalid";
    CUDA_ERROR_INVALID_CONTEXT = 201, "invalid context, or none is current";
    CUDA_ERROR_CONTEXT_ALREADY_CURRENT = 202, "the context is already current";
    CUDA_ERROR_MAP_FAILED = 205, "mapping of a buffer failed";
    CUDA_ERROR_UNMAP_FAILED = 206, "unmapping of a buffer failed";
    CUDA_ERROR_ARRAY_IS_MAPPED = 207, "the array is mapped";
    CUDA_ERROR_ALREADY_MAPPED = 208, "the resource is already mapped";
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209, "no kernel image is available for this device";
    CUDA_ERROR_ALREADY_ACQUIRED = 210, "the resource is already acquired";
    CUDA_ERROR_NOT_MAPPED = 211, "the resource is not mapped";
    CUDA_ERROR_NOT_MAPPED_AS_ARRAY = 212, "the resource is not mapped as an array";
    CUDA_ERROR_NOT_MAPPED_AS_POINTER = 213, "the resource is not mapped as a pointer";
    CUDA_ERROR_ECC_UNCORRECTABLE = 214, "uncorrectable ECC error";
    CUDA_ERROR_UNSUPPORTED_LIMIT = 215, "the device has no such limit";
    CUDA_ERROR_CONTEXT_ALREADY_IN_USE = 216, "exclusive-thread device already in use by another thread";
    CUDA_ERROR_PEER_ACCESS_UNSUPPORTED = 217, "peer access is not supported between these devices";
    CUDA_ERROR_INVALID_PTX = 218, "the PTX does not compile";
    CUDA_ERROR_INVALID_GRAPHICS_CONTEXT = 219, "invalid graphics context";
    CUDA_ERROR_NVLINK_UNCORRECTABLE = 220, "uncorrectable NVLink error";
    CUDA_ERROR_JIT_COMPILER_NOT_FOUND = 221, "the PTX compiler library is not found";
    CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222, "the PTX is of a version newer than the driver knows";
    CUDA_ERROR_JIT_COMPILATION_DISABLED = 223, "compilation of PTX is disabled";
    CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY = 224, "the execution affinity is not supported";
    CUDA_ERROR_INVALID_SOURCE = 300, "the device kernel source is invalid";
    CUDA_ERROR_FILE_NOT_FOUND = 301, "file not found";
    CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND = 302, "shared object symbol not found";
    CUDA_ERROR_SHARED_OBJECT_INIT_FAILED = 303, "shared object initialization failed";
    CUDA_ERROR_OPERATING_SYSTEM = 304, "an operating system call failed";
    CUDA_ERROR_INVALID_HANDLE = 400, "invalid resource handle";
    CUDA_ERROR_ILLEGAL_STATE = 401, "the resource is not in a state for this operation";
    CUDA_ERROR_NOT_FOUND = 500, "named symbol not found";
    CUDA_ERROR_NOT_READY = 600, "device not ready";
    CUDA_ERROR_ILLEGAL_ADDRESS = 700, "an illegal memory access was encountered";
    CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES = 701, "too many resources requested for launch";
    CUDA_ERROR_LAUNCH_TIMEOUT = 702, "the launch timed out and was terminated";
    CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING = 703, "incompatible texturing mode";
    CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED = 704, "peer access is already enabled";
    CUDA_ERROR_PEER_ACCESS_NOT_ENABLED = 705, "peer access has not been enabled";
    CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE = 708, "the primary context is already active";
    CUDA_ERROR_CONTEXT_IS_DESTROYED = 709, "the context is destroyed";
    CUDA_ERROR_ASSERT = 710, "device-side assert triggered";
    CUDA_ERROR_TOO_MANY_PEERS = 711, "peer resources exhausted";
    CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED = 712, "the host memory is already registered";
    CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED = 713, "the host memory is not registered";
    CUDA_ERROR_HARDWARE_STACK_ERROR = 714, "hardware stack error";
    CUDA_ERROR_ILLEGAL_INSTRUCTION = 715, "an illegal instruction was encountered";
    CUDA_ERROR_MISALIGNED_ADDRESS = 716, "misaligned address";
    CUDA_ERROR_INVALID_ADDRESS_SPACE = 717, "operation not supported on this address space";
    CUDA_ERROR_INVALID_PC = 718, "invalid program counter";
    CUDA_ERROR_LAUNCH_FAILED = 719, "unspecified launch failure";
    CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE = 720, "too many blocks in cooperative launch";
    CUDA_ERROR_NOT_PERMITTED = 800, "operation not permitted";
    CUDA_ERROR_NOT_SUPPORTED = 801, "operation not supported";
    CUDA_ERROR_SYSTEM_NOT_READY = 802, "system not yet initialized";
    CUDA_ERROR_SYSTEM_DRIVER_MISMATCH = 803, "the display driver and the CUDA driver library are of different versions";
    CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE = 804, "forward compatibility is not supported on this device";
    CUDA_ERROR_MPS_CONNECTION_FAILED = 805, "connection to the MPS server failed";
    CUDA_ERROR_MPS_RPC_FAILURE = 806, "call to the MPS server failed";
    CUDA_ERROR_MPS_SERVER_NOT_READY = 807, "the MPS server is not ready";
    CUDA_ERROR_MPS_MAX_CLIENTS_REACHED = 808, "the MPS server has no place for another client";
    CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED = 809, "the MPS server has no place for another connection";
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900, "operation not permitted when the stream is capturing";
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901, "the capture was invalidated by an earlier error";
    CUDA_ERROR_STREAM_CAPTURE_MERGE = 902, "the operation would merge two captures";
    CUDA_ERROR_STREAM_CAPTURE_UNMATCHED = 903, "the capture was not started on this stream";
    CUDA_ERROR_STREAM_CAPTURE_UNJOINED = 904, "the capture has work that was not joined";
    CUDA_ERROR_STREAM_CAPTURE_ISOLATION = 905, "the capture would depend on work outside it";
    CUDA_ERROR_STREAM_CAPTURE_IMPLICIT = 906, "the operation would make an implicit dependency on a capturing stream";
    CUDA_ERROR_CAPTURED_EVENT = 907, "the event was last recorded in a capturing stream";
    CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD = 908, "the capture was started by another thread";
    CUDA_ERROR_TIMEOUT = 909, "the wait timed out";
    CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE = 910, "the change to the executable graph is not possible";
    CUDA_ERROR_EXTERNAL_DEVICE = 911, "an asynchronous error on a device outside CUDA's control";
    CUDA_ERROR_UNKNOWN = 999, "unknown error";
}

impl CUresult {
    /// The C name and description, where the code is one of CUDA 11.4's.
    pub(crate) fn texts(self) -> Option<(&'static CStr, &'static CStr)> {
        let (_, name, text) = KNOWN.iter().find(|(code, ..)| *code == self.0)?;
        Some((CStr::from_bytes_with_nul(name.as_bytes()).ok()?, CStr::from_bytes_with_nul(text.as_bytes()).ok()?))
    }

    /// This code where it is one that cust's enum holds, otherwise `CUDA_ERROR_UNKNOWN`.
    pub(crate) fn known(self) -> Self {
        match KNOWN.iter().any(|(code, ..)| *code == self.0) {
            true => self,
            false => CUDA_ERROR_UNKNOWN,
        }
    }
}

/// `CUDA_ERROR_INVALID_VALUE (1): invalid argument`.
impl fmt::Display for CUresult {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.texts() {
            Some((name, text)) => {
                write!(f, "{} ({}): {}", name.to_string_lossy(), self.0, text.to_string_lossy())
            }
            None => write!(f, "CUresult {}", self.0),
        }
    }
}

impl fmt::Debug for CUresult {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_c_texts_and_codes_ascend() {
        for (code, ..) in KNOWN {
            let (name, text) = CUresult(*code).texts().expect("both texts end in one NUL");
            assert!(name.to_str().unwrap().starts_with("CUDA_"));
            assert!(!text.is_empty());
        }
        assert!(KNOWN.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn a_code_that_cust_does_not_hold_becomes_unknown() {
        assert_eq!(CUDA_ERROR_ILLEGAL_ADDRESS.known(), CUDA_ERROR_ILLEGAL_ADDRESS);
        // CUDA_ERROR_INVALID_CLUSTER_SIZE of CUDA 11.8.
        assert_eq!(CUresult(912).known(), CUDA_ERROR_UNKNOWN);
        assert_eq!(CUresult(912).to_string(), "CUresult 912");
    }
}
