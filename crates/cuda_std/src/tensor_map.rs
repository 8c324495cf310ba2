//! Copies of a tensor's tiles by a tensor map (`cp.async.bulk.tensor`, TMA): one thread names a tile by the coordinates where it begins,
//! and the hardware finds its rows, fills in what lies outside of the tensor, and swizzles.
//!
//! The host describes the tensor once: its element type, sizes and strides, and the tile that one copy moves
//! (`warp_test::Buffer::tensor_map`, or the driver's `cuTensorMapEncodeTiled` itself). A kernel takes the map as a parameter, by value
//! and by the name `TensorMap`; in its PTX that is 128 bytes at a multiple of 64, which stay where they are, as CUDA's
//! `const __grid_constant__ CUtensorMap` does. Or the map lies in global memory: [`TensorMap::at`].
//!
//! ```
//! # use cuda_std::{bulk, fence, kernel, mbarrier::Barrier, shared_array, tensor_map::TensorMap, thread};
//! shared_array! {
//!     tile: [f32; 8 * 32], align = 128;
//!     arrived: [u64; 1];
//! }
//!
//! /// Copies the tile of 8 rows of 32 that begins at column `x`, row `y`. Launch: one block.
//! ///
//! /// # Safety
//! /// - Both maps are of matrices of `f32`, with tiles of `[8][32]`.
//! #[kernel]
//! pub unsafe fn copy_tile(from: TensorMap, to: TensorMap, x: i32, y: i32) {
//!     // SAFETY: the one element, initialised below before anybody else uses it.
//!     let barrier = unsafe { Barrier::at(arrived(), 0) };
//!     if thread::thread_idx_x() == 0 {
//!         barrier.init(1);
//!         fence::barrier_init();
//!         barrier.arrive_expecting(8 * 32 * 4);
//!         // SAFETY: the array holds a tile.
//!         unsafe { from.load(tile(), 0, [x, y], barrier) };
//!         barrier.wait(0);
//!         fence::proxy_async();
//!         // SAFETY: as above; the tile has come.
//!         unsafe { to.store([x, y], tile(), 0) };
//!         bulk::commit();
//!         bulk::wait::<0>();
//!     }
//! }
//! # fn main() {}
//! ```
//!
//! | | |
//! |---|---|
//! | coordinates | elements, innermost dimension first, one to five; negative ones and those past the end lie outside of the tensor |
//! | outside | loaded as zeros (or NaN, where the map says so), not stored |
//! | bytes that the barrier counts | the whole tile's, whatever lies outside: sizes of the tile by the element's bytes |
//! | in shared memory | rows of the tile one after another, innermost dimension first, from a multiple of 128 bytes on |
//! | [`Swizzle`] | pieces of 16 bytes change places; [`Swizzle::byte`] says where a byte lies, counted from a multiple of 1024 |
//! | steps | along each dimension but the innermost every how many elements one is taken; a tile then has so many fewer |
//!
//! Loads are waited for, and stores grouped and fenced, as [`bulk`](crate::bulk) copies are. From `sm_90` on.
//!
//! What is named otherwise is no map:
//!
//! ```compile_fail
//! # use cuda_std::kernel;
//! use cuda_std::tensor_map::TensorMap as Map;
//! #[kernel]
//! pub unsafe fn takes_another_name(map: Map) {}
//! # fn main() {}
//! ```

use crate::{mbarrier::Barrier, shared::Shared};

pub use crate::wgmma::Swizzle;

/// The 128 bytes that describe a tensor and its tiles, CUDA's `CUtensorMap`. What they hold is the driver's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Descriptor(pub [u64; 16]);

// SAFETY: sixteen words and nothing between or behind them; any bits are words.
#[cfg(not(target_arch = "nvptx64"))]
unsafe impl bytemuck::Zeroable for Descriptor {}
// SAFETY: as above.
#[cfg(not(target_arch = "nvptx64"))]
unsafe impl bytemuck::Pod for Descriptor {}

/// A tensor map, in a kernel: where its [`Descriptor`] is.
#[derive(Clone, Copy)]
pub struct TensorMap {
    address: u64,
}

/// Where a tile begins: an index along each of the tensor's dimensions, innermost first. The innermost is a multiple of 16 bytes; only of what
/// is loaded may it, or another, be negative. (Measured on an H200, which takes anything else for an illegal instruction; softcuda has a fault.)
///
/// Where a tensor's rows are no multiples of 16 bytes, what is stored of a tile that goes beyond a row's end fills the last 16 bytes: seen on an H200 with
/// rows of 40 bytes. softcuda leaves alone what is behind the row.
pub trait Coordinates: rank::Issue {}

impl TensorMap {
    /// The map whose descriptor lies in global memory, written there by the host before the launch.
    ///
    /// # Safety
    /// - The descriptor is one that the driver made, of a tensor that is there.
    #[inline(always)]
    pub unsafe fn at(descriptor: *const Descriptor) -> TensorMap {
        TensorMap { address: descriptor as u64 }
    }

    /// Used by `#[kernel]`: the map at the address of a parameter.
    ///
    /// # Safety
    /// - As for [`TensorMap::at`].
    #[doc(hidden)]
    #[inline(always)]
    pub unsafe fn at_parameter(address: u64) -> TensorMap {
        TensorMap { address }
    }

    /// Starts to fetch the descriptor itself, which the first copy would wait for.
    #[inline(always)]
    pub fn prefetch(self) {
        on_device!((self.address) {
            // SAFETY: reads nothing that the program sees.
            unsafe { core::arch::asm!("prefetch.tensormap [{}];", in(reg64) self.address, options(nostack)) }
        })
    }

    /// Starts to bring a tile into the L2 cache.
    #[inline(always)]
    pub fn prefetch_tile(self, at: impl Coordinates) {
        // SAFETY: reads nothing that the program sees.
        unsafe { at.prefetch(self.address) }
    }

    /// Starts to copy the tile that begins `at` these coordinates to a shared array, from element `index` on; the barrier counts its
    /// bytes as they come.
    ///
    /// # Safety
    /// - The tensor has as many dimensions as there are coordinates.
    /// - The array holds a tile from `index` on, which is at a multiple of 128 bytes.
    /// - A barrier separates this from other accesses to the array's part, and a wait for the barrier's phase from reads of it.
    #[inline(always)]
    pub unsafe fn load<T>(self, target: Shared<T>, index: u32, at: impl Coordinates, barrier: Barrier) {
        // SAFETY: passed on to the caller.
        unsafe { at.load(self.address, target.element_address(index), barrier.address()) }
    }

    /// As [`TensorMap::load`], into the same place of every block of the cluster whose bit in `blocks` is set, by number; the same
    /// barrier of each of them counts the bytes that it gets. Memory is read once.
    ///
    /// # Safety
    /// - As for [`TensorMap::load`], in each of the blocks, none of which has ended.
    #[inline(always)]
    pub unsafe fn load_to_blocks<T>(
        self,
        target: Shared<T>,
        index: u32,
        at: impl Coordinates,
        barrier: Barrier,
        blocks: u16,
    ) {
        // SAFETY: passed on to the caller.
        unsafe { at.multicast(self.address, target.element_address(index), barrier.address(), blocks) }
    }

    /// Starts to copy a tile from a shared array, from element `index` on, to where it begins `at` these coordinates.
    ///
    /// # Safety
    /// - As for [`TensorMap::load`], and nobody else accesses the tile's part of the tensor.
    /// - Writes to the array are fenced ([`fence::proxy_async`](crate::fence::proxy_async)) and a barrier separates them from this;
    ///   [`bulk::commit`](crate::bulk::commit), [`bulk::wait_read`](crate::bulk::wait_read) and a barrier separate this from what is
    ///   written there next.
    #[inline(always)]
    pub unsafe fn store<T>(self, at: impl Coordinates, source: Shared<T>, index: u32) {
        // SAFETY: passed on to the caller.
        unsafe { at.store(self.address, source.element_address(index)) }
    }

    /// As [`TensorMap::store`], adding to the elements that are there: each addition is atomic, in which order is not said.
    ///
    /// # Safety
    /// - As for [`TensorMap::store`]; the tensor is changed atomically only while others may.
    #[inline(always)]
    pub unsafe fn add<T>(self, at: impl Coordinates, source: Shared<T>, index: u32) {
        // SAFETY: passed on to the caller.
        unsafe { at.add(self.address, source.element_address(index)) }
    }
}

/// The instructions, of which there is one for each number of dimensions.
mod rank {
    pub trait Issue: Copy {
        unsafe fn load(self, map: u64, target: u32, barrier: u32);
        unsafe fn multicast(self, map: u64, target: u32, barrier: u32, blocks: u16);
        unsafe fn store(self, map: u64, source: u32);
        unsafe fn add(self, map: u64, source: u32);
        unsafe fn prefetch(self, map: u64);
    }
}

macro_rules! ranks {
    ($($rank:literal, $dimension:literal, $list:literal, [$($name:ident $index:literal),*];)*) => {$(
        impl Coordinates for [i32; $rank] {}

        impl rank::Issue for [i32; $rank] {
            #[inline(always)]
            unsafe fn load(self, map: u64, target: u32, barrier: u32) {
                on_device!((self, map, target, barrier) {
                    // SAFETY: passed on to the caller.
                    unsafe {
                        core::arch::asm!(
                            concat!(
                                "cp.async.bulk.tensor.", $dimension,
                                ".shared::cluster.global.tile.mbarrier::complete_tx::bytes [{target}], [{map}, ", $list,
                                "], [{barrier}];"
                            ),
                            target = in(reg32) target, map = in(reg64) map, barrier = in(reg32) barrier,
                            $($name = in(reg32) self[$index],)*
                            options(nostack)
                        );
                    }
                })
            }

            #[inline(always)]
            unsafe fn multicast(self, map: u64, target: u32, barrier: u32, blocks: u16) {
                on_device!((self, map, target, barrier, blocks) {
                    // SAFETY: passed on to the caller.
                    unsafe {
                        core::arch::asm!(
                            concat!(
                                "cp.async.bulk.tensor.", $dimension,
                                ".shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster \
                                 [{target}], [{map}, ", $list, "], [{barrier}], {blocks};"
                            ),
                            target = in(reg32) target, map = in(reg64) map, barrier = in(reg32) barrier,
                            blocks = in(reg16) blocks,
                            $($name = in(reg32) self[$index],)*
                            options(nostack)
                        );
                    }
                })
            }

            #[inline(always)]
            unsafe fn store(self, map: u64, source: u32) {
                on_device!((self, map, source) {
                    // SAFETY: passed on to the caller.
                    unsafe {
                        core::arch::asm!(
                            concat!(
                                "cp.async.bulk.tensor.", $dimension, ".global.shared::cta.tile.bulk_group [{map}, ", $list,
                                "], [{source}];"
                            ),
                            map = in(reg64) map, source = in(reg32) source,
                            $($name = in(reg32) self[$index],)*
                            options(nostack)
                        );
                    }
                })
            }

            #[inline(always)]
            unsafe fn add(self, map: u64, source: u32) {
                on_device!((self, map, source) {
                    // SAFETY: passed on to the caller.
                    unsafe {
                        core::arch::asm!(
                            concat!(
                                "cp.reduce.async.bulk.tensor.", $dimension,
                                ".global.shared::cta.add.tile.bulk_group [{map}, ", $list, "], [{source}];"
                            ),
                            map = in(reg64) map, source = in(reg32) source,
                            $($name = in(reg32) self[$index],)*
                            options(nostack)
                        );
                    }
                })
            }

            #[inline(always)]
            unsafe fn prefetch(self, map: u64) {
                on_device!((self, map) {
                    // SAFETY: reads nothing that the program sees.
                    unsafe {
                        core::arch::asm!(
                            concat!(
                                "cp.async.bulk.prefetch.tensor.", $dimension, ".L2.global.tile [{map}, ", $list, "];"
                            ),
                            map = in(reg64) map,
                            $($name = in(reg32) self[$index],)*
                            options(nostack)
                        );
                    }
                })
            }
        }
    )*};
}

ranks! {
    1, "1d", "{{{a}}}", [a 0];
    2, "2d", "{{{a}, {b}}}", [a 0, b 1];
    3, "3d", "{{{a}, {b}, {c}}}", [a 0, b 1, c 2];
    4, "4d", "{{{a}, {b}, {c}, {d}}}", [a 0, b 1, c 2, d 3];
    5, "5d", "{{{a}, {b}, {c}, {d}, {e}}}", [a 0, b 1, c 2, d 3, e 4];
}
