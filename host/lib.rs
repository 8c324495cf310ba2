//! Text generation from GGUF language models on an NVIDIA GPU, with every kernel written in Rust.

pub mod api;
pub mod atomic_file;
pub mod batch;
pub mod bench;
pub mod bounded;
pub mod cache;
pub mod chat;
pub mod cli;
pub mod engine;
pub mod forward;
pub mod generate;
pub mod gguf;
pub mod gpu;
pub mod model;
pub mod perplexity;
pub mod prompt_cache;
pub mod quant;
pub mod reference;
mod rules;
pub mod sample;
pub mod serve;
pub mod session;
pub mod speculate;
pub mod synth;
pub mod tokenizer;
pub mod trace;
