//! Keeping matrix products of f16 within its range: at most 65504.
//!
//! Some models have activations beyond that. What a product can be at most is known beforehand. Its input is a row of RMSNorm's
//! output, x̂ ∘ norm with ‖x̂‖ ≤ √n, so by Cauchy and Schwarz |(W (x̂ ∘ norm))ᵣ| ≤ √n · ‖wᵣ ∘ norm‖. The kernels here compute
//! these norms once, when a model is loaded; the host makes a power of two of them for each product whose result could be too
//! large, by which it is multiplied before it is rounded. Nearly always that is 1.
//!
//! The rows of one matrix differ less than the bounds are loose, and f16 keeps its precision down to 2^-14: nothing is lost.

use cuda_std::{BF16, F16, float, grid, kernel, memory::Vector16, mma::Operand, thread, types::Element, warp};

use crate::cache::{GROUP as LOADED, load_eight};

/// The block's number of threads.
pub const BLOCK: u32 = 256;

/// Rows of a block of `range_rows_*`.
pub const ROWS: u32 = BLOCK / 32;

/// Elements that a thread takes at a time.
pub const GROUP: usize = LOADED;

#[inline(always)]
unsafe fn rows<T: Element>(matrix: *const T, norm: *const f32, out: *mut f32, n_rows: u32, n: u32) {
    let row = thread::block_idx_x() * ROWS + thread::warp();
    if row >= n_rows {
        return;
    }
    let matrix = matrix.wrapping_add(row as usize * n as usize);
    let (mut squares, mut largest) = (0.0, 0.0);
    let mut column = thread::lane() as usize * GROUP;
    while column < n as usize {
        let values = unsafe { load_eight(matrix.add(column)) };
        let norms = if norm.is_null() { [1.0; GROUP] } else { unsafe { load_eight(norm.add(column)) } };
        let mut index = 0;
        while index < GROUP {
            let normed = values[index] * norms[index];
            squares = float::fma(normed, normed, squares);
            largest = float::max(largest, float::abs(values[index]));
            index += 1;
        }
        column += 32 * GROUP;
    }
    let (squares, largest) = (warp::sum(squares), warp::max(largest));
    if thread::lane() == 0 {
        unsafe {
            *out.add(2 * row as usize) = float::sqrt(squares);
            *out.add(2 * row as usize + 1) = largest;
        }
    }
}

macro_rules! range_rows {
    ($($name:ident: $element:ty;)*) => {$(
        /// out[row] = (‖matrix[row] ∘ norm‖, the largest magnitude of matrix[row]); a null `norm` is all ones.
        ///
        /// A warp takes a row. Launch: grid (⌈n_rows ÷ ROWS⌉), block ([`BLOCK`]).
        ///
        /// # Safety
        /// - `matrix` is `[n_rows][n]`, `norm` is null or `[n]`, both 16-byte aligned; `n` is a multiple of [`GROUP`]; `out` is
        ///   `[n_rows][2]`.
        #[kernel]
        pub unsafe fn $name(matrix: *const $element, norm: *const f32, out: *mut f32, n_rows: u32, n: u32) {
            unsafe { rows(matrix, norm, out, n_rows, n) }
        }
    )*};
}

range_rows! {
    range_rows_f16: F16;
    range_rows_bf16: BF16;
}

/// Eight neighbouring elements as four pairs in f16.
#[inline(always)]
unsafe fn eight<T: Element>(x: *const T, scale: f32) -> Vector16 {
    let values = unsafe { load_eight(x) };
    let pair = |index: usize| F16::pack(values[index] * scale, values[index + 1] * scale);
    Vector16([pair(0), pair(2), pair(4), pair(6)])
}

#[inline(always)]
unsafe fn to_f16<T: Element>(x: *const T, out: *mut F16, scale: f32, n: u64) {
    let group = u64::from(thread::block_idx_x()) * u64::from(BLOCK) + u64::from(thread::thread_idx_x());
    let first = group * GROUP as u64;
    if first + GROUP as u64 <= n {
        let first = first as usize;
        unsafe { *out.add(first).cast::<Vector16>() = eight(x.add(first), scale) }
        return;
    }
    let mut index = first;
    while index < n {
        unsafe { *out.add(index as usize) = F16::from_f32((*x.add(index as usize)).load() * scale) }
        index += 1;
    }
}

macro_rules! range_to_f16 {
    ($($name:ident: $element:ty;)*) => {$(
        /// out[i] = x[i] · scale, rounded to f16.
        ///
        /// A thread takes [`GROUP`] elements. Launch: grid (⌈n ÷ GROUP ÷ BLOCK⌉), block ([`BLOCK`]).
        ///
        /// # Safety
        /// - `x` and `out` hold `n` elements, 16-byte aligned.
        #[kernel]
        pub unsafe fn $name(x: *const $element, out: *mut F16, scale: f32, n: u64) {
            unsafe { to_f16(x, out, scale, n) }
        }
    )*};
}

range_to_f16! {
    range_to_f16_f16: F16;
    range_to_f16_f32: f32;
    range_to_f16_bf16: BF16;
}

/// out[i] = x[i] · scale.
///
/// One thread an element. Launch: grid (⌈n ÷ BLOCK⌉), block ([`BLOCK`]).
///
/// # Safety
/// - `x` and `out` hold `n` elements.
#[kernel]
pub unsafe fn range_from_f16(x: *const F16, out: *mut f32, scale: f32, n: u32) {
    grid::launch_dependents_and_wait();
    let index = thread::index_1d();
    if index < n {
        unsafe { *out.add(index as usize) = (*x.add(index as usize)).to_f32() * scale }
    }
}
