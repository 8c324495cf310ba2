//! Lists the modules of the crate: the files in its folder.

use std::process::exit;

#[allow(clippy::print_stderr)] // cargo shows it where the build fails
fn main() {
    let declare = |name: &str, file: &str| format!("#[path = {file:?}]\npub mod {name};\n");
    if let Err(error) = cuda_builder::write_modules(".", &["lib", "build"], "modules.rs", declare) {
        eprintln!("error: {error}");
        exit(1);
    }
}
