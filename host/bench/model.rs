//! A model's tests, as llama-bench has them: `pp` takes a prompt in, `tg` generates one token after another, each after
//! `depth` tokens that are in the cache already.
//!
//! A generated token is one that a person would get: [`Engine::decode`], the choice of the likeliest token on the device, and
//! its id back on the host before the next is asked for. A prompt counts until its last token's logits are there.

use std::{fmt, time::Instant};

use super::{
    counters::{Counts, recorded},
    floor::{cache_bytes, operations, weight_bytes},
    sample::Sample,
};
use crate::{
    forward::{Engine, EngineError, Logits, Then},
    gguf::Gguf,
    trace::Recorder,
};

/// What is done to a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Takes in a prompt of so many tokens.
    Prompt(usize),
    /// Generates so many tokens.
    Generate(usize),
}

impl Work {
    /// The number of tokens.
    pub fn tokens(self) -> usize {
        match self {
            Work::Prompt(n) | Work::Generate(n) => n,
        }
    }
}

/// One test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    /// What is measured.
    pub work: Work,
    /// How many tokens there are before.
    pub depth: usize,
}

/// As llama-bench writes it.
impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.work {
            Work::Prompt(n) => write!(f, "pp{n}")?,
            Work::Generate(n) => write!(f, "tg{n}")?,
        }
        match self.depth {
            0 => Ok(()),
            depth => write!(f, " @ d{depth}"),
        }
    }
}

/// The tests of these lengths at these depths; a length of 0 is none.
pub fn tests(prompts: &[usize], generations: &[usize], depths: &[usize]) -> Vec<Test> {
    let works = prompts.iter().map(|n| Work::Prompt(*n)).chain(generations.iter().map(|n| Work::Generate(*n)));
    let works: Vec<Work> = works.filter(|work| work.tokens() > 0).collect();
    depths.iter().flat_map(|&depth| works.iter().map(move |&work| Test { work, depth })).collect()
}

/// Positions that a model needs for its tests.
pub fn positions(tests: &[Test]) -> usize {
    tests.iter().map(|test| test.depth + test.work.tokens()).max().unwrap_or(1)
}

/// What a test came to.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The test.
    pub test: Test,
    /// Tokens per second of each repetition; none on softcuda, where they would say nothing.
    pub rates: Sample,
    /// Kernels launched for each token, those of cuBLAS not counted.
    pub launches_per_token: f64,
    /// Bytes that a token cannot avoid reading, on average: weights and cache. Of a prompt, whose tokens share the weights'
    /// reading, this is not what limits it.
    pub floor_bytes: u64,
    /// Floating-point operations of all tokens.
    pub operations: f64,
    /// On softcuda, what was counted for each token.
    pub counts: Option<Counts>,
}

/// Runs a test `repetitions` times after a run that does not count; on softcuda once, counting.
///
/// # Errors
/// The device failed, or the engine has too few positions.
pub fn measure(engine: &mut Engine, gguf: &Gguf, test: Test, repetitions: usize) -> Result<Measured, EngineError> {
    engine.reset();
    let before = prompt(engine.config().vocab_size, test.depth);
    take_in(engine, &before)?;
    engine.gpu().synchronise()?;
    measure_from(engine, gguf, test, repetitions)
}

/// [`measure`] with an engine that has the test's depth of tokens in its cache already.
///
/// # Errors
/// As there.
pub fn measure_from(engine: &mut Engine, gguf: &Gguf, test: Test, repetitions: usize) -> Result<Measured, EngineError> {
    assert_eq!(engine.n_past(), test.depth, "tokens in the cache");
    let n = test.work.tokens();
    let mut rates = Sample::default();
    let mut launches = 0;
    let counts = if driver::soft::device().is_some() {
        let streamed = engine.streamed();
        let (result, records) = recorded(|| run(engine, test));
        result?;
        let records = records.unwrap_or_default();
        launches = records.len() as u64;
        Some(Counts::of(&records, &streamed).per(n as u64))
    } else {
        run(engine, test)?;
        for _ in 0..repetitions {
            rewind(engine, test)?;
            let calls = driver::calls::counts();
            let start = Instant::now();
            run(engine, test)?;
            rates.0.push(n as f64 / start.elapsed().as_secs_f64());
            launches = driver::calls::counts().since(&calls).launches();
        }
        if let Work::Generate(n) = test.work {
            // A graph's kernels are no calls of their own.
            rewind(engine, test)?;
            launches = (engine.launches_per_token()? * n) as u64;
        }
        None
    };

    let (figure, cache_type) = (engine.figure(), engine.cache_type());
    let cache: u64 = (1..=n).map(|index| cache_bytes(figure, cache_type, test.depth + index)).sum();
    Ok(Measured {
        test,
        rates,
        launches_per_token: launches as f64 / n as f64,
        floor_bytes: weight_bytes(gguf, figure) + cache / n as u64,
        operations: operations(figure, test.depth, n),
        counts,
    })
}

/// Takes the sequence back to the test's depth; a recurrent model cannot, and takes the tokens in again.
fn rewind(engine: &mut Engine, test: Test) -> Result<(), EngineError> {
    if engine.truncate(test.depth) < test.depth {
        let before = prompt(engine.config().vocab_size, test.depth);
        take_in(engine, &before)?;
        engine.gpu().synchronise()?;
    }
    Ok(())
}

/// The test's work, from the cache as it is at the test's depth to the last result on the host.
fn run(engine: &mut Engine, test: Test) -> Result<(), EngineError> {
    rewind(engine, test)?;
    let n_vocab = engine.config().vocab_size;
    match test.work {
        Work::Prompt(n) => {
            take_in(engine, &prompt(n_vocab, n))?;
            engine.gpu().synchronise()?;
        }
        Work::Generate(n) => {
            let mut token = 0;
            for left in (0..n).rev() {
                engine.decode(token)?;
                token = engine.greedy(n_vocab, Then::unless_last(left))?;
            }
        }
    }
    Ok(())
}

/// Takes tokens in, as many together as the engine takes, and leaves the last one's logits on the device.
fn take_in(engine: &mut Engine, tokens: &[u32]) -> Result<(), EngineError> {
    let mut rest = tokens;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(rest.len().min(engine.n_batch()));
        let logits = if after.is_empty() { Logits::Last } else { Logits::None };
        engine.forward(chunk, logits, &mut Recorder::off())?;
        rest = after;
    }
    Ok(())
}

/// Tokens all over the vocabulary.
pub(super) fn prompt(n_vocab: usize, n: usize) -> Vec<u32> {
    // A step that has no divisor in common with most sizes.
    (0..n).map(|index| ((index + 1) * 7919 % n_vocab) as u32).collect()
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn tests_are_every_length_at_every_depth() {
        let names: Vec<String> = tests(&[512, 0], &[128], &[0, 4096]).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["pp512", "tg128", "pp512 @ d4096", "tg128 @ d4096"]);
        assert_eq!(positions(&tests(&[512], &[128], &[0, 4096])), 4608);
    }
}
