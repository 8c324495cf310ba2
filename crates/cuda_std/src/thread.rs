//! Where a thread stands in its block and grid, and the block's barrier.

macro_rules! position {
    ($($(#[$doc:meta])* $name:ident => $intrinsic:ident;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name() -> u32 {
            #[cfg(target_arch = "nvptx64")]
            // SAFETY: reads a special register.
            unsafe {
                core::arch::nvptx::$intrinsic() as u32
            }
            #[cfg(not(target_arch = "nvptx64"))]
            crate::device_only()
        }
    )*};
}

position! {
    /// The thread's index within its block, along x.
    thread_idx_x => _thread_idx_x;
    /// The thread's index within its block, along y.
    thread_idx_y => _thread_idx_y;
    /// The thread's index within its block, along z.
    thread_idx_z => _thread_idx_z;
    /// Threads per block along x.
    block_dim_x => _block_dim_x;
    /// Threads per block along y.
    block_dim_y => _block_dim_y;
    /// Threads per block along z.
    block_dim_z => _block_dim_z;
    /// The block's index within the grid, along x.
    block_idx_x => _block_idx_x;
    /// The block's index within the grid, along y.
    block_idx_y => _block_idx_y;
    /// The block's index within the grid, along z.
    block_idx_z => _block_idx_z;
    /// Blocks in the grid along x.
    grid_dim_x => _grid_dim_x;
    /// Blocks in the grid along y.
    grid_dim_y => _grid_dim_y;
    /// Blocks in the grid along z.
    grid_dim_z => _grid_dim_z;
}

/// The thread's index within a one-dimensional grid.
#[inline(always)]
pub fn index_1d() -> u32 {
    block_idx_x() * block_dim_x() + thread_idx_x()
}

/// The thread's lane within its warp, 0 to 31 (for blocks whose x dimension is a multiple of 32).
#[inline(always)]
pub fn lane() -> u32 {
    thread_idx_x() % 32
}

/// The thread's warp within its one-dimensional block.
#[inline(always)]
pub fn warp() -> u32 {
    thread_idx_x() / 32
}

/// Waits until every thread of the block is here; shared and global writes before it are seen after it.
///
/// All threads of the block must reach the same call.
#[inline(always)]
pub fn sync_threads() {
    on_device!(() {
        // SAFETY: no operands.
        unsafe { core::arch::nvptx::_syncthreads() }
    })
}

/// Waits as [`sync_threads`] does, but for 128 threads of the block alone, a group of four warps: they meet at barrier `barrier`, 1 to 15,
/// and all reach the same call. Others may meet elsewhere meanwhile.
#[inline(always)]
pub fn sync_group(barrier: u32) {
    sync_groups::<128>(barrier);
}

/// Waits as [`sync_group`] does, for `THREADS` threads, a whole number of warps.
#[inline(always)]
pub fn sync_groups<const THREADS: u32>(barrier: u32) {
    on_device!((barrier) {
        // SAFETY: a barrier; the caller is collective. Why there is an intrinsic beside it, `count_threads` says.
        unsafe {
            crate::collective::warp_barrier(crate::warp::FULL);
            core::arch::asm!("bar.sync {}, {};", in(reg32) barrier, const THREADS, options(nostack));
        }
    })
}

/// Waits as [`sync_threads`] does, and says for how many of the block's threads `condition` is true.
///
/// All threads of the block must reach the same call.
#[inline(always)]
pub fn count_threads(condition: bool) -> u32 {
    on_device!((condition) {
        let count: u32;
        // SAFETY: barriers; the caller is collective. The assembly, of which LLVM does not know that it is convergent, stays beside an
        // intrinsic of which it does: the names of those that count have changed from one LLVM to the next.
        unsafe {
            crate::collective::warp_barrier(crate::warp::FULL);
            core::arch::asm!(
                "{{ .reg .pred mine; setp.ne.u32 mine, {1}, 0; bar.red.popc.u32 {0}, 0, mine; }}",
                out(reg32) count, in(reg32) u32::from(condition),
                options(nostack)
            );
        }
        count
    })
}
