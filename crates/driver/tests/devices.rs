//! Several software devices: memory, kernels, peer access and copies of each, and the words for what one may not touch.
//!
//! The number of devices is read once per process: each test runs again in a process of its own that has two.
#![allow(clippy::undocumented_unsafe_blocks, reason = "the same for all: softcuda looks up every handle and address")]

use std::env;
use std::ffi::{c_int, c_uint, c_void};
use std::process::Command;
use std::ptr;

use driver::DeviceChoice;
use driver::soft;
use driver::sys::*;

const PTX: &std::ffi::CStr =
    match std::ffi::CStr::from_bytes_with_nul(concat!(include_str!("common/kernels.ptx"), "\0").as_bytes()) {
        Ok(text) => text,
        Err(_) => panic!("the PTX holds a NUL"),
    };
const N: usize = 64;

/// Whether this process has two devices; where it has not, the test has run in one that has, and passed.
fn has_two_devices(test: &str) -> bool {
    if env::var("SOFTCUDA_DEVICES").as_deref() == Ok("2") {
        driver::select(DeviceChoice::Soft).unwrap();
        ok(unsafe { cuInit(0) });
        return true;
    }
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("SOFTCUDA_DEVICES", "2")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}\n{errors}");
    false
}

#[track_caller]
fn ok(result: CUresult) {
    assert_eq!(result, CUDA_SUCCESS, "{:?}", driver::last_error());
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

/// A device's primary context with a kernel and a buffer of `N` numbers in it.
struct OnDevice {
    context: CUcontext,
    write_at: CUfunction,
    buffer: CUdeviceptr,
}

fn on_device(device: CUdevice) -> OnDevice {
    let (mut context, mut module, mut write_at, mut buffer) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), 0);
    unsafe {
        ok(cuDevicePrimaryCtxRetain(&mut context, device));
        ok(cuCtxSetCurrent(context));
        ok(cuModuleLoadData(&mut module, PTX.as_ptr().cast()));
        ok(cuModuleGetFunction(&mut write_at, module, c"write_at".as_ptr()));
        ok(cuMemAlloc_v2(&mut buffer, 4 * N));
        ok(cuMemsetD32_v2(buffer, device as u32 + 10, N));
    }
    OnDevice { context, write_at, buffer }
}

/// Writes `value` at `index` of a buffer with a kernel of the current device. Thread 5 of block 1 does.
fn write_at(function: CUfunction, buffer: CUdeviceptr, index: u64, value: u32) -> CUresult {
    let (mut buffer, mut index, mut value) = (buffer, index, value);
    let mut parameters: [*mut c_void; 3] = [(&raw mut buffer).cast(), (&raw mut index).cast(), (&raw mut value).cast()];
    unsafe { cuLaunchKernel(function, 2, 1, 1, 32, 1, 1, 0, ptr::null_mut(), parameters.as_mut_ptr(), ptr::null_mut()) }
}

fn values(buffer: CUdeviceptr) -> [u32; N] {
    let mut values = [0u32; N];
    ok(unsafe { cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), buffer, 4 * N) });
    values
}

#[test]
fn each_device_has_its_own_memory_context_and_kernels() {
    if !has_two_devices("each_device_has_its_own_memory_context_and_kernels") {
        return;
    }
    let mut count = 0;
    ok(unsafe { cuDeviceGetCount(&mut count) });
    assert_eq!((count, soft::devices().len()), (2, 2));
    let mut none = 0;
    refused(unsafe { cuDeviceGet(&mut none, 2) }, CUDA_ERROR_INVALID_DEVICE, &["device 2", "0 to 1"]);

    let (first, second) = (on_device(0), on_device(1));
    assert_ne!(first.context, second.context);
    let mut device = -1;
    ok(unsafe { cuCtxGetDevice(&mut device) });
    assert_eq!(device, 1, "the context made last is current");

    // Memory is taken from the context's device; an address says whose it is.
    let used = |device: usize| {
        let (free, total) = soft::devices()[device].memory_info();
        total - free
    };
    let before = [used(0), used(1)];
    let mut more = 0;
    ok(unsafe { cuMemAlloc_v2(&mut more, 1 << 20) });
    assert_eq!([used(0) - before[0], used(1) - before[1]], [0, 1 << 20]);
    for (address, expected) in [(first.buffer, 0), (second.buffer + 4, 1), (more, 1)] {
        let mut ordinal: c_int = -1;
        ok(unsafe { cuPointerGetAttribute((&raw mut ordinal).cast(), 9, address) });
        assert_eq!(ordinal, expected);
    }
    ok(unsafe { cuMemFree_v2(more) });

    // The kernels of each run on it, and no kernel runs on the other's streams.
    ok(write_at(second.write_at, second.buffer, 3, 7));
    refused(
        write_at(first.write_at, first.buffer, 3, 7),
        CUDA_ERROR_INVALID_HANDLE,
        &["write_at", "loaded on device 0", "device 1's"],
    );
    ok(unsafe { cuCtxSetCurrent(first.context) });
    ok(write_at(first.write_at, first.buffer, 4, 8));
    let mut expected = [[10u32; N], [11u32; N]];
    (expected[0][4], expected[1][3]) = (8, 7);
    assert_eq!([values(first.buffer), values(second.buffer)], expected);

    // A device's context ends without the other's.
    ok(unsafe { cuDevicePrimaryCtxRelease_v2(1) });
    assert_eq!(used(1), 0);
    assert_eq!(values(first.buffer), expected[0]);
}

#[test]
fn a_kernel_touches_a_peers_memory_only_with_access() {
    if !has_two_devices("a_kernel_touches_a_peers_memory_only_with_access") {
        return;
    }
    let (first, second) = (on_device(0), on_device(1));
    let mut answer = 0;
    unsafe {
        ok(cuDeviceCanAccessPeer(&mut answer, 0, 1));
        assert_eq!(answer, 1);
        ok(cuDeviceCanAccessPeer(&mut answer, 1, 1));
        assert_eq!(answer, 0);
        ok(cuCtxSetCurrent(first.context));
    }
    let denied = || {
        refused(
            write_at(first.write_at, second.buffer, 9, 1),
            CUDA_ERROR_ILLEGAL_ADDRESS,
            &["NoPeerAccess", "memory of device 1", "device 0 has no peer access", "cuCtxEnablePeerAccess", "write_at"],
        );
        assert_eq!(soft::last_fault().unwrap().kind(), softcuda::FaultKind::NoPeerAccess);
        assert_eq!(values(second.buffer), [11; N], "nothing was written");
    };
    denied();

    unsafe {
        refused(cuCtxDisablePeerAccess(second.context), CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, &["device 0", "device 1"]);
        refused(cuCtxEnablePeerAccess(first.context, 0), CUDA_ERROR_INVALID_CONTEXT, &["no peer of itself"]);
        refused(cuCtxEnablePeerAccess(second.context, 1), CUDA_ERROR_INVALID_VALUE, &["flags"]);
        ok(cuCtxEnablePeerAccess(second.context, 0));
        refused(cuCtxEnablePeerAccess(second.context, 0), CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, &["device 0"]);
    }
    ok(write_at(first.write_at, second.buffer, 9, 77));
    assert_eq!(values(second.buffer)[9], 77);

    // A fault in the peer's memory is told as one in the device's own.
    refused(
        write_at(first.write_at, second.buffer, N as u64, 1),
        CUDA_ERROR_ILLEGAL_ADDRESS,
        &["OutOfBounds", "256-byte allocation"],
    );
    let mut freed = 0;
    unsafe {
        ok(cuCtxSetCurrent(second.context));
        ok(cuMemAlloc_v2(&mut freed, 256));
        ok(cuMemFree_v2(freed));
        ok(cuCtxSetCurrent(first.context));
    }
    refused(write_at(first.write_at, freed, 0, 1), CUDA_ERROR_ILLEGAL_ADDRESS, &["UseAfterFree"]);

    // Access goes one way, and ends.
    ok(unsafe { cuCtxSetCurrent(second.context) });
    refused(write_at(second.write_at, first.buffer, 0, 1), CUDA_ERROR_ILLEGAL_ADDRESS, &["memory of device 0"]);
    unsafe {
        ok(cuCtxSetCurrent(first.context));
        ok(cuCtxDisablePeerAccess(second.context));
        ok(cuMemsetD32_v2(second.buffer, 11, N));
    }
    denied();
}

#[test]
fn copies_between_devices_need_no_access() {
    if !has_two_devices("copies_between_devices_need_no_access") {
        return;
    }
    let (first, second) = (on_device(0), on_device(1));
    let pattern: [u32; N] = std::array::from_fn(|index| index as u32 * 3 + 1);
    let set = |buffer: CUdeviceptr, values: &[u32]| {
        ok(unsafe { cuMemcpyHtoD_v2(buffer, values.as_ptr().cast(), size_of_val(values)) });
    };
    let mut stream = ptr::null_mut();
    ok(unsafe { cuStreamCreate(&mut stream, 1) });
    let bytes = 4 * N;
    for call in 0..6 {
        set(first.buffer, &pattern);
        set(second.buffer, &[0; N]);
        let (to, from) = (second.buffer, first.buffer);
        ok(unsafe {
            match call {
                0 => cuMemcpyPeer(to, second.context, from, first.context, bytes),
                1 => cuMemcpyPeerAsync(to, second.context, from, first.context, bytes, stream),
                2 => cuMemcpyDtoD_v2(to, from, bytes),
                3 => cuMemcpyDtoDAsync_v2(to, from, bytes, stream),
                4 => cuMemcpy(to, from, bytes),
                _ => cuMemcpyAsync(to, from, bytes, stream),
            }
        });
        ok(unsafe { cuStreamSynchronize(stream) });
        assert_eq!(values(second.buffer), pattern, "call {call}");
    }
    refused(
        unsafe { cuMemcpyPeer(second.buffer, first.context, first.buffer, first.context, bytes) },
        CUDA_ERROR_INVALID_VALUE,
        &["of device 1", "of device 0"],
    );
    refused(
        unsafe { cuMemcpyPeer(second.buffer, second.context, first.buffer, first.context, bytes + 1) },
        CUDA_ERROR_INVALID_VALUE,
        &["1 bytes past the end"],
    );

    // A box of rows, from one device to the other.
    let side = |device: CUdeviceptr, context: CUcontext| CUDA_MEMCPY3D_SIDE {
        xInBytes: 4,
        y: 1,
        z: 0,
        lod: 0,
        memoryType: 2,
        host: ptr::null(),
        device,
        array: ptr::null_mut(),
        context,
        pitch: 16,
        height: 4,
    };
    let copy = CUDA_MEMCPY3D {
        src: side(first.buffer, first.context),
        dst: side(second.buffer, second.context),
        WidthInBytes: 8,
        Height: 2,
        Depth: 3,
    };
    set(second.buffer, &[0; N]);
    ok(unsafe { cuMemcpy3DPeer(&copy) });
    let expected: [u32; N] = std::array::from_fn(|index| {
        let (x, y, z) = (index % 4, index / 4 % 4, index / 16);
        if (1..3).contains(&x) && (1..3).contains(&y) && z < 3 { pattern[index] } else { 0 }
    });
    assert_eq!(values(second.buffer), expected);

    // What nobody wrote stays so on the other device.
    let devices = soft::devices();
    devices.iter().for_each(|device| device.set_sanitizer(true));
    let mut unwritten = 0;
    unsafe {
        ok(cuCtxSetCurrent(first.context));
        ok(cuMemAlloc_v2(&mut unwritten, 4 * N));
        ok(cuMemcpyPeer(second.buffer, second.context, unwritten, first.context, 8));
        let mut out = [0u32; N];
        let read = cuMemcpyDtoH_v2(out.as_mut_ptr().cast(), second.buffer, bytes);
        refused(read, CUDA_ERROR_INVALID_VALUE, &["Uninitialised"]);
    }
}

#[test]
fn host_memory_is_every_devices_and_pools_are_one_devices() {
    if !has_two_devices("host_memory_is_every_devices_and_pools_are_one_devices") {
        return;
    }
    let (first, second) = (on_device(0), on_device(1));
    let (mut locked, mut managed) = (ptr::null_mut(), 0);
    unsafe {
        ok(cuMemHostAlloc(&mut locked, 4 * N, 0));
        ok(cuMemAllocManaged(&mut managed, 4 * N, 1));
        let mut own = [0u32; N];
        let range: *mut c_void = own.as_mut_ptr().cast();
        ok(cuMemHostRegister_v2(range, 4 * N, 0));
        refused(
            cuMemHostRegister_v2(range.byte_add(16), 4, 0),
            CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED,
            &["overlap"],
        );
        for (device, index) in [(&first, 1u64), (&second, 2)] {
            ok(cuCtxSetCurrent(device.context));
            for address in [locked.addr() as u64, managed, range.addr() as u64] {
                ok(write_at(device.write_at, address, index, 40 + index as u32));
                refused(
                    write_at(device.write_at, address, N as u64, 1),
                    CUDA_ERROR_ILLEGAL_ADDRESS,
                    &["past the end of the 256-byte allocation"],
                );
            }
        }
        for memory in [locked.cast::<u32>(), ptr::with_exposed_provenance_mut(managed as usize), own.as_mut_ptr()] {
            assert_eq!([memory.add(1).read_volatile(), memory.add(2).read_volatile()], [41, 42]);
        }
        let mut kind: c_uint = 0;
        ok(cuPointerGetAttribute((&raw mut kind).cast(), 2, locked.addr() as u64 + 8));
        assert_eq!(kind, 1, "of the host");
        ok(cuMemHostUnregister(range));
        refused(cuMemHostUnregister(range), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, &["no registered memory"]);
        refused(write_at(second.write_at, range.addr() as u64, 0, 1), CUDA_ERROR_ILLEGAL_ADDRESS, &["write_at"]);
        ok(cuMemFreeHost(locked));
        ok(cuMemFree_v2(managed));

        // A pool of the other device gives that device's memory.
        let (mut pool, mut address, mut used) = (ptr::null_mut(), 0, 0u64);
        ok(cuDeviceGetDefaultMemPool(&mut pool, 0));
        ok(cuMemAllocFromPoolAsync(&mut address, 1000, pool, ptr::null_mut()));
        assert!(soft::devices()[0].address_range(address).is_ok());
        ok(cuMemPoolGetAttribute(pool, 7, (&raw mut used).cast()));
        assert_eq!(used, 1000);
        ok(cuMemFreeAsync(address, ptr::null_mut()));
        ok(cuMemPoolGetAttribute(pool, 7, (&raw mut used).cast()));
        assert_eq!(used, 0);
    }
}

#[test]
fn a_wrong_number_of_devices_is_named() {
    for found in ["0", "9", "two", ""] {
        let output = Command::new(env::current_exe().unwrap())
            .args(["--exact", "selects", "--ignored", "--nocapture"])
            .env("SOFTCUDA_DEVICES", found)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let expected = format!("SOFTCUDA_DEVICES is {found:?}; expected a number from 1 to 8");
        assert!(text.contains(&expected), "{text}");
    }
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
#[allow(clippy::print_stdout, reason = "the other process reads it")]
fn selects() {
    let said = driver::select(DeviceChoice::Soft).map_or_else(|error| error.to_string(), |backend| backend.to_string());
    println!("{said}");
}
