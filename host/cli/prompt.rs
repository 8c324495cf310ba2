//! Where a prompt comes from: `-p`, `-f`, `--messages`, `--prompt-ids` or standard input, and what becomes of it.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use super::{
    chat_template::TemplateArguments,
    text::{TextArguments, read_source},
};
use crate::{
    chat::Message,
    gguf::Gguf,
    tokenizer::{Ends, Special, Tokenizer},
};

/// What was said: a text, or a conversation.
#[derive(Args)]
pub struct MessageArguments {
    #[command(flatten)]
    text: TextArguments,
    /// A conversation, as chat's /save writes it: a JSON array of objects with role and content. A text from -p or -f is what
    /// the user says next.
    #[arg(long, value_name = "FILE")]
    messages: Option<PathBuf>,
}

impl MessageArguments {
    /// The conversation's messages.
    ///
    /// # Errors
    /// There are none, or they cannot be read.
    pub fn messages(&self) -> Result<Vec<Message>> {
        let Some(path) = &self.messages else {
            return Ok(vec![Message::new("user", &self.text.prompt()?)]);
        };
        let text = read_source(path, "the conversation")?;
        let mut messages = parse_messages(&text).with_context(|| path.display().to_string())?;
        if self.text.prompt.is_some() || self.text.file.is_some() {
            messages.push(Message::new("user", &self.text.prompt()?));
        }
        Ok(messages)
    }
}

fn parse_messages(text: &str) -> Result<Vec<Message>> {
    match serde_json::from_str(text) {
        Ok(Value::Array(messages)) if !messages.is_empty() => {
            let messages: Result<Vec<Message>, _> = messages.into_iter().map(Message::from_json).collect();
            Ok(messages?)
        }
        Ok(Value::Array(_)) => bail!("the conversation: found no message, expected at least one"),
        Ok(_) => bail!("the conversation: found another JSON value, expected an array of messages"),
        Err(error) => {
            bail!("the conversation: found no JSON ({error}), expected an array of messages")
        }
    }
}

/// A prompt as text or messages, through the chat template or not, or as token ids.
#[derive(Args)]
pub struct PromptArguments {
    #[command(flatten)]
    said: MessageArguments,
    /// The prompt as token ids, passed to the model as they are.
    #[arg(
        long,
        value_name = "ID,ID,…",
        value_delimiter = ',',
        conflicts_with_all = ["prompt", "file", "messages", "raw", "system", "chat_template", "chat_template_file", "chat_template_kwargs"]
    )]
    prompt_ids: Option<Vec<u32>>,
    /// Do not wrap the prompt in the model's chat template; special tokens in it count.
    #[arg(long, conflicts_with_all = ["messages", "system", "chat_template", "chat_template_file", "chat_template_kwargs"])]
    raw: bool,
    #[command(flatten)]
    template: TemplateArguments,
}

impl PromptArguments {
    /// The token ids that the model gets.
    ///
    /// # Errors
    /// There is no prompt, or the template or the vocabulary does not take it.
    pub fn ids(&self, gguf: &Gguf, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        if let Some(ids) = &self.prompt_ids {
            return Ok(ids.clone());
        }
        if self.raw {
            return Ok(tokenizer.encode(&self.said.text.prompt()?, Special::Parse, Ends::AsFileSays)?);
        }
        let messages = self.said.messages()?;
        let template = self.template.load(gguf, tokenizer)?;
        let pieces = template.render(&messages)?;
        Ok(tokenizer.encode_pieces(&pieces, Ends::AsFileSays)?)
    }
}
