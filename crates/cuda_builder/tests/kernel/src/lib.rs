//! A kernel for `tests/line_tables.rs`: functions that are inlined into one another, a loop and a branch.

#![no_std]
#![feature(abi_ptx, asm_experimental_arch, stdarch_nvptx)]

use core::arch::nvptx::{_block_dim_x, _block_idx_x, _thread_idx_x};

#[inline(always)]
unsafe fn load(x: *const f32, at: u32) -> f32 {
    unsafe { x.add(at as usize).read() }
}

#[inline(always)]
unsafe fn sum(x: *const f32, from: u32, step: u32, n: u32) -> f32 {
    let (mut at, mut total) = (from, 0.0);
    while at < n {
        total += unsafe { load(x, at) };
        at += step;
    }
    total
}

#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn partial_sums(x: *const f32, out: *mut f32, n: u32) {
    let (thread, step) = unsafe { (_block_idx_x() as u32 * _block_dim_x() as u32 + _thread_idx_x() as u32, 64) };
    let total = unsafe { sum(x, thread, step, n) };
    if thread < step {
        unsafe { out.add(thread as usize).write(if total > 1.0 { load(x, 0) } else { total }) };
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
