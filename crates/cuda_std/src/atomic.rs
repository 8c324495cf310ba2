//! Atomic operations: [`increment_wrapping`], which orders what blocks do, and relaxed ones that order nothing.
//!
//! A block publishes what it wrote to global memory as follows: all its threads meet at a barrier
//! ([`sync_threads`](crate::thread::sync_threads)), then one of them does an operation here, which releases what the barrier
//! brought together. The block whose operation finds that value acquires it, and after a barrier of its own all its threads
//! see what was written.

/// Adds 1 to the counter, or sets it to 0 where it is `last` (or more), and returns what it was: the `last + 1`-th to come gets `last` and
/// leaves the counter as it was before the first. Acquires and releases, for the whole device.
///
/// # Safety
/// - `counter` leads to a 4-byte aligned word of global memory that is accessed atomically only while the kernel runs.
#[inline(always)]
pub unsafe fn increment_wrapping(counter: *mut u32, last: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let before: u32;
        // SAFETY: passed on to the caller. With a memory clobber: nothing is moved across it.
        unsafe {
            core::arch::asm!(
                "{{ .reg .u64 global; cvta.to.global.u64 global, {1}; atom.acq_rel.gpu.global.inc.u32 {0}, [global], {2}; }}",
                out(reg32) before, in(reg64) counter, in(reg32) last,
                options(nostack)
            );
        }
        before
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        let _ = (counter, last);
        crate::device_only()
    }
}

/// `atom` operations with one value, on global or shared memory.
macro_rules! atomics {
    ($($(#[$doc:meta])* $name:ident($value:ty, $class:ident) => $instruction:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// Returns what was there. Relaxed, for the whole device.
        ///
        /// # Safety
        /// - `at` leads to an aligned value of global or shared memory that is accessed atomically only while others may.
        #[inline(always)]
        pub unsafe fn $name(at: *mut $value, value: $value) -> $value {
            #[cfg(target_arch = "nvptx64")]
            {
                let before: $value;
                // SAFETY: passed on to the caller.
                unsafe {
                    core::arch::asm!($instruction, out($class) before, in(reg64) at, in($class) value, options(nostack));
                }
                before
            }
            #[cfg(not(target_arch = "nvptx64"))]
            {
                let _ = (at, value);
                crate::device_only()
            }
        }
    )*};
}

atomics! {
    /// Adds.
    add_u32(u32, reg32) => "atom.relaxed.gpu.add.u32 {}, [{}], {};";
    /// Adds.
    add_i32(i32, reg32) => "atom.relaxed.gpu.add.s32 {}, [{}], {};";
    /// Adds.
    add_u64(u64, reg64) => "atom.relaxed.gpu.add.u64 {}, [{}], {};";
    /// Adds, rounding to nearest; the order in which threads add is not fixed, so neither are the last bits of a sum.
    add_f32(f32, reg32) => "atom.relaxed.gpu.add.f32 {}, [{}], {};";
    /// Adds, as [`add_f32`] does.
    add_f64(f64, reg64) => "atom.relaxed.gpu.add.f64 {}, [{}], {};";
    /// Leaves the smaller.
    min_u32(u32, reg32) => "atom.relaxed.gpu.min.u32 {}, [{}], {};";
    /// Leaves the larger.
    max_u32(u32, reg32) => "atom.relaxed.gpu.max.u32 {}, [{}], {};";
    /// Leaves the smaller.
    min_i32(i32, reg32) => "atom.relaxed.gpu.min.s32 {}, [{}], {};";
    /// Leaves the larger.
    max_i32(i32, reg32) => "atom.relaxed.gpu.max.s32 {}, [{}], {};";
    /// Leaves the bits that both have.
    and_u32(u32, reg32) => "atom.relaxed.gpu.and.b32 {}, [{}], {};";
    /// Leaves the bits that either has.
    or_u32(u32, reg32) => "atom.relaxed.gpu.or.b32 {}, [{}], {};";
    /// Leaves the bits that one of them has.
    xor_u32(u32, reg32) => "atom.relaxed.gpu.xor.b32 {}, [{}], {};";
    /// Leaves the value.
    exchange_u32(u32, reg32) => "atom.relaxed.gpu.exch.b32 {}, [{}], {};";
    /// Leaves the value.
    exchange_u64(u64, reg64) => "atom.relaxed.gpu.exch.b64 {}, [{}], {};";
}

/// Compare and exchange, and what is made of it: a change of a float by a function.
macro_rules! changes {
    ($($(#[$doc:meta])* $name:ident($bits:ty, $class:ident) => $instruction:literal;
       $float:ty: $change:ident $min:ident $max:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// - As for [`add_u32`].
        #[inline(always)]
        pub unsafe fn $name(at: *mut $bits, expected: $bits, value: $bits) -> $bits {
            on_device!((at, expected, value) {
                let before: $bits;
                // SAFETY: passed on to the caller.
                unsafe {
                    core::arch::asm!(
                        $instruction,
                        out($class) before, in(reg64) at, in($class) expected, in($class) value,
                        options(nostack)
                    );
                }
                before
            })
        }

        /// Replaces the value by `change` of it, as often as others come between, until it holds; returns what it was.
        ///
        /// # Safety
        /// - As for [`add_u32`].
        #[inline(always)]
        unsafe fn $change(at: *mut $float, change: impl Fn($float) -> $float) -> $float {
            // SAFETY: passed on to the caller: exchanging a value for itself reads.
            let mut before = unsafe { $name(at.cast(), 0, 0) };
            loop {
                let value = change(<$float>::from_bits(before)).to_bits();
                if value == before {
                    return <$float>::from_bits(before);
                }
                // SAFETY: as above.
                let found = unsafe { $name(at.cast(), before, value) };
                if found == before {
                    return <$float>::from_bits(before);
                }
                before = found;
            }
        }

        /// Leaves the smaller, by compare and exchange; a NaN gives way to a number. Returns what was there.
        ///
        /// # Safety
        /// - As for [`add_u32`].
        #[inline(always)]
        pub unsafe fn $min(at: *mut $float, value: $float) -> $float {
            // SAFETY: passed on to the caller.
            unsafe { $change(at, |there| if there <= value || value.is_nan() { there } else { value }) }
        }

        /// Leaves the larger, by compare and exchange; a NaN gives way to a number. Returns what was there.
        ///
        /// # Safety
        /// - As for [`add_u32`].
        #[inline(always)]
        pub unsafe fn $max(at: *mut $float, value: $float) -> $float {
            // SAFETY: passed on to the caller.
            unsafe { $change(at, |there| if there >= value || value.is_nan() { there } else { value }) }
        }
    )*};
}

changes! {
    /// Leaves `value` where `expected` was, and returns what was there. Relaxed, for the whole device.
    compare_exchange_u32(u32, reg32) => "atom.relaxed.gpu.cas.b32 {}, [{}], {}, {};";
    f32: change_f32 min_f32 max_f32;
    /// Leaves `value` where `expected` was, and returns what was there. Relaxed, for the whole device.
    compare_exchange_u64(u64, reg64) => "atom.relaxed.gpu.cas.b64 {}, [{}], {}, {};";
    f64: change_f64 min_f64 max_f64;
}
