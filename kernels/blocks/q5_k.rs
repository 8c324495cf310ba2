//! Q5_K: 256 integers of 5 bits, in 8 runs of 32 with a 6-bit scale and minimum each.

use super::{Block, GROUP, eight, k_scales::scale_and_minimum, load_f16};

/// `d`, `dmin` (f16), 12 bytes of scales and minima, 32 bytes of fifth bits (bit `r` of byte `l` belongs to value `l` of run
/// `r`), then 128 bytes as in Q4_K: value = d · scale · q − dmin · minimum.
pub struct Q5K;

impl Block for Q5K {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 176;

    #[inline(always)]
    unsafe fn values(block: *const u8, group: usize) -> [f32; GROUP] {
        let run = group / 4;
        let (d, dmin) = unsafe { (load_f16(block), load_f16(block.add(2))) };
        let (scale, minimum) = unsafe { scale_and_minimum(block.add(4), run) };
        let (scale, minimum) = (d * scale, dmin * minimum);
        let first = group % 4 * GROUP;
        let (qh, qs) = unsafe { (block.add(16 + first), block.add(48 + run / 2 * 32 + first)) };
        eight(|index| {
            let (low, high) = unsafe { (*qs.add(index) >> (run % 2 * 4) & 15, *qh.add(index) >> run & 1) };
            scale * f32::from(low | high << 4) - minimum
        })
    }
}
