//! Q3_K: 256 integers of 3 bits, in 16 runs of 16 with a 6-bit scale each.

use super::{Block, GROUP, eight, load_f16, q2_k::two_bits};

/// 32 bytes of third bits (bit `b` of byte `l` belongs to value `32·b + l`), 64 bytes of low bits as in Q2_K, 12 bytes of
/// scales, `d` (f16): value = d · (scale − 32) · (q − 4).
///
/// Scale `r` has its low four bits in byte `r % 8` (low half for `r < 8`) and its upper two in byte `8 + r % 4`, at bit
/// `2·(r / 4)`.
pub struct Q3K;

impl Block for Q3K {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 110;

    #[inline(always)]
    unsafe fn values(block: *const u8, group: usize) -> [f32; GROUP] {
        let (run, scales) = (group / 2, unsafe { block.add(96) });
        let low = unsafe { *scales.add(run % 8) } >> (run / 8 * 4) & 15;
        let high = unsafe { *scales.add(8 + run % 4) } >> (run / 4 * 2) & 3;
        let scale = unsafe { load_f16(block.add(108)) } * (i32::from(low | high << 4) - 32) as f32;
        let third = unsafe { block.add(group % 4 * GROUP) };
        eight(|index| {
            let low = unsafe { two_bits(block.add(32), group, index) };
            let high = unsafe { *third.add(index) } >> (group / 4) & 1;
            scale * (i32::from(low | high << 2) - 4) as f32
        })
    }
}
