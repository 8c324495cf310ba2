//! What a sequence leaves behind: keys and values of every position seen, and the states of recurrent layers.

use super::{EngineError, memory::Uses};
use crate::{
    gpu::{Buffer, Gpu, GpuError, SubSlice, kernels::CacheType},
    model::{
        Figure,
        figure::{Cache, CacheId, StateId},
    },
};

/// Keys and values of each layer of attention, `[n_kv_heads][n_context][head_dim]` of the cache's type, laid out as `kernels/cache.rs` says,
/// and one layer's behind the other's. Where values are a part of the keys there are keys alone.
pub struct KvCache {
    keys: Buffer<u8>,
    values: Buffer<u8>,
    layers: Vec<Layer>,
    states: Vec<Buffer<f32>>,
    /// The type of the values.
    pub cache_type: CacheType,
    /// Positions there is room for.
    pub n_context: usize,
}

/// One layer's part.
#[derive(Clone, Copy)]
struct Layer {
    shape: Cache,
    /// Of keys and of values: where the layer begins, and its bytes.
    places: [(usize, usize); 2],
}

/// The layers, and the bytes of all keys and of all values.
fn layers(figure: &Figure, n_context: usize, cache_type: CacheType) -> (Vec<Layer>, [usize; 2]) {
    let mut ends = [0; 2];
    let layers = figure.caches.iter().map(|shape| {
        // A layer begins where 16-byte loads may begin.
        let keys = cache_type.bytes(shape.n_kv_heads * n_context, shape.head_dim).next_multiple_of(256);
        let values = if shape.value_dim.is_some() { 0 } else { keys };
        let place = |end: &mut usize, bytes: usize| {
            *end += bytes;
            (*end - bytes, bytes)
        };
        let [end_of_keys, end_of_values] = &mut ends;
        Layer { shape: *shape, places: [place(end_of_keys, keys), place(end_of_values, values)] }
    });
    (layers.collect(), ends)
}

impl KvCache {
    /// Every allocation that [`KvCache::new`] makes, in its order.
    pub fn uses(figure: &Figure, n_context: usize, cache_type: CacheType, uses: &mut Uses) {
        let (_, [keys, values]) = layers(figure, n_context, cache_type);
        uses.add("KV cache", keys);
        uses.add("KV cache", values);
        for state in &figure.states {
            uses.add("recurrent state", state.n * size_of::<f32>());
        }
    }

    /// Allocates the cache of a model.
    pub fn new(gpu: &Gpu, figure: &Figure, n_context: usize, cache_type: CacheType) -> Result<KvCache, GpuError> {
        let (layers, [keys, values]) = layers(figure, n_context, cache_type);
        let states = figure.states.iter().map(|state| gpu.alloc("recurrent state", state.n));
        Ok(KvCache {
            keys: gpu.alloc("the key cache", keys)?,
            values: gpu.alloc("the value cache", values)?,
            layers,
            states: states.collect::<Result<_, _>>()?,
            cache_type,
            n_context,
        })
    }

    /// Makes recurrent states those before the first token. Keys and values need no such thing: attention looks no further than its token's
    /// position.
    pub fn reset(&self, gpu: &Gpu) -> Result<(), GpuError> {
        self.states.iter().try_for_each(|state| gpu.fill(state, 0))
    }

    /// Where the keys begin, and the values.
    pub fn addresses(&self) -> [u64; 2] {
        [self.keys.address(), self.values.address()]
    }

    /// The shape of a layer's heads.
    pub fn shape(&self, cache: CacheId) -> Cache {
        self.layers[cache.0].shape
    }

    /// A layer's keys.
    pub fn keys(&self, cache: CacheId) -> SubSlice<'_, u8> {
        let [(start, bytes), _] = self.layers[cache.0].places;
        self.keys.slice(start..start + bytes)
    }

    /// A layer's values.
    pub fn values(&self, cache: CacheId) -> SubSlice<'_, u8> {
        let [_, (start, bytes)] = self.layers[cache.0].places;
        self.values.slice(start..start + bytes)
    }

    /// A recurrent layer's state.
    pub fn state(&self, state: StateId) -> &Buffer<f32> {
        &self.states[state.0]
    }

    /// Bytes of all states.
    pub fn state_bytes(&self) -> usize {
        self.states.iter().map(|state| state.len() * size_of::<f32>()).sum()
    }

    /// Bytes of the saved keys and values of a token.
    pub fn bytes_per_token(&self) -> usize {
        let rows = |layer: &Layer| self.planes(layer.shape).iter().map(|plane| plane.row).sum::<usize>();
        let of_layer = |layer: &Layer| {
            let kinds = if layer.shape.value_dim.is_some() { 1 } else { 2 };
            kinds * layer.shape.n_kv_heads * rows(layer)
        };
        self.layers.iter().map(of_layer).sum()
    }

    /// The first `n` positions as bytes, in the layout that `state` says.
    pub fn save(&self, gpu: &Gpu, n: usize) -> Result<Vec<u8>, EngineError> {
        let mut saved = vec![0; n * self.bytes_per_token() + self.state_bytes()];
        let mut rest = saved.as_mut_slice();
        for (part, row) in self.parts() {
            let (bytes, tail) = rest.split_at_mut(n * row);
            gpu.read_into(&part.slice(0..bytes.len()), bytes)?;
            rest = tail;
        }
        for state in &self.states {
            let (bytes, tail) = rest.split_at_mut(state.len() * size_of::<f32>());
            gpu.read_into(&state.cast::<u8>(), bytes)?;
            rest = tail;
        }
        Ok(saved)
    }

    /// Brings the first `n` of `n_saved` saved positions back, and the states after all of them.
    pub fn restore(&self, gpu: &Gpu, saved: &[u8], n_saved: usize, n: usize) -> Result<(), EngineError> {
        let mut rest = saved;
        for (part, row) in self.parts() {
            let (bytes, tail) = rest.split_at(n_saved * row);
            gpu.write(&part, &bytes[..n * row])?;
            rest = tail;
        }
        for state in &self.states {
            let (bytes, tail) = rest.split_at(state.len() * size_of::<f32>());
            gpu.write(&state.cast::<u8>(), bytes)?;
            rest = tail;
        }
        Ok(())
    }

    fn planes(&self, shape: Cache) -> Vec<Plane> {
        let head_dim = shape.head_dim;
        match self.cache_type {
            CacheType::Q8_0 => {
                let n_rows = shape.n_kv_heads * self.n_context;
                vec![Plane { start: 0, row: head_dim }, Plane { start: n_rows * head_dim, row: head_dim / 32 * 2 }]
            }
            CacheType::F16 | CacheType::BF16 | CacheType::F32 => {
                vec![Plane { start: 0, row: self.cache_type.bytes(1, head_dim) }]
            }
        }
    }

    /// The rows of every layer, plane and head, `n_context` of them, in the order of the saved cache, with the bytes of one.
    fn parts(&self) -> Vec<(SubSlice<'_, u8>, usize)> {
        let mut parts = Vec::new();
        for layer in &self.layers {
            for (buffer, (first, bytes)) in [&self.keys, &self.values].into_iter().zip(layer.places) {
                if bytes == 0 {
                    continue;
                }
                for Plane { start, row } in self.planes(layer.shape) {
                    for head in 0..layer.shape.n_kv_heads {
                        let start = first + start + head * self.n_context * row;
                        parts.push((buffer.slice(start..start + self.n_context * row), row));
                    }
                }
            }
        }
        parts
    }
}

/// A part of a layer's cache with one row for each head and position.
struct Plane {
    /// Where it begins, in bytes.
    start: usize,
    /// Bytes of a row.
    row: usize,
}
