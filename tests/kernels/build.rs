//! Lists the tests: the files in this folder.

use std::process::exit;

#[allow(clippy::print_stderr)] // cargo shows it where the build fails
fn main() {
    let declare = |name: &str, file: &str| format!("#[path = {file:?}]\nmod {name};\n");
    if let Err(error) = cuda_builder::write_modules(".", &["all", "build"], "tests.rs", declare) {
        eprintln!("error: {error}");
        exit(1);
    }
}
