//! The kernels as the build compiled them, and which of the compiled forms a device gets.
//!
//! The same sources are compiled for more than one generation of GPU. A device runs the newest that it can:
//!
//! - PTX, text that the driver compiles, runs on its target and everything after it; except that a target whose name ends
//!   in `a` runs on its own generation only: `sm_90a` is for compute capability 9.0 (H100, H200), `sm_80` for 8.0 and all
//!   later ones.
//! - Machine code (a cubin), which the build makes where it finds NVIDIA's `ptxas`, runs on later revisions of its own
//!   generation only. It saves the driver's compiler at start-up and is tried first. A driver older than the `ptxas` may
//!   refuse it; the PTX is then loaded and a warning says so.
//!
//! In the program they are compressed, in what is handed out the PTX of all targets as one archive, in which a device's is found by its place. The lines
//! that say which line of Rust an instruction comes from then lie apart, and are put into the text again for softcuda, which alone reads them; and numbers in
//! names are their differences.
//!
//! softcuda reports compute capability 9.0 and takes PTX, so what is tested without a GPU is what a Hopper runs.
//! `FERROWARP_IMAGE` asks for a target (`sm_80`), or one form of it (`sm_80.ptx`, `sm_80.cubin`), on either device.

use std::{
    env,
    ffi::CStr,
    fmt,
    io::{self, BufRead, BufReader, Read as _, Write as _},
    sync::{Mutex, PoisonError},
};

use cust::{error::CudaError, module::Module};

use super::{GpuError, driver_error};

/// The build's: how far back zstd may look, 2^27 bytes.
const WINDOW_LOG: u32 = 27;

/// The environment variable that names an image.
pub const VARIABLE: &str = "FERROWARP_IMAGE";

/// All kernels, compiled for one target.
pub struct Image {
    /// What it was compiled for, such as `sm_80`.
    pub target: &'static str,
    /// What it was compiled to.
    pub code: Code,
}

/// What a compiled image holds.
pub enum Code {
    /// Text that the driver compiles for the device.
    Ptx {
        /// Without its line table, and with numbers in names as differences, where the table is apart.
        text: Packed,
        /// The lines of that, each behind a tab and the number of lines of the text that come before it and after the last such.
        lines: Packed,
    },
    /// Machine code.
    Cubin(Packed),
}

/// Some bytes of what zstd compressed.
#[derive(Clone, Copy)]
pub struct Packed {
    archive: &'static [u8],
    start: u64,
    end: u64,
}

/// What names a text: its archive's address, where it stands there, and whether it has its line table.
type TextKey = (usize, u64, bool);

/// The texts that were unpacked, of which there are no more than images. A program that loads several models opens the device for each.
static TEXTS: Mutex<Vec<(TextKey, &'static CStr)>> = Mutex::new(Vec::new());

/// Every image of this build.
pub static IMAGES: &[Image] = include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The kernels that every image has, sorted: the build reads them from the PTX.
pub static KERNELS: &[&str] = include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Why a device has no image.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The device is too old.
    #[error(
        "the device has compute capability {}.{}; the kernels need 8.0 (Ampere, 2020) or newer: use --device soft",
        .capability.0, .capability.1
    )]
    TooOld {
        /// The device's compute capability.
        capability: (u32, u32),
    },
    /// The environment names an image that is not there.
    #[error("{VARIABLE}={asked}: there is no such image; expected one of {}", .known.join(", "))]
    Unknown {
        /// What was asked for.
        asked: String,
        /// The images there are.
        known: Vec<String>,
    },
    /// The environment names an image that the device cannot run.
    #[error(
        "{VARIABLE}={asked} does not run on this device, of compute capability {}.{}; {} would",
        .capability.0, .capability.1, .others.join(", ")
    )]
    OtherDevice {
        /// What was asked for.
        asked: String,
        /// The device's compute capability.
        capability: (u32, u32),
        /// What it runs.
        others: Vec<String>,
    },
}

/// `sm_80.ptx`, `sm_80.cubin`.
impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let form = match self.code {
            Code::Ptx { .. } => "ptx",
            Code::Cubin(_) => "cubin",
        };
        write!(f, "{}.{form}", self.target)
    }
}

impl Image {
    /// The compute capability that it was compiled for, and whether it runs on that one only.
    fn capability(&self) -> ((u32, u32), bool) {
        let number = self.target.trim_start_matches("sm_").trim_end_matches('a');
        let (major, minor) = number.split_at(number.len() - 1);
        let part = |digits: &str| digits.parse().unwrap_or_else(|_| panic!("the target {} has no number", self.target));
        ((part(major), part(minor)), self.target.ends_with('a'))
    }

    /// Whether `cuda_std::grid`'s functions are instructions in it: otherwise a kernel that started early would not wait.
    pub fn has_grid_dependencies(&self) -> bool {
        self.capability().0 >= (9, 0)
    }

    /// Whether products of groups of warps (`wgmma`) are instructions in it, which a later generation does not have.
    pub fn has_warp_groups(&self) -> bool {
        self.capability() == ((9, 0), true)
    }

    /// Whether a kernel does nothing in this image, and is not launched from it: one for small matrices, of which each group of warps has a unit.
    pub fn is_empty(&self, kernel: &str) -> bool {
        !self.has_warp_groups() && kernel.starts_with("gemm_apart_")
    }

    /// Whether a device of this compute capability, which takes machine code or does not, runs it.
    fn runs_on(&self, device: (u32, u32), takes_machine_code: bool) -> bool {
        // Tegra's chips do not run what was assembled for the desktop's.
        const TEGRA: [(u32, u32); 2] = [(8, 7), (8, 8)];
        let (own, only) = self.capability();
        match self.code {
            _ if only && own != device => false,
            Code::Ptx { .. } => device >= own,
            Code::Cubin(_) => takes_machine_code && device.0 == own.0 && device >= own && !TEGRA.contains(&device),
        }
    }

    fn is_named(&self, asked: &str) -> bool {
        self.target == asked || self.to_string() == asked
    }

    /// The text of an image of PTX, with its line table.
    pub fn ptx(&self) -> Option<String> {
        match self.code {
            Code::Ptx { text, lines } => Some(String::from_utf8(whole(text, lines)).expect("PTX is ASCII")),
            Code::Cubin(_) => None,
        }
    }

    fn load(&self, with_lines: bool) -> Result<Module, CudaError> {
        match self.code {
            Code::Ptx { text, lines } => Module::from_ptx_cstr(unpacked(text, lines, with_lines), &[]),
            Code::Cubin(packed) => Module::from_cubin(packed.unpack(), &[]),
        }
    }
}

impl Packed {
    fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    /// The bytes, as they are unpacked.
    fn read(self) -> io::Result<impl BufRead> {
        let mut archive = zstd::Decoder::new(self.archive)?;
        archive.window_log_max(WINDOW_LOG)?;
        io::copy(&mut archive.by_ref().take(self.start), &mut io::sink())?;
        Ok(BufReader::with_capacity(1 << 17, archive.take(self.end - self.start)))
    }

    fn unpack(self) -> Vec<u8> {
        // With room for the NUL behind a text.
        let mut bytes = Vec::with_capacity(self.len() + 1);
        let mut unpack = || {
            // What has an archive of its own goes straight to its place; of others zstd keeps what it may look back at.
            let whole = zstd::zstd_safe::get_frame_content_size(self.archive).unwrap_or_default();
            if whole == Some(self.end) && self.start == 0 {
                let mut archive = zstd::bulk::Decompressor::new()?;
                archive.window_log_max(WINDOW_LOG)?;
                return archive.decompress_to_buffer(self.archive, &mut bytes);
            }
            self.read()?.read_to_end(&mut bytes)
        };
        unpack().expect("the build compressed this");
        assert_eq!(bytes.len() as u64, self.end - self.start, "the build compressed as many");
        bytes
    }
}

/// PTX, as a driver takes it. softcuda reads it where it lies.
fn unpacked(text: Packed, lines: Packed, with_lines: bool) -> &'static CStr {
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (text.archive.as_ptr().addr(), text.start, with_lines);
    if let Some((_, text)) = texts.iter().find(|(of, _)| *of == key) {
        return text;
    }
    let mut bytes = if with_lines { whole(text, lines) } else { without_lines(text, lines) };
    bytes.push(0);
    let n = bytes.len();
    // SAFETY: it ends with a NUL, and is never freed or changed.
    let text = unsafe { CStr::from_ptr(bytes.leak().as_ptr().cast()) };
    assert_eq!(text.count_bytes() + 1, n, "PTX is ASCII");
    driver::soft::keep(text);
    texts.push((key, text));
    text
}

/// A text with its line table.
fn whole(text: Packed, lines: Packed) -> Vec<u8> {
    let of_text = without_lines(text, lines);
    if lines.len() == 0 {
        return of_text;
    }
    // With room for the NUL.
    let mut whole = Vec::with_capacity(of_text.len() + lines.len() + 1);
    let joined = lines.read().and_then(|lines| join(&of_text, lines, &mut whole));
    joined.expect("the build compressed this");
    whole
}

/// A text without its line table, where that was taken out.
fn without_lines(text: Packed, lines: Packed) -> Vec<u8> {
    let text = text.unpack();
    if lines.len() == 0 { text } else { with_numbers(&text) }
}

/// Puts the numbers in names where the build left their differences (`cuda_builder::numbers_as_differences`).
fn with_numbers(text: &[u8]) -> Vec<u8> {
    // With room for the NUL.
    let mut whole = Vec::with_capacity(text.len() + 1);
    let mut last: Vec<(Vec<u8>, u64)> = Vec::new();
    let (mut place, mut rest) = (Vec::new(), text);
    while let Some(start) = rest.iter().position(|byte| matches!(byte, b'%' | b'$')) {
        whole.extend_from_slice(&rest[..=start]);
        place.clear();
        place.push(rest[start]);
        rest = &rest[start + 1..];
        while let [byte, behind @ ..] = rest {
            match byte {
                mark @ (0xff | 0xfe) => {
                    let n_digits = behind.iter().take_while(|byte| byte.is_ascii_digit()).count();
                    let (digits, behind) = behind.split_at(n_digits);
                    let difference = digits.iter().fold(0, |number, digit| 10 * number + u64::from(digit - b'0'));
                    let index = last.iter().position(|(of, _)| *of == place).unwrap_or_else(|| {
                        last.push((place.clone(), 0));
                        last.len() - 1
                    });
                    let number = &mut last[index].1;
                    *number = if *mark == 0xff { *number + difference } else { *number - difference };
                    write!(whole, "{number}").expect("memory takes everything");
                    place.push(0xff);
                    rest = behind;
                }
                of_name if of_name.is_ascii_alphanumeric() || matches!(of_name, b'_' | b'$') => {
                    whole.push(*of_name);
                    place.push(*of_name);
                    rest = behind;
                }
                _ => break,
            }
        }
    }
    whole.extend_from_slice(rest);
    whole
}

/// Puts a line table's lines where the build took them from (`cuda_builder::lines_apart`).
fn join(mut text: &[u8], mut lines: impl BufRead, whole: &mut Vec<u8>) -> io::Result<()> {
    let mut number = Vec::new();
    while lines.read_until(b'\t', &mut number)? > 0 {
        let digits = number.strip_suffix(b"\t").unwrap_or(&number);
        for _ in 0..digits.iter().fold(0, |number, digit| 10 * number + usize::from(digit - b'0')) {
            text.read_until(b'\n', whole)?;
        }
        lines.read_until(b'\n', whole)?;
        number.clear();
    }
    whole.extend_from_slice(text);
    Ok(())
}

/// The images for a device of this compute capability, best first: machine code where it takes that and there is some, and
/// PTX. Of one target where the environment names one.
pub fn candidates(capability: (u32, u32), takes_machine_code: bool) -> Result<Vec<&'static Image>, ImageError> {
    let asked = env::var(VARIABLE).ok().filter(|asked| !asked.is_empty());
    candidates_of(IMAGES, capability, takes_machine_code, asked.as_deref())
}

fn candidates_of<'a>(
    images: &'a [Image],
    capability: (u32, u32),
    takes_machine_code: bool,
    asked: Option<&str>,
) -> Result<Vec<&'a Image>, ImageError> {
    let mut runnable: Vec<&Image> =
        images.iter().filter(|image| image.runs_on(capability, takes_machine_code)).collect();
    runnable.sort_by_key(|image| std::cmp::Reverse(image.capability()));
    if runnable.is_empty() {
        return Err(ImageError::TooOld { capability });
    }
    let named = |image: &&&Image| asked.is_none_or(|asked| image.is_named(asked));
    let find = |wanted: fn(&Code) -> bool| runnable.iter().filter(named).find(|image| wanted(&image.code));
    let machine_code = find(|code| matches!(code, Code::Cubin(_)));
    let ptx = find(|code| matches!(code, Code::Ptx { .. }));
    let found: Vec<&Image> = machine_code.into_iter().chain(ptx).copied().collect();
    match asked {
        Some(asked) if found.is_empty() => {
            let asked = asked.to_owned();
            Err(if images.iter().any(|image| image.is_named(&asked)) {
                ImageError::OtherDevice {
                    asked,
                    capability,
                    others: runnable.iter().map(ToString::to_string).collect(),
                }
            } else {
                ImageError::Unknown { asked, known: images.iter().map(ToString::to_string).collect() }
            })
        }
        _ => Ok(found),
    }
}

/// Loads the first image that the driver takes; PTX with its line table or without.
///
/// The driver judges by the file, so a refusal of machine code is followed by the next image, with a warning; any other
/// failure, and a refusal of the last image, is an error.
pub(super) fn load(images: &[&'static Image], with_lines: bool) -> Result<(Module, &'static Image), GpuError> {
    let mut left = images.iter().peekable();
    loop {
        let image = left.next().expect("candidates() gives at least one");
        let error = match image.load(with_lines) {
            Ok(module) => return Ok((module, image)),
            Err(error) => error,
        };
        let refused = matches!(error, CudaError::InvalidImage | CudaError::NoBinaryForGpu | CudaError::InvalidSource);
        let failure = driver_error(format!("loading the kernels' image {image}"), &error);
        match left.peek() {
            Some(next) if refused => tracing::warn!("{failure}; the driver compiles {next} instead, once"),
            _ => return Err(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Packed = Packed { archive: b"", start: 0, end: 0 };
    const NO_TEXT: Code = Code::Ptx { text: NOTHING, lines: NOTHING };

    const ALL: &[Image] = &[
        Image { target: "sm_80", code: NO_TEXT },
        Image { target: "sm_80", code: Code::Cubin(NOTHING) },
        Image { target: "sm_89", code: Code::Cubin(NOTHING) },
        Image { target: "sm_90a", code: NO_TEXT },
        Image { target: "sm_90a", code: Code::Cubin(NOTHING) },
    ];

    fn chosen(capability: (u32, u32), machine_code: bool, asked: Option<&str>) -> Result<String, ImageError> {
        let images = candidates_of(ALL, capability, machine_code, asked)?;
        Ok(images.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn a_device_gets_the_newest_images_that_it_runs() {
        for (capability, images) in [
            ((8, 0), "sm_80.cubin sm_80.ptx"),
            ((8, 6), "sm_80.cubin sm_80.ptx"),
            ((8, 7), "sm_80.ptx"),
            ((8, 9), "sm_89.cubin sm_80.ptx"),
            ((9, 0), "sm_90a.cubin sm_90a.ptx"),
            ((10, 0), "sm_80.ptx"),
            ((12, 1), "sm_80.ptx"),
        ] {
            assert_eq!(chosen(capability, true, None).as_deref(), Ok(images), "{capability:?}");
        }
        assert_eq!(chosen((9, 0), false, None).as_deref(), Ok("sm_90a.ptx"));
        assert_eq!(chosen((7, 5), true, None), Err(ImageError::TooOld { capability: (7, 5) }));
    }

    #[test]
    fn a_named_image_is_taken_or_refused_with_the_reason() {
        assert_eq!(chosen((9, 0), false, Some("sm_80")).as_deref(), Ok("sm_80.ptx"));
        assert_eq!(chosen((8, 0), true, Some("sm_80")).as_deref(), Ok("sm_80.cubin sm_80.ptx"));
        assert_eq!(chosen((8, 0), true, Some("sm_80.ptx")).as_deref(), Ok("sm_80.ptx"));
        let text = |capability, asked| chosen(capability, false, Some(asked)).unwrap_err().to_string();
        assert_eq!(
            text((8, 0), "sm_90a"),
            "FERROWARP_IMAGE=sm_90a does not run on this device, of compute capability 8.0; sm_80.ptx would"
        );
        assert!(text((9, 0), "sm_90a.cubin").ends_with("; sm_90a.ptx, sm_80.ptx would"));
        assert!(text((9, 0), "sm_70").contains("there is no such image; expected one of sm_80.ptx, sm_80.cubin, "));
    }

    #[test]
    fn the_build_has_an_image_for_every_device_from_ampere_on() {
        for capability in [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)] {
            assert!(IMAGES.iter().any(|image| image.runs_on(capability, false)), "{capability:?}");
        }
    }

    #[test]
    fn an_image_takes_a_quarter_of_its_size_or_less_and_text_an_eighth() {
        for image in IMAGES {
            let (packed, least) = match image.code {
                Code::Ptx { text, .. } => (text, 8),
                Code::Cubin(packed) => (packed, 4),
            };
            let (archive, bytes) = (packed.archive.len(), packed.unpack().len());
            assert!(archive * least <= bytes, "{image}: {archive} bytes for {bytes}");
        }
    }

    #[test]
    fn ptx_has_its_line_table_where_that_is_asked_for_and_is_what_was_compiled() {
        for image in IMAGES {
            let Code::Ptx { text, lines } = image.code else { continue };
            let compiled = format!("{}/kernels.{}.ptx", env!("OUT_DIR"), image.target);
            let compiled = std::fs::read_to_string(compiled).unwrap();
            assert!(compiled.contains("\t.loc\t"), "{image}");
            // Without `assert_eq`, which would print them.
            assert!(
                image.ptx().unwrap() == compiled,
                "{image}: the text and its line table make another text than was compiled"
            );
            assert!(unpacked(text, lines, true).to_str() == Ok(&compiled), "{image}");
            // As they are handed out, with the table apart and numbers as differences.
            let (text, lines) = cuda_builder::lines_apart(&compiled);
            let [text, lines] = [cuda_builder::numbers_as_differences(&text), lines.into_bytes()].map(|part| {
                let archive = zstd::encode_all(&part[..], 1).unwrap().leak();
                Packed { archive, start: 0, end: part.len() as u64 }
            });
            assert!(unpacked(text, lines, true).to_str() == Ok(&compiled), "{image}, with the table apart");
            let without = unpacked(text, lines, false);
            assert!(
                without.count_bytes() < compiled.len() && !without.to_str().unwrap().contains("\t.loc\t"),
                "{image}"
            );
            // What was unpacked once is there.
            assert!(std::ptr::eq(unpacked(text, lines, false), without), "{image}");
        }
        for name in ["%r0, %r17, %r4+8, %r007 $L_a1_2$3 %tid.x %%r5", "%", "$L__BB12_", "none", ""] {
            let restored = with_numbers(&cuda_builder::numbers_as_differences(name));
            assert_eq!(str::from_utf8(&restored), Ok(name));
        }
        let mut joined = Vec::new();
        join(b"a\nb\nc\n", &b"0\tfirst\n2\tthird\n0\tagain\n"[..], &mut joined).unwrap();
        assert_eq!(String::from_utf8(joined).unwrap(), "first\na\nb\nthird\nagain\nc\n");
    }

    #[test]
    fn ptx_is_loaded_where_machine_code_is_refused_and_nothing_else_is_passed_over() {
        let text_of = |text| Code::Ptx { text, lines: Packed { end: 0, ..text } };
        let made = |code: fn(Packed) -> Code, content: &[u8]| -> &'static Image {
            let archive = zstd::encode_all(content, 1).unwrap().leak();
            let packed = Packed { archive, start: 0, end: content.len() as u64 };
            Box::leak(Box::new(Image { target: "sm_90a", code: code(packed) }))
        };
        let machine_code = made(Code::Cubin, b"\x7fELF, for softcuda not to run");
        let broken = made(text_of, b"this is no PTX");
        driver::select(driver::DeviceChoice::Soft).unwrap();
        let _context = cust::quick_init().unwrap();
        let ptx = IMAGES.iter().find(|image| matches!(image.code, Code::Ptx { .. })).unwrap();
        assert_eq!(load(&[machine_code, ptx], true).unwrap().1.to_string(), ptx.to_string());
        for images in [&[machine_code][..], &[broken, ptx]] {
            let error = load(images, true).map(drop).unwrap_err().to_string();
            assert!(error.starts_with(&format!("loading the kernels' image {}: ", images[0])), "{error}");
        }
    }
}
