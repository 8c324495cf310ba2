//! Where cuBLAS is looked for.
//!
//! In this order: the file that `FERROWARP_CUBLAS` names, and where it is set nothing else (`none` for no library at all); `libcublas.so.13`, `.12`,
//! `.11` on the loader's path; the same in `$CUDA_PATH/lib64` and `/usr/local/cuda/lib64`; and in the folders where
//! pip's packages `nvidia-cublas`, `nvidia-cublas-cu12` … lie: `nvidia/*/lib` in the site-packages of the active
//! virtual environment and of each `python3` on the path.
//!
//! A library that opens may still not run with this machine's driver (cuBLAS 13 with a driver for CUDA 12, say), so the
//! choice is made by the first handle: the first library that opens and creates one.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use libloading::os::unix::{Library as Loaded, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};

use super::CublasError;
use super::table::{RawHandle, Status, Table};
use crate::error::Attempt;
use crate::libcuda::loader_message;

const VARIABLE: &str = "FERROWARP_CUBLAS";
/// What it says where there is to be none.
const NONE: &str = "none";
const FILES: &[&str] = &["libcublas.so.13", "libcublas.so.12", "libcublas.so.11"];

/// An opened cuBLAS. It is never closed.
pub(crate) struct Library {
    pub table: Table,
    place: String,
    version: String,
}

impl Library {
    /// `major.minor.patch`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The file and the version, as `libcublas.so.12 (12.4.5)`.
    pub fn describe(&self) -> String {
        format!("{} ({})", self.place, self.version)
    }
}

/// A place to try: the name for people, and what the loader is asked for.
struct Candidate {
    place: String,
    file: PathBuf,
}

impl Candidate {
    fn file(file: PathBuf) -> Self {
        Candidate { place: file.display().to_string(), file }
    }
}

/// What the variable says, where it says something.
fn named() -> Option<PathBuf> {
    env::var_os(VARIABLE).filter(|file| !file.is_empty()).map(PathBuf::from)
}

/// Whether there is to be no cuBLAS.
pub(crate) fn is_turned_off() -> bool {
    named().is_some_and(|file| file.as_os_str() == NONE)
}

fn candidates() -> Vec<Candidate> {
    if is_turned_off() {
        return Vec::new();
    }
    if let Some(file) = named() {
        return vec![Candidate { place: format!("{} (from {VARIABLE})", file.display()), file }];
    }
    let on_loader_path =
        FILES.iter().map(|file| Candidate { place: format!("{file} on the loader's path"), file: PathBuf::from(file) });
    let toolkits = env::var_os("CUDA_PATH").map(PathBuf::from).into_iter().chain([PathBuf::from("/usr/local/cuda")]);
    let folders = toolkits.map(|toolkit| toolkit.join("lib64")).chain(pip_folders());
    let in_folders = folders
        .flat_map(|folder| FILES.iter().map(move |file| folder.join(file)))
        // The folders are many, and most hold nothing: only a file that is there is an attempt.
        .filter(|file| file.exists())
        .map(Candidate::file);
    on_loader_path.chain(in_folders).collect()
}

/// The folders of pip's packages under the Python installations that this process would run.
fn pip_folders() -> Vec<PathBuf> {
    let variables = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path)
        .filter(|folder| folder.join("python3").exists())
        .filter_map(|folder| folder.parent().map(Path::to_owned));
    let user = env::var_os("HOME").map(|home| PathBuf::from(home).join(".local"));

    let mut folders = Vec::new();
    for folder in variables.chain(on_path).chain(user).flat_map(|prefix| folders_under(&prefix)) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

/// The `lib/python3*/{site,dist}-packages/nvidia/*/lib` folders of one Python installation.
fn folders_under(prefix: &Path) -> Vec<PathBuf> {
    let is_python =
        |folder: &PathBuf| folder.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with("python3"));
    subfolders(&prefix.join("lib"))
        .into_iter()
        .filter(is_python)
        .flat_map(|python| ["site-packages", "dist-packages"].map(|packages| python.join(packages)))
        .flat_map(|packages| subfolders(&packages.join("nvidia")))
        .map(|package| package.join("lib"))
        .filter(|folder| folder.is_dir())
        .collect()
}

/// The entries of a folder in the order of their names; none where it cannot be read.
fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    entries.sort();
    entries
}

fn open(candidate: &Candidate) -> Result<Library, String> {
    // libcublas needs libcublasLt from beside it. Where the loader does not look there, it finds it already loaded.
    if let (Some(folder), Some(name)) = (candidate.file.parent(), candidate.file.file_name().and_then(OsStr::to_str)) {
        let light = folder.join(name.replace("libcublas.so", "libcublasLt.so"));
        if folder != Path::new("") && light.exists() {
            // SAFETY: running the initialisers of NVIDIA's library is what opening cuBLAS does anyway.
            let opened = unsafe { Loaded::open(Some(&light), RTLD_NOW | RTLD_GLOBAL) };
            std::mem::forget(opened.map_err(loader_message)?);
        }
    }
    // SAFETY: as above; a library of this name is NVIDIA's cuBLAS.
    let loaded = unsafe { Loaded::open(Some(&candidate.file), RTLD_NOW | RTLD_LOCAL) }.map_err(loader_message)?;
    let loaded = ManuallyDrop::new(loaded);
    // SAFETY: the library is cuBLAS 11 or newer by its name, or by the word of who set the variable; it stays open.
    let table = unsafe { Table::from_library(&loaded) }?;
    let mut version = [0; 3];
    for (property, number) in version.iter_mut().enumerate() {
        // SAFETY: properties 0, 1 and 2 are the version's parts; `number` is a live integer.
        let status = unsafe { table.cublasGetProperty(property as i32, number) };
        if status != Status::SUCCESS {
            return Err(format!("cublasGetProperty said {}", status.describe()));
        }
    }
    let [major, minor, patch] = version;
    Ok(Library { table, place: candidate.file.display().to_string(), version: format!("{major}.{minor}.{patch}") })
}

/// The places tried up to the first that opens, and that library. Creates no handle, so it works without a GPU.
pub(crate) fn first_that_opens() -> (Vec<Attempt>, Option<Library>) {
    let mut attempts = Vec::new();
    for candidate in candidates() {
        match open(&candidate) {
            Ok(library) => {
                attempts.push(Attempt {
                    place: candidate.place,
                    usable: true,
                    said: format!("cuBLAS {}", library.version),
                });
                return (attempts, Some(library));
            }
            Err(said) => attempts.push(Attempt { place: candidate.place, usable: false, said }),
        }
    }
    (attempts, None)
}

/// A new handle of the process's cuBLAS; the first call chooses which library that is.
///
/// # Errors
/// - [`CublasError::Absent`] where nothing is named, and nothing opens.
/// - [`CublasError::NotFound`] where what is named does not do, or what opens does not start.
pub(crate) fn create_handle() -> Result<(&'static Library, RawHandle), CublasError> {
    static CHOSEN: Mutex<Option<&'static Library>> = Mutex::new(None);
    let mut chosen = CHOSEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(library) = *chosen {
        return match create(&library.table) {
            Ok(handle) => Ok((library, handle)),
            Err(said) => {
                let attempts = vec![Attempt { place: library.place.clone(), usable: false, said }];
                Err(CublasError::NotFound { attempts })
            }
        };
    }
    let (mut attempts, mut opens) = (Vec::new(), false);
    for candidate in candidates() {
        let created = open(&candidate).and_then(|library| {
            opens = true;
            Ok((create(&library.table)?, library))
        });
        match created {
            Ok((handle, library)) => {
                let library: &'static Library = Box::leak(Box::new(library));
                *chosen = Some(library);
                return Ok((library, handle));
            }
            Err(said) => attempts.push(Attempt { place: candidate.place, usable: false, said }),
        }
    }
    match opens || named().is_some() {
        true => Err(CublasError::NotFound { attempts }),
        false => Err(CublasError::Absent { attempts }),
    }
}

/// A handle of this table's cuBLAS, or what it said.
pub(crate) fn create(table: &Table) -> Result<RawHandle, String> {
    let mut handle = ptr::null_mut();
    // SAFETY: `handle` is a live pointer.
    match unsafe { table.cublasCreate_v2(&mut handle) } {
        Status::SUCCESS => Ok(handle),
        status => Err(format!("cublasCreate_v2 said {}", status.describe())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pips_folders_are_found_under_a_prefix() {
        let prefix = env::temp_dir().join(format!("ferrowarp-prefix-{}", std::process::id()));
        let packages = prefix.join("lib/python3.12/site-packages/nvidia");
        for folder in ["cublas/lib", "cu13/lib", "cuda_nvcc/bin"] {
            fs::create_dir_all(packages.join(folder)).unwrap();
        }
        fs::create_dir_all(prefix.join("lib/perl5/site-packages/nvidia/cublas/lib")).unwrap();
        let found = folders_under(&prefix);
        fs::remove_dir_all(&prefix).unwrap();
        assert_eq!(found, [packages.join("cu13/lib"), packages.join("cublas/lib")]);
        assert!(folders_under(&prefix).is_empty());
    }
}
