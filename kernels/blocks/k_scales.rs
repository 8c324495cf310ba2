//! The packed scales and minima of Q4_K and Q5_K: eight of each, 6 bits wide, in 12 bytes.
//!
//! On the device these are three words, made so that the scale and the minimum of run `r` are found by turning the words to the
//! right by 4 r bits, whichever run it is:
//!
//! | word, turned | bits | are |
//! |---|---|---|
//! | 0 | 0–3 | the scale's lower four |
//! | 1 | 2–5 | the minimum's lower four |
//! | 2 | 4–5, 6–7 | the scale's upper two, the minimum's upper two |
//!
//! So a scale is two masks away, and so is four times a minimum.

/// Scale and minimum of run `run` in a file's 12 bytes: the first four in the low six bits of bytes 0–3 and 4–7; the other
/// four with their low halves in bytes 8–11 and their upper two bits on top of bytes 0–3 and 4–7.
unsafe fn in_file(packed: *const u8, run: usize) -> (u32, u32) {
    let byte = |at: usize| u32::from(unsafe { *packed.add(at) });
    if run < 4 {
        (byte(run) & 63, byte(run + 4) & 63)
    } else {
        let low = byte(run + 4);
        (low & 15 | byte(run - 4) >> 6 << 4, low >> 4 | byte(run) >> 6 << 4)
    }
}

/// The device's words from the file's 12 bytes.
pub unsafe fn pack(packed: *const u8) -> [u32; 3] {
    let (mut scales, mut minima, mut upper, mut run) = (0, 0, 0, 0);
    while run < 8 {
        let (scale, minimum) = unsafe { in_file(packed, run) };
        let turn = 4 * run as u32;
        scales |= (scale & 15).rotate_left(turn);
        minima |= (minimum << 2 & 0x3c).rotate_left(turn);
        upper |= (scale & 0x30 | minimum << 2 & 0xc0).rotate_left(turn);
        run += 1;
    }
    [scales, minima, upper]
}

/// The scale of run `run`, and four times its minimum.
#[inline(always)]
pub fn scale_and_four_minima(words: [u32; 3], run: u32) -> (u32, u32) {
    let [scales, minima, upper] = words.map(|word| word.rotate_right(4 * run));
    (scales & 0x0f | upper & 0x30, minima & 0x3c | upper & 0xc0)
}

/// Scale and minimum of run `run` of a block's 16 bytes on the device, which are 4-byte aligned.
#[inline(always)]
pub unsafe fn scale_and_minimum(header: *const u8, run: usize) -> (f32, f32) {
    let words = header.cast::<u32>();
    let words = unsafe { [*words.add(1), *words.add(2), *words.add(3)] };
    let (scale, four_minima) = scale_and_four_minima(words, run as u32);
    (scale as f32, (four_minima / 4) as f32)
}
