//! The arguments that have tokens guessed ahead, and what they load.

use std::path::PathBuf;

use anyhow::Result;
use clap::{ArgGroup, Args, ValueEnum};

use super::model::EngineArguments;
use crate::{
    forward::{Engine, EngineOptions},
    gguf::Gguf,
    model::{Config, Family},
    speculate::{DraftModel, Drafter, Drafting, Ngrams, common_tokens},
};

/// Sequences that there is room to guess for at the same time, with as many guesses each as are allowed.
const TOGETHER: usize = 4;

/// Guesses at a time where nothing is said.
const N_MOST: u32 = 8;

/// Where guesses come from, and how many.
#[derive(Args)]
#[command(next_help_heading = "Speculation", group(ArgGroup::new("drafts").multiple(true)))]
pub struct SpeculationArguments {
    /// Guess the next tokens and check several in one step; the text is the same. ngram takes what followed the last tokens where they came
    /// before in the prompt or the answer, which is right where a text is edited or quoted.
    #[arg(long, value_name = "HOW", default_value = "off", group = "drafts", conflicts_with = "draft_model")]
    speculate: Source,
    /// Have a smaller model of the same vocabulary guess the next tokens, and check several in one step; the text is the same.
    #[arg(long, value_name = "FILE", group = "drafts")]
    draft_model: Option<PathBuf>,
    /// Tokens guessed at a time, at most; how many, and whether any, follows from how often they are right [default: 8].
    #[arg(long, value_name = "N", requires = "drafts", value_parser = clap::value_parser!(u32).range(1..=64))]
    draft_max: Option<u32>,
}

/// Where guesses come from that need no model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Source {
    /// Nowhere.
    Off,
    /// The text.
    Ngram,
}

/// Who guesses, before the model is there that it guesses for.
pub struct Guessing {
    n_most: usize,
    drafter: Option<Box<dyn Drafter>>,
    /// Bytes of device memory that it takes.
    bytes: u64,
}

impl SpeculationArguments {
    /// Loads what guesses for the model in `gguf`: first, since the model then takes what memory is left for many sequences.
    ///
    /// # Errors
    /// The draft model cannot be loaded, or has another vocabulary.
    pub fn load(&self, arguments: &EngineArguments, gguf: &Gguf, n_sequences: usize) -> Result<Guessing> {
        let n_most = self.draft_max.unwrap_or(N_MOST) as usize;
        let Some(path) = &self.draft_model else {
            return Ok(match self.speculate {
                Source::Off => Guessing { n_most: 0, drafter: None, bytes: 0 },
                Source::Ngram => Guessing { n_most, drafter: Some(Box::new(Ngrams::default())), bytes: 0 },
            });
        };
        let draft = Gguf::open(path)?;
        Family::of_model(&draft)?;
        let n_tokens = common_tokens(gguf, &draft)?;
        // Texts longer than it can see have no guesses.
        let longest = Config::from_gguf(gguf)?.context_length;
        let n_context = arguments.memory.n_context(longest).min(Config::from_gguf(&draft)?.context_length);
        let set = |options| EngineOptions {
            n_context: Some(n_context),
            n_sequences,
            n_positions: Some(n_sequences.min(TOGETHER) * n_context),
            ..options
        };
        let (engine, _) = arguments.load_with(arguments.open()?, &draft, set)?;
        let bytes = engine.plan().total;
        let drafter: Box<dyn Drafter> = Box::new(DraftModel::new(engine, draft.name(), n_tokens)?);
        Ok(Guessing { n_most, drafter: Some(drafter), bytes })
    }
}

impl Guessing {
    /// The same options with rows for guesses.
    pub fn options(&self, options: EngineOptions) -> EngineOptions {
        EngineOptions {
            n_drafted: self.n_most * options.n_sequences.min(TOGETHER),
            memory_limit: options.memory_limit.map(|limit| limit.saturating_sub(self.bytes)),
            ..options
        }
    }

    /// The guesses for this engine.
    pub fn drafting(self, engine: &Engine) -> Option<Drafting> {
        Some(Drafting::new(self.drafter?, engine, self.n_most))
    }
}
