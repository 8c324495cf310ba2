//! `ferrowarp inspect`: what a model file holds, and what running it takes.

use std::{io::Write, path::PathBuf};

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{
    Outcome,
    model::{DeviceArgument, MemoryArguments, ModelArgument},
    output::out,
};
use crate::{
    forward::{EngineError, MemoryPlan},
    gguf::Gguf,
    gpu::Gpu,
    model::{Inspection, Model},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Tables.
    Text,
    /// One object.
    Json,
}

/// The arguments of `inspect`.
#[derive(Args)]
#[command(
    after_help = "Example:\n  ferrowarp inspect model.gguf --format json\n  ferrowarp inspect model.gguf -c 32768 --cache-type q8_0"
)]
pub struct Arguments {
    /// The GGUF file, also as -m [default: the embedded model].
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    path: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgument,
    #[command(flatten)]
    device: DeviceArgument,
    #[command(flatten)]
    memory: MemoryArguments,
    /// text or json.
    #[arg(long, value_enum, default_value = "text", env = "FERROWARP_FORMAT")]
    format: Format,
}

/// What is shown.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    inspection: Inspection,
    /// The memory that the model takes, where it can run.
    memory: Option<MemoryPlan>,
    /// Why the model cannot be loaded with this context and cache on this device.
    memory_problem: Option<String>,
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> Result<Outcome> {
        let gguf = match &self.path {
            Some(path) => Gguf::open(path)?,
            None => self.model.open()?,
        };
        let inspection = Inspection::new(&gguf);
        let (memory, problem) = match Model::open(&gguf) {
            Ok(model) => self.plan(&gguf, &model)?,
            Err(_) => (None, None),
        };
        let report = Report { inspection, memory, memory_problem: problem.map(|problem| problem.to_string()) };
        let mut out = out();
        match self.format {
            Format::Text => {
                write!(out, "{}", report.inspection)?;
                if let Some(memory) = &report.memory {
                    write!(out, "\nmemory\n{memory}")?;
                }
                if let Some(problem) = &report.memory_problem {
                    writeln!(out, "\ncannot be loaded: {problem}")?;
                }
            }
            Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?,
        }
        Ok(Outcome::Done)
    }

    /// The plan, compared with what is free on the device.
    fn plan(&self, gguf: &Gguf, model: &Model) -> Result<(Option<MemoryPlan>, Option<EngineError>)> {
        let options = self.memory.options();
        let mut plan = match MemoryPlan::new(gguf, model, &options) {
            Ok(plan) => plan,
            Err(problem) => return Ok((None, Some(problem))),
        };
        let (backend, free) = Gpu::free_memory(self.device.device)?;
        let room = plan.expect_room(gguf, model, &options, backend, free as u64);
        Ok((Some(plan), room.err()))
    }
}
