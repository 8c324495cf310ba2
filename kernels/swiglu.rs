//! SwiGLU (Shazeer, 2020): silu(gate) · up, where silu(g) = g / (1 + e^-g).

use cuda_std::{float, kernel, thread};

/// The block's number of threads.
pub const BLOCK: u32 = 256;

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
