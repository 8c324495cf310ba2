//! Loads and stores of up to four elements per lane, over the addresses that [`super::memory`] finds.

use super::lanes::{Lane, Operation, each_lane, handlers, put_apart};
use super::memory::{Row, STRONG, addresses, find, resolve_row};
use super::{Context, FULL};
use crate::fault::{Fault, FaultKind};
use crate::program::{Control, Handlers, Instruction};
use crate::space::{Kind, Space, lanes_of};
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// How a value of memory becomes a value of a register.
pub(crate) trait Widen<R>: Copy {
    fn widen(self) -> R;
}

/// How a value of a register becomes a value of memory.
pub(crate) trait Narrow<M>: Copy {
    fn narrow(self) -> M;
}

macro_rules! widen {
    ($($m:ty => $($r:ty)*;)*) => { $($(
        impl Widen<$r> for $m {
            #[inline(always)]
            fn widen(self) -> $r { self as $r }
        }
        impl Narrow<$m> for $r {
            #[inline(always)]
            fn narrow(self) -> $m { self as $m }
        }
    )*)* };
}
widen! {
    u8 => u16 u32 u64;
    i8 => u16 u32 u64;
    u16 => u16 u32 u64;
    i16 => u32 u64;
    u32 => u32 u64;
    i32 => u64;
    u64 => u64;
    u128 => u128;
}

struct Load<M, R, const V: usize>(PhantomData<(M, R)>);

impl<M: Widen<R>, R: Lane, const V: usize> Operation for Load<M, R, V> {
    #[inline(always)]
    fn run<const WIDE: bool>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
        let bytes = (size_of::<M>() * V) as u64;
        if mask == FULL
            && ins.flags & STRONG == 0
            && let Some(row) = resolve_row::<WIDE>(ctx, ins, bytes, false)
        {
            // SAFETY: `resolve_row` found `bytes` readable bytes at each of the row's addresses.
            unsafe { load_row::<M, R, V, WIDE>(ctx, ins, row) };
            return Control::Next;
        }
        let hosts = match find::<WIDE>(ctx, ins, mask, bytes, Kind::Load) {
            Ok(hosts) => hosts,
            Err(control) => return control,
        };
        if mask == FULL && ins.flags & STRONG == 0 {
            // SAFETY: `find` found `bytes` readable bytes at each lane's address.
            if WIDE && unsafe { four_words::<M, R, V>(ctx, ins, |l| hosts.at[l]) } {
                return Control::Next;
            }
            for k in 0..V {
                let row = ctx.lanes_mut::<R>(ins.ops[1 + k]);
                each_lane!(WIDE, |l| {
                    // SAFETY: `find` found `bytes` readable bytes at each lane's address.
                    row[l] = unsafe { (hosts.at[l] as *const M).add(k).read_unaligned() }.widen();
                });
            }
            return Control::Next;
        }
        let mut out = [[R::default(); 32]; V];
        each_lane!(WIDE, |l| {
            for k in 0..V {
                // SAFETY: `find` found `bytes` readable bytes at each lane's address.
                out[k][l] = unsafe { (hosts.at[l] as *const M).add(k).read_unaligned() }.widen();
            }
        });
        let strong = ins.flags & STRONG != 0;
        let mut digest = 0u64;
        for (k, row) in out.iter().enumerate() {
            if WIDE {
                ctx.put(ins.ops[1 + k], row, mask);
            } else {
                put_apart(ctx, ins.ops[1 + k], row, mask);
            }
            if strong {
                digest = digest.wrapping_mul(31).wrapping_add(bits_sum(row));
            }
        }
        if strong { ctx.after_strong(digest) } else { Control::Next }
    }
}

/// Loads in all lanes from addresses that go up by equal steps.
///
/// # Safety
/// There must be `V * size_of::<M>()` readable bytes at each address of the row.
#[inline(always)]
unsafe fn load_row<M: Widen<R>, R: Lane, const V: usize, const WIDE: bool>(
    ctx: &mut Context,
    ins: &Instruction,
    row: Row,
) {
    let Row { first, stride } = row;
    if !WIDE {
        each_lane!(false, |l| {
            // SAFETY: the caller's promise.
            let values = unsafe { ((first + l as u64 * stride) as *const [M; V]).read_unaligned() };
            for k in 0..V {
                ctx.lanes_mut::<R>(ins.ops[1 + k])[l] = values[k].widen();
            }
        });
        return;
    }
    if stride == 0 {
        // SAFETY: the caller's promise.
        let values = unsafe { (first as *const [M; V]).read_unaligned() };
        for (k, value) in values.into_iter().enumerate() {
            *ctx.lanes_mut::<R>(ins.ops[1 + k]) = [value.widen(); 32];
        }
        return;
    }
    // SAFETY: the caller's promise.
    if unsafe { four_words::<M, R, V>(ctx, ins, |l| first + l as u64 * stride) } {
        return;
    }
    // Eight lanes at a time.
    for start in (0..32).step_by(8) {
        let mut part = [[R::default(); 8]; V];
        if V == 1 && stride == size_of::<M>() as u64 {
            let at = first as *const M;
            // SAFETY: the caller's promise; the values lie one after another.
            let values = unsafe { at.add(start).cast::<[M; 8]>().read_unaligned() };
            for l in 0..8 {
                part[0][l] = values[l].widen();
            }
        } else {
            for l in 0..8 {
                // SAFETY: the caller's promise.
                let values = unsafe { ((first + (start + l) as u64 * stride) as *const [M; V]).read_unaligned() };
                for k in 0..V {
                    part[k][l] = values[k].widen();
                }
            }
        }
        for (k, part) in part.iter().enumerate() {
            ctx.lanes_mut::<R>(ins.ops[1 + k])[start..start + 8].copy_from_slice(part);
        }
    }
}

/// Loads four words in each lane, and says whether that is what the instruction does and this CPU has a way of its own for.
///
/// # Safety
/// There must be `V * size_of::<M>()` readable bytes at each lane's address, and the CPU is one for wide handlers.
#[inline(always)]
unsafe fn four_words<M, R: Lane, const V: usize>(
    ctx: &mut Context,
    ins: &Instruction,
    at: impl Fn(usize) -> u64,
) -> bool {
    #[cfg(target_arch = "x86_64")]
    if size_of::<M>() == 4 && size_of::<R>() == 4 && V == 4 {
        let rows = [1, 2, 3, 4].map(|k| ctx.lanes_mut::<u32>(ins.ops[k]).as_mut_ptr());
        // SAFETY: the caller's promise; the rows are registers.
        unsafe { super::vectors::load_four_words(|l| at(l) as *const u8, rows) };
        return true;
    }
    let _ = (ctx, ins, at);
    false
}

fn bits_sum<R: Lane>(row: &[R; 32]) -> u64 {
    // SAFETY: a `Lane` has no padding, so its bytes can be read.
    let bytes = unsafe { std::slice::from_raw_parts(row.as_ptr() as *const u8, size_of::<[R; 32]>()) };
    bytes.iter().fold(0, |sum, &b| sum.wrapping_mul(131).wrapping_add(b as u64))
}

struct Store<M, R, const V: usize>(PhantomData<(M, R)>);

impl<M: Copy + 'static, R: Lane + Narrow<M>, const V: usize> Operation for Store<M, R, V> {
    #[inline(always)]
    fn run<const WIDE: bool>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
        let bytes = (size_of::<M>() * V) as u64;
        if mask == FULL
            && let Some(Row { first, stride }) = resolve_row::<WIDE>(ctx, ins, bytes, true)
        {
            for k in 0..V {
                let row = ctx.lanes::<R>(ins.ops[1 + k]);
                if WIDE && V == 1 && stride == bytes {
                    // A copy, so that the compiler need not ask whether it stores into the register.
                    let (row, mut values) = (*row, MaybeUninit::<[M; 32]>::uninit());
                    for l in 0..32 {
                        // SAFETY: there is room for 32 values.
                        unsafe { values.as_mut_ptr().cast::<M>().add(l).write(row[l].narrow()) };
                    }
                    // SAFETY: all 32 were written; `resolve_row` found `32 * bytes` writable bytes from the first address.
                    unsafe { (first as *mut [M; 32]).write_unaligned(values.assume_init()) };
                    continue;
                }
                each_lane!(WIDE, |l| {
                    let at = (first + l as u64 * stride) as *mut M;
                    // SAFETY: `resolve_row` found `bytes` writable bytes at each lane's address.
                    unsafe { at.add(k).write_unaligned(row[l].narrow()) };
                });
            }
            return Control::Next;
        }
        if ctx.sanitizer.is_some()
            && let Some(addresses) = descending(ctx, ins, mask)
        {
            let (mut values, size) = ([[0u8; 16]; 32], size_of::<M>());
            for k in 0..V.min(16 / size) {
                let row = ctx.lanes::<R>(ins.ops[1 + k]);
                each_lane!(false, |l| {
                    let value: M = row[l].narrow();
                    // SAFETY: M is a plain integer of `size` bytes, and `(k + 1) * size` is at most 16.
                    unsafe {
                        std::ptr::copy_nonoverlapping(
                            (&raw const value).cast(),
                            values[l].as_mut_ptr().add(k * size),
                            size,
                        )
                    };
                });
            }
            if let Err(control) = same_byte_twice(ctx, ins, mask, &addresses, &values, bytes) {
                return control;
            }
        }
        let hosts = match find::<WIDE>(ctx, ins, mask, bytes, Kind::Store) {
            Ok(hosts) => hosts,
            Err(control) => return control,
        };
        for l in lanes_of(mask) {
            for k in 0..V {
                let value = ctx.lanes::<R>(ins.ops[1 + k])[l].narrow();
                // SAFETY: `find` found `bytes` writable bytes at each lane's address.
                unsafe { (hosts.at[l] as *mut M).add(k).write_unaligned(value) };
            }
        }
        Control::Next
    }
}

/// The addresses, where not each lane's is higher than the one before: only then can two be the same.
#[inline(never)]
fn descending(ctx: &Context, ins: &Instruction, mask: u32) -> Option<[u64; 32]> {
    let addresses = addresses(ctx, ins, mask);
    let mut last = None;
    let ascending = lanes_of(mask).all(|l| last.replace(addresses[l]).is_none_or(|last| last < addresses[l]));
    (!ascending).then_some(addresses)
}

/// Two lanes of one store that write different values to the same place.
#[cold]
#[inline(never)]
fn same_byte_twice(
    ctx: &mut Context,
    ins: &Instruction,
    mask: u32,
    addresses: &[u64; 32],
    values: &[[u8; 16]; 32],
    bytes: u64,
) -> Result<(), Control> {
    if Space::of(ins.flags) == Space::Local {
        return Ok(());
    }
    for l in lanes_of(mask) {
        let earlier = lanes_of(mask & ((1 << l) - 1))
            .find(|&m| addresses[m] == addresses[l] && values[m][..bytes as usize] != values[l][..bytes as usize]);
        if let Some(m) = earlier {
            if Space::of(ins.flags) == Space::Generic && Space::classify(addresses[l]).0 == Space::Local {
                continue;
            }
            let other = ctx.location(ins.line, m as u32).thread;
            let message = format!(
                "this thread and thread ({},{},{}) store different values to {bytes} bytes at {:#x} in the same instruction",
                other[0], other[1], other[2], addresses[l]
            );
            return ctx.report(ins, 1 << l, Fault::new(FaultKind::Race, message));
        }
    }
    Ok(())
}

/// A load of `V` elements per lane; operands: address, then the destinations.
pub(crate) fn load<M: Widen<R> + 'static, R: Lane, const V: usize>() -> Handlers {
    handlers::<Load<M, R, V>>()
}

/// A store of `V` elements per lane; operands: address, then the values.
pub(crate) fn store<M: Copy + 'static, R: Lane + Narrow<M>, const V: usize>() -> Handlers {
    handlers::<Store<M, R, V>>()
}
