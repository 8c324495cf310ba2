//! The packed scales and minima of Q4_K and Q5_K: eight of each, 6 bits wide, in 12 bytes.
//!
//! ```text
//! byte 0–3    scale 0–3 in the low six bits,  upper two bits of scale 4–7 on top
//! byte 4–7    minimum 0–3 in the low six,     upper two bits of minimum 4–7 on top
//! byte 8–11   lower four bits of scale 4–7,   lower four of minimum 4–7 in the high half
//! ```

/// Scale and minimum of group `j`, 0 to 7.
pub(super) fn scale_and_minimum(packed: &[u8; 12], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let low = packed[j + 4];
        (low & 15 | packed[j - 4] >> 6 << 4, low >> 4 | packed[j] >> 6 << 4)
    }
}
