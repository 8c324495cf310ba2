//! Matrix–vector products: one token's matmuls in decoding, and each token's products with its own experts.
//!
//! grid.y counts vectors. Each has its own product `out[vector] = W · x[vector / share]`: with a stack of matrices, W is the
//! one that `experts[vector]` names, and `share` neighbouring vectors use the same x (a token's experts).
//!
//! Time is the reading of the weights, so everything serves that: a warp takes a row, each lane loads 16 bytes at a time,
//! neighbouring lanes neighbouring vectors, and four loads are in flight before the first is used. The activations are
//! small and come from the cache. Products are accumulated in `f32`, four independent sums a lane, then over the warp.

use cuda_std::{
    BF16, F16, float, kernel,
    memory::{Vector16, load_streaming_16},
    thread,
    types::Element,
    warp,
};

/// The block's number of threads: four warps, a row each.
pub const BLOCK: u32 = 128;

/// Output rows a block computes.
pub const ROWS_PER_BLOCK: u32 = BLOCK / 32;

/// 16-byte loads a lane has in flight.
const IN_FLIGHT: usize = 4;

/// sum + the products of a 16-byte weight vector with the activations beside it.
#[inline(always)]
unsafe fn multiply<T: Element>(weights: [u32; 4], x: *const f32, sum: f32) -> f32 {
    let mut sum = sum;
    let mut group = 0;
    while group < T::PER_VECTOR {
        let Vector16(four) = unsafe { *x.add(group).cast::<Vector16>() };
        let mut index = 0;
        while index < 4 {
            sum = float::fma(T::of_vector(weights, group + index), f32::from_bits(four[index]), sum);
            index += 1;
        }
        group += 4;
    }
    sum
}

/// The lane's part of the dot product of a row that is a whole number of 16-byte vectors.
#[inline(always)]
unsafe fn dot_vectors<T: Element>(row: *const T, x: *const f32, n_vectors: u32, lane: u32) -> f32 {
    let mut sums = [0.0; IN_FLIGHT];
    let mut vector = lane;
    while vector + 32 * (IN_FLIGHT as u32 - 1) < n_vectors {
        let mut weights = [[0; 4]; IN_FLIGHT];
        let mut load = 0;
        while load < IN_FLIGHT {
            let element = (vector as usize + 32 * load) * T::PER_VECTOR;
            weights[load] = unsafe { load_streaming_16(row.add(element)) };
            load += 1;
        }
        load = 0;
        while load < IN_FLIGHT {
            let element = (vector as usize + 32 * load) * T::PER_VECTOR;
            sums[load] = unsafe { multiply::<T>(weights[load], x.add(element), sums[load]) };
            load += 1;
        }
        vector += 32 * IN_FLIGHT as u32;
    }
    while vector < n_vectors {
        let element = vector as usize * T::PER_VECTOR;
        sums[0] = unsafe { multiply::<T>(load_streaming_16(row.add(element)), x.add(element), sums[0]) };
        vector += 32;
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

/// The lane's part of the dot product of a row of any length, whose start may not be aligned.
#[inline(always)]
unsafe fn dot_elements<T: Element>(row: *const T, x: *const f32, n_in: u32, lane: u32) -> f32 {
    let mut sum = 0.0;
    let mut index = lane as usize;
    while index < n_in as usize {
        sum = float::fma(unsafe { (*row.add(index)).load() }, unsafe { *x.add(index) }, sum);
        index += 32;
    }
    sum
}

/// One launch's operands: the kernels' parameters by name.
#[allow(missing_docs)] // as the kernels below say
#[derive(Clone, Copy)]
pub struct Operands<T> {
    pub weights: *const T,
    pub experts: *const u32,
    pub x: *const f32,
    pub bias: *const f32,
    pub residual: *const f32,
    pub out: *mut f32,
    pub n_in: u32,
    pub n_out: u32,
    pub share: u32,
}

/// The part of a launch that one warp computes: an output of a vector.
pub struct WarpRow {
    /// The row within the stack of matrices.
    pub row: usize,
    /// The vector's x.
    pub x: *const f32,
    /// The row within its own matrix.
    output: usize,
    vector: usize,
}

impl<T> Operands<T> {
    /// This warp's row, if there is one.
    ///
    /// # Safety
    /// - The kernels' launch contract.
    #[inline(always)]
    pub unsafe fn warp_row(&self) -> Option<WarpRow> {
        let output = thread::block_idx_x() * ROWS_PER_BLOCK + thread::warp();
        if output >= self.n_out {
            return None;
        }
        // SAFETY: by the launch contract; said here so that no division is guarded by a panic.
        unsafe { core::hint::assert_unchecked(self.share > 0) }
        let (output, vector) = (output as usize, thread::block_idx_y() as usize);
        let matrix = if self.experts.is_null() { 0 } else { unsafe { *self.experts.add(vector) as usize } };
        let shared = thread::block_idx_y() / self.share;
        let x = unsafe { self.x.add(shared as usize * self.n_in as usize) };
        Some(WarpRow { row: matrix * self.n_out as usize + output, x, output, vector })
    }

    /// Writes a row's result, `part` being each lane's share of the sum. Collective over the warp.
    ///
    /// # Safety
    /// - The kernels' launch contract.
    #[inline(always)]
    pub unsafe fn finish(&self, place: &WarpRow, part: f32) {
        let mut sum = warp::sum(part);
        if thread::lane() == 0 {
            let index = place.vector * self.n_out as usize + place.output;
            if !self.bias.is_null() {
                sum += unsafe { *self.bias.add(place.output) };
            }
            if !self.residual.is_null() {
                sum += unsafe { *self.residual.add(index) };
            }
            unsafe { *self.out.add(index) = sum }
        }
    }
}

#[inline(always)]
unsafe fn gemv<T: Element>(operands: Operands<T>) {
    let Some(place) = (unsafe { operands.warp_row() }) else {
        return;
    };
    let (lane, x, n_in) = (thread::lane(), place.x, operands.n_in);
    let start = unsafe { operands.weights.add(place.row * n_in as usize) };
    // A row whose length is a whole number of vectors starts aligned, as the matrix does.
    let part = if n_in.is_multiple_of(T::PER_VECTOR as u32) {
        unsafe { dot_vectors(start, x, n_in / T::PER_VECTOR as u32, lane) }
    } else {
        unsafe { dot_elements(start, x, n_in, lane) }
    };
    unsafe { operands.finish(&place, part) }
}

macro_rules! variants {
    ($($name:ident: $element:ty;)*) => {$(
        /// out[v][o] = Σ_i weights[experts[v]][o][i] · x[v / share][i] (+ bias[o]) (+ residual[v][o]). `residual` may be
        /// `out`; without `experts` there is one matrix.
        ///
        /// Launch: grid (⌈n_out ÷ ROWS_PER_BLOCK⌉, n_vectors), block ([`BLOCK`]).
        ///
        /// # Safety
        /// - `weights` is a stack of `[n_out][n_in]`, 16-byte aligned; `experts` is null or `[n_vectors]`, below the stack's
        ///   height; `x` is `[n_vectors / share][n_in]`, 16-byte aligned, `share ≥ 1`; where there are several vectors, `n_in`
        ///   is a multiple of 4; `out` is `[n_vectors][n_out]`.
        /// - `bias` is null or `[n_out]`, `residual` null or `[n_vectors][n_out]`.
        #[kernel]
        pub unsafe fn $name(
            weights: *const $element,
            experts: *const u32,
            x: *const f32,
            bias: *const f32,
            residual: *const f32,
            out: *mut f32,
            n_in: u32,
            n_out: u32,
            share: u32,
        ) {
            unsafe { gemv(Operands { weights, experts, x, bias, residual, out, n_in, n_out, share }) }
        }
    )*};
}

variants! {
    gemv_f32: f32;
    gemv_f16: F16;
    gemv_bf16: BF16;
}
