//! What was found in a launch: the first fault of each place, up to a limit, so that one run shows what there is.

use super::Sanitizer;
use crate::fault::Fault;

/// Faults of a launch that are kept; the launch ends at the last.
const MOST_FAULTS: usize = 16;

/// Instructions that a host thread runs after the first fault: what follows works on wrong values and may never end.
pub(crate) const AFTER_A_FAULT: u64 = 1 << 24;

impl Sanitizer {
    /// Keeps a fault unless its place has one of its kind already. Says whether the launch may go on.
    pub(crate) fn keep(&mut self, fault: Fault) -> bool {
        let place = |fault: &Fault| (fault.kind(), fault.location().map(|at| at.line));
        if !self.faults.iter().any(|known| place(known) == place(&fault)) {
            self.faults.push(fault);
        }
        self.faults.len() < MOST_FAULTS
    }

    /// The first that was found.
    pub(crate) fn first(&self) -> Option<Fault> {
        self.faults.first().cloned()
    }

    /// The first fault with the others that were kept behind it, `last` among them, which ended the launch.
    pub(crate) fn verdict(&mut self, last: Option<Fault>) -> Option<Fault> {
        if let Some(last) = last {
            self.keep(last);
        }
        let mut faults = std::mem::take(&mut self.faults).into_iter();
        let first = faults.next()?;
        Some(first.with_others(faults.collect()))
    }
}
