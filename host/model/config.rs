//! Hyperparameters: what they are. `keys` reads them from a file's metadata.

use serde::Serialize;

use super::error::{ModelError, ModelRule};
use super::family::{Family, RopePairing};
use super::keys::Keys;
use super::weights::ModelWeights;
use crate::gguf::{Gguf, TensorType};

/// The hyperparameters of a model. Everything in it is checked: the program can size buffers by it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// What kind of model it is.
    #[serde(serialize_with = "architecture_name", rename = "architecture")]
    pub family: &'static Family,
    /// Layers.
    pub n_layers: usize,
    /// Values per token in the residual stream.
    pub n_embd: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads. Query head `h` reads key/value head `h / (n_heads / n_kv_heads)`.
    pub n_kv_heads: usize,
    /// Values per head.
    pub head_dim: usize,
    /// Values between the feed-forward matrices; of one expert where there are several.
    pub n_ff: usize,
    /// Rows of the embedding. A file may pad it past the tokenizer's last token.
    pub vocab_size: usize,
    /// Positions the model was made for.
    pub context_length: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_epsilon: f32,
    /// Position embedding.
    pub rope: Rope,
    /// Whether the output projection is the embedding.
    pub tied_output: bool,
    /// Whether query and key heads are normalised before RoPE.
    pub qk_norm: bool,
    /// The mixture of experts, where there is one.
    pub experts: Option<Experts>,
    /// How many positions a token sees, itself included; all before it where there is no window.
    pub sliding_window: Option<usize>,
    /// What attention scores are multiplied by before the softmax: `1/√head_dim` unless the file says otherwise.
    pub attention_scale: f32,
    /// Keys under the architecture's name that this program does not know. They change nothing here.
    pub unused_keys: Vec<String>,
}

/// Rotary position embedding; [`Rope::table`] makes the angles of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rope {
    /// Which values of a head turn together.
    pub pairing: RopePairing,
    /// The base of the frequencies.
    pub theta: f32,
    /// How many values of a head, from its first, are rotated.
    pub n_rot: usize,
    /// How the angles are scaled for longer contexts.
    pub scaling: RopeScaling,
    /// What rotated values are multiplied by.
    pub attention_factor: f32,
    /// Divisors of the frequencies, from `rope_freqs.weight`: `[n_rot/2]`.
    pub factors: Option<Vec<f32>>,
}

/// How RoPE's angles are scaled.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase", tag = "type")]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All by one factor.
    Linear {
        /// Angles are divided by it.
        factor: f32,
    },
    /// By how often a pair turns over the original context.
    Yarn {
        /// Angles of slow pairs are divided by it.
        factor: f32,
        /// Positions the model was first trained on.
        original_context: usize,
        /// How much of the ramp to use: 1, all of it.
        ext_factor: f32,
        /// Pairs that turn more often than this keep their angle.
        beta_fast: f32,
        /// Pairs that turn less often than this are scaled fully.
        beta_slow: f32,
    },
}

/// A mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Experts {
    /// How many experts each layer has.
    pub n_experts: usize,
    /// How many of them a token uses.
    pub n_used: usize,
    /// Whether the weights of those used are divided by their sum.
    pub normalise: bool,
    /// What the weights are then multiplied by.
    pub scale: f32,
}

impl Config {
    /// Reads the hyperparameters of the model in `gguf`, and checks them and all its tensors against each other.
    ///
    /// # Errors
    /// The architecture is unknown, a key or tensor is missing, or something breaks a rule of [`ModelRule`].
    pub fn from_gguf(gguf: &Gguf) -> Result<Config, ModelError> {
        let family = Family::of_model(gguf)?;
        if let Some(tensor) = gguf.foreign_tensors().first() {
            return Err(ModelError::rejected(
                gguf.name(),
                ModelRule::TensorType,
                format!("tensor {}", tensor.name),
                tensor.type_name(),
                format!("one of {}", TensorType::list()),
            ));
        }
        let keys = Keys { gguf, family };
        let mut config = keys.config()?;
        let weights = ModelWeights::new(gguf, &config)?;
        config.rope.factors = match &weights.rope_freqs {
            None => None,
            Some(view) => Some(keys.rope_factors(view.data)?),
        };
        Ok(config)
    }

    /// The value of `general.architecture`.
    pub fn architecture(&self) -> &'static str {
        self.family.architecture
    }
}

fn architecture_name<S: serde::Serializer>(family: &&'static Family, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(family.architecture)
}
