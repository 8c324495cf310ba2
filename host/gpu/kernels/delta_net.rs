//! Launches the kernels in `kernels/delta_net.rs`.

use kernels::delta_net::{
    BLOCK, COLUMNS, HEAD_DIMS, ROWS, TOKENS, delta_net, delta_net_convolve, delta_net_gate, delta_net_gates,
    delta_net_normalise,
};

use super::{count, expect_aligned, expect_len};
use crate::gpu::{Gpu, GpuError, Slice};

/// Which key head a value head reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyHeads {
    /// Value head h reads key head h mod (number of key heads).
    Tiled,
    /// Neighbouring value heads share a key head: h div (value heads ÷ key heads).
    Grouped,
}

/// The shapes of a delta rule's layer. A token's row of projections is `[q][k][v]`, heads of `head_dim` values.
#[derive(Clone, Copy, Debug)]
pub struct DeltaNetShape {
    /// Tokens, in their order.
    pub n_tokens: usize,
    /// Key heads, and as many query heads.
    pub n_k_heads: usize,
    /// Value heads, a multiple of the key heads.
    pub n_v_heads: usize,
    /// Values of each head: 32, 64, 128 or 256.
    pub head_dim: usize,
    /// Which key head, and query head, a value head reads.
    pub key_heads: KeyHeads,
}

impl DeltaNetShape {
    /// Values of a token's row of projections.
    pub fn n_channels(self) -> usize {
        (2 * self.n_k_heads + self.n_v_heads) * self.head_dim
    }

    /// Values of the recurrent state, `[n_v_heads][value][key]`.
    pub fn state_len(self) -> usize {
        self.n_v_heads * self.head_dim * self.head_dim
    }
}

impl Gpu {
    /// out[t][c] = silu(Σ_j weight[c][j] · x[t − n_taps + 1 + j][c]), for rows of `n_channels`: a causal convolution of each channel
    /// by itself, with `weight` of `[n_channels][n_taps]`, the last tap the token's own. The rows before the first are
    /// `state`'s, `[n_taps − 1][n_channels]`, oldest first, which then has the last ones. `out` does not overlap `x`.
    #[allow(clippy::too_many_arguments)]
    pub fn delta_net_convolve(
        &self,
        x: &Slice<f32>,
        weight: &Slice<f32>,
        state: &Slice<f32>,
        out: &Slice<f32>,
        n_tokens: usize,
        n_channels: usize,
        n_taps: usize,
    ) -> Result<(), GpuError> {
        assert!(n_tokens > 0 && (1..=TOKENS as usize + 1).contains(&n_taps), "{n_taps} taps over {n_tokens} tokens");
        expect_len("x", x, n_tokens * n_channels);
        expect_len("weight", weight, n_channels * n_taps);
        expect_len("state", state, (n_taps - 1) * n_channels);
        expect_len("out", out, n_tokens * n_channels);
        let grid = [count(n_channels.div_ceil(BLOCK as usize)), count(n_tokens.div_ceil(TOKENS as usize)), 1];
        let arguments = (x, weight, state, out, count(n_tokens), count(n_channels), count(n_taps));
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(delta_net_convolve, grid, BLOCK, arguments) }
    }

    /// Divides each q and k head of the rows `qkv` by √(Σ² + epsilon), and q by √head_dim besides.
    pub fn delta_net_normalise(&self, shape: DeltaNetShape, qkv: &Slice<f32>, epsilon: f32) -> Result<(), GpuError> {
        let DeltaNetShape { n_tokens, n_k_heads, head_dim, .. } = shape;
        assert!(head_dim > 0, "heads of no values");
        expect_len("qkv", qkv, n_tokens * shape.n_channels());
        let grid = [count((2 * n_k_heads).div_ceil(ROWS as usize)), count(n_tokens), 1];
        let arguments = (qkv, count(n_k_heads), count(head_dim), count(shape.n_channels()), epsilon);
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(delta_net_normalise, grid, BLOCK, arguments) }
    }

    /// beta = σ(beta) and decay = e^(a · softplus(alpha + bias)), rows of `n_v_heads` both; `decay` may be `alpha`.
    #[allow(clippy::too_many_arguments)]
    pub fn delta_net_gates(
        &self,
        beta: &Slice<f32>,
        alpha: &Slice<f32>,
        a: &Slice<f32>,
        bias: &Slice<f32>,
        decay: &Slice<f32>,
        n_tokens: usize,
        n_v_heads: usize,
    ) -> Result<(), GpuError> {
        assert!(n_v_heads > 0, "no value heads");
        let n = n_tokens * n_v_heads;
        expect_len("beta", beta, n);
        expect_len("alpha", alpha, n);
        expect_len("decay", decay, n);
        expect_len("a", a, n_v_heads);
        expect_len("bias", bias, n_v_heads);
        let grid = [count(n.div_ceil(BLOCK as usize)), 1, 1];
        let arguments = (beta, alpha, a, bias, decay, count(n_tokens), count(n_v_heads));
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(delta_net_gates, grid, BLOCK, arguments) }
    }

    /// For each value head, token after token: S ← decay·S; δ = beta·(v − Sᵀk); S ← S + k·δᵀ; out = Sᵀq. `qkv` has the convolved
    /// and normalised rows, `beta` and `decay` are `[n_tokens][n_v_heads]`, `out` is `[n_tokens][n_v_heads][head_dim]`, and
    /// `state[head][j][i]` is S[i][j], before and after.
    pub fn delta_net(
        &self,
        shape: DeltaNetShape,
        qkv: &Slice<f32>,
        beta: &Slice<f32>,
        decay: &Slice<f32>,
        state: &Slice<f32>,
        out: &Slice<f32>,
    ) -> Result<(), GpuError> {
        let DeltaNetShape { n_tokens, n_k_heads, n_v_heads, head_dim, key_heads } = shape;
        assert!(n_k_heads > 0 && n_v_heads.is_multiple_of(n_k_heads), "{n_v_heads} value heads, {n_k_heads} key heads");
        assert!(HEAD_DIMS.contains(&head_dim), "heads of {head_dim} values; there are kernels for {HEAD_DIMS:?}");
        assert!(n_tokens > 0, "no tokens");
        expect_len("qkv", qkv, n_tokens * shape.n_channels());
        expect_len("beta", beta, n_tokens * n_v_heads);
        expect_len("decay", decay, n_tokens * n_v_heads);
        expect_len("state", state, shape.state_len());
        expect_len("out", out, n_tokens * n_v_heads * head_dim);
        expect_aligned("qkv", qkv);
        expect_aligned("state", state);
        let grid = [count(head_dim / COLUMNS as usize), count(n_v_heads), 1];
        let grouped = u32::from(key_heads == KeyHeads::Grouped);
        let arguments = (qkv, beta, decay, state, out, count(n_tokens), count(n_k_heads), count(head_dim), grouped);
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(delta_net, grid, BLOCK, arguments) }
    }

    /// out[row] = x[row] / √(mean(x[row]²) + epsilon) · weight · silu(z[row]), rows of the weight's length; `out` may be `x` or `z`.
    pub fn delta_net_gate(
        &self,
        x: &Slice<f32>,
        weight: &Slice<f32>,
        z: &Slice<f32>,
        out: &Slice<f32>,
        rows: usize,
        epsilon: f32,
    ) -> Result<(), GpuError> {
        let head_dim = weight.len();
        assert!(head_dim > 0, "rows of no values");
        expect_len("x", x, rows * head_dim);
        expect_len("z", z, rows * head_dim);
        expect_len("out", out, rows * head_dim);
        let grid = [count(rows.div_ceil(ROWS as usize)), 1, 1];
        let arguments = (x, weight, z, out, count(rows), count(head_dim), epsilon);
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(delta_net_gate, grid, BLOCK, arguments) }
    }
}
