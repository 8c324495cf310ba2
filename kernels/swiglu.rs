//! SwiGLU (Shazeer, 2020): silu(gate) · up, where silu(g) = g / (1 + e^-g).

use cuda_std::{float, kernel, thread};

/// The block's number of threads.
pub const BLOCK: u32 = 256;

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
        let gate = *gate.add(index as usize);
        // e^-g overflows to infinity for g below -88, and the quotient is then the limit, zero.
        let silu = gate / (1.0 + float::exp(-gate));
        *out.add(index as usize) = silu * *up.add(index as usize);
    }
}
