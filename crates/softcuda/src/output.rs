//! What kernels print: kept during a launch and handed over, in the order of the blocks, when it has ended.

use std::io::Write;
use std::sync::{Mutex, MutexGuard};

/// The most bytes of a launch that are kept.
const MOST_OUTPUT: usize = 16 << 20;

/// The output of one launch.
#[derive(Default)]
pub(crate) struct Output(Mutex<Parts>);

#[derive(Default)]
struct Parts {
    /// Block and text.
    parts: Vec<(u64, String)>,
    bytes: usize,
    dropped: usize,
}

impl Output {
    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn print(&self, block: u64, text: &str) {
        let mut parts = self.parts();
        if parts.bytes + text.len() > MOST_OUTPUT {
            parts.dropped += text.len();
            return;
        }
        parts.bytes += text.len();
        match parts.parts.last_mut() {
            Some((last, known)) if *last == block => known.push_str(text),
            _ => parts.parts.push((block, text.to_owned())),
        }
    }

    /// All of it, block by block.
    pub(crate) fn take(&self) -> String {
        let mut parts = std::mem::take(&mut *self.parts());
        parts.parts.sort_by_key(|part| part.0);
        let mut text: String = parts.parts.into_iter().map(|part| part.1).collect();
        if parts.dropped > 0 {
            text += &format!("[{} more bytes of this launch's output were dropped]\n", parts.dropped);
        }
        text
    }
}

/// Where a device's output goes.
pub(crate) type Sink = Box<dyn Fn(&str) + Send + Sync>;

/// To the process's standard output, as CUDA's runtime does. What cannot be written is lost, as there.
pub(crate) fn to_stdout(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
