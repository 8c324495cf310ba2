//! Words of shared memory that asynchronous copies will write, or read.

use std::ops::Range;

#[derive(Default)]
pub(super) struct Awaited {
    /// By word: how many copies will, and the line of the last.
    words: Vec<(u32, u32)>,
    /// Words of which some copy will.
    left: usize,
}

/// The words of a range of bytes.
fn words(offset: u64, bytes: u64) -> Range<usize> {
    offset as usize / 4..(offset + bytes).div_ceil(4) as usize
}

impl Awaited {
    pub(super) fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// A copy at a line will write, or read, these bytes.
    pub(super) fn add(&mut self, offset: u64, bytes: u64, line: u32) {
        let words = words(offset, bytes);
        if self.words.len() < words.end {
            self.words.resize(words.end, (0, 0));
        }
        for word in &mut self.words[words] {
            self.left += (word.0 == 0) as usize;
            *word = (word.0 + 1, line);
        }
    }

    /// One of the copies that will has been waited for.
    pub(super) fn remove(&mut self, offset: u64, bytes: u64) {
        let words = words(offset, bytes);
        let end = words.end.min(self.words.len());
        for word in &mut self.words[words.start.min(end)..end] {
            if word.0 > 0 {
                word.0 -= 1;
                self.left -= (word.0 == 0) as usize;
            }
        }
    }

    /// The first word of these bytes that a copy awaits, by its offset, and the line of the copy.
    pub(super) fn find(&self, offset: u64, bytes: u64) -> Option<(u64, u32)> {
        let words = words(offset, bytes);
        let end = words.end.min(self.words.len());
        let start = words.start.min(end);
        let at = self.words[start..end].iter().position(|word| word.0 > 0)?;
        Some(((start + at) as u64 * 4, self.words[start + at].1))
    }
}
