//! Live handles of one kind.
//!
//! A handle is a number that was never used before, dressed as a pointer. Numbers run over all kinds together, so a
//! stream's handle is not an event's, and a stale handle stays stale.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Failure;
use crate::sys::CUDA_ERROR_INVALID_HANDLE;

/// The next handle. It starts past the handles that `cuda.h` gives a meaning (null, legacy and per-thread streams).
static NEXT: AtomicUsize = AtomicUsize::new(0x1000);

/// The live handles of one kind and what they stand for.
pub(crate) struct Registry<T> {
    kind: &'static str,
    live: Mutex<BTreeMap<usize, Arc<T>>>,
}

impl<T> Registry<T> {
    /// An empty registry; `kind` is the word for messages.
    pub const fn new(kind: &'static str) -> Self {
        Registry { kind, live: Mutex::new(BTreeMap::new()) }
    }

    fn live(&self) -> MutexGuard<'_, BTreeMap<usize, Arc<T>>> {
        // A panic elsewhere leaves the map itself whole.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a handle for a value.
    pub fn insert(&self, value: T) -> *mut c_void {
        let handle = NEXT.fetch_add(0x10, Ordering::Relaxed);
        self.live().insert(handle, Arc::new(value));
        std::ptr::without_provenance_mut(handle)
    }

    /// What a handle stands for.
    pub fn get(&self, handle: *mut c_void) -> Result<Arc<T>, Failure> {
        self.live().get(&handle.addr()).cloned().ok_or_else(|| self.unknown(handle))
    }

    /// Ends a handle.
    pub fn remove(&self, handle: *mut c_void) -> Result<Arc<T>, Failure> {
        self.live().remove(&handle.addr()).ok_or_else(|| self.unknown(handle))
    }

    /// Ends every handle whose value is not to be kept.
    pub fn retain(&self, keep: impl Fn(&T) -> bool) {
        self.live().retain(|_, value| keep(value));
    }

    fn unknown(&self, handle: *mut c_void) -> Failure {
        Failure::new(CUDA_ERROR_INVALID_HANDLE, format!("{handle:p} is not the handle of a live {}", self.kind))
    }
}
