//! `ferrowarp completions`: a script that completes commands and options in a shell.

use std::io::Write;

use anyhow::Result;
use clap::Args;
use clap_complete::Shell;

use super::{Outcome, output::out, usage};

/// The arguments of `completions`.
#[derive(Args)]
#[command(after_help = "Example:\n  ferrowarp completions bash > ~/.local/share/bash-completion/completions/ferrowarp")]
pub struct Arguments {
    /// The shell.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> Result<Outcome> {
        // Into memory first: the generator panics where writing fails.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut usage::command(), "ferrowarp", &mut script);
        out().write_all(&script)?;
        Ok(Outcome::Done)
    }
}
