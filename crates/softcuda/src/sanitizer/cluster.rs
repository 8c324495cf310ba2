//! Shared memory that blocks of a cluster reach of one another.
//!
//! An access to another block's is judged as any other, by the order that the accessing warp knows, with the owner's memory in the place
//! of the own. What the owner must know besides is that the access comes before its end: each is kept until it does.

use super::order::{Home, Place, Scope};
use super::{BlockShadow, Record, Sanitizer, Site, Touch, verb};
use crate::fault::{Fault, FaultKind};
use crate::space::Kind;

/// Lanes of an instruction that accessed another block's shared memory.
pub(super) struct Visit {
    record: u32,
    lanes: u32,
    /// Of one of them.
    address: u64,
    kind: Kind,
}

impl Sanitizer {
    /// A bulk copy to a block's shared memory is over.
    pub(crate) fn bulk_landed(&mut self, site: Site, block: u64, offset: u64, bytes: u64) {
        let memory = &mut self.shadow_of(site, block).memory;
        memory.awaited.remove(offset, bytes);
        memory.written[offset as usize..(offset + bytes) as usize].fill(true);
    }

    /// The state of a block of the cluster that may not be the current one.
    fn shadow_of(&mut self, site: Site, block: u64) -> &mut BlockShadow {
        self.shadow(site);
        if block == site.linear {
            return &mut self.current;
        }
        self.resident.entry(block).or_insert_with(|| BlockShadow::new(block, site.warps, site.shared_bytes as usize))
    }

    /// As [`Sanitizer::touch`], of the shared memory of a block of the cluster. `lasts`: the block must not end before the access.
    pub(crate) fn touch_in(
        &mut self,
        site: Site,
        owner: u64,
        mask: u32,
        addresses: &[u64; 32],
        touch: Touch,
        lasts: bool,
    ) -> Result<(), (usize, Fault)> {
        if owner == site.linear {
            return self.touch(site, mask, addresses, touch);
        }
        let there = std::mem::take(&mut self.shadow_of(site, owner).memory);
        let own = std::mem::replace(&mut self.current.memory, there);
        self.visited = Some(owner);
        let records = self.records.len();
        let result = self.touch(site, mask, addresses, touch);
        self.visited = None;
        let mut there = std::mem::replace(&mut self.current.memory, own);
        if lasts && self.records.len() > records {
            let address = addresses[mask.trailing_zeros() as usize & 31];
            there.visits.push(Visit { record: records as u32, lanes: mask, address, kind: touch.kind });
        }
        self.shadow_of(site, owner).memory = there;
        result
    }

    /// The current block ends. An error where nothing orders another block's access to its shared memory before that.
    pub(crate) fn end_in_cluster(&mut self, site: Site) -> Result<(), Fault> {
        self.shadow(site);
        let late = self.current.memory.visits.iter().find_map(|visit| {
            let record = self.records[visit.record as usize];
            let known = self.current.order.lanes_before_any((record.block, record.warp as usize, record.clock));
            let late = visit.lanes & !known;
            (late != 0).then(|| (visit, record, late.trailing_zeros()))
        });
        let Some((visit, record, lane)) = late else { return Ok(()) };
        let message = format!(
            "the block ends here, and {} {} byte {:#x} of its shared memory at {}: nothing orders that before the end \
             (barrier.cluster)",
            thread_of(site, record, lane),
            verb(visit.kind),
            visit.address,
            site.source.describe(record.line)
        );
        Err(Fault::new(FaultKind::Race, message))
    }

    /// What lanes of the current warp know becomes known to who acquires at a place in a block's shared memory.
    pub(crate) fn release_at(&mut self, site: Site, lanes: u32, owner: u64, address: u64) {
        self.shadow(site);
        let home = if site.clustered { Home::Cluster(owner) } else { Home::Block };
        let place = |_| Place { address, home, scope: Scope::Device };
        self.current.order.write(&mut self.published, site.warp, lanes, place, true);
    }

    /// Lanes of the current warp arrive at the barrier of the cluster that begins with the block `first`, for its phase with a number.
    pub(crate) fn cluster_arrive(&mut self, site: Site, lanes: u32, first: u64, phase: u32) {
        self.shadow(site);
        self.current.order.arrive_in_cluster(&mut self.published, site.warp, lanes, first, phase);
    }

    /// Lanes of the current warp have waited for that phase.
    pub(crate) fn cluster_wait(&mut self, site: Site, first: u64, phase: u32) {
        self.shadow(site);
        let BlockShadow { order, memory, .. } = &mut self.current;
        order.wait_in_cluster(&self.published, site.warp, first, phase);
        memory.visits.retain(|visit| {
            let record = self.records[visit.record as usize];
            visit.lanes & !order.lanes_before(site.warp, (record.block, record.warp as usize, record.clock)) != 0
        });
    }
}

/// A block's place in the grid, by its number.
pub(super) fn block_at(site: Site, number: u64) -> String {
    let [gx, gy, _] = site.grid.map(u64::from);
    format!("({},{},{})", number % gx, number / gx % gy, number / (gx * gy))
}

/// Which thread a lane of a recorded access is.
pub(super) fn thread_of(site: Site, record: Record, lane: u32) -> String {
    let thread = record.warp as u32 * 32 + lane;
    let [bx, by, _] = site.block;
    let (x, y, z) = (thread % bx, thread / bx % by, thread / (bx * by));
    format!("block {} thread ({x},{y},{z})", block_at(site, record.block))
}
