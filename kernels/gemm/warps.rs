//! Warps by themselves: the products are those of `mma.m16n8k16`, with the weights' rows as its 16 and the tokens as its 8.
//!
//! A block has [`ROWS`] rows, a warp 16 or 32 of them.
//!
//! The tokens' activations are put into shared memory some steps at a time while those before are multiplied (`cp.async`), for the whole
//! block. The rows of a panel are tokens; lane `4 t + member` reads 16 bytes of its chunk of
//! token t. These pieces are not in the order of the values: first all chunks' first pieces, then their second ones, and rows are
//! 64 bytes longer than they need to be. Then the eight lanes that are served at a time touch all banks.

use cuda_std::{
    F16, async_copy, atomic, grid,
    memory::{Vector16, global},
    mma::Operand as _,
    shared::{self, Shared},
    shared_array, thread,
    unroll::unroll,
};

use super::{
    ABSENT, CHUNK, Geometry, MOST_TOKENS, Operands, PARTS, Place, STEP, Shares, Sixteen, TOKENS, Task, Two, Weights,
};

/// How the four kernels of a format share their work.
pub const GEOMETRIES: [Geometry; 4] = [geometry(8, 1, 4), geometry(16, 1, 4), geometry(32, 2, 2), geometry(64, 2, 2)];

/// Of a kernel whose warps have so many times 16 rows, with panels of so many steps.
const fn geometry(tokens: usize, sixteens: usize, panel: u32) -> Geometry {
    let shared_bytes = 2 * panel * tokens as u32 * STRIDE * size_of::<F16>() as u32;
    Geometry {
        tokens,
        rows: ROWS as usize,
        columns: STEP as usize,
        threads: threads(sixteens),
        resident: 2,
        counters: 1,
        panel,
        shared_bytes,
    }
}

/// The block's number of threads, of a kernel whose warps have so many times 16 rows.
const fn threads(sixteens: usize) -> u32 {
    ROWS / 16 * 32 / sixteens as u32
}

/// Rows of a block.
pub const ROWS: u32 = 128;

/// Elements from a token to the next in a panel of activations.
const STRIDE: u32 = STEP + 32;

/// Steps whose weights a lane has under way, at most. A panel's steps are a multiple of them.
const MOST_SLOTS: usize = 2;

/// Parts of a tile that a thread adds up at a time, at most.
const MOST_PARTS: usize = 8;

shared_array! {
    gemm_before: [u32; 1];
    // Of a block's tokens: which rows of x they are, or `ABSENT`, which of the outputs, and how many there are.
    gemm_sources: [u32; MOST_TOKENS];
    gemm_targets: [u32; MOST_TOKENS];
    gemm_n_tokens: [u32; 1];
}

/// Outputs of a warp's rows and a tile of tokens: a fragment of each 16 rows.
type Sums<const SIXTEENS: usize> = [[f32; 4]; SIXTEENS];

/// The product of one launch, a block's `TILES` times [`TOKENS`] tokens at most; see the module.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
pub unsafe fn gemm<W: Weights, const TILES: usize, const SIXTEENS: usize>(o: &Operands) {
    let lane = thread::lane();
    let (group, member, warp) = (lane / 4, lane % 4, thread::warp());
    // SAFETY: by the launch contract; said here so that no division is guarded by a panic.
    unsafe {
        core::hint::assert_unchecked(o.n_in >= CHUNK);
        core::hint::assert_unchecked(o.n_out > 0);
        core::hint::assert_unchecked(o.panel > 0);
    }
    let (n_steps, chunks) = (o.n_in.div_ceil(STEP), o.n_in / CHUNK);
    let shares = Shares { least: o.least, more: o.more };
    // SAFETY: as above.
    unsafe { core::hint::assert_unchecked(n_steps > 0) }
    let (begin, end) = (shares.begin(thread::block_idx_x()), shares.begin(thread::block_idx_x() + 1));
    let rows_of_step = TILES as u32 * TOKENS;
    let Some(task) = (unsafe { Task::of_block(o, rows_of_step) }) else { return };

    let source = W::source(global(o.weights), o.n_blocks);
    let first_of_warp = 16 * SIXTEENS as u32 * warp;
    let load = |place: Place| {
        // Rows and chunks beyond the matrix's end are the last ones, which do not count.
        let chunk = u32::min(place.unit * 4 + member, chunks - 1);
        [0, 1].map(
            #[inline(always)]
            |sixteen| {
                // One that is not the warp's is not loaded.
                let first = if sixteen < SIXTEENS as u32 { 16 * sixteen } else { 0 };
                let [upper, lower] = o.rows(place.tile * ROWS + first_of_warp + first, group).map(
                    #[inline(always)]
                    |row| (task.first_output + row) * chunks + chunk,
                );
                unsafe { Two { upper: W::load(source, upper), lower: W::load(source, lower) } }
            },
        )
    };
    let start = Place { tile: begin / n_steps, unit: begin % n_steps };
    // What is loaded stays in its registers until it is multiplied: a copy would wait for it.
    // A unit's slot is that of its number.
    let n_slots = const { if TILES * TOKENS as usize <= W::MOST_IN_SLOTS { MOST_SLOTS } else { 1 } };
    let (first, second) = (start, if n_slots == 1 { start } else { start.next(n_steps) });
    let [first, second] = if begin.is_multiple_of(2) { [first, second] } else { [second, first] };
    // One call after the other: a loop over them would have its results in local memory.
    let mut slots = [load(first), load(second)];
    unsafe { W::prepare() }
    o.begin();

    let token = thread::thread_idx_x();
    if token < rows_of_step {
        let [source, target] = unsafe { task.rows(o, token) };
        unsafe {
            gemm_targets().set(token, target);
            gemm_sources().set(token, source);
        }
        if token == 0 {
            unsafe { gemm_n_tokens().set(0, task.end_token - task.first_token) }
        }
    }
    thread::sync_threads();

    // Panels of activations take turns in two halves of the block's memory.
    let staged: Shared<F16> = shared::dynamic(0);
    let words: Shared<u32> = unsafe { staged.cast() };
    let half = o.panel * rows_of_step * STRIDE;
    // Sixteen threads copy a token's values of a step, a piece each: piece i of chunk t is in place 4 i + t.
    const PIECES: u32 = STEP / 8;
    let (first_row, piece) = (thread::thread_idx_x() / PIECES, thread::thread_idx_x() % PIECES);
    let at_once = const { threads(SIXTEENS) / PIECES };
    let target = first_row * STRIDE + 8 * (piece % 4 * 4 + piece / 4);
    let copy_panel = |first_unit: u32, first_step: u32, which: u32| {
        let (mut step, mut token, mut left) = (first_step, first_row, end - u32::min(first_unit, end));
        left = u32::min(left, o.panel) * rows_of_step;
        let (mut row, mut to) = (first_row, which * half + target);
        while row < left {
            while token >= rows_of_step {
                token -= rows_of_step;
                step = if step + 1 == n_steps { 0 } else { step + 1 };
            }
            let value = step * STEP + 8 * piece;
            let row_of_x = unsafe { gemm_sources().get(token) };
            let present = row_of_x != ABSENT && value < o.n_in;
            let from = if present { row_of_x as usize * o.n_in as usize + value as usize } else { 0 };
            unsafe { async_copy::copy_16(staged, to, o.x.wrapping_add(from), present) }
            to += at_once * STRIDE;
            row += at_once;
            token += at_once;
        }
        async_copy::commit();
    };
    // The step of the next panel's first unit.
    let skip = |step: u32| {
        let mut step = step + o.panel;
        while step >= n_steps {
            step -= n_steps;
        }
        step
    };

    let mut sums = [[[0.0; 4]; SIXTEENS]; TILES];
    let mut place = start;
    copy_panel(begin, start.unit, 0);
    let (mut unit, mut panel_end, mut which) = (begin, begin, 1);
    let mut word = 0;
    while unit < end {
        if unit == panel_end {
            async_copy::wait::<0>();
            thread::sync_threads();
            copy_panel(unit + o.panel, skip(place.unit), which);
            panel_end = u32::min(unit + o.panel, end);
            which ^= 1;
            word = (which * half + group * STRIDE) / 2 + 4 * member;
        }
        let stop = u32::min(unit + n_steps - place.unit, panel_end);
        while unit < stop {
            unroll(
                n_slots,
                #[inline(always)]
                |slot| {
                    if unit >= stop || unit % n_slots as u32 != slot as u32 {
                        return;
                    }
                    let chunk = u32::min(place.unit * 4 + member, chunks - 1);
                    let sixteens = slots[slot].map(
                        #[inline(always)]
                        |bits| Sixteen::<W>::new(bits, chunk),
                    );
                    let staged = |piece: usize| {
                        let mut pieces = [[0; 4]; TILES];
                        unroll(
                            TILES,
                            #[inline(always)]
                            |tile| {
                                let at = word + (tile as u32 * TOKENS * STRIDE + 32 * piece as u32) / 2;
                                pieces[tile] = unsafe { words.get_four(at) };
                            },
                        );
                        pieces
                    };
                    let mut pieces = staged(0);
                    unroll(
                        4,
                        #[inline(always)]
                        |piece| {
                            // A piece of activations is two products'. The next one's are on their way meanwhile, but where warps are
                            // many and registers few.
                            let ahead = SIXTEENS > 1;
                            if !ahead && piece > 0 {
                                pieces = staged(piece);
                            }
                            let next = if ahead && piece < 3 { staged(piece + 1) } else { pieces };
                            let mut half = 0;
                            while half < 2 {
                                let index = 2 * piece + half;
                                let weights = sixteens.map(
                                    #[inline(always)]
                                    |sixteen| sixteen.fragment(index, |bits| W::neighbours(bits, index)),
                                );
                                unroll(
                                    TILES,
                                    #[inline(always)]
                                    |tile| {
                                        let x = [pieces[tile][2 * half], pieces[tile][2 * half + 1]];
                                        let mut sixteen = 0;
                                        while sixteen < SIXTEENS {
                                            let sum = &mut sums[tile][sixteen];
                                            *sum = F16::multiply_add(weights[sixteen], x, *sum);
                                            sixteen += 1;
                                        }
                                    },
                                );
                                half += 1;
                            }
                            pieces = next;
                        },
                    );
                    let next = place.next(n_steps);
                    slots[slot] = load(if n_slots == 1 { next } else { next.next(n_steps) });
                    unit += 1;
                    place.unit += 1;
                    word += rows_of_step * STRIDE / 2;
                },
            );
        }
        if place.unit == n_steps || unit == end {
            // For what is written: where it was waited for before, it is over.
            grid::wait();
            unsafe { finish(o, shares, place.tile, n_steps, &sums) }
            sums = [[[0.0; 4]; SIXTEENS]; TILES];
            place = Place { tile: place.tile + 1, unit: 0 };
            if n_slots == 1 {
                // Once more, from a cache: adding up parts had the registers.
                slots[0] = load(place);
            }
        }
    }
}

/// Writes a tile's outputs, or leaves the block's part of them, and adds up all parts where it is the last. Collective over the block.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
unsafe fn finish<const TILES: usize, const SIXTEENS: usize>(
    o: &Operands,
    shares: Shares,
    tile: u32,
    n_steps: u32,
    sums: &[Sums<SIXTEENS>; TILES],
) {
    let (first, last) = (tile * n_steps, (tile + 1) * n_steps - 1);
    // Computed once more: a register less for the products.
    let (begin, end) = (shares.begin(thread::block_idx_x()), shares.begin(thread::block_idx_x() + 1));
    if begin <= first && last < end {
        unsafe { write(o, tile, sums) }
        return;
    }
    // A block's part that does not begin where the block does is its second.
    let row_of = |block: u32, begin: u32| {
        let part = u32::from(begin < first);
        let of_block = (thread::block_idx_y() * thread::grid_dim_x() + block) * PARTS + part;
        (of_block * (TILES * SIXTEENS) as u32 * threads(SIXTEENS) + thread::thread_idx_x()) as usize * 4
    };
    let mine = unsafe { o.partial.add(row_of(thread::block_idx_x(), begin)) };
    let next = const { 4 * threads(SIXTEENS) as usize };
    unroll(
        TILES * SIXTEENS,
        #[inline(always)]
        |index| {
            let words = Vector16(sums[index / SIXTEENS][index % SIXTEENS].map(f32::to_bits));
            unsafe { *mine.add(next * index).cast::<Vector16>() = words }
        },
    );
    let (first_block, last_block) = (shares.owner(first), shares.owner(last));
    let before = gemm_before();
    thread::sync_threads();
    if thread::thread_idx_x() == 0 {
        let counter = o.arrivals.wrapping_add((thread::block_idx_y() * o.n_tiles(ROWS) + tile) as usize);
        unsafe { before.set(0, atomic::increment_wrapping(counter, last_block - first_block)) }
    }
    thread::sync_threads();
    if unsafe { before.get(0) } != last_block - first_block {
        return;
    }
    let mut all = [[[0.0; 4]; SIXTEENS]; TILES];
    // As many parts at a time as there are registers for: their loads take one trip to the memory.
    let batch = const { if TILES * SIXTEENS == 1 { MOST_PARTS } else { 16 / (TILES * SIXTEENS) } };
    let mut block = first_block;
    while block <= last_block {
        let part = |of: usize| {
            let block = u32::min(block + of as u32, last_block);
            unsafe { o.partial.add(row_of(block, shares.begin(block))) }
        };
        unroll(
            TILES * SIXTEENS,
            #[inline(always)]
            |index| {
                let mut parts = [[0.0; 4]; MOST_PARTS];
                unroll(
                    batch,
                    #[inline(always)]
                    |of| parts[of] = unsafe { crate::gemv::activations::four(part(of).add(next * index)) },
                );
                unroll(
                    batch,
                    #[inline(always)]
                    |of| {
                        let there = block + of as u32 <= last_block;
                        let sum = &mut all[index / SIXTEENS][index % SIXTEENS];
                        let mut value = 0;
                        while value < 4 {
                            sum[value] += if there { parts[of][value] } else { 0.0 };
                            value += 1;
                        }
                    },
                );
            },
        );
        block += batch as u32;
    }
    unsafe { write(o, tile, &all) }
}

/// Writes the outputs of a tile of rows.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
unsafe fn write<const TILES: usize, const SIXTEENS: usize>(o: &Operands, tile: u32, sums: &[Sums<SIXTEENS>; TILES]) {
    let lane = thread::lane();
    let first = tile * ROWS + 16 * SIXTEENS as u32 * thread::warp();
    let n_tokens = unsafe { gemm_n_tokens().get(0) };
    let places = [gemm_sources(), gemm_targets()];
    // The next tile's sums move to where the first one's were: written for each tile of tokens, this would be much of the kernel.
    let (mut left, mut token, mut index) = (*sums, 2 * (lane % 4), 0);
    while index < TILES {
        unroll(
            SIXTEENS,
            #[inline(always)]
            |sixteen| {
                let row = o.output(first + 16 * sixteen as u32, lane / 4);
                unsafe { super::write::<true, 4>(o, row, token, n_tokens, places, left[0][sixteen]) }
            },
        );
        unroll(
            TILES,
            #[inline(always)]
            |tile| left[tile] = left[usize::min(tile + 1, TILES - 1)],
        );
        token += TOKENS;
        index += 1;
    }
}
