//! Branches, exits, barriers of the block, special registers.

use super::{Context, Parked, Wait};
use crate::fault::FaultKind;
use crate::program::{Control, Instruction};
use crate::space::lanes_of;
use std::sync::atomic::{Ordering, fence};

/// How control goes on behind an instruction of [`Class::Control`](crate::Class), in `Instruction::flags & FLOW`; 0 for the next one.
pub(crate) const FLOW: u8 = 3;
pub(crate) const FLOW_JUMP: u8 = 1;
pub(crate) const FLOW_INDEXED: u8 = 2;
pub(crate) const FLOW_EXIT: u8 = 3;
/// Flag of a branch: it is not in the PTX and does not count (`decode::layout`).
pub(crate) const ADDED: u8 = 4;

/// `bra`: target in `imm`.
pub(crate) fn branch(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let target = ins.imm as u32;
    let warp = &mut ctx.warp;
    if mask == warp.active {
        warp.pc = target;
        return Control::Jump;
    }
    ctx.counters.divergent_branches += 1;
    let (stay, next) = (warp.active & !mask, warp.pc + 1);
    // The group that is further back runs first.
    if target < next {
        warp.insert(next, stay);
        (warp.pc, warp.active) = (target, mask);
    } else {
        warp.insert(target, mask);
        (warp.pc, warp.active) = (next, stay);
    }
    Control::Jump
}

/// `brx.idx`: the index register in `ops[0]`, the list of targets in `imm`.
pub(crate) fn branch_indexed(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let index = *ctx.lanes::<u32>(ins.ops[0]);
    let program = ctx.program;
    let targets = &program.lists[ins.imm as usize];
    if let Some(lane) = lanes_of(mask).find(|&l| index[l] as usize >= targets.len()) {
        let message = format!("branch index {}; expected less than the {} targets", index[lane], targets.len());
        return ctx.fail(ins, 1 << lane, FaultKind::InvalidOperand, message);
    }
    let warp = &mut ctx.warp;
    let (stay, next) = (warp.active & !mask, warp.pc + 1);
    if stay != 0 {
        warp.insert(next, stay);
    }
    let mut left = mask;
    while left != 0 {
        let value = index[left.trailing_zeros() as usize];
        let together = lanes_of(left).filter(|&l| index[l] == value).fold(0, |m, l| m | 1 << l);
        warp.insert(targets[value as usize], together);
        left &= !together;
    }
    if warp.others.len() > 1 {
        ctx.counters.divergent_branches += 1;
    }
    ctx.next_group(ins)
}

/// `exit`, and `ret` of a kernel.
pub(crate) fn exit(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let warp = &mut ctx.warp;
    warp.exited |= mask;
    warp.active &= !mask;
    if let Err(control) = ctx.leave_cluster(ins, mask) {
        return control;
    }
    if ctx.warp.active != 0 {
        return Control::Next;
    }
    ctx.next_group(ins)
}

pub(crate) fn trap(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    ctx.fail(ins, mask, FaultKind::Trap, format!("{} threads of the warp reached a trap", mask.count_ones()))
}

pub(crate) fn nothing(_: &mut Context, _: &Instruction, _: u32) -> Control {
    Control::Next
}

/// `nanosleep`: others get a turn.
pub(crate) fn sleep(ctx: &mut Context, _: &Instruction, _: u32) -> Control {
    ctx.give_way()
}

/// `griddepcontrol.wait`: the grids before this one have ended already.
pub(crate) fn grid_wait(ctx: &mut Context, _: &Instruction, mask: u32) -> Control {
    if let Some(mut sanitizer) = ctx.sanitizer.take() {
        sanitizer.grid_wait(ctx.site(), mask);
        ctx.sanitizer = Some(sanitizer);
    }
    Control::Next
}

/// `griddepcontrol.launch_dependents`: the grids behind this one start when it has ended.
pub(crate) fn grid_launch(ctx: &mut Context, _: &Instruction, mask: u32) -> Control {
    if let Some(mut sanitizer) = ctx.sanitizer.take() {
        sanitizer.grid_launch(ctx.site(), mask);
        ctx.sanitizer = Some(sanitizer);
    }
    Control::Next
}

/// What a fence does, in `Instruction::flags`.
pub(crate) const FENCE_ACQUIRES: u8 = 1;
pub(crate) const FENCE_RELEASES: u8 = 2;
/// Flag: towards the block only.
pub(crate) const FENCE_OF_BLOCK: u8 = 4;

/// `fence`, `membar`.
pub(crate) fn memory_fence(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    fence(Ordering::SeqCst);
    if let Some(mut sanitizer) = ctx.sanitizer.take() {
        let has = |flag: u8| ins.flags & flag != 0;
        sanitizer.fence(ctx.site(), mask, has(FENCE_OF_BLOCK), has(FENCE_ACQUIRES), has(FENCE_RELEASES));
        ctx.sanitizer = Some(sanitizer);
    }
    Control::Next
}

/// What a barrier instruction does, in `Instruction::flags & BARRIER_KIND`.
pub(crate) const BARRIER_SYNC: u8 = 0;
pub(crate) const BARRIER_ARRIVE: u8 = 1;
pub(crate) const BARRIER_POPC: u8 = 2;
pub(crate) const BARRIER_AND: u8 = 3;
pub(crate) const BARRIER_OR: u8 = 4;
pub(crate) const BARRIER_KIND: u8 = 7;
/// Flag: all threads of the warp must execute it together.
pub(crate) const BARRIER_ALIGNED: u8 = 8;
/// Flag: a thread count is given.
pub(crate) const BARRIER_COUNTED: u8 = 16;
/// Flag: the predicate is negated.
pub(crate) const BARRIER_NOT: u8 = 32;

/// `bar` and `barrier.cta`; operands: result, barrier, thread count, predicate.
pub(crate) fn barrier(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let lane = mask.trailing_zeros() as usize;
    let id = ctx.lanes::<u32>(ins.ops[1])[lane];
    let kind = ins.flags & BARRIER_KIND;
    let counted = ins.flags & BARRIER_COUNTED != 0;
    let elsewhere = ctx.warp.alive() & !mask;
    if ins.flags & BARRIER_ALIGNED != 0
        && elsewhere != 0
        && let Some(control) = ctx.ask_again(ins)
    {
        return control;
    }
    ctx.counters.barriers += 1;
    if id > 15 {
        return ctx.fail(ins, mask, FaultKind::InvalidOperand, format!("barrier {id}; a block has barriers 0 to 15"));
    }
    let expected = if counted { ctx.lanes::<u32>(ins.ops[2])[lane] } else { ctx.facts.threads };
    if counted && (expected == 0 || !expected.is_multiple_of(32) || expected > 1024) {
        let message = format!("barrier for {expected} threads; expected a multiple of 32 from 32 to 1024");
        return ctx.fail(ins, mask, FaultKind::InvalidOperand, message);
    }
    if ins.flags & BARRIER_ALIGNED != 0 && elsewhere != 0 {
        let at = ctx.where_is(elsewhere.trailing_zeros());
        let message = format!(
            "{} of {} threads of the warp reach barrier {id}; {at}",
            mask.count_ones(),
            ctx.warp.present.count_ones()
        );
        return ctx.fail(ins, mask, FaultKind::PartialBarrier, message);
    }
    if !counted && ctx.warp.exited != 0 {
        let at = ctx.where_is(ctx.warp.exited.trailing_zeros());
        let message = format!("barrier {id} waits for all {expected} threads of the block, but {at}");
        return ctx.fail(ins, mask, FaultKind::PartialBarrier, message);
    }
    let mut votes = 0;
    if kind >= BARRIER_POPC {
        let predicate = ctx.predicate(ins.ops[3]);
        votes = mask & if ins.flags & BARRIER_NOT != 0 { !predicate } else { predicate };
    }
    // A partial last warp counts as 32 threads where a count is given, as on hardware.
    let arrivals = if counted && mask == ctx.warp.present { 32 } else { mask.count_ones() };
    let warp = ctx.warp.index;
    let barrier = &mut ctx.block.barriers[id as usize];
    if barrier.arrived == 0 {
        *barrier = super::Barrier { expected, all: true, ..Default::default() };
    }
    let wrong = (barrier.expected != expected).then_some(barrier.expected);
    barrier.arrived += arrivals;
    barrier.count += votes.count_ones();
    barrier.any |= votes != 0;
    barrier.all &= votes == mask;
    barrier.warps |= 1 << warp;
    let over = barrier.arrived > barrier.expected;
    if let Some(other) = wrong {
        let message = format!("barrier {id} for {expected} threads, while others wait at it for {other}");
        return ctx.fail(ins, mask, FaultKind::InvalidOperand, message);
    }
    if over {
        let message = format!("more than {expected} threads arrive at barrier {id}");
        return ctx.fail(ins, mask, FaultKind::InvalidOperand, message);
    }
    if kind == BARRIER_ARRIVE {
        if let Some(mut sanitizer) = ctx.sanitizer.take() {
            sanitizer.arrive(ctx.site(), id as u8);
            ctx.sanitizer = Some(sanitizer);
        }
        return Control::Next;
    }
    ctx.park(ins, mask, Wait::Barrier { id: id as u8 })
}

impl Context<'_> {
    /// Sets lanes of the active group aside at the current instruction; the others go on.
    pub(crate) fn park(&mut self, ins: &Instruction, mask: u32, wait: Wait) -> Control {
        let warp = &mut self.warp;
        warp.parked.push(Parked { pc: warp.pc, mask, wait });
        warp.active &= !mask;
        if warp.active != 0 { Control::Next } else { self.next_group(ins) }
    }

    /// What a lane of the current warp is doing, for a message.
    pub(crate) fn where_is(&self, lane: u32) -> String {
        let at = lane as usize & 31;
        let warp = &self.warp;
        let thread = format!("thread ({},{},{})", warp.tid[0][at], warp.tid[1][at], warp.tid[2][at]);
        let bit = 1u32 << (lane & 31);
        if warp.present & bit == 0 {
            return format!("lane {lane} does not exist: the warp has {} threads", warp.present.count_ones());
        }
        if warp.exited & bit != 0 {
            return format!("{thread} has exited");
        }
        let pc = if let Some(p) = warp.parked.iter().find(|p| p.mask & bit != 0) {
            p.pc
        } else if let Some(g) = warp.others.iter().chain(&warp.aside).find(|g| g.1 & bit != 0) {
            g.0
        } else {
            warp.pc
        };
        let line = self.code[pc as usize].line;
        format!("{thread} is at {}", self.program.source.describe(line))
    }
}

/// Special registers, by `Instruction::imm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Special {
    TidX,
    TidY,
    TidZ,
    NtidX,
    NtidY,
    NtidZ,
    CtaidX,
    CtaidY,
    CtaidZ,
    NctaidX,
    NctaidY,
    NctaidZ,
    LaneId,
    WarpId,
    NwarpId,
    SmId,
    NsmId,
    GridId,
    Clock,
    ClockHigh,
    MaskEq,
    MaskLt,
    MaskLe,
    MaskGt,
    MaskGe,
    DynamicShared,
    TotalShared,
    Zero,
    EnvironmentLow,
    EnvironmentHigh,
    ClusteridX,
    ClusteridY,
    ClusteridZ,
    NclusteridX,
    NclusteridY,
    NclusteridZ,
    ClusterCtaidX,
    ClusterCtaidY,
    ClusterCtaidZ,
    ClusterNctaidX,
    ClusterNctaidY,
    ClusterNctaidZ,
    ClusterRank,
    ClusterBlocks,
    ExplicitCluster,
}

/// `%envreg0` to `%envreg31`.
fn is_environment(name: &str) -> bool {
    name.strip_prefix("%envreg").and_then(|number| number.parse::<u32>().ok()).is_some_and(|number| number < 32)
}

impl Special {
    pub(crate) fn is_environment(self) -> bool {
        matches!(self, Special::EnvironmentLow | Special::EnvironmentHigh)
    }

    /// The special register of a name, `%` included, and its width in bits.
    pub(crate) fn parse(name: &str) -> Option<(Special, u32)> {
        use Special::*;
        let special = match name {
            "%tid.x" => TidX,
            "%tid.y" => TidY,
            "%tid.z" => TidZ,
            "%ntid.x" => NtidX,
            "%ntid.y" => NtidY,
            "%ntid.z" => NtidZ,
            "%ctaid.x" => CtaidX,
            "%ctaid.y" => CtaidY,
            "%ctaid.z" => CtaidZ,
            "%nctaid.x" => NctaidX,
            "%nctaid.y" => NctaidY,
            "%nctaid.z" => NctaidZ,
            "%laneid" => LaneId,
            "%warpid" => WarpId,
            "%nwarpid" => NwarpId,
            "%smid" => SmId,
            "%nsmid" => NsmId,
            "%clock" | "%globaltimer_lo" => Clock,
            "%clock_hi" | "%globaltimer_hi" => ClockHigh,
            "%lanemask_eq" => MaskEq,
            "%lanemask_lt" => MaskLt,
            "%lanemask_le" => MaskLe,
            "%lanemask_gt" => MaskGt,
            "%lanemask_ge" => MaskGe,
            "%dynamic_smem_size" => DynamicShared,
            "%total_smem_size" => TotalShared,
            "%envreg1" => EnvironmentHigh,
            "%envreg2" => EnvironmentLow,
            _ if is_environment(name) => Zero,
            "%clock64" | "%globaltimer" => return Some((Clock, 64)),
            "%gridid" => return Some((GridId, 64)),
            "%clusterid.x" => ClusteridX,
            "%clusterid.y" => ClusteridY,
            "%clusterid.z" => ClusteridZ,
            "%nclusterid.x" => NclusteridX,
            "%nclusterid.y" => NclusteridY,
            "%nclusterid.z" => NclusteridZ,
            "%cluster_ctaid.x" => ClusterCtaidX,
            "%cluster_ctaid.y" => ClusterCtaidY,
            "%cluster_ctaid.z" => ClusterCtaidZ,
            "%cluster_nctaid.x" => ClusterNctaidX,
            "%cluster_nctaid.y" => ClusterNctaidY,
            "%cluster_nctaid.z" => ClusterNctaidZ,
            "%cluster_ctarank" => ClusterRank,
            "%cluster_nctarank" => ClusterBlocks,
            "%is_explicit_cluster" => ExplicitCluster,
            "%aggr_smem_size" => TotalShared,
            "%reserved_smem_offset_begin" | "%reserved_smem_offset_end" | "%reserved_smem_offset_cap" => Zero,
            "%pm0" | "%pm1" | "%pm2" | "%pm3" | "%pm4" | "%pm5" | "%pm6" | "%pm7" => Zero,
            "%current_graph_exec" => return Some((Zero, 64)),
            _ => return None,
        };
        Some((special, 32))
    }
}

/// `mov` from a special register: `imm` says which, `flags` the register's bytes.
pub(crate) fn special(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let (block, grid, at) = (ctx.facts.block, ctx.facts.grid, ctx.block.index);
    let cluster = ctx.facts.cluster;
    let lane_masks = |f: fn(u32) -> u32| std::array::from_fn::<u32, 32, _>(|l| f(l as u32));
    let now = ctx.issued_now() - ctx.block_start;
    const LIST: [Special; 45] = {
        use Special::*;
        [
            TidX,
            TidY,
            TidZ,
            NtidX,
            NtidY,
            NtidZ,
            CtaidX,
            CtaidY,
            CtaidZ,
            NctaidX,
            NctaidY,
            NctaidZ,
            LaneId,
            WarpId,
            NwarpId,
            SmId,
            NsmId,
            GridId,
            Clock,
            ClockHigh,
            MaskEq,
            MaskLt,
            MaskLe,
            MaskGt,
            MaskGe,
            DynamicShared,
            TotalShared,
            Zero,
            EnvironmentLow,
            EnvironmentHigh,
            ClusteridX,
            ClusteridY,
            ClusteridZ,
            NclusteridX,
            NclusteridY,
            NclusteridZ,
            ClusterCtaidX,
            ClusterCtaidY,
            ClusterCtaidZ,
            ClusterNctaidX,
            ClusterNctaidY,
            ClusterNctaidZ,
            ClusterRank,
            ClusterBlocks,
            ExplicitCluster,
        ]
    };
    let value: [u32; 32] = match LIST[ins.imm as usize] {
        Special::TidX => ctx.warp.tid[0],
        Special::TidY => ctx.warp.tid[1],
        Special::TidZ => ctx.warp.tid[2],
        Special::NtidX => [block[0]; 32],
        Special::NtidY => [block[1]; 32],
        Special::NtidZ => [block[2]; 32],
        Special::CtaidX => [at[0]; 32],
        Special::CtaidY => [at[1]; 32],
        Special::CtaidZ => [at[2]; 32],
        Special::NctaidX => [grid[0]; 32],
        Special::NctaidY => [grid[1]; 32],
        Special::NctaidZ => [grid[2]; 32],
        Special::LaneId => lane_masks(|l| l),
        Special::WarpId => [ctx.warp.index; 32],
        Special::NwarpId => [ctx.facts.threads.div_ceil(32); 32],
        Special::SmId => [(ctx.block.linear % ctx.facts.sm_count as u64) as u32; 32],
        Special::NsmId => [ctx.facts.sm_count; 32],
        Special::GridId | Special::Zero => [0; 32],
        Special::ClusteridX => [at[0] / cluster[0]; 32],
        Special::ClusteridY => [at[1] / cluster[1]; 32],
        Special::ClusteridZ => [at[2] / cluster[2]; 32],
        Special::NclusteridX => [grid[0] / cluster[0]; 32],
        Special::NclusteridY => [grid[1] / cluster[1]; 32],
        Special::NclusteridZ => [grid[2] / cluster[2]; 32],
        Special::ClusterCtaidX => [at[0] % cluster[0]; 32],
        Special::ClusterCtaidY => [at[1] % cluster[1]; 32],
        Special::ClusterCtaidZ => [at[2] % cluster[2]; 32],
        Special::ClusterNctaidX => [cluster[0]; 32],
        Special::ClusterNctaidY => [cluster[1]; 32],
        Special::ClusterNctaidZ => [cluster[2]; 32],
        Special::ClusterRank => [ctx.block.rank; 32],
        Special::ClusterBlocks => [cluster.iter().product(); 32],
        Special::ExplicitCluster => [ctx.facts.explicit_cluster as u32; 32],
        Special::EnvironmentLow => [ctx.facts.environment as u32; 32],
        Special::EnvironmentHigh => [(ctx.facts.environment >> 32) as u32; 32],
        Special::Clock => {
            if ins.flags == 8 {
                ctx.put(ins.ops[0], &[now; 32], mask);
                return Control::Next;
            }
            [now as u32; 32]
        }
        Special::ClockHigh => [(now >> 32) as u32; 32],
        Special::MaskEq => lane_masks(|l| 1 << l),
        Special::MaskLt => lane_masks(|l| (1 << l) - 1),
        Special::MaskLe => lane_masks(|l| u32::MAX >> (31 - l)),
        Special::MaskGt => lane_masks(|l| !(u32::MAX >> (31 - l))),
        Special::MaskGe => lane_masks(|l| u32::MAX << l),
        Special::DynamicShared => [ctx.facts.dynamic_shared; 32],
        Special::TotalShared => [ctx.facts.shared_bytes; 32],
    };
    match ins.flags {
        2 => ctx.put(ins.ops[0], &value.map(|v| v as u16), mask),
        8 => ctx.put(ins.ops[0], &value.map(u64::from), mask),
        // A predicate.
        0 => ctx.set_predicate(ins.ops[0], if value[0] != 0 { u32::MAX } else { 0 }, mask),
        _ => ctx.put(ins.ops[0], &value, mask),
    }
    Control::Next
}
