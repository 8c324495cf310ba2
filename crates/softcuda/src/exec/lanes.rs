//! Operations that act on each lane by itself.
//!
//! [`map1`], [`map2`] and [`map3`] turn a function of one lane's values into a pair of [`Handlers`]; [`compare`] does it
//! for functions to a truth value. The function is compiled into a loop over the 32 lanes, once for the baseline CPU and
//! once with AVX2, FMA, F16C and BMI2, so that for example `f32::mul_add` is one instruction there and a call into the
//! maths library here, with the same result.
//!
//! All lanes are computed, whatever the mask, and the result is blended in; so these functions must be total. They and what they
//! call must be `#[inline(always)]`, and go through lanes by loops: `map` and `from_fn` of arrays were calls, once a lane, where the
//! whole program is optimised at once, and a product ten times as slow.
//!
//! There are some 750 of these handlers, most of a program that has softcuda inside. On x86-64 those for the baseline CPU, which no
//! processor since 2013 needs, are kept small: a loop that goes through the lanes one after the other ([`each_lane`]).

use super::{Context, FULL};
use crate::program::{Control, Handlers, Instruction};
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// A value of one lane.
///
/// # Safety
/// Every bit pattern is a value, and there is no padding.
pub(crate) unsafe trait Lane: Copy + Default + 'static {}

macro_rules! lane {
    ($($t:ty)*) => { $(
        // SAFETY: a primitive number takes any bits and has no padding.
        unsafe impl Lane for $t {}
    )* };
}
lane!(u16 u32 u64 u128 i16 i32 i64 f32 f64);

/// `a` in the lanes of `mask`, `b` in the others. Bits are chosen with bits, which becomes vector instructions.
#[inline(always)]
pub(crate) fn blend<T: Lane>(a: &[T; 32], b: &[T; 32], mask: u32) -> [T; 32] {
    macro_rules! words {
        ($word:ty) => {{
            let (a, b) = ((a as *const [T; 32]).cast::<[$word; 32]>(), (b as *const [T; 32]).cast::<[$word; 32]>());
            // SAFETY: a `Lane` has no padding, and as many bytes, aligned likewise, as the word.
            let (a, b) = unsafe { (*a, *b) };
            let mut out = [0 as $word; 32];
            // A vector's lanes at a time.
            for (part, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let mask = mask >> (8 * part);
                for l in 0..8 {
                    let chosen = (0 as $word).wrapping_sub((mask >> l & 1) as $word);
                    out[l] = a[8 * part + l] & chosen | b[8 * part + l] & !chosen;
                }
            }
            // SAFETY: as above, and any bits are a `Lane`.
            unsafe { (&raw const out).cast::<[T; 32]>().read() }
        }};
    }
    match size_of::<T>() {
        2 => words!(u16),
        4 => words!(u32),
        8 => words!(u64),
        _ => std::array::from_fn(|l| if mask >> l & 1 != 0 { a[l] } else { b[l] }),
    }
}

/// Work for the lanes of a warp. `run` must be `#[inline(always)]`, so that it is compiled with its caller's features. `WIDE`: it may take
/// the room that fast code takes, and the CPU is one of [`wide_is_supported`] where there are wide handlers at all.
pub(crate) trait Operation {
    fn run<const WIDE: bool>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control;
}

#[cfg(target_arch = "x86_64")]
fn portable<O: Operation>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    O::run::<false>(ctx, ins, mask)
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt"))]
fn wide<O: Operation>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    O::run::<true>(ctx, ins, mask)
}

/// A number that the compiler is not to know anything of.
#[inline(always)]
pub(super) fn unknown(number: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        let mut number = number;
        // SAFETY: there is no instruction in it. `std::hint::black_box` would be one store and one load.
        unsafe { std::arch::asm!("/* {0} */", inout(reg) number, options(pure, nomem, nostack, preserves_flags)) };
        number
    }
    #[cfg(not(target_arch = "x86_64"))]
    number
}

/// Does something for each of the 32 lanes: where `$wide`, in a loop for the compiler to unroll and to vectorise, otherwise in one that it
/// cannot.
macro_rules! each_lane {
    ($wide:expr, |$l:ident| $body:expr) => {
        if $wide {
            for $l in 0..32 {
                $body;
            }
        } else {
            let mut $l = 0;
            while $l < 32 {
                $body;
                $l = $crate::exec::lanes::unknown($l + 1);
            }
        }
    };
}
pub(super) use each_lane;

/// Whether this CPU can run the wide handlers.
pub(crate) fn wide_is_supported() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Both versions of an operation.
pub(crate) const fn handlers<O: Operation>() -> Handlers {
    Handlers {
        #[cfg(target_arch = "x86_64")]
        portable: portable::<O>,
        #[cfg(not(target_arch = "x86_64"))]
        portable: wide::<O>,
        wide: wide::<O>,
    }
}

/// A handler that gains nothing from wide instructions.
pub(crate) const fn plain(handler: for<'a> fn(&mut Context<'a>, &Instruction, u32) -> Control) -> Handlers {
    Handlers { portable: handler, wide: handler }
}

/// Makes a value of a function type that has exactly one. Only for operations made by a function that was given one.
#[inline(always)]
pub(super) fn only<F: Copy>(_function: PhantomData<F>) -> F {
    const { assert!(size_of::<F>() == 0, "a lane function captures nothing") };
    // SAFETY: F has size 0, so the read touches no memory; F is Copy and the maker of the operation was given a value, so
    // this is a copy of that.
    unsafe { std::ptr::NonNull::<F>::dangling().as_ptr().read() }
}

/// [`Context::put`], of which handlers that are to be small share one for each type.
#[inline(never)]
pub(super) fn put_apart<T: Lane>(ctx: &mut Context, reg: u32, value: &[T; 32], mask: u32) {
    ctx.put(reg, value, mask);
}

/// Computes `$value`, of type `$d`, for each lane `$l` and puts it into the destination, the first operand. `$row` names
/// the value of the operand numbered `$i` in lane `$l`. A macro, because a closure might not be inlined, and would then not
/// be compiled with its caller's features.
macro_rules! lanewise {
    ($ctx:ident, $ins:ident, $mask:ident, $d:ty, [$($row:ident: $t:ty = $i:expr),*], |$l:ident| $value:expr) => {{
        if !WIDE {
            let mut out = [<$d>::default(); 32];
            $(let $row = $ctx.lanes::<$t>($ins.ops[$i]);)*
            each_lane!(false, |$l| {
                $(let $row = $row[$l];)*
                out[$l] = $value;
            });
            put_apart($ctx, $ins.ops[0], &out, $mask);
            return Control::Next;
        }
        // Copies, so that the compiler need not ask whether the destination is one of the sources.
        $(let $row: [$t; 32] = *$ctx.lanes::<$t>($ins.ops[$i]);)*
        let mut spare = MaybeUninit::<[$d; 32]>::uninit();
        let to: *mut [$d; 32] = match $mask {
            FULL => $ctx.lanes_mut::<$d>($ins.ops[0]),
            _ => spare.as_mut_ptr(),
        };
        let mut out = [<$d>::default(); 32];
        for $l in 0..32 {
            $(let $row = $row[$l];)*
            out[$l] = $value;
        }
        // SAFETY: `to` is the register's row or `spare`.
        unsafe { to.write(out) };
        if $mask != FULL {
            // SAFETY: it was written just now.
            let out = unsafe { spare.assume_init() };
            $ctx.put($ins.ops[0], &out, $mask);
        }
        Control::Next
    }};
}

struct Copied<T>(PhantomData<T>);

impl<T: Lane> Operation for Copied<T> {
    #[inline(always)]
    fn run<const WIDE: bool>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
        let value = *ctx.lanes::<T>(ins.ops[1]);
        ctx.put(ins.ops[0], &value, mask);
        Control::Next
    }
}

/// `d = a`; operands: d, a.
pub(crate) fn copied<T: Lane>() -> Handlers {
    handlers::<Copied<T>>()
}

struct Map1<F, A, D>(PhantomData<(F, A, D)>);

impl<F: Fn(A) -> D + Copy, A: Lane, D: Lane> Operation for Map1<F, A, D> {
    #[inline(always)]
    fn run<const WIDE: bool>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
        let f = only(PhantomData::<F>);
        lanewise!(ctx, ins, mask, D, [a: A = 1], |l| f(a))
    }
}

/// `d = f(a)`; operands: d, a.
pub(crate) fn map1<F: Fn(A) -> D + Copy, A: Lane, D: Lane>(_f: F) -> Handlers {
    handlers::<Map1<F, A, D>>()
}

struct Map2<F, A, B, D>(PhantomData<(F, A, B, D)>);

impl<F: Fn(A, B) -> D + Copy, A: Lane, B: Lane, D: Lane> Operation for Map2<F, A, B, D> {
    #[inline(always)]
    fn run<const WIDE: bool>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
        let f = only(PhantomData::<F>);
        lanewise!(ctx, ins, mask, D, [a: A = 1, b: B = 2], |l| f(a, b))
    }
}

/// `d = f(a, b)`; operands: d, a, b.
pub(crate) fn map2<F: Fn(A, B) -> D + Copy, A: Lane, B: Lane, D: Lane>(_f: F) -> Handlers {
    handlers::<Map2<F, A, B, D>>()
}

struct Map3<F, A, B, C, D>(PhantomData<(F, A, B, C, D)>);

impl<F: Fn(A, B, C) -> D + Copy, A: Lane, B: Lane, C: Lane, D: Lane> Operation for Map3<F, A, B, C, D> {
    #[inline(always)]
    fn run<const WIDE: bool>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
        let f = only(PhantomData::<F>);
        lanewise!(ctx, ins, mask, D, [a: A = 1, b: B = 2, c: C = 3], |l| f(a, b, c))
    }
}

/// `d = f(a, b, c)`; operands: d, a, b, c.
pub(crate) fn map3<F: Fn(A, B, C) -> D + Copy, A: Lane, B: Lane, C: Lane, D: Lane>(_f: F) -> Handlers {
    handlers::<Map3<F, A, B, C, D>>()
}

struct Dot4<const SIGNED_A: bool, const SIGNED_B: bool>;

impl<const SIGNED_A: bool, const SIGNED_B: bool> Operation for Dot4<SIGNED_A, SIGNED_B> {
    #[inline(always)]
    fn run<const WIDE: bool>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
        let (a, b, c) = (ctx.lanes(ins.ops[1]), ctx.lanes(ins.ops[2]), ctx.lanes(ins.ops[3]));
        let out = super::vectors::dot4::<WIDE, SIGNED_A, SIGNED_B>(a, b, c);
        ctx.put(ins.ops[0], &out, mask);
        Control::Next
    }
}

/// `dp4a`; operands: d, a, b, c.
pub(crate) fn dot4<const SIGNED_A: bool, const SIGNED_B: bool>() -> Handlers {
    handlers::<Dot4<SIGNED_A, SIGNED_B>>()
}

struct Singles;

impl Operation for Singles {
    #[inline(always)]
    fn run<const WIDE: bool>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
        let out = super::vectors::singles::<WIDE>(ctx.lanes(ins.ops[1]));
        ctx.put(ins.ops[0], &out, mask);
        Control::Next
    }
}

/// `cvt.f32.f16`; operands: d, a.
pub(crate) fn singles() -> Handlers {
    handlers::<Singles>()
}

struct Halves;

impl Operation for Halves {
    #[inline(always)]
    fn run<const WIDE: bool>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
        let out = super::vectors::halves::<WIDE>(ctx.lanes(ins.ops[1]));
        ctx.put(ins.ops[0], &out, mask);
        Control::Next
    }
}

/// `cvt.rn.f16.f32`; operands: d, a.
pub(crate) fn halves() -> Handlers {
    handlers::<Halves>()
}

struct Map3Imm<F, A, D>(PhantomData<(F, A, D)>);

impl<F: Fn(A, A, A, u32) -> D + Copy, A: Lane, D: Lane> Operation for Map3Imm<F, A, D> {
    #[inline(always)]
    fn run<const WIDE: bool>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
        let f = only(PhantomData::<F>);
        let imm = ins.imm as u32;
        lanewise!(ctx, ins, mask, D, [a: A = 1, b: A = 2, c: A = 3], |l| f(a, b, c, imm))
    }
}

/// `d = f(a, b, c, imm)`; operands: d, a, b, c.
pub(crate) fn map3_imm<F: Fn(A, A, A, u32) -> D + Copy, A: Lane, D: Lane>(_f: F) -> Handlers {
    handlers::<Map3Imm<F, A, D>>()
}

/// An integer that parts can be cut out of and joined into, lowest first.
pub(crate) trait Whole<P: Lane>: Lane {
    /// The part of `bits` bits that starts at bit `shift`.
    fn cut(self, shift: u32, bits: u32) -> P;
    /// This with the lowest `bits` bits of a part above bit `shift`.
    fn with(self, part: P, shift: u32, bits: u32) -> Self;
}

macro_rules! whole {
    ($($whole:ty: $part:ty;)*) => { $(
        impl Whole<$part> for $whole {
            #[inline(always)]
            fn cut(self, shift: u32, bits: u32) -> $part {
                (self >> shift) as $part & (<$part>::MAX >> (<$part>::BITS - bits))
            }
            #[inline(always)]
            fn with(self, part: $part, shift: u32, bits: u32) -> $whole {
                self | ((part & (<$part>::MAX >> (<$part>::BITS - bits))) as $whole) << shift
            }
        }
    )* };
}
whole! { u32: u16; u64: u16; u64: u32; u128: u32; u128: u64; }

/// The place of a part that nobody wants.
pub(crate) const SPLIT_NOBODY: u32 = u32::MAX;

struct Split<W, P, const N: usize>(PhantomData<(W, P)>);

impl<W: Whole<P>, P: Lane, const N: usize> Operation for Split<W, P, N> {
    #[inline(always)]
    fn run<const WIDE: bool>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
        let bits = (size_of::<W>() * 8 / N) as u32;
        // The whole may be one of the parts.
        let whole = *ctx.lanes::<W>(ins.ops[0]);
        for k in 0..N {
            if ins.ops[1 + k] != SPLIT_NOBODY {
                let mut part = [P::default(); 32];
                for l in 0..32 {
                    part[l] = whole[l].cut(k as u32 * bits, bits);
                }
                ctx.put(ins.ops[1 + k], &part, mask);
            }
        }
        Control::Next
    }
}

/// `{a, b, …} = d`, lowest part first; operands: d, then the N parts, or [`SPLIT_NOBODY`].
pub(crate) fn split<W: Whole<P>, P: Lane, const N: usize>() -> Handlers {
    handlers::<Split<W, P, N>>()
}

struct Join<W, P, const N: usize>(PhantomData<(W, P)>);

impl<W: Whole<P>, P: Lane, const N: usize> Operation for Join<W, P, N> {
    #[inline(always)]
    fn run<const WIDE: bool>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
        let bits = (size_of::<W>() * 8 / N) as u32;
        let mut out = [W::default(); 32];
        for k in 0..N {
            let part = ctx.lanes::<P>(ins.ops[1 + k]);
            for l in 0..32 {
                out[l] = out[l].with(part[l], k as u32 * bits, bits);
            }
        }
        ctx.put(ins.ops[0], &out, mask);
        Control::Next
    }
}

/// `d = {a, b, …}`, lowest part first; operands: d, then the N parts.
pub(crate) fn join<W: Whole<P>, P: Lane, const N: usize>() -> Handlers {
    handlers::<Join<W, P, N>>()
}

struct Select<T>(PhantomData<T>);

impl<T: Lane> Operation for Select<T> {
    #[inline(always)]
    fn run<const WIDE: bool>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
        let choose = ctx.predicate(ins.ops[3]);
        let out = blend(ctx.lanes::<T>(ins.ops[1]), ctx.lanes::<T>(ins.ops[2]), choose);
        ctx.put(ins.ops[0], &out, mask);
        Control::Next
    }
}

/// `d = p ? a : b`; operands: d, a, b, p.
pub(crate) fn select<T: Lane>() -> Handlers {
    handlers::<Select<T>>()
}

/// How `setp` combines its comparison with a third predicate.
pub(crate) const COMBINE_NONE: u8 = 0;
pub(crate) const COMBINE_AND: u8 = 1;
pub(crate) const COMBINE_OR: u8 = 2;
pub(crate) const COMBINE_XOR: u8 = 3;
/// Flag: the third predicate is negated.
pub(crate) const COMBINE_NOT: u8 = 4;
/// Flag: there is a second result, the negation of the comparison combined likewise.
pub(crate) const SECOND_RESULT: u8 = 8;

struct Compare<F, A>(PhantomData<(F, A)>);

impl<F: Fn(A, A) -> bool + Copy, A: Lane> Operation for Compare<F, A> {
    #[inline(always)]
    fn run<const WIDE: bool>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
        let f = only(PhantomData::<F>);
        let mut value = 0u32;
        {
            let a = ctx.lanes::<A>(ins.ops[1]);
            let b = ctx.lanes::<A>(ins.ops[2]);
            each_lane!(WIDE, |l| value |= (f(a[l], b[l]) as u32) << l);
        }
        if ins.flags == COMBINE_NONE {
            ctx.set_predicate(ins.ops[0], value, mask);
            return Control::Next;
        }
        let third = if ins.flags & 3 == COMBINE_NONE { 0 } else { ctx.predicate(ins.ops[3]) };
        let third = if ins.flags & COMBINE_NOT != 0 { !third } else { third };
        let combine = |v: u32| match ins.flags & 3 {
            COMBINE_AND => v & third,
            COMBINE_OR => v | third,
            COMBINE_XOR => v ^ third,
            _ => v,
        };
        ctx.set_predicate(ins.ops[0], combine(value), mask);
        if ins.flags & SECOND_RESULT != 0 {
            ctx.set_predicate(ins.ops[4], combine(!value), mask);
        }
        Control::Next
    }
}

/// `p = f(a, b)`, perhaps combined with a third predicate; operands: p, a, b, third, second result.
pub(crate) fn compare<F: Fn(A, A) -> bool + Copy, A: Lane>(_f: F) -> Handlers {
    handlers::<Compare<F, A>>()
}

struct Test<F, A>(PhantomData<(F, A)>);

impl<F: Fn(A) -> bool + Copy, A: Lane> Operation for Test<F, A> {
    #[inline(always)]
    fn run<const WIDE: bool>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
        let f = only(PhantomData::<F>);
        let mut value = 0u32;
        {
            let a = ctx.lanes::<A>(ins.ops[1]);
            each_lane!(WIDE, |l| value |= (f(a[l]) as u32) << l);
        }
        ctx.set_predicate(ins.ops[0], value, mask);
        Control::Next
    }
}

/// `p = f(a)`; operands: p, a.
pub(crate) fn test<F: Fn(A) -> bool + Copy, A: Lane>(_f: F) -> Handlers {
    handlers::<Test<F, A>>()
}

/// Operations on predicates: `d = f(a, b)` on whole masks; operands: d, a, b.
pub(crate) fn predicate_map<F: Fn(u32, u32) -> u32 + Copy>(_f: F) -> Handlers {
    struct Masks<F>(PhantomData<F>);
    impl<F: Fn(u32, u32) -> u32 + Copy> Operation for Masks<F> {
        #[inline(always)]
        fn run<const WIDE: bool>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
            let value = only(PhantomData::<F>)(ctx.predicate(ins.ops[1]), ctx.predicate(ins.ops[2]));
            ctx.set_predicate(ins.ops[0], value, mask);
            Control::Next
        }
    }
    handlers::<Masks<F>>()
}

struct MapCarry<F, A, D>(PhantomData<(F, A, D)>);

impl<F: Fn(A, A, A, bool) -> (D, bool) + Copy, A: Lane, D: Lane> Operation for MapCarry<F, A, D> {
    #[inline(always)]
    fn run<const WIDE: bool>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
        let f = only(PhantomData::<F>);
        let carry_in = ctx.predicate(ins.ops[4]);
        let mut carry = 0u32;
        let mut out = [D::default(); 32];
        {
            let (a, b, c) = (ctx.lanes::<A>(ins.ops[1]), ctx.lanes::<A>(ins.ops[2]), ctx.lanes::<A>(ins.ops[3]));
            for l in 0..32 {
                let (value, over) = f(a[l], b[l], c[l], carry_in >> l & 1 != 0);
                out[l] = value;
                carry |= (over as u32) << l;
            }
        }
        ctx.put(ins.ops[0], &out, mask);
        if ins.flags != 0 {
            ctx.set_predicate(ins.ops[4], carry, mask);
        }
        Control::Next
    }
}

/// Arithmetic with the carry flag, a hidden predicate; operands: d, a, b, c, carry. Flags: not 0 writes the carry.
pub(crate) fn map_carry<F: Fn(A, A, A, bool) -> (D, bool) + Copy, A: Lane, D: Lane>(_f: F) -> Handlers {
    handlers::<MapCarry<F, A, D>>()
}

/// Reads a register of 2, 4, 8 or 16 bytes per lane, zero-extended.
pub(crate) fn read_any(ctx: &Context, reg: u32, bytes: usize) -> [u64; 32] {
    match bytes {
        2 => ctx.lanes::<u16>(reg).map(u64::from),
        4 => ctx.lanes::<u32>(reg).map(u64::from),
        _ => *ctx.lanes::<u64>(reg),
    }
}

/// Writes a register of 2, 4 or 8 bytes per lane, truncating.
pub(crate) fn write_any(ctx: &mut Context, reg: u32, bytes: usize, value: &[u64; 32], mask: u32) {
    match bytes {
        2 => ctx.put(reg, &value.map(|v| v as u16), mask),
        4 => ctx.put(reg, &value.map(|v| v as u32), mask),
        _ => ctx.put(reg, value, mask),
    }
}

/// The integers that `bfi` works on.
pub(crate) trait Field: Lane {
    fn insert(self, into: Self, at: u32, n: u32) -> Self;
}

macro_rules! field {
    ($($t:ty)*) => { $(
        impl Field for $t {
            #[inline(always)]
            fn insert(self, into: $t, at: u32, n: u32) -> $t {
                let (at, n) = (at & 0xff, n & 0xff);
                let ones = if n >= <$t>::BITS { !0 } else { ((1 as $t) << n) - 1 };
                let (mask, value) = if at >= <$t>::BITS { (0, 0) } else { (ones << at, self << at) };
                into & !mask | value & mask
            }
        }
    )* };
}
field!(u32 u64);

struct InsertField<T>(PhantomData<T>);

impl<T: Field> Operation for InsertField<T> {
    #[inline(always)]
    fn run<const WIDE: bool>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
        lanewise!(ctx, ins, mask, T, [a: T = 1, b: T = 2, at: u32 = 3, n: u32 = 4], |l| a.insert(b, at, n))
    }
}

/// `bfi`; operands: d, what, into, position, length.
pub(crate) fn insert_field<T: Field>() -> Handlers {
    handlers::<InsertField<T>>()
}
