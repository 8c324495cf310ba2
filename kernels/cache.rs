//! The KV cache's layout, and writing keys and values into it.
//!
//! A layer's cache is `[n_pages][n_kv_heads][PAGE][head_dim]`: a page has [`PAGE`] neighbouring positions of one sequence, one
//! head's keys contiguous, which is how attention reads them. Which page has which positions a sequence's *page table* says:
//! entry p / PAGE is the page of position p. Tables lie beside each other, `[n_slots][stride]`, and each token has the number of its
//! sequence's, its *slot*. In Q8_0 (8-bit integers with an f16 scale for each 32 of a row) the integers have that layout and
//! the scales follow after all of them, `[n_pages][n_kv_heads][PAGE][head_dim / 32]`, so that both are aligned.
//!
//! Q8_0 has steps of 1/127 of a block's largest value, and keys have a few very large ones (the bias of Qwen2's keys reaches
//! 34): the others of their block would be lost in them. So each block of 32 is first turned by a Walsh–Hadamard transform,
//! which spreads every value over the block. The transform is orthogonal and its own inverse: turning the query alike keeps
//! the scores, and turning the output once more takes it off the values.

use cuda_std::{BF16, F16, float, grid, kernel, memory::Vector16, thread, types::Element, warp};

/// The block's number of threads.
pub const BLOCK: u32 = 128;

/// Elements of a row that a thread reads at a time.
pub const GROUP: usize = 8;

/// Values of a Q8_0 row that share a scale.
pub(crate) const Q8_BLOCK: usize = 32;

/// Positions of a page, a multiple of every tile of keys that is loaded together.
pub const PAGE: u32 = 32;

/// One sequence's pages in a layer's cache.
#[derive(Clone, Copy)]
pub struct Pages {
    table: *const u32,
    n_kv_heads: u32,
}

impl Pages {
    /// Those of a token's sequence.
    ///
    /// # Safety
    /// - `slots` has an entry for the token, and `tables` a table of that number, each of `stride` entries.
    #[inline(always)]
    pub unsafe fn of(tables: *const u32, slots: *const u32, stride: u32, token: u32, n_kv_heads: u32) -> Pages {
        let slot = unsafe { *slots.add(token as usize) };
        Pages { table: tables.wrapping_add(slot as usize * stride as usize), n_kv_heads }
    }

    /// The row of a head's position. The rows of a page's other positions lie before and behind it.
    ///
    /// # Safety
    /// - The table has an entry for the position.
    #[inline(always)]
    pub unsafe fn row(self, kv_head: u32, position: u32) -> u32 {
        let page = unsafe { *self.table.add((position / PAGE) as usize) };
        (page * self.n_kv_heads + kv_head) * PAGE + position % PAGE
    }
}

/// Rows of a layer's cache.
#[inline(always)]
pub fn n_rows(n_pages: u32, n_kv_heads: u32) -> usize {
    n_pages as usize * (n_kv_heads * PAGE) as usize
}

/// A place in a layer's cache.
#[derive(Clone, Copy)]
pub struct Place {
    /// [`Pages::row`].
    pub row: usize,
    /// The element within the row.
    pub element: usize,
    /// [`n_rows`].
    pub n_rows: usize,
    /// Elements of a row.
    pub head_dim: usize,
}

/// A type that keys and values are kept in.
pub trait CacheElement: Copy {
    /// A row is a multiple of so many elements.
    const MULTIPLE: usize;

    /// Eight elements from a multiple of eight.
    ///
    /// # Safety
    /// - The place is within the cache and written; the cache is 16-byte aligned.
    unsafe fn load_eight(cache: *const Self, place: Place) -> [f32; GROUP];

    /// The same for rows that may be a multiple of four and not of eight: at a row's end the last four are 0.
    ///
    /// # Safety
    /// - As for [`CacheElement::load_eight`].
    unsafe fn load_fours(cache: *const Self, place: Place) -> [f32; GROUP];

    /// Turns eight neighbouring elements as those in the cache are turned; the same again turns them back. In Q8_0
    /// collective over four neighbouring lanes, which have the 32 elements of a scale.
    fn turn(values: [f32; GROUP]) -> [f32; GROUP];

    /// Writes an element. In Q8_0 collective over the warp, whose lanes have the 32 elements of a scale.
    ///
    /// # Safety
    /// - The place is within the cache.
    unsafe fn store(cache: *mut Self, place: Place, value: f32);
}

macro_rules! floats {
    ($($element:ty)*) => {$(
        impl CacheElement for $element {
            const MULTIPLE: usize = 4;

            #[inline(always)]
            unsafe fn load_fours(cache: *const Self, place: Place) -> [f32; GROUP] {
                unsafe { load_fours(cache.add(place.row * place.head_dim), place.element, place.head_dim) }
            }

            #[inline(always)]
            unsafe fn load_eight(cache: *const Self, place: Place) -> [f32; GROUP] {
                unsafe { load_eight(cache.add(place.row * place.head_dim + place.element)) }
            }

            #[inline(always)]
            fn turn(values: [f32; GROUP]) -> [f32; GROUP] {
                values
            }

            #[inline(always)]
            unsafe fn store(cache: *mut Self, place: Place, value: f32) {
                unsafe { *cache.add(place.row * place.head_dim + place.element) = <$element as Element>::store(value) }
            }
        }
    )*};
}

floats!(f32 F16 BF16);

/// Eight elements from a 16-byte aligned address.
///
/// # Safety
/// - `address` leads to eight elements, 16-byte aligned.
#[inline(always)]
pub unsafe fn load_eight<T: Element>(address: *const T) -> [f32; GROUP] {
    let mut values = [0.0; GROUP];
    let mut first = 0;
    while first < GROUP {
        let Vector16(vector) = unsafe { *address.add(first).cast::<Vector16>() };
        let mut index = 0;
        while index < T::PER_VECTOR {
            values[first + index] = T::of_vector(vector, index);
            index += 1;
        }
        first += T::PER_VECTOR;
    }
    values
}

/// Elements `element` to `element + 7` of a row, those from its end on 0.
///
/// # Safety
/// - `row` leads to `head_dim` elements, aligned to four of them; `element` and `head_dim` are multiples of four, the first
///   below the second.
#[inline(always)]
pub(crate) unsafe fn load_fours<T: Element>(row: *const T, element: usize, head_dim: usize) -> [f32; GROUP] {
    let four = |element: usize| {
        let address = row.wrapping_add(element);
        if T::PER_VECTOR == 4 {
            let Vector16(vector) = unsafe { *address.cast::<Vector16>() };
            vector
        } else {
            let words = unsafe { *address.cast::<u64>() };
            [words as u32, (words >> 32) as u32, 0, 0]
        }
    };
    let low = four(element);
    let high = if element + 4 < head_dim { four(element + 4) } else { [0; 4] };
    let (mut values, mut index) = ([0.0; GROUP], 0);
    while index < 4 {
        values[index] = T::of_vector(low, index);
        values[index + 4] = T::of_vector(high, index);
        index += 1;
    }
    values
}

/// Where the scale of a Q8_0 place is.
#[inline(always)]
pub(crate) fn scale_of(cache: *const i8, place: Place) -> *const F16 {
    let scales = cache.wrapping_add(place.n_rows * place.head_dim).cast::<F16>();
    scales.wrapping_add(place.row * (place.head_dim / Q8_BLOCK) + place.element / Q8_BLOCK)
}

/// 1 / √32 makes the transform of 32 values orthogonal.
const HADAMARD_SCALE: f32 = 0.176_776_7;

/// One step of the transform: the sum with the lane at `distance`, or the difference in the upper lane of the two.
#[inline(always)]
fn across_lanes(value: f32, distance: u32) -> f32 {
    let other = warp::shuffle_xor(value, distance);
    if thread::lane() & distance == 0 { other + value } else { other - value }
}

/// The transform of a warp's 32 values. Collective over the warp.
#[inline(always)]
pub(crate) fn turn_lane(value: f32) -> f32 {
    let mut value = value;
    let mut distance = 1;
    while distance < Q8_BLOCK as u32 {
        value = across_lanes(value, distance);
        distance *= 2;
    }
    value * HADAMARD_SCALE
}

/// The scale of a block whose largest magnitude is `largest`, and what its values are multiplied by to be integers.
#[inline(always)]
pub(crate) fn q8_scale(largest: f32) -> (F16, f32) {
    // The integers are made with the scale that they will be read with.
    let scale = F16::from_f32(largest / 127.0);
    let divisor = scale.to_f32();
    (scale, if divisor == 0.0 { 0.0 } else { 1.0 / divisor })
}

impl CacheElement for i8 {
    const MULTIPLE: usize = Q8_BLOCK;

    #[inline(always)]
    unsafe fn load_fours(cache: *const Self, place: Place) -> [f32; GROUP] {
        // Rows are multiples of 32.
        unsafe { Self::load_eight(cache, place) }
    }

    #[inline(always)]
    unsafe fn load_eight(cache: *const Self, place: Place) -> [f32; GROUP] {
        let scale = unsafe { (*scale_of(cache, place)).to_f32() };
        let word = unsafe { *cache.add(place.row * place.head_dim + place.element).cast::<u64>() };
        let mut values = [0.0; GROUP];
        let mut index = 0;
        while index < GROUP {
            values[index] = scale * f32::from((word >> (8 * index)) as i8);
            index += 1;
        }
        values
    }

    #[inline(always)]
    fn turn(values: [f32; GROUP]) -> [f32; GROUP] {
        let mut values = values;
        // The element's number has five bits: the lower three within the thread, the upper two across lanes.
        let mut distance = 1;
        while distance < GROUP {
            let mut index = 0;
            while index < GROUP {
                if index & distance == 0 {
                    let (a, b) = (values[index], values[index + distance]);
                    values[index] = a + b;
                    values[index + distance] = a - b;
                }
                index += 1;
            }
            distance *= 2;
        }
        let mut index = 0;
        while index < GROUP {
            values[index] = across_lanes(across_lanes(values[index], 1), 2) * HADAMARD_SCALE;
            index += 1;
        }
        values
    }

    #[inline(always)]
    unsafe fn store(cache: *mut Self, place: Place, value: f32) {
        let value = turn_lane(value);
        let (scale, inverse) = q8_scale(warp::max(float::abs(value)));
        unsafe {
            *cache.add(place.row * place.head_dim + place.element) = float::round(value * inverse) as i8;
            if place.element.is_multiple_of(Q8_BLOCK) {
                *scale_of(cache, place).cast_mut() = scale;
            }
        }
    }
}

/// One block a head (grid.x) and token (grid.y).
#[inline(always)]
unsafe fn store<T: CacheElement>(
    x: *const f32,
    positions: *const u32,
    tables: *const u32,
    slots: *const u32,
    cache: *mut T,
    factor: f32,
    head_dim: u32,
    stride: u32,
    n_pages: u32,
) {
    grid::launch_dependents_and_wait();
    let (head, token) = (thread::block_idx_x(), thread::block_idx_y());
    let n_kv_heads = thread::grid_dim_x();
    let pages = unsafe { Pages::of(tables, slots, stride, token, n_kv_heads) };
    let row = unsafe { pages.row(head, *positions.add(token as usize)) } as usize;
    let (head_dim, n_rows) = (head_dim as usize, n_rows(n_pages, n_kv_heads));
    let source = unsafe { x.add((token as usize * n_kv_heads as usize + head as usize) * head_dim) };
    let mut element = thread::thread_idx_x() as usize;
    while element < head_dim {
        unsafe { T::store(cache, Place { row, element, n_rows, head_dim }, *source.add(element) * factor) }
        element += BLOCK as usize;
    }
}

macro_rules! cache_store {
    ($($name:ident: $element:ty;)*) => {$(
        /// The row of positions[token] and of each head = factor · x[token][head][..], rounded to nearest.
        ///
        /// Launch: grid (n_kv_heads, n_tokens), block ([`BLOCK`]).
        ///
        /// # Safety
        /// - `x` is `[n_tokens][n_kv_heads][head_dim]`, `positions` is `[n_tokens]`, no two of one sequence the same; `tables`
        ///   and `slots` give each of them a page, below `n_pages`, that no other sequence uses; `cache` is a layer's cache of this
        ///   type; in Q8_0, `head_dim` is a multiple of 32.
        #[kernel]
        pub unsafe fn $name(
            x: *const f32,
            positions: *const u32,
            tables: *const u32,
            slots: *const u32,
            cache: *mut $element,
            factor: f32,
            head_dim: u32,
            stride: u32,
            n_pages: u32,
        ) {
            unsafe { store(x, positions, tables, slots, cache, factor, head_dim, stride, n_pages) }
        }
    )*};
}

cache_store! {
    cache_store_f32: f32;
    cache_store_f16: F16;
    cache_store_bf16: BF16;
    cache_store_q8_0: i8;
}
