//! The KV cache: keys and values of every position seen, for every layer.

use std::ops::Range;

use crate::{
    gpu::{Buffer, Gpu, GpuError, SubSlice, kernels::CacheType},
    model::Config,
};

/// Keys and values, each `[n_layers][n_kv_heads][n_context][head_dim]` of the cache's type, a layer laid out as
/// `kernels/cache.rs` says.
pub struct KvCache {
    keys: Buffer<u8>,
    values: Buffer<u8>,
    layer_bytes: usize,
    /// The type of the values.
    pub cache_type: CacheType,
    /// Positions there is room for.
    pub n_context: usize,
}

impl KvCache {
    /// Allocates the cache of a model.
    pub fn new(gpu: &Gpu, config: &Config, n_context: usize, cache_type: CacheType) -> Result<KvCache, GpuError> {
        let layer_bytes = KvCache::layer_bytes(config, n_context, cache_type);
        Ok(KvCache {
            keys: gpu.alloc("the key cache", config.n_layers * layer_bytes)?,
            values: gpu.alloc("the value cache", config.n_layers * layer_bytes)?,
            layer_bytes,
            cache_type,
            n_context,
        })
    }

    /// Bytes of a layer's keys, and as many of its values. A layer begins where 16-byte loads may begin.
    pub fn layer_bytes(config: &Config, n_context: usize, cache_type: CacheType) -> usize {
        cache_type.bytes(config.n_kv_heads * n_context, config.head_dim).next_multiple_of(256)
    }

    /// Where the keys begin, and the values.
    pub fn addresses(&self) -> [u64; 2] {
        [self.keys.address(), self.values.address()]
    }

    /// A layer's keys, `[n_kv_heads][n_context][head_dim]`.
    pub fn keys(&self, layer: usize) -> SubSlice<'_, u8> {
        self.keys.slice(layer * self.layer_bytes..(layer + 1) * self.layer_bytes)
    }

    /// A layer's values, `[n_kv_heads][n_context][head_dim]`.
    pub fn values(&self, layer: usize) -> SubSlice<'_, u8> {
        self.values.slice(layer * self.layer_bytes..(layer + 1) * self.layer_bytes)
    }

    /// Bytes `range` of a layer's keys, or of its values.
    pub fn part(&self, layer: usize, values: bool, range: Range<usize>) -> SubSlice<'_, u8> {
        let buffer = if values { &self.values } else { &self.keys };
        let start = layer * self.layer_bytes;
        buffer.slice(start + range.start..start + range.end)
    }
}
