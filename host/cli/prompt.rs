//! Where a prompt comes from: `-p`, `-f`, `--prompt-ids` or standard input, and what becomes of it.

use anyhow::Result;
use clap::Args;

use super::{chat_template::TemplateArguments, text::TextArguments};
use crate::{
    chat::Message,
    gguf::Gguf,
    tokenizer::{Ends, Special, Tokenizer},
};

/// A prompt as text, through the chat template or not, or as token ids.
#[derive(Args)]
pub struct PromptArguments {
    #[command(flatten)]
    text: TextArguments,
    /// The prompt as token ids, passed to the model as they are.
    #[arg(
        long,
        value_name = "ID,ID,…",
        value_delimiter = ',',
        conflicts_with_all = ["prompt", "file", "raw", "system", "chat_template", "chat_template_file", "chat_template_kwargs"]
    )]
    prompt_ids: Option<Vec<u32>>,
    /// Do not wrap the prompt in the model's chat template; special tokens in it count.
    #[arg(long, conflicts_with_all = ["system", "chat_template", "chat_template_file", "chat_template_kwargs"])]
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
        let text = self.text.text()?;
        if self.raw {
            return Ok(tokenizer.encode(&text, Special::Parse, Ends::AsFileSays)?);
        }
        let template = self.template.load(gguf, tokenizer)?;
        let pieces = template.render(&[Message::new("user", &text)])?;
        Ok(tokenizer.encode_pieces(&pieces, Ends::AsFileSays)?)
    }
}
