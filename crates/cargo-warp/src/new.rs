//! `cargo warp new`: a crate with one kernel and its test, in a folder of its own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// The checkout that this program was built in.
const BUILT_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// What the crate consists of. The first of each pair is the file, the second its text, with places for what differs.
const FILES: [(&str, &str); 5] = [
    ("Cargo.toml", include_str!("../template/Cargo.toml.in")),
    (".gitignore", include_str!("../template/gitignore.in")),
    ("build.rs", include_str!("../template/build.rs.in")),
    ("src/lib.rs", include_str!("../template/src/lib.rs.in")),
    ("tests/scale.rs", include_str!("../template/tests/scale.rs.in")),
];

/// The crates of ferrowarp that it depends on.
const CRATES: [&str; 3] = ["cuda_std", "cuda_builder", "warp_test"];

/// What `cargo warp new` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// The folder to make; its last part names the crate
    folder: PathBuf,
    /// A checkout of ferrowarp to depend on [default: the one that cargo-warp was installed from]
    #[arg(long, value_name = "FOLDER", conflicts_with = "git")]
    path: Option<PathBuf>,
    /// A repository of ferrowarp to depend on
    #[arg(long, value_name = "URL")]
    git: Option<String>,
}

/// Makes the folder.
///
/// # Errors
/// It is there already, names no crate, or cannot be written; there is no checkout where one should be.
#[allow(clippy::print_stdout)] // what the command has to say
pub fn run(arguments: &Arguments) -> Result<()> {
    let folder = &arguments.folder;
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    check_name(name)?;
    ensure!(!folder.exists(), "{} is there already: name a folder to make", folder.display());
    let dependency = dependency(arguments)?;
    for (file, text) in FILES {
        let mut text = text.replace("{name}", name).replace("{crate}", &name.replace('-', "_"));
        for package in CRATES {
            text = text.replace(&format!("{{{package}}}"), &dependency(package));
        }
        let path = folder.join(file);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    println!("{name}: a kernel in src/lib.rs, its test in tests/scale.rs. Next:");
    println!("  cd {} && cargo test", folder.display());
    Ok(())
}

/// The crate's name becomes part of Rust code and of a manifest.
fn check_name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || !name.chars().all(allowed) || !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        bail!("{name:?} does not name a crate: expected a letter, then letters, digits, `_` or `-`, as in my_kernels");
    }
    // They would be two crates of one name.
    let taken = CRATES.iter().chain(&["driver", "softcuda", "core", "std", "test"]).any(|taken| *taken == name);
    ensure!(!taken, "the name {name:?} is taken by a crate that the kernels need: choose another");
    Ok(())
}

/// How the crate says where one of ferrowarp's is.
fn dependency(arguments: &Arguments) -> Result<impl Fn(&str) -> String> {
    let (key, place) = match (&arguments.git, &arguments.path) {
        (Some(url), _) => ("git", url.clone()),
        (None, Some(path)) => ("path", checkout(path)?),
        (None, None) => {
            ("path", checkout(Path::new(BUILT_IN)).context("cargo-warp was installed from a checkout that is gone")?)
        }
    };
    Ok(move |package: &str| match key {
        "git" => format!("git = {place:?}"),
        _ => format!("path = {:?}", format!("{place}/crates/{package}")),
    })
}

/// The absolute path of a checkout.
fn checkout(folder: &Path) -> Result<String> {
    let advice = "name a checkout of ferrowarp with --path, or its repository with --git";
    let found = folder.canonicalize().with_context(|| format!("{}: {advice}", folder.display()))?;
    for package in CRATES {
        let manifest = found.join("crates").join(package).join("Cargo.toml");
        ensure!(manifest.exists(), "{} is not there: {advice}", manifest.display());
    }
    found.into_os_string().into_string().ok().with_context(|| format!("{} is no UTF-8", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_crate_is_refused() {
        for name in ["my_kernels", "k", "rms-norm2"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "..", "2fast", "a b", "ü", "warp_test", "driver"] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn places_are_filled() {
        for (file, text) in FILES {
            let mut text = text.replace("{name}", "").replace("{crate}", "");
            for package in CRATES {
                text = text.replace(&format!("{{{package}}}"), "");
            }
            assert!(
                !text.contains("{cuda")
                    && !text.contains("{name")
                    && !text.contains("{warp")
                    && !text.contains("{crate"),
                "{file}: {text}"
            );
        }
    }

    #[test]
    fn a_folder_that_is_no_checkout_says_what_is_missing() {
        let error = format!("{:#}", checkout(Path::new("/")).unwrap_err());
        assert!(error.contains("/crates/cuda_std/Cargo.toml is not there: name a checkout"), "{error}");
    }
}
