//! f32 and f64 arithmetic, functions and comparison.
//!
//! The approximate functions (`ex2.approx`, `sin.approx`, `rsqrt.approx`, …) are computed in f64 and rounded once to f32:
//! the answer is at least as close as the hardware's, not the same bits. `.ftz` flushes subnormal operands and results.

use super::{Builder, Decoded, Opcode, half};
use crate::counters::Class::Float;
use crate::exec::lanes::{compare, map1, map2, map3, test};
use crate::numeric::*;
use crate::program::Handlers;
use crate::ptx::ast::Type;

/// The direction of `.rn`, `.rz`, `.rm`, `.rp`; none is to nearest.
/// One f32 operation in the four combinations of `.ftz` and `.sat`.
macro_rules! single {
    ($ftz:expr, $sat:expr, $map:ident, |$($x:ident),*| $body:expr) => {
        match ($ftz, $sat) {
            (false, false) => $map(|$($x: f32),*| canonical($body)),
            (true, false) => $map(|$($x: f32),*| { $(let $x = flush($x);)* flush(canonical($body)) }),
            (false, true) => $map(|$($x: f32),*| saturate($body)),
            (true, true) => $map(|$($x: f32),*| { $(let $x = flush($x);)* flush(saturate($body)) }),
        }
    };
}

/// One f32 operation in each direction: the first expression is to nearest, the second the exact value rounded to odd.
macro_rules! rounded {
    ($rounding:expr, $ftz:expr, $sat:expr, $map:ident, |$($x:ident),*| $nearest:expr, $odd:expr) => {
        match $rounding {
            Rounding::Zero => single!($ftz, $sat, $map, |$($x),*| round_single($odd(Rounding::Zero), Rounding::Zero)),
            Rounding::Down => single!($ftz, $sat, $map, |$($x),*| round_single($odd(Rounding::Down), Rounding::Down)),
            Rounding::Up => single!($ftz, $sat, $map, |$($x),*| round_single($odd(Rounding::Up), Rounding::Up)),
            _ => single!($ftz, $sat, $map, |$($x),*| $nearest),
        }
    };
}

pub(super) fn arithmetic(b: &mut Builder, op: &mut Opcode) -> Decoded {
    if ["f16", "f16x2", "bf16", "bf16x2"].iter().any(|t| op.has(t)) {
        return half::arithmetic(b, op);
    }
    let ftz = op.take("ftz");
    let sat = op.take("sat");
    let (approx, full) = (op.take("approx"), op.take("full"));
    let nan = op.take("NaN");
    let direction = op.take_rounding();
    let way = direction.unwrap_or(Rounding::Nearest);
    let t = b.type_of(op)?;
    let name = op.name;
    if t == Type::F64 {
        if ftz || sat || approx || full || nan {
            return b.unsupported(op, "these modifiers for `.f64`");
        }
        return arithmetic64(b, op, direction);
    }
    let bare = direction.is_none() && !approx && !full;
    match name {
        "div" if approx || full => {
            // In f64 the division never overflows early.
            return b.emit_float(op, t, 2, single!(ftz, sat, map2, |x, y| (x as f64 / y as f64) as f32));
        }
        _ if approx || full => return b.unsupported(op, "`.approx`"),
        "div" | "fma" if direction.is_none() => {
            return Err(b.error(format!("`{name}.f32` needs a rounding such as `.rn`")));
        }
        "min" | "max" | "abs" | "neg" if !bare || sat => {
            return b.unsupported(op, "these modifiers");
        }
        "min" | "max" => {}
        _ if nan => return b.unsupported(op, "`.NaN`"),
        _ => {}
    }
    match name {
        "add" => {
            let h = rounded!(way, ftz, sat, map2, |x, y| x + y, |r| zero_sign(
                x as f64,
                y as f64,
                add_odd(x as f64, y as f64),
                r
            ));
            b.emit_float(op, t, 2, h)
        }
        "sub" => {
            let h = rounded!(way, ftz, sat, map2, |x, y| x - y, |r| zero_sign(
                x as f64,
                -y as f64,
                add_odd(x as f64, -y as f64),
                r
            ));
            b.emit_float(op, t, 2, h)
        }
        "mul" => b.emit_float(op, t, 2, rounded!(way, ftz, sat, map2, |x, y| x * y, |_| x as f64 * y as f64)),
        "fma" | "mad" => {
            let h = rounded!(way, ftz, sat, map3, |x, y, z| x.mul_add(y, z), |r| {
                zero_sign(x as f64 * y as f64, z as f64, fma_odd(x, y, z), r)
            });
            b.emit_float(op, t, 3, h)
        }
        "div" => b.emit_float(op, t, 2, rounded!(way, ftz, sat, map2, |x, y| x / y, |_| div_odd(x, y))),
        "min" if nan => b.emit_float(op, t, 2, single!(ftz, false, map2, |x, y| minimum_nan(x, y))),
        "max" if nan => b.emit_float(op, t, 2, single!(ftz, false, map2, |x, y| maximum_nan(x, y))),
        "min" => b.emit_float(op, t, 2, single!(ftz, false, map2, |x, y| minimum(x, y))),
        "max" => b.emit_float(op, t, 2, single!(ftz, false, map2, |x, y| maximum(x, y))),
        // Sign operations keep a NaN's payload, as the hardware's modifiers do.
        "abs" if ftz => b.emit_float(op, t, 1, map1(|x: f32| flush(x).abs())),
        "abs" => b.emit_float(op, t, 1, map1(|x: u32| x & 0x7fff_ffff)),
        "neg" if ftz => b.emit_float(op, t, 1, map1(|x: f32| -flush(x))),
        "neg" => b.emit_float(op, t, 1, map1(|x: u32| x ^ 0x8000_0000)),
        _ => b.unsupported(op, "this type"),
    }
}

fn arithmetic64(b: &mut Builder, op: &Opcode, direction: Option<Rounding>) -> Decoded {
    let t = Type::F64;
    macro_rules! directed {
        ($f:expr) => {
            match direction {
                Some(Rounding::Zero) => map2(|x: f64, y: f64| canonical64($f(x, y, Rounding::Zero))),
                Some(Rounding::Down) => map2(|x: f64, y: f64| canonical64($f(x, y, Rounding::Down))),
                _ => map2(|x: f64, y: f64| canonical64($f(x, y, Rounding::Up))),
            }
        };
    }
    let nearest = matches!(direction, None | Some(Rounding::Nearest));
    match op.name {
        "add" if nearest => b.emit_float(op, t, 2, map2(|x: f64, y: f64| canonical64(x + y))),
        "sub" if nearest => b.emit_float(op, t, 2, map2(|x: f64, y: f64| canonical64(x - y))),
        "mul" if nearest => b.emit_float(op, t, 2, map2(|x: f64, y: f64| canonical64(x * y))),
        "add" => b.emit_float(op, t, 2, directed!(add64)),
        "sub" => b.emit_float(op, t, 2, directed!(|x, y: f64, r| add64(x, -y, r))),
        "mul" => b.emit_float(op, t, 2, directed!(mul64)),
        "fma" | "mad" if direction == Some(Rounding::Nearest) => {
            b.emit_float(op, t, 3, map3(|x: f64, y: f64, z: f64| canonical64(x.mul_add(y, z))))
        }
        "div" if direction == Some(Rounding::Nearest) => {
            b.emit_float(op, t, 2, map2(|x: f64, y: f64| canonical64(x / y)))
        }
        "min" if direction.is_none() => b.emit_float(op, t, 2, map2(|x: f64, y: f64| minimum64(x, y))),
        "max" if direction.is_none() => b.emit_float(op, t, 2, map2(|x: f64, y: f64| maximum64(x, y))),
        "abs" if direction.is_none() => b.emit_float(op, t, 1, map1(|x: u64| x & !(1 << 63))),
        "neg" if direction.is_none() => b.emit_float(op, t, 1, map1(|x: u64| x ^ 1 << 63)),
        _ => b.unsupported(op, "this rounding of `.f64`"),
    }
}

pub(super) fn function(b: &mut Builder, op: &mut Opcode) -> Decoded {
    if ["f16", "f16x2", "bf16", "bf16x2"].iter().any(|t| op.has(t)) {
        return half::function(b, op);
    }
    let ftz = op.take("ftz");
    let approx = op.take("approx");
    let direction = op.take_rounding();
    let t = b.type_of(op)?;
    if op.name == "copysign" {
        // The first operand gives the sign.
        return match t {
            Type::F32 => b.emit_float(op, t, 2, map2(|x: u32, y: u32| x & 0x8000_0000 | y & 0x7fff_ffff)),
            Type::F64 => b.emit_float(op, t, 2, map2(|x: u64, y: u64| x & 1 << 63 | y & !(1 << 63))),
            _ => b.unsupported(op, "this type"),
        };
    }
    if approx == direction.is_some() {
        return Err(b.error(format!("`{}` needs either `.approx` or a rounding such as `.rn`", op.name)));
    }
    if t == Type::F64 {
        let handlers = match (op.name, direction) {
            ("rcp", Some(Rounding::Nearest)) => map1(|x: f64| canonical64(1.0 / x)),
            ("sqrt", Some(Rounding::Nearest)) => map1(|x: f64| canonical64(x.sqrt())),
            // `.approx.ftz.f64` keeps the upper 32 bits of the result.
            ("rcp", None) if ftz => map1(|x: f64| f64::from_bits(canonical64(1.0 / x).to_bits() & !0xffff_ffff)),
            ("rsqrt", None) if ftz => {
                map1(|x: f64| f64::from_bits(canonical64(1.0 / x.sqrt()).to_bits() & !0xffff_ffff))
            }
            ("rsqrt", None) => map1(|x: f64| canonical64(1.0 / x.sqrt())),
            _ => return b.unsupported(op, "these modifiers for `.f64`"),
        };
        return b.emit_float(op, t, 1, handlers);
    }
    if t != Type::F32 {
        return b.unsupported(op, "this type");
    }
    let handlers = match (op.name, direction) {
        ("rcp", Some(way)) => rounded!(way, ftz, false, map1, |x| 1.0 / x, |_| div_odd(1.0, x)),
        ("sqrt", Some(way)) => rounded!(way, ftz, false, map1, |x| x.sqrt(), |_| sqrt_odd(x)),
        ("rcp", None) => single!(ftz, false, map1, |x| 1.0 / x),
        ("sqrt", None) => single!(ftz, false, map1, |x| x.sqrt()),
        ("rsqrt", None) => single!(ftz, false, map1, |x| (1.0 / (x as f64).sqrt()) as f32),
        ("sin", None) => single!(ftz, false, map1, |x| (x as f64).sin() as f32),
        ("cos", None) => single!(ftz, false, map1, |x| (x as f64).cos() as f32),
        ("ex2", None) => single!(ftz, false, map1, |x| (x as f64).exp2() as f32),
        ("lg2", None) => single!(ftz, false, map1, |x| (x as f64).log2() as f32),
        ("tanh", None) if !ftz => single!(false, false, map1, |x| (x as f64).tanh() as f32),
        _ => return b.unsupported(op, "these modifiers"),
    };
    b.emit_float(op, t, 1, handlers)
}

/// A float comparison for each relation.
macro_rules! relations {
    ($relation:expr, $make:ident, $unknown:expr) => {
        match $relation {
            "eq" => $make!(|x, y| x == y),
            "ne" => $make!(|x, y| x < y || x > y),
            "lt" => $make!(|x, y| x < y),
            "le" => $make!(|x, y| x <= y),
            "gt" => $make!(|x, y| x > y),
            "ge" => $make!(|x, y| x >= y),
            "equ" => $make!(|x, y| !(x < y || x > y)),
            "neu" => $make!(|x, y| x != y),
            "ltu" => $make!(|x, y| !(x >= y)),
            "leu" => $make!(|x, y| !(x > y)),
            "gtu" => $make!(|x, y| !(x <= y)),
            "geu" => $make!(|x, y| !(x < y)),
            "num" => $make!(|x, y| !x.is_nan() && !y.is_nan()),
            "nan" => $make!(|x, y| x.is_nan() || y.is_nan()),
            _ => return $unknown(),
        }
    };
}

#[expect(
    clippy::double_comparisons,
    clippy::neg_cmp_op_on_partial_ord,
    reason = "a comparison with NaN is false, so these are not the simpler forms"
)]
pub(super) fn comparison(b: &Builder, op: &Opcode, relation: &str, t: Type, ftz: bool) -> Decoded<Handlers> {
    // Made where it is needed: an error has its line, and to find one the whole text is looked through.
    let unknown = || Err(b.error(format!("unknown comparison `.{relation}` for `.{}`", t.name())));
    macro_rules! plain {
        (|$x:ident, $y:ident| $body:expr) => {
            compare(|$x: f32, $y: f32| $body)
        };
    }
    macro_rules! flushed {
        (|$x:ident, $y:ident| $body:expr) => {
            compare(|$x: f32, $y: f32| {
                let ($x, $y) = (flush($x), flush($y));
                $body
            })
        };
    }
    macro_rules! double {
        (|$x:ident, $y:ident| $body:expr) => {
            compare(|$x: f64, $y: f64| $body)
        };
    }
    macro_rules! halves {
        (|$x:ident, $y:ident| $body:expr) => {
            compare(|$x: u16, $y: u16| {
                let ($x, $y) = (from_half($x), from_half($y));
                $body
            })
        };
    }
    macro_rules! brains {
        (|$x:ident, $y:ident| $body:expr) => {
            compare(|$x: u16, $y: u16| {
                let ($x, $y) = (from_bfloat($x), from_bfloat($y));
                $body
            })
        };
    }
    Ok(match (t, ftz) {
        (Type::F32, false) => relations!(relation, plain, unknown),
        (Type::F32, true) => relations!(relation, flushed, unknown),
        (Type::F64, false) => relations!(relation, double, unknown),
        (Type::F16, false) => relations!(relation, halves, unknown),
        (Type::Bf16, false) => relations!(relation, brains, unknown),
        (Type::F16x2 | Type::Bf16x2, false) => map1(|x: u32| x),
        _ => return b.unsupported(op, "`.ftz` for this type"),
    })
}

/// `setp` and `set` of two packed values: unpacks, compares each, and packs again.
pub(super) fn packed_comparison(
    b: &mut Builder,
    op: &Opcode,
    relation: &str,
    t: Type,
    result: Option<Type>,
    combined: bool,
) -> Decoded {
    use crate::exec::lanes::select;
    use crate::ptx::ast::Operand;
    if combined {
        return b.unsupported(op, "a combined packed comparison");
    }
    let element = if t == Type::F16x2 { Type::F16 } else { Type::Bf16 };
    let handlers = comparison(b, op, relation, element, false)?;
    let (x, y) = (b.source(op, 1, t)?, b.source(op, 2, t)?);
    let mut halves = Vec::new();
    for source in [x, y] {
        let (low, high) = (b.scratch(16), b.scratch(16));
        b.emit_ops(map1(|v: u32| v as u16), Float, &[low, source]);
        b.emit_ops(map1(|v: u32| (v >> 16) as u16), Float, &[high, source]);
        halves.push((low, high));
    }
    let (p, q) = match (&op.text.operands[0], result) {
        (Operand::Pair(p, q), None) => (b.predicate_dest(Some(p))?, b.predicate_dest(Some(q))?),
        (_, Some(_)) => (b.scratch_predicate(), b.scratch_predicate()),
        _ => return Err(b.error("expected two predicates `%p|%q` for a packed comparison")),
    };
    b.emit_ops(handlers, Float, &[p, halves[0].0, halves[1].0]);
    b.emit_ops(handlers, Float, &[q, halves[0].1, halves[1].1]);
    let Some(kind) = result else { return Ok(()) };
    let one = match kind {
        Type::F16x2 => 0x3c00u128,
        Type::Bf16x2 => 0x3f80,
        Type::U32 | Type::S32 | Type::B32 => 0xffff,
        _ => return b.unsupported(op, "this result type"),
    };
    let zero = b.constant(0, 32, None);
    let (low, high) = (b.constant(one, 32, None), b.constant(one << 16, 32, None));
    let (s, r, d) = (b.scratch(32), b.scratch(32), b.dest(op, kind)?);
    b.emit_ops(select::<u32>(), Float, &[s, low, zero, p]);
    b.emit_ops(select::<u32>(), Float, &[r, high, zero, q]);
    b.emit_ops(map2(|x: u32, y: u32| x | y), Float, &[d, s, r]);
    Ok(())
}

/// `testp`.
pub(super) fn testp(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let Some(which) = op.take_any(&["finite", "infinite", "number", "notanumber", "normal", "subnormal"]) else {
        return Err(b.error("`testp` needs a property such as `.finite`"));
    };
    let t = b.type_of(op)?;
    b.count(op, 2..=2)?;
    macro_rules! tests {
        ($f:ty) => {
            match which {
                "finite" => test(|x: $f| x.is_finite()),
                "infinite" => test(|x: $f| x.is_infinite()),
                "number" => test(|x: $f| !x.is_nan()),
                "notanumber" => test(|x: $f| x.is_nan()),
                "normal" => test(|x: $f| x.is_normal()),
                _ => test(|x: $f| x.is_subnormal()),
            }
        };
    }
    let handlers = match t {
        Type::F32 => tests!(f32),
        Type::F64 => tests!(f64),
        _ => return b.unsupported(op, "this type"),
    };
    let ops = [b.predicate_dest(op.text.operands.first())?, b.source(op, 1, t)?];
    b.emit_ops(handlers, Float, &ops);
    Ok(())
}
