//! A request that is being answered: what the engine says of it, taken apart into thoughts, words and calls.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{
        mpsc::{UnboundedReceiver, unbounded_channel},
        watch,
    },
    time::timeout_at,
};

use super::{
    App, Failure, Phase, app,
    engine::{Event, Ticket},
    tools::{Delta, Splitter, Tools},
};
use crate::{
    api::{Asked, Form, Usage},
    generate::{Stop, TokenLogprobs},
};

/// News of an answer.
#[derive(Debug)]
pub enum Update {
    /// It has more.
    Delta {
        /// Which answer.
        answer: usize,
        /// The parts that came.
        parts: Vec<Delta>,
        /// What the model thought of the tokens, if asked for.
        logprobs: Vec<TokenLogprobs>,
    },
    /// It ended.
    End {
        /// Which answer.
        answer: usize,
        /// Why.
        stop: Stop,
        /// Whether it calls tools.
        has_calls: bool,
    },
    /// All ended.
    Done(Usage),
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The tool.
    pub name: String,
    /// Its arguments, JSON.
    pub arguments: String,
}

/// An answer, whole.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Its thoughts.
    pub reasoning: String,
    /// What it says.
    pub content: String,
    /// Its calls.
    pub calls: Vec<Call>,
    /// What the model thought of its tokens, if asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// Why it ended.
    pub stop: Option<Stop>,
}

struct OneAnswer {
    splitter: Splitter,
    has_calls: bool,
    ended: bool,
}

/// A request that is being answered. Dropped, it is cancelled.
pub struct Running {
    events: UnboundedReceiver<Event>,
    answers: Vec<OneAnswer>,
    usage: Usage,
    /// What came and was not given yet.
    pending: VecDeque<Update>,
    phase: watch::Receiver<Phase>,
    is_over: bool,
    /// The request's id, and when it came.
    request: String,
    asked_at: Instant,
    _ticket: Ticket,
}

impl Running {
    /// Makes a request ready and gives it to the engine.
    ///
    /// # Errors
    /// What is wrong with it, or that there is no room.
    pub async fn begin(app: &Arc<App>, asked: Asked, tools: Tools) -> Result<Running, Failure> {
        let asked_at = Instant::now();
        let deadline = app.options.timeout.map(|time| asked_at + time);
        let place = app.admit(asked.prompts.len().saturating_mul(asked.n))?;
        let splitter = match asked.form {
            Form::Chat => {
                let dialect = app.model.dialect;
                let may_call = tools.may_be_called(dialect, &asked.format);
                Some(Splitter::new(dialect, if may_call { tools.names() } else { Arc::default() }))
            }
            Form::Text => None,
        };
        let prepared = app.work({
            let app = Arc::clone(app);
            move || app.model.prepare(&asked, &tools, asked_at)
        });
        let (mut job, begun, n_prompt) = within(deadline, prepared).await???;
        job.deadline = deadline;
        let n_answers: usize = job.prompts.iter().map(|prompt| prompt.made.n()).sum();
        let (sender, events) = unbounded_channel();
        let ticket = app.engine.submit(job, sender, place);
        let mut splitter = splitter.unwrap_or_else(Splitter::plain);
        let parts = splitter.push(&begun);
        debug_assert!(parts.is_empty(), "what is in the prompt is no answer");
        let one = || OneAnswer { splitter: splitter.clone(), has_calls: false, ended: false };
        Ok(Running {
            events,
            answers: (0..n_answers).map(|_| one()).collect(),
            usage: Usage { n_prompt, ..Usage::default() },
            pending: VecDeque::new(),
            phase: app.phase.subscribe(),
            is_over: false,
            request: app::REQUEST.try_with(Clone::clone).unwrap_or_default(),
            asked_at,
            _ticket: ticket,
        })
    }

    /// Answers there are.
    pub fn n_answers(&self) -> usize {
        self.answers.len()
    }

    /// Tokens so far.
    pub fn usage(&self) -> Usage {
        Usage { n_cached: self.usage.n_cached.min(self.usage.n_prompt), ..self.usage }
    }

    /// The next news; none after the end.
    ///
    /// # Errors
    /// The request failed, its time is over, or the server stops; nothing follows.
    pub async fn next(&mut self) -> Result<Option<Update>, Failure> {
        loop {
            if let Some(update) = self.pending.pop_front() {
                return Ok(Some(update));
            }
            if self.is_over {
                return Ok(None);
            }
            let event = tokio::select! {
                biased;
                event = self.events.recv() => Ok(event),
                _ = self.phase.wait_for(|phase| *phase == Phase::Closing) => Err(Failure::stopped()),
            };
            match event {
                Ok(Some(Event::Piece { answer, text, n_tokens, logprobs })) => {
                    self.usage.n_completion += n_tokens;
                    let splitter = &mut self.answers[answer].splitter;
                    if splitter.is_thinking() {
                        self.usage.n_reasoning += n_tokens;
                    }
                    let parts = splitter.push(&text);
                    self.give(answer, parts, logprobs.into_iter().collect());
                }
                Ok(Some(Event::End { answer, stop, n_cached })) => {
                    self.usage.n_cached += n_cached;
                    let parts = self.answers[answer].splitter.finish();
                    self.give(answer, parts, Vec::new());
                    let one = &mut self.answers[answer];
                    one.ended = true;
                    self.pending.push_back(Update::End { answer, stop, has_calls: one.has_calls });
                    if self.answers.iter().all(|one| one.ended) {
                        self.is_over = true;
                        self.pending.push_back(Update::Done(self.usage()));
                    }
                }
                // An embedding is nothing that is written.
                Ok(Some(Event::Vector { .. })) => {}
                Ok(Some(Event::Failed(failure))) | Err(failure) => return Err(self.fail(failure)),
                // The engine's thread ended, for its own reasons or because the server stops.
                Ok(None) => return Err(self.fail(Failure::stopped())),
            }
        }
    }

    fn fail(&mut self, failure: Failure) -> Failure {
        self.is_over = true;
        failure
    }

    fn give(&mut self, answer: usize, parts: Vec<Delta>, logprobs: Vec<TokenLogprobs>) {
        self.answers[answer].has_calls |= parts.iter().any(|part| matches!(part, Delta::Call(_)));
        if !parts.is_empty() || !logprobs.is_empty() {
            self.pending.push_back(Update::Delta { answer, parts, logprobs });
        }
    }

    /// Waits for all answers.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn collect(mut self) -> Result<(Vec<Written>, Usage), Failure> {
        let mut all = vec![Written::default(); self.n_answers()];
        let mut usage = Usage::default();
        while let Some(update) = self.next().await? {
            match update {
                Update::Delta { answer, parts, logprobs } => {
                    let one = &mut all[answer];
                    one.logprobs.extend(logprobs);
                    for part in parts {
                        match part {
                            Delta::Reasoning(text) => one.reasoning += &text,
                            Delta::Content(text) => one.content += &text,
                            Delta::Call(name) => one.calls.push(Call { name, arguments: String::new() }),
                            Delta::Arguments(text) => {
                                if let Some(call) = one.calls.last_mut() {
                                    call.arguments += &text;
                                }
                            }
                        }
                    }
                }
                Update::End { answer, stop, .. } => all[answer].stop = Some(stop),
                Update::Done(done) => usage = done,
            }
        }
        Ok((all, usage))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Usage { n_prompt, n_cached, n_completion, .. } = self.usage();
        let whole = self.answers.iter().all(|one| one.ended);
        let ms = self.asked_at.elapsed().as_millis() as u64;
        tracing::info!(request = self.request, n_prompt, n_cached, n_completion, whole, ms, "answered");
    }
}

/// What a future gives, unless the deadline comes first.
pub async fn within<T>(deadline: Option<Instant>, future: impl Future<Output = T>) -> Result<T, Failure> {
    match deadline {
        Some(deadline) => timeout_at(deadline.into(), future).await.map_err(|_| Failure::late()),
        None => Ok(future.await),
    }
}

/// A time limit as people give it: 0 is none.
pub fn limit(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds))
}
