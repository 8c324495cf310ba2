//! The arguments that wrap messages in a chat template.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Map, Value};

use super::text::read_source;
use crate::{
    chat::{CHATML, ChatError, ChatTemplate, Message, RenderOptions},
    gguf::Gguf,
    tokenizer::{Piece, Tokenizer},
};

/// Which template, and what it is told.
#[derive(Args)]
#[command(next_help_heading = "Chat template")]
pub struct TemplateArguments {
    /// What the model is told before the conversation.
    #[arg(long, visible_alias = "system-prompt", value_name = "TEXT")]
    pub system: Option<String>,
    /// A template in place of the model's own: Jinja text, or chatml.
    #[arg(long, value_name = "TEXT", conflicts_with = "chat_template_file")]
    chat_template: Option<String>,
    /// A file that holds a template.
    #[arg(long, value_name = "FILE")]
    chat_template_file: Option<PathBuf>,
    /// More variables for the template, a JSON object: {"enable_thinking": false}.
    #[arg(long, value_name = "JSON", value_parser = variables)]
    chat_template_kwargs: Option<Variables>,
}

impl TemplateArguments {
    /// The template, ready for this vocabulary.
    ///
    /// # Errors
    /// There is none, or it is not one.
    pub fn load(&self, gguf: &Gguf, tokenizer: &Tokenizer) -> Result<Conversation> {
        let (template, variables) = self.parts(gguf, tokenizer)?;
        Ok(Conversation { template: template?, variables, system: self.system.clone() })
    }

    /// The template and its variables; that the file has none that can be used may not matter.
    ///
    /// # Errors
    /// What was given as a template is none.
    #[allow(clippy::type_complexity)]
    pub fn parts(
        &self,
        gguf: &Gguf,
        tokenizer: &Tokenizer,
    ) -> Result<(Result<ChatTemplate, ChatError>, Map<String, Value>)> {
        let template = match (&self.chat_template, &self.chat_template_file) {
            (Some(name), _) if name == "chatml" => Ok(ChatTemplate::new("chatml", CHATML, tokenizer)?),
            (Some(text), _) if !text.contains("{{") && !text.contains("{%") => bail!(
                "--chat-template: found {text:?}, expected Jinja text with {{{{ }}}} or {{% %}}, or the name chatml; \
                 a file is given with --chat-template-file"
            ),
            (Some(text), _) => Ok(ChatTemplate::new("--chat-template", text, tokenizer)?),
            (None, Some(path)) => {
                let text = read_source(path, "the chat template")?;
                Ok(ChatTemplate::new(&path.display().to_string(), &text, tokenizer)?)
            }
            (None, None) => ChatTemplate::from_gguf(gguf, tokenizer),
        };
        let variables = match &self.chat_template_kwargs {
            Some(Variables(variables)) => variables.clone(),
            None => Map::new(),
        };
        Ok((template, variables))
    }
}

/// A template with what stays the same from message to message.
pub struct Conversation {
    template: ChatTemplate,
    variables: Map<String, Value>,
    /// What the model is told first.
    pub system: Option<String>,
}

impl Conversation {
    /// What the model sees of these messages, the system's before them.
    ///
    /// # Errors
    /// The template fails on them.
    pub fn render(&self, messages: &[Message]) -> Result<Vec<Piece>> {
        let options = RenderOptions { variables: self.variables.clone(), ..RenderOptions::default() };
        Ok(self.template.render(&self.with_system(messages), &options)?)
    }

    /// The messages, the system's before them.
    pub fn with_system(&self, messages: &[Message]) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new("system", text));
        system.chain(messages.iter().cloned()).collect()
    }
}

/// A JSON object, as one value of an argument.
#[derive(Clone)]
struct Variables(Map<String, Value>);

fn variables(text: &str) -> Result<Variables, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(variables)) => Ok(Variables(variables)),
        Ok(_) => Err("expected a JSON object".to_owned()),
        Err(error) => Err(format!("expected a JSON object: {error}")),
    }
}
