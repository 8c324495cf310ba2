//! What is read ahead, and when.
//!
//! All that a step reads once, weights above all, is a sequence of ranges, in the order of the launches. Where blocks come to a
//! phase they bring what lies in a *window* of this sequence into the L2 cache, as far as that was not done at an earlier
//! phase: from the phase's own first byte on. So while blocks wait and compute, memory is busy with what comes next; and
//! where phases are long, each phase's first megabytes are there when it begins, and it reads the rest for itself.

use std::ops::Range;

use kernels::persistent::MAX_SPANS;

use super::Recorded;
use crate::gpu::kernels::planes_of_kernel;

/// Bytes of the window. On an H200 more is no gain: what blocks have in registers before they may begin keeps the memory busy while
/// they wait, the cache gives the rest little faster than the memory does, and the words that blocks wait for queue behind it.
const WINDOW: u64 = 1 << 20;

/// Bytes that a block fetches of a span at least.
const PIECE: u64 = 1024;

/// A range that the blocks of the grid fetch together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Where it begins: a multiple of 16.
    pub(super) address: u64,
    /// What each block fetches, in bytes: a multiple of 16.
    pub(super) piece: u32,
    /// Bytes in all: a multiple of 16.
    pub(super) bytes: u32,
}

impl Span {
    fn new(range: &Range<u64>, n_blocks: usize) -> Span {
        let bytes = range.end - range.start;
        let piece = bytes.div_ceil(n_blocks as u64).next_multiple_of(128).max(PIECE);
        Span { address: range.start, piece: piece as u32, bytes: bytes as u32 }
    }
}

/// What a product reads that no launch writes: rows of each plane, and the weights of the norm and the bias.
fn ranges_of(launch: &Recorded) -> Vec<Range<u64>> {
    if !launch.kernel.starts_with("gemv_") {
        return Vec::new();
    }
    let (n_in, n_out, to_up) = (u64::from(launch.word(12)), u64::from(launch.word(13)), u64::from(launch.word(14)));
    let (first_row, n_blocks) = (u64::from(launch.word(2)), u64::from(launch.word(1)));
    let (elements, planes) = planes_of_kernel(launch.kernel);
    let mut ranges = Vec::new();
    for slot in [5, 7] {
        let start = launch.slot(slot);
        if start != 0 {
            ranges.push(start..start + 4 * if slot == 5 { n_in } else { n_out });
        }
    }
    let mut plane = launch.slot(0);
    for size in planes {
        let row = n_in / elements as u64 * size as u64;
        // With SwiGLU, the gate's rows and then those of the up projection.
        for first in if to_up == 0 { vec![first_row] } else { vec![first_row, first_row + to_up] } {
            ranges.push(plane + first * row..plane + (first + n_out) * row);
        }
        plane += n_blocks * size as u64;
    }
    // Whole 16 bytes, all of them within.
    let inner = |range: Range<u64>| range.start.next_multiple_of(16)..range.end / 16 * 16;
    ranges.into_iter().map(inner).filter(|range| range.start < range.end).collect()
}

/// Bytes that a launch reads and none writes.
pub(super) fn bytes_of(launch: &Recorded) -> u64 {
    ranges_of(launch).iter().map(|range| range.end - range.start).sum()
}

/// What is fetched at each launch.
pub(super) fn spans(launches: &[Recorded], n_blocks: usize) -> Vec<Vec<Span>> {
    // Where in the sequence of bytes each launch begins, and the ranges with their places in it.
    let (mut starts, mut sequence, mut length) = (Vec::new(), Vec::new(), 0);
    for launch in launches {
        starts.push(length);
        for range in ranges_of(launch) {
            sequence.push((length, range.clone()));
            length += range.end - range.start;
        }
    }
    let mut done = 0;
    let mut next = 0;
    let mut spans = Vec::new();
    for start in starts {
        done = start.max(done);
        let end = length.min(start + WINDOW);
        let mut here = Vec::new();
        while done < end && here.len() < MAX_SPANS as usize {
            let (at, range) = &sequence[next];
            let after = at + (range.end - range.start);
            if after <= done {
                next += 1;
                continue;
            }
            let stop = after.min(at + (end - at).next_multiple_of(16));
            let part = range.start + (done - at)..range.start + (stop - at);
            here.push(Span::new(&part, n_blocks));
            done = stop;
        }
        spans.push(here);
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A product of F16 weights at an address, without a norm or a bias.
    fn product(weights: u64, n_out: u64, n_in: u64) -> Recorded {
        Recorded::of("gemv_f16", [1, 1, 1], &[weights, n_out, 0, 1, 0, 0, 0, 0, 0, 2, 0, 0, n_in, n_out, 0, 1, 0])
    }

    #[test]
    fn each_byte_of_the_windows_is_fetched_once_and_in_time() {
        // A small matrix, one that is longer than the window, and two more.
        let sizes = [(1u64 << 30, 64, 64), (2 << 30, 4096, 4096), (3 << 30, 100, 512), (4 << 30, 64, 512)];
        let launches: Vec<Recorded> =
            sizes.iter().map(|(weights, n_out, n_in)| product(*weights, *n_out, *n_in)).collect();
        let fetched = spans(&launches, 264);
        let of = |launch: usize| fetched[launch].iter().map(|span| (span.address, span.bytes)).collect::<Vec<_>>();
        let bytes = |index: usize| (sizes[index].1 * sizes[index].2 * 2) as u32;
        // At the first: itself and what the window has of the second. Then the second's next bytes, as far as a window from its start.
        let ahead = WINDOW as u32 - bytes(0);
        assert_eq!(of(0), [(1 << 30, bytes(0)), (2 << 30, ahead)]);
        assert_eq!(of(1), [((2 << 30) + u64::from(ahead), bytes(0))]);
        // The rest of the second it reads for itself.
        assert_eq!(of(2), [(3 << 30, bytes(2)), (4 << 30, bytes(3))]);
        assert!(of(3).is_empty());
        for span in fetched.iter().flatten() {
            assert!(span.address % 16 == 0 && span.bytes % 16 == 0 && span.piece % 128 == 0, "{span:?}");
            assert!(u64::from(span.piece) * 264 >= u64::from(span.bytes), "{span:?} is fetched whole");
        }
    }
}
