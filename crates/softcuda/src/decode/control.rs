//! Branches, calls, barriers and fences.

use super::builder::Binding;
use super::{Builder, Decoded, Opcode};
use crate::counters::Class;
use crate::exec::bulk;
use crate::exec::control as run;
use crate::exec::lanes::plain;
use crate::ptx::ast::{Operand, Type};

pub(super) fn flow(b: &mut Builder, op: &mut Opcode) -> Decoded {
    match op.name {
        "bra" => {
            op.take("uni");
            b.count(op, 1..=1)?;
            let Operand::Name(label) = &op.text.operands[0] else {
                return Err(b.error("expected a label"));
            };
            b.emit(plain(run::branch), Class::Control, [0; 8], 0, run::FLOW_JUMP);
            b.target(label);
        }
        "brx" => {
            if !op.take("idx") {
                return b.unsupported(op, "no `.idx`");
            }
            op.take("uni");
            b.count(op, 2..=2)?;
            let index = b.source(op, 0, Type::U32)?;
            let Operand::Name(list) = &op.text.operands[1] else {
                return Err(b.error("expected the name of a `.branchtargets` list"));
            };
            let list = b.target_list(list)?;
            b.emit(plain(run::branch_indexed), Class::Control, [index; 8], list, run::FLOW_INDEXED);
        }
        "ret" => {
            op.take("uni");
            b.count(op, 0..=0)?;
            match b.return_target() {
                None if b.is_in_frame() => {
                    b.emit(plain(crate::exec::calls::ret), Class::Control, [0; 8], 0, run::FLOW_EXIT);
                }
                None => b.emit(plain(run::exit), Class::Control, [0; 8], 0, run::FLOW_EXIT),
                Some((scope, label)) => {
                    b.emit(plain(run::branch), Class::Control, [0; 8], 0, run::FLOW_JUMP);
                    b.target_in(scope, &label);
                }
            }
        }
        "exit" => {
            b.count(op, 0..=0)?;
            b.emit(plain(run::exit), Class::Control, [0; 8], 0, run::FLOW_EXIT);
        }
        "trap" | "brkpt" => {
            b.count(op, 0..=0)?;
            b.emit_ops(plain(run::trap), Class::Control, &[]);
        }
        "nanosleep" => {
            if op.take_type() != Some(Type::U32) {
                return Err(b.error("expected `nanosleep.u32`"));
            }
            b.count(op, 1..=1)?;
            b.source(op, 0, Type::U32)?;
            b.emit_ops(plain(run::sleep), Class::Other, &[]);
        }
        "pmevent" => {
            op.take("mask");
            b.count(op, 1..=1)?;
            b.emit_ops(plain(run::nothing), Class::Other, &[]);
        }
        "griddepcontrol" => {
            let handler = match op.take_any(&["wait", "launch_dependents"]) {
                Some("wait") => run::grid_wait,
                Some(_) => run::grid_launch,
                None => return Err(b.error("expected `griddepcontrol.wait` or `.launch_dependents`")),
            };
            b.count(op, 0..=0)?;
            b.emit_ops(plain(handler), Class::Other, &[]);
        }
        _ => return call(b, op),
    }
    Ok(())
}

/// `call (result), name, (arguments)`, each list optional.
fn call(b: &mut Builder, op: &mut Opcode) -> Decoded {
    op.take("uni");
    let mut results: &[Operand] = &[];
    let mut arguments: &[Operand] = &[];
    let mut rest = op.text.operands.as_slice();
    if let [Operand::List(items), tail @ ..] = rest {
        results = items;
        rest = tail;
    }
    let [Operand::Name(name), tail @ ..] = rest else {
        return Err(b.error("expected the name of a function"));
    };
    let mut list = None;
    for operand in tail {
        match operand {
            Operand::List(items) => arguments = items,
            Operand::Name(name) => list = Some(name.as_str()),
            _ => return Err(b.error("expected a list of arguments, or the name of a prototype or a list of targets")),
        }
    }
    if let Some(Binding::Register { reg, bits: 64 }) = b.find(name)? {
        return b.call_indirect(reg, results, arguments, list);
    }
    let skip = b.is_guarded().then(|| b.skip_unless_guard(plain(run::branch)));
    b.emit_ops(plain(run::nothing), Class::Control, &[]);
    b.call(name, results, arguments)?;
    if let Some(at) = skip {
        b.skip_to_here(at);
    }
    Ok(())
}

/// `setmaxnreg`: how many registers a warp has, which is no limit here.
pub(super) fn registers(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let known = op.take_any(&["inc", "dec"]).is_some() && op.take("sync") && op.take("aligned");
    if !known || op.take_type() != Some(Type::U32) {
        return b.unsupported(op, "these modifiers");
    }
    b.count(op, 1..=1)?;
    b.emit_ops(plain(run::nothing), Class::Other, &[]);
    Ok(())
}

/// `bar` and `barrier`, of the block or of the warp.
pub(super) fn barrier(b: &mut Builder, op: &mut Opcode) -> Decoded {
    if op.take("warp") {
        if !op.take("sync") {
            return Err(b.error("expected `bar.warp.sync`"));
        }
        b.count(op, 1..=1)?;
        let members = b.source(op, 0, Type::B32)?;
        b.emit_ops(plain(crate::exec::collective::warp_barrier), Class::Barrier, &[0, 0, 0, 0, members]);
        return Ok(());
    }
    if op.take("cluster") {
        return super::asynchronous::cluster_barrier(b, op);
    }
    op.take("cta");
    // `bar` always means that the warp arrives as one.
    let aligned = op.take("aligned") || op.name == "bar";
    let base = if aligned { run::BARRIER_ALIGNED } else { 0 };
    match op.take_any(&["sync", "arrive", "red"]) {
        Some("red") => {}
        Some(which) => {
            let arrives = which == "arrive";
            b.count(op, if arrives { 2..=2 } else { 1..=2 })?;
            let id = b.source(op, 0, Type::U32)?;
            let counted = op.text.operands.len() == 2;
            let count = if counted { b.source(op, 1, Type::U32)? } else { id };
            let kind = if arrives { run::BARRIER_ARRIVE } else { run::BARRIER_SYNC };
            let flags = base | kind | if counted { run::BARRIER_COUNTED } else { 0 };
            b.emit(plain(run::barrier), Class::Barrier, [0, id, count, 0, 0, 0, 0, 0], 0, flags);
            return Ok(());
        }
        None => return Err(b.error(format!("`{}` needs `.sync`, `.arrive` or `.red`", op.name))),
    }
    let kind = match op.take_any(&["popc", "and", "or"]) {
        Some("popc") => run::BARRIER_POPC,
        Some("and") => run::BARRIER_AND,
        Some(_) => run::BARRIER_OR,
        None => return Err(b.error("`bar.red` needs `.popc`, `.and` or `.or`")),
    };
    let t = b.type_of(op)?;
    b.count(op, 3..=4)?;
    let counted = op.text.operands.len() == 4;
    let d = match (kind, t) {
        (run::BARRIER_POPC, Type::U32) => b.dest(op, t)?,
        (run::BARRIER_AND | run::BARRIER_OR, Type::Pred) => b.predicate_dest(op.text.operands.first())?,
        _ => return b.unsupported(op, "this type"),
    };
    let id = b.source(op, 1, Type::U32)?;
    let count = if counted { b.source(op, 2, Type::U32)? } else { id };
    let (p, negated) = b.predicate(op.text.operands.last())?;
    let flags =
        base | kind | if counted { run::BARRIER_COUNTED } else { 0 } | if negated { run::BARRIER_NOT } else { 0 };
    b.emit(plain(run::barrier), Class::Barrier, [d, id, count, p, 0, 0, 0, 0], 0, flags);
    Ok(())
}

/// Fences between the ways to memory, which are one here but for the sanitizer: no effect on values. `fence.mbarrier_init` releases.
fn proxy_fence(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let releases = op.take("mbarrier_init");
    if !releases && !op.take("proxy") {
        return b.unsupported(op, "these modifiers");
    }
    let proxy = op.take_any(&["alias", "async", "async.global", "async::generic", "tensormap::generic"]);
    if !releases && proxy.is_none() {
        return b.unsupported(op, "this proxy");
    }
    let place = op.take_any(&["global", "shared::cta", "shared::cluster"]);
    let is_for_shared = matches!(proxy, Some("async" | "async::generic")) && place != Some("global");
    op.take_any(&["acquire", "release"]);
    op.take_any(&[
        "sync_restrict::shared::cta",
        "sync_restrict::shared::cluster",
        "sync_restrict::shared::cluster.cluster",
    ]);
    op.take_any(&["cta", "cluster", "gpu", "sys"]);
    b.count(op, 0..=2)?;
    match (releases, is_for_shared) {
        (true, _) => b.emit(plain(run::memory_fence), Class::Other, [0; 8], 0, run::FENCE_RELEASES),
        (_, true) => b.emit(plain(bulk::fence_proxies), Class::Other, [0; 8], 0, 0),
        _ => b.emit(plain(run::nothing), Class::Other, [0; 8], 0, 0),
    }
    Ok(())
}

pub(super) fn fence(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let mut flags = run::FENCE_ACQUIRES | run::FENCE_RELEASES;
    let scope = if op.name == "membar" {
        op.take_any(&["cta", "gl", "sys"]).ok_or_else(|| b.error("`membar` needs `.cta`, `.gl` or `.sys`"))?
    } else {
        if op.has("proxy") || op.has("mbarrier_init") {
            return proxy_fence(b, op);
        }
        match op.take_any(&["sc", "acq_rel", "acquire", "release"]) {
            Some("acquire") => flags = run::FENCE_ACQUIRES,
            Some("release") => flags = run::FENCE_RELEASES,
            _ => {}
        }
        op.take_any(&["cta", "cluster", "gpu", "sys"]).ok_or_else(|| b.error("`fence` needs a scope such as `.gpu`"))?
    };
    if scope == "cta" {
        flags |= run::FENCE_OF_BLOCK;
    }
    b.count(op, 0..=0)?;
    b.emit(plain(run::memory_fence), Class::Other, [0; 8], 0, flags);
    Ok(())
}
