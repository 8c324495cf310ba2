//! What was said so far, and the model that answers.

use std::{io::Write, path::Path, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    atomic_file,
    chat::Message,
    cli::{
        chat_template::{Conversation as Template, TemplateArguments},
        generation::GenerationArguments,
        interrupt,
        model::EngineArguments,
        output::{Notes, note, out},
        report::{Machine, Report},
        speculation::SpeculationArguments,
        tokenizer::TokenizerArguments,
    },
    generate::{Generation, Request, Stop, generate},
    gguf::Gguf,
    sample::{Constraint, Sampler},
    session::Session,
    speculate::Speculation,
    tokenizer::{Ends, Tokenizer},
};

/// A conversation with a model.
pub struct Conversation {
    /// The file, for messages.
    model: String,
    session: Session,
    tokenizer: Tokenizer,
    template: Template,
    sampler: Sampler,
    constraint: Option<Constraint>,
    arguments: GenerationArguments,
    speculation: Option<Speculation>,
    /// User and assistant in turn.
    messages: Vec<Message>,
    vocab_time: Duration,
    load_time: Duration,
}

impl Conversation {
    /// Loads the model.
    ///
    /// # Errors
    /// The model, or one of the arguments, cannot be used.
    pub fn new(
        gguf: &Gguf,
        engine: &EngineArguments,
        tokenizer: &TokenizerArguments,
        template: &TemplateArguments,
        arguments: GenerationArguments,
        speculation: &SpeculationArguments,
    ) -> Result<Conversation> {
        let (device, tokenizer, vocab_time) = engine.open_with(gguf, tokenizer)?;
        let template = template.load(gguf, &tokenizer)?;
        let sampler = arguments.sampler(gguf, &tokenizer)?;
        let constraint = arguments.constraint(&tokenizer)?;
        let guessing = speculation.load(engine, gguf, 1)?;
        let (engine, load_time) = engine.load_with(device, gguf, |options| guessing.options(options))?;
        let speculation = guessing.drafting(&engine).map(Speculation::new);
        Ok(Conversation {
            model: gguf.name().to_owned(),
            session: Session::new(engine),
            tokenizer,
            template,
            sampler,
            constraint,
            arguments,
            speculation,
            messages: Vec::new(),
            vocab_time,
            load_time,
        })
    }

    /// Forgets what was said.
    pub fn reset(&mut self) {
        self.messages.clear();
    }

    /// Starts anew with these words to the model; with none, if empty.
    pub fn set_system(&mut self, text: &str) {
        self.reset();
        self.template.system = (!text.is_empty()).then(|| text.to_owned());
    }

    /// Writes what was said as a JSON array of messages.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let messages: Vec<Value> = self
            .template
            .with_system(&self.messages)
            .iter()
            .map(|message| json!({ "role": message.role(), "content": message.content() }))
            .collect();
        let text = serde_json::to_string_pretty(&messages)? + "\n";
        atomic_file::replace(path, text.as_bytes())
            .with_context(|| format!("{}: cannot write the conversation", path.display()))?;
        note(&format!("{} messages in {}", messages.len(), path.display()));
        Ok(())
    }

    /// Says something to the model and prints its answer as it comes. When it fails, nothing was said.
    ///
    /// # Errors
    /// The conversation does not fit the context or the template, or the device failed.
    pub fn say(&mut self, text: &str) -> Result<()> {
        let said = self.messages.len();
        self.messages.push(Message::new("user", text));
        match self.answer() {
            Ok(answer) => {
                self.messages.push(Message::new("assistant", &answer));
                Ok(())
            }
            Err(error) => {
                self.messages.truncate(said);
                Err(error)
            }
        }
    }

    fn answer(&mut self) -> Result<String> {
        let prompt = self.prompt()?;
        let limits = self.arguments.limits(prompt.len())?;
        if let Some(constraint) = &mut self.constraint {
            constraint.reset();
        }
        let listener = interrupt::Listener::new();
        let mut failed = None;
        let mut stdout = out();
        let request = Request {
            model: &self.model,
            prompt: &prompt,
            sampler: &mut self.sampler,
            constraint: self.constraint.as_mut(),
            stop: &self.arguments.reverse_prompt,
            limits,
            logprobs: None,
            interrupt: Some(listener.flag()),
            speculation: self.speculation.as_mut(),
        };
        let generation = generate(&mut self.session, &self.tokenizer, request, &mut |text| {
            failed = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).err();
            failed.is_none()
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        writeln!(stdout)?;
        self.remark(&generation, &prompt)?;
        Ok(generation.text)
    }

    /// The ids of the conversation. With --context-shift, the oldest turns are left out where it does not fit.
    fn prompt(&mut self) -> Result<Vec<u32>> {
        let mut dropped = 0;
        loop {
            let pieces = self.template.render(&self.messages)?;
            let prompt = self.tokenizer.encode_pieces(&pieces, Ends::AsFileSays)?;
            let shifts = self.arguments.limits(0)?.shift_keeping.is_some();
            let fits = prompt.len() < self.session.n_context();
            if fits || !shifts || self.messages.len() < 3 {
                if dropped > 0 {
                    note(&format!("the context is full: the {dropped} oldest messages are left out from now on"));
                }
                return Ok(prompt);
            }
            self.messages.drain(..2);
            dropped += 2;
        }
    }

    /// What there is to say about an answer, on standard error.
    fn remark(&mut self, generation: &Generation, prompt: &[u32]) -> Result<()> {
        match generation.stop {
            Stop::ContextFull => note(&format!(
                "stopped: the context of {} positions is full; /reset starts anew, -c or --context-shift make room",
                self.session.n_context()
            )),
            Stop::Interrupted => note("stopped"),
            Stop::Eos | Stop::StopString(_) | Stop::Length => {}
        }
        if self.arguments.verbose {
            let report = Report {
                generation,
                tokenizer: &self.tokenizer,
                prompt,
                machine: Machine::of(self.session.engine().gpu())?,
                seed: self.sampler.seed(),
                vocab_time: self.vocab_time,
                load_time: self.load_time,
            };
            report.write_timings(&mut Notes)?;
        }
        Ok(())
    }
}
