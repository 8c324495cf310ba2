//! `wmma`, `wgmma`, `stmatrix`, `movmatrix`, and the shapes of `mma` that have no loop of their own.

use super::memory::locate;
use super::{Builder, Decoded, Opcode};
use crate::counters::Class;
use crate::exec::control::nothing;
use crate::exec::lanes::plain;
use crate::exec::matrix::{Bits, Fragment, Kind, Layout, Matrix, Role, Shape, run};
use crate::exec::tensor::{store_matrix, transpose_matrix};
use crate::exec::wgmma::{Group, Left};
use crate::ptx::ast::{Literal, Operand, Type};
use crate::space::Space;

/// `m16n8k32` as numbers.
fn shape_of(word: &str) -> Option<Shape> {
    let (m, rest) = word.strip_prefix('m')?.split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    Some(Shape { m: m.parse().ok()?, n: n.parse().ok()?, k: k.parse().ok()? })
}

fn take_shape(op: &mut Opcode) -> Option<Shape> {
    op.take_where(|word| shape_of(word).is_some()).and_then(shape_of)
}

fn take_kind(op: &mut Opcode) -> Option<Kind> {
    op.take_where(|word| Kind::parse(word).is_some()).and_then(Kind::parse)
}

/// The registers of a matrix.
fn fragment(b: &mut Builder, operand: Option<&Operand>, kind: Kind, written: bool) -> Decoded<Fragment> {
    let items = match operand {
        Some(Operand::Vector(items)) => items.as_slice(),
        Some(single) => std::slice::from_ref(single),
        None => return Err(b.error("expected the registers of a matrix")),
    };
    let t = match kind {
        Kind::F64 => Type::B64,
        Kind::F32 => Type::F32,
        _ => Type::B32,
    };
    let regs = items.iter().map(|item| if written { b.dest_operand(item, t) } else { b.source_operand(item, t) });
    Ok(Fragment { regs: regs.collect::<Decoded<_>>()?, kind })
}

fn emit(b: &mut Builder, matrix: Matrix) {
    b.matrices.push(matrix);
    let at = b.matrices.len() as u64 - 1;
    b.emit(plain(run), Class::Tensor, [0; 8], at, 0);
}

/// Whether a fragment has as many registers as its part of a matrix needs.
fn expect(b: &Builder, fragment: &Fragment, elements: usize, what: &str) -> Decoded {
    let bits = fragment.kind.bits();
    // A lane has one part of 32.
    let wanted = (elements * bits / 32).div_ceil(bits.max(32)).max(1);
    match fragment.regs.len() == wanted {
        true => Ok(()),
        false => Err(b.error(format!("{what} has {} registers; expected {wanted}", fragment.regs.len()))),
    }
}

/// `mma.sync` of whatever shape the ISA gives a fragment for; `op` has `sync` and `aligned` taken.
pub(super) fn mma(b: &mut Builder, op: &mut Opcode, shape: &str) -> Decoded {
    let Some(shape) = shape_of(shape) else {
        return b.unsupported(op, "this shape");
    };
    op.take("row");
    op.take("col");
    op.take("kind::f8f6f4");
    let saturates = op.take("satfinite");
    let bits = match op.take_any(&["and", "xor"]) {
        Some("xor") => Bits::Xor,
        _ => Bits::And,
    };
    op.take("popc");
    let (Some(d), Some(x), Some(y), Some(c)) = (take_kind(op), take_kind(op), take_kind(op), take_kind(op)) else {
        return b.unsupported(op, "these types");
    };
    use Kind::*;
    let small = |kind: Kind| matches!(kind, E4m3 | E5m2 | E2m3 | E3m2 | E2m1);
    let Shape { m, n, k } = shape;
    let known = match (d, x, y, c) {
        (F64, F64, F64, F64) => matches!((m, k), (8, 4) | (16, 4 | 8 | 16)),
        (F32 | F16, x, y, c) if small(x) && small(y) => c == d && matches!((m, k), (16, 16 | 32)),
        (S32, S8 | U8, S8 | U8, S32) => matches!((m, k), (8, 16) | (16, 16 | 32)),
        (S32, S4 | U4, S4 | U4, S32) => matches!((m, k), (8, 32) | (16, 32 | 64)),
        (S32, B1, B1, S32) => matches!((m, k), (8, 128) | (16, 128 | 256)),
        _ => false,
    };
    if !known || n != 8 {
        return b.unsupported(op, "this shape and these types");
    }
    b.count(op, 4..=4)?;
    let operands = &op.text.operands;
    let d = fragment(b, operands.first(), d, true)?;
    let x = fragment(b, operands.get(1), x, false)?;
    let y = fragment(b, operands.get(2), y, false)?;
    let c = fragment(b, operands.get(3), c, false)?;
    for (fragment, elements, what) in [(&d, m * n, "D"), (&x, m * k, "A"), (&y, k * n, "B"), (&c, m * n, "C")] {
        expect(b, fragment, elements, what)?;
    }
    emit(b, Matrix::Multiply { layout: Layout::Mma, shape, d, a: x, b: y, c, bits, saturates });
    Ok(())
}

/// `wmma.load`, `wmma.store`, `wmma.mma`.
pub(super) fn wmma(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let which = op.take_any(&["load", "store", "mma"]);
    let bits = match op.take_any(&["xor", "and"]) {
        Some("xor") => Bits::Xor,
        _ => Bits::And,
    };
    op.take("popc");
    let role = match which {
        Some("mma") => None,
        _ => op.take_any(&["a", "b", "c", "d"]),
    };
    if !op.take("sync") || !op.take("aligned") {
        return b.unsupported(op, "these modifiers");
    }
    let first = op.take_any(&["row", "col"]);
    let second = op.take_any(&["row", "col"]);
    let Some(shape) = take_shape(op) else {
        return b.unsupported(op, "no shape");
    };
    const SHAPES: [(usize, usize, usize); 7] =
        [(16, 16, 16), (8, 32, 16), (32, 8, 16), (16, 16, 8), (8, 8, 4), (8, 8, 32), (8, 8, 128)];
    if !SHAPES.contains(&(shape.m, shape.n, shape.k)) {
        return b.unsupported(op, "this shape");
    }
    let operands = &op.text.operands;
    if which == Some("mma") {
        let saturates = op.take("satfinite");
        op.take_any(&["rn", "rz", "rm", "rp"]);
        let mut kinds = Vec::new();
        while let Some(kind) = take_kind(op) {
            kinds.push(kind);
        }
        // Of f16 only D and C are named.
        let (d, x, y, c) = match *kinds.as_slice() {
            [d, c] => (d, Kind::F16, Kind::F16, c),
            [d, x, y, c] => (d, x, y, c),
            _ => return b.unsupported(op, "these types"),
        };
        if first.is_none() || second.is_none() {
            return b.unsupported(op, "these modifiers");
        }
        b.count(op, 4..=4)?;
        let d = fragment(b, operands.first(), d, true)?;
        let x = fragment(b, operands.get(1), x, false)?;
        let y = fragment(b, operands.get(2), y, false)?;
        let c = fragment(b, operands.get(3), c, false)?;
        emit(b, Matrix::Multiply { layout: Layout::Wmma, shape, d, a: x, b: y, c, bits, saturates });
        return Ok(());
    }
    let store = which == Some("store");
    let space = match op.take_any(&["global", "shared", "shared::cta"]) {
        Some("global") => Space::Global,
        Some(_) => Space::Shared,
        None => Space::Generic,
    };
    let (Some(role), Some(layout), Some(kind)) = (role, first, take_kind(op)) else {
        return b.unsupported(op, "these modifiers");
    };
    b.count(op, 2..=3)?;
    let (registers, address) = if store { (1, 0) } else { (0, 1) };
    let role = match role {
        "a" => Role::A,
        "b" => Role::B,
        _ => Role::Sum,
    };
    let fragment = fragment(b, operands.get(registers), kind, !store)?;
    let (base, offset, flags) = locate(b, operands.get(address), space)?;
    let Ok(offset) = i32::try_from(offset) else {
        return Err(b.error("the offset does not fit 32 bits"));
    };
    let stride = if operands.len() == 3 { Some(b.source(op, 2, Type::U32)?) } else { None };
    b.matrices.push(Matrix::Move { role, shape, fragment, by_rows: layout == "row", stride, store });
    let at = b.matrices.len() as u64 - 1;
    let class = match (Space::of(flags), store) {
        (Space::Shared, false) => Class::SharedLoad,
        (Space::Shared, true) => Class::SharedStore,
        (_, false) => Class::GlobalLoad,
        (_, true) => Class::GlobalStore,
    };
    b.emit(plain(run), class, [base, 0, 0, 0, 0, 0, offset as u32, 0], at, flags);
    Ok(())
}

/// `wgmma.fence`, `commit_group`, `wait_group`, `mma_async`.
pub(super) fn wgmma(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let which = op.take_any(&["fence", "commit_group", "wait_group", "mma_async"]);
    if !op.take("sync") || !op.take("aligned") {
        return b.unsupported(op, "these modifiers");
    }
    if which != Some("mma_async") {
        let waits = which == Some("wait_group");
        if which.is_none() {
            return b.unsupported(op, "these modifiers");
        }
        b.count(op, if waits { 1..=1 } else { 0..=0 })?;
        b.emit_ops(plain(nothing), Class::Other, &[]);
        return Ok(());
    }
    let saturates = op.take("satfinite");
    op.take("and");
    op.take("popc");
    let (Some(shape), Some(d), Some(x), Some(y)) = (take_shape(op), take_kind(op), take_kind(op), take_kind(op)) else {
        return b.unsupported(op, "these modifiers");
    };
    use Kind::*;
    let known = match (d, x, y) {
        (F32 | F16, F16, F16) | (F32, Bf16, Bf16) => shape.k == 16,
        (F32, Tf32, Tf32) => shape.k == 8,
        (F32 | F16, E4m3 | E5m2, E4m3 | E5m2) | (S32, S8 | U8, S8 | U8) => shape.k == 32,
        (S32, B1, B1) => shape.k == 256,
        _ => false,
    };
    if !known || shape.m != 64 || !shape.n.is_multiple_of(8) || !(8..=256).contains(&shape.n) {
        return b.unsupported(op, "this shape and these types");
    }
    let operands = &op.text.operands;
    b.count(op, 4..=8)?;
    let wide = matches!(x, F16 | Bf16);
    let from_registers = matches!(operands.get(1), Some(Operand::Vector(_)));
    let mut next = 4;
    let mut immediate = |b: &Builder| match operands.get(next) {
        Some(Operand::Literal(Literal::Integer(value))) => {
            next += 1;
            Ok(*value as i64)
        }
        None => {
            next += 1;
            Ok(i64::MIN)
        }
        _ => Err(b.error("expected an immediate")),
    };
    let sign = |value: i64| value == -1;
    let is_float = d != S32;
    let (negate_a, negate_b) = if is_float { (sign(immediate(b)?), sign(immediate(b)?)) } else { (false, false) };
    let a_transposed = wide && !from_registers && immediate(b)? == 1;
    let b_transposed = wide && immediate(b)? == 1;
    if next < operands.len() {
        return Err(b.error(format!("{} operands; expected {next}", operands.len())));
    }
    let d = fragment(b, operands.first(), d, true)?;
    let wanted = shape.n * 64 / 128 * d.kind.bits() / 32;
    if d.regs.len() != wanted {
        return Err(b.error(format!("D has {} registers; expected {wanted}", d.regs.len())));
    }
    let a = match from_registers {
        true => {
            let fragment = fragment(b, operands.get(1), x, false)?;
            if fragment.regs.len() != 4 {
                return Err(b.error(format!("A has {} registers; expected 4", fragment.regs.len())));
            }
            Left::Registers(fragment)
        }
        false => Left::Shared(b.source(op, 1, Type::B64)?, a_transposed),
    };
    let group = Group {
        n: shape.n,
        k: shape.k,
        d,
        a,
        a_kind: x,
        b: b.source(op, 2, Type::B64)?,
        b_kind: y,
        b_transposed,
        accumulates: b.predicate(operands.get(3))?,
        negate_a,
        negate_b,
        saturates,
    };
    emit(b, Matrix::Group(group));
    Ok(())
}

/// `stmatrix` and `movmatrix`.
pub(super) fn small(b: &mut Builder, op: &mut Opcode) -> Decoded {
    if !op.take("sync") || !op.take("aligned") || !op.take("m8n8") {
        return b.unsupported(op, "these modifiers");
    }
    let transposed = op.take("trans");
    if op.name == "movmatrix" {
        if !transposed || b.type_of(op)? != Type::B16 {
            return b.unsupported(op, "these modifiers");
        }
        b.count(op, 2..=2)?;
        let ops = [b.dest(op, Type::B32)?, b.source(op, 1, Type::B32)?];
        b.emit_ops(plain(transpose_matrix), Class::Tensor, &ops);
        return Ok(());
    }
    let count = match op.take_any(&["x1", "x2", "x4"]) {
        Some("x1") => 1,
        Some("x2") => 2,
        Some(_) => 4,
        None => return b.unsupported(op, "no `.x1`, `.x2` or `.x4`"),
    };
    let space = match op.take_any(&["shared", "shared::cta"]) {
        Some(_) => Space::Shared,
        None => Space::Generic,
    };
    if b.type_of(op)? != Type::B16 {
        return b.unsupported(op, "this type");
    }
    b.count(op, 2..=2)?;
    let (base, offset, flags) = locate(b, op.text.operands.first(), space)?;
    let items = match &op.text.operands[1] {
        Operand::Vector(items) => items.as_slice(),
        single => std::slice::from_ref(single),
    };
    if items.len() != count {
        return Err(b.error(format!("a vector of {}; expected {count}", items.len())));
    }
    let mut ops = [0; 8];
    ops[0] = base;
    for (i, item) in items.iter().enumerate() {
        ops[1 + i] = b.source_operand(item, Type::B32)?;
    }
    let handlers = match (count, transposed) {
        (1, false) => plain(store_matrix::<1, false>),
        (2, false) => plain(store_matrix::<2, false>),
        (4, false) => plain(store_matrix::<4, false>),
        (1, true) => plain(store_matrix::<1, true>),
        (2, true) => plain(store_matrix::<2, true>),
        _ => plain(store_matrix::<4, true>),
    };
    b.emit(handlers, Class::SharedStore, ops, offset as u64, flags);
    Ok(())
}
