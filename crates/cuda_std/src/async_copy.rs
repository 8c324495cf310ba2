//! Copies from global to shared memory that run while the thread goes on (`cp.async`).
//!
//! A thread issues copies, closes them into a *group* with [`commit`], and later waits for all of its groups but the
//! newest few with [`wait`]. What other threads of the block copied is seen behind a barrier after their wait.

use crate::shared::Shared;

/// Starts copying 16 bytes to `index · size_of::<T>()` bytes into a shared array; past the L1 cache.
///
/// Where `present` is false nothing is read and the 16 bytes become zero.
///
/// # Safety
/// - The 16 bytes at `index` are within the array and 16-byte aligned; a barrier separates this from other threads'
///   accesses to them, and [`wait`] and a barrier separate it from reads.
/// - `source` is 16-byte aligned; where `present`, its 16 bytes are in global memory.
#[inline(always)]
pub unsafe fn copy_16<T>(target: Shared<T>, index: u32, source: *const T, present: bool) {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: passed on to the caller. Without `nomem`: it writes shared memory.
    unsafe {
        core::arch::asm!(
            "{{ .reg .u64 global; cvta.to.global.u64 global, {}; cp.async.cg.shared.global [{}], [global], 16, {}; }}",
            in(reg64) source, in(reg32) target.element_address(index), in(reg32) if present { 16 } else { 0 },
            options(nostack)
        );
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        let _ = (target.element_address(index), source, present);
        crate::device_only()
    }
}

/// Closes the copies that this thread has started since the last call into a group.
#[inline(always)]
pub fn commit() {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: no operands.
    unsafe {
        core::arch::asm!("cp.async.commit_group;", options(nostack));
    }
    #[cfg(not(target_arch = "nvptx64"))]
    crate::device_only()
}

/// Waits until at most the newest `PENDING` of this thread's groups are still under way.
#[inline(always)]
pub fn wait<const PENDING: u32>() {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: no operands but a constant.
    unsafe {
        core::arch::asm!("cp.async.wait_group {};", const PENDING, options(nostack));
    }
    #[cfg(not(target_arch = "nvptx64"))]
    crate::device_only()
}
