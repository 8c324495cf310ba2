//! Clusters: blocks that run at the same time, close together, and reach one another's shared memory.
//!
//! A launch says how many blocks make a cluster (`warp_test::Launch::cluster`, or `cuLaunchKernelEx`), at most 8 on every GPU that has
//! them; without a word each block is a cluster of its own. The grid must be made of whole clusters.
//!
//! [`map`] turns a handle on the block's own shared memory into one on the same array of another block. What one block writes
//! there the other sees behind [`sync`]; and a block must not end while others still use its memory, so a kernel that uses that of
//! others ends with a [`sync`].
//!
//! ```
//! # use cuda_std::{cluster, kernel, shared_array, thread};
//! shared_array! {
//!     total: [u32; 1];
//! }
//!
//! /// out[block] = the number of the next block of its cluster. Launch: blocks of one thread, in clusters.
//! ///
//! /// # Safety
//! /// - `out` holds a value for each block.
//! #[kernel]
//! pub unsafe fn neighbours(out: *mut u32) {
//!     let block = thread::block_idx_x();
//!     unsafe { total().set(0, block) };
//!     cluster::sync();
//!     let next = (cluster::rank() + 1) % cluster::size();
//!     unsafe { *out.add(block as usize) = cluster::map(total(), next).get(0) };
//!     cluster::sync();
//! }
//! # fn main() {}
//! ```
//!
//! From `sm_90` on.

use core::marker::PhantomData;

use crate::shared::Shared;

macro_rules! position {
    ($($(#[$doc:meta])* $name:ident => $register:literal;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name() -> u32 {
            on_device!(() {
                let value: u32;
                // SAFETY: reads a special register.
                unsafe {
                    core::arch::asm!(concat!("mov.u32 {}, ", $register, ";"), out(reg32) value, options(pure, nomem, nostack));
                }
                value
            })
        }
    )*};
}

position! {
    /// The block's index within its cluster, along x.
    block_idx_x => "%cluster_ctaid.x";
    /// The block's index within its cluster, along y.
    block_idx_y => "%cluster_ctaid.y";
    /// The block's index within its cluster, along z.
    block_idx_z => "%cluster_ctaid.z";
    /// Blocks per cluster along x.
    dim_x => "%cluster_nctaid.x";
    /// Blocks per cluster along y.
    dim_y => "%cluster_nctaid.y";
    /// Blocks per cluster along z.
    dim_z => "%cluster_nctaid.z";
    /// The cluster's index within the grid, along x.
    idx_x => "%clusterid.x";
    /// The cluster's index within the grid, along y.
    idx_y => "%clusterid.y";
    /// The cluster's index within the grid, along z.
    idx_z => "%clusterid.z";
    /// Clusters in the grid along x.
    grid_dim_x => "%nclusterid.x";
    /// Clusters in the grid along y.
    grid_dim_y => "%nclusterid.y";
    /// Clusters in the grid along z.
    grid_dim_z => "%nclusterid.z";
    /// The block's number within its cluster: x fastest, then y, then z.
    rank => "%cluster_ctarank";
    /// Blocks per cluster.
    size => "%cluster_nctarank";
}

/// Says that this thread is here, and goes on: what it wrote is seen behind the others' [`wait`]. Each thread of the cluster
/// arrives once, then waits, before it arrives again.
#[inline(always)]
pub fn arrive() {
    on_device!(() {
        // SAFETY: no operands.
        unsafe { crate::collective::cluster_arrive() }
    })
}

/// Waits until every thread of the cluster has arrived.
#[inline(always)]
pub fn wait() {
    on_device!(() {
        // SAFETY: no operands.
        unsafe { crate::collective::cluster_wait() }
    })
}

/// Both: waits until every thread of the cluster is here; shared and global writes before it are seen after it.
#[inline(always)]
pub fn sync() {
    arrive();
    wait();
}

/// An array in the shared memory of a block of the cluster, [`map`]ped.
pub struct Remote<T> {
    address: u32,
    element: PhantomData<*mut T>,
}

impl<T> Clone for Remote<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Remote<T> {}

/// The array in the block with number `rank` of this cluster, which must be below [`size`]; the block's own among them.
#[inline(always)]
pub fn map<T>(array: Shared<T>, rank: u32) -> Remote<T> {
    Remote { address: map_address(array.element_address(0), rank), element: PhantomData }
}

#[inline(always)]
pub(crate) fn map_address(address: u32, rank: u32) -> u32 {
    on_device!((address, rank) {
        let mapped: u32;
        // SAFETY: computes an address.
        unsafe {
            core::arch::asm!(
                "mapa.shared::cluster.u32 {}, {}, {};",
                out(reg32) mapped, in(reg32) address, in(reg32) rank,
                options(pure, nomem, nostack)
            );
        }
        mapped
    })
}

impl<T> Remote<T> {
    #[inline(always)]
    pub(crate) fn element_address(self, index: u32) -> u32 {
        self.address + index * size_of::<T>() as u32
    }
}

macro_rules! access {
    ($($element:ty: $suffix:literal $register:ident;)*) => {$(
        impl Remote<$element> {
            /// Element `index`.
            ///
            /// # Safety
            /// - `index` is within the array of a block that has not ended, and the cluster's barrier separates this from others'
            ///   writes to it.
            #[inline(always)]
            pub unsafe fn get(self, index: u32) -> $element {
                on_device!((self.element_address(index)) {
                    let value: $element;
                    // SAFETY: within the array by this function's contract.
                    unsafe {
                        core::arch::asm!(
                            concat!("ld.shared::cluster.", $suffix, " {}, [{}];"),
                            out($register) value, in(reg32) self.element_address(index),
                            options(readonly, nostack)
                        );
                    }
                    value
                })
            }

            /// Writes element `index`.
            ///
            /// # Safety
            /// - As for `get`, of others' accesses of every kind.
            #[inline(always)]
            pub unsafe fn set(self, index: u32, value: $element) {
                on_device!((self.element_address(index), value) {
                    // SAFETY: within the array by this function's contract.
                    unsafe {
                        core::arch::asm!(
                            concat!("st.shared::cluster.", $suffix, " [{}], {};"),
                            in(reg32) self.element_address(index), in($register) value,
                            options(nostack)
                        );
                    }
                })
            }
        }
    )*};
}

access! {
    f32: "b32" reg32;
    u32: "b32" reg32;
    i32: "b32" reg32;
    u64: "b64" reg64;
    f64: "b64" reg64;
}

macro_rules! atomics {
    ($($element:ty: $($(#[$doc:meta])* $name:ident)* => $suffix:literal;)*) => {$(
        impl Remote<$element> {$(
            $(#[$doc])*
            ///
            /// Returns what was there. Others may do so at the same time; in which order is not said.
            ///
            /// # Safety
            /// - As for `get`, of others' accesses that are not atomic.
            #[inline(always)]
            pub unsafe fn $name(self, index: u32, value: $element) -> $element {
                on_device!((self.element_address(index), value) {
                    let before: $element;
                    // SAFETY: within the array by this function's contract.
                    unsafe {
                        core::arch::asm!(
                            concat!("atom.relaxed.cluster.shared::cluster.", stringify!($name), ".", $suffix, " {}, [{}], {};"),
                            out(reg32) before, in(reg32) self.element_address(index), in(reg32) value,
                            options(nostack)
                        );
                    }
                    before
                })
            }
        )*}
    )*};
}

atomics! {
    u32:
        /// Adds to element `index`.
        add
        /// Leaves the smaller in element `index`.
        min
        /// Leaves the larger in element `index`.
        max
        => "u32";
    i32:
        /// Adds to element `index`.
        add
        /// Leaves the smaller in element `index`.
        min
        /// Leaves the larger in element `index`.
        max
        => "s32";
    f32:
        /// Adds to element `index`, rounding to nearest.
        add
        => "f32";
}
