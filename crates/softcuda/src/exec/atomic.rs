//! Read-modify-write operations, `atom` and `red`.
//!
//! Lanes go one after another, lowest first, each through a compare-and-swap loop on the host's own atomics, so blocks
//! on other host threads are seen as on hardware.

use super::Context;
use super::lanes::{Lane, Operation, handlers, only};
use super::memory::{addresses, find, resolve};
use crate::numeric::{canonical, from_bfloat, from_half, maximum, minimum, to_bfloat, to_half};
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
    fn run<const WIDE: bool>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
        let hosts = match find::<WIDE>(ctx, ins, mask, size_of::<T>() as u64, Kind::Atomic) {
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

/// How a vector's elements are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Combination {
    Add,
    Minimum,
    Maximum,
}

/// The elements of a vector atomic: 32 bits with one f32 or two halves, or 16 bits with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    Single,
    Half,
    Bfloat,
    HalfPair,
    BfloatPair,
}

/// `atom` and `red` of a vector.
#[derive(Clone, Debug)]
pub(crate) struct Vector {
    pub(crate) how: Combination,
    pub(crate) element: Element,
    /// Registers of what was there, none for `red`, and of the values.
    pub(crate) old: Vec<crate::program::Reg>,
    pub(crate) values: Vec<crate::program::Reg>,
}

fn combine(how: Combination, element: Element, old: u32, value: u32) -> u32 {
    let pick = |a: f32, b: f32| match how {
        Combination::Add => a + b,
        Combination::Minimum => minimum(a, b),
        Combination::Maximum => maximum(a, b),
    };
    let half = |a: u32, b: u32| to_half(pick(from_half(a as u16), from_half(b as u16))) as u32;
    let bfloat = |a: u32, b: u32| to_bfloat(pick(from_bfloat(a as u16), from_bfloat(b as u16))) as u32;
    match element {
        Element::Single => canonical(pick(f32::from_bits(old), f32::from_bits(value))).to_bits(),
        Element::Half => half(old, value),
        Element::Bfloat => bfloat(old, value),
        Element::HalfPair => half(old, value) | half(old >> 16, value >> 16) << 16,
        Element::BfloatPair => bfloat(old, value) | bfloat(old >> 16, value >> 16) << 16,
    }
}

/// A vector of elements, each by itself; operands: address. `ops[7]`: the index of the [`Vector`].
pub(crate) fn vector(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let program = ctx.program;
    let Vector { how, element, old, values } = &program.vectors[ins.ops[7] as usize];
    let size = if matches!(element, Element::Half | Element::Bfloat) { 2 } else { 4 };
    let addresses = addresses(ctx, ins, mask);
    let hosts = match resolve(ctx, ins, mask, &addresses, size * values.len() as u64, Kind::Atomic) {
        Ok(hosts) => hosts,
        Err(control) => return control,
    };
    for (k, &reg) in values.iter().enumerate() {
        let mut out = [0u32; 32];
        for l in lanes_of(mask) {
            let at = hosts.at[l] + size * k as u64;
            // SAFETY: `resolve` found an aligned place for each lane in the mask.
            out[l] = unsafe {
                if size == 2 {
                    let value = ctx.lanes::<u16>(reg)[l] as u32;
                    u16::update(at as *mut u16, |old| combine(*how, *element, old as u32, value) as u16) as u32
                } else {
                    let value = ctx.lanes::<u32>(reg)[l];
                    u32::update(at as *mut u32, |old| combine(*how, *element, old, value))
                }
            };
        }
        match (old.get(k), size) {
            (Some(&d), 2) => ctx.put(d, &out.map(|v| v as u16), mask),
            (Some(&d), _) => ctx.put(d, &out, mask),
            (None, _) => {}
        }
    }
    Control::Next
}

/// `atom.exch.b128`, and with `ops[4]` not 0 `atom.cas.b128`; operands: address, d, b, c. Atomic towards each other.
pub(crate) fn wide(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let addresses = addresses(ctx, ins, mask);
    let hosts = match resolve(ctx, ins, mask, &addresses, 16, Kind::Atomic) {
        Ok(hosts) => hosts,
        Err(control) => return control,
    };
    let (b, c) = (*ctx.lanes::<u128>(ins.ops[2]), *ctx.lanes::<u128>(ins.ops[3]));
    let mut out = [0u128; 32];
    {
        let _turn = ctx.facts.reductions.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for l in lanes_of(mask) {
            let at = hosts.at[l] as *mut u128;
            // SAFETY: `resolve` found 16 bytes for each lane in the mask.
            let old = unsafe { at.read_unaligned() };
            out[l] = old;
            let new = match ins.ops[4] {
                0 => b[l],
                _ if old == b[l] => c[l],
                _ => old,
            };
            // SAFETY: as above.
            unsafe { at.write_unaligned(new) };
        }
    }
    ctx.put(ins.ops[1], &out, mask);
    let digest = lanes_of(mask).fold(0u64, |digest, l| digest.wrapping_mul(31).wrapping_add(out[l] as u64));
    ctx.after_strong(digest)
}
