//! Clusters: blocks that run at once and reach one another's shared memory.
//!
//! A 32-bit shared address has the offset in its low 24 bits. Above them is 0 for the block's own memory, else one more than
//! the rank of the block whose memory it is; `mapa` makes such addresses. Every block is in a cluster, of one block where
//! nothing else was asked for.

use super::{Context, Wait, Warp};
use crate::fault::{Fault, FaultKind};
use crate::program::{Control, Instruction};
use crate::sanitizer::Site;
use crate::space::lanes_of;

/// Bits of an offset in a block's shared memory.
pub(crate) const RANK_SHIFT: u32 = 24;
const OFFSET: u64 = (1 << RANK_SHIFT) - 1;

/// A cluster whose blocks run now.
#[derive(Default)]
pub(crate) struct Cluster {
    /// The shared memory and the number of each block, by rank.
    pub(crate) shared: Vec<*mut u8>,
    pub(crate) blocks: Vec<u64>,
    /// Threads that have not exited, of each block and in all.
    left: Vec<u32>,
    pub(crate) alive: u32,
    arrived: u32,
    /// How often its barrier was completed.
    pub(crate) phase: u32,
    /// Bulk copies that no thread has seen the end of.
    pub(crate) copies: Vec<super::bulk::BulkCopy>,
}

impl Cluster {
    pub(crate) fn new(shared: Vec<*mut u8>, blocks: Vec<u64>, threads: u32) -> Cluster {
        let (left, alive) = (vec![threads; blocks.len()], threads * blocks.len() as u32);
        Cluster { shared, blocks, left, alive, arrived: 0, phase: 0, copies: Vec::new() }
    }
}

/// The rank that an offset in the shared window names, if any, and the offset in that block's memory.
pub(crate) fn split_rank(offset: u64) -> (Option<usize>, u64) {
    let rank = (offset >> RANK_SHIFT) as usize;
    (rank.checked_sub(1), offset & OFFSET)
}

impl Warp {
    /// Lets go of the lanes that wait for a phase that is over. Says whether there were any.
    fn release_cluster(&mut self, over: u32) -> bool {
        let mut any = false;
        for group in std::mem::take(&mut self.parked) {
            match group.wait {
                Wait::Cluster { phase } if phase <= over => {
                    lanes_of(group.mask).for_each(|l| self.cluster_arrival[l] = 0);
                    self.insert(group.pc + 1, group.mask);
                    any = true;
                }
                _ => self.parked.push(group),
            }
        }
        any
    }
}

impl Context<'_> {
    pub(crate) fn cluster(&mut self) -> &mut Cluster {
        let at = self.block.cluster;
        &mut self.clusters[at]
    }

    /// The host's address of some bytes of shared memory of the cluster, with the block's rank and the offset there.
    pub(crate) fn shared_range(&mut self, offset: u64, bytes: u64) -> Result<(*mut u8, usize, u64), Fault> {
        let own = self.block.rank as usize;
        let (rank, inner) = split_rank(offset);
        let rank = rank.unwrap_or(own);
        let len = self.facts.shared_bytes as u64;
        let Some(&start) = self.cluster().shared.get(rank) else {
            let count = self.cluster().shared.len();
            let message = format!("shared memory of block {rank} of a cluster of {count}");
            return Err(Fault::new(FaultKind::OutOfBounds, message));
        };
        if self.cluster().left[rank] == 0 {
            let message = format!("shared memory of block {rank} of the cluster, which has ended");
            return Err(Fault::new(FaultKind::UseAfterFree, message));
        }
        if inner.saturating_add(bytes) > len {
            let past = (inner + bytes).saturating_sub(len);
            let message = format!(
                "{bytes} bytes at offset {inner:#x} end {past} bytes past the {len} bytes of shared memory of the block"
            );
            return Err(Fault::new(FaultKind::OutOfBounds, message));
        }
        // SAFETY: the offset lies in the block's shared memory.
        Ok((unsafe { start.add(inner as usize) }, rank, inner))
    }

    /// Lanes of the current warp have exited.
    #[inline]
    pub(crate) fn leave_cluster(&mut self, ins: &Instruction, mask: u32) -> Result<(), Control> {
        let rank = self.block.rank as usize;
        let target = self.cluster().phase + 1;
        let pending = lanes_of(mask).filter(|&l| self.warp.cluster_arrival[l] == target).count() as u32;
        let cluster = self.cluster();
        cluster.alive -= mask.count_ones();
        cluster.left[rank] -= mask.count_ones();
        let is_over = cluster.left[rank] == 0 && cluster.blocks.len() > 1;
        cluster.arrived -= pending;
        self.complete_cluster_barrier();
        if is_over && let Some(mut sanitizer) = self.sanitizer.take() {
            let end = sanitizer.end_in_cluster(self.site());
            self.sanitizer = Some(sanitizer);
            return end.or_else(|fault| self.report(ins, mask, fault));
        }
        Ok(())
    }

    /// Completes the cluster's barrier when every thread that is left has arrived.
    fn complete_cluster_barrier(&mut self) {
        let cluster = self.cluster();
        if cluster.arrived == 0 || cluster.arrived < cluster.alive {
            return;
        }
        cluster.arrived = 0;
        cluster.phase += 1;
    }

    /// Lanes of a warp of the block have waited for a phase of the cluster's barrier.
    fn has_waited(&mut self, warp: usize, phase: u32) {
        let first = self.cluster().blocks[0];
        if let Some(mut sanitizer) = self.sanitizer.take() {
            sanitizer.cluster_wait(Site { warp, ..self.site() }, first, phase);
            self.sanitizer = Some(sanitizer);
        }
    }

    /// Lets go of the block's lanes that wait for a phase of the cluster's barrier that is over.
    pub(crate) fn release_cluster(&mut self) {
        let phase = self.cluster().phase;
        if std::mem::replace(&mut self.block.cluster_phase, phase) == phase {
            return;
        }
        for warp in 0..self.block.warps.len() {
            if self.block.warps[warp].release_cluster(phase) {
                self.has_waited(warp, phase);
            }
        }
    }

    /// Nothing in a cluster can run, and some threads wait at its barrier.
    #[cold]
    pub(crate) fn stuck_cluster(&mut self) -> Box<Fault> {
        let (arrived, alive) = (self.cluster().arrived, self.cluster().alive);
        let waiting = self.block.warps.iter().position(|w| !w.parked.is_empty()).unwrap_or(0);
        std::mem::swap(&mut self.warp, &mut self.block.warps[waiting]);
        let parked = self.warp.parked.first().copied();
        let (pc, lane) = parked.map_or((0, 0), |parked| (parked.pc, parked.mask.trailing_zeros()));
        let here = self.location(self.code[pc as usize].line, lane);
        std::mem::swap(&mut self.warp, &mut self.block.warps[waiting]);
        let message =
            format!("{arrived} of {alive} threads of the cluster arrive at its barrier and the others never come");
        Box::new(Fault::new(FaultKind::PartialBarrier, message).at(here))
    }
}

/// Flag of `barrier.cluster`: all threads of the warp must execute it together.
pub(crate) const ALIGNED: u8 = 1;

fn aligned(ctx: &mut Context, ins: &Instruction, mask: u32) -> Result<(), Control> {
    let elsewhere = ctx.warp.alive() & !mask;
    if ins.flags & ALIGNED == 0 || elsewhere == 0 {
        return Ok(());
    }
    if let Some(control) = ctx.ask_again(ins) {
        return Err(control);
    }
    let at = ctx.where_is(elsewhere.trailing_zeros());
    let message = format!("{} threads of the warp reach the cluster's barrier; {at}", mask.count_ones());
    Err(ctx.fail(ins, mask, FaultKind::PartialBarrier, message))
}

/// `barrier.cluster.arrive`.
pub(crate) fn arrive(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    if let Err(control) = aligned(ctx, ins, mask) {
        return control;
    }
    ctx.counters.barriers += 1;
    let target = ctx.cluster().phase + 1;
    if let Some(lane) = lanes_of(mask).find(|&l| ctx.warp.cluster_arrival[l] != 0) {
        let message = "this thread arrives at the cluster's barrier again before it has waited".to_owned();
        return ctx.fail(ins, 1 << lane, FaultKind::InvalidOperand, message);
    }
    lanes_of(mask).for_each(|l| ctx.warp.cluster_arrival[l] = target);
    if let Some(mut sanitizer) = ctx.sanitizer.take() {
        let (site, first) = (ctx.site(), ctx.cluster().blocks[0]);
        sanitizer.cluster_arrive(site, mask, first, target);
        ctx.sanitizer = Some(sanitizer);
    }
    ctx.cluster().arrived += mask.count_ones();
    ctx.complete_cluster_barrier();
    Control::Next
}

/// `barrier.cluster.wait`.
pub(crate) fn wait(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    if let Err(control) = aligned(ctx, ins, mask) {
        return control;
    }
    if let Some(lane) = lanes_of(mask).find(|&l| ctx.warp.cluster_arrival[l] == 0) {
        let message = "this thread waits at the cluster's barrier and has not arrived".to_owned();
        return ctx.fail(ins, 1 << lane, FaultKind::InvalidOperand, message);
    }
    let phase = ctx.cluster().phase;
    let waiting = lanes_of(mask).filter(|&l| ctx.warp.cluster_arrival[l] > phase).fold(0, |m, l| m | 1 << l);
    lanes_of(mask & !waiting).for_each(|l| ctx.warp.cluster_arrival[l] = 0);
    if waiting == 0 {
        // Lanes of this warp that came before go on with those that came last, rather than some time later.
        ctx.warp.release_cluster(phase);
        ctx.has_waited(ctx.warp.index as usize, phase);
        ctx.warp.pc += 1;
        return Control::Jump;
    }
    ctx.park(ins, waiting, Wait::Cluster { phase: phase + 1 })
}

/// `mapa`: operands: d, address, rank. `flags`: 4 or 8 bytes; `imm`: the window to keep, 0 for a shared address.
pub(crate) fn map_address(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let ranks = *ctx.lanes::<u32>(ins.ops[2]);
    let count = ctx.cluster().shared.len();
    if let Some(lane) = lanes_of(mask).find(|&l| ranks[l] as usize >= count) {
        let message = format!("block {} of a cluster of {count}", ranks[lane]);
        return ctx.fail(ins, 1 << lane, FaultKind::InvalidOperand, message);
    }
    let base = ins.imm;
    let address = super::lanes::read_any(ctx, ins.ops[1], ins.flags as usize);
    let out = std::array::from_fn(|l| {
        (address[l].wrapping_sub(base) & OFFSET).wrapping_add((ranks[l] as u64 + 1) << RANK_SHIFT).wrapping_add(base)
    });
    super::lanes::write_any(ctx, ins.ops[0], ins.flags as usize, &out, mask);
    Control::Next
}

/// `getctarank`: operands: d, address. `flags`: bytes of the address; `imm`: the window.
pub(crate) fn rank_of(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let own = ctx.block.rank as usize;
    let address = super::lanes::read_any(ctx, ins.ops[1], ins.flags as usize);
    let out = address.map(|a| split_rank(a.wrapping_sub(ins.imm)).0.unwrap_or(own) as u32);
    ctx.put(ins.ops[0], &out, mask);
    Control::Next
}
