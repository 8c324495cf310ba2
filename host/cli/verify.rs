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
    trace::{Trace, relative_error},
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
        let mut device = device_trace(&self.engine, &gguf, &self.prompt_ids, self.one_by_one, self.exact)?;
        let mut reference = reference_trace(&gguf, &self.prompt_ids)?;
        let (tolerance, reason) = match self.tolerance {
            Some(tolerance) => (tolerance, "as asked for"),
            None => self.tolerance_of(&gguf),
        };
        // An expert chosen in a near tie is another one for a small difference, and all that follows is another's.
        let mut tied = None;
        while let Some(token) = near_tie(&device, &reference, tolerance) {
            (device, reference) = (device.first_tokens(token), reference.first_tokens(token));
            tied = Some(token);
        }
        if let Some(token) = tied {
            writeln!(
                out(),
                "token {token} of the prompt uses other experts, in a near tie: compared are those before it"
            )?;
        }
        let diff = device.diff_common(&reference, tolerance);
        writeln!(out(), "{diff}")?;
        writeln!(out(), "tolerance {tolerance:e}: {reason}")?;
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
            (1e-1, "quantised weights are multiplied with 8-bit activations (--activations)")
        } else if !is_alone && !gguf.tensors().all(is_exact) {
            (1e-2, "several tokens are multiplied in 16 bits (--one-by-one is closer)")
        } else {
            by_cache
        };
        if by_products.0 > by_cache.0 { by_products } else { by_cache }
    }
}

/// The first token that uses other experts in one trace than in the other, or the same in another order, where the router's logits
/// agree: not the very first one.
fn near_tie(device: &Trace, reference: &Trace, tolerance: f64) -> Option<usize> {
    let tokens = device.tensors().iter().filter_map(|chosen| {
        let layer = chosen.name.strip_prefix("ffn_moe_topk-")?;
        let wanted = reference.get(&chosen.name)?;
        let logits = format!("ffn_moe_logits-{layer}");
        let (logits, width) = (device.get(&logits).zip(reference.get(&logits)), chosen.shape[1]);
        let agree = logits.is_none_or(|(a, b)| relative_error(&a.data, &b.data) <= tolerance);
        let rows = chosen.data.chunks_exact(width).zip(wanted.data.chunks_exact(width));
        let token = rows.into_iter().position(|(device, reference)| device != reference)?;
        (agree && token > 0).then_some(token)
    });
    tokens.min()
}
