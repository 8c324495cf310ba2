//! What sequences leave behind: keys and values in pages, and the states of recurrent layers.

use std::ops::Range;

use super::{EngineError, memory::Uses};
use crate::{
    cache::{Group, Origin, POSITIONS, Pages, SequenceId},
    gpu::{
        Buffer, Gpu, GpuError, Pinned, Slice, SubSlice,
        kernels::{CacheType, PAGE, PageTables},
    },
    model::{
        Figure,
        figure::{Cache, CacheId, StateId},
    },
};

const _: () = assert!(POSITIONS == PAGE, "the host's pages are the kernels'");

/// How much cache there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSize {
    /// Sequences at a time.
    pub n_sequences: usize,
    /// The most positions of one.
    pub n_context: usize,
    /// Positions of all together, in layers that see all positions.
    pub n_positions: usize,
    /// The most tokens that one grows by at once.
    pub n_batch: usize,
}

impl CacheSize {
    /// Entries of a page table.
    fn stride(&self) -> usize {
        self.n_context.div_ceil(PAGE)
    }

    /// Pages of each group of layers with the same window. A window keeps what the first token of a chunk sees, and the chunk.
    fn groups(&self, figure: &Figure) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let all = self.n_positions.div_ceil(PAGE);
        for cache in &figure.caches {
            if groups.iter().all(|group| group.window != cache.window) {
                let n_pages = cache.window.map_or(all, |window| {
                    let seen = (window - 1 + self.n_batch).saturating_sub(1).div_ceil(PAGE) + 1;
                    all.min(self.n_sequences * seen.min(self.stride()))
                });
                groups.push(Group { window: cache.window, n_pages });
            }
        }
        groups
    }
}

/// Keys and values of each layer of attention, `[n_pages][n_kv_heads][PAGE][head_dim]` of the cache's type, laid out as
/// `kernels/cache.rs` says, and one layer's behind the other's, keys alone where values are a part of them; and the page tables, `[group][n_sequences][stride]`.
pub struct KvCache {
    keys: Buffer<u8>,
    values: Buffer<u8>,
    tables: Buffer<u32>,
    /// The same on the host.
    staged: Pinned<u32>,
    /// The parts of it from which a copy may still be under way.
    in_flight: Vec<Range<usize>>,
    layers: Vec<Layer>,
    /// `[n_sequences][n]` each.
    states: Vec<Buffer<f32>>,
    n_sequences: usize,
    stride: usize,
    /// Who has which pages.
    pub pages: Pages,
    /// The type of the values.
    pub cache_type: CacheType,
    /// The most positions of a sequence.
    pub n_context: usize,
}

/// One layer's part.
#[derive(Clone, Copy)]
struct Layer {
    shape: Cache,
    group: usize,
    n_pages: usize,
    /// Of keys and of values: where the layer begins, and its bytes.
    places: [(usize, usize); 2],
}

impl Layer {
    /// Bytes of a row, and where the rows of a page begin in the layer: of the values, and in Q8_0 of their scales.
    fn planes(&self, cache_type: CacheType) -> Vec<Plane> {
        let Cache { head_dim, n_kv_heads, .. } = self.shape;
        match cache_type {
            CacheType::Q8_0 => {
                let n_rows = self.n_pages * n_kv_heads * PAGE;
                vec![Plane { start: 0, row: head_dim }, Plane { start: n_rows * head_dim, row: head_dim / 32 * 2 }]
            }
            CacheType::F16 | CacheType::BF16 | CacheType::F32 => {
                vec![Plane { start: 0, row: cache_type.bytes(1, head_dim) }]
            }
        }
    }
}

/// A part of a layer's cache with one row for each head and position.
#[derive(Clone, Copy)]
struct Plane {
    /// Where it begins, in bytes.
    start: usize,
    /// Bytes of a row.
    row: usize,
}

/// The layers, and the bytes of all keys and of all values.
fn layers(figure: &Figure, groups: &[Group], cache_type: CacheType) -> (Vec<Layer>, [usize; 2]) {
    let mut ends = [0; 2];
    let layers = figure.caches.iter().map(|shape| {
        let group = groups.iter().position(|group| group.window == shape.window).expect("a group for each window");
        let n_pages = groups[group].n_pages;
        // A layer begins where 16-byte loads may begin.
        let keys = cache_type.bytes(n_pages * shape.n_kv_heads * PAGE, shape.head_dim).next_multiple_of(256);
        let values = if shape.value_dim.is_some() { 0 } else { keys };
        let place = |end: &mut usize, bytes: usize| {
            *end += bytes;
            (*end - bytes, bytes)
        };
        let [end_of_keys, end_of_values] = &mut ends;
        Layer { shape: *shape, group, n_pages, places: [place(end_of_keys, keys), place(end_of_values, values)] }
    });
    (layers.collect(), ends)
}

impl KvCache {
    /// Every allocation that [`KvCache::new`] makes, in its order.
    pub fn uses(figure: &Figure, size: CacheSize, cache_type: CacheType, uses: &mut Uses) {
        let groups = size.groups(figure);
        let (_, [keys, values]) = layers(figure, &groups, cache_type);
        uses.add("KV cache", keys);
        uses.add("KV cache", values);
        uses.add("page tables", groups.len() * size.n_sequences * size.stride() * size_of::<u32>());
        for state in &figure.states {
            uses.add("recurrent state", size.n_sequences * state.n * size_of::<f32>());
        }
    }

    /// Allocates the cache of a model.
    pub fn new(gpu: &Gpu, figure: &Figure, size: CacheSize, cache_type: CacheType) -> Result<KvCache, GpuError> {
        let groups = size.groups(figure);
        let (layers, [keys, values]) = layers(figure, &groups, cache_type);
        let CacheSize { n_sequences, n_context, n_batch, .. } = size;
        let (keys, values) = (gpu.alloc("the key cache", keys)?, gpu.alloc("the value cache", values)?);
        let tables = gpu.alloc("page tables", groups.len() * n_sequences * size.stride())?;
        gpu.fill(&tables, 0)?;
        let states = figure.states.iter().map(|state| gpu.alloc("recurrent state", n_sequences * state.n));
        Ok(KvCache {
            keys,
            values,
            staged: gpu.alloc_pinned("page tables", tables.len())?,
            in_flight: Vec::new(),
            tables,
            layers,
            states: states.collect::<Result<_, _>>()?,
            n_sequences,
            stride: size.stride(),
            pages: Pages::new(&groups, n_sequences, n_batch),
            cache_type,
            n_context,
        })
    }

    /// Makes room for `n_new` more tokens of a sequence; the first begin its recurrent states anew. Old keys and values are never read:
    /// attention looks no further than its token's position.
    pub fn reserve(&mut self, gpu: &Gpu, id: SequenceId, n_new: usize) -> Result<(), EngineError> {
        let copies = self.pages.reserve(id, n_new)?;
        for copy in copies {
            for layer in self.layers.iter().filter(|layer| layer.group == copy.group) {
                for kind in self.kinds(layer) {
                    for plane in layer.planes(self.cache_type) {
                        let page = |page: u32| self.page(kind, *layer, plane, page as usize);
                        gpu.copy(&page(copy.from), &page(copy.to))?;
                    }
                }
            }
        }
        for group in 0..self.n_groups() {
            let changes = self.pages.take_changes(id, group);
            if !changes.is_empty() {
                let start = (group * self.n_sequences + id.0 as usize) * self.stride;
                let target = start + changes.start..start + changes.end;
                // Rarely: what was enqueued before, a prompt for example, is not waited for.
                let meets = |other: &Range<usize>| other.start < target.end && target.start < other.end;
                if self.in_flight.iter().any(meets) {
                    gpu.synchronise()?;
                    self.landed();
                }
                self.staged[target.clone()].copy_from_slice(&self.pages.table(id, group)[changes]);
                // SAFETY: the pinned memory lives as long as the cache, and is not written before the next synchronisation.
                unsafe { gpu.enqueue_write(&self.tables.slice(target.clone()), &self.staged[target.clone()])? };
                self.in_flight.push(target);
            }
        }
        if self.pages.n_tokens(id) == 0 {
            for state in 0..self.states.len() {
                gpu.fill(&self.state(StateId(state), id), 0)?;
            }
        }
        Ok(())
    }

    /// The stream has run all copies.
    pub fn landed(&mut self) {
        self.in_flight.clear();
    }

    fn n_groups(&self) -> usize {
        self.layers.iter().map(|layer| layer.group + 1).max().unwrap_or(0)
    }

    /// Keys and values of a layer, each with where the layer begins; keys alone where values are a part of them.
    fn kinds(&self, layer: &Layer) -> impl Iterator<Item = (&Buffer<u8>, usize)> {
        let places = layer.places;
        [&self.keys, &self.values]
            .into_iter()
            .zip(places)
            .filter(|(_, (_, bytes))| *bytes > 0)
            .map(|(buffer, (start, _))| (buffer, start))
    }

    /// A page's rows of one plane of a layer's keys or values, `[n_kv_heads][PAGE]`.
    fn page<'a>(
        &self,
        (buffer, start): (&'a Buffer<u8>, usize),
        layer: Layer,
        plane: Plane,
        page: usize,
    ) -> SubSlice<'a, u8> {
        let bytes = layer.shape.n_kv_heads * PAGE * plane.row;
        let start = start + plane.start + page * bytes;
        buffer.slice(start..start + bytes)
    }

    /// Where the keys begin, and the values.
    pub fn addresses(&self) -> [u64; 2] {
        [self.keys.address(), self.values.address()]
    }

    /// The shape of a layer's heads.
    pub fn shape(&self, cache: CacheId) -> Cache {
        self.layers[cache.0].shape
    }

    /// Pages of a layer.
    pub fn n_pages(&self, cache: CacheId) -> usize {
        self.layers[cache.0].n_pages
    }

    /// Where the positions of each token's sequence are, in a layer; `slots` has their numbers.
    pub fn tables<'a>(&'a self, cache: CacheId, slots: &'a Slice<u32>) -> PageTablesOf<'a> {
        let of_group = self.n_sequences * self.stride;
        let start = self.layers[cache.0].group * of_group;
        PageTablesOf { tables: self.tables.slice(start..start + of_group), stride: self.stride, slots }
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

    /// A sequence's state of a recurrent layer.
    pub fn state(&self, state: StateId, id: SequenceId) -> SubSlice<'_, f32> {
        let buffer = &self.states[state.0];
        let n = buffer.len() / self.n_sequences;
        buffer.slice(id.0 as usize * n..(id.0 as usize + 1) * n)
    }

    /// Bytes of all of a sequence's states.
    pub fn state_bytes(&self) -> usize {
        self.states.iter().map(|state| state.len() / self.n_sequences * size_of::<f32>()).sum()
    }

    /// Makes a sequence's states those of another.
    pub fn copy_states(&self, gpu: &Gpu, from: SequenceId, to: SequenceId) -> Result<(), GpuError> {
        (0..self.states.len()).try_for_each(|state| {
            let state = StateId(state);
            gpu.copy(&self.state(state, from).cast(), &self.state(state, to).cast())
        })
    }

    /// Bytes of the saved keys and values of a token.
    pub fn bytes_per_token(&self) -> usize {
        let rows = |layer: &Layer| layer.planes(self.cache_type).iter().map(|plane| plane.row).sum::<usize>();
        let of_layer = |layer: &Layer| self.kinds(layer).count() * layer.shape.n_kv_heads * rows(layer);
        self.layers.iter().map(of_layer).sum()
    }

    /// All positions of a sequence as bytes, in the layout that `state` says; zeros for what a window passed.
    pub fn save(&self, gpu: &Gpu, id: SequenceId) -> Result<Vec<u8>, EngineError> {
        let n = self.pages.n_tokens(id);
        let mut saved = vec![0; n * self.bytes_per_token() + self.state_bytes()];
        let mut rest = saved.as_mut_slice();
        let mut page_bytes = Vec::new();
        for layer in &self.layers {
            for kind in self.kinds(layer) {
                for plane in layer.planes(self.cache_type) {
                    let (bytes, tail) = rest.split_at_mut(n * plane.row * layer.shape.n_kv_heads);
                    rest = tail;
                    for (index, page) in self.present(id, layer.group) {
                        let source = self.page(kind, *layer, plane, page);
                        page_bytes.resize(source.len(), 0);
                        gpu.read_into(&source, &mut page_bytes)?;
                        let positions = index * PAGE..n.min((index + 1) * PAGE);
                        for (head, rows) in page_bytes.chunks_exact(PAGE * plane.row).enumerate() {
                            let start = (head * n + positions.start) * plane.row;
                            let length = positions.len() * plane.row;
                            bytes[start..start + length].copy_from_slice(&rows[..length]);
                        }
                    }
                }
            }
        }
        for state in 0..self.states.len() {
            let state = self.state(StateId(state), id);
            let (bytes, tail) = rest.split_at_mut(state.len() * size_of::<f32>());
            gpu.read_into(&state.cast::<u8>(), bytes)?;
            rest = tail;
        }
        Ok(saved)
    }

    /// Brings the first of `n_saved` saved positions back, as many as `ids` has, into an empty sequence, and the states after all of them.
    pub fn restore(
        &mut self,
        gpu: &Gpu,
        id: SequenceId,
        saved: &[u8],
        n_saved: usize,
        ids: &[u32],
        n_batch: usize,
    ) -> Result<(), EngineError> {
        for chunk in ids.chunks(n_batch) {
            self.reserve(gpu, id, chunk.len())?;
            // Computed as a prompt or not: only who saved it knows, and the bits are his.
            self.pages.advance(id, chunk, Origin::Prompt);
        }
        let n = ids.len();
        let mut rest = saved;
        for layer in &self.layers {
            for kind in self.kinds(layer) {
                for plane in layer.planes(self.cache_type) {
                    let n_kv_heads = layer.shape.n_kv_heads;
                    let (bytes, tail) = rest.split_at(n_saved * plane.row * n_kv_heads);
                    rest = tail;
                    let mut page_bytes = vec![0; n_kv_heads * PAGE * plane.row];
                    for (index, page) in self.present(id, layer.group) {
                        let positions = index * PAGE..n.min((index + 1) * PAGE);
                        for (head, rows) in page_bytes.chunks_exact_mut(PAGE * plane.row).enumerate() {
                            let start = (head * n_saved + positions.start) * plane.row;
                            let length = positions.len() * plane.row;
                            rows[..length].copy_from_slice(&bytes[start..start + length]);
                        }
                        gpu.write(&self.page(kind, *layer, plane, page), &page_bytes)?;
                    }
                }
            }
        }
        for state in 0..self.states.len() {
            let state = self.state(StateId(state), id);
            let (bytes, tail) = rest.split_at(state.len() * size_of::<f32>());
            gpu.write(&state.cast::<u8>(), bytes)?;
            rest = tail;
        }
        Ok(())
    }

    /// The pages that a sequence has in a group, by position / PAGE.
    fn present(&self, id: SequenceId, group: usize) -> impl Iterator<Item = (usize, usize)> {
        let n_pages = self.pages.n_tokens(id).div_ceil(PAGE);
        let table = &self.pages.table(id, group)[..n_pages];
        let first = self.pages.first_page(id, group);
        table.iter().map(|page| *page as usize).enumerate().skip(first)
    }
}

/// [`PageTables`] that own their part of the tables.
pub struct PageTablesOf<'a> {
    tables: SubSlice<'a, u32>,
    stride: usize,
    slots: &'a Slice<u32>,
}

impl PageTablesOf<'_> {
    /// As the launchers take them.
    pub fn get(&self) -> PageTables<'_> {
        PageTables { tables: &self.tables, stride: self.stride, slots: self.slots }
    }
}
