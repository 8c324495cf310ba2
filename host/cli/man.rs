//! `ferrowarp man`: the manual page of the program or of one of its commands.

use std::io::Write;

use anyhow::{Context, Result};
use clap::Args;

use super::{Outcome, output::out, usage};

/// The arguments of `man`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    ferrowarp man > ~/.local/share/man/man1/ferrowarp.1\n  \
    ferrowarp man generate | man -l -")]
pub struct Arguments {
    /// The command to describe [default: the program itself].
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> Result<Outcome> {
        let program = usage::command();
        let command = match &self.command {
            None => program,
            Some(name) => {
                let names = || {
                    let names: Vec<&str> = program.get_subcommands().map(clap::Command::get_name).collect();
                    format!("COMMAND: found {name:?}, expected one of {}", names.join(", "))
                };
                let command = program.find_subcommand(name).with_context(names)?;
                command.clone().display_name(format!("ferrowarp-{name}")).version(env!("CARGO_PKG_VERSION"))
            }
        };
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        out().write_all(&page)?;
        Ok(Outcome::Done)
    }
}
