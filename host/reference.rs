//! The forward pass, on the CPU, to be read and to be trusted.
//!
//! One function, [`Reference::forward`], computes a transformer decoder the way its papers write it down, a whole prompt or a single
//! token at a time. Weights stay packed and are unpacked a row at a time; activations are single precision; every sum runs in double
//! precision, so what comes out is the model's own arithmetic, with rounding only where a value is stored. It is the oracle of the
//! tests, of `ferrowarp verify` and of `ferrowarp trace --reference`. It is not fast.
//!
//! Shapes stand beside each line: `T` tokens of this pass, `E` n_embd, `H` query heads, `G` key/value heads, `D` head_dim, `F` n_ff,
//! `V` vocabulary. The last dimension is contiguous.

use rayon::prelude::*;

use crate::model::{Config, Experts, LayerWeights, ModelWeights, RopePairing, RopeTable, WeightView};
use crate::quant::dequantise;
use crate::trace::{POSITION_PADDING, Recorder};

/// A model and the keys and values of the tokens it has seen.
pub struct Reference<'a> {
    config: &'a Config,
    weights: ModelWeights<'a>,
    rope: RopeTable,
    /// One for each layer.
    cache: Vec<Cache>,
    /// How many tokens the cache holds.
    position: usize,
}

/// One layer's keys and values: for each key/value head `[position, D]`.
#[derive(Clone)]
struct Cache {
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
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
    /// A model with an empty cache.
    pub fn new(config: &'a Config, weights: ModelWeights<'a>) -> Reference<'a> {
        let empty = vec![Vec::new(); config.n_kv_heads];
        let cache = vec![Cache { keys: empty.clone(), values: empty }; config.n_layers];
        Reference { config, weights, rope: config.rope.table(), cache, position: 0 }
    }

    /// Forgets all tokens.
    pub fn reset(&mut self) {
        *self = Reference::new(self.config, self.weights.clone());
    }

    /// How many tokens the model has seen since it was made or reset.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Runs `tokens` after those already seen and returns the logits of each: `[T, V]`. Every intermediate goes to `record`.
    ///
    /// # Errors
    /// A token is not in the vocabulary, or there are more than the context holds. Nothing has happened then.
    pub fn forward(&mut self, tokens: &[u32], record: &mut Recorder) -> Result<Vec<f32>, ReferenceError> {
        self.check(tokens)?;
        if tokens.is_empty() {
            return Ok(Vec::new());
        }
        let Config { n_embd, n_heads, n_kv_heads, head_dim, .. } = *self.config;
        let (config, weights) = (self.config, &self.weights);
        let t = tokens.len();
        let positions: Vec<usize> = (self.position..self.position + t).collect(); // [T]

        let mut x = embed(&weights.token_embd, tokens); // [T, E], the residual stream
        record.model("inp_embd", &[t, n_embd], &x);

        for (il, (layer, cache)) in weights.layers.iter().zip(&mut self.cache).enumerate() {
            // Attention.
            let h = rms_norm(&x, &layer.attn_norm, config.rms_epsilon); // [T, E]
            record.layer("attn_norm", il, &[t, n_embd], &h);

            let mut project = |name: &str, weight: &WeightView, bias: &Option<WeightView>| {
                let mut y = matmul(weight, &h); // [T, heads·D]
                record.layer(name, il, &[t, weight.rows], &y);
                if let Some(bias) = bias {
                    add_to_rows(&mut y, &vector(bias));
                    record.layer(name, il, &[t, weight.rows], &y);
                }
                record.layer(name, il, &[t, weight.rows / head_dim, head_dim], &y);
                y
            };
            let mut q = project("Qcur", &layer.attn_q, &layer.attn_q_bias); // [T, H, D]
            let mut k = project("Kcur", &layer.attn_k, &layer.attn_k_bias); // [T, G, D]
            let v = project("Vcur", &layer.attn_v, &layer.attn_v_bias); // [T, G, D]

            if let Some(norm) = &layer.attn_q_norm {
                q = rms_norm(&q, norm, config.rms_epsilon); // each head is a row of D
                record.layer("Qcur_normed", il, &[t, n_heads, head_dim], &q);
            }
            if let Some(norm) = &layer.attn_k_norm {
                k = rms_norm(&k, norm, config.rms_epsilon);
                record.layer("Kcur_normed", il, &[t, n_kv_heads, head_dim], &k);
            }
            rotate(&mut q, n_heads, head_dim, &positions, &self.rope, config.rope.pairing);
            record.layer("Qcur", il, &[t, n_heads, head_dim], &q);
            rotate(&mut k, n_kv_heads, head_dim, &positions, &self.rope, config.rope.pairing);
            record.layer("Kcur", il, &[t, n_kv_heads, head_dim], &k);

            cache.append(&k, &v, head_dim);
            let a = attention(&q, cache, &positions, config, il, record); // [T, H·D]
            record.layer("kqv_out", il, &[t, n_heads * head_dim], &a);

            let mut a = matmul(&layer.attn_output, &a); // [T, E]
            if let Some(bias) = &layer.attn_output_bias {
                add_to_rows(&mut a, &vector(bias));
            }
            record.layer("attn_out", il, &[t, n_embd], &a);
            add(&mut x, &a); // [T, E]
            record.layer("ffn_inp", il, &[t, n_embd], &x);

            // Feed-forward.
            let h = rms_norm(&x, &layer.ffn_norm, config.rms_epsilon); // [T, E]
            record.layer("ffn_norm", il, &[t, n_embd], &h);
            let f = match (&config.experts, &layer.ffn_gate_inp) {
                (Some(experts), Some(router)) => mixture(experts, router, layer, &h, il, record),
                _ => swiglu(layer, &h, il, record),
            }; // [T, E]
            add(&mut x, &f); // [T, E]
            record.layer("l_out", il, &[t, n_embd], &x);
        }

        let x = rms_norm(&x, &weights.output_norm, config.rms_epsilon); // [T, E]
        record.model("result_norm", &[t, n_embd], &x);
        let logits = matmul(&weights.output, &x); // [T, V]
        record.model("result_output", &[t, config.vocab_size], &logits);
        self.position += t;
        Ok(logits)
    }

    fn check(&self, tokens: &[u32]) -> Result<(), ReferenceError> {
        let Config { vocab_size, context_length, .. } = *self.config;
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

impl Cache {
    /// Adds the keys and values of new tokens, both `[T, G, D]`.
    fn append(&mut self, k: &[f32], v: &[f32], head_dim: usize) {
        let n_kv_heads = self.keys.len();
        for (i, (k, v)) in k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim)).enumerate() {
            self.keys[i % n_kv_heads].extend_from_slice(k);
            self.values[i % n_kv_heads].extend_from_slice(v);
        }
    }
}

/// Rows of the embedding: `[T, E]`.
fn embed(table: &WeightView, tokens: &[u32]) -> Vec<f32> {
    let mut out = vec![0.0; tokens.len() * table.cols];
    for (token, out) in tokens.iter().zip(out.chunks_exact_mut(table.cols)) {
        dequantise(table.tensor_type, table.row(*token as usize), out);
    }
    out
}

/// `y[t, r] = Σ_c w[r, c] · x[t, c]`: from `[T, cols]` to `[T, rows]`. Threads share the rows, and each row is unpacked once.
fn matmul(w: &WeightView, x: &[f32]) -> Vec<f32> {
    let tokens = x.len() / w.cols;
    let mut by_row = vec![0.0; w.rows * tokens]; // [rows, T]
    by_row.par_chunks_mut(tokens).enumerate().for_each_init(
        || vec![0.0; w.cols],
        |row, (r, out)| {
            dequantise(w.tensor_type, w.row(r), row);
            for (out, x) in out.iter_mut().zip(x.chunks_exact(w.cols)) {
                *out = dot(row, x) as f32;
            }
        },
    );
    let mut y = vec![0.0; by_row.len()]; // [T, rows]
    for (r, row) in by_row.chunks_exact(tokens).enumerate() {
        for (t, value) in row.iter().enumerate() {
            y[t * w.rows + r] = *value;
        }
    }
    y
}

/// Scalar product in double precision. Eight sums run beside each other, because one addition must wait for the one before.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let (a_rest, b_rest) = (a_chunks.remainder(), b_chunks.remainder());
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..8 {
            sums[i] += f64::from(a[i]) * f64::from(b[i]);
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    sums.iter().sum::<f64>() + rest
}

/// A norm's weights or a bias, as numbers.
fn vector(view: &WeightView) -> Vec<f32> {
    let mut out = vec![0.0; view.elements()];
    dequantise(view.tensor_type, view.data, &mut out);
    out
}

/// `y = x / √(mean(x²) + ε) · w` over each row of `w.cols` values (arXiv 1910.07467).
fn rms_norm(x: &[f32], w: &WeightView, epsilon: f32) -> Vec<f32> {
    let w = vector(w);
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(w.len()) {
        let mean = dot(row, row) / row.len() as f64;
        let scale = 1.0 / (mean + f64::from(epsilon)).sqrt();
        out.extend(row.iter().zip(&w).map(|(x, w)| (f64::from(*x) * scale * f64::from(*w)) as f32));
    }
    out
}

fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

fn add_to_rows(x: &mut [f32], bias: &[f32]) {
    for row in x.chunks_exact_mut(bias.len()) {
        add(row, bias);
    }
}

/// RoPE, in place, on `[T, heads, D]`: each pair of values turns by its position's angle.
fn rotate(x: &mut [f32], heads: usize, head_dim: usize, positions: &[usize], rope: &RopeTable, pairing: RopePairing) {
    let n_rot = rope.frequencies.len() * 2;
    for (token, position) in x.chunks_exact_mut(heads * head_dim).zip(positions) {
        let angles: Vec<(f32, f32)> = rope.cos_sin(*position).collect();
        for head in token.chunks_exact_mut(head_dim) {
            for (i, (cos, sin)) in angles.iter().enumerate() {
                let (a, b) = pairing.indices(i, n_rot);
                (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
            }
        }
    }
}

/// Causal grouped-query attention (arXiv 1706.03762, 2305.13245): from queries `[T, H, D]` to `[T, H·D]`.
///
/// Query head `h` reads key/value head `h / (H/G)`. A token sees itself and what came before, within the window if there is one.
fn attention(
    q: &[f32],
    cache: &Cache,
    positions: &[usize],
    config: &Config,
    il: usize,
    record: &mut Recorder,
) -> Vec<f32> {
    let Config { n_heads, n_kv_heads, head_dim, sliding_window, attention_scale, .. } = *config;
    let mut out = vec![0.0; q.len()]; // [T, H, D]
    let heads = out.par_chunks_exact_mut(head_dim).zip(q.par_chunks_exact(head_dim));
    let probabilities: Vec<Vec<f64>> = heads
        .enumerate()
        .map(|(i, (out, q))| {
            let (t, h) = (i / n_heads, i % n_heads);
            let kv_head = h / (n_heads / n_kv_heads);
            let seen = window(positions[t], sliding_window);
            let rows = seen.start * head_dim..seen.end * head_dim;
            let keys = cache.keys[kv_head][rows.clone()].chunks_exact(head_dim); // [seen, D]
            let values = cache.values[kv_head][rows].chunks_exact(head_dim); // [seen, D]

            let scores: Vec<f64> = keys.map(|k| dot(q, k) * f64::from(attention_scale)).collect();
            let probabilities = softmax(&scores); // [seen]
            let mut sums = vec![0.0; head_dim];
            for (probability, v) in probabilities.iter().zip(values) {
                for (sum, v) in sums.iter_mut().zip(v) {
                    *sum += probability * f64::from(*v);
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum as f32;
            }
            probabilities
        })
        .collect(); // [T, H, seen]

    if record.is_on() {
        let (t, end) = (positions.len(), positions.last().map_or(0, |last| last + 1));
        let padded = end.next_multiple_of(POSITION_PADDING);
        let mut table = vec![0.0; n_heads * t * padded]; // [H, T, padded]
        for (i, probabilities) in probabilities.iter().enumerate() {
            let (t_i, h) = (i / n_heads, i % n_heads);
            let start = (h * t + t_i) * padded + window(positions[t_i], sliding_window).start;
            for (cell, probability) in table[start..].iter_mut().zip(probabilities) {
                *cell = *probability as f32;
            }
        }
        record.layer("kq_soft_max", il, &[n_heads, t, padded], &table);
    }
    out
}

/// The positions that the token at `position` sees: itself and those before it, `size` in all where there is a window.
fn window(position: usize, size: Option<usize>) -> std::ops::Range<usize> {
    let end = position + 1;
    size.map_or(0, |size| end.saturating_sub(size))..end
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

/// `silu(gate) · up` (arXiv 2002.05202).
fn gated(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let silu = |x: f64| x / (1.0 + (-x).exp());
    gate.iter().zip(up).map(|(g, u)| (silu(f64::from(*g)) * f64::from(*u)) as f32).collect()
}

/// The feed-forward network: `[T, E]` to `[T, E]` by way of `[T, F]`.
fn swiglu(layer: &LayerWeights, h: &[f32], il: usize, record: &mut Recorder) -> Vec<f32> {
    let t = h.len() / layer.ffn_gate.cols;
    let (n_ff, n_embd) = (layer.ffn_gate.rows, layer.ffn_down.rows);
    let up = matmul(&layer.ffn_up, h); // [T, F]
    record.layer("ffn_up", il, &[t, n_ff], &up);
    let gate = matmul(&layer.ffn_gate, h); // [T, F]
    record.layer("ffn_gate", il, &[t, n_ff], &gate);
    let g = gated(&gate, &up); // [T, F]
    record.layer("ffn_swiglu", il, &[t, n_ff], &g);
    let out = matmul(&layer.ffn_down, &g); // [T, E]
    record.layer("ffn_out", il, &[t, n_embd], &out);
    out
}

/// A mixture of experts (arXiv 2401.04088): each token goes through the `n_used` feed-forward networks that the router scores highest,
/// and their results are summed by the router's probabilities. `[T, E]` to `[T, E]`.
fn mixture(
    experts: &Experts,
    router: &WeightView,
    layer: &LayerWeights,
    h: &[f32],
    il: usize,
    record: &mut Recorder,
) -> Vec<f32> {
    let Experts { n_experts, n_used, normalise, scale } = *experts;
    let n_embd = layer.ffn_down.rows;
    let t = h.len() / n_embd;
    let logits = matmul(router, h); // [T, experts]
    record.layer("ffn_moe_logits", il, &[t, n_experts], &logits);

    let mut chosen: Vec<Vec<(usize, f64)>> = vec![Vec::new(); n_experts]; // for each expert: token, weight
    let (mut ids, mut shares) = (Vec::new(), Vec::new()); // [T, used], for the trace
    for (token, logits) in logits.chunks_exact(n_experts).enumerate() {
        let logits: Vec<f64> = logits.iter().map(|l| f64::from(*l)).collect();
        let probabilities = softmax(&logits);
        let mut ranked: Vec<usize> = (0..n_experts).collect();
        ranked.sort_by(|a, b| probabilities[*b].total_cmp(&probabilities[*a]));
        ranked.truncate(n_used);
        let sum: f64 = ranked.iter().map(|e| probabilities[*e]).sum();
        for expert in ranked {
            let share = probabilities[expert] / if normalise { sum } else { 1.0 } * f64::from(scale);
            chosen[expert].push((token, share));
            ids.push(expert as f32);
            shares.push(share as f32);
        }
    }
    record.layer("ffn_moe_topk", il, &[t, n_used], &ids);
    record.layer("ffn_moe_weights", il, &[t, n_used], &shares);

    let mut sums = vec![0.0f64; t * n_embd]; // [T, E]
    for (expert, tokens) in chosen.iter().enumerate().filter(|(_, tokens)| !tokens.is_empty()) {
        let h: Vec<f32> = tokens.iter().flat_map(|(t, _)| &h[t * n_embd..][..n_embd]).copied().collect(); // [tokens, E]
        let up = matmul(&layer.ffn_up.matrix(expert), &h); // [tokens, F]
        let gate = matmul(&layer.ffn_gate.matrix(expert), &h); // [tokens, F]
        let out = matmul(&layer.ffn_down.matrix(expert), &gated(&gate, &up)); // [tokens, E]
        for ((t, share), out) in tokens.iter().zip(out.chunks_exact(n_embd)) {
            for (sum, out) in sums[t * n_embd..][..n_embd].iter_mut().zip(out) {
                *sum += share * f64::from(*out);
            }
        }
    }
    let out: Vec<f32> = sums.iter().map(|s| *s as f32).collect();
    record.layer("ffn_moe_out", il, &[t, n_embd], &out);
    out
}
