//! `cvt` to and from formats of 8 bits and fewer, two values at a time.

use super::{Builder, Decoded, Opcode};
use crate::counters::Class::Conversion;
use crate::exec::lanes::{map1, map2};
use crate::minifloat::*;
use crate::numeric::{from_bfloat, from_half, to_half};
use crate::program::Handlers;
use crate::ptx::ast::Type;

const NAMES: [&str; 6] = ["e4m3x2", "e5m2x2", "e2m3x2", "e3m2x2", "e2m1x2", "ue8m0x2"];

/// Whether a `cvt` has such a type.
pub(super) fn is_narrow(op: &Opcode) -> bool {
    NAMES.iter().any(|name| op.has(name))
}

/// `max(x, 0)`, where NaN stays.
fn relu(x: f64, on: bool) -> f64 {
    if on && x < 0.0 { 0.0 } else { x }
}

/// Where the upper of two values of a format begins.
const fn half_of(format: Mini) -> u32 {
    if format.is_four_bits() { 4 } else { 8 }
}

/// Two values of a format to two f16.
macro_rules! widen {
    ($format:ident, $relu:ident) => {
        map1(|a: u16| {
            let (low, high) = (a as u32 & ((1 << half_of($format)) - 1), a as u32 >> half_of($format) & 0xff);
            let value = |code: u32| to_half(relu($format.decode(code), $relu) as f32) as u32;
            value(low) | value(high) << 16
        })
    };
}
/// Two f32 to two values of a format; the first source becomes the upper one.
macro_rules! narrow_pair {
    ($format:ident, $relu:ident) => {
        map2(|a: f32, c: f32| {
            let code = |x: f32| $format.encode(relu(x as f64, $relu));
            (code(a) << half_of($format) | code(c)) as u16
        })
    };
}
/// Two f16 to two values of a format.
macro_rules! narrow_packed {
    ($format:ident, $relu:ident) => {
        map1(|a: u32| {
            let code = |x: u32| $format.encode(relu(from_half(x as u16) as f64, $relu));
            (code(a >> 16) << half_of($format) | code(a)) as u16
        })
    };
}
/// A handler for each format, with and without `.relu`, from an expression for one.
macro_rules! each_format {
    ($name:expr, $relu:expr, |$format:ident, $r:ident| $handlers:expr) => {
        match ($name, $relu) {
            ("e4m3x2", false) => each_format!(@ E4M3, false, $format, $r, $handlers),
            ("e4m3x2", true) => each_format!(@ E4M3, true, $format, $r, $handlers),
            ("e5m2x2", false) => each_format!(@ E5M2, false, $format, $r, $handlers),
            ("e5m2x2", true) => each_format!(@ E5M2, true, $format, $r, $handlers),
            ("e2m3x2", false) => each_format!(@ E2M3, false, $format, $r, $handlers),
            ("e2m3x2", true) => each_format!(@ E2M3, true, $format, $r, $handlers),
            ("e3m2x2", false) => each_format!(@ E3M2, false, $format, $r, $handlers),
            ("e3m2x2", true) => each_format!(@ E3M2, true, $format, $r, $handlers),
            ("e2m1x2", false) => each_format!(@ E2M1, false, $format, $r, $handlers),
            (_, _) => each_format!(@ E2M1, true, $format, $r, $handlers),
        }
    };
    (@ $value:expr, $on:expr, $format:ident, $r:ident, $handlers:expr) => {{
        const $format: Mini = $value;
        #[allow(non_upper_case_globals, reason = "reads like a variable in the expression")]
        const $r: bool = $on;
        $handlers
    }};
}

pub(super) fn cvt(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let rounding = op.take_any(&["rn", "rz", "rp"]);
    let saturates = op.take("satfinite");
    let relus = op.take("relu");
    // The result's type comes first.
    let narrow = op.take_any(&["e4m3x2", "e5m2x2", "e2m3x2", "e3m2x2", "e2m1x2", "ue8m0x2", "f16x2", "bf16x2"]);
    if matches!(narrow, Some("f16x2" | "bf16x2")) {
        let Some(from) = op.take_any(&NAMES) else {
            return b.unsupported(op, "these types");
        };
        b.count(op, 2..=2)?;
        let handlers = match (narrow, from) {
            (Some("bf16x2"), "ue8m0x2") => map1(|a: u16| scale(a as u8) as u32 | (scale((a >> 8) as u8) as u32) << 16),
            (Some("f16x2"), from) if from != "ue8m0x2" => {
                each_format!(from, relus, |FORMAT, RELU| widen!(FORMAT, RELU))
            }
            _ => return b.unsupported(op, "these types"),
        };
        let ops = [b.dest(op, Type::B32)?, b.source(op, 1, Type::B16)?];
        b.emit_ops(handlers, Conversion, &ops);
        return Ok(());
    }
    let (Some(to), Some(from)) = (narrow, op.take_any(&["f32", "f16x2", "bf16x2"])) else {
        return b.unsupported(op, "these types");
    };
    if to == "ue8m0x2" {
        return scales(b, op, rounding, from);
    }
    if rounding != Some("rn") || !saturates || from == "bf16x2" {
        return b.unsupported(op, "these modifiers");
    }
    let handlers: Handlers = match from {
        "f32" => each_format!(to, relus, |FORMAT, RELU| narrow_pair!(FORMAT, RELU)),
        _ => each_format!(to, relus, |FORMAT, RELU| narrow_packed!(FORMAT, RELU)),
    };
    let mut ops = vec![b.dest(op, Type::B16)?];
    if from == "f32" {
        b.count(op, 3..=3)?;
        ops.extend([b.source(op, 1, Type::F32)?, b.source(op, 2, Type::F32)?]);
    } else {
        b.count(op, 2..=2)?;
        ops.push(b.source(op, 1, Type::B32)?);
    }
    b.emit_ops(handlers, Conversion, &ops);
    Ok(())
}

/// The bf16 of a scale: a power of two, 255 for NaN.
fn scale(code: u8) -> u16 {
    match code {
        0xff => 0x7fff,
        0 => 0x0040,
        code => (code as u16) << 7,
    }
}

/// The scale of a value: its exponent, rounded towards zero or up.
fn code(x: f32, up: bool) -> u8 {
    let bits = x.to_bits() & 0x7fff_ffff;
    if bits > 0x7f80_0000 {
        return 0xff;
    }
    // A negative value is below every power of two.
    if x.is_sign_negative() {
        return 0;
    }
    let (exponent, fraction) = (bits >> 23, bits & 0x7f_ffff);
    // 2^-127, code 0, is a subnormal f32.
    let more = if exponent == 0 { fraction > 1 << 22 } else { fraction != 0 };
    (exponent + (up && more) as u32).min(0xfe) as u8
}

/// `cvt.{rz,rp}.satfinite.ue8m0x2`.
fn scales(b: &mut Builder, op: &Opcode, rounding: Option<&str>, from: &str) -> Decoded {
    let handlers = match (rounding, from) {
        (Some("rz"), "f32") => map2(|a: f32, c: f32| (code(a, false) as u16) << 8 | code(c, false) as u16),
        (Some("rp"), "f32") => map2(|a: f32, c: f32| (code(a, true) as u16) << 8 | code(c, true) as u16),
        (Some("rz"), "bf16x2") => map1(|a: u32| {
            (code(from_bfloat((a >> 16) as u16), false) as u16) << 8 | code(from_bfloat(a as u16), false) as u16
        }),
        (Some("rp"), "bf16x2") => map1(|a: u32| {
            (code(from_bfloat((a >> 16) as u16), true) as u16) << 8 | code(from_bfloat(a as u16), true) as u16
        }),
        _ => return b.unsupported(op, "these modifiers"),
    };
    let mut ops = vec![b.dest(op, Type::B16)?];
    if from == "f32" {
        b.count(op, 3..=3)?;
        ops.extend([b.source(op, 1, Type::F32)?, b.source(op, 2, Type::F32)?]);
    } else {
        b.count(op, 2..=2)?;
        ops.push(b.source(op, 1, Type::B32)?);
    }
    b.emit_ops(handlers, Conversion, &ops);
    Ok(())
}
