//! Arguments of the commands that write many answers at the same time.

use anyhow::Result;
use clap::Args;

use super::generation::count;
use crate::forward::EngineOptions;

/// How many answers at the same time, and how long they are.
#[derive(Args)]
pub struct ManyArguments {
    /// Answers written at the same time, at most.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    parallel: u32,
    /// Answer each as it would be answered alone, to the last bit: steps of many keep off tensor cores, and each prompt goes through the model by itself,
    /// which takes longer.
    #[arg(long)]
    batch_invariant: bool,
    /// Tokens of a prompt that go through the layers together, at most: with fewer, prompts take longer, and answers that are being written wait
    /// less for them. They wait for two thirds of a pass over as many at a time.
    #[arg(short, long, value_name = "N", default_value_t = EngineOptions::default().n_batch, value_parser = even)]
    batch_size: usize,
    /// Tokens of an answer where a request does not say; -1 for no limit but the end of the turn and the context.
    #[arg(
        short,
        long,
        visible_alias = "predict",
        value_name = "N",
        default_value_t = -1,
        allow_negative_numbers = true
    )]
    n_predict: i64,
}

impl ManyArguments {
    /// Tokens of an answer where a request does not say.
    ///
    /// # Errors
    /// A negative number that is not -1.
    pub fn n_predict(&self) -> Result<Option<usize>> {
        match self.n_predict {
            -1 => Ok(None),
            n => count("-n", n, "-1 for no limit").map(Some),
        }
    }

    /// Answers at the same time.
    pub fn n_sequences(&self) -> usize {
        self.parallel as usize
    }

    /// The same options for so many sequences.
    pub fn options(&self, options: EngineOptions) -> EngineOptions {
        EngineOptions {
            n_sequences: self.n_sequences(),
            n_batch: self.batch_size,
            batch_invariant: self.batch_invariant,
            ..options
        }
    }
}

/// An even number from 2 on: prompts are cut where no token is left alone.
fn even(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n >= 2 && n % 2 == 0 => Ok(n),
        _ => Err("expected an even number from 2 on".to_owned()),
    }
}
