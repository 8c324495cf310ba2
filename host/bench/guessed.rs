//! Generating with guesses of which a planted share is right, beside generating without: what checking several tokens in a step is worth on
//! this device, whatever guesses them.

use std::time::Instant;

use super::{model::prompt, sample::Sample};
use crate::{
    cache::SequenceId,
    forward::{Engine, EngineError, FIRST, Logits, Then},
    speculate::{Counts, Drafter, Drafting, Speculation, Wanted},
    synth::random::Random,
    trace::Recorder,
};

/// What it came to.
#[derive(Clone, Debug)]
pub struct Guessed {
    /// Tokens per second without guesses; none on softcuda.
    pub alone: Sample,
    /// And with them.
    pub rates: Sample,
    /// The steps of a run, its guesses and those that were right.
    pub counts: Counts,
}

/// Knows what will be generated, and says it so often.
struct Planted {
    /// Behind the text's first token.
    tokens: Vec<u32>,
    percent: u64,
    n_vocab: u32,
    random: Random,
}

impl Drafter for Planted {
    fn draft(&mut self, wanted: &[Wanted]) -> Result<Vec<Vec<u32>>, EngineError> {
        let mut of = |wanted: &Wanted| {
            let first = wanted.text.len() - 1;
            let last = (first + wanted.n).min(self.tokens.len());
            (first..last)
                .map(|index| {
                    let token = self.tokens[index];
                    if self.random.next() % 100 < self.percent { token } else { (token + 1) % self.n_vocab }
                })
                .collect()
        };
        Ok(wanted.iter().map(&mut of).collect())
    }

    fn forget(&mut self, _: SequenceId) {}
}

/// Generates `n` tokens behind a prompt of `n_prompt` without guesses and with them, `n_most` at most at a time, of which `percent` of a
/// hundred are right, `repetitions` times each after a run that does not count; on softcuda once.
///
/// # Errors
/// The device failed, or the engine has too few positions.
///
/// # Panics
/// Where the engine has no rows for as many guesses.
pub fn measure_guessed(
    engine: &mut Engine,
    [n_prompt, n]: [usize; 2],
    percent: u8,
    n_most: usize,
    repetitions: usize,
) -> Result<Guessed, EngineError> {
    engine.reset();
    let n_vocab = engine.config().vocab_size;
    let before = prompt(n_vocab, n_prompt.max(1));
    let (last, before) = before.split_last().expect("a token at least");
    for chunk in before.chunks(engine.n_batch()) {
        engine.forward(chunk, Logits::None, &mut Recorder::off())?;
    }
    let n_before = engine.n_past();
    let is_soft = driver::soft::device().is_some();
    let (mut alone, mut rates) = (Sample::default(), Sample::default());

    // What is generated, as it will be with guesses.
    let mut tokens = Vec::new();
    for run in 0..if is_soft { 1 } else { 1 + repetitions } {
        engine.truncate(n_before);
        tokens = vec![*last];
        let start = Instant::now();
        for left in (0..n).rev() {
            engine.decode(tokens[tokens.len() - 1])?;
            // A model of random weights may choose nothing.
            tokens.push(engine.greedy(n_vocab, Then::unless_last(left))?.min(n_vocab as u32 - 1));
        }
        if run > 0 {
            alone.0.push(n as f64 / start.elapsed().as_secs_f64());
        }
    }

    let mut counts = Counts::default();
    for run in 0..if is_soft { 1 } else { 1 + repetitions } {
        engine.truncate(n_before);
        let planted = Planted {
            tokens: tokens[1..].to_vec(),
            percent: percent.into(),
            n_vocab: n_vocab as u32,
            random: Random::new(0, 0),
        };
        let mut speculation = Speculation::new(Drafting::new(Box::new(planted), engine, n_most));
        let mut text = vec![*last];
        let start = Instant::now();
        while text.len() <= n {
            let guesses = speculation.draft(&text, n - text.len())?;
            let rows: Vec<_> = [text[text.len() - 1]].iter().chain(&guesses).map(|token| (FIRST, *token)).collect();
            let mut best = vec![0; rows.len()];
            engine.decode_rows(&rows)?;
            engine.greedy_rows(n_vocab, &mut best, Then::Anything)?;
            best.iter_mut().for_each(|token| *token = (*token).min(n_vocab as u32 - 1));
            let n_kept = guesses.iter().zip(&best).take_while(|(guess, best)| guess == best).count();
            engine.take_back(FIRST, guesses.len() - n_kept);
            text.extend_from_slice(&best[..=n_kept]);
            speculation.judge(guesses.len(), n_kept, n_kept < guesses.len());
        }
        let n_made = text.len() - 1;
        if run > 0 {
            rates.0.push(n_made as f64 / start.elapsed().as_secs_f64());
        }
        assert_eq!(text[..=n], tokens, "guesses changed the text");
        counts = speculation.counts();
    }
    engine.reset();
    Ok(Guessed { alone, rates, counts })
}
