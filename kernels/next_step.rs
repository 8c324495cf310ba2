//! What a decoding step is given when it goes on with the choices of the one before it: nothing of that passes through the host, so it can be enqueued
//! before anybody has read a choice.

use cuda_std::{grid, kernel, thread};

/// The most rows of a step: each is a thread's.
pub const MAX_ROWS: u32 = 1024;

/// `input` is `[3][n_before]`: tokens, positions and sequences of the last step's rows. It becomes `[3][n_all]`, of row `places[row]` the one that follows, and
/// from row n on the last one again, its token being that row's choice in `best`, or the vocabulary's last one where there is no choice: then what comes of the row is nobody's. `choices`, the
/// host's memory, gets what was chosen.
///
/// Launch: grid (1), block (at least n_all, at most [`MAX_ROWS`]).
///
/// # Safety
/// - `best` is `[n_before]`; `places` is `[n]` below `n_before`, or null for rows that stay in their places; `1 ≤ n ≤ n_before`, `n ≤ n_all`.
/// - `input` has room for `3 · n_before` and `3 · n_all`, `choices` for `n`.
#[kernel(threads = 1024, blocks = 1)]
pub unsafe fn next_step(
    best: *const u32,
    places: *const u32,
    input: *mut u32,
    choices: *mut u32,
    last_token: u32,
    n_before: u32,
    n: u32,
    n_all: u32,
) {
    grid::launch_dependents();
    grid::wait();
    let row = thread::thread_idx_x();
    // Who has no row of the last step has the last one; so a warp comes to the barrier as one too.
    let within = u32::min(row, n - 1);
    let place = if places.is_null() { within } else { unsafe { *places.add(within as usize) } };
    let (choice, position, sequence) = unsafe {
        (
            *best.add(place as usize),
            *input.add((n_before + place) as usize) + 1,
            *input.add((2 * n_before + place) as usize),
        )
    };
    // All rows are read before one is written.
    thread::sync_threads();
    if row < n_all {
        unsafe {
            *input.add(row as usize) = u32::min(choice, last_token);
            *input.add((n_all + row) as usize) = position;
            *input.add((2 * n_all + row) as usize) = sequence;
        }
    }
    if row < n {
        unsafe { *choices.add(row as usize) = choice }
    }
}
