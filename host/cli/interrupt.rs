//! Ctrl-C: ends the program, or, while something listens, only what it is at.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

/// What a shell expects of a program that SIGINT ended: 128 + 2.
pub const EXIT_CODE: u8 = 130;

static LISTENING: AtomicBool = AtomicBool::new(false);
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Takes over Ctrl-C.
///
/// # Errors
/// The system refused the handler.
pub fn install() -> Result<()> {
    ctrlc::set_handler(|| {
        // Nobody listens, or the first one was not enough.
        if !LISTENING.load(Ordering::SeqCst) || INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(EXIT_CODE));
        }
    })
    .context("cannot handle Ctrl-C")
}

/// While this lives, the first Ctrl-C sets [`Listener::flag`].
pub struct Listener(());

impl Listener {
    /// Listens from now on.
    pub fn new() -> Listener {
        INTERRUPTED.store(false, Ordering::SeqCst);
        LISTENING.store(true, Ordering::SeqCst);
        Listener(())
    }

    /// Whether Ctrl-C was pressed.
    pub fn flag(&self) -> &'static AtomicBool {
        &INTERRUPTED
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        LISTENING.store(false, Ordering::SeqCst);
    }
}
