//! Attention and the keys and values that it keeps.

use rayon::prelude::*;

use super::operations::{dot, softmax};
use crate::{
    model::figure::Cache as Shape,
    trace::{POSITION_PADDING, Recorder},
};

/// One layer's keys and values: for each key/value head `[position, D]`.
#[derive(Clone)]
pub(super) struct Cache {
    shape: Shape,
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

impl Cache {
    pub(super) fn new(shape: Shape) -> Cache {
        let empty = vec![Vec::new(); shape.n_kv_heads];
        Cache { shape, keys: empty.clone(), values: empty }
    }

    /// Adds the keys and values of new tokens, both `[T, n_kv_heads, D]`; without values these are the first of the keys'.
    pub(super) fn append(&mut self, k: &[f32], v: Option<&[f32]>) {
        let Shape { n_kv_heads, head_dim, .. } = self.shape;
        let value_dim = self.value_dim();
        for (i, k) in k.chunks_exact(head_dim).enumerate() {
            let v = v.map_or(&k[..value_dim], |v| &v[i * head_dim..][..head_dim]);
            self.keys[i % n_kv_heads].extend_from_slice(k);
            self.values[i % n_kv_heads].extend_from_slice(v);
        }
    }

    fn value_dim(&self) -> usize {
        self.shape.value_dim.unwrap_or(self.shape.head_dim)
    }

    /// Causal grouped-query attention (arXiv 1706.03762, 2305.13245): from queries `[T, n_heads, D]` to averages of values.
    ///
    /// Query head `h` reads key/value head `h / (n_heads / n_kv_heads)`. A token sees itself and what came before, within the window if
    /// there is one.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn attend(
        &self,
        q: &[f32],
        positions: &[usize],
        scale: f32,
        sinks: Option<&[f32]>,
        soft_cap: Option<f32>,
        name: &str,
        record: &mut Recorder,
    ) -> Vec<f32> {
        let Shape { n_kv_heads, head_dim, window: size, .. } = self.shape;
        let n_heads = q.len() / (positions.len() * head_dim);
        let value_dim = self.value_dim();
        let mut out = vec![0.0; positions.len() * n_heads * value_dim]; // [T, n_heads, D of values]
        let heads = out.par_chunks_exact_mut(value_dim).zip(q.par_chunks_exact(head_dim));
        let probabilities: Vec<Vec<f64>> = heads
            .enumerate()
            .map(|(i, (out, q))| {
                let (t, h) = (i / n_heads, i % n_heads);
                let kv_head = h / (n_heads / n_kv_heads);
                let seen = window(positions[t], size);
                let rows = |row: usize| seen.start * row..seen.end * row;
                let keys = self.keys[kv_head][rows(head_dim)].chunks_exact(head_dim); // [seen, D]
                let values = self.values[kv_head][rows(value_dim)].chunks_exact(value_dim); // [seen, D of values]

                let capped =
                    |score: f64| soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh());
                let mut scores: Vec<f64> = keys.map(|k| capped(dot(q, k) * f64::from(scale))).collect();
                // A sink takes its share of the softmax, and has no value.
                scores.extend(sinks.map(|sinks| f64::from(sinks[h])));
                let mut probabilities = softmax(&scores); // [seen], and the sink's
                probabilities.truncate(seen.len());
                let mut sums = vec![0.0; value_dim];
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
            .collect(); // [T, n_heads, seen]

        if record.is_on() {
            let (t, end) = (positions.len(), positions.last().map_or(0, |last| last + 1));
            let padded = end.next_multiple_of(POSITION_PADDING);
            let mut table = vec![0.0; n_heads * t * padded]; // [n_heads, T, padded]
            for (i, probabilities) in probabilities.iter().enumerate() {
                let (t_i, h) = (i / n_heads, i % n_heads);
                let start = (h * t + t_i) * padded + window(positions[t_i], size).start;
                for (cell, probability) in table[start..].iter_mut().zip(probabilities) {
                    *cell = *probability as f32;
                }
            }
            record.record(name, &[n_heads, t, padded], &table);
        }
        out
    }
}

/// The positions that the token at `position` sees: itself and those before it, `size` in all where there is a window.
fn window(position: usize, size: Option<usize>) -> std::ops::Range<usize> {
    let end = position + 1;
    size.map_or(0, |size| end.saturating_sub(size))..end
}
