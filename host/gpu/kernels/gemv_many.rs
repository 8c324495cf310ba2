//! Launches the products with several vectors: those on tensor cores in `kernels/gemv/few/`, and those on lanes in `kernels/gemv/many.rs`.

use kernels::gemv::{
    MAX_WARPS, ROWS,
    activations::{RUN, bytes_f32, bytes_q8, bytes_q16},
    few,
    many::{
        ManyParameters, VECTORS, gemv_many_bf16, gemv_many_f16, gemv_many_f32, gemv_stage_f32, gemv_stage_q8,
        gemv_stage_q16,
    },
};

use super::{
    blocks::block_format,
    count, expect_len,
    gemv::{Gemv, Input, Output, Spread, quantised_len},
    gemv_mixed::GemvParts,
};
use crate::{
    gguf::TensorType,
    gpu::{Activations, Buffer, Gpu, GpuError, Rows, Slice, launch::Launch},
};

/// Where the vectors of a product are staged. Launches that run one after another share it.
pub struct Staging {
    /// Vectors in any form.
    words: Buffer<u32>,
    /// What their norm multiplies them by.
    factors: Buffer<f32>,
}

impl Staging {
    /// Elements of the allocations for `n_vectors` vectors of up to `n_in` values, both of 32 bits.
    pub fn elements(n_vectors: usize, n_in: usize) -> [usize; 2] {
        let words = n_in.max(bytes_q16(count(n_in.next_multiple_of(RUN as usize))) as usize / 4);
        [n_vectors * words, n_vectors]
    }

    /// Allocates it.
    ///
    /// # Errors
    /// The device has not so much memory.
    pub fn new(gpu: &Gpu, n_vectors: usize, n_in: usize) -> Result<Staging, GpuError> {
        let [words, factors] = Staging::elements(n_vectors, n_in);
        Ok(Staging { words: gpu.alloc("activations", words)?, factors: gpu.alloc("activations", factors)? })
    }
}

/// Dynamic shared memory that a block can have beside what the kernels on lanes declare; a Hopper has 227 KiB in all.
const SHARED_ROOM: u32 = 226 << 10;
/// The same beside what those on tensor cores do.
const SHARED_ROOM_FEW: u32 = 209 << 10;

/// The form in which vectors are staged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    F32,
    Q8,
    Q16,
}

impl Form {
    fn bytes(self, n_in: usize) -> u32 {
        match self {
            Form::F32 => bytes_f32(count(n_in)),
            Form::Q8 => bytes_q8(count(n_in)),
            Form::Q16 => bytes_q16(count(n_in)),
        }
    }
}

/// How rows of a type are multiplied with several vectors.
#[derive(Clone, Copy)]
struct Product {
    form: Form,
    on_tensor_cores: bool,
    kernel: cuda_std::Kernel<ManyParameters>,
}

impl Product {
    /// Where there is a kernel.
    fn of(weights: &Rows, activations: Activations) -> Option<Product> {
        let floats = |kernel, per_vector| {
            let form = Form::F32;
            weights.n_in().is_multiple_of(per_vector).then_some(Product { form, on_tensor_cores: false, kernel })
        };
        let (form, index) = match activations {
            Activations::Q16 => (Form::Q16, 1),
            _ => (Form::Q8, 0),
        };
        match weights.tensor_type() {
            TensorType::F32 => floats(gemv_many_f32, 4),
            TensorType::F16 => floats(gemv_many_f16, 8),
            TensorType::BF16 => floats(gemv_many_bf16, 8),
            _ if activations == Activations::F32 => None,
            packed => {
                let format = block_format(packed);
                let on =
                    |on_tensor_cores| move |kernels: [_; 2]| Product { form, on_tensor_cores, kernel: kernels[index] };
                format.gemv_few.map(on(true)).or(format.gemv_many.map(on(false)))
            }
        }
    }

    /// Dynamic shared memory for so many vectors.
    fn shared_bytes(self, n_vectors: usize, n_in: usize) -> u32 {
        match self.form {
            Form::F32 => 0,
            form if self.on_tensor_cores => few::shared_bytes(count(n_vectors), count(n_in), form == Form::Q16),
            form => count(n_vectors) * form.bytes(n_in),
        }
    }

    /// The most vectors that a block takes.
    fn most_vectors(self, n_in: usize) -> usize {
        let (most, room) = if self.on_tensor_cores { (few::VECTORS, SHARED_ROOM_FEW) } else { (VECTORS, SHARED_ROOM) };
        (1..=most as usize).rev().find(|n| self.shared_bytes(*n, n_in) <= room).unwrap_or(1)
    }
}

/// Vectors as words of 32 bits.
#[derive(Clone, Copy)]
enum Words<'a> {
    AsTheyAre(&'a Slice<f32>),
    Staged(&'a Slice<u32>),
}

/// Vectors where a product takes them.
#[derive(Clone, Copy)]
struct Vectors<'a> {
    words: Words<'a>,
    stride: usize,
    factors: Option<&'a Slice<f32>>,
}

impl Gpu {
    /// How many vectors of 8-bit integers are multiplied at once with rows of `n_in` weights of this type on tensor cores; none where they are not.
    pub fn multiplied_at_once(tensor_type: TensorType, n_in: usize) -> Option<usize> {
        let kernels = tensor_type.is_quantised().then(|| block_format(tensor_type).gemv_few).flatten();
        kernels.map(|[kernel, _]| Product { form: Form::Q8, on_tensor_cores: true, kernel }.most_vectors(n_in))
    }

    /// Enqueues products of one matrix with `n_vectors` vectors: each of `gemv`'s operands is that of one vector, and as many times as
    /// long. A vector's outputs are those of [`Gpu::gemv`] with it alone, bit for bit; weights are read once for eight vectors, but for
    /// what no kernel takes together: packed weights with `f32` activations, formats that unpack by tables, and rows that are no whole
    /// 16-byte vectors.
    pub fn gemv_many(&self, gemv: &Gemv, n_vectors: usize, staging: &Staging) -> Result<(), GpuError> {
        assert!(gemv.experts.is_none(), "experts are chosen for each vector");
        if n_vectors == 1 {
            return self.gemv(gemv);
        }
        let (n_in, rows) = (gemv.weights.n_in(), gemv.weights.n_out);
        let n_out = if gemv.swiglu { rows / 2 } else { rows };
        let Some(Product { form, .. }) = Product::of(&gemv.weights, gemv.activations) else {
            return self.one_by_one(gemv, n_vectors, n_out);
        };
        let spread = gemv.spread(self.multiprocessors());
        let vectors = match gemv.x {
            Input::Quantised(words) => {
                assert!(form == Form::Q8 && gemv.norm.is_none(), "quantised activations as they are");
                expect_len("x", words, n_vectors * quantised_len(n_in));
                Vectors { words: Words::Staged(words), stride: quantised_len(n_in), factors: None }
            }
            Input::F32(x) => {
                expect_len("x", x, n_vectors * n_in);
                self.stage(x, gemv.norm, form, n_vectors, n_in, spread.warps, staging)?
            }
        };
        self.products(gemv, vectors, n_vectors, n_out, spread)
    }

    /// The same for [`Gpu::gemv_parts`].
    pub fn gemv_parts_many(&self, parts: &GemvParts, n_vectors: usize, staging: &Staging) -> Result<(), GpuError> {
        if n_vectors == 1 {
            return self.gemv_parts(parts);
        }
        let GemvParts { weights, x, norm, bias, out, activations } = *parts;
        assert_eq!(weights.n_matrices, 1, "a matrix, not a stack");
        let (n_in, n_out) = (weights.n_in, weights.n_out);
        expect_len("x", x, n_vectors * n_in);
        expect_len("out", out, n_vectors * n_out);
        // Two formats that one launch takes with a vector alone are spread there as one.
        let together = parts.spread(self.multiprocessors());
        let mut staged: Option<(Form, u32, Vectors)> = None;
        let mut row = 0;
        for rows in weights.rows_of_parts() {
            let range = row..row + rows.n_out;
            row = range.end;
            let bias = bias.map(|bias| bias.slice(range.clone()));
            let Some(Product { form, .. }) = Product::of(&rows, activations) else {
                for vector in 0..n_vectors {
                    let x = x.slice(vector * n_in..(vector + 1) * n_in);
                    let out = out.slice(vector * n_out + range.start..vector * n_out + range.end);
                    let gemv =
                        Gemv { norm, bias: bias.as_deref(), ..Gemv::new(rows, &x, &out).activations(activations) };
                    self.gemv(&gemv)?;
                }
                continue;
            };
            let out = out.slice(range.start..out.len());
            let gemv = Gemv { norm, bias: bias.as_deref(), ..Gemv::new(rows, x, &out).activations(activations) };
            let spread = together.unwrap_or_else(|| gemv.spread(self.multiprocessors()));
            let vectors = match staged {
                Some((there, warps, vectors)) if there == form && warps == spread.warps => vectors,
                _ => self.stage(x, norm, form, n_vectors, n_in, spread.warps, staging)?,
            };
            staged = Some((form, spread.warps, vectors));
            self.products(&gemv, vectors, n_vectors, n_out, spread)?;
        }
        Ok(())
    }

    pub(in crate::gpu) fn one_by_one(&self, gemv: &Gemv, n_vectors: usize, n_out: usize) -> Result<(), GpuError> {
        let n_in = gemv.weights.n_in();
        let of = |vector: usize, row: usize| vector * row..(vector + 1) * row;
        for vector in 0..n_vectors {
            let (x_f32, x_q8) = match gemv.x {
                Input::F32(x) => (Some(x.slice(of(vector, n_in))), None),
                Input::Quantised(x) => (None, Some(x.slice(of(vector, quantised_len(n_in))))),
            };
            let (out_f32, out_q8) = match gemv.out {
                Output::F32(out) => (Some(out.slice(of(vector, n_out))), None),
                Output::Quantised(out) => (None, Some(out.slice(of(vector, quantised_len(n_out))))),
            };
            let x = match (&x_f32, &x_q8) {
                (Some(x), _) => Input::F32(x),
                (_, x) => Input::Quantised(x.as_ref().expect("one of the two")),
            };
            let out = match (&out_f32, &out_q8) {
                (Some(out), _) => Output::F32(out),
                (_, out) => Output::Quantised(out.as_ref().expect("one of the two")),
            };
            let residual = gemv.residual.map(|residual| residual.slice(of(vector, n_out)));
            self.gemv(&Gemv { x, out, residual: residual.as_deref(), ..*gemv })?;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn stage<'a>(
        &self,
        x: &'a Slice<f32>,
        norm: Option<(&Slice<f32>, f32)>,
        form: Form,
        n_vectors: usize,
        n_in: usize,
        warps: u32,
        staging: &'a Staging,
    ) -> Result<Vectors<'a>, GpuError> {
        if form == Form::F32 && norm.is_none() {
            return Ok(Vectors { words: Words::AsTheyAre(x), stride: n_in, factors: None });
        }
        let bytes = form.bytes(n_in);
        let stride = bytes as usize / 4;
        expect_len("staged vectors", &staging.words, n_vectors * stride);
        expect_len("their factors", &staging.factors, n_vectors);
        let factors = norm.map(|_| &*staging.factors);
        let kernel = match form {
            Form::F32 => gemv_stage_f32,
            Form::Q8 => gemv_stage_q8,
            Form::Q16 => gemv_stage_q16,
        };
        let arguments = (
            x,
            norm.map(|(norm, _)| norm),
            norm.map_or(0.0, |(_, epsilon)| epsilon),
            &*staging.words,
            factors,
            count(n_in),
        );
        let launch = Launch::new([count(n_vectors), 1, 1], 32 * warps).shared_bytes(bytes).early();
        // SAFETY: the kernel waits before it reads; the slices hold what the contract asks for.
        unsafe { self.launch_as(kernel, launch, arguments)? }
        Ok(Vectors { words: Words::Staged(&staging.words), stride, factors })
    }

    fn products(
        &self,
        gemv: &Gemv,
        vectors: Vectors,
        n_vectors: usize,
        out_stride: usize,
        spread: Spread,
    ) -> Result<(), GpuError> {
        let Gemv { weights, bias, residual, out, swiglu, activations, .. } = *gemv;
        let product = Product::of(&weights, activations).expect("as the caller found");
        let (n_in, rows) = (weights.n_in(), weights.n_out);
        let n_out = if swiglu { rows / 2 } else { rows };
        let last = (n_vectors - 1) * out_stride + n_out;
        let (out, quantised_out) = match out {
            Output::F32(out) => {
                expect_len("out", out, last);
                (Some(out), None)
            }
            Output::Quantised(out) => {
                assert!(swiglu && n_out.is_multiple_of(RUN as usize), "{n_out} outputs are no whole runs");
                expect_len("out", out, n_vectors * quantised_len(n_out));
                (None, Some(out))
            }
        };
        bias.inspect(|bias| expect_len("bias", bias, n_out));
        residual.inspect(|residual| expect_len("residual", residual, last));
        let Spread { warps, split, .. } = spread;
        debug_assert!(warps <= MAX_WARPS);
        // As many vectors as there is shared memory for, shared evenly among the groups.
        let n_groups = n_vectors.div_ceil(product.most_vectors(n_in));
        let group = n_vectors.div_ceil(n_groups);
        let (blocks, threads) = if product.on_tensor_cores {
            let tiles = n_out.div_ceil(if swiglu { few::ROWS / 2 } else { few::ROWS } as usize);
            // A run of outputs that is quantised is two tiles of a team's.
            let ways = if quantised_out.is_some() { tiles / 2 } else { tiles };
            (ways.min(self.multiprocessors()), few::THREADS)
        } else {
            let outputs_of_warp = if swiglu { ROWS / 2 } else { ROWS } as usize;
            let tiles = n_out.div_ceil(outputs_of_warp).div_ceil(warps as usize >> split);
            let turns = tiles.div_ceil(self.multiprocessors() * (8 / warps as usize).max(1));
            (tiles.div_ceil(turns), 32 * warps)
        };
        let grid = [count(blocks), count(n_groups), 1];
        let cast = match vectors.words {
            Words::AsTheyAre(x) => x.cast::<u32>(),
            Words::Staged(words) => words.cast::<u32>(),
        };
        let arguments = (
            &*weights.part(),
            count(weights.blocks_of_part()),
            count(weights.first()),
            &*cast,
            count(vectors.stride),
            vectors.factors,
            bias,
            residual,
            out,
            count(out_stride),
            quantised_out,
            count(n_vectors),
            count(group),
            count(n_in),
            count(n_out),
            if swiglu { count(n_out) } else { 0 },
            split,
        );
        let launch = Launch::new(grid, threads).shared_bytes(product.shared_bytes(group, n_in)).early();
        // SAFETY: the slices hold what the contract asks for; allocations and parts are 256-byte aligned, rows whole blocks, as
        // the file's reader checked. The kernel waits before it reads what an earlier one writes.
        unsafe { self.launch_as(product.kernel, launch, arguments) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_has_room_for_so_many_vectors_at_once() {
        // A 7B's matrices, of which the down projection's columns are many: eight of its vectors take 222 KiB, and so do seven.
        for (n_in, most) in [(3584, 8), (18_944, 6)] {
            assert_eq!(Gpu::multiplied_at_once(TensorType::Q4_K, n_in), Some(most), "{n_in}");
        }
        // On lanes, by tables, and floats.
        for other in [TensorType::Q2_K, TensorType::IQ2_XS, TensorType::F16] {
            assert_eq!(Gpu::multiplied_at_once(other, 3584), None, "{other}");
        }
    }
}
