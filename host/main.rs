//! The `ferrowarp` command.

use std::process::ExitCode;

/// Holds templates and grammars to their bounds.
#[global_allocator]
static ALLOCATOR: ferrowarp::bounded::Allocator = ferrowarp::bounded::Allocator;

fn main() -> ExitCode {
    ferrowarp::cli::run()
}
