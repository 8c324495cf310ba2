//! What goes into the next step.
//!
//! A step is a token of every sequence that is generating, with guesses behind it as far as there are rows and pages that nobody else needs, and
//! beside these at most `n_batch` tokens of prompts. Prompts are cut at multiples of `n_batch` from their beginning, in
//! company as alone, so that what a model says does not depend on who else is there; what is cut so goes through the model in one pass with other
//! prompts' chunks, where it is short enough and the runner takes several. But where sequences are generating, a step takes a share of a
//! chunk's work alone (`most_work`), and the next step goes on with it: however long a prompt is, and however far its chunk, a running sequence waits for no more than
//! that between two of its tokens.
//!
//! Age decides. Sequences begin in the order in which they came, so those that run are always older than those that wait. Where pages run
//! out, the youngest is set back: its pages go, its tokens stay, and it waits again. The oldest is never set back, so it comes to its end, and
//! then another is the oldest: nothing starves. A sequence that was set back gets its prompt from prompt chunks and each token that it
//! had generated from a decoding step, as the first time, because the two passes round differently: it goes on with the words that it would
//! have said. What of its pages nobody took meanwhile is adopted instead.
//!
//! Where more wait than there are slots, slots that become free are given away together (`Scheduler::gives_slots`): a prompt alone takes a pass over all weights,
//! in which nobody else writes. Who finds a slot free, with nobody before it who does not, begins at once.
//!
//! What a task chooses from a row that was guessed rightly is what it would have chosen a step later: guesses change when a sequence says its words,
//! and not which.
//!
//! Several answers to one prompt are a family: the prompt is computed once and forked.

mod prompts;
mod statistics;

use std::{collections::BTreeMap, ops::Range, time::Instant};

use prompts::Pass;
pub use statistics::Statistics;

use super::{
    runner::{Limits, NO_CHOICE, Row, Runner},
    timed::Timed,
};
use crate::{
    cache::{POSITIONS, SequenceId, Shortage},
    forward::Then,
    model::Pooling,
    speculate::{Adapt, Counts, Wanted},
};

/// Names a sequence to the one who submitted it. Older ones are smaller.
pub type Key = u64;

/// What a sequence does with its logits.
pub trait Task {
    /// Whether [`Task::next`] wants the greedy choice, and looks at nothing else of its row where there is one: other rows' logits may be gone then.
    fn is_greedy(&self) -> bool;

    /// Takes a row of logits: the next token, or none where this was the last.
    ///
    /// # Errors
    /// The runner's. What is wrong with the sequence alone ends it, and is the task's to keep.
    fn next<R: Runner>(&mut self, row: Row<R>) -> Result<Option<u32>, R::Error>;

    /// Does what [`Task::next`] left for later: it is called while the device works on what follows the token, before there is anything else
    /// to wait for, and before the sequence waits itself.
    fn settle(&mut self) {}

    /// How many more tokens it wants at most, if that is known: no more are guessed.
    fn n_wanted(&self) -> Option<usize> {
        None
    }

    /// Where it is an embedding's: which hidden states of its prompt it wants in place of logits. It ends with its prompt, all of which is
    /// computed for it.
    fn pooling(&self) -> Option<Pooling> {
        None
    }

    /// Takes the states that [`Pooling::wanted`] says of the prompt's tokens `chunk`, `[wanted][n_embd]`. Chunks come in order, and from the
    /// first again where the sequence was set back.
    fn take_states(&mut self, _chunk: Range<usize>, _states: &[f32]) {}
}

/// How a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its task had enough.
    Done,
    /// No position is left for the token that it would go on with.
    ContextFull,
}

/// A sequence that ended.
#[derive(Debug)]
pub struct Finished<T> {
    /// Which.
    pub key: Key,
    /// Its task.
    pub task: T,
    /// How.
    pub end: End,
    /// Tokens of the prompt that were there already when it began.
    pub n_reused: usize,
    /// What was guessed for it, where there is who does.
    pub drafts: Option<Counts>,
}

/// How far a sequence is that has a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Which.
    pub key: Key,
    /// Its slot, which it has until it ends or is set back.
    pub id: SequenceId,
    /// Tokens of its prompt.
    pub n_prompt: usize,
    /// Of these, those that were there already when it began.
    pub n_reused: usize,
    /// Of these, those that were computed.
    pub n_prefilled: usize,
    /// Tokens of its answer.
    pub n_generated: usize,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each variant's text is its documentation
pub enum Refused {
    #[error("the prompt is empty: expected at least one token")]
    Empty,
    #[error("the prompt has {n_prompt} tokens, and the context has room for {n_context}; shorten it, or raise -c")]
    Context { n_prompt: usize, n_context: usize },
    #[error(
        "the prompt has {n_prompt} tokens, and the cache has room for {n_most} of one sequence: {shortage}; shorten it, or take more memory"
    )]
    Memory { n_prompt: usize, n_most: usize, shortage: Shortage },
}

/// A sequence that has not ended.
struct Live<T> {
    key: Key,
    family: Key,
    task: T,
    /// The prompt and what was generated; the last generated one is in no cache yet.
    tokens: Vec<u32>,
    n_prompt: usize,
    /// Tokens in the cache.
    n_done: usize,
    n_reused: Option<usize>,
    /// When it got its last token.
    last_token: Option<Instant>,
    /// How many guesses are worth it, where there is who makes them.
    adapt: Option<Adapt>,
}

impl<T> Live<T> {
    fn is_in_prompt(&self) -> bool {
        self.n_done < self.n_prompt
    }

    /// Whether it has nothing but its prompt.
    fn is_new(&self) -> bool {
        self.tokens.len() == self.n_prompt
    }

    /// Whether its next step ends in a choice. Of a token that is computed again, the next is known.
    fn chooses(&self) -> bool {
        !self.is_in_prompt() && self.n_done + 1 == self.tokens.len()
    }

    fn finished(self, end: End) -> Finished<T> {
        let drafts = self.adapt.map(|adapt| adapt.counts());
        Finished { key: self.key, task: self.task, end, n_reused: self.n_reused.unwrap_or(0), drafts }
    }
}

type Active<T> = (SequenceId, Box<Live<T>>);

/// Decides which sequences' tokens go through the model next.
pub struct Scheduler<T> {
    limits: Limits,
    /// Tokens that a sequence can have where it is alone.
    n_most: usize,
    /// Tokens to choose among.
    n_vocab: usize,
    next_key: Key,
    /// Boxed, like those that run: a sampler has kilobytes of state, and a step moves each sequence some times.
    waiting: BTreeMap<Key, Box<Live<T>>>,
    /// The oldest first.
    active: Vec<Active<T>>,
    /// Chunks of prompts that are not done.
    pass: Option<Pass>,
    /// Tokens that were not written in slots that stood empty while others waited for one.
    n_missed: usize,
    statistics: Statistics,
    /// When the last step ended, where it left something to do.
    last_step: Option<Instant>,
}

impl<T: Task> Scheduler<T> {
    /// For this runner, which has no sequences; tokens are chosen among the first `n_vocab`.
    pub fn new(runner: &impl Runner, n_vocab: usize) -> Scheduler<T> {
        let limits = runner.limits();
        // The largest number that fits, by halving.
        let (mut n_most, mut too_many) = (0, limits.n_context + 1);
        while n_most + 1 < too_many {
            let middle = n_most.midpoint(too_many);
            *if runner.fits_alone(middle).is_ok() { &mut n_most } else { &mut too_many } = middle;
        }
        Scheduler {
            limits,
            n_most,
            n_vocab,
            next_key: 0,
            waiting: BTreeMap::new(),
            active: Vec::new(),
            pass: None,
            n_missed: 0,
            statistics: Statistics::default(),
            last_step: None,
        }
    }

    /// Takes a prompt and a task for each answer to it; the keys are in the tasks' order.
    ///
    /// # Errors
    /// [`Refused`] where the prompt can never be computed.
    pub fn submit(
        &mut self,
        runner: &impl Runner,
        prompt: &[u32],
        tasks: impl IntoIterator<Item = T>,
    ) -> Result<Vec<Key>, Refused> {
        let (n_prompt, n_context) = (prompt.len(), self.limits.n_context);
        if n_prompt == 0 {
            return Err(Refused::Empty);
        }
        if n_prompt > n_context {
            return Err(Refused::Context { n_prompt, n_context });
        }
        if let Err(shortage) = runner.fits_alone(n_prompt) {
            return Err(Refused::Memory { n_prompt, n_most: self.n_most, shortage });
        }
        let family = self.next_key;
        for task in tasks {
            let tokens = prompt.to_vec();
            let (key, n_done, n_reused, last_token) = (self.next_key, 0, None, None);
            let adapt = runner.drafts().map(Adapt::new);
            let live = Box::new(Live { key, family, task, tokens, n_prompt, n_done, n_reused, last_token, adapt });
            self.waiting.insert(key, live);
            self.next_key += 1;
        }
        Ok((family..self.next_key).collect())
    }

    /// Ends a sequence now. None where it has ended.
    pub fn cancel(&mut self, runner: &mut impl Runner, key: Key) -> Option<T> {
        if let Some(live) = self.waiting.remove(&key) {
            return Some(live.task);
        }
        let index = self.active.iter().position(|(_, live)| live.key == key)?;
        let (id, live) = self.active.remove(index);
        self.close(runner, id, key);
        Some(live.task)
    }

    /// Gives a slot back. Chunks that went through the model with a sequence's begin again without it.
    fn close<R: Runner>(&mut self, runner: &mut R, id: SequenceId, key: Key) {
        self.pass.take_if(|pass| pass.has(key));
        runner.close(id);
    }

    /// Whether nothing is left to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.active.is_empty()
    }

    /// The sequences that have a slot, the oldest first.
    pub fn active(&self) -> impl Iterator<Item = Progress> {
        self.active.iter().map(|(id, live)| {
            let n_reused = live.n_reused.unwrap_or(0);
            Progress {
                key: live.key,
                id: *id,
                n_prompt: live.n_prompt,
                n_reused,
                n_prefilled: live.n_done.min(live.n_prompt).saturating_sub(n_reused),
                n_generated: live.tokens.len() - live.n_prompt,
            }
        })
    }

    /// Sequences that have a slot.
    pub fn n_active(&self) -> usize {
        self.active.len()
    }

    /// Sequences that wait for one.
    pub fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What was done so far.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// The most sequences that are active.
    fn max_active(&self) -> usize {
        self.limits.n_slots.min(self.limits.max_rows)
    }

    /// One step: decodes a token of every sequence that generates, computes chunks of prompts, and gives the logits to the tasks. Returns
    /// the sequences that ended.
    ///
    /// # Errors
    /// The runner's: all is over.
    pub fn step<R: Runner>(&mut self, runner: &mut R) -> Result<Vec<Finished<T>>, R::Error> {
        let mut finished = Vec::new();
        if self.is_idle() {
            self.last_step = None;
            return Ok(finished);
        }
        let start = self.last_step.unwrap_or_else(Instant::now);
        let mut runner = Timed::new(runner);
        self.admit(&mut runner);
        self.decode(&mut runner, &mut finished)?;
        if self.active.iter().any(|(_, live)| live.is_in_prompt()) {
            // A chunk may take long.
            self.settle();
        }
        self.prefill(&mut runner, &mut finished)?;
        let end = Instant::now();
        self.statistics.n_steps += 1;
        self.statistics.time += end - start;
        self.statistics.runner_time += runner.time;
        self.last_step = (!self.is_idle()).then_some(end);
        Ok(finished)
    }

    /// What tasks left for later.
    fn settle(&mut self) {
        self.active.iter_mut().for_each(|(_, live)| live.task.settle());
    }

    /// Whether slots that are free are given away in this step. Where not all that wait find one, others will become free soon, and prompts together take less time
    /// than one after another; but a slot that stands empty writes nothing. So they are kept until what was not written in them is a whole step's tokens, about
    /// what a pass more takes: neither waiting nor going alone then costs much more than the other would have.
    fn gives_slots(&mut self) -> bool {
        let n_free = self.max_active() - self.active.len();
        let is_writing = self.active.iter().any(|(_, live)| !live.is_in_prompt());
        if is_writing && self.waiting.len() > n_free {
            self.n_missed += n_free;
            return self.n_missed >= self.max_active();
        }
        true
    }

    /// Gives slots to those that wait, the oldest first, while there seems to be room for them.
    fn admit<R: Runner>(&mut self, runner: &mut R) {
        if !self.gives_slots() {
            return;
        }
        // Those that run will grow: what they still have to compute, and a page each.
        let mut promised: usize = self.active.iter().map(|(_, live)| live.tokens.len() - live.n_done + POSITIONS).sum();
        while self.active.len() < self.max_active() {
            let Some((_, next)) = self.waiting.first_key_value() else { break };
            let is_family = |live: &Live<T>| live.family == next.family && live.is_new() && live.is_in_prompt();
            if next.is_new() && self.active.iter().any(|(_, live)| is_family(live)) {
                // It will fork off.
                break;
            }
            // While what one generated before it was set back is computed again, the others grow as much.
            let n_again = next.tokens.len() - next.n_prompt;
            let n_wanted = next.tokens.len() + 1 + n_again;
            let n_theirs = promised + self.active.len() * n_again;
            if !self.active.is_empty() && runner.fits_free(n_wanted + n_theirs).is_err() {
                break;
            }
            let Some(id) = runner.open() else { break };
            let (_, next) = self.waiting.pop_first().expect("the one that was looked at");
            promised += next.tokens.len() + POSITIONS;
            self.active.push((id, next));
            self.n_missed = 0;
        }
    }

    /// Makes room for `n_new` tokens of an active sequence; younger ones are set back for it, the youngest first, and itself where there
    /// is none. Returns whether there is room.
    fn make_room<R: Runner>(&mut self, runner: &mut R, index: usize, n_new: usize) -> Result<bool, R::Error> {
        while let Err(shortage) = runner.reserve(self.active[index].0, n_new)? {
            let last = self.active.len() - 1;
            assert!(last > 0, "a sequence that fits alone finds {shortage}");
            let (id, mut live) = self.active.remove(last);
            self.close(runner, id, live.key);
            (live.n_done, live.last_token) = (0, None);
            live.task.settle();
            self.waiting.insert(live.key, live);
            self.statistics.n_set_back += 1;
            if last == index {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Guesses for each active sequence, the oldest first, as many as there are rows. Nobody is set back for them.
    fn draft<R: Runner>(&mut self, runner: &mut R) -> Result<Vec<Vec<u32>>, R::Error> {
        let mut drafts = vec![Vec::new(); self.active.len()];
        let n_decoding = self.active.iter().filter(|(_, live)| !live.is_in_prompt()).count();
        let mut n_rows = self.limits.max_rows - n_decoding;
        let (mut indices, mut wanted) = (Vec::new(), Vec::new());
        for (index, (id, live)) in self.active.iter_mut().enumerate() {
            if !live.chooses() {
                continue;
            }
            let Some(adapt) = &mut live.adapt else { continue };
            let n_room = self.n_most - live.n_done - 1;
            let n_wanted = live.task.n_wanted().map_or(usize::MAX, |n| n.saturating_sub(1));
            let n = adapt.n_drafts(n_decoding).min(n_rows).min(n_room).min(n_wanted);
            if n > 0 {
                n_rows -= n;
                indices.push(index);
                wanted.push(Wanted { id: *id, text: &live.tokens, n });
            }
        }
        if wanted.is_empty() {
            return Ok(drafts);
        }
        let found = runner.draft(&wanted)?;
        for (index, found) in indices.into_iter().zip(found) {
            if runner.reserve(self.active[index].0, 1 + found.len())?.is_ok() {
                drafts[index] = found;
            }
        }
        Ok(drafts)
    }

    /// The next token of every sequence whose prompt is computed, and what was guessed behind it.
    fn decode<R: Runner>(&mut self, runner: &mut R, finished: &mut Vec<Finished<T>>) -> Result<(), R::Error> {
        let mut index = 0;
        while index < self.active.len() {
            if self.active[index].1.is_in_prompt() || self.make_room(runner, index, 1)? {
                index += 1;
            }
        }
        let drafts = self.draft(runner)?;
        // The first token of all sequences, then the second of those that have one: so attention takes the fewest launches.
        let mut rows: Vec<(SequenceId, u32)> = Vec::new();
        let mut rows_of: Vec<Vec<usize>> = vec![Vec::new(); self.active.len()];
        let most = drafts.iter().map(Vec::len).max().unwrap_or(0);
        for at in 0..=most {
            for (index, (id, live)) in self.active.iter().enumerate().filter(|(_, (_, live))| !live.is_in_prompt()) {
                let next = if at == 0 { Some(&live.tokens[live.n_done]) } else { drafts[index].get(at - 1) };
                if let Some(token) = next {
                    rows_of[index].push(rows.len());
                    rows.push((*id, *token));
                }
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        runner.decode(&rows)?;
        runner.meanwhile(|| self.settle());
        self.statistics.n_decoded += rows.len() as u64;
        let mut choices = None;
        if self.active.iter().any(|(_, live)| live.chooses() && live.task.is_greedy()) {
            let choices = choices.insert(vec![NO_CHOICE; rows.len()]);
            let then = if self.each_goes_on(rows.len()) { Then::EachGoesOn } else { Then::Anything };
            runner.greedy(self.n_vocab, choices, then)?;
        }
        let active = std::mem::take(&mut self.active);
        for (((id, mut live), rows), drafts) in active.into_iter().zip(rows_of).zip(drafts) {
            if live.chooses() {
                self.walk(runner, (id, live), (&rows, &drafts), choices.as_deref(), finished)?;
            } else {
                live.n_done += rows.len();
                self.active.push((id, live));
            }
        }
        Ok(())
    }

    /// Whether the next step is most likely that of all sequences' greedy choices, with no prompt's chunk before it: who comes meanwhile has to wait for it
    /// anyway. Sequences whose tasks end by what they chose are not in it; that all of them end with this step is known where as many tokens as were wanted
    /// are there. Where there is who guesses, a step may have more rows.
    fn each_goes_on(&self, n_rows: usize) -> bool {
        let goes_on = |(_, live): &Active<T>| live.adapt.is_none() && live.chooses() && live.task.is_greedy();
        n_rows == self.active.len()
            && self.active.iter().all(goes_on)
            && self.active.iter().any(|(_, live)| live.task.n_wanted() != Some(1))
    }

    /// The rows of a sequence's next token and of the guesses behind it: its task chooses from one after another while what it chooses was
    /// guessed, and the rest is taken back.
    fn walk<R: Runner>(
        &mut self,
        runner: &mut R,
        (id, mut live): Active<T>,
        (rows, drafts): (&[usize], &[u32]),
        choices: Option<&[u32]>,
        finished: &mut Vec<Finished<T>>,
    ) -> Result<(), R::Error> {
        let (mut n_kept, mut is_wrong) = (0, false);
        let end = loop {
            let row = rows[n_kept];
            live.n_done += 1;
            let end = self.choose(&mut live, Row { runner, row, greedy: choices.map(|choices| choices[row]) })?;
            if end.is_some() || n_kept == drafts.len() {
                break end;
            }
            if live.tokens.last() != Some(&drafts[n_kept]) {
                is_wrong = true;
                break end;
            }
            n_kept += 1;
        };
        self.statistics.n_drafted += drafts.len() as u64;
        self.statistics.n_kept += n_kept as u64;
        if let Some(adapt) = &mut live.adapt {
            adapt.judge(drafts.len(), n_kept, is_wrong);
        }
        runner.take_back(id, drafts.len() - n_kept);
        self.go_on(runner, (id, live), end, finished);
        Ok(())
    }

    /// A row for a sequence's task: its next token, or how it ended.
    fn choose<R: Runner>(&mut self, live: &mut Live<T>, row: Row<R>) -> Result<Option<End>, R::Error> {
        match live.task.next(row)? {
            Some(token) if live.n_done < self.n_most => {
                live.tokens.push(token);
                let now = Instant::now();
                if let Some(last) = live.last_token.replace(now) {
                    self.statistics.longest_gap = self.statistics.longest_gap.max(now - last);
                }
                Ok(None)
            }
            Some(_) => Ok(Some(End::ContextFull)),
            None => Ok(Some(End::Done)),
        }
    }

    /// A sequence goes on, behind the others, or ends.
    fn go_on<R: Runner>(
        &mut self,
        runner: &mut R,
        (id, live): Active<T>,
        end: Option<End>,
        finished: &mut Vec<Finished<T>>,
    ) {
        match end {
            None => self.active.push((id, live)),
            Some(end) => {
                runner.close(id);
                finished.push(live.finished(end));
            }
        }
    }
}

#[cfg(test)]
mod tests;
