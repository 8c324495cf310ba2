//! Past calls, in messages that tell of them.

use serde_json::{Map, Value};

use crate::chat::Message;

/// The message, with its calls' arguments as objects where they are texts of objects.
pub fn with_objects(message: Message) -> Message {
    let mut fields = message.fields().clone();
    let Some(Value::Array(calls)) = fields.get_mut("tool_calls") else { return message };
    for call in calls {
        let Some(arguments) = call.get_mut("function").and_then(|function| function.get_mut("arguments")) else {
            continue;
        };
        if let Some(Ok(Value::Object(object))) = arguments.as_str().map(serde_json::from_str) {
            *arguments = Value::Object(object);
        }
    }
    Message::from_json(Value::Object(fields)).unwrap_or(message)
}

/// The message for a template that knows neither calls nor the role `tool`: as text, in Hermes's form.
pub fn plain(message: Message) -> Message {
    let fields = message.fields();
    let content = fields.get("content").cloned().unwrap_or(Value::Null);
    if message.role() == "tool" {
        let text = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
        return Message::new("user", &format!("<tool_response>\n{text}\n</tool_response>"));
    }
    let Some(Value::Array(calls)) = fields.get("tool_calls") else { return message };
    let mut text = content.as_str().unwrap_or_default().to_owned();
    for call in calls {
        let function = call.get("function").unwrap_or(call);
        let mut shown = Map::new();
        shown.insert("name".to_owned(), function.get("name").cloned().unwrap_or(Value::Null));
        let arguments = function.get("arguments").cloned().unwrap_or(Value::Null);
        let parsed = arguments.as_str().and_then(|text| serde_json::from_str(text).ok());
        shown.insert("arguments".to_owned(), parsed.unwrap_or(arguments));
        if !text.is_empty() {
            text.push('\n');
        }
        text += &format!("<tool_call>\n{}\n</tool_call>", Value::Object(shown));
    }
    Message::new(message.role(), &text)
}
