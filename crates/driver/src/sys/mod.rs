//! The driver API as C sees it: the types, the result codes and the entry points that cust links to.
//!
//! The names are those that the linker sees. `cuda.h` maps an API name to a versioned symbol with a macro
//! (`cuMemAlloc` is `cuMemAlloc_v2`); cust's declarations come from `bindgen` after those macros, so the versioned
//! names stand in the list, and the same names are looked up in `libcuda.so.1`.
//!
//! Handles are opaque pointers. An enum argument is a `u32` (`c_int` where `cuda.h` has a signed type), a structure
//! that only libcuda reads is a `c_void`: nothing here looks inside it.
#![allow(non_camel_case_types, non_snake_case, clippy::too_many_arguments)]

mod result;
mod table;

use std::ffi::{c_int, c_void};

pub use result::*;
pub use table::*;

/// The ordinal of a device: 0 is the first.
pub type CUdevice = c_int;
/// An address in device memory.
pub type CUdeviceptr = u64;
/// A context handle.
pub type CUcontext = *mut c_void;
/// A module handle: PTX or a binary image, loaded.
pub type CUmodule = *mut c_void;
/// A kernel's handle. It lives as long as its module.
pub type CUfunction = *mut c_void;
/// A stream handle. Null is the default stream. cust's `Stream::as_inner()` gives one, after `.cast()`.
pub type CUstream = *mut c_void;
/// An event handle.
pub type CUevent = *mut c_void;
/// A CUDA array handle.
pub type CUarray = *mut c_void;
/// A graph handle.
pub type CUgraph = *mut c_void;
/// A node of a graph.
pub type CUgraphNode = *mut c_void;
/// The state of the device linker.
pub type CUlinkState = *mut c_void;
/// Memory imported from another API.
pub type CUexternalMemory = *mut c_void;
/// A texture object.
pub type CUtexObject = u64;
/// A surface object.
pub type CUsurfObject = u64;
/// A host function that a stream runs in its turn.
pub type CUhostFn = Option<unsafe extern "C" fn(user_data: *mut c_void)>;
/// A host function that a stream runs in its turn, told how the work before it went.
pub type CUstreamCallback = Option<unsafe extern "C" fn(stream: CUstream, status: CUresult, user_data: *mut c_void)>;
/// The dynamic shared memory (bytes) that a kernel needs for a block of so many threads.
pub type CUoccupancyB2DSize = Option<unsafe extern "C" fn(block_size: c_int) -> usize>;

/// A device's identity, 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CUuuid {
    /// The bytes, in the order in which they are printed.
    pub bytes: [u8; 16],
}
