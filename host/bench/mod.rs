//! Measuring: how fast a model and each kernel run on this device, beside what its memory allows.
//!
//! On a GPU times count, and they are compared with peaks measured in the same process. On softcuda times mean nothing; there
//! the same runs are counted instead: launches, warp instructions, bytes.

mod bandwidth;
mod counters;
mod floor;
mod guessed;
pub mod kernels;
mod model;
mod parallel;
mod sample;
mod served;

pub use bandwidth::Peaks;
pub use counters::{Counts, recorded};
pub use floor::{cache_bytes, operations, weight_bytes};
pub use guessed::{Guessed, measure_guessed};
pub use model::{Measured, Test, Work, measure, measure_from, positions, tests};
pub use parallel::{Together, measure_together};
pub use sample::Sample;
pub use served::{Served, measure_served};
