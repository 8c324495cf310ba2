//! The product of tokens with weights.
//!
//! One token is a matrix–vector product in a kernel of ours, bound by the reading of the weights, which stay packed. Several
//! tokens go to cuBLAS, in the weights' own type if that is a float, else in f16: the matrix is unpacked into one scratch
//! buffer just before, so that no second copy of the model is kept. `kernels/matmul.rs` says what is done to the
//! activations so that 16 bits do not cost range (f16) or precision (bf16, which takes two products).
//!
//! Where there is no cuBLAS, the same products are kernels of ours (`kernels/product/`), and those of f32 a vector's for each token.

#![allow(rustdoc::broken_intra_doc_links, reason = "formulas have indices: out[i] is no link")]

use std::{fmt, str::FromStr};

use driver::cublas::{Element, Matrix};
use half::{bf16, f16};

use super::{
    Buffer, Gpu, GpuError, Rows, Slice,
    kernels::{FloatProduct, Gemm, GemmScratch, Gemv, Order},
};
use crate::gguf::TensorType;

/// What quantised weights are multiplied with in a product with one token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activations {
    /// The activations as they are.
    F32,
    /// 8-bit integers with a scale for each 16, made of them: integer products, several times fewer instructions.
    #[default]
    Q8,
    /// Two such integers each, the second of what the first leaves: some 15 bits, at twice the integer products.
    Q16,
}

impl fmt::Display for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Activations::F32 => "f32",
            Activations::Q8 => "q8",
            Activations::Q16 => "q16",
        })
    }
}

impl FromStr for Activations {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Activations::F32),
            "q8" => Ok(Activations::Q8),
            "q16" => Ok(Activations::Q16),
            _ => Err(format!("unknown type of activations `{text}`: expected q8, q16 or f32")),
        }
    }
}

/// Where a product of f16 goes, and how it is rounded there.
#[derive(Clone, Copy)]
pub enum Product<'a> {
    /// As it is summed.
    F32(&'a Slice<f32>),
    /// Rounded once, at the end.
    F16(&'a Slice<f16>),
}

/// A matrix and the activations that it is multiplied with, of one type.
#[derive(Clone, Copy)]
pub enum Factors<'a> {
    /// Both f32.
    F32([&'a Slice<f32>; 2]),
    /// Both f16.
    F16([&'a Slice<f16>; 2]),
    /// Both bf16.
    Bf16([&'a Slice<bf16>; 2]),
}

/// Memory for what is multiplied in 16 bits, used by one product after another.
pub struct Matmul {
    input: Buffer<u16>,
    inverse_scales: Buffer<f32>,
    unpacked: Buffer<f16>,
    activations: Activations,
}

impl Matmul {
    /// Room for products of up to `max_tokens` tokens with matrices of up to `max_in` columns, of which those of
    /// quantised types have at most `max_quantised` elements.
    pub fn new(
        gpu: &Gpu,
        max_tokens: usize,
        max_in: usize,
        max_quantised: usize,
        activations: Activations,
    ) -> Result<Matmul, GpuError> {
        Ok(Matmul {
            // Two for bf16, whose inputs go in as a sum.
            input: gpu.alloc("matmul inputs", 2 * max_tokens * max_in)?,
            inverse_scales: gpu.alloc("matmul input scales", max_tokens)?,
            unpacked: gpu.alloc("an unpacked matrix", max_quantised)?,
            activations,
        })
    }

    /// What quantised weights are multiplied with in a product with one token.
    pub fn activations(&self) -> Activations {
        self.activations
    }
}

impl Gpu {
    /// out[token] = weights · x[token] (+ bias) (+ residual[token]), `x` of `[n_tokens][n_in]`, `out` and `residual` of
    /// `[n_tokens][n_out]`. `residual` must not be `out`.
    #[allow(clippy::too_many_arguments)]
    pub fn matmul(
        &self,
        scratch: &Matmul,
        weights: Rows,
        x: &Slice<f32>,
        bias: Option<&Slice<f32>>,
        residual: Option<&Slice<f32>>,
        out: &Slice<f32>,
        n_tokens: usize,
    ) -> Result<(), GpuError> {
        assert_eq!(weights.n_matrices(), 1, "a product with a stack of matrices needs to know the experts");
        if n_tokens == 1 {
            let gemv = Gemv::new(weights, x, out).activations(scratch.activations);
            return self.gemv(&Gemv { bias, residual, ..gemv });
        }
        let (n_in, n_out) = (weights.n_in(), weights.n_out);
        assert!(
            residual.is_none_or(|residual| residual.address() != out.address()),
            "a matmul overwrites its residual before it is added"
        );
        let tensor_type = weights.tensor_type();
        let is_whole = n_in.is_multiple_of(Gpu::PRODUCT_COLUMNS);
        if (tensor_type == TensorType::F32 || !is_whole) && self.cublas.get()?.is_none() {
            return self.one_by_one(&Gemv { bias, residual, ..Gemv::new(weights, x, out) }, n_tokens, n_out);
        }
        let product = |factors, adds| self.product_of(factors, n_out, n_in, Product::F32(out), 1.0, adds, n_tokens);
        let n = n_tokens * n_in;
        let inverse_scales = match tensor_type {
            TensorType::F32 => {
                product(Factors::F32([&weights.floats().cast(), x]), false)?;
                None
            }
            TensorType::BF16 => {
                let (matrix, input) = (weights.floats().into_cast::<bf16>(), scratch.input.cast::<bf16>());
                let (high, low) = (input.slice(0..n), input.slice(n..2 * n));
                self.matmul_input_bf16(x, &high, &low, n)?;
                product(Factors::Bf16([&matrix, &high]), false)?;
                product(Factors::Bf16([&matrix, &low]), true)?;
                None
            }
            tensor_type => {
                let floats = (tensor_type == TensorType::F16).then(|| weights.floats().into_cast::<f16>());
                if floats.is_none() {
                    self.dequantise(weights, &scratch.unpacked)?;
                }
                let input = scratch.input.cast::<f16>();
                self.matmul_input_f16(x, &input, &scratch.inverse_scales, n_tokens, n_in, Order::Rows)?;
                product(Factors::F16([floats.as_deref().unwrap_or(&scratch.unpacked), &input]), false)?;
                Some(&*scratch.inverse_scales)
            }
        };
        if inverse_scales.is_none() && bias.is_none() && residual.is_none() {
            return Ok(());
        }
        self.matmul_epilogue(out, inverse_scales, bias, residual, out, n_tokens, n_out)
    }

    /// out[token] = weights · x[token] for a few tokens, the weights read as they are ([`Gpu::gemm`]).
    pub fn matmul_packed(
        &self,
        scratch: &Matmul,
        gemm: &GemmScratch,
        weights: Rows,
        x: &Slice<f32>,
        out: &Slice<f32>,
        n_tokens: usize,
    ) -> Result<(), GpuError> {
        let input = scratch.input.cast::<f16>();
        let order = if self.takes_steps(weights.n_in()) { Order::Steps } else { Order::Rows };
        self.matmul_input_f16(x, &input, &scratch.inverse_scales, n_tokens, weights.n_in(), order)?;
        let (factors, orders) = (Some(&*scratch.inverse_scales), [order, Order::Rows]);
        self.gemm(&Gemm { factors, orders, ..Gemm::new(weights, &input, Product::F32(out)) }, n_tokens, gemm)
    }

    /// out[token] = alpha · matrix · x[token] (+ out[token]) for a matrix `[n_out][n_in]` and `x` of `[n_tokens][n_in]`.
    #[allow(clippy::too_many_arguments)]
    pub fn product(
        &self,
        matrix: &Slice<f16>,
        n_out: usize,
        n_in: usize,
        x: &Slice<f16>,
        out: Product,
        alpha: f32,
        adds: bool,
        n_tokens: usize,
    ) -> Result<(), GpuError> {
        self.product_of(Factors::F16([matrix, x]), n_out, n_in, out, alpha, adds, n_tokens)
    }

    /// [`Gpu::product`] of factors of any one type, on cuBLAS or, where there is none, by a kernel.
    #[allow(clippy::too_many_arguments)]
    fn product_of(
        &self,
        factors: Factors,
        n_out: usize,
        n_in: usize,
        out: Product,
        alpha: f32,
        adds: bool,
        n_tokens: usize,
    ) -> Result<(), GpuError> {
        let (to, to_element, found) = match out {
            Product::F32(out) => (out.address(), Element::F32, out.len()),
            Product::F16(out) => (out.address(), Element::F16, out.len()),
        };
        let (element, [matrix, x], lengths) = match factors {
            Factors::F32(of) => (Element::F32, of.map(Slice::address), of.map(Slice::len)),
            Factors::F16(of) => (Element::F16, of.map(Slice::address), of.map(Slice::len)),
            Factors::Bf16(of) => (Element::Bf16, of.map(Slice::address), of.map(Slice::len)),
        };
        for (name, found, needed) in [
            ("matrix", lengths[0], n_out * n_in),
            ("input", lengths[1], n_tokens * n_in),
            ("output", found, n_tokens * n_out),
        ] {
            assert!(found >= needed, "a product's {name} holds {found} of {needed}");
        }
        let Some(cublas) = self.cublas.get()? else {
            return self.product_by_kernel(&FloatProduct { factors, n_out, n_in, out, alpha, adds }, n_tokens);
        };
        let of = |address, element, rows, columns| Matrix { address, element, rows, columns };
        // SAFETY: the three matrices lie in live allocations of at least their sizes, which was just checked; the handle
        // works on this stream.
        unsafe {
            cublas.matmul(
                of(matrix, element, n_out, n_in),
                of(x, element, n_tokens, n_in),
                of(to, to_element, n_tokens, n_out),
                alpha,
                if adds { 1.0 } else { 0.0 },
            )?;
        }
        Ok(())
    }
}
