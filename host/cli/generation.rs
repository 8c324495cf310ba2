//! The arguments of every command that generates text.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use super::{output::print_warning, sampling::SamplerArguments, text::read_source};
use crate::{
    generate::{Limits, constraint_vocabulary, sampler},
    gguf::Gguf,
    model::Config,
    sample::{Constraint, Sampler, SamplerOptions},
    tokenizer::Tokenizer,
};

/// How text is chosen, and what ends it.
#[derive(Args)]
#[command(next_help_heading = "Generation")]
pub struct GenerationArguments {
    /// Show the device, the seed, times and rates on standard error.
    #[arg(short, long)]
    pub verbose: bool,
    /// Tokens to generate at most; -1 for no limit but the end of the turn and the context.
    #[arg(
        short,
        long,
        visible_alias = "predict",
        value_name = "N",
        default_value_t = -1,
        allow_negative_numbers = true
    )]
    n_predict: i64,
    /// Go on past a token that ends the turn.
    #[arg(long, conflicts_with_all = ["json_schema", "grammar"])]
    ignore_eos: bool,
    /// Stop where this text comes, which is not printed; may be given more than once.
    #[arg(short, long, value_name = "TEXT")]
    pub reverse_prompt: Vec<String>,
    /// When the context is full, drop the older half of the text and go on.
    #[arg(long)]
    context_shift: bool,
    /// The first tokens, which --context-shift does not drop; -1 for all of the prompt.
    #[arg(long, value_name = "N", default_value_t = 4, allow_negative_numbers = true)]
    keep: i64,
    #[command(flatten)]
    constraint: ConstraintArguments,
    #[command(flatten)]
    sampler: SamplerArguments,
}

/// What the text must follow.
#[derive(Args)]
#[command(next_help_heading = "Constraints")]
struct ConstraintArguments {
    /// Generate JSON that matches the schema in this file.
    #[arg(long, short = 'j', value_name = "FILE", conflicts_with = "grammar")]
    json_schema: Option<PathBuf>,
    /// Generate text that matches the grammar in this file: GBNF, or Lark as llguidance reads it.
    #[arg(long, value_name = "FILE")]
    grammar: Option<PathBuf>,
}

impl GenerationArguments {
    /// How far to go; `n_prompt` is the prompt's length.
    ///
    /// # Errors
    /// A negative number that has no meaning.
    pub fn limits(&self, n_prompt: usize) -> Result<Limits> {
        let n_keep = match self.keep {
            -1 => n_prompt,
            n => count("--keep", n, "-1 for all of the prompt")?,
        };
        Ok(Limits {
            n_predict: match self.n_predict {
                -1 => None,
                n => Some(count("-n", n, "-1 for no limit")?),
            },
            ignore_eos: self.ignore_eos,
            shift_keeping: self.context_shift.then_some(n_keep),
        })
    }

    /// What the sampler is told.
    ///
    /// # Errors
    /// An option outside its limits.
    pub fn sampler_options(&self, gguf: &Gguf) -> Result<SamplerOptions> {
        Ok(self.sampler.options(gguf)?)
    }

    /// The sampler.
    ///
    /// # Errors
    /// An option outside its limits.
    pub fn sampler(&self, gguf: &Gguf, tokenizer: &Tokenizer) -> Result<Sampler> {
        let n_vocab = tokenizer.vocab_size().min(Config::from_gguf(gguf)?.vocab_size);
        Ok(sampler(self.sampler_options(gguf)?, tokenizer, n_vocab)?)
    }

    /// The constraint, where one is asked for.
    ///
    /// # Errors
    /// The file cannot be read, or holds no schema or grammar.
    pub fn constraint(&self, tokenizer: &Tokenizer) -> Result<Option<Constraint>> {
        let (path, what) = match &self.constraint {
            ConstraintArguments { json_schema: Some(path), .. } => (path, "the JSON schema"),
            ConstraintArguments { grammar: Some(path), .. } => (path, "the grammar"),
            _ => return Ok(None),
        };
        let text = read_source(path, what)?;
        let name = path.display().to_string();
        let vocabulary = constraint_vocabulary(tokenizer)?;
        let constraint = if self.constraint.json_schema.is_some() {
            Constraint::from_json_schema(&name, &text, &vocabulary)?
        } else {
            Constraint::from_grammar(&name, &text, &vocabulary)?
        };
        constraint.warnings().iter().for_each(|warning| print_warning(warning));
        Ok(Some(constraint))
    }
}

/// A number of tokens; `special` says what else can be given.
///
/// # Errors
/// It is negative.
pub fn count(flag: &str, n: i64, special: &str) -> Result<usize> {
    match usize::try_from(n) {
        Ok(n) => Ok(n),
        Err(_) => bail!("{flag}: found {n}, expected a number of tokens, or {special}"),
    }
}
