//! The tokens of a pass for many: chunks of prompts, of one sequence or of several.
//!
//! Short prompts go through the layers together, as weights are read and unpacked once for all of them. Only attention must know whose a token is: it finds
//! each sequence's pages by the token's slot, and flash attention has blocks for each chunk. What something is wanted of is moved together before
//! the head, which then computes it alone.

use std::ops::Range;

use super::{Engine, GpuError};
use crate::cache::SequenceId;

/// The next tokens of a sequence, which become part of it.
#[derive(Clone, Debug)]
pub struct Chunk<'a> {
    /// Whose they are.
    pub id: SequenceId,
    /// At least one.
    pub tokens: &'a [u32],
    /// Those of them whose logits, or states, are wanted.
    pub wanted: Range<usize>,
}

impl<'a> Chunk<'a> {
    /// Of a prompt that goes on behind it: nothing is wanted.
    pub fn inner(id: SequenceId, tokens: &'a [u32]) -> Chunk<'a> {
        Chunk { id, tokens, wanted: tokens.len()..tokens.len() }
    }

    /// The last of a prompt: the last token's logits, or state, is wanted.
    pub fn last(id: SequenceId, tokens: &'a [u32]) -> Chunk<'a> {
        Chunk { id, tokens, wanted: tokens.len().saturating_sub(1)..tokens.len() }
    }
}

/// Where the chunks of a pass lie in it.
pub(super) struct Placed {
    /// `[n_chunks + 1]`: the first row of each, and the number of all.
    pub starts: Vec<u32>,
    /// Tokens of the longest.
    pub longest: usize,
    /// The most tokens before any of these.
    pub n_past: usize,
    /// The rows that something is wanted of, as the head finds them.
    pub wanted: Range<usize>,
    /// These rows before that, unless they are there already.
    pub gathered: Vec<usize>,
}

impl Placed {
    /// One behind the other; `n_tokens` says how many a sequence has before them.
    pub fn new(chunks: &[Chunk], n_tokens: impl Fn(SequenceId) -> usize) -> Placed {
        let (mut starts, mut rows) = (vec![0], Vec::new());
        let mut start = 0;
        for Chunk { tokens, wanted, .. } in chunks {
            assert!(wanted.start <= wanted.end && wanted.end <= tokens.len(), "{wanted:?} of {} tokens", tokens.len());
            rows.extend(start + wanted.start..start + wanted.end);
            start += tokens.len();
            starts.push(start as u32);
        }
        let first = rows.first().copied().unwrap_or(start);
        let are_neighbours = rows.iter().enumerate().all(|(index, row)| *row == first + index);
        let (wanted, gathered) =
            if are_neighbours { (first..first + rows.len(), Vec::new()) } else { (0..rows.len(), rows) };
        let longest = chunks.iter().map(|chunk| chunk.tokens.len()).max().unwrap_or(0);
        let n_past = chunks.iter().map(|chunk| n_tokens(chunk.id)).max().unwrap_or(0);
        Placed { starts, longest, n_past, wanted, gathered }
    }

    /// Tokens of all.
    pub fn n(&self) -> usize {
        self.starts[self.starts.len() - 1] as usize
    }
}

/// Elements of what a pass of at most so many tokens and chunks copies to the device: tokens, positions, the numbers of their sequences, and the chunks'
/// starts.
pub(super) fn staged_len(n_tokens: usize, n_chunks: usize) -> usize {
    3 * n_tokens + n_chunks + 1
}

impl Engine {
    /// The most chunks that a pass takes. A recurrent layer carries on the states of one sequence, and beside others a chunk's products may round otherwise
    /// than alone.
    pub fn n_chunks(&self) -> usize {
        if self.several.is_none() || self.is_recurrent() || self.batch_invariant { 1 } else { self.n_rows() }
    }

    /// Copies chunks to the device: `[3][n]`, their tokens, positions and the numbers of their sequences; behind these where each chunk begins.
    pub(super) fn stage(&mut self, chunks: &[Chunk], placed: &Placed) -> Result<(), GpuError> {
        if self.is_staging {
            self.gpu.synchronise()?;
            self.landed();
        }
        let n = placed.n();
        for (chunk, start) in chunks.iter().zip(&placed.starts) {
            let (start, n_new) = (*start as usize, chunk.tokens.len());
            let n_past = self.cache.pages.n_tokens(chunk.id);
            self.staged[start..start + n_new].copy_from_slice(chunk.tokens);
            for (index, position) in self.staged[n + start..n + start + n_new].iter_mut().enumerate() {
                *position = (n_past + index) as u32;
            }
            self.staged[2 * n + start..2 * n + start + n_new].fill(chunk.id.0);
        }
        let end = staged_len(n, chunks.len());
        self.staged[3 * n..end].copy_from_slice(&placed.starts);
        self.is_staging = true;
        // SAFETY: the pinned memory lives as long as the engine, and is not written before the next synchronisation.
        unsafe { self.gpu.enqueue_write(&self.input, &self.staged[..end]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four tokens of a sequence behind two others, one behind five and three behind none.
    fn placed(wanted: [Range<usize>; 3]) -> Placed {
        let tokens = [[7; 4].as_slice(), &[8], &[9; 3]];
        let chunks: Vec<Chunk> = (0..3)
            .zip(wanted)
            .map(|(index, wanted)| Chunk { id: SequenceId(index as u32), tokens: tokens[index], wanted })
            .collect();
        Placed::new(&chunks, |id| [2, 5, 0][id.0 as usize])
    }

    #[test]
    fn rows_that_are_wanted_are_gathered_where_they_are_apart() {
        let last = placed([3..4, 0..1, 2..3]);
        assert_eq!((last.starts.as_slice(), last.longest, last.n_past, last.n()), ([0, 4, 5, 8].as_slice(), 4, 5, 8));
        assert_eq!((last.wanted, last.gathered), (0..3, vec![3, 4, 7]));
        let all = placed([0..4, 0..1, 0..3]);
        assert_eq!((all.wanted, all.gathered), (0..8, Vec::new()));
        let neighbours = placed([3..4, 0..1, 3..3]);
        assert_eq!((neighbours.wanted, neighbours.gathered), (3..5, Vec::new()));
        let one = placed([4..4, 0..1, 3..3]);
        assert_eq!((one.wanted, one.gathered), (4..5, Vec::new()));
        let none = placed([4..4, 1..1, 3..3]);
        assert!(none.wanted.is_empty() && none.gathered.is_empty());
        let ends = placed([0..1, 1..1, 0..1]);
        assert_eq!((ends.wanted, ends.gathered), (0..2, vec![0, 5]));
    }
}
