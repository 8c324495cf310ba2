//! Groups of four warps that multiply with `wgmma`, weights in registers and activations in shared memory, and a last group that brings these.
//!
//! A block has 64 rows for each group that multiplies, and each of its warps 16. Two steps are a unit: what is loaded for the next one comes
//! while a warp makes f16 of this one's, and starts products of two times 16 values of K, which run on meanwhile.
//!
//! The last group copies activations, a *panel* of steps after another, into a ring: a product's 16 values are what its four lanes have of their chunks, so a token's
//! values change places by four chunks on the way, in registers; that several panels can be under way, they come by `cp.async`, each thread's to memory
//! of its own. Of each four values the first and the third are together, and
//! the second and the fourth: so half-bytes and bytes that are words apart become two f16 by one instruction. Activations that lie in that order already
//! ([`steps`](super::steps)) come by bulk copies, which one warp starts. Panels are full or empty by two barriers each.
//!
//! Registers are the multiplying groups': the last one gives up some of its.
//!
//! Of a small matrix a block has the 64 rows of a group, and each group a unit of these rows: the first one's steps are in the first panels, the next one's behind
//! them. What they made they add up in shared memory. Those are kernels of their own (`APART`): in one loop with the other way either would have variables where it
//! has constants, and spill; and in one kernel with it, its mere presence took the other way up to a tenth of its time.

mod bring;
mod finish;

use cuda_std::{
    F16, grid,
    memory::global,
    shared::{self, Shared},
    shared_array, thread,
    unroll::unroll,
    wgmma::{self, Accumulator, Matrix, Registers, Swizzle},
};

use super::{CHUNK, Geometry, MOST_TOKENS, Operands, Place, STEP, Shares, Sixteen, Task, Two, Weights};
use crate::{blocks::Masks, product::ring::Ring};
use bring::bring;
use finish::{finish, finish_apart};

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
pub unsafe fn gemm<W: Weights, const HALF: usize, const APART: bool>(o: &Operands)
where
    [f32; HALF]: Accumulator<F16> + Registers,
{
    // SAFETY: by the launch contract; said here so that no division is guarded by a panic.
    unsafe {
        core::hint::assert_unchecked(o.n_in >= CHUNK);
        core::hint::assert_unchecked(o.n_out > 0);
        core::hint::assert_unchecked(o.n_in.div_ceil(UNIT) > 0);
        core::hint::assert_unchecked(!APART || o.apart > 0);
    }
    let tokens = const { 2 * HALF as u32 };
    let task = if APART { Some(Task::without_experts(o, tokens)) } else { unsafe { Task::of_block(o, tokens) } };
    let Some(task) = task else { return };
    if thread::thread_idx_x() < GROUP * GROUPS {
        // What the five groups have together stays: 5 · 96.
        wgmma::take_registers::<104>();
        unsafe { multiply::<W, HALF, APART>(o, &task) }
    } else {
        wgmma::give_registers::<64>();
        unsafe { bring::<W, HALF, APART>(o, &task) }
    }
}

/// What the groups that multiply do.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
unsafe fn multiply<W: Weights, const HALF: usize, const APART: bool>(o: &Operands, task: &Task)
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
    let source = W::source(global(o.weights), o.n_blocks);
    // Where the chunks of the lane's rows begin. Rows and chunks beyond the matrix's end are the last ones, which do not count.
    let rows_of = |tile: u32| {
        o.rows(Work::sixteen::<APART>(tile), group).map(
            #[inline(always)]
            |row| (task.first_output + row) * chunks,
        )
    };
    // A unit's steps. Where sums leave no registers for both, the second is loaded when the first was used, and not with it.
    let in_pairs = const { 2 * HALF <= W::MOST_IN_PAIRS[APART as usize] };
    let load = |[upper, lower]: [u32; 2], unit: u32| {
        let chunk = u32::min(unit * 8 + member, chunks - 1);
        let further = u32::min(unit * 8 + member + 4, chunks - 1) - chunk;
        let two = |row: u32| unsafe {
            let first = W::load(source, row + chunk);
            [first, if in_pairs { W::load_second(source, row + chunk + further, first) } else { first }]
        };
        Two { upper: two(upper), lower: two(lower) }
    };
    let load_second = |[upper, lower]: [u32; 2], unit: u32, bits: Two<[W::Bits; 2]>| {
        let chunk = u32::min(unit * 8 + member + 4, chunks - 1);
        let beside =
            |row: u32, [first, _]: [W::Bits; 2]| unsafe { [first, W::load_second(source, row + chunk, first)] };
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
    unsafe { W::prepare() }
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
                    let sixteen = Sixteen::<W>::new(step, place.unit * 8 + 4 * half as u32 + member);
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
                                |index| sixteen.fragment(index, |bits| W::every_second(bits, index, masks)),
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
                            if const { 2 * HALF <= W::MOST_IN_TURN } {
                                wgmma::wait_for_left::<1>();
                            } else {
                                wgmma::wait_for_left::<0>();
                            }
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
