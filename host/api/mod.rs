//! Requests and answers as OpenAI's interface writes them, in JSON: what a file of prompts and a server share.
//!
//! [`Asked`] is a body, read: what is to be written, with every option in the sampler's own terms; [`EmbeddingsAsked`] that of a request for embeddings. What a body does not say is the caller's
//! default. Fields that change the answer and are not supported are an error that names the field; those that only label a request are
//! passed over.

mod answer;
mod embeddings;
mod fields;
mod request;

pub use answer::{Usage, chat_completion, finish_reason, flat_logprobs, text_completion, token_logprobs};
pub use embeddings::{EmbeddingsAsked, Encoding, number, numbers};
pub use fields::{FieldError, Fields};
pub use request::{Asked, Defaults, Form, Format, Prompt};
