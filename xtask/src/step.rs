//! Running one command after the other: says which, and how long each took.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Says what comes next.
pub(crate) fn say(what: &str) {
    eprintln!("\n== {what}");
}

/// Cargo in a directory.
pub(crate) fn cargo(dir: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(dir);
    command
}

/// Runs a command to its end.
///
/// # Errors
/// It cannot be started, or fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    check(command, status)
}

/// Runs a command to its end and shows each line of its standard output to `watch` as well.
///
/// # Errors
/// It cannot be started, or fails.
pub(crate) fn run_watched(command: &mut Command, mut watch: impl FnMut(&str)) -> Result<()> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if let Some(output) = child.stdout.take() {
        let mut terminal = std::io::stdout().lock();
        for line in BufReader::new(output).split(b'\n') {
            let line = line?;
            terminal.write_all(&line)?;
            terminal.write_all(b"\n")?;
            watch(&String::from_utf8_lossy(&line));
        }
    }
    let status = child.wait()?;
    check(command, status)
}

fn check(command: &Command, status: std::process::ExitStatus) -> Result<()> {
    if !status.success() {
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
        bail!("{} {} failed: {status}", command.get_program().display(), arguments.join(" "));
    }
    Ok(())
}

/// The steps of a chore and how long each took.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    finished: Vec<(String, Duration)>,
}

impl Steps {
    /// Says what comes next and does it.
    ///
    /// # Errors
    /// Those of `step`.
    pub(crate) fn take<T>(&mut self, what: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        say(what);
        let started = Instant::now();
        let result = step()?;
        self.finished.push((what.to_owned(), started.elapsed()));
        Ok(result)
    }

    /// One line a step, and the sum.
    pub(crate) fn table(&self) -> String {
        let total = self.finished.iter().map(|(_, took)| *took).sum();
        let line = |(what, took): &(String, Duration)| format!("   {:>9}  {what}\n", minutes(*took));
        let lines: String = self.finished.iter().map(line).collect();
        format!("{lines}   {:>9}  in all", minutes(total))
    }
}

fn minutes(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    match seconds / 60 {
        0 => format!("{seconds} s"),
        minutes => format!("{minutes} min {} s", seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_listed_with_their_times_and_their_sum() {
        let mut steps = Steps::default();
        steps.take("building", || Ok(())).unwrap();
        steps.finished[0].1 = Duration::from_millis(121_400);
        steps.finished.push(("linting".to_owned(), Duration::from_secs(9)));
        assert_eq!(steps.table(), "   2 min 1 s  building\n         9 s  linting\n   2 min 10 s  in all");
    }

    #[test]
    fn a_step_that_fails_ends_the_chore() {
        let mut steps = Steps::default();
        let failed = steps.take("failing", || -> Result<()> { bail!("no") });
        assert!(failed.is_err() && steps.finished.is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn a_watched_command_shows_its_lines_and_fails_as_any_other() {
        let mut lines = Vec::new();
        let mut shell = Command::new("sh");
        let failed = run_watched(shell.args(["-c", "echo one; echo two; exit 3"]), |line| lines.push(line.to_owned()));
        assert_eq!(lines, ["one", "two"]);
        assert!(failed.unwrap_err().to_string().contains("exit status: 3"));
    }
}
