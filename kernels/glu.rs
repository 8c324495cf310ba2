//! Gated linear units (Shazeer, 2020): an activation of the gate times the up projection.
//!
//! Each of the activations here is the gate times a sigmoid σ(a) = 1 / (1 + e^-a), of the gate itself or of something made
//! from it, so one kernel has them all:
//!
//! | activation | out |
//! |---|---|
//! | [`SWIGLU`] | gate · σ(gate) · up |
//! | [`GEGLU`] | gate · σ(2u) · up, u = √(2/π) · (gate + 0.044715 · gate³): GELU in its tanh form, as (1 + tanh u) / 2 = σ(2u) |
//! | [`SWIGLU_CLAMPED`] | g · σ(1.702 · g) · (u + 1), g = min(gate, 7), u = up held within ±7: gpt-oss's |

use cuda_std::{F16, float, grid, kernel, memory::Vector16, mma::Operand, thread, types::Element};

/// The block's number of threads.
pub const BLOCK: u32 = 256;

/// Elements that a thread of `glu_f16` computes.
pub const GROUP: usize = 8;

/// The gate by its own sigmoid (SiLU).
pub const SWIGLU: u32 = 0;
/// The gate by GELU in its tanh form.
pub const GEGLU: u32 = 1;
/// gpt-oss's, with both inputs held within limits.
pub const SWIGLU_CLAMPED: u32 = 2;

/// What [`SWIGLU_CLAMPED`] holds its inputs within.
pub const LIMIT: f32 = 7.0;
/// What the gate is multiplied by in [`SWIGLU_CLAMPED`]'s sigmoid.
pub const ALPHA: f32 = 1.702;

/// 2 · √(2/π): GELU's sigmoid is of 2u.
const GELU: f64 = 1.595_769_121_605_730_8;
const GELU_LINEAR: f32 = GELU as f32;
const GELU_CUBIC: f32 = (GELU * 0.044_715) as f32;

/// Beyond ±100 e^value is 0 or infinite in f32; `float::exp` itself is for arguments below 10^9, which cubes are not.
const EXP_LIMIT: f32 = 100.0;

/// `value` held within ±limit; a NaN stays one.
#[inline(always)]
fn hold(value: f32, limit: f32) -> f32 {
    let value = if value > limit { limit } else { value };
    if value < -limit { -limit } else { value }
}

/// 1 + e^-value: what σ(value) is one by. It is infinite for values below -88, and the quotient then the limit, zero.
#[inline(always)]
fn divisor(value: f32) -> f32 {
    1.0 + float::exp(-hold(value, EXP_LIMIT))
}

/// σ(value).
#[inline(always)]
pub fn sigmoid(value: f32) -> f32 {
    float::reciprocal(divisor(value))
}

/// gate / (1 + e^-gate).
#[inline(always)]
pub fn silu(gate: f32) -> f32 {
    // e^-g overflows to infinity for g below -88, and the quotient is then the limit, zero.
    gate / (1.0 + float::exp(-gate))
}

/// What the activation multiplies: the gate, σ's argument, the up projection.
#[inline(always)]
fn factors(activation: u32, gate: f32, up: f32) -> (f32, f32, f32) {
    match activation {
        GEGLU => (gate, gate * float::fma(gate * gate, GELU_CUBIC, GELU_LINEAR), up),
        SWIGLU_CLAMPED => {
            let gate = if gate > LIMIT { LIMIT } else { gate };
            (gate, ALPHA * gate, hold(up, LIMIT) + 1.0)
        }
        _ => (gate, gate, up),
    }
}

/// The unit of one gate and its up projection.
#[inline(always)]
pub fn unit(activation: u32, gate: f32, up: f32) -> f32 {
    let (gate, argument, up) = factors(activation, gate, up);
    gate / divisor(argument) * up
}

/// The unit of one gate and its up projection, times `out_scale`, for a value in f16: the approximations' errors are far below that's rounding.
#[inline(always)]
pub fn unit_for_f16(activation: u32, gate: f32, up: f32, out_scale: f32) -> f32 {
    let (gate, argument, up) = factors(activation, gate, up);
    // e^-a beyond f32 is infinite, and the quotient then zero.
    let power = float::exp2_approx_flushed(-core::f32::consts::LOG2_E * argument);
    gate * float::reciprocal_approx(1.0 + power) * (up * out_scale)
}

/// out[i] = the unit of gate[i] and up[i]. `out` may be `gate` or `up`.
///
/// One thread an element. Launch: grid (⌈n ÷ BLOCK⌉), block ([`BLOCK`]).
///
/// # Safety
/// - `gate`, `up` and `out` hold `n` values; `activation` is one of this module's.
#[kernel]
pub unsafe fn glu(gate: *const f32, up: *const f32, out: *mut f32, n: u32, activation: u32) {
    grid::launch_dependents_and_wait();
    let index = thread::index_1d();
    if index >= n {
        return;
    }
    let index = index as usize;
    unsafe { *out.add(index) = unit(activation, *gate.add(index), *up.add(index)) }
}

/// out[token][i] = the unit · out_scale in f16, gate and up being in_scale · gate_up[token][i] and
/// in_scale · gate_up[token][n + i].
///
/// A thread takes [`GROUP`] elements. Launch: grid (⌈n ÷ GROUP ÷ BLOCK⌉, n_tokens), block ([`BLOCK`]).
///
/// # Safety
/// - `gate_up` is `[n_tokens][2 n]`, `out` is `[n_tokens][n]`, both 16-byte aligned; `n` is a multiple of [`GROUP`];
///   `activation` is one of this module's.
#[kernel]
pub unsafe fn glu_f16(gate_up: *const F16, out: *mut F16, n: u32, activation: u32, in_scale: f32, out_scale: f32) {
    grid::launch_dependents_and_wait();
    unsafe { eight(gate_up, out, n, activation, in_scale, out_scale) }
}

/// [`glu_f16`] of rows that are `factors[token]` times what is there, into rows that each have a scale of their own: the unit is
/// out_factors[token] · out[token], the factor a power of two, no less than 1, and such that nothing is beyond f16's range: `headroom`
/// is the largest power of two by which what the unit can be at most may be multiplied where the factor is at most 1, and it grows
/// no faster than the factor's square.
///
/// Launch: as [`glu_f16`].
///
/// # Safety
/// - As for [`glu_f16`]; `factors` and `out_factors` are `[n_tokens]`, the factors powers of two.
#[kernel]
pub unsafe fn glu_rows_f16(
    gate_up: *const F16,
    factors: *const f32,
    out: *mut F16,
    out_factors: *mut f32,
    n: u32,
    activation: u32,
    in_scale: f32,
    headroom: f32,
) {
    grid::launch_dependents_and_wait();
    let token = thread::block_idx_y() as usize;
    let factor = unsafe { *factors.add(token) };
    let out_factor = float::max(1.0, float::max(1.0, factor * factor) / headroom);
    if thread::index_1d() == 0 {
        unsafe { *out_factors.add(token) = out_factor }
    }
    unsafe { eight(gate_up, out, n, activation, in_scale * factor, float::reciprocal(out_factor)) }
}

/// The thread's [`GROUP`] elements of its token.
#[inline(always)]
unsafe fn eight(gate_up: *const F16, out: *mut F16, n: u32, activation: u32, in_scale: f32, out_scale: f32) {
    let first = thread::index_1d() * GROUP as u32;
    if first >= n {
        return;
    }
    let token = thread::block_idx_y() as usize;
    let (first, n) = (first as usize, n as usize);
    let gate = gate_up.wrapping_add(token * 2 * n + first);
    let out = out.wrapping_add(token * n + first);
    let (Vector16(gate), Vector16(up)) = unsafe { (*gate.cast::<Vector16>(), *gate.add(n).cast::<Vector16>()) };
    let value = |index: usize| {
        let (gate, up) = (F16::of_vector(gate, index) * in_scale, F16::of_vector(up, index) * in_scale);
        unit_for_f16(activation, gate, up, out_scale)
    };
    let pair = |index: usize| F16::pack(value(index), value(index + 1));
    unsafe { *out.cast::<Vector16>() = Vector16([pair(0), pair(2), pair(4), pair(6)]) }
}
