//! Which kernels were launched: what a test run must be able to say of itself.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashSet},
    sync::{Mutex, PoisonError},
};

static LAUNCHED: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

thread_local! {
    /// Those that this thread has put into the set above: the usual launch asks nobody else.
    static KNOWN: RefCell<HashSet<&'static str>> = RefCell::default();
}

/// Remembers that a kernel was launched, or captured to be launched.
pub fn note(kernel: &'static str) {
    KNOWN.with_borrow_mut(|known| {
        if known.insert(kernel) {
            LAUNCHED.lock().unwrap_or_else(PoisonError::into_inner).insert(kernel);
        }
    });
}

/// The names of all kernels that this process has launched, whatever became of them.
pub fn launched() -> BTreeSet<&'static str> {
    LAUNCHED.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
