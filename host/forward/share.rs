//! A pass in parts, between which steps of other sequences run.
//!
//! A prompt's chunk takes tens of milliseconds, and who writes meanwhile would wait for all of it. Smaller chunks would read the weights more often;
//! so a chunk stays what it is and is interrupted between two of its launches. Its values lie in memory of its own, and its numbers are those of
//! the pass in one piece, to the last bit.

use std::ops::Range;

use super::{Chunk, Engine, EngineError, Placed, run::Run, staged_len};
use crate::{
    cache::{Origin, SequenceId},
    gpu::kernels::Chunks,
    trace::Recorder,
};

/// A part of the work of a pass, in units of the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Units done before it.
    pub done: usize,
    /// Units done with it.
    pub until: usize,
    /// All units.
    pub of: usize,
}

impl Share {
    /// All of it.
    pub const WHOLE: Share = Share { done: 0, until: 1, of: 1 };

    /// Whether nothing follows.
    pub fn is_last(self) -> bool {
        self.until == self.of
    }

    /// Whether it is what follows another part.
    pub fn follows(self, before: Share) -> bool {
        self.done == before.until && self.of == before.of && self.done < self.until && self.until <= self.of
    }

    /// Its steps, of so many.
    fn steps(self, n_steps: usize) -> Range<usize> {
        self.done * n_steps / self.of..self.until * n_steps / self.of
    }
}

impl Engine {
    /// A part of the pass over chunks of prompts, each another sequence's, the parts one after another; decoding steps of other sequences may come
    /// between them. With the last the tokens become part of their sequences, and the logits that are wanted are there, as rows in the order of the
    /// chunks. A chunk beside others may round otherwise than alone; its row of the head does not.
    ///
    /// # Errors
    /// Those of [`Engine::forward`].
    ///
    /// # Panics
    /// Where it is not what follows the part before, or there are several parts of an engine's for one sequence, or of one token, or more chunks
    /// than [`Engine::n_chunks`] or tokens than [`Engine::n_batch`].
    pub fn forward_chunks(&mut self, chunks: &[Chunk], share: Share) -> Result<(), EngineError> {
        if let [Chunk { id, tokens: [token], .. }] = chunks {
            assert!(share.done == 0 && share.is_last(), "a part of a token");
            return self.decode_rows(&[(*id, *token)]);
        }
        let is_whole = share.done == 0 && share.is_last();
        assert!(is_whole || self.prompt_scratch.is_some(), "a part of a pass that others cannot come between");
        self.pass_part(chunks, false, share, &mut Recorder::off())?;
        Ok(())
    }

    /// A part of such a pass, or of one whose hidden states are wanted: those, `[wanted][n_embd]`, come with the last.
    pub(super) fn pass_part(
        &mut self,
        chunks: &[Chunk],
        ends_in_states: bool,
        share: Share,
        trace: &mut Recorder,
    ) -> Result<Vec<f32>, EngineError> {
        let placed = Placed::new(chunks, |id| self.cache.pages.n_tokens(id));
        let (n, n_batch, n_most) = (placed.n(), self.plan.n_batch, self.n_chunks());
        assert!((1..=n_batch).contains(&n), "a forward pass over {n} tokens, of at most {n_batch}");
        assert!(
            (1..=n_most).contains(&chunks.len()),
            "a forward pass over {} chunks, of at most {n_most}",
            chunks.len()
        );
        let ids: Vec<SequenceId> = chunks.iter().map(|chunk| chunk.id).collect();
        match &self.part {
            None => assert_eq!(share.done, 0, "a part of a pass that has not begun"),
            Some((of, before)) => {
                assert!(*of == ids && share.follows(*before), "{share:?} of {ids:?} behind {before:?} of {of:?}");
            }
        }
        self.decode.behind.forget();
        if share.done == 0 {
            for chunk in chunks {
                self.prepare(chunk.id, chunk.tokens)?;
            }
            self.stage(chunks, &placed)?;
        }
        let ready = if n == 1 { &self.one } else { self.several.as_ref().expect("a pass for several tokens") };
        let rows = [self.input.slice(0..n), self.input.slice(n..2 * n), self.input.slice(2 * n..3 * n)];
        let starts = self.input.slice(3 * n..staged_len(n, chunks.len()));
        let run = Run {
            ends_in_states,
            gathered: &placed.gathered,
            chunks: Some(Chunks { starts: &starts, longest: placed.longest }),
            ..self.run(ready, &rows, ids[0], placed.n_past, placed.wanted.clone())
        };
        run.launch_steps(share.steps(run.pass.steps.len()), trace)?;
        if !share.is_last() {
            self.part = Some((ids, share));
            return Ok(Vec::new());
        }
        let states = if ends_in_states { run.states()? } else { Vec::new() };
        let origin = if n == 1 { Origin::Token } else { Origin::Prompt };
        self.part = None;
        for chunk in chunks {
            self.cache.pages.advance(chunk.id, chunk.tokens, origin);
        }
        // Of several chunks each row is a choice's; of one, the first.
        self.decode.left(if chunks.len() > 1 { placed.wanted.len().max(1) } else { 1 });
        Ok(states)
    }
}
