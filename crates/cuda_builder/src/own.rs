//! A crate that builds its own kernels: one crate for kernels, what launches them, and their tests.

use std::{env, path::Path, path::PathBuf, process::exit};

use crate::{BuildError, CudaBuilder, NvvmArch, is_device_build};

/// The variable by which `#[kernel]` finds the image that the kernel is in, when its crate is compiled for the host.
const IMAGE: &str = "WARP_IMAGE";

/// Compiles the kernels of the crate whose build script this is, for `sm_80` and everything after it. It finds them itself:
/// every function that is marked `#[kernel]`. Where they do not compile, the build ends with rustc's errors.
///
/// The crate's handles then know their image, so that whoever has a handle can launch it.
pub fn build_kernels() {
    build_kernels_for(NvvmArch::Compute80);
}

/// The same for another architecture: [`NvvmArch::Compute90a`] for what only a Hopper has.
#[allow(clippy::print_stderr)] // cargo shows it where the build fails
pub fn build_kernels_for(arch: NvvmArch) {
    if is_device_build() {
        return;
    }
    let variable = |name: &str| PathBuf::from(env::var_os(name).unwrap_or_default());
    match build(arch, &variable("CARGO_MANIFEST_DIR"), &variable("OUT_DIR")) {
        Ok(image) => println!("cargo::rustc-env={IMAGE}={}", image.display()),
        // They are the reader's own mistakes, and rustc's words are enough.
        Err(BuildError::Compile { stderr, .. }) if stderr.contains("--> ") => {
            eprintln!("{stderr}");
            exit(1);
        }
        Err(error) => {
            eprintln!("error: {error}");
            exit(1);
        }
    }
}

fn build(arch: NvvmArch, folder: &Path, out: &Path) -> Result<PathBuf, BuildError> {
    // The features that this build of the crate has, so that both readings of it are of the same text.
    let features = env::var("CARGO_CFG_FEATURE").unwrap_or_default();
    CudaBuilder::new(folder).arch(arch).features(features).copy_to(out.join("kernels.ptx")).build()
}

/// What rustc said, without its warnings (the host's build gives them) and without what cargo says of it.
pub(crate) fn rustc_errors(stderr: &str) -> String {
    let own = stderr.split("error: could not compile ").next().unwrap_or_default();
    let is_error = |block: &&str| !block.trim_start().starts_with("warning: ");
    own.split("\n\n").filter(is_error).collect::<Vec<_>>().join("\n\n").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_adds_to_rustc_errors_is_left_out() {
        let rustc = "error[E0425]: cannot find value `y` in this scope\n --> src/lib.rs:7:5\n  |\n7 |     y\n  |     ^";
        let cargo = "error: could not compile `k` (lib) due to 1 previous error\n\nCaused by:\n  process didn't exit";
        let warning = "warning: unstable feature specified for `-Ctarget-feature`: `ptx80`\n  |\n  = note: it is";
        assert_eq!(rustc_errors(&format!("{warning}\n\n{rustc}\n\n{cargo}")), rustc);
        // What is not rustc's is kept: a manifest that cargo cannot read, say.
        assert_eq!(rustc_errors("error: no such feature\n"), "error: no such feature");
    }
}
