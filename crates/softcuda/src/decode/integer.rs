//! Integer arithmetic, logic, bit fields, comparison and selection.

use super::float;
use super::{Builder, Decoded, Opcode};
use crate::counters::Class::{Float, Integer};
use crate::exec::lanes::{self, compare, map_carry, map1, map2, map3, map3_imm, predicate_map, select};
use crate::program::Handlers;
use crate::ptx::ast::{Literal, Operand, Type};

/// A handler for each integer type from one expression that is right for all.
macro_rules! each {
    ($b:ident, $op:ident, $t:expr, $map:ident, |$($x:ident),*| $body:expr) => {
        match $t {
            Type::U16 | Type::B16 => $map(|$($x: u16),*| $body),
            Type::S16 => $map(|$($x: i16),*| $body),
            Type::U32 | Type::B32 => $map(|$($x: u32),*| $body),
            Type::S32 => $map(|$($x: i32),*| $body),
            Type::U64 | Type::B64 => $map(|$($x: u64),*| $body),
            Type::S64 => $map(|$($x: i64),*| $body),
            other => return $b.unsupported($op, &format!("type `.{}`", other.name())),
        }
    };
}

pub(super) fn emit2(b: &mut Builder, op: &Opcode, d: Type, s: Type, handlers: Handlers) -> Decoded {
    b.count(op, 3..=3)?;
    let ops = [b.dest(op, d)?, b.source(op, 1, s)?, b.source(op, 2, s)?];
    b.emit_ops(handlers, Integer, &ops);
    Ok(())
}

pub(super) fn emit1(b: &mut Builder, op: &Opcode, d: Type, s: Type, handlers: Handlers) -> Decoded {
    b.count(op, 2..=2)?;
    let ops = [b.dest(op, d)?, b.source(op, 1, s)?];
    b.emit_ops(handlers, Integer, &ops);
    Ok(())
}

/// The upper half of a product.
trait MulHigh {
    fn mul_high(self, other: Self) -> Self;
}

macro_rules! mul_high {
    ($($t:ty: $wide:ty;)*) => { $(
        impl MulHigh for $t {
            #[inline(always)]
            fn mul_high(self, other: $t) -> $t { ((self as $wide * other as $wide) >> <$t>::BITS) as $t }
        }
    )* };
}
mul_high! { u16: u32; i16: i32; u32: u64; i32: i64; u64: u128; i64: i128; }

/// Division as the hardware does it: by zero gives all ones, the remainder by zero is the dividend.
trait Divide {
    fn divide(self, by: Self) -> Self;
    fn remainder(self, by: Self) -> Self;
}

macro_rules! divide {
    ($($t:ty)*) => { $(
        impl Divide for $t {
            #[inline(always)]
            fn divide(self, by: $t) -> $t { if by == 0 { !0 } else { self.wrapping_div(by) } }
            #[inline(always)]
            fn remainder(self, by: $t) -> $t { if by == 0 { self } else { self.wrapping_rem(by) } }
        }
    )* };
}
divide! { u16 i16 u32 i32 u64 i64 }

pub(super) fn arithmetic(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let name = op.name;
    if matches!(name, "addc" | "subc" | "madc") || op.has("cc") {
        return carry(b, op);
    }
    match name {
        "mul" | "mad" | "mul24" | "mad24" => return multiply(b, op),
        "min" | "max" if op.has("u16x2") || op.has("s16x2") => return packed_extreme(b, op),
        "sad" => {
            let t = b.type_of(op)?;
            let handlers = match t {
                Type::U16 => map3(|x: u16, y: u16, z: u16| z.wrapping_add(x.abs_diff(y))),
                Type::S16 => map3(|x: i16, y: i16, z: u16| z.wrapping_add(x.abs_diff(y))),
                Type::U32 => map3(|x: u32, y: u32, z: u32| z.wrapping_add(x.abs_diff(y))),
                Type::S32 => map3(|x: i32, y: i32, z: u32| z.wrapping_add(x.abs_diff(y))),
                Type::U64 => map3(|x: u64, y: u64, z: u64| z.wrapping_add(x.abs_diff(y))),
                Type::S64 => map3(|x: i64, y: i64, z: u64| z.wrapping_add(x.abs_diff(y))),
                _ => return b.unsupported(op, "this type"),
            };
            return emit3(b, op, t, handlers);
        }
        _ => {}
    }
    if name == "add" && (op.take("u16x2") || op.take("s16x2")) {
        let add =
            |x: u32, y: u32| (x & 0xffff).wrapping_add(y) & 0xffff | (x & 0xffff_0000).wrapping_add(y & 0xffff_0000);
        return emit2(b, op, Type::U32, Type::U32, map2(add));
    }
    let saturates = op.take("sat");
    let relus = matches!(name, "min" | "max") && op.take("relu");
    let t = b.type_of(op)?;
    if relus {
        let handlers = match (name, t) {
            ("min", Type::S32) => map2(|x: i32, y: i32| x.min(y).max(0)),
            (_, Type::S32) => map2(|x: i32, y: i32| x.max(y).max(0)),
            _ => return b.unsupported(op, "`.relu` of this type"),
        };
        return emit2(b, op, t, t, handlers);
    }
    if saturates {
        let handlers = match (name, t) {
            ("add", Type::S32) => map2(|x: i32, y: i32| x.saturating_add(y)),
            ("sub", Type::S32) => map2(|x: i32, y: i32| x.saturating_sub(y)),
            _ => return b.unsupported(op, "`.sat` for this type"),
        };
        return emit2(b, op, t, t, handlers);
    }
    let handlers = match name {
        "add" => each!(b, op, t, map2, |x, y| x.wrapping_add(y)),
        "sub" => each!(b, op, t, map2, |x, y| x.wrapping_sub(y)),
        "div" => each!(b, op, t, map2, |x, y| x.divide(y)),
        "rem" => each!(b, op, t, map2, |x, y| x.remainder(y)),
        "min" => each!(b, op, t, map2, |x, y| x.min(y)),
        "max" => each!(b, op, t, map2, |x, y| x.max(y)),
        "neg" => return emit1(b, op, t, t, each!(b, op, t, map1, |x| x.wrapping_neg())),
        _ => {
            let handlers = match t {
                Type::S16 => map1(|x: i16| x.wrapping_abs()),
                Type::S32 => map1(|x: i32| x.wrapping_abs()),
                Type::S64 => map1(|x: i64| x.wrapping_abs()),
                _ => return b.unsupported(op, "an unsigned type"),
            };
            return emit1(b, op, t, t, handlers);
        }
    };
    emit2(b, op, t, t, handlers)
}

/// `min` and `max` of two halves, nothing below 0.
fn relu_extreme(maximum: bool) -> Handlers {
    fn halves(x: u32, y: u32, pick: fn(i16, i16) -> i16) -> u32 {
        let low = pick(x as i16, y as i16).max(0) as u16 as u32;
        low | (pick((x >> 16) as i16, (y >> 16) as i16).max(0) as u16 as u32) << 16
    }
    match maximum {
        true => map2(|x: u32, y: u32| halves(x, y, |x, y| x.max(y))),
        false => map2(|x: u32, y: u32| halves(x, y, |x, y| x.min(y))),
    }
}

fn packed_extreme(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let signed = op.take("s16x2");
    if signed && op.take("relu") {
        return emit2(b, op, Type::U32, Type::U32, relu_extreme(op.name == "max"));
    }
    let handlers = match (op.name, signed || !op.take("u16x2")) {
        ("min", false) => map2(|x: u32, y: u32| (x & 0xffff).min(y & 0xffff) | (x >> 16).min(y >> 16) << 16),
        ("max", false) => map2(|x: u32, y: u32| (x & 0xffff).max(y & 0xffff) | (x >> 16).max(y >> 16) << 16),
        ("min", true) => map2(|x: u32, y: u32| {
            (x as i16).min(y as i16) as u16 as u32 | (((x >> 16) as i16).min((y >> 16) as i16) as u16 as u32) << 16
        }),
        _ => map2(|x: u32, y: u32| {
            (x as i16).max(y as i16) as u16 as u32 | (((x >> 16) as i16).max((y >> 16) as i16) as u16 as u32) << 16
        }),
    };
    emit2(b, op, Type::U32, Type::U32, handlers)
}

pub(super) fn emit3(b: &mut Builder, op: &Opcode, t: Type, handlers: Handlers) -> Decoded {
    b.count(op, 4..=4)?;
    let ops = [b.dest(op, t)?, b.source(op, 1, t)?, b.source(op, 2, t)?, b.source(op, 3, t)?];
    b.emit_ops(handlers, Integer, &ops);
    Ok(())
}

fn multiply(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let Some(part) = op.take_any(&["lo", "hi", "wide"]) else {
        return Err(b.error(format!("`{}` of integers needs `.lo`, `.hi` or `.wide`", op.name)));
    };
    let saturates = op.take("sat");
    let t = b.type_of(op)?;
    if matches!(op.name, "mul24" | "mad24") {
        return multiply24(b, op, part, t, saturates);
    }
    let adds = op.name == "mad";
    if part == "wide" {
        let (wide, handlers) = match (t, adds) {
            (Type::U16, false) => (Type::U32, map2(|x: u16, y: u16| x as u32 * y as u32)),
            (Type::S16, false) => (Type::S32, map2(|x: i16, y: i16| x as i32 * y as i32)),
            (Type::U32, false) => (Type::U64, map2(|x: u32, y: u32| x as u64 * y as u64)),
            (Type::S32, false) => (Type::S64, map2(|x: i32, y: i32| x as i64 * y as i64)),
            (Type::U16, true) => (Type::U32, map3(|x: u16, y: u16, z: u32| (x as u32 * y as u32).wrapping_add(z))),
            (Type::S16, true) => (Type::S32, map3(|x: i16, y: i16, z: i32| (x as i32 * y as i32).wrapping_add(z))),
            (Type::U32, true) => (Type::U64, map3(|x: u32, y: u32, z: u64| (x as u64 * y as u64).wrapping_add(z))),
            (Type::S32, true) => (Type::S64, map3(|x: i32, y: i32, z: i64| (x as i64 * y as i64).wrapping_add(z))),
            _ => return b.unsupported(op, "`.wide` of this type"),
        };
        b.count(op, if adds { 4..=4 } else { 3..=3 })?;
        let mut ops = vec![b.dest(op, wide)?, b.source(op, 1, t)?, b.source(op, 2, t)?];
        if adds {
            ops.push(b.source(op, 3, wide)?);
        }
        b.emit_ops(handlers, Integer, &ops);
        return Ok(());
    }
    if saturates {
        if !(adds && part == "hi" && t == Type::S32) {
            return b.unsupported(op, "`.sat`");
        }
        return emit3(b, op, t, map3(|x: i32, y: i32, z: i32| x.mul_high(y).saturating_add(z)));
    }
    match (part, adds) {
        ("lo", false) => emit2(b, op, t, t, each!(b, op, t, map2, |x, y| x.wrapping_mul(y))),
        ("hi", false) => emit2(b, op, t, t, each!(b, op, t, map2, |x, y| x.mul_high(y))),
        ("lo", true) => emit3(b, op, t, each!(b, op, t, map3, |x, y, z| x.wrapping_mul(y).wrapping_add(z))),
        _ => emit3(b, op, t, each!(b, op, t, map3, |x, y, z| x.mul_high(y).wrapping_add(z))),
    }
}

fn multiply24(b: &mut Builder, op: &Opcode, part: &str, t: Type, saturates: bool) -> Decoded {
    if saturates || part == "wide" {
        return b.unsupported(op, "this modifier");
    }
    let adds = op.name == "mad24";
    let handlers = match (t, part, adds) {
        (Type::U32, "lo", false) => map2(|x: u32, y: u32| (x << 8 >> 8).wrapping_mul(y << 8 >> 8)),
        (Type::S32, "lo", false) => map2(|x: i32, y: i32| (x << 8 >> 8).wrapping_mul(y << 8 >> 8)),
        (Type::U32, "lo", true) => {
            map3(|x: u32, y: u32, z: u32| (x << 8 >> 8).wrapping_mul(y << 8 >> 8).wrapping_add(z))
        }
        (Type::S32, "lo", true) => {
            map3(|x: i32, y: i32, z: i32| (x << 8 >> 8).wrapping_mul(y << 8 >> 8).wrapping_add(z))
        }
        (Type::U32, "hi", false) => map2(|x: u32, y: u32| (((x << 8 >> 8) as u64 * (y << 8 >> 8) as u64) >> 16) as u32),
        (Type::S32, "hi", false) => map2(|x: i32, y: i32| (((x << 8 >> 8) as i64 * (y << 8 >> 8) as i64) >> 16) as i32),
        _ => return b.unsupported(op, "these modifiers"),
    };
    if adds { emit3(b, op, t, handlers) } else { emit2(b, op, t, t, handlers) }
}

/// `add.cc`, `addc`, `sub.cc`, `subc`, `mad.cc`, `madc`: arithmetic through the carry flag.
fn carry(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let writes = op.take("cc");
    let part = op.take_any(&["lo", "hi"]);
    let t = b.type_of(op)?;
    macro_rules! each_carry {
        (|$x:ident, $y:ident, $z:ident, $c:ident, $n:ident| $body:expr) => {
            match t {
                Type::U32 | Type::S32 | Type::B32 => map_carry(|$x: u32, $y: u32, $z: u32, $c: bool| {
                    type $n = u32;
                    $body
                }),
                Type::U64 | Type::S64 | Type::B64 => map_carry(|$x: u64, $y: u64, $z: u64, $c: bool| {
                    type $n = u64;
                    $body
                }),
                _ => return b.unsupported(op, "this type"),
            }
        };
    }
    let signed = t.is_signed();
    let handlers = match (op.name, part) {
        ("add", None) => each_carry!(|x, y, _z, _c, N| {
            let _: N = x;
            x.overflowing_add(y)
        }),
        ("addc", None) => each_carry!(|x, y, _z, c, N| {
            let (s, o) = x.overflowing_add(y);
            let (s, p) = s.overflowing_add(c as N);
            (s, o | p)
        }),
        // The flag of a subtraction is the borrow.
        ("sub", None) => each_carry!(|x, y, _z, _c, N| {
            let _: N = x;
            x.overflowing_sub(y)
        }),
        ("subc", None) => each_carry!(|x, y, _z, c, N| {
            let (s, o) = x.overflowing_sub(y);
            let (s, p) = s.overflowing_sub(c as N);
            (s, o | p)
        }),
        ("mad", Some("lo")) => each_carry!(|x, y, z, _c, N| {
            let _: N = x;
            x.wrapping_mul(y).overflowing_add(z)
        }),
        ("madc", Some("lo")) => each_carry!(|x, y, z, c, N| {
            let (s, o) = x.wrapping_mul(y).overflowing_add(z);
            let (s, p) = s.overflowing_add(c as N);
            (s, o | p)
        }),
        ("mad", Some("hi")) if !signed => each_carry!(|x, y, z, _c, N| {
            let _: N = x;
            x.mul_high(y).overflowing_add(z)
        }),
        ("madc", Some("hi")) if !signed => each_carry!(|x, y, z, c, N| {
            let (s, o) = x.mul_high(y).overflowing_add(z);
            let (s, p) = s.overflowing_add(c as N);
            (s, o | p)
        }),
        ("mad", Some("hi")) if t == Type::S32 => {
            map_carry(|x: u32, y: u32, z: u32, _| ((x as i32).mul_high(y as i32) as u32).overflowing_add(z))
        }
        ("madc", Some("hi")) if t == Type::S32 => map_carry(|x: u32, y: u32, z: u32, c: bool| {
            let (s, o) = ((x as i32).mul_high(y as i32) as u32).overflowing_add(z);
            let (s, p) = s.overflowing_add(c as u32);
            (s, o | p)
        }),
        _ => return b.unsupported(op, "these modifiers"),
    };
    let three = part.is_some();
    b.count(op, if three { 4..=4 } else { 3..=3 })?;
    let (d, x, y) = (b.dest(op, t)?, b.source(op, 1, t)?, b.source(op, 2, t)?);
    let z = if three { b.source(op, 3, t)? } else { x };
    let flag = b.carry();
    b.emit(handlers, Integer, [d, x, y, z, flag, 0, 0, 0], 0, writes as u8);
    Ok(())
}

pub(super) fn logic(b: &mut Builder, op: &mut Opcode) -> Decoded {
    if op.name == "lop3" {
        return lop3(b, op);
    }
    let t = b.type_of(op)?;
    if t == Type::Pred {
        return predicates(b, op);
    }
    match op.name {
        "not" => return emit1(b, op, t, t, each!(b, op, t, map1, |x| !x)),
        "cnot" => return emit1(b, op, t, t, cnot(b, op, t)?),
        "shl" | "shr" => return shift(b, op, t),
        _ => {}
    }
    let handlers = match op.name {
        "and" => each!(b, op, t, map2, |x, y| x & y),
        "or" => each!(b, op, t, map2, |x, y| x | y),
        _ => each!(b, op, t, map2, |x, y| x ^ y),
    };
    emit2(b, op, t, t, handlers)
}

/// `cnot`: 1 where the operand is 0.
fn cnot(b: &Builder, op: &Opcode, t: Type) -> Decoded<Handlers> {
    Ok(match t.bits() {
        16 => map1(|x: u16| (x == 0) as u16),
        32 => map1(|x: u32| (x == 0) as u32),
        64 => map1(|x: u64| (x == 0) as u64),
        _ => return b.unsupported(op, "this type"),
    })
}

fn predicates(b: &mut Builder, op: &Opcode) -> Decoded {
    let unary = op.name == "not";
    b.count(op, if unary { 2..=2 } else { 3..=3 })?;
    let d = b.predicate_dest(op.text.operands.first())?;
    let (x, not_x) = b.predicate(op.text.operands.get(1))?;
    let (y, not_y) = if unary { (x, not_x) } else { b.predicate(op.text.operands.get(2))? };
    if not_x || not_y {
        return Err(b.error("expected predicates without `!`"));
    }
    let handlers = match op.name {
        "not" => predicate_map(|x, _| !x),
        "and" => predicate_map(|x, y| x & y),
        "or" => predicate_map(|x, y| x | y),
        "xor" => predicate_map(|x, y| x ^ y),
        _ => return b.unsupported(op, "predicates"),
    };
    b.emit_ops(handlers, Integer, &[d, x, y]);
    Ok(())
}

fn shift(b: &mut Builder, op: &Opcode, t: Type) -> Decoded {
    macro_rules! shifts {
        ($($bits:ty, $signed:ty, $unsigned_type:pat, $signed_type:pat,)*) => {
            match (op.name, t) {
                $(
                    ("shl", $unsigned_type | $signed_type) => map2(|x: $bits, n: u32| if n < <$bits>::BITS { x << n } else { 0 }),
                    (_, $unsigned_type) => map2(|x: $bits, n: u32| if n < <$bits>::BITS { x >> n } else { 0 }),
                    (_, $signed_type) => map2(|x: $signed, n: u32| x >> n.min(<$bits>::BITS - 1)),
                )*
                _ => return b.unsupported(op, "this type"),
            }
        };
    }
    let handlers = shifts! {
        u16, i16, Type::U16 | Type::B16, Type::S16,
        u32, i32, Type::U32 | Type::B32, Type::S32,
        u64, i64, Type::U64 | Type::B64, Type::S64,
    };
    b.count(op, 3..=3)?;
    let ops = [b.dest(op, t)?, b.source(op, 1, t)?, b.source(op, 2, Type::U32)?];
    b.emit_ops(handlers, Integer, &ops);
    Ok(())
}

/// An operand that must be a literal.
pub(super) fn immediate(b: &Builder, op: &Opcode, index: usize) -> Decoded<u64> {
    match op.text.operands.get(index) {
        Some(Operand::Literal(Literal::Integer(v))) => Ok(*v),
        _ => Err(b.error(format!("expected an integer literal as operand {} of `{}`", index + 1, op.name))),
    }
}

fn lop3(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let t = b.type_of(op)?;
    if t != Type::B32 {
        return b.unsupported(op, "this type");
    }
    b.count(op, 5..=5)?;
    let table = immediate(b, op, 4)?;
    let ops = [b.dest(op, t)?, b.source(op, 1, t)?, b.source(op, 2, t)?, b.source(op, 3, t)?, 0, 0, 0, 0];
    let handlers = map3_imm(|x: u32, y: u32, z: u32, table: u32| {
        let mut out = 0;
        for row in 0..8u32 {
            let keep = 0u32.wrapping_sub(table >> row & 1);
            let pick = |v: u32, bit: u32| if row & bit != 0 { v } else { !v };
            out |= keep & pick(x, 4) & pick(y, 2) & pick(z, 1);
        }
        out
    });
    b.emit(handlers, Integer, ops, table & 0xff, 0);
    Ok(())
}

pub(super) fn comparison(b: &mut Builder, op: &mut Opcode) -> Decoded {
    match op.name {
        "selp" => {
            let t = b.type_of(op)?;
            b.count(op, 4..=4)?;
            let (p, negated) = b.predicate(op.text.operands.get(3))?;
            if t == Type::Pred {
                return b.unsupported(op, "predicates");
            }
            let (d, mut x, mut y) = (b.dest(op, t)?, b.source(op, 1, t)?, b.source(op, 2, t)?);
            if negated {
                (x, y) = (y, x);
            }
            let handlers = match t.bits() {
                16 => select::<u16>(),
                32 => select::<u32>(),
                64 => select::<u64>(),
                _ => return b.unsupported(op, "this type"),
            };
            b.emit_ops(handlers, Integer, &[d, x, y, p]);
            Ok(())
        }
        "slct" => {
            let ftz = op.take("ftz");
            let (t, by) = (b.type_of(op)?, b.type_of(op)?);
            b.count(op, 4..=4)?;
            let handlers = match (t.bits(), by, ftz) {
                (16, Type::S32, _) => map3(|x: u16, y: u16, c: i32| if c >= 0 { x } else { y }),
                (32, Type::S32, _) => map3(|x: u32, y: u32, c: i32| if c >= 0 { x } else { y }),
                (64, Type::S32, _) => map3(|x: u64, y: u64, c: i32| if c >= 0 { x } else { y }),
                // A flushed negative subnormal is -0, which is not less than 0.
                (32, Type::F32, false) => map3(|x: u32, y: u32, c: f32| if c >= 0.0 { x } else { y }),
                (32, Type::F32, true) => {
                    map3(|x: u32, y: u32, c: f32| if crate::numeric::flush(c) >= 0.0 { x } else { y })
                }
                (64, Type::F32, false) => map3(|x: u64, y: u64, c: f32| if c >= 0.0 { x } else { y }),
                _ => return b.unsupported(op, "these types"),
            };
            let ops = [b.dest(op, t)?, b.source(op, 1, t)?, b.source(op, 2, t)?, b.source(op, 3, by)?];
            b.emit_ops(handlers, Integer, &ops);
            Ok(())
        }
        "testp" => float::testp(b, op),
        _ => setp(b, op),
    }
}

/// The handler of a comparison.
fn comparison_of(b: &Builder, op: &Opcode, relation: &str, t: Type, ftz: bool) -> Decoded<Handlers> {
    if t.is_float() {
        return float::comparison(b, op, relation, t, ftz);
    }
    // `lo`, `ls`, `hi`, `hs` compare unsigned whatever the type says.
    let (relation, t) = match relation {
        "lo" => ("lt", t),
        "ls" => ("le", t),
        "hi" => ("gt", t),
        "hs" => ("ge", t),
        other => (other, t),
    };
    Ok(match relation {
        "eq" => each!(b, op, t, compare, |x, y| x == y),
        "ne" => each!(b, op, t, compare, |x, y| x != y),
        "lt" => each!(b, op, t, compare, |x, y| x < y),
        "le" => each!(b, op, t, compare, |x, y| x <= y),
        "gt" => each!(b, op, t, compare, |x, y| x > y),
        "ge" => each!(b, op, t, compare, |x, y| x >= y),
        other => return Err(b.error(format!("unknown comparison `.{other}` for `.{}`", t.name()))),
    })
}

const RELATIONS: [&str; 18] = [
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
];

fn setp(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let Some(relation) = op.take_any(&RELATIONS) else {
        return Err(b.error(format!("`{}` has no comparison; expected one such as `.lt`", op.name)));
    };
    let combine = match op.take_any(&["and", "or", "xor"]) {
        None => lanes::COMBINE_NONE,
        Some("and") => lanes::COMBINE_AND,
        Some("or") => lanes::COMBINE_OR,
        Some(_) => lanes::COMBINE_XOR,
    };
    let ftz = op.take("ftz");
    let result = if op.name == "set" { Some(b.type_of(op)?) } else { None };
    let t = b.type_of(op)?;
    let handlers = comparison_of(b, op, relation, t, ftz)?;
    let class = if t.is_float() { Float } else { Integer };
    let combined = combine != lanes::COMBINE_NONE;
    b.count(op, if combined { 4..=4 } else { 3..=3 })?;
    if t.bits() == 32 && matches!(t, Type::F16x2 | Type::Bf16x2) {
        return float::packed_comparison(b, op, relation, t, result, combined);
    }
    let mut flags = combine;
    let mut second = 0;
    let first = match (&op.text.operands[0], result) {
        (_, Some(_)) => b.scratch_predicate(),
        (Operand::Pair(p, q), None) => {
            flags |= lanes::SECOND_RESULT;
            second = b.predicate_dest(Some(q))?;
            b.predicate_dest(Some(p))?
        }
        (operand, None) => b.predicate_dest(Some(operand))?,
    };
    let (x, y) = (b.source(op, 1, t)?, b.source(op, 2, t)?);
    let mut third = 0;
    if combined {
        let (p, negated) = b.predicate(op.text.operands.get(3))?;
        third = p;
        if negated {
            flags |= lanes::COMBINE_NOT;
        }
    }
    b.emit(handlers, class, [first, x, y, third, second, 0, 0, 0], 0, flags);
    if let Some(kind) = result {
        let (yes, bits) = match kind {
            Type::U32 | Type::S32 | Type::B32 => (u32::MAX as u128, 32),
            Type::F32 => (1f32.to_bits() as u128, 32),
            Type::U16 | Type::S16 => (u16::MAX as u128, 16),
            Type::F16 => (0x3c00, 16),
            Type::Bf16 => (0x3f80, 16),
            _ => return b.unsupported(op, "this result type"),
        };
        let (yes, no) = (b.constant(yes, bits, None), b.constant(0, bits, None));
        let d = b.dest(op, kind)?;
        let handlers = if bits == 32 { select::<u32>() } else { select::<u16>() };
        b.emit_ops(handlers, class, &[d, yes, no, first]);
    }
    Ok(())
}
