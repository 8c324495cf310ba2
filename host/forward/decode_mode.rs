//! The two ways of running a decoding step.

use std::{fmt, str::FromStr};

use super::{EngineError, EngineOptions};
use crate::{
    gpu::{Activations, kernels::CacheType},
    model::Config,
};

/// How the launches of a decoding step are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DecodeMode {
    /// One after another, in a graph.
    #[default]
    Graph,
    /// As phases of one kernel (`kernels/persistent/`).
    Persistent,
}

impl fmt::Display for DecodeMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DecodeMode::Graph => "graph",
            DecodeMode::Persistent => "persistent",
        })
    }
}

impl FromStr for DecodeMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "graph" => Ok(DecodeMode::Graph),
            "persistent" => Ok(DecodeMode::Persistent),
            _ => Err(format!("unknown way of decoding `{text}`: expected graph or persistent")),
        }
    }
}

impl DecodeMode {
    /// Fails where this way has nothing for such a model or options.
    pub(super) fn expect_supported(
        self,
        file: &str,
        config: &Config,
        options: &EngineOptions,
    ) -> Result<(), EngineError> {
        let found = match self {
            DecodeMode::Graph => return Ok(()),
            DecodeMode::Persistent if config.experts.is_some() => "a mixture of experts".to_owned(),
            DecodeMode::Persistent if options.activations != Activations::Q8 => {
                format!("--activations {}", options.activations)
            }
            DecodeMode::Persistent => match options.cache_type {
                CacheType::F16 | CacheType::BF16 => return Ok(()),
                other => format!("a cache of type {other}"),
            },
        };
        Err(EngineError::Persistent { file: file.to_owned(), found })
    }
}
