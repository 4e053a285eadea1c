//! Bounds the lines of one kind, so that callers and guests cannot flood the log with what they can provoke.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines at once after a quiet time: enough to see what a fault has in common.
const BURST: u32 = 5;

/// One more line may be written after this long.
const INTERVAL: Duration = Duration::from_secs(10);

/// A bound on lines. What is left out is counted, and the next line says how many those were.
#[derive(Debug, Default)]
pub struct LineLimit(Mutex<Option<State>>);

#[derive(Debug)]
struct State {
    left: u32,
    /// When the last line was added to what is left.
    filled: Instant,
    unwritten: u64,
}

impl LineLimit {
    /// Whether a line may be written now: `Some` with the number of lines that were left out since the last one.
    #[must_use]
    pub fn pass(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let state = state.get_or_insert(State { left: BURST, filled: now, unwritten: 0 });
        let passed = now.saturating_duration_since(state.filled).as_secs() / INTERVAL.as_secs();
        if passed > 0 {
            state.left = u32::try_from(passed).unwrap_or(BURST).saturating_add(state.left).min(BURST);
            state.filled = now;
        }
        if state.left == 0 {
            state.unwritten += 1;
            return None;
        }
        state.left -= 1;
        Some(std::mem::take(&mut state.unwritten))
    }
}

/// The bounds on the lines about a tenant's requests, one of each kind: a flood of one hides no other.
#[derive(Debug, Default)]
pub struct RequestLines {
    /// Faults of its guest.
    pub guest: LineLimit,
    /// Limits that were met.
    pub limit: LineLimit,
    /// Tenants that it calls and that cannot answer.
    pub callee: LineLimit,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_a_few_lines_and_the_next_line_counts_the_rest() {
        let (limit, start) = (LineLimit::default(), Instant::now());
        let written = (0..1_000).filter(|_| limit.pass(start).is_some()).count();
        assert_eq!(written, BURST as usize);
        assert_eq!(limit.pass(start + INTERVAL), Some(1_000 - u64::from(BURST)));
        assert_eq!(limit.pass(start + INTERVAL), None);
    }

    #[test]
    fn a_quiet_time_gives_no_more_than_the_burst() {
        let (limit, start) = (LineLimit::default(), Instant::now());
        assert_eq!(limit.pass(start), Some(0));
        let later = start + 1_000 * INTERVAL;
        assert_eq!((0..100).filter(|_| limit.pass(later).is_some()).count(), BURST as usize);
    }
}
