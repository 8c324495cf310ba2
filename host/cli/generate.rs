//! `ferrowarp generate`: continue a prompt.

use std::{collections::BTreeMap, io::Write, path::PathBuf, sync::atomic::Ordering, time::Duration};

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use super::{
    Outcome,
    generation::GenerationArguments,
    interrupt,
    model::EngineArguments,
    output::{Notes, note, out},
    prompt::PromptArguments,
    report::{Format, Machine, Report},
    speculation::{Guessing, SpeculationArguments},
    tokenizer::TokenizerArguments,
};
use crate::{
    engine::{Answer, AnswerEnd, AnswerRequest, Device, Scheduler},
    forward::{Engine, EngineOptions},
    generate::{Limits, Request, Stop, generate, sampler},
    gguf::Gguf,
    prompt_cache,
    sample::SamplerOptions,
    session::Session,
    speculate::Speculation,
    tokenizer::{ControlText, Tokenizer},
};

/// The arguments of `generate`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    ferrowarp generate -p 'Write a haiku about rain that includes the word \"tin\"' --temp 0\n  \
    ferrowarp generate -m model.gguf -f question.txt -n 200 --seed 7 --system 'Answer in one sentence.'\n  \
    ferrowarp generate -m model.gguf --messages saved.json -p 'And then?'\n  \
    ferrowarp generate -m model.gguf -f edit-this.txt --temp 0 --speculate ngram -v\n  \
    ferrowarp generate -m model.gguf -p 'Name three rivers.' --json-schema rivers.json --format json\n  \
    echo 'Once upon a time' | ferrowarp generate -m model.gguf --raw -n 50 -r 'The end'")]
pub struct Arguments {
    #[command(flatten)]
    engine: EngineArguments,
    /// text as it comes, or one JSON object: prompt_ids, ids, text, stop, device, seed, timings; an array of them with --n-samples.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Report the log probability of each token and of the K likeliest: in json, or on standard error.
    #[arg(long, value_name = "K")]
    logprobs: Option<usize>,
    /// Take the beginning that this file and the prompt share from the file, and save the whole text there afterwards.
    #[arg(long, value_name = "FILE")]
    prompt_cache: Option<PathBuf>,
    /// Draw this many answers, the second with the seed after the first's, and so on; the prompt is computed once where there is room for
    /// all of them.
    #[arg(
        long,
        value_name = "K",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1024),
        conflicts_with_all = ["prompt_cache", "context_shift"]
    )]
    n_samples: u32,
    #[command(flatten)]
    prompt: PromptArguments,
    #[command(flatten)]
    tokenizer: TokenizerArguments,
    #[command(flatten)]
    generation: GenerationArguments,
    #[command(flatten)]
    speculation: SpeculationArguments,
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> Result<Outcome> {
        interrupt::install()?;
        self.generation.limits(0)?; // What is wrong with these needs no model to be said.
        let gguf = self.engine.model.open_to_run()?;
        let (device, tokenizer, vocab_time) = self.engine.open_with(&gguf, &self.tokenizer)?;
        let prompt = self.prompt.ids(&gguf, &tokenizer)?;
        let limits = self.generation.limits(prompt.len())?;
        let mut sampler = self.generation.sampler(&gguf, &tokenizer)?;
        let mut constraint = self.generation.constraint(&tokenizer)?;

        // Each answer is what its seed gives alone.
        let n_sequences = self.n_samples as usize;
        let guessing = self.speculation.load(&self.engine, &gguf, n_sequences)?;
        let set = |options| guessing.options(EngineOptions { n_sequences, batch_invariant: true, ..options });
        let (engine, load_time) = self.engine.load_with(device, &gguf, set)?;
        let machine = Machine::of(engine.gpu())?;
        if self.n_samples > 1 {
            let context = Context { gguf: &gguf, tokenizer: &tokenizer, prompt: &prompt, limits };
            return self.samples(&context, (engine, guessing), sampler.seed(), (machine, vocab_time, load_time));
        }
        let mut speculation = guessing.drafting(&engine).map(Speculation::new);
        let mut session = Session::new(engine);
        if let Some(path) = &self.prompt_cache {
            prompt_cache::load(path, &gguf, &mut session, &prompt)?;
        }

        let listener = interrupt::Listener::new();
        let mut failed = None;
        let mut stdout = out();
        let stream = self.format == Format::Text;
        let request = Request {
            model: gguf.name(),
            prompt: &prompt,
            sampler: &mut sampler,
            constraint: constraint.as_mut(),
            stop: &self.generation.reverse_prompt,
            limits,
            logprobs: self.logprobs,
            interrupt: Some(listener.flag()),
            speculation: speculation.as_mut(),
        };
        let generation = generate(&mut session, &tokenizer, request, &mut |text| {
            if stream {
                failed = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).err();
            }
            failed.is_none()
        })?;
        drop(listener);
        if let Some(error) = failed {
            return Err(error.into());
        }

        let report = Report {
            generation: &generation,
            tokenizer: &tokenizer,
            prompt: &prompt,
            machine,
            seed: sampler.seed(),
            vocab_time,
            load_time,
        };
        if stream {
            writeln!(stdout)?;
            report.write_logprobs(&mut Notes)?;
        } else {
            writeln!(stdout, "{}", report.json()?)?;
        }
        if generation.stop == Stop::ContextFull {
            note(&format!(
                "stopped: the context of {} positions is full; raise it with -c, or go on with --context-shift",
                session.n_context()
            ));
        }
        if let Some(constraint) = &mut constraint
            && generation.stop != Stop::Eos
            && !constraint.can_end()?
        {
            note("stopped: before the text was complete by the schema or grammar; allow more tokens with -n or -c");
        }
        if self.generation.verbose {
            report.write_timings(&mut Notes)?;
            write!(Notes, "device memory\n{}", session.engine().plan())?;
        }
        if let Some(path) = &self.prompt_cache {
            prompt_cache::save(path, &gguf, &mut session)?;
        }
        Ok(match generation.stop {
            Stop::Interrupted => Outcome::Interrupted,
            _ => Outcome::Done,
        })
    }

    /// Several answers to the prompt.
    fn samples(
        &self,
        context: &Context,
        (engine, guessing): (Engine, Guessing),
        first_seed: u32,
        (machine, vocab_time, load_time): (Machine, Duration, Duration),
    ) -> Result<Outcome> {
        let Context { gguf, tokenizer, prompt, limits } = *context;
        let n_tokens = tokenizer.vocab_size().min(engine.config().vocab_size);
        let mut answers = Vec::new();
        for number in 0..self.n_samples {
            let seed = Some(first_seed.wrapping_add(number));
            let options = SamplerOptions { seed, ..self.generation.sampler_options(gguf)? };
            let request = AnswerRequest {
                model: gguf.name(),
                prompt,
                sampler: sampler(options, tokenizer, n_tokens)?,
                constraint: self.generation.constraint(tokenizer)?,
                trigger: None,
                control: ControlText::Hide,
                stop: &self.generation.reverse_prompt,
                limits,
                logprobs: self.logprobs,
            };
            answers.push(Answer::new(request, tokenizer, n_tokens, None));
        }
        let drafting = guessing.drafting(&engine);
        let mut runner = Device::drafting(engine, drafting);
        let mut scheduler = Scheduler::new(&runner, n_tokens);
        let keys = scheduler.submit(&runner, prompt, answers)?;
        let listener = interrupt::Listener::new();
        let mut ends = BTreeMap::new();
        while !scheduler.is_idle() && !listener.flag().load(Ordering::Relaxed) {
            ends.extend(scheduler.step(&mut runner)?.into_iter().map(|finished| (finished.key, Answer::end(finished))));
        }
        let is_interrupted = ends.len() < keys.len();
        for key in keys {
            if let Some(answer) = scheduler.cancel(&mut runner, key) {
                ends.insert(key, answer.interrupted());
            }
        }
        drop(listener);
        let mut stdout = out();
        let mut objects = Vec::new();
        for (index, AnswerEnd { generation, seed, is_complete }) in ends.into_values().enumerate() {
            let generation = generation?;
            let machine = machine.clone();
            let report = Report { generation: &generation, tokenizer, prompt, machine, seed, vocab_time, load_time };
            if self.format == Format::Text {
                writeln!(stdout, "{}{}", if index > 0 { "\n" } else { "" }, generation.text)?;
                stdout.flush()?;
                report.write_logprobs(&mut Notes)?;
            } else {
                objects.push(report.json()?);
            }
            if !is_complete {
                note(&format!("answer {}: stopped before the text was complete by the schema or grammar", index + 1));
            }
            if self.generation.verbose {
                report.write_timings(&mut Notes)?;
            }
        }
        if self.format == Format::Json {
            writeln!(stdout, "{}", Value::Array(objects))?;
        }
        Ok(if is_interrupted { Outcome::Interrupted } else { Outcome::Done })
    }
}

/// What all answers have in common.
struct Context<'a> {
    gguf: &'a Gguf,
    tokenizer: &'a Tokenizer,
    prompt: &'a [u32],
    limits: Limits,
}
