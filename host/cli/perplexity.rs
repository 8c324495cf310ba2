//! `ferrowarp perplexity`: how well a model predicts a text.

use std::{io::Write, path::PathBuf, sync::atomic::Ordering};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use super::{
    Outcome, interrupt,
    model::EngineArguments,
    output::{note, out},
    report::Format,
    text::read_text,
    tokenizer::TokenizerArguments,
};
use crate::{
    forward::EngineOptions,
    model::Config,
    perplexity::{
        Mean, Windows,
        base::{BaseReader, BaseWriter, Divergence},
        log_softmax, score,
    },
    tokenizer::{Ends, Special},
};

/// The window that published perplexities are measured with.
const DEFAULT_WINDOW: usize = 512;

/// The arguments of `perplexity`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    ferrowarp perplexity -m model.gguf -f wiki.test.raw\n  \
    ferrowarp perplexity -m model-f16.gguf -f text.txt --kl-save base.kl\n  \
    ferrowarp perplexity -m model-q4_k_m.gguf --kl-base base.kl\n  \
    ferrowarp perplexity -m model.gguf --kl-base base.kl --one-by-one --cache-type q8_0\n\n\
    -c is the window [default: 512, or the model's context where that is less].")]
pub struct Arguments {
    #[command(flatten)]
    engine: EngineArguments,
    #[command(flatten)]
    tokenizer: TokenizerArguments,
    /// The text (UTF-8).
    #[arg(short, long, value_name = "FILE", required_unless_present = "kl_base", conflicts_with = "kl_base")]
    file: Option<PathBuf>,
    /// Score the first N windows only.
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,
    /// Write this model's predictions, to compare others with (4 bytes for each token of the vocabulary and scored token).
    #[arg(long, value_name = "FILE")]
    kl_save: Option<PathBuf>,
    /// Compare with these predictions, about the text that they were made from.
    #[arg(long, value_name = "FILE", conflicts_with = "kl_save")]
    kl_base: Option<PathBuf>,
    /// Take the text in one token at a time, the way that answers are generated, rather than in batches: slower, and what
    /// --activations is about.
    #[arg(long)]
    one_by_one: bool,
    /// Lines, or one JSON object.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

impl Arguments {
    /// Runs the command.
    pub fn run(mut self) -> Result<Outcome> {
        interrupt::install()?;
        let gguf = self.engine.model.open_to_run()?;
        let config = Config::from_gguf(&gguf)?;
        let (device, tokenizer, _) = self.engine.open_with(&gguf, &self.tokenizer)?;
        // A file may pad its vocabulary past the tokenizer's last token: those have no part in the predictions.
        let n_vocab = tokenizer.vocab_size().min(config.vocab_size);
        let mut base = match &self.kl_base {
            Some(path) => Some(BaseReader::open(path, n_vocab)?),
            None => None,
        };
        let mut windows = match (&base, &self.file) {
            (Some(base), _) => base.windows().clone(),
            (None, file) => {
                let file = file.as_deref().expect("clap requires a text without a base");
                let window = self.engine.memory.context;
                let window = match window {
                    None => config.context_length.min(DEFAULT_WINDOW),
                    Some(0) => config.context_length,
                    Some(window) => window,
                };
                let text = read_text(file, "the text")?;
                let ids = tokenizer.encode(&text, Special::Text, Ends::AsFileSays)?;
                let begin = tokenizer.bos().filter(|_| tokenizer.adds_bos());
                Windows::new(&ids, window, begin)?
            }
        };
        if let Some(n) = self.chunks {
            windows.truncate(n.max(1));
        }
        self.engine.memory.context = Some(windows.n_context());
        let mut saved = match &self.kl_save {
            Some(path) => Some(BaseWriter::create(path, n_vocab, &windows)?),
            None => None,
        };
        let (mut engine, _) = self.engine.load_with(device, &gguf, |options| {
            let n_batch = if self.one_by_one { 1 } else { options.n_batch };
            EngineOptions { all_logits: true, n_batch, ..options }
        })?;

        let listener = interrupt::Listener::new();
        let (mut nll, mut divergence) = (Mean::default(), Divergence::default());
        let (mut row, mut base_row) = (Vec::new(), Vec::new());
        let n_windows = windows.iter().len();
        for (index, window) in windows.iter().enumerate() {
            if listener.flag().load(Ordering::Relaxed) {
                return Ok(Outcome::Interrupted);
            }
            let mut position = windows.first_scored();
            score(&mut engine, window, |logits, next| -> Result<()> {
                log_softmax(&logits[..n_vocab], &mut row)
                    .with_context(|| format!("{}: window {}, token {position}", gguf.name(), index + 1))?;
                position += 1;
                nll.add(-f64::from(row[next as usize]));
                if let Some(saved) = &mut saved {
                    saved.row(&row)?;
                }
                if let Some(base) = &mut base {
                    base.row(&mut base_row)?;
                    divergence.add(&base_row, &row, next);
                }
                Ok(())
            })?;
            note(&format!("window {} of {n_windows}: perplexity {:.4} so far", index + 1, nll.perplexity().0));
        }
        if let Some(saved) = saved {
            saved.finish()?;
        }
        self.print(&nll, base.is_some().then_some(&divergence), n_windows)?;
        Ok(Outcome::Done)
    }

    fn print(&self, nll: &Mean, divergence: Option<&Divergence>, n_windows: usize) -> Result<()> {
        let (perplexity, error) = nll.perplexity();
        let mut out = out();
        if self.format == Format::Json {
            let mut object = json!({
                "perplexity": perplexity,
                "error": error,
                "windows": n_windows,
                "scored": nll.n(),
            });
            if let Some(d) = divergence {
                let (base, base_error) = d.base.perplexity();
                object["base_perplexity"] = json!(base);
                object["base_error"] = json!(base_error);
                object["kl"] = json!({
                    "mean": d.kl.mean(),
                    "error": d.kl.error(),
                    "median": d.quantile(0.5),
                    "p99": d.quantile(0.99),
                    "max": d.quantile(1.0),
                });
                object["same_top"] = json!(d.same_top.mean());
            }
            writeln!(out, "{object}")?;
            return Ok(());
        }
        writeln!(out, "perplexity {perplexity:.4} ± {error:.5}")?;
        if let Some(d) = divergence {
            let (base, base_error) = d.base.perplexity();
            writeln!(out, "base       {base:.4} ± {base_error:.5}")?;
            writeln!(
                out,
                "KL         {:.6} ± {:.6}, median {:.6}, 99 % under {:.6}, at most {:.6}",
                d.kl.mean(),
                d.kl.error(),
                d.quantile(0.5),
                d.quantile(0.99),
                d.quantile(1.0)
            )?;
            writeln!(out, "same top   {:.3} % ± {:.3} %", 100.0 * d.same_top.mean(), 100.0 * d.same_top.error())?;
        }
        Ok(())
    }
}
