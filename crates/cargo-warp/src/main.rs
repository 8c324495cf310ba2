//! `cargo warp`: the commands of the kernel workbench. Each is a file of its own with `Arguments` and `run`.

mod new;
mod profile;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// How cargo calls `cargo-warp`: with the name of the subcommand as the first argument.
#[derive(Parser)]
#[command(name = "cargo", bin_name = "cargo", disable_help_subcommand = true)]
enum Cargo {
    Warp(Warp),
}

/// GPU kernels in Rust: written, tested and measured without a GPU.
#[derive(clap::Args)]
#[command(version)]
struct Warp {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a crate with a kernel and its test.
    New(new::Arguments),
    /// Show what a kernel does and costs, by source line, without a GPU.
    Profile(profile::Arguments),
    /// Run a program that drives CUDA on softcuda: cargo warp run -- python x.py
    Run(run::Arguments),
}

#[allow(clippy::print_stderr)] // what a person reads where a command fails
fn main() -> ExitCode {
    let Cargo::Warp(Warp { command }) = Cargo::parse();
    let result = match command {
        Command::New(arguments) => new::run(&arguments),
        Command::Profile(arguments) => profile::run(&arguments),
        Command::Run(arguments) => run::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
