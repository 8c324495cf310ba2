//! Which of the device's memory a token streams through: what is too large for a cache.

use super::{DeviceWeights, Engine, FeedForward};
use crate::gpu::Weights;

impl Engine {
    /// The addresses of the allocations that hold matrices, and of the keys' and the values'.
    pub fn streamed(&self) -> Vec<u64> {
        let mut addresses = self.cache.addresses().to_vec();
        addresses.extend(self.weights.matrices().map(|weights| weights.data.address()));
        addresses
    }
}

impl DeviceWeights {
    /// Every matrix; one that serves as two is there twice.
    pub fn matrices(&self) -> impl Iterator<Item = &Weights> {
        let of_layers = self.layers.iter().flat_map(|layer| {
            let feed_forward = match &layer.ffn {
                FeedForward::Dense { gate_up, down } => vec![gate_up, down],
                FeedForward::Mixture { router, gate_up, down } => vec![router, gate_up, down],
            };
            [&layer.attn_qkv, &layer.attn_output].into_iter().chain(feed_forward)
        });
        [&*self.token_embd, &*self.output].into_iter().chain(of_layers)
    }
}
