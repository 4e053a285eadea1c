//! The processor time that a guest takes: thread time around each poll of its future, so that work of the host on its
//! behalf counts too, and one long instruction counts for what it takes.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// Processor time of one request. Read from any thread; exact on the thread that polls.
#[derive(Debug, Default)]
pub(super) struct CpuMeter {
    spent_ns: AtomicU64,
    /// Thread time when the poll in progress began, plus one; 0 between polls.
    began_ns: AtomicU64,
}

impl CpuMeter {
    /// Processor time up to the last poll's end.
    pub(super) fn spent(&self) -> Duration {
        Duration::from_nanos(self.spent_ns.load(Ordering::Relaxed))
    }

    /// Processor time up to now. Only the thread that polls may ask.
    pub(super) fn spent_now(&self) -> Duration {
        let running = match self.began_ns.load(Ordering::Relaxed) {
            0 => 0,
            began => (thread_ns() + 1).saturating_sub(began),
        };
        self.spent() + Duration::from_nanos(running)
    }

    fn begin(&self) {
        self.began_ns.store(thread_ns() + 1, Ordering::Relaxed);
    }

    fn end(&self) {
        let spent = self.spent_now();
        self.began_ns.store(0, Ordering::Relaxed);
        self.spent_ns.store(u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// A future whose polls are measured.
#[derive(Debug)]
pub(super) struct Metered<F> {
    meter: Arc<CpuMeter>,
    future: Pin<Box<F>>,
}

impl<F> Metered<F> {
    pub(super) fn new(meter: Arc<CpuMeter>, future: F) -> Self {
        Self { meter, future: Box::pin(future) }
    }
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.meter.begin();
        let poll = self.future.as_mut().poll(context);
        self.meter.end();
        poll
    }
}

/// Processor time of the calling thread, in nanoseconds.
#[cfg(unix)]
fn thread_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(nanoseconds.unwrap_or(0))
}

/// Elapsed time stands in for it on other systems.
#[cfg(not(unix))]
fn thread_ns() -> u64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    let start = START.get_or_init(std::time::Instant::now);
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
