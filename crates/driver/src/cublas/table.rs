//! The cuBLAS entry points in use: one list, from which the function table and its counted calls are generated.

use std::ffi::{c_int, c_void};

use libloading::os::unix::Library;

use crate::class::{Class, Counters};
use crate::libcuda::loader_message;
use crate::soft::cublas as soft;
use crate::sys::CUstream;

/// What a cuBLAS call returned. `CUBLAS_STATUS_SUCCESS` is 0.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(pub c_int);

/// The statuses of `cublas_api.h`.
const STATUS_NAMES: &[(c_int, &str)] = &[
    (0, "CUBLAS_STATUS_SUCCESS"),
    (1, "CUBLAS_STATUS_NOT_INITIALIZED"),
    (3, "CUBLAS_STATUS_ALLOC_FAILED"),
    (7, "CUBLAS_STATUS_INVALID_VALUE"),
    (8, "CUBLAS_STATUS_ARCH_MISMATCH"),
    (11, "CUBLAS_STATUS_MAPPING_ERROR"),
    (13, "CUBLAS_STATUS_EXECUTION_FAILED"),
    (14, "CUBLAS_STATUS_INTERNAL_ERROR"),
    (15, "CUBLAS_STATUS_NOT_SUPPORTED"),
    (16, "CUBLAS_STATUS_LICENSE_ERROR"),
];

impl Status {
    pub const SUCCESS: Status = Status(0);
    pub const NOT_INITIALIZED: Status = Status(1);
    pub const INVALID_VALUE: Status = Status(7);
    pub const EXECUTION_FAILED: Status = Status(13);
    pub const NOT_SUPPORTED: Status = Status(15);

    /// The C name and the number, as `CUBLAS_STATUS_INVALID_VALUE (7)`.
    pub fn describe(self) -> String {
        match STATUS_NAMES.iter().find(|(code, _)| *code == self.0) {
            Some((code, name)) => format!("{name} ({code})"),
            None => format!("cublasStatus_t {}", self.0),
        }
    }
}

/// `cublasHandle_t`.
pub(crate) type RawHandle = *mut c_void;

/// `cublasOperation_t`: the matrix as it lies in memory, column by column.
pub(crate) const OP_N: c_int = 0;
/// `cublasOperation_t`: the transpose.
pub(crate) const OP_T: c_int = 1;
/// `cudaDataType_t`: 32-bit floats.
pub(crate) const CUDA_R_32F: c_int = 0;
/// `cudaDataType_t`: 16-bit IEEE floats.
pub(crate) const CUDA_R_16F: c_int = 2;
/// `cudaDataType_t`: 16-bit floats with an 8-bit exponent.
pub(crate) const CUDA_R_16BF: c_int = 14;
/// `cublasComputeType_t`: products of the input type, sums in f32.
pub(crate) const COMPUTE_32F: c_int = 68;
/// `cublasComputeType_t`: f32 throughout, with neither TF32 nor any other shortening of the inputs.
pub(crate) const COMPUTE_32F_PEDANTIC: c_int = 69;
/// `cublasGemmAlgo_t`: the library chooses.
pub(crate) const GEMM_DEFAULT: c_int = -1;
/// `cublasMath_t`: no step runs at less precision than the compute type names.
pub(crate) const DEFAULT_MATH: c_int = 0;
/// `cublasMath_t`, a flag: partial sums of a split product are added in the compute type.
pub(crate) const DISALLOW_REDUCED_PRECISION_REDUCTION: c_int = 16;

macro_rules! entry_points {
    ($($class:ident fn $name:ident($($argument:ident: $type:ty),* $(,)?) => $soft:path;)*) => {
        /// An index for each entry point.
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy)]
        #[repr(usize)]
        enum Entry { $($name),* }

        /// The names of the entry points, in the order of the list.
        pub(crate) const NAMES: &[&str] = &[$(stringify!($name)),*];
        /// What each entry point counts as.
        pub(crate) const CLASSES: &[Class] = &[$(Class::$class),*];

        thread_local! {
            static COUNTERS: Counters<{ NAMES.len() }> = const { Counters::new() };
        }

        /// How often this thread called the entry point with this index.
        pub(crate) fn calls_of(entry: usize) -> u64 {
            COUNTERS.with(|counters| counters.get(entry))
        }

        /// A function for each entry point.
        #[allow(non_snake_case)]
        pub(crate) struct Table {
            $($name: unsafe extern "C" fn($($type),*) -> Status,)*
        }

        #[allow(non_snake_case, clippy::too_many_arguments)]
        impl Table {
            /// The functions of an opened cuBLAS; an error names the first that it does not have.
            ///
            /// # Safety
            /// - The library is NVIDIA's cuBLAS 11 or newer, and is never closed.
            pub unsafe fn from_library(library: &Library) -> Result<Table, String> {
                Ok(Table {
                    // SAFETY: the signatures are cublas_api.h's for these names.
                    $($name: *unsafe { library.get(stringify!($name)) }.map_err(loader_message)?,)*
                })
            }

            $(
                #[doc = concat!("Counts and makes the call `", stringify!($name), "`.")]
                ///
                /// # Safety
                /// - The arguments are what cuBLAS asks for.
                pub unsafe fn $name(&self, $($argument: $type),*) -> Status {
                    COUNTERS.with(|counters| counters.add(Entry::$name as usize));
                    // SAFETY: the caller's promises are those that cuBLAS asks for.
                    unsafe { (self.$name)($($argument),*) }
                }
            )*
        }

        /// The functions that softcuda serves, by the `gemm` crate.
        pub(crate) static SOFT: Table = Table { $($name: $soft,)* };
    };
}

entry_points! {
    Plain fn cublasCreate_v2(handle: *mut RawHandle) => soft::create;
    Plain fn cublasDestroy_v2(handle: RawHandle) => soft::destroy;
    // What stands for major (0), minor (1) or patch (2) of the version. Needs no handle, so no GPU.
    Plain fn cublasGetProperty(property: c_int, value: *mut c_int) => soft::get_property;
    Plain fn cublasSetStream_v2(handle: RawHandle, stream: CUstream) => soft::set_stream;
    Plain fn cublasSetWorkspace_v2(handle: RawHandle, workspace: *mut c_void, bytes: usize) => soft::set_workspace;
    Plain fn cublasSetMathMode(handle: RawHandle, mode: c_int) => soft::set_math_mode;
    // C[m, n] = alpha * op(A)[m, k] * op(B)[k, n] + beta * C, each matrix column by column, `ld*` elements from one
    // column's start to the next.
    Multiply fn cublasGemmEx(
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
    ) => soft::gemm_ex;
}
