//! The linker: PTX texts become one.
//!
//! softcuda's modules are PTX, so what is linked is text: the first with its head, the others without theirs. The result is
//! read once, so that what cannot be linked fails here, and is an image for `cuModuleLoadData`.

use std::borrow::Cow;
use std::ffi::{CString, c_char, c_uint, c_void};
use std::slice;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::image::{self, Image};
use super::registry::Registry;
use super::{Failure, Outcome, give, initialised, module};
use crate::sys::*;

struct Link {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    texts: Vec<String>,
    linked: Option<CString>,
    options: Options,
}

/// The options of `cuLinkCreate`, which the caller keeps until the link is destroyed.
#[derive(Default)]
struct Options {
    count: c_uint,
    names: usize,
    values: usize,
}

static LINKS: Registry<Link> = Registry::new("link state");

fn lock(link: &Link) -> MutexGuard<'_, State> {
    link.state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Writes what became of a step to the caller's log.
    fn log(&self, outcome: Outcome) -> Outcome {
        let names = std::ptr::with_exposed_provenance_mut(self.options.names);
        let values = std::ptr::with_exposed_provenance_mut(self.options.values);
        // SAFETY: whoever created the link promised that the options stay until its end.
        unsafe { module::write_logs(&outcome, self.options.count, names, values) }?;
        outcome
    }
}

pub(crate) unsafe fn create(
    count: c_uint,
    names: *mut c_uint,
    values: *mut *mut c_void,
    state: *mut CUlinkState,
) -> Outcome {
    initialised()?;
    if count > 0 && (names.is_null() || values.is_null()) {
        return Err(Failure::invalid_value(format!("{count} options, in null arrays")));
    }
    let options = Options { count, names: names.expose_provenance(), values: values.expose_provenance() };
    // SAFETY: the caller's pointer for the handle.
    unsafe { give(state, LINKS.insert(Link { state: Mutex::new(State { options, ..State::default() }) })) }
}

/// PTX, or what a fat binary holds of it.
fn text_of(kind: c_uint, data: &[u8]) -> Result<String, Failure> {
    const KINDS: [&str; 6] = ["a cubin", "PTX", "a fat binary", "an object", "a library", "NVVM code"];
    match kind {
        1 | 2 => image::ptx_in(data).map(Cow::into_owned),
        _ => Err(Failure::new(
            CUDA_ERROR_NO_BINARY_FOR_GPU,
            format!("{} to be linked; softcuda links PTX", KINDS.get(kind as usize).unwrap_or(&"an unknown kind")),
        )),
    }
}

pub(crate) unsafe fn add_data(
    state: CUlinkState,
    kind: c_uint,
    data: *mut c_void,
    bytes: usize,
    _name: *const c_char,
    _options: c_uint,
    _names: *mut c_uint,
    _values: *mut *mut c_void,
) -> Outcome {
    let link = LINKS.get(state)?;
    if data.is_null() {
        return Err(Failure::invalid_value("the pointer to the image is null"));
    }
    // SAFETY: not null; the caller promises so many bytes.
    let data = unsafe { slice::from_raw_parts(data.cast::<u8>(), bytes) };
    let mut state = lock(&link);
    match text_of(kind, data) {
        Ok(text) => state.texts.push(text),
        Err(failure) => return state.log(Err(failure)),
    }
    Ok(())
}

pub(crate) unsafe fn add_file(
    state: CUlinkState,
    kind: c_uint,
    path: *const c_char,
    _options: c_uint,
    _names: *mut c_uint,
    _values: *mut *mut c_void,
) -> Outcome {
    let link = LINKS.get(state)?;
    let mut state = lock(&link);
    // SAFETY: the caller promises a C string.
    let text = unsafe { image::ptx_in_file(path) }.and_then(|text| text_of(kind, text.as_bytes()));
    match text {
        Ok(text) => state.texts.push(text),
        Err(failure) => return state.log(Err(failure)),
    }
    Ok(())
}

pub(crate) unsafe fn complete(state: CUlinkState, image: *mut *mut c_void, bytes: *mut usize) -> Outcome {
    let link = LINKS.get(state)?;
    let mut state = lock(&link);
    let text = joined(&state.texts);
    let read = Image::from_ptx(&text).map(drop);
    state.log(read)?;
    let linked = CString::new(text).map_err(|_| Failure::new(CUDA_ERROR_INVALID_PTX, "the PTX holds a NUL byte"))?;
    let (start, length) = (linked.as_ptr(), linked.as_bytes_with_nul().len());
    state.linked = Some(linked);
    // SAFETY: the caller's pointers for the image, which lives as long as the link.
    unsafe {
        give(image, start.cast_mut().cast())?;
        if bytes.is_null() { Ok(()) } else { give(bytes, length) }
    }
}

pub(crate) fn destroy(state: CUlinkState) -> Outcome {
    LINKS.remove(state).map(drop)
}

/// One text of several: the head of the first, the bodies of all.
fn joined(texts: &[String]) -> String {
    let is_head =
        |line: &str| [".version", ".target", ".address_size"].iter().any(|word| line.trim_start().starts_with(word));
    let mut out = String::new();
    for (index, text) in texts.iter().enumerate() {
        for line in text.lines().filter(|line| index == 0 || !is_head(line)) {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}
