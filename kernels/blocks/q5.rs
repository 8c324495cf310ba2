//! Q5_0 and Q5_1: 32 integers of 5 bits. The low four lie as in Q4_0; bit `i` of a little-endian word is the fifth of
//! value `i`.

use super::{Block, GROUP, eight, load_f16, q4::nibble};

/// `d` (f16), the word of fifth bits, then 16 bytes: value = d · (q − 16).
pub struct Q5_0;

/// `d`, `m` (f16), the word of fifth bits, then 16 bytes: value = d · q + m.
pub struct Q5_1;

/// The 5-bit integer of value `8 · group + index`, `bits` being the word and the 16 bytes.
#[inline(always)]
unsafe fn integer(bits: *const u8, group: usize, index: usize) -> u32 {
    let high = unsafe { *bits.add(group) } >> index & 1;
    unsafe { nibble(bits.add(4), group, index) | u32::from(high) << 4 }
}

impl Block for Q5_0 {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 22;

    #[inline(always)]
    unsafe fn values(block: *const u8, group: usize) -> [f32; GROUP] {
        let d = unsafe { load_f16(block) };
        eight(|index| d * (unsafe { integer(block.add(2), group, index) } as i32 - 16) as f32)
    }
}

impl Block for Q5_1 {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 24;

    #[inline(always)]
    unsafe fn values(block: *const u8, group: usize) -> [f32; GROUP] {
        let (d, m) = unsafe { (load_f16(block), load_f16(block.add(2))) };
        eight(|index| d * unsafe { integer(block.add(4), group, index) } as f32 + m)
    }
}
