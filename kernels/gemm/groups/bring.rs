//! The last group of a block: it brings activations, a panel after another, in the order that products take them.

use cuda_std::{async_copy, bulk, fence, integer, mbarrier::Barrier, shared::Shared, thread, unroll::unroll, warp};

use super::{
    AT_ONCE, COPIES, GROUP, GROUPS, PANEL_BYTES, PANEL_ROWS, PANELS, ROW_BYTES, Work, copies, gemm_above, gemm_empty,
    gemm_full, gemm_sources, gemm_targets, gemm_tile, panels, under_way,
};
use crate::{
    blocks::Masks,
    gemm::groups::UNIT,
    gemm::{ABSENT, CHUNK, MOST_TOKENS, Operands, STEP, Task, Weights, steps::OF_TOKEN},
    product::ring::Ring,
};

/// What the last group does.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
pub unsafe fn bring<W: Weights, const HALF: usize, const APART: bool>(o: &Operands, task: &Task) {
    let tokens: u32 = const { 2 * HALF as u32 };
    let n_steps = 2 * o.n_in.div_ceil(UNIT);
    let work = Work::of_block::<APART>(o, n_steps / 2);
    let (begin, end) = (2 * work.begin, 2 * work.end);
    let thread = thread::thread_idx_x() - GROUP * GROUPS;
    if thread == 0 {
        // Where groups have a unit each, no panel is needed twice.
        // Bulk copies are started by one thread, which expects their bytes.
        let n_full = if o.x_rows == 0 { GROUP } else { 1 };
        unsafe { Ring::<PANELS>::set_up(gemm_full(), n_full, gemm_empty(), 4 * GROUPS) }
        if o.x_rows != 0 {
            fence::barrier_init();
        }
        // A constant that the assembler does not know: as an operand it would make the same one anew for each instruction.
        unsafe { gemm_above().set(0, Masks::ABOVE) }
        if APART {
            unsafe {
                gemm_tile().set(0, work.place.tile);
                gemm_tile().set(1, thread::block_idx_x() % o.apart);
            }
        }
    }
    unsafe { W::prepare() }
    if o.x_rows != 0 {
        unsafe { clear_absent::<HALF>(u32::min(task.end_token - task.first_token, tokens), end - begin) }
    }
    o.begin();
    if thread < tokens {
        let [source, target] = unsafe { task.rows(o, thread) };
        unsafe {
            gemm_sources().set(thread, source);
            gemm_targets().set(thread, target);
        }
    }
    thread::sync_threads();

    let panels = Panels { begin, end, first: 2 * work.place.unit, n_steps };
    if o.x_rows == 0 {
        unsafe { bring_rows::<HALF>(o, panels) }
    } else if thread < 32 {
        unsafe { bring_steps::<HALF>(o, task, panels) }
    }
    if APART {
        // The copies' memory is what groups leave their sums in.
        async_copy::wait::<0>();
        thread::sync_threads();
        thread::sync_threads();
    }
}

/// The steps of the panels that a block takes.
#[derive(Clone, Copy)]
struct Panels {
    /// In the block's list, which a row's end does not interrupt.
    begin: u32,
    end: u32,
    /// The first one in its row.
    first: u32,
    /// Those of a row, with one that is not there where a row's are odd.
    n_steps: u32,
}

/// Panels of rows of activations: in registers values change places.
///
/// # Safety
/// - The kernels' launch contract; the block's barriers are set up, and it knows its tokens.
#[inline(always)]
unsafe fn bring_rows<const HALF: usize>(o: &Operands, Panels { begin, end, first, n_steps }: Panels) {
    let tokens: u32 = const { 2 * HALF as u32 };
    let steps_of_panel = const { PANEL_ROWS / (2 * HALF as u32) };
    let slots = const { under_way(2 * HALF) };
    let thread = thread::thread_idx_x() - GROUP * GROUPS;
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
    let (mut ahead, mut step, mut slot) = (begin, first, 0);
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
}

/// Zeros in the rows of no token, which copies leave alone, of the panels that so many steps take.
///
/// # Safety
/// - A barrier separates this from others' accesses to the ring.
#[inline(always)]
unsafe fn clear_absent<const HALF: usize>(there: u32, n_steps: u32) {
    let tokens: u32 = const { 2 * HALF as u32 };
    if there == tokens {
        return;
    }
    let n_panels = u32::min(n_steps.div_ceil(const { PANEL_ROWS / (2 * HALF as u32) }), PANELS);
    let words: Shared<u32> = unsafe { panels().cast() };
    let thread = thread::thread_idx_x() - GROUP * GROUPS;
    let mut row = thread / 8;
    while row < n_panels * (2 * PANEL_ROWS) {
        if row % tokens >= there {
            unsafe { words.set_four((row * (ROW_BYTES / 2) + thread % 8 * 16) / 4, [0; 4]) }
        }
        row += GROUP / 8;
    }
    fence::proxy_async_shared();
}

/// Panels of activations that lie in steps: one warp starts copies of them as they are.
///
/// # Safety
/// - As [`bring_rows`].
#[inline(always)]
unsafe fn bring_steps<const HALF: usize>(o: &Operands, task: &Task, Panels { begin, end, first, n_steps }: Panels) {
    let tokens: u32 = const { 2 * HALF as u32 };
    let steps_of_panel = const { PANEL_ROWS / (2 * HALF as u32) };
    let words: Shared<u32> = unsafe { panels().cast() };
    let (there, lane) = (u32::min(task.end_token - task.first_token, tokens), thread::lane());
    let (bytes, all) = (there * (ROW_BYTES / 2), tokens * (ROW_BYTES / 2));
    // A lane has half a step of each panel, if it has any.
    let (further, half) = (lane / 2, lane % 2);
    let (mut at, mut step, mut ring) = (begin, first, Ring::<PANELS>::EMPTY);
    while at < end {
        let mut own = step + further;
        while own >= n_steps {
            own -= n_steps;
        }
        let halves = 2 * u32::min(steps_of_panel, end - at);
        let full = unsafe { Barrier::at(gemm_full(), ring.panel) };
        unsafe { ring.wait(gemm_empty()) }
        if lane == 0 {
            full.arrive_expecting(halves * bytes);
        }
        warp::sync();
        if lane < halves {
            // A row's last step of a unit may not be there: its weights count nothing.
            let from = if own * STEP < o.n_in {
                o.x.wrapping_add((((2 * own + half) * o.x_rows + task.first_token) * OF_TOKEN) as usize)
            } else {
                o.zeros
            };
            let target = ring.panel * PANEL_BYTES + further * (tokens * ROW_BYTES) + half * all;
            unsafe { bulk::copy_to_shared(words, target / 4, from.cast::<u32>(), bytes, full) }
        }
        ring = ring.next();
        at += steps_of_panel;
        step += steps_of_panel;
        while step >= n_steps {
            step -= n_steps;
        }
    }
}
