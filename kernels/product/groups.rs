//! Two groups of four warps that multiply with `wgmma`, and a last group that copies panels for both.
//!
//! A group has 64 of the block's rows and all of its tokens: matrix and activations are both in shared memory, sums in registers. A panel's products
//! run on while the next panel's are started. Panels are full or empty by two barriers each.
//!
//! Registers are the multiplying groups': the last one gives up most of its.

use cuda_std::{
    F16, async_copy, fence, shared_array, thread,
    unroll::unroll,
    wgmma::{self, Accumulator, AlongK, Factor, Major, Matrix, Registers, Swizzle},
};

use super::{COLUMNS, Copying, Geometry, Operands, ROWS, panel, panels, ring::Ring, ring_bytes, write};

/// How the kernels for few, for more and for many tokens share their work.
pub const GEOMETRIES: [Geometry; 3] = [geometry(64), geometry(128), geometry(256)];

const fn geometry(tokens: u32) -> Geometry {
    Geometry {
        tokens: tokens as usize,
        threads: GROUP * (GROUPS + 1),
        shared_bytes: ring_bytes(n_panels(tokens), tokens),
    }
}

/// Groups that multiply.
const GROUPS: u32 = 2;

/// Threads of a group.
const GROUP: u32 = 128;

/// The most panels of a ring.
const MOST_PANELS: u32 = 8;

/// Panels of the ring with so many tokens: they have 192 KiB.
const fn n_panels(tokens: u32) -> u32 {
    (192 << 10) / (panel(tokens) * size_of::<F16>() as u32)
}

shared_array! {
    // A panel is full, and is empty.
    product_full: [u64; MOST_PANELS as usize];
    product_empty: [u64; MOST_PANELS as usize];
}

/// The product of one launch, a block's rows with `PARTS` times 2 · `HALF` tokens at most; see the module.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
pub unsafe fn product<T, const HALF: usize, const PARTS: usize>(o: &Operands<T>)
where
    T: Factor,
    AlongK: Major<T>,
    [f32; HALF]: Accumulator<T> + Registers,
{
    if thread::thread_idx_x() == 0 {
        unsafe { Ring::<MOST_PANELS>::set_up(product_full(), GROUP, product_empty(), 4 * GROUPS) }
    }
    thread::sync_threads();
    match 2 * HALF * PARTS {
        64 => unsafe { in_ring::<T, HALF, PARTS, 64, { n_panels(64) }, { n_panels(64) - 2 }>(o) },
        128 => unsafe { in_ring::<T, HALF, PARTS, 128, { n_panels(128) }, { n_panels(128) - 2 }>(o) },
        _ => unsafe { in_ring::<T, HALF, PARTS, 256, { n_panels(256) }, { n_panels(256) - 2 }>(o) },
    }
}

/// # Safety
/// - As [`product`]'s.
#[inline(always)]
unsafe fn in_ring<T, const HALF: usize, const PARTS: usize, const TOKENS: usize, const PANELS: u32, const AHEAD: u32>(
    o: &Operands<T>,
) where
    T: Factor,
    AlongK: Major<T>,
    [f32; HALF]: Accumulator<T> + Registers,
{
    if thread::thread_idx_x() < GROUP * GROUPS {
        // What the three groups have together stays: 3 · 168.
        wgmma::take_registers::<240>();
        unsafe { multiply::<T, HALF, PARTS, PANELS>(o) }
    } else {
        wgmma::give_registers::<24>();
        unsafe { bring::<T, TOKENS, PANELS, AHEAD>(o) }
    }
}

/// What the groups that multiply do.
///
/// # Safety
/// - As [`product`]'s.
#[inline(always)]
unsafe fn multiply<T, const HALF: usize, const PARTS: usize, const PANELS: u32>(o: &Operands<T>)
where
    T: Factor,
    AlongK: Major<T>,
    [f32; HALF]: Accumulator<T> + Registers,
{
    let tokens = const { 2 * HALF as u32 };
    let (group, lane) = (thread::thread_idx_x() / GROUP, thread::lane());
    let mut ring = Ring::<PANELS>::FULL;
    // More than 128 tokens' are not one array: the compiler would put it into memory.
    let mut sums = [[0.0_f32; HALF]; PARTS];
    let mut column = 0;
    while column < o.n_in {
        unsafe { ring.wait(product_full()) }
        let first = ring.panel * const { panel(2 * (HALF * PARTS) as u32) };
        let rows = first + 64 * COLUMNS * group;
        let matrix: Matrix<T> = unsafe { Matrix::new(panels(), rows, 0, 1024, Swizzle::Bytes128) };
        let x: Matrix<T> = unsafe { Matrix::new(panels(), first + ROWS * COLUMNS, 0, 1024, Swizzle::Bytes128) };
        each_part(&mut sums, |_, sums| wgmma::fence(sums));
        unroll(
            const { COLUMNS as usize / 16 },
            #[inline(always)]
            |step| {
                each_part(
                    &mut sums,
                    #[inline(always)]
                    |part, sums| unsafe {
                        let (of_step, of_part) = (32 * step as u32, 128 * tokens * part as u32);
                        wgmma::multiply_add(sums, matrix.further(of_step), x.further(of_part + of_step), true)
                    },
                );
            },
        );
        wgmma::commit();
        // The warp's of the panel before are done: for it that is empty.
        each_part(&mut sums, |_, sums| wgmma::wait::<1, _>(sums));
        if column > 0 && lane == 0 {
            unsafe { ring.before().arrive(product_empty()) }
        }
        ring = ring.next();
        column += COLUMNS;
    }
    let row = ROWS * thread::block_idx_y() + 16 * thread::warp() + lane / 4;
    let token = PARTS as u32 * tokens * thread::block_idx_x() + 2 * (lane % 4);
    each_part(
        &mut sums,
        #[inline(always)]
        |part, sums| {
            wgmma::wait::<0, _>(sums);
            unroll(
                HALF / 4,
                #[inline(always)]
                |index| {
                    let four = [0, 1, 2, 3].map(
                        #[inline(always)]
                        |value| sums[4 * index + value],
                    );
                    unsafe { write(o, row, token + tokens * part as u32 + 8 * index as u32, four) }
                },
            );
        },
    );
}

/// Does something with each part of the sums, which stay in registers.
#[inline(always)]
fn each_part<const HALF: usize, const PARTS: usize>(
    sums: &mut [[f32; HALF]; PARTS],
    mut with: impl FnMut(usize, &mut [f32; HALF]),
) {
    unroll(
        PARTS,
        #[inline(always)]
        |part| with(part, &mut sums[part]),
    );
}

/// What the last group does: up to `AHEAD` panels' copies are under way.
///
/// # Safety
/// - As [`product`]'s.
#[inline(always)]
unsafe fn bring<T, const TOKENS: usize, const PANELS: u32, const AHEAD: u32>(o: &Operands<T>) {
    let thread = thread::thread_idx_x() - GROUP * GROUPS;
    let (first_row, first_token) = (ROWS * thread::block_idx_y(), TOKENS as u32 * thread::block_idx_x());
    let matrix = unsafe { Copying::new(o.matrix, first_row, o.n_out, o.n_in, thread) };
    let x = unsafe { Copying::new(o.x, first_token, o.n_tokens, o.n_in, thread) };
    // Panels are empty in the beginning. Of those that were started `come` is the oldest that nobody was told of.
    let (mut ring, mut come) = (Ring::<PANELS>::EMPTY, Ring::<PANELS>::FULL);
    let (mut column, mut pending) = (0, 0);
    while column < o.n_in {
        unsafe { ring.wait(product_empty()) }
        let at = ring.panel * const { panel(TOKENS as u32) };
        unsafe {
            matrix.start::<GROUP, { ROWS as usize }>(panels(), at, column);
            x.start::<GROUP, TOKENS>(panels(), at + ROWS * COLUMNS, column);
        }
        async_copy::commit();
        if pending == AHEAD {
            async_copy::wait::<AHEAD>();
            fence::proxy_async_shared();
            unsafe { come.arrive(product_full()) }
            come = come.next();
        } else {
            pending += 1;
        }
        ring = ring.next();
        column += COLUMNS;
    }
    async_copy::wait::<0>();
    fence::proxy_async_shared();
    while pending > 0 {
        unsafe { come.arrive(product_full()) }
        come = come.next();
        pending -= 1;
    }
}
