//! The end of a tile: outputs are written, or what a block has of them is left for whoever comes last.

use cuda_std::{atomic, memory::Vector16, shared::Shared, thread, unroll::unroll};

use super::{GROUP, GROUP_ROWS, GROUPS, ROWS, UNIT, Work, copies, gemm_before, gemm_sources, gemm_targets, gemm_tile};
use crate::{
    gemm::{self, MOST_TOKENS, Operands, PARTS, Shares, TOKENS},
    gemv::activations::four,
};

/// Writes a tile's outputs, or leaves the group's part of them, and adds up all parts where it is the last. Collective over the group.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
pub unsafe fn finish<const HALF: usize>(o: &Operands, tile: u32, n_tokens: u32, sums: &[f32; HALF]) {
    let shares = Shares { least: o.least, more: o.more };
    let n_units = o.n_in.div_ceil(UNIT);
    let (first, last) = (tile * n_units, (tile + 1) * n_units - 1);
    let (begin, end) = (shares.begin(thread::block_idx_x()), shares.begin(thread::block_idx_x() + 1));
    let sixteen = Work::sixteen::<false>(tile);
    // A unit's tile has its parts in memory, if only one: so what a unit takes is written only where parts are added up.
    if begin <= first && last < end && o.unit == 0 {
        if 2 * HALF < MOST_TOKENS {
            unroll(
                HALF / 4,
                #[inline(always)]
                |index| unsafe { write::<false>(o, sixteen, n_tokens, index as u32, four_of(sums, index)) },
            );
            return;
        }
        // A loop whose next sums move to where the first ones were: written for each tile of tokens, this would be most of the kernel. With fewer
        // tokens there is little to save, and 32 would spill in Q8_0 and Q3_K.
        let (mut left, mut index) = (*sums, 0);
        while index < const { HALF / 4 } {
            unsafe { write::<false>(o, sixteen, n_tokens, index as u32, four_of(&left, 0)) }
            unroll(
                HALF / 4,
                #[inline(always)]
                |tile| {
                    let mut value = 4 * tile;
                    while value < 4 * tile + 4 {
                        left[value] = if value + 4 < HALF { left[value + 4] } else { 0.0 };
                        value += 1;
                    }
                },
            );
            index += 1;
        }
        return;
    }
    // A block's part that does not begin where the block does is its second.
    let part_of = |block: u32, begin: u32| {
        let of_block = (thread::block_idx_y() * thread::grid_dim_x() + block) * PARTS + u32::from(begin < first);
        let of_block = of_block as usize * (HALF * GROUP as usize * GROUPS as usize);
        unsafe { o.partial.add(of_block + 4 * thread::thread_idx_x() as usize) }
    };
    let next = const { (4 * GROUP * GROUPS) as usize };
    let mine = part_of(thread::block_idx_x(), begin);
    unroll(
        HALF / 4,
        #[inline(always)]
        |index| {
            let words = four_of(sums, index).map(f32::to_bits);
            unsafe { *mine.add(next * index).cast::<Vector16>() = Vector16(words) }
        },
    );
    let (first_block, last_block) = (shares.owner(first), shares.owner(last));
    let group = thread::warp() / 4;
    thread::sync_group(1 + group);
    if thread::thread_idx_x().is_multiple_of(GROUP) {
        let counter = ((thread::block_idx_y() * o.n_tiles(ROWS) + tile) * GROUPS + group) as usize;
        let before = unsafe { atomic::increment_wrapping(o.arrivals.wrapping_add(counter), last_block - first_block) };
        unsafe { gemm_before().set(group, before) }
    }
    thread::sync_group(1 + group);
    if unsafe { gemm_before().get(group) } != last_block - first_block {
        return;
    }
    // Two tiles of tokens at a time, and as many parts as there are registers for: their loads take one trip to the memory.
    const TILES: usize = 2;
    const PARTS_AT_ONCE: usize = 6;
    let n_tiles = const { if HALF / 4 < TILES { HALF / 4 } else { TILES } };
    let mut index = 0;
    while index < const { HALF / 4 } {
        let mut all = [[0.0; 4]; TILES];
        let mut block = first_block;
        while block <= last_block {
            let mut parts = [[[0.0; 4]; TILES]; PARTS_AT_ONCE];
            unroll(
                PARTS_AT_ONCE,
                #[inline(always)]
                |of| {
                    let block = block + of as u32;
                    if block <= last_block {
                        let part = part_of(block, shares.begin(block));
                        unroll(
                            n_tiles,
                            #[inline(always)]
                            |tile| parts[of][tile] = unsafe { four(part.add(next * (index + tile))) },
                        );
                    }
                },
            );
            unroll(
                PARTS_AT_ONCE * TILES,
                #[inline(always)]
                |at| add(&mut all[at % TILES], parts[at / TILES][at % TILES]),
            );
            block += PARTS_AT_ONCE as u32;
        }
        unroll(
            n_tiles,
            #[inline(always)]
            |of| unsafe { write::<true>(o, sixteen, n_tokens, (index + of) as u32, all[of]) },
        );
        index += TILES;
    }
}

/// Adds up what the groups have of a tile, each some of its tokens, and writes it; or leaves it, where other blocks have parts of the tile, and adds these up
/// where it is the last. Collective over the block.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
pub unsafe fn finish_apart<const HALF: usize>(o: &Operands, n_tokens: u32, sums: &[f32; HALF]) {
    let tiles = const { HALF as u32 / 4 };
    let [tile, own] = [0, 1].map(|index| unsafe { gemm_tile().get(index) });
    let (group, thread) = (thread::thread_idx_x() / GROUP, thread::thread_idx_x() % GROUP);
    let left: Shared<f32> = unsafe { copies().cast() };
    let place = |group: u32, index: u32| 4 * ((group * tiles + index) * GROUP + thread);
    // The last group has made its copies.
    thread::sync_threads();
    unroll(
        HALF / 4,
        #[inline(always)]
        |index| unsafe { left.set_four(place(group, index as u32), four_of(sums, index)) },
    );
    thread::sync_threads();
    let of_groups = |index: u32| {
        let mut all = [0.0; 4];
        unroll(
            GROUPS as usize,
            #[inline(always)]
            |of| add(&mut all, unsafe { left.get_four(place(of as u32, index)) }),
        );
        all
    };
    let part_of = |part: u32, index: u32| {
        let block = thread::block_idx_y() * thread::grid_dim_x() + tile * o.apart + part;
        let at = (block as usize * HALF + 4 * index as usize) * GROUP as usize + 4 * thread as usize;
        unsafe { o.partial.add(at) }
    };
    if o.apart > 1 {
        let mut index = group;
        while index < tiles {
            let words = of_groups(index).map(f32::to_bits);
            unsafe { *part_of(own, index).cast::<Vector16>() = Vector16(words) }
            index += GROUPS;
        }
        thread::sync_group(1 + group);
        if thread == 0 {
            let counter = (thread::block_idx_y() * o.n_tiles(GROUP_ROWS) + tile) * GROUPS + group;
            let counter = o.arrivals.wrapping_add(counter as usize);
            unsafe { gemm_before().set(group, atomic::increment_wrapping(counter, o.apart - 1)) }
        }
        thread::sync_group(1 + group);
        if unsafe { gemm_before().get(group) } != o.apart - 1 {
            return;
        }
    }
    const PARTS_AT_ONCE: usize = 4;
    let mut index = group;
    while index < tiles {
        let mut all = [0.0; 4];
        if o.apart > 1 {
            let mut part = 0;
            while part < o.apart {
                let mut parts = [[0.0; 4]; PARTS_AT_ONCE];
                unroll(
                    PARTS_AT_ONCE,
                    #[inline(always)]
                    |of| {
                        if part + (of as u32) < o.apart {
                            parts[of] = unsafe { four(part_of(part + of as u32, index)) };
                        }
                    },
                );
                unroll(
                    PARTS_AT_ONCE,
                    #[inline(always)]
                    |of| add(&mut all, parts[of]),
                );
                part += PARTS_AT_ONCE as u32;
            }
        } else {
            all = of_groups(index);
        }
        unsafe { write::<true>(o, Work::sixteen::<true>(tile), n_tokens, index, all) }
        index += GROUPS;
    }
}

#[inline(always)]
fn add(all: &mut [f32; 4], more: [f32; 4]) {
    let mut value = 0;
    while value < 4 {
        all[value] += more[value];
        value += 1;
    }
}

/// A thread's sums of a tile of [`TOKENS`] tokens.
#[inline(always)]
fn four_of<const HALF: usize>(sums: &[f32; HALF], index: usize) -> [f32; 4] {
    [0, 1, 2, 3].map(
        #[inline(always)]
        |value| sums[4 * index + value],
    )
}

/// Writes a thread's outputs of a tile of tokens.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
unsafe fn write<const UNITS: bool>(o: &Operands, sixteen: u32, n_tokens: u32, index: u32, sums: [f32; 4]) {
    if TOKENS * index >= n_tokens {
        return;
    }
    let lane = thread::lane();
    let row = o.output(sixteen, lane / 4);
    let token = TOKENS * index + 2 * (lane % 4);
    unsafe { gemm::write::<UNITS, 4>(o, row, token, n_tokens, [gemm_sources(), gemm_targets()], sums) }
}
