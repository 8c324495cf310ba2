//! Wide loads from global memory, and fetching ahead of them.

/// Loads 16 bytes that nothing writes while the kernel runs (`ld.global.nc`), without keeping them in the L1 cache:
/// for weights, which each thread reads once.
///
/// # Safety
/// - `address` is 16-byte aligned and its 16 bytes are in global memory.
/// - Nothing writes them during the launch.
#[inline(always)]
pub unsafe fn load_streaming_16<T>(address: *const T) -> [u32; 4] {
    #[cfg(target_arch = "nvptx64")]
    {
        let (a, b, c, d): (u32, u32, u32, u32);
        // SAFETY: passed on to the caller. `pure` + `readonly` lets loads be hoisted and overlapped.
        unsafe {
            core::arch::asm!(
                "{{ .reg .u64 global; cvta.to.global.u64 global, {}; ld.global.nc.L1::no_allocate.v4.b32 {{{}, {}, {}, {}}}, [global]; }}",
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

/// Sixteen aligned bytes: loading or storing one through a pointer is one 16-byte instruction.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub struct Vector16(pub [u32; 4]);
