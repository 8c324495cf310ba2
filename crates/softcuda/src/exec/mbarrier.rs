//! `mbarrier`: barriers in shared memory that count arrivals and bytes.
//!
//! The opaque 64 bits: arrivals that the phase still waits for, those that a phase begins with (20 bits each), bytes that it
//! still waits for (21 bits, signed), a bit that is set and one that is not, which memory that nobody initialised has not
//! both, and the phase.

use super::Context;
use super::memory::{addresses, resolve};
use crate::fault::FaultKind;
use crate::program::{Control, Instruction};
use crate::space::{Kind, Space, lanes_of};

const COUNT: u64 = (1 << 20) - 1;
const VALID: u64 = 1 << 61;
const INVALID: u64 = 1 << 62;

#[derive(Clone, Copy)]
struct State {
    pending: u32,
    expected: u32,
    bytes: i32,
    phase: bool,
}

impl State {
    fn unpack(bits: u64) -> Option<State> {
        (bits & (VALID | INVALID) == VALID).then_some(State {
            pending: (bits & COUNT) as u32,
            expected: (bits >> 20 & COUNT) as u32,
            bytes: ((bits >> 40) as u32 as i32) << 11 >> 11,
            phase: bits >> 63 != 0,
        })
    }

    fn pack(self) -> u64 {
        let bytes = (self.bytes as u32 & ((1 << 21) - 1)) as u64;
        self.pending as u64 | (self.expected as u64) << 20 | bytes << 40 | VALID | (self.phase as u64) << 63
    }

    /// Begins the next phase if this one waits for nothing.
    fn settle(&mut self) {
        if self.pending == 0 && self.bytes == 0 {
            self.phase = !self.phase;
            self.pending = self.expected;
        }
    }
}

/// What an instruction does, in `Instruction::ops[5]`.
pub(crate) const INIT: u32 = 0;
pub(crate) const INVALIDATE: u32 = 1;
pub(crate) const EXPECT: u32 = 2;
pub(crate) const COMPLETE: u32 = 3;
pub(crate) const ARRIVE: u32 = 4;
pub(crate) const ARRIVE_DROP: u32 = 5;
pub(crate) const ARRIVE_EXPECT: u32 = 6;
pub(crate) const ARRIVE_EXPECT_DROP: u32 = 7;

/// Bytes have come to the barrier at a host address.
///
/// # Safety
/// `at` points to 8 aligned bytes of shared memory of a block that runs on this host thread.
pub(super) unsafe fn complete_bytes(at: *mut u8, bytes: i32) -> bool {
    let at = at as *mut u64;
    // SAFETY: the caller's promise.
    let Some(mut state) = State::unpack(unsafe { at.read() }) else {
        return false;
    };
    state.bytes -= bytes;
    state.settle();
    // SAFETY: the caller's promise.
    unsafe { at.write(state.pack()) };
    true
}

/// Everything but the waits; operands: address, result (state before), argument (count or bytes).
pub(crate) fn update(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let which = ins.ops[5];
    let addresses = addresses(ctx, ins, mask);
    let kind = if which == INIT { Kind::Store } else { Kind::Atomic };
    let hosts = match resolve(ctx, ins, mask, &addresses, 8, kind) {
        Ok(hosts) => hosts,
        Err(control) => return control,
    };
    let arguments = *ctx.lanes::<u32>(ins.ops[2]);
    let mut out = [0u64; 32];
    for l in lanes_of(mask) {
        let at = hosts.at[l] as *mut u64;
        let argument = arguments[l];
        if which == INIT {
            if argument == 0 || argument as u64 > COUNT {
                let message = format!("an mbarrier for {argument} arrivals; expected 1 to {COUNT}");
                return ctx.fail(ins, 1 << l, FaultKind::InvalidOperand, message);
            }
            let state = State { pending: argument, expected: argument, bytes: 0, phase: false };
            // SAFETY: `resolve` found 8 aligned bytes of shared memory.
            unsafe { at.write(state.pack()) };
            continue;
        }
        // SAFETY: as above.
        let before = unsafe { at.read() };
        let Some(mut state) = State::unpack(before) else {
            return uninitialised(ctx, ins, l, addresses[l]);
        };
        out[l] = before;
        let (arrivals, bytes) = match which {
            ARRIVE | ARRIVE_DROP => (argument, 0),
            ARRIVE_EXPECT | ARRIVE_EXPECT_DROP => (1, argument as i32),
            EXPECT => (0, argument as i32),
            COMPLETE => (0, (argument as i32).wrapping_neg()),
            _ => {
                // SAFETY: as above.
                unsafe { at.write(0) };
                continue;
            }
        };
        if arrivals > state.pending {
            let message = format!("{arrivals} arrivals at an mbarrier whose phase waits for {}", state.pending);
            return ctx.fail(ins, 1 << l, FaultKind::InvalidOperand, message);
        }
        state.bytes += bytes;
        if state.bytes.unsigned_abs() as u64 > COUNT {
            let message = format!("an mbarrier would wait for {} bytes; the most is {COUNT}", state.bytes);
            return ctx.fail(ins, 1 << l, FaultKind::InvalidOperand, message);
        }
        if matches!(which, ARRIVE_DROP | ARRIVE_EXPECT_DROP) {
            state.expected = state.expected.saturating_sub(arrivals);
        }
        state.pending -= arrivals;
        if arrivals > 0 || which == COMPLETE {
            state.settle();
        }
        // SAFETY: as above.
        unsafe { at.write(state.pack()) };
    }
    ctx.put(ins.ops[1], &out, mask);
    Control::Next
}

#[cold]
fn uninitialised(ctx: &mut Context, ins: &Instruction, lane: usize, address: u64) -> Control {
    let message = format!("the 8 bytes at {address:#x} are no initialised mbarrier (mbarrier.init)");
    ctx.fail(ins, 1 << lane, FaultKind::InvalidOperand, message)
}

/// Flags of a wait, in `Instruction::ops[5]`: by parity rather than by state; others get a turn where it is not over.
pub(crate) const BY_PARITY: u32 = 1;
pub(crate) const TRIES: u32 = 2;

/// `mbarrier.test_wait`, `try_wait`; operands: address, predicate, state or parity.
pub(crate) fn wait(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let addresses = addresses(ctx, ins, mask);
    let hosts = match resolve(ctx, ins, mask, &addresses, 8, Kind::Load) {
        Ok(hosts) => hosts,
        Err(control) => return control,
    };
    if !ctx.cluster().copies.is_empty() {
        let window = if Space::of(ins.flags) == Space::Generic { crate::memory::SHARED_WINDOW } else { 0 };
        for l in lanes_of(mask) {
            ctx.land_bulk(addresses[l].wrapping_sub(window));
        }
    }
    let by_parity = ins.ops[5] & BY_PARITY != 0;
    let argument = if by_parity { ctx.lanes::<u32>(ins.ops[2]).map(u64::from) } else { *ctx.lanes::<u64>(ins.ops[2]) };
    let mut over = 0u32;
    for l in lanes_of(mask) {
        // SAFETY: `resolve` found 8 aligned bytes of shared memory.
        let Some(state) = State::unpack(unsafe { (hosts.at[l] as *const u64).read() }) else {
            return uninitialised(ctx, ins, l, addresses[l]);
        };
        let phase = if by_parity { argument[l] & 1 != 0 } else { argument[l] >> 63 != 0 };
        over |= ((state.phase != phase) as u32) << l;
    }
    ctx.set_predicate(ins.ops[1], over, mask);
    if over == mask {
        return Control::Next;
    }
    // Somebody else has to do something first.
    ctx.give_way()
}

/// `mbarrier.pending_count`; operands: d, state.
pub(crate) fn pending(state: u64) -> u32 {
    (state & COUNT) as u32
}

/// `cp.async.mbarrier.arrive`: the lane's copies are over, then it arrives; operands: address. `ops[5]`: 1 for `.noinc`.
pub(crate) fn arrive_after_copies(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let everything = Instruction { imm: u64::MAX, ..*ins };
    let control = super::copies::async_wait(ctx, &everything, mask);
    if control != Control::Next || ins.ops[5] == 0 {
        // Without `.noinc` the phase waits for one arrival more, which this is.
        return control;
    }
    let one = Instruction { ops: [ins.ops[0], ins.ops[1], ins.ops[2], 0, 0, ARRIVE, 0, 0], ..*ins };
    update(ctx, &one, mask)
}
