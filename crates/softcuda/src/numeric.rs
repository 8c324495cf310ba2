//! Floating-point formats and rounding, bit for bit.
//!
//! Arithmetic on f32 and f64 in round-to-nearest is the host's own. Three things are not: the 16-bit formats, whose
//! operations are computed wider and rounded once; directed rounding, which is computed in f64 *rounded to odd* (the last
//! bit set when anything was lost), so that a second rounding to f32 in any direction is exact; and NaN, which PTX makes
//! canonical.

/// Rounding directions: nearest even, towards zero, down, up, nearest with ties away from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    Nearest,
    Zero,
    Down,
    Up,
    NearestAway,
}

/// The NaN that f32 instructions produce.
pub(crate) const NAN32: u32 = 0x7fff_ffff;
/// The NaN that f64 instructions produce here.
pub(crate) const NAN64: u64 = 0x7ff8_0000_0000_0000;
/// The NaN of both 16-bit formats.
pub(crate) const NAN16: u16 = 0x7fff;

/// Replaces any NaN by the canonical one. It compares bits, because compilers may take one NaN for another.
#[inline(always)]
pub(crate) fn canonical(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { NAN32 } else { bits })
}

#[inline(always)]
pub(crate) fn canonical64(x: f64) -> f64 {
    let bits = x.to_bits();
    f64::from_bits(if bits & !(1 << 63) > 0x7ff0_0000_0000_0000 { NAN64 } else { bits })
}

/// Flushes a subnormal to zero of the same sign.
#[inline(always)]
pub(crate) fn flush(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits })
}

/// Clamps to [0, 1]; NaN gives 0.
#[inline(always)]
pub(crate) fn saturate(x: f32) -> f32 {
    if x > 0.0 { if x < 1.0 { x } else { 1.0 } } else { 0.0 }
}

#[inline(always)]
pub(crate) fn saturate64(x: f64) -> f64 {
    if x > 0.0 { if x < 1.0 { x } else { 1.0 } } else { 0.0 }
}

/// f16 to f32, exact.
#[inline(always)]
pub(crate) fn from_half(h: u16) -> f32 {
    let sign = ((h & 0x8000) as u32) << 16;
    let body = ((h & 0x7fff) as u32) << 13;
    // The exponent moves from bias 15 to bias 127 by a multiplication, which normalises subnormals as well.
    let scaled = (f32::from_bits(body) * f32::from_bits(0x7780_0000)).to_bits();
    let bits = if body > 0x0f80_0000 {
        NAN32
    } else if body == 0x0f80_0000 {
        0x7f80_0000 | sign
    } else {
        scaled | sign
    };
    f32::from_bits(bits)
}

/// f32 to f16, nearest even.
#[inline(always)]
pub(crate) fn to_half(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let body = bits & 0x7fff_ffff;
    // Adding 0.5 aligns the last bit of a subnormal f16 with the last bit of the sum, which rounds.
    let small = (f32::from_bits(body) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let normal = body.wrapping_sub(112 << 23).wrapping_add(0xfff).wrapping_add(body >> 13 & 1) >> 13;
    let value = if body >= 0x4780_0000 {
        0x7c00
    } else if body < 0x3880_0000 {
        small
    } else {
        normal
    };
    if body > 0x7f80_0000 { NAN16 } else { value as u16 | sign }
}

/// bf16 to f32, exact.
#[inline(always)]
pub(crate) fn from_bfloat(b: u16) -> f32 {
    canonical(f32::from_bits((b as u32) << 16))
}

/// f32 to bf16, nearest even.
#[inline(always)]
pub(crate) fn to_bfloat(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff).wrapping_add(bits >> 16 & 1) >> 16) as u16;
    if x.is_nan() { NAN16 } else { rounded }
}

/// A binary format: bits of the fraction and bias of the exponent. The sign is the bit above the exponent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    fraction: u32,
    bias: i32,
}

pub(crate) const HALF: Format = Format { fraction: 10, bias: 15 };
pub(crate) const BFLOAT: Format = Format { fraction: 7, bias: 127 };
pub(crate) const TENSOR: Format = Format { fraction: 10, bias: 127 };
pub(crate) const SINGLE: Format = Format { fraction: 23, bias: 127 };

/// Rounds to a format of at most 32 bits; returns the magnitude's bits and the sign. NaN is the caller's to handle.
pub(crate) fn round(x: f64, format: Format, rounding: Rounding) -> (u32, bool) {
    let negative = x.is_sign_negative();
    let infinity = ((2 * format.bias + 1) as u32) << format.fraction;
    if x.is_infinite() {
        return (infinity, negative);
    }
    if x == 0.0 {
        return (0, negative);
    }
    let bits = x.to_bits();
    let biased = (bits >> 52 & 0x7ff) as i32;
    let (exponent, significand) =
        if biased == 0 { (-1074, bits & ((1 << 52) - 1)) } else { (biased - 1075, bits & ((1 << 52) - 1) | 1 << 52) };
    let top = exponent + 63 - significand.leading_zeros() as i32;
    let least = 1 - format.bias;
    let quantum = top.max(least) - format.fraction as i32;
    let shift = quantum - exponent;
    let (mut kept, lost, half) = if shift <= 0 {
        (significand << -shift, 0, 1)
    } else if shift > 63 {
        (0, 1, 2)
    } else {
        (significand >> shift, significand & ((1 << shift) - 1), 1 << (shift - 1))
    };
    kept += match rounding {
        Rounding::Nearest => lost > half || (lost == half && kept & 1 == 1),
        Rounding::NearestAway => lost >= half,
        Rounding::Zero => false,
        Rounding::Down => negative && lost != 0,
        Rounding::Up => !negative && lost != 0,
    } as u64;
    let step = (quantum + format.fraction as i32 - least) as u64;
    let value = (step << format.fraction) + kept;
    if value < infinity as u64 {
        return (value as u32, negative);
    }
    let stays = match rounding {
        Rounding::Nearest | Rounding::NearestAway => false,
        Rounding::Zero => true,
        Rounding::Down => !negative,
        Rounding::Up => negative,
    };
    (infinity - stays as u32, negative)
}

pub(crate) fn round_single(x: f64, rounding: Rounding) -> f32 {
    if x.is_nan() {
        return f32::from_bits(NAN32);
    }
    let (bits, negative) = round(x, SINGLE, rounding);
    f32::from_bits(bits | (negative as u32) << 31)
}

/// Rounds to f16 or bf16.
pub(crate) fn round_16(x: f64, format: Format, rounding: Rounding) -> u16 {
    if x.is_nan() {
        return NAN16;
    }
    let (bits, negative) = round(x, format, rounding);
    bits as u16 | (negative as u16) << 15
}

/// The f32 that holds a tf32.
pub(crate) fn round_tensor(x: f64, rounding: Rounding) -> u32 {
    if x.is_nan() {
        return NAN32;
    }
    let (bits, negative) = round(x, TENSOR, rounding);
    bits << 13 | (negative as u32) << 31
}

/// Makes the last bit of `x` odd when `error`, the exact value minus `x`, is not zero.
#[inline(always)]
fn odd(x: f64, error: f64) -> f64 {
    if error == 0.0 || !x.is_finite() || x.to_bits() & 1 == 1 || error.is_nan() {
        return x;
    }
    let away = (error > 0.0) == (x > 0.0);
    f64::from_bits(if away { x.to_bits() + 1 } else { x.to_bits() - 1 })
}

/// `x` as f32 rounded to odd, so that rounding it again, to 22 bits or fewer, is right.
#[inline(always)]
pub(crate) fn single_odd(x: f64) -> f32 {
    let near = x as f32;
    let error = x - near as f64;
    let bits = near.to_bits();
    let moved = if (error > 0.0) == (x > 0.0) { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    // The error is NaN for NaN and infinities.
    let inexact = (error > 0.0) | (error < 0.0);
    f32::from_bits(if inexact & (bits & 1 == 0) { moved } else { bits })
}

/// a + b rounded to odd.
#[inline(always)]
pub(crate) fn add_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let back = sum - a;
    odd(sum, (a - (sum - back)) + (b - back))
}

/// a * b + c of f32s rounded to odd: the product of two f32s is exact in f64.
#[inline(always)]
pub(crate) fn fma_odd(a: f32, b: f32, c: f32) -> f64 {
    add_odd(a as f64 * b as f64, c as f64)
}

/// a / b of f32s rounded to odd.
pub(crate) fn div_odd(a: f32, b: f32) -> f64 {
    let (a, b) = (a as f64, b as f64);
    let quotient = a / b;
    let rest = (-quotient).mul_add(b, a);
    odd(quotient, if b < 0.0 { -rest } else { rest })
}

/// The square root of an f32 rounded to odd.
pub(crate) fn sqrt_odd(a: f32) -> f64 {
    let a = a as f64;
    let root = a.sqrt();
    odd(root, (-root).mul_add(root, a))
}

/// An exact zero sum is -0 when rounding down, +0 else (unless both terms are -0).
pub(crate) fn zero_sign(a: f64, b: f64, sum: f64, rounding: Rounding) -> f64 {
    if sum == 0.0 && a == -b && (a != 0.0 || a.is_sign_negative() != b.is_sign_negative()) {
        return if rounding == Rounding::Down { -0.0 } else { 0.0 };
    }
    sum
}

/// f64 addition in a direction other than to nearest.
pub(crate) fn add64(a: f64, b: f64, rounding: Rounding) -> f64 {
    let sum = a + b;
    let back = sum - a;
    let error = (a - (sum - back)) + (b - back);
    direct64(zero_sign(a, b, sum, rounding), error, rounding)
}

/// f64 multiplication in a direction other than to nearest.
pub(crate) fn mul64(a: f64, b: f64, rounding: Rounding) -> f64 {
    let product = a * b;
    direct64(product, a.mul_add(b, -product), rounding)
}

/// Moves a nearest-rounded value whose error is known to the neighbour that the direction asks for.
fn direct64(x: f64, error: f64, rounding: Rounding) -> f64 {
    if x.is_nan() {
        return f64::from_bits(NAN64);
    }
    if error == 0.0 || !x.is_finite() || error.is_nan() {
        return x;
    }
    match rounding {
        Rounding::Down if error < 0.0 => x.next_down(),
        Rounding::Up if error > 0.0 => x.next_up(),
        Rounding::Zero if x > 0.0 && error < 0.0 => x.next_down(),
        Rounding::Zero if x < 0.0 && error > 0.0 => x.next_up(),
        _ => x,
    }
}

/// Rounds to an integral value.
pub(crate) fn integral(x: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Nearest => x.round_ties_even(),
        Rounding::NearestAway => x.round(),
        Rounding::Zero => x.trunc(),
        Rounding::Down => x.floor(),
        Rounding::Up => x.ceil(),
    }
}

/// `min`: a NaN gives way to the other operand, -0 is below +0.
#[inline(always)]
pub(crate) fn minimum(a: f32, b: f32) -> f32 {
    let lesser = if a == b {
        f32::from_bits(a.to_bits() | b.to_bits())
    } else if a < b {
        a
    } else {
        b
    };
    canonical(if a.is_nan() {
        b
    } else if b.is_nan() {
        a
    } else {
        lesser
    })
}

#[inline(always)]
pub(crate) fn maximum(a: f32, b: f32) -> f32 {
    let greater = if a == b {
        f32::from_bits(a.to_bits() & b.to_bits())
    } else if a > b {
        a
    } else {
        b
    };
    canonical(if a.is_nan() {
        b
    } else if b.is_nan() {
        a
    } else {
        greater
    })
}

/// `min.NaN`.
#[inline(always)]
pub(crate) fn minimum_nan(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::from_bits(NAN32) } else { minimum(a, b) }
}

#[inline(always)]
pub(crate) fn maximum_nan(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::from_bits(NAN32) } else { maximum(a, b) }
}

pub(crate) fn minimum64(a: f64, b: f64) -> f64 {
    let lesser = if a == b {
        f64::from_bits(a.to_bits() | b.to_bits())
    } else if a < b {
        a
    } else {
        b
    };
    canonical64(if a.is_nan() {
        b
    } else if b.is_nan() {
        a
    } else {
        lesser
    })
}

pub(crate) fn maximum64(a: f64, b: f64) -> f64 {
    let greater = if a == b {
        f64::from_bits(a.to_bits() & b.to_bits())
    } else if a > b {
        a
    } else {
        b
    };
    canonical64(if a.is_nan() {
        b
    } else if b.is_nan() {
        a
    } else {
        greater
    })
}
