//! Profiles of GPU kernels by source line, without a GPU.
//!
//! softcuda counts what each instruction of a kernel does, exactly, where `SOFTCUDA_PROFILE` names a folder. [`Report::read`]
//! reads such a folder and sums the counts by line of source; [`Report::assemble`] adds what `ptxas` says of registers, and
//! with it how many warps a multiprocessor holds; [`Roofline`] compares with what a [`Card`] can do. Nothing here is a
//! time, but for the `times` that `warp_test` measures where there is a GPU.
//!
//! | module | holds |
//! |---|---|
//! | `counts` | the files of a folder, as softcuda writes them |
//! | `kernel` | counts summed by line, and what a kernel is limited by |
//! | `advice` | a sentence for a line that costs more than it need |
//! | `assembler` | `ptxas`: found, fetched, run |
//! | `cards` | what cards can do; occupancy |
//! | `table`, `page` | how it is shown |

mod advice;
mod assembler;
mod cards;
mod counts;
mod kernel;
mod page;
mod table;

pub use assembler::{Assembled, Assembler};
pub use cards::{CARDS, Card, Limiter, Occupancy, Roofline, card};
pub use kernel::{Kernel, Launch, Line, Numbers, Report, Time};
pub use page::page;
pub use table::table;

use std::path::PathBuf;

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's text is its documentation
pub enum ProfileError {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}; the file is not what this version of softcuda writes")]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("card {name:?} is not known; expected one of {known}")]
    Card { name: String, known: String },
    #[error("NVIDIA's ptxas cannot be had: {0}")]
    Assembler(String),
}
