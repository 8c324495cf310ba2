//! Bulk copies, `cp.async.bulk` and its kin for tensors.
//!
//! What goes to shared memory is read when the instruction is executed, and appears when somebody looks at the mbarrier that
//! counts its bytes: the latest moment there can be, so that a missing wait shows. What goes to global memory is written at
//! once.

use super::Context;
use super::mbarrier::complete_bytes;
use crate::fault::{Fault, FaultKind};
use crate::program::{Control, Instruction, Reg};
use crate::sanitizer::Touch;
use crate::space::{Kind, Space, lanes_of};
use crate::tensor_map::{Element, Row, TensorMap};

/// A block that gets a copy: its rank, the address there, and the mbarrier's block and address.
type Target = (usize, u64, (usize, u64));

/// A copy to shared memory that nobody has seen the end of.
pub(crate) struct BulkCopy {
    /// Rank of the block and offset there, piece by piece.
    rank: usize,
    pieces: Vec<(u64, Vec<u8>)>,
    /// Rank and offset of the mbarrier.
    barrier: (usize, u64),
    bytes: i32,
}

/// An address operand: register, its bytes, offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) reg: Reg,
    pub(crate) narrow: bool,
    pub(crate) offset: i64,
    pub(crate) space: Space,
}

/// What is moved, and how it is combined with what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduction {
    Add,
    Min,
    Max,
    Inc,
    Dec,
    And,
    Or,
    Xor,
}

#[derive(Clone, Debug)]
pub(crate) struct Bulk {
    pub(crate) to: Place,
    pub(crate) from: Place,
    /// The register with the bytes; none for a tensor's tile, whose map says.
    pub(crate) size: Option<Reg>,
    pub(crate) barrier: Option<Place>,
    /// The register with the blocks of the cluster that get it.
    pub(crate) multicast: Option<Reg>,
    pub(crate) reduction: Option<(Reduction, Element)>,
    /// Of a tensor: registers with the coordinates, innermost first.
    pub(crate) coordinates: Vec<Reg>,
}

impl Context<'_> {
    pub(super) fn place_of(&self, place: &Place, lane: usize) -> u64 {
        match place.narrow {
            true => self.lanes::<u32>(place.reg)[lane].wrapping_add(place.offset as u32) as u64,
            false => self.lanes::<u64>(place.reg)[lane].wrapping_add(place.offset as u64),
        }
    }

    fn resolved(&self, place: &Place, lane: usize) -> (Space, u64) {
        let address = self.place_of(place, lane);
        match place.space {
            Space::Generic => Space::classify(address),
            space => (space, address),
        }
    }

    /// Tells the sanitizer of a lane's access to a range of bytes, of shared memory in the block `owner`; an error where what it finds
    /// ends the launch.
    #[expect(clippy::too_many_arguments, reason = "the facts of one access")]
    fn touch_range(
        &mut self,
        lane: usize,
        kind: Kind,
        space: Space,
        address: u64,
        bytes: u64,
        owner: u64,
        asynchronous: bool,
    ) -> Result<(), Fault> {
        let Some(mut sanitizer) = self.sanitizer.take() else {
            return Ok(());
        };
        let allocation = match space {
            Space::Global => self.memory.allocations.partition_point(|a| a.base <= address) - 1,
            _ => usize::MAX,
        };
        let site = self.site();
        let mut result = Ok(());
        sanitizer.set_bulk(true);
        // Tiles may begin at any element.
        let step = 1 << (address | bytes | 16).trailing_zeros();
        for at in (address..address + bytes).step_by(step) {
            let touch = Touch {
                space,
                kind,
                strong: kind == Kind::Atomic,
                acquire: false,
                release: false,
                block_scope: false,
                asynchronous,
                bytes: step as u64,
                allocation,
            };
            let verdict = match space {
                Space::Shared => sanitizer.touch_in(site, owner, 1 << lane, &[at; 32], touch, true),
                _ => sanitizer.touch(site, 1 << lane, &[at; 32], touch),
            };
            result = result.and(verdict);
        }
        sanitizer.set_bulk(false);
        self.sanitizer = Some(sanitizer);
        let ins = &self.code[self.warp.pc as usize];
        result.or_else(|(_, fault)| {
            let whole = Fault::new(fault.kind(), format!("bulk copy: {}", fault.message()));
            self.report(ins, 1 << lane, whole).map_err(|_| fault)
        })
    }

    /// Reads bytes of global or shared memory; `grouped` where a wait for the thread's group tells that they were read.
    fn fetch(&mut self, lane: usize, space: Space, address: u64, bytes: u64, grouped: bool) -> Result<Vec<u8>, Fault> {
        let mut out = vec![0; bytes as usize];
        if bytes == 0 {
            return Ok(out);
        }
        let from = match space {
            Space::Shared => {
                let (from, rank, offset) = self.shared_range(address, bytes)?;
                self.counters.shared_load_bytes += bytes;
                let owner = self.cluster().blocks[rank];
                self.touch_range(lane, Kind::Load, Space::Shared, offset, bytes, owner, false)?;
                if grouped && let Some(mut sanitizer) = self.sanitizer.take() {
                    sanitizer.bulk_reads(self.site(), lane, offset, bytes);
                    self.sanitizer = Some(sanitizer);
                }
                from
            }
            _ => {
                let found = self.memory.find(address).filter(|found| bytes <= found.end() - address);
                let found = found.ok_or_else(|| self.memory.explain(address, bytes))?;
                let from = found.host(address);
                let sectors = (address + bytes).div_ceil(32) - address / 32;
                self.counters.global_load_sectors += sectors;
                self.counters.global_load_bytes += bytes;
                let index = self.memory.allocations.partition_point(|a| a.base <= address) - 1;
                self.memory.count_read(index, sectors);
                self.touch_range(lane, Kind::Load, Space::Global, address, bytes, 0, false)?;
                from
            }
        };
        // SAFETY: so many bytes were found there.
        unsafe { std::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), bytes as usize) };
        Ok(out)
    }

    /// Writes bytes to global memory, combining them with what is there where a reduction is asked for.
    fn put_global(
        &mut self,
        lane: usize,
        address: u64,
        data: &[u8],
        reduction: Option<(Reduction, Element)>,
    ) -> Result<(), Fault> {
        let bytes = data.len() as u64;
        if bytes == 0 {
            return Ok(());
        }
        let found = self.memory.find(address).filter(|found| bytes <= found.end() - address).cloned();
        let found = found.ok_or_else(|| self.memory.explain(address, bytes))?;
        let sectors = (address + bytes).div_ceil(32) - address / 32;
        match reduction {
            None => {
                self.counters.global_store_sectors += sectors;
                self.counters.global_store_bytes += bytes;
                self.touch_range(lane, Kind::Store, Space::Global, address, bytes, 0, false)?;
                // SAFETY: so many bytes were found there.
                unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), found.host(address), data.len()) };
            }
            Some((reduction, element)) => {
                self.counters.atomic_sectors += sectors;
                // Blocks on other host threads may reduce into the same place.
                let _turn = self.facts.reductions.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                for (at, value) in data.chunks_exact(element.bytes()).enumerate() {
                    let to = found.host(address + (at * element.bytes()) as u64);
                    let mut old = [0u8; 8];
                    // SAFETY: as above.
                    unsafe { std::ptr::copy_nonoverlapping(to, old.as_mut_ptr(), value.len()) };
                    let new = element.reduce(reduction, &old[..value.len()], value);
                    // SAFETY: as above.
                    unsafe { std::ptr::copy_nonoverlapping(new.as_ptr(), to, value.len()) };
                }
            }
        }
        found.mark(address, data.len());
        Ok(())
    }

    /// The copies whose bytes the mbarrier at this address counts have come.
    pub(super) fn land_bulk(&mut self, barrier: u64) {
        let Ok((host, rank, offset)) = self.shared_range(barrier, 8) else {
            return;
        };
        let cluster = self.cluster();
        if !cluster.copies.iter().any(|copy| copy.barrier == (rank, offset)) {
            return;
        }
        let copies = std::mem::take(&mut cluster.copies);
        let (landed, left): (Vec<_>, Vec<_>) = copies.into_iter().partition(|copy| copy.barrier == (rank, offset));
        cluster.copies = left;
        for copy in landed {
            self.land(&copy, host);
        }
    }

    fn land(&mut self, copy: &BulkCopy, barrier: *mut u8) {
        let (start, block) = (self.cluster().shared[copy.rank], self.cluster().blocks[copy.rank]);
        for (offset, data) in &copy.pieces {
            // SAFETY: the piece was found to lie in the block's shared memory when the copy was issued.
            unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), start.add(*offset as usize), data.len()) };
        }
        if let Some(mut sanitizer) = self.sanitizer.take() {
            for (offset, data) in &copy.pieces {
                sanitizer.bulk_landed(self.site(), block, *offset, data.len() as u64);
            }
            self.sanitizer = Some(sanitizer);
        }
        // SAFETY: the barrier lies in shared memory of this cluster, and is aligned.
        unsafe { complete_bytes(barrier, copy.bytes) };
    }

    /// Issues a copy of pieces to a block's shared memory.
    fn issue(
        &mut self,
        lane: usize,
        rank: usize,
        pieces: Vec<(u64, Vec<u8>)>,
        barrier: (usize, u64),
        bytes: u64,
    ) -> Result<(), Fault> {
        self.counters.shared_store_bytes += bytes;
        let (owner, counts) = (self.cluster().blocks[rank], self.cluster().blocks[barrier.0]);
        for (offset, data) in &pieces {
            self.touch_range(lane, Kind::Store, Space::Shared, *offset, data.len() as u64, owner, true)?;
        }
        if let Some(mut sanitizer) = self.sanitizer.take() {
            sanitizer.release_at(self.site(), 1 << lane, counts, barrier.1);
            self.sanitizer = Some(sanitizer);
        }
        self.cluster().copies.push(BulkCopy { rank, pieces, barrier, bytes: bytes as i32 });
        Ok(())
    }

    /// Where a copy's mbarrier is, and the blocks that get it: rank, and the address within each.
    fn targets(&mut self, bulk: &Bulk, lane: usize, to: u64, bytes: u64) -> Result<Vec<Target>, Fault> {
        let Some(barrier) = &bulk.barrier else {
            return Err(Fault::new(FaultKind::InvalidOperand, "a copy to shared memory without an mbarrier"));
        };
        let (_, at) = self.resolved(barrier, lane);
        if at % 8 != 0 {
            return Err(Fault::new(FaultKind::Misaligned, format!("an mbarrier at {at:#x}; expected a multiple of 8")));
        }
        let (_, barrier_rank, barrier_offset) = self.shared_range(at, 8)?;
        let (_, rank, offset) = self.shared_range(to, bytes)?;
        let Some(mask) = bulk.multicast.map(|reg| self.lanes::<u16>(reg)[lane]) else {
            return Ok(vec![(rank, offset, (barrier_rank, barrier_offset))]);
        };
        let count = self.cluster().shared.len();
        if (mask as usize) >> count != 0 {
            let message = format!("a copy to the blocks {mask:#x} of a cluster of {count}");
            return Err(Fault::new(FaultKind::InvalidOperand, message));
        }
        Ok(lanes_of(mask as u32).map(|rank| (rank, offset, (rank, barrier_offset))).collect())
    }
}

/// `cp.async.bulk.commit_group`.
pub(crate) fn commit_group(ctx: &mut Context, _: &Instruction, mask: u32) -> Control {
    if let Some(mut sanitizer) = ctx.sanitizer.take() {
        sanitizer.bulk_commit(ctx.site(), mask);
        ctx.sanitizer = Some(sanitizer);
    }
    Control::Next
}

/// `cp.async.bulk.wait_group`; `imm`: the groups that need not be over. What they write is there already.
pub(crate) fn wait_group(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let Some(mut sanitizer) = ctx.sanitizer.take() else { return Control::Next };
    let verdict = sanitizer.bulk_wait(ctx.site(), mask, ins.imm as u32);
    ctx.sanitizer = Some(sanitizer);
    match verdict.or_else(|(lane, fault)| ctx.report(ins, 1 << lane, fault)) {
        Ok(()) => Control::Next,
        Err(control) => control,
    }
}

/// `fence.proxy.async`: the ways to memory are one here, which only the sanitizer keeps apart.
pub(crate) fn fence_proxies(ctx: &mut Context, _: &Instruction, mask: u32) -> Control {
    if let Some(mut sanitizer) = ctx.sanitizer.take() {
        sanitizer.fence_proxies(ctx.site(), mask);
        ctx.sanitizer = Some(sanitizer);
    }
    Control::Next
}

/// `cp.async.bulk`, `cp.reduce.async.bulk`, and those of tensors: `imm` is the index of the [`Bulk`].
pub(crate) fn copy(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let program = ctx.program;
    let bulk = &program.bulks[ins.imm as usize];
    for lane in lanes_of(mask) {
        let result = match bulk.size {
            Some(size) => linear(ctx, bulk, lane, size),
            None => tile(ctx, bulk, lane),
        };
        if let Err(fault) = result {
            let fault = Fault::new(fault.kind(), format!("bulk copy: {}", fault.message()));
            return ctx.fail_with(ins, 1 << lane, fault);
        }
    }
    Control::Next
}

fn linear(ctx: &mut Context, bulk: &Bulk, lane: usize, size: Reg) -> Result<(), Fault> {
    let bytes = ctx.lanes::<u32>(size)[lane] as u64;
    let ((to_space, to), (from_space, from)) = (ctx.resolved(&bulk.to, lane), ctx.resolved(&bulk.from, lane));
    if !bytes.is_multiple_of(16) {
        return Err(Fault::new(FaultKind::InvalidOperand, format!("{bytes} bytes; expected a multiple of 16")));
    }
    if let Some(address) = [to, from].into_iter().find(|address| address % 16 != 0) {
        return Err(Fault::new(FaultKind::Misaligned, format!("{address:#x} is not a multiple of 16")));
    }
    let data = ctx.fetch(lane, from_space, from, bytes, bulk.barrier.is_none())?;
    if to_space == Space::Global {
        return ctx.put_global(lane, to, &data, bulk.reduction);
    }
    if let Some((reduction, element)) = bulk.reduction {
        return reduce_shared(ctx, bulk, lane, to, &data, reduction, element);
    }
    for (rank, offset, barrier) in ctx.targets(bulk, lane, to, bytes)? {
        ctx.issue(lane, rank, vec![(offset, data.clone())], barrier, bytes)?;
    }
    Ok(())
}

/// `cp.reduce.async.bulk.shared::cluster`: at once.
fn reduce_shared(
    ctx: &mut Context,
    bulk: &Bulk,
    lane: usize,
    to: u64,
    data: &[u8],
    reduction: Reduction,
    element: Element,
) -> Result<(), Fault> {
    for (rank, offset, (barrier_rank, barrier)) in ctx.targets(bulk, lane, to, data.len() as u64)? {
        let (start, block) = (ctx.cluster().shared[rank], ctx.cluster().blocks[rank]);
        for (at, value) in data.chunks_exact(element.bytes()).enumerate() {
            // SAFETY: `targets` found the range in the block's shared memory.
            let old = unsafe {
                std::slice::from_raw_parts_mut(start.add(offset as usize + at * element.bytes()), element.bytes())
            };
            let new = element.reduce(reduction, old, value);
            old.copy_from_slice(&new[..value.len()]);
        }
        ctx.touch_range(lane, Kind::Atomic, Space::Shared, offset, data.len() as u64, block, false)?;
        let counts = ctx.cluster().blocks[barrier_rank];
        if let Some(mut sanitizer) = ctx.sanitizer.take() {
            sanitizer.release_at(ctx.site(), 1 << lane, counts, barrier);
            ctx.sanitizer = Some(sanitizer);
        }
        let barrier = ctx.cluster().shared[barrier_rank].wrapping_add(barrier as usize);
        // SAFETY: `targets` found 8 aligned bytes there.
        unsafe { complete_bytes(barrier, data.len() as i32) };
    }
    Ok(())
}

impl Context<'_> {
    /// The tensor map that a lane names, and where in it its tile begins.
    fn map(&mut self, lane: usize, place: &Place, coordinates: &[Reg]) -> Result<(TensorMap, Vec<i64>), Fault> {
        let address = self.place_of(place, lane);
        let map = TensorMap::unpack(&self.map_bytes(lane, address)?).ok_or_else(|| {
            Fault::new(FaultKind::InvalidOperand, format!("the 128 bytes at {address:#x} are no tensor map"))
        })?;
        if map.rank() != coordinates.len() {
            let message = format!("{} coordinates for a tensor of {} dimensions", coordinates.len(), map.rank());
            return Err(Fault::new(FaultKind::InvalidOperand, message));
        }
        let start: Vec<i64> = coordinates.iter().map(|&reg| self.lanes::<u32>(reg)[lane] as i32 as i64).collect();
        // Measured on an H200: of anything else it says CUDA_ERROR_ILLEGAL_INSTRUCTION.
        let bytes = start[0] * map.element().bytes() as i64;
        if bytes % 16 != 0 {
            let message = format!(
                "a tile that begins {bytes} bytes along its rows, at {start:?}; a GPU takes multiples of 16 bytes"
            );
            return Err(Fault::new(FaultKind::Misaligned, message));
        }
        Ok((map, start))
    }
}

/// `cp.async.bulk.prefetch.tensor`: what would be read is looked for, and nothing counted. `imm` is the index of the [`Bulk`].
pub(crate) fn prefetch_tile(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let program = ctx.program;
    let bulk = &program.bulks[ins.imm as usize];
    for lane in lanes_of(mask) {
        let found = ctx.map(lane, &bulk.from, &bulk.coordinates).and_then(|(map, start)| {
            let rows = map.rows(&start, 0).into_iter().filter(|row| row.bytes > 0);
            let is_there = |row: &Row| ctx.memory.find(row.address).is_some_and(|a| row.bytes <= a.end() - row.address);
            let missing = rows.into_iter().find(|row| !is_there(row));
            missing.map_or(Ok(()), |row| Err(ctx.memory.explain(row.address, row.bytes)))
        });
        if let Err(fault) = found {
            let fault = Fault::new(fault.kind(), format!("prefetch of a tile: {}", fault.message()));
            return ctx.fail_with(ins, 1 << lane, fault);
        }
    }
    Control::Next
}

/// A tile of a tensor.
fn tile(ctx: &mut Context, bulk: &Bulk, lane: usize) -> Result<(), Fault> {
    let to_shared = bulk.barrier.is_some();
    let (map_place, shared_place) = if to_shared { (&bulk.from, &bulk.to) } else { (&bulk.to, &bulk.from) };
    let (map, start) = ctx.map(lane, map_place, &bulk.coordinates)?;
    // Only what is loaded may begin before the tensor (CUDA C++ Programming Guide, tensor memory accelerator).
    if !to_shared && start.iter().any(|at| *at < 0) {
        let message = format!("a tile is written from {start:?} on; a GPU writes none that begins before the tensor");
        return Err(Fault::new(FaultKind::InvalidOperand, message));
    }
    let (_, shared) = ctx.resolved(shared_place, lane);
    if shared % 128 != 0 {
        let message = format!("shared memory at {shared:#x}; a tile needs a multiple of 128");
        return Err(Fault::new(FaultKind::Misaligned, message));
    }
    if let Some((row, span)) = map.narrower_than_its_span() {
        let message =
            format!("a swizzled tile of {row} bytes a row, where softcuda knows those of the whole span, {span} bytes");
        return Err(Fault::new(FaultKind::UnknownInstruction, message));
    }
    let (_, _, offset) = ctx.shared_range(shared, map.tile_bytes())?;
    let rows = map.rows(&start, offset);
    if to_shared {
        let mut pieces = Vec::new();
        for row in &rows {
            let inside = ctx.fetch(lane, Space::Global, row.address, row.bytes, false)?;
            let mut data = map.fill(row.skipped as usize + inside.len() + row.missing as usize);
            data[row.skipped as usize..row.skipped as usize + inside.len()].copy_from_slice(&inside);
            pieces.extend(map.swizzled(row.shared, data));
        }
        let bytes = map.tile_bytes();
        for (rank, _, barrier) in ctx.targets(bulk, lane, shared, bytes)? {
            ctx.issue(lane, rank, pieces.clone(), barrier, bytes)?;
        }
        return Ok(());
    }
    let high = shared - offset;
    for row in &rows {
        // What lies outside of the tensor is not written anywhere, and need not be there.
        let mut inside = Vec::new();
        for (at, count) in map.swizzled_places(row.shared + row.skipped, row.bytes) {
            inside.extend(ctx.fetch(lane, Space::Shared, high + at, count, true)?);
        }
        let reduction = bulk.reduction.map(|(reduction, _)| (reduction, map.element()));
        ctx.put_global(lane, row.address, &inside, reduction)?;
    }
    Ok(())
}

impl Context<'_> {
    /// The bytes of a tensor map, which may be a kernel's parameter.
    fn map_bytes(&mut self, lane: usize, address: u64) -> Result<Vec<u8>, Fault> {
        const BYTES: usize = 128;
        let (space, offset) = Space::classify(address);
        if !matches!(space, Space::Param | Space::Global) {
            let message = format!(
                "a tensor map in {space:?} memory, at {address:#x}; expected a kernel's parameter, constant or global memory"
            );
            return Err(Fault::new(FaultKind::InvalidOperand, message));
        }
        if offset % 64 != 0 {
            let message = format!("a tensor map at {address:#x}; expected a multiple of 64");
            return Err(Fault::new(FaultKind::Misaligned, message));
        }
        if space == Space::Param {
            let fits = offset + BYTES as u64 <= self.program.param_bytes as u64;
            let start = self.facts.params.as_ptr() as *const u8;
            // SAFETY: the range lies in parameter memory.
            return fits
                .then(|| unsafe { std::slice::from_raw_parts(start.add(offset as usize), BYTES) }.to_vec())
                .ok_or_else(|| Fault::new(FaultKind::OutOfBounds, "a tensor map past the end of the parameters"));
        }
        let bytes = self.bytes_at(lane, address, BYTES)?;
        self.touch_range(lane, Kind::Load, Space::Global, address, BYTES as u64, 0, false)?;
        Ok(bytes)
    }
}
