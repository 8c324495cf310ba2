//! Where a text comes from: `-p`, `-f` or standard input.

use std::{
    io::{IsTerminal, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args;

/// A text: `-p`, `-f` or standard input.
#[derive(Args)]
pub struct TextArguments {
    /// The text; standard input without it and -f.
    #[arg(short, long, value_name = "TEXT", conflicts_with = "file")]
    pub prompt: Option<String>,
    /// A file that holds the text (UTF-8).
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

impl TextArguments {
    /// The text, which is not empty.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn text(&self) -> Result<String> {
        let text = match (&self.prompt, &self.file) {
            (Some(text), _) => text.clone(),
            (None, Some(path)) => read_text(path, "the prompt")?,
            (None, None) => {
                if std::io::stdin().is_terminal() {
                    bail!("no prompt: give one with -p or -f, or pipe it to standard input");
                }
                let mut bytes = Vec::new();
                std::io::stdin().read_to_end(&mut bytes).context("standard input: cannot read the prompt")?;
                utf8(bytes, "standard input", "the prompt")?
            }
        };
        if text.is_empty() {
            bail!("the prompt is empty: expected text from -p, -f or standard input");
        }
        Ok(text)
    }
}

/// Reads a file of text; `what` says what it is for.
///
/// # Errors
/// It cannot be read, or is not UTF-8.
pub fn read_text(path: &Path, what: &str) -> Result<String> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).with_context(|| format!("{name}: cannot read {what}"))?;
    utf8(bytes, &name, what)
}

fn utf8(bytes: Vec<u8>, name: &str, what: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("{name}: {what}: found bytes that are not UTF-8 at offset {at}, expected UTF-8 text")
    })
}
