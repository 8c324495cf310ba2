//! The part of a step that is for prompts.

use std::ops::Range;

use super::{Active, End, Finished, Key, Limits, Scheduler, Task};
use crate::{
    cache::POSITIONS,
    engine::runner::{Row, Runner},
    forward::{Chunk, Share},
    model::Pooling,
};

/// The work of a chunk of `n` tokens behind `start` others, in what one token of many takes at a prompt's beginning. A pass reads all weights, and
/// unpacks those that are packed, which takes as long as some 400 tokens; attention takes as long as all else where there are some 12 000 tokens
/// before (H200, 7B Q4_K_M: `benches/results/2026-11-29-h200-parallel.md` and `2026-11-30-h200-many.md`).
pub(super) fn work_of(start: usize, n: usize) -> usize {
    const OF_A_PASS: usize = 384;
    const AS_LONG_AS_ALL_ELSE: usize = 12 << 10;
    OF_A_PASS + n + n * start / AS_LONG_AS_ALL_ELSE
}

/// The work for prompts in a step, where sequences wait for it: a chunk's at the beginning of a prompt takes two steps.
pub(super) fn most_work(n_batch: usize) -> usize {
    work_of(0, n_batch) * 2 / 3
}

/// Chunks of different prompts that go through the model together.
pub(super) struct Pass {
    /// Whose they are, and which of the prompt's tokens, the oldest sequence's first.
    chunks: Vec<(Key, Range<usize>)>,
    /// Whether it ends in hidden states, and of which tokens.
    pooling: Option<Pooling>,
    /// Of the work, what is done.
    done: usize,
    /// All of it.
    of: usize,
}

impl Pass {
    pub fn has(&self, key: Key) -> bool {
        self.chunks.iter().any(|(of, _)| *of == key)
    }

    /// Tokens of all.
    fn n(&self) -> usize {
        self.chunks.iter().map(|(_, chunk)| chunk.len()).sum()
    }

    /// A token alone, and embeddings' chunks, are not interrupted.
    fn is_whole(&self) -> bool {
        self.n() == 1 || self.pooling.is_some()
    }
}

impl<T: Task> Scheduler<T> {
    /// Chunks of prompts, the oldest sequence's first, up to `n_batch` tokens; where others generate, as much of it as they can wait for.
    pub(super) fn prefill<R: Runner>(
        &mut self,
        runner: &mut R,
        finished: &mut Vec<Finished<T>>,
    ) -> Result<(), R::Error> {
        let mut budget = self.limits.n_batch;
        let is_waited_for = self.active.iter().any(|(_, live)| !live.is_in_prompt());
        let most = most_work(self.limits.n_batch);
        let mut work = if is_waited_for { most } else { usize::MAX };
        loop {
            let begun = self.pass.take();
            let Some(mut pass) = begun.map_or_else(|| self.plan(runner, budget, work), |pass| Ok(Some(pass)))? else {
                return Ok(());
            };
            let until = if pass.is_whole() { pass.of } else { pass.of.min(pass.done.saturating_add(work)) };
            let share = Share { done: pass.done, until, of: pass.of };
            self.compute(runner, &pass, share)?;
            if !share.is_last() {
                pass.done = until;
                self.pass = Some(pass);
                return Ok(());
            }
            work = work.saturating_sub(until - share.done);
            budget = budget.saturating_sub(pass.n());
            self.statistics.n_prefilled += pass.n() as u64;
            if self.end_chunks(runner, &pass, finished)? {
                // Who has its first token waits for the second.
                work = work.min(most);
            }
        }
    }

    /// The oldest sequences' next chunks, as many as go through the model together: up to `budget` tokens, and no more than is done in this
    /// step with `work`, but for the first. None where there is nothing to do, or not in this step.
    fn plan<R: Runner>(&mut self, runner: &mut R, budget: usize, work: usize) -> Result<Option<Pass>, R::Error> {
        let Limits { n_batch, n_chunks, .. } = self.limits;
        let most = most_work(n_batch);
        let mut pass = Pass { chunks: Vec::new(), pooling: None, done: 0, of: 0 };
        let mut index = 0;
        while index < self.active.len() && pass.chunks.len() < n_chunks {
            let pooling = self.active[index].1.task.pooling();
            // What is in the cache has no hidden states.
            if self.active[index].1.n_done == 0 && pooling.is_none() {
                if self.would_share(&pass, index) {
                    break;
                }
                self.adopt(runner, index);
            }
            let live = &self.active[index].1;
            if !live.is_in_prompt() {
                index += 1;
                continue;
            }
            let (key, start) = (live.key, live.n_done);
            let chunk = start..live.n_prompt.min((start / n_batch + 1) * n_batch);
            let n_all = pass.n() + chunk.len();
            let of = match pass.chunks[..] {
                [] => work_of(start, chunk.len()),
                _ => pass.of + work_of(start, chunk.len()) - work_of(0, 0),
            };
            let fits = match pass.chunks[..] {
                // A chunk is begun where there is room for all of it, and in what is left of a step only where that does a good part of it.
                [] => {
                    let is_whole = chunk.len() == 1 || pooling.is_some();
                    work >= most || of <= work || !is_whole && work >= most / 2
                }
                // A token alone takes the other pass.
                _ => chunk.len() > 1 && pooling == pass.pooling && of <= work,
            };
            if n_all > budget || !fits || !self.make_room(runner, index, chunk.len())? {
                break;
            }
            (pass.pooling, pass.of) = (pooling, of);
            let is_alone = chunk.len() == 1;
            pass.chunks.push((key, chunk));
            if is_alone {
                break;
            }
            index += 1;
        }
        Ok((!pass.chunks.is_empty()).then_some(pass))
    }

    /// Takes what the cache has of a sequence's beginning.
    fn adopt<R: Runner>(&mut self, runner: &mut R, index: usize) {
        let (id, live) = &mut self.active[index];
        // A prompt's last token alone would take another pass than among others: it is not left over.
        let n_known = if live.n_prompt % POSITIONS == 1 { live.n_prompt - 1 } else { live.tokens.len() };
        live.n_done = runner.adopt(*id, &live.tokens[..n_known], live.n_prompt);
        let n_reused = live.n_done.min(live.n_prompt);
        if live.n_reused.is_none() {
            self.statistics.n_reused += n_reused as u64;
        }
        live.n_reused.get_or_insert(n_reused);
    }

    /// Whether a sequence that has nothing yet would find in the cache what these chunks are about to leave there: a page with the same beginning.
    fn would_share(&self, pass: &Pass, index: usize) -> bool {
        let tokens = &self.active[index].1.tokens;
        pass.chunks.iter().any(|(key, chunk)| {
            let (_, other) = self.active.iter().find(|(_, live)| live.key == *key).expect("a sequence of the pass");
            let n_same = tokens.iter().zip(&other.tokens[..chunk.end]).take_while(|(a, b)| a == b).count();
            n_same / POSITIONS * POSITIONS > chunk.start
        })
    }

    /// A share of a pass. Hidden states go to their tasks.
    fn compute<R: Runner>(&mut self, runner: &mut R, pass: &Pass, share: Share) -> Result<(), R::Error> {
        let of_pass = |(_, live): &&mut Active<T>| pass.has(live.key);
        let mut members: Vec<&mut Active<T>> = self.active.iter_mut().filter(of_pass).collect();
        let ranges = || pass.chunks.iter().map(|(_, range)| range.clone());
        let chunks: Vec<Chunk> = members
            .iter()
            .zip(ranges())
            .map(|((id, live), range)| {
                let tokens = &live.tokens[range.clone()];
                match pass.pooling {
                    Some(pooling) => Chunk { id: *id, tokens, wanted: pooling.wanted(range, live.n_prompt) },
                    None if range.end == live.n_prompt && live.is_new() => Chunk::last(*id, tokens),
                    None => Chunk::inner(*id, tokens),
                }
            })
            .collect();
        if pass.pooling.is_none() {
            return runner.prefill(&chunks, share);
        }
        let states = runner.states(&chunks)?;
        let n_wanted: Vec<usize> = chunks.iter().map(|chunk| chunk.wanted.len()).collect();
        let n_embd = states.len() / n_wanted.iter().sum::<usize>().max(1);
        let mut rest = states.as_slice();
        for (((_, live), range), n) in members.iter_mut().zip(ranges()).zip(n_wanted) {
            let (of_chunk, others) = rest.split_at(n * n_embd);
            live.task.take_states(range, of_chunk);
            rest = others;
        }
        Ok(())
    }

    /// The chunks of a pass are in the cache: prompts that end with them have their first token, or their embedding. Whether one has a token.
    fn end_chunks<R: Runner>(
        &mut self,
        runner: &mut R,
        pass: &Pass,
        finished: &mut Vec<Finished<T>>,
    ) -> Result<bool, R::Error> {
        let mut row = 0;
        let mut ends = Vec::new();
        for (key, chunk) in &pass.chunks {
            let (_, live) = self.active.iter_mut().find(|(_, live)| live.key == *key).expect("a sequence of the pass");
            live.n_done = chunk.end;
            if chunk.end == live.n_prompt && live.is_new() {
                ends.push(*key);
            }
        }
        for key in ends {
            let index = self.active.iter().position(|(_, live)| live.key == key).expect("a sequence of the pass");
            if pass.pooling.is_some() {
                let (id, live) = self.active.remove(index);
                runner.close(id);
                finished.push(live.finished(End::Done));
            } else {
                self.begin(runner, index, row, finished)?;
                row += 1;
            }
        }
        Ok(row > 0)
    }

    /// The prompt is computed: its family, as far as there are slots, forks off, and each chooses its first token from the row.
    fn begin<R: Runner>(
        &mut self,
        runner: &mut R,
        index: usize,
        row: usize,
        finished: &mut Vec<Finished<T>>,
    ) -> Result<(), R::Error> {
        let younger = self.active.split_off(index);
        let mut younger = younger.into_iter();
        let (id, first) = younger.next().expect("the sequence whose prompt it is");
        let younger: Vec<Active<T>> = younger.collect();
        let (family, n_prompt) = (first.family, first.n_prompt);
        let siblings: Vec<Key> =
            self.waiting.range(first.key..).map_while(|(key, live)| (live.family == family).then_some(*key)).collect();
        let mut begun = vec![(id, first)];
        for key in siblings {
            if !self.waiting[&key].is_new() || self.active.len() + begun.len() + younger.len() >= self.max_active() {
                break;
            }
            let Some(fork) = runner.fork(id)? else { break };
            let mut live = self.waiting.remove(&key).expect("a sibling that waits");
            live.n_done = n_prompt;
            live.n_reused.get_or_insert(n_prompt);
            begun.push((fork, live));
        }
        for (id, mut live) in begun {
            let end = self.choose(&mut live, Row { runner, row, greedy: None })?;
            // Others' prompts may come before its next step.
            live.task.settle();
            self.go_on(runner, (id, live), end, finished);
        }
        self.active.extend(younger);
        Ok(())
    }
}
