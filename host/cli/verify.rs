//! `ferrowarp verify`: the device's forward pass against the CPU reference's.

use std::io::Write;

use anyhow::Result;
use clap::Args;

use super::{
    Outcome,
    model::EngineArguments,
    output::out,
    trace::{device_trace, reference_trace},
};
use crate::{
    gguf::{Gguf, TensorInfo, TensorType},
    gpu::{Activations, kernels::CacheType},
};

/// The arguments of `verify`.
#[derive(Args)]
#[command(
    after_help = "What is compared are the launches that generation makes, by the values that they leave in memory. Exits with 1 where one \
                  differs; which difference counts follows --activations and --cache-type.\n\nExample:\n  ferrowarp verify -m model.gguf --prompt-ids 1,2,3 --cache-type f32 --one-by-one"
)]
pub struct Arguments {
    #[command(flatten)]
    engine: EngineArguments,
    /// The tokens to run.
    #[arg(long, value_name = "ID,ID,…", value_delimiter = ',', required = true)]
    prompt_ids: Vec<u32>,
    /// Feed the tokens one at a time, as in decoding, not together.
    #[arg(long)]
    one_by_one: bool,
    /// Launch every operation by itself, not as generation does.
    #[arg(long)]
    exact: bool,
    /// The largest relative error that counts as equal [default: by what is rounded, see below].
    #[arg(long, value_name = "F")]
    tolerance: Option<f64>,
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> Result<Outcome> {
        let gguf = self.engine.model.open_to_run()?;
        let device = device_trace(&self.engine, &gguf, &self.prompt_ids, self.one_by_one, self.exact)?;
        let reference = reference_trace(&gguf, &self.prompt_ids)?;
        let (tolerance, reason) = match self.tolerance {
            Some(tolerance) => (tolerance, "as asked for"),
            None => self.tolerance_of(&gguf),
        };
        let diff = device.diff_common(&reference, tolerance);
        writeln!(out(), "{diff}")?;
        writeln!(out(), "tolerance {tolerance:.0e}: {reason}")?;
        Ok(if diff.first.is_some() || diff.compared == 0 { Outcome::Negative } else { Outcome::Done })
    }

    /// What the coarsest rounding on the way allows, and which that is. `tests/golden.rs` says where the numbers come from.
    fn tolerance_of(&self, gguf: &Gguf) -> (f64, &'static str) {
        let memory = &self.engine.memory;
        let is_exact = |tensor: &TensorInfo| tensor.tensor_type == TensorType::F32;
        let is_alone = self.one_by_one || self.prompt_ids.len() == 1;
        let has_quantised = gguf.tensors().any(|tensor| tensor.tensor_type.is_quantised());
        let by_cache = match memory.cache_type {
            CacheType::F32 => (1e-4, "f32 throughout"),
            CacheType::F16 => (2e-2, "keys and values are rounded to f16 (--cache-type)"),
            CacheType::BF16 => (8e-2, "keys and values are rounded to bf16 (--cache-type)"),
            CacheType::Q8_0 => (1.5e-1, "keys and values are rounded to 8 bits (--cache-type)"),
        };
        let by_products = if is_alone && has_quantised && memory.activations == Activations::Q8 {
            (5e-2, "quantised weights are multiplied with 8-bit activations (--activations)")
        } else if !is_alone && !gguf.tensors().all(is_exact) {
            (1e-2, "several tokens are multiplied in 16 bits (--one-by-one is closer)")
        } else {
            by_cache
        };
        if by_products.0 > by_cache.0 { by_products } else { by_cache }
    }
}
