//! The figure of a model: its operations in order, the values between them, and the tensors they use.
//!
//! `decoder` draws it, top to bottom like the papers' pictures. Everything else that has to know what a model does reads it
//! from here: the reference carries it out an operation at a time, the device's passes turn it into launches, the loader finds, checks
//! and uploads [`Figure::tensors`], and the buffers of a pass are the lifetimes of [`Figure::values`].
//!
//! A value is a row for each token, `[tokens][shape…]`, the last dimension contiguous, of `f32` but for the experts' numbers. No value
//! is written twice. A value that llama.cpp names has that name: `Qcur-0.1` is the second tensor called `Qcur` in layer 0.
//!
//! # Weights
//!
//! A file's [`Tensor`]s are one thing, what a product or a norm uses another. A [`Stack`] is matrices over the same input, one above
//! the other, so that one launch may multiply them all: queries, keys and values; gate and up projection. Its pieces are rows of the
//! file's tensors, whether the file has one tensor for each or one for all. A [`Vector`] is the same for norms and biases.

mod builder;
mod decoder;
mod delta_net;
mod feed_forward;
mod latent;

use std::{collections::HashMap, ops::Range};

use super::{
    config::{Config, Rope, Temperature},
    layer::{Glu, Layer, Routing},
};

pub use builder::Builder;

macro_rules! ids {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub usize);
    )+};
}

ids! {
    /// Index in [`Figure::values`].
    ValueId,
    /// Index in [`Figure::tensors`].
    TensorId,
    /// Index in [`Figure::stacks`].
    StackId,
    /// Index in [`Figure::vectors`].
    VectorId,
    /// Index in [`Figure::ropes`].
    RopeId,
    /// Index in [`Figure::caches`].
    CacheId,
    /// Index in [`Figure::states`].
    StateId,
}

/// A model's operations, values and weights.
#[derive(Clone, Debug, Default)]
pub struct Figure {
    /// What each layer is.
    pub layers: Vec<Layer>,
    /// The one list of the file's tensors.
    pub tensors: Vec<Tensor>,
    /// Matrices as products use them.
    pub stacks: Vec<Stack>,
    /// Norms and biases.
    pub vectors: Vec<Vector>,
    /// Kinds of rotation.
    pub ropes: Vec<Rope>,
    /// Keys and values kept, one for each layer of attention that has its own.
    pub caches: Vec<Cache>,
    /// What recurrent layers carry from token to token.
    pub states: Vec<State>,
    /// What lies between operations.
    pub values: Vec<Value>,
    /// The operations, first to last.
    pub nodes: Vec<Node>,
    /// Where in `nodes` the head begins: from there on only tokens whose logits are wanted.
    pub head: usize,
    /// What the head begins with: the residual stream after the last layer.
    pub residual: ValueId,
    /// The logits.
    pub logits: ValueId,
}

impl Default for ValueId {
    fn default() -> Self {
        ValueId(usize::MAX)
    }
}

/// A tensor of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its name there.
    pub name: String,
    /// Values of a row, rows of a matrix, matrices: `[in, out, experts]`. A vector is one row.
    pub dims: [usize; 3],
    /// Whether it is a norm, a bias or the like: F32, and used whole.
    pub is_vector: bool,
    /// Whether a file without it is incomplete.
    pub required: bool,
}

/// Matrices over the same input, one above the other; or stacks of such, a matrix for each expert.
#[derive(Clone, Debug, PartialEq)]
pub struct Stack {
    /// From the first output to the last.
    pub pieces: Vec<Piece>,
    /// Columns.
    pub n_in: usize,
    /// Rows of all pieces.
    pub n_out: usize,
    /// 1, or the number of experts.
    pub n_matrices: usize,
}

/// Rows of a tensor: `n_groups` times `group` neighbours, `stride` rows from one group's first to the next one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The tensor.
    pub tensor: TensorId,
    /// The first row.
    pub first: usize,
    /// Neighbouring rows.
    pub group: usize,
    /// Rows between the groups' first.
    pub stride: usize,
    /// How many groups.
    pub n_groups: usize,
}

impl Piece {
    /// How many rows there are.
    pub fn n_rows(&self) -> usize {
        self.group * self.n_groups
    }

    /// The tensor's row that is row `row` of the piece.
    pub fn row(&self, row: usize) -> usize {
        self.first + row / self.group * self.stride + row % self.group
    }
}

/// Some neighbouring rows of a stack: a matrix that a product uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// The stack.
    pub stack: StackId,
    /// Its outputs.
    pub rows: Range<usize>,
}

/// Norm weights or a bias; neighbours for one launch. A piece that the file does not have is zero.
#[derive(Clone, Debug, PartialEq)]
pub struct Vector {
    /// Lengths and tensors, one behind the other.
    pub pieces: Vec<(usize, Option<TensorId>)>,
}

impl Vector {
    /// Values of all pieces.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|(len, _)| len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A part of a vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The vector.
    pub vector: VectorId,
    /// Its values.
    pub range: Range<usize>,
}

/// A layer's keys and values; some layers read another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// How many positions a token sees, where there is a window.
    pub window: Option<usize>,
    /// Where values are the first so many of the keys' values, and kept with them alone.
    pub value_dim: Option<usize>,
}

/// What a recurrent layer carries on: `n` values of `f32`, zero before the first token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// How many.
    pub n: usize,
}

/// What lies between operations.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// llama.cpp's name, where it has one.
    pub name: Option<String>,
    /// A token's share: the last dimension is contiguous.
    pub shape: Vec<usize>,
}

impl Value {
    /// Values of a token.
    pub fn width(&self) -> usize {
        self.shape.iter().product()
    }

    /// The last dimension.
    pub fn row(&self) -> usize {
        *self.shape.last().expect("a value has a dimension")
    }
}

/// An operation and what it makes.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What is done.
    pub op: Op,
    /// What comes of it.
    pub out: ValueId,
    /// The layer, where it belongs to one.
    pub layer: Option<usize>,
}

/// An operation. Shapes leave the token's dimension out; `n` is the last dimension of `x`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each operation says what its fields are
pub enum Op {
    /// The table's row of each token: `[n_embd]`.
    Embed { table: Matrix },
    /// `factor · x`.
    Scale { x: ValueId, factor: f32 },
    /// `x / √(mean(x²) + ε) · weight` over the last dimension, or over `x` as rows of the weight's length.
    RmsNorm { x: ValueId, weight: Option<VectorId>, epsilon: f32 },
    /// `(x − mean(x)) / √(variance(x) + ε) · weight` over the last dimension.
    LayerNorm { x: ValueId, weight: VectorId, epsilon: f32 },
    /// `W · x`: `[rows of W]`.
    Product { x: ValueId, weight: Matrix },
    /// `x + bias`.
    Bias { x: ValueId, bias: Span },
    /// `x` in another shape; nothing is moved.
    Reshape { x: ValueId },
    /// Pairs of each head turn by their position's angle.
    Rope { x: ValueId, rope: RopeId },
    /// `x · (1 + scale · ln(⌊position / length⌋ + 1))`.
    Temper { x: ValueId, temperature: Temperature },
    /// Keys and values `kv` go into the cache at the tokens' positions, where they are the layer's own; each head of `q` attends to what the
    /// cache has up to there: `[heads · head_dim]`. Where values are a part of the keys (`Cache::value_dim`) there are `k` alone. `sinks` is one number for each head that joins its softmax. `probabilities` is the name of the softmax in traces.
    Attention {
        q: ValueId,
        k: Option<ValueId>,
        v: Option<ValueId>,
        cache: CacheId,
        rope: Option<RopeId>,
        scale: f32,
        sinks: Option<VectorId>,
        soft_cap: Option<f32>,
        probabilities: String,
    },
    /// `x · σ(gate)`; a gate of one value serves all of `x`.
    Gate { x: ValueId, gate: ValueId },
    /// `act(gate) · up`.
    Glu { gate: ValueId, up: ValueId, glu: Glu },
    /// `a + b`.
    Add { a: ValueId, b: ValueId },
    /// `cap · tanh(x / cap)`.
    SoftCap { x: ValueId, cap: f32 },
    /// The experts that each token uses, `[n_used]` numbers, by logits `[n_experts]`; and their `weights`, `[n_used]`, times each expert's of
    /// `scales`. `bias` is added to scores for choosing alone.
    Route { logits: ValueId, bias: Option<VectorId>, scales: Option<VectorId>, routing: Routing, weights: ValueId },
    /// The numbers of all matrices of a stack, `[n]`, 0 to n − 1: for a product of each head with its own.
    Every { n: usize },
    /// Each token's vector, or vectors `[n_used][n]`, times the matrices of its experts: `[n_used][rows]`.
    ExpertProduct { x: ValueId, weight: Matrix, experts: ValueId },
    /// `x[used] + bias[experts[used]]`, biases being `[n_experts][n]`.
    ExpertBias { x: ValueId, bias: VectorId, experts: ValueId },
    /// `Σ weights[used] · x[used]`: `[n]`.
    Combine { x: ValueId, weights: ValueId },
    /// Causal convolution of each channel over `kernel` tokens, `weight` being `[channels][kernel]` with the present one last, then SiLU. `state` has the
    /// `kernel − 1` columns before.
    Convolve { x: ValueId, weight: VectorId, kernel: usize, state: StateId },
    /// Queries and keys, the first heads of rows `[q][k][v]`, each divided by its length `√(Σx² + ε)`, queries by `√head_dim` besides.
    UnitHeads { x: ValueId, n_key_heads: usize, head_dim: usize, epsilon: f32 },
    /// Some of a row's values, from `first` on; nothing is moved, and nothing reads it.
    Part { x: ValueId, first: usize },
    /// Some of each row's values over the last dimension, from `first` on.
    Columns { x: ValueId, first: usize },
    /// Two values beside each other, over the last dimension.
    Join { a: ValueId, b: ValueId },
    /// How much of its state a value head keeps, `exp(a · softplus(alpha + bias))`; and how strongly it writes, `strength = σ(beta)`.
    DeltaGates { beta: ValueId, alpha: ValueId, bias: VectorId, a: VectorId, strength: ValueId },
    /// The gated delta rule (arXiv 2412.06464) on each value head's state `S` `[head_dim][head_dim]`, a token after the other:
    /// `S ← keep·S; S ← S + k·(strength·(v − Sᵀk))ᵀ; out = Sᵀq`, queries, keys and values being rows `[q][k][v]`. Value head `j` uses key head
    /// `j mod n_key_heads`, or, `grouped`, `j / (n_value_heads / n_key_heads)`. A state is kept as `[value][key]`.
    DeltaRule { qkv: ValueId, n_key_heads: usize, strength: ValueId, keep: ValueId, state: StateId, grouped: bool },
    /// RMSNorm over each head, times SiLU of `gate`.
    GatedNorm { x: ValueId, gate: ValueId, weight: VectorId, epsilon: f32 },
}

impl Op {
    /// The values that it reads.
    pub fn inputs(&self) -> Vec<ValueId> {
        match *self {
            Op::Embed { .. } | Op::Every { .. } => vec![],
            Op::Scale { x, .. }
            | Op::RmsNorm { x, .. }
            | Op::LayerNorm { x, .. }
            | Op::Product { x, .. }
            | Op::Temper { x, .. }
            | Op::Columns { x, .. }
            | Op::Bias { x, .. }
            | Op::Reshape { x }
            | Op::Rope { x, .. }
            | Op::SoftCap { x, .. }
            | Op::Convolve { x, .. }
            | Op::UnitHeads { x, .. }
            | Op::Part { x, .. } => vec![x],
            Op::DeltaGates { beta, alpha, .. } => vec![beta, alpha],
            Op::Attention { q, k, v, .. } => [Some(q), k, v].into_iter().flatten().collect(),
            Op::Gate { x, gate } | Op::GatedNorm { x, gate, .. } => vec![x, gate],
            Op::Glu { gate, up, .. } => vec![gate, up],
            Op::Add { a, b } | Op::Join { a, b } => vec![a, b],
            Op::Route { logits, .. } => vec![logits],
            Op::ExpertProduct { x, experts, .. } | Op::ExpertBias { x, experts, .. } => vec![x, experts],
            Op::Combine { x, weights } => vec![x, weights],
            Op::DeltaRule { qkv, strength, keep, .. } => vec![qkv, strength, keep],
        }
    }

    /// What it makes beside the node's own value.
    pub fn second_output(&self) -> Option<ValueId> {
        match *self {
            Op::Route { weights, .. } => Some(weights),
            Op::DeltaGates { strength, .. } => Some(strength),
            _ => None,
        }
    }
}

impl Figure {
    /// Draws the model. `has` tells which tensors the file holds: optional ones that it does not have are left out of the figure.
    pub fn new(config: &Config, has: &dyn Fn(&str) -> bool) -> Figure {
        decoder::decoder(config, has)
    }

    /// A value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0]
    }

    /// A stack.
    pub fn stack(&self, id: StackId) -> &Stack {
        &self.stacks[id.0]
    }

    /// A vector.
    pub fn vector(&self, id: VectorId) -> &Vector {
        &self.vectors[id.0]
    }

    /// The nodes that read a value.
    pub fn readers(&self, id: ValueId) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| node.op.inputs().contains(&id))
    }

    /// The values that each node, by its index, is the last to read; one that nothing reads is the last of its own node.
    pub fn last_reads(&self) -> HashMap<usize, Vec<ValueId>> {
        let mut last: HashMap<ValueId, usize> = HashMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let made = [Some(node.out), node.op.second_output()].into_iter().flatten();
            last.extend(node.op.inputs().into_iter().chain(made).map(|value| (value, index)));
        }
        last.remove(&self.logits);
        let mut by_node: HashMap<usize, Vec<ValueId>> = HashMap::new();
        for (value, index) in last {
            by_node.entry(index).or_default().push(value);
        }
        by_node
    }

    /// The node that makes a value.
    pub fn maker(&self, id: ValueId) -> Option<&Node> {
        self.nodes.iter().find(|node| node.out == id || node.op.second_output() == Some(id))
    }
}
