//! Groups of four warps that multiply with `wgmma`, weights in registers and activations in shared memory, and a last group that brings these.
//!
//! A block has 64 rows for each group that multiplies, and each of its warps 16. Two steps are a unit: what is loaded for the next one comes
//! while a warp makes f16 of this one's, and starts products of two times 16 values of K, which run on meanwhile.
//!
//! The last group copies activations, a *panel* of steps after another, into a ring: a product's 16 values are what its four lanes have of their chunks, so a token's
//! values change places by four chunks on the way, in registers; that several panels can be under way, they come by `cp.async`, each thread's to memory
//! of its own. Of each four values the first and the third are together, and
//! the second and the fourth: so half-bytes and bytes that are words apart become two f16 by one instruction. Panels are full or empty by two
//! barriers each.
//!
//! Registers are the multiplying groups': the last one gives up some of its.

use cuda_std::{
    F16, async_copy, atomic, fence, grid, integer,
    memory::{Vector16, global},
    shared::{self, Shared},
    shared_array, thread,
    unroll::unroll,
    wgmma::{self, Accumulator, Matrix, Registers, Swizzle},
};

use super::{ABSENT, CHUNK, Geometry, MOST_TOKENS, Operands, PARTS, Place, STEP, Shares, Sixteen, TOKENS, Task, Two};
use crate::{
    blocks::{Halves, Masks, Planes},
    gemv::activations::four,
    product::ring::Ring,
};

/// How the four kernels of a format share their work. The same for all, so that all have the same parts of tiles, and a token's outputs the same
/// bits.
pub const GEOMETRIES: [Geometry; 4] = [geometry(8), geometry(16), geometry(32), geometry(64)];

const fn geometry(tokens: usize) -> Geometry {
    Geometry {
        tokens,
        rows: ROWS as usize,
        columns: UNIT as usize,
        threads: GROUP * (GROUPS + 1),
        resident: 1,
        counters: GROUPS as usize,
        panel: 0,
        // What comes before the first multiple of 1024 bytes is not used.
        shared_bytes: (PANELS + under_way(tokens)) * PANEL_BYTES + 1024,
    }
}

/// Groups that multiply.
const GROUPS: u32 = 4;

/// Threads of a group.
const GROUP: u32 = 128;

/// Rows of a group.
pub const GROUP_ROWS: u32 = 64;

/// Rows of a block, where all of its groups have the same units.
const ROWS: u32 = GROUP_ROWS * GROUPS;

/// Values of a row that a unit takes: two steps, which have in common what a block of 256 values has once.
const UNIT: u32 = 2 * STEP;

/// Panels of the ring: as many as the steps of a unit for each group take.
const PANELS: u32 = 8;

/// Tokens of all steps of a panel.
const PANEL_ROWS: u32 = 64;

/// Bytes of a token's values of a step.
const ROW_BYTES: u32 = STEP * size_of::<F16>() as u32;

/// Bytes of a panel.
const PANEL_BYTES: u32 = PANEL_ROWS * ROW_BYTES;

/// Panels whose copies are under way, with so many tokens: one of many tokens is a step only.
const fn under_way(tokens: usize) -> u32 {
    if tokens == MOST_TOKENS { 4 } else { 2 }
}

/// Rows of a panel that the last group copies at a time: four threads copy one, each the same eight values of all chunks.
const AT_ONCE: u32 = GROUP / 4;

/// Rows of a panel that a thread copies.
const COPIES: usize = (PANEL_ROWS / AT_ONCE) as usize;

shared_array! {
    // A panel is full, and is empty.
    gemm_full: [u64; PANELS as usize];
    gemm_empty: [u64; PANELS as usize];
    // Of a block's tokens: which rows of x they are, or `ABSENT`, and which of the outputs.
    gemm_sources: [u32; MOST_TOKENS];
    gemm_targets: [u32; MOST_TOKENS];
    gemm_before: [u32; 4];
    gemm_above: [u32; 1];
    // Where groups have a unit each, the block's tile and which of its blocks this one is: what would be in registers until the end.
    gemm_tile: [u32; 2];
}

/// Where the panels begin: they are swizzled, so at a multiple of 1024 bytes.
#[inline(always)]
fn panels() -> Shared<F16> {
    let memory: Shared<u8> = shared::dynamic(0);
    shared::dynamic(memory.address().wrapping_neg() % 1024)
}

/// Where the copies come to that are under way, 16 bytes of each thread of the last group one after another.
#[inline(always)]
fn copies() -> Shared<u32> {
    shared::dynamic(PANELS * PANEL_BYTES + 1024)
}

/// What a block has to do.
#[derive(Clone, Copy)]
struct Work {
    /// Its units in the list of all tiles', or of its tile's where it has a part of one alone.
    begin: u32,
    end: u32,
    /// Where it begins.
    place: Place,
}

impl Work {
    #[inline(always)]
    fn of_block<const APART: bool>(o: &Operands, n_units: u32) -> Work {
        let block = thread::block_idx_x();
        if !APART {
            let shares = Shares { least: o.least, more: o.more };
            let begin = shares.begin(block);
            let place = Place { tile: begin / n_units, unit: begin % n_units };
            return Work { begin, end: shares.begin(block + 1), place };
        }
        let (tile, part) = (block / o.apart, block % o.apart);
        let first = |part: u32| n_units * part / o.apart;
        Work { begin: 0, end: first(part + 1) - first(part), place: Place { tile, unit: first(part) } }
    }

    /// The first of the warp's rows, of all tiles' rows.
    #[inline(always)]
    fn sixteen<const APART: bool>(tile: u32) -> u32 {
        let warp = thread::warp();
        if APART { GROUP_ROWS * tile + 16 * (warp % 4) } else { ROWS * tile + 16 * warp }
    }
}

/// The product of one launch, a block's rows with 2 · `HALF` tokens at most; see the module.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
pub unsafe fn gemm<B: Halves, const HALF: usize>(o: &Operands)
where
    [f32; HALF]: Accumulator<F16> + Registers,
{
    // SAFETY: by the launch contract; said here so that no division is guarded by a panic.
    unsafe {
        core::hint::assert_unchecked(o.n_in >= CHUNK);
        core::hint::assert_unchecked(o.n_out > 0);
        core::hint::assert_unchecked(o.n_in.div_ceil(UNIT) > 0);
    }
    let Some(task) = (unsafe { Task::of_block(o, const { 2 * HALF as u32 }) }) else { return };
    if thread::thread_idx_x() < GROUP * GROUPS {
        // What the five groups have together stays: 5 · 96.
        wgmma::take_registers::<104>();
        if B::UNIT_FOR_A_GROUP && o.apart > 0 {
            unsafe { multiply::<B, HALF, true>(o, &task) }
        } else {
            unsafe { multiply::<B, HALF, false>(o, &task) }
        }
    } else {
        wgmma::give_registers::<64>();
        unsafe { bring::<B, HALF>(o, &task) }
    }
}

/// What the groups that multiply do.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
unsafe fn multiply<B: Halves, const HALF: usize, const APART: bool>(o: &Operands, task: &Task)
where
    [f32; HALF]: Accumulator<F16> + Registers,
{
    let lane = thread::lane();
    let (group, member) = (lane / 4, lane % 4);
    let tokens: u32 = const { 2 * HALF as u32 };
    let steps_of_panel = const { PANEL_ROWS / (2 * HALF as u32) };
    let (n_units, chunks) = (o.n_in.div_ceil(UNIT), o.n_in / CHUNK);
    let Work { begin, end, mut place } = Work::of_block::<APART>(o, n_units);
    // Of groups that have a unit each, which one of them this is.
    let turn = if APART { thread::warp() / 4 } else { 0 };
    place.unit += turn;
    let planes = Planes::of::<B>(global(o.weights), o.n_blocks);
    // Where the chunks of the lane's rows begin. Rows and chunks beyond the matrix's end are the last ones, which do not count.
    let rows_of = |tile: u32| {
        o.rows(Work::sixteen::<APART>(tile), group).map(
            #[inline(always)]
            |row| (task.first_output + row) * chunks,
        )
    };
    // A unit's steps. Where sums leave no registers for both, the second is loaded when the first was used, and not with it.
    let in_pairs = const { 2 * HALF <= B::MOST_IN_PAIRS || APART };
    let load = |[upper, lower]: [u32; 2], unit: u32| {
        let chunk = u32::min(unit * 8 + member, chunks - 1);
        let further = u32::min(unit * 8 + member + 4, chunks - 1) - chunk;
        let two = |row: u32| unsafe {
            let first = B::load(planes, row + chunk);
            [first, if in_pairs { B::load_second(planes, row + chunk + further, first) } else { first }]
        };
        Two { upper: two(upper), lower: two(lower) }
    };
    let load_second = |[upper, lower]: [u32; 2], unit: u32, bits: Two<[B::Bits; 2]>| {
        let chunk = u32::min(unit * 8 + member + 4, chunks - 1);
        let beside =
            |row: u32, [first, _]: [B::Bits; 2]| unsafe { [first, B::load_second(planes, row + chunk, first)] };
        Two { upper: beside(upper, bits.upper), lower: beside(lower, bits.lower) }
    };
    // What is loaded next.
    let (mut ahead, mut rows) = (place, rows_of(place.tile));
    macro_rules! advance {
        () => {{
            ahead = ahead.next(n_units);
            if ahead.unit == 0 {
                rows = rows_of(ahead.tile);
            }
        }};
    }
    let mut bits = load(rows, ahead.unit);
    if in_pairs {
        advance!();
    }
    // While these are on their way.
    unsafe { B::prepare() }
    o.begin();
    thread::sync_threads();
    let masks = unsafe { Masks { above: gemm_above().get(0) } };

    // The steps of a group's unit are in one panel, or in two of their own.
    let mut ring = Ring::<PANELS>::FULL.further(2 * turn / steps_of_panel);
    let (mut step_of_panel, mut unit) = (2 * turn % steps_of_panel, begin + turn);
    let mut sums = [0.0_f32; HALF];
    while unit < end {
        let stop = u32::min(unit + n_units - place.unit, end);
        wgmma::fence(&mut sums);
        while unit < stop {
            unroll(
                2,
                #[inline(always)]
                |half| {
                    let step = Two { upper: bits.upper[half], lower: bits.lower[half] };
                    let sixteen = Sixteen::new::<B>(step, place.unit * 8 + 4 * half as u32 + member);
                    // The second step of a unit is in the panel of the first, but where a panel has one.
                    let begins_panel = (step_of_panel == 0 || APART) && (half == 0 || steps_of_panel == 1);
                    if begins_panel {
                        unsafe { ring.wait(gemm_full()) }
                    }
                    let of_step = ring.panel * PANEL_BYTES + step_of_panel * (tokens * ROW_BYTES);
                    let x: Matrix<F16> = unsafe { Matrix::new(panels(), of_step / 2, 0, 1024, Swizzle::Bytes128) };
                    let of_half = if steps_of_panel == 1 { 0 } else { half as u32 * (tokens * ROW_BYTES) };
                    let x_of = |index: usize| unsafe {
                        x.further(of_half + index as u32 / 4 * (tokens * 128) + index as u32 % 4 * 32)
                    };
                    unroll(
                        4,
                        #[inline(always)]
                        |two| {
                            let mut weights = [2 * two, 2 * two + 1].map(
                                #[inline(always)]
                                |index| sixteen.fragment(index, |bits| B::halves(bits, index, masks)),
                            );
                            wgmma::fence_left(&mut weights);
                            unroll(
                                2,
                                #[inline(always)]
                                |index| unsafe {
                                    wgmma::multiply_add_left(&mut sums, weights[index], x_of(2 * two + index), true)
                                },
                            );
                            wgmma::commit();
                            // The two before are done: their weights' registers are free.
                            wgmma::wait_for_left::<1>();
                            if two == 0 && begins_panel && !APART && (half == 1 || unit > begin) && lane == 0 {
                                // And so is the panel before.
                                unsafe { ring.before().arrive(gemm_empty()) }
                            }
                        },
                    );
                    if half == 0 && !in_pairs {
                        bits = load_second(rows, ahead.unit, bits);
                        advance!();
                    }
                    if steps_of_panel == 1 {
                        ring = ring.next();
                    }
                },
            );
            if APART {
                break;
            }
            // The assembler moves loads up to where registers are free, but over no branch: `rows` are there before.
            bits = load(rows, ahead.unit);
            if in_pairs {
                advance!();
            }
            unit += 1;
            place.unit += 1;
            if steps_of_panel > 1 {
                step_of_panel += 2;
                if step_of_panel == steps_of_panel {
                    step_of_panel = 0;
                    ring = ring.next();
                }
            }
        }
        wgmma::wait::<0, _>(&mut sums);
        if APART {
            break;
        }
        // For what is written: where it was waited for before, it is over.
        grid::wait();
        let n_tokens = task.end_token - task.first_token;
        if unit == end {
            // Written once more for what ends here: no weights are kept in registers, which adding up parts has then for its loads.
            unsafe { finish::<HALF>(o, place.tile, n_tokens, &sums) }
            return;
        }
        unsafe { finish::<HALF>(o, place.tile, n_tokens, &sums) }
        sums = [0.0; HALF];
        place = Place { tile: place.tile + 1, unit: 0 };
    }
    if !APART {
        return;
    }
    // A group may have had no unit.
    grid::wait();
    unsafe { finish_apart::<HALF>(o, task.end_token - task.first_token, &sums) }
}

/// What the last group does.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
unsafe fn bring<B: Halves, const HALF: usize>(o: &Operands, task: &Task) {
    let tokens: u32 = const { 2 * HALF as u32 };
    let steps_of_panel = const { PANEL_ROWS / (2 * HALF as u32) };
    let slots = const { under_way(2 * HALF) };
    let n_steps = 2 * o.n_in.div_ceil(UNIT);
    let (is_apart, n_units) = (B::UNIT_FOR_A_GROUP && o.apart > 0, n_steps / 2);
    let work = if is_apart { Work::of_block::<true>(o, n_units) } else { Work::of_block::<false>(o, n_units) };
    let (begin, end) = (2 * work.begin, 2 * work.end);
    let thread = thread::thread_idx_x() - GROUP * GROUPS;
    if thread == 0 {
        // Where groups have a unit each, no panel is needed twice.
        unsafe { Ring::<PANELS>::set_up(gemm_full(), GROUP, gemm_empty(), 4 * GROUPS) }
        // A constant that the assembler does not know: as an operand it would make the same one anew for each instruction.
        unsafe { gemm_above().set(0, Masks::ABOVE) }
        if is_apart {
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
    if is_apart {
        // The copies' memory is what groups leave their sums in.
        async_copy::wait::<0>();
        thread::sync_threads();
        thread::sync_threads();
    }
}

/// Writes a tile's outputs, or leaves the group's part of them, and adds up all parts where it is the last. Collective over the group.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
unsafe fn finish<const HALF: usize>(o: &Operands, tile: u32, n_tokens: u32, sums: &[f32; HALF]) {
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
unsafe fn finish_apart<const HALF: usize>(o: &Operands, n_tokens: u32, sums: &[f32; HALF]) {
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
    unsafe { super::write::<UNITS, 4>(o, row, token, n_tokens, [gemm_sources(), gemm_targets()], sums) }
}
