//! What bulk copies out of shared memory ask for besides order.
//!
//! They read by another way than threads write, the async proxy. So a thread's write must be followed by `fence.proxy.async` before
//! such a copy reads it, on the way that orders the two; who executes it does not matter here. And they read at some time between their
//! issue and the end of a wait for their group (`cp.async.bulk.wait_group`, with `.read` or without): both count as reads, and nothing may
//! write there in between, their own thread neither.
//!
//! Nothing of this is followed in a program that has no such copy.

use super::{Sanitizer, Site, Touch, thread_of, verb};
use crate::fault::{Fault, FaultKind};
use crate::space::{Kind, Space, lanes_of};
use std::collections::HashMap;

/// A copy out of the block's shared memory whose group its thread has not waited for.
struct Reader {
    block: u64,
    warp: usize,
    lane: usize,
    /// How many groups the thread had committed before.
    group: u32,
    line: u32,
    /// Offset and bytes.
    source: (u64, u64),
}

/// What is followed in a program with such copies.
#[derive(Default)]
pub(super) struct Proxies {
    is_followed: bool,
    /// Whether it is a bulk copy that accesses memory now.
    is_bulk: bool,
    /// Writes by threads that no fence has followed: index of the record, and the lanes.
    unfenced: HashMap<u32, u32>,
    readers: Vec<Reader>,
    /// Groups that a thread has committed, by block, warp and lane.
    committed: HashMap<(u64, usize, usize), u32>,
}

impl Proxies {
    /// A write to shared memory by threads, whose record is at `index`.
    #[inline]
    pub(super) fn wrote(&mut self, index: u32, mask: u32) {
        if self.is_followed && !self.is_bulk {
            self.unfenced.insert(index, mask);
        }
    }

    /// Whether a bulk copy reads shared memory now.
    #[inline]
    pub(super) fn is_bulk(&self) -> bool {
        self.is_bulk
    }
}

impl Sanitizer {
    /// The program has bulk copies out of shared memory.
    pub(crate) fn follow_proxies(&mut self) {
        self.proxies.is_followed = true;
    }

    /// From here on accesses are a bulk copy's, or threads' own again.
    pub(crate) fn set_bulk(&mut self, is_bulk: bool) {
        self.proxies.is_bulk = is_bulk;
    }

    /// What a bulk copy reads of shared memory must have been fenced.
    pub(super) fn expect_fenced(
        &mut self,
        site: Site,
        mask: u32,
        addresses: &[u64; 32],
        touch: Touch,
    ) -> Result<(), (usize, Fault)> {
        if self.proxies.unfenced.is_empty() {
            return Ok(());
        }
        for l in lanes_of(mask) {
            let cells = self.current.memory.pages.cells(addresses[l], touch.bytes, 1, false);
            let shift = cells.shift;
            let is_unfenced = |trace: u32| {
                let record = trace.checked_sub(1)? / 32;
                let lanes = self.proxies.unfenced.get(&record)?;
                (lanes >> ((trace - 1) % 32) & 1 != 0).then_some((record, (trace - 1) % 32))
            };
            let found = cells.write.iter().enumerate().find_map(|(at, &trace)| Some((at, is_unfenced(trace)?)));
            let Some((at, (record, lane))) = found else { continue };
            let record = self.records[record as usize];
            let message = format!(
                "this copy reads byte {:#x} of shared memory, which {} wrote at {}: no fence.proxy.async lies between the two, without which \
                 the copy may read what was there before",
                addresses[l] + ((at as u64) << shift),
                thread_of(site, record, lane),
                site.source.describe(record.line)
            );
            return Err((l, Fault::new(FaultKind::Race, message)));
        }
        Ok(())
    }

    /// Shared memory must not be written while a bulk copy may read it.
    pub(super) fn expect_read(
        &self,
        site: Site,
        mask: u32,
        addresses: &[u64; 32],
        touch: Touch,
    ) -> Result<(), (usize, Fault)> {
        let reading = &self.current.memory.reading;
        if reading.is_empty() {
            return Ok(());
        }
        for l in lanes_of(mask) {
            let Some((word, line)) = reading.find(addresses[l], touch.bytes) else { continue };
            let message = format!(
                "this thread {} {} bytes at {:#x} of shared memory, of which the bulk copy at {} may still read the word at {word:#x}: its \
                 thread has not waited for it (cp.async.bulk.wait_group.read)",
                verb(touch.kind),
                touch.bytes,
                addresses[l],
                site.source.describe(line)
            );
            return Err((l, Fault::new(FaultKind::Race, message)));
        }
        Ok(())
    }

    /// `fence.proxy.async` of lanes of the current warp: it follows their own writes, and those that they come after.
    pub(crate) fn fence_proxies(&mut self, site: Site, mask: u32) {
        self.shadow(site);
        let (records, order) = (&self.records, &self.current.order);
        self.proxies.unfenced.retain(|&index, lanes| {
            let record = records[index as usize];
            let by = (record.block, record.warp as usize, record.clock);
            let own = if record.block == site.linear && by.1 == site.warp { mask } else { 0 };
            *lanes &= !(own | order.lanes_before(site.warp, by));
            *lanes != 0
        });
    }

    /// A lane of the current warp begins to copy out of its block's shared memory, in its current group.
    pub(crate) fn bulk_reads(&mut self, site: Site, lane: usize, offset: u64, bytes: u64) {
        self.shadow(site).memory.reading.add(offset, bytes, site.line);
        let group = self.proxies.committed.get(&(site.linear, site.warp, lane)).copied().unwrap_or(0);
        let (block, warp, line) = (site.linear, site.warp, site.line);
        self.proxies.readers.push(Reader { block, warp, lane, group, line, source: (offset, bytes) });
    }

    /// `cp.async.bulk.commit_group`.
    pub(crate) fn bulk_commit(&mut self, site: Site, mask: u32) {
        for lane in lanes_of(mask) {
            *self.proxies.committed.entry((site.linear, site.warp, lane)).or_default() += 1;
        }
    }

    /// `cp.async.bulk.wait_group`: all groups but the last `left` of each lane have been read.
    pub(crate) fn bulk_wait(&mut self, site: Site, mask: u32, left: u32) -> Result<(), (usize, Fault)> {
        self.shadow(site);
        let committed = &self.proxies.committed;
        let is_over = |reader: &mut Reader| {
            let thread = (reader.block, reader.warp, reader.lane);
            let groups = committed.get(&thread).copied().unwrap_or(0);
            (thread.0, thread.1) == (site.linear, site.warp)
                && mask >> reader.lane & 1 != 0
                && reader.group + left < groups
        };
        let over: Vec<Reader> = self.proxies.readers.extract_if(.., is_over).collect();
        let mut verdict = Ok(());
        for Reader { lane, line, source: (offset, bytes), .. } in over {
            self.current.memory.reading.remove(offset, bytes);
            let step = 1 << (offset | bytes | 16).trailing_zeros();
            for at in (offset..offset + bytes).step_by(step) {
                let touch = Touch {
                    space: Space::Shared,
                    kind: Kind::Load,
                    strong: false,
                    acquire: false,
                    release: false,
                    block_scope: false,
                    asynchronous: false,
                    bytes: step as u64,
                    allocation: usize::MAX,
                };
                verdict = verdict.and(self.touch_at(site, line, 1 << lane, &[at; 32], touch));
            }
        }
        verdict
    }

    /// A block has ended: nobody waits in it, and nothing it wrote in shared memory is read.
    pub(super) fn forget_proxies(&mut self, block: u64) {
        if self.proxies.is_followed {
            let records = &self.records;
            self.proxies.unfenced.retain(|&index, _| records[index as usize].block != block);
            self.proxies.readers.retain(|reader| reader.block != block);
            self.proxies.committed.retain(|thread, _| thread.0 != block);
        }
    }
}
