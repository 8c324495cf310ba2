//! Launches that may overlap: a chain of kernels, each but the first launched to start early (programmatic dependent
//! launch).
//!
//! On a GPU such a kernel may run while all those before it in the chain still do; `griddepcontrol.wait` is where that
//! ends. Here launches run one after another, so nothing would go wrong; instead, what each kernel of the chain wrote is
//! remembered, and a thread of an early kernel that reads any of it, or writes anything in global memory, before it has
//! waited, or a barrier has brought word of another thread that has, is reported. So is a grid none of whose threads
//! waits: it could end, and let its successor pass, before its predecessor has. Where all of a kernel's threads have waited before they let the
//! next one start, what was before that kernel is over by then, and the chain begins with it.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What a launch wrote: start and end of ranges of addresses, in order.
pub(crate) type Ranges = BTreeMap<u64, u64>;

/// The kernels of a chain so far, with what they wrote.
#[derive(Clone, Default)]
pub(crate) struct Chain {
    launches: Vec<Arc<(String, Ranges)>>,
    /// What any of them wrote, in order and apart: most reads are of none of it.
    all: Arc<Vec<(u64, u64)>>,
}

impl Chain {
    /// A kernel of the chain has run. What was before it is over for those behind it where it `ends_what_was_before`.
    pub(crate) fn push(&mut self, kernel: &str, written: Ranges, ends_what_was_before: bool) {
        if ends_what_was_before {
            *self = Chain::default();
        }
        let mut ranges: Vec<(u64, u64)> = written.iter().map(|(&start, &end)| (start, end)).collect();
        ranges.extend_from_slice(&self.all);
        ranges.sort_unstable();
        let mut all: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
        for (start, end) in ranges {
            match all.last_mut() {
                Some(last) if last.1 >= start => last.1 = last.1.max(end),
                _ => all.push((start, end)),
            }
        }
        self.all = Arc::new(all);
        self.launches.push(Arc::new((kernel.to_owned(), written)));
    }

    /// Whether a kernel of the chain wrote something from `start` to `end`.
    pub(super) fn wrote_within(&self, start: u64, end: u64) -> bool {
        let next = self.all.partition_point(|range| range.1 <= start);
        self.all.get(next).is_some_and(|range| range.0 < end)
    }

    /// The kernel of the chain that wrote some of these bytes last.
    pub(super) fn writer_of(&self, address: u64, bytes: u64) -> Option<&str> {
        let wrote =
            |ranges: &Ranges| ranges.range(..address + bytes).next_back().is_some_and(|(_, &end)| end > address);
        self.launches.iter().rev().find(|launch| wrote(&launch.1)).map(|launch| launch.0.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_writer_is_found() {
        let mut chain = Chain::default();
        chain.push("before", Ranges::from([(80, 104)]), false);
        chain.push("first", Ranges::from([(100, 200), (300, 304)]), true);
        chain.push("second", Ranges::from([(150, 160)]), false);
        assert_eq!(chain.writer_of(96, 4), None);
        assert_eq!(chain.writer_of(96, 8), Some("first"));
        assert_eq!(chain.writer_of(148, 4), Some("second"));
        assert_eq!(chain.writer_of(196, 4), Some("first"));
        assert_eq!(chain.writer_of(200, 100), None);
        assert_eq!(chain.writer_of(303, 16), Some("first"));
        assert_eq!(chain.writer_of(304, 16), None);
        for start in 90..320 {
            for bytes in [1, 4, 16, 120] {
                let wrote = chain.writer_of(start, bytes).is_some();
                assert_eq!(chain.wrote_within(start, start + bytes), wrote, "{bytes} bytes at {start}");
            }
        }
    }
}
