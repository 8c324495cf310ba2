//! Matrix products: NVIDIA's cuBLAS on a GPU, the `gemm` crate on softcuda.
//!
//! Both sit behind one table of cuBLAS functions, so [`Handle`] has one code path whichever the backend.
//!
//! # Row-major over column-major
//!
//! The project's matrices are row-major: a weight of `[n_out, n_in]` is `n_out` rows of `n_in` contiguous values, as a
//! GGUF file has it, and activations `[n_tokens, n_in]` are one row per token. cuBLAS reads memory column by column. The
//! same bytes, read so, are the transposes: the weight is a column-major `n_in × n_out` matrix, the activations are
//! `n_in × n_tokens`, and the row-major output `[n_tokens, n_out]` is a column-major `n_out × n_tokens` matrix. The
//! product wanted, `out = x · wᵀ`, transposed on both sides is
//!
//! ```text
//! outᵀ [n_out × n_tokens] = w [n_out × n_in] · xᵀ [n_in × n_tokens]
//! ```
//!
//! where cuBLAS's view of `w` has to be turned back (`OP_T`) and its view of `x` is `xᵀ` already (`OP_N`). Hence
//! `OP_T, OP_N, m = n_out, n = n_tokens, k = n_in, lda = n_in, ldb = n_in, ldc = n_out`: nothing is copied or
//! transposed in memory. [`Handle::matmul`] is the only place that knows this.
//!
//! # Precision
//!
//! Sums are in f32. f32 inputs are multiplied in full (no TF32); products of two f16 or bf16 values are exact in f32.
//! Partial sums of a split product are added in f32 too.

pub(crate) mod library;
mod matmul;
pub(crate) mod table;

use std::ffi::c_void;

use crate::error::{Attempt, Lines};
use crate::sys::{CUdeviceptr, CUstream};
use crate::{Backend, backend, captures, error};

use library::Library;
use table::{RawHandle, Status, Table};

pub use matmul::{Element, Matrix};

/// Why a matrix product, or the handle for it, was not to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CublasError {
    /// [`crate::select`] was not called.
    #[error("cuBLAS: no device is selected; driver::select comes first")]
    NotSelected,
    /// There is none on this machine, and none was asked for by its file.
    #[error("cuBLAS: no library. Looked at:{}", Lines(attempts))]
    Absent {
        /// Every place looked at.
        attempts: Vec<Attempt>,
    },
    /// `FERROWARP_CUBLAS` says that there is to be none.
    #[error("cuBLAS: turned off by FERROWARP_CUBLAS=none")]
    TurnedOff,
    /// A library was named, or opened, and made no handle.
    #[error(
        "cuBLAS: no usable library; install NVIDIA's cuBLAS (pip's nvidia-cublas-cu12 will do), set FERROWARP_CUBLAS to libcublas.so's path, or to none: the program's own products take longer. Looked at:{}",
        Lines(attempts)
    )]
    NotFound {
        /// Every place looked at.
        attempts: Vec<Attempt>,
    },
    /// The matrices do not fit together.
    #[error("matmul: {what}: found {found}, expected {expected}")]
    Shape {
        /// The matrix and the extent that is wrong.
        what: &'static str,
        /// Its value.
        found: String,
        /// What it has to be.
        expected: String,
    },
    /// A call failed.
    #[error("{call}: {status}{cause}")]
    Call {
        /// The entry point.
        call: &'static str,
        /// The status's name and number.
        status: String,
        /// `": "` and what softcuda knows of the cause; empty on a GPU, where cuBLAS tells no more.
        cause: String,
    },
}

/// A cuBLAS handle. It belongs to the context that was current when it was made.
pub struct Handle {
    raw: RawHandle,
    table: &'static Table,
    /// The opened library; `None` on softcuda.
    library: Option<&'static Library>,
}

// SAFETY: a cuBLAS handle may be used from any thread, by one at a time; `&self` methods are not offered to two
// threads at once because `Handle` is not `Sync`.
unsafe impl Send for Handle {}

impl Handle {
    /// A handle on the selected backend, with the precision that the module's text states. The context of the matrices
    /// has to be current on this thread.
    ///
    /// # Errors
    /// - [`CublasError::NotSelected`] before [`crate::select`].
    /// - [`CublasError::TurnedOff`] where the environment says so, for either backend.
    /// - [`CublasError::Absent`] where no cuBLAS opens, [`CublasError::NotFound`] where one was named or opened that does not start; both
    ///   list the places.
    pub fn new() -> Result<Self, CublasError> {
        let _alone = captures::waiting();
        let backend = backend().ok_or(CublasError::NotSelected)?;
        if library::is_turned_off() {
            return Err(CublasError::TurnedOff);
        }
        let handle = match backend {
            Backend::Cuda => {
                let (library, raw) = library::create_handle()?;
                Handle { raw, table: &library.table, library: Some(library) }
            }
            Backend::Soft => {
                let raw = library::create(&table::SOFT).map_err(|said| CublasError::NotFound {
                    attempts: vec![Attempt { place: "softcuda".to_owned(), usable: false, said }],
                })?;
                Handle { raw, table: &table::SOFT, library: None }
            }
        };
        // SAFETY: the handle was just made.
        let status = unsafe {
            let mode = table::DEFAULT_MATH | table::DISALLOW_REDUCED_PRECISION_REDUCTION;
            handle.table.cublasSetMathMode(handle.raw, mode)
        };
        check("cublasSetMathMode", status)?;
        Ok(handle)
    }

    /// Puts the following products on a stream. cuBLAS goes back to its own workspace: call
    /// [`set_workspace`](Self::set_workspace) after this, not before.
    ///
    /// # Errors
    /// [`CublasError::Call`] where cuBLAS refuses the stream.
    ///
    /// # Safety
    /// - The stream is null or a live stream of this handle's context, and outlives its use here.
    pub unsafe fn set_stream(&self, stream: CUstream) -> Result<(), CublasError> {
        // SAFETY: the handle is live; the caller vouches for the stream.
        check("cublasSetStream_v2", unsafe { self.table.cublasSetStream_v2(self.raw, stream) })
    }

    /// Gives cuBLAS device memory to work in, in place of its own, so that a product allocates nothing (which also lets
    /// a stream's capture hold it). NVIDIA advises 4 MiB, and 32 MiB on Hopper.
    ///
    /// # Errors
    /// [`CublasError::Call`] where cuBLAS refuses it; it wants an address that is a multiple of 256.
    ///
    /// # Safety
    /// - `bytes` bytes from `address` are device memory that nothing else uses, until another workspace is set or the
    ///   handle is gone and its stream has been waited for.
    pub unsafe fn set_workspace(&self, address: CUdeviceptr, bytes: usize) -> Result<(), CublasError> {
        let pointer = device_pointer(address).cast_mut();
        // SAFETY: the handle is live; the caller vouches for the memory.
        check("cublasSetWorkspace_v2", unsafe { self.table.cublasSetWorkspace_v2(self.raw, pointer, bytes) })
    }

    /// What multiplies: the library's file and version, or the crate that stands in for it on softcuda.
    pub fn library(&self) -> String {
        match self.library {
            Some(library) => library.describe(),
            None => "the gemm crate, on softcuda".to_owned(),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let _alone = captures::waiting();
        // SAFETY: the handle is live and used no more. A failure means that the context is gone, and the handle with it.
        unsafe { self.table.cublasDestroy_v2(self.raw) };
    }
}

/// A device address as cuBLAS takes it.
fn device_pointer(address: CUdeviceptr) -> *const c_void {
    std::ptr::without_provenance(address as usize)
}

/// Turns a status into a result, with the text behind it.
fn check(call: &'static str, status: Status) -> Result<(), CublasError> {
    if status == Status::SUCCESS {
        return Ok(());
    }
    let status = status.describe();
    if backend() == Some(Backend::Soft) {
        // The failing call has just kept its text, which begins with the call and the status.
        let text = error::last_error().unwrap_or_default();
        let cause = text.strip_prefix(&format!("{call}: {status}")).unwrap_or_default().to_owned();
        return Err(CublasError::Call { call, status, cause });
    }
    error::record(format!("{call}: {status}"));
    Err(CublasError::Call { call, status, cause: String::new() })
}
