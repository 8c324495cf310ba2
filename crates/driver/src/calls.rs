//! How often each entry point was called by this thread.
//!
//! A count is kept for every `cu*` and `cublas*` entry point that this project calls, on every backend, whether the call
//! succeeded or not. The
//! counts are per thread, so that a test may say "this token step allocates nothing" while other tests run beside it:
//!
//! ```
//! let before = driver::calls::counts();
//! // ... a token step ...
//! let step = driver::calls::counts().since(&before);
//! assert_eq!((step.allocations(), step.frees(), step.synchronisations()), (0, 0, 0));
//! ```
//!
//! Calls that cuBLAS itself makes into the driver are not seen here: they do not pass through this crate.

use std::fmt;

use crate::class::Class;
use crate::cublas::table as cublas;
use crate::sys;

const DRIVER: usize = sys::NAMES.len();
const ENTRY_POINTS: usize = DRIVER + cublas::NAMES.len();

fn name_of(entry: usize) -> &'static str {
    if entry < DRIVER { sys::NAMES[entry] } else { cublas::NAMES[entry - DRIVER] }
}

fn class_of(entry: usize) -> Class {
    if entry < DRIVER { sys::CLASSES[entry] } else { cublas::CLASSES[entry - DRIVER] }
}

/// This thread's calls up to now.
pub fn counts() -> CallCounts {
    let count = |entry| if entry < DRIVER { sys::calls_of(entry) } else { cublas::calls_of(entry - DRIVER) };
    CallCounts { counts: std::array::from_fn(count) }
}

/// A number of calls for each entry point.
#[derive(Clone, PartialEq, Eq)]
pub struct CallCounts {
    counts: [u64; ENTRY_POINTS],
}

impl CallCounts {
    /// The calls between an earlier reading on the same thread and this one.
    pub fn since(&self, earlier: &CallCounts) -> CallCounts {
        CallCounts { counts: std::array::from_fn(|entry| self.counts[entry].saturating_sub(earlier.counts[entry])) }
    }

    /// The calls of one entry point, by the name the linker sees, such as `cuMemAlloc_v2`.
    ///
    /// # Panics
    /// Where there is no entry point of that name: a count of 0 for a misspelt name would prove nothing.
    pub fn of(&self, name: &str) -> u64 {
        (0..ENTRY_POINTS)
            .find(|&entry| name_of(entry) == name)
            .map(|entry| self.counts[entry])
            .unwrap_or_else(|| panic!("the driver crate has no entry point named {name}"))
    }

    /// (name, calls) of every entry point that was called.
    pub fn called(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        (0..ENTRY_POINTS).filter(|&entry| self.counts[entry] > 0).map(|entry| (name_of(entry), self.counts[entry]))
    }

    /// All calls together.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Allocations of device memory and of page-locked host memory.
    pub fn allocations(&self) -> u64 {
        self.sum(&[Class::Allocate])
    }

    /// Frees of device memory and of page-locked host memory.
    pub fn frees(&self) -> u64 {
        self.sum(&[Class::Free])
    }

    /// Kernel launches, ordinary and cooperative. The kernels of a graph are launched with it, by one call.
    pub fn launches(&self) -> u64 {
        self.sum(&[Class::Launch])
    }

    /// Launches of graphs.
    pub fn graph_launches(&self) -> u64 {
        self.sum(&[Class::LaunchGraph])
    }

    /// Matrix products handed to cuBLAS.
    pub fn matmuls(&self) -> u64 {
        self.sum(&[Class::Multiply])
    }

    /// Calls that make the host wait for the device: synchronisation of a context, stream or event, and the copies
    /// between host and device that are not `Async`.
    pub fn synchronisations(&self) -> u64 {
        self.sum(&[Class::Wait, Class::CopyAndWait])
    }

    /// Copies, in whichever direction, waited for or not.
    pub fn copies(&self) -> u64 {
        self.sum(&[Class::Copy, Class::CopyAndWait])
    }

    /// Fills of memory (`cuMemset*`).
    pub fn fills(&self) -> u64 {
        self.sum(&[Class::Fill])
    }

    fn sum(&self, classes: &[Class]) -> u64 {
        (0..ENTRY_POINTS).filter(|&entry| classes.contains(&class_of(entry))).map(|entry| self.counts[entry]).sum()
    }
}

/// The entry points that were called, each with its count.
impl fmt::Debug for CallCounts {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_map().entries(self.called()).finish()
    }
}
