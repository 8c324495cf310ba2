//! What a generation comes to, as `--format json` prints it and as `-v` shows it.

use std::{io::Write, time::Duration};

use anyhow::Result;
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::{
    generate::{Generation, Stop, TokenLogprobs},
    gpu::Gpu,
    sample::Logprob,
    speculate::Counts,
    tokenizer::Tokenizer,
};

/// How a command prints its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text.
    Text,
    /// One object.
    Json,
}

/// What computes.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The device's name.
    pub device: String,
    /// What multiplies a prompt's tokens.
    pub matmul: String,
}

impl Machine {
    /// A device's.
    ///
    /// # Errors
    /// It does not say its name, or its cuBLAS does not run.
    pub fn of(gpu: &Gpu) -> Result<Machine> {
        Ok(Machine { device: gpu.name()?, matmul: gpu.multiplies_with()? })
    }
}

/// A generation and what was around it.
pub struct Report<'a> {
    pub generation: &'a Generation,
    pub tokenizer: &'a Tokenizer,
    pub prompt: &'a [u32],
    pub machine: Machine,
    pub seed: u32,
    pub vocab_time: Duration,
    pub load_time: Duration,
}

impl Report<'_> {
    /// The first token comes from the prompt's pass: the others are what evaluation took its time for.
    fn eval_n(&self) -> usize {
        self.generation.ids.len().saturating_sub(1)
    }

    /// The object that `--format json` prints.
    ///
    /// # Errors
    /// A token is not the tokenizer's.
    pub fn json(&self) -> Result<Value> {
        let generation = self.generation;
        let mut object = json!({
            "prompt_ids": self.prompt,
            "ids": generation.ids,
            "text": generation.text,
            "stop": match &generation.stop {
                Stop::Eos => "eos",
                Stop::StopString(_) => "stop",
                Stop::Length | Stop::ContextFull => "length",
                Stop::Interrupted => "interrupted",
            },
            "device": self.machine.device,
            "seed": self.seed,
            "timings": {
                "vocab_s": self.vocab_time.as_secs_f64(),
                "load_s": self.load_time.as_secs_f64(),
                "prompt_n": self.prompt.len(),
                "prompt_reused_n": generation.n_reused,
                "prompt_s": generation.prompt_time.as_secs_f64(),
                "eval_n": self.eval_n(),
                "eval_s": generation.eval_time.as_secs_f64(),
            },
        });
        if let Some(drafts) = generation.drafts {
            let timings = &mut object["timings"];
            timings["steps_n"] = json!(drafts.n_steps);
            timings["drafted_n"] = json!(drafts.n_drafted);
            timings["kept_n"] = json!(drafts.n_kept);
        }
        if let Stop::StopString(stop) = &generation.stop {
            object["stop_string"] = json!(stop);
        }
        if !generation.logprobs.is_empty() {
            let tokens: Result<Vec<Value>> = generation.logprobs.iter().map(|t| self.token(t)).collect();
            object["logprobs"] = Value::Array(tokens?);
        }
        Ok(object)
    }

    fn token(&self, token: &TokenLogprobs) -> Result<Value> {
        let one = |logprob: &Logprob| -> Result<Value> {
            let bytes = self.tokenizer.token_bytes(logprob.id)?;
            Ok(json!({
                "id": logprob.id,
                // Of a token that is a part of a character, the bytes alone say which part.
                "text": String::from_utf8_lossy(bytes),
                "bytes": bytes,
                "logprob": logprob.logprob,
            }))
        };
        let mut object = one(&token.chosen)?;
        let top: Result<Vec<Value>> = token.top.iter().map(one).collect();
        object["top"] = Value::Array(top?);
        Ok(object)
    }

    /// The log probabilities as lines: the chosen token, then the likeliest.
    ///
    /// # Errors
    /// A token is not the tokenizer's, or writing failed.
    pub fn write_logprobs(&self, out: &mut dyn Write) -> Result<()> {
        for token in &self.generation.logprobs {
            let mut line = Vec::new();
            for Logprob { id, logprob } in std::iter::once(&token.chosen).chain(&token.top) {
                line.push(format!("{} ({id}) {logprob:.4}", quoted(self.tokenizer.token_bytes(*id)?)));
            }
            writeln!(out, "{}", line.join("  "))?;
        }
        Ok(())
    }

    /// The device, the seed, times and rates.
    ///
    /// # Errors
    /// Writing failed.
    pub fn write_timings(&self, out: &mut dyn Write) -> Result<()> {
        let generation = self.generation;
        let computed = self.prompt.len() - generation.n_reused.min(self.prompt.len());
        writeln!(out, "device  {}", self.machine.device)?;
        writeln!(out, "matmul  {}", self.machine.matmul)?;
        writeln!(out, "seed    {}", self.seed)?;
        for (name, time) in [("vocab", self.vocab_time), ("load", self.load_time)] {
            writeln!(out, "{name:<6}  {:8.3} s", time.as_secs_f64())?;
        }
        for (name, time, n) in
            [("prompt", generation.prompt_time, computed), ("eval", generation.eval_time, self.eval_n())]
        {
            let seconds = time.as_secs_f64();
            let rate = if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
            writeln!(out, "{name:<6}  {seconds:8.3} s  {n:6} tokens  {rate:10.1} tokens/s")?;
        }
        if generation.n_reused > 0 {
            writeln!(out, "reused  {} of the prompt's {} tokens", generation.n_reused, self.prompt.len())?;
        }
        if let Some(Counts { n_steps, n_drafted, n_kept }) = generation.drafts {
            let eval_n = self.eval_n();
            writeln!(out, "drafts  {n_drafted} drafted, {n_kept} kept: {eval_n} tokens in {n_steps} steps")?;
        }
        if generation.n_shifts > 0 {
            writeln!(out, "shifts  {}", generation.n_shifts)?;
        }
        Ok(())
    }
}

/// A token's bytes as Rust would write them: `"text"`, or `b"\xf0\x9f"` where they are a part of a character.
pub fn quoted(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("b\"{}\"", bytes.escape_ascii()),
    }
}
