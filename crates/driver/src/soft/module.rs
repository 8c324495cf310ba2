//! Modules and kernels.
//!
//! The image of a module is PTX text. A binary image (cubin, fatbin) holds machine code for a GPU, which softcuda cannot
//! run: `CUDA_ERROR_NO_BINARY_FOR_GPU`. PTX that softcuda cannot read is `CUDA_ERROR_INVALID_PTX`; the line and the
//! reason go to `last_error` and to the caller's log buffer, where the options give one.

use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use softcuda::{Kernel, LoadedModule};

use super::owner::{self, Owner};
use super::registry::Registry;
use super::{Failure, Outcome, device, give, initialised_device, properties};
use crate::sys::*;

struct Module {
    owner: Owner,
    loaded: LoadedModule,
    /// The handles given for kernels, by name: the same name gets the same handle.
    functions: Mutex<BTreeMap<String, usize>>,
}

/// A kernel of a live module.
pub(crate) struct Function {
    module: usize,
    pub kernel: Kernel,
    /// How much dynamic shared memory (bytes) a launch may ask for.
    pub max_dynamic_shared: AtomicU32,
}

static MODULES: Registry<Module> = Registry::new("module");
static FUNCTIONS: Registry<Function> = Registry::new("function");

/// Unloads the modules of a context.
pub(crate) fn release(owner: Owner) {
    MODULES.retain(|module| {
        let keep = module.owner != owner;
        if !keep {
            if let Some(device) = device() {
                // The variables are live, and a context that ends has nobody to report to.
                let _ = device.unload(&module.loaded);
            }
            for handle in module.functions.lock().unwrap_or_else(PoisonError::into_inner).values() {
                // The map holds live handles only.
                let _ = FUNCTIONS.remove(ptr::without_provenance_mut(*handle));
            }
        }
        keep
    });
}

/// The kernel behind a handle, with a context current.
pub(crate) fn function(handle: CUfunction) -> Result<Arc<Function>, Failure> {
    owner::current()?;
    FUNCTIONS.get(handle)
}

/// The caller's C string.
///
/// # Safety
/// - `text` is null or ends in a NUL byte, and nothing writes it meanwhile.
unsafe fn c_string<'a>(text: *const c_char, what: &str) -> Result<&'a CStr, Failure> {
    match text.is_null() {
        true => Err(Failure::invalid_value(format!("the {what} is a null pointer"))),
        // SAFETY: not null; the caller promises the rest.
        false => Ok(unsafe { CStr::from_ptr(text) }),
    }
}

/// The PTX text of an image.
///
/// # Safety
/// - `image` is null, the start of a binary image, or a C string.
unsafe fn ptx_text<'a>(image: *const c_void) -> Result<&'a str, Failure> {
    const ELF: [u8; 4] = [0x7f, b'E', b'L', b'F'];
    const FATBIN: [u8; 4] = [0x50, 0xed, 0x55, 0xba];
    // SAFETY: the caller promises a C string where the image is not binary.
    let text = unsafe { c_string(image.cast(), "module image") }?;
    // No byte of either magic number is NUL, so the C string, wherever it ends, holds all four.
    if text.to_bytes().starts_with(&ELF) || text.to_bytes().starts_with(&FATBIN) {
        return Err(Failure::new(
            CUDA_ERROR_NO_BINARY_FOR_GPU,
            "the module image is machine code for a GPU; softcuda runs PTX text",
        ));
    }
    text.to_str().map_err(|_| Failure::new(CUDA_ERROR_INVALID_IMAGE, "the module image is neither PTX text nor binary"))
}

fn load(module: *mut CUmodule, ptx: &str) -> Result<(), Failure> {
    let owner = owner::current()?;
    let device = initialised_device()?;
    if module.is_null() {
        return Err(Failure::invalid_value("the pointer for the module's handle is null"));
    }
    let parsed =
        softcuda::Module::from_ptx(ptx).map_err(|error| Failure::new(CUDA_ERROR_INVALID_PTX, error.to_string()))?;
    let loaded = device.load(&parsed)?;
    let handle = MODULES.insert(Module { owner, loaded, functions: Mutex::new(BTreeMap::new()) });
    // SAFETY: the caller's pointer for the handle.
    unsafe { give(module, handle) }
}

pub(crate) unsafe fn load_file(module: *mut CUmodule, file: *const c_char) -> Outcome {
    // SAFETY: the caller promises a C string.
    let file = Path::new(OsStr::from_bytes(unsafe { c_string(file, "file name") }?.to_bytes()));
    let mut image = fs::read(file)
        .map_err(|error| Failure::new(CUDA_ERROR_FILE_NOT_FOUND, format!("{}: {error}", file.display())))?;
    image.push(0);
    // SAFETY: the bytes end in a NUL.
    load(module, unsafe { ptx_text(image.as_ptr().cast()) }?)
}

pub(crate) unsafe fn load_data(module: *mut CUmodule, image: *const c_void) -> Outcome {
    // SAFETY: the caller promises an image.
    load(module, unsafe { ptx_text(image) }?)
}

/// The options say how to compile and where to log. Only the logs mean anything here.
pub(crate) unsafe fn load_data_with_options(
    module: *mut CUmodule,
    image: *const c_void,
    options: c_uint,
    names: *mut c_uint,
    values: *mut *mut c_void,
) -> Outcome {
    const INFO_LOG: c_uint = 3;
    const ERROR_LOG: c_uint = 5;

    // SAFETY: the caller promises an image.
    let outcome = unsafe { load_data(module, image) };
    let error_text = outcome.as_ref().err().map_or("", |failure| failure.text.as_str());
    if options > 0 && (names.is_null() || values.is_null()) {
        return Err(Failure::invalid_value(format!("{options} options, in null arrays")));
    }
    // SAFETY: the caller promises `options` elements in both arrays, and the buffers that they describe.
    unsafe {
        write_log(options as usize, names, values, INFO_LOG, "");
        write_log(options as usize, names, values, ERROR_LOG, error_text);
    }
    outcome
}

/// Writes a log to the buffer that option `buffer` gives, whose capacity is the value of option `buffer + 1`, and puts
/// the written length, NUL included, in the capacity's place.
///
/// # Safety
/// - `names` and `values` hold `options` elements each; a buffer that they give has the capacity that they say.
unsafe fn write_log(options: usize, names: *mut c_uint, values: *mut *mut c_void, buffer: c_uint, text: &str) {
    let find = |wanted: c_uint| {
        // SAFETY: the caller promises `options` names.
        (0..options).find(|&option| unsafe { *names.add(option) } == wanted)
    };
    let (Some(buffer), Some(capacity)) = (find(buffer), find(buffer + 1)) else {
        return;
    };
    // SAFETY: both positions are within the arrays. A size stands in the pointer's place.
    unsafe {
        let to: *mut u8 = (*values.add(buffer)).cast();
        let room = (*values.add(capacity)).addr();
        if to.is_null() || room == 0 {
            return;
        }
        let length = text.len().min(room - 1);
        ptr::copy_nonoverlapping(text.as_ptr(), to, length);
        to.add(length).write(0);
        *values.add(capacity) = ptr::without_provenance_mut(length + 1);
    }
}

pub(crate) fn unload(module: CUmodule) -> Outcome {
    owner::current()?;
    let unloaded = MODULES.remove(module)?;
    FUNCTIONS.retain(|function| function.module != module.addr());
    initialised_device()?.unload(&unloaded.loaded)?;
    Ok(())
}

pub(crate) unsafe fn get_function(function: *mut CUfunction, module: CUmodule, name: *const c_char) -> Outcome {
    owner::current()?;
    let loaded = MODULES.get(module)?;
    // SAFETY: the caller promises a C string.
    let name = unsafe { c_string(name, "function name") }?.to_string_lossy();
    let mut functions = loaded.functions.lock().unwrap_or_else(PoisonError::into_inner);
    let handle = match functions.get(name.as_ref()) {
        Some(handle) => *handle,
        None => {
            let kernel = loaded
                .loaded
                .kernel(&name)
                .ok_or_else(|| Failure::new(CUDA_ERROR_NOT_FOUND, format!("the module has no kernel named {name}")))?;
            let default_limit = properties::SHARED_PER_BLOCK.saturating_sub(kernel.static_shared_bytes());
            let handle = FUNCTIONS.insert(Function {
                module: module.addr(),
                kernel,
                max_dynamic_shared: AtomicU32::new(default_limit),
            });
            functions.insert(name.into_owned(), handle.addr());
            handle.addr()
        }
    };
    // SAFETY: the caller's pointer for the handle.
    unsafe { give(function, ptr::without_provenance_mut(handle)) }
}

/// The address and size of a module's variable. Either pointer may be null.
pub(crate) unsafe fn get_global(
    address: *mut CUdeviceptr,
    bytes: *mut usize,
    module: CUmodule,
    name: *const c_char,
) -> Outcome {
    owner::current()?;
    let module = MODULES.get(module)?;
    // SAFETY: the caller promises a C string.
    let name = unsafe { c_string(name, "variable name") }?.to_string_lossy();
    let (start, length) = module
        .loaded
        .global(&name)
        .ok_or_else(|| Failure::new(CUDA_ERROR_NOT_FOUND, format!("the module has no variable named {name}")))?;
    if !address.is_null() {
        // SAFETY: the caller's pointer for the address.
        unsafe { give(address, start) }?;
    }
    if !bytes.is_null() {
        // SAFETY: the caller's pointer for the size.
        unsafe { give(bytes, length) }?;
    }
    Ok(())
}

const MAX_THREADS_PER_BLOCK: c_uint = 0;
const SHARED_SIZE_BYTES: c_uint = 1;
const CONST_SIZE_BYTES: c_uint = 2;
const LOCAL_SIZE_BYTES: c_uint = 3;
const NUM_REGS: c_uint = 4;
const PTX_VERSION: c_uint = 5;
const BINARY_VERSION: c_uint = 6;
const CACHE_MODE_CA: c_uint = 7;
const MAX_DYNAMIC_SHARED_SIZE_BYTES: c_uint = 8;
const PREFERRED_SHARED_MEMORY_CARVEOUT: c_uint = 9;

pub(crate) unsafe fn function_attribute(value: *mut c_int, attribute: c_uint, handle: CUfunction) -> Outcome {
    let function = function(handle)?;
    let kernel = &function.kernel;
    let answer = match attribute {
        MAX_THREADS_PER_BLOCK => kernel.max_threads(),
        SHARED_SIZE_BYTES => kernel.static_shared_bytes(),
        CONST_SIZE_BYTES | CACHE_MODE_CA => 0,
        MAX_DYNAMIC_SHARED_SIZE_BYTES => function.max_dynamic_shared.load(Ordering::Relaxed),
        PTX_VERSION | BINARY_VERSION => {
            let (major, minor) = initialised_device()?.config().compute_capability;
            10 * major + minor
        }
        LOCAL_SIZE_BYTES => kernel.local_bytes(),
        NUM_REGS | PREFERRED_SHARED_MEMORY_CARVEOUT => {
            return Err(Failure::new(
                CUDA_ERROR_NOT_SUPPORTED,
                format!("function attribute {attribute} is a matter of machine code, which softcuda has none of"),
            ));
        }
        _ => {
            return Err(Failure::invalid_value(format!("function attribute {attribute} is not known")));
        }
    };
    // SAFETY: the caller's pointer for the value.
    unsafe { give(value, answer as c_int) }
}

pub(crate) fn set_function_attribute(handle: CUfunction, attribute: c_uint, value: c_int) -> Outcome {
    let function = function(handle)?;
    match attribute {
        MAX_DYNAMIC_SHARED_SIZE_BYTES => {
            let most = properties::SHARED_PER_BLOCK_OPT_IN.saturating_sub(function.kernel.static_shared_bytes());
            match u32::try_from(value) {
                Ok(bytes) if bytes <= most => {
                    function.max_dynamic_shared.store(bytes, Ordering::Relaxed);
                    Ok(())
                }
                _ => Err(Failure::invalid_value(format!(
                    "{value} bytes of dynamic shared memory for kernel {}; expected 0 to {most}",
                    function.kernel.name()
                ))),
            }
        }
        // A preference, which softcuda does not need.
        PREFERRED_SHARED_MEMORY_CARVEOUT if (-1..=100).contains(&value) => Ok(()),
        _ => Err(Failure::invalid_value(format!("function attribute {attribute} cannot be set to {value}"))),
    }
}

pub(crate) fn function_cache_config(handle: CUfunction, config: c_uint) -> Outcome {
    function(handle)?;
    properties::check_cache_config(config)
}

pub(crate) fn function_shared_memory_config(handle: CUfunction, config: c_uint) -> Outcome {
    function(handle)?;
    properties::check_shared_memory_config(config)
}
