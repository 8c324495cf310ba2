//! Linear attention by the gated delta rule (Yang, Kautz and Hatamizadeh, 2024), as Qwen3-Next and Qwen3.5 have it in most
//! layers: a matrix of fixed size in place of a cache of keys and values.
//!
//! A token's row of projections is `[q heads][k heads][v heads]`, heads of d values, with as many q heads as k heads and several
//! v heads to each. In turn:
//!
//! 1. [`delta_net_convolve`]: each channel is convolved over the tokens and goes through SiLU;
//! 2. [`delta_net_normalise`]: each q and k head becomes a unit vector, q times 1/√d;
//! 3. [`delta_net_gates`]: each v head gets its β and its decay g;
//! 4. [`delta_net`]: for each v head, one token after the other, S ← g·S; δ = β·(v − Sᵀk); S ← S + k·δᵀ; out = Sᵀq;
//! 5. [`delta_net_gate`]: RMSNorm of each head of the output, times SiLU of a gate.
//!
//! Two things last from one call to the next, in memory of the caller's: the rows that the convolution still needs, and S. Both
//! begin as zeros. Sums are f32 throughout, and the tokens' order is that of the definition.

use cuda_std::{float, grid, kernel, memory::Vector16, thread, unroll::unroll, warp};

use crate::glu::{sigmoid, silu};

/// The block's number of threads.
pub const BLOCK: u32 = 128;

/// Tokens that a thread of `delta_net_convolve` takes, and the most taps but one.
pub const TOKENS: u32 = 16;

/// Rows, a warp each, that a block of `delta_net_normalise` or `delta_net_gate` takes.
pub const ROWS: u32 = BLOCK / 32;

/// Lanes that hold a column of S.
const LANES: u32 = 8;

/// Columns of S that a block of `delta_net` has.
pub const COLUMNS: u32 = BLOCK / LANES;

/// Sizes of heads that `delta_net` is written for.
pub const HEAD_DIMS: [usize; 4] = [32, 64, 128, 256];

/// out[t][c] = silu(Σ_j weight[c][j] · x[t − n_taps + 1 + j][c]), the rows before the first being those of `state`, oldest first;
/// then `state` becomes the last n_taps − 1 rows.
///
/// A thread takes a channel of [`TOKENS`] tokens. That of the first tokens alone reads the state, and writes it when it has.
/// Launch: grid (⌈n_channels ÷ BLOCK⌉, ⌈n_tokens ÷ TOKENS⌉), block ([`BLOCK`]).
///
/// # Safety
/// - `x` and `out` are `[n_tokens][n_channels]` and do not overlap, `weight` is `[n_channels][n_taps]`, `state` is
///   `[n_taps − 1][n_channels]`; `n_tokens ≥ 1`, `1 ≤ n_taps ≤` [`TOKENS`] + 1.
#[kernel]
pub unsafe fn delta_net_convolve(
    x: *const f32,
    weight: *const f32,
    state: *mut f32,
    out: *mut f32,
    n_tokens: u32,
    n_channels: u32,
    n_taps: u32,
) {
    grid::launch_dependents_and_wait();
    let channel = thread::index_1d();
    if channel >= n_channels {
        return;
    }
    let (channel, n_channels) = (channel as usize, n_channels as usize);
    let weight = weight.wrapping_add(channel * n_taps as usize);
    let n_before = n_taps - 1;
    // Row `row` of the state's rows and those of x behind them.
    let row = |row: u32| unsafe {
        if row < n_before {
            *state.add(row as usize * n_channels + channel)
        } else {
            *x.add((row - n_before) as usize * n_channels + channel)
        }
    };
    let first = thread::block_idx_y() * TOKENS;
    let end = if first + TOKENS < n_tokens { first + TOKENS } else { n_tokens };
    let mut token = first;
    while token < end {
        let (mut sum, mut tap) = (0.0, 0);
        while tap < n_taps {
            sum = float::fma(unsafe { *weight.add(tap as usize) }, row(token + tap), sum);
            tap += 1;
        }
        unsafe { *out.add(token as usize * n_channels + channel) = silu(sum) }
        token += 1;
    }
    if first == 0 {
        // A row moves towards the start, to where nothing is read any more.
        let mut kept = 0;
        while kept < n_before {
            let value = row(kept + n_tokens);
            unsafe { *state.add(kept as usize * n_channels + channel) = value }
            kept += 1;
        }
    }
}

/// The sum over a row of the squares of its values. Collective over the warp that takes the row.
#[inline(always)]
unsafe fn sum_of_squares(row: *const f32, head_dim: u32) -> f32 {
    let (mut squares, mut index) = (0.0, thread::lane());
    while index < head_dim {
        let value = unsafe { *row.add(index as usize) };
        squares = float::fma(value, value, squares);
        index += 32;
    }
    warp::sum(squares)
}

/// Divides the q and k heads of each row of `qkv`, its first 2 · n_k_heads, by √(Σ² + epsilon), and the q heads, the first half
/// of these, by √head_dim besides.
///
/// A warp takes a head. Launch: grid (⌈2 · n_k_heads ÷ ROWS⌉, n_tokens), block ([`BLOCK`]).
///
/// # Safety
/// - `qkv` is `[n_tokens][stride]`, `stride ≥ 2 · n_k_heads · head_dim`; `head_dim ≥ 1`.
#[kernel]
pub unsafe fn delta_net_normalise(qkv: *mut f32, n_k_heads: u32, head_dim: u32, stride: u32, epsilon: f32) {
    grid::launch_dependents_and_wait();
    let head = thread::block_idx_x() * ROWS + thread::warp();
    if head >= 2 * n_k_heads {
        return;
    }
    let row = qkv.wrapping_add(thread::block_idx_y() as usize * stride as usize + (head * head_dim) as usize);
    let norm = float::sqrt(unsafe { sum_of_squares(row, head_dim) } + epsilon);
    let factor = if head < n_k_heads { norm * float::sqrt(head_dim as f32) } else { norm };
    let factor = float::reciprocal(factor);
    let mut index = thread::lane();
    while index < head_dim {
        unsafe { *row.add(index as usize) *= factor }
        index += 32;
    }
}

/// log(1 + e^value), to a few ulp wherever it is.
#[inline(always)]
fn softplus(value: f32) -> f32 {
    // log(1 + e^v) = max(v, 0) + log(1 + e), e = e^−|v| ≤ 1, and log(1 + e) = 2 · artanh(s), s = e / (2 + e) ≤ 1/3: a series that
    // loses nothing where e is small. The first term left out is below 2e-8 of the sum.
    const SERIES: [f32; 7] = [1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0];
    let power = float::exp(-float::abs(value));
    let s = power / (2.0 + power);
    let mut sum = 1.0 / 15.0;
    unroll(
        SERIES.len(),
        #[inline(always)]
        |index| sum = float::fma(sum, s * s, SERIES[index]),
    );
    float::fma(2.0 * s, sum, float::max(value, 0.0))
}

/// beta[t][h] = σ(beta[t][h]) and decay[t][h] = e^(a[h] · softplus(alpha[t][h] + bias[h])). `decay` may be `alpha`.
///
/// One thread an element. Launch: grid (⌈n_tokens · n_v_heads ÷ BLOCK⌉), block ([`BLOCK`]).
///
/// # Safety
/// - `beta`, `alpha` and `decay` are `[n_tokens][n_v_heads]`, `a` and `bias` are `[n_v_heads]`; `n_v_heads ≥ 1`.
#[kernel]
pub unsafe fn delta_net_gates(
    beta: *mut f32,
    alpha: *const f32,
    a: *const f32,
    bias: *const f32,
    decay: *mut f32,
    n_tokens: u32,
    n_v_heads: u32,
) {
    grid::launch_dependents_and_wait();
    // SAFETY: by the launch contract; said here so that the division is not guarded by a panic.
    unsafe { core::hint::assert_unchecked(n_v_heads > 0) }
    let index = thread::index_1d();
    if index >= n_tokens * n_v_heads {
        return;
    }
    let (head, index) = ((index % n_v_heads) as usize, index as usize);
    unsafe {
        *beta.add(index) = sigmoid(*beta.add(index));
        *decay.add(index) = float::exp(*a.add(head) * softplus(*alpha.add(index) + *bias.add(head)));
    }
}

/// A lane's four-by-four values of a head of 32 · `QUARTERS`: values 4 · (lane + 8 · m) to that plus 3, for m below `QUARTERS`.
#[derive(Clone, Copy)]
struct Part<const QUARTERS: usize>([[f32; 4]; QUARTERS]);

impl<const QUARTERS: usize> Part<QUARTERS> {
    /// Of the head that begins at `head`.
    #[inline(always)]
    unsafe fn load(head: *const f32, lane: u32) -> Self {
        let mut part = Part([[0.0; 4]; QUARTERS]);
        unroll(
            QUARTERS,
            #[inline(always)]
            |quarter| {
                let address = head.wrapping_add(quarter * 32 + 4 * lane as usize);
                let Vector16(words) = unsafe { *address.cast::<Vector16>() };
                part.0[quarter] = words.map(f32::from_bits);
            },
        );
        part
    }

    #[inline(always)]
    unsafe fn store(&self, head: *mut f32, lane: u32) {
        unroll(
            QUARTERS,
            #[inline(always)]
            |quarter| {
                let address = head.wrapping_add(quarter * 32 + 4 * lane as usize);
                unsafe { *address.cast::<Vector16>() = Vector16(self.0[quarter].map(f32::to_bits)) }
            },
        );
    }

    /// The product of two heads, known to all eight lanes that hold them. Collective over the warp.
    #[inline(always)]
    fn dot(&self, other: &Self) -> f32 {
        let mut sums = [0.0; 4];
        unroll(
            QUARTERS,
            #[inline(always)]
            |quarter| {
                unroll(
                    4,
                    #[inline(always)]
                    |index| {
                        sums[index] = float::fma(self.0[quarter][index], other.0[quarter][index], sums[index]);
                    },
                );
            },
        );
        warp::sum_over((sums[0] + sums[1]) + (sums[2] + sums[3]), LANES)
    }

    #[inline(always)]
    fn scale(&mut self, factor: f32) {
        unroll(
            QUARTERS,
            #[inline(always)]
            |quarter| {
                unroll(
                    4,
                    #[inline(always)]
                    |index| self.0[quarter][index] *= factor,
                );
            },
        );
    }

    #[inline(always)]
    fn add_scaled(&mut self, other: &Self, factor: f32) {
        unroll(
            QUARTERS,
            #[inline(always)]
            |quarter| {
                unroll(
                    4,
                    #[inline(always)]
                    |index| {
                        self.0[quarter][index] = float::fma(other.0[quarter][index], factor, self.0[quarter][index]);
                    },
                );
            },
        );
    }
}

/// The parameters of `delta_net`.
#[derive(Clone, Copy)]
struct Operands {
    qkv: *const f32,
    beta: *const f32,
    decay: *const f32,
    state: *mut f32,
    out: *mut f32,
    n_tokens: u32,
    n_k_heads: u32,
    grouped: u32,
}

/// What a token brings to one column.
#[derive(Clone, Copy)]
struct Token<const QUARTERS: usize> {
    q: Part<QUARTERS>,
    k: Part<QUARTERS>,
    v: f32,
    beta: f32,
    decay: f32,
}

#[inline(always)]
unsafe fn recurrence<const QUARTERS: usize>(operands: Operands) {
    grid::launch_dependents_and_wait();
    let Operands { qkv, beta, decay, state, out, n_tokens, n_k_heads, grouped } = operands;
    let head_dim = 32 * QUARTERS;
    let (head, n_v_heads) = (thread::block_idx_y(), thread::grid_dim_y());
    // SAFETY: by the launch contract; said here so that no division is guarded by a panic.
    unsafe {
        core::hint::assert_unchecked(n_k_heads > 0);
        core::hint::assert_unchecked(n_v_heads >= n_k_heads);
    }
    let k_head = if grouped != 0 { head / (n_v_heads / n_k_heads) } else { head % n_k_heads } as usize;
    let lane = thread::lane() % LANES;
    let column = (thread::block_idx_x() * COLUMNS + thread::thread_idx_x() / LANES) as usize;
    let (head, n_k_heads, n_v_heads) = (head as usize, n_k_heads as usize, n_v_heads as usize);
    let stride = (2 * n_k_heads + n_v_heads) * head_dim;
    let load = |token: u32| unsafe {
        let row = qkv.wrapping_add(token as usize * stride);
        let gates = token as usize * n_v_heads + head;
        Token::<QUARTERS> {
            q: Part::load(row.wrapping_add(k_head * head_dim), lane),
            k: Part::load(row.wrapping_add((n_k_heads + k_head) * head_dim), lane),
            v: *row.add((2 * n_k_heads + head) * head_dim + column),
            beta: *beta.add(gates),
            decay: *decay.add(gates),
        }
    };
    let place = state.wrapping_add((head * head_dim + column) * head_dim);
    let mut s = unsafe { Part::<QUARTERS>::load(place, lane) };
    let mut next = load(0);
    let mut token = 0;
    while token < n_tokens {
        // The next token's values come while this one's are worked on.
        let Token { q, k, v, beta, decay } = next;
        next = load(if token + 1 < n_tokens { token + 1 } else { token });
        s.scale(decay);
        let delta = beta * (v - s.dot(&k));
        s.add_scaled(&k, delta);
        let value = s.dot(&q);
        if lane == 0 {
            unsafe { *out.add((token as usize * n_v_heads + head) * head_dim + column) = value }
        }
        token += 1;
    }
    unsafe { s.store(place, lane) }
}

/// For each v head, one token after the other: S ← decay·S; δ = beta·(v − Sᵀk); S ← S + k·δᵀ; out = Sᵀq.
/// state[head][j][i] is S[i][j]: i counts k's values and j v's. V head h has the q and k of head `h / (n_v_heads / n_k_heads)`
/// where `grouped` is not 0, else of head `h % n_k_heads`.
///
/// The columns of S (one j) know nothing of each other. Eight lanes hold one in registers from the first token to the last, so a
/// warp has four and nothing is shared: a token is two sums over eight lanes, one after the other.
/// Launch: grid (head_dim ÷ COLUMNS, n_v_heads), block ([`BLOCK`]).
///
/// # Safety
/// - `qkv` is `[n_tokens][(2 · n_k_heads + n_v_heads) · head_dim]`: q, k and v heads; `beta` and `decay` are
///   `[n_tokens][n_v_heads]`, `state` is `[n_v_heads][head_dim][head_dim]`, `out` is `[n_tokens][n_v_heads][head_dim]`; `qkv` and
///   `state` are 16-byte aligned; `n_tokens ≥ 1`, `n_v_heads` is a multiple of `n_k_heads`; `head_dim` is one of [`HEAD_DIMS`].
#[kernel]
pub unsafe fn delta_net(
    qkv: *const f32,
    beta: *const f32,
    decay: *const f32,
    state: *mut f32,
    out: *mut f32,
    n_tokens: u32,
    n_k_heads: u32,
    head_dim: u32,
    grouped: u32,
) {
    let operands = Operands { qkv, beta, decay, state, out, n_tokens, n_k_heads, grouped };
    unsafe {
        match head_dim {
            32 => recurrence::<1>(operands),
            64 => recurrence::<2>(operands),
            128 => recurrence::<4>(operands),
            _ => recurrence::<8>(operands),
        }
    }
}

/// out[row][i] = x[row][i] / √(mean(x[row]²) + epsilon) · weight[i] · silu(z[row][i]). `out` may be `x` or `z`.
///
/// A warp takes a row. Launch: grid (⌈rows ÷ ROWS⌉), block ([`BLOCK`]).
///
/// # Safety
/// - `x`, `z` and `out` are `[rows][head_dim]`, `weight` is `[head_dim]`; `head_dim ≥ 1`.
#[kernel]
pub unsafe fn delta_net_gate(
    x: *const f32,
    weight: *const f32,
    z: *const f32,
    out: *mut f32,
    rows: u32,
    head_dim: u32,
    epsilon: f32,
) {
    grid::launch_dependents_and_wait();
    let row = thread::block_idx_x() * ROWS + thread::warp();
    if row >= rows {
        return;
    }
    let first = row as usize * head_dim as usize;
    let (x, z, out) = (x.wrapping_add(first), z.wrapping_add(first), out.wrapping_add(first));
    let mean = unsafe { sum_of_squares(x, head_dim) } / head_dim as f32;
    let scale = float::reciprocal(float::sqrt(mean + epsilon));
    let mut index = thread::lane();
    while index < head_dim {
        let at = index as usize;
        unsafe { *out.add(at) = *x.add(at) * scale * *weight.add(at) * silu(*z.add(at)) }
        index += 32;
    }
}
