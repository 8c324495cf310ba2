//! The heap that kernels allocate from: part of one allocation of the device, given out first fit.

use crate::fault::{Fault, FaultKind};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// Bytes of the heap, as a context's `CU_LIMIT_MALLOC_HEAP_SIZE` is at first.
pub(crate) const HEAP_BYTES: usize = 8 << 20;
/// What an allocation is aligned to, and padded by so that an overrun is less likely to meet the next.
const ALIGN: u64 = 16;

/// The heap of a device.
pub(crate) struct Heap {
    base: u64,
    pieces: Mutex<Pieces>,
}

#[derive(Default)]
struct Pieces {
    /// Start and length of what is free, and of what is given out.
    free: BTreeMap<u64, u64>,
    live: BTreeMap<u64, u64>,
}

impl Heap {
    pub(crate) fn new(base: u64) -> Heap {
        let free = BTreeMap::from([(base, HEAP_BYTES as u64)]);
        Heap { base, pieces: Mutex::new(Pieces { free, live: BTreeMap::new() }) }
    }

    fn pieces(&self) -> MutexGuard<'_, Pieces> {
        self.pieces.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The address of so many bytes; none when they do not fit, or for 0.
    pub(crate) fn allocate(&self, bytes: u64) -> Option<u64> {
        if bytes == 0 || bytes > HEAP_BYTES as u64 {
            return None;
        }
        let size = bytes.next_multiple_of(ALIGN);
        let mut pieces = self.pieces();
        let (start, len) = pieces.free.iter().find(|piece| *piece.1 >= size).map(|(&start, &len)| (start, len))?;
        pieces.free.remove(&start);
        if len > size {
            pieces.free.insert(start + size, len - size);
        }
        pieces.live.insert(start, size);
        Some(start)
    }

    pub(crate) fn release(&self, address: u64) -> Result<(), Fault> {
        let mut pieces = self.pieces();
        let Some(size) = pieces.live.remove(&address) else {
            let inside = address.wrapping_sub(self.base) < HEAP_BYTES as u64;
            let (kind, what) = match inside {
                true => (FaultKind::UseAfterFree, "of the heap is not the start of anything allocated: freed before?"),
                false => (FaultKind::InvalidValue, "does not come from `malloc` in a kernel"),
            };
            return Err(Fault::new(kind, format!("free of {address:#x}, which {what}")));
        };
        let (mut start, mut end) = (address, address + size);
        if let Some((&before, &len)) = pieces.free.range(..start).next_back()
            && before + len == start
        {
            pieces.free.remove(&before);
            start = before;
        }
        if let Some(len) = pieces.free.remove(&end) {
            end += len;
        }
        pieces.free.insert(start, end - start);
        Ok(())
    }
}
