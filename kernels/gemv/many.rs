//! Products with several vectors: every matmul of a decoding step of several sequences.
//!
//! A weight is read once for up to [`VECTORS`] vectors: a warp has a chunk of each of its four rows in registers, and multiplies it
//! with one vector after the other. What a lane adds up for a vector, and in which order, is what it does in the product with that
//! vector alone ([`gemv`](super::gemv)), so the outputs are the same, bit for bit, however many vectors there are.
//!
//! Activations are staged once for the launch, in global memory and in the same forms as a product with one vector stages them in
//! shared memory, by the kernels at the end of this file; RMSNorm's factors are left beside them. A block copies its vectors of integers to
//! shared memory, where they take little; `f32` ones it reads by way of the L1 cache.
//!
//! What limits it is latency, of which eight warps on a multiprocessor hide little: a step's weights are loaded while those of the step
//! before are multiplied, and what a vector has beside a chunk must not come from beyond shared memory (an H200 took 9.3 ms for eight
//! tokens of Qwen2.5-7B in Q4_K_M where both came when they were needed).
//!
//! grid.y counts groups of up to [`VECTORS`] vectors, as many as shared memory has room for.

use cuda_std::{
    async_copy, float, grid, kernel,
    shared::{self, Shared},
    shared_array, thread,
    types::Element,
    unroll::unroll,
    warp,
};

use super::{
    Chunks, Dot, Finish, MAX_WARPS, Operands, ROWS,
    activations::{F32, InGlobal, Q8, Q16, Staged, words_q8},
    floats::{FromGlobal, Vectors},
    way::{Place, Step, Walk},
};

/// The most vectors that a block multiplies a weight with.
pub const VECTORS: u32 = 8;

/// How a chunk's activations are had of one of several vectors.
pub trait DotMany: Dot {
    /// Whether vectors are copied to shared memory.
    const SHARED: bool;

    /// Whether there are registers for the weights of a step ahead.
    const LOADS_AHEAD: bool;

    /// As [`Dot::x`], of a vector of `n_in` values that is staged at `vector`, and `SHARED` at that byte of the block's dynamic memory.
    ///
    /// # Safety
    /// - The chunk is within a row, the vector is staged there.
    unsafe fn x_of(vector: *const u32, start: u32, n_in: u32, chunk: u32) -> Self::X;
}

impl<T: Element> DotMany for Vectors<T, FromGlobal> {
    const SHARED: bool = false;
    const LOADS_AHEAD: bool = true;

    #[inline(always)]
    unsafe fn x_of(vector: *const u32, _start: u32, _n_in: u32, chunk: u32) -> Self::X {
        unsafe { Self::x(InGlobal(vector.cast()), chunk) }
    }
}

/// What the products below have besides a single vector's.
#[derive(Clone, Copy)]
pub struct Together {
    /// How many vectors.
    pub n_vectors: u32,
    /// How many of them a block takes, at most [`VECTORS`].
    pub group: u32,
    /// Words from a vector to the next.
    pub x_stride: u32,
    /// What each vector's products are multiplied by, or null.
    pub factors: *const f32,
    /// Values from an output to the next vector's.
    pub out_stride: u32,
}

/// The product of one launch; see the module. `quantised_x` are the staged vectors, of whatever form.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
pub unsafe fn gemv_many<D: DotMany>(operands: &Operands, together: Together) {
    let Operands { n_in, n_out, to_up, split, .. } = *operands;
    let lane = thread::lane();
    let n_warps = thread::block_dim_x() / 32;
    let (part, group, n_groups) = (thread::warp() & ((1 << split) - 1), thread::warp() >> split, n_warps >> split);
    let outputs = Walk::outputs(to_up);
    let walk = Walk {
        matrix: operands.first_row,
        chunks: n_in / D::CHUNK,
        n_out,
        to_up,
        first: part * 32 + lane,
        stride: 32 << split,
        before: group * outputs,
        all_outputs: thread::grid_dim_x() * n_groups * outputs,
    };
    let start = Step { output: thread::block_idx_x() * n_groups * outputs, chunk: walk.first };
    let matrix = unsafe { D::new(operands) };
    let load = |step: Step| {
        let chunk = walk.within(step.chunk);
        let [a, b, c, d] = walk.rows(step.output + walk.before).map(|row| row + chunk);
        unsafe { Chunks { a: matrix.load(a), b: matrix.load(b), c: matrix.load(c), d: matrix.load(d) } }
    };
    let mut bits = load(start);
    grid::launch_dependents();
    grid::wait();

    let first_vector = thread::block_idx_y() * together.group;
    let n_vectors = u32::min(together.n_vectors - first_vector, together.group);
    let vector = |index: usize| first_vector + index as u32;
    let x = operands.quantised_x.wrapping_add(first_vector as usize * together.x_stride as usize);
    let bytes = 4 * together.x_stride;
    if D::SHARED {
        let staged: Shared<u32> = shared::dynamic(0);
        let (words, mut word) = (n_vectors * together.x_stride, 4 * thread::thread_idx_x());
        while word < words {
            unsafe { async_copy::copy_16(staged, word, x.add(word as usize), true) }
            word += 4 * thread::block_dim_x();
        }
        async_copy::commit();
        async_copy::wait::<0>();
        thread::sync_threads();
    }
    let mut sums = [[0.0; ROWS as usize]; VECTORS as usize];
    let mut now = start;
    let mut parity = 0;
    loop {
        let chunk = walk.within(now.chunk);
        // In a row's last step some lanes have another's chunk, which does not count.
        let there = now.chunk < walk.chunks;
        let output = now.output;
        let through = now.advance(&walk);
        let ends = now.is_past_end(&walk);
        let next = if ends || !D::LOADS_AHEAD { bits } else { load(now) };
        unroll(
            VECTORS as usize,
            #[inline(always)]
            |index| {
                if (index as u32) < n_vectors {
                    let vector = x.wrapping_add(index * together.x_stride as usize);
                    let x = unsafe { D::x_of(vector, index as u32 * bytes, n_in, chunk) };
                    let add = |bits, sum: f32| {
                        let with = D::dot(bits, &x, sum);
                        if there { with } else { sum }
                    };
                    let [a, b, c, d] = sums[index];
                    sums[index] = [add(bits.a, a), add(bits.b, b), add(bits.c, c), add(bits.d, d)];
                }
            },
        );
        if through {
            unroll(
                VECTORS as usize,
                #[inline(always)]
                |index| {
                    if (index as u32) < n_vectors {
                        let factors = together.factors;
                        let scale =
                            if factors.is_null() { 1.0 } else { unsafe { *factors.add(vector(index) as usize) } };
                        let finish =
                            Finish { scale, part, parity, vector: vector(index), out_stride: together.out_stride };
                        unsafe { super::finish(operands, &walk, output, sums[index], finish) }
                        parity ^= 1;
                    }
                    sums[index] = [0.0; ROWS as usize];
                },
            );
        }
        if ends {
            return;
        }
        bits = if D::LOADS_AHEAD { next } else { load(now) };
    }
}

shared_array! {
    gemv_many_squares: [f32; MAX_WARPS as usize];
}

/// Where staged vectors are in shared memory, as words.
pub trait InShared: Staged {
    /// The first of `words(n_in)` words, which begin at 0.
    fn words(n_in: u32) -> u32;
}

impl InShared for F32 {
    #[inline(always)]
    fn words(n_in: u32) -> u32 {
        n_in
    }
}

impl InShared for Q8 {
    #[inline(always)]
    fn words(n_in: u32) -> u32 {
        words_q8(n_in)
    }
}

impl InShared for Q16 {
    #[inline(always)]
    fn words(n_in: u32) -> u32 {
        2 * words_q8(n_in)
    }
}

#[inline(always)]
unsafe fn stage<S: InShared>(
    x: *const f32,
    norm: *const f32,
    epsilon: f32,
    staged: *mut u32,
    factors: *mut f32,
    n_in: u32,
) {
    grid::launch_dependents();
    grid::wait();
    let vector = thread::block_idx_x() as usize;
    let (_, squares) = unsafe { S::stage(x.add(vector * n_in as usize), norm, n_in) };
    let partial = warp::sum(squares);
    if thread::lane() == 0 {
        unsafe { gemv_many_squares().set(thread::warp(), partial) }
    }
    thread::sync_threads();
    if !norm.is_null() && thread::thread_idx_x() == 0 {
        let (mut sum, mut index) = (0.0, 0);
        while index < thread::block_dim_x() / 32 {
            sum += unsafe { gemv_many_squares().get(index) };
            index += 1;
        }
        let factor = float::reciprocal(float::sqrt(sum / n_in as f32 + epsilon));
        unsafe { *factors.add(vector) = factor }
    }
    let words = S::words(n_in);
    let shared: Shared<u32> = shared::dynamic(0);
    let out = unsafe { staged.add(vector * words as usize) };
    let mut word = thread::thread_idx_x();
    while word < words {
        unsafe { *out.add(word as usize) = shared.get(word) }
        word += thread::block_dim_x();
    }
}

macro_rules! stage_kernels {
    ($($(#[$doc:meta])* $name:ident: $form:ty;)*) => {
        $(
            $(#[$doc])*
            ///
            /// staged[vector] = x[vector] · norm in the form of `activations.rs`, and, where `norm` is not null, factors[vector] =
            /// 1/√(mean(x²) + ε), which the products are to be multiplied by. As many threads as a product with one vector has give
            /// the same factor, bit for bit.
            ///
            /// Launch: grid (n_vectors), block (a multiple of 32, at most 32 · [`MAX_WARPS`]), dynamic shared memory for a vector.
            ///
            /// # Safety
            /// - `x` is `[n_vectors][n_in]`, 16-byte aligned, `norm` null or `[n_in]` such; `n_in` a multiple of 16; `staged` has room
            ///   for as many vectors of that form, `factors` is `[n_vectors]` or, like `norm`, null.
            #[kernel]
            pub unsafe fn $name(
                x: *const f32,
                norm: *const f32,
                epsilon: f32,
                staged: *mut u32,
                factors: *mut f32,
                n_in: u32,
            ) {
                unsafe { stage::<$form>(x, norm, epsilon, staged, factors, n_in) }
            }
        )*
    };
}

stage_kernels! {
    /// Stages vectors as they are.
    gemv_stage_f32: F32;
    /// Stages vectors as 8-bit integers.
    gemv_stage_q8: Q8;
    /// Stages vectors as 16-bit integers, in two parts.
    gemv_stage_q16: Q16;
}

/// The parameters of every product with several vectors.
#[cfg(not(target_arch = "nvptx64"))]
#[rustfmt::skip]
pub type ManyParameters = (
    *const u8, u32, u32, *const u32, u32, *const f32, *const f32, *const f32, *mut f32, u32, *mut u32, u32, u32, u32, u32, u32,
    u32,
);

/// Declares the entry points of products with several vectors: a name, the threads of a block at most, and the function that computes it.
macro_rules! gemv_many_kernels {
    ($($(#[$doc:meta])* $name:ident[$threads:literal] => $body:expr;)*) => {$(
        $(#[$doc])*
        ///
        /// out[vector] = W · x[vector] · factors[vector] (+ bias) (+ residual[vector]), or of two matrices `to_up` rows apart
        /// silu(gate) · up.
        ///
        /// Launch: grid (any, ⌈n_vectors ÷ group⌉). On lanes ([`many`](crate::gemv::many)): block (a multiple of 32 · 2^split, at most 32 ·
        /// MAX_WARPS), eight warps and no split where `quantised_out` is not null; with integers, dynamic shared memory for `group` vectors, at
        /// most VECTORS. On tensor cores ([`few`](crate::gemv::few)): block ([`few::THREADS`](crate::gemv::few::THREADS)), dynamic shared memory
        /// as [`few::shared_bytes`](crate::gemv::few::shared_bytes) says, 2^split at most 8.
        ///
        /// # Safety
        /// - `weights` is a matrix of rows of `n_in`, in planes of `n_blocks` blocks in all where the format has blocks, 16-byte aligned;
        ///   outputs are rows from `first_row` on; `n_in ≥ 1` is a whole number of chunks, at least 32 · (2^split − 1) and one.
        /// - `x` are `n_vectors ≥ 1` staged vectors (`many.rs`), `x_stride` words apart, 16-byte aligned; `factors` is null or
        ///   `[n_vectors]`.
        /// - `bias` is null or `[n_out]`; a vector's outputs, and `residual`'s where that is not null, are `out_stride` values from the
        ///   next one's. Where `quantised_out` is not null it gets the outputs instead, 8-bit vectors one behind the other, and `n_out` is
        ///   a multiple of 16.
        #[cuda_std::kernel(threads = $threads, blocks = 1)]
        pub unsafe fn $name(
            weights: *const u8,
            n_blocks: u32,
            first_row: u32,
            x: *const u32,
            x_stride: u32,
            factors: *const f32,
            bias: *const f32,
            residual: *const f32,
            out: *mut f32,
            out_stride: u32,
            quantised_out: *mut u32,
            n_vectors: u32,
            group: u32,
            n_in: u32,
            n_out: u32,
            to_up: u32,
            split: u32,
        ) {
            let operands = $crate::gemv::Operands {
                weights, n_blocks, first_row, x: core::ptr::null(), quantised_x: x, norm: core::ptr::null(), epsilon: 0.0, bias,
                residual, out, quantised_out, experts: core::ptr::null(), n_in, n_out, to_up, share: 1, split,
            };
            let together = $crate::gemv::many::Together { n_vectors, group, x_stride, factors, out_stride };
            #[allow(clippy::macro_metavars_in_unsafe, reason = "the body is a function of this crate with this contract")]
            unsafe {
                $body(&operands, together)
            }
        }
    )*};
}

pub(crate) use gemv_many_kernels;

gemv_many_kernels! {
    /// A product of several vectors with weights in f32.
    gemv_many_f32[256] => gemv_many::<Vectors<f32, FromGlobal>>;
    /// A product of several vectors with weights in f16.
    gemv_many_f16[256] => gemv_many::<Vectors<cuda_std::F16, FromGlobal>>;
    /// A product of several vectors with weights in bf16.
    gemv_many_bf16[256] => gemv_many::<Vectors<cuda_std::BF16, FromGlobal>>;
}
