//! Warnings: one line each on standard error, beginning with `warning:`.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use super::output::{shows_progress, wants_colour};

/// From here on the program's warnings are shown.
pub fn show() {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(Level::WARN)
        .with_writer(std::io::stderr)
        // Standard error may be closed; that a warning was not read is no reason to fail.
        .log_internal_errors(false)
        .event_format(Line { coloured: shows_progress() && wants_colour() })
        .finish();
    // Another one is there only if this is called twice.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

struct Line {
    coloured: bool,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let word = match *event.metadata().level() {
            Level::ERROR => "error:",
            _ => "warning:",
        };
        match self.coloured {
            true => write!(out, "\x1b[1;33m{word}\x1b[0m ")?,
            false => write!(out, "{word} ")?,
        }
        context.format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}
