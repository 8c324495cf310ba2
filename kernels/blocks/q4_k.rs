//! Q4_K: 256 integers of 4 bits, in 8 runs of 32 with a 6-bit scale and minimum each.

use super::{Block, GROUP, eight, k_scales::scale_and_minimum, load_f16};

/// `d`, `dmin` (f16), 12 bytes of scales and minima, then four times 32 bytes, each holding a run in its low halves and the
/// next in its high ones: value = d · scale · q − dmin · minimum.
pub struct Q4K;

impl Block for Q4K {
    const ELEMENTS: usize = 256;
    const BYTES: usize = 144;

    #[inline(always)]
    unsafe fn values(block: *const u8, group: usize) -> [f32; GROUP] {
        let run = group / 4;
        let (d, dmin) = unsafe { (load_f16(block), load_f16(block.add(2))) };
        let (scale, minimum) = unsafe { scale_and_minimum(block.add(4), run) };
        let (scale, minimum) = (d * scale, dmin * minimum);
        let qs = unsafe { block.add(16 + run / 2 * 32 + group % 4 * GROUP) };
        eight(|index| {
            let q = unsafe { *qs.add(index) } >> (run % 2 * 4) & 15;
            scale * f32::from(q) - minimum
        })
    }
}
