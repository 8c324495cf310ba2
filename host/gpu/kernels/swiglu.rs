//! Launches the kernel in `kernels/swiglu.rs`.

use kernels::swiglu::{BLOCK, swiglu};

use super::{count, expect_len};
use crate::gpu::{Gpu, GpuError, Slice};

impl Gpu {
    /// out[i] = silu(gate[i]) · up[i] for the first `n`; `out` may be `gate` or `up`.
    pub fn swiglu(&self, gate: &Slice<f32>, up: &Slice<f32>, out: &Slice<f32>, n: usize) -> Result<(), GpuError> {
        expect_len("gate", gate, n);
        expect_len("up", up, n);
        expect_len("out", out, n);
        // SAFETY: the slices hold what the contract asks for.
        unsafe { self.launch(swiglu, [count(n.div_ceil(BLOCK as usize)), 1, 1], BLOCK, (gate, up, out, count(n))) }
    }
}
