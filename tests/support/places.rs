//! Where the checkout and the program are. A test binary that runs on another machine than it was built on is told by its
//! environment: `FERROWARP_ROOT` names a folder laid out as the checkout, `CARGO_BIN_EXE_ferrowarp` the program.

use std::path::PathBuf;

/// The folder that `tests` and `models` are in.
pub fn root() -> PathBuf {
    std::env::var_os("FERROWARP_ROOT").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// The program that was built with the tests.
pub fn program() -> PathBuf {
    let named = std::env::var_os("CARGO_BIN_EXE_ferrowarp");
    named.map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_ferrowarp")), PathBuf::from)
}
