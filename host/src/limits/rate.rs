//! Tokens per second: a bucket that fills at a steady rate up to a burst.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A tenant's bucket of tokens, shared by all its requests. It starts full.
#[derive(Debug)]
pub struct TokenRate {
    tokens_per_s: f64,
    burst_tokens: f64,
    level: Mutex<Level>,
}

#[derive(Debug)]
struct Level {
    tokens: f64,
    at: Instant,
}

/// Why tokens may not be spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateExceeded {
    /// The bucket will hold enough tokens later.
    Later {
        /// After how long.
        retry_after: Duration,
    },
    /// The bucket never holds so many tokens.
    Never {
        /// The tokens requested.
        requested: u64,
        /// The bucket's size.
        allowed: u64,
    },
}

impl TokenRate {
    /// A full bucket.
    #[must_use]
    pub fn new(tokens_per_s: u64, burst_tokens: u64, now: Instant) -> Self {
        let burst_tokens = burst_tokens as f64;
        let level = Mutex::new(Level { tokens: burst_tokens, at: now });
        Self { tokens_per_s: tokens_per_s.max(1) as f64, burst_tokens, level }
    }

    /// What it fills by.
    #[must_use]
    pub fn tokens_per_s(&self) -> u64 {
        self.tokens_per_s as u64
    }

    /// Takes tokens from the bucket, all or none.
    ///
    /// # Errors
    /// The bucket does not hold so many tokens now, or never does.
    pub fn spend(&self, tokens: u64, now: Instant) -> Result<(), RateExceeded> {
        let wanted = tokens as f64;
        if wanted > self.burst_tokens {
            return Err(RateExceeded::Never { requested: tokens, allowed: self.burst_tokens as u64 });
        }
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        level.fill(self, now);
        if wanted > level.tokens {
            let wait_s = (wanted - level.tokens) / self.tokens_per_s;
            return Err(RateExceeded::Later { retry_after: Duration::from_secs_f64(wait_s.clamp(0.001, 3_600.0)) });
        }
        level.tokens -= wanted;
        Ok(())
    }

    /// Takes tokens that were used already, and says how long to wait before more are: until they are paid for.
    #[must_use]
    pub fn pace(&self, tokens: u64, now: Instant) -> Duration {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        level.fill(self, now);
        level.tokens -= tokens as f64;
        Duration::from_secs_f64((-level.tokens / self.tokens_per_s).clamp(0.0, 3_600.0))
    }

    /// Puts tokens back that were spent for nothing.
    pub fn give_back(&self, tokens: u64) {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        level.tokens = (level.tokens + tokens as f64).min(self.burst_tokens);
    }

    /// Tokens in the bucket now.
    #[must_use]
    pub fn available(&self, now: Instant) -> u64 {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        level.fill(self, now);
        level.tokens as u64
    }
}

impl Level {
    fn fill(&mut self, rate: &TokenRate, now: Instant) {
        // Callers read the clock before they get the lock, so `now` may lie a little in the past.
        let elapsed_s = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + elapsed_s * rate.tokens_per_s).min(rate.burst_tokens);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_allows_its_burst_at_once_and_then_its_rate() {
        let start = Instant::now();
        let rate = TokenRate::new(100, 250, start);
        assert_eq!(rate.spend(250, start), Ok(()));
        let refused = rate.spend(50, start);
        assert_eq!(refused, Err(RateExceeded::Later { retry_after: Duration::from_millis(500) }));
        assert_eq!(
            rate.spend(50, start + Duration::from_millis(499)),
            Err(RateExceeded::Later { retry_after: Duration::from_millis(1) })
        );
        assert_eq!(rate.spend(50, start + Duration::from_millis(500)), Ok(()));
        assert_eq!(rate.available(start + Duration::from_secs(60)), 250);
    }

    #[test]
    fn a_pace_lets_the_burst_pass_and_then_waits_for_what_it_owes() {
        let start = Instant::now();
        let rate = TokenRate::new(100, 250, start);
        assert_eq!(rate.pace(250, start), Duration::ZERO);
        assert_eq!(rate.pace(50, start), Duration::from_millis(500));
        assert_eq!(rate.pace(0, start + Duration::from_millis(400)), Duration::from_millis(100));
        assert_eq!(rate.pace(10, start + Duration::from_millis(600)), Duration::ZERO);
    }

    #[test]
    fn more_than_the_burst_is_never_allowed() {
        let start = Instant::now();
        let rate = TokenRate::new(100, 250, start);
        assert_eq!(rate.spend(251, start), Err(RateExceeded::Never { requested: 251, allowed: 250 }));
        assert_eq!(rate.available(start), 250);
    }
}
