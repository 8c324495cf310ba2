//! The text behind the last failure, and the errors of choosing a device.

use std::cell::RefCell;
use std::fmt;
use std::sync::OnceLock;

use crate::sys::CUresult;
use crate::{Backend, DeviceChoice};

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Who is told of failures as they happen.
static OBSERVER: OnceLock<fn(CUresult, &str)> = OnceLock::new();

/// Has a function told the code and the text of every `cu*` call that softcuda fails, on the thread that made it: for a
/// process whose program does not ask for [`last_error`]. The first call holds.
pub fn observe(observer: fn(CUresult, &str)) {
    OBSERVER.get_or_init(|| observer);
}

/// Tells of a failing call of softcuda's, and keeps the text behind it.
pub(crate) fn report(result: CUresult, text: String) {
    if let Some(observer) = OBSERVER.get() {
        observer(result, &text);
    }
    record(text);
}

/// Keeps the text behind a failing call for [`last_error`].
pub(crate) fn record(text: String) {
    LAST.with(|last| *last.borrow_mut() = Some(text));
}

/// The text behind the last call on this thread that failed, or `None` where none has.
///
/// It names the entry point, the `CUresult` or cuBLAS status, and the cause as far as the backend knows it: softcuda's
/// fault with kernel, PTX line, block and thread; the compiler's log for PTX that does not compile; the entry point
/// that a backend does not have. A call that succeeds leaves the text as it is. `CUDA_ERROR_NOT_READY` is an answer,
/// not a failure.
pub fn last_error() -> Option<String> {
    LAST.with(|last| last.borrow().clone())
}

/// A place where a library was looked for, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The file name or path that the loader was asked for, or the environment variable that names it.
    pub place: String,
    /// Whether the library there can be used.
    pub usable: bool,
    /// What the loader or the library said.
    pub said: String,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.said)
    }
}

/// The attempts as lines, each with an indent of two spaces and a line break before it.
pub(crate) struct Lines<'a>(pub &'a [Attempt]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.iter().try_for_each(|attempt| write!(f, "\n  {attempt}"))
    }
}

/// Why [`crate::select`] did not give a backend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// The NVIDIA driver was asked for and no place has a usable one.
    #[error(
        "device cuda: no usable NVIDIA GPU on this machine; install the NVIDIA driver, or ask for device soft or auto. Looked at:{}",
        Lines(attempts)
    )]
    NoGpu {
        /// Every place looked at.
        attempts: Vec<Attempt>,
    },
    /// `SOFTCUDA_DEVICES` says no number of devices.
    #[error("SOFTCUDA_DEVICES is {found:?}; expected a number from 1 to {}", softcuda::Device::MOST)]
    DeviceCount {
        /// Its value.
        found: String,
    },
    /// The process already runs on the other backend.
    #[error("device {asked}: this process already runs on {selected}; a process has one device, chosen once")]
    AlreadySelected {
        /// The backend in use.
        selected: Backend,
        /// What was asked for.
        asked: DeviceChoice,
    },
}

/// A device name that is none of `auto`, `cuda` and `soft`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("device {found:?} is not known; expected auto, cuda or soft")]
pub struct ParseDeviceError {
    /// The text that was given.
    pub found: String,
}
