//! NVIDIA's `ptxas`, which makes machine code of PTX. It is not needed: a driver compiles PTX itself, at the cost of a
//! wait when a program first starts.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::lines::lines_apart;
use crate::{BuildError, target_dir};

/// The oldest release that reads what the kernels are compiled to: PTX 8.0, with `sm_90a`.
const OLDEST: (u32, u32) = (12, 0);

/// A `ptxas` that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembler {
    path: PathBuf,
}

impl Assembler {
    /// The first of these that is there and of release 12.0 or newer: the one that `FERROWARP_PTXAS` names, which must be,
    /// `TARGET/ptx-tools/bin/ptxas`, one on `PATH`, `CUDA_PATH/bin/ptxas`. `FERROWARP_PTXAS=off` wants none.
    ///
    /// Cargo is told to build again when the program that was found changes, not when one appears.
    pub fn find() -> Result<Option<Assembler>, BuildError> {
        for variable in ["FERROWARP_PTXAS", "CUDA_PATH"] {
            println!("cargo::rerun-if-env-changed={variable}");
        }
        if let Some(named) = env::var_os("FERROWARP_PTXAS").filter(|named| !named.is_empty()) {
            if named == "off" {
                return Ok(None);
            }
            let path = PathBuf::from(named);
            return match examine(&path) {
                Ok(()) => Ok(Some(Assembler::tracked(path))),
                Err(problem) => Err(BuildError::Assembler { path, problem }),
            };
        }
        let mut places = vec![target_dir().join("ptx-tools/bin")];
        places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        places.extend(env::var_os("CUDA_PATH").map(|toolkit| PathBuf::from(toolkit).join("bin")));
        let there = places.into_iter().map(|folder| folder.join("ptxas")).filter(|path| path.is_file());
        for path in there {
            match examine(&path) {
                Ok(()) => return Ok(Some(Assembler::tracked(path))),
                Err(problem) => println!("cargo::warning={} is not used: it {problem}", path.display()),
            }
        }
        Ok(None)
    }

    fn tracked(path: PathBuf) -> Assembler {
        println!("cargo::rerun-if-changed={}", path.display());
        Assembler { path }
    }

    /// Makes machine code for `target` (such as `sm_90a`) of the PTX in a file, without its line tables: in machine code they
    /// take more room than the code.
    pub fn assemble(&self, ptx: &Path, target: &str, cubin: &Path) -> Result<(), BuildError> {
        let plain = cubin.with_extension("plain.ptx");
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| BuildError::File { path, source }
        };
        let text = fs::read_to_string(ptx).map_err(file(ptx))?;
        fs::write(&plain, lines_apart(&text).0).map_err(file(&plain))?;
        let mut command = Command::new(&self.path);
        command.args(["--gpu-name", target, "--output-file"]).arg(cubin).arg(&plain);
        let output = command
            .output()
            .map_err(|source| BuildError::Run { program: self.path.to_string_lossy().into_owned(), source })?;
        if !output.status.success() {
            let text = [output.stdout, output.stderr].concat();
            let problem = format!("failed for {target}:\n{}", String::from_utf8_lossy(&text).trim());
            return Err(BuildError::Assembler { path: self.path.clone(), problem });
        }
        Ok(())
    }
}

/// Whether the program will do, or why not.
fn examine(path: &Path) -> Result<(), String> {
    let output = Command::new(path).arg("--version").output().map_err(|error| format!("cannot be run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match release(&text) {
        Some(release) if release >= OLDEST => Ok(()),
        Some((major, minor)) => {
            Err(format!("is of release {major}.{minor}; {}.{} or newer is needed", OLDEST.0, OLDEST.1))
        }
        None => Err(format!("printed {:?} as its version", text.trim())),
    }
}

/// The 12.8 of `Cuda compilation tools, release 12.8, V12.8.93`.
fn release(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once("release ")?.1.split_once(',')?.0.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_read() {
        let text = "ptxas: NVIDIA (R) Ptx optimizing assembler\nCuda compilation tools, release 12.8, V12.8.93\n";
        assert_eq!(release(text), Some((12, 8)));
        assert_eq!(release("ptxas 12.8"), None);
        assert!(release("release 11.8, V").unwrap() < OLDEST);
    }

    #[test]
    fn a_program_that_is_no_ptxas_is_refused() {
        assert!(examine(Path::new("/absent/ptxas")).unwrap_err().starts_with("cannot be run"));
        assert!(examine(Path::new("/bin/echo")).unwrap_err().contains("as its version"));
    }
}
