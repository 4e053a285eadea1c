//! The time that the doctor may take, and what it leaves out when that is spent.

use std::time::{Duration, Instant};

/// Time for everything.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs of a batch that are timed, if they are short.
const RUNS: usize = 5;

/// A batch that has been timed for so long is not run again.
const ENOUGH: Duration = Duration::from_millis(1_500);

/// The doctor's clock.
#[derive(Debug)]
pub(super) struct Clock {
    started: Instant,
    limit: Duration,
    skipped: Vec<String>,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { started: Instant::now(), limit: LIMIT, skipped: Vec::new() }
    }

    /// Whether there is time for `what`, which takes about `time`. What there is no time for is noted.
    pub(super) fn allows(&mut self, what: &str, time: Duration) -> bool {
        let left = self.limit.saturating_sub(self.started.elapsed());
        if time > left {
            let (time, left) = (time.as_secs_f64().ceil(), left.as_secs());
            self.skip(format!("{what}: would take {time} s, and {left} s are left of {} s", self.limit.as_secs()));
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

    /// The part of this thread's time in which it waited for a processor that others had; `None` where the system does
    /// not tell.
    pub(super) fn waited(&self) -> Option<f64> {
        // Time on a processor, time waiting for one, in nanoseconds; of the first thread, which computes with the others.
        let text = std::fs::read_to_string("/proc/self/schedstat").ok()?;
        waited(&text)
    }

    /// What was left out.
    pub(super) fn into_skipped(self) -> Vec<String> {
        self.skipped
    }
}

fn waited(schedstat: &str) -> Option<f64> {
    let mut numbers = schedstat.split_whitespace().map(|number| number.parse::<f64>().ok());
    let (ran, waited) = (numbers.next()??, numbers.next()??);
    Some(waited / (ran + waited).max(1.0))
}

/// The fastest, the median and the slowest of several runs, in seconds.
pub(super) fn timed<E>(mut run: impl FnMut() -> Result<Duration, E>) -> Result<[f64; 3], E> {
    let started = Instant::now();
    let mut times = Vec::with_capacity(RUNS);
    while times.is_empty() || (times.len() < RUNS && started.elapsed() < ENOUGH) {
        times.push(run()?.as_secs_f64());
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok([times[0], times[times.len() / 2], times[times.len() - 1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_longer_than_the_time_that_is_left_is_skipped_and_noted() {
        let mut clock = Clock::start();
        assert!(clock.allows("a pass", Duration::from_secs(1)));
        assert!(!clock.allows("a long pass", Duration::from_secs(500)));
        let skipped = clock.into_skipped();
        assert!(skipped.len() == 1 && skipped[0].starts_with("a long pass: would take 500 s"), "{skipped:?}");
    }

    #[test]
    fn time_in_the_processors_queue_is_a_part_of_all_time() {
        assert_eq!(waited("300 100 7\n"), Some(0.25));
        assert_eq!(waited("0 0 0\n"), Some(0.0));
        assert_eq!(waited("none"), None);
    }

    #[test]
    fn short_runs_are_repeated_and_a_failure_ends_them() {
        let mut runs = 0;
        let mut run = |time| {
            runs += 1;
            Ok::<_, ()>(time)
        };
        let times = timed(|| run(Duration::from_secs(1)));
        assert_eq!((times, runs), (Ok([1.0; 3]), RUNS));
        assert_eq!(timed(|| Err("failed")), Err("failed"));
    }
}
