//! Fetching ahead: no effect on values.

use super::Context;
use super::memory::{Cached, addresses};
use crate::fault::{Fault, FaultKind};
use crate::program::{Control, Instruction};
use crate::space::{Space, lanes_of};

/// `prefetch`, `discard`, `applypriority`. Hardware takes any address; one outside global memory, where nothing could
/// be loaded afterwards, is a mistake all the same, and a fault here. Nothing is counted as moved: the load that follows is.
pub(crate) fn prefetch(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let addresses = addresses(ctx, ins, mask);
    for l in lanes_of(mask) {
        let address = addresses[l];
        let cached = ctx.sites[ins.site as usize];
        if address.wrapping_sub(cached.base) < cached.len {
            continue;
        }
        match Space::of(ins.flags) {
            Space::Global => {}
            // As hardware, which has nothing to fetch there.
            Space::Generic if Space::classify(address).0 != Space::Global => continue,
            Space::Generic => {}
            _ => continue,
        }
        let Some(allocation) = ctx.memory.find(address) else {
            let fault = ctx.memory.explain(address, 1);
            let fault = Fault::new(fault.kind(), format!("prefetch of {}", fault.message()));
            return ctx.fail_with(ins, 1 << l, fault);
        };
        let (base, len, delta) = (allocation.base, allocation.len as u64, allocation.delta());
        let index = ctx.memory.allocations.partition_point(|a| a.base <= address) - 1;
        ctx.sites[ins.site as usize] = Cached { base, len, delta, index };
    }
    Control::Next
}

/// `cp.async.bulk.prefetch.L2`, of whole 16 bytes, all of them within one allocation. Operands: address, bytes.
pub(crate) fn prefetch_bulk(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let addresses = addresses(ctx, ins, mask);
    let bytes = *ctx.lanes::<u32>(ins.ops[1]);
    for l in lanes_of(mask) {
        let (address, bytes) = (addresses[l], u64::from(bytes[l]));
        let fault = if address % 16 != 0 {
            Fault::new(FaultKind::Misaligned, format!("{address:#x} is not a multiple of 16"))
        } else if bytes % 16 != 0 {
            Fault::new(FaultKind::InvalidOperand, format!("{bytes} bytes; expected a multiple of 16"))
        } else if bytes == 0 || ctx.memory.find(address).is_some_and(|found| address + bytes <= found.end()) {
            continue;
        } else {
            ctx.memory.explain(address, bytes)
        };
        let fault = Fault::new(fault.kind(), format!("prefetch of {}", fault.message()));
        return ctx.fail_with(ins, 1 << l, fault);
    }
    Control::Next
}
