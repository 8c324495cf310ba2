//! What softcuda does not know of PTX files: `cargo run --example unknown FILE.ptx ...`.

use softcuda::Module;
use std::io::Write;

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for path in std::env::args().skip(1) {
        let text = std::fs::read_to_string(&path)?;
        match Module::from_ptx(&text) {
            Err(error) => writeln!(out, "{path}: refused: {error}")?,
            Ok(module) if module.unknown_instructions().is_empty() => writeln!(out, "{path}: all known")?,
            Ok(module) => module.unknown_instructions().iter().try_for_each(|e| writeln!(out, "{path}: {e}"))?,
        }
    }
    Ok(())
}
