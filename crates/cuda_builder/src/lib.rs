//! Compiles a crate of kernels to PTX from a build script, with Rust-CUDA's builder API over rustc's NVPTX backend.
//!
//! ```no_run
//! use cuda_builder::{CudaBuilder, NvvmArch};
//!
//! let out = std::path::PathBuf::from(std::env::var("OUT_DIR").unwrap());
//! CudaBuilder::new("kernels").arch(NvvmArch::Compute80).copy_to(out.join("kernels.ptx")).build().unwrap();
//! ```
//!
//! The crate is built as a `cdylib` for `nvptx64-nvidia-cuda` with fat LTO and one codegen unit, and its assembly *is*
//! the PTX: no linker runs. The compiler is the first found of those that `compiler::find` names. What the build depends
//! on is told to cargo, so that it runs again when a kernel, the toolchain or the architecture changed, and only then.

#![allow(clippy::print_stdout)] // cargo reads what a build script prints

mod assembler;
mod compiler;
mod entries;
mod lines;

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

pub use assembler::Assembler;
pub use compiler::DeviceCompiler;
use cuda_std::KernelInfo;

/// Why no PTX was made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's text is its documentation
pub enum BuildError {
    #[error(
        "no Rust compiler for GPU code was found.\n{tried}\nEither of these provides one:\n  \
         1. rustup:  rustup target add nvptx64-nvidia-cuda   (or: rustup component add rust-src)\n  \
         2. Debian:  apt-get install rustc-web rust-web-src  (rustc 1.90 or newer, with its library sources)\n\
         `./x setup` does this. FERROWARP_DEVICE_RUSTC=/path/to/rustc names a compiler directly."
    )]
    NoCompiler { tried: String },
    #[error("cannot run {program}: {source}")]
    Run { program: String, source: std::io::Error },
    #[error("the kernels do not compile for the device: `{command}` failed:\n{stderr}")]
    Compile { command: String, stderr: String },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("{path}: the compiler wrote no kernel (no `.entry` in the PTX): is every kernel marked #[kernel]?")]
    Empty { path: PathBuf },
    #[error("{path}: {problem}")]
    Lines { path: PathBuf, problem: String },
    #[error("the assembler {path} {problem}")]
    Assembler { path: PathBuf, problem: String },
    #[error("{path}: kernel `{kernel}`: {problem}")]
    Entry { path: PathBuf, kernel: String, problem: String },
}

/// The oldest GPU generation that an image runs on. A PTX image also runs on every newer one, unless its target's name
/// ends in `a`: that one runs on its own generation only.
///
/// Device code can ask with `cfg(cuda_arch_at_least = "89")` and `"90"` what its image may assume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NvvmArch {
    /// Ampere (A100): `sm_80`.
    Compute80,
    /// Ada (RTX 40): `sm_89`.
    Compute89,
    /// Hopper (H100, H200), with the instructions that only Hopper has: `sm_90a`.
    Compute90a,
}

impl NvvmArch {
    /// The `-Ctarget-cpu` name.
    pub fn target_cpu(self) -> &'static str {
        match self {
            NvvmArch::Compute80 => "sm_80",
            NvvmArch::Compute89 => "sm_89",
            NvvmArch::Compute90a => "sm_90a",
        }
    }

    /// `--cfg` flags for device code: the generations after `sm_80` that the image may assume.
    fn cfgs(self) -> &'static str {
        match self {
            NvvmArch::Compute80 => "",
            NvvmArch::Compute89 => r#" --cfg=cuda_arch_at_least="89""#,
            NvvmArch::Compute90a => r#" --cfg=cuda_arch_at_least="89" --cfg=cuda_arch_at_least="90""#,
        }
    }

    /// The PTX version the image asks for: the oldest that knows the architecture and what the kernels use.
    fn ptx_feature(self) -> &'static str {
        "+ptx80"
    }
}

/// Builds one crate of kernels into one PTX image.
pub struct CudaBuilder {
    crate_path: PathBuf,
    arch: NvvmArch,
    copy_to: Option<PathBuf>,
    kernels: Option<Vec<KernelInfo>>,
    lines: bool,
}

impl CudaBuilder {
    /// `path` is the kernel crate's folder, relative to the package whose build script this is.
    pub fn new(path: impl AsRef<Path>) -> Self {
        CudaBuilder {
            crate_path: path.as_ref().to_owned(),
            arch: NvvmArch::Compute80,
            copy_to: None,
            kernels: None,
            lines: true,
        }
    }

    /// The architecture to compile for; `sm_80` unless told.
    pub fn arch(mut self, arch: NvvmArch) -> Self {
        self.arch = arch;
        self
    }

    /// Where the PTX is put.
    pub fn copy_to(mut self, path: impl AsRef<Path>) -> Self {
        self.copy_to = Some(path.as_ref().to_owned());
        self
    }

    /// The kernels that the image must hold, no more and no fewer, with these parameter sizes: `#[kernel]`'s handles,
    /// so that what the host launches is what the device has.
    pub fn kernels(mut self, kernels: impl IntoIterator<Item = KernelInfo>) -> Self {
        self.kernels = Some(kernels.into_iter().collect());
        self
    }

    /// Whether the PTX says which line of Rust each instruction comes from, as it does unless told: messages about faults and
    /// profilers name it. The instructions are the same with and without.
    pub fn line_tables(mut self, wanted: bool) -> Self {
        self.lines = wanted;
        self
    }

    /// Compiles, checks and copies; gives the PTX's path.
    pub fn build(self) -> Result<PathBuf, BuildError> {
        for variable in ["FERROWARP_DEVICE_RUSTC", "RUSTUP_TOOLCHAIN"] {
            println!("cargo::rerun-if-env-changed={variable}");
        }
        let compiler = compiler::find()?;
        println!("cargo::rerun-if-changed={}", compiler.rustc.display());
        let ptx_path = self.compile(&compiler)?;
        let ptx =
            fs::read_to_string(&ptx_path).map_err(|source| BuildError::File { path: ptx_path.clone(), source })?;
        entries::check(&ptx_path, &ptx, self.kernels.as_deref())?;
        let ptx = lines::with_callers(&ptx, &workspace_root())
            .map_err(|problem| BuildError::Lines { path: ptx_path.clone(), problem })?;
        let ptx = entries::with_bounds(&ptx, self.kernels.as_deref().unwrap_or_default());
        let ptx_path = ptx_path.with_extension("ptx");
        fs::write(&ptx_path, &ptx).map_err(|source| BuildError::File { path: ptx_path.clone(), source })?;
        let Some(copy_to) = self.copy_to else {
            return Ok(ptx_path);
        };
        fs::write(&copy_to, &ptx).map_err(|source| BuildError::File { path: copy_to.clone(), source })?;
        Ok(copy_to)
    }

    /// Runs cargo for the device and gives the path of the assembly it wrote.
    fn compile(&self, compiler: &DeviceCompiler) -> Result<PathBuf, BuildError> {
        let manifest = self.crate_path.join("Cargo.toml");
        // A folder of its own: the outer cargo holds the lock on its target folder while this runs, and a folder for
        // each architecture and compiler keeps cargo from taking one's output for the other's.
        let target_dir = target_dir().join("device").join(self.arch.target_cpu());
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(&cargo);
        command
            .args(["rustc", "--release", "--lib", "--crate-type", "cdylib", "--target", compiler::TARGET])
            .arg("--manifest-path")
            .arg(&manifest)
            .arg("--target-dir")
            .arg(&target_dir);
        if compiler.build_core {
            command.arg("-Zbuild-std=core");
        }
        command.args(["--", "--emit=asm"]);
        for variable in [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "CARGO_TARGET_DIR",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "CLIPPY_ARGS",
            "CLIPPY_CONF_DIR",
        ] {
            command.env_remove(variable);
        }
        command
            .env("RUSTC", &compiler.rustc)
            .env("RUSTC_BOOTSTRAP", "1") // the NVPTX ABI and inline assembly are behind feature gates
            .env(
                "CARGO_TARGET_NVPTX64_NVIDIA_CUDA_RUSTFLAGS",
                format!(
                    "-Ctarget-cpu={} -Ctarget-feature={} -Clinker=true{}",
                    self.arch.target_cpu(),
                    self.arch.ptx_feature(),
                    self.arch.cfgs()
                ),
            )
            .env("CARGO_PROFILE_RELEASE_LTO", "fat")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
            .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
            .env("CARGO_PROFILE_RELEASE_DEBUG", if self.lines { "line-tables-only" } else { "false" });
        let shown = format!("{command:?}");
        let output = command
            .output()
            .map_err(|source| BuildError::Run { program: cargo.to_string_lossy().into_owned(), source })?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(BuildError::Compile { command: shown, stderr });
        }
        let crate_name = crate_name(&manifest)?;
        let deps = target_dir.join(compiler::TARGET).join("release/deps");
        self.track(&deps.join(format!("{crate_name}.d")))?;
        Ok(deps.join(format!("{crate_name}.s")))
    }

    /// Tells cargo every file of the workspace that the device build read: the sources in the compiler's dependency
    /// files, the manifests beside them, the lock file and the toolchain pin.
    fn track(&self, dependency_file: &Path) -> Result<(), BuildError> {
        let folder = dependency_file.parent().unwrap_or(Path::new("."));
        let root = workspace_root();
        let mut inputs = BTreeSet::from([
            root.join("Cargo.toml"),
            root.join("Cargo.lock"),
            root.join("rust-toolchain.toml"),
            self.crate_path.join("Cargo.toml"),
        ]);
        let listing = fs::read_dir(folder).map_err(|source| BuildError::File { path: folder.to_owned(), source })?;
        for entry in listing.flatten().filter(|entry| entry.path().extension().is_some_and(|end| end == "d")) {
            let Ok(rules) = fs::read_to_string(entry.path()) else {
                continue;
            };
            for line in rules.lines().filter(|line| !line.starts_with('#')) {
                let Some((_, sources)) = line.split_once(": ") else {
                    continue;
                };
                let sources = sources.split(' ').map(|source| root.join(source));
                inputs.extend(sources.filter(|source| source.starts_with(&root)));
            }
        }
        // cuda_std_macros runs in the compiler: its dependency file is with the host's, not the device's.
        inputs.insert(root.join("crates/cuda_std_macros/src/lib.rs"));
        for input in inputs {
            println!("cargo::rerun-if-changed={}", input.display());
        }
        Ok(())
    }
}

/// The name of the package that the manifest describes, as a crate name.
fn crate_name(manifest: &Path) -> Result<String, BuildError> {
    let text = fs::read_to_string(manifest).map_err(|source| BuildError::File { path: manifest.to_owned(), source })?;
    let name = text.lines().find_map(|line| line.strip_prefix("name = ")).unwrap_or_default();
    Ok(name.trim_matches('"').replace('-', "_"))
}

/// The folder with the workspace's Cargo.lock: the nearest one at or above the package being built.
fn workspace_root() -> PathBuf {
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| ".".into()));
    let root = package.ancestors().find(|folder| folder.join("Cargo.lock").exists()).map(Path::to_owned);
    root.unwrap_or(package)
}

/// Cargo's target folder, found from OUT_DIR (`TARGET/PROFILE/build/PACKAGE-HASH/out`).
fn target_dir() -> PathBuf {
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_else(|| "target/debug/build/package/out".into()));
    let folder = out.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    folder.map_or_else(|| workspace_root().join("target"), Path::to_owned)
}
