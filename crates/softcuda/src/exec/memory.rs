//! Loads and stores.
//!
//! An access first turns the 32 device addresses into host addresses, checking alignment and bounds on the way. The
//! allocation that an instruction used last is remembered, so the usual access costs one subtraction and one comparison per lane,
//! all in one vectorised loop; whatever that loop cannot prove right goes to [`slow`], lane by lane, which finds other
//! allocations, splits generic addresses by window, and names the lane that is wrong.
//!
//! Lanes outside the mask take the address of the first lane inside it. So the loops above need no mask, and a load may
//! read in every lane and throw the surplus away.
//!
//! Weak accesses are plain reads and writes through raw pointers: a racy kernel gets what the host's memory gives, as it
//! would on a GPU. Handlers are called through pointers, so the compiler cannot move an access across an instruction.

use super::banks::{conflicts, conflicts_of_row};
use super::cluster::split_rank;
use super::sectors::count_sectors;
use super::vectors::{Placed, add_32, add_64, is_row_32, is_row_64, place};
use super::{Context, FULL};
use crate::counters::Class;
use crate::fault::{Fault, FaultKind};
use crate::program::{Control, Instruction};
use crate::sanitizer::Touch;
use crate::space::{Kind, Space, lanes_of};

/// The longest step of a [`Row`]: 32 steps stay far below 2^32.
const LONGEST_STRIDE: u64 = 1 << 24;
/// The operand of a load or a store that is not 0 where the address register holds the same constant in every lane.
pub(crate) const SAME_ADDRESS: usize = 7;
/// Flag: the address register has 32 bits.
pub(crate) const NARROW_ADDRESS: u8 = 8;
/// Flag: volatile, relaxed, acquire or release.
pub(crate) const STRONG: u8 = 16;
/// Flag: release or acq_rel.
pub(crate) const RELEASE: u8 = 32;
/// Flag: acquire or acq_rel.
pub(crate) const ACQUIRE: u8 = 64;
/// Flag: the scope is the block (`.cta`).
pub(crate) const BLOCK_SCOPE: u8 = 128;

/// The allocation an instruction used last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cached {
    pub(super) base: u64,
    pub(super) len: u64,
    /// Host address minus device address.
    pub(super) delta: u64,
    /// Index in the snapshot.
    pub(super) index: usize,
}

impl Cached {
    pub(crate) const NOTHING: Cached = Cached { base: u64::MAX, len: 0, delta: 0, index: usize::MAX };
}

/// Host addresses of an access, valid in every lane.
pub(crate) struct Hosts {
    pub(crate) at: [u64; 32],
}

/// Host addresses of an access by all 32 lanes: lane l's is `first + l * stride`.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) first: u64,
    /// 0 when every lane accesses the same place, the bytes of the access when each continues where the one before ends.
    pub(crate) stride: u64,
}

/// Checks and counts an access by all lanes whose addresses go up by equal steps, which is how most are, without a look
/// at each lane. `None`: it is not such an access, or not one that is certainly right; [`resolve`] has it.
#[inline(always)]
pub(crate) fn resolve_row<const WIDE: bool>(
    ctx: &mut Context,
    ins: &Instruction,
    bytes: u64,
    stores: bool,
) -> Option<Row> {
    let (first, stride) = if ins.ops[SAME_ADDRESS] != 0 {
        (ctx.lanes::<u64>(ins.ops[0])[0].wrapping_add(ins.imm), 0)
    } else if ins.flags & NARROW_ADDRESS != 0 {
        let base = ctx.lanes::<u32>(ins.ops[0]);
        let stride = base[1].wrapping_sub(base[0]);
        if stride > LONGEST_STRIDE as u32 || !is_row_32::<WIDE>(base, stride) {
            return None;
        }
        (base[0].wrapping_add(ins.imm as u32) as u64, stride as u64)
    } else {
        let base = ctx.lanes::<u64>(ins.ops[0]);
        let stride = base[1].wrapping_sub(base[0]);
        if stride > LONGEST_STRIDE || !is_row_64::<WIDE>(base, stride) {
            return None;
        }
        (base[0].wrapping_add(ins.imm), stride)
    };
    if (first | stride) & (bytes - 1) != 0 || ctx.sanitizer.is_some() {
        return None;
    }
    let span = 31 * stride + bytes;
    let inside = |base: u64, len: u64| {
        let offset = first.wrapping_sub(base);
        offset <= len && span <= len - offset
    };
    let moved = 32 * bytes;
    match Space::of(ins.flags) {
        Space::Global | Space::Generic => {
            // A generic address in a window lies in no allocation.
            let mut cached = ctx.sites[ins.site as usize];
            if !inside(cached.base, cached.len) {
                cached = remember(ctx, ins, first)?;
                if !inside(cached.base, cached.len) {
                    return None;
                }
            }
            let sectors = match stride {
                0 => 1,
                1..=32 => (first + span).div_ceil(32) - first / 32,
                _ => 32,
            };
            if stores {
                ctx.counters.global_store_sectors += sectors;
                ctx.counters.global_store_bytes += moved;
                let allocation = &ctx.memory.allocations[cached.index];
                if !allocation.is_complete() {
                    if stride > bytes {
                        (0..32).for_each(|l| allocation.mark(first + l * stride, bytes as usize));
                    } else {
                        allocation.mark(first, span as usize);
                    }
                }
            } else {
                ctx.counters.global_load_sectors += sectors;
                ctx.counters.global_load_bytes += moved;
                ctx.memory.count_read(cached.index, sectors);
            }
            Some(Row { first: first.wrapping_add(cached.delta), stride })
        }
        Space::Shared => {
            if !inside(0, ctx.facts.shared_bytes as u64) {
                return None;
            }
            if stores {
                ctx.counters.shared_store_bytes += moved;
            } else {
                ctx.counters.shared_load_bytes += moved;
            }
            if stride != bytes && stride != 0 {
                ctx.counters.count_wavefronts(conflicts_of_row(first, stride, bytes));
            }
            Some(Row { first: (ctx.block.shared.as_mut_ptr() as u64).wrapping_add(first), stride })
        }
        Space::Param if !stores => {
            if !inside(0, ctx.program.param_bytes as u64) {
                return None;
            }
            Some(Row { first: (ctx.facts.params.as_ptr() as u64).wrapping_add(first), stride })
        }
        _ => None,
    }
}

/// Finds the allocation at an address, and remembers it for the instruction.
#[cold]
#[inline(never)]
fn remember(ctx: &mut Context, ins: &Instruction, address: u64) -> Option<Cached> {
    let index = ctx.memory.allocations.partition_point(|a| a.base <= address).checked_sub(1)?;
    let allocation = &ctx.memory.allocations[index];
    if address >= allocation.end() {
        return None;
    }
    let found = Cached { base: allocation.base, len: allocation.len as u64, delta: allocation.delta(), index };
    ctx.sites[ins.site as usize] = found;
    Some(found)
}

/// The device addresses of an instruction, `ops[0]` the address register and `imm` the offset, with the lanes outside
/// the mask given the address of the first inside.
pub(crate) fn addresses(ctx: &Context, ins: &Instruction, mask: u32) -> [u64; 32] {
    addresses_as::<false>(ctx, ins, mask)
}

#[inline(always)]
fn addresses_as<const WIDE: bool>(ctx: &Context, ins: &Instruction, mask: u32) -> [u64; 32] {
    if ins.flags & NARROW_ADDRESS != 0 {
        add_32::<WIDE>(ctx.lanes(ins.ops[0]), ins.imm as u32, mask)
    } else {
        add_64::<WIDE>(ctx.lanes(ins.ops[0]), ins.imm, mask)
    }
}

/// [`addresses`] and [`resolve`], out of line: in every load and store they would be most of it.
#[inline(always)]
pub(crate) fn find<const WIDE: bool>(
    ctx: &mut Context,
    ins: &Instruction,
    mask: u32,
    bytes: u64,
    kind: Kind,
) -> Result<Hosts, Control> {
    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt"))]
    #[inline(never)]
    fn wide(ctx: &mut Context, ins: &Instruction, mask: u32, bytes: u64, kind: Kind) -> Result<Hosts, Control> {
        resolve_as::<true>(ctx, ins, mask, &addresses_as::<true>(ctx, ins, mask), bytes, kind)
    }
    #[inline(never)]
    fn portable(ctx: &mut Context, ins: &Instruction, mask: u32, bytes: u64, kind: Kind) -> Result<Hosts, Control> {
        resolve_as::<false>(ctx, ins, mask, &addresses_as::<false>(ctx, ins, mask), bytes, kind)
    }
    if WIDE {
        // SAFETY: the CPU has the features: a handler asks that has them itself (`Operation`).
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_unsafe, reason = "there it has none"))]
        unsafe {
            wide(ctx, ins, mask, bytes, kind)
        }
    } else {
        portable(ctx, ins, mask, bytes, kind)
    }
}

/// Checks an access of `bytes` bytes per lane and finds the host memory.
pub(crate) fn resolve(
    ctx: &mut Context,
    ins: &Instruction,
    mask: u32,
    addresses: &[u64; 32],
    bytes: u64,
    kind: Kind,
) -> Result<Hosts, Control> {
    resolve_as::<false>(ctx, ins, mask, addresses, bytes, kind)
}

#[inline(always)]
fn resolve_as<const WIDE: bool>(
    ctx: &mut Context,
    ins: &Instruction,
    mask: u32,
    addresses: &[u64; 32],
    bytes: u64,
    kind: Kind,
) -> Result<Hosts, Control> {
    let space = Space::of(ins.flags);
    let first = addresses[mask.trailing_zeros() as usize & 31];
    let (inner, window) = match space {
        Space::Generic => {
            let (inner, offset) = Space::classify(first);
            (inner, first.wrapping_sub(offset))
        }
        other => (other, 0),
    };
    let (base, len, delta, stride) = match inner {
        Space::Global => {
            let mut c = ctx.sites[ins.site as usize];
            if first.wrapping_sub(c.base) >= c.len {
                c = remember(ctx, ins, first).unwrap_or(c);
            }
            (c.base, c.len, c.delta, 0)
        }
        Space::Shared => {
            let host = ctx.block.shared.as_mut_ptr() as u64;
            (window, ctx.facts.shared_bytes as u64, host.wrapping_sub(window), 0)
        }
        Space::Local => {
            let len = ctx.program.local_bytes as u64;
            (window, len, (ctx.warp.local.as_mut_ptr() as u64).wrapping_sub(window), len)
        }
        Space::Param => {
            let host = ctx.facts.params.as_ptr() as u64;
            (window, ctx.program.param_bytes as u64, host.wrapping_sub(window), 0)
        }
        Space::Generic => unreachable!("classified above"),
    };
    let mut hosts = Hosts { at: [0; 32] };
    let at = &mut hosts.at;
    let Placed { inside, any, contiguous } = place::<WIDE>(addresses, base, len.wrapping_sub(bytes), delta, bytes, at);
    if stride != 0 {
        for l in 0..32 {
            at[l] = at[l].wrapping_add(stride * l as u64);
        }
    }
    if len < bytes || !inside || any & (bytes - 1) != 0 || (kind != Kind::Load && inner == Space::Param) {
        return slow(ctx, ins, mask, addresses, bytes, kind);
    }
    account(ctx, ins, mask, addresses, bytes, kind, inner, window, contiguous && mask == FULL)?;
    Ok(hosts)
}

/// Counters, the sanitizer and the initialised bits, for an access that lies in one space.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the facts of one access")]
fn account(
    ctx: &mut Context,
    ins: &Instruction,
    mask: u32,
    addresses: &[u64; 32],
    bytes: u64,
    kind: Kind,
    space: Space,
    window: u64,
    contiguous: bool,
) -> Result<(), Control> {
    let moved = mask.count_ones() as u64 * bytes;
    match space {
        Space::Global => {
            let sectors = if contiguous {
                (addresses[0] + 32 * bytes).div_ceil(32) - addresses[0] / 32
            } else {
                count_sectors(addresses)
            };
            match kind {
                Kind::Load => {
                    ctx.counters.global_load_sectors += sectors;
                    ctx.counters.global_load_bytes += moved;
                    ctx.memory.count_read(ctx.sites[ins.site as usize].index, sectors);
                }
                Kind::Store => {
                    ctx.counters.global_store_sectors += sectors;
                    ctx.counters.global_store_bytes += moved;
                }
                Kind::Atomic => ctx.counters.atomic_sectors += sectors,
            }
            if ctx.sanitizer.is_some() {
                sanitize(ctx, ins, mask, addresses, bytes, kind, Space::Global, None)?;
            }
            if kind != Kind::Load {
                let allocation = &ctx.memory.allocations[ctx.sites[ins.site as usize].index];
                if !allocation.is_complete() {
                    if contiguous {
                        allocation.mark(addresses[0], 32 * bytes as usize);
                    } else {
                        lanes_of(mask).for_each(|l| allocation.mark(addresses[l], bytes as usize));
                    }
                }
            }
        }
        Space::Shared => {
            match kind {
                Kind::Load => ctx.counters.shared_load_bytes += moved,
                Kind::Store => ctx.counters.shared_store_bytes += moved,
                Kind::Atomic => {}
            }
            if !contiguous {
                ctx.counters.count_wavefronts(conflicts(addresses, mask, bytes));
            }
            if ctx.sanitizer.is_some() {
                let mut offsets = [0u64; 32];
                for l in 0..32 {
                    offsets[l] = addresses[l].wrapping_sub(window);
                }
                sanitize(ctx, ins, mask, &offsets, bytes, kind, Space::Shared, None)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Tells the sanitizer, of shared memory with its owner where that is another block.
#[cold]
#[inline(never)]
#[expect(clippy::too_many_arguments, reason = "the facts of one access")]
fn sanitize(
    ctx: &mut Context,
    ins: &Instruction,
    mask: u32,
    addresses: &[u64; 32],
    bytes: u64,
    kind: Kind,
    space: Space,
    owner: Option<u64>,
) -> Result<(), Control> {
    let Some(mut sanitizer) = ctx.sanitizer.take() else {
        return Ok(());
    };
    let strong = ins.flags & STRONG != 0 || kind == Kind::Atomic;
    let touch = Touch {
        space,
        kind,
        strong,
        acquire: ins.flags & ACQUIRE != 0,
        release: ins.flags & RELEASE != 0,
        block_scope: ins.flags & BLOCK_SCOPE != 0,
        asynchronous: ins.class == Class::AsyncCopy && kind == Kind::Store,
        bytes,
        allocation: ctx.sites[ins.site as usize].index,
    };
    let site = ctx.site();
    let verdict = match owner {
        // An arrival that releases nothing is over when the phase is, of which the sanitizer sees nothing.
        Some(owner) => {
            let lasts = ins.class != Class::Barrier || touch.release;
            sanitizer.touch_in(site, owner, mask, addresses, touch, lasts)
        }
        None => sanitizer.touch(site, mask, addresses, touch),
    };
    ctx.sanitizer = Some(sanitizer);
    verdict.or_else(|(lane, fault)| ctx.report(ins, 1 << lane, fault))
}

/// The access again, one lane at a time.
#[cold]
#[inline(never)]
fn slow(
    ctx: &mut Context,
    ins: &Instruction,
    mask: u32,
    addresses: &[u64; 32],
    bytes: u64,
    kind: Kind,
) -> Result<Hosts, Control> {
    let mut at = [0u64; 32];
    let space = Space::of(ins.flags);
    // Lanes of each kind of memory are accounted together: global lanes by allocation.
    let mut spaces = [(Space::Global, 0u64, usize::MAX); 32];
    // Lanes whose access is a fault, where the sanitizer goes on: they access what nobody reads.
    let mut astray = 0u32;
    let nowhere = (&raw mut *ctx.nowhere) as u64;
    for l in lanes_of(mask) {
        let address = addresses[l];
        let (inner, offset) = match space {
            Space::Generic => Space::classify(address),
            other => (other, address),
        };
        let verb = match kind {
            Kind::Load => "load",
            Kind::Store => "store",
            Kind::Atomic => "atomic access",
        };
        if !address.is_multiple_of(bytes) {
            let message = format!("{verb} of {bytes} bytes at {address:#x}; expected a multiple of {bytes}");
            ctx.report(ins, 1 << l, Fault::new(FaultKind::Misaligned, message))?;
            (astray, at[l]) = (astray | 1 << l, nowhere);
            continue;
        }
        let inside = |len: u64| len >= bytes && offset <= len - bytes;
        let (what, len, host) = match inner {
            Space::Global => {
                let found = ctx.memory.find(address).filter(|a| bytes <= a.end() - address).cloned();
                let Some(allocation) = found else {
                    let fault = ctx.memory.explain(address, bytes);
                    let fault = Fault::new(fault.kind(), format!("{verb} of {}", fault.message()));
                    ctx.report(ins, 1 << l, fault)?;
                    (astray, at[l]) = (astray | 1 << l, nowhere);
                    continue;
                };
                let index = ctx.memory.allocations.partition_point(|a| a.base <= address) - 1;
                ctx.sites[ins.site as usize] =
                    Cached { base: allocation.base, len: allocation.len as u64, delta: allocation.delta(), index };
                at[l] = address.wrapping_add(allocation.delta());
                spaces[l] = (Space::Global, 0, index);
                continue;
            }
            Space::Shared if split_rank(offset).0.is_some() => match ctx.shared_range(offset, bytes) {
                Ok((host, rank, inside)) => {
                    at[l] = host as u64;
                    let own = rank == ctx.block.rank as usize;
                    spaces[l] = (Space::Shared, address - inside, if own { 0 } else { rank + 1 });
                    continue;
                }
                Err(fault) => {
                    let fault = Fault::new(fault.kind(), format!("{verb} of {}", fault.message()));
                    ctx.report(ins, 1 << l, fault)?;
                    (astray, at[l]) = (astray | 1 << l, nowhere);
                    continue;
                }
            },
            Space::Shared => {
                ("shared memory of the block", ctx.facts.shared_bytes as u64, ctx.block.shared.as_mut_ptr() as u64)
            }
            Space::Local => {
                let len = ctx.program.local_bytes as u64;
                ("local memory of the thread", len, ctx.warp.local.as_mut_ptr() as u64 + len * l as u64)
            }
            Space::Param if kind != Kind::Load => {
                let message = format!("{verb} to kernel parameters, which are read-only");
                ctx.report(ins, 1 << l, Fault::new(FaultKind::OutOfBounds, message))?;
                (astray, at[l]) = (astray | 1 << l, nowhere);
                continue;
            }
            Space::Param => {
                ("parameters of the kernel", ctx.program.param_bytes as u64, ctx.facts.params.as_ptr() as u64)
            }
            Space::Generic => unreachable!("classified above"),
        };
        if !inside(len) {
            let past = offset.saturating_add(bytes).saturating_sub(len);
            let message = format!(
                "{verb} of {bytes} bytes at offset {offset:#x} ends {past} bytes past the {len} bytes of the {what}"
            );
            ctx.report(ins, 1 << l, Fault::new(FaultKind::OutOfBounds, message))?;
            (astray, at[l]) = (astray | 1 << l, nowhere);
            continue;
        }
        at[l] = host + offset;
        spaces[l] = (inner, address - offset, 0);
    }
    let mut left = mask & !astray;
    while left != 0 {
        let key = spaces[left.trailing_zeros() as usize];
        let together = lanes_of(left).filter(|&l| spaces[l] == key).fold(0, |m, l| m | 1 << l);
        left &= !together;
        if key.0 == Space::Global {
            let allocation = &ctx.memory.allocations[key.2];
            ctx.sites[ins.site as usize] =
                Cached { base: allocation.base, len: allocation.len as u64, delta: allocation.delta(), index: key.2 };
        }
        if key.0 == Space::Shared && key.2 != 0 {
            account_remote(ctx, ins, together, addresses, bytes, kind, key.1, key.2 - 1)?;
            continue;
        }
        let substitute = addresses[together.trailing_zeros() as usize];
        let mut part = [substitute; 32];
        lanes_of(together).for_each(|l| part[l] = addresses[l]);
        account(ctx, ins, together, &part, bytes, kind, key.0, key.1, false)?;
    }
    // Every lane gets an address that can be read.
    let first = at[mask.trailing_zeros() as usize];
    (0..32).filter(|l| mask >> l & 1 == 0).for_each(|l| at[l] = first);
    Ok(Hosts { at })
}

/// Counters and the sanitizer, for an access to the shared memory of another block of the cluster.
#[expect(clippy::too_many_arguments, reason = "the facts of one access")]
fn account_remote(
    ctx: &mut Context,
    ins: &Instruction,
    mask: u32,
    addresses: &[u64; 32],
    bytes: u64,
    kind: Kind,
    window: u64,
    rank: usize,
) -> Result<(), Control> {
    let moved = mask.count_ones() as u64 * bytes;
    match kind {
        Kind::Load => ctx.counters.shared_load_bytes += moved,
        Kind::Store => ctx.counters.shared_store_bytes += moved,
        Kind::Atomic => {}
    }
    if ctx.sanitizer.is_none() {
        return Ok(());
    }
    let owner = ctx.cluster().blocks[rank];
    let offset = |l: usize| addresses[l].wrapping_sub(window);
    let first = offset(mask.trailing_zeros() as usize & 31);
    let offsets = std::array::from_fn(|l| if mask >> l & 1 != 0 { offset(l) } else { first });
    sanitize(ctx, ins, mask, &offsets, bytes, kind, Space::Shared, Some(owner))
}
