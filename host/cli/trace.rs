//! `ferrowarp trace`: every intermediate tensor of a forward pass, in a file.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use super::{Outcome, model::EngineArguments};
use crate::{
    forward::EngineOptions,
    gguf::Gguf,
    model::Model,
    reference::Reference,
    trace::{Recorder, Trace},
};

/// The arguments of `trace`.
#[derive(Args)]
#[command(after_help = "Example:\n  \
    ferrowarp trace -m model.gguf --prompt-ids 1,2,3 -o gpu.safetensors\n  \
    ferrowarp trace -m model.gguf --prompt-ids 1,2,3 -o cpu.safetensors --reference\n  \
    ferrowarp diff gpu.safetensors cpu.safetensors")]
pub struct Arguments {
    #[command(flatten)]
    engine: EngineArguments,
    /// The tokens to run.
    #[arg(long, value_name = "ID,ID,…", value_delimiter = ',', required = true)]
    prompt_ids: Vec<u32>,
    /// Where to write the tensors (safetensors, f32).
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Feed the tokens one at a time, as in decoding, not together.
    #[arg(long)]
    one_by_one: bool,
    /// Launch every operation by itself, so that every value of the figure is recorded, not only those that generation's launches leave.
    #[arg(long)]
    exact: bool,
    /// Run the CPU reference instead of the device.
    #[arg(long)]
    reference: bool,
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> Result<Outcome> {
        let gguf = self.engine.model.open_to_run()?;
        let trace = if self.reference {
            reference_trace(&gguf, &self.prompt_ids)?
        } else {
            device_trace(&self.engine, &gguf, &self.prompt_ids, self.one_by_one, self.exact)?
        };
        trace.save(&self.output)?;
        Ok(Outcome::Done)
    }
}

/// The trace of the device's forward pass, with the logits of every token.
pub fn device_trace(
    arguments: &EngineArguments,
    gguf: &Gguf,
    ids: &[u32],
    one_by_one: bool,
    exact: bool,
) -> Result<Trace> {
    let (mut engine, _) =
        arguments.load_with(arguments.open()?, gguf, |options| EngineOptions { all_logits: true, exact, ..options })?;
    if ids.is_empty() {
        bail!("--prompt-ids: expected at least one token id");
    }
    let step = if one_by_one { 1 } else { engine.n_batch() };
    Ok(engine.trace(ids, step)?)
}

/// The trace of the CPU reference.
pub fn reference_trace(gguf: &Gguf, ids: &[u32]) -> Result<Trace> {
    let model = Model::open(gguf)?;
    let mut reference = Reference::new(&model);
    let mut trace = Trace::new();
    let mut sink = |name: &str, shape: &[usize], data: &[f32]| {
        trace.append(name, shape, data);
        if name == "result_output" {
            trace.append("logits", shape, data);
        }
    };
    reference.forward(ids, &mut Recorder::new(&mut sink))?;
    Ok(trace)
}
