//! Output that must parse: a JSON schema or a grammar turns into a mask of allowed tokens before each draw.
//!
//! The engine is the `llguidance` crate: an Earley parser over the grammar, run down a trie of all tokens' bytes, so
//! that a token is allowed exactly when its bytes can continue the text so far. The end-of-generation tokens are allowed
//! exactly when the text is complete; a text that ends with one of them parses. A text cut off by a length limit does
//! not.
//!
//! ```text
//! loop { mask = constraint.mask()?;  id = sampler.sample_allowed(logits, &mask)?;
//!        constraint.accept(id)?;  if constraint.is_finished() { break } }
//! ```
//!
//! Unlike llama.cpp, which draws first and masks only when the draw does not fit, the mask always comes first, so one
//! step takes the same random numbers with and without a constraint.

use std::sync::Arc;
use std::time::Duration;

use llguidance::api::{GrammarInit, ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Logger, Matcher, ParserFactory};
use serde_json::{Value, json};
use thiserror::Error;

use super::mask::TokenMask;
use super::{engine_words, gbnf, nesting, schema};
use crate::bounded::{self, Limits};

/// The whitespace allowed between the parts of a JSON text, a regular expression: nothing, one blank, or one or two line
/// ends with up to twenty blanks or tabs. It is what llama.cpp's own JSON grammars allow; without a bound, a model that
/// likes blanks never comes to the point.
const JSON_WHITESPACE: &str = r"[ ]|\n{1,2}[ \t]{0,20}";
/// The longest source of a schema or grammar, in bytes.
const MAX_SOURCE: usize = 8 << 20;
/// What the engine may take to read one. [`nesting::MAX_NESTING`] takes a small part of the stack.
const LIMITS: Limits = Limits { stack: 256 << 20, memory: 4 << 30, time: Duration::from_secs(300) };
/// The most ways of reading the text that the engine follows at once: alternatives of a rule, for one.
const MAX_READINGS: usize = 50_000;
/// A token that starts with this byte is a command to the engine. The byte occurs in no UTF-8 text.
const ENGINE_MARKER: u8 = 0xff;

/// Why a constraint cannot be made or followed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConstraintError {
    /// The vocabulary lacks what a constraint needs.
    #[error("the vocabulary cannot be used with a grammar: {0}")]
    Vocabulary(String),
    /// The schema or grammar is not one.
    #[error("{file}: not a usable {kind}: {reason}")]
    Source {
        /// Where it came from, as the person named it.
        file: String,
        /// `JSON schema`, `GBNF grammar` or `Lark grammar`.
        kind: &'static str,
        /// What is wrong, and where if that is known.
        reason: String,
    },
    /// The engine gave up while it followed the text: the grammar is too ambiguous, or no token can continue.
    #[error("{file}: the {kind} cannot be followed any further: {reason}")]
    Step {
        /// Where the grammar came from.
        file: String,
        /// `JSON schema`, `GBNF grammar` or `Lark grammar`.
        kind: &'static str,
        /// What the engine says.
        reason: String,
    },
}

/// A vocabulary made ready for constraints: the trie of its tokens. Made once per model; clones share it.
#[derive(Clone)]
pub struct ConstraintVocabulary {
    factory: Arc<ParserFactory>,
    n_vocab: usize,
    limits: Limits,
}

impl ConstraintVocabulary {
    /// Prepares a vocabulary. `token_bytes[id]` is what token `id` adds to the text; a token with no bytes (a control
    /// token) is never allowed. `end_of_generation` are the ids that may end the text; their bytes are ignored.
    ///
    /// # Errors
    /// [`ConstraintError::Vocabulary`] when there is no end-of-generation token, or one has no entry in `token_bytes`.
    pub fn new(token_bytes: &[Vec<u8>], end_of_generation: &[u32]) -> Result<Self, ConstraintError> {
        let n_vocab = token_bytes.len();
        let &[first_end, ..] = end_of_generation else {
            return Err(ConstraintError::Vocabulary("it has no end-of-generation token".into()));
        };
        if let Some(id) = end_of_generation.iter().find(|&&id| id as usize >= n_vocab) {
            let reason = format!("end-of-generation token {id} is not among its {n_vocab} tokens");
            return Err(ConstraintError::Vocabulary(reason));
        }
        let mut words = token_bytes.to_vec();
        for &id in end_of_generation {
            words[id as usize].clear();
        }
        for word in &mut words {
            if word.first() == Some(&ENGINE_MARKER) {
                word.clear();
            }
        }
        let trie = TokTrie::from(&TokRxInfo::new(n_vocab as u32, first_end), &words).with_eos_tokens(end_of_generation);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
            .map_err(|error| ConstraintError::Vocabulary(error.to_string()))?;
        factory.quiet();
        // A recursive GBNF grammar is parsed character by character: inside free text, a mask over 150 000 tokens takes
        // some hundred thousand items.
        *factory.limits_mut() = ParserLimits {
            verbose_errors: false,
            step_max_items: 5_000_000,
            max_items_in_row: MAX_READINGS,
            ..ParserLimits::default()
        };
        Ok(Self { factory: Arc::new(factory), n_vocab, limits: LIMITS })
    }

    /// The same, where a source may take no more than this: for sources from strangers, many of them.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }
}

/// A grammar, and how far the text has followed it.
pub struct Constraint {
    file: String,
    kind: &'static str,
    /// Before the first token.
    start: Matcher,
    /// After the tokens accepted.
    now: Matcher,
    n_vocab: usize,
    finished: bool,
    warnings: Vec<String>,
}

impl Constraint {
    /// The JSON texts that match a schema (JSON Schema draft 2020-12, as far as `llguidance` implements it; a keyword
    /// that it does not is an error, not ignored, but for what [`Self::warnings`] says). A number without bounds can be any that JSON can write, which may be more
    /// than a double can hold. Whitespace is bounded, unless the schema sets it itself under `x-guidance`. `file` names the source in errors.
    ///
    /// # Errors
    /// [`ConstraintError::Source`] when `text` is not JSON, not a schema, or asks for what no text can match.
    pub fn from_json_schema(
        file: &str,
        text: &str,
        vocabulary: &ConstraintVocabulary,
    ) -> Result<Self, ConstraintError> {
        let kind = "JSON schema";
        let wrong = |reason: String| ConstraintError::Source { file: file.to_owned(), kind, reason };
        check_length(text).map_err(wrong)?;
        let mut schema: Value = serde_json::from_str(text).map_err(|error| wrong(format!("not JSON: {error}")))?;
        let warnings = prepare_schema(&mut schema).map_err(wrong)?;
        let warnings = warnings.into_iter().map(|warning| format!("{file}: {warning}")).collect();
        Ok(Self { warnings, ..Self::new(file, kind, TopLevelGrammar::from_json_schema(schema), vocabulary)? })
    }

    /// The texts of a grammar: GBNF where `text` defines rules with `::=`, else Lark in `llguidance`'s dialect. `file`
    /// names the source in errors.
    ///
    /// # Errors
    /// [`ConstraintError::Source`] when `text` is neither.
    pub fn from_grammar(file: &str, text: &str, vocabulary: &ConstraintVocabulary) -> Result<Self, ConstraintError> {
        let is_gbnf = gbnf::is_gbnf(text);
        let kind = if is_gbnf { "GBNF grammar" } else { "Lark grammar" };
        let wrong = |reason: String| ConstraintError::Source { file: file.to_owned(), kind, reason };
        check_length(text).map_err(wrong)?;
        let lark = if is_gbnf {
            gbnf::to_lark(text).map_err(wrong)?
        } else {
            nesting::check_lark(text).map_err(wrong)?;
            text.to_owned()
        };
        Self::new(file, kind, TopLevelGrammar::from_lark(lark), vocabulary)
    }

    /// The texts of a grammar in Lark, in which `value_0`, `value_1` and so on are the JSON texts of these schemas. `file` names it in errors.
    ///
    /// # Errors
    /// [`ConstraintError::Source`], as [`Self::from_json_schema`].
    pub fn from_rules(
        file: &str,
        rules: &str,
        schemas: &[Value],
        vocabulary: &ConstraintVocabulary,
    ) -> Result<Self, ConstraintError> {
        let kind = "JSON schema";
        let wrong = |reason: String| ConstraintError::Source { file: file.to_owned(), kind, reason };
        let (mut lark, mut warnings) = (rules.to_owned(), Vec::new());
        for (index, schema) in schemas.iter().enumerate() {
            let mut schema = schema.clone();
            let found = prepare_schema(&mut schema).map_err(wrong)?;
            warnings.extend(found.into_iter().map(|warning| format!("{file}: {warning}")));
            lark += &format!("value_{index}: %json {schema}\n");
        }
        check_length(&lark).map_err(wrong)?;
        Ok(Self { warnings, ..Self::new(file, kind, TopLevelGrammar::from_lark(lark), vocabulary)? })
    }

    /// The same, before the first token.
    #[must_use]
    pub fn again(&self) -> Self {
        Self {
            file: self.file.clone(),
            kind: self.kind,
            start: self.start.deep_clone(),
            now: self.start.deep_clone(),
            n_vocab: self.n_vocab,
            finished: false,
            warnings: Vec::new(),
        }
    }

    fn new(
        file: &str,
        kind: &'static str,
        grammar: TopLevelGrammar,
        vocabulary: &ConstraintVocabulary,
    ) -> Result<Self, ConstraintError> {
        let wrong = |reason: String| ConstraintError::Source { file: file.to_owned(), kind, reason };
        let factory = Arc::clone(&vocabulary.factory);
        let start = bounded::run(vocabulary.limits, move || {
            // The engine catches its own panics once there is a parser; making one from a strange grammar may panic too.
            Matcher::new(llguidance::panic_utils::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let limits = factory.limits().clone();
                let init = GrammarInit::Serialized(grammar);
                factory.create_parser_from_init_ext(init, Logger::new(0, 0), InferenceCapabilities::default(), limits)
            })))
        });
        let start = start.map_err(|reason| wrong(format!("it is too large: {reason}")))?;
        if let Some(error) = start.get_error() {
            return Err(wrong(engine_words::explained(&error)));
        }
        let now = start.deep_clone();
        Ok(Self {
            file: file.to_owned(),
            kind,
            start,
            now,
            n_vocab: vocabulary.n_vocab,
            finished: false,
            warnings: Vec::new(),
        })
    }

    /// What of the schema is not held to, a sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The tokens that can come next; the end-of-generation tokens among them when the text is complete as it is.
    ///
    /// # Errors
    /// [`ConstraintError::Step`] when the engine gives up.
    pub fn mask(&mut self) -> Result<TokenMask, ConstraintError> {
        let allowed = self.now.compute_mask_or_eos();
        let allowed = allowed.map_err(|error| self.step_error(&error.to_string()))?;
        Ok(TokenMask::from_words(allowed.as_slice(), self.n_vocab))
    }

    /// Follows the text by one token, which the last mask must have allowed.
    ///
    /// # Errors
    /// [`ConstraintError::Step`] for a token that the grammar does not allow here.
    pub fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        let ends = self.now.tok_env().is_ok_and(|environment| environment.tok_trie().eos_tokens().contains(&token));
        if ends {
            if !self.can_end()? {
                return Err(self.step_error(&format!("token {token} ends a text that is not complete")));
            }
            self.finished = true;
            return Ok(());
        }
        self.now.consume_token(token).map_err(|error| self.step_error(&error.to_string()))
    }

    /// Follows a text whose tokens are not known. Returns whether it is allowed; where it is not, nothing is said of what follows.
    pub fn accept_text(&mut self, text: &str) -> bool {
        let Ok(environment) = self.now.tok_env() else { return false };
        let tokens = environment.tokenize_bytes(text.as_bytes());
        tokens.into_iter().all(|token| self.accept(token).is_ok())
    }

    /// Whether the text is complete and nothing can be added to it.
    ///
    /// # Errors
    /// As [`Self::can_end`].
    pub fn is_at_end(&mut self) -> Result<bool, ConstraintError> {
        if self.now.is_stopped() && !self.now.is_error() {
            return Ok(true);
        }
        if !self.can_end()? {
            return Ok(false);
        }
        let ends = match self.now.tok_env() {
            Ok(environment) => environment.tok_trie().eos_tokens().len(),
            Err(error) => return Err(self.step_error(&error.to_string())),
        };
        Ok(self.mask()?.count() <= ends)
    }

    /// Whether the text is complete as it is.
    ///
    /// # Errors
    /// [`ConstraintError::Step`] when the engine has given up before.
    pub fn can_end(&mut self) -> Result<bool, ConstraintError> {
        if self.now.is_stopped() && !self.now.is_error() {
            return Ok(true);
        }
        self.now.is_accepting().map_err(|error| self.step_error(&error.to_string()))
    }

    /// Whether an end-of-generation token has been accepted.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Back to before the first token.
    pub fn reset(&mut self) {
        self.now = self.start.deep_clone();
        self.finished = false;
    }

    fn step_error(&self, reason: &str) -> ConstraintError {
        ConstraintError::Step { file: self.file.clone(), kind: self.kind, reason: engine_words::explained(reason) }
    }
}

/// Makes a schema ready for the engine, and says what of it will not be held to.
fn prepare_schema(schema: &mut Value) -> Result<Vec<String>, String> {
    nesting::check_schema(schema)?;
    let warnings = schema::prepare(schema);
    match schema {
        Value::Object(fields) => {
            fields.entry("x-guidance").or_insert_with(|| json!({ "whitespace_pattern": JSON_WHITESPACE }));
        }
        Value::Bool(_) => {}
        other => return Err(format!("a schema is a JSON object, true or false; this is {}", kind_of_json(other))),
    }
    Ok(warnings)
}

fn kind_of_json(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn check_length(text: &str) -> Result<(), String> {
    match text.len() {
        0..=MAX_SOURCE => Ok(()),
        length => Err(format!("it is {length} bytes long, expected at most {MAX_SOURCE}")),
    }
}
