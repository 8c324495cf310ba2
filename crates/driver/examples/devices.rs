//! Says which devices a program that is linked to this crate would find, and where they were looked for.
//!
//! ```console
//! $ cargo run -p driver --example devices
//! ```

use driver::DeviceChoice;

#[allow(clippy::print_stdout, reason = "an example shows what it found")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let probe = driver::probe();
    println!("{probe:#?}");
    println!("auto would be: {}", driver::select(DeviceChoice::Auto)?);
    Ok(())
}
