//! Shows the progress of a run on a terminal: a bar, counts, and an estimate of the time left.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the bar is redrawn if nothing happens.
const TICK: Duration = Duration::from_millis(500);

/// For a known size: the share read gives the time left.
const WITH_SIZE: &str = "{bar:24} {percent:>3}%  {msg}  {elapsed} gone, about {eta} left";

/// For a pipe, whose size is unknown.
const WITHOUT_SIZE: &str = "{spinner} {msg}  {elapsed} gone";

/// A bar on standard error, if that is a terminal.
pub(super) struct Progress {
    bar: ProgressBar,
    answered: u64,
    failed: u64,
}

impl Progress {
    /// A bar for a run over a file. Shown only if standard error is a terminal and answers do not go to the same
    /// terminal, where they show the progress themselves.
    pub(super) fn new(bytes: Option<u64>, answers_to_standard_output: bool) -> Self {
        let target = if answers_to_standard_output && std::io::stdout().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        Self::on(bytes, target)
    }

    fn on(bytes: Option<u64>, target: ProgressDrawTarget) -> Self {
        let bar = ProgressBar::with_draw_target(bytes, target);
        let template = if bytes.is_some() { WITH_SIZE } else { WITHOUT_SIZE };
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        if !bar.is_hidden() {
            bar.enable_steady_tick(TICK);
        }
        Self { bar, answered: 0, failed: 0 }
    }

    /// Work already done does not show how fast the rest will be.
    pub(super) fn begin_at(&mut self, position: u64, answered: u64, failed: u64) {
        (self.answered, self.failed) = (answered, failed);
        self.bar.set_position(position);
        self.bar.reset_eta();
    }

    /// Shows the current step before the first answer.
    pub(super) fn say(&self, message: &'static str) {
        self.bar.set_message(message);
    }

    /// Shows how much of the file has been read.
    pub(super) fn read(&self, position: u64) {
        self.bar.set_position(position);
    }

    /// A request has its outcome.
    pub(super) fn done(&mut self, position: u64, failed: bool) {
        self.answered += u64::from(!failed);
        self.failed += u64::from(failed);
        let failed = if self.failed > 0 { format!(", {} failed", self.failed) } else { String::new() };
        self.bar.set_message(format!("{} answered{failed}", self.answered));
        self.bar.set_position(position);
    }

    /// Prints a line above the bar.
    pub(super) fn note(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A terminal that records its output.
    #[derive(Debug, Clone, Default)]
    struct Terminal(Arc<Mutex<String>>);

    impl indicatif::TermLike for Terminal {
        fn width(&self) -> u16 {
            120
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_bar_shows_what_is_done_and_the_time_left() {
        let terminal = Terminal::default();
        let mut progress = Progress::on(Some(200), ProgressDrawTarget::term_like(Box::new(terminal.clone())));
        progress.done(50, false);
        progress.done(100, true);
        progress.bar.force_draw();
        let text = terminal.0.lock().unwrap().clone();
        assert!(text.contains("50%") && text.contains("1 answered, 1 failed") && text.contains(" left"), "{text}");
    }
}
