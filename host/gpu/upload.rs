//! Uploading a model: from the file's pages to the device through a ring of pinned buffers.
//!
//! The device copies from pinned memory only, and a file's pages are not pinned. So a piece of the file goes to a slot of
//! the ring first, several threads copying a part of it each, which also lets the disk work on several parts at once; then
//! the device's copy is enqueued, and the threads go on with the next slot meanwhile. An event at each slot tells when the
//! device has read it and it may be filled again.
//!
//! Beside the page cache this takes the ring's memory, whatever the model's size.

use cust::event::{Event, EventFlags};
use rayon::prelude::*;

use super::{Element, Gpu, GpuError, Pinned, Slice, check, driver_call};

/// Bytes of a slot of the ring.
const SLOT_BYTES: usize = 8 << 20;
/// Slots of the ring at most; a small model takes fewer.
const SLOTS: usize = 4;
/// What one thread copies at a time.
const PART_BYTES: usize = 1 << 20;

/// Bytes of the host that go to a place on the device.
pub struct Transfer<'a> {
    address: u64,
    source: &'a [u8],
}

impl<'a> Transfer<'a> {
    /// All of `target` from the bytes of its elements.
    ///
    /// # Panics
    /// Where the two are not equally long.
    pub fn new<T: Element>(target: &Slice<T>, source: &'a [u8]) -> Transfer<'a> {
        assert_eq!(target.len() * size_of::<T>(), source.len(), "bytes of a device slice and of what is copied to it");
        Transfer { address: target.address(), source }
    }
}

struct Slot {
    memory: Pinned<u8>,
    /// Recorded behind the last copy from the slot.
    read: Event,
}

struct Ring<'a> {
    gpu: &'a Gpu,
    slots: Vec<Slot>,
}

impl<'a> Ring<'a> {
    fn new(gpu: &'a Gpu, total: usize) -> Result<Ring<'a>, GpuError> {
        let n_slots = total.div_ceil(SLOT_BYTES).clamp(1, SLOTS);
        let slot = |_| {
            let event = Event::new(EventFlags::DISABLE_TIMING);
            Ok(Slot {
                memory: gpu.alloc_pinned("uploading", total.clamp(1, SLOT_BYTES))?,
                read: driver_call(|| "creating an event".into(), event)?,
            })
        };
        Ok(Ring { gpu, slots: (0..n_slots).map(slot).collect::<Result<_, GpuError>>()? })
    }
}

/// The device may be reading from the slots until everything enqueued has run.
impl Drop for Ring<'_> {
    fn drop(&mut self) {
        // A failure was reported by the call that enqueued, or is by the next one.
        let _ = self.gpu.synchronise();
    }
}

impl Gpu {
    /// Copies all of `transfers` and waits for it. `progress` is told bytes done and bytes in all.
    ///
    /// # Safety
    /// - What each transfer was made for is still allocated.
    pub unsafe fn upload_all(
        &self,
        transfers: &[Transfer],
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), GpuError> {
        let total: usize = transfers.iter().map(|transfer| transfer.source.len()).sum();
        let mut ring = Ring::new(self, total)?;
        let n_slots = ring.slots.len();
        let (mut turn, mut filled, mut done) = (0, 0, 0);
        for transfer in transfers {
            let mut rest = transfer.source;
            while !rest.is_empty() {
                let slot = &mut ring.slots[turn % n_slots];
                if filled == 0 && turn >= n_slots {
                    driver_call(|| "uploading".into(), slot.read.synchronize())?;
                }
                let (piece, after) = rest.split_at(rest.len().min(slot.memory.len() - filled));
                let target = transfer.address + (transfer.source.len() - rest.len()) as u64;
                let staged = &mut slot.memory[filled..filled + piece.len()];
                staged
                    .par_chunks_mut(PART_BYTES)
                    .zip(piece.par_chunks(PART_BYTES))
                    .for_each(|(staged, part)| staged.copy_from_slice(part));
                // SAFETY: the target is allocated, says the caller, and as long as the source. The slot is not filled
                // again before the event behind this copy, nor freed before everything has run.
                let result = unsafe {
                    cust::sys::cuMemcpyHtoDAsync_v2(
                        target,
                        staged.as_ptr().cast(),
                        staged.len(),
                        self.stream.as_inner(),
                    )
                };
                check(|| "uploading".into(), result)?;
                rest = after;
                filled += piece.len();
                done += piece.len();
                if filled == slot.memory.len() || done == total {
                    driver_call(|| "uploading".into(), slot.read.record(&self.stream))?;
                    (turn, filled) = (turn + 1, 0);
                    progress(done as u64, total as u64);
                }
            }
        }
        self.synchronise()
    }
}
