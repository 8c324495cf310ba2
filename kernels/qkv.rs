//! From the product with [Wq; Wk; Wv] to queries that attention takes and to the cache, for many tokens.
//!
//! For each head of each token: the bias, RMSNorm over the head where the family has one, RoPE for queries and keys, and the
//! result to where it is wanted, in its type; what `rmsnorm.rs`, `rope.rs` and `cache.rs` do in kernels of their own. A warp
//! takes a head, and reads it twice where there is a norm, the second time from the L1 cache. In memory there is one read of
//! the product and one write of each result.
//!
//! RoPE's magnitude (YaRN's attention factor) belongs to the scores: keys are kept without it, queries get it twice.

use cuda_std::{BF16, F16, float, grid, kernel, thread, types::Element, warp};

use crate::{
    cache::Pages,
    elementwise::growth,
    rope::{elements, rotation, turn},
};

/// The block's number of threads.
pub const BLOCK: u32 = 128;

/// Heads of a block.
pub const HEADS: u32 = BLOCK / 32;

/// A head of the product, as the bias and the norm leave it.
struct Head {
    product: *const f32,
    bias: *const f32,
    norm: *const f32,
    scale: f32,
}

impl Head {
    #[inline(always)]
    unsafe fn biased(&self, element: u32) -> f32 {
        let value = unsafe { *self.product.add(element as usize) };
        if self.bias.is_null() { value } else { value + unsafe { *self.bias.add(element as usize) } }
    }

    #[inline(always)]
    unsafe fn value(&self, element: u32) -> f32 {
        let value = unsafe { self.biased(element) };
        if self.norm.is_null() { value } else { value * self.scale * unsafe { *self.norm.add(element as usize) } }
    }
}

#[inline(always)]
unsafe fn qkv<T: Element>(
    product: *const f32,
    bias: *const f32,
    q_norm: *const f32,
    k_norm: *const f32,
    frequencies: *const f32,
    positions: *const u32,
    tables: *const u32,
    slots: *const u32,
    q: *mut T,
    keys: *mut T,
    values: *mut T,
    q_scale: f32,
    growth_scale: f32,
    magnitude: f32,
    epsilon: f32,
    n_heads: u32,
    n_kv_heads: u32,
    head_dim: u32,
    n_rot: u32,
    neighbours: u32,
    growth_length: u32,
    table_stride: u32,
) {
    grid::launch_dependents();
    grid::wait();
    let lane = thread::lane();
    let head = thread::block_idx_x() * HEADS + thread::warp();
    let n_all = n_heads + 2 * n_kv_heads;
    if head >= n_all {
        return;
    }
    let token = thread::block_idx_y();
    let position = unsafe { *positions.add(token as usize) };
    let dim = head_dim as usize;

    // Where the head goes, and what it is multiplied by: rotated elements, and the others.
    let (is_query, is_key) = (head < n_heads, head < n_heads + n_kv_heads);
    let of_cache = |cache: *mut T, head: u32| {
        let row = if tables.is_null() {
            token * n_kv_heads + head
        } else {
            unsafe { Pages::of(tables, slots, table_stride, token, n_kv_heads).row(head, position) }
        };
        cache.wrapping_add(row as usize * dim)
    };
    let (out, norm, rotated, plain) = if is_query {
        let row = token as usize * n_heads as usize + head as usize;
        // SAFETY: the length is not zero.
        let grown = if growth_length == 0 { 1.0 } else { unsafe { growth(position, growth_scale, growth_length) } };
        let q_scale = q_scale * grown;
        (q.wrapping_add(row * dim), q_norm, magnitude * q_scale, q_scale)
    } else if is_key {
        (of_cache(keys, head - n_heads), k_norm, 1.0, float::reciprocal(magnitude))
    } else {
        (of_cache(values, head - n_heads - n_kv_heads), core::ptr::null(), 1.0, 1.0)
    };

    let mut source = Head {
        product: product.wrapping_add((token as usize * n_all as usize + head as usize) * dim),
        bias: if bias.is_null() { bias } else { bias.wrapping_add(head as usize * dim) },
        norm,
        scale: 1.0,
    };
    if !norm.is_null() {
        let mut squares = 0.0;
        let mut element = lane;
        while element < head_dim {
            let value = unsafe { source.biased(element) };
            squares = float::fma(value, value, squares);
            element += 32;
        }
        let mean = warp::sum(squares) / head_dim as f32;
        source.scale = float::reciprocal(float::sqrt(mean + epsilon));
    }

    let n_rot = if is_key { n_rot } else { 0 };
    let mut pair = lane;
    while pair < n_rot / 2 {
        let (first, second) = elements(pair, n_rot, neighbours != 0);
        unsafe {
            // The loads of the values first: they do not wait for the position, as the angle does.
            let (a, b) = (source.value(first), source.value(second));
            let (a, b) = turn(a, b, rotation(frequencies, pair, position), rotated);
            *out.add(first as usize) = T::store(a);
            *out.add(second as usize) = T::store(b);
        }
        pair += 32;
    }
    let mut element = n_rot + lane;
    while element < head_dim {
        unsafe { *out.add(element as usize) = T::store(source.value(element) * plain) }
        element += 32;
    }
}

macro_rules! variants {
    ($($name:ident: $element:ty;)*) => {$(
        /// With x[token] = product[token] + bias, of which the first `n_heads` heads are queries, the next `n_kv_heads` keys and
        /// the last values, queries and keys then normalised over each head (as `rmsnorm`) and turned (as RoPE):
        /// q[token] = the queries · `q_scale`, the scores' magnitude included; keys and values go to the cache at
        /// positions[token], keys without RoPE's magnitude. Where `tables` is null, `keys` and `values` are
        /// `[n_tokens][n_kv_heads][head_dim]` instead, a row a token.
        ///
        /// Queries grow by their position besides, as `elementwise_temper` has it, where `growth_length` is not 0.
        ///
        /// A null `bias`, `q_norm` or `k_norm` leaves that out. Elements from `n_rot` on are not turned; `neighbours` is 0 for
        /// RoPE over pairs (i, i + n_rot/2), else it is over (2i, 2i + 1).
        ///
        /// Launch: grid (⌈heads ÷ HEADS⌉, n_tokens) for heads = n_heads + 2 n_kv_heads, block ([`BLOCK`]).
        ///
        /// # Safety
        /// - `product` is `[n_tokens][heads][head_dim]`, `bias` `[heads][head_dim]`, the norms `[head_dim]`, `frequencies`
        ///   `[n_rot/2][2]` as in `rope.rs`, `positions` `[n_tokens]`, below 2^24; `n_rot` is even and at most `head_dim`.
        /// - `q` is `[n_tokens][n_heads][head_dim]`; `keys` and `values` are a layer's caches of this type (`cache.rs`), the
        ///   positions of a sequence all different and with a page that no other sequence uses, or as above where `tables` is null.
        ///   None overlaps what is read.
        #[kernel]
        pub unsafe fn $name(
            product: *const f32,
            bias: *const f32,
            q_norm: *const f32,
            k_norm: *const f32,
            frequencies: *const f32,
            positions: *const u32,
            tables: *const u32,
            slots: *const u32,
            q: *mut $element,
            keys: *mut $element,
            values: *mut $element,
            q_scale: f32,
            growth_scale: f32,
            magnitude: f32,
            epsilon: f32,
            n_heads: u32,
            n_kv_heads: u32,
            head_dim: u32,
            n_rot: u32,
            neighbours: u32,
            growth_length: u32,
            table_stride: u32,
        ) {
            unsafe {
                qkv(
                    product, bias, q_norm, k_norm, frequencies, positions, tables, slots, q, keys, values, q_scale,
                    growth_scale, magnitude, epsilon, n_heads, n_kv_heads, head_dim, n_rot, neighbours, growth_length, table_stride,
                )
            }
        }
    )*};
}

variants! {
    qkv_f32: f32;
    qkv_f16: F16;
    qkv_bf16: BF16;
}
