//! Reads of memory that nobody wrote, and pairs of accesses that nothing orders.
//!
//! # Uninitialised reads
//!
//! Every byte of global and shared memory has a written bit. A load of a byte whose bit is clear is reported at the load,
//! even if the value is never used; padding inside a wide load counts.
//!
//! # Bounds
//!
//! Each access must lie within an allocation always; here also within the variable whose address it was computed from, where
//! that is certain ([`bounds`]).
//!
//! # Hazards
//!
//! Each byte that a launch touches remembers its last write and up to two reads, of different threads, since. An access is
//! checked against those: a pair with a write in it, by different threads, not both atomic or strong, must be
//! ordered. Order is tracked as follows.
//!
//! - Threads of a warp are ordered by `bar.warp.sync` and by barriers of the block; a `shfl` orders nothing. A
//!   `bar.warp.sync` of some of the lanes is taken to order the whole warp.
//! - Threads of a block are ordered by its barriers, and all threads by release and acquire; [`order`] has the rules. A
//!   grid-wide barrier of a cooperative launch, and a last block that combines what all blocks left, are understood by
//!   those rules alone: nothing about them is assumed. An acquire is taken to be its whole warp's.
//! - Threads of a cluster are ordered by its barrier, from an arrival to the end of a wait, and by release and acquire in any
//!   block's shared memory; an `mbarrier` operation that does not say its scope is taken to reach the cluster. An access to another
//!   block's shared memory must also be ordered before that block's end.
//! - `cp.async` writes at some time between its issue and the wait for it: both count as writes, and the place must not be
//!   touched in between, by its own thread neither.
//! - Bulk copies out of shared memory read by another way than threads write, and at some time until they are waited for: [`proxy`].
//! - Kernels launched to start early must not touch what kernels before them write until they have waited: [`chain`].
//!
//! # Cost
//!
//! Bytes that have only been accessed together have the same history, so a page of memory keeps one cell for each
//! 16 bytes, and is refined when an access smaller than that comes. Since accesses are aligned, that loses nothing. The
//! lanes of an instruction mostly meet the traces of one earlier instruction: what is known of it is kept from lane to
//! lane.
//!
//! Stores of equal values by lanes of one instruction are accepted; of different values they are a race. The shadow
//! state lives for one launch, and a launch under the sanitizer runs on one host thread, so reports are repeatable. It goes on
//! after a fault, so that one run shows the first of each place ([`report`]).

mod awaited;
mod bounds;
mod chain;
mod cluster;
mod judge;
mod order;
mod proxy;
mod report;
mod shadow;

use crate::fault::{Fault, FaultKind};
use crate::memory::Snapshot;
use crate::program::Symbol;
use crate::ptx::ast::Source;
use crate::space::{Kind, Space, lanes_of};
use awaited::Awaited;
use bounds::Bounds;
pub(crate) use chain::Chain;
use chain::Ranges;
use cluster::{Visit, block_at, thread_of};
use judge::{Judge, Record, Run};
use order::{Home, Order, Place, Published, Scope};
use proxy::Proxies;
pub(crate) use report::AFTER_A_FAULT;
use shadow::{PAGE, Pages, Trace};
use std::collections::HashMap;

/// Who acts, and where: the warp that runs now.
#[derive(Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) memory: &'a Snapshot,
    pub(crate) source: &'a Source,
    pub(crate) symbols: &'a [Symbol],
    /// The launch's blocks, and a block's threads.
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared_bytes: u32,
    /// The block's number.
    pub(crate) linear: u64,
    /// The block's warps, and the number of this one.
    pub(crate) warps: usize,
    pub(crate) warp: usize,
    /// Of the instruction.
    pub(crate) line: u32,
    /// Whether other blocks reach the block's shared memory.
    pub(crate) clustered: bool,
}

/// One access of a warp.
#[derive(Clone, Copy)]
pub(crate) struct Touch {
    pub(crate) space: Space,
    pub(crate) kind: Kind,
    pub(crate) strong: bool,
    pub(crate) acquire: bool,
    pub(crate) release: bool,
    /// With the scope `.cta`.
    pub(crate) block_scope: bool,
    /// A write by `cp.async`, which happens later.
    pub(crate) asynchronous: bool,
    pub(crate) bytes: u64,
    /// Index in the snapshot of the allocation that holds all addresses, when they are global.
    pub(crate) allocation: usize,
}

impl Touch {
    /// Where an address lies in the memory that a [`Pages`] describes.
    fn offset(&self, site: Site, address: u64) -> u64 {
        match self.space {
            Space::Shared => address,
            _ => address - site.memory.allocations[self.allocation].base,
        }
    }
}

/// Records a launch may keep: 1.5 GiB of them.
const MOST_RECORDS: usize = 48 << 20;

/// Shared memory of a block.
#[derive(Default)]
struct SharedMemory {
    pages: Pages,
    written: Vec<bool>,
    awaited: Awaited,
    /// What bulk copies may still read.
    reading: Awaited,
    /// Accesses by other blocks, which must be over before this one ends.
    visits: Vec<Visit>,
}

struct BlockShadow {
    memory: SharedMemory,
    order: Order,
    /// Lanes that know that the grids before this one have ended, by warp.
    waited: Vec<u32>,
}

impl Default for BlockShadow {
    fn default() -> Self {
        BlockShadow::new(0, 0, 0)
    }
}

impl BlockShadow {
    fn new(block: u64, warps: usize, shared_bytes: usize) -> BlockShadow {
        BlockShadow {
            memory: SharedMemory { written: vec![false; shared_bytes], ..SharedMemory::default() },
            order: Order::new(block, warps),
            waited: vec![0; warps],
        }
    }
}

#[derive(Default)]
pub(crate) struct Sanitizer {
    records: Vec<Record>,
    /// By index of the allocation.
    global: Vec<Pages>,
    /// The block that runs.
    current: BlockShadow,
    current_block: Option<u64>,
    /// The block whose shared memory is in the current one's place, while an access of a warp to it is judged.
    visited: Option<u64>,
    /// The other blocks of a cooperative launch.
    resident: HashMap<u64, BlockShadow>,
    published: Published,
    /// What may still run when this launch starts early.
    chain: Option<Chain>,
    /// Whether some thread has waited for the grids before.
    grid_waited: bool,
    /// Whether some thread has let the next grid start, and had not waited.
    let_start_before: bool,
    bounds: Bounds,
    proxies: Proxies,
    /// What was found so far.
    faults: Vec<Fault>,
}

/// What a launch leaves to those behind it in its chain.
#[derive(Default)]
pub(crate) struct LaunchEnd {
    /// What it wrote in global memory.
    pub(crate) written: Ranges,
    /// Whether all launches before it are over when one behind it starts.
    pub(crate) ends_what_was_before: bool,
}

impl Sanitizer {
    /// For a launch that starts after everything before it, or early, while a chain of launches may still run.
    pub(crate) fn new(chain: Option<Chain>) -> Box<Sanitizer> {
        Box::new(Sanitizer { chain, ..Sanitizer::default() })
    }

    /// The current block's state.
    #[inline]
    fn shadow(&mut self, site: Site) -> &mut BlockShadow {
        if self.current_block != Some(site.linear) {
            self.change_block(site);
        }
        &mut self.current
    }

    #[cold]
    fn change_block(&mut self, site: Site) {
        let linear = site.linear;
        let next = self.resident.remove(&linear);
        let next = next.unwrap_or_else(|| BlockShadow::new(linear, site.warps, site.shared_bytes as usize));
        let before = std::mem::replace(&mut self.current, next);
        if let Some(block) = self.current_block.replace(linear) {
            self.resident.insert(block, before);
        }
    }

    /// An ordinary launch has finished this block.
    pub(crate) fn end_block(&mut self, linear: u64) {
        if self.current_block == Some(linear) {
            self.current_block = None;
        }
        self.resident.remove(&linear);
        self.published.forget_block(linear);
        self.forget_proxies(linear);
    }

    /// The launch has ended.
    ///
    /// # Errors
    /// It started early, and none of its threads has waited.
    pub(crate) fn end_launch(&self, memory: &Snapshot) -> Result<LaunchEnd, Fault> {
        if self.chain.is_some() && !self.grid_waited {
            let message = "the kernel was launched to start early and no thread of it executes griddepcontrol.wait: it may \
                           end, and the kernel after it may go on, before the kernel before it has ended";
            return Err(Fault::new(FaultKind::Race, message));
        }
        let ranges = self.global.iter().zip(memory.allocations.iter()).flat_map(|(pages, allocation)| {
            let base = allocation.base;
            pages.written().into_iter().map(move |(start, end)| (base + start, base + end))
        });
        Ok(LaunchEnd { written: ranges.collect(), ends_what_was_before: !self.let_start_before })
    }

    /// Checks and remembers an access; global addresses, or offsets in shared memory.
    pub(crate) fn touch(
        &mut self,
        site: Site,
        mask: u32,
        addresses: &[u64; 32],
        touch: Touch,
    ) -> Result<(), (usize, Fault)> {
        self.touch_at(site, site.line, mask, addresses, touch)
    }

    fn touch_at(
        &mut self,
        site: Site,
        line: u32,
        mask: u32,
        addresses: &[u64; 32],
        touch: Touch,
    ) -> Result<(), (usize, Fault)> {
        let (block, warp) = (site.linear, site.warp);
        let reads = touch.kind != Kind::Store;
        let writes = touch.kind != Kind::Load;
        self.shadow(site);
        self.expect_inside(site, line, mask, addresses, touch)?;
        if touch.space == Space::Shared {
            self.expect_landed(site, mask, addresses, touch)?;
            if writes {
                self.expect_read(site, mask, addresses, touch)?;
            } else if self.proxies.is_bulk() {
                self.expect_fenced(site, mask, addresses, touch)?;
            }
        } else {
            self.expect_waited(warp, mask, addresses, touch)?;
        }
        if reads {
            self.written(site, mask, addresses, touch)?;
        }
        let scope = if touch.block_scope { Scope::Block } else { Scope::Device };
        let home = match (touch.space, self.visited) {
            (Space::Shared, Some(owner)) => Home::Cluster(owner),
            (Space::Shared, None) if site.clustered => Home::Cluster(block),
            (Space::Shared, None) => Home::Block,
            _ => Home::Global,
        };
        let place = |l: usize| Place { address: addresses[l], home, scope };
        if touch.strong && reads {
            let (order, published) = (&mut self.current.order, &self.published);
            lanes_of(mask).for_each(|l| order.read(published, warp, place(l), touch.acquire));
        }
        if self.records.len() >= MOST_RECORDS {
            let message = format!(
                "the sanitizer keeps at most {MOST_RECORDS} memory instructions of a launch; run a smaller launch"
            );
            return Err((mask.trailing_zeros() as usize, Fault::new(FaultKind::InvalidLaunch, message)));
        }
        let record = Record {
            block,
            clock: self.current.order.clock(warp),
            line,
            warp: warp as u16,
            strong: touch.strong,
            block_scope: touch.block_scope,
        };
        let index = self.records.len() as u32;
        self.records.push(record);
        let verdict = self.check(site, mask, addresses, touch, index);
        if touch.space == Space::Shared && writes {
            self.proxies.wrote(index, mask);
            for l in lanes_of(mask) {
                let at = addresses[l] as usize;
                if touch.asynchronous {
                    self.current.memory.awaited.add(at as u64, touch.bytes, line);
                } else {
                    self.current.memory.written[at..at + touch.bytes as usize].fill(true);
                }
            }
        }
        if writes && touch.strong {
            self.current.order.write(&mut self.published, warp, mask, place, touch.release);
        }
        verdict.map_err(|(l, address, other, did)| (l, self.race(site, touch, address, other, did)))
    }

    /// Asynchronous copies of the current warp have been waited for.
    pub(crate) fn land(&mut self, site: Site, copies: &[Landing]) -> Result<(), (usize, Fault)> {
        self.shadow(site);
        for copy in copies {
            lanes_of(copy.mask).for_each(|l| self.current.memory.awaited.remove(copy.targets[l], copy.bytes));
        }
        let touch = Touch {
            space: Space::Shared,
            kind: Kind::Store,
            strong: false,
            acquire: false,
            release: false,
            block_scope: false,
            asynchronous: false,
            bytes: 0,
            allocation: usize::MAX,
        };
        // One instruction's worth at a time: the same line and width, each lane once.
        let mut copies = copies.iter();
        let mut next = copies.next().cloned();
        while let Some(mut together) = next.take() {
            for copy in copies.by_ref() {
                let fits = copy.line == together.line && copy.bytes == together.bytes;
                let twice = copy.mask & together.mask;
                // The lanes below the first that is there already.
                let below = 1u32.checked_shl(twice.trailing_zeros()).map_or(u32::MAX, |lane| lane - 1);
                let more = if fits { copy.mask & below } else { 0 };
                lanes_of(more).for_each(|l| together.targets[l] = copy.targets[l]);
                together.mask |= more;
                if more != copy.mask {
                    next = Some(Landing { mask: copy.mask & !more, ..copy.clone() });
                    break;
                }
            }
            let touch = Touch { bytes: together.bytes, ..touch };
            let first = together.targets[together.mask.trailing_zeros() as usize];
            let addresses =
                std::array::from_fn(|l| if together.mask >> l & 1 != 0 { together.targets[l] } else { first });
            self.touch_at(site, together.line, together.mask, &addresses, touch)?;
        }
        Ok(())
    }

    /// Bytes of the heap were given out: what was done to them before is over.
    pub(crate) fn forget(&mut self, allocation: usize, offset: u64, bytes: u64) {
        if let Some(pages) = self.global.get_mut(allocation) {
            pages.forget(offset, bytes);
        }
    }

    /// Shared memory must not be touched while a `cp.async` may write it.
    fn expect_landed(&self, site: Site, mask: u32, addresses: &[u64; 32], touch: Touch) -> Result<(), (usize, Fault)> {
        let awaited = &self.current.memory.awaited;
        if awaited.is_empty() {
            return Ok(());
        }
        for l in lanes_of(mask) {
            let Some((word, line)) = awaited.find(addresses[l], touch.bytes) else {
                continue;
            };
            let copy = site.source.describe(line);
            let message = format!(
                "this thread {} {} bytes at {:#x} of shared memory, of which the asynchronous copy at {copy} \
                 writes the word at {:#x}, and nothing has waited for it (cp.async.wait_group)",
                verb(touch.kind),
                touch.bytes,
                addresses[l],
                word
            );
            return Err((l, Fault::new(FaultKind::Race, message)));
        }
        Ok(())
    }

    /// Before it has waited, a kernel that started early must leave alone what kernels before it write.
    fn expect_waited(&self, warp: usize, mask: u32, addresses: &[u64; 32], touch: Touch) -> Result<(), (usize, Fault)> {
        let Some(chain) = &self.chain else {
            return Ok(());
        };
        let lanes = mask & !self.current.waited[warp];
        if touch.kind == Kind::Load {
            let (low, high) = lanes_of(lanes)
                .fold((u64::MAX, 0), |(low, high), l| (low.min(addresses[l]), high.max(addresses[l] + touch.bytes)));
            if !chain.wrote_within(low, high) {
                return Ok(());
            }
        }
        for l in lanes_of(lanes) {
            let address = addresses[l];
            let message = if touch.kind != Kind::Load {
                format!(
                    "this thread {} {} bytes at {address:#x} before griddepcontrol.wait, in a kernel launched to start early: \
                     kernels before it may still run",
                    verb(touch.kind),
                    touch.bytes
                )
            } else if let Some(kernel) = chain.writer_of(address, touch.bytes) {
                format!(
                    "this thread reads {} bytes at {address:#x} before griddepcontrol.wait, in a kernel launched to start \
                     early: kernel `{kernel}`, which may still run, writes them",
                    touch.bytes
                )
            } else {
                continue;
            };
            return Err((l, Fault::new(FaultKind::Race, message)));
        }
        Ok(())
    }

    /// `griddepcontrol.wait`.
    pub(crate) fn grid_wait(&mut self, site: Site, mask: u32) {
        let warp = site.warp;
        self.shadow(site).waited[warp] |= mask;
        self.grid_waited = true;
    }

    /// `griddepcontrol.launch_dependents`.
    pub(crate) fn grid_launch(&mut self, site: Site, mask: u32) {
        let waited = self.shadow(site).waited[site.warp];
        self.let_start_before |= self.chain.is_some() && mask & !waited != 0;
    }

    /// Compares an access, already recorded at `index`, with what its bytes remember, and makes them remember it. An
    /// error is a conflict: the lane, the address, the access it conflicts with and what that did.
    fn check(
        &mut self,
        site: Site,
        mask: u32,
        addresses: &[u64; 32],
        touch: Touch,
        index: u32,
    ) -> Result<(), (usize, u64, Trace, &'static str)> {
        let pages = match touch.space {
            Space::Shared => &mut self.current.memory.pages,
            _ => {
                if touch.allocation >= self.global.len() {
                    self.global.resize_with(touch.allocation + 1, Pages::default);
                }
                &mut self.global[touch.allocation]
            }
        };
        let mut judge = Judge::new(&self.records, &self.current.order, index);
        let reads_only = touch.kind == Kind::Load;
        let mut verdict = Ok(());
        let mut left = mask;
        while left != 0 {
            let lane = left.trailing_zeros();
            let offset = touch.offset(site, addresses[lane as usize]);
            let run = Run::of(left, addresses, touch.bytes, (PAGE - offset % PAGE) / touch.bytes);
            left &= !run.lanes();
            let count = if run.same { 1 } else { run.count };
            let mut cells = pages.cells(offset, touch.bytes, count, !reads_only);
            if verdict.is_ok()
                && let Some((lane, at, other, did)) = judge.first_race(&cells, run, reads_only)
            {
                let lane = lane as usize;
                verdict = Err((lane, addresses[lane] + (at << cells.shift), other, did));
            }
            match reads_only {
                true => judge.remember_reads(&mut cells, run),
                false => judge.remember_writes(&mut cells, run),
            }
        }
        verdict
    }

    fn race(&self, site: Site, touch: Touch, address: u64, other: Trace, did: &str) -> Fault {
        let record = self.records[(other - 1) as usize / 32];
        let who = thread_of(site, record, (other - 1) % 32);
        let verb = verb(touch.kind);
        let place = match (touch.space, self.visited) {
            (Space::Shared, Some(owner)) => {
                format!("byte {address:#x} of the shared memory of block {}", block_at(site, owner))
            }
            (Space::Shared, None) => format!("byte {address:#x} of shared memory"),
            _ => format!("the byte at {address:#x}"),
        };
        let there = site.source.describe(record.line);
        Fault::new(
            FaultKind::Race,
            format!("this thread {verb} {place}, which {who} {did} at {there}, and nothing orders the two"),
        )
    }

    fn written(&mut self, site: Site, mask: u32, addresses: &[u64; 32], touch: Touch) -> Result<(), (usize, Fault)> {
        if touch.space != Space::Shared && site.memory.allocations[touch.allocation].is_complete() {
            return Ok(());
        }
        for l in lanes_of(mask) {
            let address = addresses[l];
            let hole = match touch.space {
                Space::Shared => {
                    let start = address as usize;
                    let written = &self.current.memory.written[start..start + touch.bytes as usize];
                    let hole = written.iter().position(|w| !w);
                    hole.map(|i| address + i as u64)
                }
                _ => {
                    let allocation = &site.memory.allocations[touch.allocation];
                    allocation.first_unwritten(address, touch.bytes as usize)
                }
            };
            if let Some(hole) = hole {
                let place = match touch.space {
                    Space::Shared => "shared memory".to_owned(),
                    _ => {
                        let allocation = &site.memory.allocations[touch.allocation];
                        format!("the {}-byte allocation at {:#x}", allocation.len, allocation.base)
                    }
                };
                let message = format!(
                    "load of {} bytes at {address:#x}: the byte at {hole:#x} of {place} was never written",
                    touch.bytes
                );
                return Err((l, Fault::new(FaultKind::Uninitialised, message)));
            }
        }
        Ok(())
    }

    /// A barrier of the block is complete; `warps` took part.
    pub(crate) fn barrier(&mut self, site: Site, id: u8, warps: u64) {
        let shadow = self.shadow(site);
        shadow.order.barrier(id as usize, warps);
        let took_part = |w: &usize| warps >> w & 1 != 0;
        if (0..shadow.waited.len()).filter(took_part).any(|w| shadow.waited[w] != 0) {
            (0..shadow.waited.len()).filter(took_part).for_each(|w| shadow.waited[w] = u32::MAX);
        }
    }

    /// The current warp arrives at a barrier and does not wait.
    pub(crate) fn arrive(&mut self, site: Site, id: u8) {
        let warp = site.warp;
        self.shadow(site).order.arrive(warp, id as usize);
    }

    /// Lanes of the current warp meet.
    pub(crate) fn warp_sync(&mut self, site: Site, mask: u32) {
        let warp = site.warp;
        if mask.count_ones() > 1 {
            let shadow = self.shadow(site);
            shadow.order.warp_sync(warp);
            if shadow.waited[warp] & mask != 0 {
                shadow.waited[warp] |= mask;
            }
        }
    }

    /// A fence of lanes of the current warp.
    pub(crate) fn fence(&mut self, site: Site, mask: u32, block_scope: bool, acquires: bool, releases: bool) {
        let warp = site.warp;
        let scope = if block_scope { Scope::Block } else { Scope::Device };
        self.shadow(site).order.fence(warp, mask, scope, acquires, releases);
    }
}

fn verb(kind: Kind) -> &'static str {
    match kind {
        Kind::Load => "reads",
        Kind::Store => "writes",
        Kind::Atomic => "atomically changes",
    }
}

/// An asynchronous copy instruction, of which some lanes have been waited for.
#[derive(Clone)]
pub(crate) struct Landing {
    pub(crate) mask: u32,
    /// Of the instruction that began it.
    pub(crate) line: u32,
    /// Offsets in shared memory, by lane.
    pub(crate) targets: [u64; 32],
    pub(crate) bytes: u64,
}
