//! Top-k: the largest logits, for a sampler that looks at no others.
//!
//! A key holds a logit and its token's id, so that no two are equal: by logit, and of equal logits the lower id first. Every
//! eight threads leave the largest key of a group of 32 neighbouring logits in global memory. The block that arrives last, by
//! a counter, goes on alone:
//!
//! 1. each of its threads takes the largest key of a share of the groups; the k-th largest of these is a bound that at least
//!    k logits reach, found bit by bit, by counting the threads that reach each trial;
//! 2. the logits that reach the bound are gathered: little more than k, for large logits seldom lie in the same share;
//! 3. a logit's place is how many of those gathered are larger.
//!
//! Where large logits do lie so close together that step 2 finds too many, the bound is raised to the k-th largest of all
//! logits, found in the same way by counting logits instead of threads: slower, for it reads them again for each bit.

use cuda_std::{atomic, grid, kernel, memory::Vector16, shared_array, thread, unroll::unroll, warp};

/// The block's number of threads.
pub const BLOCK: u32 = 1024;

/// Logits of a block: four a thread.
pub const BLOCK_VALUES: u32 = 4 * BLOCK;

/// Logits of a group.
pub const GROUP: u32 = 32;

/// The largest `k`: half of as many as are gathered, so that the bound of step 1 nearly always gathers few enough.
pub const MAX_K: u32 = GATHERED / 2;

/// The most logits that are gathered: one for each thread.
const GATHERED: u32 = BLOCK;

/// Groups that a thread reads before it looks at the first: all of its share of 151 936 logits.
const GROUPS_AT_ONCE: usize = 5;

/// Vectors of a group that a thread reads before it looks at the first: half of them, which leaves it within 64 registers.
const VECTORS_AT_ONCE: usize = GROUP as usize / 8;

/// Gathered keys that a thread reads before it compares the first.
const KEYS_AT_ONCE: u32 = 8;

shared_array! {
    top_k_gathered: [u32; 2 * GATHERED as usize];
    top_k_count: [u32; 1];
    top_k_arrived: [u32; 1];
}

/// The key of no logit: smaller than any other.
const NONE: u64 = 0;

/// The one NaN that stands for all: above +∞ in the order of keys.
pub const NAN_BITS: u32 = 0x7fff_ffff;

/// out[row][i] = [id, logit] of the i-th largest of logits[row][..n], `k` of them: by descending logit, equal ones by ascending id. NaN is
/// the largest, so that the first tells whether there is one, and is written as [`NAN_BITS`]; −0 counts and is written as 0.
///
/// Launch: grid (⌈n / [`BLOCK_VALUES`]⌉, rows), block ([`BLOCK`]).
///
/// # Safety
/// - A row of `logits` holds `n` values, `stride` from the next row's, the first 16-byte aligned; `out` holds 2 `k` words a row;
///   1 ≤ k ≤ n, k ≤ [`MAX_K`].
/// - `groups` holds ⌈n / [`GROUP`]⌉ keys a row, `arrivals` one word, zero, which it is again afterwards. No launch that uses the same
///   runs at the same time.
#[kernel(threads = 1024, blocks = 1)]
pub unsafe fn top_k(
    logits: *const f32,
    out: *mut u32,
    groups: *mut u64,
    arrivals: *mut u32,
    n: u32,
    stride: u32,
    k: u32,
) {
    grid::launch_dependents();
    grid::wait();
    let row = thread::block_idx_y() as usize;
    let (logits, out) = (logits.wrapping_add(row * stride as usize), out.wrapping_add(row * 2 * k as usize));
    let (groups, arrivals) = (groups.wrapping_add(row * n.div_ceil(GROUP) as usize), arrivals.wrapping_add(row));
    let (me, lane) = (thread::thread_idx_x(), thread::lane());
    let n_groups = n.div_ceil(GROUP);

    // The largest of each group.
    let vector = thread::index_1d();
    let four = unsafe { load_four(logits, vector, n) };
    let mut largest = NONE;
    unroll(
        4,
        #[inline(always)]
        |i| largest = largest.max(key(four[i], 4 * vector + i as u32, n)),
    );
    let mut distance = GROUP / 8;
    while distance > 0 {
        largest = largest.max(shuffle_xor_key(largest, distance));
        distance /= 2;
    }
    let group = vector / (GROUP / 4);
    if lane % (GROUP / 4) == 0 && group < n_groups {
        unsafe { *groups.add(group as usize) = largest };
    }

    // The last block's work.
    unsafe { empty() };
    if me == 0 {
        unsafe { top_k_arrived().set(0, atomic::increment_wrapping(arrivals, thread::grid_dim_x() - 1)) };
    }
    thread::sync_threads();
    if unsafe { top_k_arrived().get(0) } != thread::grid_dim_x() - 1 {
        return;
    }
    let found = Found { logits, groups, n, n_groups };
    let mut largest = NONE;
    unsafe {
        found.each_group(
            #[inline(always)]
            |key| largest = largest.max(key),
        )
    };
    let mut bound = kth_largest(
        k,
        #[inline(always)]
        |trial| thread::count_threads(largest >= trial),
    );
    let n_gathered = loop {
        unsafe { found.gather(bound) };
        thread::sync_threads();
        let count = unsafe { top_k_count().get(0) };
        if count <= GATHERED {
            break count;
        }
        let lowest = bound;
        bound = kth_largest(k, |trial| unsafe { found.count(trial.max(lowest)) });
        unsafe { empty() };
        thread::sync_threads();
    };
    if me < n_gathered {
        let mine = unsafe { top_k_gathered().get_two(2 * me) };
        let mine = joined(mine);
        let mut place = 0;
        let mut other = 0;
        while other < n_gathered {
            unroll(
                KEYS_AT_ONCE as usize / 2,
                #[inline(always)]
                |i| {
                    let [a, b, c, d] = unsafe { top_k_gathered().get_four(2 * other + 4 * i as u32) };
                    place += u32::from(joined([a, b]) > mine) + u32::from(joined([c, d]) > mine);
                },
            );
            other += KEYS_AT_ONCE;
        }
        if place < k {
            unsafe {
                *out.add(2 * place as usize) = !(mine as u32);
                *out.add(2 * place as usize + 1) = logit_bits((mine >> 32) as u32);
            }
        }
    }
}

/// The logits and the largest of each group, to the last block.
struct Found {
    logits: *const f32,
    groups: *const u64,
    n: u32,
    n_groups: u32,
}

impl Found {
    /// Calls `each` with the largest keys of this thread's groups.
    #[inline(always)]
    unsafe fn each_group(&self, mut each: impl FnMut(u64)) {
        let mut first = thread::thread_idx_x();
        while first < self.n_groups {
            let mut keys = [NONE; GROUPS_AT_ONCE];
            unroll(
                GROUPS_AT_ONCE,
                #[inline(always)]
                |i| {
                    let group = first + i as u32 * BLOCK;
                    if group < self.n_groups {
                        keys[i] = unsafe { *self.groups.add(group as usize) };
                    }
                },
            );
            unroll(
                GROUPS_AT_ONCE,
                #[inline(always)]
                |i| each(keys[i]),
            );
            first += GROUPS_AT_ONCE as u32 * BLOCK;
        }
    }

    /// Calls `each` with the keys in this thread's groups that reach `bound`.
    #[inline(always)]
    unsafe fn each_key(&self, bound: u64, mut each: impl FnMut(u64)) {
        let mut group = thread::thread_idx_x();
        while group < self.n_groups {
            if unsafe { *self.groups.add(group as usize) } >= bound {
                let mut vector = group * (GROUP / 4);
                let end = vector + GROUP / 4;
                while vector < end {
                    let mut values = [[0.0; 4]; VECTORS_AT_ONCE];
                    unroll(
                        VECTORS_AT_ONCE,
                        #[inline(always)]
                        |i| {
                            values[i] = unsafe { load_four(self.logits, vector + i as u32, self.n) };
                        },
                    );
                    unroll(
                        VECTORS_AT_ONCE,
                        #[inline(always)]
                        |i| {
                            unroll(
                                4,
                                #[inline(always)]
                                |j| {
                                    let key = key(values[i][j], 4 * (vector + i as u32) + j as u32, self.n);
                                    if key >= bound {
                                        each(key);
                                    }
                                },
                            );
                        },
                    );
                    vector += VECTORS_AT_ONCE as u32;
                }
            }
            group += BLOCK;
        }
    }

    /// Gathers the keys that reach `bound`, as many as there is room for, and counts them all.
    #[inline(always)]
    unsafe fn gather(&self, bound: u64) {
        unsafe {
            self.each_key(
                bound,
                #[inline(always)]
                |key| {
                    let slot = top_k_count().add(0, 1);
                    if slot < GATHERED {
                        top_k_gathered().set_two(2 * slot, [key as u32, (key >> 32) as u32]);
                    }
                },
            );
        }
    }

    /// How many of all keys reach `bound`. Collective over the block.
    #[inline(always)]
    unsafe fn count(&self, bound: u64) -> u32 {
        let mut count = 0;
        unsafe {
            self.each_key(
                bound,
                #[inline(always)]
                |_| count += 1,
            );
            empty();
            thread::sync_threads();
            if count > 0 {
                top_k_count().add(0, count);
            }
            thread::sync_threads();
            top_k_count().get(0)
        }
    }
}

/// Nothing is gathered, and the count is zero; seen after the next barrier. Collective over the block.
#[inline(always)]
unsafe fn empty() {
    thread::sync_threads();
    unsafe {
        top_k_gathered().set_two(2 * thread::thread_idx_x(), [0; 2]);
        if thread::thread_idx_x() == 0 {
            top_k_count().set(0, 0);
        }
    }
}

/// The largest number that at least `k` reach, or a smaller one that exactly `k` do. `reaching` says how many reach a trial,
/// the same to every thread.
#[inline(always)]
fn kth_largest(k: u32, mut reaching: impl FnMut(u64) -> u32) -> u64 {
    let (mut bound, mut bit) = (NONE, 1 << 63);
    while bit > 0 {
        let trial = bound | bit;
        let count = reaching(trial);
        if count >= k {
            bound = trial;
        }
        if count == k {
            break;
        }
        bit >>= 1;
    }
    bound
}

/// Logits 4 · vector to 4 · vector + 3; what is past the end is 0.
#[inline(always)]
unsafe fn load_four(logits: *const f32, vector: u32, n: u32) -> [f32; 4] {
    let first = 4 * vector;
    let mut four = [0.0; 4];
    if first + 3 < n {
        let Vector16(bits) = unsafe { *logits.add(first as usize).cast::<Vector16>() };
        unroll(
            4,
            #[inline(always)]
            |i| four[i] = f32::from_bits(bits[i]),
        );
    } else {
        unroll(
            3,
            #[inline(always)]
            |i| {
                if first + (i as u32) < n {
                    four[i] = unsafe { *logits.add(first as usize + i) };
                }
            },
        );
    }
    four
}

/// A logit's key: its bits in an order of integers, above the complement of its id. [`NONE`] past the end.
#[inline(always)]
fn key(logit: f32, id: u32, n: u32) -> u64 {
    if id >= n {
        return NONE;
    }
    let logit = if logit.is_nan() { f32::from_bits(NAN_BITS) } else { logit + 0.0 };
    let bits = logit.to_bits();
    let ordered = bits ^ ((bits.cast_signed() >> 31).cast_unsigned() | 1 << 31);
    u64::from(ordered) << 32 | u64::from(!id)
}

/// The bits of the logit, from the upper half of its key.
#[inline(always)]
fn logit_bits(ordered: u32) -> u32 {
    if ordered >> 31 == 1 { ordered ^ 1 << 31 } else { !ordered }
}

/// A key from its lower and upper word.
#[inline(always)]
fn joined([low, high]: [u32; 2]) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// The key that the lane whose number differs by `distance` holds. Collective over the warp.
#[inline(always)]
fn shuffle_xor_key(key: u64, distance: u32) -> u64 {
    let low = warp::shuffle_xor_bits(key as u32, distance);
    let high = warp::shuffle_xor_bits((key >> 32) as u32, distance);
    joined([low, high])
}
