//! The forward pass, on the CPU, to be trusted.
//!
//! [`Reference::forward`] carries out a model's [`Figure`] an operation at a time, a whole prompt or a single token: what comes in which
//! order is written there. Here stands what each operation *is*, as its paper writes it down. Weights stay packed and are unpacked a row at a
//! time; values are single precision; every sum runs in double precision, so what comes out is the model's own arithmetic, with rounding
//! only where a value is stored. It is the oracle of the tests, of `ferrowarp verify` and of `ferrowarp trace --reference`. It is not fast.
//!
//! Shapes: `T` tokens of this pass, `D` values of a head; the last dimension is contiguous.

mod attention;
mod delta_rule;
mod operations;

use crate::model::{
    Figure, Model, RopeTable,
    figure::{Node, Op, Span, ValueId, VectorId},
};
use crate::quant::dequantise;
use crate::trace::Recorder;
use attention::Cache;
use operations::{add, embed, expert_products, layer_norm, matmul, rms_norm, rotate, route, unit_rows};

/// A model and what it keeps of the tokens it has seen.
pub struct Reference<'a> {
    model: &'a Model<'a>,
    ropes: Vec<RopeTable>,
    /// One for each layer of attention.
    caches: Vec<Cache>,
    /// What recurrent layers carry on.
    states: Vec<Vec<f32>>,
    /// How many tokens there were.
    position: usize,
}

/// Why tokens cannot be run.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum ReferenceError {
    /// A token is not in the vocabulary.
    #[error(
        "token {token}: found an id past the vocabulary, expected 0 to {last}; use the ids of this model's tokenizer"
    )]
    Token {
        /// The token.
        token: u32,
        /// The largest valid one.
        last: usize,
    },
    /// The tokens do not fit.
    #[error("prompt: found {needed} tokens, expected at most the model's context of {context}; shorten the prompt")]
    Context {
        /// Positions needed.
        needed: usize,
        /// Positions there are.
        context: usize,
    },
}

impl<'a> Reference<'a> {
    /// A model that has seen nothing.
    pub fn new(model: &'a Model<'a>) -> Reference<'a> {
        let figure = &model.figure;
        Reference {
            model,
            ropes: figure.ropes.iter().map(|rope| rope.table(model.config.context_length)).collect(),
            caches: figure.caches.iter().map(|shape| Cache::new(*shape)).collect(),
            states: figure.states.iter().map(|state| vec![0.0; state.n]).collect(),
            position: 0,
        }
    }

    /// Forgets all tokens.
    pub fn reset(&mut self) {
        *self = Reference::new(self.model);
    }

    /// How many tokens the model has seen since it was made or reset.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Runs `tokens` after those already seen and returns the logits of each: `[T, vocab_size]`. Every value goes to `record`.
    ///
    /// # Errors
    /// A token is not in the vocabulary, or there are more than the context holds. Nothing has happened then.
    pub fn forward(&mut self, tokens: &[u32], record: &mut Recorder) -> Result<Vec<f32>, ReferenceError> {
        self.check(tokens)?;
        if tokens.is_empty() {
            return Ok(Vec::new());
        }
        let figure = &self.model.figure;
        let positions: Vec<usize> = (self.position..self.position + tokens.len()).collect(); // [T]
        let mut values: Vec<Vec<f32>> = vec![Vec::new(); figure.values.len()];
        let mut last_read = figure.last_reads();
        for (index, node) in figure.nodes.iter().enumerate() {
            let out = self.carry_out(node, &mut values, tokens, &positions, record);
            values[node.out.0] = out;
            for made in [Some(node.out), node.op.second_output()].into_iter().flatten() {
                record_value(figure, made, &values[made.0], tokens.len(), record);
            }
            for value in last_read.remove(&index).unwrap_or_default() {
                values[value.0] = Vec::new();
            }
        }
        self.position += tokens.len();
        Ok(std::mem::take(&mut values[figure.logits.0]))
    }

    /// One operation: what its definition ([`Op`]) says, on the values it reads.
    fn carry_out(
        &mut self,
        node: &Node,
        values: &mut [Vec<f32>],
        tokens: &[u32],
        positions: &[usize],
        record: &mut Recorder,
    ) -> Vec<f32> {
        let (model, figure) = (self.model, &self.model.figure);
        let row = |id: ValueId| figure.value(id).row();
        let get = |id: ValueId| &values[id.0][..];
        let out = node.out;
        match &node.op {
            Op::Embed { table } => embed(model, table, tokens),
            Op::Scale { x, factor } => get(*x).iter().map(|x| x * factor).collect(),
            Op::RmsNorm { x, weight, epsilon } => match weight {
                Some(weight) => rms_norm(get(*x), &self.vector(*weight), *epsilon),
                None => rms_norm(get(*x), &vec![1.0; row(*x)], *epsilon),
            },
            Op::LayerNorm { x, weight, epsilon } => layer_norm(get(*x), &self.vector(*weight), *epsilon),
            Op::Product { x, weight } => matmul(model, weight, 0, get(*x)),
            Op::Bias { x, bias } => {
                let bias = self.span(bias);
                let rows = get(*x).chunks_exact(bias.len());
                rows.flat_map(|row| row.iter().zip(&bias).map(|(x, b)| x + b)).collect()
            }
            Op::Reshape { x } => get(*x).to_vec(),
            Op::Rope { x, rope } => {
                let shape = &figure.value(*x).shape;
                rotate(get(*x), shape[0], shape[1], positions, &self.ropes[rope.0], figure.ropes[rope.0].pairing)
            }
            Op::Temper { x, temperature } => {
                let width = figure.value(*x).width();
                let rows = get(*x).chunks_exact(width).zip(positions);
                rows.flat_map(|(row, position)| {
                    let growth = (*position / temperature.length + 1) as f64;
                    let factor = 1.0 + f64::from(temperature.scale) * growth.ln();
                    row.iter().map(move |x| (f64::from(*x) * factor) as f32)
                })
                .collect()
            }
            Op::Attention { q, k, v, cache, scale, sinks, soft_cap, probabilities, .. } => {
                let sinks = sinks.map(|sinks| self.vector(sinks));
                let cache = &mut self.caches[cache.0];
                if let Some(k) = k {
                    cache.append(get(*k), v.map(get));
                }
                cache.attend(get(*q), positions, *scale, sinks.as_deref(), *soft_cap, probabilities, record)
            }
            Op::Gate { x, gate } => {
                let share = figure.value(*x).width() / figure.value(*gate).width();
                let gates = get(*gate).iter().flat_map(|gate| std::iter::repeat_n(sigmoid(*gate), share));
                get(*x).iter().zip(gates).map(|(x, gate)| (f64::from(*x) * gate) as f32).collect()
            }
            Op::Glu { gate, up, glu } => {
                let pairs = get(*gate).iter().zip(get(*up));
                pairs.map(|(gate, up)| glu.apply(f64::from(*gate), f64::from(*up)) as f32).collect()
            }
            Op::Add { a, b } => add(get(*a), get(*b)),
            Op::SoftCap { x, cap } => {
                let cap = f64::from(*cap);
                get(*x).iter().map(|x| (cap * (f64::from(*x) / cap).tanh()) as f32).collect()
            }
            Op::Route { logits, bias, scales, routing, weights } => {
                let [bias, scales] = [bias, scales].map(|vector| vector.map(|vector| self.vector(vector)));
                let (experts, mut shares) = route(*routing, get(*logits), bias.as_deref());
                for (share, expert) in shares.iter_mut().zip(&experts) {
                    *share *= scales.as_ref().map_or(1.0, |scales| scales[*expert as usize]);
                }
                values[weights.0] = shares;
                experts
            }
            Op::Every { n } => (0..tokens.len()).flat_map(|_| (0..*n).map(|i| i as f32)).collect(),
            Op::ExpertProduct { x, weight, experts } => {
                expert_products(model, weight, get(*x), get(*experts), figure.value(*experts).width())
            }
            Op::ExpertBias { x, bias, experts } => {
                let (n, bias) = (row(*x), self.vector(*bias)); // [experts, n]
                let rows = get(*x).chunks_exact(n).zip(get(*experts));
                rows.flat_map(|(x, expert)| add(x, &bias[*expert as usize * n..][..n])).collect()
            }
            Op::Combine { x, weights } => {
                let (n, used) = (row(*x), figure.value(*weights).width());
                let rows = get(*x).chunks_exact(used * n).zip(get(*weights).chunks_exact(used));
                let sum = |i: usize, x: &[f32], weights: &[f32]| -> f32 {
                    let parts = weights.iter().enumerate().map(|(slot, w)| f64::from(*w) * f64::from(x[slot * n + i]));
                    parts.sum::<f64>() as f32
                };
                rows.flat_map(|(x, weights)| (0..n).map(move |i| sum(i, x, weights))).collect()
            }
            Op::Convolve { x, weight, kernel, state } => {
                let weight = self.vector(*weight);
                delta_rule::convolve(get(*x), &weight, *kernel, &mut self.states[state.0])
            }
            Op::UnitHeads { x, n_key_heads, head_dim, epsilon } => {
                let key_len = n_key_heads * head_dim;
                let rows = get(*x).chunks_exact(figure.value(*x).width()).flat_map(|row| {
                    let (q, k) = (&row[..key_len], &row[key_len..2 * key_len]);
                    let q = unit_rows(q, *head_dim, *epsilon, (*head_dim as f64).sqrt().recip());
                    [q, unit_rows(k, *head_dim, *epsilon, 1.0), row[2 * key_len..].to_vec()].concat()
                });
                rows.collect()
            }
            Op::Part { x, first } => {
                let rows = get(*x).chunks_exact(figure.value(*x).width());
                rows.flat_map(|row| &row[*first..first + figure.value(out).width()]).copied().collect()
            }
            Op::Columns { x, first } => {
                let columns = *first..first + row(out);
                get(*x).chunks_exact(row(*x)).flat_map(|row| &row[columns.clone()]).copied().collect()
            }
            Op::Join { a, b } => {
                let rows = get(*a).chunks_exact(row(*a)).zip(get(*b).chunks_exact(row(*b)));
                rows.flat_map(|(a, b)| a.iter().chain(b)).copied().collect()
            }
            Op::DeltaGates { beta, alpha, bias, a, strength } => {
                let (bias, a) = (self.vector(*bias), self.vector(*a));
                // ln(1 + eˣ) without overflow.
                let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
                let heads = get(*alpha).iter().zip(bias.iter().zip(&a).cycle());
                let keep = heads.map(|(alpha, (bias, a))| {
                    (f64::from(*a) * softplus(f64::from(*alpha) + f64::from(*bias))).exp() as f32
                });
                let keep = keep.collect();
                values[strength.0] = get(*beta).iter().map(|beta| sigmoid(*beta) as f32).collect();
                keep
            }
            Op::DeltaRule { qkv, n_key_heads, strength, keep, state, grouped } => {
                let [qkv, strength, keep] = [*qkv, *strength, *keep].map(get);
                let shape = &figure.value(out).shape;
                let heads =
                    delta_rule::Heads { keys: *n_key_heads, values: shape[0], dim: shape[1], grouped: *grouped };
                delta_rule::delta_rule(heads, qkv, strength, keep, &mut self.states[state.0])
            }
            Op::GatedNorm { x, gate, weight, epsilon } => {
                let normed = rms_norm(get(*x), &self.vector(*weight), *epsilon);
                let silu = |x: f32| f64::from(x) * sigmoid(x);
                normed.iter().zip(get(*gate)).map(|(x, z)| (f64::from(*x) * silu(*z)) as f32).collect()
            }
        }
    }

    /// A vector, as numbers.
    fn vector(&self, id: VectorId) -> Vec<f32> {
        let pieces = self.model.figure.vector(id).pieces.iter();
        let values = pieces.flat_map(|&(len, tensor)| {
            let mut out = vec![0.0; len];
            if let Some(tensor) = tensor {
                let view = self.model.view(tensor);
                dequantise(view.tensor_type, view.data, &mut out);
            }
            out
        });
        values.collect()
    }

    fn span(&self, span: &Span) -> Vec<f32> {
        self.vector(span.vector)[span.range.clone()].to_vec()
    }

    fn check(&self, tokens: &[u32]) -> Result<(), ReferenceError> {
        let (vocab_size, context_length) = (self.model.config.vocab_size, self.model.config.context_length);
        if let Some(token) = tokens.iter().find(|t| **t as usize >= vocab_size) {
            return Err(ReferenceError::Token { token: *token, last: vocab_size - 1 });
        }
        let needed = self.position + tokens.len();
        if needed > context_length {
            return Err(ReferenceError::Context { needed, context: context_length });
        }
        Ok(())
    }
}

fn record_value(figure: &Figure, id: ValueId, values: &[f32], n_tokens: usize, record: &mut Recorder) {
    let value = figure.value(id);
    if let Some(name) = &value.name {
        let shape: Vec<usize> = [n_tokens].into_iter().chain(value.shape.iter().copied()).collect();
        record.record(name, &shape, values);
    }
}

fn sigmoid(x: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(x)).exp())
}
