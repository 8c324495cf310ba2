//! Finding a `rustc` that compiles for the GPU.
//!
//! Every rustc carries LLVM's NVPTX backend; what may be missing is `core` for the target: prebuilt (rustup's
//! `nvptx64-nvidia-cuda` target), or as library sources that cargo builds it from.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::BuildError;

/// The target triple of the device code.
pub const TARGET: &str = "nvptx64-nvidia-cuda";

/// The oldest rustc, 1.x, whose NVPTX backend has what the kernels use.
const OLDEST_MINOR: u32 = 90;

/// A rustc that compiles device code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceCompiler {
    /// The program.
    pub rustc: PathBuf,
    /// Whether `core` must be built from its sources (`-Zbuild-std`), the target having no prebuilt one.
    pub build_core: bool,
}

/// The first of: `FERROWARP_DEVICE_RUSTC`, the rustc of this build, the distribution's `/usr/bin/rustc`, that is new
/// enough and has `core` for the target, prebuilt or as sources.
pub fn find() -> Result<DeviceCompiler, BuildError> {
    let mut tried = String::new();
    let named = env::var_os("FERROWARP_DEVICE_RUSTC").filter(|value| !value.is_empty());
    let candidates = match &named {
        Some(path) => vec![("FERROWARP_DEVICE_RUSTC", PathBuf::from(path))],
        None => vec![
            ("this build's rustc", PathBuf::from(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))),
            ("the distribution's rustc", PathBuf::from("/usr/bin/rustc")),
        ],
    };
    for (label, rustc) in candidates {
        match examine(&rustc) {
            Ok(build_core) => return Ok(DeviceCompiler { rustc, build_core }),
            Err(reason) => tried += &format!("  {label} ({}): {reason}\n", rustc.display()),
        }
    }
    Err(BuildError::NoCompiler { tried: tried.trim_end().to_owned() })
}

/// Whether `core` has to be built, or why the compiler will not do.
fn examine(rustc: &Path) -> Result<bool, String> {
    let version = output(rustc, &["--version"])?;
    let minor = version.strip_prefix("rustc 1.").and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    match minor {
        Some(minor) if minor >= OLDEST_MINOR => {}
        Some(_) => {
            return Err(format!("is {}; 1.{OLDEST_MINOR} or newer is needed", version.trim()));
        }
        None => return Err(format!("printed {:?} as its version", version.trim())),
    }
    let library = PathBuf::from(output(rustc, &["--print", "target-libdir", "--target", TARGET])?.trim());
    let prebuilt = std::fs::read_dir(&library).is_ok_and(|mut files| {
        files.any(|file| file.is_ok_and(|file| file.file_name().to_string_lossy().starts_with("libcore-")))
    });
    if prebuilt {
        return Ok(false);
    }
    let sources = PathBuf::from(output(rustc, &["--print", "sysroot"])?.trim()).join("lib/rustlib/src/rust/library");
    if sources.join("core/src/lib.rs").exists() {
        return Ok(true);
    }
    Err(format!("has neither a prebuilt core in {} nor library sources in {}", library.display(), sources.display()))
}

fn output(rustc: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(rustc).args(arguments).output().map_err(|error| format!("cannot be run: {error}"))?;
    if !output.status.success() {
        return Err(format!("`{}` failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
