//! cuBLAS's entry points over the `gemm` crate.
//!
//! `cublasGemmEx` works on the device's memory in place. f16 and bf16 inputs are converted to f32 first, which is exact,
//! and multiplied and summed in f32, as `CUBLAS_COMPUTE_32F` asks. Under the sanitizer every input value must have been
//! written; the output's values count as written afterwards. Statuses are cuBLAS's; the sentence goes to `last_error`.
//! Without the feature `gemm` a product is refused.
#![cfg_attr(not(feature = "gemm"), allow(unused_variables))]

use std::ffi::{c_int, c_void};
use std::ptr;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use softcuda::Device;

use super::owner::{self, Owner};
use super::registry::Registry;
use super::{Failure, capture, device_at, stream};
use crate::cublas::table::{
    COMPUTE_32F, COMPUTE_32F_PEDANTIC, CUDA_R_16BF, CUDA_R_16F, CUDA_R_32F, GEMM_DEFAULT, OP_N, OP_T, RawHandle, Status,
};
use crate::error;
use crate::sys::{CUDA_ERROR_INVALID_HANDLE, CUDA_ERROR_INVALID_VALUE, CUdeviceptr, CUstream};

struct Handle {
    owner: Owner,
    /// The handle of the stream that products run on.
    stream: AtomicUsize,
}

static HANDLES: Registry<Handle> = Registry::new("cuBLAS handle");

/// Why a call failed: the status for the caller, the sentence for people.
struct Refusal {
    status: Status,
    text: String,
}

impl Refusal {
    fn value(text: impl Into<String>) -> Self {
        Refusal { status: Status::INVALID_VALUE, text: text.into() }
    }

    fn unsupported(text: impl Into<String>) -> Self {
        Refusal { status: Status::NOT_SUPPORTED, text: text.into() }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let status = match failure.result {
            CUDA_ERROR_INVALID_HANDLE => Status::NOT_INITIALIZED,
            CUDA_ERROR_INVALID_VALUE => Status::INVALID_VALUE,
            _ => Status::EXECUTION_FAILED,
        };
        Refusal { status, text: failure.text }
    }
}

impl From<softcuda::Fault> for Refusal {
    fn from(fault: softcuda::Fault) -> Self {
        // A bad address shows on a GPU when the product runs.
        Refusal { status: Status::EXECUTION_FAILED, text: Failure::from(fault).text }
    }
}

fn finish(name: &str, outcome: Result<(), Refusal>) -> Status {
    match outcome {
        Ok(()) => Status::SUCCESS,
        Err(Refusal { status, text }) => {
            error::record(format!("{name}: {}: {text}", status.describe()));
            status
        }
    }
}

/// A live handle, used under the context that it was made in.
fn check_handle(handle: RawHandle) -> Result<Arc<Handle>, Refusal> {
    let known = HANDLES.get(handle)?;
    match owner::current() {
        Ok(current) if current == known.owner => Ok(known),
        _ => Err(Refusal { status: Status::NOT_INITIALIZED, text: "the handle's context is not current".to_owned() }),
    }
}

pub(crate) unsafe extern "C" fn create(handle: *mut RawHandle) -> Status {
    let outcome = owner::current()
        .map_err(|failure| Refusal { status: Status::NOT_INITIALIZED, text: failure.text })
        .and_then(|owner| {
            if handle.is_null() {
                return Err(Refusal::value("the pointer for the handle is null"));
            }
            // SAFETY: the caller's pointer for the handle.
            unsafe { handle.write(HANDLES.insert(Handle { owner, stream: AtomicUsize::new(0) })) };
            Ok(())
        });
    finish("cublasCreate_v2", outcome)
}

pub(crate) unsafe extern "C" fn destroy(handle: RawHandle) -> Status {
    // cuBLAS waits for the device first, and takes no notice where that is refused.
    if let Ok(owner) = owner::current() {
        let _ = capture::wait_for_all(owner);
    }
    finish("cublasDestroy_v2", HANDLES.remove(handle).map(drop).map_err(Refusal::from))
}

/// The version of the `gemm` crate.
pub(crate) unsafe extern "C" fn get_property(property: c_int, value: *mut c_int) -> Status {
    const VERSION: [c_int; 3] = [0, 19, 0];
    let part = usize::try_from(property).ok().and_then(|property| VERSION.get(property));
    let outcome = match (part, value.is_null()) {
        (Some(part), false) => {
            // SAFETY: the caller's pointer for the number.
            unsafe { value.write(*part) };
            Ok(())
        }
        _ => Err(Refusal::value(format!("property {property}; expected 0, 1 or 2, and a pointer that is not null"))),
    };
    finish("cublasGetProperty", outcome)
}

pub(crate) unsafe extern "C" fn set_stream(handle: RawHandle, stream: CUstream) -> Status {
    let outcome = check_handle(handle).and_then(|known| {
        stream::check(stream)?;
        known.stream.store(stream.addr(), Ordering::Relaxed);
        Ok(())
    });
    finish("cublasSetStream_v2", outcome)
}

/// The workspace is checked and not used.
pub(crate) unsafe extern "C" fn set_workspace(handle: RawHandle, workspace: *mut c_void, bytes: usize) -> Status {
    let outcome = check_handle(handle).and_then(|_| {
        let address = workspace.addr() as CUdeviceptr;
        if !address.is_multiple_of(256) {
            return Err(Refusal::value(format!("workspace at {address:#x}; expected a multiple of 256")));
        }
        if bytes > 0 {
            device_at(address)?.host_pointer(address, bytes)?;
        }
        Ok(())
    });
    finish("cublasSetWorkspace_v2", outcome)
}

/// Every mode is served at full precision.
pub(crate) unsafe extern "C" fn set_math_mode(handle: RawHandle, mode: c_int) -> Status {
    const FLAG: c_int = crate::cublas::table::DISALLOW_REDUCED_PRECISION_REDUCTION;
    let outcome = check_handle(handle).and_then(|_| match mode & !FLAG {
        0..=3 => Ok(()),
        _ => Err(Refusal::value(format!("math mode {mode} is not known"))),
    });
    finish("cublasSetMathMode", outcome)
}

/// A column-major matrix in device memory.
struct Stored {
    name: char,
    address: CUdeviceptr,
    data_type: c_int,
    rows: usize,
    columns: usize,
    /// Values from the start of one column to the start of the next.
    leading: usize,
}

impl Stored {
    fn new(
        name: char,
        pointer: *const c_void,
        data_type: c_int,
        rows: c_int,
        columns: c_int,
        leading: c_int,
    ) -> Result<Self, Refusal> {
        let extent = |what: &str, value: c_int| match usize::try_from(value) {
            Ok(value) if value > 0 => Ok(value),
            _ => Err(Refusal::value(format!("{what} of {name} is {value}; expected at least 1"))),
        };
        let (rows, columns) = (extent("a row count", rows)?, extent("a column count", columns)?);
        let leading = extent("the leading dimension", leading)?;
        if leading < rows {
            return Err(Refusal::value(format!("the leading dimension of {name} is {leading}, of {rows} rows")));
        }
        let matrix = Stored { name, address: pointer.addr() as CUdeviceptr, data_type, rows, columns, leading };
        let bytes = matrix.value_bytes()?;
        let fits = leading
            .checked_mul(columns)
            .and_then(|values| values.checked_mul(bytes))
            .is_some_and(|bytes| isize::try_from(bytes).is_ok());
        if !fits {
            return Err(Refusal::value(format!("{name} has {columns} columns of {leading} values: past all memory")));
        }
        if !matrix.address.is_multiple_of(bytes as CUdeviceptr) {
            let address = matrix.address;
            return Err(Refusal::value(format!("{name} lies at {address:#x}; expected a multiple of {bytes}")));
        }
        Ok(matrix)
    }

    fn value_bytes(&self) -> Result<usize, Refusal> {
        match self.data_type {
            CUDA_R_32F => Ok(4),
            CUDA_R_16F | CUDA_R_16BF => Ok(2),
            other => Err(Refusal::unsupported(format!("{} has cudaDataType_t {other}", self.name))),
        }
    }

    /// Values from the first to the last, those between columns included.
    fn span(&self) -> usize {
        self.leading * (self.columns - 1) + self.rows
    }

    /// (address, bytes) of each piece without a gap.
    fn pieces(&self) -> Result<impl Iterator<Item = (CUdeviceptr, usize)> + use<>, Refusal> {
        let bytes = self.value_bytes()?;
        let (pieces, values) = match self.leading == self.rows {
            true => (1, self.span()),
            false => (self.columns, self.rows),
        };
        let (address, step) = (self.address, self.leading * bytes);
        Ok((0..pieces).map(move |piece| (address + (piece * step) as CUdeviceptr, values * bytes)))
    }

    /// A fault, with the matrix that it is about.
    fn refuse(&self, fault: softcuda::Fault) -> Refusal {
        let Refusal { status, text } = Refusal::from(fault);
        Refusal { status, text: format!("matrix {}: {text}", self.name) }
    }

    /// Under the sanitizer: every value was written.
    fn check_initialised(&self, device: &Device) -> Result<(), Refusal> {
        for (address, bytes) in self.pieces()? {
            device.check_initialised(address, bytes).map_err(|fault| self.refuse(fault))?;
        }
        Ok(())
    }

    /// The values where the host can reach them.
    fn host(&self, device: &Device) -> Result<*mut u8, Refusal> {
        device.host_pointer(self.address, self.span() * self.value_bytes()?).map_err(|fault| self.refuse(fault))
    }
}

/// A pointer into device memory that several threads use.
#[derive(Clone, Copy)]
struct Shared(*mut u8);

// SAFETY: of the memory behind it the threads of a product read the inputs, and each writes rows of the output of its own.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// The pointer to the value at an offset in bytes.
    ///
    /// # Safety
    /// - The offset lies within the memory that the pointer was given for.
    unsafe fn at(self, offset: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

/// `count` values in f32: in place, or converted into `converted`.
///
/// # Safety
/// - `values` points to `count` values of the type, at a multiple of their size, and nothing writes them as long as the
///   result is used.
unsafe fn in_f32(values: *const u8, data_type: c_int, count: usize, converted: &mut Vec<f32>) -> *const f32 {
    if data_type == CUDA_R_32F {
        return values.cast();
    }
    converted.resize(count, 0.0);
    // SAFETY: the caller's promise; any bits are a value of either type.
    unsafe {
        match data_type {
            CUDA_R_16F => slice::from_raw_parts(values.cast::<f16>(), count).convert_to_f32_slice(converted),
            _ => slice::from_raw_parts(values.cast::<bf16>(), count).convert_to_f32_slice(converted),
        }
    }
    converted.as_ptr()
}

/// Values of A in one panel: 1 MiB of f32.
const PANEL_VALUES: usize = 1 << 18;

/// `C[m, n] = alpha * op(A)[m, k] * op(B)[k, n] + beta * C`, all column-major.
///
/// # Safety
/// - `alpha` and `beta` are null or point to an f32.
/// - Nothing else writes A, B or C, or reads C, during the call; C overlaps neither of the others.
pub(crate) unsafe extern "C" fn gemm_ex(
    handle: RawHandle,
    operation_a: c_int,
    operation_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const c_void,
    a: *const c_void,
    type_a: c_int,
    lda: c_int,
    b: *const c_void,
    type_b: c_int,
    ldb: c_int,
    beta: *const c_void,
    c: *mut c_void,
    type_c: c_int,
    ldc: c_int,
    compute_type: c_int,
    algorithm: c_int,
) -> Status {
    let outcome = (|| {
        let stream = check_handle(handle)?.stream.load(Ordering::Relaxed);
        capture::refuse(ptr::without_provenance_mut(stream), "matrix products of cuBLAS")?;
        if !matches!(compute_type, COMPUTE_32F | COMPUTE_32F_PEDANTIC) || algorithm != GEMM_DEFAULT {
            return Err(Refusal::unsupported(format!("compute type {compute_type}, algorithm {algorithm}")));
        }
        if cfg!(not(feature = "gemm")) {
            return Err(Refusal::unsupported("matrix products: `driver` was built without its feature `gemm`"));
        }
        let rounded = type_a == CUDA_R_16F && type_c == CUDA_R_16F;
        if type_a != type_b || !(rounded || type_c == CUDA_R_32F) {
            return Err(Refusal::unsupported(format!("cudaDataType_t {type_a} times {type_b} giving {type_c}")));
        }
        if alpha.is_null() || beta.is_null() {
            return Err(Refusal::value("alpha or beta is a null pointer"));
        }
        // SAFETY: not null; the caller promises the rest.
        let (alpha, beta) = unsafe { (alpha.cast::<f32>().read(), beta.cast::<f32>().read()) };

        // The stored matrix, and the strides of op of it: (from row to row, from column to column).
        let operand = |name, operation, rows, columns, pointer, data_type, leading| match operation {
            OP_N => {
                let stored = Stored::new(name, pointer, data_type, rows, columns, leading)?;
                let strides = (1, stored.leading as isize);
                Ok((stored, strides))
            }
            OP_T => {
                let stored = Stored::new(name, pointer, data_type, columns, rows, leading)?;
                let strides = (stored.leading as isize, 1);
                Ok((stored, strides))
            }
            other => Err(Refusal::unsupported(format!("operation {other} on {name}"))),
        };
        let (a, (a_row, a_column)) = operand('A', operation_a, m, k, a, type_a, lda)?;
        let (b, (b_row, b_column)) = operand('B', operation_b, k, n, b, type_b, ldb)?;
        let c = Stored::new('C', c, type_c, m, n, ldc)?;

        let device = owner::current_device()?;
        a.check_initialised(device)?;
        b.check_initialised(device)?;
        if beta != 0.0 {
            c.check_initialised(device)?;
        }
        let (m, n, k) = (m as usize, n as usize, k as usize);
        let (a_host, b_host, c_host) = (Shared(a.host(device)?), Shared(b.host(device)?), Shared(c.host(device)?));
        let a_bytes = a.value_bytes()?;
        let mut b_converted = Vec::new();
        // SAFETY: `host` gave the span of B, `Stored` checked its alignment, and the caller promises that nobody writes.
        let b_values = unsafe { in_f32(b_host.at(0), type_b, b.span(), &mut b_converted) };
        let b_values = Shared(b_values.cast_mut().cast());

        // A transposed A is taken in panels of rows of op(A), contiguous in memory, one task each: a panel in f32 stays
        // in the cache, where all of a large weight would not. The panels do not depend on the number of threads, so
        // neither does the result.
        let panel = match operation_a {
            OP_T => (PANEL_VALUES / k).clamp(32, 1024),
            _ => m,
        };
        // An f16 output is summed in f32 as well, in memory beside it, and rounded once.
        let scratch = || (Vec::new(), Vec::new());
        (0..m.div_ceil(panel)).into_par_iter().for_each_init(scratch, |(a_converted, c_converted), index| {
            let first = index * panel;
            let rows = panel.min(m - first);
            let span = match operation_a {
                OP_T => a.leading * (rows - 1) + k,
                _ => a.span(),
            };
            // SAFETY: `first` is 0 where A is not transposed, otherwise it is a column of A, so the panel lies in A's
            // span; rows `first` and on of C's first column lie in C's. The strides reach exactly the spans. Only this
            // task writes these rows of C, which overlaps no input.
            unsafe {
                let a_panel = a_host.at(first * a.leading * a_bytes);
                let a_values = in_f32(a_panel, type_a, span, a_converted);
                let (c_values, c_stride) = if rounded {
                    c_converted.clear();
                    c_converted.resize(rows * n, 0.0);
                    if beta != 0.0 {
                        for (column, values) in c_converted.chunks_exact_mut(rows).enumerate() {
                            let c = c_host.at((column * c.leading + first) * size_of::<f16>()).cast::<f16>();
                            slice::from_raw_parts(c, rows).convert_to_f32_slice(values);
                        }
                    }
                    (c_converted.as_mut_ptr(), rows)
                } else {
                    (c_host.at(first * size_of::<f32>()).cast::<f32>(), c.leading)
                };
                // The crate's alpha is the factor of the old output, its beta that of the product.
                #[cfg(feature = "gemm")]
                gemm::gemm(
                    rows,
                    n,
                    k,
                    c_values,
                    c_stride as isize,
                    1,
                    beta != 0.0,
                    a_values,
                    a_column,
                    a_row,
                    b_values.at(0).cast::<f32>(),
                    b_column,
                    b_row,
                    beta,
                    alpha,
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                );
                for (column, values) in c_converted.chunks_exact(rows).enumerate() {
                    let c = c_host.at((column * c.leading + first) * size_of::<f16>()).cast::<f16>();
                    slice::from_raw_parts_mut(c, rows).convert_from_f32_slice(values);
                }
            }
        });
        for (address, bytes) in c.pieces()? {
            device.mark_initialised(address, bytes)?;
        }
        Ok(())
    })();
    finish("cublasGemmEx", outcome)
}
