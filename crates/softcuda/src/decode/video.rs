//! Video instructions, `vadd` to `vset4`, and `fns`.
//!
//! The scalar ones take bytes, halves or words of two registers, chosen by a suffix of the operand, and add to, compare with or
//! merge into a third; those with a 2 or 4 do the same for each half or byte.

use super::{Builder, Decoded, Opcode};
use crate::counters::Class::Integer;
use crate::exec::lanes::{map3, plain};
use crate::exec::video::{Operation, Second, Selector, Video, run};
use crate::ptx::ast::{Operand, Type};

const RELATIONS: [&str; 6] = ["eq", "ne", "lt", "le", "gt", "ge"];

/// The name without its selector, and that.
fn selected(operand: &Operand) -> (Operand, Option<&str>) {
    match operand {
        Operand::Name(name) if !name.ends_with(".x") => match name.rsplit_once('.') {
            Some((name, selector)) => (Operand::Name(name.to_owned()), Some(selector)),
            None => (operand.clone(), None),
        },
        other => (other.clone(), None),
    }
}

/// `b0` to `b3`, `h0`, `h1`.
fn selector(b: &Builder, op: &Opcode, word: Option<&str>) -> Decoded<Selector> {
    Ok(match word {
        None => Selector { shift: 0, bits: 32 },
        Some("b0") => Selector { shift: 0, bits: 8 },
        Some("b1") => Selector { shift: 8, bits: 8 },
        Some("b2") => Selector { shift: 16, bits: 8 },
        Some("b3") => Selector { shift: 24, bits: 8 },
        Some("h0") => Selector { shift: 0, bits: 16 },
        Some("h1") => Selector { shift: 16, bits: 16 },
        Some(other) => return b.unsupported(op, &format!("the selector `.{other}`")),
    })
}

pub(super) fn fns(b: &mut Builder, op: &mut Opcode) -> Decoded {
    if b.type_of(op)? != Type::B32 {
        return b.unsupported(op, "this type");
    }
    b.count(op, 4..=4)?;
    let find = |mask: u32, base: u32, offset: i32| {
        if offset == 0 {
            return if base < 32 && mask >> base & 1 != 0 { base } else { u32::MAX };
        }
        let (mut at, mut left) = (base as i64, offset.unsigned_abs());
        while (0..32).contains(&at) {
            if mask >> at & 1 != 0 {
                left -= 1;
                if left == 0 {
                    return at as u32;
                }
            }
            at += offset.signum() as i64;
        }
        u32::MAX
    };
    let ops =
        [b.dest(op, Type::B32)?, b.source(op, 1, Type::B32)?, b.source(op, 2, Type::B32)?, b.source(op, 3, Type::S32)?];
    b.emit_ops(map3(find), Integer, &ops);
    Ok(())
}

pub(super) fn video(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let (stem, parts) = match op.name.as_bytes().last() {
        Some(b'2') => (&op.name[..op.name.len() - 1], 2),
        Some(b'4') => (&op.name[..op.name.len() - 1], 4),
        _ => (op.name, 1),
    };
    let saturates = op.take("sat");
    let mut types = Vec::new();
    while let Some(t) = op.take_any(&["u32", "s32"]) {
        types.push(t == "s32");
    }
    let relation = op.take_any(&RELATIONS);
    let operation = match (stem, relation) {
        ("vadd", None) => Operation::Add,
        ("vsub", None) => Operation::Subtract,
        ("vabsdiff", None) => Operation::Distance,
        ("vmin", None) => Operation::Minimum,
        ("vmax", None) => Operation::Maximum,
        ("vavrg", None) => Operation::Average,
        ("vshl", None) => Operation::ShiftLeft(op.take_any(&["clamp", "wrap"]) == Some("wrap")),
        ("vshr", None) => Operation::ShiftRight(op.take_any(&["clamp", "wrap"]) == Some("wrap")),
        ("vset", Some(relation)) => Operation::Compare(relation.as_bytes()[0], relation.as_bytes()[1]),
        _ => return b.unsupported(op, "these modifiers"),
    };
    let second = match op.take_any(&["add", "min", "max"]) {
        None => Second::Merge,
        Some("add") => Second::Add,
        Some("min") => Second::Minimum,
        Some(_) => Second::Maximum,
    };
    let (d_signed, a_signed, b_signed) = match (operation, types.as_slice()) {
        (Operation::Compare(..), &[x, y]) => (false, x, y),
        (Operation::ShiftLeft(_) | Operation::ShiftRight(_), &[d, x, _]) => (d, x, false),
        (_, &[d, x, y]) => (d, x, y),
        _ => return b.unsupported(op, "these types"),
    };
    b.count(op, 3..=4)?;
    let operands = &op.text.operands;
    let (d, d_selector) = selected(&operands[0]);
    let (x, x_selector) = selected(&operands[1]);
    let (y, y_selector) = selected(&operands[2]);
    let third = match operands.get(3) {
        Some(operand) => Some(b.source_operand(operand, Type::B32)?),
        None => None,
    };
    let (lanes, written) = match parts {
        1 => ([selector(b, op, x_selector)?, selector(b, op, y_selector)?], selector(b, op, d_selector)?),
        // Which halves or bytes go where can be chosen; only all of them in order is known here.
        _ if x_selector.or(y_selector).or(d_selector).is_some() => return b.unsupported(op, "selectors"),
        _ => ([Selector { shift: 0, bits: 32 / parts }; 2], Selector { shift: 0, bits: 32 / parts }),
    };
    let video = Video {
        operation,
        second: if third.is_some() || parts > 1 { Some(second) } else { None },
        parts,
        saturates,
        d_signed,
        a_signed,
        b_signed,
        a: lanes[0],
        b: lanes[1],
        d: written,
    };
    let ops = [
        b.dest_operand(&d, Type::B32)?,
        b.source_operand(&x, Type::B32)?,
        b.source_operand(&y, Type::B32)?,
        third.unwrap_or(0),
    ];
    b.videos.push(video);
    let at = b.videos.len() as u64 - 1;
    b.emit(plain(run), Integer, [ops[0], ops[1], ops[2], ops[3], third.is_some() as u32, 0, 0, 0], at, 0);
    Ok(())
}
