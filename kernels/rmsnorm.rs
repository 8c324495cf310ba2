//! RMSNorm (Zhang and Sennrich, 2019): y = x / √(mean(x²) + ε) · weight, in some places without weights.

use cuda_std::{F16, float, grid, kernel, memory::Vector16, mma::Operand, thread, unroll::unroll};

use crate::{gemm::steps, reduce::block_sum};

/// Values that a thread loads before it looks at one: each trip to the memory takes as long as all of the arithmetic.
const AT_ONCE: usize = 8;

/// Fours of a row that a thread of [`rmsnorm_f16`] keeps in registers.
const KEPT: usize = 4;

/// The same of [`rmsnorm_f16_few`].
const KEPT_OF_FEW: usize = 2;

/// The block's number of threads.
pub const BLOCK: u32 = 256;

/// Threads of a block of [`rmsnorm_f16_few`] for rows of `n` values: a thread for each four, where so many can be.
pub const fn block_of_few(n: u32) -> u32 {
    let threads = n.div_ceil(4).next_multiple_of(32);
    if threads < MOST_OF_FEW { threads } else { MOST_OF_FEW }
}

/// The most threads of such a block.
const MOST_OF_FEW: u32 = 1024;

/// The exponent, as f32 has it, of the least factor of a row: 2^-60.
const LEAST_EXPONENT: u32 = 127 - 60;

/// out[row][i] = x[row][i] / √(mean(x[row]²) + epsilon) · weight[i]; without the weight where it is null. `out` may be `x`.
///
/// One block a row; its threads stride over the row twice, the second time from the cache.
/// Launch: grid (rows), block ([`BLOCK`]).
///
/// # Safety
/// - `x` and `out` are `[rows][n]`, `weight` is null or `[n]`, `n ≥ 1`.
#[kernel]
pub unsafe fn rmsnorm(x: *const f32, weight: *const f32, out: *mut f32, n: u32, epsilon: f32) {
    grid::launch_dependents_and_wait();
    let row = thread::block_idx_x() as usize * n as usize;
    let first = thread::thread_idx_x() as usize;
    let stride = thread::block_dim_x() as usize;
    // Zeros beyond the row, which change no sum.
    let load = |values: *const f32, index: usize| {
        let mut loaded = [0.0; AT_ONCE];
        unroll(
            AT_ONCE,
            #[inline(always)]
            |of| {
                let index = index + of * stride;
                if index < n as usize {
                    loaded[of] = unsafe { *values.add(index) };
                }
            },
        );
        loaded
    };
    let x = x.wrapping_add(row);
    let mut squares = 0.0;
    let mut index = first;
    while index < n as usize {
        let values = load(x, index);
        unroll(
            AT_ONCE,
            #[inline(always)]
            |of| squares = float::fma(values[of], values[of], squares),
        );
        index += AT_ONCE * stride;
    }
    let mean = block_sum(squares) / n as f32;
    let scale = float::reciprocal(float::sqrt(mean + epsilon));
    index = first;
    while index < n as usize {
        let values = load(x, index);
        let weights = if weight.is_null() { [1.0; AT_ONCE] } else { load(weight, index) };
        unroll(
            AT_ONCE,
            #[inline(always)]
            |of| {
                let index = index + of * stride;
                if index < n as usize {
                    unsafe { *out.add(row + index) = values[of] * scale * weights[of] }
                }
            },
        );
        index += AT_ONCE * stride;
    }
}

/// Four neighbouring values.
#[inline(always)]
unsafe fn four(values: *const f32, first: u32) -> [f32; 4] {
    let Vector16(bits) = unsafe { *values.add(first as usize).cast::<Vector16>() };
    bits.map(f32::from_bits)
}

#[inline(always)]
unsafe fn set_four(out: *mut f32, first: u32, values: [f32; 4]) {
    unsafe { *out.add(first as usize).cast::<Vector16>() = Vector16(values.map(f32::to_bits)) }
}

/// The mean square of a row's values, each times `factor`. Collective over the block.
#[inline(always)]
unsafe fn mean_square(x: *const f32, factor: f32, n: u32) -> f32 {
    let mut squares = 0.0;
    let mut first = 4 * thread::thread_idx_x();
    while first < n {
        let [a, b, c, d] = unsafe { four(x, first) }.map(|value| value * factor);
        squares = float::fma(a, a, float::fma(b, b, float::fma(c, c, float::fma(d, d, squares))));
        first += 4 * thread::block_dim_x();
    }
    block_sum(squares) / n as f32
}

/// A row's factor, where rows have some.
#[inline(always)]
unsafe fn factor_of(factors: *const f32, row: u32) -> f32 {
    if factors.is_null() { 1.0 } else { unsafe { *factors.add(row as usize) } }
}

/// out[row][i] = x[row][i] / √(mean(x[row]²) + epsilon) · weight[i] + residual[row][i], x[row] being `factors[row]` times what is
/// there, where `factors` is not null. `out` may be `x` or `residual`.
///
/// One block a row, four elements a thread at a time. Launch: grid (rows), block ([`BLOCK`]).
///
/// # Safety
/// - `x`, `residual` and `out` are `[rows][n]`, `weight` is `[n]`, all 16-byte aligned; `factors` is null or `[rows]`; `n` is a
///   multiple of 4, and not 0.
#[kernel]
pub unsafe fn rmsnorm_add(
    x: *const f32,
    factors: *const f32,
    weight: *const f32,
    residual: *const f32,
    out: *mut f32,
    n: u32,
    epsilon: f32,
) {
    grid::launch_dependents_and_wait();
    let row = thread::block_idx_x();
    let factor = unsafe { factor_of(factors, row) };
    let start = row as usize * n as usize;
    let (x, residual, out) = (x.wrapping_add(start), residual.wrapping_add(start), out.wrapping_add(start));
    let scale = float::reciprocal(float::sqrt(unsafe { mean_square(x, factor, n) } + epsilon));
    let mut first = 4 * thread::thread_idx_x();
    while first < n {
        unsafe {
            let (x, weight, residual) = (four(x, first), four(weight, first), four(residual, first));
            let value = |index: usize| float::fma(x[index] * factor * scale, weight[index], residual[index]);
            set_four(out, first, [value(0), value(1), value(2), value(3)]);
        }
        first += 4 * thread::block_dim_x();
    }
}

/// In place, of rows of queries, keys and values beside each other, `n_q`, `n_k` and `n_k` of them: queries and keys become
/// x / √(mean(x²) + epsilon) · weight, each over all of its heads, where its weight is not null; and all are `factors[row]` times what
/// was there, where `factors` is not null.
///
/// One block a row's queries, keys or values. Launch: grid (3, rows), or (2, rows) without `factors`; block ([`BLOCK`]).
///
/// # Safety
/// - `x` is `[rows][stride]`, `q_weight` null or `[n_q]`, `k_weight` null or `[n_k]`, all 16-byte aligned; `factors` is null or
///   `[rows]`; `n_q`, `n_k` and `stride` are multiples of 4, none of them 0, n_q + 2 n_k ≤ stride.
#[kernel]
pub unsafe fn rmsnorm_qk(
    x: *mut f32,
    factors: *const f32,
    q_weight: *const f32,
    k_weight: *const f32,
    n_q: u32,
    n_k: u32,
    stride: u32,
    epsilon: f32,
) {
    grid::launch_dependents_and_wait();
    let (part, row) = (thread::block_idx_x(), thread::block_idx_y());
    let (start, n, weight) = match part {
        0 => (0, n_q, q_weight),
        1 => (n_q, n_k, k_weight),
        _ => (n_q + n_k, n_k, core::ptr::null()),
    };
    let factor = unsafe { factor_of(factors, row) };
    let x = x.wrapping_add(row as usize * stride as usize + start as usize);
    let scale = if weight.is_null() {
        1.0
    } else {
        float::reciprocal(float::sqrt(unsafe { mean_square(x, factor, n) } + epsilon))
    };
    let mut first = 4 * thread::thread_idx_x();
    while first < n {
        unsafe {
            let weight = if weight.is_null() { [1.0; 4] } else { four(weight, first) };
            let x_there = four(x, first);
            let value = |index: usize| x_there[index] * factor * scale * weight[index];
            set_four(x, first, [value(0), value(1), value(2), value(3)]);
        }
        first += 4 * thread::block_dim_x();
    }
}

/// factors[row] = the power of two above √mean(x[row]²), but no less than 2^-60, and out[row] = x[row] / factors[row], rounded to f16: the input of a matrix
/// product of values that nothing is known to bound. The row that is left is no longer than √n, as a normalised one.
///
/// One block a row, four elements a thread at a time. Launch: grid (rows), block ([`BLOCK`]).
///
/// # Safety
/// - `x` and `out` are `[rows][n]`, 16-byte aligned; `factors` is `[rows]`; `n` is a multiple of 4, and not 0.
#[kernel]
pub unsafe fn rmsnorm_power_f16(x: *const f32, out: *mut F16, factors: *mut f32, n: u32) {
    grid::launch_dependents_and_wait();
    let row = thread::block_idx_x();
    let start = row as usize * n as usize;
    let (x, out) = (x.wrapping_add(start), out.wrapping_add(start));
    let root = float::sqrt(unsafe { mean_square(x, 1.0, n) });
    // One more in the exponent, with the inverse a normal number as well. What is below 2^-60 has squares that f32 does not hold.
    let exponent = ((root.to_bits() >> 23) + 1).clamp(LEAST_EXPONENT, 253);
    let (factor, inverse) = (f32::from_bits(exponent << 23), f32::from_bits((254 - exponent) << 23));
    let mut first = 4 * thread::thread_idx_x();
    while first < n {
        let [a, b, c, d] = unsafe { four(x, first) }.map(|value| value * inverse);
        let (low, high) = (F16::pack(a, b), F16::pack(c, d));
        unsafe { *out.add(first as usize).cast::<u64>() = u64::from(high) << 32 | u64::from(low) }
        first += 4 * thread::block_dim_x();
    }
    if thread::thread_idx_x() == 0 {
        unsafe { *factors.add(row as usize) = factor }
    }
}

/// The norm to f16 of one row of the grid's, by a block of any size, whose threads keep so many fours in registers.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
unsafe fn to_f16<const KEPT: usize>(
    x: *const f32,
    weight: *const f32,
    out: *mut F16,
    n: u32,
    epsilon: f32,
    out_scale: f32,
    in_steps: u32,
) {
    grid::launch_dependents();
    let threads = thread::block_dim_x();
    let first_of = |index: usize| 4 * (thread::thread_idx_x() + index as u32 * threads);
    // Zeros beyond the row.
    let load = |values: *const f32| {
        let mut loaded = [[0.0; 4]; KEPT];
        unroll(
            KEPT,
            #[inline(always)]
            |index| {
                if first_of(index) < n {
                    loaded[index] = unsafe { four(values, first_of(index)) };
                }
            },
        );
        loaded
    };
    let weights = load(weight);
    grid::wait();
    let (row, n_rows) = (thread::block_idx_x(), thread::grid_dim_x());
    let start = row as usize * n as usize;
    let x = x.wrapping_add(start);
    let kept = load(x);
    let mut squares = 0.0;
    let mut add = |[a, b, c, d]: [f32; 4]| {
        squares = float::fma(a, a, float::fma(b, b, float::fma(c, c, float::fma(d, d, squares))));
    };
    unroll(
        KEPT,
        #[inline(always)]
        |index| add(kept[index]),
    );
    let mut first = first_of(KEPT);
    while first < n {
        add(unsafe { four(x, first) });
        first += 4 * threads;
    }
    let scale = float::reciprocal(float::sqrt(block_sum(squares) / n as f32 + epsilon)) * out_scale;
    let set = |first: u32, [a, b, c, d]: [f32; 4], [e, f, g, h]: [f32; 4]| {
        let (a, b, c, d) = (a * scale * e, b * scale * f, c * scale * g, d * scale * h);
        if in_steps == 0 {
            let (low, high) = (F16::pack(a, b), F16::pack(c, d));
            unsafe { *out.add(start + first as usize).cast::<u64>() = u64::from(high) << 32 | u64::from(low) }
        } else {
            let [even, odd] = steps::pairs(row, first, n_rows);
            unsafe {
                *out.add(even as usize).cast::<u32>() = F16::pack(a, c);
                *out.add(odd as usize).cast::<u32>() = F16::pack(b, d);
            }
        }
    };
    unroll(
        KEPT,
        #[inline(always)]
        |index| {
            if first_of(index) < n {
                set(first_of(index), kept[index], weights[index]);
            }
        },
    );
    first = first_of(KEPT);
    while first < n {
        unsafe { set(first, four(x, first), four(weight, first)) }
        first += 4 * threads;
    }
}

/// out[row][i] = x[row][i] / √(mean(x[row]²) + epsilon) · weight[i] · out_scale, rounded to f16: the input of a matrix product, in [steps](crate::gemm::steps)
/// where `in_steps` is not 0.
///
/// One block a row, four elements a thread at a time, of which [`KEPT`] stay in registers; their weights are loaded before the wait.
/// Launch: grid (rows), block ([`BLOCK`]).
///
/// # Safety
/// - `x` and `out` are `[rows][n]`, `weight` is `[n]`, all 16-byte aligned; `n` is a multiple of 4, and not 0; with `in_steps` a multiple of 128. No launch that
///   this one may overlap with writes `weight`.
#[kernel]
pub unsafe fn rmsnorm_f16(
    x: *const f32,
    weight: *const f32,
    out: *mut F16,
    n: u32,
    epsilon: f32,
    out_scale: f32,
    in_steps: u32,
) {
    unsafe { to_f16::<KEPT>(x, weight, out, n, epsilon, out_scale, in_steps) }
}

/// The same for steps of some sequences: where rows are fewer than multiprocessors, they wait for what a thread does one after the other, and not for bytes.
/// Its last bits are others, as it adds up in another order, so a step has it whatever its number of rows.
///
/// Launch: grid (rows), block ([`block_of_few`] (n)).
///
/// # Safety
/// - As [`rmsnorm_f16`].
#[kernel(threads = 1024, blocks = 1)]
pub unsafe fn rmsnorm_f16_few(
    x: *const f32,
    weight: *const f32,
    out: *mut F16,
    n: u32,
    epsilon: f32,
    out_scale: f32,
    in_steps: u32,
) {
    unsafe { to_f16::<KEPT_OF_FEW>(x, weight, out, n, epsilon, out_scale, in_steps) }
}
