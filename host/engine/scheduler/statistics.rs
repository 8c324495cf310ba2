//! What a scheduler did.

use std::{fmt, time::Duration};

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Steps with something to do.
    pub n_steps: u64,
    /// Tokens of prompts computed.
    pub n_prefilled: u64,
    /// Rows of decoding steps, those of wrong guesses among them.
    pub n_decoded: u64,
    /// Tokens guessed.
    pub n_drafted: u64,
    /// Those that were right.
    pub n_kept: u64,
    /// How often a sequence was set back.
    pub n_set_back: u64,
    /// Tokens of prompts that were there already.
    pub n_reused: u64,
    /// From the first step to the last, but for the time in which there was nothing to do.
    pub time: Duration,
    /// What of it the runner took.
    pub runner_time: Duration,
    /// The longest time between two tokens of a sequence that was not set back between them.
    pub longest_gap: Duration,
}

impl Statistics {
    /// What of a step's time is the host's: deciding, sampling, text, and what is done between steps.
    pub fn host_per_step(&self) -> Duration {
        let host = self.time.saturating_sub(self.runner_time);
        u32::try_from(self.n_steps).map_or(Duration::ZERO, |n| host.checked_div(n).unwrap_or_default())
    }
}

/// As `-v` shows it.
impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let part = 100.0 * (1.0 - self.runner_time.as_secs_f64() / self.time.as_secs_f64().max(1e-9));
        write!(
            f,
            "{} steps: {:.3} ms of the host in each ({part:.1} % of the time), at most {:.1} ms between two tokens of a sequence; \
             {} tokens of prompts computed and {} reused; {} times a sequence was set back",
            self.n_steps,
            ms(self.host_per_step()),
            ms(self.longest_gap),
            self.n_prefilled,
            self.n_reused,
            self.n_set_back,
        )?;
        match self.n_drafted {
            0 => Ok(()),
            n => write!(f, "; {n} tokens drafted and {} kept", self.n_kept),
        }
    }
}
