//! Wide loads from global memory, and fetching ahead of them.

/// A pointer into global memory as an address of the global state space, which the loads below take: converted once, where
/// each of them would otherwise convert. Pointers computed from it are such addresses too.
#[inline(always)]
pub fn global<T>(pointer: *const T) -> *const T {
    #[cfg(target_arch = "nvptx64")]
    {
        let address: *const T;
        // SAFETY: an address conversion.
        unsafe {
            core::arch::asm!(
                "cvta.to.global.u64 {}, {};", out(reg64) address, in(reg64) pointer, options(pure, nomem, nostack)
            );
        }
        address
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        let _ = pointer;
        crate::device_only()
    }
}

/// Loads 16 bytes that nothing writes while the kernel runs (`ld.global.nc`), without keeping them in the L1 cache:
/// for weights, which each thread reads once. The L2 cache brings the rest of their 128 bytes: it is read soon.
///
/// # Safety
/// - `address` comes from [`global`], is 16-byte aligned and its 16 bytes are in global memory.
/// - Nothing writes them during the launch.
#[inline(always)]
pub unsafe fn load_streaming_16<T>(address: *const T) -> [u32; 4] {
    #[cfg(target_arch = "nvptx64")]
    {
        let (a, b, c, d): (u32, u32, u32, u32);
        // SAFETY: passed on to the caller. `pure` + `readonly` lets loads be hoisted and overlapped.
        unsafe {
            core::arch::asm!(
                "ld.global.nc.L1::no_allocate.L2::128B.v4.b32 {{{1}, {2}, {3}, {4}}}, [{0}];",
                in(reg64) address, out(reg32) a, out(reg32) b, out(reg32) c, out(reg32) d,
                options(pure, readonly, nostack)
            );
        }
        [a, b, c, d]
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        let _ = address;
        crate::device_only()
    }
}

/// Starts to bring the cache line at `address` into the L2 cache, and does not wait for it.
///
/// # Safety
/// - `address` is in global memory. (Hardware ignores another address; softcuda reports it.)
#[inline(always)]
pub unsafe fn prefetch_l2<T>(address: *const T) {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: reads nothing that the program sees. Not `pure`, so that it stays, and stays in place among other asm.
    unsafe {
        core::arch::asm!(
            "{{ .reg .u64 global; cvta.to.global.u64 global, {}; prefetch.global.L2 [global]; }}",
            in(reg64) address,
            options(nomem, nostack)
        );
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        let _ = address;
        crate::device_only()
    }
}

macro_rules! load_streaming {
    ($($(#[$doc:meta])* $name:ident -> $words:ty, ($($word:ident),*) = $instruction:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// - The address comes from [`global`]; the bytes are aligned to their size and in global memory; nothing writes them
        ///   during the launch.
        #[inline(always)]
        pub unsafe fn $name<T>(address: *const T) -> $words {
            #[cfg(target_arch = "nvptx64")]
            {
                $(let $word: u32;)*
                // SAFETY: passed on to the caller.
                unsafe {
                    core::arch::asm!($instruction, in(reg64) address, $(out(reg32) $word,)* options(pure, readonly, nostack));
                }
                [$($word),*]
            }
            #[cfg(not(target_arch = "nvptx64"))]
            {
                let _ = address;
                crate::device_only()
            }
        }
    )*};
}

load_streaming! {
    /// [`load_streaming_16`] for 8 bytes.
    load_streaming_8 -> [u32; 2], (a, b) = "ld.global.nc.L1::no_allocate.L2::128B.v2.b32 {{{1}, {2}}}, [{0}];";
    /// [`load_streaming_16`] for 8 bytes, which neighbouring lanes share and so are kept in L1.
    load_constant_8 -> [u32; 2], (a, b) = "ld.global.nc.v2.b32 {{{1}, {2}}}, [{0}];";
    /// The same for 4 bytes.
    load_constant_4 -> [u32; 1], (a) = "ld.global.nc.b32 {1}, [{0}];";
    /// The same for 2 bytes, in the lower half of the word.
    load_constant_2 -> [u32; 1], (a) = "{{ .reg .b16 half; ld.global.nc.b16 half, [{0}]; cvt.u32.u16 {1}, half; }}";
    /// The same for 1 byte.
    load_constant_1 -> [u32; 1], (a) = "{{ .reg .b16 byte; ld.global.nc.u8 byte, [{0}]; cvt.u32.u16 {1}, byte; }}";
    /// The same for 16 bytes.
    load_constant_16 -> [u32; 4], (a, b, c, d) = "ld.global.nc.v4.b32 {{{1}, {2}, {3}, {4}}}, [{0}];";
}

/// Sixteen aligned bytes: loading or storing one through a pointer is one 16-byte instruction.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub struct Vector16(pub [u32; 4]);
