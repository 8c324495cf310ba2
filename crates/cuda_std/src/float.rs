//! Arithmetic in `f32` that maps to single instructions.
//!
//! The `approx` functions are the GPU's special-function unit; their errors are NVIDIA's, from the PTX ISA's description
//! of each instruction.

#[cfg(target_arch = "nvptx64")]
mod llvm {
    unsafe extern "C" {
        #[link_name = "llvm.fma.f32"]
        pub fn fma(a: f32, b: f32, c: f32) -> f32;
        #[link_name = "llvm.maxnum.f32"]
        pub fn max(a: f32, b: f32) -> f32;
        #[link_name = "llvm.maximum.f32"]
        pub fn max_or_nan(a: f32, b: f32) -> f32;
        #[link_name = "llvm.fabs.f32"]
        pub fn abs(a: f32) -> f32;
    }
}

macro_rules! intrinsic {
    ($($(#[$doc:meta])* $name:ident($($argument:ident),*);)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name($($argument: f32),*) -> f32 {
            #[cfg(target_arch = "nvptx64")]
            // SAFETY: an LLVM intrinsic of arithmetic.
            unsafe {
                llvm::$name($($argument),*)
            }
            #[cfg(not(target_arch = "nvptx64"))]
            {
                $(let _ = $argument;)*
                crate::device_only()
            }
        }
    )*};
}

intrinsic! {
    /// a * b + c, rounded once.
    fma(a, b, c);
    /// The larger value; the other one where one is NaN.
    max(a, b);
    /// The larger value; NaN where either is.
    max_or_nan(a, b);
    /// The magnitude.
    abs(a);
}

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident => $instruction:literal;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(value: f32) -> f32 {
            #[cfg(target_arch = "nvptx64")]
            {
                let result: f32;
                // SAFETY: one arithmetic instruction on registers.
                unsafe {
                    core::arch::asm!(
                        concat!($instruction, " {}, {};"),
                        out(reg32) result, in(reg32) value,
                        options(pure, nomem, nostack)
                    );
                }
                result
            }
            #[cfg(not(target_arch = "nvptx64"))]
            {
                let _ = value;
                crate::device_only()
            }
        }
    )*};
}

unary! {
    /// 2 to the power of `value`, within 2 ulp.
    exp2_approx => "ex2.approx.f32";
    /// 2 to the power of `value`, within 2 ulp; below 2^-126 it is zero, for which the other takes three instructions more.
    exp2_approx_flushed => "ex2.approx.ftz.f32";
    /// The logarithm to base 2, within 2^-22 near 1 and relatively elsewhere.
    log2_approx => "lg2.approx.f32";
    /// sin(value), within 2^-20.5 for |value| ≤ π.
    sin_approx => "sin.approx.f32";
    /// cos(value), within 2^-20.5 for |value| ≤ π.
    cos_approx => "cos.approx.f32";
    /// 1 / √value, correctly rounded division and root.
    sqrt => "sqrt.rn.f32";
    /// 1 / value, correctly rounded.
    reciprocal => "rcp.rn.f32";
    /// 1 / value, within 1 ulp; below 2^-126 it is zero.
    reciprocal_approx => "rcp.approx.ftz.f32";
    /// The nearest integer, ties to even.
    round => "cvt.rni.f32.f32";
}

/// The nearest integer, ties to even, as an integer; values past its range become its ends, NaN becomes 0.
#[inline(always)]
pub fn nearest_integer(value: f32) -> i32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let result: i32;
        // SAFETY: one conversion between registers.
        unsafe {
            core::arch::asm!(
                "cvt.rni.s32.f32 {}, {};", out(reg32) result, in(reg32) value, options(pure, nomem, nostack)
            );
        }
        result
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        let _ = value;
        crate::device_only()
    }
}

/// e to the power of `value`: 2^(value · log2 e), within about 2 ulp + |value| · 2^-23 relative.
#[inline(always)]
pub fn exp(value: f32) -> f32 {
    // The product's rounding error is caught by fma and put back, so that large arguments keep their precision.
    const LOG2_E: f32 = core::f32::consts::LOG2_E;
    const LOG2_E_LOW: f32 = 1.925_963e-8; // log2(e) - LOG2_E
    let high = value * LOG2_E;
    let low = fma(value, LOG2_E, -high) + value * LOG2_E_LOW;
    let whole = round(high);
    // 2^high = 2^whole * 2^(high - whole + low): the exponent's integer part is exact in ex2.approx's argument.
    let fraction = exp2_approx((high - whole) + low);
    fraction * exp2_approx(whole)
}

/// The hyperbolic tangent, within 8e-7 of it, relatively too.
#[inline(always)]
pub fn tanh(value: f32) -> f32 {
    // 1 − 2 / (e^2v + 1) cancels near zero; the series' first term that is left out is below 1e-8 there.
    let square = value * value;
    let series =
        fma(fma(fma(fma(square, 62.0 / 2835.0, -17.0 / 315.0), square, 2.0 / 15.0), square, -1.0 / 3.0), square, 1.0);
    // Beyond ±10 it is ±1. The comparisons let a NaN pass.
    let held = if value > 10.0 { 10.0 } else { value };
    let held = if held < -10.0 { -10.0 } else { held };
    if square < 0.0625 { value * series } else { 1.0 - 2.0 / (exp(2.0 * held) + 1.0) }
}
