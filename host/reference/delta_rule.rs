//! The gated delta net's recurrence (arXiv 2412.06464) and the convolution before it.

/// Each channel of `[T, channels]` convolved with its `kernel` weights, the last of which is the present token's, then SiLU. `state` is
/// `[kernel − 1, channels]`: the tokens before, oldest first.
pub(super) fn convolve(x: &[f32], weight: &[f32], kernel: usize, state: &mut Vec<f32>) -> Vec<f32> {
    let channels = weight.len() / kernel;
    let rows: Vec<f32> = state.iter().chain(x).copied().collect(); // [kernel − 1 + T, channels]
    let n_tokens = x.len() / channels;
    let mut out = Vec::with_capacity(x.len());
    for t in 0..n_tokens {
        for c in 0..channels {
            let taps =
                (0..kernel).map(|tap| f64::from(rows[(t + tap) * channels + c]) * f64::from(weight[c * kernel + tap]));
            let sum: f64 = taps.sum();
            out.push((sum / (1.0 + (-sum).exp())) as f32);
        }
    }
    *state = rows[n_tokens * channels..].to_vec();
    out
}

/// The heads of a delta rule.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub keys: usize,
    pub values: usize,
    pub dim: usize,
    /// Whether neighbouring value heads share a key head.
    pub grouped: bool,
}

/// One token after another: the state decays, its prediction of the value is corrected, and the query reads it. `qkv` has rows
/// `[q][k][v]`, `strength` and `keep` are `[T, value heads]`, states `[value heads, value, key]`. The result is `[T, value heads, D]`.
pub(super) fn delta_rule(heads: Heads, qkv: &[f32], strength: &[f32], keep: &[f32], states: &mut [f32]) -> Vec<f32> {
    let Heads { keys, values, dim, grouped } = heads;
    let mut out = Vec::with_capacity(strength.len() * dim);
    for (t, row) in qkv.chunks_exact((2 * keys + values) * dim).enumerate() {
        for h in 0..values {
            let key_head = if grouped { h / (values / keys) } else { h % keys };
            let head = |index: usize| &row[index * dim..][..dim];
            let (q, k, v) = (head(key_head), head(keys + key_head), head(2 * keys + h));
            let (strength, keep) = (f64::from(strength[t * values + h]), f64::from(keep[t * values + h]));
            for (state, v) in states[h * dim * dim..][..dim * dim].chunks_exact_mut(dim).zip(v) {
                let kept: Vec<f64> = state.iter().map(|s| keep * f64::from(*s)).collect(); // [key]
                let predicted: f64 = kept.iter().zip(k).map(|(s, k)| s * f64::from(*k)).sum();
                let change = strength * (f64::from(*v) - predicted);
                let new = kept.iter().zip(k).map(|(s, k)| s + change * f64::from(*k));
                let mut read = 0.0;
                for ((state, new), q) in state.iter_mut().zip(new).zip(q) {
                    read += new * f64::from(*q);
                    *state = new as f32;
                }
                out.push(read as f32);
            }
        }
    }
    out
}
