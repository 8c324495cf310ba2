//! Bit fields, counts, permutations of bytes, and dot products of packed integers.

use super::integer::{emit1, emit2, emit3};
use super::{Builder, Decoded, Opcode};
use crate::counters::Class::Integer;
use crate::exec::lanes::{self, dot4, map1, map2, map3};
use crate::ptx::ast::Type;

/// A handler for each of the four integer types of 32 and 64 bits.
macro_rules! each_wide {
    ($b:ident, $op:ident, $t:expr, $map:ident, |$($x:ident),*| $body:expr) => {
        match $t {
            Type::U32 | Type::B32 => $map(|$($x: u32),*| $body),
            Type::S32 => $map(|$($x: i32),*| $body),
            Type::U64 | Type::B64 => $map(|$($x: u64),*| $body),
            Type::S64 => $map(|$($x: i64),*| $body),
            other => return $b.unsupported($op, &format!("type `.{}`", other.name())),
        }
    };
}

pub(super) fn bits(b: &mut Builder, op: &mut Opcode) -> Decoded {
    match op.name {
        "shf" => return funnel(b, op),
        "prmt" => return permute(b, op),
        "bmsk" | "szext" => {
            let wraps = op.take("wrap");
            if !wraps && !op.take("clamp") {
                return Err(b.error(format!("`{}` needs `.clamp` or `.wrap`", op.name)));
            }
            let t = b.type_of(op)?;
            let handlers = match (op.name, t, wraps) {
                ("bmsk", Type::B32, false) => map2(|at: u32, n: u32| {
                    let ones = if n >= 32 { u32::MAX } else { (1 << n) - 1 };
                    if at >= 32 { 0 } else { ones << at }
                }),
                ("bmsk", Type::B32, true) => map2(|at: u32, n: u32| ((1 << (n & 31)) - 1u32) << (at & 31)),
                ("szext", Type::U32, false) => map2(|x: u32, n: u32| if n >= 32 { x } else { x & ((1 << n) - 1) }),
                ("szext", Type::U32, true) => map2(|x: u32, n: u32| x & ((1 << (n & 31)) - 1)),
                ("szext", Type::S32, false) => map2(|x: i32, n: u32| extend(x as u32, n.min(32))),
                ("szext", Type::S32, true) => map2(|x: i32, n: u32| extend(x as u32, n & 31)),
                _ => return b.unsupported(op, "this type"),
            };
            return emit2(b, op, t, t, handlers);
        }
        _ => {}
    }
    let amount = op.take("shiftamt");
    let t = b.type_of(op)?;
    let count = |b: &mut Builder, h| emit1(b, op, Type::U32, t, h);
    match op.name {
        "popc" => count(b, each_wide!(b, op, t, map1, |x| x.count_ones())),
        "clz" => count(b, each_wide!(b, op, t, map1, |x| x.leading_zeros())),
        "brev" => emit1(b, op, t, t, each_wide!(b, op, t, map1, |x| x.reverse_bits())),
        "bfind" => {
            let handlers = match (t, amount) {
                (Type::U32, false) => map1(|x: u32| 31u32.wrapping_sub(x.leading_zeros())),
                (Type::U32, true) => map1(|x: u32| if x == 0 { u32::MAX } else { x.leading_zeros() }),
                (Type::U64, false) => map1(|x: u64| 63u32.wrapping_sub(x.leading_zeros())),
                (Type::U64, true) => map1(|x: u64| if x == 0 { u32::MAX } else { x.leading_zeros() }),
                (Type::S32, false) => map1(|x: i32| 31u32.wrapping_sub((x ^ x >> 31).leading_zeros())),
                (Type::S32, true) => {
                    map1(|x: i32| if x ^ x >> 31 == 0 { u32::MAX } else { (x ^ x >> 31).leading_zeros() })
                }
                (Type::S64, false) => map1(|x: i64| 63u32.wrapping_sub((x ^ x >> 63).leading_zeros())),
                (Type::S64, true) => {
                    map1(|x: i64| if x ^ x >> 63 == 0 { u32::MAX } else { (x ^ x >> 63).leading_zeros() })
                }
                _ => return b.unsupported(op, "this type"),
            };
            count(b, handlers)
        }
        "bfe" => {
            b.count(op, 4..=4)?;
            let handlers = match t {
                Type::U32 => map3(|x: u32, at: u32, n: u32| extract(x as u64, at, n, 32, false) as u32),
                Type::S32 => map3(|x: u32, at: u32, n: u32| extract(x as i32 as i64 as u64, at, n, 32, true) as u32),
                Type::U64 => map3(|x: u64, at: u32, n: u32| extract(x, at, n, 64, false)),
                Type::S64 => map3(|x: u64, at: u32, n: u32| extract(x, at, n, 64, true)),
                _ => return b.unsupported(op, "this type"),
            };
            let ops = [b.dest(op, t)?, b.source(op, 1, t)?, b.source(op, 2, Type::U32)?, b.source(op, 3, Type::U32)?];
            b.emit_ops(handlers, Integer, &ops);
            Ok(())
        }
        _ => {
            // bfi d, a, b, c, n: a into b at c; the position and length travel as one register each.
            b.count(op, 5..=5)?;
            let ops = [
                b.dest(op, t)?,
                b.source(op, 1, t)?,
                b.source(op, 2, t)?,
                b.source(op, 3, Type::U32)?,
                b.source(op, 4, Type::U32)?,
            ];
            let handlers = match t {
                Type::B32 => lanes::insert_field::<u32>(),
                Type::B64 => lanes::insert_field::<u64>(),
                _ => return b.unsupported(op, "this type"),
            };
            b.emit_ops(handlers, Integer, &ops);
            Ok(())
        }
    }
}

#[inline(always)]
fn extend(x: u32, bits: u32) -> i32 {
    if bits == 0 { 0 } else { (x << (32 - bits)) as i32 >> (32 - bits) }
}

/// `bfe`: `x` sign-extended to 64 bits when signed.
#[inline(always)]
fn extract(x: u64, at: u32, n: u32, width: u32, signed: bool) -> u64 {
    let (at, n) = (at & 0xff, n & 0xff);
    if n == 0 {
        return 0;
    }
    let last = (at + n - 1).min(width - 1);
    let sign = signed && x >> last & 1 != 0;
    let kept = if at >= width { 0 } else { width.min(at + n) - at };
    let ones = if kept >= 64 { u64::MAX } else { (1u64 << kept) - 1 };
    let field = if at >= 64 { 0 } else { x >> at & ones };
    field | if sign { !ones } else { 0 }
}

fn funnel(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let left = op.take("l");
    if !left && !op.take("r") {
        return Err(b.error("`shf` needs `.l` or `.r`"));
    }
    let wraps = op.take("wrap");
    if !wraps && !op.take("clamp") {
        return Err(b.error("`shf` needs `.clamp` or `.wrap`"));
    }
    let t = b.type_of(op)?;
    if t != Type::B32 {
        return b.unsupported(op, "this type");
    }
    let handlers = match (left, wraps) {
        (true, true) => map3(|lo: u32, hi: u32, n: u32| (((hi as u64) << 32 | lo as u64) << (n & 31) >> 32) as u32),
        (true, false) => map3(|lo: u32, hi: u32, n: u32| (((hi as u64) << 32 | lo as u64) << n.min(32) >> 32) as u32),
        (false, true) => map3(|lo: u32, hi: u32, n: u32| (((hi as u64) << 32 | lo as u64) >> (n & 31)) as u32),
        (false, false) => map3(|lo: u32, hi: u32, n: u32| (((hi as u64) << 32 | lo as u64) >> n.min(32)) as u32),
    };
    emit3(b, op, t, handlers)
}

fn permute(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let t = b.type_of(op)?;
    if t != Type::B32 {
        return b.unsupported(op, "this type");
    }
    #[inline(always)]
    fn byte(both: u64, s: u32) -> u32 {
        let byte = (both >> ((s & 7) * 8)) as u8;
        (if s & 8 != 0 { (byte as i8 >> 7) as u8 } else { byte }) as u32
    }
    #[inline(always)]
    fn pick(x: u32, y: u32, s: [u32; 4]) -> u32 {
        let both = (y as u64) << 32 | x as u64;
        byte(both, s[0]) | byte(both, s[1]) << 8 | byte(both, s[2]) << 16 | byte(both, s[3]) << 24
    }
    /// Selectors from four that are made of a control's lowest bits.
    #[inline(always)]
    fn each(s: u32, of: [u32; 4], f: impl Fn(u32, u32) -> u32) -> [u32; 4] {
        [f(s, of[0]), f(s, of[1]), f(s, of[2]), f(s, of[3])]
    }
    let handlers = match op.take_any(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]) {
        None => map3(|x: u32, y: u32, s: u32| pick(x, y, [s & 15, s >> 4 & 15, s >> 8 & 15, s >> 12 & 15])),
        Some("f4e") => map3(|x: u32, y: u32, s: u32| pick(x, y, each(s & 3, [0, 1, 2, 3], |s, i| s + i))),
        Some("b4e") => map3(|x: u32, y: u32, s: u32| pick(x, y, each(s & 3, [0, 7, 6, 5], |s, i| (s + i) & 7))),
        Some("rc8") => map3(|x: u32, y: u32, s: u32| pick(x, y, [s & 3; 4])),
        Some("ecl") => map3(|x: u32, y: u32, s: u32| pick(x, y, each(s & 3, [0, 1, 2, 3], u32::max))),
        Some("ecr") => map3(|x: u32, y: u32, s: u32| pick(x, y, each(s & 3, [0, 1, 2, 3], u32::min))),
        Some(_) => map3(|x: u32, y: u32, s: u32| pick(x, y, each(s & 1, [0, 1, 0, 1], |s, i| s * 2 + i))),
    };
    emit3(b, op, t, handlers)
}

/// `dp4a` and `dp2a`.
pub(super) fn dot_product(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let part = if op.name == "dp2a" { op.take_any(&["lo", "hi"]) } else { Some("lo") };
    let (Some(part), Some(at), Some(bt)) = (part, op.take_type(), op.take_type()) else {
        return Err(b.error(format!("`{}` needs two types, and `dp2a` `.lo` or `.hi`", op.name)));
    };
    #[inline(always)]
    fn bytes(x: u32, signed: bool) -> [i32; 4] {
        // The byte at the top of a word, moved down with or without its sign.
        let high = [x << 24, x << 16, x << 8, x];
        match signed {
            true => [high[0] as i32 >> 24, high[1] as i32 >> 24, high[2] as i32 >> 24, high[3] as i32 >> 24],
            false => [(high[0] >> 24) as i32, (high[1] >> 24) as i32, (high[2] >> 24) as i32, (high[3] >> 24) as i32],
        }
    }
    #[inline(always)]
    fn dot2(x: u32, y: u32, z: u32, sx: bool, sy: bool, high: bool) -> u32 {
        let half = |v: u32| {
            if sx { v as u16 as i16 as i32 } else { v as u16 as i32 }
        };
        let y = bytes(y, sy);
        let at = 2 * high as usize;
        z.wrapping_add(half(x).wrapping_mul(y[at]) as u32).wrapping_add(half(x >> 16).wrapping_mul(y[at + 1]) as u32)
    }
    macro_rules! dot2 {
        ($high:literal) => {
            match (at, bt) {
                (Type::U32, Type::U32) => map3(|x: u32, y: u32, z: u32| dot2(x, y, z, false, false, $high)),
                (Type::U32, Type::S32) => map3(|x: u32, y: u32, z: u32| dot2(x, y, z, false, true, $high)),
                (Type::S32, Type::U32) => map3(|x: u32, y: u32, z: u32| dot2(x, y, z, true, false, $high)),
                (Type::S32, Type::S32) => map3(|x: u32, y: u32, z: u32| dot2(x, y, z, true, true, $high)),
                _ => return b.unsupported(op, "these types"),
            }
        };
    }
    let handlers = match (op.name, part) {
        ("dp4a", _) => match (at, bt) {
            (Type::U32, Type::U32) => dot4::<false, false>(),
            (Type::U32, Type::S32) => dot4::<false, true>(),
            (Type::S32, Type::U32) => dot4::<true, false>(),
            (Type::S32, Type::S32) => dot4::<true, true>(),
            _ => return b.unsupported(op, "these types"),
        },
        (_, "lo") => dot2!(false),
        _ => dot2!(true),
    };
    emit3(b, op, Type::U32, handlers)
}
