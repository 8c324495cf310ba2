//! Which tokenizer a file asks for, said without building it.

use std::fmt;

use serde::Serialize;

use super::pre_tokenizer;
use crate::gguf::{Gguf, printable};

/// The kind of vocabulary that a file has, and whether this program knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VocabularySummary {
    /// `tokenizer.ggml.model`, such as `gpt2`.
    pub model: String,
    /// Whether this program reads that kind of vocabulary.
    pub model_known: bool,
    /// `tokenizer.ggml.pre`, the rule that cuts text into words; `None` where the file names none or needs none.
    pub pre_tokenizer: Option<String>,
    /// Whether this program knows that rule; true where none is needed.
    pub pre_tokenizer_known: bool,
}

impl VocabularySummary {
    /// What `gguf` says; `None` when it has no vocabulary.
    pub fn new(gguf: &Gguf) -> Option<VocabularySummary> {
        let text = |key: &str| gguf.metadata().opt_str(key).ok().flatten().map(str::to_owned);
        let model = text("tokenizer.ggml.model")?;
        let pre_tokenizer = text("tokenizer.ggml.pre").filter(|_| model == "gpt2");
        Some(VocabularySummary {
            model_known: matches!(model.as_str(), "gpt2" | "gemma4" | "llama"),
            pre_tokenizer_known: pre_tokenizer.as_deref().is_none_or(pre_tokenizer::is_known),
            model,
            pre_tokenizer,
        })
    }
}

impl fmt::Display for VocabularySummary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let known = |known: bool| if known { "" } else { " (not known to this program)" };
        write!(f, "{}{}", printable(&self.model), known(self.model_known))?;
        match &self.pre_tokenizer {
            Some(pre) => write!(f, ", pre-tokenizer {}{}", printable(pre), known(self.pre_tokenizer_known)),
            None if self.model == "gpt2" => write!(f, ", pre-tokenizer not said: default"),
            None => Ok(()),
        }
    }
}
