//! `cargo warp new`: a crate of kernels in a folder of its own.

use std::path::PathBuf;

/// What `cargo warp new` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// The folder to make; its last part names the crate.
    folder: PathBuf,
}

/// Makes the folder.
///
/// # Errors
/// The folder is there already, or cannot be written.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    anyhow::ensure!(!arguments.folder.exists(), "{} is there already", arguments.folder.display());
    std::fs::create_dir_all(&arguments.folder)?;
    Ok(())
}
