//! Launches the kernels in `kernels/embedding.rs`.

use half::{bf16, f16};
use kernels::embedding::{BLOCK, embedding_bf16, embedding_f16, embedding_f32};

use super::blocks::block_format;
use super::{count, expect_len};
use crate::{
    gguf::TensorType,
    gpu::{Gpu, GpuError, Rows, Slice, launch::Launch},
};

impl Gpu {
    /// out[token] = the table's row tokens[token]: `[n_tokens][n_in]` of a table `[n_out][n_in]`, the table's rows being
    /// the vocabulary. The tokens are below the table's number of rows.
    pub fn embedding(
        &self,
        table: Rows,
        tokens: &Slice<u32>,
        out: &Slice<f32>,
        n_tokens: usize,
    ) -> Result<(), GpuError> {
        expect_len("tokens", tokens, n_tokens);
        expect_len("out", out, n_tokens * table.n_in());
        let (grid, n_embd) = ([count(n_tokens), 1, 1], count(table.n_in()));
        let launch = Launch::new(grid, BLOCK).early();
        // SAFETY: the slices hold what the contract asks for; the tokens are the caller's promise.
        unsafe {
            match table.tensor_type() {
                TensorType::F32 => {
                    self.launch_as(embedding_f32, launch, (&*table.floats().cast::<f32>(), tokens, out, n_embd))
                }
                TensorType::F16 => {
                    self.launch_as(embedding_f16, launch, (&*table.floats().cast::<f16>(), tokens, out, n_embd))
                }
                TensorType::BF16 => {
                    self.launch_as(embedding_bf16, launch, (&*table.floats().cast::<bf16>(), tokens, out, n_embd))
                }
                packed => {
                    let kernel = block_format(packed).embedding;
                    assert_eq!(table.first(), 0, "a table is a part of its own");
                    let arguments = (&*table.part(), count(table.blocks_of_part()), tokens, out, n_embd);
                    self.launch_as(kernel, Launch::new(grid, kernels::blocks::BLOCK).early(), arguments)
                }
            }
        }
    }
}
