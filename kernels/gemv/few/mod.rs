//! Products with a few vectors on tensor cores: a decoding step's of a few tokens, each of which says what it says alone.
//!
//! A weight is read once for up to [`VECTORS`] vectors. Integers of 8 bits multiply exactly, so whoever adds them up; what floats are made of
//! them is added up in the order in which [`gemv`](super::gemv) does it: there a lane has the sum of every 32nd chunk of a row, here an
//! accumulator has it. So the outputs have the bits of the product with each vector alone.
//!
//! Eight warps are a *team*, which makes sixteen rows at a time, and of each row warp `w` has the chunks of what are lanes 4 w to 4 w + 3 in
//! `gemv`. `mma.m16n8k32` has a row's chunk in the four lanes of a quad, four values to a lane; weights are loaded 16 bytes to a lane, so a quad
//! has four whole chunks. They need not change places: a column of the other matrix is one vector's integers beside one of the four chunks, and
//! zeros beside the others. Eight columns are two vectors, and tensor cores, which multiply four times as much as there is, have time for it.
//!
//! ```text
//!                                     column 0  1  2  3    4  5  6  7
//! row g      ─ lane 4 g + 0: chunk c      │ x  ·  ·  ·    y  ·  ·  ·
//! row g + 8    lane 4 g + 1: chunk c + 1  │ ·  x  ·  ·    ·  y  ·  ·      the sums of vector x with the four chunks of 16 rows,
//!              lane 4 g + 2: chunk c + 2  │ ·  ·  x  ·    ·  ·  y  ·      and of vector y
//!              lane 4 g + 3: chunk c + 3  │ ·  ·  ·  x    ·  ·  ·  y
//! ```
//!
//! Activations are staged as for [`many`](super::many), by its kernels, and copied to shared memory once by a block. Two teams are a block and
//! go through rows without waiting for each other; where a row is split between warps in `gemv`, a team takes its parts one after the other.
//!
//! What limits it is instructions, of which a tile of 16 rows and four chunks takes some 180, its part of the end included, and 36 more for each two vectors; and
//! latency, of which 16 warps hide more than eight with twice the registers did (`benches/results/2026-11-30-h200-few.md`).
//!
//! grid.y counts groups of up to [`VECTORS`] vectors, as many as shared memory has room for.

mod vectors;

use core::marker::PhantomData;

use cuda_std::{
    async_copy, grid,
    memory::global,
    mma,
    shared::{self, Shared},
    shared_array, thread,
    unroll::unroll,
    warp,
};

use super::{
    Operands,
    activations::{self, RUN, Scale},
    many::Together,
};
use crate::blocks::{Bytes, Planes};
use vectors::Vectors;
pub use vectors::shared_bytes;

/// The most vectors that a block multiplies a weight with.
pub const VECTORS: u32 = 8;

/// Twos of vectors, the columns of one `mma`.
const TWOS: usize = VECTORS as usize / 2;

/// Rows that a team makes at a time; with SwiGLU, eight of the gate's and eight of the up projection's.
pub const ROWS: u32 = 16;

/// Threads of a team: as many chunks at a time as a warp has lanes in [`gemv`](super::gemv), four to a warp.
const TEAM: u32 = 256;

/// Teams of a block.
const TEAMS: u32 = 2;

/// Threads of a block.
pub const THREADS: u32 = TEAM * TEAMS;

/// Chunks of a row that a team has at a time.
const CHUNKS: u32 = 32;

/// Values of a chunk.
const CHUNK: u32 = 2 * RUN;

/// Outputs of a tile: as many threads of a team have one each.
const OUTPUTS: u32 = ROWS * VECTORS;

/// Sums of integers begin here, so that their bits are a float's: 1.5 · 2^23 and a whole number.
const BASE: i32 = 0x4b40_0000;

shared_array! {
    // Of each warp, two of each in turns: a warp may write those of the next chunks while others still read these.
    gemv_few_sums: [f32; (TEAMS * 2 * 8 * OUTPUTS) as usize];
    // `[vector][16]`: a run of each vector's outputs.
    gemv_few_outputs: [f32; (TEAMS * VECTORS * RUN) as usize];
}

/// Where a team is on its way through tiles of rows, their parts, and the chunks of these: the same for all of its warps.
#[derive(Clone, Copy)]
struct At {
    /// Counted over all teams.
    tile: u32,
    /// Which warps of a split have the chunks in `gemv`.
    part: u32,
    /// The first of the team's chunks.
    chunk: u32,
}

/// The way.
#[derive(Clone, Copy)]
struct Way {
    chunks: u32,
    split: u32,
    /// Whether a team makes two tiles one after the other: a run of outputs, which is to be quantised.
    in_pairs: bool,
    /// From a team's last tile to its next.
    to_next: u32,
}

impl Way {
    /// What follows, and whether that is another part, and another tile.
    #[inline(always)]
    fn behind(&self, at: At) -> (At, bool, bool) {
        let chunk = at.chunk + (CHUNKS << self.split);
        if chunk < self.chunks {
            return (At { chunk, ..at }, false, false);
        }
        let part = at.part + 1;
        if part < 1 << self.split {
            return (At { part, chunk: CHUNKS * part, ..at }, true, false);
        }
        let tile = if self.in_pairs && at.tile.is_multiple_of(2) { at.tile + 1 } else { at.tile + self.to_next };
        (At { tile, part: 0, chunk: 0 }, true, true)
    }
}

/// A team at work.
struct Team<'a, B, const PARTS: usize> {
    operands: &'a Operands,
    together: &'a Together,
    planes: Planes,
    way: Way,
    /// What is loaded next, and the first chunks of the lane's rows there.
    next: At,
    rows: [u32; 2],
    /// What is multiplied next.
    now: At,
    /// The team's number.
    number: u32,
    /// The first of the block's vectors and how many there are.
    first_vector: u32,
    n_vectors: u32,
    /// Where the lane's part of the vectors is, of each part of these.
    x: [Place; PARTS],
    /// What the thread's output is multiplied by.
    factor: f32,
    /// By two vectors, and as `mma` has them.
    sums: [[f32; 4]; TWOS],
    total: f32,
    parity: u32,
    format: PhantomData<B>,
}

/// The warp's number in its team.
#[inline(always)]
fn warp_of_team() -> u32 {
    thread::warp() % const { TEAM / 32 }
}

/// Where a lane finds what it multiplies with, in words of shared memory.
#[derive(Clone, Copy)]
struct Place {
    /// Integers of the first two vectors' column that is the lane's, or zeros.
    integers: u32,
    /// From these to the next two vectors', and to the next chunk's.
    to_next: u32,
    to_chunk: u32,
    /// Scales of the first two vectors' sums that are the lane's.
    scales: u32,
    scales_to_next: u32,
}

impl Place {
    #[inline(always)]
    fn new(vectors: Vectors) -> Place {
        let (column, member) = (thread::lane() / 4, thread::lane() % 4);
        let chunk = 4 * warp_of_team();
        let is_mine = column % 4 == member;
        Place {
            integers: if is_mine {
                vectors.integers(column / 4) / 4 + CHUNK / 4 * (chunk + member)
            } else {
                vectors.zeros() / 4
            },
            to_next: if is_mine { vectors.stride() / 2 } else { 0 },
            to_chunk: if is_mine { CHUNK / 4 } else { 0 },
            scales: vectors.scales(member / 2) / 4 + 4 * (chunk + member % 2 * 2),
            scales_to_next: vectors.scale_stride() / 2,
        }
    }
}

impl<B: Bytes, const PARTS: usize> Team<'_, B, PARTS> {
    /// Outputs of a tile for each vector.
    #[inline(always)]
    fn outputs(operands: &Operands) -> u32 {
        if operands.to_up == 0 { ROWS } else { ROWS / 2 }
    }

    /// The lane's chunk of those that a team has at a time.
    #[inline(always)]
    fn chunk() -> u32 {
        4 * warp_of_team() + thread::lane() % 4
    }

    /// The first chunks of the lane's rows of a tile. Outputs past the end are the last one once more, and are not written.
    #[inline(always)]
    fn rows_of(operands: &Operands, chunks: u32, tile: u32) -> [u32; 2] {
        let first = tile * Self::outputs(operands) + thread::lane() / 4;
        [0, 1].map(
            #[inline(always)]
            |index| {
                let (output, up) =
                    if operands.to_up == 0 { (first + 8 * index, 0) } else { (first, index * operands.to_up) };
                let within = if output < operands.n_out { output } else { operands.n_out - 1 };
                operands.first_row.wrapping_add(within + up) * chunks
            },
        )
    }

    /// Loads a chunk of each of the lane's rows and goes on; past the end, and in a row's last step where lanes have none, chunks that count
    /// nowhere.
    #[inline(always)]
    unsafe fn load(&mut self) -> [B::Bits; 2] {
        let chunk = self.next.chunk + Self::chunk();
        let chunk = if chunk < self.way.chunks { chunk } else { self.way.chunks - 1 };
        let bits = self.rows.map(
            #[inline(always)]
            |row| unsafe { B::load(self.planes, row + chunk) },
        );
        let (next, _, ends_tile) = self.way.behind(self.next);
        if ends_tile {
            self.rows = Self::rows_of(self.operands, self.way.chunks, next.tile);
        }
        self.next = next;
        bits
    }

    /// Whether the way ends before a tile.
    #[inline(always)]
    fn is_past_end(&self, at: At) -> bool {
        at.tile * Self::outputs(self.operands) >= self.operands.n_out
    }

    /// Multiplies the chunks of a step; `true` after the last. Collective over the team.
    ///
    /// # Safety
    /// - The chunks are those of `now`; the activations are staged; the kernels' launch contract.
    #[inline(always)]
    unsafe fn step(&mut self, bits: [B::Bits; 2]) -> bool {
        let at = self.now;
        // The same for the warp. A four of chunks that is not whole has zeros behind it.
        if at.chunk + 4 * warp_of_team() < self.way.chunks {
            unsafe { self.multiply(bits) }
        }
        let (next, ends_part, ends_tile) = self.way.behind(at);
        self.now = next;
        if ends_part {
            unsafe { self.end_part(at.part) }
            if ends_tile {
                unsafe { self.finish(at.tile) }
            }
        }
        self.is_past_end(next)
    }

    /// Adds the products of a step's chunks to the sums.
    #[inline(always)]
    unsafe fn multiply(&mut self, bits: [B::Bits; 2]) {
        let memory: Shared<u32> = shared::dynamic(0);
        let (lane, chunk) = (thread::lane(), self.now.chunk);
        let a = bits.map(B::bytes);
        let scales = bits.map(
            #[inline(always)]
            |bits| B::scales(bits, chunk + Self::chunk()),
        );
        // Of the sums, a lane has those with two of the four chunks.
        let from = lane / 4 * 4 + lane % 2 * 2;
        let scales = scales.map(
            #[inline(always)]
            |scales| [of_lane::<B>(scales, from), of_lane::<B>(scales, from + 1)],
        );
        unroll(
            PARTS,
            #[inline(always)]
            |part| {
                let place = self.x[part];
                let integers = place.integers + place.to_chunk * chunk;
                let scales_of_x = place.scales + 4 * chunk;
                unroll(
                    TWOS,
                    #[inline(always)]
                    |two| {
                        // The same for the block.
                        if 2 * (two as u32) < self.n_vectors {
                            let integers = integers + two as u32 * place.to_next;
                            let scales_of_x = scales_of_x + two as u32 * place.scales_to_next;
                            let products = [0, 1].map(
                                #[inline(always)]
                                |run| {
                                    let x = unsafe { memory.get_four(integers + 4 * run) };
                                    let run = run as usize;
                                    products(a[0][run], a[1][run], x)
                                },
                            );
                            let x = [0, 1].map(
                                #[inline(always)]
                                |index| {
                                    let [a, b, c, d] = unsafe { memory.get_four(scales_of_x + 4 * index) };
                                    let of =
                                        |scale, sum| Scale { scale: f32::from_bits(scale), sum: f32::from_bits(sum) };
                                    [of(a, b), of(c, d)]
                                },
                            );
                            self.sums[two] = [0, 1, 2, 3].map(
                                #[inline(always)]
                                |index: usize| {
                                    let (row, of) = (index / 2, index % 2);
                                    let of_runs = [products[0][index], products[1][index]];
                                    B::scaled(scales[row][of], x[of], of_runs, self.sums[two][index])
                                },
                            );
                        }
                    },
                );
            },
        );
    }

    /// Adds up a part of rows: its sums are those of a warp of a split in `gemv`.
    #[inline(always)]
    unsafe fn end_part(&mut self, part: u32) {
        // Of what are lanes of a warp there, those 2 apart are added first, then neighbours, then those 4, 8 and 16 apart.
        let is_odd = !thread::lane().is_multiple_of(2);
        let of_warp = self.sums.map(
            #[inline(always)]
            |[a, b, c, d]| {
                let both = |sum: f32| sum + warp::shuffle_xor(sum, 1);
                let (first, second) = (both(a) + both(b), both(c) + both(d));
                if is_odd { second } else { first }
            },
        );
        self.sums = [[0.0; 4]; TWOS];
        let shared = gemv_few_sums();
        let first = (2 * self.number + self.parity) * 8 * OUTPUTS;
        self.parity ^= 1;
        let thread = thread::thread_idx_x() % TEAM;
        unsafe { shared.set_four(first + 4 * thread, of_warp) }
        thread::sync_groups::<TEAM>(1 + self.number);
        if thread < OUTPUTS {
            let of = |warp: u32| unsafe { shared.get(first + warp * OUTPUTS + thread) };
            let sum = ((of(0) + of(1)) + (of(2) + of(3))) + ((of(4) + of(5)) + (of(6) + of(7)));
            self.total = if part == 0 { sum } else { self.total + sum };
        }
    }

    /// Writes a tile's outputs, of which the first threads of the team have one's sum each. Collective over the team.
    #[inline(always)]
    unsafe fn finish(&self, tile: u32) {
        let Operands { bias, residual, out, quantised_out, n_out, to_up, .. } = *self.operands;
        let thread = thread::thread_idx_x() % TEAM;
        let (row, upper, vector) = (thread / 16, thread / 4 % 2, vector_of(thread));
        if thread < OUTPUTS {
            let mut sum = self.total * self.factor;
            let output = tile * Self::outputs(self.operands) + row + if to_up == 0 { 8 * upper } else { 0 };
            if to_up != 0 {
                // Rows from 8 on are the up projection's.
                let up = warp::shuffle_xor(sum, 4);
                sum = crate::glu::silu(sum) * up;
            }
            if vector < self.n_vectors && output < n_out && (to_up == 0 || upper == 0) {
                if quantised_out.is_null() {
                    let at = (self.first_vector + vector) as usize * self.together.out_stride as usize;
                    let at = at + output as usize;
                    unsafe {
                        if !bias.is_null() {
                            sum += *bias.add(output as usize);
                        }
                        if !residual.is_null() {
                            sum += *residual.add(at);
                        }
                        *out.add(at) = sum;
                    }
                } else {
                    let first = (self.number * VECTORS + vector) * RUN;
                    unsafe { gemv_few_outputs().set(first + tile % 2 * 8 + row, sum) }
                }
            }
        }
        // A run is two tiles'.
        if !quantised_out.is_null() && !tile.is_multiple_of(2) {
            thread::sync_groups::<TEAM>(1 + self.number);
            if thread < 32 {
                unsafe { self.quantise(quantised_out, tile / 2) }
            }
        }
    }

    /// Writes run `run` of each vector's outputs on as 8-bit integers with their scale. Collective over a warp.
    #[inline(always)]
    unsafe fn quantise(&self, out: *mut u32, run: u32) {
        let (vector, quarter) = (thread::lane() / 4, thread::lane() % 4);
        let first = (self.number * VECTORS + vector) * RUN + 4 * quarter;
        let of = |index| unsafe { gemv_few_outputs().get(first + index) };
        let values = [0, 1, 2, 3].map(|index| if vector < self.n_vectors { of(index) } else { 0.0 });
        let (word, scale) = activations::quantise(values, 4);
        let n_out = self.operands.n_out;
        let out = out.wrapping_add(((self.first_vector + vector) * activations::words_q8(n_out)) as usize);
        if vector < self.n_vectors {
            unsafe {
                *out.add((4 * run + quarter) as usize) = word;
                if quarter == 0 {
                    let scales = out.add((n_out / 4 + 2 * run) as usize);
                    *scales = scale.scale.to_bits();
                    *scales.add(1) = scale.sum.to_bits();
                }
            }
        }
    }
}

/// The vector of a thread's output: neighbours in a quad have sums of the same two vectors.
#[inline(always)]
fn vector_of(thread: u32) -> u32 {
    thread % 4 * 2 + thread / 8 % 2
}

/// The product of one launch with 8-bit activations, or of `PARTS` = 2 with 16-bit ones; see the module.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
pub unsafe fn gemv_few<B: Bytes, const PARTS: usize>(operands: &Operands, together: Together) {
    let Operands { n_in, split, .. } = *operands;
    const { assert!(B::CHUNK == CHUNK) }
    unsafe { B::prepare() }
    let number = thread::thread_idx_x() / TEAM;
    let in_pairs = !operands.quantised_out.is_null();
    let (first, all) = (number * thread::grid_dim_x() + thread::block_idx_x(), TEAMS * thread::grid_dim_x());
    let (tile, to_next) = if in_pairs { (2 * first, 2 * all - 1) } else { (first, all) };
    let way = Way { chunks: n_in / CHUNK, split, in_pairs, to_next };
    let start = At { tile, part: 0, chunk: 0 };
    let first_vector = thread::block_idx_y() * together.group;
    let n_vectors = u32::min(together.n_vectors - first_vector, together.group);
    let high = Vectors::new(0, n_vectors, n_in);
    let low = Vectors::new(high.end(), n_vectors, n_in);
    let mut team = Team::<B, PARTS> {
        operands,
        together: &together,
        planes: Planes::of::<B>(global(operands.weights), operands.n_blocks),
        way,
        next: start,
        rows: Team::<B, PARTS>::rows_of(operands, way.chunks, tile),
        now: start,
        number,
        first_vector,
        n_vectors,
        x: core::array::from_fn(|part| Place::new(if part == 0 { high } else { low })),
        factor: 1.0,
        sums: [[0.0; 4]; TWOS],
        total: 0.0,
        parity: 0,
        format: PhantomData,
    };
    // A team that has no tile loads the last rows, and does nothing with them.
    let mut bits = unsafe { team.load() };
    grid::launch_dependents();
    grid::wait();

    let x = operands.quantised_x.wrapping_add(first_vector as usize * together.x_stride as usize);
    unsafe {
        high.copy(x, n_vectors, together.x_stride, n_in);
        if PARTS == 2 {
            low.copy(x.add((n_in / 8 * 3) as usize), n_vectors, together.x_stride, n_in);
        }
        let vector = vector_of(thread::thread_idx_x() % TEAM);
        if !together.factors.is_null() && vector < n_vectors {
            team.factor = *together.factors.add((first_vector + vector) as usize);
        }
    }
    async_copy::commit();
    async_copy::wait::<0>();
    thread::sync_threads();
    if team.is_past_end(start) {
        return;
    }
    // Two steps in turns, so that what is loaded never changes its registers.
    loop {
        let other = unsafe { team.load() };
        if unsafe { team.step(bits) } {
            return;
        }
        bits = unsafe { team.load() };
        if unsafe { team.step(other) } {
            return;
        }
    }
}

/// Σ q · x of a run of two rows with the eight columns: sixteen values of a chunk, which the other lanes of a quad have zeros beside.
#[inline(always)]
fn products(first: [u32; 4], second: [u32; 4], x: [u32; 4]) -> [f32; 4] {
    let half = mma::multiply_add_8([first[0], second[0], first[1], second[1]], [x[0], x[1]], [BASE; 4]);
    let both = mma::multiply_add_8([first[2], second[2], first[3], second[3]], [x[2], x[3]], half);
    both.map(|sum| f32::from_bits(sum.cast_unsigned()) - const { f32::from_bits(BASE as u32) })
}

/// The scales that lane `from` has.
#[inline(always)]
fn of_lane<B: Bytes>(scales: [u32; 3], from: u32) -> [u32; 3] {
    let mut of_lane = scales;
    unroll(
        B::SCALES,
        #[inline(always)]
        |word| of_lane[word] = warp::shuffle_bits(scales[word], from),
    );
    of_lane
}
