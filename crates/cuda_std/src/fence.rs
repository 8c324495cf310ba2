//! Fences: what a thread did to memory before one is seen before what it does after it.
//!
//! A fence orders; it does not wait for anybody. Threads of a block are ordered by [`sync_threads`](crate::thread::sync_threads),
//! which needs none of these.

macro_rules! fences {
    ($($(#[$doc:meta])* $name:ident => $instruction:literal;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name() {
            on_device!(() {
                // SAFETY: no operands; being asm with a memory clobber, nothing is moved across it.
                unsafe { core::arch::asm!($instruction, options(nostack)) }
            })
        }
    )*};
}

fences! {
    /// For the threads of the block.
    block => "fence.acq_rel.cta;";
    /// For all threads of the device (CUDA's `__threadfence`).
    device => "fence.acq_rel.gpu;";
    /// For the whole machine, the host among it.
    system => "fence.acq_rel.sys;";
    /// For the threads of the cluster. From `sm_90` on.
    #[cfg(any(not(target_arch = "nvptx64"), cuda_arch_at_least = "90"))]
    cluster => "fence.acq_rel.cluster;";
    /// What this thread wrote is seen by the copies and products that go past the ordinary way to memory, the *async proxy*:
    /// [`bulk`](crate::bulk) copies and [`wgmma`](crate::wgmma). After the writes, before the barrier behind which they are started;
    /// also between ordinary reads of shared memory and a bulk copy over it. From `sm_90` on.
    #[cfg(any(not(target_arch = "nvptx64"), cuda_arch_at_least = "90"))]
    proxy_async => "fence.proxy.async;";
    /// As [`proxy_async`], for what was written to the block's shared memory alone: far cheaper, for it does not wait for the thread's other
    /// accesses. From `sm_90` on.
    #[cfg(any(not(target_arch = "nvptx64"), cuda_arch_at_least = "90"))]
    proxy_async_shared => "fence.proxy.async.shared::cta;";
    /// The [barriers](crate::mbarrier) that this thread initialised are seen by the other blocks of the cluster and by bulk copies.
    /// From `sm_90` on.
    #[cfg(any(not(target_arch = "nvptx64"), cuda_arch_at_least = "90"))]
    barrier_init => "fence.mbarrier_init.release.cluster;";
}
