//! Modules that are there because their files are.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use crate::BuildError;

/// Writes `list`, in `OUT_DIR`, with a line for each Rust module in `folder` (from the package's): `NAME.rs`, `NAME/mod.rs`,
/// but those in `except`. `declare` makes the lines of a module of its name and its file:
///
/// ```no_run
/// let declare = |name: &str, file: &str| format!("#[path = {file:?}]\npub mod {name};\n");
/// cuda_builder::write_modules("kernels", &["lib"], "kernels.rs", declare).unwrap();
/// ```
///
/// The crate then has `include!(concat!(env!("OUT_DIR"), "/kernels.rs"));`, and a file that is put into the folder is in the
/// crate: none can be forgotten. Cargo is told to look at the folder again when something in it changes.
pub fn write_modules(
    folder: impl AsRef<Path>,
    except: &[&str],
    list: &str,
    declare: impl Fn(&str, &str) -> String,
) -> Result<(), BuildError> {
    let variable = |name: &str| PathBuf::from(env::var_os(name).unwrap_or_default());
    // Without the `.` that may be in it: the compiler would show it in every path.
    let folder: PathBuf = variable("CARGO_MANIFEST_DIR").join(folder).components().collect();
    let list = variable("OUT_DIR").join(list);
    println!("cargo::rerun-if-changed={}", folder.display());
    let text: String = modules(&folder)?
        .iter()
        .filter(|(name, _)| !except.contains(&name.as_str()))
        .map(|(name, file)| declare(name, &file.to_string_lossy()))
        .collect();
    fs::write(&list, text).map_err(|source| BuildError::File { path: list, source })
}

/// The names and files of a folder's modules, sorted.
fn modules(folder: &Path) -> Result<BTreeSet<(String, PathBuf)>, BuildError> {
    let entries = fs::read_dir(folder).map_err(|source| BuildError::File { path: folder.to_owned(), source })?;
    let module = |path: PathBuf| {
        let name = path.file_stem()?.to_str()?.to_owned();
        match path.is_dir() {
            true => Some((name, path.join("mod.rs"))).filter(|(_, file)| file.exists()),
            false => path.extension().is_some_and(|end| end == "rs").then_some((name, path)),
        }
    };
    Ok(entries.flatten().filter_map(|entry| module(entry.path())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_files_and_folders_with_a_root() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let names: Vec<String> = modules(&source).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            ["assembler", "compiler", "entries", "lib", "lines", "manifest", "modules", "numbers", "own"]
        );
        let crates = source.join("../..");
        assert_eq!(modules(&crates).unwrap(), BTreeSet::new(), "no folder there has a mod.rs");
    }
}
