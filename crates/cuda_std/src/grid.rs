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

use crate::thread;

/// One of a grid's blocks. Device code that takes its place from here, and not from the special registers, serves a launch of
/// its own and a part of a larger one alike.
#[derive(Clone, Copy)]
pub struct Block {
    /// The block's index along x.
    pub x: u32,
    /// Along y.
    pub y: u32,
    /// Along z.
    pub z: u32,
    /// Blocks along x.
    pub n_x: u32,
    /// Blocks along y.
    pub n_y: u32,
}

impl Block {
    /// This block, in the grid that was launched.
    #[inline(always)]
    pub fn of_launch() -> Block {
        Block {
            x: thread::block_idx_x(),
            y: thread::block_idx_y(),
            z: thread::block_idx_z(),
            n_x: thread::grid_dim_x(),
            n_y: thread::grid_dim_y(),
        }
    }
}

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

/// Both: the next kernel of the stream may start, and this one goes on when those before it have ended.
#[inline(always)]
pub fn launch_dependents_and_wait() {
    launch_dependents();
    wait();
}
