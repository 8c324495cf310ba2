//! Where a prompt comes from: `-p`, `-f`, `--messages`, `--prompt-ids` or standard input, and what becomes of it.

use std::{
    io::{IsTerminal, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use super::chat_template::TemplateArguments;
use crate::{
    chat::Message,
    gguf::Gguf,
    tokenizer::{Ends, Special, Tokenizer},
};

/// A text: `-p`, `-f` or standard input.
#[derive(Args)]
pub struct TextArguments {
    /// The text; standard input without it, -f and --messages.
    #[arg(short, long, value_name = "TEXT", conflicts_with = "file")]
    pub prompt: Option<String>,
    /// A file that holds the text (UTF-8).
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

impl TextArguments {
    /// The text as it is, which is not empty.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn text(&self) -> Result<String> {
        expect_text(self.read()?)
    }

    /// The text as a prompt: without the line end that a file or pipe ends with, as llama.cpp takes it. A model would answer
    /// otherwise.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub fn prompt(&self) -> Result<String> {
        let mut text = self.read()?;
        if self.prompt.is_none() && text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        expect_text(text)
    }

    fn read(&self) -> Result<String> {
        Ok(match (&self.prompt, &self.file) {
            (Some(text), _) => text.clone(),
            (None, Some(path)) => read_text(path, "the prompt")?,
            (None, None) => {
                if std::io::stdin().is_terminal() {
                    bail!("no prompt: give one with -p or -f, or pipe it to standard input");
                }
                let mut bytes = Vec::new();
                std::io::stdin().read_to_end(&mut bytes).context("standard input: cannot read the prompt")?;
                utf8(bytes, "standard input", "the prompt")?
            }
        })
    }
}

fn expect_text(text: String) -> Result<String> {
    if text.is_empty() {
        bail!("the prompt is empty: expected text from -p, -f or standard input");
    }
    Ok(text)
}

/// Reads a file of text; `what` says what it is for.
///
/// # Errors
/// It cannot be read, or is not UTF-8.
pub fn read_text(path: &Path, what: &str) -> Result<String> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).with_context(|| format!("{name}: cannot read {what}"))?;
    utf8(bytes, &name, what)
}

/// Reads a file of text that something else than a model reads: a byte order mark before it, as some editors write, is no part.
///
/// # Errors
/// As [`read_text`].
pub fn read_source(path: &Path, what: &str) -> Result<String> {
    let text = read_text(path, what)?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

fn utf8(bytes: Vec<u8>, name: &str, what: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("{name}: {what}: found bytes that are not UTF-8 at offset {at}, expected UTF-8 text")
    })
}

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
