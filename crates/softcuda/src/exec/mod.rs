//! The executor: warps of 32 lanes running decoded instructions.
//!
//! # Divergence
//!
//! The lanes of a warp that share a program counter form a group. The group with the lowest program counter runs; the
//! others wait in [`Warp::others`], ordered, and the lowest of their counters is kept in [`Warp::meet`], so that the
//! converged path pays one comparison per instruction. When the running group reaches `meet` the two become one. PTX
//! from a structured source puts the code after an `if` or a loop below it, so the lowest-first rule reconverges where
//! hardware does; text in another order is put into this one when it is decoded (`decode::layout`).
//!
//! A group that executes a `.sync` collective naming lanes that are still elsewhere is parked until they arrive, as on
//! hardware with independent thread scheduling; if no lane of the warp can run any more, that is a fault.
//!
//! # Blocks
//!
//! The warps of a block take turns: each runs until it waits at a barrier, ends, uses up its time slice, or looks
//! like it is spinning (the same strong load giving the same value twice running). Lanes that spin for others of their own
//! warp let these go on: see [`waiting`].

#![expect(clippy::needless_range_loop, reason = "a lane number indexes several rows and a mask at once")]

pub(crate) mod access;
pub(crate) mod atomic;
mod banks;
pub(crate) mod builtins;
pub(crate) mod bulk;
pub(crate) mod calls;
pub(crate) mod cluster;
pub(crate) mod collective;
pub(crate) mod control;
pub(crate) mod copies;
pub(crate) mod lanes;
pub(crate) mod matrix;
pub(crate) mod mbarrier;
pub(crate) mod memory;
pub(crate) mod prefetch;
pub(crate) mod scheduler;
mod sectors;
pub(crate) mod tensor;
mod vectors;
pub(crate) mod video;
mod waiting;
pub(crate) mod wgmma;

use crate::counters::{Class, Counters};
use crate::fault::{Fault, FaultKind, Location};
use crate::memory::Snapshot;
use crate::output::Output;
use crate::profile::{self, Profile};
use crate::program::{Control, Instruction, Line, Program, Reg, UNGUARDED};
use crate::sanitizer::{AFTER_A_FAULT, Sanitizer, Site};
use std::sync::Mutex;

/// All 32 lanes.
pub(crate) const FULL: u32 = u32::MAX;
/// No program counter.
const NOWHERE: u32 = u32::MAX;

/// Why lanes are parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// At a barrier of the block.
    Barrier { id: u8 },
    /// At the cluster's barrier, until its phase has this number.
    Cluster { phase: u32 },
    /// At a collective of the warp, for the lanes it names.
    Lanes,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Parked {
    pub(crate) pc: u32,
    pub(crate) mask: u32,
    pub(crate) wait: Wait,
}

/// The state of one warp.
pub(crate) struct Warp {
    pub(crate) pc: u32,
    pub(crate) active: u32,
    /// The lowest program counter in `others`.
    pub(crate) meet: u32,
    /// Groups that could run, highest program counter first.
    pub(crate) others: Vec<(u32, u32)>,
    pub(crate) parked: Vec<Parked>,
    /// Lanes that exist: a block's last warp may be partial.
    pub(crate) present: u32,
    pub(crate) exited: u32,
    pub(crate) index: u32,
    pub(crate) finished: bool,
    registers: Box<[Line]>,
    pub(crate) predicates: Vec<u32>,
    pub(crate) tid: [[u32; 32]; 3],
    /// The phase of the cluster's barrier that a lane has arrived for and not waited for, by lane; 0 for none.
    pub(crate) cluster_arrival: [u32; 32],
    /// Calls with frames, by lane.
    pub(crate) stacks: Box<[calls::Stack; 32]>,
    /// Index of the kernel's first instruction.
    entry: u32,
    /// Bytes of local memory, lane by lane.
    pub(crate) local: Vec<u8>,
    pub(crate) executed: u64,
    /// Groups that could run and spin for others (`waiting`), in the order in which they were set aside, and how long until one is.
    aside: Vec<(u32, u32)>,
    patience: u32,
    /// Program counter and value sum of the last strong load, to notice spinning; whether there was one in this time slice.
    pub(crate) last_strong: (u32, u64),
    asked: bool,
    /// Asynchronous copies issued but not waited for.
    pub(crate) copies: Vec<copies::AsyncCopy>,
    /// Groups of asynchronous copies that each lane has committed.
    pub(crate) committed: [u32; 32],
}

/// One arrival count of a block.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Barrier {
    pub(crate) arrived: u32,
    pub(crate) expected: u32,
    pub(crate) any: bool,
    pub(crate) all: bool,
    pub(crate) count: u32,
    /// Warps that arrived, for the sanitizer's ordering.
    pub(crate) warps: u64,
}

/// The state of one block.
pub(crate) struct Block {
    /// Threads in x, y, z, and bytes of shared memory.
    pub(crate) shape: ([u32; 3], u32),
    pub(crate) index: [u32; 3],
    pub(crate) linear: u64,
    /// Its place among the clusters that run now, its number in its own, and the phase of that one's barrier that its
    /// waiting lanes have been let go for.
    pub(crate) cluster: usize,
    pub(crate) rank: u32,
    pub(crate) cluster_phase: u32,
    /// Boxed, so that a warp and the one that ran before it change places cheaply.
    #[expect(clippy::vec_box, reason = "warps are swapped in and out of the context")]
    pub(crate) warps: Vec<Box<Warp>>,
    /// Those that a smaller shape had no use for.
    #[expect(clippy::vec_box, reason = "as above")]
    pub(crate) spare: Vec<Box<Warp>>,
    /// 16-byte units, so that the bytes are aligned.
    pub(crate) shared: Vec<Line>,
    pub(crate) barriers: [Barrier; 16],
    pub(crate) finished: bool,
}

/// Why [`Context::run_warp`] returned.
pub(crate) enum Stop {
    /// Every lane exited.
    Finished,
    /// Every lane that is left waits at a barrier of the block.
    Waiting,
    /// The time slice is over, or the warp spins.
    Yield,
    Fault(Box<Fault>),
}

/// What never changes during a launch.
pub(crate) struct LaunchFacts<'w> {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) threads: u32,
    pub(crate) shared_bytes: u32,
    pub(crate) dynamic_shared: u32,
    pub(crate) sm_count: u32,
    pub(crate) instruction_limit: u64,
    /// Where a grid-wide barrier has its memory; 0 for none.
    pub(crate) environment: u64,
    /// Blocks of a cluster in x, y, z, and whether the launch or the kernel asked for it.
    pub(crate) cluster: [u32; 3],
    pub(crate) explicit_cluster: bool,
    /// Held while a bulk copy reduces into global memory.
    pub(crate) reductions: &'w Mutex<()>,
    pub(crate) output: &'w Output,
    /// Parameter memory, padded to whole lines.
    pub(crate) params: Vec<Line>,
}

/// One host thread's view of a launch: the block and warp that it runs now.
pub(crate) struct Context<'a> {
    pub(crate) program: &'a Program,
    pub(crate) code: &'a [Instruction],
    pub(crate) memory: &'a Snapshot,
    pub(crate) facts: &'a LaunchFacts<'a>,
    pub(crate) counters: Counters,
    pub(crate) warp: Box<Warp>,
    pub(crate) block: Block,
    /// The clusters whose blocks run now.
    pub(crate) clusters: Vec<cluster::Cluster>,
    /// How often each instruction was issued, as differences between neighbours: see [`Context::run_warp`].
    pub(crate) visits: Vec<i64>,
    /// Warp instructions issued, without those since `segment`.
    pub(crate) issued: u64,
    /// Where the instructions being issued now, one after another, began.
    pub(crate) segment: u32,
    /// The allocation that each memory instruction used last, by `Instruction::site`.
    pub(crate) sites: Box<[memory::Cached; 256]>,
    pub(crate) sanitizer: Option<Box<Sanitizer>>,
    pub(crate) profile: Option<Box<Profile>>,
    /// What lanes access whose access is a fault, where the launch goes on.
    pub(crate) nowhere: Box<Line>,
    /// What `issued` may become once there was a fault.
    pub(crate) issue_limit: u64,
    pub(crate) stop: Stop,
    /// What `issued` was when the block began, for `%clock`.
    pub(crate) block_start: u64,
}

impl<'a> Context<'a> {
    /// A register's 32 values.
    #[inline(always)]
    pub(crate) fn lanes<T: lanes::Lane>(&self, reg: Reg) -> &[T; 32] {
        debug_assert!(reg as usize * 64 + size_of::<T>() * 32 <= self.warp.registers.len() * 64);
        // SAFETY: the decoder gives out registers inside the file (`Program::register_lines`), whose class has exactly
        // `size_of::<T>()` bytes per lane; `Lane` types take any bits, and a line is aligned to 64 bytes.
        unsafe { &*(self.warp.registers.as_ptr().add(reg as usize) as *const [T; 32]) }
    }

    /// A register's 32 values, to be changed.
    #[inline(always)]
    pub(crate) fn lanes_mut<T: lanes::Lane>(&mut self, reg: Reg) -> &mut [T; 32] {
        debug_assert!(reg as usize * 64 + size_of::<T>() * 32 <= self.warp.registers.len() * 64);
        // SAFETY: as in `lanes`, and `self` is borrowed mutably.
        unsafe { &mut *(self.warp.registers.as_mut_ptr().add(reg as usize) as *mut [T; 32]) }
    }

    #[inline(always)]
    pub(crate) fn predicate(&self, index: u32) -> u32 {
        debug_assert!((index as usize) < self.warp.predicates.len());
        // SAFETY: the decoder gives out predicates below `Program::predicates`, the length of the file.
        unsafe { *self.warp.predicates.get_unchecked(index as usize) }
    }

    /// Sets a predicate in the lanes of `mask`.
    #[inline(always)]
    pub(crate) fn set_predicate(&mut self, index: u32, value: u32, mask: u32) {
        debug_assert!((index as usize) < self.warp.predicates.len());
        // SAFETY: as in `predicate`.
        let slot = unsafe { self.warp.predicates.get_unchecked_mut(index as usize) };
        *slot = *slot & !mask | value & mask;
    }

    /// Writes `value` in the lanes of `mask`.
    #[inline(always)]
    pub(crate) fn put<T: lanes::Lane>(&mut self, reg: Reg, value: &[T; 32], mask: u32) {
        let out = self.lanes_mut::<T>(reg);
        if mask == FULL {
            *out = *value;
        } else {
            *out = lanes::blend(value, out, mask);
        }
    }

    /// The current warp and its instruction, for the sanitizer.
    pub(crate) fn site(&self) -> Site<'a> {
        Site {
            memory: self.memory,
            source: &self.program.source,
            symbols: &self.program.symbols,
            grid: self.facts.grid,
            block: self.facts.block,
            shared_bytes: self.facts.shared_bytes,
            linear: self.block.linear,
            warps: self.block.warps.len(),
            warp: self.warp.index as usize,
            line: self.code.get(self.warp.pc as usize).map_or(0, |instruction| instruction.line),
            clustered: self.facts.cluster != [1; 3],
        }
    }

    /// Where a lane of the current warp is, for a message.
    pub(crate) fn location(&self, line: u32, lane: u32) -> Location {
        let lane = lane.min(31) as usize;
        Location {
            kernel: self.program.name.clone(),
            line,
            text: self.program.source.line(line).to_owned(),
            source: self.program.source.source_of(line),
            block: self.block.index,
            thread: [self.warp.tid[0][lane], self.warp.tid[1][lane], self.warp.tid[2][lane]],
        }
    }

    /// Stops the launch with a fault of the first lane of `lanes`.
    #[cold]
    #[inline(never)]
    pub(crate) fn fail(&mut self, ins: &Instruction, lanes: u32, kind: FaultKind, message: String) -> Control {
        self.fail_with(ins, lanes, Fault::new(kind, message))
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn fail_with(&mut self, ins: &Instruction, lanes: u32, fault: Fault) -> Control {
        let location = self.location(ins.line, lanes.trailing_zeros());
        self.stop = Stop::Fault(Box::new(fault.at(location)));
        Control::Stop
    }

    /// Under the sanitizer, keeps a fault of the first lane of `lanes` and goes on, unless there are many; otherwise stops the
    /// launch with it.
    #[cold]
    #[inline(never)]
    pub(crate) fn report(&mut self, ins: &Instruction, lanes: u32, fault: Fault) -> Result<(), Control> {
        let location = self.location(ins.line, lanes.trailing_zeros());
        let Some(sanitizer) = &mut self.sanitizer else { return Err(self.fail_with(ins, lanes, fault)) };
        let fault = fault.at(location);
        self.issue_limit = self.issue_limit.min(self.issued + AFTER_A_FAULT);
        if sanitizer.keep(fault.clone()) && self.issued < self.issue_limit {
            return Ok(());
        }
        self.stop = Stop::Fault(Box::new(fault));
        Err(Control::Stop)
    }

    /// Runs the current warp until it stops; the reason is in `self.stop`.
    ///
    /// Instructions are counted by segments: a run of instructions one after another adds 1 to `visits` where it starts
    /// and takes 1 away after its end, so that the running sum of `visits` is how often each instruction was issued.
    ///
    /// A profiled launch has a loop of its own, so that others need not ask.
    pub(crate) fn run_warp<const PROFILED: bool>(&mut self, slice: u64) {
        let limit = self.facts.instruction_limit;
        let budget = slice.min(limit.saturating_sub(self.warp.executed) + 1);
        let mut left = budget;
        let code = self.code;
        loop {
            if self.warp.pc >= self.warp.meet {
                self.regroup();
            }
            let start = self.warp.pc;
            self.segment = start;
            let end = (self.warp.meet as u64).min(start as u64 + left).min(code.len() as u64);
            let mut pc = start;
            let mut control = Control::Next;
            for ins in &code[start as usize..end as usize] {
                self.warp.pc = pc;
                pc += 1;
                let mut mask = self.warp.active;
                if ins.guard != UNGUARDED {
                    mask &= self.predicate(ins.guard) ^ ins.guard_flip;
                }
                if PROFILED {
                    control = self.profiled(ins, mask);
                    if control != Control::Next {
                        break;
                    }
                } else if mask != 0 {
                    // SAFETY: the code was decoded for this program, and the device picked handlers this CPU can run.
                    control = unsafe { (ins.handler)(self, ins, mask) };
                    if control != Control::Next {
                        break;
                    }
                }
            }
            if control == Control::Next {
                self.warp.pc = pc;
            }
            self.visits[start as usize] += 1;
            self.visits[pc as usize] -= 1;
            self.issued += (pc - start) as u64;
            left -= (pc - start) as u64;
            if control == Control::Stop {
                self.warp.executed += budget - left;
                return;
            }
            if left == 0 {
                break;
            }
        }
        self.warp.executed += budget;
        self.stop = Stop::Yield;
        if self.warp.executed > limit {
            let ins = code[self.warp.pc as usize];
            self.fail(
                &ins,
                self.warp.active,
                FaultKind::Timeout,
                format!("the warp executed more than {limit} instructions; an endless loop, or a wait for something that never comes"),
            );
            return;
        }
        self.warp.end_slice();
    }

    /// Carries out an instruction and notes what it did.
    fn profiled(&mut self, ins: &Instruction, mask: u32) -> Control {
        let (pc, issued, before) = (self.warp.pc, self.issued, self.counters);
        // The widest conflict of this instruction alone.
        self.counters.shared_ways = 0;
        let has_stride = mask != 0 && profile::has_addresses(ins);
        let stride = has_stride.then(|| profile::stride(&memory::addresses(self, ins, mask), mask)).flatten();
        // SAFETY: as in `run_warp`.
        let control = if mask != 0 { unsafe { (ins.handler)(self, ins, mask) } } else { Control::Next };
        // One that was not carried out comes again.
        if self.issued == issued
            && let Some(profile) = &mut self.profile
        {
            profile.note(pc, mask, &before, &self.counters, stride);
        }
        self.counters.shared_ways = self.counters.shared_ways.max(before.shared_ways);
        control
    }

    /// The current instruction was not carried out and will be issued again: it does not count.
    pub(crate) fn uncount(&mut self) {
        let pc = self.warp.pc as usize;
        self.visits[pc] -= 1;
        self.visits[pc + 1] += 1;
        self.issued -= 1;
    }

    /// Warp instructions issued up to and with the current one.
    pub(crate) fn issued_now(&self) -> u64 {
        self.issued + (self.warp.pc + 1 - self.segment) as u64
    }

    /// The counters with the warp instructions by class; starts the count of instructions anew.
    pub(crate) fn take_counters(&mut self) -> Counters {
        let mut counters = std::mem::take(&mut self.counters);
        let mut issued = 0;
        for (ins, visits) in self.code.iter().zip(&self.visits) {
            issued += visits;
            // Much of a large kernel is not executed.
            if issued == 0 {
                continue;
            }
            if ins.class != Class::Control || ins.flags & control::ADDED == 0 {
                counters.by_class[ins.class as usize] += issued as u64;
            }
        }
        self.visits.fill(0);
        self.issued = 0;
        counters
    }

    /// Joins the group that waits at the current program counter, or gives way to one that is further back.
    #[cold]
    #[inline(never)]
    fn regroup(&mut self) {
        let warp = &mut self.warp;
        while let Some(&(pc, mask)) = warp.others.last() {
            if pc > warp.pc {
                break;
            }
            warp.others.pop();
            if pc == warp.pc {
                warp.active |= mask;
            } else {
                let current = (warp.pc, warp.active);
                (warp.pc, warp.active) = (pc, mask);
                warp.insert(current.0, current.1);
            }
        }
        warp.meet = warp.others.last().map_or(NOWHERE, |g| g.0);
    }

    /// The active group is gone (exited or parked): runs the next one, or stops.
    pub(crate) fn next_group(&mut self, ins: &Instruction) -> Control {
        let warp = &mut self.warp;
        warp.active = 0;
        if warp.run_lowest() {
            return Control::Jump;
        }
        if warp.parked.is_empty() {
            warp.finished = true;
            self.stop = Stop::Finished;
            return Control::Stop;
        }
        if let Some(stuck) = warp.parked.iter().find(|p| p.wait == Wait::Lanes).copied() {
            return self.stuck_collective(ins, stuck);
        }
        self.stop = Stop::Waiting;
        Control::Stop
    }
}

impl Warp {
    /// Adds a group that could run.
    pub(crate) fn insert(&mut self, pc: u32, mask: u32) {
        let at = self.others.partition_point(|g| g.0 > pc);
        match self.others.get_mut(at) {
            Some(group) if group.0 == pc => group.1 |= mask,
            _ => self.others.insert(at, (pc, mask)),
        }
        self.meet = self.others.last().map_or(NOWHERE, |g| g.0);
    }

    /// Lanes that exist and have not exited.
    pub(crate) fn alive(&self) -> u32 {
        self.present & !self.exited
    }
}
