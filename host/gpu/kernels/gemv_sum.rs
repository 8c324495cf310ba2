//! Launches the products of a token with its experts that are added up, in `kernels/gemv/sum.rs`.

use cuda_std::Kernel;
use kernels::gemv::{
    MAX_WARPS, ROWS,
    sum::{SumParameters, gemv_sum_bf16, gemv_sum_f16, shared_bytes},
};

use super::{
    blocks::block_format,
    count, expect_aligned, expect_len,
    gemv::{FLOATS_RESIDENT, Input, quantised_len},
};
use crate::{
    gguf::TensorType,
    gpu::{Gpu, GpuError, Rows, Slice, launch::Launch},
};

/// Dynamic shared memory of a block, at most: every device since Ampere has room for one, and those of data centres for two.
const SHARED_ROOM: u32 = 96 << 10;

/// One launch: out = Σ weights · (W\[expert\] · x) and what is added.
#[derive(Clone, Copy)]
pub struct GemvSum<'a> {
    /// The stack, `[n_experts][n_out][n_in]`.
    pub stack: Rows<'a>,
    /// `[n_tokens][n_used][n_in]`: 8-bit vectors one behind the other where the stack is quantised, else floats.
    pub x: Input<'a>,
    /// `[n_tokens][n_used]`, each below the stack's height.
    pub experts: &'a Slice<u32>,
    /// `[n_tokens][n_used]`.
    pub weights: &'a Slice<f32>,
    /// As `out`, which it may be.
    pub residual: Option<&'a Slice<f32>>,
    /// `[n_tokens][n_out]`.
    pub out: &'a Slice<f32>,
    /// How many experts a token uses.
    pub n_used: usize,
}

/// How the warps of a block have a token's experts among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Teams {
    /// Warps of a team, which has four rows of every expert at a time.
    team: u32,
    /// Teams of a block.
    n_teams: u32,
}

impl Teams {
    /// An expert to a warp or, where they are more than a block's warps, as evenly many as can be.
    fn new(n_used: usize) -> Teams {
        let turns = n_used.div_ceil(MAX_WARPS as usize);
        let team = count(n_used.div_ceil(turns));
        Teams { team, n_teams: MAX_WARPS / team }
    }
}

/// The kernel for experts of a type, where there is one, and blocks of it that a multiprocessor has room for.
fn kernel_of(tensor_type: TensorType) -> Option<(Kernel<SumParameters>, usize)> {
    match tensor_type {
        TensorType::F32 => None,
        TensorType::F16 => Some((gemv_sum_f16, FLOATS_RESIDENT)),
        TensorType::BF16 => Some((gemv_sum_bf16, FLOATS_RESIDENT)),
        packed => block_format(packed).gemv_sum.map(|kernel| (kernel, block_format(packed).resident)),
    }
}

impl Gpu {
    /// Whether there are such products with experts of this type, of which a token uses `n_used`: those of types that mixtures have are, and a block has
    /// the vectors of all of a token's.
    pub fn has_gemv_sum(tensor_type: TensorType, n_in: usize, n_used: usize) -> bool {
        let whole = tensor_type.is_quantised() || n_in.is_multiple_of(8);
        let n_teams = Teams::new(n_used).n_teams;
        let bytes = |n_in| shared_bytes(n_in, count(n_used), n_teams, tensor_type.is_quantised());
        // 32 bits hold the bytes of vectors that are no longer than this.
        kernel_of(tensor_type).is_some() && n_in <= SHARED_ROOM as usize && whole && bytes(count(n_in)) <= SHARED_ROOM
    }

    /// Enqueues the products of `n_tokens` tokens with their experts, each token's added up by weight in the order of its experts.
    pub fn gemv_sum(&self, sum: &GemvSum, n_tokens: usize) -> Result<(), GpuError> {
        let GemvSum { stack, x, experts, weights, residual, out, n_used } = *sum;
        let (tensor_type, n_in, n_out) = (stack.tensor_type(), stack.n_in(), stack.n_out);
        assert!(Gpu::has_gemv_sum(tensor_type, n_in, n_used), "{n_used} experts of {n_in} {tensor_type} columns");
        let n_pairs = n_tokens * n_used;
        let (x_f32, x_q8) = match x {
            Input::F32(x) => {
                assert!(!tensor_type.is_quantised(), "{tensor_type} is multiplied with 8-bit vectors");
                expect_aligned("x", x);
                expect_len("x", x, n_pairs * n_in);
                (Some(x.cast::<u32>()), None)
            }
            Input::Quantised(x) => {
                assert!(tensor_type.is_quantised(), "{tensor_type} is multiplied with floats");
                expect_aligned("x", x);
                expect_len("x", x, n_pairs * quantised_len(n_in));
                (None, Some(x))
            }
        };
        expect_len("experts", experts, n_pairs);
        expect_len("weights", weights, n_pairs);
        expect_len("out", out, n_tokens * n_out);
        residual.inspect(|residual| expect_len("residual", residual, n_tokens * n_out));

        let (kernel, resident) = kernel_of(tensor_type).expect("as was asked above");
        let Teams { team, n_teams } = Teams::new(n_used);
        // Each block has the token's vectors before it begins: no more blocks than fit the device at once.
        let tiles = n_out.div_ceil((ROWS * n_teams) as usize);
        let turns = (tiles * n_tokens).div_ceil(resident * self.multiprocessors()).min(tiles);
        let grid = [count(tiles.div_ceil(turns)), count(n_tokens), 1];
        let arguments = (
            &*stack.part(),
            count(stack.blocks_of_part()),
            count(stack.first()),
            x_q8.or(x_f32.as_deref()),
            experts,
            weights,
            residual,
            out,
            count(n_in),
            count(n_out),
            count(n_used),
            team,
        );
        let bytes = shared_bytes(count(n_in), count(n_used), n_teams, tensor_type.is_quantised());
        let launch = Launch::new(grid, 32 * team * n_teams).shared_bytes(bytes).early();
        // SAFETY: the slices hold what the contract asks for; allocations and parts are 256-byte aligned, rows whole blocks, as the file's
        // reader checked; the experts are the caller's promise. The kernel waits before it reads what an earlier one writes.
        unsafe { self.launch_as(kernel, launch, arguments) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocks_warps_have_all_experts_among_them() {
        let teams = |n_used| {
            let Teams { team, n_teams } = Teams::new(n_used);
            (team, n_teams)
        };
        assert_eq!([1, 2, 4, 6, 8].map(teams), [(1, 8), (2, 4), (4, 2), (6, 1), (8, 1)]);
        assert_eq!([9, 10, 16, 17].map(teams), [(5, 1), (5, 1), (8, 1), (6, 1)]);
    }

    #[test]
    fn a_block_has_room_for_the_vectors_of_published_mixtures() {
        // Qwen3-30B-A3B, Mixtral 8x7B, DeepSeek V3, DBRX; Grok's experts are too wide.
        for (n_in, n_used) in [(768, 8), (14_336, 2), (2048, 8), (10_752, 4)] {
            assert!(Gpu::has_gemv_sum(TensorType::Q4_K, n_in, n_used), "{n_used} of {n_in}");
        }
        assert!(!Gpu::has_gemv_sum(TensorType::Q4_K, 32_768, 2));
        assert!(Gpu::has_gemv_sum(TensorType::BF16, 768, 8) && !Gpu::has_gemv_sum(TensorType::BF16, 12, 8));
        assert!(!Gpu::has_gemv_sum(TensorType::F32, 768, 8) && !Gpu::has_gemv_sum(TensorType::TQ1_0, 768, 8));
    }
}
