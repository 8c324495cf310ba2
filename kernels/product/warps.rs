//! Warps by themselves: products are those of `mma.m16n8k16`, with the matrix's rows as its 16 and the tokens as its 8.
//!
//! Eight warps have 32 of the block's rows and half of its tokens each. Three panels take turns: while one is multiplied, two are on their way.

use cuda_std::{
    async_copy,
    mma::{self, Operand},
    shared::Shared,
    thread,
    unroll::unroll,
};

use super::{COLUMNS, Copying, Geometry, Operands, PIECE, PIECES, ROWS, panel, panels, ring_bytes, write};

/// How the kernels for few, for more and for many tokens share their work. The last two do so alike: more sums do not fit into a warp's registers.
pub const GEOMETRIES: [Geometry; 3] = [geometry(64), geometry(128), geometry(128)];

const fn geometry(tokens: u32) -> Geometry {
    Geometry { tokens: tokens as usize, threads: THREADS, shared_bytes: ring_bytes(PANELS, tokens) }
}

/// Threads of a block.
const THREADS: u32 = 256;

/// Panels of the ring.
const PANELS: u32 = 3;

/// Times 16 rows of a warp.
const SIXTEENS: usize = 2;

/// The product of one launch, a block's rows with two times `TILES` times eight tokens at most; see the module.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
pub unsafe fn product<T: Operand, const TILES: usize>(o: &Operands<T>) {
    let (lane, warp) = (thread::lane(), thread::warp());
    let tokens = const { 16 * TILES as u32 };
    let (first_row, first_token) = (ROWS * thread::block_idx_y(), tokens * thread::block_idx_x());
    let matrix = unsafe { Copying::new(o.matrix, first_row, o.n_out, o.n_in, thread::thread_idx_x()) };
    let x = unsafe { Copying::new(o.x, first_token, o.n_tokens, o.n_in, thread::thread_idx_x()) };
    let shared: Shared<T> = panels();
    // A panel past the end is zeros, which nobody reads: every turn has a group.
    let start = |column: u32, turn: u32| {
        let at = turn * const { panel(16 * TILES as u32) };
        unsafe {
            matrix.start::<THREADS, { ROWS as usize }>(shared, at, column);
            match TILES {
                4 => x.start::<THREADS, 64>(shared, at + ROWS * COLUMNS, column),
                _ => x.start::<THREADS, 128>(shared, at + ROWS * COLUMNS, column),
            }
        }
        async_copy::commit();
    };
    let next = |turn: u32| if turn + 1 == PANELS { 0 } else { turn + 1 };

    // Where the warp's rows and tokens are in their parts of a panel, and which rows of the matrices of 8 × 8 this lane names.
    let (row_of_warp, token_of_warp) = (32 * (warp % 4), 8 * TILES as u32 * (warp / 4));
    let (row_of_lane, half_of_lane) = (lane % 16, lane / 16);
    let (token_of_lane, half_of_token) = (lane % 8 + lane / 16 * 8, lane / 8 % 2);
    let place = |row: u32, piece: u32| row * COLUMNS + (piece ^ (row % PIECES)) * PIECE;

    start(0, 0);
    start(COLUMNS, 1);
    let mut sums = [[[0.0; 4]; SIXTEENS]; TILES];
    let (mut column, mut turn, mut ahead) = (0, 0, 2);
    while column < o.n_in {
        async_copy::wait::<1>();
        thread::sync_threads();
        start(column + 2 * COLUMNS, ahead);
        let rows = turn * const { panel(16 * TILES as u32) };
        let xs = rows + ROWS * COLUMNS;
        unroll(
            const { COLUMNS as usize / 16 },
            #[inline(always)]
            |step| {
                let step = 2 * step as u32;
                let mut weights = [[0; 4]; SIXTEENS];
                unroll(
                    SIXTEENS,
                    #[inline(always)]
                    |sixteen| {
                        let row = row_of_warp + 16 * sixteen as u32 + row_of_lane;
                        weights[sixteen] =
                            unsafe { mma::load_matrices(shared, rows + place(row, step + half_of_lane)) };
                    },
                );
                unroll(
                    TILES / 2,
                    #[inline(always)]
                    |two| {
                        let token = token_of_warp + 16 * two as u32 + token_of_lane;
                        let [a, b, c, d] =
                            unsafe { mma::load_matrices(shared, xs + place(token, step + half_of_token)) };
                        unroll(
                            SIXTEENS,
                            #[inline(always)]
                            |sixteen| {
                                let [first, second] = [[a, b], [c, d]];
                                let sum = &mut sums[2 * two][sixteen];
                                *sum = T::multiply_add(weights[sixteen], first, *sum);
                                let sum = &mut sums[2 * two + 1][sixteen];
                                *sum = T::multiply_add(weights[sixteen], second, *sum);
                            },
                        );
                    },
                );
            },
        );
        (turn, ahead) = (next(turn), next(ahead));
        column += COLUMNS;
    }
    let row = first_row + row_of_warp + lane / 4;
    let token = first_token + token_of_warp + 2 * (lane % 4);
    unroll(
        TILES * SIXTEENS,
        #[inline(always)]
        |index| {
            let (tile, sixteen) = (index / SIXTEENS, index % SIXTEENS);
            unsafe { write(o, row + 16 * sixteen as u32, token + 8 * tile as u32, sums[tile][sixteen]) }
        },
    );
}
