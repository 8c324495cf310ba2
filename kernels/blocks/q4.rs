//! Q4_0 and Q4_1: 32 integers of 4 bits. Byte `j` holds value `j` in its low half and value `j + 16` in its high half.

use super::{Block, GROUP, eight, load_f16};

/// `d` (f16), then 16 bytes: value = d · (q − 8).
pub struct Q4_0;

/// `d`, `m` (f16), then 16 bytes: value = d · q + m.
pub struct Q4_1;

/// The 4-bit integer of value `8 · group + index`, `qs` being the 16 bytes.
#[inline(always)]
pub unsafe fn nibble(qs: *const u8, group: usize, index: usize) -> u32 {
    let byte = unsafe { *qs.add(group % 2 * GROUP + index) };
    u32::from(byte >> (group / 2 * 4) & 15)
}

impl Block for Q4_0 {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 18;

    #[inline(always)]
    unsafe fn values(block: *const u8, group: usize) -> [f32; GROUP] {
        let d = unsafe { load_f16(block) };
        eight(|index| d * (unsafe { nibble(block.add(2), group, index) } as i32 - 8) as f32)
    }
}

impl Block for Q4_1 {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 20;

    #[inline(always)]
    unsafe fn values(block: *const u8, group: usize) -> [f32; GROUP] {
        let (d, m) = unsafe { (load_f16(block), load_f16(block.add(2))) };
        eight(|index| d * unsafe { nibble(block.add(4), group, index) } as f32 + m)
    }
}
