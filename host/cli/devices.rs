//! `ferrowarp devices`: what there is to run on, and where it was looked for.

use std::io::Write;

use anyhow::Result;

use super::{Outcome, output::out};
use crate::gpu::image;

/// Runs the command.
pub fn run() -> Result<Outcome> {
    let probe = driver::probe();
    let mut out = out();
    writeln!(out, "cuda")?;
    if let Some((major, minor)) = probe.libcuda.driver_version {
        writeln!(out, "  driver for CUDA {major}.{minor}")?;
    }
    for (ordinal, device) in probe.libcuda.devices.iter().enumerate() {
        match device {
            Ok(device) => writeln!(out, "  {ordinal}: {device}, {}", kernels(device.compute_capability, true))?,
            Err(error) => writeln!(out, "  {ordinal}: {error}")?,
        }
    }
    for attempt in &probe.libcuda.attempts {
        writeln!(out, "  looked: {attempt}")?;
    }
    writeln!(out, "soft")?;
    let soft = &probe.softcuda;
    let gibibytes = soft.total_memory >> 30;
    writeln!(
        out,
        "  0: softcuda on this machine's processor, {} threads, {gibibytes} GiB, {}",
        soft.threads,
        kernels(soft.compute_capability, false)
    )?;
    writeln!(out, "cublas")?;
    match &probe.cublas.version {
        Some(version) => writeln!(out, "  version {version}")?,
        None => writeln!(out, "  none: on a GPU prompts go through this program's own products, which take longer")?,
    }
    for attempt in &probe.cublas.attempts {
        writeln!(out, "  looked: {attempt}")?;
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
