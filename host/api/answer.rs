//! An answer's body.

use serde_json::{Value, json};

use crate::{
    generate::{Generation, Stop, TokenLogprobs},
    sample::Logprob,
    tokenizer::{Tokenizer, TokenizerError},
};

/// Tokens that a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of the prompts, each counted once.
    pub n_prompt: usize,
    /// Of these, those that were in the cache.
    pub n_cached: usize,
    /// Of the answers.
    pub n_completion: usize,
    /// Of these, those of thoughts.
    pub n_reasoning: usize,
}

impl Usage {
    /// As the interface has it.
    pub fn json(self) -> Value {
        let mut usage = json!({
            "prompt_tokens": self.n_prompt,
            "completion_tokens": self.n_completion,
            "total_tokens": self.n_prompt + self.n_completion,
            "prompt_tokens_details": { "cached_tokens": self.n_cached },
        });
        if self.n_reasoning > 0 {
            usage["completion_tokens_details"] = json!({ "reasoning_tokens": self.n_reasoning });
        }
        usage
    }
}

/// The object of a chat completion: `id`, when it was made in seconds since 1970, the model's name, a choice for each answer.
///
/// # Errors
/// A token is not the tokenizer's.
pub fn chat_completion(
    (id, created, model): (&str, u64, &str),
    answers: &[Generation],
    usage: Usage,
    tokenizer: &Tokenizer,
) -> Result<Value, TokenizerError> {
    let choice = |(index, answer): (usize, &Generation)| {
        let logprobs = match answer.logprobs.as_slice() {
            [] => Value::Null,
            all => json!({ "content": token_logprobs(all, tokenizer)?, "refusal": null }),
        };
        Ok(json!({
            "index": index,
            "message": { "role": "assistant", "content": answer.text, "refusal": null },
            "logprobs": logprobs,
            "finish_reason": finish_reason(&answer.stop),
        }))
    };
    let choices: Vec<Value> = answers.iter().enumerate().map(choice).collect::<Result<_, TokenizerError>>()?;
    Ok(json!({
        "id": id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": choices,
        "usage": usage.json(),
    }))
}

/// The object of a text completion, as [`chat_completion`].
///
/// # Errors
/// A token is not the tokenizer's.
pub fn text_completion(
    (id, created, model): (&str, u64, &str),
    answers: &[Generation],
    usage: Usage,
    tokenizer: &Tokenizer,
) -> Result<Value, TokenizerError> {
    let choice = |(index, answer): (usize, &Generation)| {
        let logprobs = match answer.logprobs.as_slice() {
            [] => Value::Null,
            all => flat_logprobs(all, tokenizer, 0)?,
        };
        Ok(json!({
            "index": index,
            "text": answer.text,
            "logprobs": logprobs,
            "finish_reason": finish_reason(&answer.stop),
        }))
    };
    let choices: Vec<Value> = answers.iter().enumerate().map(choice).collect::<Result<_, TokenizerError>>()?;
    Ok(json!({
        "id": id,
        "object": "text_completion",
        "created": created,
        "model": model,
        "choices": choices,
        "usage": usage.json(),
    }))
}

/// Why an answer ended, in the interface's words.
pub fn finish_reason(stop: &Stop) -> &'static str {
    match stop {
        Stop::Eos | Stop::StopString(_) => "stop",
        Stop::Length | Stop::ContextFull | Stop::Interrupted => "length",
    }
}

/// JSON has no −∞; the interface writes this for it.
const NEVER: f32 = -9999.0;

fn one(logprob: &Logprob, tokenizer: &Tokenizer) -> Result<(String, f32, Value), TokenizerError> {
    let bytes = tokenizer.token_bytes(logprob.id)?;
    // Of a token that is a part of a character, the bytes alone say which part.
    Ok((String::from_utf8_lossy(bytes).into_owned(), logprob.logprob.max(NEVER), json!(bytes)))
}

/// Log probabilities of tokens as a chat completion has them.
///
/// # Errors
/// A token is not the tokenizer's.
pub fn token_logprobs(all: &[TokenLogprobs], tokenizer: &Tokenizer) -> Result<Value, TokenizerError> {
    let object = |logprob: &Logprob| {
        let (token, logprob, bytes) = one(logprob, tokenizer)?;
        Ok(json!({ "token": token, "logprob": logprob, "bytes": bytes }))
    };
    let token = |of: &TokenLogprobs| {
        let mut chosen = object(&of.chosen)?;
        let top: Vec<Value> = of.top.iter().map(object).collect::<Result<_, TokenizerError>>()?;
        chosen["top_logprobs"] = Value::Array(top);
        Ok(chosen)
    };
    all.iter().map(token).collect()
}

/// Log probabilities of tokens as a text completion has them: arrays side by side. The first token begins at `offset` characters.
///
/// # Errors
/// A token is not the tokenizer's.
pub fn flat_logprobs(all: &[TokenLogprobs], tokenizer: &Tokenizer, offset: usize) -> Result<Value, TokenizerError> {
    let (mut tokens, mut logprobs, mut top, mut offsets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut offset = offset;
    for of in all {
        let (token, logprob, _) = one(&of.chosen, tokenizer)?;
        offsets.push(offset);
        offset += token.chars().count();
        tokens.push(token);
        logprobs.push(logprob);
        let mut likeliest = serde_json::Map::new();
        for of in &of.top {
            let (token, logprob, _) = one(of, tokenizer)?;
            likeliest.insert(token, json!(logprob));
        }
        top.push(Value::Object(likeliest));
    }
    Ok(json!({ "tokens": tokens, "token_logprobs": logprobs, "top_logprobs": top, "text_offset": offsets }))
}
