//! Launches the products with a few tokens in `kernels/gemm/`.

use std::ops::Range;

use cuda_std::Kernel;
use half::f16;
use kernels::gemm::{
    BESIDE_LAST, BESIDE_NEXT, CHUNK, GemmParameters, Geometry, PARTS, STEP,
    floats::{FloatKernels, OF_BF16, OF_F16},
    groups,
    steps::OF_TOKEN,
    warps,
};

use super::{
    blocks::block_format,
    count, expect_len,
    experts::{ExpertLists, n_tiles},
};
use crate::{
    gguf::TensorType,
    gpu::{Buffer, Gpu, GpuError, Product, Rows, Slice, SubSlice, launch::Launch},
};

/// How the four kernels of a format share their work, in either kind of image: they have the same tokens.
const GEOMETRIES: [[Geometry; 4]; 2] = [warps::GEOMETRIES, groups::GEOMETRIES];

/// Rows of a tile of a group's.
const GROUP_ROWS: usize = groups::GROUP_ROWS as usize;

/// The kernels for up to 8, 16, 32 and 64 tokens.
type Kernels = [Kernel<GemmParameters>; 4];

/// The kernels for rows of a type, and those for small matrices, where there are any.
fn kernels_of(tensor_type: TensorType) -> Option<(Kernels, Option<Kernels>)> {
    let of_floats = |FloatKernels { gemm, gemm_apart }| Some((gemm, Some(gemm_apart)));
    match tensor_type {
        TensorType::F32 => None,
        TensorType::F16 => of_floats(OF_F16),
        TensorType::BF16 => of_floats(OF_BF16),
        packed => Some((block_format(packed).gemm, block_format(packed).gemm_apart)),
    }
}

/// How f16 activations of some tokens lie that a product is made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// `[token][value]`.
    #[default]
    Rows,
    /// As panels take them, `kernels/gemm/steps.rs`: for [`Gpu::gemm`] where [`Gpu::takes_steps`]. The same number of elements.
    Steps,
}

impl Order {
    /// Fails where rows of so many values cannot lie so.
    pub(super) fn expect(self, n: usize) {
        assert!(self == Order::Rows || n.is_multiple_of(STEP as usize), "rows of {n} values are no whole steps");
    }
}

/// Blocks along x of the largest device.
const MOST_BLOCKS: usize = 320;

/// Where tiles that several blocks have a part of are left. Launches that run one after another share it.
pub struct GemmScratch {
    partial: Buffer<f32>,
    /// All zero between launches; the last [`ZEROS`] always.
    arrivals: Buffer<u32>,
}

/// Words of what is multiplied where there is nothing: half a step of a block's tokens.
const ZEROS: usize = warps::GEOMETRIES[3].tokens * OF_TOKEN as usize / 2;

impl GemmScratch {
    /// Elements of the allocations for `n_tokens` tokens and matrices whose parts have these rows, of so many columns, both of 32 bits.
    pub fn elements(matrices: impl Iterator<Item = (Vec<usize>, usize)>, n_tokens: usize) -> [usize; 2] {
        let (which, groups) = groups_of(n_tokens.min(Gpu::MOST_GEMM_TOKENS));
        let kernels = GEOMETRIES.map(|of_image| of_image[which]);
        let [partial, arrivals] = matrices.fold([0, 0], |most, (parts, n_in)| {
            kernels.iter().fold(most, |[partial, arrivals], kernel| {
                let units: Vec<usize> = parts.iter().map(|n_out| units(kernel, *n_out, n_in)).collect();
                let blocks: usize = shares(MOST_BLOCKS, &units).into_iter().sum();
                // Of the smallest tiles, though larger ones may be taken.
                let tiles: usize = parts.iter().map(|n_out| n_out.div_ceil(GROUP_ROWS)).sum();
                [partial.max(groups * blocks * of_block(kernel)), arrivals.max(groups * tiles * kernel.counters)]
            })
        });
        [partial, arrivals + if partial > 0 { ZEROS } else { 0 }]
    }

    /// The zeros.
    fn zeros(&self) -> SubSlice<'_, f16> {
        self.arrivals.slice(self.arrivals.len() - ZEROS..self.arrivals.len()).into_cast()
    }

    /// Allocates it.
    ///
    /// # Errors
    /// The device has not so much memory.
    pub fn new(gpu: &Gpu, [partial, arrivals]: [usize; 2]) -> Result<GemmScratch, GpuError> {
        let scratch = GemmScratch { partial: gpu.alloc("matmul", partial)?, arrivals: gpu.alloc("matmul", arrivals)? };
        gpu.fill(&scratch.arrivals, 0)?;
        Ok(scratch)
    }
}

/// Which kernel is for so many tokens, and how many blocks along y that takes.
fn groups_of(n_tokens: usize) -> (usize, usize) {
    let kernels = &warps::GEOMETRIES;
    let which = kernels.iter().position(|kernel| n_tokens <= kernel.tokens).unwrap_or(kernels.len() - 1);
    (which, n_tokens.div_ceil(kernels[which].tokens))
}

/// What a block leaves of the tiles that are not its alone.
fn of_block(kernel: &Geometry) -> usize {
    PARTS as usize * kernel.rows * kernel.tokens
}

/// How so many blocks are shared by launches that run beside each other, by their units: none has no block, and none more than it has units.
fn shares(blocks: usize, units: &[usize]) -> Vec<usize> {
    let all: usize = units.iter().sum();
    let blocks = blocks.min(all);
    let mut before = 0;
    let share = |of: &usize| {
        let first = blocks * before / all;
        before += of;
        (blocks * before / all - first).max(1)
    };
    units.iter().map(share).collect()
}

/// Blocks of a group's tile where each group has a unit, at most, and all blocks are done no later than those that share one list would be, of which
/// there is `room` for so many; 0 elsewhere.
fn apart(kernel: &Geometry, tensor_type: TensorType, n_out: usize, n_in: usize, room: usize) -> usize {
    let (tiles, of_tile) = (n_out.div_ceil(GROUP_ROWS), n_in.div_ceil(kernel.columns));
    let apart = of_tile.div_ceil(kernel.counters);
    let waves = (tiles * apart).div_ceil(room);
    let by_list = units(kernel, n_out, n_in).div_ceil(room);
    // A block that comes behind another begins anew, and leaves a part again where a tile has several: of floats, which take longer to come, that is less than
    // what few parts save (7B's output in F16: 11.0 µs of 11.8 with 8 tokens, 15.7 of 20.7 with 64; in Q4_K 8.8 of 7.6 with 8:
    // `benches/results/2026-12-01-h200-norms.md`).
    let most_waves = if apart == 1 || !tensor_type.is_quantised() { 2 } else { 1 };
    if waves <= by_list.min(most_waves) { apart } else { 0 }
}

/// Units of all tiles together.
fn units(kernel: &Geometry, n_out: usize, n_in: usize) -> usize {
    n_out.div_ceil(kernel.rows) * n_in.div_ceil(kernel.columns)
}

/// The kernel for so many pairs of tokens and experts, and how many of a tile.
fn tile(n_pairs: usize, n_experts: usize) -> (usize, usize) {
    // A tile that is not full costs as much as one that is, but a larger one unpacks its weights for more, and of the smallest some experts
    // need two. Measured on an H200 with 8 of 128 experts (`benches/results/2026-11-29-h200-experts.md`).
    const MOST_PAIRS: [usize; 3] = [2, 8, 16];
    let of_expert = n_pairs / n_experts.max(1);
    let which = MOST_PAIRS.iter().position(|most| of_expert <= *most).unwrap_or(MOST_PAIRS.len());
    (which, warps::GEOMETRIES[which].tokens)
}

/// Pairs of tokens and experts that are sorted.
#[derive(Clone, Copy)]
pub struct ExpertPairs<'a> {
    /// What [`Gpu::experts_group`] made of them.
    pub lists: &'a ExpertLists,
    /// How many there are.
    pub n_pairs: usize,
    /// Of how many experts.
    pub n_experts: usize,
    /// How many neighbouring pairs, before they were sorted, use the same x.
    pub share: usize,
}

/// One launch.
#[derive(Clone, Copy)]
pub struct Gemm<'a> {
    /// W, `[n_out][n_in]`.
    pub weights: Rows<'a>,
    /// `[n_tokens][n_in]`.
    pub x: &'a Slice<f16>,
    /// What each token's outputs are multiplied by, `[n_tokens]`.
    pub factors: Option<&'a Slice<f32>>,
    /// What is added to each row's outputs, `[n_out]`.
    pub bias: Option<&'a Slice<f32>>,
    /// A token's outputs, `out_stride` values from the next token's.
    pub out: Product<'a>,
    /// Not less than the matrix's rows.
    pub out_stride: usize,
    /// What all are multiplied by.
    pub alpha: f32,
    /// Whether they are added to what is there, which is f32.
    pub adds: bool,
    /// Where the rows are gates above as many up projections: what SwiGLU of the two, in f16, is multiplied by. Then `bias` is none.
    pub swiglu: Option<f32>,
    /// How `x` lies, and how the unit's outputs will.
    pub orders: [Order; 2],
}

impl<'a> Gemm<'a> {
    /// out[token] = W · x[token].
    pub fn new(weights: Rows<'a>, x: &'a Slice<f16>, out: Product<'a>) -> Gemm<'a> {
        let out_stride = weights.n_out;
        let orders = [Order::Rows; 2];
        Gemm { weights, x, factors: None, bias: None, out, out_stride, alpha: 1.0, adds: false, swiglu: None, orders }
    }

    /// Outputs of a token.
    fn n_out(&self) -> usize {
        if self.swiglu.is_some() { self.weights.n_out / 2 } else { self.weights.n_out }
    }
}

/// How a launch's work is shared.
struct Shared<'a> {
    /// Tokens, of which the launch has some.
    n_all: usize,
    /// Along x, and along y.
    blocks: [usize; 2],
    /// What it leaves parts of tiles in, and where its own begin.
    scratch: Option<(&'a GemmScratch, [usize; 2])>,
    /// Which launches it runs beside.
    order: u32,
    /// Where groups have a unit each: blocks of a tile.
    apart: usize,
}

impl Gpu {
    /// The most tokens of [`Gpu::gemm`]: with more, unpacking the weights and a plain product take less time. On an H200 a layer of 7B with 192
    /// took 334 µs, where that took 394, in Q4_K, and 437 where it took 407 in Q8_0; since then fewer of both take an eighth less
    /// (`benches/results/2026-11-30-h200-many.md`).
    pub const MOST_GEMM_TOKENS: usize = 192;

    /// The same where all matrices are floats: more than a block's tokens would be read twice. On an H200 a 1.5B in BF16 writes 23 000 tokens/s with 64 rows,
    /// and 17 800 where it is converted in memory, but 21 400 and 25 500 with 96 (`benches/results/2026-11-30-h200-ahead.md`).
    const MOST_FLOAT_TOKENS: usize = 64;

    /// The same where all are f16 and some are large, which cuBLAS takes as they are: a 7B writes 1 852 and 3 475 tokens/s with 8 and 16 rows, and 1 585 and 3 400
    /// by way of cuBLAS, but 6 130 and 6 610 with 32. Of a small one it is the launches that count: a 0.5B writes 55 800 and 46 000 with 64.
    const MOST_OF_LARGE_F16: usize = 16;

    /// The most tokens with which [`Gpu::gemm`] takes less time than unpacking the weights, where they are not f16, and a plain product, for a model
    /// with matrices of these types, rows and columns.
    ///
    /// # Errors
    /// cuBLAS is there and fails.
    pub fn most_gemm_tokens(
        &self,
        matrices: impl Iterator<Item = (TensorType, [usize; 2])> + Clone,
    ) -> Result<usize, GpuError> {
        // A block that has few units is mostly busy with beginning and with parts of tiles; and what is small stays in the cache when it is
        // unpacked. On an H200 a step of 128 sequences of 0.5B, whose largest matrix has one unit for a block, takes 2.1 ms, where the other way takes
        // 2.2 to 3.0, by what the host needs for a launch; one of 192 takes 2.6 and 2.3 (`benches/results/2026-11-30-h200-steps.md`).
        const FEW_UNITS: usize = 4;
        let of_matrix = |(_, [n_out, n_in]): (TensorType, [usize; 2])| units(&groups::GEOMETRIES[0], n_out, n_in);
        let units = matrices.clone().map(of_matrix).max().unwrap_or(0);
        let is_small = units < FEW_UNITS * self.multiprocessors();
        let are = |types: &[TensorType]| matrices.clone().all(|(tensor_type, _)| types.contains(&tensor_type));
        if are(&[TensorType::F16]) && !is_small && self.cublas.get()?.is_some() {
            return Ok(Gpu::MOST_OF_LARGE_F16);
        }
        if are(&[TensorType::F16, TensorType::BF16]) {
            return Ok(Gpu::MOST_FLOAT_TOKENS);
        }
        if !self.image().has_warp_groups() {
            // Measured with warps by themselves (`benches/results/2026-11-29-h200-gemm.md`).
            return Ok(96);
        }
        Ok(if is_small { 128 } else { Gpu::MOST_GEMM_TOKENS })
    }

    /// Whether there is a product of a few tokens with rows of so many columns: of blocks of every format, and of floats of 16 bits where they are
    /// whole chunks.
    pub fn has_gemm(tensor_type: TensorType, n_in: usize) -> bool {
        kernels_of(tensor_type).is_some() && n_in.is_multiple_of(CHUNK as usize)
    }

    /// Whether [`Gpu::gemm`] takes activations in [`Order::Steps`], for rows of so many columns.
    pub fn takes_steps(&self, n_in: usize) -> bool {
        self.image().has_warp_groups() && n_in.is_multiple_of(STEP as usize)
    }

    /// Whether there is one for small matrices with such rows.
    pub fn has_gemm_apart(tensor_type: TensorType) -> bool {
        kernels_of(tensor_type).is_some_and(|(_, gemm_apart)| gemm_apart.is_some())
    }

    /// Enqueues out[token] = alpha · factors[token] · W · x[token] + bias (+ out[token]), or of gates and up projections what SwiGLU makes of the two,
    /// reading the weights once for 64 tokens. A token's outputs are the same bits whatever others there are.
    pub fn gemm(&self, gemm: &Gemm, n_tokens: usize, scratch: &GemmScratch) -> Result<(), GpuError> {
        self.gemm_of_parts(&[*gemm], n_tokens, scratch)
    }

    /// [`Gpu::gemm`] with each of the parts of a matrix, at the same time where the image is Hopper's. No part reads what another one writes.
    pub fn gemm_of_parts(&self, parts: &[Gemm], n_tokens: usize, scratch: &GemmScratch) -> Result<(), GpuError> {
        assert!((1..=Gpu::MOST_GEMM_TOKENS).contains(&n_tokens), "{n_tokens} tokens of a product of a few");
        let [.., more, most] = warps::GEOMETRIES.map(|kernel| kernel.tokens);
        let rest = n_tokens % most;
        if n_tokens > most && (1..=more).contains(&rest) {
            // A tile that is not full costs as much as one that is: the rest goes to a smaller kernel.
            self.gemm_of_tokens(parts, n_tokens, 0..n_tokens - rest, scratch)?;
            return self.gemm_of_tokens(parts, n_tokens, n_tokens - rest..n_tokens, scratch);
        }
        self.gemm_of_tokens(parts, n_tokens, 0..n_tokens, scratch)
    }

    /// The products of some of so many tokens.
    fn gemm_of_tokens(
        &self,
        parts: &[Gemm],
        n_all: usize,
        tokens: Range<usize>,
        scratch: &GemmScratch,
    ) -> Result<(), GpuError> {
        let (which, groups) = groups_of(tokens.len());
        let kernel = &self.gemm_geometries()[which];
        let room = (kernel.resident * self.multiprocessors()).min(MOST_BLOCKS);
        let units: Vec<usize> =
            parts.iter().map(|part| units(kernel, part.weights.n_out, part.weights.n_in())).collect();
        // Elsewhere a launch begins when the one before has ended.
        let is_beside = self.image().has_warp_groups();
        if let [gemm] = parts
            && is_beside
            && Gpu::has_gemm_apart(gemm.weights.tensor_type())
            && let weights = gemm.weights
            && let apart @ 1.. = apart(kernel, weights.tensor_type(), weights.n_out, weights.n_in(), room)
        {
            let tiles = gemm.weights.n_out.div_ceil(GROUP_ROWS);
            let shared_tiles = if apart > 1 { groups * tiles } else { 0 };
            expect_len("partial", &scratch.partial, shared_tiles * apart * GROUP_ROWS * kernel.tokens);
            expect_len("arrivals", &scratch.arrivals, shared_tiles * kernel.counters + ZEROS);
            let (blocks, scratch) = ([tiles * apart, groups], Some((scratch, [0, 0])));
            let shared = Shared { n_all, blocks, scratch, order: 0, apart };
            // SAFETY: each tile has as many blocks as it is said to have, and scratch for their parts.
            return unsafe { self.launch_gemm(gemm, tokens, which, &shared, None) };
        }
        let of_parts = if is_beside { shares(room, &units) } else { units.iter().map(|of| *of.min(&room)).collect() };
        let [mut partial, mut arrivals] = [0, 0];
        for (index, (part, blocks)) in parts.iter().zip(of_parts).enumerate() {
            assert_eq!(part.weights.n_matrices(), 1, "a product with a stack of matrices needs to know the experts");
            let ends = [
                partial + groups * blocks * of_block(kernel),
                arrivals + groups * part.weights.n_out.div_ceil(kernel.rows) * kernel.counters,
            ];
            expect_len("partial", &scratch.partial, ends[0]);
            expect_len("arrivals", &scratch.arrivals, ends[1] + ZEROS);
            let mut order = 0;
            if is_beside && index > 0 {
                order |= BESIDE_LAST;
            }
            if is_beside && index + 1 < parts.len() {
                order |= BESIDE_NEXT;
            }
            let scratch = Some((scratch, [partial, arrivals]));
            let shared = Shared { n_all, blocks: [blocks, groups], scratch, order, apart: 0 };
            // SAFETY: there are as many blocks along x as share all units, and scratch for all of them, which no part beside it has.
            unsafe { self.launch_gemm(part, tokens.clone(), which, &shared, None)? }
            if is_beside {
                [partial, arrivals] = ends;
            }
        }
        Ok(())
    }

    /// Enqueues out[pair] = alpha · factors[pair ÷ share] · W[expert of the pair] · x[pair ÷ share] for the pairs of tokens and experts that
    /// `of` sorted, each expert's weights read once for a tile of its pairs. A pair's outputs are the same bits whatever others there
    /// are.
    pub fn gemm_experts(&self, gemm: &Gemm, of: &ExpertPairs) -> Result<(), GpuError> {
        assert_eq!(gemm.weights.n_matrices(), of.n_experts, "an expert has a matrix");
        assert!(of.n_pairs > 0 && gemm.swiglu.is_none(), "a product of some pairs, as it is");
        let (which, of_tile) = tile(of.n_pairs, of.n_experts);
        let n_tiles = n_tiles(of.n_pairs, of.n_experts, of_tile);
        let blocks = [gemm.weights.n_out.div_ceil(self.gemm_geometries()[which].rows), n_tiles];
        expect_len("pairs", &of.lists.pairs, of.n_pairs);
        expect_len("tiles", &of.lists.tiles, 4 * n_tiles);
        let shared = Shared { n_all: of.n_pairs, blocks, scratch: None, order: 0, apart: 0 };
        // SAFETY: a block has a whole tile of rows; the lists' tiles have as many pairs as the kernel takes, by the same rule.
        unsafe { self.launch_gemm(gemm, 0..of.n_pairs, which, &shared, Some(of)) }
    }

    /// How the kernels in the loaded image share their work.
    fn gemm_geometries(&self) -> &'static [Geometry; 4] {
        &GEOMETRIES[usize::from(self.image().has_warp_groups())]
    }

    /// How many pairs of a token and an expert a tile of [`Gpu::experts_group`] has, of so many.
    pub fn pairs_of_tile(n_pairs: usize, n_experts: usize) -> usize {
        tile(n_pairs, n_experts).1
    }

    /// # Safety
    /// - The grid's blocks share all units of all tiles of rows, with `scratch` for those that more than one has a part of. Launches that run beside
    ///   each other follow one another, and have scratch and outputs of their own.
    unsafe fn launch_gemm(
        &self,
        gemm: &Gemm,
        tokens: Range<usize>,
        which: usize,
        &Shared { n_all, blocks: [blocks, groups], scratch, order, apart }: &Shared,
        experts: Option<&ExpertPairs>,
    ) -> Result<(), GpuError> {
        let Gemm { weights, x, factors, bias, out, out_stride, alpha, adds, swiglu, orders } = *gemm;
        let (n_tokens, n_in, n_out) = (tokens.len(), weights.n_in(), gemm.n_out());
        let share = experts.map_or(1, |experts| experts.share);
        // In steps, tokens are a part of each of them.
        let first_of = |order: Order, row: usize| match order {
            Order::Rows => tokens.start * row,
            Order::Steps => tokens.start * OF_TOKEN as usize,
        };
        let rows_of = |order: Order| if order == Order::Steps { count(n_all) } else { 0 };
        expect_len("x", x, n_all / share * n_in);
        if orders != [Order::Rows; 2] {
            assert!(experts.is_none() && self.takes_steps(n_in), "activations in steps of {n_in} values");
            assert!(orders[1] == Order::Rows || swiglu.is_some() && self.takes_steps(n_out), "units in steps");
        }
        let x = &*x.slice(first_of(orders[0], n_in)..x.len());
        let factors = factors.map(|factors| factors.slice(tokens.start..factors.len()));
        let factors = factors.as_deref();
        assert!(n_in.is_multiple_of(CHUNK as usize), "rows of {n_in} are no whole chunks");
        assert!(x.address().is_multiple_of(16), "x starts on a 16-byte boundary");
        assert!(share > 0 && n_tokens.is_multiple_of(share), "{n_tokens} pairs, {share} to an x");
        factors.inspect(|factors| expect_len("factors", factors, n_tokens / share));
        bias.inspect(|bias| expect_len("bias", bias, n_out));
        let first = first_of(orders[1], out_stride);
        let last = match orders[1] {
            Order::Rows => (n_tokens - 1) * out_stride + n_out,
            Order::Steps => n_all * n_out - first,
        };
        let (out_f32, out_f16) = match out {
            Product::F32(out) => {
                assert!(swiglu.is_none(), "units are f16");
                (Some(out.slice(first..out.len())), None)
            }
            Product::F16(out) => {
                assert!(!adds, "sums are f32");
                (None, Some(out.slice(first..out.len())))
            }
        };
        out_f32.iter().for_each(|out| expect_len("out", out, last));
        out_f16.iter().for_each(|out| expect_len("out", out, last));
        if swiglu.is_some() {
            assert!(bias.is_none() && weights.n_out.is_multiple_of(2), "gates above as many up projections");
        }
        let (partial, arrivals) = scratch
            .map(|(scratch, [partial, arrivals])| {
                let partial = scratch.partial.slice(partial..scratch.partial.len());
                (partial, scratch.arrivals.slice(arrivals..scratch.arrivals.len()))
            })
            .unzip();
        let zeros = scratch.map(|(scratch, _)| scratch.zeros());
        let kernel = &self.gemm_geometries()[which];
        let units = units(kernel, weights.n_out, n_in);
        // Floats are one plane, however long.
        let n_blocks = if weights.tensor_type().is_quantised() { count(weights.blocks_of_part()) } else { 0 };
        let arguments = (
            &*weights.part(),
            n_blocks,
            count(weights.first()),
            count(weights.n_out),
            experts.map(|experts| &*experts.lists.tiles),
            experts.map(|experts| &*experts.lists.pairs),
            count(share),
            x,
            factors,
            bias,
            out_f32.as_deref(),
            out_f16.as_deref(),
            count(out_stride),
            alpha,
            u32::from(adds),
            u32::from(swiglu.is_some()),
            swiglu.unwrap_or(1.0),
            order,
            partial.as_deref(),
            arrivals.as_deref(),
            zeros.as_deref(),
            rows_of(orders[0]),
            rows_of(orders[1]),
            count(n_tokens),
            count(n_in),
            count(n_out),
            kernel.panel,
            count(units / blocks),
            count(units % blocks),
            count(apart),
        );
        let launch = Launch::new([count(blocks), count(groups), 1], kernel.threads);
        let launch = launch.shared_bytes(kernel.shared_bytes).early();
        let tensor_type = weights.tensor_type();
        let (gemm, gemm_apart) = kernels_of(tensor_type).unwrap_or_else(|| panic!("a few tokens times {tensor_type}"));
        let kernels = if apart > 0 { gemm_apart.expect("as the caller found") } else { gemm };
        // SAFETY: the slices hold what the contract asks for; parts are 256-byte aligned, rows whole blocks, as the file's reader
        // checked, and whole chunks. The kernel waits before it reads what an earlier one writes.
        unsafe { self.launch_as(kernels[which], launch, arguments) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launches_beside_each_other_share_all_blocks() {
        // A 7B's queries and keys, and its values; more blocks than units; one with little among much.
        assert_eq!(shares(132, &[224, 28]), [117, 15]);
        assert_eq!(shares(132, &[7, 3, 2]), [7, 3, 2]);
        assert_eq!(shares(16, &[1000, 1, 1000]), [7, 1, 8]);
        for blocks in 1..40 {
            for units in [[1, 1, 1], [5, 30, 2], [9, 1, 9], [40, 40, 40]] {
                let shares = shares(blocks, &units);
                let all: usize = shares.iter().sum();
                let enough = blocks.min(units.iter().sum());
                assert!((enough..enough + units.len()).contains(&all), "{shares:?} of {blocks}");
                assert!(shares.iter().zip(units).all(|(share, units)| (1..=units).contains(share)), "{shares:?}");
            }
        }
    }

    #[test]
    fn groups_of_small_matrices_have_a_unit_each() {
        let of_type =
            |tensor_type, n_out, n_in| groups::GEOMETRIES.map(|kernel| apart(&kernel, tensor_type, n_out, n_in, 132));
        let apart = |n_out, n_in| of_type(TensorType::Q8_0, n_out, n_in);
        // Qwen2.5-0.5B on an H200: its four matrices, of which one has more units than a block has groups.
        for (n_out, n_in, blocks) in [(1152, 896, 1), (896, 896, 1), (9728, 896, 1), (896, 4864, 5)] {
            assert_eq!(apart(n_out, n_in), [blocks; 4], "{n_out}×{n_in}");
        }
        // Its head, and 7B's matrices, would take more turns.
        for (n_out, n_in) in [(151_936, 896), (4608, 3584), (3584, 3584), (37_888, 3584), (3584, 18_944)] {
            assert_eq!(apart(n_out, n_in), [0; 4], "{n_out}×{n_in}");
        }
        // In floats 7B's output, and none of its others.
        let of_floats = [(3584, 3584), (4608, 3584), (37_888, 3584), (3584, 18_944)]
            .map(|(n_out, n_in)| of_type(TensorType::F16, n_out, n_in)[0]);
        assert_eq!(of_floats, [4, 0, 0, 0]);
    }
}
