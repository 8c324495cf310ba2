//! Launches one kernel through its typed handle: `elementwise_soft_cap`, `out[i] = cap · tanh(x[i] / cap)`.
//!
//! ```console
//! $ cargo run --release --example kernel
//! ```

use anyhow::Result;
use driver::DeviceChoice;
use ferrowarp::gpu::Gpu;
use kernels::elementwise::{BLOCK, elementwise_soft_cap};

#[allow(clippy::print_stdout, reason = "an example shows what it computed")]
fn main() -> Result<()> {
    let x: Vec<f32> = (-4..=4).map(|i| 10.0 * i as f32).collect();
    println!("{:?}", run(DeviceChoice::Auto, &x, 15.0)?);
    Ok(())
}

/// The values of `x`, held within ±`cap`.
pub fn run(device: DeviceChoice, x: &[f32], cap: f32) -> Result<Vec<f32>> {
    let gpu = Gpu::open(device)?;
    let n = u32::try_from(x.len())?;
    let input = gpu.upload("x", x)?;
    let output = gpu.alloc::<f32>("out", x.len())?;

    // The handle knows the parameters (*const f32, *mut f32, u32, f32): other arguments, or in another order, do not compile.
    let grid = [n.div_ceil(BLOCK), 1, 1];
    // SAFETY: both buffers hold `n` values, and `cap` is positive, as the kernel's documentation asks.
    unsafe { gpu.launch(elementwise_soft_cap, grid, BLOCK, (&*input, &*output, n, cap))? };

    // Copies are enqueued behind the launch, on the same stream.
    Ok(gpu.read(&output)?)
}
