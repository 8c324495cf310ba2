//! Libraries: modules that are loaded once for all contexts, and their kernels.
//!
//! A library keeps what it was read from. A context gets a module of it when a kernel or a variable is first asked for
//! there; the handle of a kernel (`CUkernel`) stands for that module's function in whichever context is current.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::image::Image;
use super::owner::{self, Owner};
use super::registry::Registry;
use super::{Failure, Outcome, give, initialised, module, properties};
use crate::sys::*;

struct Library {
    image: Image,
    /// The handles of the kernels that were asked for, by name.
    kernels: Mutex<BTreeMap<String, usize>>,
    /// The module in each context that has one, by handle.
    loaded: Mutex<BTreeMap<usize, usize>>,
}

struct LibraryKernel {
    library: usize,
    name: String,
    /// The function in each context that has one, by handle.
    functions: Mutex<BTreeMap<usize, usize>>,
    /// What was set for a device: (ordinal, attribute) and value.
    settings: Mutex<BTreeMap<(CUdevice, c_uint), c_int>>,
}

static LIBRARIES: Registry<Library> = Registry::new("library");
static KERNELS: Registry<LibraryKernel> = Registry::new("library's kernel");

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forgets what libraries have in a context; the modules end with it.
pub(crate) fn release(owner: Owner) {
    LIBRARIES.retain(|library| {
        lock(&library.loaded).remove(&owner.0);
        true
    });
    KERNELS.retain(|kernel| {
        lock(&kernel.functions).remove(&owner.0);
        true
    });
}

/// A name that lives for ever, as a C string: those of kernels are few.
pub(super) fn interned(name: &str) -> *const c_char {
    static NAMES: Mutex<BTreeMap<String, CString>> = Mutex::new(BTreeMap::new());
    // A kernel's name holds no NUL: PTX text ends at one.
    let make = || CString::new(name).unwrap_or_default();
    lock(&NAMES).entry(name.to_owned()).or_insert_with(make).as_ptr()
}

unsafe fn load(
    library: *mut CUlibrary,
    image: Result<Image, Failure>,
    names: *mut c_uint,
    values: *mut *mut c_void,
    options: c_uint,
) -> Outcome {
    initialised()?;
    if library.is_null() {
        return Err(Failure::invalid_value("the pointer for the library's handle is null"));
    }
    let (image, outcome) = match image {
        Ok(image) => (Some(image), Ok(())),
        Err(failure) => (None, Err(failure)),
    };
    // SAFETY: the caller's options.
    unsafe { module::write_logs(&outcome, options, names, values) }?;
    outcome?;
    let Some(image) = image else {
        return Ok(());
    };
    let (kernels, loaded) = (Mutex::new(BTreeMap::new()), Mutex::new(BTreeMap::new()));
    // SAFETY: the caller's pointer for the handle.
    unsafe { give(library, LIBRARIES.insert(Library { image, kernels, loaded })) }
}

/// The options of a library say how the image is kept; it is read at once.
pub(crate) unsafe fn load_data(
    library: *mut CUlibrary,
    image: *const c_void,
    names: *mut c_uint,
    values: *mut *mut c_void,
    options: c_uint,
    _library_names: *mut c_uint,
    _library_values: *mut *mut c_void,
    _library_options: c_uint,
) -> Outcome {
    // SAFETY: the caller's image, options and pointer.
    unsafe { load(library, Image::from_pointer(image), names, values, options) }
}

pub(crate) unsafe fn load_file(
    library: *mut CUlibrary,
    file: *const c_char,
    names: *mut c_uint,
    values: *mut *mut c_void,
    options: c_uint,
    _library_names: *mut c_uint,
    _library_values: *mut *mut c_void,
    _library_options: c_uint,
) -> Outcome {
    // SAFETY: the caller's file name, options and pointer.
    unsafe { load(library, Image::from_file(file), names, values, options) }
}

pub(crate) fn unload(library: CUlibrary) -> Outcome {
    let ended = LIBRARIES.remove(library)?;
    KERNELS.retain(|kernel| kernel.library != library.addr());
    for &handle in lock(&ended.loaded).values() {
        module::end(ptr::without_provenance_mut(handle))?;
    }
    Ok(())
}

/// The library's module in the current context.
fn module_of(library: CUlibrary) -> Result<CUmodule, Failure> {
    let Owner(context) = owner::current()?;
    let known = LIBRARIES.get(library)?;
    let mut loaded = lock(&known.loaded);
    let handle = match loaded.get(&context) {
        Some(&handle) => handle,
        None => {
            let handle = module::load(&known.image)?.addr();
            loaded.insert(context, handle);
            handle
        }
    };
    Ok(ptr::without_provenance_mut(handle))
}

pub(crate) unsafe fn get_module(module: *mut CUmodule, library: CUlibrary) -> Outcome {
    // SAFETY: the caller's pointer for the handle.
    unsafe { give(module, module_of(library)?) }
}

fn kernel_named(handle: CUlibrary, library: &Library, name: &str) -> Result<CUkernel, Failure> {
    if !library.image.module.kernels().any(|known| known == name) {
        return Err(Failure::new(CUDA_ERROR_NOT_FOUND, format!("the library has no kernel named {name}")));
    }
    let make = || {
        let (functions, settings) = (Mutex::new(BTreeMap::new()), Mutex::new(BTreeMap::new()));
        KERNELS.insert(LibraryKernel { library: handle.addr(), name: name.to_owned(), functions, settings }).addr()
    };
    Ok(ptr::without_provenance_mut(*lock(&library.kernels).entry(name.to_owned()).or_insert_with(make)))
}

pub(crate) unsafe fn get_kernel(kernel: *mut CUkernel, library: CUlibrary, name: *const c_char) -> Outcome {
    initialised()?;
    // SAFETY: the caller promises a C string.
    let name = unsafe { module::c_string(name, "kernel name") }?.to_string_lossy();
    // SAFETY: the caller's pointer for the handle.
    unsafe { give(kernel, kernel_named(library, &*LIBRARIES.get(library)?, &name)?) }
}

pub(crate) unsafe fn kernel_count(count: *mut c_uint, library: CUlibrary) -> Outcome {
    // SAFETY: the caller's pointer for the number.
    unsafe { give(count, LIBRARIES.get(library)?.image.module.kernels().count() as c_uint) }
}

/// The handles of the kernels, as many as there is room for.
pub(crate) unsafe fn enumerate_kernels(kernels: *mut CUkernel, room: c_uint, library: CUlibrary) -> Outcome {
    let known = LIBRARIES.get(library)?;
    for (index, name) in known.image.module.kernels().take(room as usize).enumerate() {
        // SAFETY: the caller promises `room` elements.
        unsafe { give(kernels.add(index), kernel_named(library, &known, name)?) }?;
    }
    Ok(())
}

pub(crate) unsafe fn get_global(
    address: *mut CUdeviceptr,
    bytes: *mut usize,
    library: CUlibrary,
    name: *const c_char,
) -> Outcome {
    // SAFETY: the caller's name and pointers.
    unsafe { module::get_global(address, bytes, module_of(library)?, name) }
}

/// PTX that nvcc makes marks managed variables with an attribute; softcuda reads them as others are.
pub(crate) unsafe fn get_managed(
    _address: *mut CUdeviceptr,
    _bytes: *mut usize,
    library: CUlibrary,
    _name: *const c_char,
) -> Outcome {
    LIBRARIES.get(library)?;
    Err(Failure::new(CUDA_ERROR_NOT_FOUND, "softcuda has no managed variables"))
}

/// The function that a library's kernel is in the current context; none where the handle is no library's kernel.
pub(super) fn function_of(handle: CUkernel) -> Result<Option<CUfunction>, Failure> {
    let Ok(kernel) = KERNELS.get(handle) else {
        return Ok(None);
    };
    let Owner(context) = owner::current()?;
    if let Some(&function) = lock(&kernel.functions).get(&context) {
        return Ok(Some(ptr::without_provenance_mut(function)));
    }
    let module = module_of(ptr::without_provenance_mut(kernel.library))?;
    let function = module::function_named(module, &kernel.name)?;
    let device = owner::current_device()?.config().ordinal as CUdevice;
    for (&(of, attribute), &value) in lock(&kernel.settings).iter() {
        if of == device {
            module::set_function_attribute(function, attribute, value)?;
        }
    }
    lock(&kernel.functions).insert(context, function.addr());
    Ok(Some(function))
}

fn kernel(handle: CUkernel) -> Result<Arc<LibraryKernel>, Failure> {
    initialised()?;
    KERNELS.get(handle)
}

pub(crate) unsafe fn kernel_function(function: *mut CUfunction, handle: CUkernel) -> Outcome {
    kernel(handle)?;
    let known = function_of(handle)?.ok_or_else(|| Failure::invalid_value("the kernel has ended"))?;
    // SAFETY: the caller's pointer for the handle.
    unsafe { give(function, known) }
}

pub(crate) unsafe fn kernel_library(library: *mut CUlibrary, handle: CUkernel) -> Outcome {
    // SAFETY: the caller's pointer for the handle.
    unsafe { give(library, ptr::without_provenance_mut(kernel(handle)?.library)) }
}

pub(crate) unsafe fn kernel_name(name: *mut *const c_char, handle: CUkernel) -> Outcome {
    // SAFETY: the caller's pointer for the name.
    unsafe { give(name, interned(&kernel(handle)?.name)) }
}

/// Of a kernel on a device, whose context must be current: only there is the kernel loaded.
pub(crate) unsafe fn kernel_attribute(
    value: *mut c_int,
    attribute: c_uint,
    handle: CUkernel,
    device: CUdevice,
) -> Outcome {
    kernel(handle)?;
    let wanted = properties::device(device)?;
    let current = owner::current_device()?;
    if !ptr::eq(wanted, current) {
        let text = format!("attributes of a kernel on device {device}: a context of that device must be current");
        return Err(Failure::new(CUDA_ERROR_INVALID_CONTEXT, text));
    }
    // SAFETY: the caller's pointer for the value.
    unsafe { module::function_attribute(value, attribute, handle) }
}

pub(crate) fn set_kernel_attribute(attribute: c_uint, value: c_int, handle: CUkernel, device: CUdevice) -> Outcome {
    let kernel = kernel(handle)?;
    let wanted = properties::device(device)?;
    for (&context, &function) in lock(&kernel.functions).iter() {
        if ptr::eq(owner::device_of(Owner(context))?, wanted) {
            module::set_function_attribute(ptr::without_provenance_mut(function), attribute, value)?;
        }
    }
    lock(&kernel.settings).insert((device, attribute), value);
    Ok(())
}

pub(crate) fn set_kernel_cache_config(handle: CUkernel, config: c_uint, device: CUdevice) -> Outcome {
    kernel(handle)?;
    properties::device(device)?;
    properties::check_cache_config(config)
}
