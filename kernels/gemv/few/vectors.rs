//! The vectors of a block, in its shared memory.

use cuda_std::{
    async_copy,
    shared::{self, Shared},
    thread,
};

use super::{CHUNK, THREADS};

/// Where vectors lie in a block's shared memory: the integers of one behind those of the other, then the scales likewise. A vector's are 16 bytes
/// more than a multiple of the banks' 128, or of half that, so that what neighbouring lanes read lies in different banks.
#[derive(Clone, Copy)]
pub struct Vectors {
    /// Where they begin.
    pub start: u32,
    /// Vectors, an even number.
    pub n: u32,
    /// Chunks of a vector with those that make them fours, which are zeros.
    pub chunks: u32,
}

impl Vectors {
    /// Of so many vectors of `n_in` values.
    pub const fn new(start: u32, n: u32, n_in: u32) -> Vectors {
        Vectors { start, n: n.next_multiple_of(2), chunks: (n_in / CHUNK).next_multiple_of(4) }
    }

    /// Bytes from a vector's integers to the next one's.
    pub const fn stride(self) -> u32 {
        CHUNK * self.chunks + 16
    }

    /// Bytes from a vector's scales to the next one's.
    pub const fn scale_stride(self) -> u32 {
        16 * self.chunks + 16
    }

    /// Where they end: there are 32 bytes of zeros.
    pub const fn zeros(self) -> u32 {
        self.start + self.n * (self.stride() + self.scale_stride())
    }

    /// Where these end.
    pub const fn end(self) -> u32 {
        self.zeros() + CHUNK
    }

    /// Where a vector's integers begin.
    #[inline(always)]
    pub fn integers(self, vector: u32) -> u32 {
        self.start + vector * self.stride()
    }

    /// Where its scales begin.
    #[inline(always)]
    pub fn scales(self, vector: u32) -> u32 {
        self.start + self.n * self.stride() + vector * self.scale_stride()
    }

    /// Starts copying `n` vectors from `x` on, `x_stride` words apart, each of `n_in` values in the 8-bit form; and the last of an odd number twice.
    /// Collective over the block.
    ///
    /// # Safety
    /// - They are there, 16-byte aligned, and the block has the shared memory.
    #[inline(always)]
    pub unsafe fn copy(self, x: *const u32, n: u32, x_stride: u32, n_in: u32) {
        let memory: Shared<u32> = shared::dynamic(0);
        let (integers, scales) = (n_in / 16, n_in / 32);
        let (all_integers, all) = (2 * self.chunks, 3 * self.chunks);
        let mut vector = 0;
        while vector < self.n {
            let from = unsafe { x.add((if vector < n { vector } else { n - 1 } * x_stride) as usize) };
            let mut piece = thread::thread_idx_x();
            while piece < all {
                let is_integer = piece < all_integers;
                let (at, index, n, before) = if is_integer {
                    (self.integers(vector), piece, integers, 0)
                } else {
                    (self.scales(vector), piece - all_integers, scales, integers)
                };
                let there = index < n;
                let source = if there { before + index } else { 0 };
                unsafe { async_copy::copy_16(memory, (at + 16 * index) / 4, from.add(4 * source as usize), there) }
                piece += THREADS;
            }
            vector += 1;
        }
        if thread::thread_idx_x() < 2 {
            unsafe { async_copy::copy_16(memory, self.zeros() / 4 + 4 * thread::thread_idx_x(), x, false) }
        }
    }
}

/// Bytes of dynamic shared memory for so many vectors of `n_in` values, as 8-bit or as 16-bit integers.
pub const fn shared_bytes(n_vectors: u32, n_in: u32, is_wide: bool) -> u32 {
    let first = Vectors::new(0, n_vectors, n_in).end();
    if is_wide { Vectors::new(first, n_vectors, n_in).end() } else { first }
}
