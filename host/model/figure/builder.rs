//! What a figure is drawn with: weights by their names in the file, and one method for each operation.

use std::collections::HashMap;

use super::{
    Cache, CacheId, Figure, Matrix, Node, Op, Piece, RopeId, Span, Stack, StackId, State, StateId, Tensor, TensorId,
    Value, ValueId, Vector, VectorId,
};
use crate::model::{
    config::Temperature,
    layer::{Glu, Routing, Scores},
};

/// A figure that is being drawn.
pub struct Builder<'a> {
    pub(super) figure: Figure,
    has: &'a dyn Fn(&str) -> bool,
    layer: Option<usize>,
    /// How often each trace name was given.
    named: HashMap<String, usize>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(has: &'a dyn Fn(&str) -> bool) -> Builder<'a> {
        Builder { figure: Figure::default(), has, layer: None, named: HashMap::new() }
    }

    /// What follows belongs to this layer, or to none.
    pub fn in_layer(&mut self, layer: Option<usize>) {
        self.layer = layer;
    }

    /// The file's name of a part of the present layer.
    fn in_file(&self, part: &str) -> String {
        match self.layer {
            Some(layer) => format!("blk.{layer}.{part}"),
            None => part.to_string(),
        }
    }

    /// Whether the file has that part of the present layer.
    pub fn has(&self, part: &str) -> bool {
        (self.has)(&self.in_file(part))
    }

    fn tensor(&mut self, part: &str, dims: [usize; 3], is_vector: bool, required: bool) -> TensorId {
        let name = self.in_file(part);
        if let Some(known) = self.figure.tensors.iter().position(|tensor| tensor.name == name) {
            return TensorId(known);
        }
        self.figure.tensors.push(Tensor { name, dims, is_vector, required });
        TensorId(self.figure.tensors.len() - 1)
    }

    /// Norm weights, or whatever else is used whole: F32, `[dims[2]][dims[1]][dims[0]]`.
    pub fn vector(&mut self, part: &str, dims: [usize; 3]) -> VectorId {
        let tensor = self.tensor(part, dims, true, true);
        self.figure.vectors.push(Vector { pieces: vec![(dims.iter().product(), Some(tensor))] });
        VectorId(self.figure.vectors.len() - 1)
    }

    /// The same where the file may be without it.
    pub fn optional_vector(&mut self, part: &str, dims: [usize; 3]) -> Option<VectorId> {
        self.has(part).then(|| {
            let vector = self.vector(part, dims);
            let tensor = self.figure.vectors[vector.0].pieces[0].1.expect("made with a tensor");
            self.figure.tensors[tensor.0].required = false;
            vector
        })
    }

    /// A tensor that the file may have, and that no operation uses: what is made of it is made when the model is loaded.
    pub fn used_at_load(&mut self, part: &str, dims: [usize; 3]) {
        if self.has(part) {
            self.tensor(part, dims, true, false);
        }
    }

    /// A bias for rows that lie in one stack, `parts` being their names and lengths. Of optional ones those that the file is without are
    /// zero; with none of them there is no bias.
    pub fn biases(&mut self, parts: &[(&str, usize)], required: bool) -> Option<Vec<Span>> {
        let is_there = |builder: &Self, part: &str| required || builder.has(part);
        if !parts.iter().any(|(part, _)| is_there(self, part)) {
            return None;
        }
        let pieces = parts.iter().map(|&(part, len)| {
            let tensor = is_there(self, part).then(|| self.tensor(part, [len, 1, 1], true, required));
            (len, tensor)
        });
        let pieces = pieces.collect();
        self.figure.vectors.push(Vector { pieces });
        let vector = VectorId(self.figure.vectors.len() - 1);
        let mut start = 0;
        let spans = parts.iter().map(|&(_, len)| {
            start += len;
            Span { vector, range: start - len..start }
        });
        Some(spans.collect())
    }

    /// Matrices over the same input of `n_in` values, one above the other: their names and rows.
    pub fn stack<const N: usize>(&mut self, parts: [(&str, usize); N], n_in: usize) -> [Matrix; N] {
        self.expert_stack(parts, n_in, 1)
    }

    /// The same, each being a matrix for each of `n_matrices` experts.
    pub fn expert_stack<const N: usize>(
        &mut self,
        parts: [(&str, usize); N],
        n_in: usize,
        n_matrices: usize,
    ) -> [Matrix; N] {
        let pieces = parts.map(|(part, rows)| {
            let tensor = self.tensor(part, [n_in, rows, n_matrices], false, true);
            Piece { tensor, first: 0, group: rows, stride: rows, n_groups: 1 }
        });
        self.stack_of(pieces, n_in, n_matrices)
    }

    /// One tensor of the file that holds what others have as several, one above the other: each one's rows, of each of `n_matrices`.
    pub fn parts_of<const N: usize>(
        &mut self,
        part: &str,
        rows: [usize; N],
        n_in: usize,
        n_matrices: usize,
    ) -> [Matrix; N] {
        let tensor = self.tensor(part, [n_in, rows.iter().sum(), n_matrices], false, true);
        let mut first = 0;
        let pieces = rows.map(|group| {
            first += group;
            Piece { tensor, first: first - group, group, stride: group, n_groups: 1 }
        });
        self.stack_of(pieces, n_in, n_matrices)
    }

    /// A stack of pieces that say where their rows are.
    pub fn stack_of<const N: usize>(&mut self, pieces: [Piece; N], n_in: usize, n_matrices: usize) -> [Matrix; N] {
        let stack = StackId(self.figure.stacks.len());
        let mut start = 0;
        let matrices = pieces.map(|piece| {
            start += piece.n_rows();
            Matrix { stack, rows: start - piece.n_rows()..start }
        });
        self.figure.stacks.push(Stack { pieces: pieces.to_vec(), n_in, n_out: start, n_matrices });
        matrices
    }

    /// A tensor of the file whose rows several pieces share.
    pub fn rows_of(&mut self, part: &str, n_in: usize, rows: usize) -> TensorId {
        self.tensor(part, [n_in, rows, 1], false, true)
    }

    /// The matrix `name`, or the embedding where the file ties the two.
    pub fn output(&mut self, name: &str, embedding: &Matrix) -> Matrix {
        if !self.has(name) {
            return embedding.clone();
        }
        let Stack { n_in, n_out, .. } = self.figure.stacks[embedding.stack.0];
        let [output] = self.stack([(name, n_out)], n_in);
        let tensor = self.figure.stacks[output.stack.0].pieces[0].tensor;
        self.figure.tensors[tensor.0].required = false;
        output
    }

    /// A kind of rotation.
    pub fn rope(&mut self, rope: super::Rope) -> RopeId {
        self.figure.ropes.push(rope);
        RopeId(self.figure.ropes.len() - 1)
    }

    /// A cache.
    pub fn cache(&mut self, cache: Cache) -> CacheId {
        self.figure.caches.push(cache);
        CacheId(self.figure.caches.len() - 1)
    }

    /// A state.
    pub fn state(&mut self, n: usize) -> StateId {
        self.figure.states.push(State { n });
        StateId(self.figure.states.len() - 1)
    }

    /// llama.cpp's name: with the layer's number, but where the stem begins with a dot, and with a count where it had one before.
    fn trace_name(&mut self, stem: &str) -> String {
        let base = match (self.layer, stem.strip_prefix('.')) {
            (_, Some(stem)) => stem.to_string(),
            (Some(layer), None) => format!("{stem}-{layer}"),
            (None, None) => stem.to_string(),
        };
        let count = self.named.entry(base.clone()).or_insert(0);
        *count += 1;
        if *count == 1 { base } else { format!("{base}.{}", *count - 1) }
    }

    /// A value; one that llama.cpp has no name for has the stem "".
    fn value(&mut self, stem: &str, shape: &[usize]) -> ValueId {
        let name = (!stem.is_empty()).then(|| self.trace_name(stem));
        self.figure.values.push(Value { name, shape: shape.to_vec() });
        ValueId(self.figure.values.len() - 1)
    }

    fn push(&mut self, stem: &str, shape: &[usize], op: Op) -> ValueId {
        let out = self.value(stem, shape);
        self.figure.nodes.push(Node { op, out, layer: self.layer });
        out
    }

    fn shape(&self, value: ValueId) -> Vec<usize> {
        self.figure.values[value.0].shape.clone()
    }

    fn alike(&mut self, stem: &str, x: ValueId, op: Op) -> ValueId {
        let shape = self.shape(x);
        self.push(stem, &shape, op)
    }

    // One method for each operation; see `Op`.

    pub(super) fn embed(&mut self, stem: &str, table: &Matrix) -> ValueId {
        let n_in = self.figure.stacks[table.stack.0].n_in;
        self.push(stem, &[n_in], Op::Embed { table: table.clone() })
    }

    pub(super) fn scale(&mut self, stem: &str, x: ValueId, factor: f32) -> ValueId {
        self.alike(stem, x, Op::Scale { x, factor })
    }

    pub(super) fn rms_norm(&mut self, stem: &str, x: ValueId, weight: Option<VectorId>, epsilon: f32) -> ValueId {
        self.alike(stem, x, Op::RmsNorm { x, weight, epsilon })
    }

    pub(super) fn layer_norm(&mut self, stem: &str, x: ValueId, weight: VectorId, epsilon: f32) -> ValueId {
        self.alike(stem, x, Op::LayerNorm { x, weight, epsilon })
    }

    pub(super) fn product(&mut self, stem: &str, x: ValueId, weight: &Matrix) -> ValueId {
        self.push(stem, &[weight.rows.len()], Op::Product { x, weight: weight.clone() })
    }

    pub(super) fn bias(&mut self, stem: &str, x: ValueId, bias: &Span) -> ValueId {
        self.alike(stem, x, Op::Bias { x, bias: bias.clone() })
    }

    pub(super) fn reshape(&mut self, stem: &str, x: ValueId, shape: &[usize]) -> ValueId {
        self.push(stem, shape, Op::Reshape { x })
    }

    pub(super) fn rotate(&mut self, stem: &str, x: ValueId, rope: RopeId) -> ValueId {
        self.alike(stem, x, Op::Rope { x, rope })
    }

    pub(super) fn temper(&mut self, stem: &str, x: ValueId, temperature: Temperature) -> ValueId {
        self.alike(stem, x, Op::Temper { x, temperature })
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn attend(
        &mut self,
        stem: &str,
        q: ValueId,
        [k, v]: [Option<ValueId>; 2],
        cache: CacheId,
        rope: Option<RopeId>,
        scale: f32,
        sinks: Option<VectorId>,
        soft_cap: Option<f32>,
    ) -> ValueId {
        let shape = &self.figure.values[q.0].shape;
        let value_dim = self.figure.caches[cache.0].value_dim.unwrap_or(shape[1]);
        let width = shape[0] * value_dim;
        let probabilities = self.trace_name("kq_soft_max");
        self.push(stem, &[width], Op::Attention { q, k, v, cache, rope, scale, sinks, soft_cap, probabilities })
    }

    pub(super) fn gate(&mut self, stem: &str, x: ValueId, gate: ValueId) -> ValueId {
        self.alike(stem, x, Op::Gate { x, gate })
    }

    pub(super) fn glu(&mut self, stem: &str, gate: ValueId, up: ValueId, glu: Glu) -> ValueId {
        self.alike(stem, gate, Op::Glu { gate, up, glu })
    }

    pub(super) fn add(&mut self, stem: &str, a: ValueId, b: ValueId) -> ValueId {
        self.alike(stem, a, Op::Add { a, b })
    }

    pub(super) fn soft_cap(&mut self, stem: &str, x: ValueId, cap: f32) -> ValueId {
        self.alike(stem, x, Op::SoftCap { x, cap })
    }

    /// The experts' numbers and their weights.
    pub(super) fn route(
        &mut self,
        logits: ValueId,
        bias: Option<VectorId>,
        scales: Option<VectorId>,
        routing: Routing,
    ) -> (ValueId, ValueId) {
        let n_used = routing.experts.n_used;
        let experts = self.value("ffn_moe_topk", &[n_used]);
        // llama.cpp names what each step makes of them; of these there is the last alone.
        let weights = match routing {
            _ if scales.is_some() => self.value("", &[n_used]),
            Routing { experts, .. } if experts.scale != 1.0 => self.value("ffn_moe_weights_scaled", &[n_used, 1]),
            Routing { scores: Scores::SoftmaxOfChosen, .. } => self.value("ffn_moe_weights_softmax", &[n_used, 1]),
            Routing { experts, .. } if experts.normalise => self.value("ffn_moe_weights_norm", &[n_used]),
            _ => self.value("ffn_moe_weights", &[n_used, 1]),
        };
        let op = Op::Route { logits, bias, scales, routing, weights };
        self.figure.nodes.push(Node { op, out: experts, layer: self.layer });
        (experts, weights)
    }

    pub(super) fn every(&mut self, n: usize) -> ValueId {
        self.push("", &[n], Op::Every { n })
    }

    pub(super) fn expert_product(&mut self, stem: &str, x: ValueId, weight: &Matrix, experts: ValueId) -> ValueId {
        let n_used = self.figure.values[experts.0].width();
        self.push(stem, &[n_used, weight.rows.len()], Op::ExpertProduct { x, weight: weight.clone(), experts })
    }

    pub(super) fn expert_bias(&mut self, stem: &str, x: ValueId, bias: VectorId, experts: ValueId) -> ValueId {
        self.alike(stem, x, Op::ExpertBias { x, bias, experts })
    }

    pub(super) fn combine(&mut self, stem: &str, x: ValueId, weights: ValueId) -> ValueId {
        let row = self.figure.values[x.0].row();
        self.push(stem, &[row], Op::Combine { x, weights })
    }

    pub(super) fn convolve(
        &mut self,
        stem: &str,
        x: ValueId,
        weight: VectorId,
        kernel: usize,
        state: StateId,
    ) -> ValueId {
        self.alike(stem, x, Op::Convolve { x, weight, kernel, state })
    }

    pub(super) fn unit_heads(&mut self, x: ValueId, [n_key_heads, head_dim]: [usize; 2], epsilon: f32) -> ValueId {
        self.alike("", x, Op::UnitHeads { x, n_key_heads, head_dim, epsilon })
    }

    pub(super) fn part(&mut self, stem: &str, x: ValueId, first: usize, shape: &[usize]) -> ValueId {
        self.push(stem, shape, Op::Part { x, first })
    }

    pub(super) fn columns(&mut self, stem: &str, x: ValueId, columns: std::ops::Range<usize>) -> ValueId {
        let mut shape = self.shape(x);
        *shape.last_mut().expect("a value has a dimension") = columns.len();
        self.push(stem, &shape, Op::Columns { x, first: columns.start })
    }

    pub(super) fn join(&mut self, stem: &str, a: ValueId, b: ValueId) -> ValueId {
        let (mut shape, row) = (self.shape(a), self.figure.values[b.0].row());
        *shape.last_mut().expect("a value has a dimension") += row;
        self.push(stem, &shape, Op::Join { a, b })
    }

    /// How much is kept, and how strongly is written.
    pub(super) fn delta_gates(&mut self, beta: ValueId, alpha: ValueId, bias: VectorId, a: VectorId) -> [ValueId; 2] {
        let n = self.figure.values[beta.0].width();
        let strength = self.value("beta_sigmoid", &[n, 1]);
        [self.push("", &[n], Op::DeltaGates { beta, alpha, bias, a, strength }), strength]
    }

    pub(super) fn delta_rule(&mut self, stem: &str, shape: [usize; 2], op: Op) -> ValueId {
        self.push(stem, &shape, op)
    }

    pub(super) fn gated_norm(
        &mut self,
        stem: &str,
        x: ValueId,
        gate: ValueId,
        weight: VectorId,
        epsilon: f32,
    ) -> ValueId {
        let width = self.figure.values[x.0].width();
        self.push(stem, &[width], Op::GatedNorm { x, gate, weight, epsilon })
    }
}
