//! A runner without a model, for tests: what it says of a token depends on the tokens before it, which it finds by way of the pages' tables.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use super::runner::{Limits, NO_CHOICE, Runner};
use crate::{
    cache::{Group, Origin, POSITIONS, Pages, SequenceId, Shortage},
    forward::{Chunk, Share, Then},
    speculate::{Costs, Wanted},
};

/// Tokens of its vocabulary.
pub const N_VOCAB: usize = 40;

/// What lies at a position, by what lies at those before it that a token there sees, in one group.
pub fn content(group: &Group, position: usize, token: u32, origin: Origin, look: impl Fn(usize) -> u64) -> u64 {
    let first = group.window.map_or(0, |window| (position + 1).saturating_sub(window));
    let mut sum = mix(u64::from(token) << 1 | u64::from(origin == Origin::Token), position as u64);
    if first < position {
        for seen in [first, first.midpoint(position), position - 1] {
            sum = mix(sum, look(seen));
        }
    }
    sum
}

/// A logit, by what lies at the last position in every group.
pub fn logit(contents: u64, token: usize) -> f32 {
    (mix(contents, token as u64) >> 40) as f32 / (1 << 21) as f32
}

/// A hidden state, by the same.
pub fn state(contents: u64) -> [f32; 2] {
    [logit(contents, 1 << 20), logit(contents, 1 << 21)]
}

/// Joins two words.
pub fn mix(a: u64, b: u64) -> u64 {
    let mut sum = (a ^ b.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    sum ^= sum >> 29;
    sum.wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(31)
}

/// The runner.
pub struct Fake {
    pub pages: Pages,
    pub groups: Vec<Group>,
    pub limits: Limits,
    memory: Vec<Vec<[u64; POSITIONS]>>,
    /// By row.
    rows: Vec<u64>,
    /// The chunks that are not done: whose, how many tokens of each, and the last share.
    part: Option<(Vec<(SequenceId, usize)>, Share)>,
    /// Passes over chunks of prompts so far.
    pub n_passes: usize,
    /// Work for prompts since the last decoding step.
    pub n_between: usize,
    /// Of these at most.
    pub longest_gap: usize,
    /// Slots that had a row in the last decoding step.
    pub decoded: Vec<SequenceId>,
    /// Decoding steps so far.
    pub n_steps: Arc<AtomicUsize>,
    /// The rows of the step that was begun with the last one's choices.
    begun: Option<Vec<(SequenceId, u32, usize)>>,
    /// Of such steps, those that were asked for, and those that were not.
    pub n_gone_on: usize,
    pub n_in_vain: usize,
    /// Where it guesses.
    pub guesses: Option<Guesses>,
}

/// How a runner guesses that knows what it would say.
#[derive(Clone, Copy, Debug)]
pub struct Guesses {
    pub costs: Costs,
    /// How many of a hundred are its likeliest token; the others are any.
    pub percent: u64,
    /// Tokens that it knows.
    pub n_vocab: usize,
    /// What is drawn next.
    pub draw: u64,
}

impl Fake {
    pub fn new(groups: &[Group], limits: Limits) -> Fake {
        Fake {
            pages: Pages::new(groups, limits.n_slots, limits.n_batch),
            groups: groups.to_vec(),
            memory: groups.iter().map(|group| vec![[0; POSITIONS]; group.n_pages]).collect(),
            rows: Vec::new(),
            limits,
            part: None,
            n_passes: 0,
            n_steps: Arc::default(),
            n_between: 0,
            longest_gap: 0,
            decoded: Vec::new(),
            begun: None,
            n_gone_on: 0,
            n_in_vain: 0,
            guesses: None,
        }
    }

    /// Writes a token's contents and returns them, joined.
    fn compute(&mut self, id: SequenceId, token: u32, origin: Origin) -> u64 {
        let position = self.pages.n_tokens(id);
        let mut contents = 0;
        for (number, group) in self.groups.iter().enumerate() {
            let table = self.pages.table(id, number);
            let memory = &mut self.memory[number];
            let look = |at: usize| memory[table[at / POSITIONS] as usize][at % POSITIONS];
            let content = content(group, position, token, origin, look);
            memory[table[position / POSITIONS] as usize][position % POSITIONS] = content;
            contents = mix(contents, content);
        }
        contents
    }

    /// What would lie behind a sequence's tokens in each group, if this one were next and then those ahead.
    fn look_ahead(&self, id: SequenceId, token: u32, ahead: &mut [Vec<u64>]) -> u64 {
        let n_done = self.pages.n_tokens(id);
        let mut contents = 0;
        for ((number, group), ahead) in self.groups.iter().enumerate().zip(ahead) {
            let (table, memory) = (self.pages.table(id, number), &self.memory[number]);
            let look = |at: usize| match at.checked_sub(n_done) {
                None => memory[table[at / POSITIONS] as usize][at % POSITIONS],
                Some(at) => ahead[at],
            };
            let content = content(group, n_done + ahead.len(), token, Origin::Token, look);
            ahead.push(content);
            contents = mix(contents, content);
        }
        contents
    }

    /// As an engine begins a step behind the last one: no account of pages knows its tokens, but what lies behind a sequence's tokens is written over.
    fn begin_behind(&mut self, choices: &[u32]) {
        assert_eq!(choices.len(), self.decoded.len());
        let rows: Vec<(SequenceId, u32, usize)> =
            self.decoded.iter().zip(choices).map(|(id, token)| (*id, *token, self.pages.n_tokens(*id))).collect();
        let has_room = |id: &SequenceId| self.pages.n_tokens(*id) < self.limits.n_context;
        if !self.decoded.iter().all(has_room) || !rows.iter().all(|(id, ..)| matches!(self.reserve(*id, 1), Ok(Ok(()))))
        {
            return;
        }
        for (id, token, _) in &rows {
            self.compute(*id, *token, Origin::Token);
        }
        self.begun = Some(rows);
    }

    /// Something comes behind a step: rows of the next one, or of none.
    fn comes_next(&mut self, rows: &[(SequenceId, u32)]) {
        let Some(begun) = self.begun.take() else { return };
        let mut begun = begun.into_iter();
        let mut is_begun =
            |(id, token): &(SequenceId, u32)| begun.any(|row| row == (*id, *token, self.pages.n_tokens(*id)));
        let goes_on = !rows.is_empty() && rows.iter().all(&mut is_begun);
        *if goes_on { &mut self.n_gone_on } else { &mut self.n_in_vain } += 1;
    }

    /// Does so much for prompts.
    fn work(&mut self, n: usize) {
        self.n_between += n;
        self.longest_gap = self.longest_gap.max(self.n_between);
    }

    /// Chunks that go through the model together: what lies at the positions of each that are wanted.
    fn together(&mut self, chunks: &[Chunk]) -> Vec<Vec<u64>> {
        let Limits { n_chunks, n_batch, .. } = self.limits;
        let n: usize = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        assert!((1..=n_chunks).contains(&chunks.len()) && n <= n_batch, "{n} tokens of {} chunks", chunks.len());
        let is_short = chunks.iter().any(|chunk| chunk.tokens.len() == 1);
        assert!(chunks.len() == 1 || !is_short, "a token alone, which takes the other pass, among others");
        self.n_passes += 1;
        chunks.iter().map(|chunk| self.chunk(chunk.id, chunk.tokens)[chunk.wanted.clone()].to_vec()).collect()
    }

    /// A chunk of a prompt: what lies at each of its positions, joined.
    fn chunk(&mut self, id: SequenceId, tokens: &[u32]) -> Vec<u64> {
        let (start, n_batch) = (self.pages.n_tokens(id), self.limits.n_batch);
        assert!(!tokens.is_empty() && start / n_batch == (start + tokens.len() - 1) / n_batch, "a chunk over an edge");
        // As on a device, a token alone takes the other pass.
        let origin = if tokens.len() == 1 { Origin::Token } else { Origin::Prompt };
        let mut all = Vec::new();
        for (index, token) in tokens.iter().enumerate() {
            assert_eq!(self.pages.n_tokens(id), start + index);
            all.push(self.compute(id, *token, origin));
            self.pages.advance(id, &[*token], origin);
        }
        all
    }
}

impl Runner for Fake {
    type Error = Infallible;
    const MAX_LARGEST: usize = 16;

    fn limits(&self) -> Limits {
        self.limits
    }

    fn pages(&self) -> (usize, usize) {
        self.pages.n_taken()
    }

    fn open(&mut self) -> Option<SequenceId> {
        self.pages.open()
    }

    fn close(&mut self, id: SequenceId) {
        self.part.take_if(|(of, _)| of.iter().any(|(of, _)| *of == id));
        self.pages.close(id);
    }

    fn fork(&mut self, id: SequenceId) -> Result<Option<SequenceId>, Infallible> {
        Ok(self.pages.fork(id))
    }

    fn adopt(&mut self, id: SequenceId, tokens: &[u32], n_prompt: usize) -> usize {
        self.pages.adopt(id, tokens, n_prompt)
    }

    fn reserve(&mut self, id: SequenceId, n_new: usize) -> Result<Result<(), Shortage>, Infallible> {
        let copies = match self.pages.reserve(id, n_new) {
            Ok(copies) => copies,
            Err(shortage) => return Ok(Err(shortage)),
        };
        for copy in copies {
            let memory = &mut self.memory[copy.group];
            memory[copy.to as usize] = memory[copy.from as usize];
        }
        Ok(Ok(()))
    }

    fn fits_alone(&self, n_tokens: usize) -> Result<(), Shortage> {
        self.pages.fits_alone(n_tokens)
    }

    fn fits_free(&self, n_tokens: usize) -> Result<(), Shortage> {
        self.pages.fits_free(n_tokens)
    }

    fn prefill(&mut self, chunks: &[Chunk], share: Share) -> Result<(), Infallible> {
        self.comes_next(&[]);
        self.rows.clear();
        let ids: Vec<(SequenceId, usize)> = chunks.iter().map(|chunk| (chunk.id, chunk.tokens.len())).collect();
        match self.part.take() {
            None => assert_eq!(share.done, 0, "a share of what was not begun"),
            Some((of, before)) => assert!(of == ids && share.follows(before), "other chunks'"),
        }
        self.work(share.until - share.done);
        if !share.is_last() {
            assert!(ids != [(ids[0].0, 1)], "a share of a token");
            self.part = Some((ids, share));
            return Ok(());
        }
        for chunk in self.together(chunks) {
            self.rows.extend(chunk);
        }
        Ok(())
    }

    fn states(&mut self, chunks: &[Chunk]) -> Result<Vec<f32>, Infallible> {
        self.comes_next(&[]);
        assert_eq!(self.part, None, "a chunk between the shares of another");
        self.work(chunks.iter().map(|chunk| chunk.tokens.len()).sum());
        self.rows.clear();
        Ok(self.together(chunks).concat().into_iter().flat_map(state).collect())
    }

    fn drafts(&self) -> Option<Costs> {
        self.guesses.map(|guesses| guesses.costs)
    }

    fn draft(&mut self, wanted: &[Wanted]) -> Result<Vec<Vec<u32>>, Infallible> {
        let Some(Guesses { percent, n_vocab, mut draw, .. }) = self.guesses else { return Ok(Vec::new()) };
        let mut of = |wanted: &Wanted| {
            let mut ahead = vec![Vec::new(); self.groups.len()];
            let mut next = *wanted.text.last().expect("a text");
            let mut guesses = Vec::new();
            while guesses.len() < wanted.n {
                let contents = self.look_ahead(wanted.id, next, &mut ahead);
                draw = mix(draw, 3);
                let order = |a: &u32, b: &u32| logit(contents, *a as usize).total_cmp(&logit(contents, *b as usize));
                let best = (0..n_vocab as u32).max_by(order).expect("tokens");
                next = if (draw >> 32) % 100 < percent { best } else { (draw >> 8) as u32 % n_vocab as u32 };
                guesses.push(next);
                // Often it knows no further.
                if draw % 7 == 0 {
                    break;
                }
            }
            guesses
        };
        let drafts = wanted.iter().map(&mut of).collect();
        self.guesses = self.guesses.map(|guesses| Guesses { draw, ..guesses });
        Ok(drafts)
    }

    fn take_back(&mut self, id: SequenceId, n: usize) {
        let n_left = self.pages.n_tokens(id) - n;
        assert_eq!(self.pages.truncate(id, n_left), n_left);
    }

    fn decode(&mut self, rows: &[(SequenceId, u32)]) -> Result<(), Infallible> {
        assert!(!rows.is_empty() && rows.len() <= self.limits.max_rows);
        self.decoded = rows.iter().map(|(id, _)| *id).collect();
        let mut different = self.decoded.clone();
        different.sort_unstable();
        different.dedup();
        assert!(different.len() == rows.len() || self.guesses.is_some(), "a sequence twice");
        self.comes_next(rows);
        self.n_between = 0;
        self.n_steps.fetch_add(1, Relaxed);
        self.rows.clear();
        for (id, token) in rows {
            let contents = self.compute(*id, *token, Origin::Token);
            self.rows.push(contents);
            self.pages.advance(*id, &[*token], Origin::Token);
        }
        Ok(())
    }

    fn greedy(&mut self, n_tokens: usize, choices: &mut [u32], then: Then) -> Result<(), Infallible> {
        for (choice, contents) in choices.iter_mut().zip(&self.rows) {
            let best =
                (0..n_tokens).max_by(|a, b| logit(*contents, *a).total_cmp(&logit(*contents, *b)).then(b.cmp(a)));
            *choice = best.map_or(NO_CHOICE, |token| token as u32);
        }
        if then == Then::EachGoesOn {
            self.begin_behind(choices);
        }
        Ok(())
    }

    fn largest(&mut self, row: usize, n_tokens: usize, largest: &mut [(u32, f32)]) -> Result<(), Infallible> {
        let mut all: Vec<(u32, f32)> =
            (0..n_tokens).map(|token| (token as u32, logit(self.rows[row], token))).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        largest.copy_from_slice(&all[..largest.len()]);
        Ok(())
    }

    fn logits(&mut self, row: usize, logits: &mut [f32]) -> Result<(), Infallible> {
        logits.iter_mut().enumerate().for_each(|(token, place)| *place = logit(self.rows[row], token));
        Ok(())
    }
}
