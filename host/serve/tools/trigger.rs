//! Calls that a model makes of its own accord: where one begins, the grammar of calls does.

use std::sync::Arc;

use super::{Begins, Dialect, Splitter, Tools};
use crate::{
    engine::{Part, Trigger},
    sample::{Constraint, ConstraintError, ConstraintVocabulary},
};

/// Where calls begin, and what they follow then.
#[derive(Clone)]
pub struct Triggers {
    dialect: Dialect,
    names: Arc<[String]>,
    constraint: Arc<Constraint>,
    /// Whether the answer ends with a call.
    is_last: bool,
}

impl Triggers {
    /// For answers that may call these tools. `control` knows the ids of control tokens.
    ///
    /// # Errors
    /// A tool's schema cannot be used.
    pub fn new(
        tools: &Tools,
        dialect: Dialect,
        vocabulary: &ConstraintVocabulary,
        control: &dyn Fn(&str) -> Option<u32>,
    ) -> Result<Triggers, ConstraintError> {
        let grammar = tools.grammar(dialect, Begins::Called, None, control);
        let constraint = Constraint::from_rules("tools", &grammar.rules, &grammar.schemas, vocabulary)?;
        let (names, is_last) = (tools.names(), !tools.are_parallel);
        Ok(Triggers { dialect, names, constraint: Arc::new(constraint), is_last })
    }

    /// For one answer, of which the prompt has `begun`.
    pub fn watch(&self, begun: &str) -> Trigger {
        let Triggers { dialect, names, constraint, is_last } = self.clone();
        let mut splitter = Splitter::new(dialect, names);
        splitter.push(begun);
        let (mut n_seen, mut last) = (0, None);
        Box::new(move |text| {
            splitter.push(&text[n_seen..]);
            n_seen = text.len();
            let at = text.len() - splitter.begun()?.len();
            // What came with the token that began a call may be what no call begins with: then it is none.
            (last.replace(at) != Some(at)).then(|| Part { at, constraint: constraint.again(), is_last })
        })
    }
}
