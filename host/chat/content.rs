//! What a message says, in the form that a template takes.
//!
//! A message's content is a string, `null` beside tool calls, or a list of parts of which each is a text. Most templates take
//! strings alone and would print a list or `null` as Python prints them; some take lists too, and a few nothing else. As
//! llama.cpp does it, what a template takes is tried out: whether a known text appears, and not as the value of a printed
//! dictionary. Then
//!
//! - `null`, and no content at all, is an empty string;
//! - parts are joined with line ends where the template takes no lists;
//! - a string is a list of one part where the template takes nothing else.

use serde_json::{Map, Value, json};

use super::{ChatError, Message, RenderOptions, Template};

/// A text that no template holds.
const PROBE: &str = "7f3a content 7f3a";

/// The forms of content that a template takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forms {
    /// Plain text.
    strings: bool,
    /// A list of parts.
    parts: bool,
}

impl Forms {
    fn of_text(self, text: &str) -> Value {
        if self.strings { Value::from(text) } else { json!([{ "type": "text", "text": text }]) }
    }
}

impl Template {
    /// The messages with contents that this template takes.
    pub(super) fn with_contents(&self, messages: &[Message]) -> Result<Vec<Message>, ChatError> {
        let forms = *self.forms.get_or_init(|| self.try_forms());
        let message = |(index, message): (usize, &Message)| {
            let content = match message.fields.get("content") {
                None | Some(Value::Null) => forms.of_text(""),
                Some(Value::String(text)) => forms.of_text(text),
                Some(Value::Array(parts)) => {
                    let texts: Result<Vec<&str>, &Value> = parts.iter().map(|part| text(part).ok_or(part)).collect();
                    let texts = texts.map_err(|part| wrong(index, message, part))?;
                    if forms.parts { Value::Array(parts.clone()) } else { Value::from(texts.join("\n")) }
                }
                Some(other) => return Err(wrong(index, message, other)),
            };
            let mut fields = message.fields.clone();
            fields.insert("content".to_owned(), content);
            Ok(Message { fields })
        };
        messages.iter().enumerate().map(message).collect()
    }

    fn try_forms(&self) -> Forms {
        let takes = |content: Value| {
            let mut fields = Map::new();
            fields.insert("role".to_owned(), "user".into());
            fields.insert("content".to_owned(), content);
            let ends = [self.bos_token.as_str(), self.eos_token.as_str()];
            let rendered = self.run(&self.source, ends, &[Message { fields }], &RenderOptions::default());
            rendered.is_ok_and(|text| {
                let printed = ["'", "\""].iter().any(|quote| text.contains(&format!("{quote}{PROBE}{quote}")));
                text.contains(PROBE) && !printed
            })
        };
        let parts = || takes(json!([{ "type": "text", "text": PROBE }]));
        // A template that fails on both may still do with what it is given.
        match takes(PROBE.into()) {
            true => Forms { strings: true, parts: parts() },
            false => {
                let parts = parts();
                Forms { strings: !parts, parts }
            }
        }
    }
}

/// The text of a part.
fn text(part: &Value) -> Option<&str> {
    (part.get("type")?.as_str()? == "text").then(|| part.get("text")?.as_str())?
}

fn wrong(index: usize, message: &Message, found: &Value) -> ChatError {
    let mut found = found.to_string();
    if let Some((end, _)) = found.char_indices().nth(80) {
        found.truncate(end);
        found.push('…');
    }
    ChatError::Content { number: index + 1, role: message.role().to_owned(), found }
}
