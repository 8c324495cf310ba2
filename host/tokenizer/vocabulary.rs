//! What a GGUF file says about its vocabulary, and the roles of its tokens.
//!
//! [`VocabularyData::from_gguf`] is the only place that reads metadata. The rest of the tokenizer works on that
//! struct, so a test can build a vocabulary by hand.
//!
//! # Roles by text
//!
//! Files name some tokens by key (`tokenizer.ggml.eos_token_id`), but many leave out the ones that matter most
//! for stopping, so llama.cpp also knows tokens by their text. [`Roles::find`] does the same: a token ends a
//! generation when the file names it as end of text, of turn or of message, when it is one of the fill-in-the-middle
//! markers that only a new document follows, or when its text is one of [`END_TEXTS`]. Such a token is a control
//! token whatever type the file gives it.

use std::collections::BTreeSet;

use super::TokenizerError;
use crate::gguf::{Gguf, Value, printable};

/// A vocabulary as a file holds it. Arrays are indexed by token id.
#[derive(Clone, Debug, Default)]
pub struct VocabularyData<'a> {
    /// Where it came from, for messages.
    pub file: &'a str,
    /// `tokenizer.ggml.model`: `gpt2` or `llama`.
    pub model: &'a str,
    /// `tokenizer.ggml.pre`: the rule that cuts text into words.
    pub pre: Option<&'a str>,
    /// `general.name`.
    pub name: Option<&'a str>,
    /// Texts, in the byte alphabet for `gpt2` and with U+2581 for blanks for `llama`.
    pub tokens: &'a [String],
    /// Scores; `llama` only.
    pub scores: Option<&'a [f32]>,
    /// Types: 1 normal, 2 unknown, 3 control, 4 author-defined, 5 unused, 6 byte.
    pub token_types: Option<&'a [i32]>,
    /// Merges, the most frequent first, each two tokens with a blank between; `gpt2` only.
    pub merges: Option<&'a [String]>,
    /// Begin of text.
    pub bos: Option<u32>,
    /// End of text.
    pub eos: Option<u32>,
    /// End of turn.
    pub eot: Option<u32>,
    /// End of message.
    pub eom: Option<u32>,
    /// Stands for what no token can express.
    pub unknown: Option<u32>,
    /// Fill-in-the-middle: padding.
    pub fim_pad: Option<u32>,
    /// Fill-in-the-middle: repository name.
    pub fim_rep: Option<u32>,
    /// Fill-in-the-middle: file separator.
    pub fim_sep: Option<u32>,
    /// Whether a prompt starts with `bos`.
    pub add_bos: Option<bool>,
    /// Whether a prompt ends with `eos`.
    pub add_eos: Option<bool>,
    /// Whether text after a special token gets a blank in front; `llama` only.
    pub add_space_prefix: Option<bool>,
}

impl<'a> VocabularyData<'a> {
    /// Reads the `tokenizer.ggml.*` keys.
    ///
    /// # Errors
    /// [`TokenizerError::Metadata`] when a key is missing or has another type.
    pub fn from_gguf(gguf: &'a Gguf) -> Result<VocabularyData<'a>, TokenizerError> {
        let metadata = gguf.metadata();
        let tokens = metadata.string_array("tokenizer.ggml.tokens")?;
        warn_of_ids(gguf, tokens.len());
        let id = |key: &str| match metadata.get(key).and_then(Value::as_integer) {
            Some(id) => Ok(u32::try_from(id).ok().filter(|&id| (id as usize) < tokens.len())),
            None => metadata.opt_u32(key),
        };
        Ok(VocabularyData {
            file: gguf.name(),
            model: metadata.str("tokenizer.ggml.model")?,
            pre: metadata.opt_str("tokenizer.ggml.pre")?,
            // For two quirks of Phi-3 only: what is no text has none.
            name: metadata.opt_str("general.name").ok().flatten(),
            tokens,
            scores: metadata.opt_f32_array("tokenizer.ggml.scores")?,
            token_types: metadata.opt_i32_array("tokenizer.ggml.token_type")?,
            merges: metadata.opt_string_array("tokenizer.ggml.merges")?,
            bos: id("tokenizer.ggml.bos_token_id")?,
            eos: id("tokenizer.ggml.eos_token_id")?,
            eot: id("tokenizer.ggml.eot_token_id")?,
            eom: id("tokenizer.ggml.eom_token_id")?,
            unknown: id("tokenizer.ggml.unknown_token_id")?,
            fim_pad: id("tokenizer.ggml.fim_pad_token_id")?,
            fim_rep: id("tokenizer.ggml.fim_rep_token_id")?,
            fim_sep: id("tokenizer.ggml.fim_sep_token_id")?,
            add_bos: metadata.opt_bool("tokenizer.ggml.add_bos_token")?,
            add_eos: metadata.opt_bool("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: metadata.opt_bool("tokenizer.ggml.add_space_prefix")?,
        })
    }

    /// A [`TokenizerError::Vocabulary`] about `field`.
    pub(super) fn error(
        &self,
        field: impl Into<String>,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> TokenizerError {
        TokenizerError::Vocabulary {
            file: self.file.to_owned(),
            field: field.into(),
            found: found.into(),
            expected: expected.into(),
        }
    }

    /// The kind of every token.
    pub(super) fn kinds(&self) -> Result<Vec<Kind>, TokenizerError> {
        let Some(types) = self.token_types else {
            return Ok(vec![Kind::Normal; self.tokens.len()]);
        };
        if types.len() < self.tokens.len() {
            return Err(self.error(
                "tokenizer.ggml.token_type",
                format!("{} values", types.len()),
                format!("one for each of {} tokens", self.tokens.len()),
            ));
        }
        let mut kinds = Vec::with_capacity(self.tokens.len());
        for (id, (&number, text)) in types.iter().zip(self.tokens).enumerate() {
            let kind = Kind::from_number(number);
            if kind == Kind::Byte && byte_of_token(text).is_none() {
                return Err(self.error(
                    format!("tokenizer.ggml.tokens[{id}]"),
                    format!("{text:?} with type 6 (byte)"),
                    "a text such as <0x0A>",
                ));
            }
            kinds.push(kind);
        }
        Ok(kinds)
    }
}

/// Says which of the file's ids of special tokens are outside its vocabulary of `n_tokens`: those tokens are not there.
fn warn_of_ids(gguf: &Gguf, n_tokens: usize) {
    for (key, value) in gguf.metadata().iter() {
        let named = key.strip_prefix("tokenizer.ggml.").is_some_and(|name| name.ends_with("_token_id"));
        let outside = value.as_integer().is_some_and(|id| !(0..n_tokens as i128).contains(&id));
        if named && outside {
            tracing::warn!(
                "{}: {}: found {value}, expected an id below the vocabulary's {n_tokens}; there is no such token",
                printable(gguf.name()),
                printable(key),
            );
        }
    }
}

/// The type of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
    Undefined,
}

impl Kind {
    fn from_number(number: i32) -> Kind {
        match number {
            1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => Kind::Undefined,
        }
    }

    /// Taken from text only where the caller allows special tokens.
    pub(super) fn is_guarded(self) -> bool {
        matches!(self, Kind::Control | Kind::Unknown)
    }

    /// Found as a whole rather than put together from merges.
    pub(super) fn is_special(self) -> bool {
        self.is_guarded() || self == Kind::UserDefined
    }
}

/// The byte that a token such as `<0x0A>` stands for.
pub(super) fn byte_of_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || digits.starts_with('+') {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// Texts of tokens that end a generation, in the vocabularies llama.cpp knows.
const END_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

const FIM_PAD_TEXTS: &[&str] = &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"];
const FIM_REP_TEXTS: &[&str] = &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"];
const FIM_SEP_TEXTS: &[&str] = &["<|file_sep|>"];

/// Which tokens play a role, by id.
#[derive(Debug)]
pub(super) struct Roles {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub eot: Option<u32>,
    pub unknown: Option<u32>,
    pub end_of_generation: BTreeSet<u32>,
}

impl Roles {
    /// Finds the roles, and turns tokens that play one into control tokens in `kinds`.
    ///
    /// An id outside the vocabulary counts as none. A `llama` vocabulary that names none has its
    /// unknown, begin and end tokens at 0, 1 and 2; a `gpt2` one has none.
    pub(super) fn find(data: &VocabularyData, kinds: &mut [Kind]) -> Roles {
        let inside = |id: Option<u32>| id.filter(|&id| (id as usize) < data.tokens.len());
        let sentencepiece =
            |default: u32| (data.model == "llama" && (default as usize) < data.tokens.len()).then_some(default);
        let mut roles = Roles {
            bos: inside(data.bos).or(sentencepiece(1)),
            eos: inside(data.eos).or(sentencepiece(2)),
            eot: inside(data.eot),
            unknown: inside(data.unknown).or(sentencepiece(0)),
            end_of_generation: BTreeSet::new(),
        };
        let (mut fim_pad, mut fim_rep, mut fim_sep) =
            (inside(data.fim_pad), inside(data.fim_rep), inside(data.fim_sep));

        for (id, text) in data.tokens.iter().enumerate() {
            // Every text in the lists is short and starts with one of these.
            if text.len() > 32 || !text.starts_with(['<', '[', '_']) {
                continue;
            }
            let id = id as u32;
            let text = text.as_str();
            let mut plays = false;
            for (texts, slot) in
                [(FIM_PAD_TEXTS, &mut fim_pad), (FIM_REP_TEXTS, &mut fim_rep), (FIM_SEP_TEXTS, &mut fim_sep)]
            {
                if slot.is_none() && texts.contains(&text) {
                    *slot = Some(id);
                    plays = true;
                }
            }
            if END_TEXTS.contains(&text) {
                roles.end_of_generation.insert(id);
                plays = true;
            }
            if plays {
                kinds[id as usize] = Kind::Control;
            }
        }
        let named = [roles.eos, roles.eot, inside(data.eom), fim_pad, fim_rep, fim_sep];
        roles.end_of_generation.extend(named.into_iter().flatten());
        roles.drop_false_ends(data, kinds);
        roles
    }

    /// Takes back two texts that mean something else in some vocabularies: `<|end|>` closes a part of a message
    /// where there are also `<|call|>` and `<|return|>`, or `<|calls|>` and `<|flush|>`; `</s>` is an ordinary
    /// token beside `<|tool_response>`.
    fn drop_false_ends(&mut self, data: &VocabularyData, kinds: &mut [Kind]) {
        let ends = &self.end_of_generation;
        let find = |text: &str| ends.iter().copied().find(|&id| data.tokens[id as usize] == text);
        let call = find("<|call|>").or(find("<|calls|>"));
        let closes = find("<|return|>").or(find("<|flush|>"));
        let not_an_end = [
            find("<|end|>").filter(|_| call.is_some() && closes.is_some()),
            find("</s>").filter(|_| find("<|tool_response>").is_some()),
        ];
        let [end, slash_s] = not_an_end;
        if let Some(id) = end {
            self.end_of_generation.remove(&id);
        }
        if let Some(id) = slash_s {
            self.end_of_generation.remove(&id);
            kinds[id as usize] = Kind::Normal;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(texts: &[&str], change: impl FnOnce(&mut VocabularyData)) -> (Roles, Vec<Kind>) {
        let tokens: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        let mut data =
            VocabularyData { file: "test.gguf", model: "gpt2", tokens: &tokens, ..VocabularyData::default() };
        change(&mut data);
        let mut kinds = data.kinds().unwrap();
        let roles = Roles::find(&data, &mut kinds);
        (roles, kinds)
    }

    #[test]
    fn ends_are_found_by_key_and_by_text() {
        let (roles, kinds) = roles(&["a", "<|im_end|>", "b", "<|file_sep|>", "c"], |data| {
            data.eos = Some(2);
            data.eom = Some(4);
        });
        assert_eq!(roles.end_of_generation, BTreeSet::from([1, 2, 3, 4]));
        assert_eq!(kinds[1], Kind::Control);
        assert_eq!(kinds[2], Kind::Normal);
    }

    #[test]
    fn a_byte_level_file_without_ids_has_no_default_ends() {
        let texts: Vec<String> = (0..20).map(|id| format!("t{id}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let (roles, _) = roles(&texts, |_| ());
        assert_eq!((roles.bos, roles.eos, roles.end_of_generation.len()), (None, None, 0));
    }

    #[test]
    fn an_id_outside_the_vocabulary_is_no_token() {
        let (byte_level, _) = roles(&["a"], |data| (data.bos, data.eos, data.eot) = (Some(0), Some(1), Some(u32::MAX)));
        assert_eq!((byte_level.bos, byte_level.eos, byte_level.end_of_generation.len()), (Some(0), None, 0));
        let (sentencepiece, _) = roles(&["<unk>", "<s>", "</s>"], |data| {
            (data.model, data.eos, data.fim_sep) = ("llama", Some(3), Some(3));
        });
        assert_eq!(sentencepiece.end_of_generation, BTreeSet::from([2]));
    }

    #[test]
    fn end_is_no_end_in_a_vocabulary_with_calls_and_returns() {
        let (with, _) = roles(&["<|end|>", "<|call|>", "<|return|>"], |_| ());
        assert_eq!(with.end_of_generation, BTreeSet::from([1, 2]));
        let (without, _) = roles(&["<|end|>", "<|call|>"], |_| ());
        assert_eq!(without.end_of_generation, BTreeSet::from([0, 1]));
    }

    #[test]
    fn byte_tokens_are_read_strictly() {
        assert_eq!(byte_of_token("<0x0A>"), Some(10));
        for wrong in ["<0xA>", "<0x00A>", "<0x+1>", "0x0A", "<0xGG>", "<0x0é>"] {
            assert_eq!(byte_of_token(wrong), None, "{wrong}");
        }
    }
}
