//! The `ferrowarp` command.

fn main() {}
