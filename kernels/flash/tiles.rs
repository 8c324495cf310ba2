//! Tiles of keys and values in shared memory, and who brings which part of them there.

use cuda_std::{
    async_copy::{commit, copy_16},
    shared::Shared,
    shared_array, thread,
    unroll::unroll,
};

use super::N_WARPS;
use crate::cache::Pages;

/// Elements of 16 bytes.
const CHUNK: usize = 8;

/// Elements of shared memory: two stages of a tile of keys and one of values, of the shape with the largest.
const SHARED_ELEMENTS: usize = 4 * 48 * (96 + CHUNK);

shared_array! {
    flash_tiles: [u16; SHARED_ELEMENTS];
}

/// The sizes that a head size is worked on in.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Values of a head.
    head_dim: usize,
    /// Keys of a tile.
    pub keys: usize,
}

impl Shape {
    pub const fn new(head_dim: usize) -> Shape {
        // As many as keep scores, output and query in registers, about 4096 elements; a multiple of 16.
        let keys = match head_dim {
            64 => 64,
            80 | 96 => 48,
            128 => 32,
            256 => 16,
            _ => panic!("no such head size"),
        };
        let shape = Shape { head_dim, keys };
        assert!(4 * shape.tile() <= SHARED_ELEMENTS);
        shape
    }

    /// Elements from a row of a stage to the next.
    pub const fn stride(self) -> usize {
        self.head_dim + CHUNK
    }

    /// Elements of a tile in shared memory.
    pub const fn tile(self) -> usize {
        self.keys * self.stride()
    }

    /// Rows that a warp copies at once, a chunk a lane.
    const fn rows_at_once(self) -> usize {
        32 / (self.head_dim / CHUNK)
    }

    /// How often it does that for a tile.
    const fn copies(self) -> usize {
        let rows = N_WARPS as usize * self.rows_at_once();
        assert!(self.keys.is_multiple_of(rows));
        self.keys / rows
    }
}

/// Brings tiles of keys and values to shared memory: what of them is this thread's.
pub struct Tiles<T, const HEAD_DIM: usize> {
    keys: *const T,
    values: *const T,
    pages: Pages,
    kv_head: u32,
    /// The element of a row where this thread's chunks begin.
    column: u32,
    /// Where the chunk goes in a tile in shared memory.
    target: u32,
    /// Its row in the tile.
    row: u32,
    /// Whether there is one: lanes that a whole number of rows leaves over have none.
    active: bool,
    /// Keys before this one are not seen, and may have no page any more; those from `end` on were not written, and may be NaN.
    /// They become zero.
    begin: u32,
    end: u32,
    /// `[stage][keys, values]`, a tile each.
    pub shared: Shared<T>,
}

impl<T, const HEAD_DIM: usize> Tiles<T, HEAD_DIM> {
    const SHAPE: Shape = Shape::new(HEAD_DIM);
    /// Elements of a stage.
    pub const STAGE: u32 = 2 * Self::SHAPE.tile() as u32;

    #[inline(always)]
    pub fn new(keys: *const T, values: *const T, pages: Pages, kv_head: u32, begin: u32, end: u32) -> Self {
        let chunks = const { (HEAD_DIM / CHUNK) as u32 };
        let (row, chunk) = (thread::lane() / chunks, thread::lane() % chunks);
        let active = row < Self::SHAPE.rows_at_once() as u32;
        let row = thread::warp() * Self::SHAPE.rows_at_once() as u32 + row;
        let column = chunk * CHUNK as u32;
        Tiles {
            keys,
            values,
            pages,
            kv_head,
            column,
            target: row * Self::SHAPE.stride() as u32 + column,
            row,
            active,
            begin,
            end,
            // SAFETY: the array has room for two stages of both tiles, and alignment for either type.
            shared: unsafe { flash_tiles().cast() },
        }
    }

    /// Starts copying the tiles of the keys from `first` on into a stage.
    #[inline(always)]
    pub unsafe fn start(&self, first: u32, stage: u32) {
        if self.active {
            if self.begin <= first && first + Self::SHAPE.keys as u32 <= self.end {
                unsafe { self.copy(first, stage, |_| true) }
            } else {
                unsafe { self.copy(first, stage, |row| self.begin <= first + row && first + row < self.end) }
            }
        }
        commit();
    }

    #[inline(always)]
    unsafe fn copy(&self, first: u32, stage: u32, present: impl Fn(u32) -> bool) {
        let target = stage * Self::STAGE + self.target;
        unroll(
            const { Self::SHAPE.copies() },
            #[inline(always)]
            |step| {
                let rows = step * N_WARPS as usize * Self::SHAPE.rows_at_once();
                let target = target + (rows * Self::SHAPE.stride()) as u32;
                let row = self.row + rows as u32;
                let present = present(row);
                // What is not there may have no page: of one that is, which then is not read.
                let position = u32::min(u32::max(first + row, self.begin), self.end - 1);
                let row = unsafe { self.pages.row(self.kv_head, position) };
                let source = row as usize * HEAD_DIM + self.column as usize;
                let values = Self::SHAPE.tile() as u32;
                unsafe {
                    copy_16(self.shared, target, self.keys.wrapping_add(source), present);
                    copy_16(self.shared, target + values, self.values.wrapping_add(source), present);
                }
            },
        );
    }
}
