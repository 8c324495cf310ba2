//! Atomic operations on global memory, which order what blocks do.
//!
//! A block publishes what it wrote to global memory as follows: all its threads meet at a barrier
//! ([`sync_threads`](crate::thread::sync_threads)), then one of them does an operation here, which releases what the barrier
//! brought together. The block whose operation finds that value acquires it, and after a barrier of its own all its threads
//! see what was written.

/// Adds 1 to the counter, or sets it to 0 where it is `last` (or more), and returns what it was: the `last + 1`-th to come gets `last` and
/// leaves the counter as it was before the first. Acquires and releases, for the whole device.
///
/// # Safety
/// - `counter` leads to a 4-byte aligned word of global memory that is accessed atomically only while the kernel runs.
#[inline(always)]
pub unsafe fn increment_wrapping(counter: *mut u32, last: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let before: u32;
        // SAFETY: passed on to the caller. With a memory clobber: nothing is moved across it.
        unsafe {
            core::arch::asm!(
                "{{ .reg .u64 global; cvta.to.global.u64 global, {1}; atom.acq_rel.gpu.global.inc.u32 {0}, [global], {2}; }}",
                out(reg32) before, in(reg64) counter, in(reg32) last,
                options(nostack)
            );
        }
        before
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        let _ = (counter, last);
        crate::device_only()
    }
}
