//! `ferrowarp template`: what a model will see of a prompt.

use std::{io::Write, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::{
    Outcome,
    chat_template::TemplateArguments,
    model::ModelArgument,
    report::Format,
    text::{TextArguments, read_text},
    tokenizer::TokenizerArguments,
};
use crate::{chat::Message, tokenizer::Ends};

/// The arguments of `template`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    ferrowarp template -m model.gguf -p 'Hello' --system 'Be brief.'\n  \
    ferrowarp template -m model.gguf --messages conversation.json --format json")]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgument,
    #[command(flatten)]
    text: TextArguments,
    /// A conversation, as chat's /save writes it: a JSON array of objects with role and content.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "file"])]
    messages: Option<PathBuf>,
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
        let messages = match &self.messages {
            Some(path) => {
                let text = read_text(path, "the conversation")?;
                messages(&text).with_context(|| path.display().to_string())?
            }
            None => vec![Message::new("user", &self.text.text()?)],
        };
        let pieces = template.render(&messages)?;
        let text: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
        let mut out = std::io::stdout().lock();
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

fn messages(text: &str) -> Result<Vec<Message>> {
    match serde_json::from_str(text) {
        Ok(Value::Array(messages)) => {
            let messages: Result<Vec<Message>, _> = messages.into_iter().map(Message::from_json).collect();
            Ok(messages?)
        }
        Ok(_) => bail!("the conversation: found another JSON value, expected an array of messages"),
        Err(error) => {
            bail!("the conversation: found no JSON ({error}), expected an array of messages")
        }
    }
}
