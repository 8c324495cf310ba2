//! What the memory can do: reading and copying as fast as the device allows, for other kernels' times to be compared with.
//!
//! Both are grid-stride loops over 16-byte vectors: neighbouring threads take neighbouring vectors, and each thread has
//! several loads in flight before it uses the first. The grid is meant to fill the device once.

use cuda_std::{
    kernel,
    memory::{Vector16, load_streaming_16},
    thread, warp,
};

/// The block's number of threads.
pub const BLOCK: u32 = 256;

/// 16-byte loads a thread has in flight.
const IN_FLIGHT: usize = 8;

/// Calls `each` with the vectors of this thread's part of `n_vectors`, and their numbers.
#[inline(always)]
unsafe fn stream(data: *const u32, n_vectors: u64, mut each: impl FnMut(usize, [u32; 4])) {
    let data = data.cast::<Vector16>();
    let (n_vectors, stride) = (n_vectors as usize, (thread::grid_dim_x() * BLOCK) as usize);
    let mut vector = thread::index_1d() as usize;
    while vector + stride * (IN_FLIGHT - 1) < n_vectors {
        let mut loaded = [[0; 4]; IN_FLIGHT];
        let mut load = 0;
        while load < IN_FLIGHT {
            loaded[load] = unsafe { load_streaming_16(data.add(vector + stride * load)) };
            load += 1;
        }
        load = 0;
        while load < IN_FLIGHT {
            each(vector + stride * load, loaded[load]);
            load += 1;
        }
        vector += stride * IN_FLIGHT;
    }
    while vector < n_vectors {
        each(vector, unsafe { load_streaming_16(data.add(vector)) });
        vector += stride;
    }
}

/// parts[warp of the grid] = the exclusive or of all words that the warp read; together the warps read all of `data`.
///
/// Launch: grid (any), block ([`BLOCK`]).
///
/// # Safety
/// - `data` is `[n_vectors][4]`, 16-byte aligned; `parts` is `[grid · BLOCK / 32]`.
#[kernel]
pub unsafe fn bandwidth_read(data: *const u32, parts: *mut u32, n_vectors: u64) {
    let mut words = [0; 4];
    let fold = |_: usize, [a, b, c, d]: [u32; 4]| {
        words = [words[0] ^ a, words[1] ^ b, words[2] ^ c, words[3] ^ d];
    };
    unsafe { stream(data, n_vectors, fold) }
    let mut part = (words[0] ^ words[1]) ^ (words[2] ^ words[3]);
    let mut distance = 16;
    while distance > 0 {
        part ^= warp::shuffle_xor_bits(part, distance);
        distance /= 2;
    }
    if thread::lane() == 0 {
        unsafe { *parts.add((thread::index_1d() / 32) as usize) = part }
    }
}

/// out = data.
///
/// Launch: grid (any), block ([`BLOCK`]).
///
/// # Safety
/// - `data` and `out` are `[n_vectors][4]`, 16-byte aligned, and do not overlap.
#[kernel]
pub unsafe fn bandwidth_copy(data: *const u32, out: *mut u32, n_vectors: u64) {
    let out = out.cast::<Vector16>();
    unsafe { stream(data, n_vectors, |vector, words| *out.add(vector) = Vector16(words)) }
}
