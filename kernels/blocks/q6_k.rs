//! Q6_K: 256 integers of 6 bits, in 16 runs of 16 with an 8-bit scale each.

use super::{Block, GROUP, eight, load_f16};

/// 128 bytes of low halves, 64 bytes of upper bits, 16 `i8` scales, `d` (f16): value = d · scale · (q − 32).
///
/// The block is two halves of 128 values. In a half, byte `l` of its 64 low bytes holds values `l` and, above, `64 + l`;
/// value `32·s + l` has bits `2s` and `2s + 1` of byte `l` of its 32 upper bytes.
pub struct Q6K;

impl Block for Q6K {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 210;

    #[inline(always)]
    unsafe fn values(block: *const u8, group: usize) -> [f32; GROUP] {
        let d = unsafe { load_f16(block.add(208)) };
        let scale = d * f32::from(unsafe { *block.add(192 + group / 2) } as i8);
        let (half, first) = (group / 16, group % 16 * GROUP);
        let ql = unsafe { block.add(half * 64 + first % 64) };
        let qh = unsafe { block.add(128 + half * 32 + first % 32) };
        eight(|index| {
            let low = unsafe { *ql.add(index) } >> (first / 64 * 4) & 15;
            let high = unsafe { *qh.add(index) } >> (first / 32 * 2) & 3;
            scale * (i32::from(low | high << 4) - 32) as f32
        })
    }
}
