//! `ferrowarp diff`: where two traces first differ, or a trace and what llama.cpp's `eval-callback` printed.

use std::{io::Write, path::PathBuf};

use anyhow::Result;
use clap::Args;

use super::{Outcome, output::out};
use crate::trace::{Printed, Trace};

/// The arguments of `diff`.
#[derive(Args)]
#[command(
    after_help = "Exits with 1 where a tensor differs.\n\nExamples:\n  ferrowarp diff gpu.safetensors cpu.safetensors --tolerance 1e-3\n  \
                  llama-eval-callback -m model.gguf -p Hello >printed.txt 2>&1\n  \
                  ferrowarp diff gpu.safetensors printed.txt --tolerance 1e-2"
)]
pub struct Arguments {
    /// The trace to judge.
    a: PathBuf,
    /// The trace to judge it by; or the text that llama.cpp's eval-callback printed, of which the shown values and the sums are compared.
    b: PathBuf,
    /// The largest relative error, ‖a − b‖ / ‖b‖, that counts as equal.
    #[arg(long, value_name = "F", default_value_t = 1e-4)]
    tolerance: f64,
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> Result<Outcome> {
        let a = Trace::load(&self.a)?;
        // A file that is no text is a trace, or is refused as one.
        let printed = std::fs::read(&self.b).ok().and_then(|bytes| Printed::read(&String::from_utf8_lossy(&bytes)));
        let diff = match printed {
            Some(printed) => a.diff_printed(&printed, self.tolerance),
            None => a.diff(&Trace::load(&self.b)?, self.tolerance),
        };
        writeln!(out(), "{diff}")?;
        Ok(if diff.first.is_some() || diff.compared == 0 { Outcome::Negative } else { Outcome::Done })
    }
}
