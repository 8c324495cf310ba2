//! A pass in parts, between which steps of other sequences run.
//!
//! A prompt's chunk takes tens of milliseconds, and who writes meanwhile would wait for all of it. Smaller chunks would read the weights more often;
//! so a chunk stays what it is and is interrupted between two of its launches. Its values lie in memory of its own, and its numbers are those of
//! the pass in one piece, to the last bit.

use std::ops::Range;

use super::{Engine, EngineError, Logits, run::Run};
use crate::{
    cache::{Origin, SequenceId},
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
    /// A part of the pass over a chunk of a prompt, [`Engine::forward_of`], the parts one after another; decoding steps of other sequences may come
    /// between them. The tokens become part of the sequence, and logits are there, with the last.
    ///
    /// # Errors
    /// Those of [`Engine::forward`].
    ///
    /// # Panics
    /// Where it is not what follows the part before, or there are several parts of an engine's for one sequence, or of one token.
    pub fn forward_part(
        &mut self,
        id: SequenceId,
        tokens: &[u32],
        logits: Logits,
        share: Share,
    ) -> Result<(), EngineError> {
        if share.done == 0 && share.is_last() {
            return self.forward_of(id, tokens, logits, &mut Recorder::off());
        }
        assert!(self.prompt_scratch.is_some() && tokens.len() > 1, "a part of a pass that others cannot come between");
        if share.done > 0 {
            let (of, before) = self.part.expect("a pass that has begun");
            assert!(of == id && share.follows(before), "{share:?} of {id:?} behind {before:?} of {of:?}");
        }
        let n = tokens.len();
        let wanted = if logits == Logits::None { n..n } else { n - 1..n };
        assert_ne!(logits, Logits::All, "parts of a pass leave the last token's logits");
        self.pass_part(id, tokens, wanted, false, share, &mut Recorder::off())?;
        Ok(())
    }

    /// A part of such a pass, whose states come with the last.
    pub(super) fn pass_part(
        &mut self,
        id: SequenceId,
        tokens: &[u32],
        wanted: Range<usize>,
        ends_in_states: bool,
        share: Share,
        trace: &mut Recorder,
    ) -> Result<Vec<f32>, EngineError> {
        let n = tokens.len();
        assert!(0 < n && n <= self.plan.n_batch, "a forward pass over {n} tokens, of at most {}", self.plan.n_batch);
        if share.done == 0 {
            assert_eq!(self.part, None, "a pass begins within another");
            self.prepare(id, tokens)?;
            self.stage(id, tokens)?;
        }
        let ready = if n == 1 { &self.one } else { self.several.as_ref().expect("a pass for several tokens") };
        let rows = [self.input.slice(0..n), self.input.slice(n..2 * n), self.input.slice(2 * n..3 * n)];
        let n_past = self.cache.pages.n_tokens(id);
        let run = Run { ends_in_states, ..self.run(ready, &rows, id, n_past, wanted) };
        run.launch_steps(share.steps(run.pass.steps.len()), trace)?;
        if !share.is_last() {
            self.part = Some((id, share));
            return Ok(Vec::new());
        }
        let states = if ends_in_states { run.states()? } else { Vec::new() };
        let origin = if n == 1 { Origin::Token } else { Origin::Prompt };
        self.part = None;
        self.cache.pages.advance(id, tokens, origin);
        self.decode.forget_choice();
        Ok(states)
    }
}
