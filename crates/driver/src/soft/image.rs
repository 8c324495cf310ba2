//! What a module is loaded from: PTX text, or a fat binary, which may hold PTX beside machine code.
//!
//! softcuda runs PTX. Machine code for a GPU it cannot run, and says so: `CUDA_ERROR_NO_BINARY_FOR_GPU`.
//!
//! The layout of a fat binary is nowhere written down by NVIDIA. What is read here was seen in files that its `fatbinary`
//! makes: a header, then entries one after another, each with a header of its own, which says what the entry is and how it is
//! compressed.

use std::borrow::Cow;
use std::ffi::{CStr, OsStr, c_char, c_void};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::slice;
use std::sync::{Arc, Mutex};

use softcuda::PtxError;

use super::Failure;
use super::module::c_string;
use crate::sys::*;

/// A module that was read but is on no device yet.
pub(super) struct Image {
    pub module: Arc<softcuda::Module>,
}

/// The modules that were read last, the newest at the end: a program loads its image into one context after the other. Whoever
/// wants one that is being read waits for it.
static READ: Mutex<Vec<Arc<softcuda::Module>>> = Mutex::new(Vec::new());
const MOST_READ: usize = 2;
const DEFERRED_BYTES: usize = 1 << 20;

/// Texts that stay where they are: see [`keep`].
static KEPT: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());

/// Says that this text, which a NUL ends, is never freed: a module that is loaded from its address reads it where it lies, and not a copy. One
/// that is no UTF-8 is not kept.
pub fn keep(text: &'static CStr) {
    let mut kept = KEPT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Ok(text) = text.to_str()
        && kept_at(&kept, text.as_ptr().cast()).is_none()
    {
        kept.push(text);
    }
}

fn kept_at(kept: &[&'static str], address: *const c_void) -> Option<&'static str> {
    kept.iter().copied().find(|text| std::ptr::eq(text.as_ptr().cast(), address))
}

const ELF: [u8; 4] = *b"\x7fELF";
const FATBIN: [u8; 4] = 0xba55_ed50u32.to_le_bytes();
/// What nvcc puts into a program: a pointer to the fat binary stands 8 bytes on.
const WRAPPER: [u8; 4] = 0x4662_43b1u32.to_le_bytes();

impl Image {
    /// # Safety
    /// - `image` is null, the start of a binary image, or a C string.
    pub unsafe fn from_pointer(image: *const c_void) -> Result<Image, Failure> {
        let kept = kept_at(&KEPT.lock().unwrap_or_else(|poisoned| poisoned.into_inner()), image);
        if let Some(text) = kept {
            return Image::read(text, || softcuda::Module::deferred_from(text));
        }
        // SAFETY: the caller's promise.
        Image::from_ptx(&unsafe { ptx_at(image) }?)
    }

    /// # Safety
    /// - `file` is null or a C string.
    pub unsafe fn from_file(file: *const c_char) -> Result<Image, Failure> {
        // SAFETY: the caller's promise.
        Image::from_ptx(&unsafe { ptx_in_file(file) }?)
    }

    pub fn from_ptx(ptx: &str) -> Result<Image, Failure> {
        Image::read(ptx, || softcuda::Module::deferred(ptx))
    }

    fn read(ptx: &str, deferred: impl Fn() -> Result<softcuda::Module, PtxError>) -> Result<Image, Failure> {
        // Two texts at one place are one.
        let is_it = |known: &str| std::ptr::eq(known, ptx) || known == ptx;
        let mut read = READ.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let module = match read.iter().position(|known| is_it(known.text())) {
            Some(at) => read.remove(at),
            None => {
                let module = if is_deferred(ptx) { deferred() } else { softcuda::Module::from_ptx(ptx) };
                Arc::new(module.map_err(|error| Failure::new(CUDA_ERROR_INVALID_PTX, error.to_string()))?)
            }
        };
        read.push(module.clone());
        if read.len() > MOST_READ {
            read.remove(0);
        }
        Ok(Image { module })
    }
}

/// Whether kernels are read when they are asked for. Of a text that is read in a moment all is read, so that what is wrong with it is
/// told at once.
fn is_deferred(ptx: &str) -> bool {
    ptx.len() >= DEFERRED_BYTES && is_lazy()
}

/// Whether kernels may be read when they are asked for, as CUDA does where `CUDA_MODULE_LOADING` does not say `EAGER`.
pub(super) fn is_lazy() -> bool {
    std::env::var_os("CUDA_MODULE_LOADING").is_none_or(|how| how != "EAGER")
}

/// # Safety
/// - `file` is null or a C string.
pub(super) unsafe fn ptx_in_file(file: *const c_char) -> Result<String, Failure> {
    // SAFETY: the caller's promise.
    let file = Path::new(OsStr::from_bytes(unsafe { c_string(file, "file name") }?.to_bytes()));
    let image = fs::read(file)
        .map_err(|error| Failure::new(CUDA_ERROR_FILE_NOT_FOUND, format!("{}: {error}", file.display())))?;
    ptx_in(&image).map(Cow::into_owned)
}

/// The PTX text of an image.
///
/// # Safety
/// - `image` is null, the start of a binary image, or a C string.
unsafe fn ptx_at<'i>(image: *const c_void) -> Result<Cow<'i, str>, Failure> {
    if image.is_null() {
        return Err(Failure::invalid_value("the module image is a null pointer"));
    }
    let image: *const u8 = image.cast();
    // No byte of a magic number is NUL, so reading stops within a shorter C string.
    let starts_with = |magic: &[u8; 4]| {
        // SAFETY: the caller promises a C string or more; no byte behind its NUL is looked at.
        magic.iter().enumerate().all(|(index, &byte)| unsafe { *image.add(index) } == byte)
    };
    // SAFETY: the caller promises what each magic number announces.
    unsafe {
        if starts_with(&WRAPPER) {
            return ptx_at(image.add(8).cast::<*const c_void>().read_unaligned());
        }
        if starts_with(&ELF) {
            return ptx_in(&ELF);
        }
        if starts_with(&FATBIN) {
            let header = slice::from_raw_parts(image, HEADER);
            return ptx_in(slice::from_raw_parts(image, fatbin_bytes(header)?));
        }
        text_in(c_string(image.cast(), "module image")?.to_bytes()).map(Cow::Borrowed)
    }
}

/// The PTX text of a whole image.
pub(super) fn ptx_in(image: &[u8]) -> Result<Cow<'_, str>, Failure> {
    if image.starts_with(&ELF) {
        let text =
            "the module image is machine code for a GPU (a cubin); softcuda runs PTX: have the compiler emit that";
        return Err(Failure::new(CUDA_ERROR_NO_BINARY_FOR_GPU, text));
    }
    if image.starts_with(&FATBIN) {
        return ptx_in_fatbin(image).map(Cow::Owned);
    }
    let text = match image.iter().position(|&byte| byte == 0) {
        Some(end) => &image[..end],
        None => image,
    };
    text_in(text).map(Cow::Borrowed)
}

/// The PTX text of an image that is no binary, without its NUL.
fn text_in(text: &[u8]) -> Result<&str, Failure> {
    let text = str::from_utf8(text)
        .map_err(|_| Failure::new(CUDA_ERROR_INVALID_IMAGE, "the module image is neither PTX text nor binary"))?;
    if text.trim().is_empty() {
        return Err(Failure::new(CUDA_ERROR_INVALID_IMAGE, "the module image is empty"));
    }
    Ok(text)
}

/// Bytes of a fat binary's header: magic number, version (2 bytes), bytes of the header (2), bytes of all entries (8).
const HEADER: usize = 16;
/// Bytes of an entry's header that are looked at.
const ENTRY: usize = 64;

fn damaged(what: impl std::fmt::Display) -> Failure {
    Failure::new(CUDA_ERROR_INVALID_IMAGE, format!("the fat binary is damaged: {what}"))
}

/// The `N` bytes at a place.
fn bytes_at<const N: usize>(from: &[u8], at: usize) -> Result<[u8; N], Failure> {
    from.get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .ok_or_else(|| damaged(format_args!("{} bytes; byte {at} is to be read", from.len())))
}

fn u32_at(from: &[u8], at: usize) -> Result<usize, Failure> {
    Ok(u32::from_le_bytes(bytes_at(from, at)?) as usize)
}

fn fatbin_bytes(header: &[u8]) -> Result<usize, Failure> {
    let own = u16::from_le_bytes(bytes_at(header, 6)?) as usize;
    let entries = u64::from_le_bytes(bytes_at(header, 8)?);
    usize::try_from(entries).ok().and_then(|entries| entries.checked_add(own)).ok_or_else(|| damaged("its length"))
}

/// The PTX of the newest architecture that softcuda's compute capability includes; of the oldest where none does.
fn ptx_in_fatbin(image: &[u8]) -> Result<String, Failure> {
    const PTX: u16 = 1;
    const CAPABILITY: usize = 90;
    let end = fatbin_bytes(image)?.min(image.len());
    let mut at = u16::from_le_bytes(bytes_at(image, 6)?) as usize;
    let (mut best, mut machine_code) = (None::<(usize, &[u8])>, Vec::new());
    while at + ENTRY <= end {
        let entry = &image[at..end];
        let kind = u16::from_le_bytes(bytes_at(entry, 0)?);
        let (header, padded, architecture) = (u32_at(entry, 4)?, u32_at(entry, 8)?, u32_at(entry, 28)?);
        let length = header.checked_add(padded).filter(|&length| length >= ENTRY && length <= entry.len());
        let entry = &entry[..length.ok_or_else(|| damaged(format_args!("an entry of {header} and {padded} bytes")))?];
        if kind == PTX {
            let rank = |arch: usize| if arch <= CAPABILITY { (1, arch as isize) } else { (0, -(arch as isize)) };
            if best.is_none_or(|(known, _)| rank(architecture) > rank(known)) {
                best = Some((architecture, entry));
            }
        } else {
            machine_code.push(format!("sm_{architecture}"));
        }
        at += entry.len();
    }
    let Some((_, entry)) = best else {
        return Err(Failure::new(
            CUDA_ERROR_NO_BINARY_FOR_GPU,
            format!(
                "the fat binary holds machine code ({}) and no PTX; softcuda runs PTX: compile with \
                 -gencode arch=compute_90,code=compute_90",
                machine_code.join(", ")
            ),
        ));
    };
    let text = uncompressed(entry)?;
    ptx_in(&text).map(Cow::into_owned)
}

/// The contents of an entry.
fn uncompressed(entry: &[u8]) -> Result<Vec<u8>, Failure> {
    const LZ4: u64 = 0x2000;
    const ZSTD: u64 = 0x8000;
    let (header, padded, compressed) = (u32_at(entry, 4)?, u32_at(entry, 8)?, u32_at(entry, 16)?);
    let flags = u64::from_le_bytes(bytes_at(entry, 40)?);
    let length = u64::from_le_bytes(bytes_at(entry, 56)?) as usize;
    let packed = flags & (LZ4 | ZSTD) != 0;
    let payload = entry.get(header..header + if packed { compressed } else { padded });
    let payload = payload.ok_or_else(|| damaged("an entry's length"))?;
    // Text shrinks to a hundredth at best.
    if packed && length > payload.len().saturating_mul(1 << 10) {
        return Err(damaged(format_args!("{} bytes that become {length}", payload.len())));
    }
    match flags & (LZ4 | ZSTD) {
        LZ4 => lz4_flex::block::decompress(payload, length).map_err(damaged),
        ZSTD => zstd::bulk::decompress(payload, length).map_err(damaged),
        _ => Ok(payload.to_vec()),
    }
}
