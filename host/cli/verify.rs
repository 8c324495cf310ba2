//! `ferrowarp verify`: the device's forward pass against the CPU reference's.

use std::io::Write;

use anyhow::Result;
use clap::Args;

use super::{
    Outcome,
    model::EngineArguments,
    output::out,
    trace::{device_trace, reference_trace},
};

/// The arguments of `verify`.
#[derive(Args)]
#[command(
    after_help = "Exits with 1 where a tensor differs.\n\nExample:\n  ferrowarp verify -m model.gguf --prompt-ids 1,2,3 --cache-type f32 --one-by-one"
)]
pub struct Arguments {
    #[command(flatten)]
    engine: EngineArguments,
    /// The tokens to run.
    #[arg(long, value_name = "ID,ID,…", value_delimiter = ',', required = true)]
    prompt_ids: Vec<u32>,
    /// Feed the tokens one at a time, as in decoding, not together.
    #[arg(long)]
    one_by_one: bool,
    /// The largest relative error that counts as equal [default: 1e-4 one by one, 1e-2 together: 16-bit matmul inputs].
    #[arg(long, value_name = "F")]
    tolerance: Option<f64>,
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> Result<Outcome> {
        let gguf = self.engine.model.open()?;
        let device = device_trace(&self.engine, &gguf, &self.prompt_ids, self.one_by_one)?;
        let reference = reference_trace(&gguf, &self.prompt_ids)?;
        let tolerance = self.tolerance.unwrap_or(if self.one_by_one { 1e-4 } else { 1e-2 });
        let diff = device.diff(&reference, tolerance);
        writeln!(out(), "{diff}")?;
        Ok(if diff.first.is_some() || diff.compared == 0 { Outcome::Negative } else { Outcome::Done })
    }
}
