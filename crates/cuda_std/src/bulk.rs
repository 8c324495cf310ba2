//! Bulk copies (`cp.async.bulk`): one thread starts a copy of any number of bytes, and the block goes on meanwhile.
//!
//! Into shared memory a copy reports to a [`Barrier`], which counts the bytes:
//!
//! 1. one thread initialises the barrier (`barrier.init(1)`, [`fence::barrier_init`](crate::fence::barrier_init)), then the block
//!    meets at `sync_threads`;
//! 2. for each round one thread says how many bytes will come (`barrier.arrive_expecting(bytes)`) and starts copies of as many;
//! 3. everybody who reads them waits for the round's phase (`barrier.wait(parity)`).
//!
//! From shared memory to global memory copies are closed into groups, as those of [`async_copy`](crate::async_copy) are: [`commit`],
//! [`wait`]. Before, each thread that wrote what is copied calls [`fence::proxy_async`](crate::fence::proxy_async), and a barrier
//! follows. The block must not end, nor write over the source, before [`wait_read`].
//!
//! All addresses and sizes are multiples of 16 bytes. From `sm_90` on.

use crate::{cluster::Remote, mbarrier::Barrier, shared::Shared};

/// Starts to copy `bytes` bytes of global memory into a shared array, from element `index` on; the barrier counts them as they come.
///
/// # Safety
/// - The bytes are within both, both are 16-byte aligned and so is their number; `source` is in global memory.
/// - A barrier separates this from other accesses to the array's part, and a wait for the barrier's phase from reads of it.
#[inline(always)]
pub unsafe fn copy_to_shared<T>(target: Shared<T>, index: u32, source: *const T, bytes: u32, barrier: Barrier) {
    on_device!((target, index, source, bytes, barrier.address()) {
        // SAFETY: passed on to the caller.
        unsafe {
            core::arch::asm!(
                "{{ .reg .u64 global; cvta.to.global.u64 global, {1}; \
                 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [{0}], [global], {2}, [{3}]; }}",
                in(reg32) target.element_address(index), in(reg64) source, in(reg32) bytes, in(reg32) barrier.address(),
                options(nostack)
            );
        }
    })
}

/// As [`copy_to_shared`], into the same place of every block of the cluster whose bit in `blocks` is set, by number; the same
/// barrier of each of them counts the bytes that it gets. Memory is read once.
///
/// # Safety
/// - As for [`copy_to_shared`], in each of the blocks, none of which has ended.
#[inline(always)]
pub unsafe fn copy_to_blocks<T>(
    target: Shared<T>,
    index: u32,
    source: *const T,
    bytes: u32,
    barrier: Barrier,
    blocks: u16,
) {
    on_device!((target, index, source, bytes, barrier, blocks) {
        // SAFETY: passed on to the caller.
        unsafe {
            core::arch::asm!(
                "{{ .reg .u64 global; cvta.to.global.u64 global, {1}; \
                 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster \
                 [{0}], [global], {2}, [{3}], {4}; }}",
                in(reg32) target.element_address(index), in(reg64) source, in(reg32) bytes, in(reg32) barrier.address(),
                in(reg16) blocks,
                options(nostack)
            );
        }
    })
}

/// Starts to copy `bytes` bytes of this block's shared memory into an array of the block with number `rank` of the cluster, each from
/// an element on; the same barrier of that block as `barrier` of this one counts them.
///
/// # Safety
/// - As for [`copy_to_shared`]; `target` is [`map`](crate::cluster::map)ped to that block, which has not ended. Writes to the source
///   are fenced ([`fence::proxy_async`](crate::fence::proxy_async)).
#[inline(always)]
pub unsafe fn copy_to_block<T>(
    target: Remote<T>,
    target_index: u32,
    source: Shared<T>,
    source_index: u32,
    bytes: u32,
    barrier: Barrier,
    rank: u32,
) {
    on_device!((target.element_address(target_index), source, source_index, bytes, barrier, rank) {
        // SAFETY: passed on to the caller.
        unsafe {
            core::arch::asm!(
                "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [{}], [{}], {}, [{}];",
                in(reg32) target.element_address(target_index), in(reg32) source.element_address(source_index),
                in(reg32) bytes, in(reg32) crate::cluster::map_address(barrier.address(), rank),
                options(nostack)
            );
        }
    })
}

/// Starts to copy `bytes` bytes of a shared array, from element `index` on, to global memory.
///
/// # Safety
/// - The bytes are within both, both are 16-byte aligned and so is their number; `target` is in global memory.
/// - Writes to the source are fenced ([`fence::proxy_async`](crate::fence::proxy_async)) and a barrier separates them from this;
///   [`wait_read`] and a barrier separate this from what is written there next.
#[inline(always)]
pub unsafe fn copy_to_global<T>(target: *mut T, source: Shared<T>, index: u32, bytes: u32) {
    on_device!((target, source, index, bytes) {
        // SAFETY: passed on to the caller.
        unsafe {
            core::arch::asm!(
                "{{ .reg .u64 global; cvta.to.global.u64 global, {0}; \
                 cp.async.bulk.global.shared::cta.bulk_group [global], [{1}], {2}; }}",
                in(reg64) target, in(reg32) source.element_address(index), in(reg32) bytes,
                options(nostack)
            );
        }
    })
}

/// As [`copy_to_global`], adding to the `f32` that are there: each addition is atomic, in which order is not said.
///
/// # Safety
/// - As for [`copy_to_global`]; the target is changed atomically only while others may.
#[inline(always)]
pub unsafe fn add_to_global(target: *mut f32, source: Shared<f32>, index: u32, bytes: u32) {
    on_device!((target, source, index, bytes) {
        // SAFETY: passed on to the caller.
        unsafe {
            core::arch::asm!(
                "{{ .reg .u64 global; cvta.to.global.u64 global, {0}; \
                 cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [global], [{1}], {2}; }}",
                in(reg64) target, in(reg32) source.element_address(index), in(reg32) bytes,
                options(nostack)
            );
        }
    })
}

/// Starts to bring `bytes` bytes of global memory into the L2 cache.
///
/// # Safety
/// - They are in global memory, 16-byte aligned, and a multiple of 16.
#[inline(always)]
pub unsafe fn prefetch_l2<T>(source: *const T, bytes: u32) {
    on_device!((source, bytes) {
        // SAFETY: reads nothing that the program sees.
        unsafe {
            core::arch::asm!(
                "{{ .reg .u64 global; cvta.to.global.u64 global, {}; cp.async.bulk.prefetch.L2.global [global], {}; }}",
                in(reg64) source, in(reg32) bytes,
                options(nostack)
            );
        }
    })
}

/// Closes the copies to global memory that this thread has started since the last call into a group.
#[inline(always)]
pub fn commit() {
    on_device!(() {
        // SAFETY: no operands.
        unsafe { core::arch::asm!("cp.async.bulk.commit_group;", options(nostack)) }
    })
}

/// Waits until at most the newest `PENDING` of this thread's groups are still under way: the others' bytes are in global memory.
#[inline(always)]
pub fn wait<const PENDING: u32>() {
    on_device!(() {
        // SAFETY: no operands but a constant.
        unsafe { core::arch::asm!("cp.async.bulk.wait_group {};", const PENDING, options(nostack)) }
    })
}

/// Waits until all of this thread's groups but the newest `PENDING` have read their shared memory, which may then be written again.
#[inline(always)]
pub fn wait_read<const PENDING: u32>() {
    on_device!(() {
        // SAFETY: no operands but a constant.
        unsafe { core::arch::asm!("cp.async.bulk.wait_group.read {};", const PENDING, options(nostack)) }
    })
}
