//! The little that has to be known of a crate's `Cargo.toml`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::BuildError;

/// A crate of kernels.
pub struct Manifest {
    /// Its `Cargo.toml`.
    pub path: PathBuf,
    /// The name that the compiler gives its library.
    pub crate_name: String,
    /// The root file of the library, from the manifest's folder.
    library: PathBuf,
}

impl Manifest {
    /// Reads the manifest in a crate's folder.
    pub fn read(folder: &Path) -> Result<Manifest, BuildError> {
        let path = folder.join("Cargo.toml");
        let text = fs::read_to_string(&path).map_err(|source| BuildError::File { path: path.clone(), source })?;
        let name = value(&text, "lib", "name").or_else(|| value(&text, "package", "name"));
        let Some(name) = name else {
            let problem = "it has no `name` under [package]: the kernels' crate is a package".into();
            return Err(BuildError::Manifest { path, problem });
        };
        let library = value(&text, "lib", "path").unwrap_or("src/lib.rs").into();
        Ok(Manifest { crate_name: name.replace('-', "_"), library, path })
    }

    /// The text of the library's root file.
    pub fn root_source(&self) -> Result<String, BuildError> {
        let path = self.path.with_file_name(&self.library);
        fs::read_to_string(&path).map_err(|source| BuildError::File { path, source })
    }
}

/// The string that a key has in a table.
fn value<'a>(manifest: &'a str, table: &str, key: &str) -> Option<&'a str> {
    let mut current = "";
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            current = header.split(']').next().unwrap_or_default().trim();
        } else if current == table
            && let Some((found, rest)) = line.split_once('=')
            && found.trim() == key
        {
            return rest.split('"').nth(1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_from_its_own_table() {
        let text = "[workspace]\nname = \"no\"\n[package]\nname = \"my-kernels\" # yes\n[lib]\n  path=\"lib.rs\"\n";
        assert_eq!(value(text, "package", "name"), Some("my-kernels"));
        assert_eq!(value(text, "lib", "path"), Some("lib.rs"));
        assert_eq!(value(text, "lib", "name"), None);
    }
}
