//! SwiGLU (Shazeer, 2020): silu(gate) · up, where silu(g) = g / (1 + e^-g).

use cuda_std::{F16, float, grid, kernel, memory::Vector16, mma::Operand, thread, types::Element};

/// The block's number of threads.
pub const BLOCK: u32 = 256;

/// Elements that a thread of `swiglu_f16` computes.
pub const GROUP: usize = 8;

/// gate / (1 + e^-gate).
#[inline(always)]
pub fn silu(gate: f32) -> f32 {
    // e^-g overflows to infinity for g below -88, and the quotient is then the limit, zero.
    gate / (1.0 + float::exp(-gate))
}

/// out[i] = silu(gate[i]) · up[i]. `out` may be `gate` or `up`.
///
/// One thread an element. Launch: grid (⌈n ÷ BLOCK⌉), block ([`BLOCK`]).
///
/// # Safety
/// - `gate`, `up` and `out` hold `n` values.
#[kernel]
pub unsafe fn swiglu(gate: *const f32, up: *const f32, out: *mut f32, n: u32) {
    let index = thread::index_1d();
    if index >= n {
        return;
    }
    unsafe {
        *out.add(index as usize) = silu(*gate.add(index as usize)) * *up.add(index as usize);
    }
}

/// out[token][i] = silu(gate) · up · out_scale in f16, gate and up being in_scale · gate_up[token][i] and
/// in_scale · gate_up[token][n + i].
///
/// A thread takes [`GROUP`] elements. Launch: grid (⌈n ÷ GROUP ÷ BLOCK⌉, n_tokens), block ([`BLOCK`]).
///
/// # Safety
/// - `gate_up` is `[n_tokens][2 n]`, `out` is `[n_tokens][n]`, both 16-byte aligned; `n` is a multiple of [`GROUP`].
#[kernel]
pub unsafe fn swiglu_f16(gate_up: *const F16, out: *mut F16, n: u32, in_scale: f32, out_scale: f32) {
    grid::launch_dependents();
    grid::wait();
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
        // The approximations' errors are far below f16's rounding. e^-g beyond f32 is infinite, and the quotient then zero.
        let power = float::exp2_approx_flushed(-core::f32::consts::LOG2_E * gate);
        gate * float::reciprocal_approx(1.0 + power) * (up * out_scale)
    };
    let pair = |index: usize| F16::pack(value(index), value(index + 1));
    unsafe { *out.cast::<Vector16>() = Vector16([pair(0), pair(2), pair(4), pair(6)]) }
}
