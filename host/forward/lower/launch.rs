//! What a launch does, in terms of the figure's weights and the pass's memory.

use super::Local;
use crate::model::{
    Glu, Routing, Temperature,
    figure::{CacheId, Matrix, RopeId, Span, StackId, StateId, VectorId},
};

/// What a token's experts and their weights are chosen of, and by which rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    pub logits: Local,
    pub bias: Option<VectorId>,
    pub scales: Option<VectorId>,
    pub routing: Routing,
    pub experts: Local,
    pub weights: Local,
}

/// Index in a pass's scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScaleId(pub usize);

/// What bounds values that are rounded to f16: of it comes the power of two that keeps them in range.
#[derive(Clone, Debug, PartialEq)]
pub enum Bound {
    /// Nothing is too large.
    None,
    /// A row normalised with these weights.
    Norm(VectorId),
    /// Averages of what these rows of a stack make of a normalised row: attention over values.
    Average { rows: Matrix, norm: VectorId, bias: Option<Span> },
    /// What these rows make of a normalised row; without a norm, of one whose mean square is at most 1.
    Product { rows: Matrix, norm: Option<VectorId> },
    /// The first half of the rows' products, at most, times the second half's.
    Glu { rows: Matrix, norm: VectorId },
    /// The same of a row whose mean square is at most 1; how much room they leave, where they leave some.
    GluHeadroom { rows: Matrix },
    /// Averages of values that nothing is known to bound.
    Values,
}

/// The heads of one attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionHeads {
    /// Query heads.
    pub n_heads: usize,
    /// The keys and values.
    pub cache: CacheId,
    /// The rotation, where there is one.
    pub rope: Option<RopeId>,
    /// What scores are multiplied by.
    pub scale: f32,
}

/// What is done to queries and keys between their product and attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QkvParts {
    /// RMSNorm over each query head.
    pub q_norm: Option<VectorId>,
    /// RMSNorm over each key head.
    pub k_norm: Option<VectorId>,
    /// The norms' ε.
    pub epsilon: f32,
    /// How queries grow by their position.
    pub temperature: Option<Temperature>,
}

/// A launch. Where an operation of the figure has the same name, its definition holds.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each says what it is; the fields are those of the operations
pub enum Launch {
    Embed {
        table: StackId,
        out: Local,
    },
    Scale {
        x: Local,
        out: Local,
        factor: f32,
    },
    RmsNorm {
        x: Local,
        out: Local,
        weight: Option<VectorId>,
        row: usize,
        epsilon: f32,
    },
    /// RMSNorm of whole rows, times a factor of each before it where there are some, and the residual stream added.
    NormAdd {
        x: Local,
        factors: Option<Local>,
        weight: VectorId,
        epsilon: f32,
        residual: Local,
        out: Local,
    },
    /// In place: RMSNorm over all heads of queries, and of keys, which lie beside values; all three times a factor of each row where there
    /// are some.
    NormQk {
        qkv: Local,
        factors: Option<Local>,
        norms: [Option<VectorId>; 2],
        /// Values of queries and of keys.
        widths: [usize; 2],
        epsilon: f32,
    },
    LayerNorm {
        x: Local,
        out: Local,
        weight: VectorId,
        epsilon: f32,
    },
    /// A product with as many tokens as there are, with what follows it.
    Matmul {
        x: Local,
        weight: Matrix,
        out: Local,
    },
    /// x, times a factor of each row where there are some, + bias + residual.
    Sum {
        x: Local,
        factors: Option<Local>,
        bias: Option<Span>,
        residual: Option<Local>,
        out: Local,
    },
    /// In place.
    Rope {
        x: Local,
        rope: RopeId,
        n_heads: usize,
        head_dim: usize,
    },
    Temper {
        x: Local,
        out: Local,
        temperature: Temperature,
    },
    /// Keys and values into the cache, where there are some, then attention.
    Attention {
        q: Local,
        k: Option<Local>,
        v: Option<Local>,
        out: Local,
        heads: AttentionHeads,
        sinks: Option<VectorId>,
        soft_cap: Option<f32>,
        probabilities: String,
    },
    Gate {
        x: Local,
        gate: Local,
        out: Local,
    },
    Glu {
        gate: Local,
        up: Local,
        out: Local,
        glu: Glu,
    },
    SoftCap {
        x: Local,
        out: Local,
        cap: f32,
    },
    Route(Choice),
    /// The router's product, in f32, and the choice: one launch for one token, two for several.
    Router {
        x: Local,
        norm: Option<(VectorId, f32)>,
        weight: Matrix,
        bias: Option<Span>,
        choice: Choice,
    },
    Every {
        experts: Local,
    },
    /// Columns `first` to `first + width` of rows.
    Columns {
        x: Local,
        out: Local,
        /// Values of a row before and after.
        row: usize,
        width: usize,
        first: usize,
    },
    Join {
        a: Local,
        b: Local,
        out: Local,
        /// Values of a row of each.
        widths: [usize; 2],
    },
    /// In place.
    ExpertBias {
        x: Local,
        bias: VectorId,
        experts: Local,
        n: usize,
    },
    /// With the residual stream added, where it is given.
    Combine {
        x: Local,
        weights: Local,
        residual: Option<Local>,
        out: Local,
        n_used: usize,
    },
    Convolve {
        x: Local,
        weight: VectorId,
        kernel: usize,
        state: StateId,
        out: Local,
    },
    /// In place.
    UnitHeads {
        x: Local,
        n_key_heads: usize,
        head_dim: usize,
        epsilon: f32,
    },
    /// In place: `beta` becomes the strength, `alpha` how much is kept.
    DeltaGates {
        beta: Local,
        alpha: Local,
        bias: VectorId,
        a: VectorId,
    },
    DeltaRule {
        qkv: Local,
        n_key_heads: usize,
        head_dim: usize,
        strength: Local,
        keep: Local,
        state: StateId,
        grouped: bool,
        out: Local,
    },
    GatedNorm {
        x: Local,
        gate: Local,
        weight: VectorId,
        epsilon: f32,
        out: Local,
    },

    /// One token's product, or one for each of its experts, packed weights read once: norm before; bias, SwiGLU and residual after.
    Gemv {
        x: Local,
        norm: Option<(VectorId, f32)>,
        weight: Matrix,
        bias: Option<Span>,
        swiglu: bool,
        residual: Option<Local>,
        /// The experts' numbers, and how many use the same x.
        experts: Option<(Local, usize)>,
        out: Local,
        /// Whether activations stay as wide as they are: the logits decide between near ties.
        wide: bool,
    },
    /// One token's products with its experts, each of a vector of its own, added up by weight, and the residual stream, where it is given.
    GemvSum {
        x: Local,
        weight: Matrix,
        experts: Local,
        weights: Local,
        residual: Option<Local>,
        out: Local,
    },
    /// One token's product with a whole stack, whatever its types.
    GemvStack {
        x: Local,
        norm: Option<(VectorId, f32)>,
        stack: StackId,
        bias: Option<VectorId>,
        out: Local,
    },
    /// One token's norms over heads, rotation, cache and attention, from queries, keys and values one behind the other.
    AttentionToken {
        qkv: Local,
        parts: QkvParts,
        heads: AttentionHeads,
        out: Local,
    },

    /// RMSNorm, to f16.
    RmsNormF16 {
        x: Local,
        out: Local,
        weight: VectorId,
        epsilon: f32,
        scale: ScaleId,
    },
    /// Values that nothing is known to bound, to f16: each row by the power of two above its root mean square, which is left in `factors`.
    RowsF16 {
        x: Local,
        out: Local,
        factors: Local,
    },
    /// To f16.
    ToF16 {
        x: Local,
        scale: ScaleId,
        out: Local,
    },
    /// Back from f16.
    FromF16 {
        x: Local,
        scale: ScaleId,
        out: Local,
    },
    /// A product of f16 on tensor cores, with a stack unpacked into a room, and a bias for each of its rows; added to `out` where `adds`. Where
    /// there is a `swiglu`, rows are gates and up projections, and only what becomes of the two is wanted: `out`, with `out_scale`, is room for them
    /// where the product does not make it itself.
    Product {
        x: Local,
        x_scale: ScaleId,
        stack: StackId,
        room: usize,
        bias: Option<VectorId>,
        out: Local,
        out_scale: Option<ScaleId>,
        adds: bool,
        swiglu: Option<(Local, ScaleId)>,
    },
    /// Many tokens' bias, norms over heads, rotation and cache, from their product to queries.
    Qkv {
        product: Local,
        bias: Option<VectorId>,
        parts: QkvParts,
        heads: AttentionHeads,
        q: Local,
        kv: Option<[Local; 2]>,
    },
    /// Queries that are in memory, to what attention over the cache takes.
    Queries {
        x: Local,
        heads: AttentionHeads,
        q: Local,
    },
    /// Keys and values that are in memory into the cache.
    Store {
        k: Local,
        v: Local,
        heads: AttentionHeads,
    },
    /// Many tokens' attention, to f16.
    Flash {
        q: Local,
        heads: AttentionHeads,
        sinks: Option<VectorId>,
        soft_cap: Option<f32>,
        out: Local,
        scale: ScaleId,
    },
    /// A token's attention of each of many sequences, as [`Launch::AttentionToken`], to f16.
    AttentionRows {
        qkv: Local,
        parts: QkvParts,
        heads: AttentionHeads,
        out: Local,
        scale: ScaleId,
    },
    /// The same as [`Launch::Flash`] for caches that flash attention has no kernel for, by way of f32.
    AttentionMany {
        q: Local,
        heads: AttentionHeads,
        sinks: Option<VectorId>,
        soft_cap: Option<f32>,
        exact: Local,
        out: Local,
        scale: ScaleId,
    },
    /// Gate and up projection beside each other, f16 to f16; with the factors of their rows and of what becomes of them, where there are
    /// some: `out_scale` is then the headroom that factors of at most 1 leave.
    GluF16 {
        gate_up: Local,
        factors: Option<[Local; 2]>,
        in_scale: ScaleId,
        out: Local,
        out_scale: ScaleId,
        glu: Glu,
    },
}

impl Launch {
    /// Every local that it reads or writes.
    pub fn locals(&self) -> Vec<Local> {
        let some = |first: &[Local], more: &[Option<Local>]| -> Vec<Local> {
            first.iter().copied().chain(more.iter().flatten().copied()).collect()
        };
        match *self {
            Launch::Embed { out, .. } => vec![out],
            Launch::Scale { x, out, .. }
            | Launch::RmsNorm { x, out, .. }
            | Launch::LayerNorm { x, out, .. }
            | Launch::Temper { x, out, .. }
            | Launch::Columns { x, out, .. }
            | Launch::SoftCap { x, out, .. }
            | Launch::Convolve { x, out, .. }
            | Launch::RmsNormF16 { x, out, .. }
            | Launch::ToF16 { x, out, .. }
            | Launch::FromF16 { x, out, .. }
            | Launch::Matmul { x, out, .. }
            | Launch::GemvStack { x, out, .. } => vec![x, out],
            Launch::Sum { x, factors, residual, out, .. } => some(&[x, out], &[factors, residual]),
            Launch::NormAdd { x, factors, residual, out, .. } => some(&[x, residual, out], &[factors]),
            Launch::NormQk { qkv, factors, .. } => some(&[qkv], &[factors]),
            Launch::RowsF16 { x, out, factors } => vec![x, out, factors],
            Launch::Queries { x, q, .. } => vec![x, q],
            Launch::Store { k, v, .. } => vec![k, v],
            Launch::Rope { x, .. } | Launch::UnitHeads { x, .. } => vec![x],
            Launch::DeltaGates { beta, alpha, .. } => vec![beta, alpha],
            Launch::Attention { q, k, v, out, .. } => some(&[q, out], &[k, v]),
            Launch::Every { experts } => vec![experts],
            Launch::Join { a, b, out, .. } => vec![a, b, out],
            Launch::Gate { x, gate, out } | Launch::GatedNorm { x, gate, out, .. } => vec![x, gate, out],
            Launch::Glu { gate, up, out, .. } => vec![gate, up, out],
            Launch::Route(Choice { logits, experts, weights, .. }) => vec![logits, experts, weights],
            Launch::Router { x, choice: Choice { logits, experts, weights, .. }, .. } => {
                vec![x, logits, experts, weights]
            }
            Launch::ExpertBias { x, experts, .. } => vec![x, experts],
            Launch::Combine { x, weights, residual, out, .. } => some(&[x, weights, out], &[residual]),
            Launch::DeltaRule { qkv, strength, keep, out, .. } => vec![qkv, strength, keep, out],
            Launch::Gemv { x, residual, experts, out, .. } => {
                some(&[x, out], &[residual, experts.map(|(experts, _)| experts)])
            }
            Launch::GemvSum { x, experts, weights, residual, out, .. } => {
                some(&[x, experts, weights, out], &[residual])
            }
            Launch::AttentionToken { qkv, out, .. } => vec![qkv, out],
            Launch::Qkv { product, q, kv, .. } => some(&[product, q], &[kv.map(|kv| kv[0]), kv.map(|kv| kv[1])]),
            Launch::Product { x, out, swiglu, .. } => some(&[x, out], &[swiglu.map(|(unit, _)| unit)]),
            Launch::Flash { q, out, .. } => vec![q, out],
            Launch::AttentionMany { q, exact, out, .. } => vec![q, exact, out],
            Launch::AttentionRows { qkv, out, .. } => vec![qkv, out],
            Launch::GluF16 { gate_up, factors, out, .. } => {
                some(&[gate_up, out], &[factors.map(|factors| factors[0]), factors.map(|factors| factors[1])])
            }
        }
    }

    /// The kernel family, as `explain` shows it.
    pub fn name(&self) -> &'static str {
        match self {
            Launch::Embed { .. } => "embedding",
            Launch::Scale { .. } => "scale",
            Launch::RmsNorm { .. } | Launch::RmsNormF16 { .. } => "rmsnorm",
            Launch::NormAdd { .. } => "rmsnorm_add",
            Launch::NormQk { .. } => "rmsnorm_qk",
            Launch::RowsF16 { .. } => "rmsnorm_power",
            Launch::ToF16 { .. } => "range_to_f16",
            Launch::FromF16 { .. } => "range_from_f16",
            Launch::LayerNorm { .. } => "layer_norm",
            Launch::Temper { .. } => "elementwise_temper",
            Launch::Every { .. } => "experts_every",
            Launch::Columns { .. } => "elementwise_take_columns",
            Launch::Join { .. } => "elementwise_join",
            Launch::Matmul { .. } => "matmul",
            Launch::Sum { .. } => "matmul_epilogue",
            Launch::Rope { .. } => "rope",
            Launch::Attention { k: Some(_), v: Some(_), .. } => "cache_store ×2, attention",
            Launch::Attention { k: Some(_), v: None, .. } => "cache_store, latent_attention",
            Launch::Attention { .. } => "attention",
            Launch::Gate { .. } => "multiply_sigmoid",
            Launch::Glu { .. } | Launch::GluF16 { .. } => "glu",
            Launch::SoftCap { .. } => "soft_cap",
            Launch::Route(_) => "experts_route",
            Launch::Router { .. } => "experts_router",
            Launch::ExpertBias { .. } => "experts_bias",
            Launch::Combine { .. } => "experts_combine",
            Launch::Convolve { .. } => "delta_net_convolve",
            Launch::UnitHeads { .. } => "delta_net_normalise",
            Launch::DeltaGates { .. } => "delta_net_gates",
            Launch::DeltaRule { .. } => "delta_net",
            Launch::GatedNorm { .. } => "delta_net_gate",
            Launch::Gemv { .. } => "gemv",
            Launch::GemvStack { .. } => "gemv",
            Launch::GemvSum { .. } => "gemv_sum",
            Launch::AttentionToken { .. } | Launch::AttentionRows { .. } => "attention_decode",
            Launch::Product { .. } => "cuBLAS",
            Launch::Qkv { .. } | Launch::Queries { .. } => "qkv",
            Launch::Store { .. } => "cache_store ×2",
            Launch::Flash { .. } => "flash",
            Launch::AttentionMany { .. } => "attention",
        }
    }
}
