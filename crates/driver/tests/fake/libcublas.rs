//! A cuBLAS for tests: `cublasGemmEx` written out from NVIDIA's definition, in f64, on host memory, for f32 matrices.
//! It shares nothing with the crate under test, so that the two agree only where both follow that definition.
#![crate_type = "cdylib"]
#![allow(non_snake_case)]

use std::ffi::{c_int, c_void};

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasCreate_v2(handle: *mut *mut c_void) -> c_int {
    if std::env::var_os("FAKE_CREATE_FAILS").is_some() {
        return 1;
    }
    unsafe { *handle = 0x1234 as *mut c_void };
    0
}

#[unsafe(no_mangle)]
extern "C" fn cublasDestroy_v2(handle: *mut c_void) -> c_int {
    if handle as usize == 0x1234 { 0 } else { 1 }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasGetProperty(property: c_int, value: *mut c_int) -> c_int {
    unsafe { *value = [12, 8, 4][property as usize] };
    0
}

/// Accepts the stream 0x77.
#[unsafe(no_mangle)]
extern "C" fn cublasSetStream_v2(_handle: *mut c_void, stream: *mut c_void) -> c_int {
    if stream as usize == 0x77 { 0 } else { 7 }
}

#[unsafe(no_mangle)]
extern "C" fn cublasSetWorkspace_v2(_handle: *mut c_void, workspace: *mut c_void, bytes: usize) -> c_int {
    if workspace as usize == 0x100 && bytes == 512 { 0 } else { 7 }
}

/// Accepts the default mode with `CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION`.
#[unsafe(no_mangle)]
extern "C" fn cublasSetMathMode(_handle: *mut c_void, mode: c_int) -> c_int {
    if mode == 16 { 0 } else { 7 }
}

#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)]
unsafe extern "C" fn cublasGemmEx(
    handle: *mut c_void,
    operation_a: c_int,
    operation_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const f32,
    a: *const f32,
    type_a: c_int,
    lda: c_int,
    b: *const f32,
    type_b: c_int,
    ldb: c_int,
    beta: *const f32,
    c: *mut f32,
    type_c: c_int,
    ldc: c_int,
    compute_type: c_int,
    algorithm: c_int,
) -> c_int {
    // CUDA_R_32F, CUBLAS_COMPUTE_32F_PEDANTIC, CUBLAS_GEMM_DEFAULT.
    if (type_a, type_b, type_c, compute_type, algorithm) != (0, 0, 0, 69, -1) || handle as usize != 0x1234 {
        return 15;
    }
    // CUBLAS_OP_N is 0: the element (row, column) lies at row + column * ld. CUBLAS_OP_T is 1: the other way round.
    let at = |operation: c_int, row: c_int, column: c_int, leading: c_int| match operation {
        0 => (row + column * leading) as usize,
        1 => (column + row * leading) as usize,
        _ => panic!("operation {operation}"),
    };
    let needs = |operation, rows, columns| if operation == 0 { rows } else { columns };
    if lda < needs(operation_a, m, k) || ldb < needs(operation_b, k, n) || ldc < m {
        return 7;
    }
    for row in 0..m {
        for column in 0..n {
            let mut sum = 0.0f64;
            for inner in 0..k {
                let (left, right) = unsafe {
                    (*a.add(at(operation_a, row, inner, lda)), *b.add(at(operation_b, inner, column, ldb)))
                };
                sum += f64::from(left) * f64::from(right);
            }
            let to = unsafe { &mut *c.add(at(0, row, column, ldc)) };
            let before = unsafe { if *beta == 0.0 { 0.0 } else { f64::from(*beta) * f64::from(*to) } };
            *to = (unsafe { f64::from(*alpha) } * sum + before) as f32;
        }
    }
    0
}
