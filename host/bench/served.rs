//! Many sequences as a server has them: a scheduler, samplers and text, and a prompt that arrives while all of them run.

use std::time::Duration;

use super::model::prompt;
use crate::{
    engine::{Answer, AnswerRequest, Device, Runner, Scheduler},
    forward::EngineError,
    generate::{Limits, sampler},
    sample::SamplerOptions,
    tokenizer::{ControlText, Tokenizer},
};

/// What the host does beside the device, and how long a sequence waits.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    /// Steps.
    pub n_steps: u64,
    /// Of a step, the time that the device was not asked for anything: scheduling, sampling, text.
    pub host: Duration,
    /// Between two tokens of a sequence, the longest time.
    pub longest_gap: Duration,
}

/// Draws `n_gen` tokens behind a prompt of `n_prompt` for each of `n_sequences`, by the usual sampler; when they have half of them, a prompt of
/// `n_arriving` tokens comes, for which there is a slot besides. None where the model's logits are no numbers, as random weights' may be.
///
/// # Errors
/// The device failed.
///
/// # Panics
/// Where the device has no room for them.
pub fn measure_served(
    device: &mut Device,
    tokenizer: &Tokenizer,
    n_sequences: usize,
    [n_prompt, n_gen, n_arriving]: [usize; 3],
) -> Result<Option<Served>, EngineError> {
    let n_tokens = tokenizer.vocab_size().min(device.engine().config().vocab_size);
    let mut scheduler: Scheduler<Answer> = Scheduler::new(device, n_tokens);
    let answer = |ids: &[u32], n_predict: usize| {
        let options = SamplerOptions { seed: Some(1), ..SamplerOptions::default() };
        let request = AnswerRequest {
            model: "the model",
            prompt: ids,
            sampler: sampler(options, tokenizer, n_tokens).expect("the usual options"),
            constraint: None,
            trigger: None,
            control: ControlText::Hide,
            stop: &[],
            limits: Limits { n_predict: Some(n_predict), ignore_eos: true, shift_keeping: None },
            logprobs: None,
        };
        Answer::new(request, tokenizer, n_tokens, None)
    };
    // Prompts that begin in different ways share nothing.
    let prompt_of = |index: usize, n: usize| {
        let mut ids = prompt(n_tokens, n + index);
        ids.drain(..index);
        ids
    };
    let submit = |scheduler: &mut Scheduler<_>, device: &Device, index: usize, n: usize, n_predict: usize| {
        let ids = prompt_of(index, n);
        let submitted = scheduler.submit(device, &ids, [answer(&ids, n_predict)]);
        submitted.unwrap_or_else(|refused| panic!("{refused}"));
    };
    assert!(device.limits().n_slots > n_sequences, "a slot for the prompt that arrives");
    for index in 0..n_sequences {
        submit(&mut scheduler, device, index, n_prompt, n_gen);
    }
    let n_half = (n_sequences * (n_gen / 2)) as u64;
    let mut is_there = false;
    while !scheduler.is_idle() {
        if !is_there && scheduler.statistics().n_decoded >= n_half {
            submit(&mut scheduler, device, n_sequences, n_arriving, 1);
            is_there = true;
        }
        for finished in scheduler.step(device)? {
            if Answer::end(finished).generation.is_err() {
                return Ok(None);
            }
        }
    }
    let done = scheduler.statistics();
    Ok(Some(Served { n_steps: done.n_steps, host: done.host_per_step(), longest_gap: done.longest_gap }))
}
