//! Launches the products with a few tokens in `kernels/gemm/`.

use half::f16;
use kernels::gemm::{CHUNK, Geometry, PARTS, groups, warps};

use super::{
    blocks::block_format,
    count, expect_len,
    experts::{ExpertLists, n_tiles},
};
use crate::{
    gguf::TensorType,
    gpu::{Buffer, Gpu, GpuError, Product, Rows, Slice, launch::Launch},
};

/// How the four kernels of a format share their work, in either kind of image: they have the same tokens.
const GEOMETRIES: [[Geometry; 4]; 2] = [warps::GEOMETRIES, groups::GEOMETRIES];

/// Blocks along x of the largest device.
const MOST_BLOCKS: usize = 320;

/// Where tiles that several blocks have a part of are left. Launches that run one after another share it.
pub struct GemmScratch {
    partial: Buffer<f32>,
    /// All zero between launches.
    arrivals: Buffer<u32>,
}

impl GemmScratch {
    /// Elements of the allocations for `n_tokens` tokens and matrices of these rows and columns, both of 32 bits.
    pub fn elements(matrices: impl Iterator<Item = [usize; 2]>, n_tokens: usize) -> [usize; 2] {
        let (which, groups) = groups_of(n_tokens.min(Gpu::MOST_GEMM_TOKENS));
        let kernels = GEOMETRIES.map(|of_image| of_image[which]);
        matrices.fold([0, 0], |[partial, arrivals], [n_out, n_in]| {
            let of_blocks = kernels.map(|kernel| {
                let of_block = PARTS as usize * kernel.rows * kernel.tokens;
                units(&kernel, n_out, n_in).min(MOST_BLOCKS) * groups * of_block
            });
            let of_tiles = kernels.map(|kernel| n_out.div_ceil(kernel.rows) * groups * kernel.counters);
            [of_blocks.into_iter().fold(partial, usize::max), of_tiles.into_iter().fold(arrivals, usize::max)]
        })
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
}

impl Gpu {
    /// The most tokens of [`Gpu::gemm`]: with more, unpacking the weights and a plain product take less time. On an H200 a layer of 7B with 192
    /// took 334 µs, where that took 394, in Q4_K, and 437 where it took 407 in Q8_0; since then fewer of both take an eighth less
    /// (`benches/results/2026-11-30-h200-many.md`).
    pub const MOST_GEMM_TOKENS: usize = 192;

    /// The most tokens with which [`Gpu::gemm`] takes less time than unpacking the weights and a plain product, for a model with these
    /// matrices' rows and columns.
    pub fn most_gemm_tokens(&self, matrices: impl Iterator<Item = [usize; 2]>) -> usize {
        if !self.image().has_warp_groups() {
            // Measured with warps by themselves (`benches/results/2026-11-29-h200-gemm.md`).
            return 96;
        }
        // A block that has few units is mostly busy with beginning and with parts of tiles; and what is small stays in the cache when it is
        // unpacked. On an H200 a step of 128 sequences takes 1.7 × the time of the other way with 0.5B, whose largest matrix has one unit for a
        // block, and 0.9 × with 7B, whose largest has 16 (`benches/results/2026-11-30-h200-gemm.md`).
        const FEW_UNITS: usize = 4;
        let units = matrices.map(|[n_out, n_in]| units(&groups::GEOMETRIES[0], n_out, n_in)).max().unwrap_or(0);
        if units < FEW_UNITS * self.multiprocessors() { 64 } else { Gpu::MOST_GEMM_TOKENS }
    }

    /// Whether there is a product of a few tokens with such rows: with blocks of every format.
    pub fn has_gemm(tensor_type: TensorType) -> bool {
        tensor_type.is_quantised()
    }

    /// Enqueues out[token] = alpha · factors[token] · W · x[token] + bias (+ out[token]), reading the packed weights once for 64 tokens. A token's
    /// outputs are the same bits whatever others there are.
    pub fn gemm(&self, gemm: &Gemm, n_tokens: usize, scratch: &GemmScratch) -> Result<(), GpuError> {
        assert!((1..=Gpu::MOST_GEMM_TOKENS).contains(&n_tokens), "{n_tokens} tokens of a product of a few");
        assert_eq!(gemm.weights.n_matrices(), 1, "a product with a stack of matrices needs to know the experts");
        let (n_in, n_out) = (gemm.weights.n_in(), gemm.weights.n_out);
        let [.., more, most] = warps::GEOMETRIES.map(|kernel| kernel.tokens);
        let rest = n_tokens % most;
        if n_tokens > most && (1..=more).contains(&rest) {
            // A tile that is not full costs as much as one that is: the rest goes to a smaller kernel.
            return self.gemm_in_two(gemm, [n_tokens - rest, rest], scratch);
        }
        let (which, groups) = groups_of(n_tokens);
        let kernel = &self.gemm_geometries()[which];
        let blocks = units(kernel, n_out, n_in).min(kernel.resident * self.multiprocessors()).min(MOST_BLOCKS);
        expect_len("partial", &scratch.partial, groups * blocks * PARTS as usize * kernel.rows * kernel.tokens);
        expect_len("arrivals", &scratch.arrivals, groups * n_out.div_ceil(kernel.rows) * kernel.counters);
        // SAFETY: there are as many blocks along x as share all units, and scratch for all of them.
        unsafe { self.launch_gemm(gemm, n_tokens, which, [blocks, groups], Some(scratch), None) }
    }

    /// The first tokens, then the others.
    fn gemm_in_two(&self, gemm: &Gemm, [first, last]: [usize; 2], scratch: &GemmScratch) -> Result<(), GpuError> {
        self.gemm(gemm, first, scratch)?;
        let x = gemm.x.slice(first * gemm.weights.n_in()..gemm.x.len());
        let factors = gemm.factors.map(|factors| factors.slice(first..factors.len()));
        let behind = first * gemm.out_stride;
        let rest = Gemm { x: &x, factors: factors.as_deref(), ..*gemm };
        match gemm.out {
            Product::F32(out) => {
                let out = out.slice(behind..out.len());
                self.gemm(&Gemm { out: Product::F32(&out), ..rest }, last, scratch)
            }
            Product::F16(out) => {
                let out = out.slice(behind..out.len());
                self.gemm(&Gemm { out: Product::F16(&out), ..rest }, last, scratch)
            }
        }
    }

    /// Enqueues out[pair] = alpha · factors[pair ÷ share] · W[expert of the pair] · x[pair ÷ share] for the pairs of tokens and experts that
    /// `of` sorted, each expert's packed weights read once for a tile of its pairs. A pair's outputs are the same bits whatever others there
    /// are.
    pub fn gemm_experts(&self, gemm: &Gemm, of: &ExpertPairs) -> Result<(), GpuError> {
        assert_eq!(gemm.weights.n_matrices(), of.n_experts, "an expert has a matrix");
        assert!(of.n_pairs > 0, "a product of no pairs");
        let (which, of_tile) = tile(of.n_pairs, of.n_experts);
        let n_tiles = n_tiles(of.n_pairs, of.n_experts, of_tile);
        let grid = [gemm.weights.n_out.div_ceil(self.gemm_geometries()[which].rows), n_tiles];
        expect_len("pairs", &of.lists.pairs, of.n_pairs);
        expect_len("tiles", &of.lists.tiles, 4 * n_tiles);
        // SAFETY: a block has a whole tile of rows; the lists' tiles have as many pairs as the kernel takes, by the same rule.
        unsafe { self.launch_gemm(gemm, of.n_pairs, which, grid, None, Some(of)) }
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
    /// - The grid's blocks share all units of all tiles of rows, with `scratch` for those that more than one has a part of.
    unsafe fn launch_gemm(
        &self,
        gemm: &Gemm,
        n_tokens: usize,
        which: usize,
        [blocks, groups]: [usize; 2],
        scratch: Option<&GemmScratch>,
        experts: Option<&ExpertPairs>,
    ) -> Result<(), GpuError> {
        let Gemm { weights, x, factors, bias, out, out_stride, alpha, adds } = *gemm;
        let (n_in, n_out) = (weights.n_in(), weights.n_out);
        let share = experts.map_or(1, |experts| experts.share);
        assert!(n_in.is_multiple_of(CHUNK as usize), "rows of {n_in} are no whole chunks");
        assert!(x.address().is_multiple_of(16), "x starts on a 16-byte boundary");
        assert!(share > 0 && n_tokens.is_multiple_of(share), "{n_tokens} pairs, {share} to an x");
        expect_len("x", x, n_tokens / share * n_in);
        factors.inspect(|factors| expect_len("factors", factors, n_tokens / share));
        bias.inspect(|bias| expect_len("bias", bias, n_out));
        let last = (n_tokens - 1) * out_stride + n_out;
        let (out_f32, out_f16) = match out {
            Product::F32(out) => {
                expect_len("out", out, last);
                (Some(out), None)
            }
            Product::F16(out) => {
                assert!(!adds, "sums are f32");
                expect_len("out", out, last);
                (None, Some(out))
            }
        };
        let kernel = &self.gemm_geometries()[which];
        let units = units(kernel, n_out, n_in);
        let arguments = (
            &*weights.part(),
            count(weights.blocks_of_part()),
            count(weights.first()),
            count(n_out),
            experts.map(|experts| &*experts.lists.tiles),
            experts.map(|experts| &*experts.lists.pairs),
            count(share),
            x,
            factors,
            bias,
            out_f32,
            out_f16,
            count(out_stride),
            alpha,
            u32::from(adds),
            scratch.map(|scratch| &*scratch.partial),
            scratch.map(|scratch| &*scratch.arrivals),
            count(n_tokens),
            count(n_in),
            count(n_out),
            kernel.panel,
            count(units / blocks),
            count(units % blocks),
        );
        let launch = Launch::new([count(blocks), count(groups), 1], kernel.threads);
        let launch = launch.shared_bytes(kernel.shared_bytes).early();
        let kernels = block_format(weights.tensor_type()).gemm;
        // SAFETY: the slices hold what the contract asks for; parts are 256-byte aligned, rows whole blocks, as the file's reader
        // checked. The kernel waits before it reads what an earlier one writes.
        unsafe { self.launch_as(kernels[which], launch, arguments) }
    }
}
