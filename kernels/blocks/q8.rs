//! Q8_0: 32 integers of 8 bits and a scale.

use super::{Block, GROUP, eight, load_f16};

/// `d` (f16), then 32 `i8`: value = d · q.
pub struct Q8_0;

impl Block for Q8_0 {
    const ELEMENTS: usize = 32;
    const BYTES: usize = 34;

    #[inline(always)]
    unsafe fn values(block: *const u8, group: usize) -> [f32; GROUP] {
        let d = unsafe { load_f16(block) };
        let qs = unsafe { block.add(2 + group * GROUP) };
        eight(|index| d * f32::from(unsafe { *qs.add(index) } as i8))
    }
}
