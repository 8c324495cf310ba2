//! Kernels that use what cuda_std has.
#![no_std]

#[cfg(cuda_arch_at_least = "90")]
mod hopper;
#[cfg(cuda_arch_at_least = "90")]
mod tiles;

#[cfg(cuda_arch_at_least = "89")]
use cuda_std::types;
use cuda_std::{BF16, F16, atomic, fence, grid, kernel, printf, shared_array, thread, warp};

#[kernel]
pub unsafe fn warps(x: *const u32, y: *mut u32) {
    let l = thread::index_1d() as usize;
    let v = unsafe { *x.add(l) };
    let results = [
        warp::shuffle_bits(v, 5),
        warp::shuffle_xor_bits(v, 3),
        warp::shuffle_up_bits(v, 2),
        warp::shuffle_down_bits(v, 4),
        warp::ballot(v & 1 != 0),
        warp::any(v > 90) as u32 + 2 * warp::all(v < 100) as u32,
        warp::match_any(v & 7),
        warp::sum_u32(v),
        warp::min_u32(v),
        warp::max_u32(v),
        warp::max_i32(50 - v as i32) as u32,
        warp::xor_bits(v),
        (warp::wide((v as u64) << 33 | 1, |bits| warp::shuffle_bits(bits, 9)) >> 32) as u32,
        warp::same(v) as u32,
    ];
    for (i, value) in results.into_iter().enumerate() {
        unsafe { *y.add(14 * l + i) = value }
    }
}

#[kernel]
pub unsafe fn atomics(counts: *mut u32, sums: *mut f32, wide: *mut u64) {
    let i = thread::thread_idx_x() + 8 * (thread::thread_idx_y() + 2 * thread::thread_idx_z());
    let x = i as f32 * 0.5 - 3.0;
    unsafe {
        atomic::add_u32(counts, 2);
        atomic::max_u32(counts.add(1), i);
        atomic::or_u32(counts.add(2), 1 << (i % 32));
        atomic::add_f32(sums, 0.25);
        atomic::min_f32(sums.add(1), x);
        atomic::max_f32(sums.add(2), x);
        atomic::add_u64(wide, 1 << 40);
    }
}

#[kernel]
pub unsafe fn parameters(a: u8, b: i8, c: u16, d: i16, e: i64, f: f64, out: *mut f64) {
    unsafe { *out = a as f64 + b as f64 * 2.0 + c as f64 * 3.0 + d as f64 * 4.0 + e as f64 + f }
}

#[kernel]
pub unsafe fn prints(n: u32, scale: f32, big: u64) {
    let i = thread::thread_idx_x();
    if i < n {
        printf!(c"thread %d of %s: %.2f %llu\n", i, c"a block", scale * i as f32, big);
    }
}

#[kernel]
pub unsafe fn panics(x: *const u32, n: u32) {
    let i = thread::thread_idx_x();
    let v = unsafe { *x.add(i as usize) };
    assert!(v < n, "a value is too large");
}

#[kernel]
pub unsafe fn meets(acc: *mut u32, out: *mut u32) {
    unsafe {
        atomic::add_u32(acc, thread::thread_idx_x());
        grid::sync();
        if thread::thread_idx_x() == 0 {
            *out.add(thread::block_idx_x() as usize) = atomic::or_u32(acc, 0);
        }
    }
}

#[cfg(cuda_arch_at_least = "89")]
#[kernel]
pub unsafe fn eight_bits(x: *const f32, y: *mut f32, wide: *mut f32) {
    let i = 2 * thread::thread_idx_x() as usize;
    unsafe {
        let (a, b) = types::two_e4m3(types::pack_e4m3(*x.add(i), *x.add(i + 1)));
        (*y.add(i), *y.add(i + 1)) = (a, b);
        let (a, b) = types::two_e5m2(types::pack_e5m2(*x.add(i), *x.add(i + 1)));
        (*wide.add(i), *wide.add(i + 1)) = (a, b);
    }
}

/// Every axis, of a thread of each block: 12 words a thread.
#[kernel]
pub unsafe fn axes(out: *mut u32) {
    use thread::*;
    let block = block_idx_x() + grid_dim_x() * (block_idx_y() + grid_dim_y() * block_idx_z());
    let inner = thread_idx_x() + block_dim_x() * (thread_idx_y() + block_dim_y() * thread_idx_z());
    let at = block * block_dim_x() * block_dim_y() * block_dim_z() + inner;
    let all = [
        thread_idx_x(),
        thread_idx_y(),
        thread_idx_z(),
        block_dim_x(),
        block_dim_y(),
        block_dim_z(),
        block_idx_x(),
        block_idx_y(),
        block_idx_z(),
        grid_dim_x(),
        grid_dim_y(),
        grid_dim_z(),
    ];
    for (i, value) in all.into_iter().enumerate() {
        unsafe { *out.add(12 * at as usize + i) = value }
    }
}

#[kernel]
pub unsafe fn more_warps(x: *const u32, y: *mut u32) {
    let l = thread::lane() as usize;
    let v = unsafe { *x.add(l) };
    let f = v as f32;
    let results = [
        warp::shuffle(f, 5) as u32,
        warp::shuffle_xor(f, 3) as u32,
        warp::shuffle_up(f, 2) as u32,
        warp::shuffle_down(f, 4) as u32,
        warp::min_i32(v as i32 - 50) as u32,
        warp::and_bits(v | 0x100),
        warp::or_bits(v),
        warp::sum(f) as u32,
        warp::max(f) as u32,
        warp::sum_over(f, 8) as u32,
        warp::sum_four([f, 2.0 * f, 3.0 * f, 4.0 * f]) as u32,
        warp::uniform(v),
        thread::count_threads(v & 1 != 0),
        thread::warp(),
    ];
    warp::sync();
    for (i, value) in results.into_iter().enumerate() {
        unsafe { *y.add(14 * l + i) = value }
    }
}

#[kernel]
pub unsafe fn more_atomics(words: *mut u32, doubles: *mut f64, wide: *mut u64) {
    let i = thread::thread_idx_x();
    unsafe {
        atomic::add_i32(words.cast(), -1);
        atomic::min_u32(words.add(1), i);
        atomic::min_i32(words.add(2).cast(), -(i as i32));
        atomic::max_i32(words.add(3).cast(), i as i32 - 100);
        atomic::and_u32(words.add(4), !(1 << i));
        atomic::xor_u32(words.add(5), 3 << i);
        // The last to come finds what the one before it left: all numbers are handed on.
        atomic::add_u32(words.add(6), atomic::exchange_u32(words.add(7), i));
        atomic::compare_exchange_u32(words.add(8), 5, 77);
        atomic::increment_wrapping(words.add(9), 9);
        atomic::add_f64(doubles, 0.5);
        atomic::min_f64(doubles.add(1), i as f64 - 3.5);
        atomic::max_f64(doubles.add(2), i as f64 - 3.5);
        atomic::exchange_u64(wide, 1 << 40);
        atomic::compare_exchange_u64(wide.add(1), 1 << 33, 1 << 34);
    }
    fence::block();
    fence::device();
    fence::system();
}

/// out[i] = a · x[i] + b · steps[i % steps.len()].
#[kernel]
pub unsafe fn slices(a: F16, x: &[f32], out: *mut [f32], b: BF16, steps: *const [u64]) {
    let i = thread::index_1d() as usize;
    if i < out.len() {
        unsafe { (*out)[i] = a.to_f32() * x[i] + b.to_f32() * (*steps)[i % steps.len()] as f32 };
    }
}

shared_array! {
    bytes: [u8; 64];
    signed: [i16; 64], align = 64;
    longs: [i64; 64];
    doubles: [f64; 64], align = 1024;
    halves: [F16; 64];
}

/// What each thread puts into arrays of every element, its neighbour takes out. `addresses` gets where two of them begin.
#[kernel]
pub unsafe fn elements(out: *mut f64, offsets: *mut u32) {
    let i = thread::thread_idx_x();
    unsafe {
        bytes().set(i, i as u8);
        signed().set(i, -(i as i16));
        longs().set(i, (i as i64) << 40);
        doubles().set(i, 0.25 * i as f64);
        halves().set(i, F16::from_f32(0.5 * i as f32));
        thread::sync_threads();
        let j = (i + 1) % 64;
        let sum = bytes().get(j) as f64 + 1e3 * signed().get(j) as f64 + longs().get(j) as f64;
        *out.add(i as usize) = sum + doubles().get(j) + halves().get(j).to_f32() as f64;
        if i == 0 {
            *offsets = signed().address() % 64;
            *offsets.add(1) = doubles().address() % 1024;
        }
    }
}

/// A condition is asked before and behind what all threads do together.
macro_rules! asks_twice {
    ($($name:ident: $together:expr;)*) => {$(
        #[kernel]
        pub unsafe fn $name(out: *mut u32) {
            let i = thread::thread_idx_x();
            let mut mine = i;
            if i == 0 {
                mine += 5;
                unsafe { *out = 7 }
            }
            let together: fn(u32) -> u32 = $together;
            let others = together(mine);
            if i == 0 {
                unsafe { *out.add(1) = *out.add(2) + others }
            }
        }
    )*};
}

asks_twice! {
    asks_beside_a_barrier: |mine| { thread::sync_threads(); mine };
    asks_beside_a_count: |mine| thread::count_threads(mine > 3);
    asks_beside_a_warp_barrier: |mine| { warp::sync(); mine };
    asks_beside_a_shuffle: |mine| warp::shuffle_bits(mine, 3);
    asks_beside_a_ballot: |mine| warp::ballot(mine > 3);
    asks_beside_a_vote: |mine| warp::any(mine > 3) as u32;
    asks_beside_a_match: warp::match_any;
    asks_beside_a_sum: warp::sum_u32;
}
