//! The command line: text on standard output, everything else on standard error.
//!
//! Each command is a file with its arguments and what it does; what several share are groups of arguments in files of their
//! own (`model`, `text`, `prompt`, `chat_template`, `sampling`, `generation`). Exit codes: 0, 1 for every error, 130 when interrupted.

mod batch;
mod bench;
mod chat;
mod chat_template;
mod completions;
mod devices;
mod diff;
mod embed;
mod explain;
mod generate;
mod generation;
mod inspect;
mod interrupt;
mod man;
mod many;
mod model;
mod output;
mod perplexity;
mod pooling;
mod prompt;
mod report;
mod sampling;
mod serve;
mod speculation;
mod synth;
mod template;
mod text;
mod tokenize;
mod tokenizer;
mod trace;
mod usage;
mod verify;
mod warnings;

use std::{ffi::OsString, io::Write, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use output::{out, print_error};

/// Text generation from GGUF models on an NVIDIA GPU, with every kernel written in Rust.
#[derive(Parser)]
#[command(
    name = "ferrowarp",
    version,
    arg_required_else_help = true,
    after_help = "Example:\n  ferrowarp generate -p 'Write a haiku about the sea that includes the word \"blue\"'\n\n\
                  Without a GPU everything runs on softcuda, a software CUDA device (--device soft).\n\
                  An environment variable sets an option's default: FERROWARP_ and its name, as FERROWARP_TOP_K=20. Of an option \
                  given twice, the last counts."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Continue a prompt.
    Generate(Box<generate::Arguments>),
    /// Answer a file of prompts.
    Batch(Box<batch::Arguments>),
    /// Serve a model by HTTP, as OpenAI's and Anthropic's interfaces have it.
    Serve(Box<serve::Arguments>),
    /// Turn texts into vectors.
    Embed(embed::Arguments),
    /// Talk with a model.
    Chat(Box<chat::Arguments>),
    /// Show the tokens of a text.
    Tokenize(tokenize::Arguments),
    /// Show what a model sees of a prompt: the chat template's output.
    Template(template::Arguments),
    /// Measure how well a model predicts a text.
    Perplexity(perplexity::Arguments),
    /// Write every intermediate tensor of a forward pass to a file.
    Trace(trace::Arguments),
    /// Find the first tensor in which two traces differ.
    Diff(diff::Arguments),
    /// Compare the device's forward pass with the CPU reference's, tensor by tensor.
    Verify(verify::Arguments),
    /// Show what a model file holds.
    Inspect(inspect::Arguments),
    /// Show a model's operations and the launches that carry them out.
    Explain(explain::Arguments),
    /// Measure how fast models and kernels run.
    Bench(bench::Arguments),
    /// Write a model file of a published shape, with random weights.
    Synth(synth::Arguments),
    /// List the devices found, and where they were looked for.
    Devices,
    /// Print a shell's completion script.
    Completions(completions::Arguments),
    /// Print the manual page.
    Man(man::Arguments),
}

/// What a command that went through says to the shell.
enum Outcome {
    /// All is well.
    Done,
    /// The command did its work and the answer is no: traces differ, for one.
    Negative,
    /// A person stopped it.
    Interrupted,
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    let line: Vec<OsString> = std::env::args_os().collect();
    let result = match usage::parse(&line, |name| std::env::var_os(name)) {
        Ok(cli) => execute(cli.command),
        Err(error) => usage::report(&error),
    };
    // What was printed has to arrive before all is well.
    match result.and_then(|outcome| Ok(out().flush().map(|()| outcome)?)) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Negative) => ExitCode::FAILURE,
        Ok(Outcome::Interrupted) => ExitCode::from(interrupt::EXIT_CODE),
        // Whoever reads our output has read enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> Result<Outcome> {
    // A server's log has its warnings too.
    if !matches!(command, Command::Serve(_)) {
        warnings::show();
    }
    match command {
        Command::Generate(arguments) => arguments.run(),
        Command::Batch(arguments) => arguments.run(),
        Command::Serve(arguments) => arguments.run(),
        Command::Embed(arguments) => arguments.run(),
        Command::Chat(arguments) => arguments.run(),
        Command::Tokenize(arguments) => arguments.run(),
        Command::Template(arguments) => arguments.run(),
        Command::Perplexity(arguments) => arguments.run(),
        Command::Trace(arguments) => arguments.run(),
        Command::Diff(arguments) => arguments.run(),
        Command::Verify(arguments) => arguments.run(),
        Command::Inspect(arguments) => arguments.run(),
        Command::Explain(arguments) => arguments.run(),
        Command::Bench(arguments) => arguments.run(),
        Command::Synth(arguments) => arguments.run(),
        Command::Devices => devices::run(),
        Command::Completions(arguments) => arguments.run(),
        Command::Man(arguments) => arguments.run(),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// The error and its causes in one line; a cause that the error's own text already holds is not said twice.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.contains(&cause) {
            continue;
        }
        if !line.is_empty() {
            line += ": ";
        }
        line += &cause;
    }
    // A list indented below its sentence joins it.
    line.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}
