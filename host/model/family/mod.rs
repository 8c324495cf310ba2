//! Model families: what distinguishes one transformer decoder from the next, as data.
//!
//! All families here are the same figure ([`figure`](super::figure)). [`Family`] holds the ways in which they differ; a new one that needs no
//! new operation is a file beside this one and a row in [`FAMILIES`].

mod cohere2;
mod deepseek2;
mod ernie4_5;
mod ernie4_5_moe;
mod exaone4;
mod gemma2;
mod gemma3;
mod gemma4;
mod glm4;
mod glm4moe;
mod gpt_oss;
mod granite;
mod granitemoe;
mod llama;
mod mistral3;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen2moe;
mod qwen3;
mod qwen35;
mod qwen35moe;
mod qwen3moe;
mod qwen3next;
mod seed_oss;
mod smollm3;

use super::layer::{Glu, Scores};

use super::error::{ModelError, ModelRule};
use crate::gguf::Gguf;

/// Every family this program runs.
pub const FAMILIES: &[&Family] = &[
    &cohere2::FAMILY,
    &deepseek2::FAMILY,
    &ernie4_5::FAMILY,
    &ernie4_5_moe::FAMILY,
    &exaone4::FAMILY,
    &gemma2::FAMILY,
    &gemma3::FAMILY,
    &gemma4::FAMILY,
    &glm4::FAMILY,
    &glm4moe::FAMILY,
    &gpt_oss::FAMILY,
    &granite::FAMILY,
    &granitemoe::FAMILY,
    &llama::FAMILY,
    &mistral3::FAMILY,
    &olmo2::FAMILY,
    &phi3::FAMILY,
    &qwen2::FAMILY,
    &qwen2moe::FAMILY,
    &qwen3::FAMILY,
    &qwen35::FAMILY,
    &qwen35moe::FAMILY,
    &qwen3moe::FAMILY,
    &qwen3next::FAMILY,
    &seed_oss::FAMILY,
    &smollm3::FAMILY,
];

/// How one family differs from the others.
#[derive(Debug)]
pub struct Family {
    /// The value of `general.architecture`, and the prefix of the family's metadata keys.
    pub architecture: &'static str,
    /// Which two values of a head RoPE rotates together.
    pub rope_pairing: RopePairing,
    /// Divisors of RoPE's frequencies that the file may hold.
    pub rope_factors: RopeFactors,
    /// The layers that rotate.
    pub rotated: Rotated,
    /// How layers with a window rotate.
    pub window_rope: WindowRope,
    /// Whether `rope.scaling.yarn_attn_factor` multiplies what YaRN's own rule makes of rotated values' length.
    pub yarn_attention_factor: bool,
    /// What `rope.scaling.yarn_log_multiplier` is stored times, where the family has it.
    pub yarn_log_unit: Option<f32>,
    /// Whether queries may grow with their position: `attention.temperature_scale`.
    pub temperature: bool,
    /// The layers with a sliding window.
    pub windows: Windows,
    /// The window where the file does not say; 0 is none.
    pub default_window: u32,
    /// What scores are multiplied by where the file does not say.
    pub score_scale: ScoreScale,
    /// `attn_logit_softcapping` where the file does not say, in families that have it.
    pub score_soft_cap: Option<f32>,
    /// Biases of the query, key and value projections.
    pub qkv_bias: Presence,
    /// Whether queries, keys and values have one tensor, `attn_qkv`.
    pub fused_qkv: bool,
    /// Bias of the attention's output projection.
    pub attn_output_bias: Presence,
    /// RMSNorm over each query and key head, before RoPE.
    pub qk_norm: Presence,
    /// Whether that is over all heads of a token together.
    pub qk_norm_whole: bool,
    /// Whether values are normalised as well, without weights; and are the keys' projection where a file has none for values.
    pub v_norm: bool,
    /// Whether attention is by way of a short vector.
    pub latent: bool,
    /// Whether attention has sinks, a number for each head that joins its softmax.
    pub sinks: bool,
    /// Whether the query projection has a gate beside each head.
    pub gated: bool,
    /// The norms over the residual stream.
    pub norms: Norms,
    /// Whether these are LayerNorms, without biases.
    pub layer_norm: bool,
    /// Whether attention and feed-forward network read the same norm, and both are added at once.
    pub parallel: bool,
    /// What joins gate and up projection.
    pub glu: Glu,
    /// Whether these have one tensor, `ffn_up`, the gate's rows first.
    pub fused_gate_up: bool,
    /// Whether the feed-forward network is one of several experts chosen for each token.
    pub experts: Presence,
    /// What makes scores of the router's logits.
    pub expert_scores: Scores,
    /// Whether the file may name another way to make them: `expert_gating_func`.
    pub expert_scores_keyed: bool,
    /// Whether the weights of the experts chosen are divided by their sum, where the file does not say.
    pub expert_norm: bool,
    /// Whether the file may have a bias that is added for choosing experts alone.
    pub selection_bias: bool,
    /// The expert that every token goes through.
    pub shared_expert: Shared,
    /// Whether the first layers may have no experts, `leading_dense_block_count`, nor those between each so many, `interleave_moe_layer_step`.
    pub some_dense: bool,
    /// Whether experts stand beside a dense network, each with norms of its own, the router with another.
    pub experts_beside: bool,
    /// Whether the router and the experts have biases.
    pub expert_bias: bool,
    /// Whether the embedding is multiplied by √n_embd.
    pub root_embedding: bool,
    /// Whether each layer may add an embedding of its own, and scales the stream at its end.
    pub layer_embedding: bool,
    /// Whether layers may differ in key/value heads, in the feed-forward network's width and, with a window, in the size of heads.
    pub layers_differ: bool,
    /// Whether the file may scale embedding and branches, `embedding_scale` and `residual_scale`.
    pub scales: bool,
    /// What `logit_scale` does.
    pub logit_scale: LogitScale,
    /// `final_logit_softcapping` where the file does not say, in families that have it; 0 is none.
    pub logit_soft_cap: Option<f32>,
    /// Whether most layers are a gated delta net: all but each fourth, or as the file says.
    pub recurrent: bool,
    /// Whether neighbouring value heads share a key head, not those that are as many heads apart as there are key heads.
    pub delta_grouped: bool,
    /// Tensors, by the end of their names, that a file may have and that nothing uses.
    pub ignored: &'static [&'static str],
    /// What llama.cpp calls some values.
    pub names: Names,
}

/// The weights of the norms over the residual stream, by their names in the file.
#[derive(Clone, Copy, Debug)]
pub struct Norms {
    /// Before attention.
    pub attn: Option<&'static str>,
    /// Of what attention adds.
    pub attn_post: Option<&'static str>,
    /// Before the feed-forward network.
    pub ffn: Option<&'static str>,
    /// Of what the feed-forward network adds.
    pub ffn_post: Option<&'static str>,
}

/// What llama.cpp calls values that families have by different names.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// Queries, keys and values before they are heads.
    pub projected: [&'static str; 3],
    /// The same as heads, before norm and rotation.
    pub heads: [&'static str; 3],
    /// Queries and keys once rotated.
    pub rotated: [&'static str; 2],
    /// What attention makes of values.
    pub attended: &'static str,
    /// What attention adds.
    pub attn_out: &'static str,
    /// The norm of it.
    pub attn_post_norm: &'static str,
    /// The norm of what the feed-forward network adds; one that does not belong to its layer there begins with a dot.
    pub ffn_post_norm: &'static str,
    /// What a dense network adds.
    pub ffn_out: &'static str,
    /// The residual stream after attention.
    pub ffn_inp: &'static str,
    /// The feed-forward network's input.
    pub ffn_norm: &'static str,
}

/// Llama's, which most are like.
const LIKE_LLAMA: Family = Family {
    architecture: "",
    rope_pairing: RopePairing::Neighbours,
    rope_factors: RopeFactors::None,
    rotated: Rotated::All,
    window_rope: WindowRope::Same,
    yarn_attention_factor: true,
    yarn_log_unit: None,
    temperature: false,
    windows: Windows::Everywhere,
    default_window: 0,
    score_scale: ScoreScale::OfHead,
    score_soft_cap: None,
    qkv_bias: Presence::Absent,
    fused_qkv: false,
    attn_output_bias: Presence::Absent,
    qk_norm: Presence::Absent,
    qk_norm_whole: false,
    v_norm: false,
    latent: false,
    sinks: false,
    gated: false,
    norms: Norms { attn: Some("attn_norm.weight"), attn_post: None, ffn: Some("ffn_norm.weight"), ffn_post: None },
    layer_norm: false,
    parallel: false,
    glu: Glu::Swiglu,
    fused_gate_up: false,
    experts: Presence::Absent,
    expert_scores: Scores::Softmax,
    expert_scores_keyed: false,
    expert_norm: true,
    selection_bias: false,
    shared_expert: Shared::None,
    some_dense: false,
    experts_beside: false,
    expert_bias: false,
    root_embedding: false,
    layer_embedding: false,
    layers_differ: false,
    scales: false,
    logit_scale: LogitScale::None,
    logit_soft_cap: None,
    recurrent: false,
    delta_grouped: false,
    ignored: &[],
    names: Names {
        projected: ["Qcur", "Kcur", "Vcur"],
        heads: ["Qcur", "Kcur", "Vcur"],
        rotated: ["Qcur", "Kcur"],
        attended: "kqv_out",
        attn_out: "attn_out",
        attn_post_norm: "attn_post_norm",
        ffn_post_norm: "ffn_post_norm",
        ffn_out: "ffn_out",
        ffn_inp: "ffn_inp",
        ffn_norm: "ffn_norm",
    },
};

/// Whether a family has a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Never: a file with it is not understood.
    Absent,
    /// If the file has it.
    Optional,
    /// Always: a file without it is incomplete.
    Required,
}

/// Divisors of RoPE's frequencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeFactors {
    /// None.
    None,
    /// `rope_freqs.weight`, where the file has it.
    One,
    /// `rope_factors_long.weight` and `rope_factors_short.weight`, for contexts longer than the original one and for others.
    LongAndShort,
}

/// The layers that rotate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotated {
    /// All.
    All,
    /// All but each one of that many.
    AllButEvery(usize),
    /// Those with a window, where the model has windows; else all.
    Windowed,
}

/// How layers with a window rotate, where it is not as the others do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WindowRope {
    /// As the others.
    Same,
    /// By the same base, unscaled.
    Unscaled,
    /// By `rope.freq_base_swa`, or by this base where the file does not say, unscaled.
    Own(f32),
}

/// What scores are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScoreScale {
    /// `1/√head_dim`.
    OfHead,
    /// The same, but `1/√(n_embd / n_heads)` in the model of that many blocks: its makers did so.
    OfWidthAt(u32),
    /// Nothing: queries are normalised to the right length.
    One,
}

/// What `logit_scale` does to logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitScale {
    /// Nothing: a file with it is not understood.
    None,
    /// They are divided by it.
    Divides,
    /// They are multiplied by it.
    Multiplies,
}

/// The expert that every token goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// There is none.
    None,
    /// Of `expert_shared_feed_forward_length` values, where that is there.
    Plain,
    /// The same, times σ of a number that each token has for it.
    Gated,
    /// Of `expert_shared_count` times the values of another.
    Counted,
}

/// The layers with a sliding window, where the file gives one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// The file's window says nothing.
    Ignored,
    /// All.
    Everywhere,
    /// All but the last of each group of that many; a file may say otherwise.
    AllButEvery(usize),
    /// The same, in a model of 64 blocks; in others the window says nothing.
    AllButEveryOf64(usize),
    /// Those that the file lists.
    Listed,
}

/// Which values of a head of `n_rot` values RoPE rotates together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RopePairing {
    /// `(i, i + n_rot/2)`, as in GPT-NeoX.
    Halves,
    /// `(2i, 2i + 1)`, as in the RoPE paper.
    Neighbours,
}

impl RopePairing {
    /// The indices, inside a head, of the two values of pair `i` out of `n_rot/2`.
    pub fn indices(self, i: usize, n_rot: usize) -> (usize, usize) {
        match self {
            RopePairing::Halves => (i, i + n_rot / 2),
            RopePairing::Neighbours => (2 * i, 2 * i + 1),
        }
    }
}

impl PartialEq for Family {
    fn eq(&self, other: &Family) -> bool {
        self.architecture == other.architecture
    }
}

impl Family {
    /// The family of that architecture.
    pub fn of(architecture: &str) -> Option<&'static Family> {
        FAMILIES.iter().copied().find(|f| f.architecture == architecture)
    }

    /// The family of the model in `gguf`.
    ///
    /// # Errors
    /// [`ModelRule::Architecture`] when this program does not run its architecture.
    pub fn of_model(gguf: &Gguf) -> Result<&'static Family, ModelError> {
        let architecture = gguf.metadata().str("general.architecture")?;
        Family::of(architecture).ok_or_else(|| {
            ModelError::rejected(
                gguf.name(),
                ModelRule::Architecture,
                "metadata key general.architecture",
                format!("{architecture:?}, which this program does not run"),
                format!("one of {}", Family::list()),
            )
        })
    }

    /// The names of all architectures, for messages.
    pub fn list() -> String {
        FAMILIES.iter().map(|f| f.architecture).collect::<Vec<_>>().join(", ")
    }
}
