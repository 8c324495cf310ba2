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
    /// The upper two bits of Q6_K, and the integers of Q2_K and TQ2_0: two words for each run, the first for its values below 16.
    Pairs,
    /// The indices and signs of IQ2_XXS: for each run a word of four indices, then one of signs, value `v` of octet `k` at bit 4 v + k.
    /// Of each octet a file has the first seven signs; above them is the scale.
    Octets,
    /// The indices and signs of IQ2_XS: for each run a word of the lower bytes of four indices, then one of signs as above; above them
    /// are the indices' ninth bits.
    NinesAndOctets,
    /// The indices and signs of IQ2_S: for each run a word of the lower bytes of four indices, then one of signs as above, all 32.
    BytesAndOctets,
    /// The upper bits of IQ2_S's indices and the scales: a byte of each for every 32 values.
    InPairs,
    /// The signs of IQ3_XXS: a word for each run, value `v` of quartet 2 j + h at bit 8 v + 4 h + j. Of each eight values a file has
    /// the first seven signs; above them is the scale.
    SevensToQuartets,
    /// The ninth bits and signs of IQ3_S: first the signs, a word for each run as above, then the ninth bits.
    NinthsAndQuartets,
    /// The scales of IQ1_M: `d`, then 3 bits for each of sixteen.
    ScaleFirst,
    /// The digits of TQ1_0: for each 64 values three words, digit `n` of byte `b` of the first being value 4 n + b of them, and of the third
    /// value 32 + 4 n + b; the second's first three digits are values 20 + b, 24 + b and 28 + b, its others 52 + b and 56 + b. Then a word of which
    /// digit `n` of byte `b` is value 60 + b of the n-th 64.
    Digits,
    /// The integers of NVFP4: 16 bytes for each run.
    Sixteens,
    /// The third bits and integers of Q3_K, three words for each run: first two of each run, then the last of each. Word `t` has
    /// values 8 t to 8 t + 3 in the lowest three bits of its bytes and the next four in the three above them. Values 24 to 27 have their upper
    /// two bits on top of word 0's bytes and the lowest below the top of word 1's; values 28 to 31 have them on top of word 2's and of word
    /// 1's.
    Threes,
    /// The scales of Q3_K: for each run a byte, the first scale above the upper two bits of the second, then a half-byte of what is left
    /// of that.
    SixBits,
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

/// The digit of value `value` of TQ1_0: in a file 32 bytes have five of the values 32 apart, 16 bytes five 16 apart, and 4 bytes four 4
/// apart.
#[inline(always)]
fn digit_in_file(at: impl Fn(usize) -> u8, value: usize) -> u32 {
    let (byte, digit) = if value < 160 {
        (value % 32, value / 32)
    } else if value < 240 {
        (32 + value % 16, (value - 160) / 16)
    } else {
        (48 + value % 4, (value - 240) / 4)
    };
    let (mut left, mut skipped) = (u32::from(at(byte)), 0);
    while skipped < digit {
        left = (3 * left) & 0xff;
        skipped += 1;
    }
    (3 * left) >> 8
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
            6 => Order::Pairs,
            7 => Order::Octets,
            8 => Order::NinesAndOctets,
            9 => Order::BytesAndOctets,
            10 => Order::InPairs,
            11 => Order::SevensToQuartets,
            12 => Order::NinthsAndQuartets,
            13 => Order::ScaleFirst,
            14 => Order::Digits,
            15 => Order::Sixteens,
            16 => Order::Threes,
            17 => Order::SixBits,
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
            Order::Pairs => {
                // In the file value `32 s + v` of each half of 128 has bits 2s and 2s + 1 of byte `v` of that half's.
                let (run, first, b) = (byte / 8, byte % 8 / 4 * 16, byte % 4);
                let (half, s) = (run / 4, run % 4);
                bits(|bit| at(32 * half + first + bit / 2 * 4 + b) >> (2 * s + bit % 2) & 1)
            }
            // Of a word of signs, byte `byte % 4` holds those of values `byte % 4 * 2` and the next, of each octet.
            Order::Octets if byte % 8 < 4 => at(byte),
            Order::Octets => bits(|bit| {
                let (octet, v) = (bit % 4, byte % 4 * 2 + bit / 4);
                let from = if v < 7 { 7 * octet + v } else { 28 + octet };
                at(byte / 8 * 8 + 4 + from / 8) >> (from % 8) & 1
            }),
            Order::NinesAndOctets => {
                let lower = |octet: usize| at(byte / 8 * 8 + 2 * octet);
                let upper = |octet: usize| at(byte / 8 * 8 + 2 * octet + 1);
                if byte % 8 < 4 {
                    lower(byte % 4)
                } else {
                    bits(|bit| {
                        let (octet, v) = (bit % 4, byte % 4 * 2 + bit / 4);
                        upper(octet) >> if v < 7 { v + 1 } else { 0 } & 1
                    })
                }
            }
            Order::BytesAndOctets if byte % 8 < 4 => at(byte / 8 * 4 + byte % 4),
            Order::BytesAndOctets => bits(|bit| at(32 + byte / 8 * 4 + bit % 4) >> (byte % 4 * 2 + bit / 4) & 1),
            Order::InPairs => at(byte / 2 + byte % 2 * 8),
            Order::SevensToQuartets => bits(|bit| {
                // Sign i of the j-th eight.
                let (i, j) = (bit / 4 * 4 + byte % 4, bit % 4);
                let from = if i < 7 { 7 * j + i } else { 28 + j };
                at(byte / 4 * 4 + from / 8) >> (from % 8) & 1
            }),
            Order::NinthsAndQuartets if byte < 32 => {
                bits(|bit| at(8 + byte / 4 * 4 + bit % 4) >> (bit / 4 * 4 + byte % 4) & 1)
            }
            Order::NinthsAndQuartets => at(byte - 32),
            Order::ScaleFirst => {
                let half = |index: usize| u64::from(at(2 * index)) | u64::from(at(2 * index + 1)) << 8;
                let (mut word, mut index) = (0, 0);
                while index < 4 {
                    word |= half(index) >> 12 << (4 * index) | (half(index) & 0xfff) << (16 + 12 * index);
                    index += 1;
                }
                (word >> (8 * byte)) as u8
            }
            Order::Digits => {
                let (mut number, mut digit) = (0, 0);
                while digit < 5 {
                    let value = if byte < 48 {
                        let four = match byte % 12 / 4 {
                            0 => digit,
                            1 if digit < 3 => 5 + digit,
                            1 => 10 + digit,
                            _ => 8 + digit,
                        };
                        Some(byte / 12 * 64 + 4 * four + byte % 4)
                    } else {
                        (digit < 4).then_some(64 * digit + 60 + byte % 4)
                    };
                    number = 3 * number + value.map_or(0, |value| digit_in_file(at, value));
                    digit += 1;
                }
                // As a file has them: rounded up, so that multiplying gives the digits from above.
                ((256 * number).div_ceil(243)) as u8
            }
            Order::Sixteens => {
                let half = |run: usize, v: usize| at(byte / 16 * 16 + 8 * run + v % 8) >> (v / 8 * 4) & 15;
                half(0, byte % 16) | half(1, byte % 16) << 4
            }
            Order::Threes => {
                let (run, word) = if byte < 64 { (byte / 8, byte % 8 / 4) } else { (byte % 32 / 4, 2) };
                let (half, s) = (run / 4, run % 4);
                let q = |four: usize| {
                    let v = 4 * four + byte % 4;
                    at(32 + 32 * half + v) >> (2 * s) & 3 | (at(v) >> run & 1) << 2
                };
                let above = match word {
                    0 => q(6) >> 1,
                    1 => q(6) & 1 | (q(7) & 1) << 1,
                    _ => q(7) >> 1,
                };
                q(2 * word) | q(2 * word + 1) << 3 | above << 6
            }
            Order::SixBits => {
                let scale = |r: usize| at(r % 8) >> (r / 8 * 4) & 15 | (at(8 + r % 4) >> (r / 4 * 2) & 3) << 4;
                if byte < 8 {
                    scale(2 * byte) << 2 | scale(2 * byte + 1) >> 4
                } else {
                    let second = |run: usize| scale(2 * run + 1) & 15;
                    second(byte % 8 * 2) | second(byte % 8 * 2 + 1) << 4
                }
            }
        }
    }
}
