//! Launches the kernels in `kernels/blocks/` that have no counterpart for plain floats, and finds the others.

use half::f16;
use kernels::blocks::{BLOCK, BlockKernels, FORMATS, GROUP};

use super::{count, expect_len};
use crate::{
    gguf::TensorType,
    gpu::{Gpu, GpuError, Slice, Weights},
};

/// The kernels of a quantised type.
///
/// # Panics
/// Where there are none: every quantised type has its row in the kernels' table, as a test holds.
pub fn block_kernels(tensor_type: TensorType) -> &'static BlockKernels {
    let found = FORMATS.iter().find(|format| format.name == tensor_type.name());
    found.unwrap_or_else(|| panic!("no kernels for blocks of {tensor_type}"))
}

impl Gpu {
    /// out = the values of a quantised matrix in f16, `[n_out][n_in]`.
    pub fn dequantise(&self, weights: &Weights, out: &Slice<f16>) -> Result<(), GpuError> {
        let n = weights.n_out * weights.n_in;
        expect_len("out", out, n);
        let grid = [count(n.div_ceil(GROUP * BLOCK as usize)), 1, 1];
        let kernel = block_kernels(weights.tensor_type).dequantise;
        // SAFETY: the slices hold what the contract asks for; rows are whole blocks, as the file's reader checked.
        unsafe { self.launch(kernel, grid, BLOCK, (&*weights.data, out, n as u64)) }
    }
}
