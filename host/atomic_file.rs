//! Files that are there as a whole or not at all: written beside their place, then renamed to it.
//!
//! What is replaced keeps its mode and, where the system allows it, its owner, and a symbolic link stays one: the file that it
//! leads to is replaced. What is no file, as a pipe or a device, cannot be replaced and is written to.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufWriter, ErrorKind, Result, Write},
    path::{Path, PathBuf},
};

/// More links in a row than any system follows.
const MAX_LINKS: usize = 40;

/// A file on its way to its place. Dropped before [`AtomicFile::finish`], it leaves no trace.
pub struct AtomicFile {
    /// `None` once it is finished.
    out: Option<BufWriter<File>>,
    /// Where it is written and where it belongs; none for what is no file.
    places: Option<(PathBuf, PathBuf)>,
}

impl AtomicFile {
    /// Starts a file that is to replace what is at `path`.
    ///
    /// # Errors
    /// No file can be made in that folder, or a folder is at the path.
    pub fn create(path: &Path) -> Result<AtomicFile> {
        let old = match fs::metadata(path) {
            Ok(old) if old.is_dir() => return Err(ErrorKind::IsADirectory.into()),
            Ok(old) if !old.is_file() => {
                let out = OpenOptions::new().write(true).open(path)?;
                return Ok(AtomicFile { out: Some(BufWriter::new(out)), places: None });
            }
            Ok(old) => Some(old),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let path = linked(path)?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}.part", std::process::id()));
        let beside = PathBuf::from(beside);
        // What an earlier process of this number left.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        if old.is_some() {
            // Nobody reads it before it has the mode of the old one.
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        }
        let out = options.open(&beside)?;
        let file = AtomicFile { out: Some(BufWriter::new(out)), places: Some((beside, path)) };
        if let (Some(old), Some(out)) = (&old, &file.out) {
            #[cfg(unix)]
            {
                use std::os::unix::fs::{MetadataExt, fchown};
                // To give a file away takes rights that few have.
                let _ = fchown(out.get_ref(), Some(old.uid()), Some(old.gid()));
            }
            out.get_ref().set_permissions(old.permissions())?;
        }
        Ok(file)
    }

    /// Writes it out and puts it in its place.
    ///
    /// # Errors
    /// Writing or renaming failed; what was at the path is still there.
    pub fn finish(mut self) -> Result<()> {
        if let Some(out) = &mut self.out {
            out.flush()?;
            if self.places.is_some() {
                out.get_ref().sync_all()?;
            }
        }
        if let Some((beside, path)) = &self.places {
            fs::rename(beside, path)?;
        }
        self.out = None;
        Ok(())
    }
}

/// Where the symbolic links at `path` lead to, be something there or not.
fn linked(path: &Path) -> Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        if !path.is_symlink() {
            return Ok(path);
        }
        let target = fs::read_link(&path)?;
        path = path.parent().map_or(target.clone(), |folder| folder.join(&target));
    }
    Err(std::io::Error::other("too many symbolic links in a row"))
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
        if let (Some(_), Some((beside, _))) = (&self.out, &self.places) {
            // Nobody is left to tell.
            let _ = fs::remove_file(beside);
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

    #[cfg(unix)]
    #[test]
    fn mode_and_links_stay_and_devices_are_written_to() {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mode = |name: &str| fs::metadata(at(name)).unwrap().permissions().mode() & 0o7777;
        for wanted in [0o600, 0o640, 0o664, 0o444] {
            let _ = fs::remove_file(at("file"));
            fs::write(at("file"), "old").unwrap();
            fs::set_permissions(at("file"), fs::Permissions::from_mode(wanted)).unwrap();
            replace(&at("file"), b"new").unwrap();
            assert_eq!((mode("file"), fs::read(at("file")).unwrap()), (wanted, b"new".to_vec()));
        }

        fs::create_dir(at("inner")).unwrap();
        fs::write(at("inner/target"), "old").unwrap();
        symlink("inner/target", at("link")).unwrap();
        symlink("link", at("second")).unwrap();
        symlink("inner/none", at("dangling")).unwrap();
        for (link, target) in [("link", "inner/target"), ("second", "inner/target"), ("dangling", "inner/none")] {
            replace(&at(link), link.as_bytes()).unwrap();
            assert!(at(link).is_symlink() && !at(target).is_symlink(), "{link}");
            assert_eq!(fs::read(at(target)).unwrap(), link.as_bytes());
        }
        symlink("round", at("round")).unwrap();
        assert!(replace(&at("round"), b"").is_err());

        assert!(replace(&at("inner"), b"").is_err() && at("inner").is_dir());
        replace(Path::new("/dev/null"), b"gone").unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(names.iter().all(|name| !name.to_string_lossy().ends_with(".part")), "{names:?}");
    }
}
