//! Which launches may run beside each other: those that touch nothing that another of them writes.

use std::ops::Range;

use super::{Recorded, ahead};
use crate::gpu::kernels::quantised_len;

/// Device memory that a launch reads and writes, but for what no launch of a step writes.
struct Touched {
    reads: Vec<Range<u64>>,
    writes: Vec<Range<u64>>,
}

impl Touched {
    /// Of a product; of others nobody asks.
    fn of(launch: &Recorded) -> Option<Touched> {
        launch.kernel.starts_with("gemv_").then(|| {
            let (n_in, n_out) = (launch.word(12) as usize, launch.word(13) as usize);
            let range = |slot: usize, words: usize| {
                let start = launch.slot(slot);
                (start != 0).then(|| start..start + 4 * words as u64)
            };
            let reads = [range(3, n_in), range(4, quantised_len(n_in)), range(8, n_out)];
            let writes = [range(9, n_out), range(10, quantised_len(n_out))];
            Touched { reads: reads.into_iter().flatten().collect(), writes: writes.into_iter().flatten().collect() }
        })
    }

    /// Whether the two must not run beside each other.
    fn conflicts(&self, other: &Touched) -> bool {
        let meet =
            |a: &[Range<u64>], b: &[Range<u64>]| a.iter().any(|a| b.iter().any(|b| a.start < b.end && b.start < a.end));
        meet(&self.writes, &other.writes) || meet(&self.writes, &other.reads) || meet(&self.reads, &other.writes)
    }
}

/// Which launches are a stage, the first ones first: those in a row that may run beside each other.
fn stages(launches: &[Recorded]) -> Vec<Range<usize>> {
    let (mut stages, mut stage) = (Vec::<Range<usize>>::new(), Vec::<Option<Touched>>::new());
    for (index, launch) in launches.iter().enumerate() {
        let touched = Touched::of(launch);
        let fits =
            |touched: &Touched| stage.iter().all(|other| other.as_ref().is_some_and(|other| !touched.conflicts(other)));
        match stages.last_mut() {
            Some(last) if touched.as_ref().is_some_and(fits) => last.end = index + 1,
            _ => {
                stage.clear();
                stages.push(index..index + 1);
            }
        }
        stage.push(touched);
    }
    stages
}

/// For each launch, the parts of all launches in earlier stages.
pub(super) fn parts_before(launches: &[Recorded]) -> Vec<u32> {
    let (mut before, mut parts) = (Vec::new(), 0);
    for stage in stages(launches) {
        before.resize(stage.end, parts);
        parts += launches[stage].iter().map(Recorded::n_parts).sum::<u32>();
    }
    before
}

/// For each launch its share of `n_blocks`, by the bytes that it reads among those of its stage.
pub(super) fn shares(launches: &[Recorded], n_blocks: usize) -> Vec<usize> {
    let mut shares = Vec::new();
    for stage in stages(launches) {
        let bytes = launches[stage].iter().map(ahead::bytes_of).collect::<Vec<u64>>();
        let all = bytes.iter().sum::<u64>().max(1);
        let share = |bytes: u64| ((n_blocks as u64 * bytes + all / 2) / all).max(1) as usize;
        match bytes[..] {
            [_] => shares.push(n_blocks),
            _ => shares.extend(bytes.into_iter().map(share)),
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A product from `x` to `out`, with so many rows of 64 in F16, in so many parts.
    fn product(x: u64, out: u64, n_out: u64, parts: u32) -> Recorded {
        Recorded::of("gemv_f16", [parts, 1, 1], &[1 << 30, n_out, 0, x, 0, 0, 0, 0, 0, out, 0, 0, 64, n_out, 0, 1, 0])
    }

    #[test]
    fn products_of_one_input_are_a_stage() {
        let launches = [
            product(0x1000, 0x2000, 48, 3),
            product(0x1000, 0x2000 + 48 * 4, 16, 2),
            // Reads what both write.
            product(0x2000, 0x3000, 64, 4),
            // Writes what the one before reads.
            product(0x1000, 0x2000, 64, 4),
            Recorded::of("argmax", [5, 1, 1], &[0x2000]),
        ];
        assert_eq!(stages(&launches), [0..2, 2..3, 3..4, 4..5]);
        assert_eq!(parts_before(&launches), [0, 0, 5, 9, 13]);
        // By their bytes, three to one.
        assert_eq!(shares(&launches, 100), [75, 25, 100, 100, 100]);
    }
}
