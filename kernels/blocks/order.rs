//! How the bits of a field lie on the device.
//!
//! The K formats keep the integers of values that lie far apart in one byte, and spread the bits of a scale over bytes that
//! lie far apart. A lane of a product takes 32 neighbouring values at a time, and wants what belongs to them, and that alone,
//! where one shift and one mask find it. So the bits of such a field change places when the blocks are taken apart; there
//! are as many as before.
//!
//! In what follows `v` is a value's place among the 32 of its *run*, and a run's integers of four bits always lie as in Q4_0:
//! byte `i` of 16 holds value `i` in its low half and value `i + 16` in its high half. What is beyond four bits lies so that
//! the bits for the four bytes of a word are found together: value `v = 4k + b` has its bits in byte `b`, the `k`-th from below.

use super::k_scales;

/// The order of a field's bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Order {
    /// As in the file.
    File,
    /// The integers of Q4_K and Q5_K: 16 bytes for each of eight runs.
    Nibbles,
    /// `d`, `dmin` and the scales and minima of Q4_K and Q5_K: see `k_scales.rs`.
    Scales,
    /// The fifth bits of Q5_K: a word for each run, of 32 bits in the order above.
    Fifths,
    /// The fifth bits of Q5_0 and Q5_1: one such word.
    Fifth,
    /// The low four bits of Q6_K: 16 bytes for each of eight runs.
    LowNibbles,
    /// The upper two bits of Q6_K: two words for each run, the first for its values below 16.
    UpperPairs,
}

/// Eight bits from a function of their number.
#[inline(always)]
fn bits(bit: impl Fn(usize) -> u8) -> u8 {
    let (mut byte, mut index) = (0, 0);
    while index < 8 {
        byte |= bit(index) << index;
        index += 1;
    }
    byte
}

impl Order {
    /// The order of a number.
    pub(super) fn of(number: u32) -> Order {
        match number {
            1 => Order::Nibbles,
            2 => Order::Scales,
            3 => Order::Fifths,
            4 => Order::Fifth,
            5 => Order::LowNibbles,
            6 => Order::UpperPairs,
            _ => Order::File,
        }
    }

    /// Byte `byte` of the field on the device, `field` being as in the file.
    ///
    /// # Safety
    /// - `field` is a whole field, of a format with this order, `byte` less than its length.
    pub unsafe fn byte(self, field: *const u8, byte: usize) -> u8 {
        let at = |index: usize| unsafe { *field.add(index) };
        match self {
            Order::File => at(byte),
            Order::Nibbles => {
                // In the file 32 bytes hold a run in their low halves and the next in their high ones.
                let (run, index) = (byte / 16, byte % 16);
                let half = |v: usize| at(run / 2 * 32 + v) >> (run % 2 * 4) & 15;
                half(index) | half(index + 16) << 4
            }
            Order::Scales if byte < 4 => at(byte),
            Order::Scales => {
                let [scales, minima, upper] = unsafe { k_scales::pack(field.add(4)) };
                let word = match byte / 4 {
                    1 => scales,
                    2 => minima,
                    _ => upper,
                };
                (word >> (byte % 4 * 8)) as u8
            }
            Order::Fifths => {
                let (run, b) = (byte / 4, byte % 4);
                bits(|k| at(4 * k + b) >> run & 1)
            }
            Order::Fifth => bits(|k| at(k / 2) >> (k % 2 * 4 + byte) & 1),
            Order::LowNibbles => {
                // In the file value `32 s + v` of each half of 128 is in byte `(32 s + v) % 64` of that half's, low for s < 2.
                let (run, index) = (byte / 16, byte % 16);
                let (half, s) = (run / 4, run % 4);
                let nibble = |v: usize| at(64 * half + s % 2 * 32 + v) >> (s / 2 * 4) & 15;
                nibble(index) | nibble(index + 16) << 4
            }
            Order::UpperPairs => {
                // In the file value `32 s + v` of each half of 128 has bits 2s and 2s + 1 of byte `v` of that half's.
                let (run, first, b) = (byte / 8, byte % 8 / 4 * 16, byte % 4);
                let (half, s) = (run / 4, run % 4);
                bits(|bit| at(32 * half + first + bit / 2 * 4 + b) >> (2 * s + bit % 2) & 1)
            }
        }
    }
}
