//! Asynchronous copies, `mbarrier`, bulk copies and clusters.

use super::memory::{locate, ordering};
use super::{Builder, Decoded, Opcode};
use crate::counters::Class;
use crate::exec::bulk::{self, Bulk, Place, Reduction};
use crate::exec::cluster as clusters;
use crate::exec::copies::{async_commit, async_copy as copy, async_wait};
use crate::exec::lanes::{map1, plain};
use crate::exec::mbarrier as barriers;
use crate::exec::memory::{ACQUIRE, BLOCK_SCOPE, NARROW_ADDRESS, RELEASE, STRONG};
use crate::exec::prefetch::prefetch_bulk;
use crate::memory::SHARED_WINDOW;
use crate::program::Reg;
use crate::ptx::ast::{Operand, Type};
use crate::space::Space;
use crate::tensor_map::Element;

const RANKS: [&str; 5] = ["1d", "2d", "3d", "4d", "5d"];

/// `cp.async` and its groups, and `cp.async.bulk.prefetch`.
pub(super) fn async_copy(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let reduces = op.take("reduce");
    if !op.take("async") || (reduces && !op.has("bulk")) {
        return b.unsupported(op, "no `.async`");
    }
    if op.take("mbarrier") {
        return arrive_after_copies(b, op);
    }
    if op.take("bulk") {
        if !op.take("prefetch") {
            return bulk_copy(b, op, reduces);
        }
        op.take("L2");
        if op.take("tensor") {
            return prefetch_tile(b, op);
        }
        if !op.take("global") {
            return b.unsupported(op, "these modifiers");
        }
        op.take("L2::cache_hint");
        b.count(op, 2..=3)?;
        let (base, offset, flags) = locate(b, op.text.operands.first(), Space::Global)?;
        let size = b.source(op, 1, Type::U32)?;
        b.emit(plain(prefetch_bulk), Class::Other, [base, size, 0, 0, 0, 0, 0, 0], offset as u64, flags);
        return Ok(());
    }
    if op.take("commit_group") {
        b.count(op, 0..=0)?;
        b.emit_ops(plain(async_commit), Class::AsyncCopy, &[]);
        return Ok(());
    }
    if op.take("wait_all") {
        b.count(op, 0..=0)?;
        b.emit(plain(async_wait), Class::AsyncCopy, [0; 8], u64::MAX, 0);
        return Ok(());
    }
    if op.take("wait_group") {
        b.count(op, 1..=1)?;
        let left = super::integer::immediate(b, op, 0)?;
        b.emit(plain(async_wait), Class::AsyncCopy, [0; 8], left.min(1 << 20), 0);
        return Ok(());
    }
    let level = op.take_any(&["ca", "cg"]);
    let (shared, global) = (op.take_any(&["shared", "shared::cta", "shared::cluster"]), op.take("global"));
    if level.is_none() || shared.is_none() || !global {
        return b.unsupported(op, "these state spaces; expected `cp.async.ca.shared.global` or `.cg`");
    }
    let (_, policy) = ordering(op);
    let found = op.text.operands.len();
    let sized = found == 4 + policy as usize;
    b.count(op, 3 + policy as usize..=4 + policy as usize)?;
    let bytes = super::integer::immediate(b, op, 2)?;
    let handlers = match (bytes, level) {
        (4, Some("ca")) => plain(copy::<4>),
        (8, Some("ca")) => plain(copy::<8>),
        (16, _) => plain(copy::<16>),
        _ => {
            return Err(b.error(format!("a copy of {bytes} bytes; expected 4, 8 or 16, and 16 for `.cg`")));
        }
    };
    let (target, target_offset, target_flags) = locate(b, op.text.operands.first(), Space::Shared)?;
    let (source, source_offset, flags) = locate(b, op.text.operands.get(1), Space::Global)?;
    let size = if sized { b.source(op, 3, Type::U32)? } else { b.constant(bytes as u128, 32, None) };
    let small = |o: i64| i32::try_from(o).ok();
    let (Some(to), Some(from)) = (small(target_offset), small(source_offset)) else {
        return Err(b.error("the offset does not fit 32 bits"));
    };
    let imm = (to as i64) << 32 | from as u32 as i64;
    b.emit(handlers, Class::AsyncCopy, [source, target, size, target_flags as u32, 0, 0, 0, 0], imm as u64, flags);
    Ok(())
}

/// `barrier.cluster`.
pub(super) fn cluster_barrier(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let which = op.take_any(&["arrive", "wait"]);
    op.take_any(&["release", "relaxed", "acquire"]);
    let flags = if op.take("aligned") { clusters::ALIGNED } else { 0 };
    b.count(op, 0..=0)?;
    match which {
        Some("arrive") => b.emit(plain(clusters::arrive), Class::Barrier, [0; 8], 0, flags),
        Some(_) => b.emit(plain(clusters::wait), Class::Barrier, [0; 8], 0, flags),
        None => return b.unsupported(op, "these modifiers"),
    }
    Ok(())
}

/// `mapa` and `getctarank`.
pub(super) fn map_address(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let shared = op.take("shared::cluster");
    let t = b.type_of(op)?;
    let window = if shared { 0 } else { SHARED_WINDOW };
    if !matches!(t, Type::U32 | Type::U64) || (t == Type::U32 && !shared) {
        return b.unsupported(op, "this type");
    }
    let bytes = t.bytes() as u8;
    if op.name == "mapa" {
        b.count(op, 3..=3)?;
        let ops = [b.dest(op, t)?, b.source(op, 1, t)?, b.source(op, 2, Type::U32)?, 0, 0, 0, 0, 0];
        b.emit(plain(clusters::map_address), Class::Integer, ops, window, bytes);
        return Ok(());
    }
    b.count(op, 2..=2)?;
    let ops = [b.dest(op, Type::U32)?, b.source(op, 1, t)?, 0, 0, 0, 0, 0, 0];
    b.emit(plain(clusters::rank_of), Class::Integer, ops, window, bytes);
    Ok(())
}

/// `mbarrier.*`.
pub(super) fn mbarrier(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let which = op.take_any(&[
        "init",
        "inval",
        "expect_tx",
        "complete_tx",
        "arrive",
        "arrive_drop",
        "test_wait",
        "try_wait",
        "pending_count",
    ]);
    let second = op.take_any(&["expect_tx", "noComplete", "parity"]);
    let relaxed = op.take_any(&["release", "acquire", "relaxed"]) == Some("relaxed");
    let scope = op.take_any(&["cta", "cluster", "gpu", "sys"]);
    let space = match op.take_any(&["shared", "shared::cta", "shared::cluster"]) {
        Some(_) => Space::Shared,
        None => Space::Generic,
    };
    if b.type_of(op)? != Type::B64 {
        return b.unsupported(op, "this type");
    }
    // Unsaid it is the block; but everybody arrives at other blocks' barriers without a word, and that works.
    let block = if scope == Some("cta") { BLOCK_SCOPE } else { 0 };
    let operands = &op.text.operands;
    let Some(which) = which else {
        return b.unsupported(op, "this operation");
    };
    if which == "pending_count" {
        b.count(op, 2..=2)?;
        let ops = [b.dest(op, Type::U32)?, b.source(op, 1, Type::B64)?];
        b.emit_ops(map1(barriers::pending), Class::Integer, &ops);
        return Ok(());
    }
    if matches!(which, "test_wait" | "try_wait") {
        b.count(op, if which == "try_wait" { 3..=4 } else { 3..=3 })?;
        let p = b.predicate_dest(operands.first())?;
        let (base, offset, place) = locate(b, operands.get(1), space)?;
        let parity = second == Some("parity");
        let argument = b.source(op, 2, if parity { Type::U32 } else { Type::B64 })?;
        if operands.len() == 4 {
            b.source(op, 3, Type::U32)?;
        }
        let mode = if parity { barriers::BY_PARITY } else { 0 } | if which == "try_wait" { barriers::TRIES } else { 0 };
        let flags = place | STRONG | block | if relaxed { 0 } else { ACQUIRE };
        b.emit(plain(barriers::wait), Class::Barrier, [base, p, argument, 0, 0, mode, 0, 0], offset as u64, flags);
        return Ok(());
    }
    let (what, has_result, least) = match (which, second) {
        ("init", None) => (barriers::INIT, false, 2),
        ("inval", None) => (barriers::INVALIDATE, false, 1),
        ("expect_tx", None) => (barriers::EXPECT, false, 2),
        ("complete_tx", None) => (barriers::COMPLETE, false, 2),
        ("arrive", None | Some("noComplete")) => (barriers::ARRIVE, true, 2),
        ("arrive_drop", None | Some("noComplete")) => (barriers::ARRIVE_DROP, true, 2),
        ("arrive", Some("expect_tx")) => (barriers::ARRIVE_EXPECT, true, 3),
        ("arrive_drop", Some("expect_tx")) => (barriers::ARRIVE_EXPECT_DROP, true, 3),
        _ => return b.unsupported(op, "these modifiers"),
    };
    // The result may be left out where the barrier is another block's.
    let has_result = has_result && !matches!(operands.first(), Some(Operand::Address { .. }));
    let at = has_result as usize;
    let optional = matches!(what, barriers::ARRIVE | barriers::ARRIVE_DROP);
    let least = least - (least > 1 && !has_result && matches!(which, "arrive" | "arrive_drop")) as usize;
    b.count(op, if optional { least..=least + 1 } else { least..=least })?;
    let d = if has_result { b.dest(op, Type::B64)? } else { b.scratch(64) };
    let (base, offset, place) = locate(b, operands.get(at), space)?;
    let argument = match operands.len() > at + 1 {
        true => b.source(op, at + 1, Type::U32)?,
        false => b.constant(1, 32, None),
    };
    let releases = !relaxed && !matches!(what, barriers::INIT | barriers::INVALIDATE);
    let strong = if what == barriers::INIT { 0 } else { STRONG };
    let flags = place | strong | block | if releases { RELEASE } else { 0 };
    let ops = [base, d, argument, 0, 0, what, 0, 0];
    b.emit(plain(barriers::update), Class::Barrier, ops, offset as u64, flags);
    Ok(())
}

/// `cp.async.mbarrier.arrive`.
fn arrive_after_copies(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let no_increment = op.take("noinc");
    if !op.take("arrive") {
        return b.unsupported(op, "these modifiers");
    }
    let space = match op.take_any(&["shared", "shared::cta"]) {
        Some(_) => Space::Shared,
        None => Space::Generic,
    };
    if b.type_of(op)? != Type::B64 {
        return b.unsupported(op, "this type");
    }
    b.count(op, 1..=1)?;
    let (base, offset, place) = locate(b, op.text.operands.first(), space)?;
    let (d, one) = (b.scratch(64), b.constant(1, 32, None));
    let ops = [base, d, one, 0, 0, no_increment as u32, 0, 0];
    b.emit(
        plain(barriers::arrive_after_copies),
        Class::AsyncCopy,
        ops,
        offset as u64,
        place | STRONG | RELEASE | BLOCK_SCOPE,
    );
    Ok(())
}

fn place(b: &mut Builder, operand: Option<&Operand>, space: Space) -> Decoded<Place> {
    let (reg, offset, flags) = locate(b, operand, space)?;
    Ok(Place { reg, offset, narrow: flags & NARROW_ADDRESS != 0, space: Space::of(flags) })
}

/// The space of a bulk copy's source or target, in the order of the text.
fn side(op: &mut Opcode) -> Option<Space> {
    op.take_any(&["shared::cluster", "shared::cta", "global"]).map(|word| match word {
        "global" => Space::Global,
        _ => Space::Shared,
    })
}

fn reduction(op: &mut Opcode) -> Option<Reduction> {
    let word = op.take_any(&["add", "min", "max", "inc", "dec", "and", "or", "xor"])?;
    Some(match word {
        "add" => Reduction::Add,
        "min" => Reduction::Min,
        "max" => Reduction::Max,
        "inc" => Reduction::Inc,
        "dec" => Reduction::Dec,
        "and" => Reduction::And,
        "or" => Reduction::Or,
        _ => Reduction::Xor,
    })
}

/// `cp.async.bulk` without `prefetch`, and `cp.reduce.async.bulk`.
fn bulk_copy(b: &mut Builder, op: &mut Opcode, reduces: bool) -> Decoded {
    if op.take("commit_group") {
        b.count(op, 0..=0)?;
        b.emit_ops(plain(bulk::commit_group), Class::AsyncCopy, &[]);
        return Ok(());
    }
    if op.take("wait_group") {
        op.take("read");
        b.count(op, 1..=1)?;
        let left = super::integer::immediate(b, op, 0)?;
        b.emit(plain(bulk::wait_group), Class::AsyncCopy, [0; 8], left.min(1 << 20), 0);
        return Ok(());
    }
    let tensor = op.take("tensor");
    let rank = if tensor { op.take_any(&RANKS) } else { None };
    let (Some(to), Some(from)) = (side(op), side(op)) else {
        return b.unsupported(op, "these state spaces");
    };
    op.take("tile");
    let counts = op.take("mbarrier::complete_tx::bytes");
    let grouped = op.take("bulk_group");
    let multicast = op.take("multicast::cluster");
    let policy = op.take("L2::cache_hint");
    let combined = if reduces { reduction(op) } else { None };
    op.take("noftz");
    if counts == grouped || (reduces && combined.is_none()) || (tensor && rank.is_none()) {
        return b.unsupported(op, "these modifiers");
    }
    let operands = &op.text.operands;
    let mut bulk = match tensor {
        false => {
            let element = if reduces { element(b, op)? } else { Element::U8 };
            let expected = 3 + counts as usize + multicast as usize + policy as usize;
            b.count(op, expected..=expected)?;
            Bulk {
                to: place(b, operands.first(), to)?,
                from: place(b, operands.get(1), from)?,
                size: Some(b.source(op, 2, Type::U32)?),
                barrier: None,
                multicast: None,
                reduction: combined.map(|how| (how, element)),
                coordinates: Vec::new(),
            }
        }
        true => {
            let expected = 2 + counts as usize + multicast as usize + policy as usize;
            b.count(op, expected..=expected)?;
            let (map, memory) = if counts { (1, 0) } else { (0, 1) };
            let (map, coordinates) = tile(b, operands.get(map), rank)?;
            let memory = place(b, operands.get(memory), Space::Shared)?;
            let (to, from) = if counts { (memory, map) } else { (map, memory) };
            // The map says of which type the elements are.
            let reduction = combined.map(|how| (how, Element::U8));
            Bulk { to, from, size: None, barrier: None, multicast: None, reduction, coordinates }
        }
    };
    let mut next = if tensor { 2 } else { 3 };
    if counts {
        bulk.barrier = Some(place(b, operands.get(next), Space::Shared)?);
        next += 1;
    }
    if multicast {
        bulk.multicast = Some(b.source(op, next, Type::U16)?);
    }
    b.bulks.push(bulk);
    let at = b.bulks.len() as u64 - 1;
    b.emit(plain(bulk::copy), Class::AsyncCopy, [0; 8], at, Space::Global as u8);
    Ok(())
}

/// `[map, {x, y}]`: where the map is, and the registers with the coordinates.
fn tile(b: &mut Builder, operand: Option<&Operand>, rank: Option<&str>) -> Decoded<(Place, Vec<Reg>)> {
    let Some(Operand::Indexed(items)) = operand else {
        return Err(b.error("expected a tensor map with coordinates, `[map, {x, y}]`"));
    };
    let [address, Operand::Vector(coordinates)] = items.as_slice() else {
        return Err(b.error("expected a tensor map with coordinates, `[map, {x, y}]`"));
    };
    let coordinates = coordinates.iter().map(|at| b.source_operand(at, Type::S32)).collect::<Decoded<Vec<_>>>()?;
    if rank != RANKS.get(coordinates.len().wrapping_sub(1)).copied() {
        return Err(b.error(format!("{} coordinates for a `.{}` copy", coordinates.len(), rank.unwrap_or("?"))));
    }
    Ok((place(b, Some(address), Space::Generic)?, coordinates))
}

/// `cp.async.bulk.prefetch.tensor`.
fn prefetch_tile(b: &mut Builder, op: &mut Opcode) -> Decoded {
    let rank = op.take_any(&RANKS);
    if !op.take("global") {
        return b.unsupported(op, "these modifiers");
    }
    op.take("tile");
    let policy = op.take("L2::cache_hint");
    b.count(op, 1 + policy as usize..=1 + policy as usize)?;
    let (from, coordinates) = tile(b, op.text.operands.first(), rank)?;
    // The map says the rest.
    b.bulks.push(Bulk { to: from, from, size: None, barrier: None, multicast: None, reduction: None, coordinates });
    let at = b.bulks.len() as u64 - 1;
    b.emit(plain(bulk::prefetch_tile), Class::Other, [0; 8], at, Space::Global as u8);
    Ok(())
}

fn element(b: &Builder, op: &mut Opcode) -> Decoded<Element> {
    Ok(match b.type_of(op)? {
        Type::U32 | Type::B32 => Element::U32,
        Type::S32 => Element::S32,
        Type::U64 | Type::B64 => Element::U64,
        Type::S64 => Element::S64,
        Type::F16 => Element::F16,
        Type::Bf16 => Element::Bf16,
        Type::F32 => Element::F32,
        Type::F64 => Element::F64,
        other => return b.unsupported(op, &format!("`.{}`", other.name())),
    })
}
