//! Launches that may overlap: a chain of kernels, each but the first launched to start early (programmatic dependent
//! launch).
//!
//! On a GPU such a kernel may run while all those before it in the chain still do; `griddepcontrol.wait` is where that
//! ends. Here launches run one after another, so nothing would go wrong; instead, what each kernel of the chain wrote is
//! remembered, and a thread of an early kernel that reads any of it, or writes anything in global memory, before it has
//! waited, or a barrier has brought word of another thread that has, is reported. So is a grid none of whose threads
//! waits: it could end, and let its successor pass, before its predecessor has.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What a launch wrote: start and end of ranges of addresses, in order.
pub(crate) type Ranges = BTreeMap<u64, u64>;

/// The kernels of a chain so far, with what they wrote.
#[derive(Clone, Default)]
pub(crate) struct Chain(Vec<Arc<(String, Ranges)>>);

impl Chain {
    /// A kernel of the chain has run.
    pub(crate) fn push(&mut self, kernel: &str, written: Ranges) {
        self.0.push(Arc::new((kernel.to_owned(), written)));
    }

    /// The kernel of the chain that wrote some of these bytes last.
    pub(super) fn writer_of(&self, address: u64, bytes: u64) -> Option<&str> {
        let wrote =
            |ranges: &Ranges| ranges.range(..address + bytes).next_back().is_some_and(|(_, &end)| end > address);
        self.0.iter().rev().find(|launch| wrote(&launch.1)).map(|launch| launch.0.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_writer_is_found() {
        let mut chain = Chain::default();
        chain.push("first", Ranges::from([(100, 200), (300, 304)]));
        chain.push("second", Ranges::from([(150, 160)]));
        assert_eq!(chain.writer_of(96, 4), None);
        assert_eq!(chain.writer_of(96, 8), Some("first"));
        assert_eq!(chain.writer_of(148, 4), Some("second"));
        assert_eq!(chain.writer_of(196, 4), Some("first"));
        assert_eq!(chain.writer_of(200, 100), None);
        assert_eq!(chain.writer_of(303, 16), Some("first"));
        assert_eq!(chain.writer_of(304, 16), None);
    }
}
