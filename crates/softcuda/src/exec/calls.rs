//! Calls with a frame, and instructions that nobody knows.
//!
//! Each lane has a stack of its own: lanes that are at the same instruction run together, however deep each of them is. A
//! frame lies in the lane's local memory above the one before; a register of the callee is saved only where the lane is in
//! that function already.

use super::{Context, Stop};
use crate::fault::{Fault, FaultKind};
use crate::memory::FUNCTION_WINDOW;
use crate::program::{Call, Callee, Control, Instruction, Passed, Program, Slot, Target};
use crate::space::lanes_of;

/// A call that a lane has not returned from.
struct Frame {
    /// Index among the program's callees.
    callee: u32,
    /// Of the call.
    pc: u32,
    /// Where the caller's frame began.
    base: u32,
    /// The callee's registers and predicates as they were, if the lane was in it already.
    saved: Option<Vec<u64>>,
}

/// A lane's calls.
#[derive(Default)]
pub(crate) struct Stack {
    frames: Vec<Frame>,
    /// Where the current frame begins, and where the next will, in local memory; 0 in the kernel itself.
    base: u32,
    top: u32,
}

impl Stack {
    pub(crate) fn clear(&mut self) {
        self.frames.clear();
        (self.base, self.top) = (0, 0);
    }
}

/// A value of 16 bytes that fits any register.
type Value = u128;

impl Context<'_> {
    fn register_of(&self, reg: u32, bytes: u8, lane: usize) -> Value {
        match bytes {
            2 => self.lanes::<u16>(reg)[lane] as Value,
            4 => self.lanes::<u32>(reg)[lane] as Value,
            8 => self.lanes::<u64>(reg)[lane] as Value,
            _ => self.lanes::<u128>(reg)[lane],
        }
    }

    fn set_register_of(&mut self, reg: u32, bytes: u8, lane: usize, value: Value) {
        match bytes {
            2 => self.lanes_mut::<u16>(reg)[lane] = value as u16,
            4 => self.lanes_mut::<u32>(reg)[lane] = value as u32,
            8 => self.lanes_mut::<u64>(reg)[lane] = value as u64,
            _ => self.lanes_mut::<u128>(reg)[lane] = value,
        }
    }

    /// Some bytes of a lane's local memory.
    pub(super) fn local_bytes(&mut self, lane: usize, address: u64, bytes: usize) -> Option<&mut [u8]> {
        let len = self.program.local_bytes as usize;
        let start =
            usize::try_from(address).ok().filter(|&start| start.checked_add(bytes).is_some_and(|end| end <= len))?;
        self.warp.local.get_mut(len * lane + start..len * lane + start + bytes)
    }

    /// What a call passes, as bytes: `size` of them where it lies in memory.
    pub(super) fn passed_bytes(&mut self, passed: &Passed, lane: usize, size: usize) -> Vec<u8> {
        match *passed {
            Passed::Memory(reg) => {
                let address = self.lanes::<u64>(reg)[lane];
                self.local_bytes(lane, address, size).map_or(vec![0; size], |bytes| bytes.to_vec())
            }
            Passed::Register { reg, bytes } => {
                let mut value = self.register_of(reg, bytes, lane).to_le_bytes().to_vec();
                value.truncate(bytes as usize);
                value
            }
            Passed::Predicate(p) => vec![(self.predicate(p) >> lane & 1) as u8],
        }
    }

    /// Hands bytes to where a call wants them.
    pub(super) fn pass_bytes(&mut self, to: &Passed, lane: usize, from: &[u8]) {
        match *to {
            Passed::Memory(reg) => {
                let address = self.lanes::<u64>(reg)[lane];
                if let Some(bytes) = self.local_bytes(lane, address, from.len()) {
                    bytes.copy_from_slice(from);
                }
            }
            Passed::Register { reg, bytes } => {
                let mut value = [0; 16];
                let count = from.len().min(16);
                value[..count].copy_from_slice(&from[..count]);
                self.set_register_of(reg, bytes, lane, Value::from_le_bytes(value));
            }
            Passed::Predicate(p) => {
                let value = if from.first().is_some_and(|&bit| bit != 0) { u32::MAX } else { 0 };
                self.set_predicate(p, value, 1 << lane);
            }
        }
    }

    fn save(&self, callee: &Callee, lane: usize) -> Vec<u64> {
        let mut saved = Vec::with_capacity(2 * callee.registers.len() + callee.predicates.len());
        for &(reg, bytes) in &callee.registers {
            let value = self.register_of(reg, bytes, lane);
            saved.extend([value as u64, (value >> 64) as u64]);
        }
        saved.extend(callee.predicates.clone().map(|p| (self.predicate(p) >> lane & 1) as u64));
        saved
    }

    fn restore(&mut self, callee: &Callee, lane: usize, saved: &[u64]) {
        let (registers, predicates) = saved.split_at(2 * callee.registers.len());
        for (&(reg, bytes), value) in callee.registers.iter().zip(registers.chunks_exact(2)) {
            self.set_register_of(reg, bytes, lane, value[0] as Value | (value[1] as Value) << 64);
        }
        for (p, &value) in callee.predicates.clone().zip(predicates) {
            self.set_predicate(p, if value != 0 { u32::MAX } else { 0 }, 1 << lane);
        }
    }
}

/// The callee that a call of a lane goes to.
fn target_of(ctx: &Context, program: &Program, call: &Call, lane: usize) -> Result<u32, String> {
    let callee = match call.target {
        Target::Segment(segment) => segment,
        Target::Register(reg) => {
            let address = ctx.lanes::<u64>(reg)[lane];
            let index = address.wrapping_sub(FUNCTION_WINDOW + 16) / 16;
            let found = program.callees.iter().position(|callee| callee.function as u64 == index);
            match found.filter(|_| address.is_multiple_of(16)) {
                Some(at) => at as u32,
                None => {
                    return Err(format!("a call of {address:#x}, which is the address of no function of this module"));
                }
            }
        }
        Target::Builtin(_) => unreachable!("carried out elsewhere"),
    };
    let known = &program.callees[callee as usize];
    if (known.parameters.len(), known.results.len()) != (call.arguments.len(), call.results.len()) {
        return Err(format!(
            "`{}` takes {} arguments and gives {} results; the call passes {} and wants {}",
            known.name,
            known.parameters.len(),
            known.results.len(),
            call.arguments.len(),
            call.results.len()
        ));
    }
    Ok(callee)
}

/// `call`: `imm` is the index of the [`Call`].
pub(crate) fn call(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let program = ctx.program;
    let call = &program.calls[ins.imm as usize];
    if let Target::Builtin(builtin) = call.target {
        return super::builtins::run(ctx, ins, mask, builtin, call);
    }
    let mut entered = Vec::new();
    for lane in lanes_of(mask) {
        let at = match target_of(ctx, program, call, lane) {
            Ok(at) => at,
            Err(message) => return ctx.fail(ins, 1 << lane, FaultKind::InvalidOperand, message),
        };
        let callee = &program.callees[at as usize];
        let Stack { frames, base, top } = &ctx.warp.stacks[lane];
        let (caller, new) = (*base, (*top).max(program.static_local));
        if new + callee.frame_bytes > program.local_bytes {
            let message = format!(
                "a call of `{}`, {} deep, needs a frame of {} bytes; the thread's stack has {} left of {}",
                callee.name,
                frames.len() + 1,
                callee.frame_bytes,
                program.local_bytes - new,
                program.local_bytes - program.static_local
            );
            return ctx.fail(ins, 1 << lane, FaultKind::StackOverflow, message);
        }
        let again = frames.iter().any(|frame| frame.callee == at);
        // All that is passed is read before the callee's registers, which may be the caller's, change.
        let values: Vec<Vec<u8>> = call
            .arguments
            .iter()
            .zip(&callee.parameters)
            .map(|(argument, slot)| ctx.passed_bytes(argument, lane, slot.map_or(0, |slot| slot.size as usize)))
            .collect();
        let saved = again.then(|| ctx.save(callee, lane));
        for ((value, slot), register) in values.iter().zip(&callee.parameters).zip(&callee.parameter_registers) {
            match (slot, register) {
                (Some(Slot { offset, size }), _) => {
                    let count = value.len().min(*size as usize);
                    if let Some(bytes) = ctx.local_bytes(lane, (new + offset) as u64, count) {
                        bytes.copy_from_slice(&value[..count]);
                    }
                }
                (None, Some(register)) => ctx.pass_bytes(register, lane, value),
                (None, None) => {}
            }
        }
        let pc = ctx.warp.pc;
        let stack = &mut ctx.warp.stacks[lane];
        stack.frames.push(Frame { callee: at, pc, base: caller, saved });
        (stack.base, stack.top) = (new, new + callee.frame_bytes);
        entered.push((callee.entry, 1u32 << lane));
    }
    go(ctx, ins, mask, &entered)
}

/// `ret` of a function with a frame.
pub(crate) fn ret(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let program = ctx.program;
    let mut returned = Vec::new();
    for lane in lanes_of(mask) {
        let stack = &mut ctx.warp.stacks[lane];
        let base = stack.base;
        let Some(frame) = stack.frames.pop() else {
            return ctx.fail(ins, 1 << lane, FaultKind::InvalidOperand, "a return without a call".to_owned());
        };
        (stack.base, stack.top) = (frame.base, base);
        let callee = &program.callees[frame.callee as usize];
        let call = &program.calls[program_call(ctx, frame.pc)];
        let values: Vec<Vec<u8>> = callee
            .results
            .iter()
            .zip(&callee.result_registers)
            .map(|(slot, register)| match (slot, register) {
                (Some(slot), _) => ctx
                    .local_bytes(lane, (base + slot.offset) as u64, slot.size as usize)
                    .map_or(Vec::new(), |bytes| bytes.to_vec()),
                (None, Some(register)) => ctx.passed_bytes(register, lane, 0),
                (None, None) => Vec::new(),
            })
            .collect();
        if let Some(saved) = &frame.saved {
            ctx.restore(callee, lane, saved);
        }
        for (to, value) in call.results.iter().zip(&values) {
            ctx.pass_bytes(to, lane, value);
        }
        returned.push((frame.pc + 1, 1u32 << lane));
    }
    go(ctx, ins, mask, &returned)
}

fn program_call(ctx: &Context, pc: u32) -> usize {
    ctx.code[pc as usize].imm as usize
}

/// Sends lanes to where they go; the others of the group go on.
fn go(ctx: &mut Context, ins: &Instruction, mask: u32, places: &[(u32, u32)]) -> Control {
    let warp = &mut ctx.warp;
    let (stay, next) = (warp.active & !mask, warp.pc + 1);
    if stay != 0 {
        warp.insert(next, stay);
    }
    places.iter().for_each(|&(pc, lane)| warp.insert(pc, lane));
    if stay != 0 || places.iter().any(|place| place.0 != places[0].0) {
        ctx.counters.divergent_branches += 1;
    }
    ctx.next_group(ins)
}

/// The address of something in the current frame: `ops[0]` the register, of 64 bits where `flags` has 8 set, `imm` the
/// offset.
pub(crate) fn frame_address(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let address: [u64; 32] = std::array::from_fn(|l| (ctx.warp.stacks[l].base as u64).wrapping_add(ins.imm));
    if ins.flags & 8 != 0 {
        ctx.put(ins.ops[0], &address, mask);
    } else {
        ctx.put(ins.ops[0], &address.map(|a| a as u32), mask);
    }
    Control::Next
}

/// An instruction that the decoder did not know.
#[cold]
pub(crate) fn unknown(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let message = ctx.program.unknown[ins.imm as usize].message.clone();
    let location = ctx.location(ins.line, mask.trailing_zeros());
    ctx.stop = Stop::Fault(Box::new(Fault::new(FaultKind::UnknownInstruction, message).at(location)));
    Control::Stop
}
