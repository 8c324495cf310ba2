//! Mixtures of experts (Shazeer et al., 2017; Jiang et al., 2024): which experts a token uses, and adding up what they made.
//!
//! The router's logits become scores, by a softmax over all experts or each by its own sigmoid; a token uses the few with the
//! largest, each weighted by its score, divided by their sum where the model says so. (A softmax over those used alone is the
//! softmax over all, divided so: what they have in common cancels.) Some models choose by the score plus a bias that was
//! learned to spread the tokens over the experts, and weight by the score without it. Some take experts of a few groups of neighbours
//! alone (DeepSeek-V3, 2024): those whose two best scores together are largest.

use core::ptr;

use cuda_std::{atomic, float, grid, kernel, shared_array, thread, unroll::unroll, warp};

use crate::{
    gemv::{Operands, gemv_floats},
    glu::sigmoid,
};

/// The number of threads of `experts_route`'s block: a warp.
pub const ROUTE_BLOCK: u32 = 32;

/// The number of threads of the other kernels' blocks.
pub const COMBINE_BLOCK: u32 = 256;

/// The least that the scores of those used are divided by: llama.cpp's, the smallest normal f16.
pub const LEAST_SUM: f32 = 6.103_515_6e-5;

/// Floats in their order as integers, both zeros as one, above [`NOT_A_NUMBER`].
#[inline(always)]
fn key(rank: f32) -> u32 {
    // −0 + 0 is 0.
    let bits = (rank + 0.0).to_bits();
    let ordered = if bits >> 31 != 0 { !bits } else { bits | 1 << 31 };
    if rank.is_nan() { NOT_A_NUMBER } else { ordered }
}

/// Behind all numbers.
const NOT_A_NUMBER: u32 = 1;

/// Of an expert that was chosen, and of none.
const GONE: u32 = 0;

/// A token's logits and what makes scores of them.
#[derive(Clone, Copy)]
struct Router {
    logits: *const f32,
    bias: *const f32,
    n_experts: u32,
    sigmoids: u32,
    /// The largest logit, and the sum of e^(logit − largest).
    largest: f32,
    sum: f32,
    /// Experts of a group, and a bit for each group that may be chosen from.
    group: u32,
    groups: u32,
}

/// The most experts, as in llama.cpp: each lane has its share of their scores in registers.
pub const MAX_EXPERTS: u32 = 512;

/// The most groups: a lane has one.
pub const MAX_GROUPS: u32 = 32;

impl Router {
    #[inline(always)]
    fn logit(&self, expert: u32) -> f32 {
        unsafe { *self.logits.add(expert as usize) }
    }

    #[inline(always)]
    fn score(&self, logit: f32) -> f32 {
        if self.sigmoids != 0 { sigmoid(logit) } else { float::exp(logit - self.largest) / self.sum }
    }

    /// What the experts are compared by where there are biases or groups.
    #[inline(always)]
    fn rank(&self, expert: u32) -> f32 {
        // SAFETY: by the launch contract; said here so that the division is not guarded by a panic.
        unsafe { core::hint::assert_unchecked(self.group > 0) }
        if self.groups >> (expert / self.group) & 1 == 0 {
            return f32::NEG_INFINITY;
        }
        self.biased_score(expert)
    }

    #[inline(always)]
    fn biased_score(&self, expert: u32) -> f32 {
        let bias = if self.bias.is_null() { 0.0 } else { unsafe { *self.bias.add(expert as usize) } };
        self.score(self.logit(expert)) + bias
    }

    /// The groups whose two best scores together are largest, `n_used` of `n_groups`, a bit each. Collective over the warp.
    #[inline(always)]
    fn best_groups(&self, n_groups: u32, n_used: u32) -> u32 {
        let lane = thread::lane();
        let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        if lane < n_groups {
            let mut expert = lane * self.group;
            while expert < (lane + 1) * self.group {
                let score = self.biased_score(expert);
                if score > first {
                    (first, second) = (score, first);
                } else if score > second {
                    second = score;
                }
                expert += 1;
            }
        }
        let sum = if self.group > 1 { first + second } else { first };
        // A group is chosen where fewer than `n_used` come before it.
        let (mut before, mut other) = (0, 0);
        while other < n_groups {
            let score = warp::shuffle(sum, other);
            if score > sum || (score == sum && other < lane) {
                before += 1;
            }
            other += 1;
        }
        let mut bits = if lane < n_groups && before < n_used { 1 << lane } else { 0 };
        let mut distance = 16;
        while distance > 0 {
            bits |= warp::shuffle_xor_bits(bits, distance);
            distance /= 2;
        }
        bits
    }

    /// The lane's share of the experts: every 32nd.
    #[inline(always)]
    fn each(&self, visit: &mut dyn FnMut(u32)) {
        let mut expert = thread::lane();
        while expert < self.n_experts {
            visit(expert);
            expert += 32;
        }
    }
}

/// Where a token's choices go, and what becomes of their scores: the kernels' parameters by name.
#[derive(Clone, Copy)]
struct Choices {
    expert_scales: *const f32,
    experts: *mut u32,
    weights: *mut f32,
    n_used: u32,
    normalise: u32,
    scale: f32,
    n_groups: u32,
    n_groups_used: u32,
}

impl Choices {
    /// Makes them. Collective over the warp.
    #[inline(always)]
    unsafe fn make(&self, logits: *const f32, bias: *const f32, n_experts: u32, sigmoids: u32) {
        // SAFETY: by the launch contract; said here so that the division is not guarded by a panic.
        unsafe { core::hint::assert_unchecked(self.n_groups > 0) }
        let group = n_experts / self.n_groups;
        let mut router = Router { logits, bias, n_experts, sigmoids, largest: 0.0, sum: 1.0, group, groups: u32::MAX };
        unsafe {
            match n_experts {
                ..=128 => choose::<4>(&mut router, self),
                _ => choose::<{ MAX_EXPERTS as usize / 32 }>(&mut router, self),
            }
        }
    }
}

/// The keys of a lane's experts that are left.
#[derive(Clone, Copy)]
struct Left<const PER_LANE: usize>([u32; PER_LANE]);

impl<const PER_LANE: usize> Left<PER_LANE> {
    /// The largest and its expert, the lower one of equal keys.
    #[inline(always)]
    fn first(&self) -> (u32, u32) {
        let (mut largest, mut of) = (GONE, 0);
        unroll(
            PER_LANE,
            #[inline(always)]
            |index| {
                if self.0[index] > largest {
                    (largest, of) = (self.0[index], index as u32);
                }
            },
        );
        (largest, 32 * of + thread::lane())
    }

    /// Takes an expert of this lane's out.
    #[inline(always)]
    fn take(&mut self, expert: u32) {
        // Each place by its own comparison: an index would put them into memory.
        unroll(
            PER_LANE,
            #[inline(always)]
            |index| {
                if expert / 32 == index as u32 {
                    self.0[index] = GONE;
                }
            },
        );
    }
}

/// Chooses a token's experts. Collective over the warp.
#[inline(always)]
unsafe fn choose<const PER_LANE: usize>(router: &mut Router, choices: &Choices) {
    let Choices { expert_scales, experts, weights, n_used, normalise, scale, n_groups, n_groups_used } = *choices;
    let lane = thread::lane();
    if router.sigmoids == 0 {
        let mut own = f32::NEG_INFINITY;
        router.each(&mut |expert| own = float::max(own, router.logit(expert)));
        let largest = warp::max(own);
        let mut sum = 0.0;
        router.each(&mut |expert| sum += float::exp(router.logit(expert) - largest));
        (router.largest, router.sum) = (largest, warp::sum(sum));
    }
    if n_groups > 1 {
        router.groups = router.best_groups(n_groups, n_groups_used);
    }
    // Scores are in the order of logits: without bias and groups nothing is computed to compare experts.
    let by_score = !router.bias.is_null() || n_groups > 1;
    let mut left = Left([GONE; PER_LANE]);
    unroll(
        PER_LANE,
        #[inline(always)]
        |index| {
            let expert = 32 * index as u32 + lane;
            if expert < router.n_experts {
                left.0[index] = key(if by_score { router.rank(expert) } else { router.logit(expert) });
            }
        },
    );
    let (mut own, mut of) = left.first();
    // A lane has the choice of every 32nd slot; that of its first stays in registers.
    let (mut mine, mut my_score, mut sum) = (0, 0.0, 0.0);
    let mut slot = 0;
    while slot < n_used {
        let largest = warp::max_u32(own);
        let expert = warp::min_u32(if own == largest { of } else { u32::MAX });
        if lane == slot % 32 {
            let score = router.score(router.logit(expert));
            sum += score;
            if slot < 32 {
                (mine, my_score) = (expert, score);
            } else {
                unsafe {
                    *experts.add(slot as usize) = expert;
                    *weights.add(slot as usize) = score;
                }
            }
        }
        if expert % 32 == lane {
            left.take(expert);
            (own, of) = left.first();
        }
        slot += 1;
    }
    let divisor = if normalise != 0 { float::max(warp::sum(sum), LEAST_SUM) } else { 1.0 };
    let weighted = |score: f32, expert: u32| {
        let of_expert = if expert_scales.is_null() { 1.0 } else { unsafe { *expert_scales.add(expert as usize) } };
        score / divisor * scale * of_expert
    };
    let mut slot = lane;
    while slot < n_used {
        // Each lane reads what it wrote.
        unsafe {
            let (expert, weight) = (experts.add(slot as usize), weights.add(slot as usize));
            if slot < 32 {
                *expert = mine;
                *weight = weighted(my_score, mine);
            } else {
                *weight = weighted(*weight, *expert);
            }
        }
        slot += 32;
    }
}

/// experts[token][slot], weights[token][slot]: the `n_used` experts with the largest scores plus `bias`, the largest first, and
/// their scores without it, divided by the sum of those used where `normalise` is not 0 (by [`LEAST_SUM`] at least), times
/// `scale`, times the expert's element of `expert_scales`. A score is σ(logit) where `sigmoids` is not 0, else the softmax over
/// all experts. Where `n_groups` is more than 1, experts are chosen of those `n_groups_used` groups of neighbours alone whose two best
/// scores with bias are together the largest. Without bias and groups the logits themselves are compared, which are in the same order.
///
/// A warp takes a token. Each lane has every 32nd expert and knows the best of those that are left; the one whose best was chosen looks for
/// its next.
/// Launch: grid (n_tokens), block ([`ROUTE_BLOCK`]).
///
/// # Safety
/// - `logits` is `[n_tokens][n_experts]`; `bias` and `expert_scales` are each null or `[n_experts]`; `experts` and
///   `weights` are `[n_tokens][n_used]`; `1 ≤ n_used ≤ n_experts ≤` [`MAX_EXPERTS`]; `1 ≤ n_groups ≤` [`MAX_GROUPS`] divides `n_experts`, and the
///   groups used have `n_used` experts at least.
#[kernel]
pub unsafe fn experts_route(
    logits: *const f32,
    bias: *const f32,
    expert_scales: *const f32,
    experts: *mut u32,
    weights: *mut f32,
    n_experts: u32,
    n_used: u32,
    sigmoids: u32,
    normalise: u32,
    scale: f32,
    n_groups: u32,
    n_groups_used: u32,
) {
    grid::launch_dependents_and_wait();
    let token = thread::block_idx_x() as usize;
    let (logits, slots) = (logits.wrapping_add(token * n_experts as usize), token * n_used as usize);
    let (experts, weights) = (experts.wrapping_add(slots), weights.wrapping_add(slots));
    let choices = Choices { expert_scales, experts, weights, n_used, normalise, scale, n_groups, n_groups_used };
    unsafe { choices.make(logits, bias, n_experts, sigmoids) }
}

shared_array! {
    // How many blocks were done before this one.
    experts_before_block: [u32; 1];
}

/// A token's experts and their weights as [`experts_route`] chooses them, of logits that the same launch makes as
/// [`gemv_f32`](crate::gemv::gemv_f32) does: logits = `router` · RMSNorm(x) + `router_bias`. The block that is done last chooses.
///
/// Launch: as `gemv_f32` with one vector.
///
/// # Safety
/// - `router` is rows of `n_in`, 16-byte aligned, `n_experts` of them from `first_row` on; `x` is `[n_in]`, 16-byte aligned; `norm` is null or so too; `router_bias` is null or
///   `[n_experts]`; `logits` is `[n_experts]`; `arrivals` is one word, zero, which it is again afterwards, and no launch that may overlap uses it.
/// - The others are as `experts_route` takes them, for one token.
#[kernel(threads = 256, blocks = 2)]
pub unsafe fn experts_router(
    router: *const u8,
    first_row: u32,
    x: *const f32,
    norm: *const f32,
    epsilon: f32,
    router_bias: *const f32,
    logits: *mut f32,
    arrivals: *mut u32,
    n_in: u32,
    split: u32,
    bias: *const f32,
    expert_scales: *const f32,
    experts: *mut u32,
    weights: *mut f32,
    n_experts: u32,
    n_used: u32,
    sigmoids: u32,
    normalise: u32,
    scale: f32,
    n_groups: u32,
    n_groups_used: u32,
) {
    let operands = Operands {
        weights: router,
        n_blocks: 0,
        first_row,
        x,
        quantised_x: ptr::null(),
        norm,
        epsilon,
        bias: router_bias,
        residual: ptr::null(),
        out: logits,
        quantised_out: ptr::null_mut(),
        experts: ptr::null(),
        n_in,
        n_out: n_experts,
        to_up: 0,
        share: 1,
        split,
    };
    unsafe { gemv_floats::<f32>(&operands) }
    thread::sync_threads();
    let (before, last) = (experts_before_block(), thread::grid_dim_x() - 1);
    if thread::thread_idx_x() == 0 {
        unsafe { before.set(0, atomic::increment_wrapping(arrivals, last)) }
    }
    thread::sync_threads();
    if thread::warp() == 0 && unsafe { before.get(0) } == last {
        let choices = Choices { expert_scales, experts, weights, n_used, normalise, scale, n_groups, n_groups_used };
        unsafe { choices.make(logits, bias, n_experts, sigmoids) }
    }
}

/// The number of threads of `experts_group`'s blocks.
pub const GROUP_BLOCK: u32 = 1024;

/// Neighbours of a list, which are of one expert.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
pub struct ExpertTile {
    /// Whose they are.
    pub expert: u32,
    /// Where they begin.
    pub first: u32,
    /// How many there are; of some tiles none.
    pub n_pairs: u32,
    /// Nothing: a tile is 16 bytes.
    pub padding: u32,
}

shared_array! {
    // Of each warp's pairs: those of experts before the block's, and its own.
    experts_before: [u32; (GROUP_BLOCK / 32) as usize];
    experts_own: [u32; (GROUP_BLOCK / 32) as usize];
}

/// pairs = 0 … n_pairs − 1 in the order of `experts[pair]`, those of one expert as they are; tiles = that list cut at each expert's end and
/// into pieces of `of_tile`, each an [`ExpertTile`], with empty ones between some experts.
///
/// A block has an expert, and a warp neighbouring pairs. What is before the expert's own pairs it counts, and so knows where they go, and its
/// tiles too: as many before it as full ones of all pairs before, and one for each expert.
/// Launch: grid (n_experts), block ([`GROUP_BLOCK`]).
///
/// # Safety
/// - `experts` is `[n_pairs]`, each below `n_experts`; `pairs` is `[n_pairs]`; `tiles` is `[⌊n_pairs ÷ of_tile⌋ + n_experts][4]`, 16-byte aligned;
///   `of_tile ≥ 1`.
#[kernel]
pub unsafe fn experts_group(experts: *const u32, pairs: *mut u32, tiles: *mut u32, n_pairs: u32, of_tile: u32) {
    grid::launch_dependents_and_wait();
    let (expert, lane, warp) = (thread::block_idx_x(), thread::lane(), thread::warp());
    let n_warps = const { GROUP_BLOCK / 32 };
    // SAFETY: by the launch contract; said here so that divisions are not guarded by a panic.
    unsafe { core::hint::assert_unchecked(of_tile > 0) }
    let each = n_pairs.div_ceil(GROUP_BLOCK) * 32;
    let (begin, end) = (u32::min(warp * each, n_pairs), u32::min((warp + 1) * each, n_pairs));
    let of = |pair: u32| if pair < end { unsafe { *experts.add(pair as usize) } } else { u32::MAX };
    let (mut first, mut before, mut own) = (begin, 0, 0);
    while first < end {
        let of = of(first + lane);
        before += warp::ballot(of < expert).count_ones();
        own += warp::ballot(of == expert).count_ones();
        first += 32;
    }
    if lane == 0 {
        unsafe {
            experts_before().set(warp, before);
            experts_own().set(warp, own);
        }
    }
    thread::sync_threads();
    let (mut all_before, mut own_before, mut all_own, mut index) = (0, 0, 0, 0);
    while index < n_warps {
        let own = unsafe { experts_own().get(index) };
        all_before += unsafe { experts_before().get(index) };
        own_before += if index < warp { own } else { 0 };
        all_own += own;
        index += 1;
    }
    let (mut first, mut place) = (begin, all_before + own_before);
    while first < end {
        let is_own = of(first + lane) == expert;
        let lanes = warp::ballot(is_own);
        if is_own {
            let place = place + (lanes & ((1 << lane) - 1)).count_ones();
            unsafe { *pairs.add(place as usize) = first + lane }
        }
        place += lanes.count_ones();
        first += 32;
    }
    let first_tile = all_before / of_tile + expert;
    let next_tile = (all_before + all_own) / of_tile + expert + 1;
    let mut tile = first_tile + thread::thread_idx_x();
    while tile < next_tile {
        let at = u32::min((tile - first_tile) * of_tile, all_own);
        let n_pairs = u32::min(all_own - at, of_tile);
        let made = ExpertTile { expert, first: all_before + at, n_pairs, padding: 0 };
        unsafe { *tiles.cast::<ExpertTile>().add(tile as usize) = made }
        tile += GROUP_BLOCK;
    }
}

/// experts[token][i] = i: all of a stack's matrices, in order.
///
/// One thread an element. Launch: grid (⌈n ÷ COMBINE_BLOCK⌉, n_tokens), block ([`COMBINE_BLOCK`]).
///
/// # Safety
/// - `experts` is `[n_tokens][n]`.
#[kernel]
pub unsafe fn experts_every(experts: *mut u32, n: u32) {
    grid::launch_dependents_and_wait();
    let index = thread::index_1d();
    if index < n {
        unsafe { *experts.add(thread::block_idx_y() as usize * n as usize + index as usize) = index }
    }
}

/// out[pair][i] += bias[experts[pair]][i]: what each expert adds to its product, for all pairs of a token and an expert of its.
///
/// One thread an element. Launch: grid (⌈n ÷ COMBINE_BLOCK⌉, n_pairs), block ([`COMBINE_BLOCK`]).
///
/// # Safety
/// - `experts` is `[n_pairs]`, each below n_experts, `bias` is `[n_experts][n]`, `out` is `[n_pairs][n]`.
#[kernel]
pub unsafe fn experts_bias(experts: *const u32, bias: *const f32, out: *mut f32, n: u32) {
    grid::launch_dependents_and_wait();
    let column = thread::index_1d() as usize;
    if column >= n as usize {
        return;
    }
    let (pair, n) = (thread::block_idx_y() as usize, n as usize);
    unsafe {
        let expert = *experts.add(pair) as usize;
        *out.add(pair * n + column) += *bias.add(expert * n + column);
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
