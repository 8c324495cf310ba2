//! Read-modify-write operations, `atom` and `red`.
//!
//! Lanes go one after another, lowest first, each through a compare-and-swap loop on the host's own atomics, so blocks
//! on other host threads are seen as on hardware.

use super::Context;
use super::lanes::{Lane, Operation, handlers, only};
use super::memory::{addresses, resolve};
use crate::program::{Control, Handlers, Instruction};
use crate::space::{Kind, lanes_of};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::SeqCst};

/// An integer that the host can change atomically.
pub(crate) trait Cell: Lane + Into<u64> {
    /// Replaces the value by `f` of it and returns what it was.
    ///
    /// # Safety
    /// `at` points to an aligned value that is only accessed atomically or by racy kernels.
    unsafe fn update(at: *mut Self, f: impl FnMut(Self) -> Self) -> Self;
}

macro_rules! cell {
    ($($t:ty: $atomic:ty;)*) => { $(
        impl Cell for $t {
            #[inline(always)]
            unsafe fn update(at: *mut $t, mut f: impl FnMut($t) -> $t) -> $t {
                // SAFETY: the caller's promise.
                let cell = unsafe { <$atomic>::from_ptr(at) };
                let mut old = cell.load(SeqCst);
                loop {
                    match cell.compare_exchange_weak(old, f(old), SeqCst, SeqCst) {
                        Ok(old) => return old,
                        Err(now) => old = now,
                    }
                }
            }
        }
    )* };
}
cell! { u16: AtomicU16; u32: AtomicU32; u64: AtomicU64; }

struct Atomic<F, T>(PhantomData<(F, T)>);

impl<F: Fn(T, T, T) -> T + Copy, T: Cell> Operation for Atomic<F, T> {
    #[inline(always)]
    fn run(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
        let addresses = addresses(ctx, ins, mask);
        let hosts = match resolve(ctx, ins, mask, &addresses, size_of::<T>() as u64, Kind::Atomic) {
            Ok(hosts) => hosts,
            Err(control) => return control,
        };
        let b = *ctx.lanes::<T>(ins.ops[2]);
        let c = *ctx.lanes::<T>(ins.ops[3]);
        let mut out = [T::default(); 32];
        let mut digest = 0u64;
        for l in lanes_of(mask) {
            // SAFETY: F is a function item or closure without captures (checked by `atomic`); `resolve` found an
            // aligned place for each lane in the mask.
            out[l] = unsafe { T::update(hosts.at[l] as *mut T, |old| (only(PhantomData::<F>))(old, b[l], c[l])) };
            digest = digest.wrapping_mul(31).wrapping_add(out[l].into());
        }
        ctx.put(ins.ops[1], &out, mask);
        ctx.after_strong(digest)
    }
}

/// `d = [a]; [a] = f(d, b, c)`; operands: address, d, b, c.
pub(crate) fn atomic<F: Fn(T, T, T) -> T + Copy, T: Cell>(_f: F) -> Handlers {
    handlers::<Atomic<F, T>>()
}
