//! Moves, addresses, loads, stores and atomics.

use super::builder::{Binding, Place};
use super::{Builder, Decoded, Opcode, half};
use crate::counters::Class;
use crate::exec::access::{load as loads, store as stores};
use crate::exec::atomic::{Combination, Element, Vector, atomic as rmw, vector as vector_handler, wide};
use crate::exec::control::{Special, special};
use crate::exec::lanes::{SPLIT_NOBODY, copied, join, map1, map2, plain, predicate_map, split, test};
use crate::exec::memory::{ACQUIRE, BLOCK_SCOPE, NARROW_ADDRESS, RELEASE, SAME_ADDRESS, STRONG};
use crate::exec::prefetch::prefetch;
use crate::memory::{GLOBAL_BASE, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::program::{Handlers, Reg};
use crate::ptx::ast::{Operand, Type};
use crate::space::Space;

pub(super) fn mov(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let t = b.type_of(op)?;
    b.count(op, 2..=2)?;
    let operands = &op.text.operands;
    if t == Type::Pred
        && let Some(Operand::Name(name)) = operands.get(1)
        && let Some((which, _)) = Special::parse(name)
    {
        let d = b.predicate_dest(operands.first())?;
        b.emit(plain(special), Class::Integer, [d; 8], which as u64, 0);
        return Ok(());
    }
    if t == Type::Pred {
        let (p, negated) = b.predicate(operands.get(1))?;
        let d = b.predicate_dest(operands.first())?;
        let handlers = if negated { predicate_map(|x, _| !x) } else { predicate_map(|x, _| x) };
        b.emit_ops(handlers, Class::Move, &[d, p, p]);
        return Ok(());
    }
    match (&operands[0], &operands[1]) {
        (Operand::Vector(parts), source) => return unpack(b, op, t, parts, source),
        (_, Operand::Vector(parts)) => return pack(b, op, t, parts),
        (_, Operand::Name(name)) => {
            if let Some((which, _)) = Special::parse(name) {
                b.environment |= which.is_environment();
                let d = b.dest(op, t)?;
                b.emit(plain(special), Class::Integer, [d; 8], which as u64, t.bytes() as u8);
                return Ok(());
            }
        }
        _ => {}
    }
    let ops = [b.dest(op, t)?, b.source(op, 1, t)?];
    b.emit_ops(identity(t), Class::Move, &ops);
    Ok(())
}

fn identity(t: Type) -> Handlers {
    match t.bits() {
        16 | 8 => copied::<u16>(),
        32 => copied::<u32>(),
        64 => copied::<u64>(),
        _ => copied::<u128>(),
    }
}

/// `mov.b32 {a, b}, c`.
fn unpack(b: &mut Builder, op: &Opcode, t: Type, parts: &[Operand], source: &Operand) -> Decoded {
    let (from, bits) = b.any_source(source, t)?;
    if t.bits() == 16 && parts.len() == 2 {
        let shifted = [map1(|a: u16| a & 0xff), map1(|a: u16| a >> 8)];
        for (part, handlers) in parts.iter().zip(shifted) {
            let d = b.dest_operand(part, Type::B8)?;
            b.emit_ops(handlers, Class::Move, &[d, from]);
        }
        return Ok(());
    }
    if bits != t.bits() || parts.is_empty() || !t.bits().is_multiple_of(parts.len() as u32) {
        return Err(b.error(format!("`{}` cannot split `.{}` into {} parts", op.name, t.name(), parts.len())));
    }
    let width = t.bits() / parts.len() as u32;
    let kind = part_type(b, width)?;
    let mut ops = [SPLIT_NOBODY; 8];
    ops[0] = from;
    for (i, part) in parts.iter().enumerate() {
        if *part != Operand::Name("_".to_owned()) {
            ops[1 + i] = b.dest_operand(part, kind)?;
        }
    }
    let handlers = match (bits, parts.len()) {
        (32, 2) => split::<u32, u16, 2>(),
        (32, 4) => split::<u32, u16, 4>(),
        (64, 2) => split::<u64, u32, 2>(),
        (64, 4) => split::<u64, u16, 4>(),
        (128, 2) => split::<u128, u64, 2>(),
        (128, 4) => split::<u128, u32, 4>(),
        _ => return b.unsupported(op, "a vector of this shape"),
    };
    b.emit(handlers, Class::Move, ops, 0, 0);
    Ok(())
}

/// The type of a part of so many bits.
fn part_type(b: &Builder, bits: u32) -> Decoded<Type> {
    Ok(match bits {
        8 => Type::B8,
        16 => Type::B16,
        32 => Type::B32,
        64 => Type::B64,
        _ => return Err(b.error(format!("parts of {bits} bits"))),
    })
}

/// `mov.b32 c, {a, b}`.
fn pack(b: &mut Builder, op: &Opcode, t: Type, parts: &[Operand]) -> Decoded {
    let n = parts.len() as u32;
    if t.bits() == 16 && n == 2 {
        let ops = [b.dest(op, t)?, b.source_operand(&parts[0], Type::B8)?, b.source_operand(&parts[1], Type::B8)?];
        b.emit_ops(map2(|low: u16, high: u16| low & 0xff | high << 8), Class::Move, &ops);
        return Ok(());
    }
    if !matches!((t.bits(), n), (32, 2 | 4) | (64, 2 | 4) | (128, 2 | 4)) {
        return Err(b.error(format!("cannot make `.{}` of {n} parts", t.name())));
    }
    let kind = part_type(b, t.bits() / n)?;
    let mut ops = [0; 8];
    ops[0] = b.dest(op, t)?;
    for (i, part) in parts.iter().enumerate() {
        ops[1 + i] = b.source_operand(part, kind)?;
    }
    let handlers = match (t.bits(), n) {
        (32, 2) => join::<u32, u16, 2>(),
        (32, _) => join::<u32, u16, 4>(),
        (64, 2) => join::<u64, u32, 2>(),
        (64, _) => join::<u64, u16, 4>(),
        (_, 2) => join::<u128, u64, 2>(),
        _ => join::<u128, u32, 4>(),
    };
    b.emit(handlers, Class::Move, ops, 0, 0);
    Ok(())
}

/// `cvta`, `isspacep`.
pub(super) fn address(b: &mut Builder, op: &mut Opcode) -> Decoded {
    if op.name == "isspacep" {
        let Some(space) =
            op.take_any(&["global", "shared", "shared::cta", "shared::cluster", "local", "const", "param"])
        else {
            return Err(b.error("`isspacep` needs a state space"));
        };
        b.count(op, 2..=2)?;
        let handlers = match space {
            "global" => test(|a: u64| a >= GLOBAL_BASE),
            "local" => test(|a: u64| a.wrapping_sub(LOCAL_WINDOW) < WINDOW_BYTES),
            "param" => test(|a: u64| a.wrapping_sub(PARAM_WINDOW) < WINDOW_BYTES),
            // Constants lie in global memory here.
            "const" => test(|_: u64| false),
            "shared::cluster" => test(|a: u64| a.wrapping_sub(SHARED_WINDOW) < WINDOW_BYTES),
            _ => test(|a: u64| a.wrapping_sub(SHARED_WINDOW) < 1 << crate::exec::cluster::RANK_SHIFT),
        };
        let ops = [b.predicate_dest(op.text.operands.first())?, b.source(op, 1, Type::U64)?];
        b.emit_ops(handlers, Class::Integer, &ops);
        return Ok(());
    }
    let to = op.take("to");
    let Some(space) = op.take_any(&["global", "shared", "shared::cta", "shared::cluster", "local", "const", "param"])
    else {
        return Err(b.error("`cvta` needs a state space"));
    };
    let t = b.type_of(op)?;
    if t != Type::U64 {
        return b.unsupported(op, "32-bit addresses");
    }
    b.count(op, 2..=2)?;
    let handlers = match (space, to) {
        ("global" | "const", _) => map1(|a: u64| a),
        ("local", false) => map1(|a: u64| a.wrapping_add(LOCAL_WINDOW)),
        ("local", true) => map1(|a: u64| a.wrapping_sub(LOCAL_WINDOW)),
        ("param", false) => map1(|a: u64| a.wrapping_add(PARAM_WINDOW)),
        ("param", true) => map1(|a: u64| a.wrapping_sub(PARAM_WINDOW)),
        (_, false) => map1(|a: u64| a.wrapping_add(SHARED_WINDOW)),
        (_, true) => map1(|a: u64| a.wrapping_sub(SHARED_WINDOW)),
    };
    let ops = [b.dest(op, t)?, b.source(op, 1, t)?];
    let class = if matches!(space, "global" | "const") { Class::Move } else { Class::Integer };
    b.emit_ops(handlers, class, &ops);
    Ok(())
}

/// An address operand: register, offset, flags with the space, and whether it is a call's parameter.
pub(super) fn locate(b: &mut Builder, operand: Option<&Operand>, space: Space) -> Decoded<(Reg, i64, u8)> {
    let Some(Operand::Address { base, offset }) = operand else {
        return Err(b.error("expected an address such as `[%rd1+4]`"));
    };
    let Some(name) = base else {
        let reg = b.constant(*offset as u64 as u128, 64, None);
        return Ok((reg, 0, space as u8));
    };
    match b.find(name)? {
        Some(Binding::Register { reg, bits: 64 }) => Ok((reg, *offset, space as u8)),
        Some(Binding::Register { reg, bits: 32 }) if matches!(space, Space::Shared | Space::Local | Space::Param) => {
            Ok((reg, *offset, space as u8 | NARROW_ADDRESS))
        }
        Some(Binding::Register { bits, .. }) => {
            Err(b.error(format!("`{name}` has {bits} bits; expected a 64-bit address")))
        }
        Some(Binding::Predicate(_)) => Err(b.error(format!("`{name}` is a predicate; expected an address"))),
        None => Err(b.error(format!("`{name}` is not declared"))),
        Some(Binding::Variable(place)) => {
            let own = match place {
                Place::Module(_) => Space::Global,
                Place::Shared(_) | Place::DynamicShared => Space::Shared,
                Place::Local(_) | Place::CallParam(_) => Space::Local,
                Place::Param(_) => Space::Param,
            };
            let fits = match (space, own) {
                (Space::Generic, _) => true,
                (Space::Param, Space::Local) => matches!(place, Place::CallParam(_)),
                (Space::Local, Space::Local) => matches!(place, Place::Local(_)),
                (a, b) => a == b,
            };
            if !fits {
                return Err(b.error(format!("`{name}` is not in the state space of the instruction")));
            }
            Ok((b.place_register(place, 0, 64), *offset, own as u8))
        }
    }
}

fn space(op: &mut Opcode) -> Space {
    match op.take_any(&[
        "global",
        "shared",
        "shared::cta",
        "shared::cluster",
        "local",
        "param",
        "param::entry",
        "param::func",
        "const",
    ]) {
        None => Space::Generic,
        Some("global" | "const") => Space::Global,
        Some("local") => Space::Local,
        Some("param" | "param::entry" | "param::func") => Space::Param,
        Some(_) => Space::Shared,
    }
}

/// Ordering and cache modifiers; returns the flags, and whether a cache policy operand follows.
pub(super) fn ordering(op: &mut Opcode) -> (u8, bool) {
    let mut flags = 0;
    match op.take_any(&["volatile", "relaxed", "acquire", "release", "acq_rel", "mmio"]) {
        None => {}
        Some("acquire") => flags |= STRONG | ACQUIRE,
        Some("release") => flags |= STRONG | RELEASE,
        Some("acq_rel") => flags |= STRONG | ACQUIRE | RELEASE,
        Some(_) => flags |= STRONG,
    }
    op.take("relaxed");
    if op.take_any(&["cta", "cluster", "gpu", "sys"]) == Some("cta") {
        flags |= BLOCK_SCOPE;
    }
    op.take("nc");
    op.take_any(&["ca", "cg", "cs", "lu", "cv", "wb", "wt"]);
    op.take_any(&["L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last", "L1::no_allocate"]);
    op.take_any(&["L2::evict_normal", "L2::evict_first", "L2::evict_last"]);
    let policy = op.take("L2::cache_hint");
    op.take_any(&["L2::64B", "L2::128B", "L2::256B"]);
    op.take("unified");
    (flags, policy)
}

fn vector(op: &mut Opcode) -> usize {
    match op.take_any(&["v2", "v4"]) {
        None => 1,
        Some("v2") => 2,
        Some(_) => 4,
    }
}

fn parts<'o>(b: &Builder, operand: Option<&'o Operand>, count: usize) -> Decoded<Vec<&'o Operand>> {
    match operand {
        Some(Operand::Vector(items)) if items.len() == count => Ok(items.iter().collect()),
        Some(Operand::Vector(items)) => Err(b.error(format!("a vector of {}; expected {count}", items.len()))),
        Some(other) if count == 1 => Ok(vec![other]),
        _ => Err(b.error(format!("expected a vector of {count}"))),
    }
}

/// The handler for memory elements of a type, registers of some bits, and a vector length.
macro_rules! table {
    ($make:ident, $b:ident, $op:ident, $key:expr, $count:expr; $($m:ty, $r:ty, $pattern:pat,)*) => {
        match ($key, $count) {
            $(
                ($pattern, 1) => $make::<$m, $r, 1>(),
                ($pattern, 2) => $make::<$m, $r, 2>(),
                ($pattern, 4) => $make::<$m, $r, 4>(),
            )*
            _ => return $b.unsupported($op, "this combination of type, register and vector"),
        }
    };
}

/// 0 unsigned or bits, 1 signed; with the bytes in memory.
fn shape(t: Type) -> (usize, bool) {
    (t.bytes(), t.is_signed())
}

pub(super) fn load(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let space = space(op);
    let (mut flags, policy) = ordering(op);
    let count = vector(op);
    let t = b.type_of(op)?;
    b.count(op, if policy { 3..=3 } else { 2..=2 })?;
    let (base, offset, place) = locate(b, op.text.operands.get(1), space)?;
    flags |= place;
    let mut ops = [0; 8];
    ops[0] = base;
    let mut width = 0;
    for (i, part) in parts(b, op.text.operands.first(), count)?.into_iter().enumerate() {
        let (reg, bits) = b.any_dest(part, t)?;
        let scratch = *part == Operand::Name("_".to_owned());
        if width != 0 && bits != width && !scratch {
            return Err(b.error("the registers of a vector must have one width"));
        }
        if !scratch || width == 0 {
            width = bits;
        }
        ops[1 + i] = reg;
    }
    if t.bytes() == 0 || t.bytes() * count > 16 {
        return b.unsupported(op, "a vector of this size");
    }
    let handlers = table! { loads, b, op, (shape(t), width), count;
        u8, u16, ((1, false), 16), u8, u32, ((1, false), 32), u8, u64, ((1, false), 64),
        i8, u16, ((1, true), 16), i8, u32, ((1, true), 32), i8, u64, ((1, true), 64),
        u16, u16, ((2, _), 16), u16, u32, ((2, false), 32), u16, u64, ((2, false), 64),
        i16, u32, ((2, true), 32), i16, u64, ((2, true), 64),
        u32, u32, ((4, _), 32), u32, u64, ((4, false), 64), i32, u64, ((4, true), 64),
        u64, u64, ((8, _), 64),
        u128, u128, ((16, _), 128),
    };
    if let Some(Operand::Address { base: Some(name), .. }) = op.text.operands.get(1)
        && let Some(Binding::Variable(Place::Param(_) | Place::Module(_) | Place::Shared(_) | Place::DynamicShared)) =
            b.find(name)?
    {
        ops[SAME_ADDRESS] = 1;
    }
    let class = class_of(flags, true);
    b.emit(handlers, class, ops, offset as u64, flags);
    Ok(())
}

fn class_of(flags: u8, load: bool) -> Class {
    match (flags & 7, load) {
        (1, true) => Class::SharedLoad,
        (1, false) => Class::SharedStore,
        (2, _) => Class::Local,
        (3, _) => Class::Parameter,
        (_, true) => Class::GlobalLoad,
        (_, false) => Class::GlobalStore,
    }
}

pub(super) fn store(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let space = space(op);
    let (mut flags, policy) = ordering(op);
    let count = vector(op);
    let t = b.type_of(op)?;
    b.count(op, if policy { 3..=3 } else { 2..=2 })?;
    let (base, offset, place) = locate(b, op.text.operands.first(), space)?;
    flags |= place;
    let mut ops = [0; 8];
    ops[0] = base;
    let mut regs = Vec::new();
    for part in parts(b, op.text.operands.get(1), count)? {
        regs.push((b.any_source(part, t)?, matches!(part, Operand::Literal(_))));
    }
    let width = regs.iter().find(|r| !r.1).map_or(t.bits().max(16), |r| r.0.1);
    for (i, ((reg, bits), literal)) in regs.iter().enumerate() {
        ops[1 + i] = *reg;
        if *bits != width {
            if !literal {
                return Err(b.error("the registers of a vector must have one width"));
            }
            let Operand::Literal(value) = parts(b, op.text.operands.get(1), count)?[i] else {
                continue;
            };
            let value = b.literal_bits(*value, t)?;
            ops[1 + i] = b.constant(value, width, None);
        }
    }
    if t.bytes() == 0 || t.bytes() * count > 16 {
        return b.unsupported(op, "a vector of this size");
    }
    let handlers = table! { stores, b, op, (t.bytes(), width), count;
        u8, u16, (1, 16), u8, u32, (1, 32), u8, u64, (1, 64),
        u16, u16, (2, 16), u16, u32, (2, 32), u16, u64, (2, 64),
        u32, u32, (4, 32), u32, u64, (4, 64),
        u64, u64, (8, 64),
        u128, u128, (16, 128),
    };
    let class = class_of(flags, false);
    b.emit(handlers, class, ops, offset as u64, flags);
    Ok(())
}

pub(super) fn atomic(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let space = space(op);
    let (flags, policy) = ordering(op);
    let Some(which) = op.take_any(&["add", "exch", "cas", "min", "max", "and", "or", "xor", "inc", "dec"]) else {
        return Err(b.error(format!("`{}` needs an operation such as `.add`", op.name)));
    };
    let noftz = op.take("noftz");
    if op.take("ftz") {
        return b.unsupported(op, "`.ftz`");
    }
    let count = if op.take("v8") { 8 } else { vector(op) };
    let t = b.type_of(op)?;
    let reduces = op.name == "red";
    if count > 1 {
        return vector_atomic(b, op, (space, flags, policy), which, t, count);
    }
    if t == Type::B128 && (reduces || !matches!(which, "cas" | "exch")) {
        return b.unsupported(op, "this operation of `.b128`");
    }
    let cas = which == "cas";
    let sources = if cas { 2 } else { 1 };
    let wanted = sources + 1 + !reduces as usize + policy as usize;
    b.count(op, wanted..=wanted)?;
    let at = !reduces as usize;
    let (base, offset, place) = locate(b, op.text.operands.get(at), space)?;
    if matches!(place & 7, 2 | 3) {
        return Err(b.error("atomics act on global and shared memory"));
    }
    let d = if reduces { b.scratch(t.bits().max(16)) } else { b.dest(op, t)? };
    let x = b.source(op, at + 1, t)?;
    let y = if cas { b.source(op, at + 2, t)? } else { x };
    if t == Type::B128 {
        b.emit(plain(wide), Class::Atomic, [base, d, x, y, cas as u32, 0, 0, 0], offset as u64, flags | place);
        return Ok(());
    }
    use crate::numeric::*;
    let _ = noftz;
    macro_rules! float32 {
        (|$o:ident, $x:ident| $e:expr) => {
            rmw(|$o: u32, $x: u32, _: u32| {
                let ($o, $x) = (f32::from_bits($o), f32::from_bits($x));
                ($e).to_bits()
            })
        };
    }
    let handlers = match (which, t) {
        ("add", Type::U32 | Type::S32) => rmw(|o: u32, x: u32, _: u32| o.wrapping_add(x)),
        ("add", Type::U64 | Type::S64) => rmw(|o: u64, x: u64, _: u64| o.wrapping_add(x)),
        ("add", Type::F32) => float32!(|o, x| canonical(o + x)),
        ("add", Type::F64) => {
            rmw(|o: u64, x: u64, _: u64| canonical64(f64::from_bits(o) + f64::from_bits(x)).to_bits())
        }
        ("add", Type::F16) => rmw(|o: u16, x: u16, _: u16| to_half(from_half(o) + from_half(x))),
        ("add", Type::Bf16) => rmw(|o: u16, x: u16, _: u16| to_bfloat(from_bfloat(o) + from_bfloat(x))),
        ("add", Type::F16x2) => rmw(|o: u32, x: u32, _: u32| half::add_packed(o, x, true)),
        ("add", Type::Bf16x2) => rmw(|o: u32, x: u32, _: u32| half::add_packed(o, x, false)),
        ("exch", Type::B32) => rmw(|_: u32, x: u32, _: u32| x),
        ("exch", Type::B64) => rmw(|_: u64, x: u64, _: u64| x),
        ("cas", Type::B16) => rmw(|o: u16, x: u16, y: u16| if o == x { y } else { o }),
        ("cas", Type::B32) => rmw(|o: u32, x: u32, y: u32| if o == x { y } else { o }),
        ("cas", Type::B64) => rmw(|o: u64, x: u64, y: u64| if o == x { y } else { o }),
        ("min", Type::U32) => rmw(|o: u32, x: u32, _: u32| o.min(x)),
        ("min", Type::S32) => rmw(|o: u32, x: u32, _: u32| (o as i32).min(x as i32) as u32),
        ("min", Type::U64) => rmw(|o: u64, x: u64, _: u64| o.min(x)),
        ("min", Type::S64) => rmw(|o: u64, x: u64, _: u64| (o as i64).min(x as i64) as u64),
        ("max", Type::U32) => rmw(|o: u32, x: u32, _: u32| o.max(x)),
        ("max", Type::S32) => rmw(|o: u32, x: u32, _: u32| (o as i32).max(x as i32) as u32),
        ("max", Type::U64) => rmw(|o: u64, x: u64, _: u64| o.max(x)),
        ("max", Type::S64) => rmw(|o: u64, x: u64, _: u64| (o as i64).max(x as i64) as u64),
        ("and", Type::B32) => rmw(|o: u32, x: u32, _: u32| o & x),
        ("and", Type::B64) => rmw(|o: u64, x: u64, _: u64| o & x),
        ("or", Type::B32) => rmw(|o: u32, x: u32, _: u32| o | x),
        ("or", Type::B64) => rmw(|o: u64, x: u64, _: u64| o | x),
        ("xor", Type::B32) => rmw(|o: u32, x: u32, _: u32| o ^ x),
        ("xor", Type::B64) => rmw(|o: u64, x: u64, _: u64| o ^ x),
        ("inc", Type::U32) => rmw(|o: u32, x: u32, _: u32| if o >= x { 0 } else { o + 1 }),
        ("dec", Type::U32) => rmw(|o: u32, x: u32, _: u32| if o == 0 || o > x { x } else { o - 1 }),
        _ => return b.unsupported(op, &format!("`.{which}` of `.{}`", t.name())),
    };
    b.emit(handlers, Class::Atomic, [base, d, x, y, 0, 0, 0, 0], offset as u64, flags | place);
    Ok(())
}

/// `atom` and `red` of a vector of floating-point values.
fn vector_atomic(
    b: &mut Builder,
    op: &Opcode,
    (space, flags, policy): (Space, u8, bool),
    which: &str,
    t: Type,
    count: usize,
) -> Decoded {
    let how = match which {
        "add" => Combination::Add,
        "min" => Combination::Minimum,
        "max" => Combination::Maximum,
        _ => return b.unsupported(op, "this operation of a vector"),
    };
    let element = match (t, how, count) {
        (Type::F32, Combination::Add, 2 | 4) => Element::Single,
        (Type::F16, ..) => Element::Half,
        (Type::Bf16, ..) => Element::Bfloat,
        (Type::F16x2, _, 2 | 4) => Element::HalfPair,
        (Type::Bf16x2, _, 2 | 4) => Element::BfloatPair,
        _ => return b.unsupported(op, "a vector of this type"),
    };
    let reduces = op.name == "red";
    let at = !reduces as usize;
    b.count(op, 2 + at + policy as usize..=2 + at + policy as usize)?;
    let operands = &op.text.operands;
    let (base, offset, place) = locate(b, operands.get(at), space)?;
    let mut old = Vec::new();
    if !reduces {
        for part in parts(b, operands.first(), count)? {
            old.push(b.dest_operand(part, t)?);
        }
    }
    let mut values = Vec::new();
    for part in parts(b, operands.get(at + 1), count)? {
        values.push(b.source_operand(part, t)?);
    }
    b.vectors.push(Vector { how, element, old, values });
    let index = b.vectors.len() as u32 - 1;
    b.emit(plain(vector_handler), Class::Atomic, [base, 0, 0, 0, 0, 0, 0, index], offset as u64, flags | place);
    Ok(())
}

/// `prefetch`, `discard`, `applypriority`: no effect on values, but the address must be one that could be loaded from.
pub(super) fn hint(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let space = space(op);
    op.take_any(&["L1", "L2", "L2::evict_last", "L2::evict_normal"]);
    op.take("tensormap");
    b.count(op, 1..=2)?;
    let (base, offset, flags) = locate(b, op.text.operands.first(), space)?;
    b.emit(plain(prefetch), Class::Other, [base, 0, 0, 0, 0, 0, 0, 0], offset as u64, flags);
    Ok(())
}

/// `createpolicy.fractional`: a cache policy, which has no effect on values.
pub(super) fn policy(b: &mut Builder, op: &mut Opcode) -> Decoded {
    if !op.take("fractional") {
        return b.unsupported(op, "anything but `.fractional`");
    }
    const PRIORITIES: [&str; 4] = ["L2::evict_last", "L2::evict_normal", "L2::evict_first", "L2::evict_unchanged"];
    if op.take_any(&PRIORITIES).is_none() {
        return Err(b.error("`createpolicy` needs a priority such as `.L2::evict_first`"));
    }
    op.take_any(&PRIORITIES);
    if b.type_of(op)? != Type::B64 {
        return b.unsupported(op, "this type");
    }
    b.count(op, 1..=2)?;
    if op.text.operands.len() == 2 {
        b.source(op, 1, Type::F32)?;
    }
    let ops = [b.dest(op, Type::B64)?, b.constant(0, 64, None)];
    b.emit_ops(identity(Type::B64), Class::Other, &ops);
    Ok(())
}
