//! What all requests have in common, and making a request ready for the engine.
//!
//! Templates, tokenizers and grammars may take a while, and strangers write what goes through them: all of it happens away from the
//! engine's thread, within bounds.

use std::{
    ops::Deref,
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::{
    Failure,
    engine::{Job, Made, Prompted, Wanted},
    tools::{Begins, Dialect, Tools, Triggers},
};
use crate::{
    api::{Asked, Defaults, Format, Prompt, number},
    bounded,
    chat::{ChatError, ChatTemplate, Message, RenderOptions},
    generate::{Limits, constraint_vocabulary, sampler},
    model::Pooling,
    sample::{Constraint, ConstraintVocabulary, SamplerOptions, Stage},
    tokenizer::{ControlText, Ends, Piece, Special, Tokenizer},
};

/// What a stranger's schema or grammar may take.
const GRAMMAR: bounded::Limits = bounded::Limits { stack: 64 << 20, memory: 512 << 20, time: Duration::from_secs(10) };

/// A model as it is served: its parts, and what follows from them.
pub struct Model {
    parts: ModelParts,
    /// Tokens to choose among.
    pub n_tokens: usize,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
    /// How it writes calls of tools, and thoughts.
    pub dialect: Dialect,
    vocabulary: OnceLock<Result<ConstraintVocabulary, String>>,
}

impl Deref for Model {
    type Target = ModelParts;

    fn deref(&self) -> &ModelParts {
        &self.parts
    }
}

/// What [`Model::new`] takes.
pub struct ModelParts {
    /// Its name in answers.
    pub id: String,
    /// Its name in messages: its file.
    pub name: String,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template, or why there is none.
    pub template: Result<ChatTemplate, ChatError>,
    /// Variables for the template, which a request's own come before.
    pub variables: Map<String, Value>,
    /// What a conversation begins with that has no system message.
    pub system: Option<String>,
    /// What holds where a request says nothing.
    pub defaults: Defaults,
    /// The most tokens of an answer, whatever a request says.
    pub max_tokens: Option<usize>,
    /// Tokens of the model's own vocabulary.
    pub n_vocab: usize,
    /// Positions of a sequence.
    pub n_context: usize,
    /// Sequences at the same time.
    pub n_slots: usize,
    /// Whether tokens are guessed.
    pub is_speculative: bool,
    /// Numbers of an embedding.
    pub n_embd: usize,
    /// How embeddings are made of hidden states.
    pub pooling: Pooling,
}

/// A conversation as the engine sees it.
#[derive(Debug)]
pub struct Rendered {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// What of the answer stands in the prompt already.
    pub begun: String,
}

impl Model {
    /// A model to serve.
    pub fn new(parts: ModelParts) -> Model {
        let dialect = match &parts.template {
            Ok(template) => Dialect::of_template(template.source()),
            Err(_) => Dialect::default(),
        };
        let n_tokens = parts.tokenizer.vocab_size().min(parts.n_vocab);
        Model { parts, n_tokens, created: seconds(), dialect, vocabulary: OnceLock::new() }
    }

    /// The prompt of a conversation, in pieces, and what of the answer it begins.
    ///
    /// # Errors
    /// The template fails on it.
    pub fn render(
        &self,
        messages: &[Message],
        own: &Map<String, Value>,
        tools: &Tools,
        format: &Format,
    ) -> Result<(Vec<Piece>, String), Failure> {
        let template = self
            .template
            .as_ref()
            .map_err(|error| Failure::new(StatusCode::BAD_REQUEST, "no_chat_template", error.to_string()))?;
        let mut variables = self.variables.clone();
        variables.extend(own.clone());
        let has_system = messages.iter().any(|message| ["system", "developer"].contains(&message.role()));
        let system = self.system.iter().filter(|_| !has_system).map(|text| Message::new("system", text));
        let messages: Vec<Message> = system.chain(messages.iter().cloned()).collect();
        // What OpenAI calls the system since its newer models; few templates know the word.
        let knows_developer = template.source().contains("developer");
        let renamed =
            |message: Message| if knows_developer { message } else { message.with_role("developer", "system") };
        let messages = tools.described(messages.into_iter().map(renamed).collect(), self.dialect);
        let options = RenderOptions { variables, tools: tools.for_template(self.dialect), ..RenderOptions::default() };
        // Of past calls' arguments some templates want the text, others the object.
        let mut pieces = match template.render(&super::tools::with_objects(&messages), &options) {
            Ok(pieces) => pieces,
            Err(error) => template.render(&messages, &options).map_err(|_| Failure::from(error))?,
        };
        // In many vocabularies no control token, so that the pieces do not say whose it is.
        let prompt: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
        let thinks = |text: &str| text.trim_end().ends_with("<think>");
        let is_said = messages.last().is_some_and(|message| message.content().is_some_and(thinks));
        let mut begun = if thinks(&prompt) && !is_said { "<think>".to_owned() } else { String::new() };
        if let Some(opening) = tools.opening(self.dialect, format) {
            // Nothing but what is settled follows, so no thoughts do.
            let text = if begun.is_empty() { opening.to_owned() } else { format!("\n</think>\n\n{opening}") };
            begun += &text;
            pieces.push(Piece { text, is_template: true });
        }
        Ok((pieces, begun))
    }

    /// The tokens of a prompt.
    ///
    /// # Errors
    /// It cannot be made from what is given.
    pub fn ids(&self, prompt: &Prompt, tools: &Tools, format: &Format) -> Result<Rendered, Failure> {
        let wrong = |field: &str, error: &dyn std::fmt::Display| Failure::invalid(field, error.to_string());
        let (ids, begun) = match prompt {
            Prompt::Ids(ids) => match ids.iter().find(|id| **id as usize >= self.n_tokens) {
                None => (ids.clone(), String::new()),
                Some(id) => {
                    let message = format!("prompt: found the token id {id}, expected one below {}", self.n_tokens);
                    return Err(Failure::invalid("prompt", message));
                }
            },
            Prompt::Text(text) => {
                let ids = self.tokenizer.encode(text, Special::Parse, Ends::AsFileSays);
                (ids.map_err(|error| wrong("prompt", &error))?, String::new())
            }
            Prompt::Messages(messages, own) => {
                let (pieces, begun) = self.render(messages, own, tools, format)?;
                let ids = self.tokenizer.encode_pieces(&pieces, Ends::AsFileSays);
                (ids.map_err(|error| wrong("messages", &error))?, begun)
            }
        };
        let field = if matches!(prompt, Prompt::Messages(..)) { "messages" } else { "prompt" };
        if ids.is_empty() {
            return Err(Failure::invalid(field, format!("{field}: found no token, expected at least one")));
        }
        if ids.len() > self.n_context {
            let message = format!(
                "{field}: found {} tokens, expected at most {}, the context of this server",
                ids.len(),
                self.n_context
            );
            return Err(Failure { code: "context_length_exceeded", ..Failure::invalid(field, message) });
        }
        Ok(Rendered { ids, begun })
    }

    /// The vocabulary as a constraint sees it.
    ///
    /// # Errors
    /// It cannot be used with one.
    pub fn vocabulary(&self) -> Result<&ConstraintVocabulary, Failure> {
        let make = || {
            let vocabulary = constraint_vocabulary(&self.tokenizer).map_err(|error| error.to_string())?;
            Ok(vocabulary.with_limits(GRAMMAR))
        };
        self.vocabulary.get_or_init(make).as_ref().map_err(|error| Failure::invalid("response_format", error.clone()))
    }

    /// The id of a control token.
    fn control(&self, text: &str) -> Option<u32> {
        match self.tokenizer.encode(text, Special::Parse, Ends::Bare).as_deref() {
            Ok(&[id]) if self.tokenizer.is_control(id) => Some(id),
            _ => None,
        }
    }

    fn constraint(&self, asked: &Asked, tools: &Tools) -> Result<Option<Constraint>, Failure> {
        let with_calls = |begins, answer: Option<&Value>| {
            let grammar = tools.grammar(self.dialect, begins, answer, &|text| self.control(text));
            Ok(Some(Constraint::from_rules("tools", &grammar.rules, &grammar.schemas, self.vocabulary()?)?))
        };
        if tools.is_forced() {
            return with_calls(Begins::Opened, None);
        }
        Ok(match &asked.format {
            Format::Free => None,
            Format::Schema(schema) if tools.may_be_called(self.dialect, &asked.format) => {
                return with_calls(Begins::Answer, Some(schema));
            }
            Format::Schema(schema) => {
                Some(Constraint::from_json_schema("response_format", &schema.to_string(), self.vocabulary()?)?)
            }
            Format::Grammar(grammar) => Some(Constraint::from_grammar("grammar", grammar, self.vocabulary()?)?),
        })
    }

    /// Makes a request ready, and says what of its answers stands in the prompt already, and how many tokens its prompts have.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn prepare(&self, asked: &Asked, tools: &Tools, asked_at: Instant) -> Result<(Job, String, usize), Failure> {
        let constraint = self.constraint(asked, tools)?;
        let triggers = match &constraint {
            None if tools.are_callable() => {
                Some(Triggers::new(tools, self.dialect, self.vocabulary()?, &|text| self.control(text))?)
            }
            _ => None,
        };
        let mut prompts = Vec::new();
        let (mut all_begun, mut n_prompt) = (String::new(), 0);
        for prompt in &asked.prompts {
            let Rendered { ids, begun } = self.ids(prompt, tools, &asked.format)?;
            n_prompt += ids.len();
            let mut answers = Vec::with_capacity(asked.n);
            for number in 0..asked.n {
                let mut options = asked.sampler.clone();
                options.seed = options.seed.map(|seed| seed.wrapping_add(number as u32));
                answers.push(Wanted {
                    sampler: sampler(options, &self.tokenizer, self.n_tokens)?,
                    constraint: constraint.as_ref().map(Constraint::again),
                    trigger: triggers.as_ref().map(|triggers| triggers.watch(&begun)),
                });
            }
            prompts.push(Prompted { ids, made: Made::Answers(answers) });
            all_begun = begun;
        }
        let n_predict = match (asked.n_predict, self.max_tokens) {
            (Some(asked), Some(most)) => Some(asked.min(most)),
            (asked, most) => asked.or(most),
        };
        let is_chat = asked.prompts.iter().any(|prompt| matches!(prompt, Prompt::Messages(..)));
        let job = Job {
            prompts,
            stop: asked.stop.clone(),
            limits: Limits { n_predict, ignore_eos: asked.ignore_eos, shift_keeping: None },
            logprobs: asked.logprobs,
            control: if is_chat && self.dialect.shows_control() { ControlText::Show } else { ControlText::Hide },
            params: params(&asked.sampler, n_predict, asked.ignore_eos, asked.logprobs),
            asked: asked_at,
            deadline: None,
        };
        Ok((job, all_begun, n_prompt))
    }
}

/// How tokens are drawn, by llama.cpp's names and with its numbers for what is not set. No text is in it, and nothing of single tokens.
pub fn params(sampler: &SamplerOptions, n_predict: Option<usize>, ignore_eos: bool, n_probs: Option<usize>) -> Value {
    let name = |stage: &Stage| match serde_json::to_value(stage) {
        Ok(name) if name == "typical" => "typ_p".into(),
        name => name.unwrap_or_default(),
    };
    let samplers: Vec<Value> = sampler.samplers.iter().map(name).collect();
    let n_predict = n_predict.map_or_else(|| json!(-1), |n| json!(n));
    json!({
        "n_predict": n_predict,
        "max_tokens": n_predict,
        // Any.
        "seed": sampler.seed.unwrap_or(u32::MAX),
        "temperature": number(sampler.temp),
        "dynatemp_range": number(sampler.dynatemp_range),
        "dynatemp_exponent": number(sampler.dynatemp_exponent),
        "top_k": sampler.top_k,
        "top_p": number(sampler.top_p),
        "min_p": number(sampler.min_p),
        "top_n_sigma": number(sampler.top_n_sigma),
        "xtc_probability": number(sampler.xtc_probability),
        "xtc_threshold": number(sampler.xtc_threshold),
        "typical_p": number(sampler.typical_p),
        "repeat_last_n": sampler.repeat_last_n,
        "repeat_penalty": number(sampler.repeat_penalty),
        "presence_penalty": number(sampler.presence_penalty),
        "frequency_penalty": number(sampler.frequency_penalty),
        "dry_multiplier": number(sampler.dry_multiplier),
        "dry_base": number(sampler.dry_base),
        "dry_allowed_length": sampler.dry_allowed_length,
        "dry_penalty_last_n": sampler.dry_penalty_last_n,
        "mirostat": sampler.mirostat,
        "mirostat_tau": number(sampler.mirostat_tau),
        "mirostat_eta": number(sampler.mirostat_eta),
        "ignore_eos": ignore_eos,
        "n_probs": n_probs.unwrap_or(0),
        "min_keep": sampler.min_keep,
        "samplers": samplers,
    })
}

/// Now, in seconds since 1970.
pub fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
