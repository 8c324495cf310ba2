//! Kernels that use what cuda_std has.
#![no_std]

#[cfg(cuda_arch_at_least = "90")]
mod hopper;

use cuda_std::{atomic, grid, kernel, printf, thread, types, warp};

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

#[kernel]
pub unsafe fn eight_bits(x: *const f32, y: *mut f32) {
    let i = 2 * thread::thread_idx_x() as usize;
    unsafe {
        let (a, b) = types::two_e4m3(types::pack_e4m3(*x.add(i), *x.add(i + 1)));
        (*y.add(i), *y.add(i + 1)) = (a, b);
    }
}
