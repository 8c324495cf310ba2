//! The driver API as C sees it: the types, the result codes and the entry points that cust links to.
//!
//! The names are those that the linker sees. `cuda.h` maps an API name to a versioned symbol with a macro
//! (`cuMemAlloc` is `cuMemAlloc_v2`); cust's declarations come from `bindgen` after those macros, so the versioned
//! names stand in the list, and the same names are looked up in `libcuda.so.1`.
//!
//! What ferrowarp calls is in `table`; what only programs of others call, and softcuda serves, in `foreign`; `versions` says
//! which symbol a name stands for.
//!
//! Handles are opaque pointers. An enum argument is a `u32` (`c_int` where `cuda.h` has a signed type), a structure
//! that only libcuda reads is a `c_void`: nothing here looks inside it.
#![allow(non_camel_case_types, non_snake_case, clippy::too_many_arguments)]

mod foreign;
mod result;
mod table;
mod versions;

use std::ffi::{c_int, c_uint, c_void};

pub use foreign::*;
pub use result::*;
pub use table::*;
pub use versions::{Found, find};

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
/// The handle of an executable graph: one that can be launched.
pub type CUgraphExec = *mut c_void;
/// A library handle: a module for all contexts.
pub type CUlibrary = *mut c_void;
/// A library's kernel, for all contexts. It may stand where a [`CUfunction`] is asked for.
pub type CUkernel = *mut c_void;
/// A memory pool's handle.
pub type CUmemoryPool = *mut c_void;
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

/// While a stream captures so, no thread may make a call that is not safe in a capture.
pub const CU_STREAM_CAPTURE_MODE_GLOBAL: c_uint = 0;
/// While a stream captures so, the thread that began it may make no call that is not safe in a capture.
pub const CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: c_uint = 1;
/// A stream that captures so restricts nobody.
pub const CU_STREAM_CAPTURE_MODE_RELAXED: c_uint = 2;

/// The stream does not capture.
pub const CU_STREAM_CAPTURE_STATUS_NONE: c_uint = 0;
/// The stream captures.
pub const CU_STREAM_CAPTURE_STATUS_ACTIVE: c_uint = 1;
/// The stream captures, and something has happened for which there will be no graph.
pub const CU_STREAM_CAPTURE_STATUS_INVALIDATED: c_uint = 2;

/// A graph node that launches a kernel.
pub const CU_GRAPH_NODE_TYPE_KERNEL: c_uint = 0;
/// A graph node that copies memory.
pub const CU_GRAPH_NODE_TYPE_MEMCPY: c_uint = 1;
/// A graph node that fills memory.
pub const CU_GRAPH_NODE_TYPE_MEMSET: c_uint = 2;
/// A graph node that calls a host function.
pub const CU_GRAPH_NODE_TYPE_HOST: c_uint = 3;

/// The attribute says nothing.
pub const CU_LAUNCH_ATTRIBUTE_IGNORE: c_uint = 0;
/// An `int`: whether all blocks are to be resident at once.
pub const CU_LAUNCH_ATTRIBUTE_COOPERATIVE: c_uint = 2;
/// Three `unsigned`s: the blocks of a cluster.
pub const CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION: c_uint = 4;
/// An `int`: whether the kernel may start before its predecessor in the stream has ended (programmatic dependent launch).
pub const CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION: c_uint = 6;
/// An `int`: the launch's priority.
pub const CU_LAUNCH_ATTRIBUTE_PRIORITY: c_uint = 8;

/// What describes a tensor and its tiles to a kernel's copies. What the bytes hold is the driver's business.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CUtensorMap {
    /// 128 bytes.
    pub opaque: [u64; 16],
}

impl CUtensorMap {
    pub(crate) fn from_bytes(bytes: [u8; 128]) -> CUtensorMap {
        let word = |i: usize| std::array::from_fn(|k| bytes[8 * i + k]);
        CUtensorMap { opaque: std::array::from_fn(|i| u64::from_le_bytes(word(i))) }
    }

    pub(crate) fn to_bytes(self) -> [u8; 128] {
        std::array::from_fn(|i| self.opaque[i / 8].to_le_bytes()[i % 8])
    }
}

/// How `cuLaunchKernelEx` launches.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names are cuda.h's and say it")]
pub struct CUlaunchConfig {
    pub gridDimX: c_uint,
    pub gridDimY: c_uint,
    pub gridDimZ: c_uint,
    pub blockDimX: c_uint,
    pub blockDimY: c_uint,
    pub blockDimZ: c_uint,
    pub sharedMemBytes: c_uint,
    pub hStream: CUstream,
    pub attrs: *const CUlaunchAttribute,
    pub numAttrs: c_uint,
}

/// One attribute of a launch.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CUlaunchAttribute {
    /// A `CU_LAUNCH_ATTRIBUTE_*`.
    pub id: c_uint,
    _padding: c_uint,
    /// `cuda.h`'s union: what the attribute is comes first.
    pub value: CUlaunchAttributeValue,
}

/// The value of a launch attribute, 64 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct CUlaunchAttributeValue {
    /// The first of them are what is looked at.
    pub words: [c_uint; 16],
}

impl CUlaunchAttribute {
    /// An attribute whose value is one number.
    pub const fn number(id: c_uint, value: c_uint) -> Self {
        let mut words = [0; 16];
        words[0] = value;
        CUlaunchAttribute { id, _padding: 0, value: CUlaunchAttributeValue { words } }
    }

    /// The blocks of a cluster in x, y, z.
    pub const fn cluster([x, y, z]: [c_uint; 3]) -> Self {
        let mut attribute = Self::number(CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, x);
        attribute.value.words[1] = y;
        attribute.value.words[2] = z;
        attribute
    }
}

/// A device's identity, 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CUuuid {
    /// The bytes, in the order in which they are printed.
    pub bytes: [u8; 16],
}

/// Where memory is to be.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CUmemLocation {
    /// `CU_MEM_LOCATION_TYPE_*`: 1 is a device.
    pub kind: c_uint,
    /// The device's ordinal.
    pub id: c_int,
}

/// What a memory pool is to be like.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the names are cuda.h's and say it")]
pub struct CUmemPoolProps {
    pub allocType: c_uint,
    pub handleTypes: c_uint,
    pub location: CUmemLocation,
    pub win32SecurityAttributes: *mut c_void,
    pub maxSize: usize,
    pub usage: [u8; 56],
}

/// A location's access to memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CUmemAccessDesc {
    /// The device.
    pub location: CUmemLocation,
    /// 0 for none, 1 to read, 3 to read and write.
    pub flags: c_uint,
}

/// How `cuCtxCreate_v4` makes a context.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CUctxCreateParams {
    /// The parts of the device that it may use.
    pub affinities: *const c_void,
    /// Their number.
    pub affinity_count: c_int,
    /// The graphics that it shares the device with.
    pub cig: *const c_void,
}

/// One side of a copy of rows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names are cuda.h's and say it")]
pub struct CUDA_MEMCPY2D_SIDE {
    pub xInBytes: usize,
    pub y: usize,
    pub memoryType: c_uint,
    pub host: *const c_void,
    pub device: CUdeviceptr,
    pub array: CUarray,
    pub pitch: usize,
}

/// A copy of rows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names are cuda.h's and say it")]
pub struct CUDA_MEMCPY2D {
    pub src: CUDA_MEMCPY2D_SIDE,
    pub dst: CUDA_MEMCPY2D_SIDE,
    pub WidthInBytes: usize,
    pub Height: usize,
}

/// One side of a copy of planes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names are cuda.h's and say it")]
pub struct CUDA_MEMCPY3D_SIDE {
    pub xInBytes: usize,
    pub y: usize,
    pub z: usize,
    pub lod: usize,
    pub memoryType: c_uint,
    pub host: *const c_void,
    pub device: CUdeviceptr,
    pub array: CUarray,
    /// Of a copy between devices; reserved otherwise.
    pub context: CUcontext,
    pub pitch: usize,
    pub height: usize,
}

/// A copy of planes, on one device or between two.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names are cuda.h's and say it")]
pub struct CUDA_MEMCPY3D {
    pub src: CUDA_MEMCPY3D_SIDE,
    pub dst: CUDA_MEMCPY3D_SIDE,
    pub WidthInBytes: usize,
    pub Height: usize,
    pub Depth: usize,
}

/// How a graph is instantiated.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names are cuda.h's and say it")]
pub struct CUDA_GRAPH_INSTANTIATE_PARAMS {
    pub flags: u64,
    pub hUploadStream: CUstream,
    pub hErrNode_out: CUgraphNode,
    pub result_out: c_uint,
}
