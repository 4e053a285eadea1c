//! The time that the doctor may take, and what it leaves out when that is spent.

use std::time::{Duration, Instant};

/// Time for everything, and with `--short`.
const LIMIT: Duration = Duration::from_secs(120);
const SHORT_LIMIT: Duration = Duration::from_secs(30);

/// The part of it that the processor may take if a GPU comes after it.
const PROCESSORS_PART: f64 = 0.5;

/// Runs of a batch that are timed, if they are short.
const RUNS: usize = 5;

/// A batch that has been timed for so long is not run again.
const ENOUGH: Duration = Duration::from_millis(1_500);

/// The doctor's clock.
#[derive(Debug)]
pub(super) struct Clock {
    started: Instant,
    limit: Duration,
    /// When the present device's time is over.
    until: Duration,
    skipped: Vec<String>,
}

impl Clock {
    pub(super) fn start(short: bool) -> Self {
        let limit = if short { SHORT_LIMIT } else { LIMIT };
        Self { started: Instant::now(), limit, until: limit, skipped: Vec::new() }
    }

    /// Keeps time for the GPU, or gives what was kept to it.
    pub(super) fn keep_for_gpu(&mut self, keep: bool) {
        self.until = if keep { self.limit.mul_f64(PROCESSORS_PART) } else { self.limit };
    }

    /// What is left.
    pub(super) fn left(&self) -> Duration {
        self.until.saturating_sub(self.started.elapsed())
    }

    /// Whether there is time for `what`, which takes about `time`. What there is no time for is noted.
    pub(super) fn allows(&mut self, what: &str, time: Duration) -> bool {
        let left = self.left();
        if time > left {
            let (time, left) = (time.as_secs_f64().ceil(), left.as_secs());
            self.skip(format!("{what}: would take {time} s, and {left} s are left of {} s", self.until.as_secs()));
        }
        time <= left
    }

    /// Notes what is left out, and why.
    pub(super) fn skip(&mut self, what: String) {
        super::say(&format!("left out: {what}"));
        self.skipped.push(what);
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// What was left out.
    pub(super) fn into_skipped(self) -> Vec<String> {
        self.skipped
    }
}

/// What [`timed`] takes for runs of about `one`.
pub(super) fn time_of_runs(one: Duration) -> Duration {
    (one * RUNS as u32).min(ENOUGH + one)
}

/// The fastest, the median and the slowest of several runs, in seconds, and how many there were.
pub(super) fn timed<E>(mut run: impl FnMut() -> Result<Duration, E>) -> Result<([f64; 3], usize), E> {
    let started = Instant::now();
    let mut times = Vec::with_capacity(RUNS);
    while times.is_empty() || (times.len() < RUNS && started.elapsed() < ENOUGH) {
        times.push(run()?.as_secs_f64());
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(([times[0], times[times.len() / 2], times[times.len() - 1]], times.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_longer_than_the_time_that_is_left_is_skipped_and_noted() {
        let mut clock = Clock::start(false);
        assert!(clock.allows("a pass", Duration::from_secs(1)));
        assert!(!clock.allows("a long pass", Duration::from_secs(500)));
        let skipped = clock.into_skipped();
        assert!(skipped.len() == 1 && skipped[0].starts_with("a long pass: would take 500 s"), "{skipped:?}");
    }

    #[test]
    fn runs_end_when_the_first_after_a_second_and_a_half_does() {
        let seconds = Duration::from_secs;
        assert_eq!(time_of_runs(seconds(10)), Duration::from_millis(11_500));
        assert_eq!(time_of_runs(Duration::from_millis(100)), Duration::from_millis(500));
    }

    #[test]
    fn a_gpu_keeps_its_part_of_the_time() {
        let mut clock = Clock::start(true);
        clock.keep_for_gpu(true);
        assert!(!clock.allows("a pass on the processor", Duration::from_secs(20)));
        clock.keep_for_gpu(false);
        assert!(clock.allows("a pass on the GPU", Duration::from_secs(20)));
    }

    #[test]
    fn short_runs_are_repeated_and_a_failure_ends_them() {
        let mut runs = 0;
        let mut run = |time| {
            runs += 1;
            Ok::<_, ()>(time)
        };
        let times = timed(|| run(Duration::from_secs(1)));
        assert_eq!((times, runs), (Ok(([1.0; 3], RUNS)), RUNS));
        assert_eq!(timed(|| Err("failed")), Err("failed"));
    }
}
