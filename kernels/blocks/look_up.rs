//! Sixteen signed bytes looked up by half-bytes, for the formats whose integers are indices into a table.

use cuda_std::integer::pick_bytes;

/// A table of sixteen `i8`, four to a word.
pub type Table = [u32; 4];

/// The table's words.
pub const fn table(values: [i8; 16]) -> Table {
    let mut words = [0; 4];
    let mut index = 0;
    while index < 16 {
        words[index / 4] |= (values[index] as u8 as u32) << (index % 4 * 8);
        index += 1;
    }
    words
}

/// The values that the eight half-bytes of `word` stand for: those of its low halves, those of its high halves.
#[inline(always)]
fn look_up_word(table: Table, word: u32) -> (u32, u32) {
    // Three bits choose among eight bytes; that is done in both halves of the table, for four half-bytes at a time.
    let index = word & 0x7777_7777;
    let first = (pick_bytes(table[0], table[1], index), pick_bytes(table[2], table[3], index));
    let second = (pick_bytes(table[0], table[1], index >> 16), pick_bytes(table[2], table[3], index >> 16));
    // The fourth bit chooses the half: byte i of the one, or byte i of the other, which is byte 4 + i of both.
    let half = 0x3210_3210 | (word & 0x8888_8888) >> 1;
    let (first, second) = (pick_bytes(first.0, first.1, half), pick_bytes(second.0, second.1, half >> 16));
    // In the order of the half-bytes, low and high ones take turns.
    (pick_bytes(first, second, 0x6420), pick_bytes(first, second, 0x7531))
}

/// The same for sixteen bytes.
#[inline(always)]
pub fn look_up(table: Table, bytes: [u32; 4]) -> ([u32; 4], [u32; 4]) {
    let both = bytes.map(|word| look_up_word(table, word));
    (both.map(|(low, _)| low), both.map(|(_, high)| high))
}

/// Those of the half-bytes of word `index % 4`: of its low halves below 4, of its high ones from there on.
#[inline(always)]
pub fn look_up_four(table: Table, bytes: [u32; 4], index: usize) -> u32 {
    let (low, high) = look_up_word(table, bytes[index % 4]);
    if index < 4 { low } else { high }
}
