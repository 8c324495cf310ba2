//! `ferrowarp template`: what a model will see of a prompt.

use std::io::Write;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::{
    Outcome, chat_template::TemplateArguments, model::ModelArgument, output::out, prompt::MessageArguments,
    report::Format, tokenizer::TokenizerArguments,
};
use crate::tokenizer::Ends;

/// The arguments of `template`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    ferrowarp template -m model.gguf -p 'Hello' --system 'Be brief.'\n  \
    ferrowarp template -m model.gguf --messages conversation.json --format json")]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgument,
    #[command(flatten)]
    said: MessageArguments,
    /// The text as it is, or one JSON object: text, ids, pieces (text, is_template).
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    template: TemplateArguments,
    #[command(flatten)]
    tokenizer: TokenizerArguments,
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> Result<Outcome> {
        let gguf = self.model.open()?;
        let tokenizer = self.tokenizer.load(&gguf)?;
        let template = self.template.load(&gguf, &tokenizer)?;
        let pieces = template.render(&self.said.messages()?)?;
        let text: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
        let mut out = out();
        match self.format {
            Format::Text => writeln!(out, "{text}")?,
            Format::Json => {
                let ids = tokenizer.encode_pieces(&pieces, Ends::AsFileSays)?;
                let pieces: Vec<Value> = pieces
                    .iter()
                    .map(|piece| json!({ "text": piece.text, "is_template": piece.is_template }))
                    .collect();
                let object = json!({ "text": text, "ids": ids, "pieces": pieces });
                writeln!(out, "{object}")?;
            }
        }
        Ok(Outcome::Done)
    }
}
