//! Products of a token with its experts, added up by weight: the down projections of a mixture of experts and what becomes of them.
//!
//! out = Σ_slot weights[slot] · (W[experts[slot]] · x[slot]) (+ residual), in one launch, with the bits of a product for each expert
//! ([`gemv`](super::gemv)) and [`experts_combine`](crate::experts::experts_combine) behind it: a lane adds up the chunks that it has there, in
//! that order, and the experts' sums are added in the order of the slots.
//!
//! All experts are read at the same time. A *team* of warps has the same four rows of a token's experts, a warp one expert's, or those of every
//! so many slots; what they make meets in shared memory, where the team's first warp adds it up while the others have begun with the next
//! rows. A block is as many teams as there is room for, and holds the vectors of all of a token's experts: 8-bit ones are copied as the launch
//! before left them, floats are read by way of the L1 cache.
//!
//! Dynamic shared memory, in this order: the vectors, where they are integers; the weights; and, for each team, twice its experts' four sums,
//! since a warp may write those of the next rows while another still reads these.

use cuda_std::{
    async_copy, float, grid,
    shared::{self, Shared},
    thread, warp,
};

use super::{
    Chunks, Operands, ROWS, Warp,
    activations::{bytes_q8, words_q8},
    floats::{FromGlobal, Vectors},
    many::DotMany,
    way::{Place, Step, Walk},
};

/// Bytes of a token's weights, a whole number of 16.
const fn bytes_of_weights(n_used: u32) -> u32 {
    n_used.next_multiple_of(4) * 4
}

/// Bytes of dynamic shared memory of a block of so many teams, with 8-bit vectors or with floats.
pub const fn shared_bytes(n_in: u32, n_used: u32, n_teams: u32, quantised: bool) -> u32 {
    let vectors = if quantised { n_used * bytes_q8(n_in) } else { 0 };
    vectors + bytes_of_weights(n_used) + 2 * n_teams * n_used * ROWS * 4
}

/// What a product has here beside its operands, of which `share` is how many experts a token uses.
#[derive(Clone, Copy)]
pub struct Sum {
    /// What each expert's product is multiplied by.
    pub weights: *const f32,
    /// Warps of a team.
    pub team: u32,
}

/// A step on the way through the matrices of a token's experts: all of a warp's, then the next rows.
#[derive(Clone, Copy)]
struct Turn {
    step: Step,
    slot: u32,
    /// The warp's first slot.
    member: u32,
    team: u32,
    n_used: u32,
    /// The token's experts.
    experts: *const u32,
}

impl Place for Turn {
    #[inline(always)]
    fn chunk(self) -> u32 {
        self.step.chunk
    }

    #[inline(always)]
    fn advance(&mut self, walk: &Walk) -> bool {
        let output = self.step.output;
        let through = self.step.advance(walk);
        if through {
            self.slot += self.team;
            if self.slot < self.n_used {
                self.step.output = output;
            } else {
                self.slot = self.member;
            }
        }
        through
    }

    #[inline(always)]
    fn is_past_end(self, walk: &Walk) -> bool {
        self.step.is_past_end(walk)
    }

    #[inline(always)]
    unsafe fn rows(self, walk: &Walk) -> [u32; ROWS as usize] {
        let expert = unsafe { *self.experts.add(self.slot as usize) };
        let of_expert = Walk { matrix: walk.matrix + expert * walk.n_out, ..*walk };
        unsafe { self.step.rows(&of_expert) }
    }
}

/// A block's part of the launch, as one of its warps sees it.
#[derive(Clone, Copy)]
struct Team<'a> {
    operands: &'a Operands,
    walk: Walk,
    token: u32,
    /// The token's vectors.
    x: *const u32,
    /// Words from a vector to the next, and bytes of one in shared memory.
    words: u32,
    bytes: u32,
    /// The token's weights.
    weights: Shared<f32>,
    /// The team's sums in shared memory, `[2][n_used][ROWS]` with those of the other teams in between.
    parts: Shared<f32>,
    stride_of_parts: u32,
    /// Whether the warp adds up.
    adds_up: bool,
}

impl<D: DotMany> Warp<D, Turn> {
    /// Takes a step; `true` after the last.
    ///
    /// # Safety
    /// - The chunks are those of the warp's step; vectors and weights are there; the kernels' launch contract.
    #[inline(always)]
    unsafe fn take(&mut self, team: &Team, bits: &mut Chunks<D::Bits>) -> bool {
        let Turn { step: Step { output, chunk }, slot, n_used, .. } = self.now;
        let (vector, n_in) = (team.x.wrapping_add((slot * team.words) as usize), team.operands.n_in);
        let x = unsafe { D::x_of(vector, slot * team.bytes, n_in, team.walk.within(chunk)) };
        unsafe { self.multiply(x, bits) }
        if !self.now.advance(&self.walk) {
            return false;
        }
        // Eight lanes have the sum of row lane % 4 each. Here the room's number is where it begins.
        let (lane, part) = (thread::lane(), self.parity);
        let product = warp::sum_four(self.sums);
        self.sums = [0.0; ROWS as usize];
        if lane < ROWS {
            unsafe { team.parts.set(part + slot * ROWS + lane, product) }
        }
        if self.now.step.output == output {
            return false;
        }
        let Operands { residual, out, n_out, .. } = *team.operands;
        let index = output + team.walk.before + lane;
        let adds = team.adds_up && lane < ROWS && index < n_out;
        let at = team.token as usize * n_out as usize + index as usize;
        // Loaded before the barrier, for which the first warp may have to wait anyway.
        let stream = if adds && !residual.is_null() { unsafe { *residual.add(at) } } else { 0.0 };
        thread::sync_threads();
        if adds {
            let (mut sum, mut slot) = (0.0, 0);
            while slot < n_used {
                let product = unsafe { team.parts.get(part + slot * ROWS + lane) };
                sum = float::fma(unsafe { team.weights.get(slot) }, product, sum);
                slot += 1;
            }
            // Without one not even 0 is added, which would make 0 of −0.
            unsafe { *out.add(at) = if residual.is_null() { sum } else { sum + stream } }
        }
        self.parity = team.stride_of_parts - self.parity;
        self.now.is_past_end(&team.walk)
    }
}

/// The products of one launch, added up; see the module. `operands.quantised_x` are the vectors, of whatever form.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
pub unsafe fn gemv_sum<D: DotMany>(operands: &Operands, sum: Sum) {
    let Operands { n_in, n_out, share: n_used, .. } = *operands;
    // SAFETY: by the launch contract; said here so that divisions are not guarded by a panic.
    unsafe { core::hint::assert_unchecked(sum.team > 0) }
    let token = thread::block_idx_y();
    let n_teams = thread::block_dim_x() / 32 / sum.team;
    let (own_team, member) = (thread::warp() / sum.team, thread::warp() % sum.team);
    let first_vector = (token * n_used) as usize;
    let walk = Walk {
        matrix: operands.first_row,
        chunks: n_in / D::CHUNK,
        n_out,
        to_up: 0,
        first: thread::lane(),
        stride: 32,
        before: own_team * ROWS,
        all_outputs: thread::grid_dim_x() * n_teams * ROWS,
    };
    let start = Turn {
        step: Step { output: thread::block_idx_x() * n_teams * ROWS, chunk: walk.first },
        slot: member,
        member,
        team: sum.team,
        n_used,
        experts: operands.experts.wrapping_add(first_vector),
    };

    let matrix = unsafe { D::new(operands) };
    // Experts are chosen, and their vectors made, by earlier kernels of the step.
    grid::launch_dependents();
    grid::wait();
    let rows = unsafe { start.rows(&walk) };
    let (words, bytes) = if D::SHARED { (words_q8(n_in), bytes_q8(n_in)) } else { (n_in, 0) };
    let x = operands.quantised_x.wrapping_add(first_vector * words as usize);
    if D::SHARED {
        // Before anything waits for the experts' numbers.
        let staged: Shared<u32> = shared::dynamic(0);
        let (all, mut word) = (n_used * words, 4 * thread::thread_idx_x());
        while word < all {
            unsafe { async_copy::copy_16(staged, word, x.add(word as usize), true) }
            word += 4 * thread::block_dim_x();
        }
        async_copy::commit();
    }
    let mut warp = Warp { matrix, walk, next: start, rows, now: start, sums: [0.0; ROWS as usize], parity: 0 };
    let mut bits = unsafe { warp.load() };
    let mut other = bits;
    if D::AHEAD && !warp.next.is_past_end(&walk) {
        other = unsafe { warp.load() };
    }
    // As in a product with one vector.
    let ahead = 8 * thread::lane();
    if 32 <= ahead && ahead < walk.chunks {
        let [a, b, c, d] = rows;
        unsafe {
            matrix.prefetch(a + ahead);
            matrix.prefetch(b + ahead);
            matrix.prefetch(c + ahead);
            matrix.prefetch(d + ahead);
        }
    }
    let weights: Shared<f32> = shared::dynamic(n_used * bytes);
    let mut slot = thread::thread_idx_x();
    while slot < n_used {
        unsafe { weights.set(slot, *sum.weights.add(first_vector + slot as usize)) }
        slot += thread::block_dim_x();
    }
    if D::SHARED {
        async_copy::wait::<0>();
    }
    thread::sync_threads();

    let of_team = n_used * ROWS;
    let team = Team {
        operands,
        walk,
        token,
        x,
        words,
        bytes,
        weights,
        parts: shared::dynamic(n_used * bytes + bytes_of_weights(n_used) + 4 * own_team * of_team),
        stride_of_parts: n_teams * of_team,
        adds_up: member == 0,
    };
    loop {
        if unsafe { warp.take(&team, &mut bits) } {
            break;
        }
        if D::AHEAD && unsafe { warp.take(&team, &mut other) } {
            break;
        }
    }
}

/// The parameters of every such product.
#[cfg(not(target_arch = "nvptx64"))]
#[rustfmt::skip]
pub type SumParameters = (
    *const u8, u32, u32, *const u32, *const u32, *const f32, *const f32, *mut f32, u32, u32, u32, u32,
);

/// Declares the entry points of such products: a name, and the function that computes it.
macro_rules! gemv_sum_kernels {
    ($($(#[$doc:meta])* $name:ident[$blocks:literal] => $body:expr;)*) => {$(
        $(#[$doc])*
        ///
        /// out[token] = Σ_slot weights[token][slot] · (stack[experts[token][slot]] · x[token][slot]) (+ residual[token]), added in the order of
        /// the slots. `residual` may be `out`.
        ///
        /// Launch: grid (≥ 1, n_tokens), blocks taking turns over the outputs; block (a multiple of 32 · `team`, at most 32 ·
        /// [`MAX_WARPS`]($crate::gemv::MAX_WARPS)); dynamic shared memory as [`shared_bytes`]($crate::gemv::sum::shared_bytes) says.
        ///
        /// # Safety
        /// - `stack` is matrices of `n_out ≥ 1` rows of `n_in`, in planes as `kernels::blocks` says, `n_blocks` blocks in all (floats are one
        ///   plane), 16-byte aligned, from row `first_row` on. `n_in ≥ 1` is a whole number of blocks, or of 16-byte vectors of floats.
        /// - `x` is `[n_tokens][n_used]` vectors of `n_in` values, 16-byte aligned: as [`activations`]($crate::gemv::activations) has 8-bit
        ///   ones, or floats where the stack has floats.
        /// - `experts` is `[n_tokens][n_used]`, below the stack's height, `weights` is `[n_tokens][n_used]`; `1 ≤ team ≤ n_used`.
        /// - `out` is `[n_tokens][n_out]`, `residual` null or such.
        #[cuda_std::kernel(threads = 256, blocks = $blocks)]
        pub unsafe fn $name(
            stack: *const u8,
            n_blocks: u32,
            first_row: u32,
            x: *const u32,
            experts: *const u32,
            weights: *const f32,
            residual: *const f32,
            out: *mut f32,
            n_in: u32,
            n_out: u32,
            n_used: u32,
            team: u32,
        ) {
            let operands = $crate::gemv::Operands {
                weights: stack, n_blocks, first_row, x: core::ptr::null(), quantised_x: x, norm: core::ptr::null(), epsilon: 0.0,
                bias: core::ptr::null(), residual, out, quantised_out: core::ptr::null_mut(), experts, n_in, n_out, to_up: 0,
                share: n_used, split: 0,
            };
            #[allow(clippy::macro_metavars_in_unsafe, reason = "the body is a function of this crate with this contract")]
            unsafe {
                $body(&operands, $crate::gemv::sum::Sum { weights, team })
            }
        }
    )*};
}
pub(crate) use gemv_sum_kernels;

gemv_sum_kernels! {
    /// Products with weights in f16, added up.
    gemv_sum_f16[3] => gemv_sum::<Vectors<cuda_std::F16, FromGlobal>>;
    /// Products with weights in bf16, added up.
    gemv_sum_bf16[3] => gemv_sum::<Vectors<cuda_std::BF16, FromGlobal>>;
}
