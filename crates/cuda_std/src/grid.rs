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
