//! What calls must look like, as a grammar: each tool's name together with the schema of its arguments.
//!
//! A call's words may be set apart by as few blanks as models write; its control tokens, where the vocabulary has them as such, are allowed
//! where they belong and nowhere else.

use serde_json::Value;

use super::{Calls, Tool, closed};

/// Where a grammar begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// Behind the words that a prompt ends with where a call has to be made.
    Opened,
    /// Where a model began a call by itself: there [`Splitter::begun`](super::Splitter::begun) says that it did.
    Called,
    /// With the answer, which is calls or follows this schema.
    Answer,
}

/// Rules in Lark, `start` the first, and the schemas that they call `value_0`, `value_1` and so on.
#[derive(Clone, Debug, Default)]
pub struct Grammar {
    /// The rules.
    pub rules: String,
    /// The schemas.
    pub schemas: Vec<Value>,
}

/// An object's beginning up to a tool's name.
const OBJECT: &str = r#"/[ \n\r\t]{0,16}\{[ \n]{0,2}"name"[ \n]?:[ \n]?/"#;

/// A text as Lark has it.
fn word(text: &str) -> String {
    Value::from(text).to_string()
}

/// The grammar of calls of these tools; `several` where one may follow another. `control` knows the ids of control tokens by their text.
/// `answer` is the schema of an answer that is no call, for [`Begins::Answer`].
pub fn grammar(
    calls: Calls,
    tools: &[&Tool],
    begins: Begins,
    several: bool,
    answer: Option<&Value>,
    control: &dyn Fn(&str) -> Option<u32>,
) -> Grammar {
    let marker = |text: &str| control(text).map_or_else(|| word(text), |id| format!("<[{id}]>"));
    let mut schemas: Vec<Value> = tools.iter().map(|tool| closed::closed(&tool.parameters)).collect();
    let mut rules = String::new();
    for (index, tool) in tools.iter().enumerate() {
        let name = tool.name.as_str();
        let quoted = word(&word(name));
        // Between a JSON object's name and its arguments.
        let then = |key: &str| format!(r#"{quoted} /[ \n]?,[ \n]?"{key}"[ \n]?:[ \n]{{0,2}}/ value_{index}"#);
        let call = match calls {
            Calls::Hermes => {
                let close = marker("</tool_call>");
                format!(r"{OBJECT} {} /[ \n]{{0,2}}\}}[ \n]{{0,2}}/ {close}", then("arguments"))
            }
            Calls::Llama => format!(r"{} /[ \n]{{0,2}}\}}/", then("parameters")),
            Calls::Mistral => format!(r"{OBJECT} {} /[ \n]{{0,2}}\}}/", then("arguments")),
            Calls::MistralArgs => {
                let id = control("[CALL_ID]").map(|id| format!("(<[{id}]> /[0-9A-Za-z]{{1,32}}/)?"));
                format!("{} {} {} value_{index}", word(name), id.unwrap_or_default(), marker("[ARGS]"))
            }
            Calls::Harmony => format!("\"functions.\" {} header value_{index}", word(name)),
        };
        rules += &format!("call_{index}: {call}\n");
    }
    let any: Vec<String> = (0..tools.len()).map(|index| format!("call_{index}")).collect();
    rules += &format!("call: {}\n", any.join(" | "));
    if calls == Calls::Harmony {
        let (channel, constrain, message) = (marker("<|channel|>"), marker("<|constrain|>"), marker("<|message|>"));
        rules += &format!("header: ({channel} \"commentary\")? (\" \"? {constrain} \"json\" | \" json\")? {message}\n");
    }
    let repeated = |first: &str, again: &str| if several { format!("{first} ({again})*") } else { first.to_owned() };
    // What stands before the first call, and the calls.
    let (opening, all) = match calls {
        Calls::Hermes => {
            let open = marker("<tool_call>");
            (open.clone(), repeated("call", &format!(r"/[ \n]{{1,2}}/? {open} call")))
        }
        Calls::Llama => {
            let all = match begins {
                Begins::Called => r"/[ \n]?:[ \n]?/ call".to_owned(),
                Begins::Opened | Begins::Answer => {
                    repeated(&format!("{OBJECT} call"), &format!(r"/;[ \n]?/ {OBJECT} call"))
                }
            };
            (String::new(), all)
        }
        Calls::Mistral => {
            let list = format!(r"/[ \n]{{0,2}}\[/ {} /[ \n]{{0,2}}\]/", repeated("call", "\",\" call"));
            (marker("[TOOL_CALLS]"), list)
        }
        Calls::MistralArgs => {
            let open = marker("[TOOL_CALLS]");
            (open.clone(), repeated("call", &format!("{open} call")))
        }
        Calls::Harmony => {
            let all = if begins == Begins::Called { "call" } else { "\" to=\" call" };
            (format!("{} \"commentary\"", marker("<|channel|>")), all.to_owned())
        }
    };
    // Where the model began a call by itself, it may begin the next one so too.
    let all = match (begins, calls) {
        (Begins::Called, Calls::Hermes | Calls::MistralArgs) => "call".to_owned(),
        _ => all,
    };
    let start = match (begins, answer) {
        (Begins::Answer, Some(schema)) => {
            schemas.push(schema.clone());
            let said = match calls {
                Calls::Harmony => format!("{} \"final\" {}", marker("<|channel|>"), marker("<|message|>")),
                _ => String::new(),
            };
            format!("{opening} {all} | {said} value_{}", tools.len())
        }
        _ => all,
    };
    Grammar { rules: format!("start: {start}\n{rules}"), schemas }
}
