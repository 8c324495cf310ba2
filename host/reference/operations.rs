//! Operations on a token's values alone.

use rayon::prelude::*;

use crate::model::{Groups, Model, RopePairing, RopeTable, Routing, Scores, WeightView, figure::Matrix};
use crate::quant::dequantise;

/// Rows of the embedding: `[T, n_embd]`.
pub(super) fn embed(model: &Model, table: &Matrix, tokens: &[u32]) -> Vec<f32> {
    let rows = Rows::new(model, table, 0);
    let n_in = model.figure.stack(table.stack).n_in;
    let mut out = vec![0.0; tokens.len() * n_in];
    for (token, out) in tokens.iter().zip(out.chunks_exact_mut(n_in)) {
        rows.unpack(*token as usize, out);
    }
    out
}

/// The rows of a matrix, wherever they lie in the file.
struct Rows<'a> {
    /// For each piece the rows before it, its tensor, and how its rows are found there.
    pieces: Vec<(usize, WeightView<'a>, crate::model::figure::Piece)>,
    /// The matrix's first row in its stack.
    first: usize,
}

impl<'a> Rows<'a> {
    /// Matrix `expert` of those stacked.
    fn new(model: &Model<'a>, matrix: &Matrix, expert: usize) -> Rows<'a> {
        let mut before = 0;
        let pieces = model.figure.stack(matrix.stack).pieces.iter().map(|piece| {
            before += piece.n_rows();
            (before - piece.n_rows(), model.view(piece.tensor).matrix(expert), *piece)
        });
        Rows { pieces: pieces.collect(), first: matrix.rows.start }
    }

    fn unpack(&self, row: usize, out: &mut [f32]) {
        let row = self.first + row;
        let (before, view, piece) =
            self.pieces.iter().rev().find(|(before, ..)| *before <= row).expect("a row of the stack");
        dequantise(view.tensor_type, view.row(piece.row(row - before)), out);
    }
}

/// `y[t, r] = Σ_c w[r, c] · x[t, c]`: from `[T, cols]` to `[T, rows]`. Threads share the rows, and each row is unpacked once.
pub(super) fn matmul(model: &Model, matrix: &Matrix, expert: usize, x: &[f32]) -> Vec<f32> {
    let n_in = model.figure.stack(matrix.stack).n_in;
    let (w, n_rows, tokens) = (Rows::new(model, matrix, expert), matrix.rows.len(), x.len() / n_in);
    let mut by_row = vec![0.0; n_rows * tokens]; // [rows, T]
    by_row.par_chunks_mut(tokens).enumerate().for_each_init(
        || vec![0.0; n_in],
        |row, (r, out)| {
            w.unpack(r, row);
            for (out, x) in out.iter_mut().zip(x.chunks_exact(n_in)) {
                *out = dot(row, x) as f32;
            }
        },
    );
    let mut y = vec![0.0; by_row.len()]; // [T, rows]
    for (r, row) in by_row.chunks_exact(tokens).enumerate() {
        for (t, value) in row.iter().enumerate() {
            y[t * n_rows + r] = *value;
        }
    }
    y
}

/// Each token's vector, or one for each of its experts, times those experts' matrices: `[T, used, rows]`.
pub(super) fn expert_products(model: &Model, matrix: &Matrix, x: &[f32], experts: &[f32], used: usize) -> Vec<f32> {
    let n_in = model.figure.stack(matrix.stack).n_in;
    let n_rows = matrix.rows.len();
    // One vector for all of a token's experts, or one for each.
    let share = experts.len() * n_in / x.len();
    assert!(share == 1 || share == used, "{share} experts to a vector");
    let mut out = vec![0.0; experts.len() * n_rows];
    let n_experts = model.figure.stack(matrix.stack).n_matrices;
    for expert in 0..n_experts {
        let pairs: Vec<usize> = (0..experts.len()).filter(|pair| experts[*pair] as usize == expert).collect();
        if pairs.is_empty() {
            continue;
        }
        let x: Vec<f32> = pairs.iter().flat_map(|pair| &x[pair / share * n_in..][..n_in]).copied().collect();
        let y = matmul(model, matrix, expert, &x);
        for (pair, y) in pairs.iter().zip(y.chunks_exact(n_rows)) {
            out[pair * n_rows..][..n_rows].copy_from_slice(y);
        }
    }
    out
}

/// Scalar product in double precision. Eight sums run beside each other, because one addition must wait for the one before.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
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

/// `y = x / √(mean(x²) + ε) · w` over each row of `w.len()` values (arXiv 1910.07467).
pub(super) fn rms_norm(x: &[f32], w: &[f32], epsilon: f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(w.len()) {
        let mean = dot(row, row) / row.len() as f64;
        let scale = 1.0 / (mean + f64::from(epsilon)).sqrt();
        out.extend(row.iter().zip(w).map(|(x, w)| (f64::from(*x) * scale * f64::from(*w)) as f32));
    }
    out
}

/// `y = (x − mean(x)) / √(variance(x) + ε) · w` over each row of `w.len()` values (arXiv 1607.06450).
pub(super) fn layer_norm(x: &[f32], w: &[f32], epsilon: f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(w.len()) {
        let n = row.len() as f64;
        let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
        let scale = 1.0 / (variance + f64::from(epsilon)).sqrt();
        out.extend(row.iter().zip(w).map(|(x, w)| ((f64::from(*x) - mean) * scale * f64::from(*w)) as f32));
    }
    out
}

/// Each row of `n` values divided by its length `√(Σx² + ε)`, times `factor`.
pub(super) fn unit_rows(x: &[f32], n: usize, epsilon: f32, factor: f64) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(n) {
        let scale = factor / (dot(row, row) + f64::from(epsilon)).sqrt();
        out.extend(row.iter().map(|x| (f64::from(*x) * scale) as f32));
    }
    out
}

pub(super) fn add(x: &[f32], y: &[f32]) -> Vec<f32> {
    x.iter().zip(y).map(|(x, y)| x + y).collect()
}

/// RoPE on `[T, heads, D]`: each pair of values turns by its position's angle.
pub(super) fn rotate(
    x: &[f32],
    heads: usize,
    head_dim: usize,
    positions: &[usize],
    rope: &RopeTable,
    pairing: RopePairing,
) -> Vec<f32> {
    let mut x = x.to_vec();
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
    x
}

pub(super) fn softmax(scores: &[f64]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

/// The sum of the chosen experts' weights is held above this before it divides them, as in llama.cpp: the smallest normal f16.
const LEAST_SUM: f64 = 6.103_515_625e-5;

/// The experts that each token uses, highest score first, and their weights: both `[T, used]`. A bias is added for choosing alone.
pub(super) fn route(routing: Routing, logits: &[f32], bias: Option<&[f32]>) -> (Vec<f32>, Vec<f32>) {
    let experts = routing.experts;
    let (mut ids, mut shares) = (Vec::new(), Vec::new());
    for logits in logits.chunks_exact(experts.n_experts) {
        let logits: Vec<f64> = logits.iter().map(|l| f64::from(*l)).collect();
        let scores = match routing.scores {
            Scores::Softmax => softmax(&logits),
            Scores::SoftmaxOfChosen => logits,
            Scores::Sigmoid => logits.iter().map(|l| 1.0 / (1.0 + (-l).exp())).collect(),
        };
        let rank = |expert: usize| scores[expert] + bias.map_or(0.0, |bias| f64::from(bias[expert]));
        let mut ranked: Vec<usize> = (0..experts.n_experts).collect();
        if let Some(groups) = experts.groups {
            let kept = best_groups(groups, experts.n_experts, rank);
            ranked.retain(|expert| kept.contains(&(expert / (experts.n_experts / groups.n_groups))));
        }
        ranked.sort_by(|a, b| rank(*b).total_cmp(&rank(*a)));
        ranked.truncate(experts.n_used);
        let chosen: Vec<f64> = ranked.iter().map(|expert| scores[*expert]).collect();
        let weights = match routing.scores {
            Scores::SoftmaxOfChosen => softmax(&chosen),
            _ if experts.normalise => {
                let sum = chosen.iter().sum::<f64>().max(LEAST_SUM);
                chosen.iter().map(|score| score / sum).collect()
            }
            _ => chosen,
        };
        ids.extend(ranked.iter().map(|expert| *expert as f32));
        shares.extend(weights.iter().map(|weight| (weight * f64::from(experts.scale)) as f32));
    }
    (ids, shares)
}

/// The groups of experts that a token uses: those whose two best together rank highest.
fn best_groups(groups: Groups, n_experts: usize, rank: impl Fn(usize) -> f64) -> Vec<usize> {
    let size = n_experts / groups.n_groups;
    let score = |group: &usize| {
        let mut ranks: Vec<f64> = (group * size..(group + 1) * size).map(&rank).collect();
        ranks.sort_by(|a, b| b.total_cmp(a));
        ranks.iter().take(2).sum::<f64>()
    };
    let mut best: Vec<usize> = (0..groups.n_groups).collect();
    best.sort_by(|a, b| score(b).total_cmp(&score(a)));
    best.truncate(groups.n_used);
    best
}
