//! What a model is, apart from any device: its family, its hyperparameters, its weights as they lie in the file, its RoPE angles.
//!
//! [`Config::from_gguf`] reads and checks everything once. A file that passes has every tensor its family needs, in the right shape,
//! and no tensor that would be left out.

mod config;
mod error;
pub mod family;
mod inspect;
mod keys;
mod rope;
mod weights;

pub use config::{Config, Experts, Rope, RopeScaling};
pub use error::{ModelError, ModelRule};
pub use family::{Family, Presence, RopePairing};
pub use inspect::{ForeignLine, Inspection, MetadataLine, TensorLine, TypeTotal};
pub use rope::RopeTable;
pub use weights::{LayerWeights, ModelWeights, WeightView};
