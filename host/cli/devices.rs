//! `ferrowarp devices`: what there is to run on, and where it was looked for.

use anyhow::Result;

use super::Outcome;
use crate::gpu::image;

/// Runs the command.
pub fn run() -> Result<Outcome> {
    let probe = driver::probe();
    println!("cuda");
    if let Some((major, minor)) = probe.libcuda.driver_version {
        println!("  driver for CUDA {major}.{minor}");
    }
    for (ordinal, device) in probe.libcuda.devices.iter().enumerate() {
        match device {
            Ok(device) => println!("  {ordinal}: {device}, {}", kernels(device.compute_capability, true)),
            Err(error) => println!("  {ordinal}: {error}"),
        }
    }
    for attempt in &probe.libcuda.attempts {
        println!("  looked: {attempt}");
    }
    println!("soft");
    let soft = &probe.softcuda;
    let gibibytes = soft.total_memory >> 30;
    println!(
        "  0: softcuda on this machine's processor, {} threads, {gibibytes} GiB, {}",
        soft.threads,
        kernels(soft.compute_capability, false)
    );
    println!("cublas");
    match &probe.cublas.version {
        Some(version) => println!("  version {version}"),
        None => println!("  none: the GPU needs it for prompts; softcuda has its own"),
    }
    for attempt in &probe.cublas.attempts {
        println!("  looked: {attempt}");
    }
    Ok(Outcome::Done)
}

/// Which compiled form of the kernels a device would be given.
fn kernels(capability: (u32, u32), takes_machine_code: bool) -> String {
    match image::candidates(capability, takes_machine_code) {
        Ok(images) => format!("kernels {}", images[0]),
        Err(error) => error.to_string(),
    }
}
