//! Matrix products of a group of four warps on tensor cores (`wgmma`): D of 64 × N, from matrices in shared memory.
//!
//! A step multiplies A, 64 × K, by B, K × N, with N of 8, 16, 32, 64, 128 or 256, and K of 32 bytes: 16 for [`F16`] and [`BF16`], which are
//! summed in `f32`, 32 for `i8` and `u8`, which are summed in `i32`. A's rows are along M, B's along N.
//!
//! **D** is in registers, `N / 2` of each of the 128 threads, as an array. With `warp = thread / 32 % 4`, `group = lane / 4` and
//! `member = lane % 4`, element `i` is in row `16 warp + group + 8 (i / 2 % 2)`, column `2 member + i % 2 + 8 (i / 4)`.
//!
//! **A** may be in registers, four words of each thread ([`multiply_add_left`]). Otherwise **A and B** are in shared memory, each named by a
//! [`Matrix`]: where it begins, two distances, and how pieces of 16 bytes change
//! places so that they lie in different banks ([`Swizzle`]). With a swizzle's [span](Swizzle::span) of S bytes (16 for none), in bytes:
//!
//! | the matrix is stored | a span | the 8 rows after | the rest |
//! |---|---|---|---|
//! | [`AlongK`], not swizzled | 16 bytes of a row, along K | each 16 further | the next 16 bytes of K `leading` further, the next 8 rows `stride` |
//! | [`AlongK`], swizzled | S bytes of a row, along K | each S further | the next 8 rows `stride` further; `leading` is not used |
//! | [`AcrossK`], not swizzled | 16 bytes across K | the 8 of K each 16 further | the next 8 of K `leading` further, the next 16 bytes across K `stride` |
//! | [`AcrossK`], swizzled | S bytes across K | the 8 of K each S further | the next S bytes across K `leading` further, the next 8 of K `stride` |
//!
//! A tile of 64 halves a row, say, swizzled in spans of 128 bytes, holds four steps of K: `stride` is 1024, and the steps are the
//! matrices from elements 0, 16, 32 and 48 on. [`Swizzle::place`] says where its elements lie. A swizzled matrix begins at a multiple of
//! eight spans: an array of [`shared_array!`](crate::shared_array) with `align = 1024`; dynamic shared memory, where the kernel has no
//! such array besides.
//!
//! The product runs on by itself. In order:
//!
//! 1. who writes A and B calls [`fence::proxy_async`](crate::fence::proxy_async), and the block meets at a barrier; a bulk copy
//!    needs neither, but a wait for its barrier;
//! 2. [`fence`], for D;
//! 3. any number of [`multiply_add`], and [`commit`];
//! 4. [`wait`], before D is looked at or A and B are written over.
//!
//! Every function here is collective: all 128 threads of four neighbouring warps, the first a multiple of four, must call it
//! together. From `sm_90a` on, Hopper only.

use core::marker::PhantomData;

use crate::{
    shared::Shared,
    types::{BF16, F16},
};

/// A type that warp groups multiply.
pub trait Factor: Copy {
    /// What products are summed in.
    type Sum: Copy;
    /// Elements of a step along K.
    const K: u32;
}

macro_rules! factors {
    ($($element:ty: $sum:ty, $k:literal;)*) => {$(
        impl Factor for $element {
            type Sum = $sum;
            const K: u32 = $k;
        }
    )*};
}

factors! {
    F16: f32, 16;
    BF16: f32, 16;
    i8: i32, 32;
    u8: i32, 32;
}

/// Which way a matrix of `T` is contiguous in memory.
pub trait Major<T> {
    #[doc(hidden)]
    const TRANSPOSED: u32;
}

/// A row of A, a column of B lies in one piece: `[m][k]` and `[n][k]`.
#[derive(Clone, Copy)]
pub struct AlongK;

/// A column of A, a row of B lies in one piece: `[k][m]` and `[k][n]`. For 16-bit floats only.
#[derive(Clone, Copy)]
pub struct AcrossK;

impl<T: Factor> Major<T> for AlongK {
    const TRANSPOSED: u32 = 0;
}

impl Major<F16> for AcrossK {
    const TRANSPOSED: u32 = 1;
}

impl Major<BF16> for AcrossK {
    const TRANSPOSED: u32 = 1;
}

/// How pieces of 16 bytes change places in shared memory, as a tensor map's copies and `wgmma` have it: in a span, the piece's number
/// is combined (exclusive or) with the number of the 128 bytes that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swizzle {
    /// They do not.
    None,
    /// In spans of 32 bytes.
    Bytes32,
    /// In spans of 64 bytes.
    Bytes64,
    /// In spans of 128 bytes.
    Bytes128,
}

impl Swizzle {
    /// Bytes of a span; 16 for none.
    #[inline(always)]
    pub const fn span(self) -> u32 {
        match self {
            Swizzle::None => 16,
            Swizzle::Bytes32 => 32,
            Swizzle::Bytes64 => 64,
            Swizzle::Bytes128 => 128,
        }
    }

    /// Where byte `offset` of swizzled memory lies, counted from a multiple of eight spans.
    #[inline(always)]
    pub const fn byte(self, offset: u32) -> u32 {
        offset ^ (((offset >> 7) & (self.span() / 16 - 1)) << 4)
    }

    /// Where element `at` of span number `row` lies, in elements of `T`.
    #[inline(always)]
    pub const fn place<T>(self, row: u32, at: u32) -> u32 {
        let size = size_of::<T>() as u32;
        self.byte(row * self.span() + at * size) / size
    }

    const fn bits(self) -> u64 {
        let mode: u64 = match self {
            Swizzle::None => 0,
            Swizzle::Bytes128 => 1,
            Swizzle::Bytes64 => 2,
            Swizzle::Bytes32 => 3,
        };
        mode << 62
    }
}

/// A or B of a step, in shared memory: a matrix descriptor, with its element's type and direction.
pub struct Matrix<T, M = AlongK> {
    descriptor: u64,
    types: PhantomData<fn(T, M)>,
}

impl<T, M> Clone for Matrix<T, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, M> Copy for Matrix<T, M> {}

impl<T: Factor, M: Major<T>> Matrix<T, M> {
    /// The matrix that begins at element `index` of an array; `leading` and `stride` are the table's distances in bytes.
    ///
    /// # Safety
    /// - The step's elements are within the array, which begins at a multiple of eight spans where it is swizzled; the element and both
    ///   distances are multiples of 16 bytes below 256 KiB.
    #[inline(always)]
    pub unsafe fn new(array: Shared<T>, index: u32, leading: u32, stride: u32, swizzle: Swizzle) -> Self {
        let field = |bytes: u32| u64::from((bytes & 0x3_ffff) >> 4);
        let descriptor =
            field(array.element_address(index)) | field(leading) << 16 | field(stride) << 32 | swizzle.bits();
        Matrix { descriptor, types: PhantomData }
    }

    /// The matrix that begins `bytes` further.
    ///
    /// # Safety
    /// - As [`Matrix::new`]'s.
    #[inline(always)]
    pub unsafe fn further(self, bytes: u32) -> Self {
        Matrix { descriptor: self.descriptor + u64::from(bytes >> 4), types: PhantomData }
    }
}

/// A thread's part of D: an array of `N / 2` sums.
pub trait Accumulator<T: Factor> {
    /// Columns of D.
    const N: u32;
    #[doc(hidden)]
    unsafe fn step<A: Major<T>, B: Major<T>>(&mut self, a: u64, b: u64, keeps: bool);
    #[doc(hidden)]
    unsafe fn step_of_registers<B: Major<T>>(&mut self, a: [u32; 4], b: u64, keeps: bool);
}

/// Registers that a product under way may hold.
pub trait Registers {
    #[doc(hidden)]
    fn before(&mut self);
    #[doc(hidden)]
    fn after<const PENDING: u32>(&mut self);
}

/// A step for floats, whose instruction says which way the matrices are contiguous, and for integers, which have one.
macro_rules! step {
    (float $element:ty, $shape:literal $kind:literal; $n:literal, $half:literal: $first:literal $($index:literal)*) => {
        impl Accumulator<$element> for [f32; $half] {
            const N: u32 = $n;
            #[inline(always)]
            unsafe fn step<A: Major<$element>, B: Major<$element>>(&mut self, a: u64, b: u64, keeps: bool) {
                on_device!((self, a, b, keeps) {
                    // SAFETY: the matrices are within shared memory, by `Matrix::new`; the caller is collective.
                    unsafe {
                        core::arch::asm!(
                            concat!(
                                "{{ .reg .pred keeps; setp.ne.u32 keeps, {keeps}, 0; wgmma.mma_async.sync.aligned.m64n", $n, $shape,
                                ".f32.", $kind, ".", $kind, " {{{", $first, "}" $(, ", {", $index, "}")*,
                                "}}, {a}, {b}, keeps, 1, 1, {ta}, {tb}; }}"
                            ),
                            inlateout(reg32) self[$first], $(inlateout(reg32) self[$index],)*
                            keeps = in(reg32) keeps as u32, a = in(reg64) a, b = in(reg64) b,
                            ta = const A::TRANSPOSED, tb = const B::TRANSPOSED,
                            options(nostack)
                        );
                    }
                })
            }
            #[inline(always)]
            unsafe fn step_of_registers<B: Major<$element>>(&mut self, a: [u32; 4], b: u64, keeps: bool) {
                on_device!((self, a, b, keeps) {
                    // SAFETY: as above.
                    unsafe {
                        core::arch::asm!(
                            concat!(
                                "{{ .reg .pred keeps; setp.ne.u32 keeps, {keeps}, 0; wgmma.mma_async.sync.aligned.m64n", $n, $shape,
                                ".f32.", $kind, ".", $kind, " {{{", $first, "}" $(, ", {", $index, "}")*,
                                "}}, {{{a0}, {a1}, {a2}, {a3}}}, {b}, keeps, 1, 1, {tb}; }}"
                            ),
                            inlateout(reg32) self[$first], $(inlateout(reg32) self[$index],)*
                            keeps = in(reg32) keeps as u32, b = in(reg64) b,
                            a0 = in(reg32) a[0], a1 = in(reg32) a[1], a2 = in(reg32) a[2], a3 = in(reg32) a[3],
                            tb = const B::TRANSPOSED,
                            options(nostack)
                        );
                    }
                })
            }
        }
    };
    (integer $element:ty, $shape:literal $kind:literal; $n:literal, $half:literal: $first:literal $($index:literal)*) => {
        impl Accumulator<$element> for [i32; $half] {
            const N: u32 = $n;
            #[inline(always)]
            unsafe fn step<A: Major<$element>, B: Major<$element>>(&mut self, a: u64, b: u64, keeps: bool) {
                on_device!((self, a, b, keeps) {
                    // SAFETY: as for floats.
                    unsafe {
                        core::arch::asm!(
                            concat!(
                                "{{ .reg .pred keeps; setp.ne.u32 keeps, {keeps}, 0; wgmma.mma_async.sync.aligned.m64n", $n, $shape,
                                ".s32.", $kind, ".", $kind, " {{{", $first, "}" $(, ", {", $index, "}")*, "}}, {a}, {b}, keeps; }}"
                            ),
                            inlateout(reg32) self[$first], $(inlateout(reg32) self[$index],)*
                            keeps = in(reg32) keeps as u32, a = in(reg64) a, b = in(reg64) b,
                            options(nostack)
                        );
                    }
                })
            }
            #[inline(always)]
            unsafe fn step_of_registers<B: Major<$element>>(&mut self, a: [u32; 4], b: u64, keeps: bool) {
                on_device!((self, a, b, keeps) {
                    // SAFETY: as above.
                    unsafe {
                        core::arch::asm!(
                            concat!(
                                "{{ .reg .pred keeps; setp.ne.u32 keeps, {keeps}, 0; wgmma.mma_async.sync.aligned.m64n", $n, $shape,
                                ".s32.", $kind, ".", $kind, " {{{", $first, "}" $(, ", {", $index, "}")*,
                                "}}, {{{a0}, {a1}, {a2}, {a3}}}, {b}, keeps; }}"
                            ),
                            inlateout(reg32) self[$first], $(inlateout(reg32) self[$index],)*
                            keeps = in(reg32) keeps as u32, b = in(reg64) b,
                            a0 = in(reg32) a[0], a1 = in(reg32) a[1], a2 = in(reg32) a[2], a3 = in(reg32) a[3],
                            options(nostack)
                        );
                    }
                })
            }
        }
    };
}

/// The registers of D pass through the fence and the wait, so that the compiler neither writes them after the one nor reads them
/// before the other.
macro_rules! registers {
    ($sum:ty, $half:literal: $($index:literal)*) => {
        impl Registers for [$sum; $half] {
            #[inline(always)]
            fn before(&mut self) {
                on_device!((self) {
                    // SAFETY: changes no register.
                    unsafe {
                        core::arch::asm!(
                            concat!("wgmma.fence.sync.aligned; //" $(, " {", $index, "}")*),
                            $(inlateout(reg32) self[$index],)* options(nostack)
                        );
                    }
                })
            }

            #[inline(always)]
            fn after<const PENDING: u32>(&mut self) {
                on_device!((self) {
                    // SAFETY: changes no register but by the products that it waits for.
                    unsafe {
                        core::arch::asm!(
                            concat!("wgmma.wait_group.sync.aligned {pending}; //" $(, " {", $index, "}")*),
                            $(inlateout(reg32) self[$index],)* pending = const PENDING, options(nostack)
                        );
                    }
                })
            }
        }
    };
}

macro_rules! shapes {
    ($($n:literal, $half:literal: $($index:literal)*;)*) => {$(
        step!(float F16, "k16" "f16"; $n, $half: $($index)*);
        step!(float BF16, "k16" "bf16"; $n, $half: $($index)*);
        step!(integer i8, "k32" "s8"; $n, $half: $($index)*);
        step!(integer u8, "k32" "u8"; $n, $half: $($index)*);
        registers!(f32, $half: $($index)*);
        registers!(i32, $half: $($index)*);
    )*};
}

#[rustfmt::skip]
shapes! {
    8, 4: 0 1 2 3;
    16, 8: 0 1 2 3 4 5 6 7;
    32, 16: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15;
    64, 32: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31;
        128, 64: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36
        37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63;
        256, 128: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36
        37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73
        74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98 99 100 101 102 103 104 105 106 107
        108 109 110 111 112 113 114 115 116 117 118 119 120 121 122 123 124 125 126 127;
}

/// What the threads wrote to D's registers comes before the products that follow: once before the first of them, and again where D
/// was changed otherwise.
#[inline(always)]
pub fn fence<D: Registers>(d: &mut D) {
    d.before();
}

/// D = A · B + D, or A · B alone where `keeps` is false. Starts the step and does not wait for it.
///
/// # Safety
/// - A and B hold what the table says and nobody writes them until the step has been [`wait`]ed for; D is not touched until then
///   but by further steps.
#[inline(always)]
pub unsafe fn multiply_add<T, A, B, D>(d: &mut D, a: Matrix<T, A>, b: Matrix<T, B>, keeps: bool)
where
    T: Factor,
    A: Major<T>,
    B: Major<T>,
    D: Accumulator<T>,
{
    // SAFETY: passed on to the caller.
    unsafe { d.step::<A, B>(a.descriptor, b.descriptor, keeps) }
}

/// D = A · B + D as [`multiply_add`], with A in registers: each thread has four words, those of [`mma`](crate::mma)'s `m16n8k16` of its warp's
/// 16 rows (for integers of `m16n8k32`), which [`fence_left`] comes before.
///
/// # Safety
/// - As [`multiply_add`]'s; A's registers are read until the step has been waited for.
#[inline(always)]
pub unsafe fn multiply_add_left<T, B, D>(d: &mut D, a: [u32; 4], b: Matrix<T, B>, keeps: bool)
where
    T: Factor,
    B: Major<T>,
    D: Accumulator<T>,
{
    // SAFETY: passed on to the caller.
    unsafe { d.step_of_registers::<B>(a, b.descriptor, keeps) }
}

/// What the threads wrote to registers of A comes before the products that follow; as [`fence`] does for D.
#[inline(always)]
pub fn fence_left<const N: usize>(a: &mut [[u32; 4]; N]) {
    on_device!((a) {
        let mut step = 0;
        while step < N {
            let [x, y, z, w] = &mut a[step];
            // SAFETY: changes no register.
            unsafe {
                core::arch::asm!(
                    "// {} {} {} {}", inlateout(reg32) *x, inlateout(reg32) *y, inlateout(reg32) *z, inlateout(reg32) *w,
                    options(nostack)
                );
            }
            step += 1;
        }
        // SAFETY: no operands.
        unsafe { core::arch::asm!("wgmma.fence.sync.aligned;", options(nostack)) }
    })
}

/// Takes registers from the warp, so that it has `COUNT` a thread, a multiple of 8 from 24 to 256: for a group that does less than others.
/// All warps of the group must call it.
#[inline(always)]
pub fn give_registers<const COUNT: u32>() {
    const { assert!(COUNT.is_multiple_of(8) && 24 <= COUNT && COUNT <= 256) }
    on_device!(() {
        // SAFETY: the assembler sees to it that what follows needs no more.
        unsafe { core::arch::asm!("setmaxnreg.dec.sync.aligned.u32 {};", const COUNT, options(nostack)) }
    })
}

/// Waits until other groups have given so many that the warp can have `COUNT` a thread, and takes them; as [`give_registers`].
#[inline(always)]
pub fn take_registers<const COUNT: u32>() {
    const { assert!(COUNT.is_multiple_of(8) && 24 <= COUNT && COUNT <= 256) }
    on_device!(() {
        // SAFETY: the assembler sees to it that what follows needs no more.
        unsafe { core::arch::asm!("setmaxnreg.inc.sync.aligned.u32 {};", const COUNT, options(nostack)) }
    })
}

/// Closes the steps that were started since the last call into a group.
#[inline(always)]
pub fn commit() {
    on_device!(() {
        // SAFETY: no operands.
        unsafe { core::arch::asm!("wgmma.commit_group.sync.aligned;", options(nostack)) }
    })
}

/// Waits until at most the newest `PENDING` groups are still under way, for registers of A that are written again: D is not to be looked
/// at.
#[inline(always)]
pub fn wait_for_left<const PENDING: u32>() {
    on_device!(() {
        // SAFETY: no operands.
        unsafe { core::arch::asm!("wgmma.wait_group.sync.aligned {};", const PENDING, options(nostack)) }
    })
}

/// Waits until at most the newest `PENDING` groups are still under way; `d` is the result of one that is waited for.
#[inline(always)]
pub fn wait<const PENDING: u32, D: Registers>(d: &mut D) {
    d.after::<PENDING>();
}
