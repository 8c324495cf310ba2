//! A file of prompts and a file of answers, a line each, in the same order.
//!
//! The lines are those of OpenAI's batch interface; what a line may be besides is [`requests`]' to say. A line that cannot be answered gets
//! an error in its place. What was answered when a run ended, however it ended, is in the file of answers, and the next run goes on behind it
//! ([`answers`]).

pub mod answers;
pub mod requests;
mod run;

pub use answers::{AnswersError, AnswersFile};
pub use requests::{LineError, Request, RequestLine, Requests, Shard};
pub use run::{Batch, BatchError, Progress};
