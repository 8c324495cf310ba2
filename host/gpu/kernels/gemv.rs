//! Launches the products in `kernels/gemv/` and those on packed blocks.

use kernels::{
    blocks::GROUP,
    gemv::{
        MAX_WARPS, Parameters, ROWS,
        activations::{RUN, bytes_f32, bytes_q8, bytes_q16},
        gemv_bf16, gemv_f16, gemv_f32,
    },
};

use super::{blocks::block_format, count, expect_len};
use crate::{
    gguf::TensorType,
    gpu::{Activations, Gpu, GpuError, Rows, Slice, launch::Launch},
};

/// One launch: out = W · x and what stands around it.
#[derive(Clone, Copy)]
pub struct Gemv<'a> {
    /// W, `[n_out][n_in]`.
    pub weights: Rows<'a>,
    /// The input.
    pub x: Input<'a>,
    /// RMSNorm of x before the product: its weights `[n_in]` and ε.
    pub norm: Option<(&'a Slice<f32>, f32)>,
    /// `[n_out]`.
    pub bias: Option<&'a Slice<f32>>,
    /// As `out`, which it may be.
    pub residual: Option<&'a Slice<f32>>,
    /// `[n_out]`, or `[n_vectors][n_out]`; or, of SwiGLU, what [`Input::Quantised`] takes, a vector behind the other.
    pub out: Output<'a>,
    /// Whether `weights` are two matrices of equal height, or two stacks of such, the gate's above the up projection's, and
    /// out = silu(gate) · up, half as long.
    pub swiglu: bool,
    /// The matrices of a stack that are used.
    pub experts: Option<Experts<'a>>,
    /// What quantised weights are multiplied with.
    pub activations: Activations,
}

/// What a product multiplies.
#[derive(Clone, Copy)]
pub enum Input<'a> {
    /// `[n_in]`, or `[n_vectors / share][n_in]`.
    F32(&'a Slice<f32>),
    /// `n_in` values as 8-bit integers with their scales, as a product left them: [`quantised_len`] words.
    Quantised(&'a Slice<u32>),
}

/// Where a product goes.
#[derive(Clone, Copy)]
pub enum Output<'a> {
    /// As it is.
    F32(&'a Slice<f32>),
    /// As 8-bit integers with a scale for each 16: [`quantised_len`] words.
    Quantised(&'a Slice<u32>),
}

/// Words of `n` quantised values.
pub fn quantised_len(n: usize) -> usize {
    bytes_q8(count(n)) as usize / 4
}

/// Which of a stack's matrices multiplies which vector.
#[derive(Clone, Copy)]
pub struct Experts<'a> {
    /// `[n_vectors]`, each below the stack's height.
    pub chosen: &'a Slice<u32>,
    /// Vectors of `out`.
    pub n_vectors: usize,
    /// How many neighbouring vectors use the same x.
    pub share: usize,
}

impl<'a> Gemv<'a> {
    /// A product and nothing around it.
    pub fn new(weights: Rows<'a>, x: &'a Slice<f32>, out: &'a Slice<f32>) -> Gemv<'a> {
        Gemv {
            weights,
            x: Input::F32(x),
            norm: None,
            bias: None,
            residual: None,
            out: Output::F32(out),
            swiglu: false,
            experts: None,
            activations: Activations::default(),
        }
    }

    /// The same with other activations.
    pub fn activations(self, activations: Activations) -> Gemv<'a> {
        Gemv { activations, ..self }
    }

    /// Whether the kernel keeps activations in shared memory as 8-bit integers.
    fn quantises(&self) -> bool {
        self.weights.tensor_type().is_quantised() && self.activations == Activations::Q8
    }

    /// Whether it keeps them as 16-bit ones.
    fn is_wide(&self) -> bool {
        self.weights.tensor_type().is_quantised() && self.activations == Activations::Q16
    }

    fn kernel(&self) -> cuda_std::Kernel<Parameters> {
        match self.weights.tensor_type() {
            TensorType::F32 => gemv_f32,
            TensorType::F16 => gemv_f16,
            TensorType::BF16 => gemv_bf16,
            packed if self.quantises() => block_format(packed).gemv,
            packed if self.is_wide() => block_format(packed).gemv_wide,
            packed => block_format(packed).gemv_exact,
        }
    }

    /// Blocks of eight warps that a multiprocessor has room for.
    pub(super) fn resident(&self) -> usize {
        match self.quantises() || self.is_wide() {
            true => block_format(self.weights.tensor_type()).resident,
            false => FLOATS_RESIDENT,
        }
    }

    /// Chunks of a row: what a lane takes at a time.
    pub(super) fn chunks_of_row(&self) -> usize {
        let tensor_type = self.weights.tensor_type();
        let chunk = match tensor_type {
            TensorType::F32 | TensorType::F16 | TensorType::BF16 => 16 / tensor_type.block_bytes() as usize,
            packed if self.quantises() || self.is_wide() => block_format(packed).chunk as usize,
            _ => GROUP,
        };
        self.weights.n_in().div_ceil(chunk)
    }

    /// How it is spread over the device.
    pub(super) fn spread(&self, multiprocessors: usize) -> Spread {
        let outputs = if self.swiglu { self.weights.n_out / 2 } else { self.weights.n_out };
        let quads = outputs.div_ceil(if self.swiglu { ROWS / 2 } else { ROWS } as usize);
        match self.experts {
            Some(experts) => spread_experts(quads, experts.n_vectors, multiprocessors, self.resident()),
            None => {
                let quantise = matches!(self.out, Output::Quantised(_));
                spread(quads, self.chunks_of_row(), multiprocessors, self.resident(), quantise)
            }
        }
    }

    /// Bytes of dynamic shared memory.
    pub(super) fn shared_bytes(&self) -> u32 {
        let n_in = count(self.weights.n_in());
        if self.is_wide() {
            return bytes_q16(n_in);
        }
        match (self.quantises(), self.norm.is_some()) {
            (true, _) => bytes_q8(n_in),
            (false, true) => bytes_f32(n_in),
            // Only rows of odd lengths are multiplied from shared memory then.
            (false, false) => {
                if n_in.is_multiple_of(8) {
                    0
                } else {
                    bytes_f32(n_in)
                }
            }
        }
    }
}

/// How a product is spread over the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spread {
    /// Blocks along x.
    pub(super) blocks: u32,
    /// Warps of a block.
    pub(super) warps: u32,
    /// 2^split warps take turns over the chunks of a row.
    pub(super) split: u32,
}

/// Warps that a multiprocessor should have of a product, where it has work for them: with four 16-byte loads a lane as many
/// bytes are under way as the memory needs to be busy (bandwidth · latency, some 32 KiB each on a Hopper).
const WARPS_WANTED: usize = 16;

/// Blocks of eight warps of products with floats that fit a multiprocessor beside each other, by their registers.
pub(super) const FLOATS_RESIDENT: usize = 3;

/// Spreads `quads` of four rows, each of `chunks`, over a device that has room for `resident` blocks of eight warps on each
/// multiprocessor.
///
/// | shape | example | what limits | spread |
/// |---|---|---|---|
/// | many rows | vocabulary, gate and up | memory | no split, blocks of eight warps that take turns |
/// | few long rows | down | warps to keep the memory busy | split as far as each warp has a step |
/// | few short rows | QKV of a small model | latency | split, small blocks, so that all multiprocessors take part |
///
/// Where blocks `quantise` what they make, a block's warps make a run of it between them: no split, eight warps.
pub(super) fn spread(quads: usize, chunks: usize, multiprocessors: usize, resident: usize, quantise: bool) -> Spread {
    let steps = chunks.div_ceil(32);
    let mut split = 0;
    while !quantise && split < 3 && quads << split < WARPS_WANTED * multiprocessors && 2 << split <= steps {
        split += 1;
    }
    let warps = if !quantise && quads << split < 8 * multiprocessors { 4.max(1 << split) } else { 8 };
    let tiles = quads.div_ceil(warps >> split);
    // Blocks that stay and take turns save the others' start; each takes as many turns as any other, or one fewer.
    let turns = tiles.div_ceil(resident * multiprocessors * 8 / warps);
    Spread { blocks: count(tiles.div_ceil(turns)), warps: count(warps), split }
}

/// Spreads the products of `n_vectors` with an expert each, `quads` of four rows. There are many of them, so that rows are not split; and
/// neither split nor warps, by which sums are ordered, depend on how many vectors there are. Each block stages its vector, so blocks are
/// large, and no more than fit the device at once.
fn spread_experts(quads: usize, n_vectors: usize, multiprocessors: usize, resident: usize) -> Spread {
    let tiles = quads.div_ceil(MAX_WARPS as usize);
    let turns = (tiles * n_vectors).div_ceil(resident * multiprocessors).min(tiles);
    Spread { blocks: count(tiles.div_ceil(turns)), warps: MAX_WARPS, split: 0 }
}

impl Gpu {
    /// Enqueues a product with one vector, or with a vector for each chosen expert.
    pub fn gemv(&self, gemv: &Gemv) -> Result<(), GpuError> {
        let Gemv { weights, x, norm, bias, residual, out, swiglu, experts, .. } = *gemv;
        let (n_in, rows) = (weights.n_in(), weights.n_out);
        let n_out = if swiglu { rows / 2 } else { rows };
        let (n_vectors, share) = experts.map_or((1, 1), |experts| (experts.n_vectors, experts.share));
        assert!(experts.is_some() || weights.n_matrices() == 1, "a product with a stack needs to know the experts");
        assert!(!swiglu || rows.is_multiple_of(2), "SwiGLU of two matrices, one above the other");
        assert!(share > 0 && n_vectors.is_multiple_of(share), "{n_vectors} vectors, {share} to an x");
        assert!(n_vectors == 1 || n_in.is_multiple_of(4), "several vectors of {n_in} values are not all aligned");
        let (x, quantised_x) = match x {
            Input::F32(x) => {
                assert!(x.address().is_multiple_of(16), "x starts on a 16-byte boundary");
                expect_len("x", x, n_vectors / share * n_in);
                (Some(x), None)
            }
            Input::Quantised(x) => {
                assert!(gemv.quantises() && norm.is_none() && experts.is_none(), "quantised activations as they are");
                assert!(x.address().is_multiple_of(16), "x starts on a 16-byte boundary");
                expect_len("x", x, quantised_len(n_in));
                (None, Some(x))
            }
        };
        let (out, quantised_out) = match out {
            Output::F32(out) => {
                expect_len("out", out, n_vectors * n_out);
                (Some(out), None)
            }
            Output::Quantised(out) => {
                assert!(swiglu, "SwiGLU's output is quantised");
                assert!(n_out.is_multiple_of(RUN as usize), "{n_out} outputs are no whole runs");
                expect_len("out", out, n_vectors * quantised_len(n_out));
                (None, Some(out))
            }
        };
        experts.inspect(|experts| expect_len("experts", experts.chosen, n_vectors));
        norm.inspect(|(norm, _)| expect_len("norm", norm, n_in));
        bias.inspect(|bias| expect_len("bias", bias, n_out));
        residual.inspect(|residual| expect_len("residual", residual, n_vectors * n_out));

        let Spread { blocks, warps, split } = gemv.spread(self.multiprocessors());
        debug_assert!(warps <= MAX_WARPS);
        let arguments = (
            &*weights.part(),
            count(weights.blocks_of_part()),
            count(weights.first()),
            x,
            quantised_x,
            norm.map(|(norm, _)| norm),
            norm.map_or(0.0, |(_, epsilon)| epsilon),
            bias,
            residual,
            out,
            quantised_out,
            experts.map(|experts| experts.chosen),
            count(n_in),
            count(n_out),
            if swiglu { count(weights.n_matrices() * n_out) } else { 0 },
            count(share),
            split,
        );
        let launch = Launch::new([blocks, count(n_vectors), 1], 32 * warps).shared_bytes(gemv.shared_bytes()).early();
        // SAFETY: the slices hold what the contract asks for; allocations and parts are 256-byte aligned, rows whole blocks, as
        // the file's reader checked; the experts are the caller's promise.
        unsafe { self.launch_as(gemv.kernel(), launch, arguments) }
    }
}
