//! How long callers may take: one value for all of it, so that each default stands beside its reason.

use std::time::Duration;

/// Most time for each part of a conversation that depends on the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// From the first byte of a request's head to its last: it is a few hundred bytes.
    pub head: Duration,
    /// Without a request: what most client libraries keep an idle connection for.
    pub idle: Duration,
    /// Between two pieces of a body: a mobile network's worst pause.
    pub body_gap: Duration,
    /// For a whole body: the largest default one over a line of 5 Mbit/s.
    pub body: Duration,
    /// For bytes that were written to be taken by the system, and so by the caller.
    pub write: Duration,
    /// For a whole answer: the largest default one over a line of 4 Mbit/s.
    pub answer: Duration,
    /// After the last answer, for a caller that is still sending to read it.
    pub linger: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            head: seconds(10),
            idle: seconds(60),
            body_gap: seconds(10),
            body: seconds(60),
            write: seconds(20),
            answer: seconds(60),
            linger: seconds(5),
        }
    }
}
