//! A progress bar with an estimate of the time left. Silent if standard error is not a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Bars for the steps of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Draw them.
    Shown,
    /// Draw nothing.
    Hidden,
}

impl Progress {
    /// A bar of `steps` steps; a spinner if their number is not known.
    #[must_use]
    pub fn bar(self, label: String, steps: Option<u64>) -> ProgressBar {
        let bar = match (self, steps) {
            (Self::Hidden, _) => return ProgressBar::hidden(),
            (Self::Shown, Some(steps)) => ProgressBar::new(steps),
            (Self::Shown, None) => ProgressBar::new_spinner(),
        };
        let template = match steps {
            Some(_) => "{wide_msg} {bar:28} {human_pos}/{human_len} requests, {eta} left",
            None => "{spinner} {wide_msg} {elapsed}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.set_message(label);
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}
