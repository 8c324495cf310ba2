//! The one list of driver entry points, and what is generated from it.
//!
//! Each row of [`entry_points`] holds, once, what is known of a call: its class (what [`crate::calls`] counts it as), its
//! name and arguments, and the softcuda function that serves it. From the list come
//!
//! - `Table`, a function pointer for each entry point, filled from `libcuda.so.1` or from softcuda;
//! - the exported `extern "C"` functions that cust links to. Each counts the call, forwards it through the process's
//!   table, and keeps the text behind a failure for [`crate::last_error`].
//!
//! The list covers every `cu*` name in the sources of cust 0.3.2, whatever its features, and below them what the
//! project needs beyond cust.

use std::ffi::{c_char, c_int, c_uchar, c_uint, c_ulonglong, c_ushort, c_void};
use std::sync::OnceLock;

use libloading::os::unix::Library;

use super::*;
use crate::class::{Class, Counters};
use crate::error;
use crate::soft::{
    self, capture, context, copy, graph, host, launch, link, memory, module, occupancy, properties, stream, tensor_map,
};

/// Where a table's functions come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// `select` was not called yet: only the texts of error codes can be asked for.
    Unselected,
    Libcuda,
    Soft,
}

/// The entry point's variant for programs in which a null stream is the thread's own default stream. It is softcuda's
/// only: nothing in this project is compiled so.
macro_rules! per_thread {
    ([] $name:ident($($argument:ident: $type:ty),*)) => {};
    ([$per_thread:ident] $name:ident($($argument:ident: $type:ty),*)) => {
        #[doc = concat!("[`", stringify!($name), "`] where a null stream is the thread's own default stream.")]
        ///
        /// # Safety
        #[doc = concat!("- As for [`", stringify!($name), "`].")]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $per_thread($($argument: $type),*) -> CUresult {
            let _default = crate::soft::stream::per_thread();
            // SAFETY: the caller's promises are the same.
            unsafe { $name($($argument),*) }
        }
    };
}
pub(super) use per_thread;

/// The function for one row of the list in softcuda's table: `unsupported` is none.
macro_rules! soft_entry {
    ($class:ident, $name:ident, unsupported, $arguments:tt) => {
        None
    };
    ($class:ident, $name:ident, ($function:path), ($($argument:ident: $type:ty),*)) => {{
        #[allow(unused_unsafe)]
        unsafe extern "C" fn entry($($argument: $type),*) -> CUresult {
            let outcome = capture::permit(Class::$class)
                // SAFETY: the entry point's caller made its promises to the same arguments.
                .and_then(|()| unsafe { $function($($argument),*) });
            soft::finish(stringify!($name), outcome)
        }
        Some(entry)
    }};
}

macro_rules! entry_points {
    ($($class:ident $([$per_thread:ident])? fn $name:ident($($argument:ident: $type:ty),* $(,)?) => $soft:tt;)*) => {
        /// An index for each entry point.
        #[derive(Clone, Copy)]
        #[repr(usize)]
        enum Entry { $($name),* }

        /// The names of the entry points, in the order of the list.
        pub(crate) const NAMES: &[&str] = &[$(stringify!($name)),*];
        /// What each entry point counts as.
        pub(crate) const CLASSES: &[Class] = &[$(Class::$class),*];

        thread_local! {
            static COUNTERS: Counters<{ NAMES.len() }> = const { Counters::new() };
        }

        /// How often this thread called the entry point with this index.
        pub(crate) fn calls_of(entry: usize) -> u64 {
            COUNTERS.with(|counters| counters.get(entry))
        }

        /// A function for each entry point, where there is one.
        pub(crate) struct Table {
            pub origin: Origin,
            $(pub $name: Option<unsafe extern "C" fn($($type),*) -> CUresult>,)*
        }

        impl Table {
            /// A table that serves nothing.
            const EMPTY: Table = Table { origin: Origin::Unselected, $($name: None,)* };

            /// The functions of an opened `libcuda.so.1`.
            ///
            /// # Safety
            /// - The library is NVIDIA's driver (or has functions of the same signatures), and is never closed.
            pub unsafe fn from_library(library: &Library) -> Table {
                Table {
                    origin: Origin::Libcuda,
                    // SAFETY: the signatures are cuda.h's for these versioned names.
                    $($name: unsafe { library.get(stringify!($name)) }.ok().map(|symbol| *symbol),)*
                }
            }
        }

        /// The functions that softcuda serves.
        pub(crate) static SOFT: Table = Table {
            origin: Origin::Soft,
            $($name: soft_entry!($class, $name, $soft, ($($argument: $type),*)),)*
        };

        $(
            #[doc = concat!("`", stringify!($name), "` of the CUDA driver API, served by the selected backend.")]
            ///
            /// # Safety
            /// - The arguments are what the CUDA driver API asks for: pointers valid for what is read or written there,
            ///   handles that came from this API.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> CUresult {
                COUNTERS.with(|counters| counters.add(Entry::$name as usize));
                let table = table();
                match table.$name {
                    // SAFETY: the caller's promises are those that the driver asks for.
                    Some(function) => table.finish(stringify!($name), unsafe { function($($argument),*) }),
                    None => table.missing(stringify!($name)),
                }
            }

            per_thread!([$($per_thread)?] $name($($argument: $type),*));
        )*

        /// Where each exported function is, by its symbol.
        pub(super) fn exports() -> Vec<(&'static str, *const c_void)> {
            vec![$(
                (stringify!($name), $name as *const c_void),
                $((stringify!($per_thread), $per_thread as *const c_void),)?
            )*]
        }
    };
}

entry_points! {
    // Start, devices, error texts.
    Plain fn cuInit(flags: c_uint) => (properties::init);
    Plain fn cuDriverGetVersion(version: *mut c_int) => (properties::driver_version);
    Plain fn cuGetErrorString(error: CUresult, text: *mut *const c_char) => (properties::error_string);
    Plain fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int) => (properties::device_get);
    Plain fn cuDeviceGetCount(count: *mut c_int) => (properties::device_count);
    Plain fn cuDeviceGetName(name: *mut c_char, capacity: c_int, device: CUdevice) => (properties::device_name);
    Plain fn cuDeviceGetAttribute(
        value: *mut c_int, attribute: c_uint, device: CUdevice,
    ) => (properties::device_attribute);
    Plain fn cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice) => (properties::total_memory);

    // Contexts.
    Plain fn cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice) => (context::primary_retain);
    Plain fn cuDevicePrimaryCtxRelease_v2(device: CUdevice) => (context::primary_release);
    Plain fn cuDevicePrimaryCtxReset_v2(device: CUdevice) => (context::primary_reset);
    Plain fn cuDevicePrimaryCtxSetFlags_v2(device: CUdevice, flags: c_uint) => (context::primary_set_flags);
    Plain fn cuCtxCreate_v2(context: *mut CUcontext, flags: c_uint, device: CUdevice) => (context::create);
    Plain fn cuCtxDestroy_v2(context: CUcontext) => (context::destroy);
    Plain fn cuCtxPushCurrent_v2(context: CUcontext) => (context::push_current);
    Plain fn cuCtxPopCurrent_v2(context: *mut CUcontext) => (context::pop_current);
    Plain fn cuCtxSetCurrent(context: CUcontext) => (context::set_current);
    Plain fn cuCtxGetCurrent(context: *mut CUcontext) => (context::get_current);
    Plain fn cuCtxGetDevice(device: *mut CUdevice) => (context::get_device);
    Plain fn cuCtxGetFlags(flags: *mut c_uint) => (context::get_flags);
    Plain fn cuCtxGetApiVersion(context: CUcontext, version: *mut c_uint) => (context::api_version);
    Wait fn cuCtxSynchronize() => (context::synchronize);
    Plain fn cuCtxGetCacheConfig(config: *mut c_uint) => (context::get_cache_config);
    Plain fn cuCtxSetCacheConfig(config: c_uint) => (context::set_cache_config);
    Plain fn cuCtxGetSharedMemConfig(config: *mut c_uint) => (context::get_shared_memory_config);
    Plain fn cuCtxSetSharedMemConfig(config: c_uint) => (context::set_shared_memory_config);
    Plain fn cuCtxGetLimit(value: *mut usize, limit: c_uint) => (context::get_limit);
    Plain fn cuCtxSetLimit(limit: c_uint, value: usize) => (context::set_limit);
    Plain fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) => (context::stream_priority_range);

    // Device memory.
    Allocate fn cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize) => (memory::allocate);
    Allocate[cuMemAllocAsync_ptsz] fn cuMemAllocAsync(address: *mut CUdeviceptr, bytes: usize, stream: CUstream) => (memory::allocate_async);
    Allocate fn cuMemAllocManaged(
        address: *mut CUdeviceptr, bytes: usize, flags: c_uint,
    ) => (host::allocate_managed);
    Free fn cuMemFree_v2(address: CUdeviceptr) => (memory::free);
    Free[cuMemFreeAsync_ptsz] fn cuMemFreeAsync(address: CUdeviceptr, stream: CUstream) => (memory::free_async);
    Plain fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) => (memory::info);
    Plain fn cuMemAdvise(
        address: CUdeviceptr, bytes: usize, advice: c_uint, device: CUdevice,
    ) => (host::advise);
    Copy[cuMemPrefetchAsync_ptsz] fn cuMemPrefetchAsync(
        address: CUdeviceptr, bytes: usize, device: CUdevice, stream: CUstream,
    ) => (host::prefetch);

    // Page-locked host memory.
    Allocate fn cuMemAllocHost_v2(pointer: *mut *mut c_void, bytes: usize) => (host::allocate);
    Free fn cuMemFreeHost(pointer: *mut c_void) => (host::free);

    // Copies.
    CopyAndWait[cuMemcpyHtoD_v2_ptds] fn cuMemcpyHtoD_v2(to: CUdeviceptr, from: *const c_void, bytes: usize) => (memory::copy_to_device);
    CopyAndWait[cuMemcpyDtoH_v2_ptds] fn cuMemcpyDtoH_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize) => (memory::copy_to_host);
    Copy[cuMemcpyDtoD_v2_ptds] fn cuMemcpyDtoD_v2(to: CUdeviceptr, from: CUdeviceptr, bytes: usize) => (memory::copy_on_device);
    Copy[cuMemcpyHtoDAsync_v2_ptsz] fn cuMemcpyHtoDAsync_v2(
        to: CUdeviceptr, from: *const c_void, bytes: usize, stream: CUstream,
    ) => (memory::copy_to_device_async);
    Copy[cuMemcpyDtoHAsync_v2_ptsz] fn cuMemcpyDtoHAsync_v2(
        to: *mut c_void, from: CUdeviceptr, bytes: usize, stream: CUstream,
    ) => (memory::copy_to_host_async);
    Copy[cuMemcpyDtoDAsync_v2_ptsz] fn cuMemcpyDtoDAsync_v2(
        to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream,
    ) => (memory::copy_on_device_async);
    CopyAndWait[cuMemcpyHtoA_v2_ptds] fn cuMemcpyHtoA_v2(to: CUarray, offset: usize, from: *const c_void, bytes: usize) => unsupported;
    CopyAndWait[cuMemcpyAtoH_v2_ptds] fn cuMemcpyAtoH_v2(to: *mut c_void, from: CUarray, offset: usize, bytes: usize) => unsupported;
    CopyAndWait[cuMemcpy2D_v2_ptds] fn cuMemcpy2D_v2(copy: *const CUDA_MEMCPY2D) => (copy::rows);

    // Fills.
    Fill[cuMemsetD8_v2_ptds] fn cuMemsetD8_v2(address: CUdeviceptr, value: c_uchar, count: usize) => (memory::fill_8);
    Fill[cuMemsetD16_v2_ptds] fn cuMemsetD16_v2(address: CUdeviceptr, value: c_ushort, count: usize) => (memory::fill_16);
    Fill[cuMemsetD32_v2_ptds] fn cuMemsetD32_v2(address: CUdeviceptr, value: c_uint, count: usize) => (memory::fill_32);
    Fill[cuMemsetD8Async_ptsz] fn cuMemsetD8Async(
        address: CUdeviceptr, value: c_uchar, count: usize, stream: CUstream,
    ) => (memory::fill_8_async);
    Fill[cuMemsetD16Async_ptsz] fn cuMemsetD16Async(
        address: CUdeviceptr, value: c_ushort, count: usize, stream: CUstream,
    ) => (memory::fill_16_async);
    Fill[cuMemsetD32Async_ptsz] fn cuMemsetD32Async(
        address: CUdeviceptr, value: c_uint, count: usize, stream: CUstream,
    ) => (memory::fill_32_async);

    // Modules and their kernels.
    Module fn cuModuleLoad(module: *mut CUmodule, file: *const c_char) => (module::load_file);
    Module fn cuModuleLoadData(module: *mut CUmodule, image: *const c_void) => (module::load_data);
    Module fn cuModuleLoadDataEx(
        module: *mut CUmodule, image: *const c_void, options: c_uint, names: *mut c_uint, values: *mut *mut c_void,
    ) => (module::load_data_with_options);
    Module fn cuModuleUnload(module: CUmodule) => (module::unload);
    Plain fn cuModuleGetFunction(
        function: *mut CUfunction, module: CUmodule, name: *const c_char,
    ) => (module::get_function);
    Plain fn cuModuleGetGlobal_v2(
        address: *mut CUdeviceptr, bytes: *mut usize, module: CUmodule, name: *const c_char,
    ) => (module::get_global);
    Plain fn cuFuncGetAttribute(
        value: *mut c_int, attribute: c_uint, function: CUfunction,
    ) => (module::function_attribute);
    Plain fn cuFuncSetCacheConfig(function: CUfunction, config: c_uint) => (module::function_cache_config);
    Plain fn cuFuncSetSharedMemConfig(function: CUfunction, config: c_uint) => (module::function_shared_memory_config);

    // Launches.
    Launch[cuLaunchKernel_ptsz] fn cuLaunchKernel(
        function: CUfunction, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint,
        block_z: c_uint, shared_bytes: c_uint, stream: CUstream, parameters: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) => (launch::kernel);
    Plain[cuLaunchHostFunc_ptsz] fn cuLaunchHostFunc(
        stream: CUstream, function: CUhostFn, user_data: *mut c_void,
    ) => (stream::launch_host_function);
    Plain fn cuOccupancyAvailableDynamicSMemPerBlock(
        bytes: *mut usize, function: CUfunction, blocks: c_int, block_size: c_int,
    ) => (occupancy::available_dynamic_shared_memory);
    Plain fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: *mut c_int, function: CUfunction, block_size: c_int, dynamic_bytes: usize,
    ) => (occupancy::max_active_blocks);
    Plain fn cuOccupancyMaxPotentialBlockSize(
        min_grid: *mut c_int, block_size: *mut c_int, function: CUfunction, dynamic_bytes_for: CUoccupancyB2DSize,
        dynamic_bytes: usize, block_size_limit: c_int,
    ) => (occupancy::max_potential_block_size);

    // Streams.
    Plain fn cuStreamCreateWithPriority(
        stream: *mut CUstream, flags: c_uint, priority: c_int,
    ) => (stream::create_with_priority);
    Plain fn cuStreamDestroy_v2(stream: CUstream) => (stream::destroy);
    Plain[cuStreamGetFlags_ptsz] fn cuStreamGetFlags(stream: CUstream, flags: *mut c_uint) => (stream::get_flags);
    Plain[cuStreamGetPriority_ptsz] fn cuStreamGetPriority(stream: CUstream, priority: *mut c_int) => (stream::get_priority);
    Wait[cuStreamSynchronize_ptsz] fn cuStreamSynchronize(stream: CUstream) => (stream::synchronize);
    Plain[cuStreamWaitEvent_ptsz] fn cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: c_uint) => (stream::wait_event);

    // Events.
    Plain fn cuEventCreate(event: *mut CUevent, flags: c_uint) => (stream::event_create);
    Plain fn cuEventDestroy_v2(event: CUevent) => (stream::event_destroy);
    Plain[cuEventRecord_ptsz] fn cuEventRecord(event: CUevent, stream: CUstream) => (stream::event_record);
    Plain fn cuEventQuery(event: CUevent) => (stream::event_query);
    Wait fn cuEventSynchronize(event: CUevent) => (stream::event_synchronize);
    Plain fn cuEventElapsedTime(milliseconds: *mut f32, start: CUevent, end: CUevent) => (stream::event_elapsed);

    // Graphs, of which cust declares a part; softcuda makes them by capture only.
    Plain[cuStreamBeginCapture_v2_ptsz] fn cuStreamBeginCapture_v2(stream: CUstream, mode: c_uint) => (capture::begin);
    Plain[cuStreamEndCapture_ptsz] fn cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph) => (capture::end);
    Plain[cuStreamIsCapturing_ptsz] fn cuStreamIsCapturing(stream: CUstream, status: *mut c_uint) => (capture::status);
    Plain fn cuGraphDestroy(graph: CUgraph) => (graph::destroy);
    Plain fn cuGraphGetNodes(graph: CUgraph, nodes: *mut CUgraphNode, count: *mut usize) => (graph::get_nodes);
    Plain fn cuGraphNodeGetType(node: CUgraphNode, node_type: *mut c_uint) => (graph::node_type);
    Plain fn cuGraphInstantiateWithFlags(
        executable: *mut CUgraphExec, graph: CUgraph, flags: c_ulonglong,
    ) => (graph::instantiate);
    Plain[cuGraphUpload_ptsz] fn cuGraphUpload(executable: CUgraphExec, stream: CUstream) => (graph::upload);
    LaunchGraph[cuGraphLaunch_ptsz] fn cuGraphLaunch(executable: CUgraphExec, stream: CUstream) => (graph::launch);
    Plain fn cuGraphExecDestroy(executable: CUgraphExec) => (graph::destroy_executable);

    // What cust declares and softcuda does not serve: graphs by hand, the linker, arrays, textures, other APIs' memory.
    Plain fn cuGraphCreate(graph: *mut CUgraph, flags: c_uint) => unsupported;
    Plain fn cuGraphAddKernelNode(
        node: *mut CUgraphNode, graph: CUgraph, dependencies: *const CUgraphNode, count: usize,
        parameters: *const c_void,
    ) => unsupported;
    Plain fn cuGraphGetEdges(
        graph: CUgraph, from: *mut CUgraphNode, to: *mut CUgraphNode, count: *mut usize,
    ) => unsupported;
    Plain fn cuGraphKernelNodeGetParams(node: CUgraphNode, parameters: *mut c_void) => unsupported;
    Plain fn cuGraphDebugDotPrint(graph: CUgraph, path: *const c_char, flags: c_uint) => unsupported;
    Plain fn cuLinkCreate_v2(
        options: c_uint, names: *mut c_uint, values: *mut *mut c_void, state: *mut CUlinkState,
    ) => (link::create);
    Plain fn cuLinkAddData_v2(
        state: CUlinkState, kind: c_uint, data: *mut c_void, bytes: usize, name: *const c_char, options: c_uint,
        names: *mut c_uint, values: *mut *mut c_void,
    ) => (link::add_data);
    Plain fn cuLinkComplete(state: CUlinkState, image: *mut *mut c_void, bytes: *mut usize) => (link::complete);
    Plain fn cuLinkDestroy(state: CUlinkState) => (link::destroy);
    Allocate fn cuArray3DCreate_v2(array: *mut CUarray, descriptor: *const c_void) => unsupported;
    Plain fn cuArray3DGetDescriptor_v2(descriptor: *mut c_void, array: CUarray) => unsupported;
    Free fn cuArrayDestroy(array: CUarray) => unsupported;
    Plain fn cuImportExternalMemory(memory: *mut CUexternalMemory, descriptor: *const c_void) => unsupported;
    Plain fn cuExternalMemoryGetMappedBuffer(
        address: *mut CUdeviceptr, memory: CUexternalMemory, descriptor: *const c_void,
    ) => unsupported;
    Plain fn cuDestroyExternalMemory(memory: CUexternalMemory) => unsupported;
    Plain fn cuSurfObjectCreate(surface: *mut CUsurfObject, resource: *const c_void) => unsupported;
    Plain fn cuSurfObjectDestroy(surface: CUsurfObject) => unsupported;
    Plain fn cuSurfObjectGetResourceDesc(resource: *mut c_void, surface: CUsurfObject) => unsupported;
    Plain fn cuTexObjectCreate(
        texture: *mut CUtexObject, resource: *const c_void, sampling: *const c_void, view: *const c_void,
    ) => unsupported;
    Plain fn cuTexObjectDestroy(texture: CUtexObject) => unsupported;
    Plain fn cuTexObjectGetResourceDesc(resource: *mut c_void, texture: CUtexObject) => unsupported;
    Plain fn cuTexObjectGetResourceViewDesc(view: *mut c_void, texture: CUtexObject) => unsupported;

    // Beyond cust.
    Plain fn cuGetErrorName(error: CUresult, name: *mut *const c_char) => (properties::error_name);
    Plain fn cuDeviceGetUuid_v2(uuid: *mut CUuuid, device: CUdevice) => (properties::device_uuid);
    Plain fn cuDevicePrimaryCtxGetState(
        device: CUdevice, flags: *mut c_uint, active: *mut c_int,
    ) => (context::primary_state);
    Plain fn cuMemGetAddressRange_v2(
        base: *mut CUdeviceptr, bytes: *mut usize, address: CUdeviceptr,
    ) => (memory::address_range);
    Allocate fn cuMemHostAlloc(
        pointer: *mut *mut c_void, bytes: usize, flags: c_uint,
    ) => (host::allocate_with_flags);
    Plain fn cuStreamCreate(stream: *mut CUstream, flags: c_uint) => (stream::create);
    Plain[cuStreamQuery_ptsz] fn cuStreamQuery(stream: CUstream) => (stream::query);
    Plain[cuStreamAddCallback_ptsz] fn cuStreamAddCallback(
        stream: CUstream, callback: CUstreamCallback, user_data: *mut c_void, flags: c_uint,
    ) => (stream::add_callback);
    Plain fn cuFuncSetAttribute(
        function: CUfunction, attribute: c_uint, value: c_int,
    ) => (module::set_function_attribute);
    Launch[cuLaunchCooperativeKernel_ptsz] fn cuLaunchCooperativeKernel(
        function: CUfunction, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint,
        block_z: c_uint, shared_bytes: c_uint, stream: CUstream, parameters: *mut *mut c_void,
    ) => (launch::cooperative_kernel);
    Launch[cuLaunchKernelEx_ptsz] fn cuLaunchKernelEx(
        config: *const CUlaunchConfig, function: CUfunction, parameters: *mut *mut c_void, extra: *mut *mut c_void,
    ) => (launch::kernel_with_attributes);
    Plain fn cuTensorMapEncodeTiled(
        map: *mut CUtensorMap, element: c_uint, rank: c_uint, address: *mut c_void, sizes: *const u64,
        strides: *const u64, tile: *const c_uint, steps: *const c_uint, interleave: c_uint, swizzle: c_uint,
        promotion: c_uint, fill: c_uint,
    ) => (tensor_map::encode_tiled);
}

/// Before `select`: cust prints an error through `cuGetErrorString`, and panics where that fails.
static UNSELECTED: Table =
    Table { cuGetErrorString: SOFT.cuGetErrorString, cuGetErrorName: SOFT.cuGetErrorName, ..Table::EMPTY };

static SELECTED: OnceLock<&'static Table> = OnceLock::new();

/// Fills the process's table. The first call holds.
pub(crate) fn fill(table: &'static Table) {
    SELECTED.get_or_init(|| table);
}

/// What a function of the driver API returns that softcuda does not have.
pub fn absent(name: &str) -> CUresult {
    table().missing(name)
}

/// What a function of softcuda's returns that cannot do what it is asked for, with the reason told.
pub fn unsupported(name: &str, why: &str) -> CUresult {
    error::report(CUDA_ERROR_NOT_SUPPORTED, format!("{name}: {CUDA_ERROR_NOT_SUPPORTED}: {why}"));
    CUDA_ERROR_NOT_SUPPORTED
}

/// What a call returns whose function is softcuda's only; nothing where softcuda serves the process.
pub(super) fn only_softcuda(name: &str) -> Option<CUresult> {
    let table = table();
    (table.origin != Origin::Soft).then(|| table.missing(name))
}

/// The process's table.
pub(crate) fn table() -> &'static Table {
    SELECTED.get().copied().unwrap_or(&UNSELECTED)
}

impl Table {
    /// Keeps the text behind a failure; softcuda's functions have kept theirs.
    fn finish(&self, name: &str, result: CUresult) -> CUresult {
        match self.origin {
            Origin::Libcuda => crate::libcuda::finish(name, result),
            Origin::Soft | Origin::Unselected => result,
        }
    }

    /// What a call returns that the table has no function for.
    #[cold]
    fn missing(&self, name: &str) -> CUresult {
        let (result, why) = match self.origin {
            Origin::Unselected => (CUDA_ERROR_NOT_INITIALIZED, "no device is selected; driver::select comes first"),
            Origin::Libcuda => (CUDA_ERROR_NOT_SUPPORTED, "this machine's libcuda.so.1 does not have it"),
            Origin::Soft => (CUDA_ERROR_NOT_SUPPORTED, "softcuda does not have it"),
        };
        let text = format!("{name}: {result}: {why}");
        match self.origin {
            Origin::Soft => error::report(result, text),
            _ => error::record(text),
        }
        result
    }
}
