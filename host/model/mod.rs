//! What a model is, apart from any device: its family, its hyperparameters, its weights as they lie in the file, its RoPE angles.
//!
//! [`Model::open`] reads and checks everything once. A file that passes has every tensor its family needs, in the right shape, and no
//! tensor that would be left out. What the model does with them is its [`figure`].

mod config;
mod error;
pub mod family;
pub mod figure;
mod inspect;
mod keys;
mod layer;
mod pooling;
mod rope;
mod weights;

pub use config::{Config, DenseLayers, Recurrent, Rope, RopeScaling, Temperature};
pub use error::{ModelError, ModelRule};
pub use family::{Family, Presence, RopePairing};
pub use figure::Figure;
pub use inspect::{ForeignLine, Inspection, MetadataLine, TensorLine, TypeTotal};
pub use layer::{
    Attention, DeltaNet, Experts, FeedForward, Glu, Groups, LatentAttention, Layer, Mixer, RopeKind, Routing, Scores,
    SharedExpert,
};
pub use pooling::{NoEmbedding, Pooled, Pooling, shortened};
pub use rope::RopeTable;
pub use weights::{Model, WeightView};
