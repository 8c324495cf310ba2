//! Text generation from GGUF language models on an NVIDIA GPU, with every kernel written in Rust.

pub mod chat;
pub mod forward;
pub mod gguf;
pub mod gpu;
pub mod model;
pub mod quant;
pub mod reference;
pub mod sample;
pub mod tokenizer;
pub mod trace;
