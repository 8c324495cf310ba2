//! The packed scales and minima of Q4_K and Q5_K: eight of each, 6 bits wide, in 12 bytes.

/// Scale and minimum of the 32 values `index`, 0 to 7: the first four in the low six bits of bytes 0–3 and 4–7; the other
/// four with their low halves in bytes 8–11 and their upper two bits on top of bytes 0–3 and 4–7.
#[inline(always)]
pub unsafe fn scale_and_minimum(packed: *const u8, index: usize) -> (f32, f32) {
    let byte = |at: usize| u32::from(unsafe { *packed.add(at) });
    let (scale, minimum) = if index < 4 {
        (byte(index) & 63, byte(index + 4) & 63)
    } else {
        let low = byte(index + 4);
        (low & 15 | byte(index - 4) >> 6 << 4, low >> 4 | byte(index) >> 6 << 4)
    };
    (scale as f32, minimum as f32)
}

/// The scales of the neighbouring runs `2 · pair` and `2 · pair + 1`, and their minima, from the three words: four bytes of
/// which the lower two count.
#[inline(always)]
pub fn pair_of_runs(words: [u32; 3], pair: u32) -> (u32, u32) {
    let shift = pair % 2 * 16;
    let [scales, minima, more] = words.map(|word| word >> shift);
    if pair < 2 {
        (scales & 0x3f3f, minima & 0x3f3f)
    } else {
        (more & 0x0f0f | scales >> 2 & 0x3030, more >> 4 & 0x0f0f | minima >> 2 & 0x3030)
    }
}
