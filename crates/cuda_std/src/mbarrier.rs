//! Barriers in shared memory that count arrivals and bytes (`mbarrier`).
//!
//! A barrier is an 8-byte element of shared memory. It counts down the arrivals that [`Barrier::init`] was told of and the bytes that
//! somebody [expects](Barrier::arrive_expecting) from [bulk copies](crate::bulk); when both are zero its *phase* is over and the next
//! begins by itself, with as many arrivals again. Phases are told apart by their parity: the first one is 0, the next one 1, then 0.
//! A thread that [waits](Barrier::wait) says which parity it waits for the end of, and so keeps a bit of its own that it flips after
//! each wait.
//!
//! ```
//! # use cuda_std::{kernel, mbarrier::Barrier, shared_array, thread};
//! shared_array! {
//!     ready: [u64; 1];
//!     word: [u32; 1];
//! }
//!
//! /// out[i] = n for each thread: the last warp hands it to the others, which meanwhile could do something else.
//! ///
//! /// # Safety
//! /// - `out` holds a value for each thread of the one block.
//! #[kernel]
//! pub unsafe fn hand_over(out: *mut u32, n: u32) {
//!     // SAFETY: the one element, initialised below before anybody else uses it.
//!     let barrier = unsafe { Barrier::at(ready(), 0) };
//!     let thread = thread::thread_idx_x();
//!     if thread == 0 {
//!         barrier.init(1);
//!     }
//!     thread::sync_threads();
//!     if thread == thread::block_dim_x() - 1 {
//!         unsafe { word().set(0, n) };
//!         barrier.arrive();
//!     }
//!     barrier.wait(0);
//!     unsafe { *out.add(thread as usize) = word().get(0) };
//! }
//! # fn main() {}
//! ```
//!
//! From `sm_80` on, except where it says `sm_90`.

use crate::shared::Shared;

/// A barrier in the block's shared memory. Copies of the handle are the same barrier.
#[derive(Clone, Copy)]
pub struct Barrier {
    address: u32,
}

impl Barrier {
    /// The barrier in element `index` of an array.
    ///
    /// # Safety
    /// - `index` is within the array. One thread calls [`Barrier::init`] before any other function here, with a barrier of the block
    ///   between, and nothing else is done with the element until [`Barrier::invalidate`].
    #[inline(always)]
    pub unsafe fn at(array: Shared<u64>, index: u32) -> Barrier {
        Barrier { address: array.element_address(index) }
    }

    #[cfg(any(not(target_arch = "nvptx64"), cuda_arch_at_least = "90"))]
    #[inline(always)]
    pub(crate) fn address(self) -> u32 {
        self.address
    }

    /// Begins phase 0, which `arrivals` arrivals end, 1 to 2^20 − 1. Where bulk copies or other blocks of a cluster use the barrier,
    /// [`fence::barrier_init`](crate::fence) comes after it.
    #[inline(always)]
    pub fn init(self, arrivals: u32) {
        on_device!((self.address, arrivals) {
            // SAFETY: the element is the barrier's, by `at`.
            unsafe {
                core::arch::asm!(
                    "mbarrier.init.shared.b64 [{}], {};",
                    in(reg32) self.address, in(reg32) arrivals,
                    options(nostack)
                );
            }
        })
    }

    /// Ends the barrier: its element is ordinary memory again.
    #[inline(always)]
    pub fn invalidate(self) {
        on_device!((self.address) {
            // SAFETY: the element is the barrier's, by `at`.
            unsafe { core::arch::asm!("mbarrier.inval.shared.b64 [{}];", in(reg32) self.address, options(nostack)) }
        })
    }

    /// Counts one arrival, and does not wait. What the thread wrote before is seen by those who wait for the phase's end.
    #[inline(always)]
    pub fn arrive(self) {
        on_device!((self.address) {
            // SAFETY: the element is the barrier's, by `at`.
            unsafe {
                core::arch::asm!(
                    "{{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [{}]; }}",
                    in(reg32) self.address,
                    options(nostack)
                );
            }
        })
    }

    /// Whether the phase with this parity is over; does not wait.
    #[inline(always)]
    pub fn test(self, parity: u32) -> bool {
        on_device!((self.address, parity) {
            let over: u32;
            // SAFETY: the element is the barrier's, by `at`.
            unsafe {
                core::arch::asm!(
                    "{{ .reg .pred over; mbarrier.test_wait.parity.shared.b64 over, [{1}], {2}; selp.u32 {0}, 1, 0, over; }}",
                    out(reg32) over, in(reg32) self.address, in(reg32) parity,
                    options(nostack)
                );
            }
            over != 0
        })
    }

    /// Waits until the phase with this parity is over. What was written before the arrivals, and what the copies brought, is seen
    /// after it.
    #[inline(always)]
    pub fn wait(self, parity: u32) {
        #[cfg(any(not(target_arch = "nvptx64"), cuda_arch_at_least = "90"))]
        while !self.try_wait(parity) {}
        #[cfg(all(target_arch = "nvptx64", not(cuda_arch_at_least = "90")))]
        while !self.test(parity) {}
    }
}

/// From `sm_90` on.
#[cfg(any(not(target_arch = "nvptx64"), cuda_arch_at_least = "90"))]
impl Barrier {
    /// Whether the phase with this parity is over; waits a while for it, for as long as the hardware likes.
    #[inline(always)]
    pub fn try_wait(self, parity: u32) -> bool {
        on_device!((self.address, parity) {
            let over: u32;
            // SAFETY: the element is the barrier's, by `at`.
            unsafe {
                core::arch::asm!(
                    "{{ .reg .pred over; mbarrier.try_wait.parity.shared.b64 over, [{1}], {2}; selp.u32 {0}, 1, 0, over; }}",
                    out(reg32) over, in(reg32) self.address, in(reg32) parity,
                    options(nostack)
                );
            }
            over != 0
        })
    }

    /// As [`Barrier::wait`], where other blocks of the cluster arrive: what they wrote before is seen too.
    #[inline(always)]
    pub fn wait_for_cluster(self, parity: u32) {
        on_device!((self.address, parity) {
            let mut over = 0u32;
            while over == 0 {
                // SAFETY: the element is the barrier's, by `at`.
                unsafe {
                    core::arch::asm!(
                        "{{ .reg .pred over; mbarrier.try_wait.parity.acquire.cluster.shared.b64 over, [{1}], {2}; \
                         selp.u32 {0}, 1, 0, over; }}",
                        out(reg32) over, in(reg32) self.address, in(reg32) parity,
                        options(nostack)
                    );
                }
            }
        })
    }

    /// Lets the phase wait for `bytes` bytes more, and counts one arrival: what the thread that starts bulk copies does first.
    #[inline(always)]
    pub fn arrive_expecting(self, bytes: u32) {
        on_device!((self.address, bytes) {
            // SAFETY: the element is the barrier's, by `at`.
            unsafe {
                core::arch::asm!(
                    "{{ .reg .b64 state; mbarrier.arrive.expect_tx.shared.b64 state, [{}], {}; }}",
                    in(reg32) self.address, in(reg32) bytes,
                    options(nostack)
                );
            }
        })
    }

    /// Lets the phase wait for `bytes` bytes more; no arrival.
    #[inline(always)]
    pub fn expect(self, bytes: u32) {
        on_device!((self.address, bytes) {
            // SAFETY: the element is the barrier's, by `at`.
            unsafe {
                core::arch::asm!(
                    "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [{}], {};",
                    in(reg32) self.address, in(reg32) bytes,
                    options(nostack)
                );
            }
        })
    }

    /// Counts an arrival at the same barrier of the block with number `rank` of the cluster. That block must not have ended.
    #[inline(always)]
    pub fn arrive_at(self, rank: u32) {
        on_device!((self.address, rank) {
            // SAFETY: the element is that block's barrier, by `at`.
            unsafe {
                core::arch::asm!(
                    "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [{}];",
                    in(reg32) crate::cluster::map_address(self.address, rank),
                    options(nostack)
                );
            }
        })
    }
}
