//! `ferrowarp batch`: a file of prompts, a file of answers.

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    Outcome,
    chat_template::TemplateArguments,
    interrupt,
    many::ManyArguments,
    model::EngineArguments,
    output::{note, shows_progress},
    pooling::PoolingArgument,
    sampling::SamplerArguments,
    speculation::SpeculationArguments,
    tokenizer::TokenizerArguments,
};
use crate::{
    api::Defaults,
    batch::{AnswersFile, Batch, Progress, Requests, Shard},
    engine::Device,
};

/// The arguments of `batch`.
#[derive(Args)]
#[command(after_help = "A line of the prompts is one of\n  \
    {\"custom_id\": \"1\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \"body\": {\"messages\": [...]}}\n  \
    {\"prompt\": \"Once upon a time\", \"max_tokens\": 50}\n  \
    What is the capital of France?\n\
    and url may be /v1/completions or /v1/embeddings as well. Answers are in OpenAI's batch format, a line for each prompt, in the same order; a line that cannot be answered gets an error.\n\
    What is in the answers' file already is not answered again: an interrupted run goes on where it was.\n\n\
    Examples:\n  \
    ferrowarp batch -m model.gguf -i prompts.jsonl -o answers.jsonl\n  \
    ferrowarp batch -m model.gguf -i prompts.jsonl -o answers.3.jsonl --shard 3/8   # cat answers.?.jsonl is the whole")]
pub struct Arguments {
    #[command(flatten)]
    engine: EngineArguments,
    /// The prompts, a line each.
    #[arg(short, long, value_name = "FILE")]
    input: PathBuf,
    /// The answers, a line each; added to where the file is there.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Answer a part of the prompts only: 3/8 is the third of eight parts.
    #[arg(long, value_name = "K/N")]
    shard: Option<Shard>,
    /// Show the device, the host's time in a step and the longest time between two tokens of an answer on standard error.
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    many: ManyArguments,
    #[command(flatten)]
    speculation: SpeculationArguments,
    #[command(flatten)]
    pooling: PoolingArgument,
    #[command(flatten)]
    template: TemplateArguments,
    #[command(flatten)]
    tokenizer: TokenizerArguments,
    #[command(flatten)]
    sampler: SamplerArguments,
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> Result<Outcome> {
        interrupt::install()?;
        let n_predict = self.many.n_predict()?;
        let (input, output) = (&self.input, &self.output);
        if let (Ok(from), Ok(to)) = (input.canonicalize(), output.canonicalize())
            && from == to
        {
            bail!(
                "{}: found the same file for prompts and answers, expected two; choose another with -o",
                output.display()
            );
        }
        let requests = || format!("{}: cannot read prompts", input.display());
        let mut requests = Requests::open(input, self.shard).with_context(requests)?;
        let n_all = requests.n_left();
        let mut answers = AnswersFile::open(output, &mut requests, input)?;
        let n_found = answers.n_found();
        if n_found > 0 {
            note(&format!("{}: {n_found} of {n_all} answers are there", output.display()));
        }
        if requests.n_left() == 0 {
            return Ok(Outcome::Done);
        }

        let gguf = self.engine.model.open_to_run()?;
        let (device, tokenizer, _) = self.engine.open_with(&gguf, &self.tokenizer)?;
        let sampler = self.sampler.options(&gguf)?;
        let (template, variables) = self.template.parts(&gguf, &tokenizer)?;
        let guessing = self.speculation.load(&self.engine, &gguf, self.many.n_sequences())?;
        let set = |options| guessing.options(self.many.options(options));
        let (engine, _) = self.engine.load_with(device, &gguf, set)?;
        if self.verbose {
            note(&format!("device {}", engine.gpu().name()?));
        }
        let n_tokens = tokenizer.vocab_size().min(engine.config().vocab_size);
        let batch = Batch {
            model: gguf.name(),
            tokenizer: &tokenizer,
            template,
            variables,
            system: self.template.system.clone(),
            defaults: Defaults { sampler, n_predict },
            n_tokens,
            n_embd: engine.config().n_embd,
            pooling: self.pooling.of(engine.config()),
        };

        let bar = if shows_progress() { ProgressBar::new(n_all as u64) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} answers, {msg}, {eta} left");
        bar.set_style(style.context("the progress bar's template")?);
        bar.set_position(n_found as u64);
        bar.reset_eta();
        let start = Instant::now();
        let rate = |progress: &Progress| progress.n_completion as f64 / start.elapsed().as_secs_f64().max(1e-9);
        let listener = interrupt::Listener::new();
        let drafting = guessing.drafting(&engine);
        let mut runner = Device::drafting(engine, drafting);
        let progress = batch.run(&mut requests, &mut answers, &mut runner, listener.flag(), &mut |progress| {
            bar.set_position((n_found + progress.n_written) as u64);
            bar.set_message(format!("{:.1} tokens/s", rate(progress)));
        });
        bar.finish_and_clear();
        let progress = progress?;
        answers.finish()?;
        note(&format!(
            "{} answers, {} of them errors; {} tokens read and {} written, {:.1} a second",
            progress.n_written,
            progress.n_errors,
            progress.n_prompt,
            progress.n_completion,
            rate(&progress)
        ));
        if self.verbose {
            note(&progress.scheduler.to_string());
        }
        Ok(if progress.interrupted { Outcome::Interrupted } else { Outcome::Done })
    }
}
