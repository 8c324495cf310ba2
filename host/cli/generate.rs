//! `ferrowarp generate`: continue a prompt.

use std::{io::Write, path::PathBuf};

use anyhow::Result;
use clap::Args;

use super::{
    Outcome,
    generation::GenerationArguments,
    interrupt,
    model::EngineArguments,
    output::{Notes, note, out},
    prompt::PromptArguments,
    report::{Format, Report},
    tokenizer::TokenizerArguments,
};
use crate::{
    generate::{Request, Stop, generate},
    prompt_cache,
    session::Session,
};

/// The arguments of `generate`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    ferrowarp generate -p 'Write a haiku about rain that includes the word \"tin\"' --temp 0\n  \
    ferrowarp generate -m model.gguf -f question.txt -n 200 --seed 7 --system 'Answer in one sentence.'\n  \
    ferrowarp generate -m model.gguf --messages saved.json -p 'And then?'\n  \
    ferrowarp generate -m model.gguf -p 'Name three rivers.' --json-schema rivers.json --format json\n  \
    echo 'Once upon a time' | ferrowarp generate -m model.gguf --raw -n 50 -r 'The end'")]
pub struct Arguments {
    #[command(flatten)]
    engine: EngineArguments,
    /// text as it comes, or one JSON object: prompt_ids, ids, text, stop, device, seed, timings.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Report the log probability of each token and of the K likeliest: in json, or on standard error.
    #[arg(long, value_name = "K")]
    logprobs: Option<usize>,
    /// Take the beginning that this file and the prompt share from the file, and save the whole text there afterwards.
    #[arg(long, value_name = "FILE")]
    prompt_cache: Option<PathBuf>,
    #[command(flatten)]
    prompt: PromptArguments,
    #[command(flatten)]
    tokenizer: TokenizerArguments,
    #[command(flatten)]
    generation: GenerationArguments,
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

        let (engine, load_time) = self.engine.load(device, &gguf)?;
        let device = engine.gpu().name()?;
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
            device,
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
}
