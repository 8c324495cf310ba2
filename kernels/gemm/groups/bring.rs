//! The last group of a block: it brings activations, a panel after another, in the order that products take them.

use cuda_std::{async_copy, fence, integer, shared::Shared, thread, unroll::unroll};

use super::{
    AT_ONCE, COPIES, GROUP, GROUPS, PANEL_BYTES, PANEL_ROWS, PANELS, ROW_BYTES, Work, copies, gemm_above, gemm_empty,
    gemm_full, gemm_sources, gemm_targets, gemm_tile, panels, under_way,
};
use crate::{
    blocks::{Halves, Masks},
    gemm::groups::UNIT,
    gemm::{ABSENT, CHUNK, MOST_TOKENS, Operands, STEP, Task},
    product::ring::Ring,
};

/// What the last group does.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
pub unsafe fn bring<B: Halves, const HALF: usize, const APART: bool>(o: &Operands, task: &Task) {
    let tokens: u32 = const { 2 * HALF as u32 };
    let steps_of_panel = const { PANEL_ROWS / (2 * HALF as u32) };
    let slots = const { under_way(2 * HALF) };
    let n_steps = 2 * o.n_in.div_ceil(UNIT);
    let work = Work::of_block::<APART>(o, n_steps / 2);
    let (begin, end) = (2 * work.begin, 2 * work.end);
    let thread = thread::thread_idx_x() - GROUP * GROUPS;
    if thread == 0 {
        // Where groups have a unit each, no panel is needed twice.
        unsafe { Ring::<PANELS>::set_up(gemm_full(), GROUP, gemm_empty(), 4 * GROUPS) }
        // A constant that the assembler does not know: as an operand it would make the same one anew for each instruction.
        unsafe { gemm_above().set(0, Masks::ABOVE) }
        if APART {
            unsafe {
                gemm_tile().set(0, work.place.tile);
                gemm_tile().set(1, thread::block_idx_x() % o.apart);
            }
        }
    }
    unsafe { B::prepare() }
    o.begin();
    if thread < tokens {
        let [source, target] = unsafe { task.rows(o, thread) };
        unsafe {
            gemm_sources().set(thread, source);
            gemm_targets().set(thread, target);
        }
    }
    thread::sync_threads();

    let (piece, row) = (thread % 4, thread / 4);
    let words: Shared<u32> = unsafe { panels().cast() };
    // Where the 16 bytes of a copy come to that the thread starts.
    let copied = |slot: u32, copy: usize, chunk: usize| {
        (slot * (4 * COPIES as u32) + (4 * copy + chunk) as u32) * (4 * GROUP) + 4 * thread
    };
    // Of each row that the thread copies of a panel: how many steps it is behind the panel's first, its token's place in it, and its row of x.
    let rows: [[u32; 3]; COPIES] = [0, 1].map(
        #[inline(always)]
        |copy| {
            let row = row + copy * AT_ONCE;
            [row / tokens, row % tokens, unsafe { gemm_sources().get(row % tokens) }]
        },
    );
    // The step that the next panel to be started begins with, in the block's list and in its row, and its slot.
    let (mut ahead, mut step, mut slot) = (begin, 2 * work.place.unit, 0);
    macro_rules! start {
        () => {{
            unroll(
                COPIES,
                #[inline(always)]
                |copy| {
                    let [further, _, source] = rows[copy];
                    let mut step = step + further;
                    while step >= n_steps {
                        step -= n_steps;
                    }
                    let first = step * STEP + 8 * piece;
                    let from = o.x.wrapping_add(source as usize * o.n_in as usize + first as usize);
                    let is_there = source != ABSENT && ahead + further < end;
                    unroll(
                        4,
                        #[inline(always)]
                        |chunk| {
                            let value = CHUNK * chunk as u32;
                            // Nothing is read where there is nothing.
                            let from = from.wrapping_add(value as usize).cast();
                            let present = is_there & (first + value < o.n_in);
                            unsafe { async_copy::copy_16(copies(), copied(slot, copy, chunk), from, present) }
                        },
                    );
                },
            );
            async_copy::commit();
            ahead += steps_of_panel;
            step += steps_of_panel;
            while step >= n_steps {
                step -= n_steps;
            }
            slot = if slot + 1 == slots { 0 } else { slot + 1 };
        }};
    }
    let mut started = 1;
    while started < slots {
        start!();
        started += 1;
    }
    let (mut at, mut come, mut ring) = (begin, 0, Ring::<PANELS>::EMPTY);
    while at < end {
        start!();
        if HALF * 2 == MOST_TOKENS {
            async_copy::wait::<{ under_way(MOST_TOKENS) - 1 }>();
        } else {
            async_copy::wait::<{ under_way(0) - 1 }>();
        }
        unsafe { ring.wait(gemm_empty()) }
        unroll(
            COPIES,
            #[inline(always)]
            |copy| {
                let values = [0, 1, 2, 3].map(
                    #[inline(always)]
                    |chunk| unsafe { copies().get_four(copied(come, copy, chunk)) },
                );
                let [further, token, _] = rows[copy];
                let first = ring.panel * PANEL_BYTES
                    + further * (tokens * ROW_BYTES)
                    + piece / 2 * (tokens * 128)
                    + token * 128;
                unroll(
                    4,
                    #[inline(always)]
                    |which| {
                        // Product 2 · piece + which / 2, its first eight values of K or its last.
                        let picked = if which % 2 == 0 { 0x5410 } else { 0x7632 };
                        let four = values.map(
                            #[inline(always)]
                            |chunk| integer::pick_bytes(chunk[which / 2 * 2], chunk[which / 2 * 2 + 1], picked),
                        );
                        let place = (2 * piece + which as u32 / 2) % 4 * 2 + which as u32 % 2;
                        unsafe { words.set_four((first + (place ^ (token % 8)) * 16) / 4, four) }
                    },
                );
            },
        );
        come = if come + 1 == slots { 0 } else { come + 1 };
        fence::proxy_async_shared();
        unsafe { ring.arrive(gemm_full()) }
        ring = ring.next();
        at += steps_of_panel;
    }
    if APART {
        // The copies' memory is what groups leave their sums in.
        async_copy::wait::<0>();
        thread::sync_threads();
        thread::sync_threads();
    }
}
