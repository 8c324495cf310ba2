//! The CUDA driver's entry points, served by an NVIDIA driver or by softcuda.
//!
//! cust, the host wrapper, is linked against some hundred `cu*` symbols. This crate defines them. Each forwards through
//! a table that [`select`] fills once per process, either with the functions of the system's `libcuda.so.1`, opened at
//! run time, or with functions that drive softcuda, the software CUDA device. So one binary, built without a CUDA
//! toolkit and without a link to libcuda, runs on a GPU where there is one and on the CPU where there is none:
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let backend = driver::select(driver::DeviceChoice::Soft)?;
//! assert_eq!(backend, driver::Backend::Soft);
//! // From here on cust works: cust::quick_init()?, Module::from_ptx(..)?, launch!(..)
//! # Ok(())
//! # }
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`sys`] | the entry points, in one list, and the types and result codes they use |
//! | [`calls`] | how often each was called by this thread |
//! | [`captures`] | keeping captures apart from calls that wait for the whole device |
//! | [`soft`] | the entry points over softcuda; the device itself, for its sanitizer and counters |
//! | [`cublas`] | matrix products, by cuBLAS opened at run time or by the `gemm` crate |
//!
//! A failing call gives cust a `CUresult`, which is a number. [`last_error`] has the sentence that goes with it.

pub mod calls;
pub mod captures;
mod class;
pub mod cublas;
mod error;
mod libcuda;
mod probe;
pub mod soft;
pub mod sys;

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, OnceLock, PoisonError};

pub use error::{Attempt, ParseDeviceError, SelectError, last_error, observe};
pub use probe::{CublasProbe, GpuInfo, LibcudaProbe, Probe, probe};

/// The device that a user asks for, as `auto`, `cuda` or `soft`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The GPU where there is a usable one, otherwise softcuda.
    #[default]
    Auto,
    /// The GPU. An error where there is none.
    Cuda,
    /// softcuda.
    Soft,
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            DeviceChoice::Auto => "auto",
            DeviceChoice::Cuda => "cuda",
            DeviceChoice::Soft => "soft",
        })
    }
}

impl FromStr for DeviceChoice {
    type Err = ParseDeviceError;

    fn from_str(text: &str) -> Result<Self, ParseDeviceError> {
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cuda" => Ok(DeviceChoice::Cuda),
            "soft" => Ok(DeviceChoice::Soft),
            _ => Err(ParseDeviceError { found: text.to_owned() }),
        }
    }
}

/// What serves the entry points in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// An NVIDIA GPU, through `libcuda.so.1`.
    Cuda,
    /// softcuda, on the CPU.
    Soft,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Backend::Cuda => "cuda",
            Backend::Soft => "soft",
        })
    }
}

static BACKEND: OnceLock<Backend> = OnceLock::new();

/// Chooses what serves the entry points, once per process.
///
/// `Auto` takes the GPU where a `libcuda.so.1` opens, `cuInit` succeeds and at least one device is there, otherwise
/// softcuda. A later call whose choice the first backend satisfies (`Auto` is satisfied by either) returns that backend.
///
/// # Errors
/// - [`SelectError::NoGpu`]: `Cuda` was asked for and there is no usable GPU; it lists every place looked at.
/// - [`SelectError::DeviceCount`]: softcuda was chosen, and the variable `SOFTCUDA_DEVICES` is no number of devices.
/// - [`SelectError::AlreadySelected`]: the process runs on the other backend.
pub fn select(choice: DeviceChoice) -> Result<Backend, SelectError> {
    static SELECTING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = SELECTING.lock().unwrap_or_else(PoisonError::into_inner);

    if let Some(&selected) = BACKEND.get() {
        return match (choice, selected) {
            (DeviceChoice::Auto, _) | (DeviceChoice::Cuda, Backend::Cuda) | (DeviceChoice::Soft, Backend::Soft) => {
                Ok(selected)
            }
            _ => Err(SelectError::AlreadySelected { selected, asked: choice }),
        };
    }
    let selected = match choice {
        DeviceChoice::Soft => Backend::Soft,
        DeviceChoice::Cuda | DeviceChoice::Auto => {
            let search = libcuda::search();
            match (&search.usable, choice) {
                (Some(library), _) => {
                    sys::fill(&library.table);
                    Backend::Cuda
                }
                (None, DeviceChoice::Cuda) => {
                    return Err(SelectError::NoGpu { attempts: search.attempts.clone() });
                }
                (None, _) => Backend::Soft,
            }
        }
    };
    if selected == Backend::Soft {
        soft::start()?;
        sys::fill(&sys::SOFT);
    }
    Ok(*BACKEND.get_or_init(|| selected))
}

/// The backend that [`select`] chose, or `None` before it.
pub fn backend() -> Option<Backend> {
    BACKEND.get().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_choices_read_back_as_written() {
        for choice in [DeviceChoice::Auto, DeviceChoice::Cuda, DeviceChoice::Soft] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        let error = "gpu".parse::<DeviceChoice>().unwrap_err();
        assert_eq!(error.to_string(), "device \"gpu\" is not known; expected auto, cuda or soft");
    }
}
