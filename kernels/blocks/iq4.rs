//! IQ4_NL and IQ4_XS: 4-bit indices into sixteen values that are denser near zero.

use super::{Block, GROUP, eight, load_f16, load_u16, q4::nibble};

/// The sixteen values (`kvalues_iq4nl` in ggml-common.h), eight bytes to a word, the first lowest.
const VALUES: [u64; 2] = [
    u64::from_le_bytes([129, 152, 173, 191, 207, 221, 234, 246]), // −127 −104 −83 −65 −49 −35 −22 −10
    u64::from_le_bytes([1, 13, 25, 38, 53, 69, 89, 113]),
];

/// The value that an index stands for: a shift in a register, not a load.
#[inline(always)]
fn look_up(index: u32) -> f32 {
    let word = if index < 8 { VALUES[0] } else { VALUES[1] };
    f32::from((word >> (index % 8 * 8)) as u8 as i8)
}

/// `d` (f16), then 16 bytes as in Q4_0: value = d · table[q].
pub struct Iq4Nl;

/// `d` (f16), 2 bytes with the upper two bits of eight scales, 4 bytes with their low halves, then eight runs of 16 bytes,
/// each as in Q4_0: value = d · (scale − 32) · table[q].
pub struct Iq4Xs;

impl Block for Iq4Nl {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 18;

    #[inline(always)]
    unsafe fn values(block: *const u8, group: usize) -> [f32; GROUP] {
        let d = unsafe { load_f16(block) };
        eight(|index| d * look_up(unsafe { nibble(block.add(2), group, index) }))
    }
}

impl Block for Iq4Xs {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 136;

    #[inline(always)]
    unsafe fn values(block: *const u8, group: usize) -> [f32; GROUP] {
        let run = group / 4;
        let high = unsafe { load_u16(block.add(2)) } >> (run * 2) & 3;
        let low = unsafe { *block.add(4 + run / 2) } >> (run % 2 * 4) & 15;
        let scale = unsafe { load_f16(block) } * (i32::from(low) + (i32::from(high) << 4) - 32) as f32;
        eight(|index| scale * look_up(unsafe { nibble(block.add(8 + run * 16), group % 4, index) }))
    }
}
