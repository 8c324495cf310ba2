//! Atomic operations on global memory, which order what blocks do.
//!
//! A block publishes what it wrote to global memory as follows: all its threads meet at a barrier
//! ([`sync_threads`](crate::thread::sync_threads)), then one of them does an operation here, which releases what the barrier
//! brought together. The block whose operation finds that value acquires it, and after a barrier of its own all its threads
//! see what was written. Where blocks wait for others of the same launch, which must then be resident together, the first's
//! operation is [`add_release`] and the second's [`load_acquire`] in a loop.

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

macro_rules! operation {
    ($($(#[$doc:meta])* $name:ident($($value:ident)?) $(-> $result:ident)? = $instruction:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// - `counter` leads to a 4-byte aligned word of global memory that is accessed atomically only while the kernel runs.
        #[inline(always)]
        pub unsafe fn $name(counter: *mut u32 $(, $value: u32)?) $(-> operation!(@type $result))? {
            #[cfg(target_arch = "nvptx64")]
            {
                $(let $result: u32;)?
                // SAFETY: passed on to the caller. With a memory clobber: nothing is moved across it.
                unsafe {
                    core::arch::asm!(
                        concat!("{{ .reg .u64 global; cvta.to.global.u64 global, {counter}; ", $instruction, " }}"),
                        counter = in(reg64) counter,
                        $($value = in(reg32) $value,)?
                        $($result = out(reg32) $result,)?
                        options(nostack)
                    );
                }
                $($result)?
            }
            #[cfg(not(target_arch = "nvptx64"))]
            {
                let _ = (counter $(, $value)?);
                crate::device_only()
            }
        }
    )*};
    (@type $result:ident) => { u32 };
}

operation! {
    /// Adds to the counter. Releases, for the whole device.
    add_release(value) = "red.release.gpu.global.add.u32 [global], {value};";
    /// The counter's value. Acquires, for the whole device.
    load_acquire() -> value = "ld.acquire.gpu.global.u32 {value}, [global];";
    /// Sets the counter, and orders nothing.
    store_relaxed(value) = "st.relaxed.gpu.global.u32 [global], {value};";
}
