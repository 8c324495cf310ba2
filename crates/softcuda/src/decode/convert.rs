//! `cvt`: between integer widths, between floating-point formats, and between the two.
//!
//! The pairs that kernels use most have handlers of their own; all others go through [`convert`], one lane at a time.
//! Both are the same function of the value, which the tests check.

use super::{Builder, Decoded, Opcode};
use crate::counters::Class::Conversion;
use crate::exec::Context;
use crate::exec::lanes::{halves, map1, map2, plain, read_any, singles, write_any};
use crate::numeric::*;
use crate::program::{Control, Instruction};
use crate::ptx::ast::Type;

/// All that decides the result of a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    to: Type,
    from: Type,
    rounding: Rounding,
    /// Round to an integral value (float to float).
    integral: bool,
    ftz: bool,
    sat: bool,
    relu: bool,
}

fn number(t: Type) -> u64 {
    const ALL: [Type; 14] = [
        Type::U8,
        Type::S8,
        Type::U16,
        Type::S16,
        Type::U32,
        Type::S32,
        Type::U64,
        Type::S64,
        Type::F16,
        Type::Bf16,
        Type::Tf32,
        Type::F32,
        Type::F64,
        Type::B8,
    ];
    ALL.iter().position(|&x| x == t).unwrap_or(13) as u64
}

fn kind(n: u64) -> Type {
    [
        Type::U8,
        Type::S8,
        Type::U16,
        Type::S16,
        Type::U32,
        Type::S32,
        Type::U64,
        Type::S64,
        Type::F16,
        Type::Bf16,
        Type::Tf32,
        Type::F32,
        Type::F64,
    ][n as usize % 13]
}

impl Rule {
    fn pack(self) -> u64 {
        number(self.to)
            | number(self.from) << 4
            | (self.rounding as u64) << 8
            | (self.integral as u64) << 12
            | (self.ftz as u64) << 13
            | (self.sat as u64) << 14
            | (self.relu as u64) << 15
    }

    fn unpack(bits: u64) -> Rule {
        let rounding = [Rounding::Nearest, Rounding::Zero, Rounding::Down, Rounding::Up, Rounding::NearestAway];
        Rule {
            to: kind(bits & 15),
            from: kind(bits >> 4 & 15),
            rounding: rounding[(bits >> 8 & 7) as usize],
            integral: bits >> 12 & 1 != 0,
            ftz: bits >> 13 & 1 != 0,
            sat: bits >> 14 & 1 != 0,
            relu: bits >> 15 & 1 != 0,
        }
    }
}

/// The value of the low bits of `x` as an integer type.
fn integer(x: u64, t: Type) -> i128 {
    match t {
        Type::U8 => x as u8 as i128,
        Type::S8 => x as i8 as i128,
        Type::U16 => x as u16 as i128,
        Type::S16 => x as i16 as i128,
        Type::U32 => x as u32 as i128,
        Type::S32 => x as i32 as i128,
        Type::U64 => x as i128,
        _ => x as i64 as i128,
    }
}

fn range(t: Type) -> (i128, i128) {
    let bits = t.bits();
    if t.is_signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// An integer as f64 rounded to odd, so that rounding it again is right.
fn integer_odd(value: i128) -> f64 {
    let size = value.unsigned_abs();
    let spare = (128 - size.leading_zeros()).saturating_sub(53);
    let kept = size >> spare;
    let sticky = (kept << spare != size) as u128;
    let magnitude = (kept | sticky) as f64 * (spare as f64).exp2();
    if value < 0 { -magnitude } else { magnitude }
}

/// Converts one value, given and returned in the low bits. A signed integer result is sign-extended.
pub(crate) fn convert(x: u64, c: Rule) -> u64 {
    if c.from.is_integer() {
        let value = integer(x, c.from);
        if c.to.is_integer() {
            let (low, high) = range(c.to);
            return if c.sat { value.clamp(low, high) as u64 } else { extend(value as u64, c.to) };
        }
        if c.to == Type::F64 {
            return match c.rounding {
                Rounding::Nearest => (value as f64).to_bits(),
                _ => {
                    let near = value as f64;
                    let error = value - near as i128;
                    let moved = match c.rounding {
                        Rounding::Down if error < 0 => near.next_down(),
                        Rounding::Up if error > 0 => near.next_up(),
                        Rounding::Zero if near > 0.0 && error < 0 => near.next_down(),
                        Rounding::Zero if near < 0.0 && error > 0 => near.next_up(),
                        _ => near,
                    };
                    moved.to_bits()
                }
            };
        }
        return store(integer_odd(value), c);
    }
    let value = match c.from {
        Type::F16 => from_half(x as u16) as f64,
        Type::Bf16 => from_bfloat(x as u16) as f64,
        Type::F64 => f64::from_bits(x),
        _ => {
            let single = f32::from_bits(x as u32);
            (if c.ftz { flush(single) } else { single }) as f64
        }
    };
    if c.to.is_integer() {
        if value.is_nan() {
            // The hardware gives 0 for 32 bits and less, and the top bit alone for 64.
            return if c.to.bits() == 64 { 1 << 63 } else { 0 };
        }
        let (low, high) = range(c.to);
        // `as` saturates.
        return (integral(value, c.rounding) as i128).clamp(low, high) as u64;
    }
    if c.integral {
        return store(integral(value, c.rounding), Rule { rounding: Rounding::Nearest, ..c });
    }
    store(value, c)
}

/// Rounds to the float type of the result.
fn store(value: f64, c: Rule) -> u64 {
    let value = if c.sat { saturate64(value) } else { value };
    let value = if c.relu && value <= 0.0 { 0.0 } else { value };
    match c.to {
        Type::F64 => canonical64(value).to_bits(),
        Type::F16 => round_16(value, HALF, c.rounding) as u64,
        Type::Bf16 => round_16(value, BFLOAT, c.rounding) as u64,
        Type::Tf32 => round_tensor(value, c.rounding) as u64,
        _ => {
            let single = round_single(value, c.rounding);
            (if c.ftz { flush(single) } else { single }).to_bits() as u64
        }
    }
}

/// Sign-extends or truncates to the width of a type.
fn extend(value: u64, t: Type) -> u64 {
    integer(value, t) as u64
}

/// Any conversion; operands: d, a. `imm`: the packed conversion, bytes of d above bit 16, bytes of a above bit 24.
fn general(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let c = Rule::unpack(ins.imm);
    let a = read_any(ctx, ins.ops[1], (ins.imm >> 24 & 255) as usize);
    let out = a.map(|x| convert(x, c));
    write_any(ctx, ins.ops[0], (ins.imm >> 16 & 255) as usize, &out, mask);
    Control::Next
}

pub(super) fn cvt(b: &mut Builder, op: &mut Opcode) -> Decoded {
    if op.take("pack") {
        return pack(b, op);
    }
    if super::narrow::is_narrow(op) {
        return super::narrow::cvt(b, op);
    }
    let ftz = op.take("ftz");
    let sat = op.take("sat");
    let relu = op.take("relu");
    let word = op.take_any(&["rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi"]);
    let (Some(to), Some(from)) = (op.take_type(), op.take_type()) else {
        return Err(b.error("`cvt` needs two types, `cvt.<to>.<from>`"));
    };
    let rounding = match word {
        None | Some("rn" | "rni") => Rounding::Nearest,
        Some("rz" | "rzi") => Rounding::Zero,
        Some("rm" | "rmi") => Rounding::Down,
        Some("rp" | "rpi") => Rounding::Up,
        Some(_) => Rounding::NearestAway,
    };
    let integral = word.is_some_and(|w| w.len() == 3 && w.ends_with('i'));
    if matches!(to, Type::F16x2 | Type::Bf16x2) && from == Type::F32 {
        if sat || integral || ftz {
            return b.unsupported(op, "these modifiers");
        }
        b.count(op, 3..=3)?;
        // The first source becomes the upper half.
        let handlers = match (to, rounding, relu) {
            (Type::F16x2, Rounding::Nearest, false) => {
                map2(|x: f32, y: f32| (to_half(x) as u32) << 16 | to_half(y) as u32)
            }
            (Type::Bf16x2, Rounding::Nearest, false) => {
                map2(|x: f32, y: f32| (to_bfloat(x) as u32) << 16 | to_bfloat(y) as u32)
            }
            (Type::F16x2, Rounding::Nearest, true) => {
                map2(|x: f32, y: f32| (to_half(relu32(x)) as u32) << 16 | to_half(relu32(y)) as u32)
            }
            (Type::Bf16x2, Rounding::Nearest, true) => {
                map2(|x: f32, y: f32| (to_bfloat(relu32(x)) as u32) << 16 | to_bfloat(relu32(y)) as u32)
            }
            (Type::F16x2, Rounding::Zero, false) => map2(|x: f32, y: f32| {
                (round_16(x as f64, HALF, Rounding::Zero) as u32) << 16
                    | round_16(y as f64, HALF, Rounding::Zero) as u32
            }),
            (Type::Bf16x2, Rounding::Zero, false) => map2(|x: f32, y: f32| {
                (round_16(x as f64, BFLOAT, Rounding::Zero) as u32) << 16
                    | round_16(y as f64, BFLOAT, Rounding::Zero) as u32
            }),
            _ => return b.unsupported(op, "this rounding"),
        };
        let ops = [b.dest(op, to)?, b.source(op, 1, from)?, b.source(op, 2, from)?];
        b.emit_ops(handlers, Conversion, &ops);
        return Ok(());
    }
    let known = |t: Type| t.is_integer() || matches!(t, Type::F16 | Type::Bf16 | Type::Tf32 | Type::F32 | Type::F64);
    if !known(to) || !known(from) || from == Type::Tf32 {
        return b.unsupported(op, "these types");
    }
    let narrows = match (to.is_integer(), from.is_integer()) {
        (true, true) => false,
        (true, false) | (false, true) => true,
        (false, false) => {
            to.bytes() < from.bytes() || to == Type::Tf32 || (to.bytes() == 2 && from.bytes() == 2 && to != from)
        }
    };
    if narrows && word.is_none() {
        return Err(b.error(format!("`cvt.{}.{}` needs a rounding", to.name(), from.name())));
    }
    if to.is_integer() && !from.is_integer() && !integral {
        return Err(b.error("a conversion from float to integer needs an integer rounding such as `.rzi`"));
    }
    if integral && from.is_integer() {
        return Err(b.error("an integer rounding needs a floating-point source"));
    }
    b.count(op, 2..=2)?;
    let c = Rule { to, from, rounding, integral, ftz, sat, relu };
    let (d, d_bits) = b.any_dest(&op.text.operands[0], to)?;
    let (a, a_bits) = b.any_source(&op.text.operands[1], from)?;
    if d_bits < to.bits().max(16) || a_bits < from.bits().max(16) {
        return Err(b.error(format!("expected registers of at least {} and {} bits", to.bits(), from.bits())));
    }
    if (to.is_float() && d_bits != to.bits())
        || (from.is_float() && a_bits != from.bits())
        || d_bits > 64
        || a_bits > 64
    {
        return Err(b.error(format!("expected registers of {} and {} bits", to.bits(), from.bits())));
    }
    let simple = !ftz && !sat && !relu;
    let exact = d_bits == to.bits() && a_bits == from.bits();
    let handlers = match (to, from) {
        _ if !simple || !exact => None,
        (Type::F32, Type::F16) => Some(singles()),
        (Type::F32, Type::Bf16) => Some(map1(|x: u16| from_bfloat(x))),
        (Type::F16, Type::F32) if rounding == Rounding::Nearest && !integral => Some(halves()),
        (Type::Bf16, Type::F32) if rounding == Rounding::Nearest && !integral => Some(map1(|x: f32| to_bfloat(x))),
        (Type::F32, Type::S32) if rounding == Rounding::Nearest => Some(map1(|x: i32| x as f32)),
        (Type::F32, Type::U32) if rounding == Rounding::Nearest => Some(map1(|x: u32| x as f32)),
        (Type::F32, Type::S16) => Some(map1(|x: i16| x as f32)),
        (Type::F32, Type::U16) => Some(map1(|x: u16| x as f32)),
        (Type::F32, Type::F32) if integral && rounding == Rounding::Nearest => {
            Some(map1(|x: f32| canonical(x.round_ties_even())))
        }
        (Type::F64, Type::F32) if !integral => Some(map1(|x: f32| canonical64(x as f64))),
        (Type::F32, Type::F64) if rounding == Rounding::Nearest && !integral => {
            Some(map1(|x: f64| canonical(x as f32)))
        }
        (Type::S32, Type::F32) if rounding == Rounding::Zero => Some(map1(|x: f32| x as i32)),
        (Type::U32, Type::F32) if rounding == Rounding::Zero => Some(map1(|x: f32| x as u32)),
        (Type::S32, Type::F32) if rounding == Rounding::Nearest => Some(map1(|x: f32| x.round_ties_even() as i32)),
        (Type::U64 | Type::S64, Type::U32) => Some(map1(|x: u32| x as u64)),
        (Type::U64 | Type::S64, Type::S32) => Some(map1(|x: i32| x as u64)),
        (Type::U32 | Type::S32, Type::U64 | Type::S64) => Some(map1(|x: u64| x as u32)),
        (Type::U16 | Type::S16, Type::U32 | Type::S32) => Some(map1(|x: u32| x as u16)),
        (Type::U16 | Type::S16, Type::U64 | Type::S64) => Some(map1(|x: u64| x as u16)),
        (Type::U32 | Type::S32, Type::U16) => Some(map1(|x: u16| x as u32)),
        (Type::U32 | Type::S32, Type::S16) => Some(map1(|x: i16| x as u32)),
        (Type::U64 | Type::S64, Type::U16) => Some(map1(|x: u16| x as u64)),
        (Type::U64 | Type::S64, Type::S16) => Some(map1(|x: i16| x as u64)),
        _ => None,
    };
    let narrow = match (to, from, d_bits, a_bits) {
        _ if !simple => None,
        (Type::S8, Type::S64 | Type::U64, 16, 64) => Some(map1(|x: u64| x as i8 as u16)),
        (Type::S8, Type::S32 | Type::U32, 16, 32) => Some(map1(|x: u32| x as i8 as u16)),
        // 8-bit sources sit in wider registers.
        (Type::U16 | Type::U32 | Type::S32, Type::U8, 32, 32) => Some(map1(|x: u32| x & 0xff)),
        (Type::S16 | Type::S32, Type::S8, 32, 32) => Some(map1(|x: u32| x as i8 as u32)),
        (Type::U16 | Type::S16, Type::U8, 16, 16) => Some(map1(|x: u16| x & 0xff)),
        (Type::S16 | Type::U16, Type::S8, 16, 16) => Some(map1(|x: u16| x as i8 as u16)),
        (Type::U32 | Type::S32, Type::U8, 32, 16) => Some(map1(|x: u16| x as u32 & 0xff)),
        (Type::S32, Type::S8, 32, 16) => Some(map1(|x: u16| x as i8 as u32)),
        _ => None,
    };
    match handlers.or(narrow) {
        Some(handlers) => b.emit_ops(handlers, Conversion, &[d, a]),
        None => {
            let imm = c.pack() | (d_bits as u64 / 8) << 16 | (a_bits as u64 / 8) << 24;
            b.emit(plain(general), Conversion, [d, a, 0, 0, 0, 0, 0, 0], imm, 0);
        }
    }
    Ok(())
}

#[inline(always)]
fn relu32(x: f32) -> f32 {
    if x <= 0.0 { 0.0 } else { x }
}

/// `cvt.pack.sat`: two integers to 16 or 8 bits each, saturating.
fn pack(b: &mut Builder, op: &mut Opcode) -> Decoded {
    if !op.take("sat") {
        return b.unsupported(op, "no `.sat`");
    }
    let (Some(to), Some(from)) = (op.take_type(), op.take_type()) else {
        return Err(b.error("`cvt.pack` needs two types"));
    };
    let third = op.take("b32");
    if from != Type::S32 {
        return b.unsupported(op, "this source type");
    }
    // The first source is the upper one; `.b32` shifts c up below both.
    let ops = match third {
        false => {
            b.count(op, 3..=3)?;
            vec![b.dest(op, Type::B32)?, b.source(op, 1, from)?, b.source(op, 2, from)?]
        }
        true => {
            b.count(op, 4..=4)?;
            vec![b.dest(op, Type::B32)?, b.source(op, 1, from)?, b.source(op, 2, from)?, b.source(op, 3, Type::B32)?]
        }
    };
    use crate::exec::lanes::map3;
    let handlers = match (to, third) {
        (Type::U16, false) => map2(|x: i32, y: i32| (x.clamp(0, 0xffff) as u32) << 16 | y.clamp(0, 0xffff) as u32),
        (Type::S16, false) => {
            map2(|x: i32, y: i32| (x.clamp(-0x8000, 0x7fff) as u32) << 16 | y.clamp(-0x8000, 0x7fff) as u32 & 0xffff)
        }
        (Type::U8, true) => {
            map3(|x: i32, y: i32, z: u32| z << 16 | (x.clamp(0, 255) as u32) << 8 | y.clamp(0, 255) as u32)
        }
        (Type::S8, true) => map3(|x: i32, y: i32, z: u32| {
            z << 16 | (x.clamp(-128, 127) as u32 & 0xff) << 8 | y.clamp(-128, 127) as u32 & 0xff
        }),
        _ => return b.unsupported(op, "this result type"),
    };
    b.emit_ops(handlers, Conversion, &ops);
    Ok(())
}
