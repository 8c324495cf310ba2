//! MXFP4: 32 four-bit floats (E2M1) with a power-of-two scale (E8M0), from the OCP Microscaling Formats specification 1.0.

use super::{Block, GROUP, eight, q4::nibble};

/// The exponent, biased by 127, then 16 bytes as in Q4_0.
pub struct Mxfp4;

/// Twice the value of a four-bit float: sign, two bits of exponent, one of mantissa. Doubled, it is an integer.
#[inline(always)]
fn doubled(bits: u32) -> f32 {
    // 0, 1, 2, 3, 4, 6, 8 and 12, four bits each, the first lowest.
    let magnitude = (0xc864_3210u32 >> (bits % 8 * 4) & 15) as i32;
    // Negated as an integer: ggml's table has no negative zero.
    (if bits < 8 { magnitude } else { -magnitude }) as f32
}

impl Block for Mxfp4 {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 17;

    #[inline(always)]
    unsafe fn values(block: *const u8, group: usize) -> [f32; GROUP] {
        // 2^(e − 128), half of the scale since the values are doubled; the smallest two are subnormal.
        let exponent = u32::from(unsafe { *block });
        let bits = if exponent < 2 { 0x0020_0000 << exponent } else { (exponent - 1) << 23 };
        let scale = f32::from_bits(bits);
        eight(|index| scale * doubled(unsafe { nibble(block.add(1), group, index) }))
    }
}
