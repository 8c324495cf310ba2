//! Keeping captures apart from calls that wait for the whole device.
//!
//! While a stream captures, no thread may wait for its context or device: the call fails, and the capture is worth nothing
//! (CUDA C++ Programming Guide, "Prohibited and Unhandled Operations" of stream capture). The capture's mode does not matter;
//! it says which calls that merely might be unsafe are refused, and to whom. cuBLAS waits for the device when a handle is
//! destroyed, and says of making one that it allocates there: so a thread that ends its work could break what another
//! captures. (llama.cpp met this too: its pull request 14288.)
//!
//! Whoever captures holds a [`Capturing`] meanwhile; whoever makes such a call holds a [`Waiting`], for which
//! [`cublas::Handle`](crate::cublas::Handle) takes care of its own. Each waits for the other.

use std::cell::Cell;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static CAPTURES: RwLock<()> = RwLock::new(());

thread_local! {
    static CAPTURES_HERE: Cell<usize> = const { Cell::new(0) };
}

/// A capture goes on: until this is dropped, no other thread waits for the whole device.
#[must_use]
pub struct Capturing(#[allow(dead_code, reason = "held for its drop")] Option<RwLockReadGuard<'static, ()>>);

/// A call may wait for the whole device: until this is dropped, no other thread captures.
#[must_use]
pub struct Waiting(#[allow(dead_code, reason = "held for its drop")] Option<RwLockWriteGuard<'static, ()>>);

/// To be held from before a capture begins until after it ended.
pub fn capturing() -> Capturing {
    // Within a capture of its own the thread has the lock.
    let is_first = CAPTURES_HERE.replace(CAPTURES_HERE.get() + 1) == 0;
    Capturing(is_first.then(|| CAPTURES.read().unwrap_or_else(PoisonError::into_inner)))
}

impl Drop for Capturing {
    fn drop(&mut self) {
        CAPTURES_HERE.set(CAPTURES_HERE.get() - 1);
    }
}

/// To be held over a call that may wait for the whole device. In the middle of the thread's own capture it does not wait for
/// that capture's end, which would never come: the driver refuses the call.
pub fn waiting() -> Waiting {
    let is_free = CAPTURES_HERE.get() == 0;
    Waiting(is_free.then(|| CAPTURES.write().unwrap_or_else(PoisonError::into_inner)))
}
