//! Device memory.
//!
//! An address is a number in a 64-bit space that all devices share with the host. Each device has a range of its own, so that
//! an address says whose it is. In it allocations are placed
//! one after another, 256-byte aligned, a guard gap between them, and an address is never used
//! twice: the same calls give the same addresses on every run, an access past an allocation lands in a gap, and an access
//! to freed memory is told apart from one to memory that never was. Shared, local and parameter memory have windows of
//! their own in the generic address space, far below. Host memory that is mapped keeps the host's address, as under CUDA's
//! unified addressing.
//!
//! Each allocation carries one bit per byte saying whether anybody wrote it. The bits are kept always, sanitizer or not,
//! so that switching the sanitizer on late gives the truth. Mapped host memory has none: the host writes unseen.

use crate::heap::{HEAP_BYTES, Heap};
use crate::{AllocationReads, Fault, FaultKind, LiveAllocation};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// The address of the first allocation of device 0.
pub(crate) const GLOBAL_BASE: u64 = 0x7000_0000_0000;
/// How far apart the first allocations of two devices are: addresses enough for a device's life.
const DEVICE_STRIDE: u64 = 0x0100_0000_0000;
/// The most devices whose addresses lie below those that the system gives the host.
pub(crate) const MOST_DEVICES: u32 = 8;
/// Generic addresses of shared memory start here.
pub(crate) const SHARED_WINDOW: u64 = 0x0100_0000_0000;
/// Generic addresses of a thread's local memory start here.
pub(crate) const LOCAL_WINDOW: u64 = 0x0200_0000_0000;
/// Generic addresses of kernel parameters start here.
pub(crate) const PARAM_WINDOW: u64 = 0x0300_0000_0000;
/// Addresses of functions start here.
pub(crate) const FUNCTION_WINDOW: u64 = 0x0400_0000_0000;
/// The size of each of the three windows.
pub(crate) const WINDOW_BYTES: u64 = 1 << 32;

/// The ordinal of the device in whose range an address lies.
pub(crate) fn ordinal_of(address: u64) -> Option<u32> {
    let ordinal = address.checked_sub(GLOBAL_BASE)? / DEVICE_STRIDE;
    (ordinal < MOST_DEVICES as u64).then_some(ordinal as u32)
}

fn base_of(ordinal: u32) -> u64 {
    GLOBAL_BASE + ordinal as u64 * DEVICE_STRIDE
}

const ALIGN: u64 = 256;
const GUARD: u64 = 4096;

/// Zeroed memory straight from the system, so that pages nobody touches cost nothing.
struct Zeroed {
    start: *mut u8,
    layout: Layout,
}

// SAFETY: `Zeroed` owns its bytes; sharing is governed by whoever hands out pointers into them.
unsafe impl Send for Zeroed {}
// SAFETY: as above; the type itself has no interior state.
unsafe impl Sync for Zeroed {}

impl Zeroed {
    fn new(bytes: usize) -> Option<Zeroed> {
        let layout = Layout::from_size_align(bytes.max(16), 16).ok()?;
        // SAFETY: the layout has a size of at least 16 bytes.
        let start = unsafe { alloc_zeroed(layout) };
        (!start.is_null()).then_some(Zeroed { start, layout })
    }
}

impl Drop for Zeroed {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc_zeroed` with this layout and is freed once.
        unsafe { dealloc(self.start, self.layout) }
    }
}

pub(crate) struct Allocation {
    pub(crate) base: u64,
    pub(crate) len: usize,
    /// The host bytes, 256-byte aligned inside `_storage`; somebody else's where host memory is mapped.
    host: *mut u8,
    /// None where host memory is mapped.
    _storage: Option<Zeroed>,
    bits: Zeroed,
    /// Every byte is written: `bits` need not be looked at.
    complete: AtomicBool,
}

// SAFETY: the bytes behind `host` are device memory: plain data that any thread may read and write at any time, as on
// hardware; every access goes through raw pointers, none through references that outlive the copy.
unsafe impl Send for Allocation {}
// SAFETY: as above; the initialised bits are only accessed as atomics.
unsafe impl Sync for Allocation {}

impl Allocation {
    fn new(base: u64, len: usize) -> Option<Allocation> {
        let storage = Zeroed::new(len.checked_add(ALIGN as usize)?)?;
        let bits = Zeroed::new(len.div_ceil(64).checked_mul(8)?)?;
        let skip = storage.start.align_offset(ALIGN as usize);
        // SAFETY: the storage has ALIGN bytes to spare.
        let host = unsafe { storage.start.add(skip) };
        Some(Allocation { base, len, host, _storage: Some(storage), bits, complete: AtomicBool::new(false) })
    }

    /// Host memory at its own address, all of it taken as written.
    fn mapped(host: *mut u8, len: usize) -> Option<Allocation> {
        let (base, bits) = (host as u64, Zeroed::new(0)?);
        Some(Allocation { base, len, host, _storage: None, bits, complete: AtomicBool::new(true) })
    }

    pub(crate) fn is_mapped(&self) -> bool {
        self._storage.is_none()
    }

    pub(crate) fn end(&self) -> u64 {
        self.base + self.len as u64
    }

    /// What to add to a device address to get the host address.
    pub(crate) fn delta(&self) -> u64 {
        (self.host as u64).wrapping_sub(self.base)
    }

    pub(crate) fn host(&self, address: u64) -> *mut u8 {
        // SAFETY: callers pass addresses inside the allocation.
        unsafe { self.host.add((address - self.base) as usize) }
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        debug_assert!(index < self.len.div_ceil(64));
        // SAFETY: `bits` holds one zeroed, 16-byte aligned u64 for each 64 bytes of the allocation.
        unsafe { &*(self.bits.start as *const AtomicU64).add(index) }
    }

    #[inline]
    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Relaxed)
    }

    pub(crate) fn mark(&self, address: u64, bytes: usize) {
        if bytes == self.len {
            self.complete.store(true, Relaxed);
        }
        if self.is_complete() {
            return;
        }
        for (index, mask) in words(address - self.base, bytes) {
            let word = self.word(index);
            if word.load(Relaxed) & mask != mask {
                word.fetch_or(mask, Relaxed);
            }
        }
    }

    pub(crate) fn unmark(&self, address: u64, bytes: usize) {
        if self.is_mapped() {
            return;
        }
        if self.complete.swap(false, Relaxed) {
            for (index, mask) in words(0, self.len) {
                self.word(index).fetch_or(mask, Relaxed);
            }
        }
        for (index, mask) in words(address - self.base, bytes) {
            self.word(index).fetch_and(!mask, Relaxed);
        }
    }

    /// The first byte of the range that nobody wrote.
    pub(crate) fn first_unwritten(&self, address: u64, bytes: usize) -> Option<u64> {
        if self.is_complete() {
            return None;
        }
        words(address - self.base, bytes).find_map(|(index, mask)| {
            let missing = mask & !self.word(index).load(Relaxed);
            (missing != 0).then(|| self.base + index as u64 * 64 + missing.trailing_zeros() as u64)
        })
    }

    fn is_written(&self, address: u64) -> bool {
        self.first_unwritten(address, 1).is_none()
    }
}

/// The 64-bit words, with the bits in each, that cover `bytes` bytes from `offset`.
fn words(offset: u64, bytes: usize) -> impl Iterator<Item = (usize, u64)> {
    let (start, end) = (offset as usize, offset as usize + bytes);
    (start / 64..end.div_ceil(64)).map(move |index| {
        let low = start.saturating_sub(index * 64);
        let high = (end - index * 64).min(64);
        (index, (u64::MAX >> (64 - (high - low))) << low)
    })
}

/// The allocations of a device at one moment, in address order.
#[derive(Clone)]
pub(crate) struct Snapshot {
    /// Whose memory it is.
    ordinal: u32,
    /// The devices whose memory is in it besides.
    peers: Vec<u32>,
    /// Shared by the launches between two changes.
    pub(crate) allocations: Arc<Vec<Arc<Allocation>>>,
    /// What was freed: the device's own first, then each peer's.
    freed: Vec<Arc<BTreeMap<u64, usize>>>,
    /// Where kernels allocate from, once one that does was loaded.
    pub(crate) heap: Option<Arc<Heap>>,
    /// Sectors read of each allocation, where they are counted.
    sectors: Option<Arc<[AtomicU64]>>,
}

impl Snapshot {
    fn new(ordinal: u32) -> Snapshot {
        let freed = vec![Arc::default()];
        Snapshot { ordinal, peers: Vec::new(), allocations: Arc::default(), freed, heap: None, sectors: None }
    }

    /// Adds the memory of a peer. Host memory that is mapped is the same for both.
    pub(crate) fn add_peer(&mut self, peer: Snapshot) {
        self.peers.push(peer.ordinal);
        let allocations = Arc::make_mut(&mut self.allocations);
        allocations.extend(peer.allocations.iter().filter(|a| !a.is_mapped()).cloned());
        allocations.sort_by_key(|a| a.base);
        self.freed.extend(peer.freed);
    }

    /// Counts from now on what is read of each allocation.
    pub(crate) fn count_reads(&mut self) {
        self.sectors = Some(self.allocations.iter().map(|_| AtomicU64::new(0)).collect());
    }

    /// Counts a read of the allocation with this index.
    #[inline(always)]
    pub(crate) fn count_read(&self, index: usize, sectors: u64) {
        if let Some(counts) = &self.sectors {
            counts[index].fetch_add(sectors, Relaxed);
        }
    }

    /// What was read of each allocation since they are counted.
    pub(crate) fn reads(&self) -> Vec<AllocationReads> {
        let counts = self.sectors.iter().flat_map(|counts| counts.iter());
        let reads = self.allocations.iter().zip(counts);
        let reads = reads.map(|(a, count)| AllocationReads { address: a.base, sectors: count.load(Relaxed) });
        reads.filter(|read| read.sectors > 0).collect()
    }

    pub(crate) fn find(&self, address: u64) -> Option<&Arc<Allocation>> {
        let index = self.allocations.partition_point(|a| a.base <= address).checked_sub(1)?;
        let allocation = &self.allocations[index];
        (address < allocation.end()).then_some(allocation)
    }

    /// Why `bytes` bytes at `address` cannot be accessed.
    pub(crate) fn explain(&self, address: u64, bytes: u64) -> Fault {
        let below = self.allocations.partition_point(|a| a.base <= address).checked_sub(1);
        let below = below.map(|i| &self.allocations[i]);
        let above = self.allocations.iter().find(|a| a.base > address);
        if let Some(owner) = ordinal_of(address)
            && owner != self.ordinal
            && !self.peers.contains(&owner)
        {
            return Fault::new(
                FaultKind::NoPeerAccess,
                format!(
                    "{bytes} bytes at {address:#x}: memory of device {owner}, to which device {} has no peer access (cuCtxEnablePeerAccess gives it)",
                    self.ordinal
                ),
            );
        }
        let freed = self.freed.iter().filter_map(|freed| freed.range(..=address).next_back());
        if let Some((&base, &len)) = freed.max()
            && address < base + len as u64
        {
            return Fault::new(
                FaultKind::UseAfterFree,
                format!(
                    "{bytes} bytes at {address:#x} are {} bytes into the {len}-byte allocation at {base:#x}, which was freed",
                    address - base
                ),
            );
        }
        let distance = |a: &Allocation| {
            let end = a.end();
            if address >= end {
                format!("{} bytes past the end of the {}-byte allocation at {:#x}", address - end, a.len, a.base)
            } else {
                format!(
                    "ending {} bytes past the end of the {}-byte allocation at {:#x}",
                    address.wrapping_add(bytes).wrapping_sub(end),
                    a.len,
                    a.base
                )
            }
        };
        let facts = match (below, above) {
            (Some(a), Some(b)) if address >= a.end() && b.base - address < address - a.end() => {
                format!("{} bytes before the {}-byte allocation at {:#x}", b.base - address, b.len, b.base)
            }
            (Some(a), _) => distance(a),
            (None, Some(b)) if address >= GLOBAL_BASE => {
                format!("{} bytes before the {}-byte allocation at {:#x}", b.base - address, b.len, b.base)
            }
            (None, _) if address < 4096 => "a null pointer".to_owned(),
            _ => "no address of this device".to_owned(),
        };
        Fault::new(FaultKind::OutOfBounds, format!("{bytes} bytes at {address:#x}: {facts}"))
    }
}

/// The table of allocations; [`crate::Device`] keeps it behind a lock.
pub(crate) struct Memory {
    total: usize,
    used: usize,
    next: u64,
    /// Where the next device's addresses begin.
    end: u64,
    live: Snapshot,
    /// How many allocations were made before each that is live, by address; a module's variables are not here.
    numbers: BTreeMap<u64, usize>,
    made: usize,
}

impl Memory {
    pub(crate) fn new(ordinal: u32, total: usize) -> Memory {
        let (next, end) = (base_of(ordinal), base_of(ordinal + 1));
        Memory { total, used: 0, next, end, live: Snapshot::new(ordinal), numbers: BTreeMap::new(), made: 0 }
    }

    pub(crate) fn info(&self) -> (usize, usize) {
        (self.total - self.used, self.total)
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.live.clone()
    }

    pub(crate) fn live(&self) -> Vec<LiveAllocation> {
        let all = self.numbers.iter().filter_map(|(&address, &number)| {
            let bytes = self.live.find(address)?.len;
            Some(LiveAllocation { address, bytes, number })
        });
        all.collect()
    }

    pub(crate) fn alloc(&mut self, bytes: usize) -> Result<u64, Fault> {
        let address = self.alloc_variable(bytes)?;
        self.numbers.insert(address, self.made);
        self.made += 1;
        Ok(address)
    }

    /// As [`Memory::alloc`], for a module.
    pub(crate) fn alloc_variable(&mut self, bytes: usize) -> Result<u64, Fault> {
        if bytes == 0 {
            return Err(Fault::new(FaultKind::InvalidValue, "an allocation of 0 bytes; expected at least 1"));
        }
        let free = self.total - self.used;
        let refuse =
            || Fault::new(FaultKind::OutOfMemory, format!("{bytes} bytes asked for, {free} of {} free", self.total));
        if bytes > free {
            return Err(refuse());
        }
        if self.end - self.next < bytes as u64 + 2 * GUARD {
            let message = format!("{bytes} bytes asked for; the device has given out all its addresses once");
            return Err(Fault::new(FaultKind::OutOfMemory, message));
        }
        let allocation = Allocation::new(self.next, bytes).ok_or_else(refuse)?;
        let address = self.next;
        self.next = (allocation.end() + GUARD).next_multiple_of(ALIGN);
        self.used += bytes;
        self.place(allocation);
        Ok(address)
    }

    fn place(&mut self, allocation: Allocation) {
        let index = self.live.allocations.partition_point(|a| a.base < allocation.base);
        Arc::make_mut(&mut self.live.allocations).insert(index, Arc::new(allocation));
    }

    /// Maps host memory, which must not overlap any that is mapped already.
    pub(crate) fn map(&mut self, host: *mut u8, bytes: usize) -> Result<(), Fault> {
        let (start, end) = (host as u64, (host as u64).saturating_add(bytes as u64));
        let invalid = |what: String| Err(Fault::new(FaultKind::InvalidValue, what));
        if host.is_null() || bytes == 0 {
            return invalid(format!("{bytes} bytes of host memory at {start:#x} to be mapped"));
        }
        let index = self.live.allocations.partition_point(|a| a.end() <= start);
        if let Some(known) = self.live.allocations.get(index).filter(|a| a.base < end) {
            let (base, len) = (known.base, known.len);
            return invalid(format!("{bytes} bytes at {start:#x} overlap the {len} bytes at {base:#x}"));
        }
        let refuse = || Fault::new(FaultKind::OutOfMemory, "the host has no memory for the table of allocations");
        self.place(Allocation::mapped(host, bytes).ok_or_else(refuse)?);
        Ok(())
    }

    /// Ends the mapping of host memory.
    pub(crate) fn unmap(&mut self, address: u64) -> Result<(), Fault> {
        let found = self.live.allocations.iter().position(|a| a.base == address && a.is_mapped());
        let index = found
            .ok_or_else(|| Fault::new(FaultKind::InvalidValue, format!("no host memory is mapped at {address:#x}")))?;
        Arc::make_mut(&mut self.live.allocations).remove(index);
        Ok(())
    }

    /// Makes room for kernels that allocate.
    pub(crate) fn make_heap(&mut self) -> Result<(), Fault> {
        if self.live.heap.is_none() {
            let base = self.alloc_variable(HEAP_BYTES)?;
            self.live.heap = Some(Arc::new(Heap::new(base)));
        }
        Ok(())
    }

    pub(crate) fn free(&mut self, address: u64) -> Result<(), Fault> {
        let found = self.live.allocations.binary_search_by_key(&address, |a| a.base);
        let Some(index) = found.ok().filter(|&index| !self.live.allocations[index].is_mapped()) else {
            let fault = self.live.explain(address, 1);
            let facts = match self.live.find(address) {
                Some(a) => format!("inside the {}-byte allocation at {:#x}, not its start", a.len, a.base),
                None => fault.message().to_owned(),
            };
            let kind = match fault.kind() {
                FaultKind::UseAfterFree => FaultKind::UseAfterFree,
                _ => FaultKind::InvalidValue,
            };
            return Err(Fault::new(kind, format!("free of {address:#x}, which is no allocation: {facts}")));
        };
        let allocation = Arc::make_mut(&mut self.live.allocations).remove(index);
        self.numbers.remove(&address);
        self.used -= allocation.len;
        Arc::make_mut(&mut self.live.freed[0]).insert(address, allocation.len);
        Ok(())
    }

    /// The allocation that holds all of `bytes` bytes at `address`.
    pub(crate) fn range(&self, address: u64, bytes: usize) -> Result<&Arc<Allocation>, Fault> {
        match self.live.find(address) {
            Some(a) if bytes as u64 <= a.end() - address => Ok(a),
            _ => Err(self.live.explain(address, bytes as u64)),
        }
    }

    pub(crate) fn write(&self, dst: u64, src: &[u8]) -> Result<(), Fault> {
        if src.is_empty() {
            return Ok(());
        }
        let target = self.range(dst, src.len())?;
        // SAFETY: `range` checked the destination; the source is a host slice and cannot overlap device memory that is
        // only reachable through raw pointers.
        unsafe { std::ptr::copy(src.as_ptr(), target.host(dst), src.len()) };
        target.mark(dst, src.len());
        Ok(())
    }

    pub(crate) fn read(&self, src: u64, dst: &mut [u8]) -> Result<(), Fault> {
        if dst.is_empty() {
            return Ok(());
        }
        let from = self.range(src, dst.len())?;
        // SAFETY: as in `write`, the other way.
        unsafe { std::ptr::copy(from.host(src), dst.as_mut_ptr(), dst.len()) };
        Ok(())
    }

    /// Copies from `source`, which may be this memory or another device's, the state of what was written included.
    pub(crate) fn copy_from(&self, dst: u64, source: &Memory, src: u64, bytes: usize) -> Result<(), Fault> {
        if bytes == 0 {
            return Ok(());
        }
        let (from, to) = (source.range(src, bytes)?, self.range(dst, bytes)?);
        // SAFETY: both ranges were checked; `copy` allows overlap.
        unsafe { std::ptr::copy(from.host(src), to.host(dst), bytes) };
        if from.first_unwritten(src, bytes).is_none() {
            to.mark(dst, bytes);
        } else {
            let states: Vec<bool> = (0..bytes as u64).map(|i| from.is_written(src + i)).collect();
            for (i, written) in states.into_iter().enumerate() {
                match written {
                    true => to.mark(dst + i as u64, 1),
                    false => to.unmark(dst + i as u64, 1),
                }
            }
        }
        Ok(())
    }

    pub(crate) fn fill(&self, dst: u64, pattern: &[u8], count: usize) -> Result<(), Fault> {
        let bytes = count
            .checked_mul(pattern.len())
            .ok_or_else(|| Fault::new(FaultKind::InvalidValue, format!("a fill of {count} elements is too long")))?;
        if bytes == 0 {
            return Ok(());
        }
        let target = self.range(dst, bytes)?;
        let host = target.host(dst);
        if !dst.is_multiple_of(pattern.len() as u64) {
            return Err(Fault::new(
                FaultKind::Misaligned,
                format!(
                    "a fill of {}-byte elements at {dst:#x}; expected a multiple of {}",
                    pattern.len(),
                    pattern.len()
                ),
            ));
        }
        for i in 0..count {
            // SAFETY: `range` checked all `count * pattern.len()` bytes.
            unsafe { std::ptr::copy_nonoverlapping(pattern.as_ptr(), host.add(i * pattern.len()), pattern.len()) };
        }
        target.mark(dst, bytes);
        Ok(())
    }
}
