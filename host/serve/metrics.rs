//! What `/metrics` says, in Prometheus' format.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Which requests are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// The route, as the program has it; never what a client wrote.
    pub route: String,
    /// The answer's status.
    pub status: u16,
}

/// The numbers, all of which clones share.
pub struct Metrics {
    registry: Registry,
    /// Requests answered.
    pub requests: Family<RequestLabels, Counter>,
    /// Sequences that wait for a slot.
    pub waiting: Gauge,
    /// Sequences in slots.
    pub running: Gauge,
    /// Pages of the cache that sequences have.
    pub pages_used: Gauge,
    /// All pages.
    pub pages: Gauge,
    /// Tokens of prompts computed.
    pub prompt_tokens: Counter,
    /// Tokens of prompts that were in the cache.
    pub cached_tokens: Counter,
    /// Tokens generated.
    pub generated_tokens: Counter,
    /// Tokens guessed ahead.
    pub drafted_tokens: Counter,
    /// Those that were right.
    pub kept_tokens: Counter,
    /// Sequences set back because pages ran out.
    pub set_back: Counter,
    /// Requests whose client went away, or whose time was over.
    pub cancelled: Counter,
    /// Seconds from a request to an answer's first token.
    pub first_token: Histogram,
    /// Seconds between two tokens of an answer.
    pub between_tokens: Histogram,
    /// Seconds of a step.
    pub step: Histogram,
}

impl Metrics {
    /// All of them 0.
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("ferrowarp");
        // From half a millisecond to some minutes, by doubling.
        let seconds = || Histogram::new((0..19).map(|power| 0.0005 * f64::from(1 << power)));
        let requests = Family::<RequestLabels, Counter>::default();
        let gauges: [Gauge; 4] = Default::default();
        let counters: [Counter<u64, AtomicU64>; 7] = Default::default();
        let histograms = [seconds(), seconds(), seconds()];
        registry.register("requests", "Requests answered, by route and status", requests.clone());
        for (gauge, (name, help)) in gauges.iter().zip([
            ("requests_waiting", "Sequences that wait for a slot"),
            ("requests_running", "Sequences in slots"),
            ("pages_used", "Pages of the KV cache that sequences have"),
            ("pages_all", "Pages of the KV cache"),
        ]) {
            registry.register(name, help, gauge.clone());
        }
        for (counter, (name, help)) in counters.iter().zip([
            ("prompt_tokens", "Tokens of prompts computed"),
            ("cached_tokens", "Tokens of prompts taken from the cache"),
            ("generated_tokens", "Tokens generated"),
            ("drafted_tokens", "Tokens guessed ahead"),
            ("kept_tokens", "Tokens guessed ahead that became part of an answer"),
            ("set_back", "Sequences that gave their pages to an older one"),
            ("cancelled", "Sequences whose client went away or whose time was over"),
        ]) {
            registry.register(name, help, counter.clone());
        }
        for (histogram, (name, help)) in histograms.iter().zip([
            ("time_to_first_token_seconds", "From a request to the first token of an answer"),
            ("time_between_tokens_seconds", "From a token of an answer to the next"),
            ("step_seconds", "A step: a token of each sequence that generates, and chunks of prompts"),
        ]) {
            registry.register(name, help, histogram.clone());
        }
        let [waiting, running, pages_used, pages] = gauges;
        let [prompt_tokens, cached_tokens, generated_tokens, drafted_tokens, kept_tokens, set_back, cancelled] =
            counters;
        let [first_token, between_tokens, step] = histograms;
        Metrics {
            registry,
            requests,
            waiting,
            running,
            pages_used,
            pages,
            prompt_tokens,
            cached_tokens,
            generated_tokens,
            drafted_tokens,
            kept_tokens,
            set_back,
            cancelled,
            first_token,
            between_tokens,
            step,
        }
    }

    /// The text, and its media type.
    ///
    /// # Errors
    /// A metric cannot be written.
    pub fn text(&self) -> Result<(&'static str, String), std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(("application/openmetrics-text; version=1.0.0; charset=utf-8", text))
    }

    /// Seconds as the histograms take them.
    pub fn seconds(time: Duration) -> f64 {
        time.as_secs_f64()
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}
