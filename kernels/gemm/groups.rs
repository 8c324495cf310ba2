//! Groups of four warps that multiply with `wgmma`, weights in registers and activations in shared memory, and a last group that brings these.
//!
//! A block has 64 rows for each group that multiplies. Each of these has 16 for a warp, loads a step ahead, makes f16 and starts products of
//! two times 16 values of K, which run on while it makes the next ones.
//!
//! The last group copies activations, a *panel* of steps after another, into a ring: a product's 16 values are what its four lanes have of their chunks, so a token's
//! values change places by four chunks on the way, in registers. Of each four values the first and the third are together, and
//! the second and the fourth: so half-bytes and bytes that are words apart become two f16 by one instruction. Panels are full or empty by two
//! barriers each.
//!
//! Registers are the multiplying groups': the last one gives up some of its.

use cuda_std::{
    F16, atomic, fence, grid, integer,
    mbarrier::Barrier,
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
};

/// How the four kernels of a format share their work. The same for all, so that all have the same parts of tiles, and a token's outputs the same
/// bits.
pub const GEOMETRIES: [Geometry; 4] = [geometry(8), geometry(16), geometry(32), geometry(64)];

const fn geometry(tokens: usize) -> Geometry {
    Geometry {
        tokens,
        rows: ROWS as usize,
        threads: GROUP * (GROUPS + 1),
        resident: 1,
        counters: GROUPS as usize,
        panel: 0,
        // What comes before the first multiple of 1024 bytes is not used.
        shared_bytes: PANELS * PANEL_ROWS * ROW_BYTES + 1024,
    }
}

/// Groups that multiply.
const GROUPS: u32 = 4;

/// Threads of a group.
const GROUP: u32 = 128;

/// Rows of a block.
const ROWS: u32 = 64 * GROUPS;

/// Panels of the ring.
const PANELS: u32 = 5;

/// Tokens of all steps of a panel.
const PANEL_ROWS: u32 = 64;

/// Bytes of a token's values of a step.
const ROW_BYTES: u32 = STEP * size_of::<F16>() as u32;

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
}

/// What the warps of a block take turns at.
#[derive(Clone, Copy)]
struct Ring {
    panel: u32,
    parity: u32,
}

impl Ring {
    #[inline(always)]
    fn full(self) -> Barrier {
        unsafe { Barrier::at(gemm_full(), self.panel) }
    }

    #[inline(always)]
    fn empty(self) -> Barrier {
        unsafe { Barrier::at(gemm_empty(), self.panel) }
    }

    #[inline(always)]
    fn next(self) -> Ring {
        let last = self.panel + 1 == PANELS;
        Ring { panel: if last { 0 } else { self.panel + 1 }, parity: self.parity ^ u32::from(last) }
    }
}

/// Where the panels begin: they are swizzled, so at a multiple of 1024 bytes.
#[inline(always)]
fn panels() -> Shared<F16> {
    let memory: Shared<u8> = shared::dynamic(0);
    shared::dynamic(memory.address().wrapping_neg() % 1024)
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
        core::hint::assert_unchecked(o.n_in.div_ceil(STEP) > 0);
    }
    let Some(task) = (unsafe { Task::of_block(o, const { 2 * HALF as u32 }) }) else { return };
    if thread::thread_idx_x() < GROUP * GROUPS {
        // What the five groups have together stays: 5 · 96.
        wgmma::take_registers::<104>();
        unsafe { multiply::<B, HALF>(o, &task) }
    } else {
        wgmma::give_registers::<64>();
        unsafe { bring::<HALF>(o, &task) }
    }
}

/// What the groups that multiply do.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
unsafe fn multiply<B: Halves, const HALF: usize>(o: &Operands, task: &Task)
where
    [f32; HALF]: Accumulator<F16> + Registers,
{
    let lane = thread::lane();
    let (group, member) = (lane / 4, lane % 4);
    let tokens: u32 = const { 2 * HALF as u32 };
    let (n_steps, chunks) = (o.n_in.div_ceil(STEP), o.n_in / CHUNK);
    let shares = Shares { least: o.least, more: o.more };
    let (begin, end) = (shares.begin(thread::block_idx_x()), shares.begin(thread::block_idx_x() + 1));
    let planes = Planes::of::<B>(global(o.weights), o.n_blocks);
    // Where the chunks of the lane's rows begin. Rows and chunks beyond the matrix's end are the last ones, which do not count.
    let rows_of = |tile: u32| {
        let row = ROWS * tile + 16 * thread::warp() + group;
        [row, row + 8].map(
            #[inline(always)]
            |row| (task.first_output + u32::min(row, o.n_out - 1)) * chunks,
        )
    };
    let load = |[upper, lower]: [u32; 2], step: u32| {
        let chunk = u32::min(step * 4 + member, chunks - 1);
        unsafe { Two { upper: B::load(planes, upper + chunk), lower: B::load(planes, lower + chunk) } }
    };
    let mut place = Place { tile: begin / n_steps, step: begin % n_steps };
    // What is loaded next.
    let (mut ahead, mut rows) = (place, rows_of(place.tile));
    macro_rules! next {
        () => {{
            let bits = load(rows, ahead.step);
            ahead = ahead.next(n_steps);
            if ahead.step == 0 {
                rows = rows_of(ahead.tile);
            }
            bits
        }};
    }
    let mut bits = next!();
    grid::launch_dependents();
    thread::sync_threads();
    let masks = unsafe { Masks { above: gemm_above().get(0) } };
    // For what is written: by now it is over.
    grid::wait();

    let (mut ring, mut step_of_panel, mut unit) = (Ring { panel: 0, parity: 0 }, 0, begin);
    let mut sums = [0.0_f32; HALF];
    while unit < end {
        let stop = u32::min(unit + n_steps - place.step, end);
        wgmma::fence(&mut sums);
        while unit < stop {
            let sixteen = Sixteen::new::<B>(bits, u32::min(place.step * 4 + member, chunks - 1));
            if step_of_panel == 0 {
                ring.full().wait(ring.parity);
            }
            let place_of_step = ring.panel * (PANEL_ROWS * ROW_BYTES) + step_of_panel * (tokens * ROW_BYTES);
            let x: Matrix<F16> = unsafe { Matrix::new(panels(), place_of_step / 2, 0, 1024, Swizzle::Bytes128) };
            let x_of = |index: usize| unsafe { x.further(index as u32 / 4 * (tokens * 128) + index as u32 % 4 * 32) };
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
                    if two == 0 && step_of_panel == 0 && unit > begin && lane == 0 {
                        // And so is the panel before.
                        let before = if ring.panel == 0 { PANELS - 1 } else { ring.panel - 1 };
                        Ring { panel: before, parity: 0 }.empty().arrive();
                    }
                },
            );
            // Where registers allow it the assembler moves these loads up, to where the last ones were used.
            bits = next!();
            unit += 1;
            place.step += 1;
            step_of_panel += 1;
            if step_of_panel == const { PANEL_ROWS / (2 * HALF as u32) } {
                step_of_panel = 0;
                ring = ring.next();
            }
        }
        wgmma::wait::<0, _>(&mut sums);
        unsafe { finish::<HALF>(o, shares, place.tile, task.end_token - task.first_token, &sums) }
        sums = [0.0; HALF];
        place = Place { tile: place.tile + 1, step: 0 };
    }
}

/// What the last group does.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
unsafe fn bring<const HALF: usize>(o: &Operands, task: &Task) {
    let tokens: u32 = const { 2 * HALF as u32 };
    let n_steps = o.n_in.div_ceil(STEP);
    let shares = Shares { least: o.least, more: o.more };
    let (begin, end) = (shares.begin(thread::block_idx_x()), shares.begin(thread::block_idx_x() + 1));
    let thread = thread::thread_idx_x() - GROUP * GROUPS;
    if thread == 0 {
        let mut ring = Ring { panel: 0, parity: 0 };
        while ring.parity == 0 {
            ring.full().init(GROUP);
            ring.empty().init(4 * GROUPS);
            ring = ring.next();
        }
        // A constant that the assembler does not know: as an operand it would make the same one anew for each instruction.
        unsafe { gemm_above().set(0, Masks::ABOVE) }
    }
    grid::launch_dependents();
    grid::wait();
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
    // Of the thread's first row of a panel, and the step that it is of.
    let (mut unit, mut step, mut ring) = (begin, begin % n_steps, Ring { panel: 0, parity: 1 });
    while unit < end {
        let mut values = [[[0_u32; 4]; 4]; COPIES];
        unroll(
            COPIES,
            #[inline(always)]
            |copy| {
                let row = row + copy as u32 * AT_ONCE;
                let (ahead, token) = (row / tokens, row % tokens);
                let mut step = step + ahead;
                while step >= n_steps {
                    step -= n_steps;
                }
                let source = unsafe { gemm_sources().get(token) };
                unroll(
                    4,
                    #[inline(always)]
                    |chunk| {
                        let value = step * STEP + CHUNK * chunk as u32 + 8 * piece;
                        if source != ABSENT && unit + ahead < end && value < o.n_in {
                            let from = o.x.wrapping_add(source as usize * o.n_in as usize + value as usize);
                            // As a whole: of a field of it the compiler would make two loads.
                            let Vector16(words) = unsafe { *from.cast::<Vector16>() };
                            values[copy][chunk] = words;
                        }
                    },
                );
            },
        );
        ring.empty().wait(ring.parity);
        unroll(
            COPIES,
            #[inline(always)]
            |copy| {
                let row = row + copy as u32 * AT_ONCE;
                let (ahead, token) = (row / tokens, row % tokens);
                let first = ring.panel * (PANEL_ROWS * ROW_BYTES)
                    + ahead * (tokens * ROW_BYTES)
                    + piece / 2 * (tokens * 128)
                    + token * 128;
                unroll(
                    4,
                    #[inline(always)]
                    |which| {
                        // Product 2 · piece + which / 2, its first eight values of K or its last.
                        let picked = if which % 2 == 0 { 0x5410 } else { 0x7632 };
                        let four = values[copy].map(
                            #[inline(always)]
                            |chunk| integer::pick_bytes(chunk[which / 2 * 2], chunk[which / 2 * 2 + 1], picked),
                        );
                        let place = (2 * piece + which as u32 / 2) % 4 * 2 + which as u32 % 2;
                        unsafe { words.set_four((first + (place ^ (token % 8)) * 16) / 4, four) }
                    },
                );
            },
        );
        fence::proxy_async_shared();
        ring.full().arrive();
        ring = ring.next();
        unit += const { PANEL_ROWS / (2 * HALF as u32) };
        step += const { PANEL_ROWS / (2 * HALF as u32) };
        while step >= n_steps {
            step -= n_steps;
        }
    }
}

/// Writes a tile's outputs, or leaves the group's part of them, and adds up all parts where it is the last. Collective over the group.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
unsafe fn finish<const HALF: usize>(o: &Operands, shares: Shares, tile: u32, n_tokens: u32, sums: &[f32; HALF]) {
    let n_steps = o.n_in.div_ceil(STEP);
    let (first, last) = (tile * n_steps, (tile + 1) * n_steps - 1);
    let (begin, end) = (shares.begin(thread::block_idx_x()), shares.begin(thread::block_idx_x() + 1));
    let first_row = ROWS * tile;
    if begin <= first && last < end {
        unroll(
            HALF / 4,
            #[inline(always)]
            |index| unsafe { write(o, first_row, n_tokens, index, four_of(sums, index)) },
        );
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
        let tiles = o.n_out.div_ceil(ROWS);
        let counter = ((thread::block_idx_y() * tiles + tile) * GROUPS + group) as usize;
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
                |at| {
                    let (of, tile) = (at / TILES, at % TILES);
                    let mut value = 0;
                    while value < 4 {
                        all[tile][value] += parts[of][tile][value];
                        value += 1;
                    }
                },
            );
            block += PARTS_AT_ONCE as u32;
        }
        unroll(
            n_tiles,
            #[inline(always)]
            |tile| unsafe { write(o, first_row, n_tokens, index + tile, all[tile]) },
        );
        index += TILES;
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
unsafe fn write(o: &Operands, first_row: u32, n_tokens: u32, index: usize, mut values: [f32; 4]) {
    if TOKENS * index as u32 >= n_tokens {
        return;
    }
    let lane = thread::lane();
    let row = first_row + 16 * thread::warp() + lane / 4;
    let token = |output: usize| TOKENS * index as u32 + 2 * (lane % 4) + output as u32 % 2;
    let row = |output: usize| row + output as u32 / 2 * 8;
    let there = |output: usize| token(output) < n_tokens && row(output) < o.n_out;
    let targets = [0, 1].map(
        #[inline(always)]
        |next| unsafe { gemm_targets().get(token(next)) },
    );
    let at = |output: usize| targets[output % 2] as usize * o.out_stride as usize + row(output) as usize;
    unroll(
        4,
        #[inline(always)]
        |output| {
            if there(output) {
                let source = unsafe { gemm_sources().get(token(output)) };
                values[output] = unsafe { super::output(o, source, row(output), values[output]) };
                if o.adds != 0 {
                    values[output] += unsafe { *o.out.add(at(output)) }
                }
            }
        },
    );
    unroll(
        4,
        #[inline(always)]
        |output| match (there(output), o.out.is_null()) {
            (true, false) => unsafe { *o.out.add(at(output)) = values[output] },
            (true, true) => unsafe { *o.out_f16.add(at(output)) = F16::from_f32(values[output]) },
            (false, _) => {}
        },
    );
}
