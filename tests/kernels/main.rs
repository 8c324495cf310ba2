//! Every kernel against its definition in `f64`, on the device that `FERROWARP_DEVICE` names (softcuda where it is not
//! set and there is no GPU), on softcuda under the sanitizer.
//!
//! The inputs are random; a failure prints the seed, and `FERROWARP_SEED` runs it again. Outputs are poisoned first, with
//! a margin behind them that must stay poisoned: a value that is not written, or written where it should not be, fails.

mod argmax;
mod attention;
mod attention_decode;
mod blocks;
mod cache;
mod embedding;
mod experts;
mod gemv;
mod graph;
mod matmul;
mod rmsnorm;
mod rope;
mod support;
mod swiglu;
