//! Functions that a kernel declares and the device's runtime has: `vprintf`, `__assertfail`, `malloc`, `free`.

use super::Context;
use crate::fault::{Fault, FaultKind};
use crate::format::{Argument, format};
use crate::program::{Builtin, Call, Control, Instruction};
use crate::space::{Space, lanes_of};

/// The longest string that is read.
const MOST_TEXT: usize = 1 << 16;

impl Context<'_> {
    /// Bytes at a generic address of a lane.
    pub(super) fn bytes_at(&mut self, lane: usize, address: u64, count: usize) -> Result<Vec<u8>, Fault> {
        let (space, offset) = Space::classify(address);
        let found = match space {
            Space::Local => self.local_bytes(lane, offset, count).map(|bytes| bytes.to_vec()),
            // SAFETY: the range was found in a block's shared memory.
            Space::Shared => self
                .shared_range(offset, count as u64)
                .ok()
                .map(|(start, ..)| unsafe { std::slice::from_raw_parts(start, count) }.to_vec()),
            _ => self.memory.find(address).filter(|found| count as u64 <= found.end() - address).map(|found| {
                let mut bytes = vec![0; count];
                // SAFETY: the range lies in the allocation.
                unsafe { std::ptr::copy_nonoverlapping(found.host(address), bytes.as_mut_ptr(), count) };
                bytes
            }),
        };
        found.ok_or_else(|| self.memory.explain(address, count as u64))
    }

    /// The text at a generic address, up to its zero.
    fn text_at(&mut self, lane: usize, address: u64, width: usize) -> Result<String, Fault> {
        let mut text = Vec::new();
        for at in (address..).step_by(width).take(MOST_TEXT) {
            let unit = self.bytes_at(lane, at, width)?;
            if unit.iter().all(|&byte| byte == 0) {
                break;
            }
            text.push(unit[0]);
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// A number that a call passes.
    fn passed_number(&mut self, call: &Call, index: usize, lane: usize) -> u64 {
        let Some(passed) = call.arguments.get(index) else {
            return 0;
        };
        // `__assertfail`'s line is the one that has 4 bytes.
        let size = if index == 2 && call.arguments.len() == 5 { 4 } else { 8 };
        let bytes = self.passed_bytes(passed, lane, size);
        bytes.iter().rev().fold(0, |value, &byte| value << 8 | byte as u64)
    }

    fn pass_number(&mut self, call: &Call, lane: usize, value: u64, bytes: usize) {
        if let Some(to) = call.results.first() {
            self.pass_bytes(to, lane, &value.to_le_bytes()[..bytes]);
        }
    }

    /// What a `printf` of a lane prints, and how many arguments it takes.
    fn printed(&mut self, lane: usize, text: u64, arguments: u64) -> Result<(String, u32), Fault> {
        let text = self.text_at(lane, text, 1)?;
        let mut at = arguments;
        let mut count = 0;
        let out = format(&text, |argument| {
            count += 1;
            let bytes = if argument == Argument::Word { 4 } else { 8 };
            at = at.next_multiple_of(bytes);
            let value = self.bytes_at(lane, at, bytes as usize)?;
            at += bytes;
            let value = value.iter().rev().fold(0u64, |value, &byte| value << 8 | byte as u64);
            let string = match argument {
                Argument::Text => self.text_at(lane, value, 1)?,
                _ => String::new(),
            };
            Ok((value, string))
        })?;
        Ok((out, count))
    }
}

pub(super) fn run(ctx: &mut Context, ins: &Instruction, mask: u32, builtin: Builtin, call: &Call) -> Control {
    for lane in lanes_of(mask) {
        let result = match builtin {
            Builtin::Printf => print(ctx, call, lane),
            Builtin::AssertFail => fail_assertion(ctx, call, lane, mask),
            Builtin::Malloc => allocate(ctx, call, lane),
            Builtin::Free => release(ctx, call, lane),
        };
        let Err(fault) = result else { continue };
        if builtin == Builtin::AssertFail {
            return ctx.fail_with(ins, 1 << lane, fault);
        }
        if let Err(control) = ctx.report(ins, 1 << lane, fault) {
            return control;
        }
    }
    Control::Next
}

fn print(ctx: &mut Context, call: &Call, lane: usize) -> Result<(), Fault> {
    let (text, arguments) = (ctx.passed_number(call, 0, lane), ctx.passed_number(call, 1, lane));
    let (out, count) = ctx.printed(lane, text, arguments)?;
    ctx.facts.output.print(ctx.block.linear, &out);
    ctx.pass_number(call, lane, count as u64, 4);
    Ok(())
}

fn fail_assertion(ctx: &mut Context, call: &Call, lane: usize, mask: u32) -> Result<(), Fault> {
    let [message, file, line, function, width] = std::array::from_fn(|index| ctx.passed_number(call, index, lane));
    let width = if matches!(width, 2 | 4) { width as usize } else { 1 };
    let mut text = |address: u64, width: usize| ctx.text_at(lane, address, width).unwrap_or_else(|_| "?".to_owned());
    let (message, file, function) = (text(message, width), text(file, width), text(function, width));
    let (block, thread) = (ctx.block.index, std::array::from_fn::<u32, 3, _>(|axis| ctx.warp.tid[axis][lane]));
    let place = |[x, y, z]: [u32; 3]| format!("[{x},{y},{z}]");
    ctx.facts.output.print(
        ctx.block.linear,
        &format!(
            "{file}:{line}: {function}: block: {}, thread: {} Assertion `{message}` failed.\n",
            place(block),
            place(thread)
        ),
    );
    let others = mask.count_ones() - 1;
    let others = if others > 0 { format!(", and {others} more of its warp") } else { String::new() };
    let message = format!("assertion `{message}` failed in `{function}`, {file}:{line}{others}");
    Err(Fault::new(FaultKind::Assertion, message))
}

fn allocate(ctx: &mut Context, call: &Call, lane: usize) -> Result<(), Fault> {
    let bytes = ctx.passed_number(call, 0, lane);
    let address = ctx.memory.heap.as_ref().and_then(|heap| heap.allocate(bytes)).unwrap_or(0);
    if let Some(allocation) = ctx.memory.find(address).filter(|_| bytes > 0) {
        allocation.unmark(address, bytes as usize);
        let base = allocation.base;
        if let Some(sanitizer) = &mut ctx.sanitizer {
            let index = ctx.memory.allocations.partition_point(|a| a.base <= address) - 1;
            sanitizer.forget(index, address - base, bytes.next_multiple_of(16));
        }
    }
    ctx.pass_number(call, lane, address, 8);
    Ok(())
}

fn release(ctx: &mut Context, call: &Call, lane: usize) -> Result<(), Fault> {
    let address = ctx.passed_number(call, 0, lane);
    match &ctx.memory.heap {
        Some(heap) if address != 0 => heap.release(address),
        _ => Ok(()),
    }
}
