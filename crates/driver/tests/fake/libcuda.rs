//! A driver library for tests, built as `libcuda.so.1`: it has a few of the entry points, "devices" in number
//! `FAKE_DEVICES`, and memory that is the host's. Its answers let a test see what passed through.
#![crate_type = "cdylib"]
#![allow(non_snake_case)]

use std::ffi::{c_char, c_int, c_uint, c_void};

fn number(variable: &str, default: u32) -> u32 {
    std::env::var(variable).map_or(default, |value| value.parse().unwrap())
}

#[unsafe(no_mangle)]
extern "C" fn cuInit(_flags: c_uint) -> u32 {
    number("FAKE_INIT", 0)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> u32 {
    unsafe { *version = 12_080 };
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> u32 {
    unsafe { *count = number("FAKE_DEVICES", 1) as c_int };
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> u32 {
    unsafe { *device = 40 + ordinal };
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, capacity: c_int, device: c_int) -> u32 {
    let text = format!("Fake GPU {device}\0");
    assert!(text.len() <= capacity as usize);
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr().cast(), name, text.len()) };
    0
}

/// Device 41 has fallen off the bus.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) -> u32 {
    if device == 41 {
        return 214;
    }
    unsafe { *bytes = 3 << 30 };
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, _device: c_int) -> u32 {
    unsafe {
        *value = match attribute {
            16 => 132,
            75 => 9,
            76 => 0,
            _ => return 1,
        }
    };
    0
}

/// The address is a made-up function of the size.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> u32 {
    unsafe { *address = 0xab00_0000 + bytes as u64 };
    0
}

/// A code that came after CUDA 11.4.
#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> u32 {
    912
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamQuery(_stream: *mut c_void) -> u32 {
    600
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorName(error: u32, text: *mut *const c_char) -> u32 {
    let name = if error == 912 { c"CUDA_ERROR_INVALID_CLUSTER_SIZE" } else { c"CUDA_ERROR_OTHER" };
    unsafe { *text = name.as_ptr() };
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorString(_error: u32, text: *mut *const c_char) -> u32 {
    unsafe { *text = c"the fake driver's words".as_ptr() };
    0
}

/// Fails, and logs the options that it was given.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadDataEx(
    _module: *mut *mut c_void,
    _image: *const c_void,
    options: c_uint,
    names: *mut c_uint,
    values: *mut *mut c_void,
) -> u32 {
    unsafe {
        let all: Vec<c_uint> = (0..options as usize).map(|option| *names.add(option)).collect();
        let buffer = all.iter().position(|name| *name == 5).unwrap();
        let capacity = all.iter().position(|name| *name == 6).unwrap();
        let text = format!("ptxas fatal: options {all:?}\n\0");
        assert!(text.len() <= (*values.add(capacity)) as usize);
        std::ptr::copy_nonoverlapping(text.as_ptr(), (*values.add(buffer)).cast(), text.len());
    }
    218
}
