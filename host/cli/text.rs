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
    /// The text; standard input without it, -f and --messages.
    #[arg(short, long, value_name = "TEXT", conflicts_with = "file")]
    pub prompt: Option<String>,
    /// A file that holds the text (UTF-8).
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

impl TextArguments {
    /// The text as it is, which is not empty.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn text(&self) -> Result<String> {
        expect_text(self.read()?)
    }

    /// The text as a prompt: without the line end that a file or pipe ends with, as llama.cpp takes it. A model would answer
    /// otherwise.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub fn prompt(&self) -> Result<String> {
        let mut text = self.read()?;
        if self.prompt.is_none() && text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        expect_text(text)
    }

    fn read(&self) -> Result<String> {
        Ok(match (&self.prompt, &self.file) {
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
        })
    }
}

fn expect_text(text: String) -> Result<String> {
    if text.is_empty() {
        bail!("the prompt is empty: expected text from -p, -f or standard input");
    }
    Ok(text)
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

/// Reads a file of text that something else than a model reads: a byte order mark before it, as some editors write, is no part.
///
/// # Errors
/// As [`read_text`].
pub fn read_source(path: &Path, what: &str) -> Result<String> {
    let text = read_text(path, what)?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

fn utf8(bytes: Vec<u8>, name: &str, what: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("{name}: {what}: found bytes that are not UTF-8 at offset {at}, expected UTF-8 text")
    })
}
