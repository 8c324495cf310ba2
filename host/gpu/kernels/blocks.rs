//! Launches the kernels in `kernels/blocks/` other than products, and finds a format's.

use half::f16;
use kernels::blocks::{BLOCK, BlockKernels, FORMATS, GROUP, arrange, block_bytes};

use super::{count, expect_len};
use crate::{
    gguf::TensorType,
    gpu::{Gpu, GpuError, Rows, Slice, weights::targets},
};

/// The kernels of a quantised type, and how its blocks lie on the device.
///
/// # Panics
/// Where there are none: every quantised type has its row in the kernels' table, as a test holds.
pub fn block_format(tensor_type: TensorType) -> &'static BlockKernels {
    let found = FORMATS.iter().find(|format| format.tensor_type == tensor_type.id());
    found.unwrap_or_else(|| panic!("no kernels for blocks of {tensor_type}"))
}

impl Gpu {
    /// out = the values of a quantised matrix in f16, `[n_out][n_in]`.
    pub fn dequantise(&self, weights: Rows, out: &Slice<f16>) -> Result<(), GpuError> {
        let n = weights.n_out * weights.n_in();
        expect_len("out", out, n);
        let grid = [count(n.div_ceil(GROUP * BLOCK as usize)), 1, 1];
        let kernel = block_format(weights.tensor_type()).dequantise;
        let first = weights.first() * weights.blocks_of_row();
        let arguments = (&*weights.part(), count(weights.blocks_of_part()), count(first), out, n as u64);
        // SAFETY: the slices hold what the contract asks for; rows are whole blocks, as the file's reader checked.
        unsafe { self.launch(kernel, grid, BLOCK, arguments) }
    }

    /// Puts blocks, as they lie in a file, in their places in a part, the first of them as the part's block `first`.
    pub fn arrange(
        &self,
        tensor_type: TensorType,
        blocks: &Slice<u8>,
        part: &Slice<u8>,
        first: usize,
    ) -> Result<(), GpuError> {
        let bytes = block_bytes(block_format(tensor_type).planes);
        assert!(blocks.len().is_multiple_of(bytes), "{} bytes of blocks of {bytes}", blocks.len());
        let n_blocks = blocks.len() / bytes;
        for (plane, field) in targets(tensor_type, part, first..first + n_blocks) {
            let grid = [count(plane.len().div_ceil(BLOCK as usize)), 1, 1];
            let (offset, size) = (count(field.offset), count(field.size));
            let arguments = (blocks, &*plane, count(n_blocks), count(bytes), offset, size, field.order as u32);
            // SAFETY: `plane` has room for a field of each of the blocks; the field lies within a block.
            unsafe { self.launch(arrange, grid, BLOCK, arguments)? }
        }
        Ok(())
    }
}
