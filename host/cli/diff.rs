//! `ferrowarp diff`: where two traces first differ.

use std::{io::Write, path::PathBuf};

use anyhow::Result;
use clap::Args;

use super::{Outcome, output::out};
use crate::trace::Trace;

/// The arguments of `diff`.
#[derive(Args)]
#[command(
    after_help = "Exits with 1 where a tensor differs.\n\nExample:\n  ferrowarp diff gpu.safetensors cpu.safetensors --tolerance 1e-3"
)]
pub struct Arguments {
    /// The trace to judge.
    a: PathBuf,
    /// The trace to judge it by.
    b: PathBuf,
    /// The largest relative error, ‖a − b‖ / ‖b‖, that counts as equal.
    #[arg(long, value_name = "F", default_value_t = 1e-4)]
    tolerance: f64,
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> Result<Outcome> {
        let (a, b) = (Trace::load(&self.a)?, Trace::load(&self.b)?);
        let diff = a.diff(&b, self.tolerance);
        writeln!(out(), "{diff}")?;
        Ok(if diff.first.is_some() || diff.compared == 0 { Outcome::Negative } else { Outcome::Done })
    }
}
