//! `ferrowarp bench --kernels --profile FILE`: what the kernels do, by source line, in place of how long they take.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use driver::soft::{set_profile, write_profile};
use warp_profile::{Assembler, Card, Report, page};

use crate::cli::output::note;

/// A profile that is being counted.
pub struct Profiling {
    folder: PathBuf,
    file: PathBuf,
    card: Card,
}

impl Profiling {
    /// Has every launch on softcuda counted from now on.
    pub fn start(file: &Path, card: &str) -> Result<Profiling> {
        let card = warp_profile::card(card)?;
        // Before anything is counted: a file that cannot be written is an error at once.
        fs::write(file, "").with_context(|| file.display().to_string())?;
        let folder = std::env::temp_dir().join(format!("ferrowarp-profile-{}", std::process::id()));
        set_profile(Some(&folder));
        Ok(Profiling { folder, file: file.to_owned(), card })
    }

    /// Writes what was counted: as JSON where the file's name ends so, otherwise as a page.
    pub fn finish(self) -> Result<()> {
        write_profile().with_context(|| self.folder.display().to_string())?;
        set_profile(None);
        // The kernels' sources are found in a checkout; elsewhere their lines have no text.
        let mut report = Report::read(&self.folder, self.card, &[PathBuf::from(".")])?;
        let assembler = Assembler::find(Path::new("target"));
        if let Err(error) = &assembler {
            note(&format!("{error}; registers stay unknown"));
        }
        report.assemble(assembler.ok().as_ref());
        let is_json = self.file.extension().is_some_and(|end| end == "json");
        let text = if is_json { serde_json::to_string_pretty(&report)? } else { page(&report, "ferrowarp's kernels") };
        fs::write(&self.file, text).with_context(|| self.file.display().to_string())?;
        note(&format!("{}: {} kernels by source line", self.file.display(), report.kernels.len()));
        fs::remove_dir_all(&self.folder).with_context(|| self.folder.display().to_string())
    }
}
