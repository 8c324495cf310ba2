//! What each layer of a model is: layers may differ in everything but the width of the residual stream.

use serde::Serialize;

/// A layer: what mixes tokens, then what works on each alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layer {
    /// Attention, or a recurrence in its place.
    pub mixer: Mixer,
    /// The feed-forward network.
    pub feed_forward: FeedForward,
}

/// How tokens learn of those before them.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mixer {
    /// Attention over a cache.
    Attention(Attention),
    /// A recurrence with a state of fixed size.
    DeltaNet(DeltaNet),
    /// Attention whose cache has one short vector for all heads.
    Latent(LatentAttention),
}

/// Grouped-query attention.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Attention {
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads. Query head `h` reads key/value head `h / (n_heads / n_kv_heads)`.
    pub n_kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// What scores are multiplied by before the softmax.
    pub scale: f32,
    /// How many positions a token sees, itself included; all before it where there is no window.
    pub window: Option<usize>,
    /// Which of the model's rotations queries and keys get.
    pub rope: Option<RopeKind>,
    /// Whether the result is gated, by a projection that lies beside the queries.
    pub gated: bool,
    /// Whether a number for each head joins its softmax.
    pub sinks: bool,
    /// The layer whose keys and values it reads, where it has none of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_of: Option<usize>,
}

/// Multi-head latent attention (arXiv 2405.04434): what is kept of a token is a short vector, of which every head makes its keys and values,
/// and a rotated key that all heads share.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LatentAttention {
    /// Query heads.
    pub n_heads: usize,
    /// Values that queries are made of, where they are not made of the layer's input itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_rank: Option<usize>,
    /// Values kept of a token.
    pub rank: usize,
    /// Values of a query that meet what is kept, by way of a matrix for each head.
    pub head_dim: usize,
    /// Values of a query that are rotated, and of the shared key.
    pub n_rot: usize,
    /// Values of what a head makes.
    pub value_dim: usize,
    /// What scores are multiplied by before the softmax.
    pub scale: f32,
}

/// A model has one rotation, or one more for layers with a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeKind {
    /// The model's.
    Full,
    /// That of the layers with a window.
    Window,
}

/// Gated delta net: linear attention with a state (arXiv 2412.06464).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DeltaNet {
    /// Key heads.
    pub n_key_heads: usize,
    /// Value heads, each with a state of its own.
    pub n_value_heads: usize,
    /// Values of a head; a state is `[head_dim][head_dim]`.
    pub head_dim: usize,
    /// Tokens that the convolution sees.
    pub kernel: usize,
}

/// What works on each token alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedForward {
    /// One network for all tokens.
    Dense {
        /// Values between its matrices.
        n_ff: usize,
    },
    /// A few of many, chosen for each token.
    Mixture {
        /// The choice.
        experts: Experts,
        /// Values between the matrices of one.
        n_ff: usize,
        /// One more, that every token goes through.
        #[serde(skip_serializing_if = "Option::is_none")]
        shared: Option<SharedExpert>,
        /// A network of that many values between its matrices beside all of them, with norms of its own.
        #[serde(skip_serializing_if = "Option::is_none")]
        beside: Option<usize>,
    },
}

/// An expert that every token goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SharedExpert {
    /// Values between its matrices.
    pub n_ff: usize,
    /// Whether a number for each token decides how much of it counts.
    pub gated: bool,
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
    /// Where experts are chosen among those of a few groups alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Groups>,
}

/// Groups of neighbouring experts: those with the largest sums of their two best scores are chosen first, then the experts among theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Groups {
    /// How many.
    pub n_groups: usize,
    /// How many of them a token uses.
    pub n_used: usize,
}

/// What joins gate and up projection: `act(gate) · up` (arXiv 2002.05202).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Glu {
    /// `x·σ(x)`.
    Swiglu,
    /// GELU by its approximation with tanh.
    Geglu,
    /// gpt-oss's: `g = min(gate, 7)`, `u` held within ±7, `g·σ(1.702·g)·(u + 1)`.
    SwigluClamped,
}

impl Glu {
    /// llama.cpp's name of the result.
    pub fn trace_name(self) -> &'static str {
        match self {
            Glu::Swiglu | Glu::SwigluClamped => "ffn_swiglu",
            Glu::Geglu => "ffn_geglu",
        }
    }

    /// `act(gate) · up`.
    pub fn apply(self, gate: f64, up: f64) -> f64 {
        let silu = |x: f64| x / (1.0 + (-x).exp());
        match self {
            Glu::Swiglu => silu(gate) * up,
            Glu::Geglu => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044_715 * gate.powi(3));
                0.5 * gate * (1.0 + inner.tanh()) * up
            }
            Glu::SwigluClamped => {
                let (gate, up) = (gate.min(7.0), up.clamp(-7.0, 7.0));
                gate / (1.0 + (-1.702 * gate).exp()) * (up + 1.0)
            }
        }
    }
}

/// How logits become the experts' weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Routing {
    /// The experts.
    pub experts: Experts,
    /// What makes scores of logits.
    pub scores: Scores,
}

/// What makes scores of a router's logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scores {
    /// Softmax over all experts.
    Softmax,
    /// The logits choose; softmax over those chosen.
    SoftmaxOfChosen,
    /// σ of each.
    Sigmoid,
}
