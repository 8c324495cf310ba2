//! Matrix–vector products: every matmul of a decoding step.
//!
//! out = W · x, where x may first go through RMSNorm, and bias, a residual or SwiGLU over a pair of matrices may follow: what
//! stands around a matmul in a transformer is small, so it is done where the product is.
//!
//! Time is the reading of the weights, and everything serves that:
//!
//! - A warp takes four rows at once. At each step every lane has one *chunk* of each, 16 bytes in most formats, neighbouring
//!   lanes neighbouring chunks. As soon as a row's chunk is multiplied a later one, perhaps of the next rows, is loaded into the
//!   same registers, so that nothing waits in the way from one row to the next. Where registers allow, a lane has the
//!   chunks of two steps: what all warps have under way together must keep the memory busy. The activations beside a chunk
//!   are fetched once for the four rows.
//! - Rows that are long and few are split: 2^`split` warps of a block take turns over the chunks of the same rows, and the
//!   first of them adds up. Which split and how many blocks suit a shape is the launcher's table.
//! - The first loads are issued before the kernel waits for its predecessor in the stream: weights depend on nothing.
//! - RMSNorm's factor 1/√(mean(x²) + ε) is the same for all values, so it multiplies the finished sum: x · weight is staged in
//!   shared memory while the squares are still being added up.
//!
//! What a chunk is and how it is multiplied is a [`Dot`]: floats in `floats.rs`; packed blocks with 8-bit activations, or
//! with `f32` ones, in `../blocks/`.
//!
//! grid.y counts vectors. Each has its own product `out[vector] = W · x[vector / share]`: with a stack of matrices, W is the
//! one that `experts[vector]` names, and `share` neighbouring vectors use the same x (a token's experts).

pub mod activations;
pub mod few;
pub mod floats;
pub mod many;
pub mod sum;
mod way;

use cuda_std::{float, grid, shared_array, thread, warp};

use activations::Staged;
use floats::{FromGlobal, FromShared, Scalars, Vectors};
use way::{Place, Step, Walk};

/// Rows that a warp takes at once.
pub const ROWS: u32 = 4;

/// The most warps of a block.
pub const MAX_WARPS: u32 = 8;

/// Outputs that a block makes at a time where it quantises them: one run.
const RUN: u32 = activations::RUN;

shared_array! {
    // Two of each: a warp may write those of the next rows while another still reads these.
    gemv_parts: [f32; (2 * MAX_WARPS * ROWS) as usize];
    gemv_squares: [f32; MAX_WARPS as usize];
    gemv_outputs: [f32; 2 * RUN as usize];
}

/// One launch's operands: the kernels' parameters by name.
#[allow(missing_docs)] // as the kernels below say
#[derive(Clone, Copy)]
pub struct Operands {
    pub weights: *const u8,
    pub n_blocks: u32,
    pub first_row: u32,
    pub x: *const f32,
    pub quantised_x: *const u32,
    pub norm: *const f32,
    pub epsilon: f32,
    pub bias: *const f32,
    pub residual: *const f32,
    pub out: *mut f32,
    pub quantised_out: *mut u32,
    pub experts: *const u32,
    pub n_in: u32,
    pub n_out: u32,
    pub to_up: u32,
    pub share: u32,
    pub split: u32,
}

/// How a row is multiplied with the activations, a chunk at a time.
pub trait Dot: Copy {
    /// Values of a chunk.
    const CHUNK: u32;
    /// Whether a lane has the chunks of two steps at a time, so that twice as much is under way: where they are few registers.
    const AHEAD: bool;
    /// A chunk's weights, as loaded.
    type Bits: Copy;
    /// The activations beside a chunk, and what else a chunk's place in its row decides.
    type X;
    /// Where the activations are.
    type Activations: Staged;

    /// The matrix of a launch.
    ///
    /// # Safety
    /// - The kernels' launch contract.
    unsafe fn new(operands: &Operands) -> Self;

    /// Loads a chunk, counted over all rows.
    ///
    /// # Safety
    /// - The chunk is within the matrix.
    unsafe fn load(self, chunk: u32) -> Self::Bits;

    /// Begins to bring the 128 bytes around a chunk into the L2 cache.
    ///
    /// # Safety
    /// - The chunk is within the matrix.
    unsafe fn prefetch(self, chunk: u32);

    /// Stages the activations: see [`Staged::stage`].
    ///
    /// # Safety
    /// - The kernels' launch contract; `x` is this vector's.
    #[inline(always)]
    unsafe fn stage(operands: &Operands, x: *const f32) -> (Self::Activations, f32) {
        unsafe { Self::Activations::stage(x, operands.norm, operands.n_in) }
    }

    /// Activations beside chunk `chunk` of a row.
    ///
    /// # Safety
    /// - The chunk is within a row, and the activations are staged.
    unsafe fn x(activations: Self::Activations, chunk: u32) -> Self::X;

    /// sum + the products of a chunk.
    fn dot(bits: Self::Bits, x: &Self::X, sum: f32) -> f32;
}

/// A chunk of each of a warp's rows. Fields, not an array, so that each stays in registers.
#[derive(Clone, Copy)]
struct Chunks<B> {
    a: B,
    b: B,
    c: B,
    d: B,
}

/// A warp at work.
struct Warp<D: Dot, P: Place> {
    matrix: D,
    walk: Walk,
    /// What is loaded next, and the rows there.
    next: P,
    rows: [u32; ROWS as usize],
    /// What is multiplied next.
    now: P,
    sums: [f32; ROWS as usize],
    /// Which of two rooms in shared memory sums go to.
    parity: u32,
}

impl<D: Dot, P: Place> Warp<D, P> {
    /// Loads a chunk of each row and goes on.
    ///
    /// # Safety
    /// - The way has not ended.
    #[inline(always)]
    unsafe fn load(&mut self) -> Chunks<D::Bits> {
        let chunk = self.walk.within(self.next.chunk());
        let [a, b, c, d] = self.rows.map(|row| row + chunk);
        let chunks = unsafe {
            Chunks { a: self.matrix.load(a), b: self.matrix.load(b), c: self.matrix.load(c), d: self.matrix.load(d) }
        };
        self.pass();
        chunks
    }

    /// The next step to load.
    #[inline(always)]
    fn pass(&mut self) {
        if self.next.advance(&self.walk) {
            self.rows = unsafe { self.next.rows(&self.walk) };
        }
    }

    /// Multiplies the chunks of a step, and loads those of a later one in their place.
    ///
    /// # Safety
    /// - The chunks are those of `now`, the activations those beside them; the kernels' launch contract.
    #[inline(always)]
    unsafe fn multiply(&mut self, x: D::X, bits: &mut Chunks<D::Bits>) {
        let Walk { chunks, .. } = self.walk;
        // In a row's last step some lanes have another's chunk, which does not count.
        let there = self.now.chunk() < chunks;
        let add = |bits, sum: f32| {
            let with = D::dot(bits, &x, sum);
            if there { with } else { sum }
        };
        let loads = !self.next.is_past_end(&self.walk);
        let next = self.walk.within(self.next.chunk());
        let [a, b, c, d] = self.rows.map(|row| row + next);
        self.sums[0] = add(bits.a, self.sums[0]);
        if loads {
            bits.a = unsafe { self.matrix.load(a) };
        }
        self.sums[1] = add(bits.b, self.sums[1]);
        if loads {
            bits.b = unsafe { self.matrix.load(b) };
        }
        self.sums[2] = add(bits.c, self.sums[2]);
        if loads {
            bits.c = unsafe { self.matrix.load(c) };
        }
        self.sums[3] = add(bits.d, self.sums[3]);
        if loads {
            bits.d = unsafe { self.matrix.load(d) };
            self.pass();
        }
    }
}

impl<D: Dot> Warp<D, Step> {
    /// Takes a step; `true` after the last.
    ///
    /// # Safety
    /// - The chunks are those of `now`; the activations are staged; the kernels' launch contract.
    #[inline(always)]
    unsafe fn step(
        &mut self,
        operands: &Operands,
        activations: D::Activations,
        scale: f32,
        part: u32,
        bits: &mut Chunks<D::Bits>,
    ) -> bool {
        let x = unsafe { D::x(activations, self.walk.within(self.now.chunk)) };
        let output = self.now.output;
        unsafe { self.multiply(x, bits) }
        if !self.now.advance(&self.walk) {
            return false;
        }
        let vector = thread::block_idx_y();
        let finish_as = Finish { scale, part, parity: self.parity, vector, out_stride: operands.n_out };
        unsafe { finish(operands, &self.walk, output, self.sums, finish_as) }
        self.sums = [0.0; ROWS as usize];
        self.parity ^= 1;
        self.now.is_past_end(&self.walk)
    }
}

/// The product of one launch; see the module.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
pub unsafe fn gemv<D: Dot>(operands: &Operands) {
    let turns = Turns { block: thread::block_idx_x(), n_blocks: thread::grid_dim_x(), first: 0 };
    unsafe { gemv_turns::<D>(operands, turns) }
}

/// A block among those that take turns over a product's outputs.
#[derive(Clone, Copy)]
pub struct Turns {
    /// Which of them it is.
    pub block: u32,
    /// How many there are.
    pub n_blocks: u32,
    /// The first output that is theirs.
    pub first: u32,
}

/// The outputs of a product that are this block's turns; see the module.
///
/// # Safety
/// - The kernels' launch contract; the block has outputs.
#[inline(always)]
pub unsafe fn gemv_turns<D: Dot>(operands: &Operands, turns: Turns) {
    let Operands { n_in, n_out, to_up, split, .. } = *operands;
    let (lane, vector) = (thread::lane(), thread::block_idx_y());
    let n_warps = thread::block_dim_x() / 32;
    let (part, group, n_groups) = (thread::warp() & ((1 << split) - 1), thread::warp() >> split, n_warps >> split);

    // Experts are chosen by an earlier kernel of the step; without them nothing is waited for yet.
    let expert = if operands.experts.is_null() {
        0
    } else {
        grid::launch_dependents();
        grid::wait();
        unsafe { *operands.experts.add(vector as usize) }
    };
    let outputs = Walk::outputs(to_up);
    let walk = Walk {
        matrix: operands.first_row + expert * n_out,
        chunks: n_in / D::CHUNK,
        n_out,
        to_up,
        first: part * 32 + lane,
        stride: 32 << split,
        before: group * outputs,
        all_outputs: turns.n_blocks * n_groups * outputs,
    };
    let start = Step { output: turns.first + turns.block * n_groups * outputs, chunk: walk.first };
    let rows = walk.rows(start.output + walk.before);
    let matrix = unsafe { D::new(operands) };
    let mut warp = Warp { matrix, walk, next: start, rows, now: start, sums: [0.0; ROWS as usize], parity: 0 };
    let mut bits = unsafe { warp.load() };
    let mut other = bits;
    if D::AHEAD && !warp.next.is_past_end(&walk) {
        other = unsafe { warp.load() };
    }
    // A line of 128 bytes is eight chunks: what follows in these rows, as far as 32 lanes reach.
    let ahead = 8 * lane;
    if part == 0 && 32 <= ahead && ahead < walk.chunks {
        let [a, b, c, d] = rows;
        unsafe {
            matrix.prefetch(a + ahead);
            matrix.prefetch(b + ahead);
            matrix.prefetch(c + ahead);
            matrix.prefetch(d + ahead);
        }
    }

    grid::launch_dependents();
    grid::wait();
    // SAFETY: share ≥ 1 by the launch contract; said here so that no division is guarded by a panic.
    unsafe { core::hint::assert_unchecked(operands.share > 0) }
    let x = unsafe { operands.x.add((vector / operands.share) as usize * n_in as usize) };
    let (activations, squares) = unsafe { D::stage(operands, x) };
    let mut scale = 1.0;
    if !operands.norm.is_null() {
        let partial = warp::sum(squares);
        if lane == 0 {
            unsafe { gemv_squares().set(thread::warp(), partial) }
        }
        thread::sync_threads();
        let (mut sum, mut index) = (0.0, 0);
        while index < n_warps {
            sum += unsafe { gemv_squares().get(index) };
            index += 1;
        }
        scale = float::reciprocal(float::sqrt(sum / n_in as f32 + operands.epsilon));
    } else if D::Activations::SHARED {
        thread::sync_threads();
    }

    loop {
        if unsafe { warp.step(operands, activations, scale, part, &mut bits) } {
            break;
        }
        if D::AHEAD && unsafe { warp.step(operands, activations, scale, part, &mut other) } {
            break;
        }
    }
}

/// How a vector's sums become outputs.
#[derive(Clone, Copy)]
struct Finish {
    /// What they are multiplied by.
    scale: f32,
    /// The warp's number in its split.
    part: u32,
    /// 0 and 1 in turns.
    parity: u32,
    /// The vector's number.
    vector: u32,
    /// Values from an output to the next vector's.
    out_stride: u32,
}

/// Adds up what the lanes, and the warps of a split, have of four rows, and writes the outputs; the block's first is `first`.
/// Collective over the block where there is a split, over the warp where not.
#[inline(always)]
unsafe fn finish(operands: &Operands, walk: &Walk, first: u32, sums: [f32; ROWS as usize], finish: Finish) {
    let Operands { bias, residual, out, quantised_out, split, .. } = *operands;
    let Finish { scale, part, parity, vector, out_stride } = finish;
    // Eight lanes have the sum of row lane % 4 each.
    let row = thread::lane() % 4;
    let output = first + walk.before;
    let writes = thread::lane() < 4;
    let mut sum = warp::sum_four(sums);
    if split > 0 {
        let mine = (parity * MAX_WARPS + thread::warp()) * ROWS + row;
        if writes {
            unsafe { gemv_parts().set(mine, sum) }
        }
        thread::sync_threads();
        if part > 0 {
            return;
        }
        let mut other = 1;
        while other < 1 << split {
            sum += unsafe { gemv_parts().get(mine + other * ROWS) };
            other += 1;
        }
    }
    sum *= scale;
    let index = if walk.to_up == 0 {
        output + row
    } else {
        // Rows 0 and 1 are the gate's, 2 and 3 the up projection's of the same outputs.
        let up = warp::shuffle_xor(sum, 2);
        sum = crate::glu::silu(sum) * up;
        if row > 1 { walk.n_out } else { output + row }
    };
    if !quantised_out.is_null() {
        // The block's warps have a run of outputs between them.
        let in_run = walk.before + row;
        if writes && row < Walk::outputs(walk.to_up) {
            unsafe { gemv_outputs().set(parity * RUN + in_run, if index < walk.n_out { sum } else { 0.0 }) }
        }
        // A warp reaches the barrier as one.
        warp::sync();
        thread::sync_threads();
        if thread::warp() == 0 {
            let out = quantised_out.wrapping_add((vector * activations::words_q8(walk.n_out)) as usize);
            unsafe { quantise_run(out, walk.n_out, first, parity) }
        }
        return;
    }
    if index < walk.n_out && writes {
        let at = vector as usize * out_stride as usize + index as usize;
        // Loaded here and not beside adding up: the assembler then orders the loads of weights better, which is worth more.
        unsafe {
            if !bias.is_null() {
                sum += *bias.add(index as usize);
            }
            if !residual.is_null() {
                sum += *residual.add(at);
            }
            *out.add(at) = sum;
        }
    }
}

/// Writes the run of outputs from `first` on as 8-bit integers with their scale. Collective over the first warp.
#[inline(always)]
unsafe fn quantise_run(out: *mut u32, n_out: u32, first: u32, parity: u32) {
    let lane = thread::lane() % 4;
    let values = [0, 1, 2, 3].map(|index| unsafe { gemv_outputs().get(parity * RUN + 4 * lane + index) });
    let (word, scale) = activations::quantise(values, 4);
    if thread::lane() < 4 {
        unsafe {
            *out.add((first / 4 + lane) as usize) = word;
            if lane == 0 {
                let scales = out.add((n_out / 4 + first / RUN * 2) as usize);
                *scales = scale.scale.to_bits();
                *scales.add(1) = scale.sum.to_bits();
            }
        }
    }
}

/// Floats of one type. Whether x is staged, and whether rows are whole vectors, is the same for a whole launch.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
pub unsafe fn gemv_floats<T: cuda_std::types::Element>(operands: &Operands) {
    unsafe {
        if !operands.n_in.is_multiple_of(T::PER_VECTOR as u32) {
            gemv::<Scalars<T>>(operands)
        } else if operands.norm.is_null() {
            gemv::<Vectors<T, FromGlobal>>(operands)
        } else {
            gemv::<Vectors<T, FromShared>>(operands)
        }
    }
}

/// Declares the entry points of products: a name, and the function that computes it.
macro_rules! gemv_kernels {
    ($($(#[$doc:meta])* $name:ident[$blocks:literal] => $body:expr;)*) => {$(
        $(#[$doc])*
        ///
        /// out[v][o] = Σ_i weights[experts[v]][o][i] · x[v / share][i] (+ bias[o]) (+ residual[v][o]), x having gone through
        /// RMSNorm where `norm` is not null. With `to_up` not 0, out[v][o] = silu(gate) · up, row o giving the gate and row
        /// o + to_up the up projection. `residual` may be `out`; without `experts` there is one matrix.
        ///
        /// `quantised_x`, where not null, is x as an earlier kernel quantised it; `quantised_out`, where not null, is out so, in
        /// the form that [`activations`]($crate::gemv::activations) says: for a block of 8 · 2^split warps and SwiGLU.
        ///
        /// Launch: grid (≥ 1, n_vectors), blocks taking turns over the outputs; block (a multiple of 32 · 2^split, at most 32 ·
        /// [`MAX_WARPS`]($crate::gemv::MAX_WARPS)); dynamic shared memory as `kernels::gemv::activations` says.
        ///
        /// # Safety
        /// - `weights` is a stack of matrices of `n_out` rows of `n_in`, in planes as `kernels::blocks` says, `n_blocks` blocks in all
        ///   (floats are one plane), 16-byte aligned, from row `first_row` on, and with `to_up` another as high `to_up` rows further;
        ///   `experts` is null or `[n_vectors]`, below the stack's height. `n_in ≥ 1` is a whole number of blocks.
        /// - `x` is `[n_vectors / share][n_in]`, 16-byte aligned, `share ≥ 1`; where there are several vectors, `n_in` is a
        ///   multiple of 4; `norm` is null or `[n_in]`, 16-byte aligned; `out` is `[n_vectors][n_out]`, `n_out ≥ 1`.
        /// - `bias` is null or `[n_out]`, `residual` null or `[n_vectors][n_out]`.
        /// - `quantised_x` is null or 16-byte aligned; then `experts` and `norm` are null, `weights` are quantised, and x is not read.
        ///   `quantised_out` is null or has room for `n_out` values, a multiple of 16, of each vector, one behind the other; then `out` is not
        ///   written.
        #[cuda_std::kernel(threads = 256, blocks = $blocks)]
        pub unsafe fn $name(
            weights: *const u8,
            n_blocks: u32,
            first_row: u32,
            x: *const f32,
            quantised_x: *const u32,
            norm: *const f32,
            epsilon: f32,
            bias: *const f32,
            residual: *const f32,
            out: *mut f32,
            quantised_out: *mut u32,
            experts: *const u32,
            n_in: u32,
            n_out: u32,
            to_up: u32,
            share: u32,
            split: u32,
        ) {
            let operands = $crate::gemv::Operands {
                weights, n_blocks, first_row, x, quantised_x, norm, epsilon, bias, residual, out, quantised_out, experts, n_in,
                n_out, to_up, share, split,
            };
            #[allow(clippy::macro_metavars_in_unsafe, reason = "the body is a function of this crate with this contract")]
            unsafe {
                $body(&operands)
            }
        }
    )*};
}
pub(crate) use gemv_kernels;

/// The parameters of every product.
#[cfg(not(target_arch = "nvptx64"))]
#[rustfmt::skip]
pub type Parameters = (
    *const u8, u32, u32, *const f32, *const u32, *const f32, f32, *const f32, *const f32, *mut f32, *mut u32, *const u32, u32, u32,
    u32, u32, u32,
);

gemv_kernels! {
    /// A product with weights in f32.
    gemv_f32[3] => gemv_floats::<f32>;
    /// A product with weights in f16.
    gemv_f16[3] => gemv_floats::<cuda_std::F16>;
    /// A product with weights in bf16.
    gemv_bf16[3] => gemv_floats::<cuda_std::BF16>;
}
