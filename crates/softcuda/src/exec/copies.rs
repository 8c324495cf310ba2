//! Asynchronous copies from global to shared memory, `cp.async`.

use super::Context;
use super::memory::{addresses, resolve};
use crate::fault::FaultKind;
use crate::program::{Control, Instruction};
use crate::sanitizer::Landing;
use crate::space::{Kind, lanes_of};

/// A copy instruction that some lanes have not waited for yet.
pub(crate) struct AsyncCopy {
    /// The lanes that have not.
    mask: u32,
    bytes: u8,
    /// Of the instruction.
    line: u32,
    /// How many groups each lane had committed when it was issued.
    groups: [u32; 32],
    /// Offsets in shared memory.
    targets: [u32; 32],
    data: [[u8; 16]; 32],
}

/// `cp.async`: the bytes are read now and appear in shared memory when the kernel waits for them, which is the latest
/// moment hardware may choose, so that a missing wait shows. Operands: source address, target address, source size.
/// `imm`: the source's offset in the low half, the target's in the high half. `flags`: as for a load of the source.
pub(crate) fn async_copy<const BYTES: usize>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let wanted = *ctx.lanes::<u32>(ins.ops[2]);
    // A lane that reads nothing may pass any address.
    let reading = lanes_of(mask).filter(|&l| wanted[l] != 0).fold(0u32, |m, l| m | 1 << l);
    if let Some(lane) = lanes_of(mask).find(|&l| wanted[l] as usize > BYTES) {
        let message =
            format!("cp.async of {BYTES} bytes with a source size of {}; expected at most {BYTES}", wanted[lane]);
        return ctx.fail(ins, 1 << lane, FaultKind::InvalidOperand, message);
    }
    let mut source = *ins;
    source.imm = ins.imm as u32 as i32 as i64 as u64;
    let mut data = [[0u8; 16]; 32];
    if reading != 0 {
        let from = addresses(ctx, &source, reading);
        let hosts = match resolve(ctx, &source, reading, &from, BYTES as u64, Kind::Load) {
            Ok(hosts) => hosts,
            Err(control) => return control,
        };
        for l in lanes_of(reading) {
            // SAFETY: `resolve` found BYTES readable bytes, at most 16.
            let bytes = unsafe { (hosts.at[l] as *const [u8; BYTES]).read_unaligned() };
            data[l][..BYTES].copy_from_slice(&bytes);
            data[l][wanted[l] as usize..].fill(0);
        }
    }
    let mut target = *ins;
    target.ops[0] = ins.ops[1];
    target.imm = (ins.imm as i64 >> 32) as u64;
    target.flags = ins.ops[3] as u8;
    let to = addresses(ctx, &target, mask);
    let hosts = match resolve(ctx, &target, mask, &to, BYTES as u64, Kind::Store) {
        Ok(hosts) => hosts,
        Err(control) => return control,
    };
    let base = ctx.block.shared.as_ptr() as u64;
    let mut targets = [0u32; 32];
    for l in 0..32 {
        targets[l] = hosts.at[l].wrapping_sub(base) as u32;
    }
    let groups = ctx.warp.committed;
    ctx.warp.copies.push(AsyncCopy { mask, bytes: BYTES as u8, line: ins.line, groups, targets, data });
    Control::Next
}

/// `cp.async.commit_group`.
pub(crate) fn async_commit(ctx: &mut Context, _: &Instruction, mask: u32) -> Control {
    lanes_of(mask).for_each(|l| ctx.warp.committed[l] += 1);
    Control::Next
}

/// `cp.async.wait_group N` (`imm`), or with `u64::MAX` `cp.async.wait_all`.
pub(crate) fn async_wait(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let everything = ins.imm == u64::MAX;
    let bounds = ctx.warp.committed.map(|committed| committed.saturating_sub(ins.imm as u32));
    let base = ctx.block.shared.as_mut_ptr() as *mut u8;
    let is_watched = ctx.sanitizer.is_some();
    let mut landed = Vec::new();
    ctx.warp.copies.retain_mut(|copy| {
        let before = (0..32).fold(0u32, |before, l| before | ((copy.groups[l] < bounds[l]) as u32) << l);
        let done = copy.mask & mask & if everything { u32::MAX } else { before };
        for l in lanes_of(done) {
            let (data, bytes) = (copy.data[l], copy.bytes as usize);
            // SAFETY: `async_copy` checked that the target lies in this block's shared memory.
            unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), base.add(copy.targets[l] as usize), bytes) };
        }
        if is_watched && done != 0 {
            let targets = copy.targets.map(u64::from);
            landed.push(Landing { mask: done, line: copy.line, targets, bytes: copy.bytes as u64 });
        }
        copy.mask &= !done;
        copy.mask != 0
    });
    if let Some(mut sanitizer) = ctx.sanitizer.take() {
        let verdict = sanitizer.land(ctx.site(), &landed);
        ctx.sanitizer = Some(sanitizer);
        if let Err((lane, fault)) = verdict
            && let Err(control) = ctx.report(ins, 1 << lane, fault)
        {
            return control;
        }
    }
    Control::Next
}
