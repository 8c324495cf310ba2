//! Q2_K: 256 integers of 2 bits, in 16 runs of 16 with a 4-bit scale and minimum each.

use super::{Block, GROUP, eight, load_f16};

/// 16 bytes of scales (low half) and minima (high half), 64 bytes of integers, `d`, `dmin` (f16):
/// value = d · scale · q − dmin · minimum.
///
/// The block is two halves of 128 values with 32 bytes each; value `32·s + l` of a half is bits `2s` and `2s + 1` of byte `l`.
pub struct Q2K;

/// The 2-bit integer of value `8 · group + index`, `qs` being the 64 bytes; Q3_K's low bits lie so too.
#[inline(always)]
pub unsafe fn two_bits(qs: *const u8, group: usize, index: usize) -> u8 {
    let (half, first) = (group / 16, group % 16 * GROUP);
    let byte = unsafe { *qs.add(half * 32 + first % 32 + index) };
    byte >> (first / 32 * 2) & 3
}

impl Block for Q2K {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 84;

    #[inline(always)]
    unsafe fn values(block: *const u8, group: usize) -> [f32; GROUP] {
        let (d, dmin) = unsafe { (load_f16(block.add(80)), load_f16(block.add(82))) };
        let packed = unsafe { *block.add(group / 2) };
        let (scale, minimum) = (d * f32::from(packed & 15), dmin * f32::from(packed >> 4));
        eight(|index| scale * f32::from(unsafe { two_bits(block.add(16), group, index) }) - minimum)
    }
}
