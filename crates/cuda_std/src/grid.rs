//! The grid as a link of a chain: programmatic dependent launch.
//!
//! A kernel launched to start early (`cuLaunchKernelEx` with programmatic stream serialization) may run while the kernel
//! before it still does. The two are ordered by the pair of calls here: the earlier kernel's [`launch_dependents`] lets
//! the later one start, the later one's [`wait`] returns when the earlier grid has ended and its writes are to be seen.
//! What a kernel does before its `wait` must touch nothing that an earlier kernel of the chain writes: weights may be
//! fetched, activations not.
//!
//! Every kernel of a chain must `wait`, also one that needs nothing of its predecessor: otherwise its own end, which its
//! successor waits for, says nothing about the grids before it.
//!
//! Both are instructions of compute capability 9.0. In an image for older GPUs (`sm_80`), where a launch never starts
//! early, they are nothing.

/// Lets the next kernel of the stream start, as soon as every block of this grid has called this or ended.
#[inline(always)]
pub fn launch_dependents() {
    #[cfg(all(target_arch = "nvptx64", cuda_arch_at_least = "90"))]
    // SAFETY: the instruction has no operands; being asm with a memory clobber, nothing is moved across it.
    unsafe {
        core::arch::asm!("griddepcontrol.launch_dependents;", options(nostack));
    }
    #[cfg(not(target_arch = "nvptx64"))]
    crate::device_only()
}

/// Waits until the grids that this one was launched after have ended and what they wrote can be seen.
#[inline(always)]
pub fn wait() {
    #[cfg(all(target_arch = "nvptx64", cuda_arch_at_least = "90"))]
    // SAFETY: as above: in particular no load of what the earlier kernel writes is moved before it.
    unsafe {
        core::arch::asm!("griddepcontrol.wait;", options(nostack));
    }
    #[cfg(not(target_arch = "nvptx64"))]
    crate::device_only()
}

/// Both, for a kernel that has nothing to do before it waits.
#[inline(always)]
pub fn launch_dependents_and_wait() {
    launch_dependents();
    wait();
}

/// Waits until every thread of the grid is here, in a kernel launched cooperatively; writes to global memory before it are seen
/// after it. All threads must reach the same call. In another launch it panics.
#[inline(always)]
pub fn sync() {
    #[cfg(target_arch = "nvptx64")]
    {
        use crate::thread::*;
        // The driver leaves the address of a barrier for the grid in two registers; its count is in the second word.
        let (low, high): (u32, u32);
        // SAFETY: reads special registers.
        unsafe {
            core::arch::asm!(
                "mov.u32 {}, %envreg2; mov.u32 {}, %envreg1;",
                out(reg32) low, out(reg32) high,
                options(nomem, nostack)
            );
        }
        let workspace = u64::from(low) | u64::from(high) << 32;
        assert!(workspace != 0, "grid::sync in a kernel that was not launched cooperatively");
        sync_threads();
        if thread_idx_x() | thread_idx_y() | thread_idx_z() == 0 {
            let first = block_idx_x() | block_idx_y() | block_idx_z() == 0;
            // All together add 2^31, so that the uppermost bit changes when the last block has come.
            let blocks = grid_dim_x() * grid_dim_y() * grid_dim_z();
            let arrival = if first { (1u32 << 31).wrapping_sub(blocks - 1) } else { 1 };
            let (before, mut now): (u32, u32);
            // SAFETY: the barrier's count is a word of global memory, which blocks change atomically only.
            unsafe {
                core::arch::asm!(
                    "atom.add.acq_rel.gpu.u32 {}, [{}], {};",
                    out(reg32) before, in(reg64) workspace + 4, in(reg32) arrival,
                    options(nostack)
                );
            }
            loop {
                // SAFETY: as above.
                unsafe {
                    core::arch::asm!(
                        "ld.acquire.gpu.u32 {}, [{}];",
                        out(reg32) now, in(reg64) workspace + 4,
                        options(nostack)
                    );
                }
                if (now ^ before) >> 31 != 0 {
                    break;
                }
            }
        }
        sync_threads();
    }
    #[cfg(not(target_arch = "nvptx64"))]
    crate::device_only()
}
