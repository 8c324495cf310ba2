//! The product of activations with a weight matrix: the one place where row-major meets column-major.

use std::ffi::c_int;

use super::table::{COMPUTE_32F, COMPUTE_32F_PEDANTIC, CUDA_R_16BF, CUDA_R_16F, CUDA_R_32F, GEMM_DEFAULT, OP_N, OP_T};
use super::{CublasError, Handle, check, device_pointer};
use crate::sys::CUdeviceptr;

/// The type of a matrix's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// 32-bit float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// 16-bit float with f32's exponent.
    Bf16,
}

impl Element {
    /// The size of one value in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::F16 | Element::Bf16 => 2,
        }
    }

    fn cuda_type(self) -> c_int {
        match self {
            Element::F32 => CUDA_R_32F,
            Element::F16 => CUDA_R_16F,
            Element::Bf16 => CUDA_R_16BF,
        }
    }
}

/// A row-major matrix in device memory: `rows` rows of `columns` contiguous values, with nothing between the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// The device address of the first value, a multiple of the value's size.
    pub address: CUdeviceptr,
    /// The type of the values.
    pub element: Element,
    /// The number of rows.
    pub rows: usize,
    /// The number of values in a row.
    pub columns: usize,
}

impl Handle {
    /// `out[t][o] = beta · out[t][o] + alpha · Σᵢ x[t][i] · w[o][i]` on the handle's stream, summed in f32.
    ///
    /// | matrix | rows | columns | values |
    /// |---|---|---|---|
    /// | `w` | `n_out` | `n_in` | f32, f16 or bf16 |
    /// | `x` | `n_tokens` | `n_in` | the type of `w` |
    /// | `out` | `n_tokens` | `n_out` | f32, or f16 where `w` is f16: rounded once, at the end |
    ///
    /// With `beta` 0 the old values of `out` are not read, so it may be uninitialised; with 1 the product is added to
    /// them. The module's text says why the call to cuBLAS is `OP_T, OP_N, m = n_out, n = n_tokens, k = n_in`.
    ///
    /// # Errors
    /// - [`CublasError::Shape`] where the matrices do not fit together or an extent is 0 or past `i32::MAX`.
    /// - [`CublasError::Call`] where cuBLAS fails; on softcuda also for memory that is not allocated, and under the
    ///   sanitizer for values that nobody wrote.
    ///
    /// # Safety
    /// - Each matrix's address and extents describe live device memory of this handle's context; `out` overlaps neither
    ///   of the others.
    /// - Until the stream has done the product, nothing else writes `w` or `x`, or touches `out`.
    pub unsafe fn matmul(&self, w: Matrix, x: Matrix, out: Matrix, alpha: f32, beta: f32) -> Result<(), CublasError> {
        let extent = |what, value: usize| match c_int::try_from(value) {
            Ok(extent) if extent > 0 => Ok(extent),
            _ => Err(CublasError::Shape {
                what,
                found: value.to_string(),
                expected: format!("from 1 to {}", c_int::MAX),
            }),
        };
        let n_out = extent("rows of w", w.rows)?;
        let n_in = extent("columns of w", w.columns)?;
        let n_tokens = extent("rows of x", x.rows)?;
        let same = |what, found: String, expected: String| match found == expected {
            true => Ok(()),
            false => Err(CublasError::Shape { what, found, expected }),
        };
        same("columns of x", x.columns.to_string(), w.columns.to_string())?;
        same("rows of out", out.rows.to_string(), x.rows.to_string())?;
        same("columns of out", out.columns.to_string(), w.rows.to_string())?;
        same("type of x", format!("{:?}", x.element), format!("{:?}", w.element))?;
        if out.element != Element::F16 || w.element != Element::F16 {
            same("type of out", format!("{:?}", out.element), format!("{:?}", Element::F32))?;
        }

        let compute_type = match w.element {
            Element::F32 => COMPUTE_32F_PEDANTIC,
            Element::F16 | Element::Bf16 => COMPUTE_32F,
        };
        // SAFETY: the caller vouches for the matrices, the extents were checked against each other, and alpha and beta
        // are read before the call returns.
        let status = unsafe {
            self.table.cublasGemmEx(
                self.raw,
                OP_T,
                OP_N,
                n_out,
                n_tokens,
                n_in,
                (&raw const alpha).cast(),
                device_pointer(w.address),
                w.element.cuda_type(),
                n_in,
                device_pointer(x.address),
                x.element.cuda_type(),
                n_in,
                (&raw const beta).cast(),
                device_pointer(out.address).cast_mut(),
                out.element.cuda_type(),
                n_out,
                compute_type,
                GEMM_DEFAULT,
            )
        };
        check("cublasGemmEx", status)
    }
}
