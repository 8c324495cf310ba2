//! What the program prints: results on standard output, all else on standard error.
//!
//! `println!` and `eprintln!` panic where nobody reads or the disk is full, so nothing uses them (the workspace's lints hold
//! that). A result that cannot be written is an error; that its reader has read enough is none, and ends the program in silence
//! ([`super::run`]). What is said on standard error is lost where nobody can read it.

use std::io::{self, IsTerminal, StdoutLock, Write};

/// Standard output. Its errors name it.
pub struct Out(StdoutLock<'static>);

/// Standard output, until the value is dropped.
pub fn out() -> Out {
    Out(io::stdout().lock())
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(named)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(named)
    }
}

/// The same error, with the name of the place.
fn named(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("standard output: cannot write: {error}"))
}

/// Standard error, to which writing always goes well.
pub struct Notes;

impl Write for Notes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Nobody is left to tell.
        let _ = io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line on standard error.
pub fn note(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// One line on standard error; the word `error` in red where a person sees it and wants colours.
pub fn print_error(line: &str) {
    note(&labelled("error", "1;31", line));
}

/// One line on standard error about what is not as asked for and goes on all the same.
pub fn print_warning(line: &str) {
    note(&labelled("warning", "1;33", line));
}

fn labelled(label: &str, colour: &str, line: &str) -> String {
    if io::stderr().is_terminal() && wants_colour() {
        format!("\x1b[{colour}m{label}:\x1b[0m {line}")
    } else {
        format!("{label}: {line}")
    }
}

/// Whether a person sees standard error, on a terminal that can rewrite a line.
pub fn shows_progress() -> bool {
    io::stderr().is_terminal() && !is_dumb()
}

/// <https://no-color.org>: any value but the empty one asks for none. A dumb terminal has none.
pub fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && !is_dumb()
}

fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}
