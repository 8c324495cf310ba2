//! What is done to every value by itself: scaling, adding, soft caps, sigmoid gates, growth by position, taking rows out of wider ones and
//! joining them.

use cuda_std::{float, grid, kernel, thread};

use crate::glu::sigmoid;

/// The block's number of threads.
pub const BLOCK: u32 = 256;

/// Writes `value(i)` to out[i] for the thread's `i`, if it is below `n`.
#[inline(always)]
unsafe fn each(out: *mut f32, n: u32, value: impl Fn(usize) -> f32) {
    let index = thread::index_1d();
    if index < n {
        unsafe { *out.add(index as usize) = value(index as usize) }
    }
}

/// out[i] = factor · x[i]. `out` may be `x`.
///
/// One thread an element. Launch: grid (⌈n ÷ BLOCK⌉), block ([`BLOCK`]).
///
/// # Safety
/// - `x` and `out` hold `n` values.
#[kernel]
pub unsafe fn elementwise_scale(x: *const f32, out: *mut f32, n: u32, factor: f32) {
    grid::launch_dependents_and_wait();
    unsafe { each(out, n, |index| factor * *x.add(index)) }
}

/// out[i] = a[i] + factor · b[i]. `out` may be `a` or `b`.
///
/// One thread an element. Launch: grid (⌈n ÷ BLOCK⌉), block ([`BLOCK`]).
///
/// # Safety
/// - `a`, `b` and `out` hold `n` values.
#[kernel]
pub unsafe fn elementwise_add_scaled(a: *const f32, b: *const f32, out: *mut f32, n: u32, factor: f32) {
    grid::launch_dependents_and_wait();
    unsafe { each(out, n, |index| float::fma(factor, *b.add(index), *a.add(index))) }
}

/// out[i] = cap · tanh(x[i] / cap). `out` may be `x`.
///
/// One thread an element. Launch: grid (⌈n ÷ BLOCK⌉), block ([`BLOCK`]).
///
/// # Safety
/// - `x` and `out` hold `n` values; `cap > 0`.
#[kernel]
pub unsafe fn elementwise_soft_cap(x: *const f32, out: *mut f32, n: u32, cap: f32) {
    grid::launch_dependents_and_wait();
    unsafe { each(out, n, |index| cap * float::tanh(*x.add(index) / cap)) }
}

/// out[row][i] = x[row][i] · σ(gate[row · gate_stride + i · gate_step]): a gate for each value (`gate_step` 1), or one for
/// a row (0). `out` may be `x`.
///
/// One thread an element. Launch: grid (⌈width ÷ BLOCK⌉, rows), block ([`BLOCK`]).
///
/// # Safety
/// - `x` and `out` are `[rows][width]`; `gate` holds (rows − 1) · gate_stride + (width − 1) · gate_step + 1 values.
#[kernel]
pub unsafe fn elementwise_multiply_sigmoid(
    x: *const f32,
    gate: *const f32,
    out: *mut f32,
    width: u32,
    gate_stride: u32,
    gate_step: u32,
) {
    grid::launch_dependents_and_wait();
    let row = thread::block_idx_y() as usize;
    let (x, out) = (x.wrapping_add(row * width as usize), out.wrapping_add(row * width as usize));
    let gate = gate.wrapping_add(row * gate_stride as usize);
    unsafe { each(out, width, |index| *x.add(index) * sigmoid(*gate.add(index * gate_step as usize))) }
}

/// out[row][i] = x[row · stride + i] for the first `width` values of each row: one part of rows that hold several.
///
/// One thread an element. Launch: grid (⌈width ÷ BLOCK⌉, rows), block ([`BLOCK`]).
///
/// # Safety
/// - `x` holds (rows − 1) · stride + width values, `out` is `[rows][width]`; they do not overlap.
#[kernel]
pub unsafe fn elementwise_take_columns(x: *const f32, out: *mut f32, width: u32, stride: u32) {
    grid::launch_dependents_and_wait();
    let row = thread::block_idx_y() as usize;
    let (x, out) = (x.wrapping_add(row * stride as usize), out.wrapping_add(row * width as usize));
    unsafe { each(out, width, |index| *x.add(index)) }
}

/// out[row] = a[row], then b[row]: rows of `a_width` and of `b_width` values beside each other.
///
/// One thread an element. Launch: grid (⌈(a_width + b_width) ÷ BLOCK⌉, rows), block ([`BLOCK`]).
///
/// # Safety
/// - `a` is `[rows][a_width]`, `b` is `[rows][b_width]`, `out` is `[rows][a_width + b_width]` and overlaps neither.
#[kernel]
pub unsafe fn elementwise_join(a: *const f32, b: *const f32, out: *mut f32, a_width: u32, b_width: u32) {
    grid::launch_dependents_and_wait();
    let (row, a_width, b_width) = (thread::block_idx_y() as usize, a_width as usize, b_width as usize);
    let width = a_width + b_width;
    let (a, b) = (a.wrapping_add(row * a_width), b.wrapping_add(row * b_width));
    let value = |index: usize| unsafe { if index < a_width { *a.add(index) } else { *b.add(index - a_width) } };
    unsafe { each(out.wrapping_add(row * width), width as u32, value) }
}

/// What queries grow by at a position: 1 + scale · ln(⌊position ÷ length⌋ + 1).
///
/// # Safety
/// - `length` is not 0.
#[inline(always)]
pub unsafe fn growth(position: u32, scale: f32, length: u32) -> f32 {
    // SAFETY: as the caller promises; said here so that the division is not guarded by a panic.
    unsafe { core::hint::assert_unchecked(length > 0) }
    // ln is log2 · ln 2; of 1 it is 0 exactly.
    let turns = position / length + 1;
    float::fma(scale, float::log2_approx(turns as f32) * core::f32::consts::LN_2, 1.0)
}

/// out[token][i] = x[token][i] · (1 + scale · ln(⌊positions[token] ÷ length⌋ + 1)). `out` may be `x`.
///
/// One thread an element. Launch: grid (⌈width ÷ BLOCK⌉, n_tokens), block ([`BLOCK`]).
///
/// # Safety
/// - `x` and `out` are `[n_tokens][width]`, `positions` is `[n_tokens]`; `length ≥ 1`.
#[kernel]
pub unsafe fn elementwise_temper(
    x: *const f32,
    positions: *const u32,
    out: *mut f32,
    width: u32,
    scale: f32,
    length: u32,
) {
    grid::launch_dependents_and_wait();
    let token = thread::block_idx_y() as usize;
    let (x, out) = (x.wrapping_add(token * width as usize), out.wrapping_add(token * width as usize));
    // SAFETY: the length is not zero by the launch contract.
    let factor = unsafe { growth(*positions.add(token), scale, length) };
    unsafe { each(out, width, |index| *x.add(index) * factor) }
}
