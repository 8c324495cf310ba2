//! `ferrowarp tokenize`: the tokens of a text.

use std::io::Write;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::{
    Outcome,
    model::ModelArgument,
    output::out,
    report::{Format, quoted},
    text::TextArguments,
    tokenizer::TokenizerArguments,
};
use crate::tokenizer::{Ends, Special};

/// The arguments of `tokenize`.
#[derive(Args)]
#[command(
    after_help = "A file's or pipe's text is taken as it is, with the line end that a prompt would lose.\n\nExamples:\n  \
    ferrowarp tokenize -p 'Hello, world'\n  \
    ferrowarp tokenize -m model.gguf -f chapter.txt --count\n  \
    ferrowarp tokenize -m model.gguf -p '<|im_start|>user' --special --format json"
)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgument,
    #[command(flatten)]
    text: TextArguments,
    #[command(flatten)]
    tokenizer: TokenizerArguments,
    /// Read special tokens in the text as such, not as text.
    #[arg(long)]
    special: bool,
    /// Leave out the begin and end tokens that the model asks for.
    #[arg(long, visible_alias = "no-bos")]
    bare: bool,
    /// Print the number of tokens alone.
    #[arg(long)]
    count: bool,
    /// A token on each line, or one JSON object: count, ids, pieces (a text, or bytes where they are not UTF-8).
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> Result<Outcome> {
        let gguf = self.model.open()?;
        let tokenizer = self.tokenizer.load(&gguf)?;
        let special = if self.special { Special::Parse } else { Special::Text };
        let ends = if self.bare { Ends::Bare } else { Ends::AsFileSays };
        let ids = tokenizer.encode(&self.text.text()?, special, ends)?;
        let mut out = out();
        match (self.format, self.count) {
            (Format::Text, true) => writeln!(out, "{}", ids.len())?,
            (Format::Json, true) => writeln!(out, "{}", json!({ "count": ids.len() }))?,
            (Format::Text, false) => {
                for &id in &ids {
                    writeln!(out, "{id:7}  {}", quoted(tokenizer.token_bytes(id)?))?;
                }
            }
            (Format::Json, false) => {
                let pieces: Result<Vec<Value>> = ids
                    .iter()
                    .map(|&id| {
                        let bytes = tokenizer.token_bytes(id)?;
                        Ok(match std::str::from_utf8(bytes) {
                            Ok(text) => json!(text),
                            Err(_) => json!(bytes),
                        })
                    })
                    .collect();
                let object = json!({ "count": ids.len(), "ids": ids, "pieces": pieces? });
                writeln!(out, "{object}")?;
            }
        }
        Ok(Outcome::Done)
    }
}
