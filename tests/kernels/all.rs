//! Every kernel against its definition in `f64`, on the device that `FERROWARP_DEVICE` names (softcuda where it is not
//! set and there is no GPU), on softcuda under the sanitizer.
//!
//! The inputs are random; a failure prints the seed, and `FERROWARP_SEED` runs it again. Outputs are poisoned first, with
//! a margin behind them that must stay poisoned: a value that is not written, or written where it should not be, fails.
//!
//! A package of its own, so that a test that changes does not have the program built again.
//!
//! With `FERROWARP_LAUNCHED` naming a file the tests write there which kernels they launched; the ignored test, run
//! afterwards, fails where one of the registered kernels is not among them.

// A file in this folder is a module: build.rs lists them.
include!(concat!(env!("OUT_DIR"), "/tests.rs"));
