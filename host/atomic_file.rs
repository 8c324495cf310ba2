//! Files that are there as a whole or not at all: written beside their place, then renamed to it.

use std::{
    fs::File,
    io::{BufWriter, Result, Write},
    path::{Path, PathBuf},
};

/// A file on its way to its place. Dropped before [`AtomicFile::finish`], it leaves no trace.
pub struct AtomicFile {
    /// `None` once it is finished.
    out: Option<BufWriter<File>>,
    beside: PathBuf,
    path: PathBuf,
}

impl AtomicFile {
    /// Starts a file that is to replace what is at `path`.
    ///
    /// # Errors
    /// No file can be made in that folder.
    pub fn create(path: &Path) -> Result<AtomicFile> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}.part", std::process::id()));
        let beside = PathBuf::from(beside);
        Ok(AtomicFile { out: Some(BufWriter::new(File::create(&beside)?)), beside, path: path.to_owned() })
    }

    /// Writes it out and puts it in its place.
    ///
    /// # Errors
    /// Writing or renaming failed; what was at the path is still there.
    pub fn finish(mut self) -> Result<()> {
        if let Some(out) = &mut self.out {
            out.flush()?;
            out.get_ref().sync_all()?;
        }
        std::fs::rename(&self.beside, &self.path)?;
        self.out = None;
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        match &mut self.out {
            Some(out) => out.write(bytes),
            None => Err(std::io::Error::other("the file is finished")),
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.out.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if self.out.is_some() {
            // Nobody is left to tell.
            let _ = std::fs::remove_file(&self.beside);
        }
    }
}

/// Replaces the file at `path` by these bytes.
///
/// # Errors
/// Writing failed; what was at the path is still there.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes)?;
    file.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_as_a_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        replace(&path, b"old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        file.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
