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

/// Arithmetic on words: one instruction each.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident($($operand:ident),*) => $instruction:literal;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name($($operand: u32),*) -> u32 {
            #[cfg(target_arch = "nvptx64")]
            {
                let result: u32;
                // SAFETY: arithmetic on registers.
                unsafe {
                    core::arch::asm!(
                        $instruction, out(reg32) result, $(in(reg32) $operand,)* options(pure, nomem, nostack)
                    );
                }
                result
            }
            #[cfg(not(target_arch = "nvptx64"))]
            {
                let _ = ($($operand),*);
                crate::device_only()
            }
        }
    )*};
}

words! {
    /// a − b of each half, rounded to nearest.
    sub(a, b) => "sub.rn.f16x2 {}, {}, {};";
    /// a · b of each half, rounded to nearest.
    mul(a, b) => "mul.rn.f16x2 {}, {}, {};";
    /// a · b + c of each half, rounded once, to nearest.
    fma(a, b, c) => "fma.rn.f16x2 {}, {}, {}, {};";
    /// −a of each half.
    neg(a) => "neg.f16x2 {}, {};";
    /// The lower half twice.
    lower(a) => "{{ .reg .b16 low, high; mov.b32 {{low, high}}, {1}; mov.b32 {0}, {{low, low}}; }}";
    /// The upper half twice.
    upper(a) => "{{ .reg .b16 low, high; mov.b32 {{low, high}}, {1}; mov.b32 {0}, {{high, high}}; }}";
}
