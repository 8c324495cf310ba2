//! The `ferrowarp` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    ferrowarp::cli::run()
}
