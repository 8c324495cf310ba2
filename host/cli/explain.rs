//! `ferrowarp explain`: a model's operations, and the launches that carry them out.

use std::io::Write;

use anyhow::Result;
use clap::Args;

use super::{
    Outcome,
    model::{MemoryArguments, ModelArgument},
    output::out,
};
use crate::{forward::explain::Explanation, model::Model};

/// The arguments of `explain`.
#[derive(Args)]
#[command(
    after_help = "Numbers are those of the launches within a part; ╷ marks an operation that is part of a launch further down.\n\nExample:\n  ferrowarp explain -m model.gguf --cache-type q8_0"
)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgument,
    #[command(flatten)]
    memory: MemoryArguments,
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> Result<Outcome> {
        let gguf = self.model.open()?;
        let model = Model::open(&gguf)?;
        write!(out(), "{}", Explanation::new(&gguf, &model, &self.memory.options())?)?;
        Ok(Outcome::Done)
    }
}
