//! Where the time goes: each thread's time by stage, summed over threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A part of the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Embedding tables and their LayerNorm.
    Embed,
    /// Queries, keys and values.
    QueryKeyValue,
    /// Scores, softmax, context.
    Attention,
    /// The attention's output projection, residual and LayerNorm.
    Projection,
    /// Both feed-forward products, GELU, residual and LayerNorm.
    FeedForward,
    /// The rest of the last layer for first tokens, pooler and classifier; or the mean.
    Head,
    /// Waiting for other threads.
    Wait,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 7] = [
        Self::Embed,
        Self::QueryKeyValue,
        Self::Attention,
        Self::Projection,
        Self::FeedForward,
        Self::Head,
        Self::Wait,
    ];

    /// The name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::QueryKeyValue => "query-key-value",
            Self::Attention => "attention",
            Self::Projection => "projection",
            Self::FeedForward => "feed-forward",
            Self::Head => "head",
            Self::Wait => "wait",
        }
    }
}

/// Thread time by stage since the engine was made.
#[derive(Debug, Default)]
pub(super) struct Stages([AtomicU64; Stage::ALL.len()]);

impl Stages {
    pub(super) fn totals(&self) -> [(Stage, Duration); Stage::ALL.len()] {
        Stage::ALL.map(|stage| (stage, Duration::from_nanos(self.0[stage as usize].load(Ordering::Relaxed))))
    }
}

/// One thread's stopwatch.
#[derive(Debug, Default)]
pub(super) struct Clock {
    last: Option<Instant>,
    laps: [Duration; Stage::ALL.len()],
}

impl Clock {
    pub(super) fn start(&mut self) {
        self.last = Some(Instant::now());
    }

    /// Counts the time since the last lap for `stage`. A clock that was not started counts nothing.
    pub(super) fn lap(&mut self, stage: Stage) {
        if let Some(last) = &mut self.last {
            let now = Instant::now();
            self.laps[stage as usize] += now - *last;
            *last = now;
        }
    }

    /// Adds the measured times to the totals and starts again.
    pub(super) fn report(&mut self, stages: &Stages) {
        for (lap, total) in std::mem::take(&mut self.laps).iter().zip(&stages.0) {
            total.fetch_add(lap.as_nanos() as u64, Ordering::Relaxed);
        }
    }
}
