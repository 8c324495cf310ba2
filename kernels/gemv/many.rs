//! Products with several vectors: every matmul of a decoding step of several sequences.
//!
//! A weight is read once for up to [`VECTORS`] vectors: a warp has a chunk of each of its four rows in registers, and multiplies it
//! with one vector after the other. What a lane adds up for a vector, and in which order, is what it does in the product with that
//! vector alone ([`gemv`](super::gemv)), so the outputs are the same, bit for bit, however many vectors there are.
//!
//! Activations are staged once for the launch, in global memory and in the same forms as a product with one vector stages them in
//! shared memory, by the kernels at the end of this file; blocks read them by way of the L1 cache. RMSNorm's factors are left beside them.
//!
//! grid.y counts groups of [`VECTORS`] vectors.

use cuda_std::{
    float, grid, kernel,
    memory::{load_constant_8, load_constant_16},
    shared::Shared,
    shared_array, thread,
    types::Element,
    unroll::unroll,
    warp,
};

use super::{
    Chunks, Dot, Finish, MAX_WARPS, Operands, ROWS, Step, Walk,
    activations::{F32, InGlobal, Q8, Q16, Runs, Scale, Staged, words_q8},
    floats::{FromGlobal, Vectors},
};

/// The most vectors that a block multiplies a weight with.
pub const VECTORS: u32 = 8;

/// How a chunk's activations are had from global memory.
pub trait DotMany: Dot {
    /// As [`Dot::x`], of a vector of `n_in` values that was staged there.
    ///
    /// # Safety
    /// - The chunk is within a row, the vector is staged there.
    unsafe fn x_of(vector: *const u32, n_in: u32, chunk: u32) -> Self::X;
}

impl<T: Element> DotMany for Vectors<T, FromGlobal> {
    #[inline(always)]
    unsafe fn x_of(vector: *const u32, _n_in: u32, chunk: u32) -> Self::X {
        unsafe { Self::x(InGlobal(vector.cast()), chunk) }
    }
}

/// 8-bit integers in runs of 16, in global memory.
#[derive(Clone, Copy)]
pub struct Q8InGlobal {
    integers: *const u32,
    scales: *const u32,
}

impl Q8InGlobal {
    /// Of a staged vector of `n_in` values.
    #[inline(always)]
    pub fn of(vector: *const u32, n_in: u32) -> Q8InGlobal {
        Q8InGlobal { integers: vector, scales: vector.wrapping_add((n_in / 4) as usize) }
    }
}

impl Runs for Q8InGlobal {
    #[inline(always)]
    unsafe fn integers(self, run: u32) -> [u32; 4] {
        unsafe { load_constant_16(self.integers.add(4 * run as usize)) }
    }

    #[inline(always)]
    unsafe fn scale(self, run: u32) -> Scale {
        let [scale, sum] = unsafe { load_constant_8(self.scales.add(2 * run as usize)) }.map(f32::from_bits);
        Scale { scale, sum }
    }

    #[inline(always)]
    unsafe fn two_scales(self, run: u32) -> [Scale; 2] {
        let words = unsafe { load_constant_16(self.scales.add(2 * run as usize)) };
        let [a, b, c, d] = words.map(f32::from_bits);
        [Scale { scale: a, sum: b }, Scale { scale: c, sum: d }]
    }
}

/// What the products below have besides a single vector's.
#[derive(Clone, Copy)]
pub struct Together {
    /// How many vectors.
    pub n_vectors: u32,
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

    let first_vector = thread::block_idx_y() * VECTORS;
    let n_vectors = u32::min(together.n_vectors - first_vector, VECTORS);
    let vector = |index: usize| first_vector + index as u32;
    let x = operands.quantised_x.wrapping_add(first_vector as usize * together.x_stride as usize);
    let mut sums = [[0.0; ROWS as usize]; VECTORS as usize];
    let mut now = start;
    let mut parity = 0;
    loop {
        let chunk = walk.within(now.chunk);
        // In a row's last step some lanes have another's chunk, which does not count.
        let there = now.chunk < walk.chunks;
        unroll(
            VECTORS as usize,
            #[inline(always)]
            |index| {
                if (index as u32) < n_vectors {
                    let vector = x.wrapping_add(index * together.x_stride as usize);
                    let x = unsafe { D::x_of(vector, n_in, chunk) };
                    let add = |bits, sum: f32| {
                        let with = D::dot(bits, &x, sum);
                        if there { with } else { sum }
                    };
                    let [a, b, c, d] = sums[index];
                    sums[index] = [add(bits.a, a), add(bits.b, b), add(bits.c, c), add(bits.d, d)];
                }
            },
        );
        let output = now.output;
        let through = now.advance(&walk);
        let ends = now.is_past_end(&walk);
        if !ends {
            bits = load(now);
        }
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
    let shared: Shared<u32> = cuda_std::shared::dynamic(0);
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
);

/// Declares the entry points of products with several vectors: a name, and how a row is multiplied.
macro_rules! gemv_many_kernels {
    ($($(#[$doc:meta])* $name:ident => $dot:ty;)*) => {$(
        $(#[$doc])*
        ///
        /// out[vector] = W · x[vector] · factors[vector] (+ bias) (+ residual[vector]), or of two matrices `to_up` rows apart
        /// silu(gate) · up.
        ///
        /// Launch: grid (any, ⌈n_vectors ÷ VECTORS⌉), block (a multiple of 32 · 2^split, at most 32 · MAX_WARPS); eight warps and
        /// no split where `quantised_out` is not null.
        ///
        /// # Safety
        /// - `weights` is a matrix of rows of `n_in`, in planes of `n_blocks` blocks in all where the format has blocks, 16-byte aligned;
        ///   outputs are rows from `first_row` on; `n_in ≥ 1` is a whole number of chunks.
        /// - `x` are `n_vectors ≥ 1` staged vectors (`many.rs`), `x_stride` words apart, 16-byte aligned; `factors` is null or
        ///   `[n_vectors]`.
        /// - `bias` is null or `[n_out]`; a vector's outputs, and `residual`'s where that is not null, are `out_stride` values from the
        ///   next one's. Where `quantised_out` is not null it gets the outputs instead, 8-bit vectors one behind the other, and `n_out` is
        ///   a multiple of 16.
        #[cuda_std::kernel(threads = 256, blocks = 1)]
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
            n_in: u32,
            n_out: u32,
            to_up: u32,
            split: u32,
        ) {
            let operands = $crate::gemv::Operands {
                weights, n_blocks, first_row, x: core::ptr::null(), quantised_x: x, norm: core::ptr::null(), epsilon: 0.0, bias,
                residual, out, quantised_out, experts: core::ptr::null(), n_in, n_out, to_up, share: 1, split,
            };
            let together = $crate::gemv::many::Together { n_vectors, x_stride, factors, out_stride };
            unsafe { $crate::gemv::many::gemv_many::<$dot>(&operands, together) }
        }
    )*};
}

pub(crate) use gemv_many_kernels;

gemv_many_kernels! {
    /// A product of several vectors with weights in f32.
    gemv_many_f32 => Vectors<f32, FromGlobal>;
    /// A product of several vectors with weights in f16.
    gemv_many_f16 => Vectors<cuda_std::F16, FromGlobal>;
    /// A product of several vectors with weights in bf16.
    gemv_many_bf16 => Vectors<cuda_std::BF16, FromGlobal>;
}
