//! f16 and bf16 arithmetic, single and packed.
//!
//! An operation is computed in f32 (add, sub, mul: exact enough that rounding twice is rounding once) or in f64 rounded
//! to odd (fma), and rounded to the format.

use super::{Builder, Decoded, Opcode};
use crate::exec::lanes::{map1, map2, map3};
use crate::numeric::*;
use crate::program::Handlers;
use crate::ptx::ast::Type;

/// a * b + c of f16s, rounded once.
///
/// The product is exact in f64. The sum is too wherever its low bits can matter: a result below 2^17 (above is infinity)
/// has no bit under 2^-24 but the product's, which ends 22 bits below its own first.
#[inline(always)]
fn fma_half(x: u16, y: u16, z: u16) -> u16 {
    to_half(single_odd(from_half(x) as f64 * from_half(y) as f64 + from_half(z) as f64))
}

#[inline(always)]
fn fma_bfloat(x: u16, y: u16, z: u16) -> u16 {
    round_16(fma_odd(from_bfloat(x), from_bfloat(y), from_bfloat(z)), BFLOAT, Rounding::Nearest)
}

/// Flushes a subnormal f16.
#[inline(always)]
fn flush_half(x: u16) -> u16 {
    if x & 0x7c00 == 0 { x & 0x8000 } else { x }
}

/// Applies a function to both halves.
#[inline(always)]
fn both1(x: u32, f: impl Fn(u16) -> u16) -> u32 {
    f(x as u16) as u32 | (f((x >> 16) as u16) as u32) << 16
}

#[inline(always)]
fn both2(x: u32, y: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    f(x as u16, y as u16) as u32 | (f((x >> 16) as u16, (y >> 16) as u16) as u32) << 16
}

#[inline(always)]
fn both3(x: u32, y: u32, z: u32, f: impl Fn(u16, u16, u16) -> u16) -> u32 {
    f(x as u16, y as u16, z as u16) as u32 | (f((x >> 16) as u16, (y >> 16) as u16, (z >> 16) as u16) as u32) << 16
}

/// A function of 16-bit values, single or packed.
macro_rules! either {
    ($packed:expr, |$x:ident| $body:expr) => {
        if $packed { map1(|v: u32| both1(v, |$x| $body)) } else { map1(|$x: u16| -> u16 { $body }) }
    };
    ($packed:expr, |$x:ident, $y:ident| $body:expr) => {
        if $packed {
            map2(|v: u32, w: u32| both2(v, w, |$x, $y| $body))
        } else {
            map2(|$x: u16, $y: u16| -> u16 { $body })
        }
    };
    ($packed:expr, |$x:ident, $y:ident, $z:ident| $body:expr) => {
        if $packed {
            map3(|v: u32, w: u32, u: u32| both3(v, w, u, |$x, $y, $z| $body))
        } else {
            map3(|$x: u16, $y: u16, $z: u16| -> u16 { $body })
        }
    };
}

/// A function of f32 values applied to 16-bit ones.
macro_rules! through_single {
    ($packed:expr, $half:expr, |$($x:ident),*| $body:expr) => {
        if $half {
            either!($packed, |$($x),*| { $(let $x = from_half($x);)* to_half($body) })
        } else {
            either!($packed, |$($x),*| { $(let $x = from_bfloat($x);)* to_bfloat($body) })
        }
    };
}

fn classify(b: &Builder, op: &mut Opcode) -> Decoded<(Type, bool, bool)> {
    let t = b.type_of(op)?;
    Ok(match t {
        Type::F16 => (t, false, true),
        Type::F16x2 => (t, true, true),
        Type::Bf16 => (t, false, false),
        Type::Bf16x2 => (t, true, false),
        _ => return b.unsupported(op, "this type"),
    })
}

pub(super) fn arithmetic(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let (ftz, sat, relu, nan) = (op.take("ftz"), op.take("sat"), op.take("relu"), op.take("NaN"));
    let direction = op.take_rounding();
    let (t, packed, half) = classify(b, op)?;
    let sources = match op.name {
        "fma" => 3,
        "abs" | "neg" => 1,
        _ => 2,
    };
    if direction.is_some_and(|d| d != Rounding::Nearest) || (ftz && !half) {
        return b.unsupported(op, "these modifiers");
    }
    if nan && !matches!(op.name, "min" | "max") {
        return b.unsupported(op, "`.NaN`");
    }
    let handlers: Handlers = match op.name {
        _ if (sat || relu)
            && (ftz || op.name != "fma")
            && !(sat && !ftz && half && matches!(op.name, "add" | "sub" | "mul")) =>
        {
            return b.unsupported(op, "these modifiers");
        }
        "add" if ftz => {
            either!(packed, |x, y| flush_half(to_half(from_half(flush_half(x)) + from_half(flush_half(y)))))
        }
        "sub" if ftz => {
            either!(packed, |x, y| flush_half(to_half(from_half(flush_half(x)) - from_half(flush_half(y)))))
        }
        "mul" if ftz => {
            either!(packed, |x, y| flush_half(to_half(from_half(flush_half(x)) * from_half(flush_half(y)))))
        }
        "fma" if ftz => either!(packed, |x, y, z| flush_half(fma_half(flush_half(x), flush_half(y), flush_half(z)))),
        "add" if sat => through_single!(packed, half, |x, y| saturate(x + y)),
        "sub" if sat => through_single!(packed, half, |x, y| saturate(x - y)),
        "mul" if sat => through_single!(packed, half, |x, y| saturate(x * y)),
        "add" => through_single!(packed, half, |x, y| x + y),
        "sub" => through_single!(packed, half, |x, y| x - y),
        "mul" => through_single!(packed, half, |x, y| x * y),
        "fma" if relu && half => either!(packed, |x, y, z| relu16(fma_half(x, y, z))),
        "fma" if relu => either!(packed, |x, y, z| relu16(fma_bfloat(x, y, z))),
        "fma" if sat && half => either!(packed, |x, y, z| to_half(saturate(from_half(fma_half(x, y, z))))),
        "fma" if sat => return b.unsupported(op, "`.sat`"),
        "fma" if half => either!(packed, |x, y, z| fma_half(x, y, z)),
        "fma" => either!(packed, |x, y, z| fma_bfloat(x, y, z)),
        "min" if nan => through_single!(packed, half, |x, y| minimum_nan(x, y)),
        "max" if nan => through_single!(packed, half, |x, y| maximum_nan(x, y)),
        "min" => through_single!(packed, half, |x, y| minimum(x, y)),
        "max" => through_single!(packed, half, |x, y| maximum(x, y)),
        "abs" if !ftz => either!(packed, |x| x & 0x7fff),
        "neg" if !ftz => either!(packed, |x| x ^ 0x8000),
        _ => return b.unsupported(op, "this type"),
    };
    b.emit_float(op, t, sources, handlers)
}

/// Negative values become 0; NaN stays NaN.
#[inline(always)]
fn relu16(x: u16) -> u16 {
    if x == NAN16 {
        x
    } else if x & 0x8000 != 0 {
        0
    } else {
        x
    }
}

/// `ex2.approx` and `tanh.approx`.
pub(super) fn function(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let approx = op.take("approx");
    op.take("ftz");
    let (t, packed, half) = classify(b, op)?;
    if !approx {
        return b.unsupported(op, "no `.approx`");
    }
    let handlers = match op.name {
        "ex2" => through_single!(packed, half, |x| (x as f64).exp2() as f32),
        "tanh" => through_single!(packed, half, |x| (x as f64).tanh() as f32),
        _ => return b.unsupported(op, "this type"),
    };
    b.emit_float(op, t, 1, handlers)
}

/// The sum of two packed pairs.
pub(super) fn add_packed(x: u32, y: u32, half: bool) -> u32 {
    both2(
        x,
        y,
        |x, y| {
            if half { to_half(from_half(x) + from_half(y)) } else { to_bfloat(from_bfloat(x) + from_bfloat(y)) }
        },
    )
}
