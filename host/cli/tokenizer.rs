//! The arguments of every command that turns text into tokens.

use anyhow::Result;
use clap::Args;

use crate::{gguf::Gguf, tokenizer::Tokenizer};

/// How text becomes tokens.
#[derive(Args)]
pub struct TokenizerArguments {
    /// Bring text to Unicode normalisation form C first; without it text stays as it is, as in llama.cpp.
    #[arg(long)]
    nfc: bool,
}

impl TokenizerArguments {
    /// The model's tokenizer.
    ///
    /// # Errors
    /// The file's vocabulary cannot be used.
    pub fn load(&self, gguf: &Gguf) -> Result<Tokenizer> {
        let mut tokenizer = Tokenizer::from_gguf(gguf)?;
        tokenizer.set_nfc(self.nfc);
        Ok(tokenizer)
    }
}
