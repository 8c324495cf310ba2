//! Entry points that only softcuda serves, for programs of others that run on it through `crates/libcuda`.
//!
//! ferrowarp itself calls none of them. Where a GPU serves the process they answer `CUDA_ERROR_NOT_SUPPORTED`: what runs on
//! the GPU has the driver itself. [`crate::calls`] does not count them.

use std::ffi::{c_char, c_int, c_uchar, c_uint, c_ulonglong, c_ushort, c_void};

use super::table::{only_softcuda, per_thread};
use super::*;
use crate::class::Class;
use crate::soft::{
    self, capture, context, copy, graph, host, library, link, module, occupancy, peer, pointer, pool, properties,
    stream,
};

macro_rules! foreign {
    ($($class:ident $([$per_thread:ident])? fn $name:ident($($argument:ident: $type:ty),* $(,)?) => $function:path;)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "` of the CUDA driver API, served by softcuda.")]
            ///
            /// # Safety
            /// - The arguments are what the CUDA driver API asks for: pointers valid for what is read or written there,
            ///   handles that came from this API.
            #[unsafe(no_mangle)]
            #[allow(unused_unsafe)]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> CUresult {
                if let Some(refusal) = only_softcuda(stringify!($name)) {
                    return refusal;
                }
                let outcome = capture::permit(Class::$class)
                    // SAFETY: the caller's promises are those that the driver asks for.
                    .and_then(|()| unsafe { $function($($argument),*) });
                soft::finish(stringify!($name), outcome)
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

foreign! {
    // Tensor maps.
    Plain fn cuTensorMapReplaceAddress(
        map: *mut CUtensorMap, address: *mut c_void,
    ) => soft::tensor_map::replace_address;

    // Devices.
    Plain fn cuDeviceGetUuid(uuid: *mut CUuuid, device: CUdevice) => properties::device_uuid;
    Plain fn cuDeviceGetPCIBusId(text: *mut c_char, capacity: c_int, device: CUdevice) => properties::pci_bus_id;
    Plain fn cuDeviceGetByPCIBusId(device: *mut CUdevice, text: *const c_char) => properties::by_pci_bus_id;
    Plain fn cuDeviceComputeCapability(
        major: *mut c_int, minor: *mut c_int, device: CUdevice,
    ) => properties::compute_capability;
    Plain fn cuDeviceGetProperties(values: *mut [c_int; 14], device: CUdevice) => properties::properties;
    Plain fn cuDeviceGetExecAffinitySupport(
        answer: *mut c_int, kind: c_uint, device: CUdevice,
    ) => properties::affinity_support;
    Plain fn cuProfilerStart() => properties::profiler;
    Plain fn cuProfilerStop() => properties::profiler;

    // Contexts.
    Plain fn cuCtxCreate_v3(
        context: *mut CUcontext, affinities: *const c_void, count: c_int, flags: c_uint, device: CUdevice,
    ) => context::create_with_affinity;
    Plain fn cuCtxCreate_v4(
        context: *mut CUcontext, parameters: *const CUctxCreateParams, flags: c_uint, device: CUdevice,
    ) => context::create_with_parameters;
    Plain fn cuCtxGetDevice_v2(device: *mut CUdevice, context: CUcontext) => context::get_device_of;
    Wait fn cuCtxSynchronize_v2(context: CUcontext) => context::synchronize_one;
    Plain fn cuCtxGetId(context: CUcontext, id: *mut c_ulonglong) => context::get_id;
    Plain fn cuCtxSetFlags(flags: c_uint) => context::set_flags;
    Plain fn cuCtxResetPersistingL2Cache() => context::reset_persisting_cache;
    Plain fn cuDevicePrimaryCtxRelease(device: CUdevice) => context::primary_release;
    Plain fn cuDevicePrimaryCtxReset(device: CUdevice) => context::primary_reset;
    Plain fn cuDevicePrimaryCtxSetFlags(device: CUdevice, flags: c_uint) => context::primary_set_flags;

    // Several devices.
    Plain fn cuDeviceCanAccessPeer(answer: *mut c_int, device: CUdevice, peer: CUdevice) => peer::can_access;
    Plain fn cuDeviceGetP2PAttribute(
        value: *mut c_int, attribute: c_uint, device: CUdevice, peer: CUdevice,
    ) => peer::attribute;
    Plain fn cuCtxEnablePeerAccess(context: CUcontext, flags: c_uint) => peer::enable;
    Plain fn cuCtxDisablePeerAccess(context: CUcontext) => peer::disable;
    Copy[cuMemcpyPeer_ptds] fn cuMemcpyPeer(
        to: CUdeviceptr, to_context: CUcontext, from: CUdeviceptr, from_context: CUcontext, bytes: usize,
    ) => peer::copy;
    Copy[cuMemcpyPeerAsync_ptsz] fn cuMemcpyPeerAsync(
        to: CUdeviceptr, to_context: CUcontext, from: CUdeviceptr, from_context: CUcontext, bytes: usize,
        stream: CUstream,
    ) => peer::copy_async;
    Copy[cuMemcpy3DPeer_ptds] fn cuMemcpy3DPeer(copy: *const CUDA_MEMCPY3D) => copy::planes;
    Copy[cuMemcpy3DPeerAsync_ptsz] fn cuMemcpy3DPeerAsync(
        copy: *const CUDA_MEMCPY3D, stream: CUstream,
    ) => copy::planes_async;

    // Memory.
    Allocate fn cuMemAllocPitch_v2(
        address: *mut CUdeviceptr, pitch: *mut usize, width: usize, height: usize, element: c_uint,
    ) => soft::memory::allocate_rows;
    Plain fn cuMemHostGetDevicePointer_v2(
        address: *mut CUdeviceptr, pointer: *mut c_void, flags: c_uint,
    ) => host::device_pointer;
    Plain fn cuMemHostGetFlags(flags: *mut c_uint, pointer: *mut c_void) => host::flags;
    Plain fn cuMemHostRegister_v2(pointer: *mut c_void, bytes: usize, flags: c_uint) => host::register;
    Plain fn cuMemHostUnregister(pointer: *mut c_void) => host::unregister;
    Plain fn cuMemAdvise_v2(
        address: CUdeviceptr, bytes: usize, advice: c_uint, location: CUmemLocation,
    ) => host::advise_for_location;
    Copy[cuMemPrefetchAsync_v2_ptsz] fn cuMemPrefetchAsync_v2(
        address: CUdeviceptr, bytes: usize, location: CUmemLocation, flags: c_uint, stream: CUstream,
    ) => host::prefetch_to_location;
    Plain fn cuPointerGetAttribute(
        value: *mut c_void, attribute: c_uint, address: CUdeviceptr,
    ) => pointer::attribute;
    Plain fn cuPointerGetAttributes(
        count: c_uint, attributes: *const c_uint, values: *const *mut c_void, address: CUdeviceptr,
    ) => pointer::attributes;
    Plain fn cuPointerSetAttribute(
        value: *const c_void, attribute: c_uint, address: CUdeviceptr,
    ) => pointer::set_attribute;

    // Memory pools.
    Plain fn cuMemPoolCreate(pool: *mut CUmemoryPool, properties: *const CUmemPoolProps) => pool::create;
    Plain fn cuMemPoolDestroy(pool: CUmemoryPool) => pool::destroy;
    Plain fn cuMemPoolTrimTo(pool: CUmemoryPool, keep: usize) => pool::trim;
    Plain fn cuMemPoolGetAttribute(
        pool: CUmemoryPool, attribute: c_uint, value: *mut c_void,
    ) => pool::get_attribute;
    Plain fn cuMemPoolSetAttribute(
        pool: CUmemoryPool, attribute: c_uint, value: *mut c_void,
    ) => pool::set_attribute;
    Plain fn cuMemPoolSetAccess(
        pool: CUmemoryPool, access: *const CUmemAccessDesc, count: usize,
    ) => pool::set_access;
    Plain fn cuMemPoolGetAccess(
        flags: *mut c_uint, pool: CUmemoryPool, location: *const CUmemLocation,
    ) => pool::get_access;
    Plain fn cuDeviceGetDefaultMemPool(pool: *mut CUmemoryPool, device: CUdevice) => pool::device_default;
    Plain fn cuDeviceGetMemPool(pool: *mut CUmemoryPool, device: CUdevice) => pool::device_current;
    Plain fn cuDeviceSetMemPool(device: CUdevice, pool: CUmemoryPool) => pool::set_device_current;
    Plain fn cuMemGetDefaultMemPool(
        pool: *mut CUmemoryPool, location: *const CUmemLocation, allocation: c_uint,
    ) => pool::location_default;
    Plain fn cuMemGetMemPool(
        pool: *mut CUmemoryPool, location: *const CUmemLocation, allocation: c_uint,
    ) => pool::location_current;
    Plain fn cuMemSetMemPool(
        location: *const CUmemLocation, allocation: c_uint, pool: CUmemoryPool,
    ) => pool::set_location_current;
    Allocate[cuMemAllocFromPoolAsync_ptsz] fn cuMemAllocFromPoolAsync(
        address: *mut CUdeviceptr, bytes: usize, pool: CUmemoryPool, stream: CUstream,
    ) => pool::allocate;

    // Copies and fills.
    CopyAndWait[cuMemcpy_ptds] fn cuMemcpy(to: CUdeviceptr, from: CUdeviceptr, bytes: usize) => copy::copy;
    Copy[cuMemcpyAsync_ptsz] fn cuMemcpyAsync(
        to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream,
    ) => copy::copy_async;
    CopyAndWait[cuMemcpy2DUnaligned_v2_ptds] fn cuMemcpy2DUnaligned_v2(copy: *const CUDA_MEMCPY2D) => copy::rows;
    Copy[cuMemcpy2DAsync_v2_ptsz] fn cuMemcpy2DAsync_v2(
        copy: *const CUDA_MEMCPY2D, stream: CUstream,
    ) => copy::rows_async;
    CopyAndWait[cuMemcpy3D_v2_ptds] fn cuMemcpy3D_v2(copy: *const CUDA_MEMCPY3D) => copy::planes;
    Copy[cuMemcpy3DAsync_v2_ptsz] fn cuMemcpy3DAsync_v2(
        copy: *const CUDA_MEMCPY3D, stream: CUstream,
    ) => copy::planes_async;
    Fill[cuMemsetD2D8_v2_ptds] fn cuMemsetD2D8_v2(
        address: CUdeviceptr, pitch: usize, value: c_uchar, width: usize, height: usize,
    ) => copy::fill_rows_8;
    Fill[cuMemsetD2D8Async_ptsz] fn cuMemsetD2D8Async(
        address: CUdeviceptr, pitch: usize, value: c_uchar, width: usize, height: usize, stream: CUstream,
    ) => copy::fill_rows_8_async;
    Fill[cuMemsetD2D16_v2_ptds] fn cuMemsetD2D16_v2(
        address: CUdeviceptr, pitch: usize, value: c_ushort, width: usize, height: usize,
    ) => copy::fill_rows_16;
    Fill[cuMemsetD2D16Async_ptsz] fn cuMemsetD2D16Async(
        address: CUdeviceptr, pitch: usize, value: c_ushort, width: usize, height: usize, stream: CUstream,
    ) => copy::fill_rows_16_async;
    Fill[cuMemsetD2D32_v2_ptds] fn cuMemsetD2D32_v2(
        address: CUdeviceptr, pitch: usize, value: c_uint, width: usize, height: usize,
    ) => copy::fill_rows_32;
    Fill[cuMemsetD2D32Async_ptsz] fn cuMemsetD2D32Async(
        address: CUdeviceptr, pitch: usize, value: c_uint, width: usize, height: usize, stream: CUstream,
    ) => copy::fill_rows_32_async;

    // Modules, functions, the linker.
    Module fn cuModuleLoadFatBinary(module: *mut CUmodule, image: *const c_void) => module::load_data;
    Plain fn cuModuleGetLoadingMode(mode: *mut c_uint) => module::loading_mode;
    Plain fn cuModuleGetFunctionCount(count: *mut c_uint, module: CUmodule) => module::function_count;
    Plain fn cuModuleEnumerateFunctions(
        functions: *mut CUfunction, room: c_uint, module: CUmodule,
    ) => module::enumerate_functions;
    Plain fn cuFuncGetName(name: *mut *const c_char, function: CUfunction) => module::function_name;
    Plain fn cuFuncGetModule(module: *mut CUmodule, function: CUfunction) => module::function_module;
    Plain fn cuFuncGetParamInfo(
        function: CUfunction, index: usize, offset: *mut usize, bytes: *mut usize,
    ) => module::parameter_info;
    Plain fn cuFuncGetParamCount(function: CUfunction, count: *mut usize) => module::parameter_count;
    Plain fn cuFuncIsLoaded(state: *mut c_uint, function: CUfunction) => module::is_loaded;
    Plain fn cuFuncLoad(function: CUfunction) => module::load_function;
    Plain fn cuLinkAddFile_v2(
        state: CUlinkState, kind: c_uint, path: *const c_char, options: c_uint, names: *mut c_uint,
        values: *mut *mut c_void,
    ) => link::add_file;

    // Libraries.
    Module fn cuLibraryLoadData(
        library: *mut CUlibrary, image: *const c_void, names: *mut c_uint, values: *mut *mut c_void, options: c_uint,
        library_names: *mut c_uint, library_values: *mut *mut c_void, library_options: c_uint,
    ) => library::load_data;
    Module fn cuLibraryLoadFromFile(
        library: *mut CUlibrary, file: *const c_char, names: *mut c_uint, values: *mut *mut c_void, options: c_uint,
        library_names: *mut c_uint, library_values: *mut *mut c_void, library_options: c_uint,
    ) => library::load_file;
    Module fn cuLibraryUnload(library: CUlibrary) => library::unload;
    Plain fn cuLibraryGetModule(module: *mut CUmodule, library: CUlibrary) => library::get_module;
    Plain fn cuLibraryGetKernel(
        kernel: *mut CUkernel, library: CUlibrary, name: *const c_char,
    ) => library::get_kernel;
    Plain fn cuLibraryGetKernelCount(count: *mut c_uint, library: CUlibrary) => library::kernel_count;
    Plain fn cuLibraryEnumerateKernels(
        kernels: *mut CUkernel, room: c_uint, library: CUlibrary,
    ) => library::enumerate_kernels;
    Plain fn cuLibraryGetGlobal(
        address: *mut CUdeviceptr, bytes: *mut usize, library: CUlibrary, name: *const c_char,
    ) => library::get_global;
    Plain fn cuLibraryGetManaged(
        address: *mut CUdeviceptr, bytes: *mut usize, library: CUlibrary, name: *const c_char,
    ) => library::get_managed;
    Plain fn cuKernelGetFunction(function: *mut CUfunction, kernel: CUkernel) => library::kernel_function;
    Plain fn cuKernelGetLibrary(library: *mut CUlibrary, kernel: CUkernel) => library::kernel_library;
    Plain fn cuKernelGetName(name: *mut *const c_char, kernel: CUkernel) => library::kernel_name;
    Plain fn cuKernelGetAttribute(
        value: *mut c_int, attribute: c_uint, kernel: CUkernel, device: CUdevice,
    ) => library::kernel_attribute;
    Plain fn cuKernelSetAttribute(
        attribute: c_uint, value: c_int, kernel: CUkernel, device: CUdevice,
    ) => library::set_kernel_attribute;
    Plain fn cuKernelSetCacheConfig(
        kernel: CUkernel, config: c_uint, device: CUdevice,
    ) => library::set_kernel_cache_config;
    Plain fn cuKernelGetParamInfo(
        kernel: CUkernel, index: usize, offset: *mut usize, bytes: *mut usize,
    ) => module::parameter_info;
    Plain fn cuKernelGetParamCount(kernel: CUkernel, count: *mut usize) => module::parameter_count;

    // Occupancy.
    Plain fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: *mut c_int, function: CUfunction, block_size: c_int, dynamic_bytes: usize, flags: c_uint,
    ) => occupancy::max_active_blocks_with_flags;
    Plain fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        min_grid: *mut c_int, block_size: *mut c_int, function: CUfunction, dynamic_bytes_for: CUoccupancyB2DSize,
        dynamic_bytes: usize, block_size_limit: c_int, flags: c_uint,
    ) => occupancy::max_potential_block_size_with_flags;

    // Streams, events, graphs.
    Plain fn cuStreamDestroy(stream: CUstream) => stream::destroy;
    Plain[cuStreamGetCtx_ptsz] fn cuStreamGetCtx(stream: CUstream, context: *mut CUcontext) => stream::get_context;
    Plain[cuStreamGetCtx_v2_ptsz] fn cuStreamGetCtx_v2(
        stream: CUstream, context: *mut CUcontext, green: *mut *mut c_void,
    ) => stream::get_contexts;
    Plain[cuStreamGetId_ptsz] fn cuStreamGetId(stream: CUstream, id: *mut c_ulonglong) => stream::get_id;
    Plain[cuStreamGetDevice_ptsz] fn cuStreamGetDevice(
        stream: CUstream, device: *mut CUdevice,
    ) => stream::get_device;
    Plain[cuStreamAttachMemAsync_ptsz] fn cuStreamAttachMemAsync(
        stream: CUstream, address: CUdeviceptr, bytes: usize, flags: c_uint,
    ) => stream::attach_memory;
    Plain fn cuEventDestroy(event: CUevent) => stream::event_destroy;
    Plain[cuEventRecordWithFlags_ptsz] fn cuEventRecordWithFlags(
        event: CUevent, stream: CUstream, flags: c_uint,
    ) => stream::event_record_with_flags;
    Plain fn cuEventElapsedTime_v2(
        milliseconds: *mut f32, start: CUevent, end: CUevent,
    ) => stream::event_elapsed;
    Plain[cuStreamGetCaptureInfo_v2_ptsz] fn cuStreamGetCaptureInfo_v2(
        stream: CUstream, status: *mut c_uint, id: *mut c_ulonglong, graph: *mut CUgraph,
        dependencies: *mut *const CUgraphNode, count: *mut usize,
    ) => capture::info;
    Plain[cuStreamGetCaptureInfo_v3_ptsz] fn cuStreamGetCaptureInfo_v3(
        stream: CUstream, status: *mut c_uint, id: *mut c_ulonglong, graph: *mut CUgraph,
        dependencies: *mut *const CUgraphNode, edges: *mut *const c_void, count: *mut usize,
    ) => capture::info_with_edges;
    Plain[cuGraphInstantiateWithParams_ptsz] fn cuGraphInstantiateWithParams(
        executable: *mut CUgraphExec, graph: CUgraph, parameters: *mut CUDA_GRAPH_INSTANTIATE_PARAMS,
    ) => graph::instantiate_with_parameters;
}
