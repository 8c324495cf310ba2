//! What softcuda's entry points refuse: each bad argument gives a code and a sentence, never undefined behaviour. These
//! tests are about softcuda, whatever `FERROWARP_DEVICE` says: a real driver may dereference a bad handle.

mod common;

use std::ffi::{CString, c_void};
use std::mem;
use std::ptr;

use cust::memory::{DeviceBuffer, mem_get_info};
use driver::cublas::{CublasError, Element, Handle, Matrix};
use driver::sys::*;
use driver::{DeviceChoice, SelectError};

const PTX: &str = include_str!("common/kernels.ptx");

fn turn() -> common::Turn {
    common::turn_on(DeviceChoice::Soft)
}

/// A call that fails with this code and whose text holds these words.
#[track_caller]
fn refused(result: CUresult, expected: CUresult, words: &[&str]) {
    let text = driver::last_error().unwrap_or_default();
    assert_eq!(result, expected, "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing: {text}");
    }
}

fn pointer(value: usize) -> *mut c_void {
    ptr::without_provenance_mut(value)
}

/// A module of the test's PTX, through the entry points themselves.
fn load() -> CUmodule {
    let mut module = ptr::null_mut();
    let image = CString::new(PTX).unwrap();
    // SAFETY: the image is a C string.
    let result = unsafe { cuModuleLoadData(&mut module, image.as_ptr().cast()) };
    assert_eq!(result, CUDA_SUCCESS, "{:?}", driver::last_error());
    module
}

fn function(module: CUmodule, name: &str) -> CUfunction {
    let mut function = ptr::null_mut();
    let name = CString::new(name).unwrap();
    // SAFETY: the name is a C string.
    let result = unsafe { cuModuleGetFunction(&mut function, module, name.as_ptr()) };
    assert_eq!(result, CUDA_SUCCESS, "{:?}", driver::last_error());
    function
}

#[test]
fn handles_that_are_stale_invented_or_of_another_kind() {
    let _turn = turn();
    let (mut stream, mut event) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: the pointers are to live values; the bad handles are numbers, which softcuda looks up.
    unsafe {
        assert_eq!(cuStreamCreate(&mut stream, 0), CUDA_SUCCESS);
        assert_eq!(cuEventCreate(&mut event, 0), CUDA_SUCCESS);
        assert_eq!(cuEventRecord(event, stream), CUDA_SUCCESS);

        refused(cuEventRecord(stream, stream), CUDA_ERROR_INVALID_HANDLE, &["cuEventRecord", "live event"]);
        refused(cuStreamSynchronize(event), CUDA_ERROR_INVALID_HANDLE, &["cuStreamSynchronize", "live stream"]);
        refused(cuStreamSynchronize(pointer(0xdead_beef)), CUDA_ERROR_INVALID_HANDLE, &["0xdeadbeef"]);
        refused(cuModuleUnload(pointer(0x40)), CUDA_ERROR_INVALID_HANDLE, &["0x40", "live module"]);
        refused(cuCtxSetCurrent(pointer(0x50)), CUDA_ERROR_INVALID_CONTEXT, &["0x50", "live context"]);

        assert_eq!(cuStreamDestroy_v2(stream), CUDA_SUCCESS);
        refused(cuStreamDestroy_v2(stream), CUDA_ERROR_INVALID_HANDLE, &["cuStreamDestroy_v2"]);
        assert_eq!(cuEventDestroy_v2(event), CUDA_SUCCESS);
        refused(cuEventQuery(event), CUDA_ERROR_INVALID_HANDLE, &["cuEventQuery"]);

        let module = load();
        let kernel = function(module, "write_at");
        assert_eq!(kernel, function(module, "write_at"), "one handle for one kernel");
        assert_eq!(cuModuleUnload(module), CUDA_SUCCESS);
        let mut value = 0;
        refused(cuFuncGetAttribute(&mut value, 0, kernel), CUDA_ERROR_INVALID_HANDLE, &["live function"]);
    }
}

#[test]
fn device_addresses_and_host_pointers() {
    let _turn = turn();
    let buffer = DeviceBuffer::from_slice(&[1u8; 100]).unwrap();
    let address = buffer.as_device_ptr().as_raw();
    let mut host = [0u8; 200];
    // SAFETY: host memory is as long as said; softcuda checks the device addresses.
    unsafe {
        refused(
            cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), address, 101),
            CUDA_ERROR_INVALID_VALUE,
            &["cuMemcpyDtoH_v2", "100-byte allocation"],
        );
        refused(
            cuMemcpyHtoD_v2(address + 100, host.as_ptr().cast(), 1),
            CUDA_ERROR_INVALID_VALUE,
            &["past the end of the 100-byte allocation"],
        );
        refused(cuMemcpyHtoD_v2(0, host.as_ptr().cast(), 1), CUDA_ERROR_INVALID_VALUE, &["null pointer"]);
        refused(cuMemcpyHtoD_v2(address, ptr::null(), 1), CUDA_ERROR_INVALID_VALUE, &["host pointer is null"]);
        assert_eq!(cuMemcpyHtoD_v2(0, ptr::null(), 0), CUDA_SUCCESS, "0 bytes touch nothing");
        refused(cuMemcpyDtoD_v2(address, address + 60, 50), CUDA_ERROR_INVALID_VALUE, &["cuMemcpyDtoD_v2"]);
        refused(cuMemsetD8_v2(address, 0, 101), CUDA_ERROR_INVALID_VALUE, &["cuMemsetD8_v2"]);
        refused(cuMemsetD32_v2(address + 2, 0, 1), CUDA_ERROR_INVALID_VALUE, &["multiple of 4"]);
        refused(cuMemsetD32_v2(address, 0, usize::MAX), CUDA_ERROR_INVALID_VALUE, &["cuMemsetD32_v2"]);

        refused(cuMemFree_v2(address + 1), CUDA_ERROR_INVALID_VALUE, &["not its start"]);
        refused(cuMemFreeHost(host.as_mut_ptr().cast()), CUDA_ERROR_INVALID_VALUE, &["page-locked"]);
        refused(cuMemAlloc_v2(ptr::null_mut(), 16), CUDA_ERROR_INVALID_VALUE, &["null"]);
        let mut allocated = 0;
        refused(cuMemAlloc_v2(&mut allocated, 0), CUDA_ERROR_INVALID_VALUE, &["0 bytes"]);
        refused(cuMemAlloc_v2(&mut allocated, usize::MAX), CUDA_ERROR_OUT_OF_MEMORY, &["bytes asked for"]);

        let (mut base, mut length) = (0, 0);
        assert_eq!(cuMemGetAddressRange_v2(&mut base, &mut length, address + 99), CUDA_SUCCESS);
        assert_eq!((base, length), (address, 100));
        refused(cuMemGetAddressRange_v2(&mut base, &mut length, address + 100), CUDA_ERROR_NOT_FOUND, &[]);
        drop(buffer);
        refused(cuMemFree_v2(address), CUDA_ERROR_INVALID_VALUE, &["freed"]);
    }
}

#[test]
fn launches_that_no_device_would_take() {
    let _turn = turn();
    let module = load();
    let (write_at, reverse_blocks) = (function(module, "write_at"), function(module, "reverse_blocks"));
    let out = DeviceBuffer::from_slice(&[0u32; 64]).unwrap();
    let (mut address, mut index, mut value) = (out.as_device_ptr().as_raw(), 0u64, 0u32);
    let mut good: [*mut c_void; 3] = [(&raw mut address).cast(), (&raw mut index).cast(), (&raw mut value).cast()];
    let mut with_null: [*mut c_void; 3] = [good[0], ptr::null_mut(), good[2]];
    let launch = |function, grid: [u32; 3], block: [u32; 3], shared, parameters| {
        let ([gx, gy, gz], [bx, by, bz]) = (grid, block);
        // SAFETY: each array holds a pointer (which may be null) for every parameter of the kernel.
        unsafe {
            cuLaunchKernel(function, gx, gy, gz, bx, by, bz, shared, ptr::null_mut(), parameters, ptr::null_mut())
        }
    };
    let parameters = good.as_mut_ptr();
    assert_eq!(launch(write_at, [1; 3], [32, 1, 1], 0, parameters), CUDA_SUCCESS);

    let bad_sizes: &[([u32; 3], [u32; 3], &str)] = &[
        ([0, 1, 1], [32, 1, 1], "grid x is 0"),
        ([1, 65536, 1], [32, 1, 1], "grid y is 65536"),
        ([1, 1, 65536], [32, 1, 1], "grid z is 65536"),
        ([1, 1, 1], [1025, 1, 1], "block x is 1025"),
        ([1, 1, 1], [32, 0, 1], "block y is 0"),
        ([1, 1, 1], [1, 1, 65], "block z is 65"),
        ([1, 1, 1], [32, 33, 1], "1056 threads"),
    ];
    for (grid, block, words) in bad_sizes {
        let result = launch(write_at, *grid, *block, 0, parameters);
        refused(result, CUDA_ERROR_INVALID_VALUE, &["cuLaunchKernel", "write_at", words]);
    }
    let result = launch(reverse_blocks, [1; 3], [32, 1, 1], (48 << 10) + 1, parameters);
    refused(result, CUDA_ERROR_INVALID_VALUE, &["49153 bytes of dynamic shared memory"]);
    let result = launch(write_at, [1; 3], [32, 1, 1], 0, ptr::null_mut());
    refused(result, CUDA_ERROR_INVALID_VALUE, &["write_at", "takes 3 parameters"]);
    let result = launch(write_at, [1; 3], [32, 1, 1], 0, with_null.as_mut_ptr());
    refused(result, CUDA_ERROR_INVALID_VALUE, &["write_at", "parameter 1 is null"]);
    let result = launch(ptr::null_mut(), [1; 3], [32, 1, 1], 0, parameters);
    refused(result, CUDA_ERROR_INVALID_HANDLE, &["live function"]);
    // SAFETY: the handle is live.
    let result = unsafe { cuFuncSetAttribute(write_at, 8, 228 << 10) };
    refused(result, CUDA_ERROR_INVALID_VALUE, &["expected 0 to 232448"]);
}

#[test]
fn images_that_are_no_ptx() {
    let _turn = turn();
    let load = |image: &[u8]| {
        let image = CString::new(image).unwrap();
        let mut module = ptr::null_mut();
        // SAFETY: the image is a C string.
        unsafe { cuModuleLoadData(&mut module, image.as_ptr().cast()) }
    };
    refused(load(b"\x7fELF\x02\x01"), CUDA_ERROR_NO_BINARY_FOR_GPU, &["machine code"]);
    refused(load(b" \n"), CUDA_ERROR_INVALID_IMAGE, &["empty"]);
    refused(load(&[0xff, 0xfe]), CUDA_ERROR_INVALID_IMAGE, &["neither PTX text"]);
    refused(load(b"not PTX at all"), CUDA_ERROR_INVALID_PTX, &["line 1"]);
    let mut module = ptr::null_mut();
    // SAFETY: a null image is refused; the file name is a C string.
    unsafe {
        refused(cuModuleLoadData(&mut module, ptr::null()), CUDA_ERROR_INVALID_VALUE, &["null pointer"]);
        refused(
            cuModuleLoad(&mut module, c"/no/such/file.ptx".as_ptr()),
            CUDA_ERROR_FILE_NOT_FOUND,
            &["/no/such/file.ptx"],
        );
    }
    let module = self::load();
    let mut function = ptr::null_mut();
    // SAFETY: the name is a C string.
    let result = unsafe { cuModuleGetFunction(&mut function, module, c"absent".as_ptr()) };
    refused(result, CUDA_ERROR_NOT_FOUND, &["no kernel named absent"]);
}

#[test]
fn the_callers_log_buffer_gets_the_compilers_words() {
    const ERROR_LOG_BUFFER: u32 = 5;
    const ERROR_LOG_BUFFER_SIZE_BYTES: u32 = 6;
    let _turn = turn();
    let image = CString::new(PTX.replace("fma.rn.f32 %f4", "fma.rn.f32 %frobnicate")).unwrap();
    for room in [1000usize, 24] {
        let mut log = vec![0xaau8; 1000];
        let mut names = [ERROR_LOG_BUFFER, ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values = [log.as_mut_ptr().cast(), pointer(room)];
        let mut module = ptr::null_mut();
        // SAFETY: the image is a C string, both arrays hold two options, and the log has more room than is said.
        let result = unsafe {
            cuModuleLoadDataEx(&mut module, image.as_ptr().cast(), 2, names.as_mut_ptr(), values.as_mut_ptr())
        };
        refused(result, CUDA_ERROR_INVALID_PTX, &["frobnicate"]);
        let written = values[1].addr();
        assert!(written <= room && log[written - 1] == 0 && log[written] == 0xaa, "{written} of {room}");
        let text = std::str::from_utf8(&log[..written - 1]).unwrap();
        assert!(driver::last_error().unwrap().contains(text) && text.contains("line"), "{text}");
    }
}

#[test]
fn calls_that_softcuda_does_not_have_say_so() {
    let _turn = turn();
    let (mut graph, mut array) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: the pointers are to live values.
    unsafe {
        refused(cuGraphCreate(&mut graph, 0), CUDA_ERROR_NOT_SUPPORTED, &["cuGraphCreate", "softcuda"]);
        refused(cuArray3DCreate_v2(&mut array, ptr::null()), CUDA_ERROR_NOT_SUPPORTED, &["cuArray3DCreate"]);
        refused(cuTexObjectDestroy(1), CUDA_ERROR_NOT_SUPPORTED, &["cuTexObjectDestroy"]);
    }
}

#[test]
fn under_the_sanitizer_a_copy_to_the_host_reads_only_what_was_written() {
    let _turn = turn();
    let device = driver::soft::device().unwrap();
    // SAFETY: the sanitizer is to find that nobody wrote it.
    let buffer = unsafe { DeviceBuffer::<u8>::uninitialized(100) }.unwrap();
    let address = buffer.as_device_ptr().as_raw();
    let mut host = [0u8; 100];
    // SAFETY: the device range and the host range are as long as said.
    unsafe {
        assert_eq!(cuMemsetD8_v2(address, 7, 60), CUDA_SUCCESS);
        let to: *mut c_void = host.as_mut_ptr().cast();
        assert_eq!(cuMemcpyDtoH_v2(to, address, 100), CUDA_SUCCESS, "without it nobody looks");
        device.set_sanitizer(true);
        let results = [cuMemcpyDtoH_v2(to, address, 60), cuMemcpyDtoH_v2(to, address, 61)];
        device.set_sanitizer(false);
        assert_eq!(results[0], CUDA_SUCCESS);
        refused(results[1], CUDA_ERROR_INVALID_VALUE, &["cuMemcpyDtoH_v2", "Uninitialised", "never written"]);
    }
    assert_eq!(driver::soft::last_fault().unwrap().kind(), softcuda::FaultKind::Uninitialised);
}

#[test]
fn a_modules_variables_are_its_own() {
    let _turn = turn();
    let before = mem_get_info().unwrap().0;
    let module = load();
    let (mut address, mut bytes) = (0, 0);
    // SAFETY: the pointers are to live values; the name is a C string.
    unsafe {
        assert_eq!(cuModuleGetGlobal_v2(&mut address, &mut bytes, module, c"offset".as_ptr()), CUDA_SUCCESS);
        assert_eq!((bytes, mem_get_info().unwrap().0), (4, before - 4));
        refused(cuMemFree_v2(address), CUDA_ERROR_INVALID_VALUE, &["module's variable"]);
        assert_eq!(cuModuleUnload(module), CUDA_SUCCESS);
        refused(cuMemcpyHtoD_v2(address, [0u8; 4].as_ptr().cast(), 4), CUDA_ERROR_INVALID_VALUE, &["freed"]);
    }
    assert_eq!(mem_get_info().unwrap().0, before);
}

#[test]
fn what_a_context_owns_ends_with_it() {
    let turn = turn();
    let free_before = mem_get_info().unwrap();
    let mut own = ptr::null_mut();
    // SAFETY: the pointers are to live values.
    unsafe {
        assert_eq!(cuCtxCreate_v2(&mut own, 0, 0), CUDA_SUCCESS);
        let buffer = DeviceBuffer::from_slice(&[7u8; 4096]).unwrap();
        let address = buffer.as_device_ptr().as_raw();
        mem::forget(buffer);
        let mut stream = ptr::null_mut();
        assert_eq!(cuStreamCreate(&mut stream, 0), CUDA_SUCCESS);
        // The module has one variable of 4 bytes.
        let kernel = function(load(), "write_at");
        assert_eq!(mem_get_info().unwrap().0, free_before.0 - 4096 - 4);

        assert_eq!(cuCtxDestroy_v2(own), CUDA_SUCCESS);
        // The context below it on this thread's stack is current again.
        assert_eq!(mem_get_info().unwrap(), free_before);
        refused(cuMemFree_v2(address), CUDA_ERROR_INVALID_VALUE, &["freed"]);
        refused(cuStreamSynchronize(stream), CUDA_ERROR_INVALID_HANDLE, &["live stream"]);
        let mut value = 0;
        refused(cuFuncGetAttribute(&mut value, 0, kernel), CUDA_ERROR_INVALID_HANDLE, &["live function"]);
        refused(cuCtxPushCurrent_v2(own), CUDA_ERROR_INVALID_CONTEXT, &["live context"]);

        // The primary context ends when nobody retains it, and stays current in name.
        let leaked = DeviceBuffer::from_slice(&[7u8; 4096]).unwrap();
        mem::forget(leaked);
        drop(turn.context);
        refused(cuCtxSynchronize(), CUDA_ERROR_CONTEXT_IS_DESTROYED, &["has ended"]);
        refused(cuDevicePrimaryCtxRelease_v2(0), CUDA_ERROR_INVALID_CONTEXT, &["not retained"]);
        let again = cust::quick_init().unwrap();
        assert_eq!(mem_get_info().unwrap(), free_before);
        drop(again);
        refused(cuCtxSetCurrent(ptr::null_mut()), CUDA_SUCCESS, &[]);
        refused(cuCtxSynchronize(), CUDA_ERROR_INVALID_CONTEXT, &["no context is current"]);
        refused(cuDevicePrimaryCtxRetain(&mut own, 1), CUDA_ERROR_INVALID_DEVICE, &["device 1"]);
    }
}

#[test]
fn products_of_matrices_that_do_not_fit_or_were_not_written() {
    let turn = turn();
    let device = driver::soft::device().unwrap();
    let handle = Handle::new().unwrap();
    let values = DeviceBuffer::from_slice(&[1.0f32; 64]).unwrap();
    // SAFETY: the sanitizer is to find that nobody wrote it.
    let unwritten = unsafe { DeviceBuffer::<f32>::uninitialized(64) }.unwrap();
    let matrix = |buffer: &DeviceBuffer<f32>, rows, columns| Matrix {
        address: buffer.as_device_ptr().as_raw(),
        element: Element::F32,
        rows,
        columns,
    };
    let (w, x, out) = (matrix(&values, 3, 5), matrix(&values, 2, 5), matrix(&unwritten, 2, 3));
    let product = |w, x, out, beta| {
        // SAFETY: the addresses are softcuda's, which checks them; nothing else uses the buffers.
        unsafe { handle.matmul(w, x, out, 1.0, beta) }
    };
    let shape = |outcome: Result<(), CublasError>| match outcome {
        Err(CublasError::Shape { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(shape(product(w, Matrix { columns: 4, ..x }, out, 0.0)), "columns of x");
    assert_eq!(shape(product(w, x, Matrix { rows: 3, ..out }, 0.0)), "rows of out");
    assert_eq!(shape(product(w, x, Matrix { columns: 2, ..out }, 0.0)), "columns of out");
    assert_eq!(shape(product(w, Matrix { element: Element::F16, ..x }, out, 0.0)), "type of x");
    assert_eq!(shape(product(w, x, Matrix { element: Element::F16, ..out }, 0.0)), "type of out");
    assert_eq!(shape(product(Matrix { rows: 0, ..w }, x, out, 0.0)), "rows of w");
    assert_eq!(shape(product(w, Matrix { rows: 1 << 31, ..x }, out, 0.0)), "rows of x");

    let fails = |outcome: Result<(), CublasError>, words: &[&str]| {
        let text = outcome.unwrap_err().to_string();
        for word in words {
            assert!(text.contains(word), "{word:?} is missing: {text}");
        }
    };
    fails(
        product(matrix(&values, 13, 5), x, matrix(&unwritten, 2, 13), 0.0),
        &["cublasGemmEx", "matrix A", "256-byte"],
    );
    fails(product(Matrix { address: w.address + 2, ..w }, x, out, 0.0), &["multiple of 4"]);

    device.set_sanitizer(true);
    let address = unwritten.as_device_ptr().as_raw();
    assert!(device.check_initialised(address, 4).is_err());
    fails(product(matrix(&unwritten, 3, 5), x, out, 0.0), &["matrix A", "Uninitialised"]);
    fails(product(w, matrix(&unwritten, 2, 5), out, 0.0), &["matrix B", "Uninitialised"]);
    fails(product(w, x, out, 1.0), &["matrix C", "Uninitialised"]);
    // With beta 0 the output is not read. Afterwards its six values are written, and no more.
    product(w, x, out, 0.0).unwrap();
    device.check_initialised(address, 6 * 4).unwrap();
    assert!(device.check_initialised(address, 7 * 4).is_err());
    device.set_sanitizer(false);
    assert_eq!(unwritten.as_host_vec().unwrap()[..6], [5.0; 6]);

    // SAFETY: a bad workspace and a bad stream are refused.
    unsafe {
        fails(handle.set_workspace(address + 4, 64), &["cublasSetWorkspace_v2", "multiple of 256"]);
        fails(handle.set_workspace(address, 1 << 20), &["cublasSetWorkspace_v2", "256-byte allocation"]);
        handle.set_workspace(address, 256).unwrap();
        fails(handle.set_stream(pointer(0xdead0)), &["cublasSetStream_v2", "live stream"]);
    }
    // A handle lives in its context.
    drop(turn.context);
    fails(product(w, x, out, 0.0), &["NOT_INITIALIZED", "context is not current"]);
}

#[test]
fn a_process_keeps_its_device() {
    let _turn = turn();
    assert_eq!(driver::select(DeviceChoice::Auto), Ok(driver::Backend::Soft));
    let error = driver::select(DeviceChoice::Cuda).unwrap_err();
    assert!(matches!(error, SelectError::AlreadySelected { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "device cuda: this process already runs on soft; a process has one device, chosen once"
    );
}
