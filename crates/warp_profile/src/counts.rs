//! The files that softcuda writes.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::ProfileError;

#[derive(Deserialize)]
pub struct File {
    pub kernels: Vec<Kernel>,
}

#[derive(Deserialize)]
pub struct Kernel {
    pub name: String,
    /// The file with its PTX, in the same folder.
    pub ptx: String,
    pub static_shared: u32,
    pub launches: Vec<Launch>,
    pub instructions: Vec<Instruction>,
}

#[derive(Deserialize)]
pub struct Launch {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub count: u64,
}

#[derive(Clone, Deserialize, PartialEq, Eq, Hash)]
pub struct Place {
    pub file: String,
    pub line: u32,
    pub function: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Instruction {
    pub text: String,
    pub class: String,
    /// Innermost first.
    pub source: Vec<Place>,
    pub issued: u64,
    pub acted: u64,
    pub lanes: u64,
    pub load_sectors: u64,
    pub store_sectors: u64,
    pub atomic_sectors: u64,
    pub load_bytes: u64,
    pub store_bytes: u64,
    pub shared_load_bytes: u64,
    pub shared_store_bytes: u64,
    pub conflicts: u64,
    pub ways: u64,
    pub divergent: u64,
    pub stride: Option<i64>,
}

/// A measured launch on a GPU, as `warp_test` writes it: a line each in `*.times`, the kernel's name and microseconds.
pub struct Timed {
    pub kernel: String,
    pub microseconds: f64,
}

fn read_file(path: &Path) -> Result<String, ProfileError> {
    fs::read_to_string(path).map_err(|source| ProfileError::File { path: path.to_owned(), source })
}

/// Every file of counts, and every measured time, in the order of their names.
pub fn read(folder: &Path) -> Result<(Vec<File>, Vec<Timed>), ProfileError> {
    let failed = |source| ProfileError::File { path: folder.to_owned(), source };
    let listing = fs::read_dir(folder).map_err(failed)?;
    let mut paths =
        listing.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    paths.sort();
    let (mut files, mut times) = (Vec::new(), Vec::new());
    for path in paths {
        match path.extension().and_then(|end| end.to_str()) {
            Some("json") => {
                let text = read_file(&path)?;
                let file = serde_json::from_str(&text).map_err(|source| ProfileError::Json { path, source })?;
                files.push(file);
            }
            Some("times") => times.extend(read_file(&path)?.lines().filter_map(|line| {
                let (kernel, microseconds) = line.rsplit_once(' ')?;
                Some(Timed { kernel: kernel.to_owned(), microseconds: microseconds.parse().ok()? })
            })),
            _ => {}
        }
    }
    Ok((files, times))
}

/// The PTX of a kernel, with what is declared beside it and without the module's other kernels.
pub fn ptx_of(folder: &Path, file: &str, kernel: &str) -> Result<String, ProfileError> {
    Ok(only(&read_file(&folder.join(file))?, kernel))
}

fn only(ptx: &str, kernel: &str) -> String {
    let mut kept = String::new();
    let mut inside_another = false;
    for line in ptx.split_inclusive('\n') {
        if let Some((_, rest)) = line.split_once(".entry ") {
            inside_another = rest.split(['(', '\n', ' ']).next() != Some(kernel);
        }
        let debug = line.trim_start();
        if !inside_another && !debug.starts_with(".loc") && !debug.starts_with(".file") {
            kept += line;
        }
        // A kernel ends at a brace in the first column.
        inside_another &= !line.starts_with('}');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_cut_out_of_its_module() {
        let ptx = ".version 8.0\n.shared .b8 t[4];\n.visible .entry a(\n\t.param .b32 x\n)\n{\n\t.loc\t1 2 3\n\t{\n\t}\n\tret;\n}\n.visible .entry ab()\n{\n\tret;\n}\n\t.file\t1 \"x\"\n";
        assert_eq!(
            only(ptx, "a"),
            ".version 8.0\n.shared .b8 t[4];\n.visible .entry a(\n\t.param .b32 x\n)\n{\n\t{\n\t}\n\tret;\n}\n"
        );
        assert_eq!(only(ptx, "ab"), ".version 8.0\n.shared .b8 t[4];\n.visible .entry ab()\n{\n\tret;\n}\n");
    }
}
