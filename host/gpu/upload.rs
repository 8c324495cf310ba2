//! Uploading a model: from the file's pages to the device through a ring of pinned buffers.
//!
//! The device copies from pinned memory only, and a file's pages are not pinned. So a piece of the file goes to a slot of
//! the ring first, several threads copying a part of it each, which also lets the disk work on several parts at once; then
//! the device's copy is enqueued, and the threads go on with the next slot meanwhile. An event at each slot tells when the
//! device has read it and it may be filled again.
//!
//! Quantised blocks go to planes (`kernels/blocks/mod.rs`): a piece of them is copied to a buffer on the device, from which
//! a kernel takes the fields. It is as large as a slot; the stream keeps a copy into it behind the kernels that read it.
//!
//! Beside the page cache this takes the ring's memory, whatever the model's size.

use std::ops::Range;

use cust::event::{Event, EventFlags};
use rayon::prelude::*;

use super::{Buffer, Element, Gpu, GpuError, Pinned, Rows, Slice, check, driver_call};
use crate::gguf::TensorType;

/// Bytes of a slot of the ring. Pinning and freeing memory takes some 0.4 ms a MiB; but to wait for a slot takes a while too,
/// so that slots of half the size halve the rate.
const SLOT_BYTES: usize = 8 << 20;
/// Slots of the ring at most; a small model takes fewer.
const SLOTS: usize = 4;
/// No block of a quantised type is longer.
const LARGEST_BLOCK: usize = 512;
/// What one thread copies at a time: sixteen threads have two each.
const PART_BYTES: usize = 256 << 10;

/// Bytes of the host that go to a place on the device.
pub struct Transfer<'a> {
    target: Target,
    source: &'a [u8],
}

enum Target {
    /// As they are.
    Bytes { address: u64 },
    /// As blocks of a part, the first as its block `first`.
    Blocks { part: Slice<u8>, tensor_type: TensorType, first: usize },
}

impl<'a> Transfer<'a> {
    /// All of `target` from the bytes of its elements.
    ///
    /// # Panics
    /// Where the two are not equally long.
    pub fn new<T: Element>(target: &Slice<T>, source: &'a [u8]) -> Transfer<'a> {
        assert_eq!(target.len() * size_of::<T>(), source.len(), "bytes of a device slice and of what is copied to it");
        Transfer { target: Target::Bytes { address: target.address() }, source }
    }

    /// All rows of a matrix, or of a stack, from the file's bytes of them.
    ///
    /// # Panics
    /// Where there are more or fewer of these.
    pub fn of_rows(rows: Rows, source: &'a [u8]) -> Transfer<'a> {
        let first = rows.first();
        Transfer::of_neighbours(rows, first..first + rows.n_matrices() * rows.n_out, source)
    }

    /// Rows `range` of one matrix of a stack, from the file's bytes of them.
    ///
    /// # Panics
    /// Where there are more or fewer of these.
    pub fn of_matrix(rows: Rows, matrix: usize, range: Range<usize>, source: &'a [u8]) -> Transfer<'a> {
        assert!(matrix < rows.n_matrices() && range.end <= rows.n_out, "rows {range:?} of matrix {matrix}");
        let first = rows.first() + matrix * rows.n_out;
        Transfer::of_neighbours(rows, first + range.start..first + range.end, source)
    }

    /// Rows of a part, counted from its first.
    fn of_neighbours(rows: Rows, range: Range<usize>, source: &'a [u8]) -> Transfer<'a> {
        let tensor_type = rows.tensor_type();
        let bytes = range.len() * rows.blocks_of_row() * tensor_type.block_bytes() as usize;
        assert_eq!(bytes, source.len(), "bytes of a matrix in {tensor_type}");
        let target = if tensor_type.is_quantised() {
            let first = range.start * rows.blocks_of_row();
            Target::Blocks { part: rows.part().copy(), tensor_type, first }
        } else {
            Target::Bytes { address: rows.part().address() + (range.start * rows.bytes_of_row()) as u64 }
        };
        Transfer { target, source }
    }

    /// Bytes that must not be torn apart.
    fn unit(&self) -> usize {
        match self.target {
            Target::Bytes { .. } => 1,
            Target::Blocks { tensor_type, .. } => tensor_type.block_bytes() as usize,
        }
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
    /// Where blocks wait for being taken apart.
    blocks: Buffer<u8>,
}

impl<'a> Ring<'a> {
    fn new(gpu: &'a Gpu, total: usize, with_blocks: bool) -> Result<Ring<'a>, GpuError> {
        let n_slots = total.div_ceil(SLOT_BYTES).clamp(1, SLOTS);
        let slot = |_| {
            let event = Event::new(EventFlags::DISABLE_TIMING);
            Ok(Slot {
                memory: gpu.alloc_pinned("uploading", (total + LARGEST_BLOCK).min(SLOT_BYTES))?,
                read: driver_call(|| "creating an event".into(), event)?,
            })
        };
        let slots = (0..n_slots).map(slot).collect::<Result<_, GpuError>>()?;
        let blocks = gpu.alloc("uploading", if with_blocks { total.min(SLOT_BYTES) } else { 0 })?;
        Ok(Ring { gpu, slots, blocks })
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
        let with_blocks = transfers.iter().any(|transfer| matches!(transfer.target, Target::Blocks { .. }));
        let mut ring = Ring::new(self, total, with_blocks)?;
        let n_slots = ring.slots.len();
        let (mut turn, mut filled, mut done) = (0, 0, 0);
        for transfer in transfers {
            let mut at = 0;
            while at < transfer.source.len() {
                let slot = &mut ring.slots[turn % n_slots];
                if filled == 0 && turn >= n_slots {
                    driver_call(|| "uploading".into(), slot.read.synchronize())?;
                }
                let room = (slot.memory.len() - filled) / transfer.unit() * transfer.unit();
                let piece = &transfer.source[at..transfer.source.len().min(at + room)];
                let staged = &mut slot.memory[filled..filled + piece.len()];
                staged
                    .par_chunks_mut(PART_BYTES)
                    .zip(piece.par_chunks(PART_BYTES))
                    .for_each(|(staged, part)| staged.copy_from_slice(part));
                let target = match transfer.target {
                    Target::Bytes { address } => address + at as u64,
                    Target::Blocks { .. } => ring.blocks.address(),
                };
                // SAFETY: the target is allocated, says the caller, and as long as the source; so is the buffer for blocks, which
                // is as long as a slot. The slot is not filled again before the event behind this copy, nor freed before
                // everything has run.
                let result = unsafe {
                    cust::sys::cuMemcpyHtoDAsync_v2(
                        target,
                        staged.as_ptr().cast(),
                        staged.len(),
                        self.stream.as_inner(),
                    )
                };
                check(|| "uploading".into(), result)?;
                if let Target::Blocks { part, tensor_type, first } = &transfer.target {
                    let blocks = ring.blocks.slice(0..piece.len());
                    self.arrange(*tensor_type, &blocks, part, first + at / transfer.unit())?;
                }
                at += piece.len();
                filled += piece.len();
                done += piece.len();
                // The slot is full where the next block would not fit.
                let full = slot.memory.len() - filled < LARGEST_BLOCK;
                if full || done == total {
                    driver_call(|| "uploading".into(), slot.read.record(&self.stream))?;
                    (turn, filled) = (turn + 1, 0);
                    progress(done as u64, total as u64);
                }
            }
        }
        self.synchronise()
    }
}
