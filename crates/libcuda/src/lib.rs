//! softcuda as `libcuda.so.1`.
//!
//! The functions are those of `crates/driver`, which this library exports with softcuda chosen when it is loaded. What is
//! here: `cuGetProcAddress`, by which programs find the functions; the names that softcuda has no function for; and the words
//! behind a failure, which a program that only sees a `CUresult` would not show.
//!
//! `SOFTCUDA_LOG` says which failures are written to standard error: `errors` (those that a program cannot have meant to
//! provoke: faults of kernels, images and functions that softcuda does not have; the default), `all`, or `off`.
#![allow(non_snake_case, reason = "the names are cuda.h's")]

mod absent;

use std::env;
use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::sync::OnceLock;

use driver::DeviceChoice;
use driver::sys::{self, *};

/// Runs when the library is loaded: what a program calls first differs.
#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

extern "C" fn start() {
    driver::observe(observe);
    if let Err(error) = driver::select(DeviceChoice::Soft) {
        say(&error.to_string());
    }
}

#[allow(clippy::print_stderr, reason = "the program knows of a failure only its number")]
fn say(text: &str) {
    eprintln!("softcuda: {text}");
}

/// Which failures are told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Log {
    Off,
    Errors,
    All,
}

fn log() -> Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    *LOG.get_or_init(|| match env::var("SOFTCUDA_LOG").as_deref() {
        Ok("off") => Log::Off,
        Ok("all") => Log::All,
        Ok("errors") | Err(_) => Log::Errors,
        Ok(other) => {
            say(&format!("SOFTCUDA_LOG is {other:?}; expected off, errors or all"));
            Log::Errors
        }
    })
}

fn observe(result: CUresult, text: &str) {
    // What a program may well ask in order to find out.
    let is_answer = matches!(
        result,
        CUDA_ERROR_INVALID_VALUE
            | CUDA_ERROR_NOT_INITIALIZED
            | CUDA_ERROR_INVALID_DEVICE
            | CUDA_ERROR_INVALID_CONTEXT
            | CUDA_ERROR_NOT_FOUND
            | CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED
            | CUDA_ERROR_PEER_ACCESS_NOT_ENABLED
            | CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED
            | CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED
    );
    match log() {
        Log::Off => {}
        Log::Errors if is_answer => {}
        Log::Errors | Log::All => say(text),
    }
}

/// Finds a function by its name without a version's suffix, for a program written for a CUDA release (1000 * major +
/// 10 * minor). Flag 2 asks for the variant in which a null stream is the thread's own default stream.
///
/// # Safety
/// - `symbol` is null or a C string; `function` and `status` are null or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress_v2(
    symbol: *const c_char,
    function: *mut *mut c_void,
    release: c_int,
    flags: c_ulonglong,
    status: *mut c_uint,
) -> CUresult {
    const PER_THREAD: c_ulonglong = 2;
    if symbol.is_null() || function.is_null() || flags > PER_THREAD || release < 0 {
        return CUDA_ERROR_INVALID_VALUE;
    }
    // SAFETY: not null; the caller promises a C string.
    let name = unsafe { CStr::from_ptr(symbol) }.to_string_lossy();
    let found = match own(&name, release) {
        Some(own) => Found::Function(own),
        None => sys::find(&name, release as u32, flags == PER_THREAD, absent::find),
    };
    let (address, query, result) = match found {
        Found::Function(address) => (address.cast_mut(), 0, CUDA_SUCCESS),
        Found::Unknown => (std::ptr::null_mut(), 1, CUDA_ERROR_NOT_FOUND),
        Found::TooOld => (std::ptr::null_mut(), 2, CUDA_ERROR_NOT_FOUND),
    };
    // SAFETY: not null, and the caller promises the rest.
    unsafe {
        function.write_unaligned(address);
        if !status.is_null() {
            status.write_unaligned(query);
            // Who asks for the status is answered there.
            return CUDA_SUCCESS;
        }
    }
    result
}

/// `cuGetProcAddress` before CUDA 12: without a status.
///
/// # Safety
/// - As for [`cuGetProcAddress_v2`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress(
    symbol: *const c_char,
    function: *mut *mut c_void,
    release: c_int,
    flags: c_ulonglong,
) -> CUresult {
    // SAFETY: the caller's promise.
    unsafe { cuGetProcAddress_v2(symbol, function, release, flags, std::ptr::null_mut()) }
}

/// `cuGetProcAddress` as a program compiled for the thread's own default stream calls it: without flags that say so.
///
/// # Safety
/// - As for [`cuGetProcAddress_v2`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress_v2_ptsz(
    symbol: *const c_char,
    function: *mut *mut c_void,
    release: c_int,
    flags: c_ulonglong,
    status: *mut c_uint,
) -> CUresult {
    let flags = if flags == 0 { 2 } else { flags };
    // SAFETY: the caller's promise.
    unsafe { cuGetProcAddress_v2(symbol, function, release, flags, status) }
}

/// Tables of functions that NVIDIA documents nowhere, for its own libraries. Most do without; its CUDA runtime does not.
///
/// # Safety
/// - `table` is null or valid for a write, `id` null or valid for a read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetExportTable(table: *mut *const c_void, id: *const CUuuid) -> CUresult {
    /// What the runtime asks for, and gives up without.
    const RUNTIME: [u8; 16] =
        [0x6b, 0xd5, 0xfb, 0x6c, 0x5b, 0xf4, 0xe7, 0x4a, 0x89, 0x87, 0xd9, 0x39, 0x12, 0xfd, 0x9d, 0xf9];
    if table.is_null() || id.is_null() {
        return CUDA_ERROR_INVALID_VALUE;
    }
    // SAFETY: not null, and the caller promises the rest.
    let id = unsafe {
        table.write_unaligned(std::ptr::null());
        id.read_unaligned()
    };
    match id.bytes {
        RUNTIME => unsupported(
            "cuGetExportTable",
            "the program has NVIDIA's CUDA runtime (libcudart) in it, which reaches the driver through functions that are \
             documented nowhere; softcuda runs programs that use the driver API",
        ),
        _ => CUDA_ERROR_NOT_FOUND,
    }
}

/// The functions of this crate.
fn own(name: &str, release: c_int) -> Option<*const c_void> {
    Some(match name {
        "cuGetProcAddress" if release >= 12_000 => cuGetProcAddress_v2 as *const c_void,
        "cuGetProcAddress" => cuGetProcAddress as *const c_void,
        "cuGetProcAddress_v2" => cuGetProcAddress_v2 as *const c_void,
        "cuGetExportTable" => cuGetExportTable as *const c_void,
        _ => return None,
    })
}
