//! A launch outside of a test: on the GPU where there is one, else on softcuda.
//!
//! ```console
//! $ cargo run -p warp_test --example launch
//! ```

use cuda_std::Kernel;
use warp_test::{Device, Launch, example};

/// In a crate with `build_kernels()`, `#[kernel]` makes this handle.
const SCALE: Kernel<(*const f32, *mut f32, f32, u32)> =
    Kernel::new("scale", &["x", "out", "a", "n"]).in_image(example::IMAGE);

#[allow(clippy::print_stdout, reason = "an example shows what it computed")]
fn main() {
    let device = Device::new();
    let values = device.upload(&[1.0f32, 2.0, 3.0]);
    // SAFETY: the buffer holds 3 values.
    let launched = unsafe { device.launch(SCALE, Launch::over(3, 32), (&values, &values, 10.0f32, 3u32)) };
    println!("{} on {}: {:?}", SCALE.name(), device.backend(), values.read());
    if let Some(counters) = launched.counters() {
        println!("{} warp instructions", counters.warp_instructions());
    }
}
