//! Launches the kernels in `kernels/experts.rs`.

use kernels::experts::{
    COMBINE_BLOCK, GROUP_BLOCK, MAX_EXPERTS, MAX_GROUPS, ROUTE_BLOCK, experts_bias, experts_combine, experts_every,
    experts_group, experts_route, experts_router,
};

use super::{
    count, expect_len,
    gemv::{Gemv, Input, Output, Spread},
};
use crate::{
    gguf::TensorType,
    gpu::{Buffer, Gpu, GpuError, Slice, launch::Launch},
};

/// What a router's logit becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouterScore {
    /// Its softmax over all experts. Over the chosen alone it is the same with [`Routing::normalise`].
    #[default]
    Softmax,
    /// Its own sigmoid.
    Sigmoid,
}

/// How a token's experts are chosen and weighted.
#[derive(Clone, Copy)]
pub struct Routing<'a> {
    /// How many experts there are.
    pub n_experts: usize,
    /// How many of them a token uses.
    pub n_used: usize,
    /// What is compared, and weights the chosen.
    pub score: RouterScore,
    /// `[n_experts]`, added to the scores for comparing them, and not for weighting.
    pub selection_bias: Option<&'a Slice<f32>>,
    /// Whether the weights of the chosen are divided by their sum, held above 6.1e-5.
    pub normalise: bool,
    /// What the weights are then multiplied by.
    pub scale: f32,
    /// `[n_experts]`: what the weight of each expert is multiplied by besides.
    pub expert_scales: Option<&'a Slice<f32>>,
    /// Where experts are chosen of a few groups of neighbours alone.
    pub groups: Option<ExpertGroups>,
}

/// Groups of neighbouring experts, of which a token uses those whose two best scores are together the largest.
#[derive(Clone, Copy, Debug)]
pub struct ExpertGroups {
    /// How many there are: a divisor of the experts' number, at most 32.
    pub n_groups: usize,
    /// How many of them a token uses.
    pub n_used: usize,
}

impl Routing<'_> {
    /// The `n_used` experts with the largest logits, by their softmax over all as it is.
    pub fn softmax(n_experts: usize, n_used: usize) -> Self {
        let score = RouterScore::Softmax;
        Routing {
            n_experts,
            n_used,
            score,
            selection_bias: None,
            normalise: false,
            scale: 1.0,
            expert_scales: None,
            groups: None,
        }
    }

    /// The number of groups and how many are used, where all can be as the kernels' contract has it.
    fn checked_groups(&self) -> [u32; 2] {
        let Routing { n_experts, n_used, selection_bias, expert_scales, groups, .. } = *self;
        assert!(0 < n_used && n_used <= n_experts, "{n_used} of {n_experts} experts");
        assert!(n_experts <= MAX_EXPERTS as usize, "{n_experts} experts, at most {MAX_EXPERTS}");
        let ExpertGroups { n_groups, n_used: n_groups_used } =
            groups.unwrap_or(ExpertGroups { n_groups: 1, n_used: 1 });
        let fits = n_groups > 0 && n_groups <= MAX_GROUPS as usize && n_experts.is_multiple_of(n_groups);
        let has_enough = fits && n_groups_used <= n_groups && n_groups_used * (n_experts / n_groups) >= n_used;
        assert!(has_enough, "{n_used} of {n_experts} experts in {n_groups_used} of {n_groups} groups");
        selection_bias.inspect(|bias| expect_len("selection_bias", bias, n_experts));
        expert_scales.inspect(|scales| expect_len("expert_scales", scales, n_experts));
        [n_groups, n_groups_used].map(count)
    }
}

/// Pairs of a token and an expert of its, sorted by expert, and the tiles that products take of them.
pub struct ExpertLists {
    pub(super) pairs: Buffer<u32>,
    pub(super) tiles: Buffer<u32>,
}

impl ExpertLists {
    /// Elements of the allocations for up to so many pairs: fewer have smaller tiles, of which there may be more.
    pub fn elements(n_pairs: usize, n_experts: usize) -> [usize; 2] {
        [n_pairs, 4 * n_tiles(n_pairs, n_experts, Gpu::pairs_of_tile(1, n_experts))]
    }

    /// Allocates them.
    ///
    /// # Errors
    /// The device has not so much memory.
    pub fn new(gpu: &Gpu, [pairs, tiles]: [usize; 2]) -> Result<ExpertLists, GpuError> {
        Ok(ExpertLists { pairs: gpu.alloc("experts", pairs)?, tiles: gpu.alloc("experts", tiles)? })
    }

    /// The pairs, of which so many were sorted, and each tile's expert, first of the pairs, how many there are, and 0.
    ///
    /// # Errors
    /// The device failed.
    pub fn read(&self, gpu: &Gpu, n_pairs: usize, n_experts: usize) -> Result<[Vec<u32>; 2], GpuError> {
        let n_tiles = n_tiles(n_pairs, n_experts, Gpu::pairs_of_tile(n_pairs, n_experts));
        Ok([gpu.read(&self.pairs.slice(0..n_pairs))?, gpu.read(&self.tiles.slice(0..4 * n_tiles))?])
    }
}

/// Tiles of so many pairs, some of them empty: an expert's last need not be full.
pub(super) fn n_tiles(n_pairs: usize, n_experts: usize, of_tile: usize) -> usize {
    n_pairs / of_tile + n_experts
}

impl Gpu {
    /// Sorts pairs by their experts, `[n_pairs]`, of which each is below `n_experts`, and cuts them into tiles of
    /// [`Gpu::pairs_of_tile`].
    pub fn experts_group(&self, experts: &Slice<u32>, n_experts: usize, lists: &ExpertLists) -> Result<(), GpuError> {
        let n_pairs = experts.len();
        let of_tile = Gpu::pairs_of_tile(n_pairs, n_experts);
        expect_len("pairs", &lists.pairs, n_pairs);
        expect_len("tiles", &lists.tiles, 4 * n_tiles(n_pairs, n_experts, of_tile));
        let arguments = (experts, &*lists.pairs, &*lists.tiles, count(n_pairs), count(of_tile));
        // SAFETY: the slices hold what the contract asks for; the experts are the caller's promise.
        unsafe { self.launch(experts_group, [count(n_experts), 1, 1], GROUP_BLOCK, arguments) }
    }

    /// experts[token], weights[token], each `[n_used]`: the experts that a token uses, from its logits `[n_experts]`.
    pub fn experts_route(
        &self,
        routing: &Routing,
        logits: &Slice<f32>,
        experts: &Slice<u32>,
        weights: &Slice<f32>,
        n_tokens: usize,
    ) -> Result<(), GpuError> {
        let Routing { n_experts, n_used, score, selection_bias, normalise, scale, expert_scales, .. } = *routing;
        let [n_groups, n_groups_used] = routing.checked_groups();
        expect_len("logits", logits, n_tokens * n_experts);
        expect_len("experts", experts, n_tokens * n_used);
        expect_len("weights", weights, n_tokens * n_used);
        let arguments = (
            logits,
            selection_bias,
            expert_scales,
            experts,
            weights,
            count(n_experts),
            count(n_used),
            u32::from(score == RouterScore::Sigmoid),
            u32::from(normalise),
            scale,
            n_groups,
            n_groups_used,
        );
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(experts_route, [count(n_tokens), 1, 1], ROUTE_BLOCK, arguments) }
    }

    /// The same of the logits of one token that `router` makes, weights in f32 with a norm and a bias at most, in the same launch.
    /// `arrivals` is zero, and so again afterwards.
    pub fn experts_router(
        &self,
        router: &Gemv,
        routing: &Routing,
        experts: &Slice<u32>,
        weights: &Slice<f32>,
        arrivals: &Slice<u32>,
    ) -> Result<(), GpuError> {
        let Routing { n_experts, n_used, score, selection_bias, normalise, scale, expert_scales, .. } = *routing;
        let [n_groups, n_groups_used] = routing.checked_groups();
        let Gemv { weights: matrix, x: Input::F32(x), norm, bias, out: Output::F32(logits), .. } = *router else {
            panic!("a router takes and makes floats");
        };
        let alone = router.residual.is_none() && !router.swiglu && router.experts.is_none() && matrix.n_matrices() == 1;
        assert!(alone && matrix.tensor_type() == TensorType::F32, "a router is one matrix of floats");
        assert!(x.address().is_multiple_of(16), "x starts on a 16-byte boundary");
        assert_eq!(matrix.n_out, n_experts, "a row for each expert");
        let n_in = matrix.n_in();
        expect_len("x", x, n_in);
        norm.inspect(|(norm, _)| expect_len("norm", norm, n_in));
        bias.inspect(|bias| expect_len("bias", bias, n_experts));
        expect_len("logits", logits, n_experts);
        expect_len("experts", experts, n_used);
        expect_len("weights", weights, n_used);
        expect_len("arrivals", arrivals, 1);
        let Spread { blocks, warps, split } = router.spread(self.multiprocessors());
        let arguments = (
            &*matrix.part(),
            count(matrix.first()),
            x,
            norm.map(|(norm, _)| norm),
            norm.map_or(0.0, |(_, epsilon)| epsilon),
            bias,
            logits,
            arrivals,
            count(n_in),
            split,
            selection_bias,
            expert_scales,
            experts,
            weights,
            count(n_experts),
            count(n_used),
            u32::from(score == RouterScore::Sigmoid),
            u32::from(normalise),
            scale,
            n_groups,
            n_groups_used,
        );
        let launch = Launch::new([blocks, 1, 1], 32 * warps).shared_bytes(router.shared_bytes()).early();
        // SAFETY: the slices hold what the contract asks for, parts are 256-byte aligned; that arrivals are zero is the caller's promise, and
        // the kernel leaves them so.
        unsafe { self.launch_as(experts_router, launch, arguments) }
    }

    /// experts[token][i] = i, for `n` of each token: every matrix of a stack.
    pub fn experts_every(&self, experts: &Slice<u32>, n_tokens: usize, n: usize) -> Result<(), GpuError> {
        expect_len("experts", experts, n_tokens * n);
        let grid = [count(n.div_ceil(COMBINE_BLOCK as usize)), count(n_tokens), 1];
        // SAFETY: the slice holds what the contract asks for.
        unsafe { self.launch_early(experts_every, grid, COMBINE_BLOCK, (experts, count(n))) }
    }

    /// out[pair] += bias[experts[pair]], rows of `n`, for `n_pairs` pairs of a token and an expert of its: `bias` is
    /// `[n_experts][n]`. The experts are the caller's promise, as [`Gpu::experts_route`] chose them.
    pub fn experts_bias(
        &self,
        experts: &Slice<u32>,
        bias: &Slice<f32>,
        out: &Slice<f32>,
        n_pairs: usize,
        n: usize,
    ) -> Result<(), GpuError> {
        expect_len("experts", experts, n_pairs);
        expect_len("out", out, n_pairs * n);
        assert!(n > 0 && bias.len().is_multiple_of(n), "bias: {} values are no rows of {n}", bias.len());
        let grid = [count(n.div_ceil(COMBINE_BLOCK as usize)), count(n_pairs), 1];
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(experts_bias, grid, COMBINE_BLOCK, (experts, bias, out, count(n))) }
    }

    /// out[token] = residual[token] + Σ_slot weights[token][slot] · parts[token][slot], rows of `n`; `residual` may be `out`.
    #[allow(clippy::too_many_arguments)]
    pub fn experts_combine(
        &self,
        parts: &Slice<f32>,
        weights: &Slice<f32>,
        residual: Option<&Slice<f32>>,
        out: &Slice<f32>,
        n_tokens: usize,
        n: usize,
        n_used: usize,
    ) -> Result<(), GpuError> {
        expect_len("parts", parts, n_tokens * n_used * n);
        expect_len("weights", weights, n_tokens * n_used);
        expect_len("out", out, n_tokens * n);
        residual.inspect(|residual| expect_len("residual", residual, n_tokens * n));
        let grid = [count(n.div_ceil(COMBINE_BLOCK as usize)), count(n_tokens), 1];
        let arguments = (parts, weights, residual, out, count(n), count(n_used));
        // SAFETY: the slices hold what the contract asks for.
        unsafe { self.launch_early(experts_combine, grid, COMBINE_BLOCK, arguments) }
    }
}
