//! Kernels that use what only Hopper has.

use cuda_std::mbarrier::Barrier;
use cuda_std::wgmma::{self, AcrossK, AlongK, Matrix, Swizzle};
use cuda_std::{BF16, F16, bulk, cluster, fence, kernel, shared, shared_array, thread};

shared_array! {
    words: [u32; 64];
    sums: [f32; 1];
    signal: [u64; 2];
    tile: [f32; 256];
    doubled: [f32; 256];
}

/// Where each block is in its cluster and each cluster in the grid: 14 words a block.
#[kernel]
pub unsafe fn places(out: *mut u32) {
    use cluster::*;
    let block = thread::block_idx_x() + thread::grid_dim_x() * thread::block_idx_y();
    let all = [
        block_idx_x(),
        block_idx_y(),
        block_idx_z(),
        dim_x(),
        dim_y(),
        dim_z(),
        idx_x(),
        idx_y(),
        idx_z(),
        grid_dim_x(),
        grid_dim_y(),
        grid_dim_z(),
        rank(),
        size(),
    ];
    for (i, value) in all.into_iter().enumerate() {
        unsafe { *out.add(14 * block as usize + i) = value }
    }
}

/// Every block reads, writes, adds to and is told by others of its cluster. `out` is `[blocks][64 + 4]`.
#[kernel]
pub unsafe fn distributed(out: *mut u32) {
    let (i, rank, size) = (thread::thread_idx_x(), cluster::rank(), cluster::size());
    let barrier = unsafe { Barrier::at(signal(), 0) };
    let next = (rank + 1) % size;
    unsafe {
        words().set(i, 1000 * rank + i);
        if i == 0 {
            sums().set(0, 0.0);
            barrier.init(64);
            fence::barrier_init();
        }
        cluster::sync();
        let out = out.add((68 * thread::block_idx_x()) as usize);
        *out.add(i as usize) = cluster::map(words(), next).get(i);
        cluster::map(sums(), 0).add(0, 0.5);
        cluster::arrive();
        cluster::wait();
        if i == 0 {
            cluster::map(words(), next).set(5, 77 + rank);
            cluster::map(words(), 0).max(6, 5000 + rank);
        }
        cluster::sync();
        if i == 0 {
            *out.add(64) = words().get(5);
            *out.add(65) = cluster::map(words(), 0).get(6);
            *out.add(66) = cluster::map(sums(), 0).get(0) as u32;
        }
        // Each thread of the block before arrives at this block's barrier. Others have read this block's words.
        cluster::sync();
        words().set(i, 0);
        cluster::sync();
        cluster::map(words(), next).set(i, i + rank);
        barrier.arrive_at(next);
        barrier.wait_for_cluster(0);
        if i == 0 {
            *out.add(67) = words().get(63);
        }
        cluster::sync();
    }
}

/// out[i] = 2 x[i], tile by tile of 256: one thread brings tiles by bulk copies, all double them, one copies them back; the sum of
/// the tiles is added to `total`.
#[kernel]
pub unsafe fn double_tiles(x: *const f32, out: *mut f32, total: *mut f32, tiles: u32, waits: u32) {
    let i = thread::thread_idx_x();
    let barrier = unsafe { Barrier::at(signal(), 0) };
    if i == 0 {
        barrier.init(1);
        fence::barrier_init();
        unsafe { bulk::prefetch_l2(x, 1024) };
    }
    thread::sync_threads();
    let mut at = 0;
    while at < tiles {
        if i == 0 {
            barrier.arrive_expecting(1024);
            unsafe {
                bulk::copy_to_shared(tile(), 0, x.add(256 * at as usize), 512, barrier);
                bulk::copy_to_shared(tile(), 128, x.add(256 * at as usize + 128), 512, barrier);
            }
        }
        if waits != 0 {
            barrier.wait(at & 1);
        }
        unsafe { doubled().set(i, 2.0 * tile().get(i)) };
        fence::proxy_async();
        thread::sync_threads();
        if i == 0 {
            unsafe {
                bulk::copy_to_global(out.add(256 * at as usize), doubled(), 0, 1024);
                bulk::add_to_global(total, doubled(), 0, 1024);
            }
            bulk::commit();
            bulk::wait_read::<0>();
        }
        thread::sync_threads();
        at += 1;
    }
    if i == 0 {
        bulk::wait::<0>();
    }
}

/// Block 0 of a cluster brings 64 words to all of it, then each sends them on to the next. `out` is `[blocks][2][64]`.
#[kernel]
pub unsafe fn spread(x: *const u32, out: *mut u32) {
    let (i, rank, size) = (thread::thread_idx_x(), cluster::rank(), cluster::size());
    let (first, second) = unsafe { (Barrier::at(signal(), 0), Barrier::at(signal(), 1)) };
    let passed = unsafe { tile().cast::<u32>() };
    if i == 0 {
        first.init(1);
        second.init(1);
        fence::barrier_init();
        first.arrive_expecting(256);
        second.expect(256);
        second.arrive();
    }
    cluster::sync();
    if i == 0 && rank == 0 {
        unsafe { bulk::copy_to_blocks(words(), 0, x, 256, first, (1 << size) - 1) };
    }
    first.wait(0);
    let next = (rank + 1) % size;
    if i == 0 {
        let target = cluster::map(passed, next);
        unsafe { bulk::copy_to_block(target, 0, words(), 0, 256, second, next) };
    }
    while !second.test(0) {}
    unsafe {
        let out = out.add((128 * thread::block_idx_x()) as usize);
        *out.add(i as usize) = words().get(i);
        *out.add(64 + i as usize) = passed.get(i);
    }
    cluster::sync();
    if i == 0 {
        first.invalidate();
    }
}

/// The threads of one block hand values round by a barrier that counts them, which Ampere has.
#[kernel]
pub unsafe fn rounds(out: *mut u32, n: u32) {
    let i = thread::thread_idx_x();
    let barrier = unsafe { Barrier::at(signal(), 0) };
    if i == 0 {
        barrier.init(64);
    }
    thread::sync_threads();
    let mut round = 0;
    let mut sum = 0;
    while round < n {
        // Two halves of the array in turn: who is a round ahead writes to the other one.
        let half = unsafe { tile().cast::<u32>() };
        let first = 64 * (round & 1);
        unsafe { half.set(first + i, i * (round + 1)) };
        barrier.arrive();
        barrier.wait(round & 1);
        sum += unsafe { half.get(first + (i + 1) % 64) };
        round += 1;
    }
    unsafe { *out.add(i as usize) = sum };
}

macro_rules! products {
    ($($name:ident($element:ty, $sum:ty, $n:literal, $steps:literal, $swizzle:expr, $b_major:ty, $in_registers:literal);)*) => {$(
        /// d = a · b, with `a` of `[64][steps · K]`, in registers or shared memory, `b` of `[n][steps · K]` or `[steps · K][n]`, `d` of `[64][n]`. 128 threads.
        #[kernel]
        pub unsafe fn $name(a: *const $element, b: *const $element, d: *mut $sum, keeps_first: u32) {
            const K: u32 = $steps * <$element as wgmma::Factor>::K;
            const SIZE: u32 = size_of::<$element>() as u32;
            const SWIZZLE: Swizzle = $swizzle;
            const SPAN: u32 = SWIZZLE.span() / SIZE;
            let across = <$b_major as wgmma::Major<$element>>::TRANSPOSED != 0;
            // Spans in order: a matrix of `rows` by `width` is cut into columns of spans.
            let put = |target: shared::Shared<$element>, from: *const $element, rows: u32, width: u32| {
                let mut i = thread::thread_idx_x();
                while i < rows * width {
                    let (row, column) = (i / width, i % width);
                    let place = SWIZZLE.place::<$element>(column / SPAN * rows + row, column % SPAN);
                    unsafe { target.set(place, *from.add(i as usize)) };
                    i += 128;
                }
            };
            let (left, right) = (shared::dynamic::<$element>(0), shared::dynamic::<$element>(64 * K * SIZE));
            put(left, a, 64, K);
            if across { put(right, b, K, $n) } else { put(right, b, $n, K) }
            fence::proxy_async();
            thread::sync_threads();
            let mut sums = [2 as $sum; $n / 2];
            wgmma::fence(&mut sums);
            // Eight rows of a span each; the next span of the row.
            let eight = 8 * SPAN * SIZE;
            for step in 0..$steps {
                let first = step * <$element as wgmma::Factor>::K;
                let along = |rows: u32| first / SPAN * rows * SPAN + first % SPAN;
                unsafe {
                    let keeps = step > 0 || keeps_first != 0;
                    if $in_registers {
                        // Words of the warp's rows, as a warp's own products have them.
                        let word = |of: u32| {
                            let row = 16 * thread::warp() + thread::lane() / 4 + of % 2 * 8;
                            let byte = (row * K + first) * SIZE + of / 2 * 16 + thread::lane() % 4 * 4;
                            *a.cast::<u32>().add(byte as usize / 4)
                        };
                        let mut a = [[word(0), word(1), word(2), word(3)]];
                        wgmma::fence_left(&mut a);
                        let b = Matrix::<$element, $b_major>::new(right, 0, $n * SPAN * SIZE, eight, SWIZZLE);
                        wgmma::multiply_add_left(&mut sums, a[0], b.further(along($n) * SIZE), keeps);
                        wgmma::commit();
                        wgmma::wait_for_left::<0>();
                        continue;
                    }
                    let a = Matrix::<$element, AlongK>::new(left, along(64), 64 * SPAN * SIZE, eight, SWIZZLE);
                    if across {
                        // Rows of K, one after another; the columns of spans are K spans apart.
                        let (spans, next) = (K * SPAN * SIZE, eight);
                        let (leading, stride) = if SWIZZLE.span() == 16 { (next, spans) } else { (spans, next) };
                        let b = Matrix::<$element, $b_major>::new(right, first * SPAN, leading, stride, SWIZZLE);
                        wgmma::multiply_add(&mut sums, a, b, keeps);
                    } else {
                        let b = Matrix::<$element, $b_major>::new(right, along($n), $n * SPAN * SIZE, eight, SWIZZLE);
                        wgmma::multiply_add(&mut sums, a, b, keeps);
                    }
                }
            }
            wgmma::commit();
            wgmma::wait::<0, _>(&mut sums);
            let (warp, group, member) = (thread::warp(), thread::lane() / 4, thread::lane() % 4);
            cuda_std::unroll::unroll($n / 8, #[inline(always)] |j| {
                cuda_std::unroll::unroll(4, #[inline(always)] |i| {
                    let row = 16 * warp + group + 8 * (i as u32 / 2);
                    let column = 2 * member + i as u32 % 2 + 8 * j as u32;
                    unsafe { *d.add((row * $n + column) as usize) = sums[4 * j + i] }
                });
            });
        }
    )*};
}

products! {
    product_f16_8(F16, f32, 8, 2, Swizzle::None, AlongK, false);
    product_f16_64(F16, f32, 64, 4, Swizzle::Bytes128, AlongK, false);
    product_f16_64_across(F16, f32, 64, 4, Swizzle::Bytes128, AcrossK, false);
    product_f16_16_across(F16, f32, 16, 2, Swizzle::None, AcrossK, false);
    product_bf16_32(BF16, f32, 32, 4, Swizzle::Bytes64, AlongK, false);
    product_bf16_128_across(BF16, f32, 128, 2, Swizzle::Bytes32, AcrossK, false);
    product_i8_16(i8, i32, 16, 2, Swizzle::Bytes32, AlongK, false);
    product_u8_32(u8, i32, 32, 4, Swizzle::Bytes128, AlongK, false);
    product_f16_32_of_registers(F16, f32, 32, 4, Swizzle::Bytes128, AlongK, true);
    product_i8_8_of_registers(i8, i32, 8, 2, Swizzle::None, AlongK, true);
}

/// A condition is asked before and behind a cluster's barrier.
#[kernel]
pub unsafe fn asks_beside_a_cluster_barrier(out: *mut u32) {
    let i = thread::thread_idx_x();
    if i == 0 {
        unsafe { *out = 7 }
    }
    cluster::sync();
    if i == 0 {
        unsafe { *out.add(1) = *out.add(2) }
    }
}
