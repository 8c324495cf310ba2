//! Modules and kernels.
//!
//! A module is made from the PTX in its image (`image`). PTX that softcuda cannot read is `CUDA_ERROR_INVALID_PTX`; the line and the
//! reason go to `last_error` and to the caller's log buffer, where the options give one.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use softcuda::{Device, Kernel, LoadedModule};

use super::image::{self, Image};
use super::owner::{self, Owner};
use super::registry::Registry;
use super::{Failure, Outcome, give, library, properties};
use crate::sys::*;

struct Module {
    owner: Owner,
    device: &'static Device,
    loaded: LoadedModule,
    /// The handles given for kernels, by name: the same name gets the same handle.
    functions: Mutex<BTreeMap<String, usize>>,
}

/// A kernel of a live module.
pub(crate) struct Function {
    module: usize,
    pub device: &'static Device,
    pub kernel: Kernel,
    /// How much dynamic shared memory (bytes) a launch may ask for.
    pub max_dynamic_shared: AtomicU32,
    /// Whether a launch may ask for clusters of more blocks than every GPU has.
    pub non_portable_clusters: AtomicBool,
}

static MODULES: Registry<Module> = Registry::new("module");
static FUNCTIONS: Registry<Function> = Registry::new("function");

/// Unloads the modules of a context.
pub(crate) fn release(owner: Owner) {
    MODULES.retain(|module| {
        let keep = module.owner != owner;
        if !keep {
            // The variables are live, and a context that ends has nobody to report to.
            let _ = module.device.unload(&module.loaded);
            for handle in module.functions.lock().unwrap_or_else(PoisonError::into_inner).values() {
                // The map holds live handles only.
                let _ = FUNCTIONS.remove(ptr::without_provenance_mut(*handle));
            }
        }
        keep
    });
}

/// The kernel behind a handle, with a context current: a `CUfunction`, or a `CUkernel` in that context.
pub(crate) fn function(handle: CUfunction) -> Result<Arc<Function>, Failure> {
    owner::current()?;
    match library::function_of(handle)? {
        Some(handle) => FUNCTIONS.get(handle),
        None => FUNCTIONS.get(handle),
    }
}

/// The caller's C string.
///
/// # Safety
/// - `text` is null or ends in a NUL byte, and nothing writes it meanwhile.
pub(super) unsafe fn c_string<'a>(text: *const c_char, what: &str) -> Result<&'a CStr, Failure> {
    match text.is_null() {
        true => Err(Failure::invalid_value(format!("the {what} is a null pointer"))),
        // SAFETY: not null; the caller promises the rest.
        false => Ok(unsafe { CStr::from_ptr(text) }),
    }
}

/// Loads an image into the current context.
pub(super) fn load(image: &Image) -> Result<CUmodule, Failure> {
    let owner = owner::current()?;
    let device = owner::current_device()?;
    let loaded = device.load(&image.module)?;
    Ok(MODULES.insert(Module { owner, device, loaded, functions: Mutex::new(BTreeMap::new()) }))
}

unsafe fn load_and_give(module: *mut CUmodule, image: Result<Image, Failure>) -> Outcome {
    owner::current()?;
    if module.is_null() {
        return Err(Failure::invalid_value("the pointer for the module's handle is null"));
    }
    // SAFETY: the caller's pointer for the handle.
    unsafe { give(module, load(&image?)?) }
}

pub(crate) unsafe fn load_file(module: *mut CUmodule, file: *const c_char) -> Outcome {
    // SAFETY: the caller promises a C string, and a pointer for the handle.
    unsafe { load_and_give(module, Image::from_file(file)) }
}

pub(crate) unsafe fn load_data(module: *mut CUmodule, image: *const c_void) -> Outcome {
    // SAFETY: the caller promises an image, and a pointer for the handle.
    unsafe { load_and_give(module, Image::from_pointer(image)) }
}

/// The options say how to compile and where to log. Only the logs mean anything here.
pub(crate) unsafe fn load_data_with_options(
    module: *mut CUmodule,
    image: *const c_void,
    options: c_uint,
    names: *mut c_uint,
    values: *mut *mut c_void,
) -> Outcome {
    // SAFETY: the caller promises an image.
    let outcome = unsafe { load_data(module, image) };
    // SAFETY: the caller's options.
    unsafe { write_logs(&outcome, options, names, values) }?;
    outcome
}

/// Writes what became of a compilation to the buffers that its options give.
///
/// # Safety
/// - `names` and `values` hold `options` elements each; a buffer that they give has the capacity that they say.
pub(super) unsafe fn write_logs(
    outcome: &Outcome,
    options: c_uint,
    names: *mut c_uint,
    values: *mut *mut c_void,
) -> Outcome {
    const INFO_LOG: c_uint = 3;
    const ERROR_LOG: c_uint = 5;
    let error_text = outcome.as_ref().err().map_or("", |failure| failure.text.as_str());
    if options > 0 && (names.is_null() || values.is_null()) {
        return Err(Failure::invalid_value(format!("{options} options, in null arrays")));
    }
    // SAFETY: the caller's promise.
    unsafe {
        write_log(options as usize, names, values, INFO_LOG, "");
        write_log(options as usize, names, values, ERROR_LOG, error_text);
    }
    Ok(())
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
    end(module)
}

/// Unloads a module, whichever context is current.
pub(super) fn end(module: CUmodule) -> Outcome {
    let unloaded = MODULES.remove(module)?;
    FUNCTIONS.retain(|function| function.module != module.addr());
    unloaded.device.unload(&unloaded.loaded)?;
    Ok(())
}

pub(crate) unsafe fn get_function(function: *mut CUfunction, module: CUmodule, name: *const c_char) -> Outcome {
    owner::current()?;
    // SAFETY: the caller promises a C string.
    let name = unsafe { c_string(name, "function name") }?.to_string_lossy();
    let handle = function_named(module, &name)?;
    // SAFETY: the caller's pointer for the handle.
    unsafe { give(function, handle) }
}

/// The handle of a module's kernel.
pub(super) fn function_named(module: CUmodule, name: &str) -> Result<CUfunction, Failure> {
    let loaded = MODULES.get(module)?;
    let mut functions = loaded.functions.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(&handle) = functions.get(name) {
        return Ok(ptr::without_provenance_mut(handle));
    }
    let kernel = loaded
        .loaded
        .read_kernel(name)
        .map_err(|error| Failure::new(CUDA_ERROR_INVALID_PTX, error.to_string()))?
        .ok_or_else(|| Failure::new(CUDA_ERROR_NOT_FOUND, format!("the module has no kernel named {name}")))?;
    let default_limit = properties::SHARED_PER_BLOCK.saturating_sub(kernel.static_shared_bytes());
    let handle = FUNCTIONS.insert(Function {
        module: module.addr(),
        device: loaded.device,
        kernel,
        max_dynamic_shared: AtomicU32::new(default_limit),
        non_portable_clusters: AtomicBool::new(false),
    });
    functions.insert(name.to_owned(), handle.addr());
    Ok(handle)
}

pub(crate) unsafe fn function_count(count: *mut c_uint, module: CUmodule) -> Outcome {
    owner::current()?;
    // SAFETY: the caller's pointer for the number.
    unsafe { give(count, MODULES.get(module)?.loaded.kernels().count() as c_uint) }
}

/// The handles of a module's kernels, as many as there is room for.
pub(crate) unsafe fn enumerate_functions(functions: *mut CUfunction, room: c_uint, module: CUmodule) -> Outcome {
    owner::current()?;
    let loaded = MODULES.get(module)?;
    for (index, name) in loaded.loaded.kernels().take(room as usize).enumerate() {
        // SAFETY: the caller promises `room` elements.
        unsafe { give(functions.add(index), function_named(module, name)?) }?;
    }
    Ok(())
}

pub(crate) unsafe fn loading_mode(mode: *mut c_uint) -> Outcome {
    const EAGER: c_uint = 1;
    const LAZY: c_uint = 2;
    // SAFETY: the caller's pointer for the mode.
    unsafe { give(mode, if image::is_lazy() { LAZY } else { EAGER }) }
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
const NON_PORTABLE_CLUSTER_SIZE_ALLOWED: c_uint = 14;

pub(crate) unsafe fn function_attribute(value: *mut c_int, attribute: c_uint, handle: CUfunction) -> Outcome {
    let function = function(handle)?;
    let kernel = &function.kernel;
    let answer = match attribute {
        MAX_THREADS_PER_BLOCK => kernel.max_threads(),
        SHARED_SIZE_BYTES => kernel.static_shared_bytes(),
        // No machine code has registers or a constant bank: none are used up.
        CONST_SIZE_BYTES | CACHE_MODE_CA | NUM_REGS => 0,
        // No cluster is required, and none is preferred.
        10..=13 | 15 => 0,
        NON_PORTABLE_CLUSTER_SIZE_ALLOWED => function.non_portable_clusters.load(Ordering::Relaxed).into(),
        MAX_DYNAMIC_SHARED_SIZE_BYTES => function.max_dynamic_shared.load(Ordering::Relaxed),
        PTX_VERSION | BINARY_VERSION => {
            let (major, minor) = function.device.config().compute_capability;
            10 * major + minor
        }
        LOCAL_SIZE_BYTES => kernel.local_bytes(),
        // No preference: the driver's default.
        PREFERRED_SHARED_MEMORY_CARVEOUT => u32::MAX,
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
        NON_PORTABLE_CLUSTER_SIZE_ALLOWED if (0..=1).contains(&value) => {
            function.non_portable_clusters.store(value != 0, Ordering::Relaxed);
            Ok(())
        }
        // A preference, which softcuda does not need.
        PREFERRED_SHARED_MEMORY_CARVEOUT if (-1..=100).contains(&value) => Ok(()),
        _ => Err(Failure::invalid_value(format!("function attribute {attribute} cannot be set to {value}"))),
    }
}

/// The kernel's name, which lives as long as its module.
pub(crate) unsafe fn function_name(name: *mut *const c_char, handle: CUfunction) -> Outcome {
    // SAFETY: the caller's pointer for the name.
    unsafe { give(name, library::interned(function(handle)?.kernel.name())) }
}

pub(crate) unsafe fn function_module(module: *mut CUmodule, handle: CUfunction) -> Outcome {
    // SAFETY: the caller's pointer for the handle.
    unsafe { give(module, ptr::without_provenance_mut(function(handle)?.module)) }
}

/// Where a parameter lies in the parameter space, and its bytes, for which the pointer may be null.
pub(crate) unsafe fn parameter_info(
    handle: CUfunction,
    index: usize,
    offset: *mut usize,
    bytes: *mut usize,
) -> Outcome {
    let function = function(handle)?;
    let layout = function.kernel.param_layout();
    let parameter = layout
        .get(index)
        .ok_or_else(|| Failure::invalid_value(format!("parameter {index} of a kernel with {}", layout.len())))?;
    // SAFETY: the caller's pointers for the answers.
    unsafe {
        give(offset, parameter.offset)?;
        if bytes.is_null() { Ok(()) } else { give(bytes, parameter.size) }
    }
}

pub(crate) unsafe fn parameter_count(handle: CUfunction, count: *mut usize) -> Outcome {
    // SAFETY: the caller's pointer for the number.
    unsafe { give(count, function(handle)?.kernel.param_layout().len()) }
}

/// Every kernel is loaded with its module.
pub(crate) unsafe fn is_loaded(state: *mut c_uint, handle: CUfunction) -> Outcome {
    function(handle)?;
    // SAFETY: the caller's pointer for the state.
    unsafe { give(state, 1) }
}

pub(crate) fn load_function(handle: CUfunction) -> Outcome {
    function(handle).map(drop)
}

pub(crate) fn function_cache_config(handle: CUfunction, config: c_uint) -> Outcome {
    function(handle)?;
    properties::check_cache_config(config)
}

pub(crate) fn function_shared_memory_config(handle: CUfunction, config: c_uint) -> Outcome {
    function(handle)?;
    properties::check_shared_memory_config(config)
}
