//! Reads of memory that nobody wrote, and pairs of accesses that nothing orders.
//!
//! # Uninitialised reads
//!
//! Every byte of global and shared memory has a written bit. A load of a byte whose bit is clear is reported at the load,
//! even if the value is never used; padding inside a wide load counts.
//!
//! # Hazards
//!
//! Each byte that a launch touches remembers its last write and up to two reads, of different threads, since. An access is
//! checked against those: a pair with a write in it, by different threads, not both atomic or strong, must be
//! ordered. Order is tracked as follows.
//!
//! - Threads of a warp are ordered by `bar.warp.sync` and by barriers of the block; a `shfl` orders nothing. A
//!   `bar.warp.sync` of some of the lanes is taken to order the whole warp.
//! - Warps of a block have vector clocks, joined by barriers for the warps that take part, and by release/acquire.
//! - Blocks have a vector clock too, joined only by release/acquire. This is how a grid-wide barrier of a cooperative
//!   launch is understood: nothing about it is assumed.
//! - A release is an atomic or strong store that has release semantics itself or comes after a fence in the same warp
//!   with no plain store between; it publishes what the warp (and, to other blocks, the whole block) knows. Any atomic
//!   or strong load of the place acquires; a fence after it is not asked for. Both are on the lenient side: a missing
//!   fence on the reading side, or a missing block barrier before another thread's release, is not found.
//!
//! # Cost
//!
//! Bytes that have only been accessed together have the same history, so a page of memory keeps one [`Cell`] for each
//! 16 bytes, and is refined when an access smaller than that comes. Since accesses are aligned, that loses nothing. The
//! lanes of an instruction mostly meet the traces of one earlier instruction: what is known of it is kept from lane to
//! lane.
//!
//! Stores of equal values by lanes of one instruction are accepted; of different values they are a race. The shadow
//! state lives for one launch, and a launch under the sanitizer runs on one host thread, so reports are repeatable.

use crate::exec::Context;
use crate::exec::memory::{Kind, Space, lanes_of};
use crate::fault::{Fault, FaultKind};
use std::collections::HashMap;

/// One access of a warp.
#[derive(Clone, Copy)]
pub(crate) struct Touch {
    pub(crate) space: Space,
    pub(crate) kind: Kind,
    pub(crate) strong: bool,
    pub(crate) release: bool,
    pub(crate) bytes: u64,
    /// Index in the snapshot of the allocation that holds all addresses, when they are global.
    pub(crate) allocation: usize,
}

impl Touch {
    /// Where an address lies in the memory that a [`Pages`] describes.
    fn offset(&self, ctx: &Context, address: u64) -> u64 {
        match self.space {
            Space::Shared => address,
            _ => address - ctx.memory.allocations[self.allocation].base,
        }
    }
}

/// Who accessed, when, and where in the program.
#[derive(Clone, Copy)]
struct Record {
    block: u64,
    /// The block's clock towards other blocks.
    block_clock: u32,
    /// The warp's clock towards other warps.
    clock: u32,
    line: u32,
    warp: u16,
    strong: bool,
}

/// The accesses a byte remembers: 1 + record * 32 + lane, or 0.
#[derive(Clone, Copy, Default)]
struct Cell {
    write: u64,
    read: u64,
    /// A read by another thread than `read`.
    read_other: u64,
}

/// Bytes of memory whose cells are kept and refined together.
const PAGE: usize = 4096;
/// Bytes of the largest access, as a power of two.
const COARSEST: u32 = 4;

/// The cells of [`PAGE`] bytes, one for each `1 << shift` bytes.
struct Page {
    shift: u32,
    cells: Box<[Cell]>,
}

impl Page {
    #[cold]
    fn new() -> Page {
        Page { shift: COARSEST, cells: vec![Cell::default(); PAGE >> COARSEST].into_boxed_slice() }
    }

    #[cold]
    fn refine(&mut self, shift: u32) {
        let copies = 1 << (self.shift - shift);
        let cells = self.cells.iter();
        self.cells = cells.flat_map(|&c| std::iter::repeat_n(c, copies)).collect();
        self.shift = shift;
    }
}

/// The pages of an allocation, or of a block's shared memory; absent until touched.
#[derive(Default)]
struct Pages(Vec<Option<Page>>);

impl Pages {
    /// The cells of an aligned access, and how many bytes each stands for, as a power of two.
    #[inline]
    fn cells(&mut self, offset: u64, bytes: u64) -> (&mut [Cell], u32) {
        let (page, offset) = (offset as usize / PAGE, offset as usize % PAGE);
        if page >= self.0.len() {
            self.0.resize_with(page + 1, || None);
        }
        let page = self.0[page].get_or_insert_with(Page::new);
        if bytes < 1 << page.shift {
            page.refine(bytes.trailing_zeros());
        }
        let (start, count) = (offset >> page.shift, bytes as usize >> page.shift);
        (&mut page.cells[start..start + count], page.shift)
    }
}
/// Records a launch may keep: 1.5 GiB of them.
const MOST_RECORDS: usize = 48 << 20;

#[derive(Default)]
struct BlockShadow {
    shared: Pages,
    written: Vec<bool>,
    /// `clocks[w][v]`: what warp w knows of warp v.
    clocks: Vec<Vec<u32>>,
    /// What warps that arrived without waiting released, by barrier.
    arrivals: Vec<Vec<u32>>,
    /// Warps that arrived without waiting, by barrier.
    arrivers: [u64; 16],
    /// Lanes whose last fence is newer than their last plain store, by warp.
    fenced: Vec<u32>,
    /// This block's own clock and what it knows of others.
    own: u32,
    known: HashMap<u64, u32>,
}

/// What has been released at a place.
#[derive(Default)]
struct Published {
    blocks: HashMap<u64, u32>,
    /// Warp clocks, by block.
    warps: HashMap<u64, Vec<u32>>,
}

#[derive(Default)]
pub(crate) struct Sanitizer {
    records: Vec<Record>,
    /// By index of the allocation.
    global: Vec<Pages>,
    /// The block that runs.
    current: BlockShadow,
    current_block: Option<u64>,
    /// The other blocks of a cooperative launch.
    resident: HashMap<u64, BlockShadow>,
    /// By block (`u64::MAX` for global memory) and address.
    published: HashMap<(u64, u64), Published>,
}

fn join(into: &mut [u32], from: &[u32]) {
    into.iter_mut().zip(from).for_each(|(a, &b)| *a = (*a).max(b));
}

impl Sanitizer {
    /// The current block's state.
    #[inline]
    fn shadow(&mut self, ctx: &Context) -> &mut BlockShadow {
        if self.current_block != Some(ctx.block.linear) {
            self.change_block(ctx);
        }
        &mut self.current
    }

    #[cold]
    fn change_block(&mut self, ctx: &Context) {
        let next = self.resident.remove(&ctx.block.linear);
        let next = next.unwrap_or_else(|| {
            let warps = ctx.block.warps.len();
            let bytes = ctx.facts.shared_bytes as usize;
            BlockShadow {
                shared: Pages::default(),
                written: vec![false; bytes],
                clocks: (0..warps).map(|w| (0..warps).map(|v| (v == w) as u32).collect()).collect(),
                arrivals: vec![vec![0; warps]; 16],
                arrivers: [0; 16],
                fenced: vec![0; warps],
                own: 1,
                known: HashMap::new(),
            }
        });
        let before = std::mem::replace(&mut self.current, next);
        if let Some(block) = self.current_block.replace(ctx.block.linear) {
            self.resident.insert(block, before);
        }
    }

    /// An ordinary launch has finished this block.
    pub(crate) fn end_block(&mut self, linear: u64) {
        if self.current_block == Some(linear) {
            self.current_block = None;
        }
        self.published.retain(|&(block, _), _| block != linear);
    }

    /// Checks and remembers an access; global addresses, or offsets in shared memory.
    pub(crate) fn touch(
        &mut self,
        ctx: &Context,
        mask: u32,
        addresses: &[u64; 32],
        touch: Touch,
    ) -> Result<(), (usize, Fault)> {
        let (block, warp) = (ctx.block.linear, ctx.warp.index as usize);
        let reads = touch.kind != Kind::Store;
        let writes = touch.kind != Kind::Load;
        self.shadow(ctx);
        if reads {
            self.written(ctx, mask, addresses, touch)?;
        }
        if touch.strong && reads {
            lanes_of(mask).for_each(|l| self.acquire(ctx, touch.space, addresses[l]));
        }
        if self.records.len() >= MOST_RECORDS {
            let message = format!(
                "the sanitizer keeps at most {MOST_RECORDS} memory instructions of a launch; run a smaller launch"
            );
            return Err((mask.trailing_zeros() as usize, Fault::new(FaultKind::InvalidLaunch, message)));
        }
        let line = ctx.code[ctx.warp.pc as usize].line;
        let shadow = self.shadow(ctx);
        let record = Record {
            block,
            block_clock: shadow.own,
            clock: shadow.clocks[warp][warp],
            line,
            warp: warp as u16,
            strong: touch.strong,
        };
        let index = self.records.len() as u64;
        self.records.push(record);
        if let Err((l, address, other, did)) = self.check(ctx, mask, addresses, touch, index) {
            return Err((l, self.race(ctx, touch, address, other, did)));
        }
        if touch.space == Space::Shared && writes {
            let shadow = self.shadow(ctx);
            for l in lanes_of(mask) {
                let at = addresses[l] as usize;
                shadow.written[at..at + touch.bytes as usize].fill(true);
            }
        }
        if writes && touch.strong {
            let fenced = self.shadow(ctx).fenced[warp];
            let releasing = if touch.release { mask } else { mask & fenced };
            lanes_of(releasing).for_each(|l| self.release(ctx, touch.space, addresses[l]));
            if releasing != 0 {
                let shadow = self.shadow(ctx);
                shadow.own += 1;
                shadow.clocks[warp][warp] += 1;
            }
        } else if writes {
            self.shadow(ctx).fenced[warp] &= !mask;
        }
        Ok(())
    }

    /// Compares an access, already recorded at `index`, with what its bytes remember, and makes them remember it. An
    /// error is a conflict: the lane, the address, the access it conflicts with and what that did.
    fn check(
        &mut self,
        ctx: &Context,
        mask: u32,
        addresses: &[u64; 32],
        touch: Touch,
        index: u64,
    ) -> Result<(), (usize, u64, u64, &'static str)> {
        let mut shared = std::mem::take(&mut self.current.shared);
        let mut global = std::mem::take(&mut self.global);
        let pages = match touch.space {
            Space::Shared => &mut shared,
            _ => {
                if touch.allocation >= global.len() {
                    global.resize_with(touch.allocation + 1, Pages::default);
                }
                &mut global[touch.allocation]
            }
        };
        let mut judge = Judge {
            records: &self.records,
            shadow: &self.current,
            index,
            now: self.records[index as usize],
            known: [Earlier::NOBODY; 3],
        };
        let reads_only = touch.kind == Kind::Load;
        let mut verdict = Ok(());
        'lanes: for l in lanes_of(mask) {
            let lane = l as u64;
            let me = 1 + index * 32 + lane;
            let (cells, shift) = pages.cells(touch.offset(ctx, addresses[l]), touch.bytes);
            for (i, cell) in cells.iter_mut().enumerate() {
                let conflict = if judge.races(WRITE, cell.write, lane) {
                    Some((cell.write, "wrote"))
                } else if reads_only {
                    None
                } else if judge.races(READ, cell.read, lane) {
                    Some((cell.read, "read"))
                } else if judge.races(READ_OTHER, cell.read_other, lane) {
                    Some((cell.read_other, "read"))
                } else {
                    None
                };
                if let Some((other, did)) = conflict {
                    verdict = Err((l, addresses[l] + ((i as u64) << shift), other, did));
                    break 'lanes;
                }
                if !reads_only {
                    *cell = Cell { write: me, read: 0, read_other: 0 };
                } else if cell.read == 0 || judge.same_thread(READ, cell.read, lane) {
                    cell.read = me;
                } else {
                    cell.read_other = me;
                }
            }
        }
        self.current.shared = shared;
        self.global = global;
        verdict
    }

    fn race(&self, ctx: &Context, touch: Touch, address: u64, other: u64, did: &str) -> Fault {
        let record = self.records[(other as usize - 1) / 32];
        let lane = (other - 1) % 32;
        let thread = record.warp as u32 * 32 + lane as u32;
        let [bx, by, _] = ctx.facts.block;
        let [gx, gy, _] = ctx.facts.grid.map(u64::from);
        let (tx, ty, tz) = (thread % bx, thread / bx % by, thread / (bx * by));
        let b = record.block;
        let (cx, cy, cz) = (b % gx, b / gx % gy, b / (gx * gy));
        let verb = match touch.kind {
            Kind::Load => "reads",
            Kind::Store => "writes",
            Kind::Atomic => "atomically changes",
        };
        let place = match touch.space {
            Space::Shared => format!("byte {address:#x} of shared memory"),
            _ => format!("the byte at {address:#x}"),
        };
        let text = ctx.program.source.line(record.line);
        Fault::new(
            FaultKind::Race,
            format!(
                "this thread {verb} {place}, which block ({cx},{cy},{cz}) thread ({tx},{ty},{tz}) {did} at line {} `{text}`, and nothing orders the two",
                record.line
            ),
        )
    }

    fn written(&mut self, ctx: &Context, mask: u32, addresses: &[u64; 32], touch: Touch) -> Result<(), (usize, Fault)> {
        if touch.space != Space::Shared && ctx.memory.allocations[touch.allocation].is_complete() {
            return Ok(());
        }
        for l in lanes_of(mask) {
            let address = addresses[l];
            let hole = match touch.space {
                Space::Shared => {
                    let start = address as usize;
                    let written = &self.shadow(ctx).written[start..start + touch.bytes as usize];
                    let hole = written.iter().position(|w| !w);
                    hole.map(|i| address + i as u64)
                }
                _ => {
                    let allocation = &ctx.memory.allocations[touch.allocation];
                    allocation.first_unwritten(address, touch.bytes as usize)
                }
            };
            if let Some(hole) = hole {
                let place = match touch.space {
                    Space::Shared => "shared memory".to_owned(),
                    _ => {
                        let allocation = &ctx.memory.allocations[touch.allocation];
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

    fn place(ctx: &Context, space: Space, address: u64) -> (u64, u64) {
        (if space == Space::Shared { ctx.block.linear } else { u64::MAX }, address)
    }

    fn release(&mut self, ctx: &Context, space: Space, address: u64) {
        let (block, warp) = (ctx.block.linear, ctx.warp.index as usize);
        let shadow = &self.current;
        let published = self.published.entry(Self::place(ctx, space, address)).or_default();
        for (&b, &clock) in shadow.known.iter().chain([(&block, &shadow.own)]) {
            let slot = published.blocks.entry(b).or_default();
            *slot = (*slot).max(clock);
        }
        let clocks = &shadow.clocks[warp];
        join(published.warps.entry(block).or_insert_with(|| vec![0; clocks.len()]), clocks);
    }

    fn acquire(&mut self, ctx: &Context, space: Space, address: u64) {
        let (block, warp) = (ctx.block.linear, ctx.warp.index as usize);
        let Some(published) = self.published.get(&Self::place(ctx, space, address)) else {
            return;
        };
        let shadow = &mut self.current;
        for (&b, &clock) in published.blocks.iter().filter(|&(&b, _)| b != block) {
            let slot = shadow.known.entry(b).or_default();
            *slot = (*slot).max(clock);
        }
        if let Some(clocks) = published.warps.get(&block) {
            let own = shadow.clocks[warp][warp];
            join(&mut shadow.clocks[warp], clocks);
            shadow.clocks[warp][warp] = own;
        }
    }

    /// A barrier of the block is complete; `warps` took part.
    pub(crate) fn barrier(&mut self, ctx: &Context, id: u8, warps: u64) {
        let shadow = self.shadow(ctx);
        let arrivers = std::mem::take(&mut shadow.arrivers[id as usize]);
        let mut all = std::mem::take(&mut shadow.arrivals[id as usize]);
        let count = shadow.clocks.len();
        let waiting: Vec<usize> = (0..count).filter(|&w| (warps & !arrivers) >> w & 1 != 0).collect();
        waiting.iter().for_each(|&w| join(&mut all, &shadow.clocks[w]));
        for &w in &waiting {
            shadow.clocks[w].copy_from_slice(&all);
            shadow.clocks[w][w] += 1;
        }
        all.fill(0);
        shadow.arrivals[id as usize] = all;
    }

    /// The current warp arrives at a barrier and does not wait.
    pub(crate) fn arrive(&mut self, ctx: &Context, id: u8) {
        let warp = ctx.warp.index as usize;
        let shadow = self.shadow(ctx);
        shadow.arrivers[id as usize] |= 1 << warp;
        let clocks = shadow.clocks[warp].clone();
        join(&mut shadow.arrivals[id as usize], &clocks);
        shadow.clocks[warp][warp] += 1;
    }

    /// Lanes of the current warp meet.
    pub(crate) fn warp_sync(&mut self, ctx: &Context, mask: u32) {
        let warp = ctx.warp.index as usize;
        if mask.count_ones() > 1 {
            self.shadow(ctx).clocks[warp][warp] += 1;
        }
    }

    /// A fence of lanes of the current warp.
    pub(crate) fn fence(&mut self, ctx: &Context, mask: u32) {
        let warp = ctx.warp.index as usize;
        self.shadow(ctx).fenced[warp] |= mask;
    }
}

/// Which of a cell's three accesses is judged.
const WRITE: usize = 0;
const READ: usize = 1;
const READ_OTHER: usize = 2;

/// What is known of an earlier instruction towards the one being checked.
#[derive(Clone, Copy)]
struct Earlier {
    /// Index of its record.
    index: u64,
    same_warp: bool,
    /// It came before, or both are strong.
    ordered: bool,
}

impl Earlier {
    const NOBODY: Earlier = Earlier { index: u64::MAX, same_warp: false, ordered: false };
}

/// Says whether an access conflicts with those before it.
struct Judge<'s> {
    records: &'s [Record],
    shadow: &'s BlockShadow,
    /// Of the access's own record, which is `now`.
    index: u64,
    now: Record,
    /// The last answers.
    known: [Earlier; 3],
}

impl Judge<'_> {
    #[inline]
    fn earlier(&mut self, which: usize, index: u64) -> Earlier {
        if self.known[which].index != index {
            self.known[which] = self.compare(index);
        }
        self.known[which]
    }

    fn compare(&self, index: u64) -> Earlier {
        let (before, now) = (self.records[index as usize], self.now);
        let ordered = if before.strong && now.strong {
            true
        } else if before.block != now.block {
            let known = self.shadow.known.get(&before.block);
            known.is_some_and(|&known| known >= before.block_clock)
        } else {
            let known = self.shadow.clocks[now.warp as usize][before.warp as usize];
            if before.warp == now.warp { before.clock < known } else { before.clock <= known }
        };
        Earlier { index, same_warp: before.block == now.block && before.warp == now.warp, ordered }
    }

    /// Whether the earlier access `other` and that of `lane` are unordered ones of different threads.
    #[inline]
    fn races(&mut self, which: usize, other: u64, lane: u64) -> bool {
        if other == 0 || (other - 1) / 32 == self.index {
            return false;
        }
        let earlier = self.earlier(which, (other - 1) / 32);
        !(earlier.ordered || earlier.same_warp && (other - 1) % 32 == lane)
    }

    #[inline]
    fn same_thread(&mut self, which: usize, other: u64, lane: u64) -> bool {
        (other - 1) % 32 == lane && self.earlier(which, (other - 1) / 32).same_warp
    }
}
