//! What an entry point counts as, and the counters that the lists of entry points keep.

use std::cell::Cell;

/// What an entry point counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// None of the below.
    Plain,
    /// Loads or unloads kernels.
    Module,
    /// Takes device or page-locked memory.
    Allocate,
    /// Gives memory back.
    Free,
    /// Starts a kernel.
    Launch,
    /// Starts a graph.
    LaunchGraph,
    /// Starts a matrix product of cuBLAS.
    Multiply,
    /// Makes the host wait for the device.
    Wait,
    /// Copies memory, in stream order.
    Copy,
    /// Copies memory and makes the host wait for it.
    CopyAndWait,
    /// Fills memory with a value.
    Fill,
}

/// How often each of `N` entry points was called by a thread.
pub(crate) struct Counters<const N: usize>([Cell<u64>; N]);

impl<const N: usize> Counters<N> {
    pub(crate) const fn new() -> Counters<N> {
        Counters([const { Cell::new(0) }; N])
    }

    /// Counts a call of the entry point with this index.
    pub(crate) fn add(&self, entry: usize) {
        self.0[entry].set(self.0[entry].get() + 1);
    }

    /// The calls of the entry point with this index.
    pub(crate) fn get(&self, entry: usize) -> u64 {
        self.0[entry].get()
    }
}
