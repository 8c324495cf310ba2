//! Integer instructions on packed bytes.

macro_rules! three_operands {
    ($($(#[$doc:meta])* $name:ident($a:ident: $a_type:ty, $b:ident: $b_type:ty, $c:ident: $c_type:ty) -> $result:ty => $instruction:literal $(with $immediate:literal)?;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name($a: $a_type, $b: $b_type, $c: $c_type) -> $result {
            #[cfg(target_arch = "nvptx64")]
            {
                let result: $result;
                // SAFETY: one instruction on registers.
                unsafe {
                    core::arch::asm!(
                        concat!($instruction, " {}, {}, {}, {}", $(", ", $immediate,)? ";"),
                        out(reg32) result, in(reg32) $a, in(reg32) $b, in(reg32) $c,
                        options(pure, nomem, nostack)
                    );
                }
                result
            }
            #[cfg(not(target_arch = "nvptx64"))]
            {
                let _ = ($a, $b, $c);
                crate::device_only()
            }
        }
    )*};
}

three_operands! {
    /// sum + the products of four signed bytes with four signed bytes.
    dot4(a: u32, b: u32, sum: i32) -> i32 => "dp4a.s32.s32";
    /// sum + the products of four unsigned bytes `a` with four signed bytes `b`.
    dot4_unsigned(a: u32, b: u32, sum: i32) -> i32 => "dp4a.u32.s32";
    /// Four bytes of the eight in `low` and `high`, chosen by the four lowest half-bytes of `selector`; eight more than a
    /// byte's number picks eight copies of its highest bit.
    pick_bytes(low: u32, high: u32, selector: u32) -> u32 => "prmt.b32";
    /// (a | b) & c, and never in two steps of which one is shared with another's.
    or_and(a: u32, b: u32, c: u32) -> u32 => "lop3.b32" with "0xa8";
}

/// Bytes of ones where the four bytes of `word` have their highest bit, of zeros elsewhere.
#[inline(always)]
pub fn spread_signs(word: u32) -> u32 {
    pick_bytes(word, 0, 0xba98)
}
