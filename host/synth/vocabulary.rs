//! A vocabulary of any size that encodes every text: the 256 bytes, the three special tokens of ChatML, and padding.

use crate::{
    gguf::{Array, Value},
    tokenizer::byte_letters,
};

/// The special tokens follow the 256 bytes.
const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const END_OF_TEXT: u32 = 256;
const TURN_END: u32 = 258;

/// Types of tokens in `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const UNUSED: i32 = 5;

/// ChatML (<https://github.com/openai/openai-python/blob/release-v0.28.0/chatml.md>).
const TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] \
                        + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// The metadata of a vocabulary of `size` tokens, at least 259.
pub fn metadata(architecture: &str, size: u64) -> Vec<(String, Value)> {
    let mut tokens: Vec<String> = byte_letters().iter().map(char::to_string).collect();
    tokens.extend(SPECIAL.map(String::from));
    let mut types = vec![NORMAL; 256];
    types.extend([CONTROL; SPECIAL.len()]);
    assert!(size >= tokens.len() as u64, "a vocabulary of {size} tokens");
    // As llama.cpp's converter pads.
    tokens.extend((tokens.len() as u64..size).map(|id| format!("[PAD{id}]")));
    types.resize(tokens.len(), UNUSED);

    let words = if architecture == "llama" { "llama-bpe" } else { "qwen2" };
    let pairs = [
        ("model", Value::String("gpt2".into())),
        ("pre", Value::String(words.into())),
        ("tokens", Value::Array(Array::String(tokens))),
        ("token_type", Value::Array(Array::I32(types))),
        ("merges", Value::Array(Array::String(Vec::new()))),
        ("bos_token_id", Value::U32(END_OF_TEXT)),
        ("eos_token_id", Value::U32(TURN_END)),
        ("padding_token_id", Value::U32(END_OF_TEXT)),
        ("add_bos_token", Value::Bool(false)),
    ];
    let template = ("tokenizer.chat_template".to_owned(), Value::String(TEMPLATE.into()));
    let pairs = pairs.map(|(key, value)| (format!("tokenizer.ggml.{key}"), value));
    pairs.into_iter().chain([template]).collect()
}
