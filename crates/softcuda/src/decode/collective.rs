//! Operations of a warp's lanes together.

use super::{Builder, Decoded, Opcode};
use crate::counters::Class::Shuffle;
use crate::exec::collective as run;
use crate::exec::lanes::plain;
use crate::ptx::ast::{Literal, Operand, Type};

pub(super) fn collective(b: &mut Builder, op: &mut Opcode) -> Decoded {
    if op.name == "activemask" {
        let t = b.type_of(op)?;
        b.count(op, 1..=1)?;
        let d = b.dest(op, t)?;
        b.emit_ops(plain(run::active_mask), Shuffle, &[d]);
        return Ok(());
    }
    if !matches!(op.name, "match") && !op.take("sync") {
        return b.unsupported(op, "no `.sync`");
    }
    match op.name {
        "shfl" => shuffle(b, op),
        "vote" => vote(b, op),
        "match" => matches(b, op),
        "redux" => redux(b, op),
        _ => {
            b.count(op, 2..=2)?;
            let (d, p) = pair(b, op, Type::B32)?;
            let members = b.source(op, 1, Type::B32)?;
            let p = p.unwrap_or_else(|| b.scratch_predicate());
            b.emit_ops(plain(run::elect), Shuffle, &[d, 0, 0, 0, members, p]);
            Ok(())
        }
    }
}

/// The first operand: a register, perhaps with a predicate after `|`.
fn pair(b: &mut Builder, op: &Opcode, t: Type) -> Decoded<(u32, Option<u32>)> {
    match &op.text.operands[0] {
        Operand::Pair(d, p) => Ok((b.dest_operand(d, t)?, Some(b.predicate_dest(Some(p))?))),
        operand => Ok((b.dest_operand(operand, t)?, None)),
    }
}

fn shuffle(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let mode = op.take_any(&["up", "down", "bfly", "idx"]);
    let bfly = mode == Some("bfly");
    let handlers = match mode {
        Some("up") => run::shuffle::<{ run::SHUFFLE_UP }>(),
        Some("down") => run::shuffle::<{ run::SHUFFLE_DOWN }>(),
        Some("bfly") => run::shuffle::<{ run::SHUFFLE_BFLY }>(),
        Some(_) => run::shuffle::<{ run::SHUFFLE_IDX }>(),
        None => return Err(b.error("`shfl` needs `.up`, `.down`, `.bfly` or `.idx`")),
    };
    let t = b.type_of(op)?;
    if t != Type::B32 {
        return b.unsupported(op, "this type");
    }
    b.count(op, 5..=5)?;
    let (d, p) = pair(b, op, t)?;
    let literal = |index: usize| match &op.text.operands[index] {
        Operand::Literal(Literal::Integer(value)) => Some(*value),
        _ => None,
    };
    let handlers = match (bfly, literal(2), literal(3), literal(4)) {
        (true, Some(distance), Some(31), Some(members)) if members as u32 == u32::MAX && p.is_none() => {
            run::butterfly(distance).unwrap_or(handlers)
        }
        _ => handlers,
    };
    let ops =
        [d, b.source(op, 1, t)?, b.source(op, 2, t)?, b.source(op, 3, t)?, b.source(op, 4, t)?, p.unwrap_or(0), 0, 0];
    b.emit(handlers, Shuffle, ops, p.is_some() as u64, 0);
    Ok(())
}

fn vote(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let mode = match op.take_any(&["all", "any", "uni", "ballot"]) {
        Some("all") => run::VOTE_ALL,
        Some("any") => run::VOTE_ANY,
        Some("uni") => run::VOTE_UNI,
        Some(_) => run::VOTE_BALLOT,
        None => return Err(b.error("`vote` needs `.all`, `.any`, `.uni` or `.ballot`")),
    };
    let t = b.type_of(op)?;
    b.count(op, 3..=3)?;
    let d = match (mode, t) {
        (run::VOTE_BALLOT, Type::B32) => b.dest(op, t)?,
        (run::VOTE_BALLOT, _) => return b.unsupported(op, "this type"),
        (_, Type::Pred) => b.predicate_dest(op.text.operands.first())?,
        _ => return b.unsupported(op, "this type"),
    };
    let (p, negated) = b.predicate(op.text.operands.get(1))?;
    let members = b.source(op, 2, Type::B32)?;
    let flags = mode | if negated { run::VOTE_NOT } else { 0 };
    b.emit(plain(run::vote), Shuffle, [d, p, 0, 0, members, 0, 0, 0], 0, flags);
    Ok(())
}

fn matches(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let which = op.take_any(&["any", "all"]);
    if !op.take("sync") {
        return b.unsupported(op, "no `.sync`");
    }
    let t = b.type_of(op)?;
    if !matches!(t, Type::B32 | Type::B64) {
        return b.unsupported(op, "this type");
    }
    b.count(op, 3..=3)?;
    let (d, p) = pair(b, op, Type::B32)?;
    let handlers = match which {
        Some("any") if p.is_none() => plain(run::match_any),
        Some("all") => plain(run::match_all),
        _ => return Err(b.error("expected `match.any` with one result or `match.all`")),
    };
    let ops = [d, b.source(op, 1, t)?, 0, 0, b.source(op, 2, Type::B32)?, p.unwrap_or(0), 0, 0];
    b.emit(handlers, Shuffle, ops, p.is_some() as u64, t.bytes() as u8);
    Ok(())
}

fn redux(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let which = op.take_any(&["add", "min", "max", "and", "or", "xor"]);
    let t = b.type_of(op)?;
    let operation = match (which, t) {
        (Some("add"), Type::U32 | Type::S32) => 0,
        (Some("min"), Type::U32) => 1,
        (Some("max"), Type::U32) => 2,
        (Some("min"), Type::S32) => 3,
        (Some("max"), Type::S32) => 4,
        (Some("and"), Type::B32) => 5,
        (Some("or"), Type::B32) => 6,
        (Some("xor"), Type::B32) => 7,
        _ => return b.unsupported(op, "this operation and type"),
    };
    b.count(op, 3..=3)?;
    let ops = [b.dest(op, t)?, b.source(op, 1, t)?, 0, 0, b.source(op, 2, Type::B32)?, 0, 0, 0];
    b.emit(plain(run::redux), Shuffle, ops, operation, 0);
    Ok(())
}
