//! Many sequences at once, as llama-batched-bench has it: each takes a prompt in, then all generate a token a step.

use std::time::Instant;

use super::{
    counters::{Counts, recorded},
    model::prompt,
};
use crate::{
    cache::SequenceId,
    forward::{Chunk, Engine, EngineError, FIRST, Share, Then},
};

/// What a number of sequences came to.
#[derive(Clone, Debug)]
pub struct Together {
    /// Sequences.
    pub n_sequences: usize,
    /// Tokens of each one's prompt.
    pub n_prompt: usize,
    /// Tokens that each generates.
    pub n_gen: usize,
    /// Seconds for all prompts.
    pub prompt_seconds: f64,
    /// Seconds for all steps.
    pub gen_seconds: f64,
    /// On softcuda, what a step counts.
    pub counts: Option<Counts>,
}

/// Runs `n_sequences` prompts and `n_gen` steps of all of them. On softcuda one step, counting.
///
/// # Errors
/// The device failed, or the engine has too few positions or sequences.
pub fn measure_together(
    engine: &mut Engine,
    n_sequences: usize,
    n_prompt: usize,
    n_gen: usize,
) -> Result<Together, EngineError> {
    let n_vocab = engine.config().vocab_size;
    let ids: Vec<SequenceId> = (0..n_sequences)
        .map(|index| if index == 0 { Some(FIRST) } else { engine.open() })
        .collect::<Option<_>>()
        .unwrap_or_else(|| panic!("{n_sequences} sequences, of at most {}", engine.n_sequences()));
    engine.reset();
    let tokens = prompt(n_vocab, n_prompt);
    let start = Instant::now();
    // Short prompts go together, as in the scheduler.
    let together = (engine.n_batch() / n_prompt.max(1)).clamp(1, engine.n_chunks());
    for ids in ids.chunks(together) {
        for chunk in tokens.chunks(engine.n_batch()) {
            let chunks: Vec<Chunk> = ids.iter().map(|id| Chunk::last(*id, chunk)).collect();
            engine.forward_chunks(&chunks, Share::WHOLE)?;
        }
    }
    engine.gpu().synchronise()?;
    let prompt_seconds = start.elapsed().as_secs_f64();

    let mut best = vec![0; n_sequences];
    let mut step = |engine: &mut Engine, left: usize| {
        let rows: Vec<(SequenceId, u32)> = ids.iter().copied().zip(best.iter().copied()).collect();
        engine.decode_rows(&rows)?;
        engine.greedy_rows(n_vocab, &mut best, Then::unless_last(left))?;
        // A model of random weights may choose nothing.
        best.iter_mut().for_each(|token| *token = (*token).min(n_vocab as u32 - 1));
        Ok::<_, EngineError>(())
    };
    let mut counts = None;
    let mut gen_seconds = 0.0;
    if driver::soft::device().is_some() {
        let streamed = engine.streamed();
        let (result, records) = recorded(|| step(engine, 0));
        result?;
        counts = Some(Counts::of(&records.unwrap_or_default(), &streamed));
    } else {
        let start = Instant::now();
        for left in (0..n_gen).rev() {
            step(engine, left)?;
        }
        gen_seconds = start.elapsed().as_secs_f64();
    }
    ids.iter().filter(|id| **id != FIRST).for_each(|id| engine.close(*id));
    engine.reset();
    Ok(Together { n_sequences, n_prompt, n_gen, prompt_seconds, gen_seconds, counts })
}
