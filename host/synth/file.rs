//! Writing a file where there is room for it and nothing in its place.

use std::{io, path::Path};

use super::Synth;
use crate::atomic_file::AtomicFile;

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
pub enum SynthError {
    /// It would replace another.
    #[error("{file}: found a file of that name, expected none; choose another or use --force")]
    Exists {
        /// The file.
        file: String,
    },
    /// The disk is too small.
    #[error(
        "{file}: found {free} bytes free on its disk, expected at least {needed} for the file; free {missing} more or \
         choose another disk, shape or type"
    )]
    NoRoom {
        /// The file.
        file: String,
        /// Its size.
        needed: u64,
        /// Bytes that may be written.
        free: u64,
        /// The difference.
        missing: u64,
    },
    /// The system refused.
    #[error("{file}: {action}: {source}")]
    Io {
        /// The file.
        file: String,
        /// What was being done.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Writes the file to `path`, where it appears when it is whole. `force` allows to replace a file.
///
/// # Errors
/// A file of that name is there, the disk is too small, or the system refuses. Nothing is left behind then.
pub fn create(path: &Path, synth: &Synth, force: bool, progress: &mut dyn FnMut(u64)) -> Result<(), SynthError> {
    let file = || path.display().to_string();
    let io = |action| move |source| SynthError::Io { file: path.display().to_string(), action, source };
    let exists = || !force && path.symlink_metadata().is_ok();
    if exists() {
        return Err(SynthError::Exists { file: file() });
    }
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let disk = rustix::fs::statvfs(folder)
        .map_err(io::Error::from)
        .map_err(io("reading the free space of its folder's disk"))?;
    expect_room(path, synth.bytes(), disk.f_bavail.saturating_mul(disk.f_frsize))?;

    let mut out = AtomicFile::create(path).map_err(io("creating it"))?;
    synth.write(&mut out, progress).map_err(io("writing"))?;
    // Someone else may have been faster.
    if exists() {
        return Err(SynthError::Exists { file: file() });
    }
    out.finish().map_err(io("putting the finished file in its place"))
}

fn expect_room(path: &Path, needed: u64, free: u64) -> Result<(), SynthError> {
    if needed <= free {
        return Ok(());
    }
    Err(SynthError::NoRoom { file: path.display().to_string(), needed, free, missing: needed - free })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_too_small_is_an_error_with_both_numbers() {
        assert!(expect_room(Path::new("a.gguf"), 10, 10).is_ok());
        let message = expect_room(Path::new("a.gguf"), 1000, 300).unwrap_err().to_string();
        for part in ["a.gguf: ", "300 bytes free", "at least 1000", "free 700 more"] {
            assert!(message.contains(part), "{part:?} is not in: {message}");
        }
    }
}
