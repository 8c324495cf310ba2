//! `mma` and `ldmatrix`.

use super::memory::locate;
use super::{Builder, Decoded, Opcode};
use crate::counters::Class;
use crate::exec::lanes::plain;
use crate::exec::tensor::*;
use crate::ptx::ast::{Operand, Type};
use crate::space::Space;

pub(super) fn tensor(b: &mut Builder, op: &mut Opcode) -> Decoded {
    match op.name {
        "mma" => mma(b, op),
        _ => ldmatrix(b, op),
    }
}

fn mma(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let shape = op.take_any(&["m8n8k4", "m8n8k16", "m8n8k32", "m8n8k128"]).or_else(|| op.take_prefix("m16n8k"));
    if !op.take("sync") || !op.take("aligned") {
        return b.unsupported(op, "these modifiers; expected `mma.sync.aligned`");
    }
    const OTHERS: [&str; 10] = ["e4m3", "e5m2", "e2m3", "e3m2", "e2m1", "f64", "s4", "u4", "b1", "kind::f8f6f4"];
    if OTHERS.iter().any(|kind| op.has(kind)) || shape.is_some_and(|shape| shape.starts_with("m8")) {
        return super::matrix::mma(b, op, shape.unwrap_or(""));
    }
    if !op.take("row") || !op.take("col") {
        return b.unsupported(op, "these modifiers; expected `mma.sync.aligned.m16n8kK.row.col`");
    }
    let saturates = op.take("satfinite");
    let (Some(shape), Some(d), Some(x), Some(y), Some(c)) =
        (shape, op.take_type(), op.take_type(), op.take_type(), op.take_type())
    else {
        return b.unsupported(op, "this shape; expected m16n8k4, k8, k16 or k32 and four types");
    };
    use Type::*;
    let (handlers, depth, packed, accumulators) = match (shape, d, x, y, c, saturates) {
        ("m16n8k16", F32, F16, F16, F32, false) => (multiply::<Half, Half, Single, 16>(), 16, 2, 4),
        ("m16n8k16", F32, Bf16, Bf16, F32, false) => (multiply::<Bfloat, Bfloat, Single, 16>(), 16, 2, 4),
        ("m16n8k16", F16, F16, F16, F16, false) => (multiply::<Half, Half, HalfPair, 16>(), 16, 2, 2),
        ("m16n8k8", F32, F16, F16, F32, false) => (multiply::<Half, Half, Single, 8>(), 8, 2, 4),
        ("m16n8k8", F32, Bf16, Bf16, F32, false) => (multiply::<Bfloat, Bfloat, Single, 8>(), 8, 2, 4),
        ("m16n8k8", F16, F16, F16, F16, false) => (multiply::<Half, Half, HalfPair, 8>(), 8, 2, 2),
        ("m16n8k8", F32, Tf32, Tf32, F32, false) => (multiply::<Tensor32, Tensor32, Single, 8>(), 8, 1, 4),
        ("m16n8k4", F32, Tf32, Tf32, F32, false) => (multiply::<Tensor32, Tensor32, Single, 4>(), 4, 1, 4),
        ("m16n8k16", S32, S8, S8, S32, false) => (multiply::<Signed8, Signed8, Integer32, 16>(), 16, 4, 4),
        ("m16n8k16", S32, S8, U8, S32, false) => (multiply::<Signed8, Unsigned8, Integer32, 16>(), 16, 4, 4),
        ("m16n8k16", S32, U8, S8, S32, false) => (multiply::<Unsigned8, Signed8, Integer32, 16>(), 16, 4, 4),
        ("m16n8k16", S32, U8, U8, S32, false) => (multiply::<Unsigned8, Unsigned8, Integer32, 16>(), 16, 4, 4),
        ("m16n8k32", S32, S8, S8, S32, false) => (multiply::<Signed8, Signed8, Integer32, 32>(), 32, 4, 4),
        ("m16n8k32", S32, S8, U8, S32, false) => (multiply::<Signed8, Unsigned8, Integer32, 32>(), 32, 4, 4),
        ("m16n8k32", S32, U8, S8, S32, false) => (multiply::<Unsigned8, Signed8, Integer32, 32>(), 32, 4, 4),
        ("m16n8k32", S32, U8, U8, S32, false) => (multiply::<Unsigned8, Unsigned8, Integer32, 32>(), 32, 4, 4),
        ("m16n8k16", S32, S8, S8, S32, true) => (multiply::<Signed8, Signed8, Saturated32, 16>(), 16, 4, 4),
        ("m16n8k32", S32, S8, S8, S32, true) => (multiply::<Signed8, Signed8, Saturated32, 32>(), 32, 4, 4),
        ("m16n8k32", S32, U8, S8, S32, true) => (multiply::<Unsigned8, Signed8, Saturated32, 32>(), 32, 4, 4),
        ("m16n8k32", S32, U8, U8, S32, true) => (multiply::<Unsigned8, Unsigned8, Saturated32, 32>(), 32, 4, 4),
        _ => return b.unsupported(op, "this shape and these types"),
    };
    b.count(op, 4..=4)?;
    let counts = [accumulators, 16 * depth / packed / 32, 8 * depth / packed / 32, accumulators];
    let mut list = Vec::new();
    for (i, count) in counts.into_iter().enumerate() {
        let (single, items) = match &op.text.operands[i] {
            Operand::Vector(items) => (None, items.as_slice()),
            other => (Some(other), [].as_slice()),
        };
        let items: Vec<&Operand> = single.into_iter().chain(items).collect();
        if items.len() != count {
            return Err(b.error(format!("fragment {} has {} registers; expected {count}", i + 1, items.len())));
        }
        let kind = if matches!((i, accumulators), (0 | 3, 4)) && d == F32 { F32 } else { B32 };
        for item in items {
            list.push(if i == 0 { b.dest_operand(item, kind)? } else { b.source_operand(item, kind)? });
        }
    }
    let imm = b.add_list(list);
    b.emit(handlers, Class::Tensor, [0; 8], imm, 0);
    Ok(())
}

fn ldmatrix(b: &mut Builder, op: &mut Opcode) -> Decoded {
    if !op.take("sync") || !op.take("aligned") || !op.take("m8n8") {
        return b.unsupported(op, "these modifiers; expected `ldmatrix.sync.aligned.m8n8`");
    }
    let count = match op.take_any(&["x1", "x2", "x4"]) {
        Some("x1") => 1,
        Some("x2") => 2,
        Some(_) => 4,
        None => return Err(b.error("`ldmatrix` needs `.x1`, `.x2` or `.x4`")),
    };
    let transposed = op.take("trans");
    let shared = op.take_any(&["shared", "shared::cta"]).is_some();
    if b.type_of(op)? != Type::B16 {
        return b.unsupported(op, "this type");
    }
    b.count(op, 2..=2)?;
    let space = if shared { Space::Shared } else { Space::Generic };
    let (base, offset, flags) = locate(b, op.text.operands.get(1), space)?;
    let Operand::Vector(items) = &op.text.operands[0] else {
        return Err(b.error(format!("expected a vector of {count} registers")));
    };
    if items.len() != count {
        return Err(b.error(format!("a vector of {}; expected {count}", items.len())));
    }
    let mut ops = [0; 8];
    ops[0] = base;
    for (i, item) in items.iter().enumerate() {
        ops[1 + i] = b.dest_operand(item, Type::B32)?;
    }
    let handlers = match (count, transposed) {
        (1, false) => plain(load_matrix::<1, false>),
        (2, false) => plain(load_matrix::<2, false>),
        (4, false) => plain(load_matrix::<4, false>),
        (1, true) => plain(load_matrix::<1, true>),
        (2, true) => plain(load_matrix::<2, true>),
        _ => plain(load_matrix::<4, true>),
    };
    b.emit(handlers, Class::SharedLoad, ops, offset as u64, flags);
    Ok(())
}
