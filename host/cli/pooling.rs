//! The argument of every command that makes embeddings.

use clap::Args;

use crate::model::{Config, Pooling};

/// How an embedding is made of hidden states.
#[derive(Args)]
pub struct PoolingArgument {
    /// Which tokens' hidden states make an embedding: their mean, the last one's, or the first one's, cls [default: what the file says
    /// (pooling_type), or mean].
    #[arg(long, value_name = "mean|last|cls")]
    pooling: Option<Pooling>,
}

impl PoolingArgument {
    /// As asked for, or as the model says.
    pub fn of(&self, config: &Config) -> Pooling {
        self.pooling.or(config.pooling).unwrap_or_default()
    }
}
