//! Where a server's log lines go and in which form.
//!
//! Lines go to standard error, from a thread of their own: a reader that stops reading holds nothing up, and lines
//! beyond a bound are dropped. Only the program's own lines are written; libraries could put contents into theirs.

use std::io::{IsTerminal, Write};
use std::str::FromStr;

use tracing::dispatcher::{self, Dispatch};
use tracing::{Level, Metadata};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{FilterExt, FilterFn, LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};

/// Lines that wait for standard error at most: a few megabytes.
const MAX_WAITING_LINES: usize = 16 << 10;

/// The target of the line that each request gets, if those are wanted.
pub const ACCESS: &str = "access";

/// The form of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// A JSON object a line.
    Json,
}

/// Which lines are written, by level and module: `info`, `warn,assay::http=debug`.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter(Targets);

/// A text names no levels.
#[derive(Debug, thiserror::Error)]
#[error("write a level (error, warn, info, debug or off), or MODULE=LEVEL as in warn,assay::http=debug")]
pub struct FilterError;

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        // A word by itself would otherwise be taken for a module.
        for word in text.split(',').filter(|part| !part.contains('=')) {
            let is_level = !word.trim().is_empty() && word.trim().parse::<LevelFilter>().is_ok();
            is_level.then_some(()).ok_or(FilterError)?;
        }
        let targets: Targets = text.parse().map_err(|_| FilterError)?;
        // What a text that names modules only leaves open.
        let targets = match targets.default_level() {
            None => targets.with_default(Level::INFO),
            Some(_) => targets,
        };
        Ok(Self(targets))
    }
}

/// What to write.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// The form of lines.
    pub format: Format,
    /// Which lines.
    pub filter: Filter,
    /// Whether each request gets a line.
    pub access: bool,
}

/// Writes what still waits when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Logs(#[allow(dead_code, reason = "dropped for what that does")] WorkerGuard);

/// The process has a log already.
#[derive(Debug, thiserror::Error)]
#[error("this process has a log already")]
pub struct AlreadyStarted;

/// Starts the process's log. Lines before this call go nowhere.
///
/// # Errors
/// The process has a log already.
pub fn start(options: &LogOptions) -> Result<Logs, AlreadyStarted> {
    let (lines, logs) = dispatch(options, std::io::stderr(), std::io::stderr().is_terminal());
    dispatcher::set_global_default(lines).map(|()| logs).map_err(|_| AlreadyStarted)
}

/// A log that goes elsewhere, for threads that take it as theirs; for measurements.
pub fn dispatch(options: &LogOptions, to: impl Write + Send + 'static, in_colours: bool) -> (Dispatch, Logs) {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(MAX_WAITING_LINES)
        .thread_name("assay-log")
        .finish(to);
    let LogOptions { format, filter: Filter(targets), access } = options.clone();
    let targets = targets.with_target(ACCESS, if access { LevelFilter::INFO } else { LevelFilter::OFF });
    let filter = targets.and(FilterFn::new(is_own));
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines: Dispatch = match format {
        Format::Text => {
            let lines = lines.with_target(false).with_ansi(in_colours);
            tracing_subscriber::registry().with(lines.with_filter(filter)).into()
        }
        Format::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false).with_span_list(false);
            tracing_subscriber::registry().with(lines.with_filter(filter)).into()
        }
    };
    (lines, Logs(guard))
}

/// Whether a line is the program's own.
fn is_own(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    target == ACCESS || target.split("::").next() == Some("assay")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_taken_by_module_and_the_rest_is_at_info() {
        let Filter(targets) = "assay::http=debug".parse().unwrap();
        assert!(targets.would_enable("assay::http", &Level::DEBUG));
        assert!(targets.would_enable("assay::tenant", &Level::INFO));
        assert!(!targets.would_enable("assay::tenant", &Level::DEBUG));
        let Filter(targets) = "off".parse().unwrap();
        assert!(!targets.would_enable("assay::http", &Level::ERROR));
    }

    #[test]
    fn a_text_that_names_no_level_is_refused_with_the_levels() {
        for text in ["loud", "", "assay=loud", "info,loud"] {
            let error = text.parse::<Filter>().unwrap_err().to_string();
            assert!(error.contains("warn") && error.contains("MODULE=LEVEL"), "{text}: {error}");
        }
    }
}
