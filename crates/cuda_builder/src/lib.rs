//! Compiles a crate of kernels to PTX from a build script, with Rust-CUDA's builder API over rustc's NVPTX backend.
//!
//! ```no_run
//! use cuda_builder::{CudaBuilder, NvvmArch};
//!
//! let out = std::path::PathBuf::from(std::env::var("OUT_DIR").unwrap());
//! CudaBuilder::new("kernels").arch(NvvmArch::Compute80).copy_to(out.join("kernels.ptx")).build().unwrap();
//! ```
//!
//! A crate that holds both kernels and what launches them has a build script of one line, and names no kernel anywhere:
//!
//! ```no_run
//! fn main() { cuda_builder::build_kernels() }
//! ```
//!
//! The crate is built as a `cdylib` for `nvptx64-nvidia-cuda` with fat LTO and one codegen unit, and its assembly *is*
//! the PTX: no linker runs. The compiler is the first found of those that `compiler::find` names. What the build depends
//! on is told to cargo, so that it runs again when a kernel, the toolchain or the architecture changed, and only then.

#![allow(clippy::print_stdout)] // cargo reads what a build script prints
#![allow(clippy::needless_doctest_main)] // a build script of one line has it

mod assembler;
mod compiler;
mod entries;
mod lines;
mod manifest;
mod modules;
mod numbers;
mod own;

use manifest::Manifest;
use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

pub use assembler::Assembler;
pub use compiler::DeviceCompiler;
pub use entries::{Bounds, Entry, read as read_entries};
pub use lines::lines_apart;
pub use modules::write_modules;
pub use numbers::numbers_as_differences;
pub use own::{build_kernels, build_kernels_for};

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
    #[error("{stderr}\n\nThe kernels do not compile for the device. The command was\n{command}")]
    Compile { command: String, stderr: String },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("{path}: the compiler wrote no kernel (no `.entry` in the PTX): is every kernel marked #[kernel]?")]
    Empty { path: PathBuf },
    #[error("{path}: {problem}")]
    Lines { path: PathBuf, problem: String },
    #[error("the assembler {path} {problem}")]
    Assembler { path: PathBuf, problem: String },
    #[error("{path}: {problem}")]
    Manifest { path: PathBuf, problem: String },
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
        match self {
            NvvmArch::Compute80 | NvvmArch::Compute90a => "+ptx80",
            // Ada's conversions of 8-bit floats came later than Hopper's.
            NvvmArch::Compute89 => "+ptx81",
        }
    }
}

/// What becomes of the bounds that a kernel states: see [`CudaBuilder::bounds`].
type ChangeBounds = Box<dyn Fn(&str, Bounds) -> Bounds>;

/// Builds one crate of kernels into one PTX image.
pub struct CudaBuilder {
    crate_path: PathBuf,
    arch: NvvmArch,
    features: Option<String>,
    copy_to: Option<PathBuf>,
    bounds: Option<ChangeBounds>,
    threads_jumps: bool,
    lines: bool,
}

impl CudaBuilder {
    /// `path` is the kernel crate's folder, relative to the package whose build script this is.
    pub fn new(path: impl AsRef<Path>) -> Self {
        let crate_path = path.as_ref().to_owned();
        CudaBuilder {
            crate_path,
            arch: NvvmArch::Compute80,
            features: None,
            copy_to: None,
            bounds: None,
            threads_jumps: false,
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

    /// The crate's features, with commas between, in place of its default ones.
    pub fn features(mut self, features: impl Into<String>) -> Self {
        self.features = Some(features.into());
        self
    }

    /// Lets the compiler make copies of what stands between two questions for the same condition, one for each answer (rustc's pass
    /// `JumpThreading`). Of a barrier, or an exchange between lanes, that stands there it makes copies too, and where lanes answer differently
    /// each half of them then waits at its own: a kernel must have none there.
    pub fn thread_jumps(mut self) -> Self {
        self.threads_jumps = true;
        self
    }

    /// What becomes of the bounds that a kernel states (`#[kernel(threads = …, blocks = …)]`), by its name: as it says,
    /// unless told.
    pub fn bounds(mut self, change: impl Fn(&str, Bounds) -> Bounds + 'static) -> Self {
        self.bounds = Some(Box::new(change));
        self
    }

    /// Whether the PTX says which line of Rust each instruction comes from, as it does unless told: messages about faults and
    /// profilers name it. The instructions are the same with and without.
    pub fn line_tables(mut self, wanted: bool) -> Self {
        self.lines = wanted;
        self
    }

    /// Compiles, checks and copies; gives the PTX's path.
    ///
    /// Where the build script that asks is itself being run for the device (the crate builds its own kernels), nothing is
    /// compiled, or it would go on without end: the file is empty.
    pub fn build(self) -> Result<PathBuf, BuildError> {
        if is_device_build() {
            let path = self.copy_to.unwrap_or_else(|| target_dir().join("empty.ptx"));
            fs::write(&path, "").map_err(|source| BuildError::File { path: path.clone(), source })?;
            return Ok(path);
        }
        let compiler = compiler::find()?;
        let (assembly, inputs) = self.compile(&compiler)?;
        // Behind what may fail: cargo runs a failed build again in any case, and would show these lines with the error.
        for variable in ["FERROWARP_DEVICE_RUSTC", "RUSTUP_TOOLCHAIN"] {
            println!("cargo::rerun-if-env-changed={variable}");
        }
        println!("cargo::rerun-if-changed={}", compiler.rustc.display());
        for input in inputs {
            println!("cargo::rerun-if-changed={}", input.display());
        }
        let ptx =
            fs::read_to_string(&assembly).map_err(|source| BuildError::File { path: assembly.clone(), source })?;
        if entries::read(&ptx).is_empty() {
            return Err(BuildError::Empty { path: assembly });
        }
        let ptx = lines::with_callers(&ptx, &workspace_root())
            .map_err(|problem| BuildError::Lines { path: assembly.clone(), problem })?;
        let ptx =
            entries::with_tensor_maps(&ptx).map_err(|problem| BuildError::Lines { path: assembly.clone(), problem })?;
        let change = |name: &str, bounds| self.bounds.as_ref().map_or(bounds, |change| change(name, bounds));
        let ptx = entries::with_bounds(&ptx, change);
        let path = self.copy_to.clone().unwrap_or_else(|| assembly.with_extension("ptx"));
        fs::write(&path, &ptx).map_err(|source| BuildError::File { path: path.clone(), source })?;
        Ok(path)
    }

    /// Runs cargo for the device; gives the path of the assembly it wrote, and what it was made of.
    fn compile(&self, compiler: &DeviceCompiler) -> Result<(PathBuf, BTreeSet<PathBuf>), BuildError> {
        let manifest = Manifest::read(&self.crate_path)?;
        // A folder of its own: the outer cargo holds the lock on its target folder while this runs, and a folder for
        // each architecture, compiler and flags keeps cargo from taking one's output for the other's, and crates with other flags from being
        // compiled anew in turns.
        let jumps = if self.threads_jumps { "-threaded" } else { "" };
        let target_dir = target_dir().join("device").join(format!("{}{jumps}", self.arch.target_cpu()));
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(&cargo);
        command
            .args(["rustc", "--quiet", "--release", "--lib", "--crate-type", "cdylib", "--target", compiler::TARGET])
            .arg("--manifest-path")
            .arg(&manifest.path)
            .arg("--target-dir")
            .arg(&target_dir);
        if let Some(features) = &self.features {
            command.args(["--no-default-features", "--features", features]);
        }
        if compiler.build_core {
            command.arg("-Zbuild-std=core");
        }
        // Warnings are the host's build to give: it compiles the same text.
        command.args(["--", "--emit=asm", "-Awarnings"]).args(crate_attributes(&manifest.root_source()?));
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
                    "-Ctarget-cpu={} -Ctarget-feature={} -Clinker=true{}{}",
                    self.arch.target_cpu(),
                    self.arch.ptx_feature(),
                    // See `thread_jumps`.
                    if self.threads_jumps { "" } else { " -Zmir-enable-passes=-JumpThreading" },
                    self.arch.cfgs()
                ),
            )
            .env("CARGO_PROFILE_RELEASE_LTO", "fat")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
            .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
            .env("CARGO_PROFILE_RELEASE_DEBUG", if self.lines { "line-tables-only" } else { "false" });
        let output = command
            .output()
            .map_err(|source| BuildError::Run { program: cargo.to_string_lossy().into_owned(), source })?;
        if !output.status.success() {
            let stderr = own::rustc_errors(&String::from_utf8_lossy(&output.stderr));
            return Err(BuildError::Compile { command: shown(&command), stderr });
        }
        let deps = target_dir.join(compiler::TARGET).join("release/deps");
        let inputs = self.inputs(&manifest, [&deps, &target_dir.join("release/deps")])?;
        Ok((deps.join(format!("{}.s", manifest.crate_name)), inputs))
    }

    /// Every file that the device build read: the sources in the compiler's dependency files (those of the device, and of the
    /// host for macros), the manifests, the lock file and the toolchain pin. Not what a version names: the compiler's library
    /// and the registry's crates.
    fn inputs(&self, manifest: &Manifest, folders: [&Path; 2]) -> Result<BTreeSet<PathBuf>, BuildError> {
        let root = workspace_root();
        let mut inputs = BTreeSet::from([
            root.join("Cargo.toml"),
            root.join("Cargo.lock"),
            root.join("rust-toolchain.toml"),
            manifest.path.clone(),
        ]);
        for folder in folders {
            let listing =
                fs::read_dir(folder).map_err(|source| BuildError::File { path: folder.to_owned(), source })?;
            for entry in listing.flatten().filter(|entry| entry.path().extension().is_some_and(|end| end == "d")) {
                let Ok(rules) = fs::read_to_string(entry.path()) else {
                    continue;
                };
                let rules = rules.lines().filter(|line| !line.starts_with('#'));
                let sources = rules.filter_map(|line| Some(line.split_once(": ")?.1)).flat_map(|rest| rest.split(' '));
                inputs.extend(sources.map(|source| root.join(source)).filter(|source| !has_a_version(source)));
            }
        }
        // One that is not there would have cargo run this every time.
        inputs.retain(|input| input.exists());
        Ok(inputs)
    }
}

/// Whether the build script that asks is run for the device: its crate builds its own kernels, and this is that build.
fn is_device_build() -> bool {
    env::var_os("TARGET").is_some_and(|target| target == compiler::TARGET)
}

/// Whether a source belongs to the compiler's library or to a registry or git checkout that cargo keeps.
fn has_a_version(source: &Path) -> bool {
    let folders: Vec<_> = source.components().map(|part| part.as_os_str()).collect();
    folders
        .windows(2)
        .any(|pair| pair == ["lib", "rustlib"] || pair == ["registry", "src"] || pair == ["git", "checkouts"])
}

/// What the root of a crate of kernels must say when it is compiled for the device and does not: no standard library, and the
/// features that `#[kernel]` uses.
fn crate_attributes(root_source: &str) -> Vec<String> {
    let mut attributes = Vec::new();
    if !root_source.contains("no_std") {
        attributes.push("-Zcrate-attr=no_std".to_owned());
    }
    for feature in ["abi_ptx", "asm_experimental_arch"] {
        if !root_source.contains(feature) {
            attributes.push(format!("-Zcrate-attr=feature({feature})"));
        }
    }
    attributes
}

/// A command as a person would type it.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
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
