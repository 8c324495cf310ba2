//! What the test files share: the device under test, a context on it, and random values.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::env;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cust::context::Context;
use driver::{Backend, DeviceChoice};

/// The device that `FERROWARP_DEVICE` names, softcuda where it is unset.
fn choice() -> DeviceChoice {
    match env::var("FERROWARP_DEVICE") {
        Ok(name) => name.parse().unwrap_or_else(|error| panic!("FERROWARP_DEVICE: {error}")),
        Err(_) => DeviceChoice::Soft,
    }
}

/// A test's turn on the device, with its context current on this thread. The tests of one process take turns because
/// they look at the same device memory.
pub struct Turn {
    pub context: Context,
    pub backend: Backend,
    _guard: MutexGuard<'static, ()>,
}

/// Waits for this test's turn on the device that `FERROWARP_DEVICE` names, softcuda where it is unset. Asking for a GPU
/// that is not there fails.
pub fn turn() -> Turn {
    turn_on(choice())
}

/// Waits for this test's turn on a device.
pub fn turn_on(choice: DeviceChoice) -> Turn {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed has poisoned the lock; the others go on.
    let guard = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let backend = driver::select(choice).unwrap_or_else(|error| panic!("{error}"));
    let context = cust::quick_init().unwrap_or_else(|error| panic!("{error}: {:?}", driver::last_error()));
    Turn { context, backend, _guard: guard }
}

/// Random values from a seed that the test prints (SplitMix64, Steele et al. 2014).
pub struct Random(u64);

impl Random {
    #[allow(clippy::print_stdout)] // a test says what it measured
    pub fn new(seed: u64) -> Self {
        println!("random seed {seed:#x}");
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in -1 to 1.
    pub fn value(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.value()).collect()
    }
}
