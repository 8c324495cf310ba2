//! The attention of one new token a sequence, from raw projections to the attended values, in one launch.
//!
//! out = softmax(q · Kᵀ · scale) · V, as in `attention.rs`, for the query of one token; before it the norms over heads, RoPE,
//! and the new key and value's way into the cache. Decoding does this once a layer and token, and its time is latency
//! where the context is short and the reading of the cache where it is long.
//!
//! # Blocks
//!
//! A launch takes one token each of several sequences, its rows. A block serves one KV head of one row, several of the query heads
//! that read it (which share every load of a key or value) and one *split* of the positions. How positions are split follows from
//! the row's position alone, which is in device memory: one captured launch serves every position for which its grid has splits
//! enough, and a row's sums are the same whatever the other rows are. Blocks without a split end at once.
//!
//! The block's warps take the split's keys in turns, a *tile* of them at a time, within a page. What a warp does with one is either in
//! `tensor.rs`, for caches of 16-bit floats, or in `lanes.rs`. A tile's keys are loaded while the one before is still computed
//! on, and the first tile, the angles of RoPE and the position are loaded before the kernel waits for its predecessor: none
//! of them is from this token's step.
//!
//! Each warp prepares a query head, and the last one the new key and value. Those are packed as the cache holds them; every
//! block whose split has the newest position takes them from its own shared memory, one of them writes them to the cache.
//!
//! Rows of one sequence, which see each other's keys, are two launches: one stores all keys and values, the other attends ([`STORE`],
//! [`ATTEND`]). A row's numbers are the same either way.
//!
//! With one split in use the block has the output. Otherwise it leaves its part in global memory, and the last block to
//! arrive merges the parts (both in `combine.rs`).

mod combine;
mod lanes;
mod tensor;
mod words;

use cuda_std::{BF16, F16, float, grid, kernel, shared::Shared, shared_array, thread, warp};

use crate::{
    cache::{GROUP as PER_LANE, Pages, Place, load_eight, n_rows},
    elementwise::growth,
    rope,
};
use combine::{Found, finish};
use lanes::Lanes;
use tensor::Tensor;
use words::{CacheWords, EMPTY, Words};

pub use lanes::HEADS as LANES_HEADS;
pub use tensor::HEADS as TENSOR_HEADS;

/// The block's number of threads.
pub const BLOCK: u32 = 256;

/// The most splits of a launch.
pub const MAX_SPLITS: u32 = 64;

/// Keys that are worth a block of their own where blocks are few: a tile on tensor cores for each of its eight warps, all loaded at once.
///
/// Twice as many are left to one block. A second block costs two trips through the L2 cache, to leave its part there and to be counted, and one more
/// to merge the parts, together about a microsecond; in which a block reads and computes on some 200 keys.
pub const KEYS_PER_SPLIT: u32 = 128;

/// The same where many sequences fill the device: there a block that begins costs its place, and not only time.
pub const KEYS_PER_SPLIT_OF_MANY: u32 = 256;

/// Splits begin at multiples of this many positions, so that no tile is in two pages: the largest tile.
pub const STEP: u32 = 16;

/// Into how many splits `n_keys ≥ 1` keys are divided, of at most `room`, a power of two of keys being worth one: bounds are powers of two, so
/// that a long generation passes few of them.
#[inline(always)]
pub const fn n_splits(n_keys: u32, room: u32, keys_per_split: u32) -> u32 {
    let most_keys = n_keys.next_power_of_two();
    if most_keys <= 2 * keys_per_split {
        return 1;
    }
    let wanted = most_keys >> keys_per_split.trailing_zeros();
    if wanted < room { wanted } else { room }
}

/// A launch's part: all of it, for rows of different sequences.
pub const WHOLE: u32 = 0;

/// Only the way of keys and values into the cache.
pub const STORE: u32 = 1;

/// Only what comes behind that.
pub const ATTEND: u32 = 2;

const N_WARPS: u32 = BLOCK / 32;

/// The largest head that the shared arrays have room for.
const MAX_HEAD_DIM: usize = 256;

/// The most query heads of a block.
pub const MAX_HEADS: usize = TENSOR_HEADS;

shared_array! {
    // RoPE's angles, and the new key on its way to be packed.
    attention_decode_cosines: [f32; MAX_HEAD_DIM / 2];
    attention_decode_sines: [f32; MAX_HEAD_DIM / 2];
    attention_decode_staged: [f32; MAX_HEAD_DIM];
    // The new key and value as the cache holds them, `[eight][words]`.
    attention_decode_key: [u32; MAX_HEAD_DIM];
    attention_decode_value: [u32; MAX_HEAD_DIM];
}

/// A warp's part in the attention: the queries, a tile of keys and values as they were loaded, and what it has found so far.
///
/// Its functions are collective over the warp. What they take of shared memory is ordered by the block's barriers:
/// `clear_queries`, then `set_query` and `finish_query` by one warp a head, then `take_queries`.
trait Attend<T: CacheWords> {
    /// Keys of a tile.
    const TILE: u32;

    /// Before the first tile. `place` is row 0 of the cache.
    fn new(keys: *const T, values: *const T, place: Place) -> Self;

    /// Makes all queries in shared memory zero, a thread of the block its part.
    unsafe fn clear_queries();

    /// An element of a head's query, by one lane.
    unsafe fn set_query(head: u32, element: u32, value: f32);

    /// All elements of the head were set by this warp.
    unsafe fn finish_query(head: u32);

    /// Takes the queries, which all warps have set.
    unsafe fn take_queries(&mut self);

    /// Loads the keys of the tile from `first` on, whose row is `row`. Of a position that is not in the cache, which has those below
    /// `end`, it loads the last one's that is.
    unsafe fn load_keys(&mut self, row: u32, first: u32, end: u32);

    /// The same for the values.
    unsafe fn load_values(&mut self, row: u32, first: u32, end: u32);

    /// Puts the new key and value ([`kept`]) in their place in the tile.
    unsafe fn insert(&mut self, first: u32, position: u32, key: Shared<u32>, value: Shared<u32>);

    /// Computes the scores of the tile's positions from `oldest` to before `end`; its keys are not needed any more.
    fn attend_keys(&mut self, first: u32, oldest: u32, end: u32);

    /// Takes the tile in, by its scores and values.
    fn attend_values(&mut self);

    /// Leaves what was found.
    unsafe fn leave(self, warp: u32, found: Found);
}

/// One launch's operands: the kernels' parameters by name.
#[derive(Clone, Copy)]
struct Operands<T> {
    qkv: *const f32,
    positions: *const u32,
    tables: *const u32,
    slots: *const u32,
    frequencies: *const f32,
    q_norm: *const f32,
    k_norm: *const f32,
    keys: *mut T,
    values: *mut T,
    out: *mut f32,
    quantised_out: *mut u32,
    out_f16: *mut F16,
    parts: *mut f32,
    arrivals: *mut u32,
    epsilon: f32,
    scale: f32,
    growth_scale: f32,
    magnitude: f32,
    n_kv_heads: u32,
    group: u32,
    qkv_stride: u32,
    table_stride: u32,
    n_pages: u32,
    room: u32,
    keys_per_split: u32,
    window: u32,
    n_rot: u32,
    neighbours: u32,
    growth_length: u32,
    part: u32,
    out_scale: f32,
    in_steps: u32,
}

impl<T> Operands<T> {
    /// The block's row and KV head.
    #[inline(always)]
    fn row_and_head(&self) -> (u32, u32) {
        // SAFETY: not zero by the launch contract; said here so that the division is not guarded by a panic.
        unsafe { core::hint::assert_unchecked(self.n_kv_heads > 0) }
        (thread::block_idx_z() / self.n_kv_heads, thread::block_idx_z() % self.n_kv_heads)
    }

    /// Rows of the launch.
    #[inline(always)]
    fn n_rows(&self) -> u32 {
        // SAFETY: as above.
        unsafe { core::hint::assert_unchecked(self.n_kv_heads > 0) }
        thread::grid_dim_z() / self.n_kv_heads
    }

    /// The block's first query head, and how many it has.
    #[inline(always)]
    fn heads<const HEADS: usize>(&self) -> (u32, u32) {
        let before = thread::block_idx_x() * HEADS as u32;
        let (_, kv_head) = self.row_and_head();
        (kv_head * self.group + before, (self.group - before).min(HEADS as u32))
    }

    /// The projections of the block's row.
    #[inline(always)]
    fn qkv(&self) -> *const f32 {
        self.qkv.wrapping_add((self.row_and_head().0 * self.qkv_stride) as usize)
    }
}

/// The positions that a block sees.
#[derive(Clone, Copy)]
struct Split {
    /// A multiple of [`STEP`].
    first: u32,
    /// One past the last.
    end: u32,
    /// The first position that the row sees: the first split may begin before it.
    oldest: u32,
    /// Positions of all splits together, and of each but the last.
    n_all: u32,
    length: u32,
}

impl Split {
    /// This block's split of the last positions up to `position` that the window holds: as many as any other's, but for the last.
    #[inline(always)]
    fn of<T>(position: u32, &Operands { window, room, keys_per_split, .. }: &Operands<T>) -> Split {
        let n_seen = (position + 1).min(window);
        let oldest = position + 1 - n_seen;
        let begin = oldest / STEP * STEP;
        let n_all = position + 1 - begin;
        let n_splits = n_splits(n_seen, room, keys_per_split);
        // SAFETY: `room ≥ 1` by the launch contract; said here so that the division is not guarded by a panic.
        unsafe { core::hint::assert_unchecked(n_splits > 0) }
        let length = ((n_all - 1) / n_splits / STEP + 1) * STEP;
        let first = begin + thread::block_idx_y() * length;
        Split { first, end: (position + 1).min(first + length), oldest, n_all, length }
    }

    /// How many splits have positions.
    #[inline(always)]
    fn n_used(self) -> u32 {
        // SAFETY: `of` makes it one more than a quotient.
        unsafe { core::hint::assert_unchecked(self.length > 0) }
        (self.n_all - 1) / self.length + 1
    }
}

/// RoPE's angles at the position to shared memory, a pair's by each thread. They take a while and need nothing of this
/// step, so they are made before the wait.
#[inline(always)]
unsafe fn make_angles<T>(o: &Operands<T>, position: u32) {
    let pair = thread::thread_idx_x();
    if pair < o.n_rot / 2 {
        let (cos, sin) = unsafe { rope::rotation(o.frequencies, pair, position) };
        unsafe {
            attention_decode_cosines().set(pair, cos);
            attention_decode_sines().set(pair, sin);
        }
    }
}

/// Takes a head of `qkv` through its norm (where there is one) and RoPE, and hands each element to `set`. Norm and RoPE are
/// those of `rmsnorm.rs` and `rope.rs`, bit for bit. Collective over the warp.
///
/// # Safety
/// - `head` leads to `HEAD_DIM` values, and so does `norm` if it is not null.
#[inline(always)]
unsafe fn prepare<T, const HEAD_DIM: usize>(
    o: &Operands<T>,
    head: *const f32,
    norm: *const f32,
    set: impl Fn(u32, f32),
) {
    let lane = thread::lane();
    let mut scale = 1.0;
    if !norm.is_null() {
        let mut total = 0.0;
        let mut first = 0;
        while first < HEAD_DIM {
            let element = first + lane as usize;
            let value = if element < HEAD_DIM { unsafe { *head.add(element) } } else { 0.0 };
            total += warp::sum(value * value);
            first += 32;
        }
        scale = float::reciprocal(float::sqrt(total / HEAD_DIM as f32 + o.epsilon));
    }
    let mut first = 0;
    while first < const { HEAD_DIM as u32 / 2 } {
        let pair = first + lane;
        if pair < const { HEAD_DIM as u32 / 2 } {
            let rotates = pair < o.n_rot / 2;
            // What RoPE leaves alone is taken in neighbours.
            let (first, second) = rope::elements(pair, o.n_rot, o.neighbours != 0 || !rotates);
            let (mut a, mut b) = unsafe { (*head.add(first as usize), *head.add(second as usize)) };
            if !norm.is_null() {
                (a, b) = unsafe { (a * scale * *norm.add(first as usize), b * scale * *norm.add(second as usize)) };
            }
            if rotates {
                let angle = unsafe { (attention_decode_cosines().get(pair), attention_decode_sines().get(pair)) };
                (a, b) = rope::turn(a, b, angle, o.magnitude);
            }
            set(first, a);
            set(second, b);
        }
        first += 32;
    }
}

/// The new key and value to shared memory, and to the cache where this block is the one to. Collective over the warp.
#[inline(always)]
unsafe fn prepare_newest<T: CacheWords, const HEAD_DIM: usize>(o: &Operands<T>, place: Place) {
    let kv_head = o.row_and_head().1 as usize;
    let first_key = (o.n_kv_heads * o.group) as usize;
    let (key, value) = unsafe {
        let key = o.qkv().add((first_key + kv_head) * HEAD_DIM);
        (key, key.add(o.n_kv_heads as usize * HEAD_DIM))
    };
    // The warp's first lanes take the rows in eights; the others read the last ones too, so that no branch that lanes take
    // apart comes before what they do together.
    let eight = (thread::lane() as usize * PER_LANE).min(const { HEAD_DIM - PER_LANE });
    let holds = thread::lane() < const { (HEAD_DIM / PER_LANE) as u32 };
    let place = Place { element: eight, ..place };
    let staged = attention_decode_staged();
    // RoPE's magnitude belongs to the scores: keys are kept without it.
    let factor = float::reciprocal(o.magnitude);
    unsafe {
        let value = load_eight(value.add(eight));
        prepare::<T, HEAD_DIM>(o, key, o.k_norm, |element, value| staged.set(element, value * factor));
        warp::sync();
        keep::<T>(get_eight(staged, eight as u32), holds, attention_decode_key(), o.keys, place);
        keep::<T>(value, holds, attention_decode_value(), o.values, place);
    }
}

/// Eight elements of an array in shared memory.
#[inline(always)]
unsafe fn get_eight(array: Shared<f32>, first: u32) -> [f32; PER_LANE] {
    let (low, high) = unsafe { (array.get_four(first), array.get_four(first + 4)) };
    [low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]]
}

#[inline(always)]
unsafe fn set_eight(array: Shared<f32>, first: u32, values: [f32; PER_LANE]) {
    let [a, b, c, d, e, f, g, h] = values;
    unsafe {
        array.set_four(first, [a, b, c, d]);
        array.set_four(first + 4, [e, f, g, h]);
    }
}

/// Packs eight values and, in a lane that `holds` them, keeps them for the block and writes them to the cache where this
/// block is the one to. Collective over the warp.
#[inline(always)]
unsafe fn keep<T: CacheWords>(values: [f32; PER_LANE], holds: bool, kept: Shared<u32>, cache: *mut T, place: Place) {
    let words = T::pack_eight(values);
    if holds {
        let mut four = 0;
        while four < T::WORDS {
            let part = [words[four], words[four + 1], words[four + 2], words[four + 3]];
            unsafe { kept.set_four(thread::lane() * T::WORDS.next_multiple_of(4) as u32 + four as u32, part) }
            four += 4;
        }
        if thread::block_idx_x() == 0 {
            unsafe { T::write(cache, place, words) }
        }
    }
}

/// The words that [`keep`] kept of the eight elements from `element` on.
#[inline(always)]
unsafe fn kept<T: CacheWords>(kept: Shared<u32>, element: usize) -> Words {
    let mut words = EMPTY;
    let mut four = 0;
    while four < T::WORDS {
        let first = element / PER_LANE * T::WORDS.next_multiple_of(4);
        let part = unsafe { kept.get_four((first + four) as u32) };
        words[four..four + 4].copy_from_slice(&part);
        four += 4;
    }
    words
}

#[inline(always)]
unsafe fn attention_decode<T: CacheWords, A: Attend<T>, const HEAD_DIM: usize, const HEADS: usize>(o: Operands<T>) {
    let (row, kv_head) = o.row_and_head();
    let position = unsafe { *o.positions.add(row as usize) };
    let pages = unsafe { Pages::of(o.tables, o.slots, o.table_stride, row, o.n_kv_heads) };
    let warp = warp::uniform(thread::warp());
    let place = |row: u32, element: usize| Place {
        row: row as usize,
        element,
        n_rows: n_rows(o.n_pages, o.n_kv_heads),
        head_dim: HEAD_DIM,
    };
    let split = Split::of(position, &o);
    if split.first >= split.end {
        return;
    }
    // Rows that share a sequence find it in the cache.
    let has_newest = o.part != ATTEND && split.end > position;
    // One past the split's last position that is in the cache already.
    let old_end = match (o.part, has_newest) {
        (STORE, _) => 0,
        (_, true) => position,
        (_, false) => split.end,
    };
    // A tile is in one page: its positions' rows follow one another.
    let row_of = |first: u32| if first < old_end { unsafe { pages.row(kv_head, first) } } else { 0 };
    let mut attend = A::new(o.keys, o.values, place(0, 0));
    let mut first = split.first + warp * A::TILE;
    if first < old_end {
        let row = row_of(first);
        unsafe {
            attend.load_keys(row, first, old_end);
            attend.load_values(row, first, old_end);
        }
    }
    // The next tile's is looked up while this one is computed on.
    let mut next_row = row_of(first + N_WARPS * A::TILE);
    unsafe {
        make_angles(&o, position);
        A::clear_queries();
    }
    thread::sync_threads();

    grid::launch_dependents();
    grid::wait();
    let (new_key, new_value) = (attention_decode_key(), attention_decode_value());
    let (first_head, heads) = o.heads::<HEADS>();
    // A head for each warp, and the last one has the new key and value.
    if has_newest && warp == N_WARPS - 1 {
        unsafe { prepare_newest::<T, HEAD_DIM>(&o, place(pages.row(kv_head, position), 0)) }
    }
    if o.part == STORE {
        return;
    }
    if warp < heads {
        // Scores in units of ln 2.
        let mut factor = o.scale * core::f32::consts::LOG2_E;
        if o.growth_length != 0 {
            // SAFETY: the length is not zero.
            factor *= unsafe { growth(position, o.growth_scale, o.growth_length) };
        }
        unsafe {
            let head = o.qkv().add((first_head + warp) as usize * HEAD_DIM);
            prepare::<T, HEAD_DIM>(&o, head, o.q_norm, |element, value| A::set_query(warp, element, value * factor));
            A::finish_query(warp);
        }
    }
    thread::sync_threads();

    unsafe { attend.take_queries() }
    while first < split.end {
        if has_newest && position < first + A::TILE {
            unsafe { attend.insert(first, position, new_key, new_value) }
        }
        attend.attend_keys(first, split.oldest, split.end);
        let next = first + N_WARPS * A::TILE;
        if next < old_end {
            unsafe { attend.load_keys(next_row, next, old_end) }
        }
        attend.attend_values();
        if next < old_end {
            unsafe { attend.load_values(next_row, next, old_end) }
            next_row = row_of(next + N_WARPS * A::TILE);
        }
        first = next;
    }
    let found = Found::new::<HEAD_DIM, HEADS>();
    unsafe { attend.leave(warp, found) }
    thread::sync_threads();

    unsafe { finish::<T, HEAD_DIM, HEADS>(&o, split, warp, found) }
}

macro_rules! variants {
    ($($name:ident: $element:ty, $head_dim:literal, $heads:ident, $attend:ty;)*) => {$(
        /// The attention of a token of each of `n` sequences. A row of `qkv` is a token's projections with their bias; its query heads
        /// and its keys are normalised where `q_norm` and `k_norm` are not null, and rotated; key and value become those of position
        /// positions[row] in the cache; and out[row][head] = softmax(q[head] · Kᵀ · scale) · V over the last `window` positions up to
        /// that one, each as the cache holds it. RoPE's magnitude multiplies the queries alone; `scale` has it once more.
        /// Queries grow by their position besides, as `elementwise_temper` has it, where `growth_length` is not 0.
        ///
        /// Launch: grid (⌈group ÷ HEADS⌉, splits, n · n_kv_heads), block ([`BLOCK`]), HEADS as in [`heads`]; no fewer splits than
        /// [`n_splits`] gives for any row, `room`, which is at most [`MAX_SPLITS`], and `keys_per_split`, a power of two and at least [`STEP`]. `part` is [`WHOLE`] or, of two launches one after the
        /// other with the same rows, [`STORE`], whose grid is 1 along x and which leaves `out` alone, and [`ATTEND`].
        ///
        /// # Safety
        /// - A row of `qkv` is `[n_kv_heads · (group + 2)][HEAD_DIM]`, queries, keys, values, and `qkv_stride` values from the next; all
        ///   16-byte aligned; `q_norm` and `k_norm` are null or `[HEAD_DIM]`; `out` is `[n][n_kv_heads · group][HEAD_DIM]`, and not
        ///   written where `quantised_out` is not null, which then has room for as many values, each row in the form that
        ///   [`activations`](crate::gemv::activations) says; nor where `out_f16` is not null, which has the same values times `out_scale`, in
        ///   [steps](crate::gemm::steps) where `in_steps` is not 0 and a row is whole ones.
        /// - Positions are below 2^24; `keys` and `values` are a layer's caches of this type (`cache.rs`) of `n_pages` pages, 16-byte
        ///   aligned, written before the positions in the pages that `tables` has for `slots[row]`; no two rows of a `WHOLE` launch have
        ///   the same slot, and none of another the same position too, but for rows whose output means nothing. Neither these nor `positions`
        ///   nor `frequencies` are written by a launch that this one may overlap with: they are read before it waits.
        /// - `frequencies` is `[n_rot/2][2]` as `rope.rs` takes it, `n_rot` even and at most `HEAD_DIM`; pairs are neighbours where
        ///   `neighbours` is not 0. `group ≥ 1`, `window ≥ 1`, `magnitude` is not 0.
        /// - With several splits, `parts` is `[n · n_kv_heads · ⌈group ÷ HEADS⌉][splits][HEADS][HEAD_DIM + 2]` and 16-byte
        ///   aligned, and `arrivals` is `[n · n_kv_heads · ⌈group ÷ HEADS⌉]`, all zero, which it is again afterwards. No launch that
        ///   may overlap uses them.
        #[kernel(threads = 256, blocks = 2)]
        pub unsafe fn $name(
            qkv: *const f32,
            positions: *const u32,
            tables: *const u32,
            slots: *const u32,
            frequencies: *const f32,
            q_norm: *const f32,
            k_norm: *const f32,
            keys: *mut $element,
            values: *mut $element,
            out: *mut f32,
            quantised_out: *mut u32,
            out_f16: *mut F16,
            parts: *mut f32,
            arrivals: *mut u32,
            epsilon: f32,
            scale: f32,
            growth_scale: f32,
            magnitude: f32,
            n_kv_heads: u32,
            group: u32,
            qkv_stride: u32,
            table_stride: u32,
            n_pages: u32,
            room: u32,
            keys_per_split: u32,
            window: u32,
            n_rot: u32,
            neighbours: u32,
            growth_length: u32,
            part: u32,
            out_scale: f32,
            in_steps: u32,
        ) {
            unsafe {
                attention_decode::<$element, $attend, $head_dim, $heads>(Operands {
                    qkv, positions, tables, slots, frequencies, q_norm, k_norm, keys, values, out, quantised_out, out_f16, parts, arrivals,
                    epsilon, scale, growth_scale, magnitude, n_kv_heads, group, qkv_stride, table_stride, n_pages, room, keys_per_split, window,
                    n_rot, neighbours, growth_length, part, out_scale, in_steps,
                })
            }
        }
    )*
    };
}

// A lane has as many loads in flight as there are registers for.
variants! {
    attention_decode_f32_64: f32, 64, LANES_HEADS, Lanes<f32, 64, 2>;
    attention_decode_f32_80: f32, 80, LANES_HEADS, Lanes<f32, 80, 2>;
    attention_decode_f32_96: f32, 96, LANES_HEADS, Lanes<f32, 96, 2>;
    attention_decode_f32_128: f32, 128, LANES_HEADS, Lanes<f32, 128, 2>;
    attention_decode_f32_256: f32, 256, LANES_HEADS, Lanes<f32, 256, 2>;
    attention_decode_f16_64: F16, 64, TENSOR_HEADS, Tensor<F16, 64>;
    attention_decode_f16_80: F16, 80, TENSOR_HEADS, Tensor<F16, 80>;
    attention_decode_f16_96: F16, 96, TENSOR_HEADS, Tensor<F16, 96>;
    attention_decode_f16_128: F16, 128, TENSOR_HEADS, Tensor<F16, 128>;
    attention_decode_f16_256: F16, 256, LANES_HEADS, Lanes<F16, 256, 4>;
    attention_decode_bf16_64: BF16, 64, TENSOR_HEADS, Tensor<BF16, 64>;
    attention_decode_bf16_80: BF16, 80, TENSOR_HEADS, Tensor<BF16, 80>;
    attention_decode_bf16_96: BF16, 96, TENSOR_HEADS, Tensor<BF16, 96>;
    attention_decode_bf16_128: BF16, 128, TENSOR_HEADS, Tensor<BF16, 128>;
    attention_decode_bf16_256: BF16, 256, LANES_HEADS, Lanes<BF16, 256, 4>;
    attention_decode_q8_0_64: i8, 64, LANES_HEADS, Lanes<i8, 64, 4>;
    attention_decode_q8_0_96: i8, 96, LANES_HEADS, Lanes<i8, 96, 4>;
    attention_decode_q8_0_128: i8, 128, LANES_HEADS, Lanes<i8, 128, 4>;
    attention_decode_q8_0_256: i8, 256, LANES_HEADS, Lanes<i8, 256, 4>;
}

/// Query heads of a block, for heads of this size in a cache whose elements take `bits` bits.
pub const fn heads(bits: usize, head_dim: usize) -> usize {
    if bits == 16 && head_dim <= 128 { TENSOR_HEADS } else { LANES_HEADS }
}
