//! Stream capture and graphs, on the device that `FERROWARP_DEVICE` names (softcuda where unset), and what softcuda
//! refuses in a capture.
#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "the same for all: softcuda looks up every handle and device address, and a GPU's driver gets live ones"
)]

mod common;

use std::ffi::{c_uint, c_void};
use std::ptr;

use cust::function::Function;
use cust::memory::{DeviceBuffer, LockedBuffer};
use cust::module::Module;
use cust::stream::{Stream, StreamFlags};
use driver::sys::*;
use driver::{Backend, DeviceChoice, calls};

const PTX: &str = include_str!("common/kernels.ptx");
/// The module's variable, added to every sum.
const OFFSET: f32 = 0.5;
const N: usize = 200;

fn stream() -> Stream {
    Stream::new(StreamFlags::NON_BLOCKING, None).unwrap()
}

fn raw(stream: &Stream) -> CUstream {
    stream.as_inner().cast()
}

#[track_caller]
fn ok(result: CUresult) {
    assert_eq!(result, CUDA_SUCCESS, "{:?}", driver::last_error());
}

/// A call that fails with this code and whose text holds these words.
#[track_caller]
fn refused(result: CUresult, expected: CUresult, words: &str) {
    let text = driver::last_error().unwrap_or_default();
    assert_eq!(result, expected, "{text}");
    assert!(text.contains(words), "{words:?} is missing: {text}");
}

fn begin(stream: CUstream) -> CUresult {
    // SAFETY: softcuda looks handles up, and a GPU's driver gets live ones here.
    unsafe { cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) }
}

fn end(stream: CUstream) -> (CUresult, CUgraph) {
    let mut graph = ptr::without_provenance_mut(1);
    // SAFETY: as above; `graph` is a live pointer.
    let result = unsafe { cuStreamEndCapture(stream, &mut graph) };
    (result, graph)
}

fn status(stream: CUstream) -> c_uint {
    let mut status = u32::MAX;
    // SAFETY: as above.
    ok(unsafe { cuStreamIsCapturing(stream, &mut status) });
    status
}

/// The types of a graph's nodes, in the order in which the driver lists them.
fn node_types(graph: CUgraph) -> Vec<c_uint> {
    let mut count = 0;
    // SAFETY: the pointers are to live values, and the array is as long as said.
    unsafe {
        ok(cuGraphGetNodes(graph, ptr::null_mut(), &mut count));
        let mut nodes = vec![ptr::null_mut(); count];
        ok(cuGraphGetNodes(graph, nodes.as_mut_ptr(), &mut count));
        let node_type = |node: CUgraphNode| {
            let mut node_type = u32::MAX;
            ok(cuGraphNodeGetType(node, &mut node_type));
            node_type
        };
        nodes.into_iter().map(node_type).collect()
    }
}

fn instantiate(graph: CUgraph) -> CUgraphExec {
    let mut executable = ptr::null_mut();
    // SAFETY: the graph is live.
    ok(unsafe { cuGraphInstantiateWithFlags(&mut executable, graph, 0) });
    executable
}

/// Enqueues out[i] = a[i] + scale * b[i] + OFFSET for the first N elements.
fn scaled_add(function: &Function, out: u64, a: u64, b: u64, scale: f32, stream: CUstream) -> CUresult {
    let (mut out, mut a, mut b, mut scale, mut n) = (out, a, b, scale, N as u32);
    let mut parameters: [*mut c_void; 5] =
        [(&raw mut out).cast(), (&raw mut a).cast(), (&raw mut b).cast(), (&raw mut scale).cast(), (&raw mut n).cast()];
    // SAFETY: the parameters are those that the PTX declares; each address is that of N values.
    unsafe {
        let (function, blocks) = (function.to_raw().cast(), (N as u32).div_ceil(64));
        cuLaunchKernel(function, blocks, 1, 1, 64, 1, 1, 0, stream, parameters.as_mut_ptr(), ptr::null_mut())
    }
}

#[test]
fn a_captured_chain_runs_as_often_as_it_is_launched() {
    let turn = common::turn();
    let module = Module::from_ptx(PTX, &[]).unwrap();
    let function = module.get_function("scaled_add").unwrap();
    let stream = stream();
    let mut input = LockedBuffer::new(&0.0f32, N).unwrap();
    let output = LockedBuffer::new(&-1.0f32, N).unwrap();
    let device = DeviceBuffer::from_slice(&vec![0.0f32; 3 * N]).unwrap();
    let [a, b, sum] = [0, 1, 2].map(|part| device.as_device_ptr().as_raw() + (part * N * size_of::<f32>()) as u64);
    let bytes = N * size_of::<f32>();

    // a = input; b = 0; sum = a + 2 b + OFFSET; b = sum + 3 sum + OFFSET; output = b.
    ok(begin(raw(&stream)));
    assert_eq!(status(raw(&stream)), CU_STREAM_CAPTURE_STATUS_ACTIVE);
    // SAFETY: the buffers are of these lengths, and live as long as the graph.
    unsafe {
        ok(cuMemcpyHtoDAsync_v2(a, input.as_ptr().cast(), bytes, raw(&stream)));
        ok(cuMemsetD32Async(b, 0, N, raw(&stream)));
        ok(scaled_add(&function, sum, a, b, 2.0, raw(&stream)));
        ok(scaled_add(&function, b, sum, sum, 3.0, raw(&stream)));
        ok(cuMemcpyDtoHAsync_v2(output.as_ptr().cast_mut().cast(), b, bytes, raw(&stream)));
    }
    let (result, graph) = end(raw(&stream));
    ok(result);
    assert_eq!(status(raw(&stream)), CU_STREAM_CAPTURE_STATUS_NONE);
    assert!(output.iter().all(|&value| value == -1.0), "something ran while it was captured");
    let mut types = node_types(graph);
    types.sort();
    let (kernel, copy, fill) = (CU_GRAPH_NODE_TYPE_KERNEL, CU_GRAPH_NODE_TYPE_MEMCPY, CU_GRAPH_NODE_TYPE_MEMSET);
    assert_eq!(types, [kernel, kernel, copy, copy, fill]);
    let executable = instantiate(graph);
    // SAFETY: what it was instantiated from is needed no longer.
    ok(unsafe { cuGraphDestroy(graph) });

    if turn.backend == Backend::Soft {
        driver::soft::device().unwrap().clear_records();
        driver::soft::device().unwrap().set_recording(true);
    }
    for round in 0..3 {
        input.iter_mut().enumerate().for_each(|(i, value)| *value = (i + 1000 * round) as f32);
        let before = calls::counts();
        // SAFETY: all that the graph uses is alive.
        unsafe { ok(cuGraphLaunch(executable, raw(&stream))) };
        let counts = calls::counts().since(&before);
        assert_eq!((counts.total(), counts.graph_launches(), counts.launches()), (1, 1, 0), "{counts:?}");
        stream.synchronize().unwrap();
        for (i, &value) in output.iter().enumerate() {
            let sum = (i + 1000 * round) as f32 + OFFSET;
            assert_eq!(value, 3.0f32.mul_add(sum, sum) + OFFSET, "round {round}, element {i}");
        }
    }
    if turn.backend == Backend::Soft {
        driver::soft::device().unwrap().set_recording(false);
        let records = driver::soft::device().unwrap().records();
        let kernels: Vec<_> =
            records.iter().map(|record| (record.kernel.as_str(), record.grid, record.early)).collect();
        assert_eq!(kernels, [("scaled_add", [4, 1, 1], false); 6]);
    }
    // SAFETY: nothing runs any more.
    ok(unsafe { cuGraphExecDestroy(executable) });
}

#[test]
fn what_makes_the_host_wait_or_takes_memory_spoils_a_capture() {
    let _turn = common::turn();
    let stream = stream();
    let buffer = DeviceBuffer::from_slice(&[1u32; 4]).unwrap();
    let address = buffer.as_device_ptr().as_raw();
    type Call<'c> = (&'c str, &'c dyn Fn() -> CUresult);
    let mut allocated = 0;
    let mut host = [0u32; 4];
    let (allocated, host) = (&raw mut allocated, host.as_mut_ptr().cast::<c_void>());
    // SAFETY: the pointers are to live values of these sizes.
    let calls: [Call; 3] = [
        ("wait", &|| unsafe { cuStreamSynchronize(raw(&stream)) }),
        ("allocation", &|| unsafe { cuMemAlloc_v2(allocated, 16) }),
        ("waiting copy", &|| unsafe { cuMemcpyDtoH_v2(host, address, 16) }),
    ];
    for (name, call) in calls {
        ok(begin(raw(&stream)));
        assert_ne!(call(), CUDA_SUCCESS, "{name} in a capture");
        assert_eq!(status(raw(&stream)), CU_STREAM_CAPTURE_STATUS_INVALIDATED, "{name}");
        let (result, graph) = end(raw(&stream));
        assert_eq!(result, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "{name}");
        assert!(graph.is_null(), "{name}");
        // The stream is as good as before.
        assert_eq!(status(raw(&stream)), CU_STREAM_CAPTURE_STATUS_NONE, "{name}");
        stream.synchronize().unwrap();
    }
    assert_eq!(buffer.as_host_vec().unwrap(), [1; 4]);
}

#[test]
fn captures_that_cannot_begin_or_end() {
    let _turn = common::turn_on(DeviceChoice::Soft);
    let stream = stream();
    refused(begin(ptr::null_mut()), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "default stream");
    // SAFETY: the arguments are plain values and live handles.
    unsafe {
        refused(cuStreamBeginCapture_v2(raw(&stream), 3), CUDA_ERROR_INVALID_VALUE, "capture mode 3");
        refused(cuStreamEndCapture(raw(&stream), ptr::null_mut()), CUDA_ERROR_INVALID_VALUE, "null");
    }
    refused(end(raw(&stream)).0, CUDA_ERROR_ILLEGAL_STATE, "does not capture");
    ok(begin(raw(&stream)));
    refused(begin(raw(&stream)), CUDA_ERROR_ILLEGAL_STATE, "captures already");

    // Another thread can neither end it nor add to it.
    let handle = raw(&stream).addr();
    std::thread::spawn(move || {
        let stream: CUstream = ptr::without_provenance_mut(handle);
        let _context = cust::quick_init().unwrap();
        refused(end(stream).0, CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "another thread");
        let mut address = 0;
        // SAFETY: the pointer is to a live value; what is allocated is freed.
        unsafe {
            // Its own calls are its own affair.
            ok(cuMemAlloc_v2(&mut address, 16));
            ok(cuMemFree_v2(address));
        }
        assert_eq!(status(stream), CU_STREAM_CAPTURE_STATUS_ACTIVE);
        // SAFETY: softcuda checks the address.
        let result = unsafe { cuMemsetD8Async(0, 0, 16, stream) };
        refused(result, CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "another thread");
    })
    .join()
    .unwrap();
    refused(end(raw(&stream)).0, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "another thread");
}

/// Whatever the capture's mode, and whichever thread it is.
#[test]
fn waiting_for_the_whole_context_spoils_captures() {
    let _turn = common::turn_on(DeviceChoice::Soft);
    let waits: [fn(); 2] = [
        || {
            // SAFETY: no memory is involved.
            refused(unsafe { cuCtxSynchronize() }, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "cannot wait for a context");
        },
        // Without the lock that keeps handles apart from captures: a capture of this test's does not hold it.
        || drop(driver::cublas::Handle::new().unwrap()),
    ];
    for mode in [CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, CU_STREAM_CAPTURE_MODE_RELAXED] {
        for wait in waits {
            let stream = stream();
            // SAFETY: the stream is live.
            ok(unsafe { cuStreamBeginCapture_v2(raw(&stream), mode) });
            std::thread::spawn(move || {
                let _context = cust::quick_init().unwrap();
                wait();
            })
            .join()
            .unwrap();
            refused(end(raw(&stream)).0, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "cannot wait for a context");
        }
    }
}

#[test]
fn captured_work_is_checked_when_it_is_captured() {
    let _turn = common::turn_on(DeviceChoice::Soft);
    let module = Module::from_ptx(PTX, &[]).unwrap();
    let function = module.get_function("scaled_add").unwrap();
    let (stream, other) = (stream(), stream());
    let buffer = DeviceBuffer::from_slice(&[1.0f32; N]).unwrap();
    let address = buffer.as_device_ptr().as_raw();
    let unlocked = [0.0f32; N];
    let mut event = ptr::null_mut();
    // SAFETY: `event` is a live pointer.
    ok(unsafe { cuEventCreate(&mut event, 0) });
    type Call<'c> = (CUresult, &'c str, &'c dyn Fn() -> CUresult);
    let unsupported = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    let calls: [Call; 13] = [
        (unsupported, "not page-locked", &|| unsafe {
            cuMemcpyHtoDAsync_v2(address, unlocked.as_ptr().cast(), 4, raw(&stream))
        }),
        (CUDA_ERROR_INVALID_VALUE, "800-byte allocation", &|| unsafe {
            cuMemsetD32Async(address, 0, N + 1, raw(&stream))
        }),
        (CUDA_ERROR_INVALID_VALUE, "past the end", &|| unsafe {
            cuMemcpyDtoDAsync_v2(address + 400, address, 404, raw(&stream))
        }),
        (CUDA_ERROR_INVALID_HANDLE, "live function", &|| unsafe {
            let (none, nothing) = (ptr::null_mut(), ptr::null_mut());
            cuLaunchKernel(none, 1, 1, 1, 32, 1, 1, 0, raw(&stream), nothing, ptr::null_mut())
        }),
        (unsupported, "a question", &|| unsafe { cuStreamQuery(raw(&stream)) }),
        (unsupported, "an event", &|| unsafe { cuEventRecord(event, raw(&stream)) }),
        (unsupported, "a wait for an event", &|| unsafe { cuStreamWaitEvent(raw(&stream), event, 0) }),
        (unsupported, "cannot be freed", &|| unsafe { cuMemFree_v2(address) }),
        (unsupported, "host cannot wait", &|| unsafe { cuCtxSynchronize() }),
        (unsupported, "host cannot wait", &|| unsafe { cuStreamSynchronize(raw(&other)) }),
        (unsupported, "module cannot be", &|| unsafe { cuModuleUnload(ptr::null_mut()) }),
        (CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "default stream", &|| unsafe { cuMemsetD8_v2(address, 0, 4) }),
        (CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "default stream", &|| {
            scaled_add(&function, address, address, address, 1.0, ptr::null_mut())
        }),
    ];
    for (result, words, call) in calls {
        ok(begin(raw(&stream)));
        refused(call(), result, words);
        // What comes later tells of what came first.
        let later = scaled_add(&function, address, address, address, 1.0, raw(&stream));
        refused(later, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, words);
        refused(end(raw(&stream)).0, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, words);
    }
    assert_eq!(buffer.as_host_vec().unwrap(), [1.0; N], "nothing ran");

    // Nor does softcuda capture matrix products.
    let handle = driver::cublas::Handle::new().unwrap();
    let one = driver::cublas::Matrix { address, element: driver::cublas::Element::F32, rows: 1, columns: 1 };
    ok(begin(raw(&stream)));
    // SAFETY: the stream is live while the handle is used, and the matrices lie in the buffer.
    unsafe {
        handle.set_stream(raw(&stream)).unwrap();
        let error = handle.matmul(one, one, one, 1.0, 0.0).unwrap_err().to_string();
        assert!(error.contains("matrix products of cuBLAS"), "{error}");
    }
    refused(end(raw(&stream)).0, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "matrix products");

    // Another stream's work is no part of it, and runs.
    ok(begin(raw(&stream)));
    ok(scaled_add(&function, address, address, address, 1.0, raw(&other)));
    let (result, graph) = end(raw(&stream));
    ok(result);
    assert_eq!(node_types(graph), []);
    assert_eq!(buffer.as_host_vec().unwrap(), [2.0 + OFFSET; N]);
    // SAFETY: the handles are live, or are looked up.
    unsafe {
        ok(cuGraphDestroy(graph));
        refused(cuGraphDestroy(graph), CUDA_ERROR_INVALID_HANDLE, "live graph");
        refused(cuGraphLaunch(graph, raw(&stream)), CUDA_ERROR_INVALID_HANDLE, "live executable graph");
        ok(cuEventDestroy_v2(event));
    }
}

#[test]
fn a_fault_in_a_graph_is_the_launchs() {
    let _turn = common::turn_on(DeviceChoice::Soft);
    let module = Module::from_ptx(PTX, &[]).unwrap();
    let function = module.get_function("scaled_add").unwrap();
    let stream = stream();
    let buffer = DeviceBuffer::from_slice(&[1.0f32; N]).unwrap();
    let address = buffer.as_device_ptr().as_raw();
    ok(begin(raw(&stream)));
    ok(scaled_add(&function, address, address, address, 1.0, raw(&stream)));
    ok(scaled_add(&function, address, address + 4, address, 1.0, raw(&stream)));
    let executable = instantiate(end(raw(&stream)).1);
    // SAFETY: the graph is live.
    let result = unsafe { cuGraphLaunch(executable, raw(&stream)) };
    refused(result, CUDA_ERROR_ILLEGAL_ADDRESS, "cuGraphLaunch: CUDA_ERROR_ILLEGAL_ADDRESS (700)");
    assert_eq!(driver::soft::last_fault().unwrap().location().unwrap().thread, [7, 0, 0]);
    assert_eq!(buffer.as_host_vec().unwrap()[N - 1], 2.0 + OFFSET, "the first kernel ran");
}

#[test]
fn launch_attributes() {
    let _turn = common::turn_on(DeviceChoice::Soft);
    let module = Module::from_ptx(PTX, &[]).unwrap();
    let function = module.get_function("write_at").unwrap();
    let out = DeviceBuffer::from_slice(&[0u32; 4]).unwrap();
    let stream = stream();
    let (mut address, mut index, mut value) = (out.as_device_ptr().as_raw(), 2u64, 77u32);
    let mut parameters: [*mut c_void; 3] =
        [(&raw mut address).cast(), (&raw mut index).cast(), (&raw mut value).cast()];
    let mut launch = |blocks: c_uint, attributes: &[CUlaunchAttribute]| {
        let config = CUlaunchConfig {
            gridDimX: blocks,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 32,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: raw(&stream),
            attrs: attributes.as_ptr(),
            numAttrs: attributes.len() as c_uint,
        };
        // SAFETY: the parameters are those that the PTX declares.
        unsafe { cuLaunchKernelEx(&config, function.to_raw().cast(), parameters.as_mut_ptr(), ptr::null_mut()) }
    };
    let device = driver::soft::device().unwrap();
    device.clear_records();
    device.set_recording(true);
    let early = CUlaunchAttribute::number(CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, 1);
    let cooperative = CUlaunchAttribute::number(CU_LAUNCH_ATTRIBUTE_COOPERATIVE, 1);
    let before = calls::counts();
    ok(launch(2, &[]));
    ok(launch(2, &[early]));
    ok(launch(2, &[CUlaunchAttribute::number(CU_LAUNCH_ATTRIBUTE_PRIORITY, 3), cooperative]));
    assert_eq!(calls::counts().since(&before).launches(), 3);
    device.set_recording(false);
    let records: Vec<_> = device.records().iter().map(|record| (record.early, record.cooperative)).collect();
    assert_eq!(records, [(false, false), (true, false), (false, true)]);
    assert_eq!(out.as_host_vec().unwrap(), [0, 0, 77, 0]);

    refused(launch(1 << 20, &[cooperative]), CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, "1048576 blocks");
    let cluster = CUlaunchAttribute::number(CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, 2);
    refused(launch(2, &[cluster]), CUDA_ERROR_INVALID_VALUE, "clusters of 2 by 0 by 0");
    refused(launch(2, &[CUlaunchAttribute::number(999, 0)]), CUDA_ERROR_NOT_SUPPORTED, "launch attribute 999");
    // SAFETY: a null configuration is refused.
    let result = unsafe { cuLaunchKernelEx(ptr::null(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut()) };
    refused(result, CUDA_ERROR_INVALID_VALUE, "configuration is null");
}

/// out[block] = its rank + 100 · the blocks of its cluster.
const RANKS: &str = "
.version 8.0
.target sm_90
.address_size 64
.visible .entry ranks(.param .u64 out) {
    .reg .b32 %r<4>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [out];
    mov.u32 %r1, %cluster_ctarank;
    mov.u32 %r2, %cluster_nctarank;
    mad.lo.u32 %r1, %r2, 100, %r1;
    mov.u32 %r3, %ctaid.x;
    mul.wide.u32 %rd2, %r3, 4;
    add.s64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], %r1;
    ret;
}";

#[test]
fn clusters_by_attribute_at_once_and_in_a_graph() {
    let _turn = common::turn_on(DeviceChoice::Soft);
    let module = Module::from_ptx(RANKS, &[]).unwrap();
    let function = module.get_function("ranks").unwrap();
    let raw_function: CUfunction = function.to_raw().cast();
    let stream = stream();
    let out = DeviceBuffer::from_slice(&[0u32; 32]).unwrap();
    let mut address = out.as_device_ptr().as_raw();
    let mut launch = |blocks: c_uint, cluster: [u32; 3]| {
        let attributes = [CUlaunchAttribute::cluster(cluster)];
        let config = CUlaunchConfig {
            gridDimX: blocks,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 1,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: raw(&stream),
            attrs: attributes.as_ptr(),
            numAttrs: 1,
        };
        // SAFETY: the parameter is the one that the PTX declares.
        unsafe { cuLaunchKernelEx(&config, raw_function, [(&raw mut address).cast()].as_mut_ptr(), ptr::null_mut()) }
    };
    let ranks = |size: u32| (0..32).map(|block| block % size + 100 * size).collect::<Vec<u32>>();
    for size in [4, 1, 8] {
        ok(launch(32, [size, 1, 1]));
        assert_eq!(out.as_host_vec().unwrap(), ranks(size));
    }
    ok(begin(raw(&stream)));
    ok(launch(32, [2, 1, 1]));
    let executable = instantiate(end(raw(&stream)).1);
    assert_eq!(out.as_host_vec().unwrap(), ranks(8), "a captured launch does not run");
    // SAFETY: the graph is live.
    ok(unsafe { cuGraphLaunch(executable, raw(&stream)) });
    assert_eq!(out.as_host_vec().unwrap(), ranks(2));

    refused(launch(30, [4, 1, 1]), CUDA_ERROR_INVALID_VALUE, "grid x is 30; expected a multiple of the cluster's 4");
    refused(launch(32, [16, 1, 1]), CUDA_ERROR_INVALID_VALUE, "expected 1 to 8");
    const NON_PORTABLE_CLUSTER_SIZE_ALLOWED: c_uint = 14;
    let mut allowed = -1;
    // SAFETY: the function is live, the value written.
    unsafe {
        ok(cuFuncSetAttribute(raw_function, NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1));
        ok(cuFuncGetAttribute(&mut allowed, NON_PORTABLE_CLUSTER_SIZE_ALLOWED, raw_function));
    }
    assert_eq!(allowed, 1);
    ok(launch(32, [16, 1, 1]));
    assert_eq!(out.as_host_vec().unwrap(), ranks(16));
    refused(launch(32, [32, 1, 1]), CUDA_ERROR_INVALID_VALUE, "expected 1 to 16");
}

#[test]
fn launch_structures_are_laid_out_as_in_cuda_h() {
    assert_eq!(size_of::<CUlaunchConfig>(), 56);
    assert_eq!(std::mem::offset_of!(CUlaunchConfig, hStream), 32);
    assert_eq!(std::mem::offset_of!(CUlaunchConfig, attrs), 40);
    assert_eq!(std::mem::offset_of!(CUlaunchConfig, numAttrs), 48);
    assert_eq!(size_of::<CUlaunchAttribute>(), 72);
    assert_eq!(std::mem::offset_of!(CUlaunchAttribute, value), 8);
}
