//! The arguments that choose a model and a device, and loading it.

use std::{
    panic::resume_unwind,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Error, Result};
use clap::Args;
use driver::DeviceChoice;
use indicatif::{ProgressBar, ProgressStyle};

use super::{output::shows_progress, tokenizer::TokenizerArguments};
use crate::{
    forward::{DEFAULT_CONTEXT, Engine, EngineOptions},
    gguf::Gguf,
    gpu::{Activations, Gpu, kernels::CacheType},
    model::Family,
    tokenizer::Tokenizer,
};

/// The model in the program itself, so that it does something without a download: as the build packs it, every even byte and then every odd one.
const EMBEDDED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/haiku.halves.zst"));

/// The name that the embedded model goes by in messages.
pub const EMBEDDED_NAME: &str = "the embedded haiku model";

/// Which model to read.
#[derive(Args)]
pub struct ModelArgument {
    /// The GGUF file; a small model that writes haiku is embedded and used without it.
    #[arg(short, long, value_name = "FILE", env = "FERROWARP_MODEL")]
    pub model: Option<PathBuf>,
}

impl ModelArgument {
    /// Opens the file, or the embedded model.
    pub fn open(&self) -> Result<Gguf> {
        Ok(match &self.model {
            Some(path) => Gguf::open(path)?,
            None => Gguf::from_bytes(embedded(), EMBEDDED_NAME)?,
        })
    }

    /// Opens a model that is to run. Whether this program runs its architecture is said first, before anything else in the file
    /// is looked at.
    pub fn open_to_run(&self) -> Result<Gguf> {
        let gguf = self.open()?;
        Family::of_model(&gguf)?;
        Ok(gguf)
    }
}

/// The embedded model's file.
fn embedded() -> Vec<u8> {
    let halves = zstd::decode_all(EMBEDDED).expect("the build compressed this");
    let (even, odd) = halves.split_at(halves.len().div_ceil(2));
    let mut file = vec![0; halves.len()];
    for (pair, (even, odd)) in file.chunks_exact_mut(2).zip(even.iter().zip(odd)) {
        pair.copy_from_slice(&[*even, *odd]);
    }
    if even.len() > odd.len() {
        file[2 * odd.len()] = even[odd.len()];
    }
    file
}

/// Where to run.
#[derive(Args)]
pub struct DeviceArgument {
    /// auto (the GPU where there is one), cuda or soft.
    #[arg(long, default_value = "auto", env = "FERROWARP_DEVICE")]
    pub device: DeviceChoice,
}

/// The arguments of every command that runs a model.
#[derive(Args)]
pub struct EngineArguments {
    #[command(flatten)]
    pub model: ModelArgument,
    #[command(flatten)]
    pub device: DeviceArgument,
    #[command(flatten)]
    pub memory: MemoryArguments,
}

/// How a model lies in device memory, and how exactly it is computed.
#[derive(Args)]
pub struct MemoryArguments {
    /// Type of the KV cache: f16, bf16, f32 or q8_0.
    #[arg(long, default_value = "f16", env = "FERROWARP_CACHE_TYPE")]
    pub cache_type: CacheType,
    /// What quantised weights are multiplied with when a token goes through the model alone: q8 (8-bit integers, but twice as many for
    /// the logits), q16 (two for each value) or f32 (exact, slower).
    #[arg(long, default_value = "q8", env = "FERROWARP_ACTIVATIONS")]
    pub activations: Activations,
    /// Positions to have room for; 0 for the model's own context [default: that, at most 4096].
    #[arg(short, long, value_name = "N", env = "FERROWARP_CONTEXT")]
    pub context: Option<usize>,
    /// Device memory to take at most, as in 800M or 6G [default: what is free].
    #[arg(long, value_name = "SIZE", value_parser = parse_size, env = "FERROWARP_MEMORY_LIMIT")]
    pub memory_limit: Option<u64>,
}

impl MemoryArguments {
    /// Positions of a model that was made for `longest`, as the engine takes them.
    pub fn n_context(&self, longest: usize) -> usize {
        match self.context {
            None => longest.min(DEFAULT_CONTEXT),
            Some(0) => longest,
            Some(n) => n,
        }
    }

    /// As the engine takes them.
    pub fn options(&self) -> EngineOptions {
        EngineOptions {
            n_context: self.context,
            cache_type: self.cache_type,
            activations: self.activations,
            memory_limit: self.memory_limit,
            ..EngineOptions::default()
        }
    }
}

/// Bytes, or K, M, G: times 1024, 1024², 1024³.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, shift) = match text.char_indices().next_back() {
        Some((end, 'K' | 'k')) => (&text[..end], 10),
        Some((end, 'M' | 'm')) => (&text[..end], 20),
        Some((end, 'G' | 'g')) => (&text[..end], 30),
        _ => (text, 0),
    };
    let bytes = number.parse::<u64>().ok();
    bytes
        .and_then(|n| n.checked_mul(1 << shift))
        .ok_or_else(|| format!("found {text:?}, expected a number of bytes such as 800M or 6G"))
}

/// A device, and the time that opening it took.
pub struct Opened {
    gpu: Gpu,
    time: Duration,
}

impl EngineArguments {
    /// Opens the device.
    pub fn open(&self) -> Result<Opened> {
        let start = Instant::now();
        let gpu = Gpu::open(self.device.device)?;
        Ok(Opened { gpu, time: start.elapsed() })
    }

    /// Opens the device and, beside that, makes the tokenizer: each takes a while. Gives the time that the tokenizer took.
    pub fn open_with(&self, gguf: &Gguf, tokenizer: &TokenizerArguments) -> Result<(Opened, Tokenizer, Duration)> {
        thread::scope(|scope| {
            let tokenizer = scope.spawn(|| {
                let start = Instant::now();
                Ok::<_, Error>((tokenizer.load(gguf)?, start.elapsed()))
            });
            let opened = self.open();
            let (tokenizer, vocab_time) = tokenizer.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            Ok((opened?, tokenizer, vocab_time))
        })
    }

    /// Loads the model onto the opened device, with a progress bar where a person watches; gives the time that both took.
    pub fn load(&self, opened: Opened, gguf: &Gguf) -> Result<(Engine, Duration)> {
        self.load_with(opened, gguf, |options| options)
    }

    /// The same with options that have no argument.
    pub fn load_with(
        &self,
        Opened { gpu, time }: Opened,
        gguf: &Gguf,
        options: impl FnOnce(EngineOptions) -> EngineOptions,
    ) -> Result<(Engine, Duration)> {
        let start = Instant::now();
        let bar = if shows_progress() { ProgressBar::new(0) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("loading {bar:40} {bytes}/{total_bytes} {bytes_per_sec}");
        bar.set_style(style.context("the progress bar's template")?);
        let options = options(self.memory.options());
        let engine = Engine::load(gpu, gguf, options, &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        Ok((engine?, time + start.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_model_is_the_file() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/models/haiku/haiku.gguf");
        // Without `assert_eq`, which would print them.
        assert!(embedded() == std::fs::read(file).unwrap());
        assert!(EMBEDDED.len() * 10 < embedded().len() * 9, "{} bytes", EMBEDDED.len());
    }
}
