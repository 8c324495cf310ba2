//! `ferrowarp embed`: texts as vectors.

use std::{io::Write, sync::atomic::Ordering};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::{
    Outcome, interrupt,
    model::{DeviceArgument, EngineArguments, MemoryArguments, ModelArgument, parse_size},
    output::out,
    pooling::PoolingArgument,
    text::TextArguments,
    tokenizer::TokenizerArguments,
};
use crate::{
    api::{EmbeddingsAsked, Encoding, numbers},
    gpu::{Activations, kernels::CacheType},
    model::shortened,
    tokenizer::{Ends, Special, Tokenizer},
};

/// The arguments of `embed`.
#[derive(Args)]
#[command(
    after_help = "An embedding is made of the hidden states behind the last norm, and has length 1. Each line of a file, or of standard \
                  input, that is not empty is a text.\n\nExamples:\n  \
    ferrowarp embed -m model.gguf -p 'The sea is blue'\n  \
    ferrowarp embed -m model.gguf -f lines.txt > embeddings.jsonl\n  \
    cat lines.txt | ferrowarp embed -m model.gguf --pooling last --format openai"
)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgument,
    #[command(flatten)]
    device: DeviceArgument,
    /// Type of the cache of keys and values, which a text needs for a moment alone: f16 is faster for long texts, and rounds.
    #[arg(long, default_value = "f32", env = "FERROWARP_CACHE_TYPE")]
    cache_type: CacheType,
    /// Tokens that a text may have; 0 for the model's own context [default: that, at most 4096].
    #[arg(short, long, value_name = "N", env = "FERROWARP_CONTEXT")]
    context: Option<usize>,
    /// Device memory to take at most, as in 800M or 6G [default: what is free].
    #[arg(long, value_name = "SIZE", value_parser = parse_size, env = "FERROWARP_MEMORY_LIMIT")]
    memory_limit: Option<u64>,
    #[command(flatten)]
    tokenizer: TokenizerArguments,
    #[command(flatten)]
    input: InputArguments,
    #[command(flatten)]
    pooling: PoolingArgument,
    /// Keep so many of a vector's first numbers, at length 1 again.
    #[arg(long, value_name = "N")]
    dimensions: Option<usize>,
    /// An object on each line (index, text, n_tokens, embedding), an array of vectors, or the object of OpenAI's interface.
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Format,
}

/// Where texts come from.
#[derive(Args)]
struct InputArguments {
    #[command(flatten)]
    text: TextArguments,
    /// The text as token ids, passed to the model as they are.
    #[arg(long, value_name = "ID,ID,…", value_delimiter = ',', conflicts_with_all = ["prompt", "file"])]
    prompt_ids: Option<Vec<u32>>,
}

/// How vectors are printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Jsonl,
    Json,
    Openai,
}

/// A text and its tokens.
struct Text {
    text: Option<String>,
    ids: Vec<u32>,
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> Result<Outcome> {
        interrupt::install()?;
        let Arguments {
            model,
            device,
            cache_type,
            context,
            memory_limit,
            tokenizer,
            input,
            pooling,
            dimensions,
            format,
        } = self;
        // A text of one token goes through the layers alone.
        let memory = MemoryArguments { cache_type, activations: Activations::F32, context, memory_limit };
        let arguments = EngineArguments { model, device, memory };
        let gguf = arguments.model.open_to_run()?;
        let (device, tokenizer, _) = arguments.open_with(&gguf, &tokenizer)?;
        let texts = input.texts(&tokenizer)?;
        let (mut engine, _) = arguments.load(device, &gguf)?;
        let n_embd = engine.config().n_embd;
        if let Some(found) = dimensions.filter(|n| !(1..=n_embd).contains(n)) {
            bail!("--dimensions: found {found}, expected 1 to {n_embd}, which the model's embeddings have");
        }
        let pooling = pooling.of(engine.config());
        let listener = interrupt::Listener::new();
        let (mut out, mut vectors) = (out(), Vec::new());
        for (index, Text { text, ids }) in texts.iter().enumerate() {
            if listener.flag().load(Ordering::Relaxed) {
                return Ok(Outcome::Interrupted);
            }
            let vector = engine.embed(ids, pooling).with_context(|| format!("text {}", index + 1))?;
            let vector = match dimensions {
                Some(n) => shortened(&vector, n),
                None => vector,
            };
            match format {
                Format::Jsonl => {
                    let mut object = json!({ "index": index });
                    if let Some(text) = text {
                        object["text"] = json!(text);
                    }
                    object["n_tokens"] = json!(ids.len());
                    object["embedding"] = numbers(&vector);
                    writeln!(out, "{object}")?;
                }
                Format::Json => {
                    let before = if index == 0 { "[" } else { ",\n" };
                    write!(out, "{before}{}", numbers(&vector))?;
                }
                Format::Openai => vectors.push(vector),
            }
        }
        match format {
            Format::Jsonl => {}
            Format::Json => writeln!(out, "]")?,
            Format::Openai => {
                let n_tokens = texts.iter().map(|text| text.ids.len()).sum();
                let asked = EmbeddingsAsked { inputs: Vec::new(), encoding: Encoding::Float, dimensions: None };
                writeln!(out, "{}", asked.answer(gguf.name(), &vectors, n_tokens))?;
            }
        }
        Ok(Outcome::Done)
    }
}

impl InputArguments {
    /// One text from -p; of a file and of standard input one on each line that is not empty.
    fn texts(&self, tokenizer: &Tokenizer) -> Result<Vec<Text>> {
        if let Some(ids) = &self.prompt_ids {
            return Ok(vec![Text { text: None, ids: ids.clone() }]);
        }
        let all = self.text.text()?;
        let lines: Vec<&str> = match self.text.prompt {
            Some(_) => vec![&all],
            None => all.lines().filter(|line| !line.trim().is_empty()).collect(),
        };
        if lines.is_empty() {
            bail!("found empty lines alone, expected a text on one of them");
        }
        let text = |line: &str| {
            // Special tokens count, as llama.cpp's server has it.
            let ids = tokenizer.encode(line, Special::Parse, Ends::AsFileSays)?;
            Ok(Text { text: Some(line.to_owned()), ids })
        };
        lines.into_iter().map(text).collect()
    }
}
