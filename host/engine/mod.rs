//! Many sequences at once.
//!
//! ```text
//! requests ──► Scheduler ── which tokens of which sequences next ──► Runner: weights, pages, kernels
//!                 ▲  │                                                  │
//!                 │  └── Task of each sequence: sampler, constraint, ◄──┘ logits, a row for each
//!                 └───── next token    stop rules, text
//! ```
//!
//! A [`Scheduler`] knows no device and no text: it decides. A [`Runner`] carries out what it decides; a [`Task`] is what a sequence does with
//! its logits, [`Answer`](answer::Answer) the one that writes text; one that makes an embedding takes hidden states of its prompt instead
//! ([`Work`](work::Work) is either).

pub mod answer;
pub mod device;
#[cfg(test)]
pub(crate) mod fake;
pub mod runner;
pub mod scheduler;
pub mod timed;
pub mod work;

pub use answer::{Answer, AnswerEnd, AnswerRequest, OnPiece, Part, Piece, Trigger};
pub use device::Device;
pub use runner::{Limits, Row, Runner};
pub use scheduler::{End, Finished, Key, Progress, Refused, Scheduler, Statistics, Task};
pub use work::{Work, WorkEnd};
