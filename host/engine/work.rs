//! What a server and a file of prompts ask of a sequence: an answer, or an embedding.

use std::ops::Range;

use super::{Answer, AnswerEnd, End, Finished, Row, Runner, Task};
use crate::model::{NoEmbedding, Pooled, Pooling};

/// An answer or an embedding on its way.
pub enum Work<'t> {
    /// Writes text.
    Answer(Box<Answer<'t>>),
    /// Ends with its prompt.
    Embedding(Pooled),
}

/// What came of it.
pub enum WorkEnd {
    /// An answer.
    Answer(AnswerEnd),
    /// An embedding, `[n_embd]`, of length 1.
    Embedding(Result<Vec<f32>, NoEmbedding>),
}

impl<'t> Work<'t> {
    /// An answer to be written.
    pub fn answer(answer: Answer<'t>) -> Work<'t> {
        Work::Answer(Box::new(answer))
    }

    /// An embedding of a text of so many tokens.
    pub fn embedding(pooling: Pooling, n_tokens: usize) -> Work<'t> {
        Work::Embedding(Pooled::new(pooling, n_tokens))
    }

    /// What came of it.
    pub fn end(finished: Finished<Work<'t>>) -> WorkEnd {
        let Finished { key, task, end, n_reused, drafts } = finished;
        match task {
            Work::Answer(task) => WorkEnd::Answer(Answer::end(Finished { key, task: *task, end, n_reused, drafts })),
            Work::Embedding(pooled) => {
                debug_assert_eq!(end, End::Done, "a prompt that was taken fits");
                WorkEnd::Embedding(pooled.finish())
            }
        }
    }
}

impl Task for Work<'_> {
    fn is_greedy(&self) -> bool {
        matches!(self, Work::Answer(answer) if answer.is_greedy())
    }

    fn next<R: Runner>(&mut self, row: Row<R>) -> Result<Option<u32>, R::Error> {
        match self {
            Work::Answer(answer) => answer.next(row),
            Work::Embedding(_) => Ok(None),
        }
    }

    fn settle(&mut self) {
        if let Work::Answer(answer) = self {
            answer.settle();
        }
    }

    fn n_wanted(&self) -> Option<usize> {
        match self {
            Work::Answer(answer) => answer.n_wanted(),
            Work::Embedding(_) => None,
        }
    }

    fn pooling(&self) -> Option<Pooling> {
        match self {
            Work::Answer(_) => None,
            Work::Embedding(pooled) => Some(pooled.pooling()),
        }
    }

    fn take_states(&mut self, chunk: Range<usize>, states: &[f32]) {
        if let Work::Embedding(pooled) = self {
            pooled.add(chunk, states);
        }
    }
}
