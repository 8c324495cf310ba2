//! Lines from a person, with editing and a history, or from a pipe.

use std::{
    io::BufRead,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rustyline::{DefaultEditor, error::ReadlineError};

/// What was read.
pub enum Line {
    /// One line, or several that a backslash at the end joins.
    Text(String),
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D, or the end of the pipe.
    End,
}

/// Where lines come from.
pub enum Input {
    /// A terminal.
    Person { editor: Box<DefaultEditor>, history: Option<PathBuf> },
    /// Anything else.
    Pipe,
}

impl Input {
    /// Opens the terminal, and the history where there is a file of it.
    ///
    /// # Errors
    /// The terminal or the file cannot be used.
    pub fn new(interactive: bool, history: Option<&Path>) -> Result<Input> {
        if !interactive {
            return Ok(Input::Pipe);
        }
        let mut editor = Box::new(DefaultEditor::new().context("cannot use the terminal")?);
        if let Some(path) = history.filter(|path| path.exists()) {
            editor.load_history(path).with_context(|| format!("{}: cannot read the history", path.display()))?;
        }
        Ok(Input::Person { editor, history: history.map(Path::to_owned) })
    }

    /// The next text.
    ///
    /// # Errors
    /// Reading failed, or what came is not UTF-8.
    pub fn read(&mut self) -> Result<Line> {
        let mut text = String::new();
        loop {
            let prompt = if text.is_empty() { "> " } else { "… " };
            match self.line(prompt)? {
                Line::Text(line) => match line.strip_suffix('\\') {
                    Some(part) => {
                        text += part;
                        text.push('\n');
                    }
                    None => {
                        text += &line;
                        break;
                    }
                },
                // The pipe ended after a backslash: what came before it counts.
                Line::End if !text.is_empty() => break,
                other => return Ok(other),
            }
        }
        if let Input::Person { editor, .. } = self {
            editor.add_history_entry(&text).context("cannot keep the line in the history")?;
        }
        Ok(Line::Text(text))
    }

    fn line(&mut self, prompt: &str) -> Result<Line> {
        match self {
            Input::Person { editor, .. } => match editor.readline(prompt) {
                Ok(line) => Ok(Line::Text(line)),
                Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(error) => Err(error).context("cannot read from the terminal"),
            },
            Input::Pipe => {
                let mut bytes = Vec::new();
                std::io::stdin().lock().read_until(b'\n', &mut bytes).context("standard input: cannot read")?;
                if bytes.is_empty() {
                    return Ok(Line::End);
                }
                let line = String::from_utf8(bytes).map_err(|error| {
                    let at = error.utf8_error().valid_up_to();
                    anyhow::anyhow!(
                        "standard input: found bytes that are not UTF-8 at offset {at} of a line, expected UTF-8 text"
                    )
                })?;
                let line = line.strip_suffix('\n').unwrap_or(&line);
                Ok(Line::Text(line.strip_suffix('\r').unwrap_or(line).to_owned()))
            }
        }
    }

    /// Writes the history.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(&mut self) -> Result<()> {
        if let Input::Person { editor, history: Some(path) } = self {
            editor.save_history(path).with_context(|| format!("{}: cannot write the history", path.display()))?;
        }
        Ok(())
    }
}
