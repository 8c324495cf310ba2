//! NVIDIA's `ptxas`, for what only it knows: registers and spills.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use crate::{Card, ProfileError};

/// What `ptxas -v` says of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Assembled {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of registers that are kept in local memory: stored and loaded.
    pub spill_stores: u32,
    /// As `spill_stores`.
    pub spill_loads: u32,
    /// Bytes of local memory of a thread.
    pub stack: u32,
}

/// A `ptxas`.
#[derive(Clone, Debug)]
pub struct Assembler {
    program: PathBuf,
}

impl Assembler {
    /// The one that `FERROWARP_PTXAS` names, `TARGET/ptx-tools/bin/ptxas`, one on `PATH`, `CUDA_PATH/bin/ptxas`; otherwise one
    /// from PyPI, which is put into `TARGET/ptx-tools`, as `./x lint-ptx` does. `FERROWARP_PTXAS=off` wants none.
    ///
    /// # Errors
    /// There is none and none could be fetched.
    pub fn find(target: &Path) -> Result<Assembler, ProfileError> {
        let named = env::var_os("FERROWARP_PTXAS").filter(|named| !named.is_empty());
        match named {
            Some(named) if named == "off" => return Err(ProfileError::Assembler("FERROWARP_PTXAS=off".into())),
            Some(named) => return Ok(Assembler { program: named.into() }),
            None => {}
        }
        let tools = target.join("ptx-tools");
        let mut places = vec![tools.join("bin")];
        places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        places.extend(env::var_os("CUDA_PATH").map(|toolkit| PathBuf::from(toolkit).join("bin")));
        let found = places.into_iter().map(|folder| folder.join("ptxas")).find(|path| path.is_file());
        found.map_or_else(|| fetch(&tools), Ok).map(|program| Assembler { program })
    }

    /// Assembles a kernel.
    pub(crate) fn run(&self, ptx: &str, kernel: &str, card: &Card) -> Result<Assembled, String> {
        // PTX for one generation only (`sm_90a`) can be assembled for that one alone.
        let of_text = ptx.lines().find_map(|line| line.trim().strip_prefix(".target ")).unwrap_or(card.target);
        let of_text = of_text.split(',').next().unwrap_or(of_text).trim();
        let number = |target: &str| target.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().unwrap_or(0);
        let fits = !of_text.ends_with('a') && number(of_text) <= number(card.target);
        let target = if fits { card.target } else { of_text };
        let folder = env::temp_dir().join(format!("warp-profile-{}", std::process::id()));
        let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
        fs::create_dir_all(&folder).map_err(failed)?;
        let (input, output) = (folder.join("kernel.ptx"), folder.join("kernel.cubin"));
        fs::write(&input, ptx).map_err(failed)?;
        let ran = Command::new(&self.program).args(["-v", "-arch", target, "-o"]).arg(&output).arg(&input).output();
        // What is left behind there is nobody's.
        let _ = fs::remove_dir_all(&folder);
        let ran = ran.map_err(|error| format!("{}: {error}", self.program.display()))?;
        let text = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
        if !ran.status.success() {
            return Err(format!("ptxas for {target}: {}", text.trim()));
        }
        read(&text, kernel).ok_or_else(|| format!("ptxas says nothing of {kernel}: {}", text.trim()))
    }
}

/// Reads `Used 40 registers, …` and `0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads`, of the kernel's entry.
fn read(text: &str, kernel: &str) -> Option<Assembled> {
    let entry = text.find(&format!("entry function '{kernel}'"))?;
    let rest = &text[entry..];
    let before = |what: &str| {
        let at = rest.find(what)?;
        rest[..at].split_whitespace().next_back()?.parse::<u32>().ok()
    };
    Some(Assembled {
        registers: before(" registers")?,
        spill_stores: before(" bytes spill stores").unwrap_or(0),
        spill_loads: before(" bytes spill loads").unwrap_or(0),
        stack: before(" bytes stack frame").unwrap_or(0),
    })
}

/// Installs the package that holds `ptxas` into a Python environment of its own.
fn fetch(tools: &Path) -> Result<PathBuf, ProfileError> {
    let python = tools.join("python");
    let run = |command: &mut Command| {
        let problem = match command.output() {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        Err(ProfileError::Assembler(format!("{command:?}: {problem}")))
    };
    if !python.join("bin/pip").exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&python))?;
    }
    run(Command::new(python.join("bin/pip")).args(["install", "--quiet", "nvidia-cuda-nvcc>=13"]))?;
    let ptxas = search(&python).ok_or_else(|| ProfileError::Assembler("nvidia-cuda-nvcc holds no ptxas".into()))?;
    let link = tools.join("bin/ptxas");
    // Where the link cannot be made, the next call looks for the program again.
    let _ = fs::create_dir_all(tools.join("bin"));
    let _ = std::os::unix::fs::symlink(&ptxas, &link);
    Ok(ptxas)
}

fn search(folder: &Path) -> Option<PathBuf> {
    let entries: Vec<PathBuf> = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    let here = entries.iter().find(|path| path.file_name().is_some_and(|name| name == "ptxas") && path.is_file());
    let below = || entries.iter().filter(|path| path.is_dir() && !path.is_symlink()).find_map(|path| search(path));
    let found = here.cloned().or_else(below)?;
    fs::canonicalize(found).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_ptxas_is_read() {
        let text = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'other' for 'sm_90a'\n\
            ptxas info    : Function properties for other\n    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads\n\
            ptxas info    : Used 255 registers, used 1 barriers\n\
            ptxas info    : Compiling entry function 'scale' for 'sm_90a'\n\
            ptxas info    : Function properties for scale\n    16 bytes stack frame, 12 bytes spill stores, 20 bytes spill loads\n\
            ptxas info    : Used 40 registers, used 0 barriers, 256 bytes smem\n";
        let expected = Assembled { registers: 40, spill_stores: 12, spill_loads: 20, stack: 16 };
        assert_eq!(read(text, "scale"), Some(expected));
        assert_eq!(read(text, "absent"), None);
    }
}
