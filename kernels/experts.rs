//! Mixtures of experts (Shazeer et al., 2017; Jiang et al., 2024): which experts a token uses, and adding up what they made.
//!
//! The router's logits become probabilities by a softmax over all experts; a token uses the few with the largest, each
//! weighted by its probability, divided by their sum where the model says so.

use cuda_std::{float, grid, kernel, thread, warp};

/// The number of threads of `experts_route`'s block: a warp.
pub const ROUTE_BLOCK: u32 = 32;

/// The number of threads of `experts_combine`'s block.
pub const COMBINE_BLOCK: u32 = 256;

/// Whether candidate `a` (logit, expert) is chosen before `b`: a larger logit, or an equal one of a lower expert.
#[inline(always)]
fn before(a: (f32, u32), b: (f32, u32)) -> bool {
    a.0 > b.0 || (a.0 == b.0 && a.1 < b.1)
}

/// experts[token][slot], weights[token][slot]: the `n_used` experts with the largest logits, the largest first, and their
/// softmax probabilities over all experts, divided by the sum of those used where `normalise` is not 0, times `scale`.
///
/// A warp takes a token. The next expert is the best of those that come after the last chosen, so nothing is stored.
/// Launch: grid (n_tokens), block ([`ROUTE_BLOCK`]).
///
/// # Safety
/// - `logits` is `[n_tokens][n_experts]` without NaN; `experts` and `weights` are `[n_tokens][n_used]`;
///   `1 ≤ n_used ≤ n_experts`.
#[kernel]
pub unsafe fn experts_route(
    logits: *const f32,
    experts: *mut u32,
    weights: *mut f32,
    n_experts: u32,
    n_used: u32,
    normalise: u32,
    scale: f32,
) {
    grid::launch_dependents();
    grid::wait();
    let (token, lane) = (thread::block_idx_x() as usize, thread::lane());
    let logits = unsafe { logits.add(token * n_experts as usize) };
    let logit = |expert: u32| unsafe { *logits.add(expert as usize) };
    let each = |visit: &mut dyn FnMut(u32)| {
        let mut expert = lane;
        while expert < n_experts {
            visit(expert);
            expert += 32;
        }
    };
    let mut largest = f32::NEG_INFINITY;
    each(&mut |expert| largest = float::max(largest, logit(expert)));
    let largest = warp::max(largest);
    let mut sum = 0.0;
    each(&mut |expert| sum += float::exp(logit(expert) - largest));
    let sum = warp::sum(sum);

    // The chosen are visited twice, the same way: once for their sum, once to write them.
    let mut used_sum = 0.0;
    let mut pass = if normalise != 0 { 0 } else { 1 };
    while pass < 2 {
        let mut last = (f32::INFINITY, 0);
        let mut slot = 0;
        while slot < n_used {
            let mut best = (f32::NEG_INFINITY, u32::MAX);
            each(&mut |expert| {
                let candidate = (logit(expert), expert);
                if (slot == 0 || before(last, candidate)) && before(candidate, best) {
                    best = candidate;
                }
            });
            let mut distance = 16;
            while distance > 0 {
                let other = (warp::shuffle_xor(best.0, distance), warp::shuffle_xor_bits(best.1, distance));
                if before(other, best) {
                    best = other;
                }
                distance /= 2;
            }
            let probability = float::exp(best.0 - largest) / sum;
            if pass == 0 {
                used_sum += probability;
            } else if lane == 0 {
                let place = token * n_used as usize + slot as usize;
                let share = if normalise != 0 { probability / used_sum } else { probability };
                unsafe {
                    *experts.add(place) = best.1;
                    *weights.add(place) = share * scale;
                }
            }
            last = best;
            slot += 1;
        }
        pass += 1;
    }
}

/// out[token][i] = residual[token][i] + Σ_slot weights[token][slot] · parts[token][slot][i]. `residual` may be null or `out`.
///
/// One thread an element. Launch: grid (⌈n ÷ COMBINE_BLOCK⌉, n_tokens), block ([`COMBINE_BLOCK`]).
///
/// # Safety
/// - `parts` is `[n_tokens][n_used][n]`, `weights` is `[n_tokens][n_used]`, `out` and `residual` are `[n_tokens][n]`.
#[kernel]
pub unsafe fn experts_combine(
    parts: *const f32,
    weights: *const f32,
    residual: *const f32,
    out: *mut f32,
    n: u32,
    n_used: u32,
) {
    grid::launch_dependents();
    grid::wait();
    let column = thread::index_1d() as usize;
    if column >= n as usize {
        return;
    }
    let (token, n, n_used) = (thread::block_idx_y() as usize, n as usize, n_used as usize);
    let mut sum = 0.0;
    let mut slot = token * n_used;
    while slot < (token + 1) * n_used {
        sum = float::fma(unsafe { *weights.add(slot) }, unsafe { *parts.add(slot * n + column) }, sum);
        slot += 1;
    }
    let index = token * n + column;
    if !residual.is_null() {
        sum += unsafe { *residual.add(index) };
    }
    unsafe { *out.add(index) = sum }
}
