//! Text to tokens and back, from the file's own metadata.
//!
//! Two families of vocabulary are read: BPE with merges (`tokenizer.ggml.model = gpt2`, and Gemma 4's own, `gemma4`; module
//! `byte_level`) and SentencePiece BPE (`llama`, module `sentencepiece`). Encoding has three steps, the same in both:
//!
//! 1. Special tokens are found in the text and cut it into fragments (module `special`).
//! 2. Each fragment is encoded by itself. Nothing is merged across a special token; nothing else cuts the text.
//! 3. The begin and end tokens go around it, where the file asks for them.
//!
//! # What a user typed never becomes a control token
//!
//! `<|im_end|>` typed by a person must stay text, or that person could end their turn and speak for the system.
//! So control tokens are found only where the caller says the text is a template's own: in all of it
//! ([`Special::Parse`]), in none of it ([`Special::Text`]), or in the pieces marked [`Piece::is_template`]
//! ([`Tokenizer::encode_pieces`]). A control token is taken only when every byte of it is a template's; pieces do
//! not otherwise cut the text, so words that span two pieces are encoded as if the text had come in one.
//!
//! # Equal to llama.cpp
//!
//! Ids equal those of llama.cpp's `llama_tokenize`, no Unicode normalisation included
//! ([`Tokenizer::set_nfc`] asks for it). Known differences, all on purpose: SentencePiece text cannot grow into a
//! control token (see module `sentencepiece`); a `gpt2` file that names no end token has none, where llama.cpp takes
//! token 11; a text that a vocabulary cannot express is an error, where llama.cpp drops it.

mod byte_level;
mod pre_tokenizer;
mod sentencepiece;
mod special;
mod stream;
mod summary;
mod vocabulary;

use std::collections::BTreeSet;
use std::ops::Range;

use tokenizers::normalizers::NFC;
use tokenizers::{NormalizedString, Normalizer};

use crate::gguf::{Gguf, MetadataError, printable};
use byte_level::ByteLevel;
use pre_tokenizer::PreTokenizer;
use sentencepiece::SentencePiece;
use special::{Fragment, SpecialTokens};
use vocabulary::{Kind, Roles};

pub(crate) use byte_level::byte_letters;
pub use stream::StreamDecoder;
pub use summary::VocabularySummary;
pub use vocabulary::VocabularyData;

/// Why a vocabulary was not accepted, or a text not encoded.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A metadata key is missing or has the wrong type.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A value of the vocabulary is not what it should be.
    #[error("{file}: {field}: found {found}, expected {expected}; convert the model again")]
    Vocabulary {
        /// The file.
        file: String,
        /// The metadata key, with an index where it is an array.
        field: String,
        /// What the file holds.
        found: String,
        /// What a valid file holds there.
        expected: String,
    },
    /// No tokenizer of that name is implemented.
    #[error(
        "{file}: tokenizer.ggml.model: found {found:?}, expected gpt2 (byte-level BPE), gemma4 (BPE over characters) or llama (SentencePiece BPE); no other vocabulary is supported"
    )]
    UnknownModel {
        /// The file.
        file: String,
        /// What the file names.
        found: String,
    },
    /// No rule of that name cuts text into words.
    #[error("tokenizer.ggml.pre: found {found:?}, expected one of {supported}; no other pre-tokenizer is supported")]
    UnknownPreTokenizer {
        /// What the file names.
        found: String,
        /// Every supported name.
        supported: String,
    },
    /// The vocabulary has no token for a part of the text, and no unknown token.
    #[error("the text has {text}, for which the vocabulary has no token; leave it out of the prompt")]
    NoToken {
        /// The part of the text.
        text: String,
    },
    /// An id outside the vocabulary.
    #[error("token id {id}: expected an id below the vocabulary's {vocab_size}")]
    UnknownId {
        /// The id.
        id: u32,
        /// Number of tokens.
        vocab_size: usize,
    },
    /// The BPE model or a regular expression failed.
    #[error("the tokenizer failed: {0}")]
    Model(tokenizers::Error),
}

/// Whether control tokens are found in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// Yes: the text is a template's own, or a prompt that its writer meant to be read so.
    Parse,
    /// No: what looks like a control token is encoded as any other text.
    Text,
}

/// Whether the begin and end tokens go around a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Where the file asks for them.
    AsFileSays,
    /// Never.
    Bare,
}

/// Whether control tokens show when tokens are turned into text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlText {
    /// Control tokens leave no text.
    Hide,
    /// Control tokens show as their text.
    Show,
}

/// A part of a prompt, with its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The text.
    pub text: String,
    /// Written by a template, not by a user: control tokens are found in it.
    pub is_template: bool,
}

enum Algorithm {
    ByteLevel(Box<ByteLevel>),
    SentencePiece(Box<SentencePiece>),
}

/// A vocabulary, ready to encode and decode.
pub struct Tokenizer {
    algorithm: Algorithm,
    kinds: Vec<Kind>,
    /// Bytes of all tokens, one after the other: token `id` is `bytes[ends[id - 1]..ends[id]]`.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    special: SpecialTokens,
    roles: Roles,
    add_bos: bool,
    add_eos: bool,
    /// A blank goes in front of text that follows a special token or stands first.
    add_space_prefix: bool,
    nfc: bool,
}

impl Tokenizer {
    /// The tokenizer that the file's metadata describes.
    ///
    /// # Errors
    /// [`TokenizerError`] names the key that is missing or wrong.
    pub fn from_gguf(gguf: &Gguf) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::new(&VocabularyData::from_gguf(gguf)?)
    }

    /// The tokenizer of a vocabulary.
    ///
    /// # Errors
    /// [`TokenizerError`] names the field that is missing or wrong.
    pub fn new(data: &VocabularyData) -> Result<Tokenizer, TokenizerError> {
        if data.tokens.is_empty() {
            return Err(data.error("tokenizer.ggml.tokens", "no tokens", "at least one"));
        }
        let mut kinds = data.kinds()?;
        let roles = Roles::find(data, &mut kinds);
        let sentencepiece = match data.model {
            "gpt2" | "gemma4" => false,
            "llama" => true,
            other => {
                return Err(TokenizerError::UnknownModel { file: data.file.to_owned(), found: other.to_owned() });
            }
        };
        let algorithm = if sentencepiece {
            Algorithm::SentencePiece(Box::new(sentencepiece_model(data, &kinds, roles.unknown)?))
        } else {
            Algorithm::ByteLevel(Box::new(byte_level_model(data, &kinds)?))
        };
        let (escapes_blanks, add_bos) = match &algorithm {
            Algorithm::SentencePiece(_) => (true, data.add_bos.unwrap_or(true)),
            Algorithm::ByteLevel(model) => {
                let traits = model.traits();
                (traits.characters, traits.needs_bos || data.add_bos.unwrap_or(traits.add_bos))
            }
        };
        let (bytes, ends) = token_bytes(data.tokens, &kinds, escapes_blanks);
        let add_eos = data.add_eos.unwrap_or(false);
        for (add, id, key, id_key) in [
            (data.add_bos == Some(true), roles.bos, "add_bos_token", "bos_token_id"),
            (add_eos, roles.eos, "add_eos_token", "eos_token_id"),
        ] {
            if add && id.is_none() {
                tracing::warn!(
                    "{}: tokenizer.ggml.{key} is true, but tokenizer.ggml.{id_key} names no token: none is put",
                    printable(data.file)
                );
            }
        }
        Ok(Tokenizer {
            algorithm,
            bytes,
            ends,
            special: special_tokens(data, &kinds),
            kinds,
            roles,
            add_bos,
            add_eos,
            add_space_prefix: sentencepiece && data.add_space_prefix.unwrap_or(true),
            nfc: false,
        })
    }

    /// Whether text is brought to Unicode normalisation form C first. Off at the start, as in llama.cpp.
    pub fn set_nfc(&mut self, nfc: bool) {
        self.nfc = nfc;
    }

    /// Ids of `text`.
    ///
    /// # Errors
    /// [`TokenizerError::NoToken`] when the vocabulary cannot express the text.
    pub fn encode(&self, text: &str, special: Special, ends: Ends) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        if let (Ends::AsFileSays, true) = (ends, self.add_bos) {
            ids.extend(self.roles.bos);
        }
        self.encode_into(text, |_| special == Special::Parse, &mut ids)?;
        if let (Ends::AsFileSays, true) = (ends, self.add_eos) {
            ids.extend(self.roles.eos);
        }
        Ok(ids)
    }

    /// Ids of a prompt in pieces. Control tokens are found in template pieces only; neighbouring template pieces
    /// count as one. A begin or end token that the template wrote itself is not put there twice.
    ///
    /// # Errors
    /// [`TokenizerError::NoToken`] when the vocabulary cannot express the text.
    pub fn encode_pieces(&self, pieces: &[Piece], ends: Ends) -> Result<Vec<u32>, TokenizerError> {
        let mut text = String::with_capacity(pieces.iter().map(|piece| piece.text.len()).sum());
        let mut template: Vec<Range<usize>> = Vec::new();
        for piece in pieces {
            let start = text.len();
            text.push_str(&piece.text);
            if !piece.is_template || piece.text.is_empty() {
                continue;
            }
            match template.last_mut() {
                Some(last) if last.end == start => last.end = text.len(),
                _ => template.push(start..text.len()),
            }
        }
        let in_template = |range: Range<usize>| {
            let after = template.partition_point(|part| part.start <= range.start);
            after > 0 && template[after - 1].end >= range.end
        };
        let mut ids = Vec::new();
        self.encode_into(&text, in_template, &mut ids)?;
        if ends == Ends::AsFileSays {
            if let Some(bos) = self.roles.bos.filter(|bos| self.add_bos && ids.first() != Some(bos)) {
                ids.insert(0, bos);
            }
            if let Some(eos) = self.roles.eos.filter(|eos| self.add_eos && ids.last() != Some(eos)) {
                ids.push(eos);
            }
        }
        Ok(ids)
    }

    fn encode_into(
        &self,
        text: &str,
        allowed: impl Fn(Range<usize>) -> bool,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let mut after_special = true;
        for fragment in self.special.partition(text, allowed) {
            let range = match fragment {
                Fragment::Token(id) => {
                    ids.push(id);
                    after_special = true;
                    continue;
                }
                Fragment::Text(range) => range,
            };
            let normalized = self.nfc.then(|| nfc(&text[range.clone()])).transpose()?;
            let fragment = normalized.as_deref().unwrap_or(&text[range]);
            match &self.algorithm {
                Algorithm::ByteLevel(model) => model.encode(fragment, ids)?,
                Algorithm::SentencePiece(model) => {
                    let prefix = if self.add_space_prefix && after_special { sentencepiece::BLANK } else { "" };
                    let escaped = fragment.replace(' ', sentencepiece::BLANK);
                    model.encode(&(prefix.to_owned() + &escaped), ids)?;
                }
            }
            after_special = false;
        }
        Ok(())
    }

    /// The text of `ids`, as they would stream after a prompt; bytes that are not UTF-8 become U+FFFD.
    ///
    /// A blank that [`Tokenizer::encode`] put in front of SentencePiece text is part of it.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`] for an id outside the vocabulary.
    pub fn decode(&self, ids: &[u32], control: ControlText) -> Result<String, TokenizerError> {
        let mut bytes = Vec::new();
        for &id in ids {
            bytes.extend_from_slice(self.shown_bytes(id, control)?);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The bytes a token stands for: its text for control and author-defined tokens, nothing for unused ones.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`] for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Result<&[u8], TokenizerError> {
        self.shown_bytes(id, ControlText::Show)
    }

    fn shown_bytes(&self, id: u32, control: ControlText) -> Result<&[u8], TokenizerError> {
        let index = id as usize;
        let (Some(&kind), Some(&end)) = (self.kinds.get(index), self.ends.get(index)) else {
            return Err(TokenizerError::UnknownId { id, vocab_size: self.vocab_size() });
        };
        if control == ControlText::Hide && kind.is_guarded() {
            return Ok(&[]);
        }
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Ok(&self.bytes[start..end])
    }

    /// Number of tokens. A model may have more rows of logits than that.
    pub fn vocab_size(&self) -> usize {
        self.kinds.len()
    }

    /// Whether generation stops after this token.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.roles.end_of_generation.contains(&id)
    }

    /// All tokens after which generation stops.
    pub fn end_of_generation(&self) -> &BTreeSet<u32> {
        &self.roles.end_of_generation
    }

    /// Whether the token is a control token; false for ids outside the vocabulary.
    pub fn is_control(&self, id: u32) -> bool {
        self.kinds.get(id as usize) == Some(&Kind::Control)
    }

    /// Begin of text.
    pub fn bos(&self) -> Option<u32> {
        self.roles.bos
    }

    /// End of text.
    pub fn eos(&self) -> Option<u32> {
        self.roles.eos
    }

    /// Whether a prompt starts with [`Tokenizer::bos`].
    pub fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether a prompt ends with [`Tokenizer::eos`].
    pub fn adds_eos(&self) -> bool {
        self.add_eos
    }

    /// Texts of the control and unknown tokens: what a user's text must not turn into.
    pub fn control_texts(&self) -> impl Iterator<Item = &str> {
        self.special.guarded_texts()
    }
}

fn byte_level_model(data: &VocabularyData, kinds: &[Kind]) -> Result<ByteLevel, TokenizerError> {
    let pre = match (data.model, data.pre) {
        ("gemma4", _) => "gemma4",
        (_, Some(pre)) => pre,
        (_, None) => {
            tracing::warn!(
                "{}: tokenizer.ggml.pre is missing; words are cut by the rule \"default\", which may not be the model's",
                printable(data.file)
            );
            "default"
        }
    };
    let (words, traits) = PreTokenizer::named(pre)?;
    ByteLevel::new(data, kinds, words, traits)
}

fn sentencepiece_model(
    data: &VocabularyData,
    kinds: &[Kind],
    unknown: Option<u32>,
) -> Result<SentencePiece, TokenizerError> {
    let scores = data.scores.unwrap_or_default();
    if scores.len() < data.tokens.len() {
        return Err(data.error(
            "tokenizer.ggml.scores",
            format!("{} values", scores.len()),
            format!("one for each of {} tokens", data.tokens.len()),
        ));
    }
    Ok(SentencePiece::new(data.tokens, scores, kinds, unknown))
}

fn special_tokens(data: &VocabularyData, kinds: &[Kind]) -> SpecialTokens {
    // Phi-3's files do not say that its special tokens swallow the white space after them; its name does.
    let name = data.name.unwrap_or_default().to_lowercase();
    let phi3 = name.contains("phi-3") || name.contains("phi3");
    let mut special = SpecialTokens::new();
    for (id, (text, kind)) in data.tokens.iter().zip(kinds).enumerate() {
        if kind.is_special() {
            let strips_right = phi3 && !matches!(text.as_str(), "<unk>" | "<s>" | "<|endoftext|>");
            special.push(text, id as u32, kind.is_guarded(), strips_right);
        }
    }
    special.finish()
}

/// The bytes of all tokens in a row, and where each ends.
fn token_bytes(tokens: &[String], kinds: &[Kind], escapes_blanks: bool) -> (Vec<u8>, Vec<usize>) {
    let letters = byte_level::letter_bytes();
    let mut bytes = Vec::with_capacity(tokens.iter().map(String::len).sum());
    let mut ends = Vec::with_capacity(tokens.len());
    for (text, kind) in tokens.iter().zip(kinds) {
        match kind {
            Kind::Control | Kind::Unknown | Kind::UserDefined => {
                bytes.extend_from_slice(text.as_bytes());
            }
            Kind::Byte => bytes.extend(vocabulary::byte_of_token(text)),
            Kind::Normal if escapes_blanks => {
                bytes.extend_from_slice(text.replace(sentencepiece::BLANK, " ").as_bytes());
            }
            Kind::Normal => byte_level::push_spelled_bytes(text, &letters, &mut bytes),
            Kind::Unused | Kind::Undefined => {}
        }
        ends.push(bytes.len());
    }
    (bytes, ends)
}

fn nfc(text: &str) -> Result<String, TokenizerError> {
    let mut normalized = NormalizedString::from(text);
    NFC.normalize(&mut normalized).map_err(TokenizerError::Model)?;
    Ok(normalized.get().to_owned())
}

#[cfg(test)]
mod tests;
