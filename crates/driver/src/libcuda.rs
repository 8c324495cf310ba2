//! The NVIDIA driver: where its library is looked for, and what is added to it.
//!
//! The search opens each place in turn and takes the first library whose `cuInit` succeeds and that counts a device. It
//! runs once per process. An opened library stays open: threads of the driver may be running in it.
//!
//! Two things are added to the driver's own behaviour. A result code that cust's enum does not hold becomes
//! `CUDA_ERROR_UNKNOWN` (its own name stays in `last_error`). And `cuModuleLoadDataEx` is given buffers for the
//! compiler's log, so that PTX that does not compile fails with the compiler's words.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::ManuallyDrop;
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::error::{self, Attempt};
use crate::sys::{CUDA_ERROR_NOT_READY, CUDA_SUCCESS, CUmodule, CUresult, Table};

/// Where `libcuda.so.1` is looked for: on the loader's path, then where distributions, containers, WSL and NixOS keep
/// it without always telling the loader.
const PLACES: &[&str] = &[
    "libcuda.so.1",
    "/usr/lib/x86_64-linux-gnu/libcuda.so.1",
    "/usr/lib/aarch64-linux-gnu/libcuda.so.1",
    "/usr/lib64/libcuda.so.1",
    "/usr/local/nvidia/lib64/libcuda.so.1",
    "/usr/lib/wsl/lib/libcuda.so.1",
    "/run/opengl-driver/lib/libcuda.so.1",
];

/// What the search found.
pub(crate) struct Search {
    pub attempts: Vec<Attempt>,
    pub usable: Option<Libcuda>,
}

/// An NVIDIA driver that is initialised and has at least one device.
pub(crate) struct Libcuda {
    pub table: Table,
    /// As `cuDriverGetVersion` gives it: 1000 * major + 10 * minor.
    pub version: c_int,
    pub devices: c_int,
}

/// The search's result; the first call searches.
pub(crate) fn search() -> &'static Search {
    static SEARCH: OnceLock<Search> = OnceLock::new();
    SEARCH.get_or_init(|| {
        let mut attempts = Vec::new();
        for place in PLACES {
            let opened = open(place);
            attempts.push(Attempt {
                place: match place.contains('/') {
                    true => (*place).to_owned(),
                    false => format!("{place} on the loader's path"),
                },
                usable: opened.is_ok(),
                said: match &opened {
                    Ok(library) => format!(
                        "CUDA {}.{}, {} device(s)",
                        library.version / 1000,
                        library.version % 1000 / 10,
                        library.devices
                    ),
                    Err(said) => said.clone(),
                },
            });
            if let Ok(library) = opened {
                return Search { attempts, usable: Some(library) };
            }
        }
        Search { attempts, usable: None }
    })
}

/// Opens and initialises the driver at a place; an error is what it said.
fn open(place: &str) -> Result<Libcuda, String> {
    if place.contains('/') && !Path::new(place).exists() {
        return Err("no such file".to_owned());
    }
    // SAFETY: running the initialisers of the system's libcuda.so.1 is what every CUDA program does.
    let library = unsafe { Library::open(Some(place), RTLD_NOW | RTLD_LOCAL) }.map_err(loader_message)?;
    let library = ManuallyDrop::new(library);
    // SAFETY: a library of this name is NVIDIA's driver; `ManuallyDrop` keeps it open.
    let mut table = unsafe { Table::from_library(&library) };

    let absent = |name: &str| format!("the library has no {name}");
    let init = table.cuInit.ok_or_else(|| absent("cuInit"))?;
    let get_version = table.cuDriverGetVersion.ok_or_else(|| absent("cuDriverGetVersion"))?;
    let get_count = table.cuDeviceGetCount.ok_or_else(|| absent("cuDeviceGetCount"))?;
    let (mut version, mut devices) = (0, 0);
    // SAFETY: no flags are defined for cuInit; the pointers are to live integers.
    unsafe {
        check("cuInit", init(0))?;
        check("cuDriverGetVersion", get_version(&mut version))?;
        check("cuDeviceGetCount", get_count(&mut devices))?;
    }
    if devices < 1 {
        return Err("cuDeviceGetCount counts no device".to_owned());
    }
    if let Some(load) = table.cuModuleLoadDataEx {
        LOAD_DATA.get_or_init(|| load);
        table.cuModuleLoadDataEx = Some(load_data_with_log);
    }
    Ok(Libcuda { table, version, devices })
}

fn check(name: &str, result: CUresult) -> Result<(), String> {
    if result == CUDA_SUCCESS { Ok(()) } else { Err(format!("{name} said {result}")) }
}

/// What the loader said: the error's source holds its words where there is one.
pub(crate) fn loader_message(error: libloading::Error) -> String {
    match std::error::Error::source(&error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}

/// Keeps the text behind a failure of libcuda, and gives the code that cust may see.
pub(crate) fn finish(name: &str, result: CUresult) -> CUresult {
    if result == CUDA_SUCCESS || result == CUDA_ERROR_NOT_READY {
        return result;
    }
    let described = match result.texts() {
        Some(_) => result.to_string(),
        None => describe_by_library(result).unwrap_or_else(|| result.to_string()),
    };
    error::record(match COMPILER_LOG.take() {
        Some(log) => format!("{name}: {described}: {log}"),
        None => format!("{name}: {described}"),
    });
    result.known()
}

/// A code that only a newer driver knows, in that driver's words.
fn describe_by_library(result: CUresult) -> Option<String> {
    let table = &search().usable.as_ref()?.table;
    let text = |get: unsafe extern "C" fn(CUresult, *mut *const c_char) -> CUresult| {
        let mut text = ptr::null();
        // SAFETY: `text` is a live pointer; the driver sets it to a constant C string, or to null for an unknown code.
        unsafe {
            match get(result, &mut text) == CUDA_SUCCESS && !text.is_null() {
                true => Some(CStr::from_ptr(text).to_string_lossy().into_owned()),
                false => None,
            }
        }
    };
    let name = text(table.cuGetErrorName?)?;
    let description = text(table.cuGetErrorString?)?;
    Some(format!("{name} ({}): {description}", result.0))
}

type LoadDataEx = unsafe extern "C" fn(*mut CUmodule, *const c_void, c_uint, *mut c_uint, *mut *mut c_void) -> CUresult;

/// The driver's own `cuModuleLoadDataEx`.
static LOAD_DATA: OnceLock<LoadDataEx> = OnceLock::new();

thread_local! {
    /// What the PTX compiler wrote for the load that just failed.
    static COMPILER_LOG: RefCell<Option<String>> = const { RefCell::new(None) };
}

const CU_JIT_ERROR_LOG_BUFFER: c_uint = 5;
const CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES: c_uint = 6;

/// `cuModuleLoadDataEx` with a buffer for the compiler's errors, unless the caller brings its own.
///
/// # Safety
/// - As for `cuModuleLoadDataEx`: `names` and `values` hold `options` elements each.
unsafe extern "C" fn load_data_with_log(
    module: *mut CUmodule,
    image: *const c_void,
    options: c_uint,
    names: *mut c_uint,
    values: *mut *mut c_void,
) -> CUresult {
    let Some(load) = LOAD_DATA.get() else {
        return crate::sys::CUDA_ERROR_NOT_SUPPORTED;
    };
    let given = options as usize;
    let (mut own_names, mut own_values) = (Vec::with_capacity(given + 2), Vec::with_capacity(given + 2));
    for option in 0..given {
        // SAFETY: the caller promises `options` elements in both.
        let (name, value) = unsafe { (*names.add(option), *values.add(option)) };
        if name == CU_JIT_ERROR_LOG_BUFFER {
            // SAFETY: the caller's own arguments.
            return unsafe { load(module, image, options, names, values) };
        }
        own_names.push(name);
        own_values.push(value);
    }
    let mut log = vec![0u8; 16 << 10];
    own_names.extend([CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES]);
    // A value that fits a pointer stands in its place rather than behind it.
    own_values.extend([log.as_mut_ptr().cast(), ptr::without_provenance_mut(log.len())]);
    // SAFETY: the caller's arguments, and two options whose buffer lives until the call is over.
    let result = unsafe { load(module, image, options + 2, own_names.as_mut_ptr(), own_values.as_mut_ptr()) };
    if result != CUDA_SUCCESS {
        let text = CStr::from_bytes_until_nul(&log).map(|text| text.to_string_lossy().trim().to_owned());
        COMPILER_LOG.set(text.ok().filter(|text| !text.is_empty()));
    }
    result
}
