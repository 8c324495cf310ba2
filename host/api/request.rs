//! A request's body.

use serde_json::{Map, Value};

use super::{FieldError, Fields};
use crate::{
    chat::Message,
    sample::{SamplerOptions, Stage},
};

/// Which kind of answer a body asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The next message of a conversation.
    Chat,
    /// How a text goes on.
    Text,
}

/// What is to be continued.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// A conversation, with further variables for its template.
    Messages(Vec<Message>, Map<String, Value>),
    /// A text, as it is.
    Text(String),
    /// Token ids.
    Ids(Vec<u32>),
}

/// What an answer must follow.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// Nothing.
    Free,
    /// A JSON schema.
    Schema(Value),
    /// A grammar.
    Grammar(String),
}

/// What holds where a body says nothing.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// How tokens are drawn.
    pub sampler: SamplerOptions,
    /// The most tokens of an answer.
    pub n_predict: Option<usize>,
}

/// A body, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The kind of answer.
    pub form: Form,
    /// What is to be continued; several for a completion of several prompts.
    pub prompts: Vec<Prompt>,
    /// Answers to each prompt; the seed of one is one more than that of the one before.
    pub n: usize,
    /// How tokens are drawn.
    pub sampler: SamplerOptions,
    /// The most tokens of an answer.
    pub n_predict: Option<usize>,
    /// Texts that end it.
    pub stop: Vec<String>,
    /// Whether it goes on past a token that ends a turn.
    pub ignore_eos: bool,
    /// How many of the likeliest tokens to report for each token.
    pub logprobs: Option<usize>,
    /// What it must follow.
    pub format: Format,
}

/// The most answers to a prompt.
const MAX_N: u64 = 128;
/// The most of the likeliest tokens to report.
const MAX_LOGPROBS: u64 = 20;
/// The most texts that end an answer: each is looked for at every character.
const MAX_STOPS: usize = 32;
/// The longest of them, in bytes.
const MAX_STOP: usize = 1024;
/// The most stages of a sampler.
const MAX_STAGES: usize = 32;
/// Fields that change nothing in an answer: who asks, what for, and whom it costs.
const LABELS: [&str; 9] = [
    "model",
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "parallel_tool_calls",
    "stream_options",
];

impl Asked {
    /// Reads a body.
    ///
    /// # Errors
    /// [`FieldError`], naming the field.
    pub fn read(form: Form, body: Value, defaults: &Defaults) -> Result<Asked, FieldError> {
        let mut fields = Fields::new(if body.is_object() { "" } else { "body" }, body)?;
        fields.pass_over(&LABELS);
        let prompts = match form {
            Form::Chat => vec![conversation(&mut fields)?],
            Form::Text => prompts(&mut fields, "prompt")?,
        };
        let mut sampler = defaults.sampler.clone();
        options(&mut fields, &mut sampler)?;
        let n = fields.count("n", 1, MAX_N)?.unwrap_or(1) as usize;
        let limits = [
            fields.count("max_completion_tokens", 0, u64::from(u32::MAX))?,
            fields.count("max_tokens", 0, u64::from(u32::MAX))?,
            // llama.cpp's name; −1 is no limit.
            fields
                .read("n_predict", "a whole number, or -1 for no limit", |value| value.as_i64().filter(|n| *n >= -1))?
                .and_then(|n| u64::try_from(n).ok()),
        ];
        let n_predict = limits.into_iter().flatten().min().map(|n| n as usize).or(defaults.n_predict);
        let asked = Asked {
            form,
            prompts,
            n,
            sampler,
            n_predict,
            stop: stop(&mut fields)?,
            ignore_eos: fields.flag("ignore_eos")?.unwrap_or(false),
            logprobs: logprobs(&mut fields, form)?,
            format: format(&mut fields)?,
        };
        // What is in the cache is always taken from there: it changes no answer.
        fields.flag("cache_prompt")?;
        if asked.ignore_eos && asked.format != Format::Free {
            return Err(FieldError::new("ignore_eos", &true.into(), "false beside a format that ends by itself"));
        }
        for field in ["stream", "echo"] {
            if fields.flag(field)? == Some(true) {
                return Err(FieldError::new(field, &true.into(), "false: it is not supported here"));
            }
        }
        if let Some(n) = fields.count("best_of", 1, MAX_N)?.filter(|of| *of != n as u64) {
            return Err(FieldError::new("best_of", &n.into(), "the value of n: choosing among more is not supported"));
        }
        fields.expect_none()?;
        Ok(asked)
    }
}

fn conversation(fields: &mut Fields) -> Result<Prompt, FieldError> {
    let expected = "an array of messages, each an object with a role and content";
    let Some(messages) = fields.take("messages") else {
        return Err(FieldError::new("messages", &Value::Null, expected));
    };
    let Value::Array(all) = messages else { return Err(FieldError::new("messages", &messages, expected)) };
    if all.is_empty() {
        return Err(FieldError::new("messages", &Value::Array(all), expected));
    }
    let message = |(index, value): (usize, Value)| {
        let error = FieldError::new(&format!("messages[{index}]"), &value, "an object with a string \"role\"");
        Message::from_json(value).map_err(|_| error)
    };
    let messages = all.into_iter().enumerate().map(message).collect::<Result<_, _>>()?;
    let object = |value: &Value| value.as_object().cloned();
    let variables = fields.read("chat_template_kwargs", "a JSON object", object)?.unwrap_or_default();
    Ok(Prompt::Messages(messages, variables))
}

/// Texts, or their tokens: one or several.
pub(super) fn prompts(fields: &mut Fields, field: &str) -> Result<Vec<Prompt>, FieldError> {
    let expected = "a string, an array of strings, an array of token ids or an array of such arrays";
    let ids = |value: &Value| -> Option<Prompt> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids: Vec<u32> = value.as_array()?.iter().map(id).collect::<Option<_>>()?;
        (!ids.is_empty()).then_some(Prompt::Ids(ids))
    };
    let one = |value: &Value| value.as_str().map(|text| Prompt::Text(text.to_owned())).or_else(|| ids(value));
    let read = |value: &Value| match (one(value), value.as_array()) {
        (Some(prompt), _) => Some(vec![prompt]),
        (None, Some(all)) if !all.is_empty() => all.iter().map(one).collect(),
        _ => None,
    };
    fields.read(field, expected, read)?.ok_or_else(|| FieldError::new(field, &Value::Null, expected))
}

fn options(fields: &mut Fields, sampler: &mut SamplerOptions) -> Result<(), FieldError> {
    macro_rules! number {
        ($($name:literal $field:ident $low:expr, $high:expr;)*) => {$(
            if let Some(value) = fields.number($name, $low, $high)? {
                sampler.$field = value;
            }
        )*};
    }
    number! {
        "temperature" temp 0.0, f64::INFINITY;
        "top_p" top_p 0.0, 1.0;
        "min_p" min_p 0.0, 1.0;
        "typical_p" typical_p 0.0, 1.0;
        "presence_penalty" presence_penalty -2.0, 2.0;
        "frequency_penalty" frequency_penalty -2.0, 2.0;
        "repeat_penalty" repeat_penalty 0.001, 1000.0;
        "dynatemp_range" dynatemp_range 0.0, f64::INFINITY;
        "dynatemp_exponent" dynatemp_exponent 0.0, f64::INFINITY;
        "top_n_sigma" top_n_sigma f64::NEG_INFINITY, f64::INFINITY;
        "xtc_probability" xtc_probability 0.0, 1.0;
        "xtc_threshold" xtc_threshold 0.0, 1.0;
        "dry_multiplier" dry_multiplier f64::NEG_INFINITY, f64::INFINITY;
        "dry_base" dry_base 0.0, f64::INFINITY;
        "mirostat_tau" mirostat_tau 0.0, f64::INFINITY;
        "mirostat_eta" mirostat_eta 0.0, f64::INFINITY;
    }
    let most = u64::from(u32::MAX);
    // Of all tokens, as llama.cpp says it: −1.
    let count = |value: &Value| match value.as_i64()? {
        -1 => Some(u32::MAX),
        n => u32::try_from(n).ok(),
    };
    let expected = "a whole number from 0 to 4294967295, or -1 for all";
    if let Some(last_n) = fields.read("repeat_last_n", expected, count)? {
        sampler.repeat_last_n = last_n;
    }
    if let Some(last_n) = fields.read("dry_penalty_last_n", expected, count)? {
        sampler.dry_penalty_last_n = last_n;
    }
    // Of top-k, as llama.cpp says it: −1 and less are off.
    let top_k = |value: &Value| value.as_i64().filter(|k| *k <= most as i64).map(|k| k.max(0) as u32);
    if let Some(top_k) = fields.read("top_k", "a whole number; 0 or less is off", top_k)? {
        sampler.top_k = top_k;
    }
    if let Some(n) = fields.count("min_keep", 0, most)? {
        sampler.min_keep = n as u32;
    }
    if let Some(n) = fields.count("dry_allowed_length", 0, most)? {
        sampler.dry_allowed_length = n as u32;
    }
    if let Some(version) = fields.count("mirostat", 0, 2)? {
        sampler.mirostat = version as u32;
    }
    let texts = |value: &Value| -> Option<Vec<String>> {
        let texts: Option<Vec<String>> =
            value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect();
        texts.filter(|texts| texts.len() <= MAX_STOPS && texts.iter().all(|text| text.len() <= MAX_STOP))
    };
    let expected = format!("an array of at most {MAX_STOPS} strings, each of at most {MAX_STOP} bytes");
    if let Some(breakers) = fields.read("dry_sequence_breakers", &expected, texts)? {
        sampler.dry_sequence_breakers = breakers;
    }
    let stages = |value: &Value| -> Option<Vec<Stage>> {
        match value {
            Value::String(names) => Stage::parse_sequence(names).ok(),
            Value::Array(names) => names.iter().map(|name| Stage::from_name(name.as_str()?)).collect(),
            _ => None,
        }
        .filter(|stages| stages.len() <= MAX_STAGES)
    };
    if let Some(stages) = fields.read("samplers", "an array of at most 32 samplers' names", stages)? {
        sampler.samplers = stages;
    }
    // OpenAI's has 64 bits, of which each is a part of this one's 32.
    let seed = |value: &Value| value.as_i64().or_else(|| value.as_u64().map(u64::cast_signed));
    match fields.read("seed", "a whole number of 64 bits; -1 is a random one", seed)? {
        None => {}
        Some(-1) => sampler.seed = None,
        Some(seed) => sampler.seed = Some((seed ^ seed >> 32) as u32),
    }
    // By id, as OpenAI has it, or pairs, as llama.cpp does: there false is never.
    let number = |value: &Value| match value {
        Value::Bool(false) => Some(f32::NEG_INFINITY),
        value => value.as_f64().map(|bias| bias as f32),
    };
    let pair = |value: &Value| match value.as_array()?.as_slice() {
        [id, bias] => Some((id.as_u64().and_then(|id| u32::try_from(id).ok())?, number(bias)?)),
        _ => None,
    };
    let biases = |value: &Value| -> Option<Vec<(u32, f32)>> {
        match value {
            Value::Array(pairs) => pairs.iter().map(pair).collect(),
            _ => value.as_object()?.iter().map(|(id, bias)| Some((id.parse().ok()?, number(bias)?))).collect(),
        }
    };
    let expected = "an object of token ids and numbers, as {\"15043\": -1}, or an array of pairs";
    if let Some(biases) = fields.read("logit_bias", expected, biases)? {
        sampler.logit_bias.extend(biases);
    }
    Ok(())
}

fn stop(fields: &mut Fields) -> Result<Vec<String>, FieldError> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let read = |value: &Value| {
        let all: Option<Vec<String>> = match value {
            Value::Array(all) => all.iter().map(text).collect(),
            one => Some(vec![text(one)?]),
        };
        all.filter(|all| all.len() <= MAX_STOPS && all.iter().all(|text| text.len() <= MAX_STOP))
    };
    let expected = format!("a string or an array of strings, at most {MAX_STOPS} of at most {MAX_STOP} bytes");
    Ok(fields.read("stop", &expected, read)?.unwrap_or_default())
}

fn logprobs(fields: &mut Fields, form: Form) -> Result<Option<usize>, FieldError> {
    // llama.cpp's name.
    let n_probs = fields.count("n_probs", 0, MAX_LOGPROBS)?.filter(|n| *n > 0).map(|n| n as usize);
    if form == Form::Text {
        return Ok(fields.count("logprobs", 0, MAX_LOGPROBS)?.map(|n| n as usize).or(n_probs));
    }
    let is_wanted = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.count("top_logprobs", 0, MAX_LOGPROBS)?;
    match (is_wanted, top) {
        (false, None) if n_probs.is_some() => Ok(n_probs),
        (true, top) => Ok(Some(top.unwrap_or(0) as usize)),
        (false, Some(top)) if top > 0 => Err(FieldError::new("top_logprobs", &top.into(), "logprobs: true beside it")),
        (false, _) => Ok(None),
    }
}

fn format(fields: &mut Fields) -> Result<Format, FieldError> {
    let mut formats = Vec::new();
    if let Some(value) = fields.take("response_format") {
        let mut inner = Fields::new("response_format", value)?;
        let expected = "text, json_object or json_schema";
        let name = inner.name("type");
        match inner.text("type")?.as_deref() {
            Some("text") => {}
            Some("json_object") => {
                let schema = inner.take("schema").unwrap_or_else(|| serde_json::json!({ "type": "object" }));
                formats.push(Format::Schema(schema));
            }
            Some("json_schema") => {
                let expected = "an object with a schema";
                let Some(schema) = inner.take("json_schema") else {
                    return Err(FieldError::new(&inner.name("json_schema"), &Value::Null, expected));
                };
                let mut schema = Fields::new(&inner.name("json_schema"), schema)?;
                match schema.take("schema") {
                    Some(schema) => formats.push(Format::Schema(schema)),
                    None => return Err(FieldError::new(&schema.name("schema"), &Value::Null, "a JSON schema")),
                }
                schema.pass_over(&["name", "description", "strict"]);
                schema.expect_none()?;
            }
            Some(other) => return Err(FieldError::new(&name, &other.into(), expected)),
            None => return Err(FieldError::new(&name, &Value::Null, expected)),
        }
        inner.expect_none()?;
    }
    formats.extend(fields.take("json_schema").map(Format::Schema));
    formats.extend(fields.text("grammar")?.map(Format::Grammar));
    match formats.len() {
        0 => Ok(Format::Free),
        1 => Ok(formats.remove(0)),
        n => Err(FieldError::new("response_format", &n.into(), "one of response_format, json_schema and grammar")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(form: Form, body: Value) -> Result<Asked, FieldError> {
        Asked::read(form, body, &Defaults { sampler: SamplerOptions::default(), n_predict: Some(7) })
    }

    #[test]
    fn a_body_becomes_options() {
        let body = json!({
            "model": "any", "user": "someone", "messages": [{"role": "user", "content": "Hi"}],
            "temperature": 0.25, "top_p": 0.5, "seed": 12, "n": 3, "stop": ["a", "b"], "max_tokens": 9, "max_completion_tokens": 5,
            "logprobs": true, "top_logprobs": 4, "logit_bias": {"3": -100}, "top_k": 5, "stream": false, "presence_penalty": null,
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": {"type": "array"}}},
        });
        let asked = read(Form::Chat, body).unwrap();
        assert_eq!(asked.prompts, [Prompt::Messages(vec![Message::new("user", "Hi")], Map::new())]);
        let SamplerOptions { temp, top_p, seed, top_k, logit_bias, presence_penalty, .. } = &asked.sampler;
        assert_eq!((*temp, *top_p, *seed, *top_k, *presence_penalty), (0.25, 0.5, Some(12), 5, 0.0));
        assert_eq!(
            (logit_bias.as_slice(), asked.n, asked.n_predict, asked.logprobs),
            ([(3, -100.0)].as_slice(), 3, Some(5), Some(4))
        );
        assert_eq!(
            (asked.stop, asked.format),
            (vec!["a".to_owned(), "b".to_owned()], Format::Schema(json!({"type": "array"})))
        );
    }

    #[test]
    fn seeds_and_biases_are_read_as_clients_write_them() {
        let asked = |more: Value| {
            let mut body = json!({ "prompt": "a" });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            read(Form::Text, body).unwrap().sampler
        };
        for (seed, wanted) in [
            (json!(-1), None),
            (json!(0), Some(0)),
            (json!(u32::MAX), Some(u32::MAX)),
            (json!(1_u64 << 32 | 6), Some(7)),
            (json!(u64::MAX - 1), Some(1)),
            (json!(-2), Some(1)),
        ] {
            assert_eq!(asked(json!({ "seed": seed })).seed, wanted, "{seed}");
        }
        let biases = asked(json!({ "logit_bias": [[3, -1.5], [4, false]] })).logit_bias;
        assert_eq!(biases, [(3, -1.5), (4, f32::NEG_INFINITY)]);
    }

    #[test]
    fn prompts_come_in_four_shapes() {
        let text = |text: &str| Prompt::Text(text.to_owned());
        let cases = [
            (json!("a"), vec![text("a")]),
            (json!(["a", "b"]), vec![text("a"), text("b")]),
            (json!([1, 2]), vec![Prompt::Ids(vec![1, 2])]),
            (json!([[1], [2, 3]]), vec![Prompt::Ids(vec![1]), Prompt::Ids(vec![2, 3])]),
        ];
        for (prompt, wanted) in cases {
            let asked = read(Form::Text, json!({ "prompt": prompt, "logprobs": 2 })).unwrap();
            assert_eq!((asked.prompts, asked.n_predict, asked.logprobs), (wanted, Some(7), Some(2)));
        }
    }

    #[test]
    fn an_error_names_the_field_and_what_was_found() {
        let chat = |field: &str, value: Value| {
            let mut body = json!({ "messages": [{"role": "user", "content": "Hi"}] });
            body[field] = value;
            read(Form::Chat, body).unwrap_err().to_string()
        };
        let cases = [
            ("temperature", json!("hot"), "temperature: found \"hot\", expected a number, at least 0"),
            ("top_p", json!(1.5), "top_p: found 1.5, expected a number from 0 to 1"),
            ("seed", json!(1.5), "seed: found 1.5, expected a whole number of 64 bits"),
            ("cache_prompt", json!("no"), "cache_prompt: found \"no\", expected true or false"),
            (
                "logit_bias",
                json!([[3, "x"]]),
                "logit_bias: found [[3,\"x\"]], expected an object of token ids and numbers",
            ),
            ("logit_bias", json!([[3]]), "logit_bias: found [[3]], expected an object of token ids and numbers"),
            ("n", json!(0), "n: found 0, expected a whole number from 1 to 128"),
            ("messages", json!([]), "messages: found [], expected an array of messages"),
            (
                "messages",
                json!([{"content": "Hi"}]),
                "messages[0]: found {\"content\":\"Hi\"}, expected an object with a string",
            ),
            ("top_logprobs", json!(2), "top_logprobs: found 2, expected logprobs: true beside it"),
            ("stop", json!([1]), "stop: found [1], expected a string or an array of strings"),
            ("stream", json!(true), "stream: found true, expected false"),
            ("tools", json!([{}]), "tools: found [{}], expected no such field"),
            (
                "response_format",
                json!({"type": "xml"}),
                "response_format.type: found \"xml\", expected text, json_object or json_schema",
            ),
            ("response_format", json!({"type": "json_schema"}), "response_format.json_schema: found null"),
            ("response_format", json!(3), "response_format: found 3, expected a JSON object"),
        ];
        for (field, value, wanted) in cases {
            let error = chat(field, value);
            assert!(error.starts_with(wanted), "{error}\n{wanted}");
        }
        assert!(read(Form::Text, json!({})).unwrap_err().to_string().starts_with("prompt: found null"));
        assert!(
            read(Form::Text, json!(3)).unwrap_err().to_string().starts_with("body: found 3, expected a JSON object")
        );
    }
}
