//! Arithmetic on two f16 in a word, the first in its lower half: half as many instructions as on one at a time.

/// The same f16 in both halves: `value`, rounded to nearest.
#[inline(always)]
pub fn both(value: f32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let word: u32;
        // SAFETY: a conversion between registers.
        unsafe {
            core::arch::asm!("cvt.rn.f16x2.f32 {0}, {1}, {1};", out(reg32) word, in(reg32) value, options(pure, nomem, nostack));
        }
        word
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        let _ = value;
        crate::device_only()
    }
}

/// a − b of each half, rounded to nearest.
#[inline(always)]
pub fn sub(a: u32, b: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let result: u32;
        // SAFETY: arithmetic on registers.
        unsafe {
            core::arch::asm!(
                "sub.rn.f16x2 {}, {}, {};",
                out(reg32) result, in(reg32) a, in(reg32) b,
                options(pure, nomem, nostack)
            );
        }
        result
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        let _ = (a, b);
        crate::device_only()
    }
}

/// a · b + c of each half, rounded once, to nearest.
#[inline(always)]
pub fn fma(a: u32, b: u32, c: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let result: u32;
        // SAFETY: arithmetic on registers.
        unsafe {
            core::arch::asm!(
                "fma.rn.f16x2 {}, {}, {}, {};",
                out(reg32) result, in(reg32) a, in(reg32) b, in(reg32) c,
                options(pure, nomem, nostack)
            );
        }
        result
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        let _ = (a, b, c);
        crate::device_only()
    }
}
