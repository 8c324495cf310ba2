//! Hyperparameters: what they are. `keys` reads them from a file's metadata.

use serde::Serialize;

use super::Pooling;
use super::family::{Family, RopePairing, Rotated};
use super::layer::{
    Attention, DeltaNet, Experts, FeedForward, LatentAttention, Layer, Mixer, RopeKind, Scores, SharedExpert,
};

/// The hyperparameters of a model. Everything in it is checked: the program can size buffers by it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// What kind of model it is.
    #[serde(serialize_with = "architecture_name", rename = "architecture")]
    pub family: &'static Family,
    /// Layers.
    pub n_layers: usize,
    /// Blocks after them that the file holds for predicting tokens further on; they are not run.
    #[serde(skip_serializing_if = "is_none")]
    pub n_unused_layers: usize,
    /// Values per token in the residual stream.
    pub n_embd: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads. Query head `h` reads key/value head `h / (n_heads / n_kv_heads)`.
    pub n_kv_heads: usize,
    /// The same of each layer, where they differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_heads_by_layer: Option<Vec<usize>>,
    /// Values per head.
    pub head_dim: usize,
    /// The same in layers with a window, where it is another number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_head_dim: Option<usize>,
    /// Values between the feed-forward matrices; of one expert where there are several.
    pub n_ff: usize,
    /// The same of each layer, where they differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_ff_by_layer: Option<Vec<usize>>,
    /// Rows of the embedding. A file may pad it past the tokenizer's last token.
    pub vocab_size: usize,
    /// Positions the model was made for.
    pub context_length: usize,
    /// Added to the mean square in RMSNorm, or to the variance in LayerNorm.
    pub rms_epsilon: f32,
    /// Position embedding.
    pub rope: Rope,
    /// Whether the output projection is the embedding.
    pub tied_output: bool,
    /// Whether query and key heads are normalised before RoPE.
    pub qk_norm: bool,
    /// The mixture of experts, where there is one.
    pub experts: Option<Experts>,
    /// What makes scores of its router's logits.
    #[serde(skip)]
    pub expert_scores: Scores,
    /// The layers without it, and what they have instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dense: Option<DenseLayers>,
    /// The expert that every token goes through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_expert: Option<SharedExpert>,
    /// Values between the matrices of the network beside the experts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beside_experts: Option<usize>,
    /// How many positions a token sees, itself included; all before it where there is no window.
    pub sliding_window: Option<usize>,
    /// Which layers have it, where it is not all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub windowed: Option<Vec<bool>>,
    /// Position embedding of the layers with a window, where it is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_rope: Option<Rope>,
    /// What attention scores are multiplied by before the softmax: `1/√head_dim` unless the file says otherwise.
    pub attention_scale: f32,
    /// Attention scores are held within this, by `cap · tanh(score / cap)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention_soft_cap: Option<f32>,
    /// Queries grow with their position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<Temperature>,
    /// Attention by way of a short vector, in every layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latent: Option<LatentAttention>,
    /// Layers, the last ones, that read the keys and values of one before them.
    #[serde(skip_serializing_if = "is_none")]
    pub n_shared_kv_layers: usize,
    /// Values of the embedding that each layer has of its own.
    #[serde(skip_serializing_if = "is_none")]
    pub n_embd_per_layer: usize,
    /// What the residual stream is multiplied by at the end of each layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_scales: Option<Vec<f32>>,
    /// What the embedding is multiplied by.
    #[serde(skip_serializing_if = "is_one")]
    pub embedding_scale: f32,
    /// What is multiplied by before it is added to the residual stream.
    #[serde(skip_serializing_if = "is_one")]
    pub residual_scale: f32,
    /// What logits are multiplied by.
    #[serde(skip_serializing_if = "is_one")]
    pub logit_scale: f32,
    /// Logits are held within this, as scores are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logit_soft_cap: Option<f32>,
    /// Layers with a recurrence in place of attention, and what it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recurrent: Option<Recurrent>,
    /// How embeddings are made of hidden states, where the file says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pooling: Option<Pooling>,
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
    /// Divisors of the frequencies: `[n_rot/2]`.
    pub factors: Option<Vec<f32>>,
    /// The same for contexts longer than the original one, where they are others ([`RopeScaling::Long`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub long_factors: Option<Vec<f32>>,
}

/// Layers that have one network for all tokens where others have experts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DenseLayers {
    /// Of each layer, whether it is one.
    pub layers: Vec<bool>,
    /// Values between the matrices of its network.
    pub n_ff: usize,
}

/// Queries are multiplied by `1 + scale · ln(⌊position / length⌋ + 1)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Temperature {
    /// How much they grow.
    pub scale: f32,
    /// Positions over which they do not.
    pub length: usize,
}

/// Which layers are recurrent, and how.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recurrent {
    /// Of each layer, whether it is.
    pub layers: Vec<bool>,
    /// What it is then.
    pub delta_net: DeltaNet,
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
    /// By divisors of their own for contexts that are longer than the original one (LongRoPE).
    Long {
        /// Positions the model was first trained on.
        original_context: usize,
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

impl Config {
    /// What each layer is.
    pub fn layers(&self) -> Vec<Layer> {
        (0..self.n_layers).map(|il| self.layer(il)).collect()
    }

    fn layer(&self, il: usize) -> Layer {
        let family = self.family;
        let window = self.window_of(il);
        let rotates = match family.rotated {
            Rotated::All => true,
            Rotated::AllButEvery(n) => !(il + 1).is_multiple_of(n),
            Rotated::Windowed => window.is_some() || self.sliding_window.is_none(),
        };
        let kind = if window.is_some() && self.window_rope.is_some() { RopeKind::Window } else { RopeKind::Full };
        let attention = || Attention {
            n_heads: self.n_heads,
            n_kv_heads: self.kv_heads_by_layer.as_ref().map_or(self.n_kv_heads, |heads| heads[il]),
            head_dim: self.window_head_dim.filter(|_| window.is_some()).unwrap_or(self.head_dim),
            scale: self.attention_scale,
            window,
            rope: rotates.then_some(kind),
            gated: family.gated,
            sinks: family.sinks,
            cache_of: self.cache_of(il),
        };
        let n_ff = self.n_ff_by_layer.as_ref().map_or(self.n_ff, |n_ff| n_ff[il]);
        Layer {
            mixer: match (&self.recurrent, self.latent) {
                (Some(Recurrent { layers, delta_net }), _) if layers[il] => Mixer::DeltaNet(*delta_net),
                (_, Some(latent)) => Mixer::Latent(latent),
                _ => Mixer::Attention(attention()),
            },
            feed_forward: match (self.experts, &self.dense) {
                (Some(_), Some(dense)) if dense.layers[il] => FeedForward::Dense { n_ff: dense.n_ff },
                (Some(experts), _) => {
                    FeedForward::Mixture { experts, n_ff, shared: self.shared_expert, beside: self.beside_experts }
                }
                (None, _) => FeedForward::Dense { n_ff },
            },
        }
    }

    fn window_of(&self, il: usize) -> Option<usize> {
        self.sliding_window.filter(|_| self.windowed.as_ref().is_none_or(|windowed| windowed[il]))
    }

    /// The layer whose cache layer `il` reads: of those with one of their own, the last but one where it has a window, the last where it
    /// has none, as llama.cpp has it.
    fn cache_of(&self, il: usize) -> Option<usize> {
        let n_own = self.n_layers - self.n_shared_kv_layers;
        let back = if self.window_of(il).is_some() { 2 } else { 1 };
        (il >= n_own).then(|| n_own - back)
    }

    /// The value of `general.architecture`.
    pub fn architecture(&self) -> &'static str {
        self.family.architecture
    }
}

fn is_none(n: &usize) -> bool {
    *n == 0
}

fn is_one(scale: &f32) -> bool {
    *scale == 1.0
}

fn architecture_name<S: serde::Serializer>(family: &&'static Family, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(family.architecture)
}
