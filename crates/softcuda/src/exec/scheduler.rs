//! Turns: warps of a block, and blocks of a launch.

use super::waiting::PATIENCE;
use super::{Barrier, Block, Context, Stop, Wait, Warp};
use crate::fault::{Fault, FaultKind};
use crate::program::{Line, Program};

/// Instructions a warp may run before another gets a turn.
const SLICE: u64 = 1 << 14;
/// Those of a warp whose lanes were seen to wait for one another.
const SHORT_SLICE: u64 = 1 << 8;

/// What one round over a block's warps did.
pub(crate) struct Round {
    pub(crate) finished: bool,
    /// Whether any warp could run; where none could, all that are left wait for other blocks of the cluster.
    pub(crate) ran: bool,
}

impl Block {
    /// A block of no threads, to be given a shape by [`Block::reshape`] and set up by [`Block::begin`].
    pub(crate) fn new() -> Block {
        Block {
            shape: ([0; 3], 0),
            index: [0; 3],
            linear: 0,
            cluster: 0,
            rank: 0,
            cluster_phase: 0,
            warps: Vec::new(),
            spare: Vec::new(),
            shared: Vec::new(),
            barriers: [Barrier::default(); 16],
            finished: false,
        }
    }

    /// Makes room for `block` threads and so many bytes of shared memory. The warps that there are keep their registers.
    pub(crate) fn reshape(&mut self, program: &Program, block: [u32; 3], shared_bytes: u32) {
        if self.shape.0 != block {
            let threads = block.iter().product::<u32>();
            let warps = threads.div_ceil(32);
            while self.warps.len() > warps as usize {
                self.spare.extend(self.warps.pop());
            }
            for index in self.warps.len() as u32..warps {
                self.warps.push(self.spare.pop().unwrap_or_else(|| Box::new(Warp::new(program, index))));
            }
            self.warps.iter_mut().for_each(|warp| warp.place(block, threads));
        }
        self.shared.resize((shared_bytes as usize).div_ceil(64), Line([0; 64]));
        self.shape = (block, shared_bytes);
    }

    /// Host memory that the block holds, in bytes, about.
    pub(crate) fn bytes(&self) -> usize {
        let warp = self.warps.first().map_or(0, |w| size_of::<Warp>() + size_of_val(&*w.registers) + w.local.len());
        (self.warps.len() + self.spare.len()) * warp + self.shared.len() * size_of::<Line>()
    }

    /// Makes the block the one at `linear`. Shared memory is filled with ones bits (NaN, -1), never with a past block's data.
    pub(crate) fn begin(&mut self, linear: u64, grid: [u32; 3]) {
        let [x, y, _] = grid.map(u64::from);
        self.linear = linear;
        self.index = [(linear % x) as u32, (linear / x % y) as u32, (linear / (x * y)) as u32];
        self.shared.fill(Line([0xff; 64]));
        self.barriers = [Barrier::default(); 16];
        self.finished = false;
        (self.cluster, self.rank, self.cluster_phase) = (0, 0, 0);
        self.warps.iter_mut().for_each(|warp| warp.begin());
    }
}

impl Warp {
    /// A warp, to be given threads by [`Warp::place`].
    fn new(program: &Program, index: u32) -> Warp {
        let mut registers = vec![Line([0; 64]); program.register_lines].into_boxed_slice();
        for constant in &program.constants {
            let mut line = Line([0; 64]);
            for lane in line.0.chunks_exact_mut(constant.bytes) {
                lane.copy_from_slice(&constant.value.to_le_bytes()[..constant.bytes]);
            }
            registers[constant.reg as usize..][..constant.bytes / 2].fill(line);
        }
        let mut predicates = vec![0; program.predicates];
        program.predicate_constants.iter().for_each(|&(p, value)| predicates[p as usize] = value);
        Warp {
            pc: 0,
            active: 0,
            meet: super::NOWHERE,
            others: Vec::new(),
            parked: Vec::new(),
            present: 0,
            exited: 0,
            index,
            finished: false,
            registers,
            predicates,
            tid: [[0; 32]; 3],
            cluster_arrival: [0; 32],
            stacks: Box::default(),
            entry: program.entry,
            local: vec![0; program.local_bytes as usize * 32],
            executed: 0,
            aside: Vec::new(),
            patience: 0,
            last_strong: (u32::MAX, 0),
            asked: false,
            copies: Vec::new(),
            committed: [0; 32],
        }
    }

    /// Gives it its threads of a block.
    fn place(&mut self, block: [u32; 3], threads: u32) {
        for lane in 0..32 {
            let thread = self.index * 32 + lane as u32;
            self.tid[0][lane] = thread % block[0];
            self.tid[1][lane] = thread / block[0] % block[1];
            self.tid[2][lane] = thread / (block[0] * block[1]);
        }
        let left = threads - self.index * 32;
        self.present = if left >= 32 { u32::MAX } else { (1 << left) - 1 };
    }

    /// A warp that stands in while the real ones are in their block.
    pub(crate) fn placeholder() -> Warp {
        Warp {
            pc: 0,
            active: 0,
            meet: super::NOWHERE,
            others: Vec::new(),
            parked: Vec::new(),
            present: 0,
            exited: 0,
            index: 0,
            finished: true,
            registers: Box::default(),
            predicates: Vec::new(),
            tid: [[0; 32]; 3],
            cluster_arrival: [0; 32],
            stacks: Box::default(),
            entry: 0,
            local: Vec::new(),
            executed: 0,
            aside: Vec::new(),
            patience: 0,
            last_strong: (u32::MAX, 0),
            asked: false,
            copies: Vec::new(),
            committed: [0; 32],
        }
    }

    fn begin(&mut self) {
        (self.pc, self.active, self.meet, self.exited) = (self.entry, self.present, super::NOWHERE, 0);
        self.cluster_arrival = [0; 32];
        self.stacks.iter_mut().for_each(|stack| stack.clear());
        self.others.clear();
        self.aside.clear();
        self.patience = PATIENCE;
        self.parked.clear();
        self.finished = false;
        self.executed = 0;
        (self.last_strong, self.asked) = ((u32::MAX, 0), false);
        self.copies.clear();
        self.committed = [0; 32];
    }

    fn can_run(&self) -> bool {
        !self.finished && (self.active != 0 || !self.others.is_empty())
    }
}

impl Context<'_> {
    /// Runs the current block to its end.
    pub(crate) fn run_block(&mut self) -> Result<(), Box<Fault>> {
        self.block_start = self.issued;
        loop {
            let Round { finished, ran } = self.round()?;
            if finished {
                return Ok(());
            }
            if !ran {
                return Err(self.stuck_cluster());
            }
        }
    }

    /// Gives every warp of the current block that can run one turn.
    pub(crate) fn round(&mut self) -> Result<Round, Box<Fault>> {
        self.release_cluster();
        let mut ran = false;
        for index in 0..self.block.warps.len() {
            if !self.block.warps[index].can_run() {
                continue;
            }
            ran = true;
            std::mem::swap(&mut self.warp, &mut self.block.warps[index]);
            if self.warp.active == 0 {
                self.warp.run_lowest();
            }
            let slice = if self.warp.is_impatient() { SHORT_SLICE } else { SLICE };
            match self.profile {
                None => self.run_warp::<false>(slice),
                Some(_) => self.run_warp::<true>(slice),
            }
            let stop = std::mem::replace(&mut self.stop, Stop::Yield);
            if let Stop::Fault(fault) = stop {
                std::mem::swap(&mut self.warp, &mut self.block.warps[index]);
                return Err(fault);
            }
            std::mem::swap(&mut self.warp, &mut self.block.warps[index]);
            if self.issued > self.issue_limit {
                return Err(self.too_long());
            }
            self.release_barriers();
        }
        let finished = self.block.warps.iter().all(|w| w.finished);
        let waits = |w: &Warp| w.parked.iter().any(|p| matches!(p.wait, Wait::Cluster { .. }));
        if !ran && !finished && !self.block.warps.iter().any(|w| waits(w)) {
            return Err(self.stuck_barrier());
        }
        self.block.finished = finished;
        Ok(Round { finished, ran })
    }

    /// Lets go of the lanes at every barrier that is complete.
    fn release_barriers(&mut self) {
        for id in 0..16u8 {
            let barrier = self.block.barriers[id as usize];
            if barrier.arrived == 0 || barrier.arrived < barrier.expected {
                continue;
            }
            self.block.barriers[id as usize] = Barrier::default();
            if let Some(mut sanitizer) = self.sanitizer.take() {
                sanitizer.barrier(self.site(), id, barrier.warps);
                self.sanitizer = Some(sanitizer);
            }
            for index in 0..self.block.warps.len() {
                if self.block.warps[index].parked.is_empty() {
                    continue;
                }
                std::mem::swap(&mut self.warp, &mut self.block.warps[index]);
                let parked = std::mem::take(&mut self.warp.parked);
                for group in parked {
                    if group.wait != (Wait::Barrier { id }) {
                        self.warp.parked.push(group);
                        continue;
                    }
                    let ins = &self.code[group.pc as usize];
                    match ins.flags & super::control::BARRIER_KIND {
                        super::control::BARRIER_POPC => self.put(ins.ops[0], &[barrier.count; 32], group.mask),
                        super::control::BARRIER_AND => {
                            self.set_predicate(ins.ops[0], if barrier.all { u32::MAX } else { 0 }, group.mask)
                        }
                        super::control::BARRIER_OR => {
                            self.set_predicate(ins.ops[0], if barrier.any { u32::MAX } else { 0 }, group.mask)
                        }
                        _ => {}
                    }
                    self.warp.insert(group.pc + 1, group.mask);
                }
                std::mem::swap(&mut self.warp, &mut self.block.warps[index]);
            }
        }
    }

    /// A launch with a fault does not end.
    #[cold]
    fn too_long(&mut self) -> Box<Fault> {
        let kept = self.sanitizer.as_ref().and_then(|sanitizer| sanitizer.first());
        let fault = kept.unwrap_or_else(|| Fault::new(FaultKind::Timeout, "the launch went on for long after a fault"));
        Box::new(fault)
    }

    /// No warp can run and some wait at a barrier: who, and for whom.
    #[cold]
    fn stuck_barrier(&mut self) -> Box<Fault> {
        let waits = |w: &Warp| w.parked.first().copied();
        let Some(waiting) = self.block.warps.iter().position(|w| waits(w).is_some()) else {
            return Box::new(Fault::new(FaultKind::Deadlock, "no warp of a block can run and none waits at a barrier"));
        };
        std::mem::swap(&mut self.warp, &mut self.block.warps[waiting]);
        let parked = self.warp.parked[0];
        let ins = self.code[parked.pc as usize];
        let here = self.location(ins.line, parked.mask.trailing_zeros());
        std::mem::swap(&mut self.warp, &mut self.block.warps[waiting]);
        let id = match parked.wait {
            Wait::Barrier { id } => id,
            Wait::Lanes | Wait::Cluster { .. } => 0,
        };
        let barrier = self.block.barriers[id as usize];
        let at_barrier =
            |w: &Warp| w.parked.iter().filter(|p| p.wait == Wait::Barrier { id }).fold(0, |m, p| m | p.mask);
        let absent = (0..self.block.warps.len()).find_map(|w| {
            let warp = &self.block.warps[w];
            let missing = warp.present & !at_barrier(warp);
            (missing != 0).then(|| (w, missing.trailing_zeros()))
        });
        let absent = absent.map_or(String::new(), |(w, lane)| {
            std::mem::swap(&mut self.warp, &mut self.block.warps[w]);
            let text = format!("; {}", self.where_is(lane));
            std::mem::swap(&mut self.warp, &mut self.block.warps[w]);
            text
        });
        let message = format!(
            "{} of {} threads reach barrier {id} and the others never come{absent}",
            barrier.arrived, barrier.expected
        );
        Box::new(Fault::new(FaultKind::PartialBarrier, message).at(here))
    }
}
