//! Companies at random: every sequence says what it says alone.

mod ahead;
mod slots;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use proptest::prelude::*;

use super::{
    prompts::{most_work, work_of},
    *,
};
use crate::{
    cache::{Group, Origin},
    engine::fake::{Fake, Guesses, N_VOCAB, content, logit, mix, state},
    generate::LogitRow,
    model::Pooled,
    speculate::Costs,
};

/// How a task chooses.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// The largest.
    Greedy,
    /// Of the three largest, by how many there were before.
    Largest,
    /// The smallest, for which all are needed.
    Smallest,
}

/// A task that remembers what it chose, or that takes hidden states.
#[derive(Clone, Debug)]
struct Talk {
    prompt: Vec<u32>,
    rule: Rule,
    n_wanted: usize,
    said: Vec<u32>,
    pooled: Option<Pooled>,
}

impl Talk {
    fn new(prompt: &[u32], rule: Rule, n_wanted: usize) -> Talk {
        Talk { prompt: prompt.to_vec(), rule, n_wanted, said: Vec::new(), pooled: None }
    }

    fn embedding(prompt: &[u32], pooling: Pooling) -> Talk {
        Talk { pooled: Some(Pooled::new(pooling, prompt.len())), ..Talk::new(prompt, Rule::Greedy, 0) }
    }

    /// What came of it: tokens, or an embedding's bits.
    fn result(self) -> Vec<u32> {
        match self.pooled {
            Some(pooled) => pooled.finish().expect("numbers").into_iter().map(f32::to_bits).collect(),
            None => self.said,
        }
    }

    /// Whether there is more to say.
    fn say(&mut self, token: u32) -> bool {
        self.said.push(token);
        self.said.len() < self.n_wanted
    }
}

impl Task for Talk {
    fn is_greedy(&self) -> bool {
        matches!(self.rule, Rule::Greedy)
    }

    fn next<R: Runner>(&mut self, mut row: Row<R>) -> Result<Option<u32>, R::Error> {
        let token = match self.rule {
            Rule::Greedy => row.greedy(N_VOCAB)?.expect("numbers"),
            Rule::Largest => {
                let mut largest = [(0, 0.0); 3];
                row.largest(N_VOCAB, &mut largest)?;
                largest[self.said.len() % 3].0
            }
            Rule::Smallest => {
                let mut logits = [0.0; N_VOCAB];
                row.logits(&mut logits)?;
                (0..N_VOCAB).min_by(|a, b| logits[*a].total_cmp(&logits[*b])).expect("logits") as u32
            }
        };
        Ok(self.say(token).then_some(token))
    }

    fn pooling(&self) -> Option<Pooling> {
        self.pooled.as_ref().map(Pooled::pooling)
    }

    fn take_states(&mut self, chunk: Range<usize>, states: &[f32]) {
        self.pooled.as_mut().expect("an embedding").add(chunk, states);
    }
}

/// What the task says where there are no pages and nobody else, and how that ends.
fn alone(groups: &[Group], n_batch: usize, mut task: Talk, n_most: usize) -> (Vec<u32>, End) {
    let mut contents: Vec<Vec<u64>> = vec![Vec::new(); groups.len()];
    let mut add = |token: u32, origin: Origin| {
        let mut joined = 0;
        for (group, contents) in groups.iter().zip(&mut contents) {
            let next = content(group, contents.len(), token, origin, |at| contents[at]);
            contents.push(next);
            joined = mix(joined, next);
        }
        joined
    };
    let (mut last, mut states) = (0, Vec::new());
    for chunk in task.prompt.chunks(n_batch) {
        let origin = if chunk.len() == 1 { Origin::Token } else { Origin::Prompt };
        for token in chunk {
            last = add(*token, origin);
            states.push(state(last));
        }
    }
    if let Some(pooled) = &mut task.pooled {
        let all = 0..states.len();
        pooled.add(all.clone(), states[pooled.pooling().wanted(all.clone(), all.end)].as_flattened());
        return (task.result(), End::Done);
    }
    let mut n = task.prompt.len();
    loop {
        let mut order: Vec<usize> = (0..N_VOCAB).collect();
        order.sort_by(|a, b| logit(last, *b).total_cmp(&logit(last, *a)).then(a.cmp(b)));
        let token = match task.rule {
            Rule::Greedy => order[0],
            Rule::Largest => order[task.said.len() % 3],
            Rule::Smallest => (0..N_VOCAB).min_by(|a, b| logit(last, *a).total_cmp(&logit(last, *b))).expect("logits"),
        } as u32;
        if !task.say(token) {
            return (task.said, End::Done);
        }
        if n == n_most {
            return (task.said, End::ContextFull);
        }
        last = add(token, Origin::Token);
        n += 1;
    }
}

fn unwrap<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

/// Random numbers, the same for a seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mix(self.0, 7) >> 33) as usize % n
    }

    fn below_one_of(&mut self, limits: [usize; 3]) -> usize {
        let n = limits[self.below(3)];
        self.below(n)
    }
}

/// A company that comes and goes, for so many steps and then until all have ended; returns what was done.
fn company(seed: u64, n_steps: u64, windows: &[Option<usize>]) -> Statistics {
    let mut draw = Draw(seed);
    let n_batch = [32, 48, 64, 100][draw.below(4)];
    let (n_slots, max_rows, n_chunks) = (2 + draw.below(8), 2 + draw.below(8), 1 + draw.below(5));
    let limits = Limits { n_slots, n_context: 300, n_batch, max_rows, n_chunks };
    // From barely enough for one to enough for most.
    let n_tokens = 150 + draw.below(900);
    let group = |window: &Option<usize>| {
        let n_alone = window.map_or(n_tokens, |window| (window + n_batch + 64).min(n_tokens));
        Group { window: *window, n_pages: n_alone.div_ceil(POSITIONS) + draw.below(12) }
    };
    let groups: Vec<Group> = windows.iter().map(group).collect();
    let mut runner = Fake::new(&groups, limits);
    // A runner that guesses badly, half rightly, well, or not at all.
    let costs = Costs {
        n_most: 1 + draw.below(8),
        row: [0.0, 0.1, 0.5][draw.below(3)],
        second: 0.0,
        again: 0.0,
        at_once: 8,
        draft: 0.0,
    };
    let guesses = |percent| Some(Guesses { costs, percent, n_vocab: N_VOCAB, draw: seed });
    runner.guesses = [None, guesses(0), guesses(60), guesses(100)][draw.below(4)];
    let mut scheduler = Scheduler::new(&runner, N_VOCAB);
    let n_most = scheduler.n_most;
    let mut open: BTreeMap<Key, Talk> = BTreeMap::new();
    let mut was_decoding: Vec<Key> = Vec::new();
    let mut n_idle = 0;
    let rules: &[Rule] =
        if draw.below(3) == 0 { &[Rule::Greedy] } else { &[Rule::Greedy, Rule::Largest, Rule::Smallest] };
    loop {
        let is_over = scheduler.statistics.n_steps >= n_steps;
        if is_over && scheduler.is_idle() {
            break;
        }
        if !is_over && scheduler.n_waiting() < 6 && draw.below(4) == 0 {
            // Beginnings are shared: what differs comes late.
            let (text, n) = (draw.below(4), 1 + draw.below_one_of([20, 100, 320]));
            let prompt: Vec<u32> =
                (0..n).map(|at| ((at * 5 + if at >= 70 { text } else { 0 }) % N_VOCAB) as u32).collect();
            let talk = |draw: &mut Draw| {
                let rule = rules[draw.below(rules.len())];
                Talk::new(&prompt, rule, 1 + draw.below_one_of([3, 20, 150]))
            };
            let n_answers = if draw.below(3) == 0 { 1 + draw.below(4) } else { 1 };
            let tasks: Vec<Talk> = match draw.below(5) {
                0 => {
                    let pooling = [Pooling::Mean, Pooling::Last, Pooling::Cls][draw.below(3)];
                    (0..n_answers).map(|_| Talk::embedding(&prompt, pooling)).collect()
                }
                _ => (0..n_answers).map(|_| talk(&mut draw)).collect(),
            };
            match scheduler.submit(&runner, &prompt, tasks.clone()) {
                Ok(keys) => open.extend(keys.into_iter().zip(tasks)),
                Err(Refused::Empty) => panic!("no prompt is empty"),
                Err(Refused::Context { n_prompt, n_context }) => assert!(n_prompt > n_context && n_context == 300),
                Err(Refused::Memory { n_prompt, n_most: most, .. }) => assert!(n_prompt > most && most == n_most),
            }
        }
        if draw.below(40) == 0 && !open.is_empty() {
            let key = *open.keys().nth(draw.below(open.len())).unwrap();
            let n_free = runner.pages.free(0);
            assert!(scheduler.cancel(&mut runner, key).is_some());
            assert!(scheduler.cancel(&mut runner, key).is_none() && runner.pages.free(0) >= n_free);
            open.remove(&key);
            was_decoding.retain(|of| *of != key);
        }
        let before = scheduler.statistics;
        let finished = unwrap(scheduler.step(&mut runner));
        let done = scheduler.statistics;
        assert!(done.n_prefilled - before.n_prefilled <= n_batch as u64, "a long step");
        // An embedding's chunk and a token alone are not interrupted.
        let is_decoding = |live: &Live<Talk>| was_decoding.contains(&live.key) && !live.is_in_prompt();
        let is_waited_for = scheduler.active.iter().any(|(_, live)| is_decoding(live));
        let most = most_work(n_batch).max(work_of(limits.n_context, n_batch));
        assert!(!is_waited_for || runner.n_between <= most, "seed {seed}: {} between two tokens", runner.n_between);
        n_idle =
            if (done.n_prefilled, done.n_decoded) == (before.n_prefilled, before.n_decoded) { n_idle + 1 } else { 0 };
        assert!(n_idle < 2 || scheduler.is_idle(), "seed {seed}: steps in which nothing is done");
        // Who runs is older than who waits, and goes on at every step.
        let keys: Vec<Key> = scheduler.active.iter().map(|(_, live)| live.key).collect();
        assert!(
            keys.is_sorted() && scheduler.waiting.keys().next().is_none_or(|waits| keys.iter().all(|key| key < waits))
        );
        let went_on = |key: &Key| {
            finished.iter().any(|finished| finished.key == *key)
                || scheduler.waiting.contains_key(key)
                || scheduler.active.iter().any(|(id, live)| live.key == *key && runner.decoded.contains(id))
        };
        assert!(was_decoding.iter().all(went_on), "seed {seed}: a sequence stood still");
        was_decoding =
            scheduler.active.iter().filter(|(_, live)| !live.is_in_prompt()).map(|(_, live)| live.key).collect();
        for Finished { key, task, end, drafts, .. } in finished {
            assert_eq!(drafts.is_some(), runner.guesses.is_some());
            let asked = open.remove(&key).expect("a sequence that was open");
            assert_eq!((task.result(), end), alone(&groups, n_batch, asked, n_most), "seed {seed}, sequence {key}");
        }
    }
    assert!(open.is_empty(), "seed {seed}: {} without an end", open.len());
    let done = scheduler.statistics;
    assert!(
        done.n_kept <= done.n_drafted && (done.n_drafted == 0 || runner.guesses.is_some()),
        "seed {seed}: {done:?}"
    );
    assert!(done.runner_time <= done.time && done.longest_gap <= done.time, "seed {seed}: {done:?}");
    for (number, group) in groups.iter().enumerate() {
        assert_eq!(runner.pages.free(number), group.n_pages, "seed {seed}: pages lost");
    }
    scheduler.statistics
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_sequence_says_what_it_says_alone(seed in any::<u64>(), window in 1usize..120) {
        company(seed, 300, &[None]);
        company(seed, 300, &[None, Some(window)]);
        company(seed, 300, &[Some(window)]);
    }
}

#[test]
fn a_million_steps() {
    let mut all = Statistics::default();
    for seed in 0..50 {
        let done = company(seed, 20_000, if seed % 2 == 0 { &[None] } else { &[Some(70)] });
        all.n_steps += done.n_steps;
        all.n_set_back += done.n_set_back;
        all.n_reused += done.n_reused;
        all.n_decoded += done.n_decoded;
        all.n_drafted += done.n_drafted;
        all.n_kept += done.n_kept;
    }
    // All that can happen did, and often.
    assert!(
        all.n_steps >= 1_000_000
            && all.n_set_back > 1000
            && all.n_reused > 10_000
            && all.n_decoded > 1_000_000
            && all.n_kept > 10_000
            && all.n_drafted > 2 * all.n_kept,
        "{all:?}"
    );
}

fn one_group<T: Task>(n_pages: usize, limits: Limits) -> (Fake, Scheduler<T>) {
    let runner = Fake::new(&[Group { window: None, n_pages }], limits);
    let scheduler = Scheduler::new(&runner, N_VOCAB);
    (runner, scheduler)
}

/// All of these are there from the beginning, and each says what it says alone.
fn all_at_once(n_pages: usize, limits: Limits, tasks: impl Iterator<Item = Talk>) -> (Fake, Statistics) {
    let (mut runner, mut scheduler) = one_group(n_pages, limits);
    let mut asked = BTreeMap::new();
    for task in tasks {
        let keys = scheduler.submit(&runner, &task.prompt, [task.clone()]).unwrap();
        asked.insert(keys[0], task);
    }
    while !scheduler.is_idle() {
        for Finished { key, task, end, .. } in unwrap(scheduler.step(&mut runner)) {
            let want = alone(&runner.groups, limits.n_batch, asked[&key].clone(), limits.n_context);
            assert_eq!((task.result(), end), want, "sequence {key}");
        }
    }
    (runner, scheduler.statistics())
}

#[test]
fn what_can_never_fit_is_refused_at_once_with_the_numbers() {
    let limits = Limits { n_slots: 4, n_context: 200, n_batch: 64, max_rows: 4, n_chunks: 4 };
    let (runner, mut scheduler) = one_group(5, limits);
    let mut submit = |n: usize| scheduler.submit(&runner, &vec![1; n], [Talk::new(&[], Rule::Greedy, 1)]);
    assert_eq!(submit(0), Err(Refused::Empty));
    let error = submit(201).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the prompt has 201 tokens, and the context has room for 200; shorten it, or raise -c"
    );
    let error = submit(161).unwrap_err().to_string();
    assert!(
        error.starts_with("the prompt has 161 tokens, and the cache has room for 160 of one sequence: 6 cache pages"),
        "{error}"
    );
    assert_eq!(submit(160), Ok(vec![0]));
}

#[test]
fn answers_to_one_prompt_share_it_and_a_page_is_copied_when_they_part() {
    let limits = Limits { n_slots: 4, n_context: 200, n_batch: 256, max_rows: 4, n_chunks: 4 };
    let (mut runner, mut scheduler) = one_group(20, limits);
    let prompt: Vec<u32> = (0..100).map(|at| at % 7).collect();
    let tasks = [Rule::Greedy, Rule::Largest, Rule::Smallest, Rule::Greedy].map(|rule| Talk::new(&prompt, rule, 20));
    scheduler.submit(&runner, &prompt, tasks.clone()).unwrap();
    unwrap(scheduler.step(&mut runner));
    let Statistics { n_prefilled, n_reused, .. } = scheduler.statistics();
    assert_eq!((n_prefilled, n_reused, scheduler.n_active(), runner.pages.free(0)), (100, 0, 4, 16));
    unwrap(scheduler.step(&mut runner));
    assert_eq!(runner.pages.free(0), 13);
    let mut said = BTreeMap::new();
    while !scheduler.is_idle() {
        said.extend(unwrap(scheduler.step(&mut runner)).into_iter().map(|finished| (finished.key, finished.task.said)));
    }
    for (key, task) in tasks.into_iter().enumerate() {
        assert_eq!(said[&(key as Key)], alone(&runner.groups, 256, task, 200).0, "answer {key}");
    }
}

#[test]
fn a_long_prompt_does_not_stop_the_others() {
    let limits = Limits { n_slots: 8, n_context: 16_500, n_batch: 64, max_rows: 8, n_chunks: 8 };
    let (mut runner, mut scheduler) = one_group(1000, limits);
    let short = |n| Talk::new(&[1, 2, 3], Rule::Greedy, n);
    scheduler.submit(&runner, &[1, 2, 3], [short(1000), short(1000)]).unwrap();
    unwrap(scheduler.step(&mut runner));
    let long: Vec<u32> = (0..16_384).map(|at| at % 31).collect();
    scheduler.submit(&runner, &long, [Talk::new(&long, Rule::Greedy, 5)]).unwrap();
    (runner.longest_gap, runner.n_between) = (0, 0);
    let mut n_steps = 0;
    while scheduler.statistics().n_prefilled < 3 + 16_384 {
        let before = scheduler.statistics();
        unwrap(scheduler.step(&mut runner));
        assert_eq!(scheduler.statistics().n_decoded - before.n_decoded, 2);
        n_steps += 1;
    }
    // A chunk's work is a pass's and its tokens', and behind 16 320 tokens attention adds to that: two to four steps.
    assert_eq!((runner.longest_gap, work_of(0, 64), work_of(16_320, 64)), (298, 448, 533));
    assert!((2 * 256..4 * 256).contains(&n_steps), "{n_steps} steps");
    // While nobody waits, a chunk is a step.
    let (mut runner, mut scheduler) = one_group(1000, limits);
    scheduler.submit(&runner, &long, [Talk::new(&long, Rule::Greedy, 5)]).unwrap();
    for n in 1..=256 {
        unwrap(scheduler.step(&mut runner));
        assert_eq!(scheduler.statistics().n_prefilled, 64 * n);
    }
}

/// A step moves every sequence some times, and a sampler has kilobytes of state: at 64 sequences that was half of the host's time.
#[test]
fn moving_a_sequence_copies_no_state() {
    assert_eq!(size_of::<Active<[u8; 4096]>>(), 16);
}

/// Different prompts of so many tokens.
fn different(n: u32, n_tokens: u32) -> impl Iterator<Item = Vec<u32>> {
    (0..n).map(move |first| (0..n_tokens).map(|at| (first + at) % 31).collect())
}

/// Short prompts share a pass; many that come at once are spread over more steps.
#[test]
fn many_short_prompts_do_not_stop_the_others() {
    for (n_chunks, of_a_step, at_first) in [(32, 4, 8), (3, 3, 6), (1, 2, 3)] {
        let limits = Limits { n_slots: 32, n_context: 3000, n_batch: 2048, max_rows: 32, n_chunks };
        let (mut runner, mut scheduler) = one_group(1000, limits);
        scheduler.submit(&runner, &[1, 2, 3], [Talk::new(&[1, 2, 3], Rule::Greedy, 1000)]).unwrap();
        unwrap(scheduler.step(&mut runner));
        for prompt in different(24, 256) {
            scheduler.submit(&runner, &prompt, [Talk::new(&prompt, Rule::Greedy, 50)]).unwrap();
        }
        (runner.longest_gap, runner.n_between, runner.n_passes) = (0, 0, 0);
        for n in 1..=24 / of_a_step {
            unwrap(scheduler.step(&mut runner));
            assert_eq!(scheduler.statistics().n_prefilled, 3 + of_a_step * 256 * n, "{n_chunks} chunks of a pass");
        }
        let together = 24usize.div_ceil(of_a_step as usize) * if n_chunks == 1 { 2 } else { 1 };
        assert_eq!(runner.n_passes, together, "{n_chunks} chunks of a pass");
        assert!(runner.longest_gap <= most_work(2048), "{} of {}", runner.longest_gap, most_work(2048));
        // Where nobody waits in the beginning, all that a pass has room for begin, and then those who have a token wait.
        let (mut runner, mut scheduler) = one_group(1000, limits);
        for prompt in different(24, 256) {
            scheduler.submit(&runner, &prompt, [Talk::new(&prompt, Rule::Greedy, 50)]).unwrap();
        }
        unwrap(scheduler.step(&mut runner));
        assert_eq!(scheduler.statistics().n_prefilled, at_first * 256, "{n_chunks} chunks of a pass");
    }
}

/// Prompts with the same beginning do not compute it twice: those behind the first wait for its pages, however short the first is.
#[test]
fn a_beginning_that_is_being_computed_is_waited_for() {
    let limits = Limits { n_slots: 8, n_context: 400, n_batch: 2048, max_rows: 8, n_chunks: 8 };
    let (mut runner, mut scheduler) = one_group(1000, limits);
    let prompt = |end: u32| -> Vec<u32> { (0..100).chain([end, end + 1]).map(|token| token % 40).collect() };
    for end in 0..4 {
        scheduler.submit(&runner, &prompt(7 * end), [Talk::new(&prompt(7 * end), Rule::Greedy, 9)]).unwrap();
    }
    let mut ended = Vec::new();
    while !scheduler.is_idle() {
        ended.extend(unwrap(scheduler.step(&mut runner)));
    }
    // Three pages of the first prompt's are the others', who then go together.
    let done = scheduler.statistics();
    assert_eq!((runner.n_passes, done.n_prefilled, done.n_reused), (2, 102 + 3 * 6, 3 * 96));
    for Finished { key, task, .. } in ended {
        let asked = Talk::new(&prompt(7 * key as u32), Rule::Greedy, 9);
        assert_eq!(task.said, alone(&runner.groups, 2048, asked, 400).0, "answer {key}");
    }
}

/// Chunks whose pass was interrupted begin again where one of their sequences is cancelled.
#[test]
fn a_pass_goes_on_without_who_is_cancelled() {
    let limits = Limits { n_slots: 8, n_context: 400, n_batch: 64, max_rows: 8, n_chunks: 8 };
    let (mut runner, mut scheduler) = one_group(1000, limits);
    scheduler.submit(&runner, &[1, 2, 3], [Talk::new(&[1, 2, 3], Rule::Greedy, 100)]).unwrap();
    unwrap(scheduler.step(&mut runner));
    let prompts: Vec<Vec<u32>> = different(3, 64).collect();
    for prompt in &prompts {
        scheduler.submit(&runner, prompt, [Talk::new(prompt, Rule::Greedy, 9)]).unwrap();
    }
    unwrap(scheduler.step(&mut runner));
    assert!(scheduler.pass.is_some() && scheduler.cancel(&mut runner, 1).is_some() && scheduler.pass.is_none());
    let mut ended = Vec::new();
    while !scheduler.is_idle() {
        ended.extend(unwrap(scheduler.step(&mut runner)));
    }
    let keys: Vec<Key> = ended.iter().map(|finished| finished.key).collect();
    assert_eq!(keys, [2, 3, 0]);
    for Finished { key, task, .. } in ended.into_iter().filter(|finished| finished.key > 0) {
        let asked = Talk::new(&prompts[key as usize - 1], Rule::Greedy, 9);
        assert_eq!(task.said, alone(&runner.groups, 64, asked, 400).0, "answer {key}");
    }
    assert_eq!(runner.pages.free(0), 1000);
}

/// Notes how many decoding steps there were when it chose each token, and when it settled.
struct Settling {
    n_wanted: usize,
    n_steps: Arc<AtomicUsize>,
    chosen: Vec<usize>,
    settled: Vec<usize>,
}

impl Task for Settling {
    fn is_greedy(&self) -> bool {
        true
    }

    fn next<R: Runner>(&mut self, mut row: Row<R>) -> Result<Option<u32>, R::Error> {
        assert_eq!(self.settled.len(), self.chosen.len(), "settled before the next one");
        let token = row.greedy(N_VOCAB)?;
        self.chosen.push(self.n_steps.load(Relaxed));
        Ok(token.filter(|_| self.chosen.len() < self.n_wanted))
    }

    fn settle(&mut self) {
        if self.settled.len() < self.chosen.len() {
            self.settled.push(self.n_steps.load(Relaxed));
        }
    }
}

/// What a task leaves for later is done while the device has its next token, but where a prompt comes first, or the task waits.
#[test]
fn tasks_settle_while_the_device_works() {
    let limits = Limits { n_slots: 4, n_context: 200, n_batch: 32, max_rows: 4, n_chunks: 4 };
    let (mut runner, mut scheduler) = one_group(40, limits);
    let n_steps = runner.n_steps.clone();
    let task = |n_wanted| Settling { n_wanted, n_steps: n_steps.clone(), chosen: Vec::new(), settled: Vec::new() };
    scheduler.submit(&runner, &[1, 2, 3], [task(6)]).unwrap();
    let ended = loop {
        if let [ended, ..] = &mut unwrap(scheduler.step(&mut runner))[..] {
            break std::mem::replace(&mut ended.task, task(0));
        }
    };
    // The first one is its prompt's, and there is nothing behind the last.
    assert_eq!(ended.chosen, [0, 1, 2, 3, 4, 5]);
    assert_eq!(ended.settled, [0, 2, 3, 4, 5]);

    // A prompt that comes meanwhile.
    scheduler.submit(&runner, &[1, 2, 3], [task(9)]).unwrap();
    (0..3).for_each(|_| assert!(unwrap(scheduler.step(&mut runner)).is_empty()));
    let before = n_steps.load(Relaxed);
    let prompt: Vec<u32> = (0..64).map(|at| at % 31).collect();
    scheduler.submit(&runner, &prompt, [task(2)]).unwrap();
    unwrap(scheduler.step(&mut runner));
    let (_, live) = &scheduler.active[0];
    assert_eq!((live.task.chosen.last(), live.task.settled.last()), (Some(&(before + 1)), Some(&(before + 1))));

    // One that is set back for want of pages.
    let (mut runner, mut scheduler) = one_group(3, limits);
    let n_steps = runner.n_steps.clone();
    let task = |n_wanted| Settling { n_wanted, n_steps: n_steps.clone(), chosen: Vec::new(), settled: Vec::new() };
    for first in 0..2 {
        scheduler.submit(&runner, &[first, 2, 3], [task(60)]).unwrap();
    }
    while scheduler.statistics().n_set_back == 0 {
        unwrap(scheduler.step(&mut runner));
    }
    let waiting = &scheduler.waiting.first_key_value().unwrap().1.task;
    assert!(!waiting.chosen.is_empty() && waiting.settled.len() == waiting.chosen.len());
}

/// Guesses make the same words in fewer steps: with those that are always right, as many fewer as a step takes; with wrong ones, none.
#[test]
fn right_guesses_save_steps_and_wrong_ones_stop() {
    let limits = Limits { n_slots: 2, n_context: 700, n_batch: 64, max_rows: 10, n_chunks: 10 };
    let costs = Costs { n_most: 8, row: 0.1, second: 0.0, again: 0.0, at_once: 8, draft: 0.0 };
    let mut said = Vec::new();
    for percent in [None, Some(100), Some(70), Some(0)] {
        let (mut runner, mut scheduler) = one_group(60, limits);
        runner.guesses = percent.map(|percent| Guesses { costs, percent, n_vocab: N_VOCAB, draw: 1 });
        scheduler.submit(&runner, &[1, 2, 3], [Talk::new(&[1, 2, 3], Rule::Greedy, 600)]).unwrap();
        let mut ended = Vec::new();
        while !scheduler.is_idle() {
            ended.extend(unwrap(scheduler.step(&mut runner)));
            // What was guessed wrongly leaves no page behind.
            let n_tokens: usize = scheduler.active.iter().map(|(id, _)| runner.pages.n_tokens(*id)).sum();
            assert_eq!(runner.pages.n_taken().0, n_tokens.div_ceil(POSITIONS));
        }
        let done = scheduler.statistics();
        let steps = match percent {
            None => 600..601,
            // Five tokens are guessed and more soon, but each seventh guess is the last of its step: six tokens a step and more.
            Some(100) => 80..110,
            Some(70) => 200..330,
            _ => 590..601,
        };
        assert!(steps.contains(&done.n_steps), "{percent:?}: {done:?}");
        assert!(percent != Some(0) || done.n_drafted < 120, "{done:?}");
        let drafts = ended[0].drafts.unwrap_or_default();
        assert_eq!((drafts.n_drafted, drafts.n_kept), (done.n_drafted, done.n_kept));
        said.push(ended.remove(0).task.said);
    }
    assert!(said[0].len() == 600 && said.iter().all(|words| *words == said[0]));
}
