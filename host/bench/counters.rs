//! What softcuda counted: exact and the same on every run, where times would say nothing about a GPU.

use driver::soft::{Class, LaunchRecord};
use serde::Serialize;

/// Bytes of a sector, the unit in which global memory moves.
const SECTOR: u64 = 32;

/// The counts of some launches together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Kernels launched.
    pub launches: u64,
    /// Warp instructions without moves, of which an assembler mostly makes none.
    pub warp_instructions: u64,
    /// Bytes of global memory in the sectors that warp instructions read, wrote or changed atomically.
    pub global_bytes: u64,
    /// Of these, bytes read of the allocations named.
    pub streamed_bytes: u64,
    /// Wavefronts of shared memory beyond the fewest.
    pub shared_conflicts: u64,
    /// The worst conflict's number of ways; 0 where there is none.
    pub shared_ways: u64,
}

impl Counts {
    /// Adds up `records`; `streamed` are the addresses of the allocations that are too large for a cache: weights, and keys
    /// and values.
    pub fn of(records: &[LaunchRecord], streamed: &[u64]) -> Counts {
        let mut counts = Counts { launches: records.len() as u64, ..Counts::default() };
        for LaunchRecord { counters, reads, .. } in records {
            let sectors = counters.global_load_sectors + counters.global_store_sectors + counters.atomic_sectors;
            let streamed_sectors =
                reads.iter().filter(|read| streamed.contains(&read.address)).map(|read| read.sectors);
            counts.warp_instructions += counters.warp_instructions() - counters.class(Class::Move);
            counts.global_bytes += SECTOR * sectors;
            counts.streamed_bytes += SECTOR * streamed_sectors.sum::<u64>();
            counts.shared_conflicts += counters.shared_conflicts;
            counts.shared_ways = counts.shared_ways.max(counters.shared_ways);
        }
        counts
    }

    /// The same divided among `n` tokens.
    pub fn per(self, n: u64) -> Counts {
        let n = n.max(1);
        Counts {
            launches: self.launches.div_ceil(n),
            warp_instructions: self.warp_instructions / n,
            global_bytes: self.global_bytes / n,
            streamed_bytes: self.streamed_bytes / n,
            shared_conflicts: self.shared_conflicts / n,
            shared_ways: self.shared_ways,
        }
    }
}

/// The records of what `run` launches on softcuda, and its result; `None` elsewhere.
pub fn recorded<T>(run: impl FnOnce() -> T) -> (T, Option<Vec<LaunchRecord>>) {
    let Some(device) = driver::soft::device() else {
        return (run(), None);
    };
    device.clear_records();
    device.set_recording(true);
    let result = run();
    device.set_recording(false);
    let records = device.records();
    device.clear_records();
    (result, Some(records))
}
