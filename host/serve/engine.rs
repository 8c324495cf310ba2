//! The engine's own thread: what comes in by one channel goes through the scheduler, and out by a channel for each request.
//!
//! Channels out have no bound, so that nobody waits for a reader; what lies in one is at most what its request may write. Before each step
//! all that came in is taken, so a sequence whose client went away is gone by the next step.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::Instant,
};

use serde_json::Value;
use tokio::sync::{mpsc::UnboundedSender, oneshot};

use super::{Failure, Metrics, Model, admission::Place};
use crate::{
    engine::{
        Answer, AnswerRequest, Key, OnPiece, Piece, Progress, Refused, Runner, Scheduler, Statistics, Trigger, Work,
        WorkEnd,
    },
    generate::{Limits, Stop, TokenLogprobs},
    model::Pooling,
    sample::{Constraint, Sampler},
    tokenizer::ControlText,
};

/// One answer that is to be written.
pub struct Wanted {
    /// Chooses its tokens.
    pub sampler: Sampler,
    /// What it must follow.
    pub constraint: Option<Constraint>,
    /// What parts of it must follow.
    pub trigger: Option<Trigger>,
}

/// What is made of one prompt.
pub struct Prompted {
    /// The prompt's tokens.
    pub ids: Vec<u32>,
    /// What of it.
    pub made: Made,
}

/// What is made of a prompt.
pub enum Made {
    /// Each of these answers.
    Answers(Vec<Wanted>),
    /// An embedding.
    Embedding(Pooling),
}

impl Made {
    /// How many sequences it takes.
    pub fn n(&self) -> usize {
        match self {
            Made::Answers(answers) => answers.len(),
            Made::Embedding(_) => 1,
        }
    }
}

/// A request, ready for the engine.
pub struct Job {
    /// Its prompts; answers are numbered from 0, the first prompt's first.
    pub prompts: Vec<Prompted>,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// How far to go.
    pub limits: Limits,
    /// How many of the likeliest tokens to report.
    pub logprobs: Option<usize>,
    /// Whether control tokens show in the text.
    pub control: ControlText,
    /// How its tokens are drawn, as `/slots` shows it: nothing that a user wrote is in there.
    pub params: Value,
    /// When it came.
    pub asked: Instant,
    /// When its time is over.
    pub deadline: Option<Instant>,
}

/// What happened to an answer.
#[derive(Debug)]
pub enum Event {
    /// It has another token, or text that was held back.
    Piece {
        /// Which answer.
        answer: usize,
        /// Text that is certain now.
        text: String,
        /// Tokens that it came with.
        n_tokens: usize,
        /// What the model thought of them.
        logprobs: Option<TokenLogprobs>,
    },
    /// It ended.
    End {
        /// Which answer.
        answer: usize,
        /// Why.
        stop: Stop,
        /// Tokens of its prompt that were in the cache.
        n_cached: usize,
    },
    /// It is an embedding, and there.
    Vector {
        /// Which of the request's prompts.
        answer: usize,
        /// `[n_embd]`, of length 1.
        vector: Vec<f32>,
    },
    /// The request cannot be answered; nothing follows.
    Failed(Failure),
}

/// A sequence that has a slot.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The request's number.
    pub job: u64,
    /// How far it is.
    pub progress: Progress,
    /// How many more tokens it may have, where there is a limit.
    pub n_remain: Option<usize>,
    /// Whether its text has more than a line.
    pub has_new_line: bool,
    /// How its tokens are drawn.
    pub params: Value,
}

/// A request on its way to the engine.
struct Submission {
    job: Job,
    events: UnboundedSender<Event>,
    place: Place,
}

enum Command {
    Submit(u64, Box<Submission>),
    Cancel(u64),
    Slots(oneshot::Sender<Vec<Option<Slot>>>),
    Stop,
}

/// The way to the engine's thread.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    next: Arc<AtomicU64>,
}

/// Cancels a request when dropped; one that has ended is left alone.
pub struct Ticket {
    number: u64,
    commands: mpsc::Sender<Command>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // The engine may be gone, and the request with it.
        let _ = self.commands.send(Command::Cancel(self.number));
    }
}

/// What the engine's thread takes its commands from.
pub struct Commands(mpsc::Receiver<Command>);

/// The two ends.
pub fn channel() -> (Handle, Commands) {
    let (commands, receiver) = mpsc::channel();
    (Handle { commands, next: Arc::new(AtomicU64::new(1)) }, Commands(receiver))
}

impl Handle {
    /// Gives a request to the engine, which says by `events` what comes of it and gives the place back at its end, whether anybody reads
    /// that or not.
    pub fn submit(&self, job: Job, events: UnboundedSender<Event>, place: Place) -> Ticket {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        // Where the engine is gone, the events' other end says so.
        let _ = self.commands.send(Command::Submit(number, Box::new(Submission { job, events, place })));
        Ticket { number, commands: self.commands.clone() }
    }

    /// What is in each slot, if anything.
    pub async fn slots(&self) -> Option<Vec<Option<Slot>>> {
        let (sender, slots) = oneshot::channel();
        self.commands.send(Command::Slots(sender)).ok()?;
        slots.await.ok()
    }

    /// Ends the engine's loop.
    pub fn stop(&self) {
        let _ = self.commands.send(Command::Stop);
    }
}

/// A sequence at work.
struct Sequence {
    job: u64,
    answer: usize,
    has_new_line: Arc<AtomicBool>,
}

/// A request at work.
struct OpenJob {
    keys: Vec<Key>,
    events: UnboundedSender<Event>,
    deadline: Option<Instant>,
    n_predict: Option<usize>,
    params: Value,
    _place: Place,
}

struct Loop<'a, R: Runner> {
    runner: &'a mut R,
    scheduler: Scheduler<Work<'a>>,
    model: &'a Model,
    metrics: &'a Arc<Metrics>,
    sequences: HashMap<Key, Sequence>,
    jobs: HashMap<u64, OpenJob>,
    told: Statistics,
}

/// Does what `commands` say until they end.
///
/// # Errors
/// The runner's; every request that was open has been told.
pub fn run<R: Runner<Error: std::fmt::Display>>(
    runner: &mut R,
    model: &Model,
    metrics: &Arc<Metrics>,
    commands: &Commands,
) -> Result<(), R::Error> {
    let scheduler = Scheduler::new(runner, model.n_tokens);
    let mut this = Loop {
        runner,
        scheduler,
        model,
        metrics,
        sequences: HashMap::new(),
        jobs: HashMap::new(),
        told: Statistics::default(),
    };
    this.tell_metrics();
    loop {
        let first = if this.scheduler.is_idle() { commands.0.recv().map(Some) } else { Ok(None) };
        let Ok(first) = first else { return Ok(()) };
        for command in first.into_iter().chain(commands.0.try_iter()) {
            match command {
                Command::Submit(number, submission) => this.submit(number, *submission),
                Command::Cancel(number) => this.cancel(number),
                // Who asked may have gone.
                Command::Slots(sender) => drop(sender.send(this.slots())),
                Command::Stop => return Ok(()),
            }
        }
        if this.scheduler.is_idle() {
            this.tell_metrics();
            continue;
        }
        let start = Instant::now();
        this.end_late(start);
        let step = this.step();
        this.metrics.step.observe(Metrics::seconds(start.elapsed()));
        this.tell_metrics();
        if let Err(error) = step {
            let failure = Failure::internal(error.to_string());
            this.jobs.values().for_each(|job| drop(job.events.send(Event::Failed(failure.clone()))));
            return Err(error);
        }
    }
}

impl<R: Runner> Loop<'_, R> {
    fn submit(&mut self, number: u64, Submission { job, events, place }: Submission) {
        let Job { prompts, stop, limits, logprobs, control, params, asked, deadline } = job;
        let n_predict = limits.n_predict;
        let mut open = OpenJob { keys: Vec::new(), events, deadline, n_predict, params, _place: place };
        let mut answer = 0;
        for Prompted { ids, made } in prompts {
            let first = answer;
            let mut lines = Vec::new();
            let mut line = || {
                let has_new_line = Arc::new(AtomicBool::new(false));
                lines.push(Arc::clone(&has_new_line));
                has_new_line
            };
            let tasks: Vec<Work> = match made {
                Made::Embedding(pooling) => {
                    line();
                    answer += 1;
                    vec![Work::embedding(pooling, ids.len())]
                }
                Made::Answers(answers) => answers
                    .into_iter()
                    .map(|Wanted { sampler, constraint, trigger }| {
                        let on_piece = watch(answer, open.events.clone(), Arc::clone(self.metrics), line(), asked);
                        answer += 1;
                        let model = self.model;
                        let request = AnswerRequest {
                            model: &model.name,
                            prompt: &ids,
                            sampler,
                            constraint,
                            trigger,
                            control,
                            stop: &stop,
                            limits,
                            logprobs,
                        };
                        let on_piece: OnPiece = Box::new(on_piece);
                        Work::answer(Answer::new(request, &model.tokenizer, model.n_tokens, Some(on_piece)))
                    })
                    .collect(),
            };
            match self.scheduler.submit(self.runner, &ids, tasks) {
                Ok(keys) => {
                    for ((offset, key), has_new_line) in keys.into_iter().enumerate().zip(lines) {
                        self.sequences.insert(key, Sequence { job: number, answer: first + offset, has_new_line });
                        open.keys.push(key);
                    }
                }
                Err(refused) => {
                    let _ = open.events.send(Event::Failed(refusal(refused)));
                    open.keys.drain(..).for_each(|key| self.forget(key));
                    return;
                }
            }
        }
        self.jobs.insert(number, open);
    }

    fn forget(&mut self, key: Key) {
        self.sequences.remove(&key);
        self.scheduler.cancel(self.runner, key);
    }

    fn cancel(&mut self, number: u64) {
        if let Some(job) = self.jobs.remove(&number) {
            self.metrics.cancelled.inc_by(job.keys.len() as u64);
            job.keys.into_iter().for_each(|key| self.forget(key));
        }
    }

    /// Ends requests whose time is over.
    fn end_late(&mut self, now: Instant) {
        let is_late = |job: &OpenJob| job.deadline.is_some_and(|deadline| deadline <= now);
        let late: Vec<u64> = self.jobs.iter().filter(|(_, job)| is_late(job)).map(|(number, _)| *number).collect();
        for number in late {
            // Nobody may read it.
            let _ = self.jobs[&number].events.send(Event::Failed(Failure::late()));
            self.cancel(number);
        }
    }

    fn step(&mut self) -> Result<(), R::Error> {
        for finished in self.scheduler.step(self.runner)? {
            let key = finished.key;
            let n_cached = finished.n_reused;
            // The rest of its text goes out by the way.
            let end = Work::end(finished);
            let Some(Sequence { job: number, answer, .. }) = self.sequences.remove(&key) else { continue };
            let Some(job) = self.jobs.get_mut(&number) else { continue };
            job.keys.retain(|other| *other != key);
            let event = match end {
                WorkEnd::Answer(end) => end.generation.map_err(Failure::from).map(|generation| {
                    if generation.stop == Stop::Interrupted {
                        // It had a token for a client that was gone, before it was cancelled.
                        self.metrics.cancelled.inc();
                    }
                    Event::End { answer, stop: generation.stop, n_cached }
                }),
                WorkEnd::Embedding(vector) => match vector {
                    Ok(vector) => Ok(Event::Vector { answer, vector }),
                    Err(error) => Err(Failure::internal(error.to_string())),
                },
            };
            match event {
                Ok(event) => {
                    // Of one whose client is gone, nobody wants to know.
                    let _ = job.events.send(event);
                    if job.keys.is_empty() {
                        self.jobs.remove(&number);
                    }
                }
                Err(failure) => {
                    let _ = job.events.send(Event::Failed(failure));
                    if let Some(job) = self.jobs.remove(&number) {
                        job.keys.into_iter().for_each(|key| self.forget(key));
                    }
                }
            }
        }
        Ok(())
    }

    fn slots(&self) -> Vec<Option<Slot>> {
        let mut all = vec![None; self.runner.limits().n_slots];
        for progress in self.scheduler.active() {
            let Some(sequence) = self.sequences.get(&progress.key) else { continue };
            let (Some(job), Some(slot)) = (self.jobs.get(&sequence.job), all.get_mut(progress.id.0 as usize)) else {
                continue;
            };
            *slot = Some(Slot {
                job: sequence.job,
                progress,
                n_remain: job.n_predict.map(|most| most.saturating_sub(progress.n_generated)),
                has_new_line: sequence.has_new_line.load(Ordering::Relaxed),
                params: job.params.clone(),
            });
        }
        all
    }

    fn tell_metrics(&mut self) {
        let metrics = &self.metrics;
        let (used, all) = self.runner.pages();
        metrics.waiting.set(self.scheduler.n_waiting() as i64);
        metrics.running.set(self.scheduler.n_active() as i64);
        metrics.pages_used.set(used as i64);
        metrics.pages.set(all as i64);
        let now = self.scheduler.statistics();
        metrics.prompt_tokens.inc_by(now.n_prefilled - self.told.n_prefilled);
        metrics.cached_tokens.inc_by(now.n_reused - self.told.n_reused);
        metrics.drafted_tokens.inc_by(now.n_drafted - self.told.n_drafted);
        metrics.kept_tokens.inc_by(now.n_kept - self.told.n_kept);
        metrics.set_back.inc_by(now.n_set_back - self.told.n_set_back);
        self.told = now;
    }
}

/// Tells of an answer's pieces, and keeps the time.
fn watch(
    answer: usize,
    events: UnboundedSender<Event>,
    metrics: Arc<Metrics>,
    has_new_line: Arc<AtomicBool>,
    asked: Instant,
) -> impl FnMut(Piece) -> bool + Send {
    let mut last = None;
    move |piece| {
        if piece.n_tokens > 0 {
            let now = Instant::now();
            match last.replace(now) {
                None => metrics.first_token.observe(Metrics::seconds(now - asked)),
                Some(last) => metrics.between_tokens.observe(Metrics::seconds(now - last)),
            };
            metrics.generated_tokens.inc_by(piece.n_tokens as u64);
        }
        has_new_line.fetch_or(piece.text.contains('\n'), Ordering::Relaxed);
        let (text, n_tokens, logprobs) = (piece.text.to_owned(), piece.n_tokens, piece.logprobs.cloned());
        events.send(Event::Piece { answer, text, n_tokens, logprobs }).is_ok()
    }
}

fn refusal(refused: Refused) -> Failure {
    let mut failure = Failure::invalid("messages", refused.to_string());
    if !matches!(refused, Refused::Empty) {
        failure.code = "context_length_exceeded";
    }
    failure
}
