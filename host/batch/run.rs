//! Answering: requests are taken in while sequences wait for too few, and written out in order.

use std::{
    collections::{HashMap, VecDeque},
    sync::atomic::{AtomicBool, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value, json};

use super::{AnswersError, AnswersFile, LineError, Request, RequestLine, Requests};
use crate::{
    api::{Asked, Defaults, EmbeddingsAsked, Form, Format, Prompt, Usage, chat_completion, text_completion},
    chat::{ChatError, ChatTemplate, Message, RenderOptions},
    engine::{Answer, AnswerRequest, Key, Runner, Scheduler, Statistics, Work, WorkEnd},
    generate::{Generation, Limits, constraint_vocabulary, sampler},
    model::Pooling,
    sample::{Constraint, ConstraintVocabulary},
    tokenizer::{ControlText, Ends, Special, Tokenizer},
};

/// Answers that are kept while one before them is still being written.
const MAX_PENDING: usize = 16_384;

/// Why a run ended early. What was written is a good beginning.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's text is its documentation
pub enum BatchError<E: std::error::Error + 'static> {
    #[error("cannot read prompts: {0}")]
    Requests(std::io::Error),
    #[error(transparent)]
    Answers(#[from] AnswersError),
    #[error(transparent)]
    Runner(E),
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Answers written, errors among them.
    pub n_written: usize,
    /// Errors among them.
    pub n_errors: usize,
    /// Tokens of prompts, as far as they are written.
    pub n_prompt: usize,
    /// Tokens generated, as far as they are written.
    pub n_completion: usize,
    /// Whether somebody stopped it.
    pub interrupted: bool,
    /// What the scheduler did, where the run is at its end.
    pub scheduler: Statistics,
}

/// What all requests have in common.
pub struct Batch<'a> {
    /// The model's name in answers and messages: its file.
    pub model: &'a str,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Its chat template, or why there is none.
    pub template: Result<ChatTemplate, ChatError>,
    /// Variables for the template, which a request's own come before.
    pub variables: Map<String, Value>,
    /// What a conversation begins with that has no system message.
    pub system: Option<String>,
    /// What holds where a request says nothing.
    pub defaults: Defaults,
    /// Tokens to choose among.
    pub n_tokens: usize,
    /// Numbers of an embedding.
    pub n_embd: usize,
    /// How embeddings are made of hidden states.
    pub pooling: Pooling,
}

/// A request in its place among the answers.
struct Pending {
    id: String,
    custom_id: String,
    state: State,
}

enum State {
    /// Sequences are at work on it.
    Open {
        n_prompt: usize,
        n_cached: usize,
        made: Made,
    },
    /// A body, with what it took.
    Answered(Value, Usage),
    Failed(LineError),
}

/// What a request's sequences made so far, in its order.
enum Made {
    Answers(Form, Vec<Option<Generation>>),
    Embeddings(EmbeddingsAsked, Vec<Option<Vec<f32>>>),
}

/// All of it, where nothing is missing.
fn complete<T>(made: &mut Vec<Option<T>>) -> Option<Vec<T>> {
    made.iter().all(Option::is_some).then(|| made.drain(..).flatten().collect())
}

impl Pending {
    /// The line of the file.
    fn line(&self) -> String {
        let (response, error) = match &self.state {
            State::Answered(body, _) => {
                (json!({ "status_code": 200, "request_id": self.id, "body": body }), Value::Null)
            }
            State::Failed(LineError { code, message, param }) => {
                (Value::Null, json!({ "code": code, "message": message, "param": param }))
            }
            State::Open { .. } => unreachable!("written before it was answered"),
        };
        json!({ "id": self.id, "custom_id": self.custom_id, "response": response, "error": error }).to_string()
    }
}

impl Batch<'_> {
    /// Answers all requests that are left, and calls `on_progress` whenever answers were written. `interrupt`, once true, ends it.
    ///
    /// # Errors
    /// [`BatchError`].
    pub fn run<R: Runner<Error: std::error::Error + 'static>>(
        &self,
        requests: &mut Requests,
        answers: &mut AnswersFile,
        runner: &mut R,
        interrupt: &AtomicBool,
        on_progress: &mut dyn FnMut(&Progress),
    ) -> Result<Progress, BatchError<R::Error>> {
        let mut scheduler: Scheduler<Work> = Scheduler::new(runner, self.n_tokens);
        let n_ahead = runner.limits().n_slots;
        let mut progress = Progress::default();
        let mut pending: VecDeque<Pending> = VecDeque::new();
        // The number of the first of them among all.
        let mut n_gone = 0;
        // Which request a sequence is at work on, and which of its answers it writes.
        let mut places: HashMap<Key, (usize, usize)> = HashMap::new();
        let mut vocabulary = None;
        loop {
            if interrupt.load(Ordering::Relaxed) {
                places.keys().for_each(|key| drop(scheduler.cancel(runner, *key)));
                progress.interrupted = true;
                progress.scheduler = scheduler.statistics();
                return Ok(progress);
            }
            while scheduler.n_waiting() < n_ahead && pending.len() < MAX_PENDING {
                let Some(line) = requests.next().map_err(BatchError::Requests)? else { break };
                let (request, keys) = self.begin(&line, &mut scheduler, runner, &mut vocabulary);
                let number = n_gone + pending.len();
                places.extend(keys.into_iter().enumerate().map(|(slot, key)| (key, (number, slot))));
                pending.push_back(request);
            }
            let n_before = progress.n_written;
            while pending.front().is_some_and(|first| !matches!(first.state, State::Open { .. })) {
                let first = pending.pop_front().expect("the first");
                answers.push(first.line())?;
                n_gone += 1;
                progress.n_written += 1;
                match first.state {
                    State::Answered(_, usage) => {
                        progress.n_prompt += usage.n_prompt;
                        progress.n_completion += usage.n_completion;
                    }
                    _ => progress.n_errors += 1,
                }
            }
            if progress.n_written > n_before {
                on_progress(&progress);
            }
            if scheduler.is_idle() {
                if pending.is_empty() && requests.n_left() == 0 {
                    progress.scheduler = scheduler.statistics();
                    return Ok(progress);
                }
                continue;
            }
            for finished in scheduler.step(runner).map_err(BatchError::Runner)? {
                let (number, slot) = places.remove(&finished.key).expect("a sequence of this run");
                let request = &mut pending[number - n_gone];
                let n_reused = finished.n_reused;
                let Some(failure) = self.take(request, slot, n_reused, Work::end(finished)) else {
                    continue;
                };
                // The other answers of the request are of no use.
                request.state = State::Failed(LineError::new("generation_failed", failure));
                let others: Vec<Key> =
                    places.iter().filter(|(_, place)| place.0 == number).map(|(key, _)| *key).collect();
                for key in others {
                    places.remove(&key);
                    scheduler.cancel(runner, key);
                }
            }
        }
    }

    /// Reads a line and submits what it asks for: its place, and the sequences of its answers.
    fn begin<'b, R: Runner>(
        &'b self,
        line: &RequestLine,
        scheduler: &mut Scheduler<Work<'b>>,
        runner: &mut R,
        vocabulary: &mut Option<ConstraintVocabulary>,
    ) -> (Pending, Vec<Key>) {
        let (custom_id, asked) = line.read(&self.defaults, self.n_embd);
        let mut keys = Vec::new();
        let state = asked.and_then(|asked| {
            let submitted = match asked {
                Request::Answers(asked) => {
                    let form = asked.form;
                    let n_prompt = self.submit(*asked, scheduler, runner, vocabulary, &mut keys);
                    n_prompt.map(|n| (n, Made::Answers(form, keys.iter().map(|_| None).collect())))
                }
                Request::Embeddings(asked) => {
                    let n_prompt = self.submit_embeddings(&asked, scheduler, runner, &mut keys);
                    n_prompt.map(|n| (n, Made::Embeddings(asked, keys.iter().map(|_| None).collect())))
                }
            };
            let (n_prompt, made) = submitted.map_err(|mut error| {
                error.message = format!("line {}: {}", line.number, error.message);
                error
            })?;
            Ok(State::Open { n_prompt, n_cached: 0, made })
        });
        let state = state.unwrap_or_else(|error| {
            keys.drain(..).for_each(|key| drop(scheduler.cancel(runner, key)));
            State::Failed(error)
        });
        (Pending { id: line.id(), custom_id, state }, keys)
    }

    /// Submits the answers to all prompts, and returns the prompts' tokens.
    fn submit<'b, R: Runner>(
        &'b self,
        asked: Asked,
        scheduler: &mut Scheduler<Work<'b>>,
        runner: &mut R,
        vocabulary: &mut Option<ConstraintVocabulary>,
        keys: &mut Vec<Key>,
    ) -> Result<usize, LineError> {
        let mut n_prompt = 0;
        for prompt in &asked.prompts {
            let ids = self.ids(prompt, "prompt")?;
            let mut tasks = Vec::with_capacity(asked.n);
            for number in 0..asked.n {
                let mut options = asked.sampler.clone();
                options.seed = options.seed.map(|seed| seed.wrapping_add(number as u32));
                let request = AnswerRequest {
                    model: self.model,
                    prompt: &ids,
                    sampler: sampler(options, self.tokenizer, self.n_tokens)
                        .map_err(|error| LineError::new("invalid_request", error))?,
                    constraint: self.constraint(&asked.format, vocabulary)?,
                    trigger: None,
                    control: ControlText::Hide,
                    stop: &asked.stop,
                    limits: Limits { n_predict: asked.n_predict, ignore_eos: asked.ignore_eos, shift_keeping: None },
                    logprobs: asked.logprobs,
                };
                tasks.push(Work::answer(Answer::new(request, self.tokenizer, self.n_tokens, None)));
            }
            let submitted = scheduler.submit(runner, &ids, tasks);
            keys.extend(submitted.map_err(|error| LineError::new("prompt_too_long", error))?);
            n_prompt += ids.len();
        }
        Ok(n_prompt)
    }

    /// Submits the embeddings of all inputs, and returns the inputs' tokens.
    fn submit_embeddings<R: Runner>(
        &self,
        asked: &EmbeddingsAsked,
        scheduler: &mut Scheduler<Work>,
        runner: &mut R,
        keys: &mut Vec<Key>,
    ) -> Result<usize, LineError> {
        let mut n_prompt = 0;
        for input in &asked.inputs {
            let ids = self.ids(input, "input")?;
            let submitted = scheduler.submit(runner, &ids, [Work::embedding(self.pooling, ids.len())]);
            keys.extend(submitted.map_err(|error| LineError::new("prompt_too_long", error))?);
            n_prompt += ids.len();
        }
        Ok(n_prompt)
    }

    /// A prompt's tokens; `field` is where it came from.
    fn ids(&self, prompt: &Prompt, field: &str) -> Result<Vec<u32>, LineError> {
        let wrong = |error: &dyn std::error::Error| LineError::new("invalid_request", error);
        match prompt {
            Prompt::Ids(ids) => match ids.iter().find(|id| **id as usize >= self.n_tokens) {
                None => Ok(ids.clone()),
                Some(id) => {
                    let message = format!("{field}: found the token id {id}, expected one below {}", self.n_tokens);
                    Err(LineError { param: Some(field.to_owned()), ..LineError::new("invalid_request", message) })
                }
            },
            Prompt::Text(text) => {
                self.tokenizer.encode(text, Special::Parse, Ends::AsFileSays).map_err(|error| wrong(&error))
            }
            Prompt::Messages(messages, own) => {
                let template = self.template.as_ref().map_err(|error| wrong(error))?;
                let mut variables = self.variables.clone();
                variables.extend(own.clone());
                let options = RenderOptions { variables, ..RenderOptions::default() };
                let has_system = messages.iter().any(|message| ["system", "developer"].contains(&message.role()));
                let system = self.system.iter().filter(|_| !has_system).map(|text| Message::new("system", text));
                let messages: Vec<Message> = system.chain(messages.iter().cloned()).collect();
                let pieces = template.render(&messages, &options).map_err(|error| wrong(&error))?;
                self.tokenizer.encode_pieces(&pieces, Ends::AsFileSays).map_err(|error| wrong(&error))
            }
        }
    }

    fn constraint(
        &self,
        format: &Format,
        vocabulary: &mut Option<ConstraintVocabulary>,
    ) -> Result<Option<Constraint>, LineError> {
        if *format == Format::Free {
            return Ok(None);
        }
        let wrong = |error: &dyn std::error::Error| LineError::new("invalid_request", error);
        let vocabulary = match vocabulary {
            Some(vocabulary) => vocabulary,
            none => none.insert(constraint_vocabulary(self.tokenizer).map_err(|error| wrong(&error))?),
        };
        let constraint = match format {
            Format::Free => return Ok(None),
            Format::Schema(schema) => Constraint::from_json_schema("response_format", &schema.to_string(), vocabulary),
            Format::Grammar(grammar) => Constraint::from_grammar("grammar", grammar, vocabulary),
        };
        constraint.map(Some).map_err(|error| wrong(&error))
    }

    /// Takes what one of a request's sequences made; the last one makes its body. Returns what failed.
    fn take(&self, request: &mut Pending, slot: usize, n_reused: usize, end: WorkEnd) -> Option<String> {
        let State::Open { n_prompt, n_cached, made } = &mut request.state else {
            unreachable!("a sequence of an answered request")
        };
        *n_cached = (*n_cached + n_reused).min(*n_prompt);
        let mut usage = Usage { n_prompt: *n_prompt, n_cached: *n_cached, ..Usage::default() };
        let body = match (made, end) {
            (Made::Answers(form, answers), WorkEnd::Answer(end)) => {
                match end.generation {
                    Ok(generation) => answers[slot] = Some(generation),
                    Err(error) => return Some(error.to_string()),
                }
                let answers = complete(answers)?;
                usage.n_completion = answers.iter().map(|answer| answer.ids.len()).sum();
                let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
                let prefix = if *form == Form::Chat { "chatcmpl" } else { "cmpl" };
                let id = format!("{prefix}-{}", request.id);
                let of = (id.as_str(), created, self.model);
                let body = match form {
                    Form::Chat => chat_completion(of, &answers, usage, self.tokenizer),
                    Form::Text => text_completion(of, &answers, usage, self.tokenizer),
                };
                match body {
                    Ok(body) => body,
                    Err(error) => return Some(error.to_string()),
                }
            }
            (Made::Embeddings(asked, vectors), WorkEnd::Embedding(vector)) => {
                match vector {
                    Ok(vector) => vectors[slot] = Some(vector),
                    Err(error) => return Some(error.to_string()),
                }
                asked.answer(self.model, &complete(vectors)?, *n_prompt)
            }
            _ => unreachable!("a sequence makes what was asked for"),
        };
        request.state = State::Answered(body, usage);
        None
    }
}

#[cfg(test)]
mod tests;
