//! The part of a step that is for prompts.

use super::{Active, End, Finished, Key, Scheduler, Task};
use crate::{
    cache::POSITIONS,
    engine::runner::{NO_CHOICE, Row, Runner},
    forward::Share,
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

impl<T: Task> Scheduler<T> {
    /// Chunks of prompts, the oldest sequence's first, up to `n_batch` tokens; where others generate, as much of it as they can wait for.
    pub(super) fn prefill<R: Runner>(
        &mut self,
        runner: &mut R,
        finished: &mut Vec<Finished<T>>,
    ) -> Result<(), R::Error> {
        let n_batch = self.limits.n_batch;
        let mut budget = n_batch;
        let is_waited_for = self.active.iter().any(|(_, live)| !live.is_in_prompt());
        let most = most_work(n_batch);
        let mut work = if is_waited_for { most } else { usize::MAX };
        let mut index = 0;
        while index < self.active.len() {
            let (id, live) = &mut self.active[index];
            if live.n_done + live.work_done == 0 {
                // A prompt's last token alone would take another pass than among others: it is not left over.
                let n_known = if live.n_prompt % POSITIONS == 1 { live.n_prompt - 1 } else { live.tokens.len() };
                // What is in the cache has no hidden states.
                if live.task.pooling().is_none() {
                    live.n_done = runner.adopt(*id, &live.tokens[..n_known], live.n_prompt);
                }
                let n_reused = live.n_done.min(live.n_prompt);
                if live.n_reused.is_none() {
                    self.statistics.n_reused += n_reused as u64;
                }
                live.n_reused.get_or_insert(n_reused);
            }
            if !live.is_in_prompt() {
                index += 1;
                continue;
            }
            let (id, start) = (*id, live.n_done);
            let end = live.n_prompt.min((start / n_batch + 1) * n_batch);
            let (done, of) = (live.work_done, work_of(start, end - start));
            // A token alone, and an embedding's chunk, are not interrupted.
            let is_whole = end - start == 1 || live.task.pooling().is_some();
            let until = if is_whole { of } else { of.min(done.saturating_add(work)) };
            // A chunk is begun where there is room for all of it, and in what is left of a step only where that does a good part of it.
            let waits = work < most && of > work && (is_whole || work < most / 2);
            if done == 0 && (end - start > budget || waits || !self.make_room(runner, index, end - start)?) {
                break;
            }
            let live = &mut self.active[index].1;
            let is_wanted = end == live.n_prompt && live.is_new();
            match live.task.pooling() {
                None => {
                    let share = Share { done, until, of };
                    runner.prefill(id, &live.tokens[start..end], is_wanted, share)?;
                    if !share.is_last() {
                        live.work_done = until;
                        break;
                    }
                }
                Some(pooling) => {
                    let wanted = pooling.wanted(start..end, live.n_prompt);
                    let states = runner.states(id, &live.tokens[start..end], wanted)?;
                    live.task.take_states(start..end, &states);
                }
            }
            work = work.saturating_sub(of - done);
            (live.n_done, live.work_done) = (end, 0);
            budget = budget.saturating_sub(end - start);
            self.statistics.n_prefilled += (end - start) as u64;
            if is_wanted && live.task.pooling().is_some() {
                let (id, live) = self.active.remove(index);
                runner.close(id);
                finished.push(live.finished(End::Done));
            } else if is_wanted {
                self.begin(runner, index, finished)?;
                // It has its first token, and waits for the second.
                work = work.min(most);
            }
        }
        Ok(())
    }

    /// The prompt is computed: its family, as far as there are slots, forks off, and each chooses its first token from row 0.
    fn begin<R: Runner>(
        &mut self,
        runner: &mut R,
        index: usize,
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
        let mut greedy = None;
        if begun.iter().any(|(_, live)| live.task.is_greedy()) {
            let mut choices = [NO_CHOICE];
            runner.greedy(self.n_vocab, &mut choices)?;
            greedy = Some(choices[0]);
        }
        for (id, mut live) in begun {
            let end = self.choose(&mut live, Row { runner, row: 0, greedy })?;
            // Others' prompts may come before its next step.
            live.task.settle();
            self.go_on(runner, (id, live), end, finished);
        }
        self.active.extend(younger);
        Ok(())
    }
}
