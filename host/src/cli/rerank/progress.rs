//! How far a run is, on a terminal: a bar, what was answered, and an estimate of the time left.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the bar is drawn where nothing else happens.
const TICK: Duration = Duration::from_millis(500);

/// With a size: the share of the file that is read tells the time left.
const WITH_SIZE: &str = "{bar:24} {percent:>3}%  {msg}  {elapsed} gone, about {eta} left";

/// A pipe does not tell how much comes.
const WITHOUT_SIZE: &str = "{spinner} {msg}  {elapsed} gone";

/// A bar on standard error, if a person sees it.
pub(super) struct Progress {
    bar: ProgressBar,
    answered: u64,
    failed: u64,
}

impl Progress {
    /// A bar for a run over a file. There is none unless standard error is a terminal, or where answers go to the same
    /// terminal and show by themselves how far the run is.
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

    /// Part of the work is done already, and says nothing about how fast the rest is.
    pub(super) fn begin_at(&mut self, position: u64, answered: u64, failed: u64) {
        (self.answered, self.failed) = (answered, failed);
        self.bar.set_position(position);
        self.bar.reset_eta();
    }

    /// Shows what is being done before the first answer.
    pub(super) fn say(&self, message: &'static str) {
        self.bar.set_message(message);
    }

    /// Shows how much of a file is read.
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

    /// A terminal that remembers what was written.
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
    fn a_person_sees_what_is_done_and_how_long_the_rest_takes() {
        let terminal = Terminal::default();
        let mut progress = Progress::on(Some(200), ProgressDrawTarget::term_like(Box::new(terminal.clone())));
        progress.done(50, false);
        progress.done(100, true);
        progress.bar.force_draw();
        let text = terminal.0.lock().unwrap().clone();
        assert!(text.contains("50%") && text.contains("1 answered, 1 failed") && text.contains(" left"), "{text}");
    }
}
