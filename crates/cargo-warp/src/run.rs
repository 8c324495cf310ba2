//! `cargo warp run -- python x.py`: a program that drives CUDA, on softcuda.
//!
//! The program is not changed. It looks for `libcuda.so.1` when it starts, and finds softcuda's, because the folder that has
//! it stands first in `LD_LIBRARY_PATH`.

use std::env;
use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

use anyhow::{Context, Result, bail};

/// A program and its arguments, after `--`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Use this library rather than build one: libsoftcuda_driver.so of a build of ferrowarp, of any profile.
    #[arg(long, value_name = "FILE", env = "SOFTCUDA_LIBRARY")]
    library: Option<PathBuf>,
    /// Give the program so many devices, 1 to 8, each with its own memory.
    #[arg(long, value_name = "NUMBER", env = "SOFTCUDA_DEVICES")]
    devices: Option<u32>,
    /// Watch the program's kernels: reads of what nobody wrote, accesses that nothing orders.
    #[arg(long)]
    sanitizer: bool,
    /// The program to run, and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    program: Vec<OsString>,
}

/// Becomes the program; returns only where that fails.
pub fn run(arguments: &Arguments) -> Result<()> {
    let library = match &arguments.library {
        Some(library) => library.canonicalize().with_context(|| format!("{}: no such library", library.display()))?,
        None => build()?,
    };
    let folder = folder_for(&library)?;
    let mut path = folder.into_os_string();
    if let Some(known) = env::var_os("LD_LIBRARY_PATH").filter(|known| !known.is_empty()) {
        path.push(":");
        path.push(known);
    }
    let Some((program, rest)) = arguments.program.split_first() else {
        bail!("no program to run; expected `cargo warp run -- PROGRAM ARGUMENTS`");
    };
    let mut command = Command::new(program);
    command.args(rest).env("LD_LIBRARY_PATH", path);
    if let Some(devices) = arguments.devices {
        command.env("SOFTCUDA_DEVICES", devices.to_string());
    }
    if arguments.sanitizer {
        command.env("FERROWARP_SANITIZER", "1");
    }
    // The program takes this process's place, so its signals and its exit status are its own.
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

/// Builds the library, optimised, from the sources that this program was built from. Where nothing has changed that takes a
/// moment.
fn build() -> Result<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let manifest = sources.join("crates/libcuda/Cargo.toml");
    if !manifest.exists() {
        bail!("{}: no sources of softcuda's library; give the built one with --library", manifest.display());
    }
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--release", "--package", "libcuda", "--message-format", "json-render-diagnostics"]);
    // In ferrowarp's folder, so that its own cargo configuration and toolchain hold.
    let built = build.current_dir(&sources).stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    if !built.status.success() {
        bail!("softcuda's library does not build; its sources are in {}", sources.display());
    }
    // A line of JSON for each artefact; the library's names its file.
    let messages = String::from_utf8_lossy(&built.stdout);
    let file = messages
        .lines()
        .filter_map(|message| message.split('"').find(|part| part.ends_with("libsoftcuda_driver.so")))
        .next_back()
        .context("cargo named no libsoftcuda_driver.so")?;
    Ok(PathBuf::from(file))
}

/// The folder beside the library in which it has the names that programs look for.
fn folder_for(library: &Path) -> Result<PathBuf> {
    let folder = library.parent().unwrap_or(Path::new("/")).join("softcuda");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for name in ["libcuda.so.1", "libcuda.so"] {
        let link = folder.join(name);
        if fs::read_link(&link).is_ok_and(|known| known == library) {
            continue;
        }
        // Beside the name and then over it: a program that starts meanwhile finds the old one or the new one.
        let new = folder.join(format!("{name}.{}", std::process::id()));
        symlink(library, &new)
            .and_then(|()| fs::rename(&new, &link))
            .or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
            .with_context(|| format!("cannot make {}", link.display()))?;
    }
    Ok(folder)
}
