//! Operations of a warp's lanes together: `shfl`, `vote`, `match`, `redux`, `activemask`, `elect`, `bar.warp.sync`.
//!
//! Each names its lanes in a member mask. Named lanes that are elsewhere in the program are waited for: the group is
//! parked and runs again, grown, when they come to the same instruction. A named lane that has exited, does not exist, or
//! can never come is a fault, and so is a shuffle that reads a lane outside the group. Lanes that pass different masks are groups
//! apart, each of which acts as soon as it is complete.

use super::lanes::{Operation, handlers};
use super::{Context, FULL, Parked, Wait};
use crate::fault::FaultKind;
use crate::program::{Control, Handlers, Instruction};
use crate::space::lanes_of;

/// The member mask's register.
const MEMBERS: usize = 4;

impl Context<'_> {
    /// Brings the named lanes together. Ok means that all lanes that those of `mask` name are here; whether they are several groups,
    /// of different masks.
    #[inline(always)]
    fn gather(&mut self, ins: &Instruction, mask: u32) -> Result<bool, Control> {
        let members = self.lanes::<u32>(ins.ops[MEMBERS]);
        let first = mask.trailing_zeros() as usize & 31;
        let named = members[first];
        let apart = members.iter().fold(0, |apart, m| apart | (m ^ named));
        if named == mask && (apart == 0 || lanes_of(mask).all(|l| members[l] == named)) {
            return Ok(false);
        }
        let members = *members;
        self.gather_slow(ins, mask, &members)
    }

    #[cold]
    fn gather_slow(&mut self, ins: &Instruction, mask: u32, members: &[u32; 32]) -> Result<bool, Control> {
        if let Some(lane) = lanes_of(mask).find(|&l| members[l] >> l & 1 == 0) {
            let message =
                format!("lane {lane} executes with member mask {:#010x}, which does not name it", members[lane]);
            return Err(self.fail(ins, 1 << lane, FaultKind::InactiveShuffle, message));
        }
        let incomplete =
            groups(members, mask).filter(|&(named, here)| named != here).fold(0, |all, (_, here)| all | here);
        if incomplete == 0 {
            return Ok(true);
        }
        let pc = self.warp.pc;
        let here: u32 =
            self.warp.parked.iter().filter(|p| p.pc == pc && p.wait == Wait::Lanes).fold(0, |m, p| m | p.mask);
        if here != 0 {
            self.warp.parked.retain(|p| !(p.pc == pc && p.wait == Wait::Lanes));
            self.warp.active |= here;
            // The same instruction again, with more lanes; it counts once.
            self.uncount();
            return Err(Control::Jump);
        }
        for (named, here) in groups(members, incomplete) {
            let missing = named & !here;
            // Those that pass by, or pass another mask.
            let elsewhere = missing & (self.warp.active | !self.warp.alive());
            if elsewhere != 0 {
                let lane = elsewhere.trailing_zeros();
                let where_it_is = match mask >> lane & 1 {
                    1 => format!("that passes {:#010x}", members[lane as usize]),
                    _ => self.where_is(lane),
                };
                let message = format!("member mask {named:#010x} names lane {lane}, but {where_it_is}");
                return Err(self.fail(ins, here, FaultKind::InactiveShuffle, message));
            }
        }
        self.uncount();
        if incomplete == mask {
            return Err(self.park(ins, mask, Wait::Lanes));
        }
        // The others are complete, and need not wait.
        self.warp.parked.push(Parked { pc, mask: incomplete, wait: Wait::Lanes });
        self.warp.active &= !incomplete;
        Err(Control::Jump)
    }

    /// Carries an instruction out for each group of lanes that pass the same mask.
    #[cold]
    fn each_group(
        &mut self,
        ins: &Instruction,
        mask: u32,
        run: fn(&mut Context, &Instruction, u32) -> Control,
    ) -> Control {
        let members = *self.lanes::<u32>(ins.ops[MEMBERS]);
        let mut apart = groups(&members, mask).map(|(_, here)| run(self, ins, here));
        apart.find(|control| *control != Control::Next).unwrap_or(Control::Next)
    }

    /// Every lane that is left waits, and these wait for lanes that will not come.
    #[cold]
    pub(crate) fn stuck_collective(&mut self, _ins: &Instruction, stuck: Parked) -> Control {
        let ins = self.code[stuck.pc as usize];
        let named = self.lanes::<u32>(ins.ops[MEMBERS])[stuck.mask.trailing_zeros() as usize & 31];
        let lane = (named & !stuck.mask).trailing_zeros();
        let message =
            format!("member mask {named:#010x} names lane {lane}, which never comes: {}", self.where_is(lane));
        self.fail(&ins, stuck.mask, FaultKind::InactiveShuffle, message)
    }
}

/// The different masks that lanes pass, each with those of `mask` that pass it.
fn groups(members: &[u32; 32], mask: u32) -> impl Iterator<Item = (u32, u32)> {
    let mut left = mask;
    std::iter::from_fn(move || {
        let named = *members.get(left.trailing_zeros() as usize)?;
        let here = lanes_of(left).filter(|&l| members[l] == named).fold(0, |m, l| m | 1 << l);
        left &= !here;
        Some((named, here))
    })
}

/// Gathers the lanes, or returns what `gather` says; several groups are each carried out by the function.
macro_rules! gather {
    ($ctx:ident, $ins:ident, $mask:ident, $each:expr) => {
        match $ctx.gather($ins, $mask) {
            Ok(false) => {}
            Ok(true) => return $ctx.each_group($ins, $mask, $each),
            Err(control) => return control,
        }
    };
}

/// Modes of `shfl`, in `flags`.
pub(crate) const SHUFFLE_UP: u8 = 0;
pub(crate) const SHUFFLE_DOWN: u8 = 1;
pub(crate) const SHUFFLE_BFLY: u8 = 2;
pub(crate) const SHUFFLE_IDX: u8 = 3;

struct Shuffle<const MODE: u8>;

impl<const MODE: u8> Operation for Shuffle<MODE> {
    #[inline(always)]
    fn run<const WIDE: bool>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
        gather!(ctx, ins, mask, shuffle_any::<MODE>);
        if MODE == SHUFFLE_BFLY && mask == FULL && ins.imm == 0 {
            let (b, c) = (ctx.lanes::<u32>(ins.ops[2]), ctx.lanes::<u32>(ins.ops[3]));
            let mut apart = 0;
            for l in 0..32 {
                apart |= (b[l] ^ b[0]) | (c[l] ^ 31);
            }
            if apart == 0 {
                let (a, distance) = (ctx.lanes::<u32>(ins.ops[1]), b[0] as usize & 31);
                let mut out = [0u32; 32];
                for l in 0..32 {
                    out[l] = a[l ^ distance];
                }
                *ctx.lanes_mut(ins.ops[0]) = out;
                return Control::Next;
            }
        }
        shuffle_any::<MODE>(ctx, ins, mask)
    }
}

struct Butterfly<const DISTANCE: usize>;

impl<const DISTANCE: usize> Operation for Butterfly<DISTANCE> {
    #[inline(always)]
    fn run<const WIDE: bool>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
        if mask != FULL {
            return Shuffle::<SHUFFLE_BFLY>::run::<WIDE>(ctx, ins, mask);
        }
        let (a, mut out) = (*ctx.lanes::<u32>(ins.ops[1]), [0u32; 32]);
        for l in 0..32 {
            out[l] = a[l ^ DISTANCE];
        }
        *ctx.lanes_mut(ins.ops[0]) = out;
        Control::Next
    }
}

/// `shfl.sync.bfly` of a whole warp by a distance that is known, if there is such a thing; operands as of any shuffle.
pub(crate) fn butterfly(distance: u64) -> Option<Handlers> {
    match distance {
        1 => Some(handlers::<Butterfly<1>>()),
        2 => Some(handlers::<Butterfly<2>>()),
        4 => Some(handlers::<Butterfly<4>>()),
        8 => Some(handlers::<Butterfly<8>>()),
        16 => Some(handlers::<Butterfly<16>>()),
        _ => None,
    }
}

/// `shfl.sync`; operands: d, a, b, c, members, and the predicate result when `imm` is not 0.
pub(crate) fn shuffle<const MODE: u8>() -> Handlers {
    handlers::<Shuffle<MODE>>()
}

#[inline(always)]
fn shuffle_any<const MODE: u8>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let a = *ctx.lanes::<u32>(ins.ops[1]);
    let b = ctx.lanes::<u32>(ins.ops[2]);
    let c = ctx.lanes::<u32>(ins.ops[3]);
    let mut source = [0u32; 32];
    let mut inside = 0u32;
    for l in 0..32 {
        let lane = l as u32;
        let (segment, clamp) = (c[l] >> 8 & 31, c[l] & 31);
        let distance = b[l] & 31;
        let highest = (lane & segment) | (clamp & !segment);
        let lowest = lane & segment;
        let (from, valid) = match MODE {
            SHUFFLE_UP => (lane.wrapping_sub(distance), lane as i32 - distance as i32 >= highest as i32),
            SHUFFLE_DOWN => (lane + distance, lane + distance <= highest),
            SHUFFLE_BFLY => (lane ^ distance, lane ^ distance <= highest),
            _ => {
                let from = lowest | (distance & !segment);
                (from, from <= highest)
            }
        };
        source[l] = if valid { from } else { lane };
        inside |= (valid as u32) << l;
    }
    if mask != u32::MAX
        && let Some(lane) = lanes_of(mask).find(|&l| mask >> source[l] & 1 == 0)
    {
        let message = format!("lane {lane} reads lane {}, but {}", source[lane], ctx.where_is(source[lane]));
        return ctx.fail(ins, 1 << lane, FaultKind::InactiveShuffle, message);
    }
    let mut out = [0u32; 32];
    for l in 0..32 {
        out[l] = a[(source[l] & 31) as usize];
    }
    ctx.put(ins.ops[0], &out, mask);
    if ins.imm != 0 {
        ctx.set_predicate(ins.ops[5], inside, mask);
    }
    Control::Next
}

/// Modes of `vote`, in `flags`; with [`VOTE_NOT`] the predicate is negated.
pub(crate) const VOTE_ALL: u8 = 0;
pub(crate) const VOTE_ANY: u8 = 1;
pub(crate) const VOTE_UNI: u8 = 2;
pub(crate) const VOTE_BALLOT: u8 = 3;
pub(crate) const VOTE_NOT: u8 = 4;

/// `vote.sync`; operands: d, predicate, -, -, members.
pub(crate) fn vote(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    gather!(ctx, ins, mask, vote_of);
    vote_of(ctx, ins, mask)
}

#[inline(always)]
fn vote_of(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let predicate = ctx.predicate(ins.ops[1]);
    let votes = mask & if ins.flags & VOTE_NOT != 0 { !predicate } else { predicate };
    let verdict = match ins.flags & 3 {
        VOTE_ALL => votes == mask,
        VOTE_ANY => votes != 0,
        VOTE_UNI => votes == 0 || votes == mask,
        _ => {
            ctx.put(ins.ops[0], &[votes; 32], mask);
            return Control::Next;
        }
    };
    ctx.set_predicate(ins.ops[0], if verdict { u32::MAX } else { 0 }, mask);
    Control::Next
}

/// `match.any.sync`: operands: d, a, -, -, members. `flags`: bytes of a.
pub(crate) fn match_any(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    gather!(ctx, ins, mask, match_any_of);
    match_any_of(ctx, ins, mask)
}

#[inline(always)]
fn match_any_of(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let a = super::lanes::read_any(ctx, ins.ops[1], ins.flags as usize);
    let mut out = [0u32; 32];
    for l in lanes_of(mask) {
        out[l] = lanes_of(mask).filter(|&m| a[m] == a[l]).fold(0, |s, m| s | 1 << m);
    }
    ctx.put(ins.ops[0], &out, mask);
    Control::Next
}

/// `match.all.sync`: as `match_any`; the predicate result in `ops[5]` when `imm` is not 0.
pub(crate) fn match_all(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    gather!(ctx, ins, mask, match_all_of);
    match_all_of(ctx, ins, mask)
}

#[inline(always)]
fn match_all_of(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let a = super::lanes::read_any(ctx, ins.ops[1], ins.flags as usize);
    let first = a[mask.trailing_zeros() as usize & 31];
    let same = lanes_of(mask).all(|l| a[l] == first);
    ctx.put(ins.ops[0], &[if same { mask } else { 0 }; 32], mask);
    if ins.imm != 0 {
        ctx.set_predicate(ins.ops[5], if same { u32::MAX } else { 0 }, mask);
    }
    Control::Next
}

/// `redux.sync`; operands: d, a, -, -, members. The operation, as a function of two lanes, is in `imm`.
pub(crate) fn redux(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    gather!(ctx, ins, mask, redux_of);
    redux_of(ctx, ins, mask)
}

#[inline(always)]
fn redux_of(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let a = *ctx.lanes::<u32>(ins.ops[1]);
    let operation: fn(u32, u32) -> u32 = match ins.imm {
        0 => u32::wrapping_add,
        1 => |a, b| a.min(b),
        2 => |a, b| a.max(b),
        3 => |a, b| (a as i32).min(b as i32) as u32,
        4 => |a, b| (a as i32).max(b as i32) as u32,
        5 => |a, b| a & b,
        6 => |a, b| a | b,
        _ => |a, b| a ^ b,
    };
    let value = lanes_of(mask).map(|l| a[l]).reduce(operation).unwrap_or(0);
    ctx.put(ins.ops[0], &[value; 32], mask);
    Control::Next
}

/// `activemask`.
pub(crate) fn active_mask(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    ctx.put(ins.ops[0], &[mask; 32], mask);
    Control::Next
}

/// `elect.sync`: the lowest named lane is the leader; operands: d, -, -, -, members, predicate.
pub(crate) fn elect(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    gather!(ctx, ins, mask, elect_of);
    elect_of(ctx, ins, mask)
}

#[inline(always)]
fn elect_of(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let leader = mask.trailing_zeros();
    ctx.put(ins.ops[0], &[leader; 32], mask);
    ctx.set_predicate(ins.ops[5], 1 << leader, mask);
    Control::Next
}

/// `bar.warp.sync`; operands: -, -, -, -, members.
pub(crate) fn warp_barrier(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    gather!(ctx, ins, mask, warp_barrier_of);
    warp_barrier_of(ctx, ins, mask)
}

#[inline(always)]
fn warp_barrier_of(ctx: &mut Context, _: &Instruction, mask: u32) -> Control {
    if let Some(mut sanitizer) = ctx.sanitizer.take() {
        sanitizer.warp_sync(ctx.site(), mask);
        ctx.sanitizer = Some(sanitizer);
    }
    Control::Next
}
