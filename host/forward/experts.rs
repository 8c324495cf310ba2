//! Products of many tokens with their experts: the pairs of a token and an expert of its are sorted by expert, so that each expert's
//! weights are read once for a tile of its tokens. Few pairs are products with one vector each, as a token's are.

use half::f16;

use super::{
    Engine,
    lower::{Launch, Pass},
    memory::{MostRows, Uses},
};
use crate::{
    gpu::{
        Buffer, Gpu, GpuError, Product, Rows, Slice,
        kernels::{ExpertLists, ExpertPairs, Gemm, Order},
    },
    model::{Model, figure::Op},
};

/// How many experts there may be to a pair of a token and one of them for sorting the pairs to pay: with more, hardly two tokens want the same.
/// On an H200, 4 tokens with 8 of 128 experts each took as long either way, 6 tokens a tenth less sorted, 16 tokens half
/// (`benches/results/2026-11-29-h200-experts.md`).
const EXPERTS_OF_PAIR: usize = 3;

/// Elements of [`ExpertScratch`]'s allocations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpertSizes {
    halves: usize,
    rows: usize,
    lists: [usize; 2],
}

impl ExpertSizes {
    /// For the products of a pass of at most so many rows.
    pub fn new(model: &Model, pass: &Pass, rows: MostRows) -> ExpertSizes {
        let mut sizes = ExpertSizes::default();
        for step in &pass.steps {
            let Launch::Gemv { experts: Some((experts, share)), weight, .. } = &step.launch else { continue };
            let stack = model.figure.stack(weight.stack);
            let n_pairs = rows.tokens * pass.locals.get(*experts).width;
            let has_gemm = model.types(stack).iter().any(|(tensor_type, _)| Gpu::has_gemm(*tensor_type, stack.n_in));
            if !has_gemm || !is_together(n_pairs, stack.n_matrices) {
                continue;
            }
            sizes = sizes.max(ExpertSizes {
                halves: n_pairs / share * stack.n_in,
                rows: n_pairs / share,
                lists: ExpertLists::elements(n_pairs, stack.n_matrices),
            });
        }
        sizes
    }

    /// What is enough for both.
    pub fn max(self, other: ExpertSizes) -> ExpertSizes {
        ExpertSizes {
            halves: self.halves.max(other.halves),
            rows: self.rows.max(other.rows),
            lists: [0, 1].map(|index: usize| self.lists[index].max(other.lists[index])),
        }
    }

    /// Every allocation of [`ExpertScratch::new`], in its order.
    pub fn uses(&self, uses: &mut Uses) {
        uses.add("experts", self.halves * size_of::<f16>());
        uses.add("experts", self.rows * size_of::<f32>());
        for elements in self.lists {
            uses.add("experts", elements * size_of::<u32>());
        }
    }
}

/// Whether so many pairs of so many experts are multiplied together.
fn is_together(n_pairs: usize, n_experts: usize) -> bool {
    n_experts > 1 && EXPERTS_OF_PAIR * n_pairs >= n_experts
}

impl Engine {
    /// From how many rows of a step on each expert's weights are read once for all of its tokens: a model's mixtures are all of as many.
    pub(super) fn find_least_together(&self) -> usize {
        let least = self.figure.nodes.iter().filter_map(|node| {
            let Op::ExpertProduct { weight, experts, .. } = &node.op else { return None };
            let (n_used, n_experts) =
                (self.figure.value(*experts).width(), self.weights.stack(weight.stack).n_matrices);
            (1..=self.n_rows()).find(|n| is_together(n * n_used, n_experts))
        });
        least.max().unwrap_or(usize::MAX)
    }
}

/// What such products work in.
pub struct ExpertScratch {
    /// x in f16, and what brings each of its rows back.
    halves: Buffer<f16>,
    factors: Buffer<f32>,
    lists: ExpertLists,
}

impl ExpertScratch {
    /// Allocates it.
    pub fn new(gpu: &Gpu, sizes: ExpertSizes) -> Result<ExpertScratch, GpuError> {
        Ok(ExpertScratch {
            halves: gpu.alloc("experts", sizes.halves)?,
            factors: gpu.alloc("experts", sizes.rows)?,
            lists: ExpertLists::new(gpu, sizes.lists)?,
        })
    }

    /// Whether the products of so many pairs with these weights are made together.
    pub fn takes(&self, weights: &Rows, n_pairs: usize) -> bool {
        Gpu::has_gemm(weights.tensor_type(), weights.n_in()) && is_together(n_pairs, weights.n_matrices())
    }

    /// Sorts pairs by their experts.
    pub fn sort(&self, gpu: &Gpu, experts: &Slice<u32>, n_experts: usize) -> Result<(), GpuError> {
        gpu.experts_group(experts, n_experts, &self.lists)
    }

    /// out[pair] = W[its expert] · x[pair ÷ share], of `n_pairs` that were sorted.
    pub fn multiply(
        &self,
        gpu: &Gpu,
        weights: Rows,
        x: &Slice<f32>,
        share: usize,
        out: &Slice<f32>,
        n_pairs: usize,
    ) -> Result<(), GpuError> {
        let (n_in, n_experts) = (weights.n_in(), weights.n_matrices());
        gpu.matmul_input_f16(x, &self.halves, &self.factors, n_pairs / share, n_in, Order::Rows)?;
        let factors = Some(&*self.factors);
        let gemm = Gemm { factors, ..Gemm::new(weights, &self.halves, Product::F32(out)) };
        gpu.gemm_experts(&gemm, &ExpertPairs { lists: &self.lists, n_pairs, n_experts, share })
    }
}
