//! The threads that guests run on, apart from those of sockets and timers and of lower priority than both and the
//! device's.
//!
//! A task is polled until it waits or its epoch tick is over; [`turns`](super::turns) decides whose task is next, and
//! its tenant is charged what the poll took.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_task::{Builder, Runnable};
use futures::FutureExt;
use tokio::runtime::Handle;

use super::clock::Haste;
use super::cpu_time::{CpuMeter, Metered};
use super::turns::{CpuShare, Next, Turns};

/// Lowers a thread's priority so far that threads at the default priority get nine tenths of a contended core, as Linux
/// weighs them: the device and the sockets go on while guests compute.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// A poll that was most likely ended by the epoch's tick, and not by the guest itself.
const LONG_POLL: Duration = Duration::from_micros(150);

/// A guest's threads, running until this is dropped.
#[derive(Debug)]
pub(super) struct GuestThreads {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified when a task becomes ready, and at the end.
    changed: Condvar,
    haste: Haste,
}

#[derive(Debug, Default)]
struct State {
    turns: Turns<Runnable<Task>>,
    is_ending: bool,
}

/// What the threads know about a task.
#[derive(Debug)]
struct Task {
    share: Arc<CpuShare>,
    meter: Arc<CpuMeter>,
}

/// A task did not end: it panicked, or the threads ended before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfinished {
    /// It panicked.
    #[error("it panicked")]
    Panicked,
    /// The threads have ended.
    #[error("the guest runtime has shut down")]
    ShutDown,
}

impl GuestThreads {
    /// Starts `count` threads, which ask the clock for haste while guests compute for long.
    pub(super) fn start(count: usize, haste: Haste) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { haste, ..Shared::default() });
        let mut threads = Self { shared, threads: Vec::new() };
        for number in 0..count.max(1) {
            let shared = Arc::clone(&threads.shared);
            let thread = std::thread::Builder::new().name(format!("assay-guest-{number}"));
            threads.threads.push(thread.spawn(move || {
                lower_priority();
                shared.work();
            })?);
        }
        Ok(threads)
    }

    /// Runs a future in the tenant's turns. It must be called within a tokio runtime, whose timers the future may use.
    /// Dropping the result drops the future, at the end of its tick if it is being polled.
    pub(super) fn run<F>(
        &self,
        share: Arc<CpuShare>,
        meter: Arc<CpuMeter>,
        future: F,
    ) -> impl Future<Output = Result<F::Output, Unfinished>> + Send + use<F>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (runnable, task) = self.spawn(share, meter, future);
        runnable.schedule();
        let task = task.fallible();
        async move { task.await.unwrap_or(Err(Unfinished::ShutDown)) }
    }

    /// Runs a future whose result nothing waits for.
    pub(super) fn detach<F>(&self, share: Arc<CpuShare>, meter: Arc<CpuMeter>, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (runnable, task) = self.spawn(share, meter, future);
        runnable.schedule();
        task.detach();
    }

    #[expect(clippy::type_complexity, reason = "a pair that the two callers above take apart")]
    fn spawn<F>(
        &self,
        share: Arc<CpuShare>,
        meter: Arc<CpuMeter>,
        future: F,
    ) -> (Runnable<Task>, async_task::Task<Result<F::Output, Unfinished>, Task>)
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let future = Metered::new(Arc::clone(&meter), future);
        let future = Within { runtime: Handle::current(), future };
        // What a panic leaves behind is dropped with the future.
        let future = AssertUnwindSafe(future).catch_unwind().map(|ended| ended.map_err(|_| Unfinished::Panicked));
        let shared = Arc::downgrade(&self.shared);
        let schedule = move |runnable: Runnable<Task>| {
            // Without threads, dropping the task ends it.
            if let Some(shared) = shared.upgrade() {
                shared.enter(runnable);
            }
        };
        Builder::new().metadata(Task { share, meter }).spawn(move |_| future, schedule)
    }
}

impl Drop for GuestThreads {
    fn drop(&mut self) {
        let left = {
            let mut state = self.shared.lock();
            state.is_ending = true;
            state.turns.clear()
        };
        self.shared.changed.notify_all();
        drop(left);
        for thread in self.threads.drain(..) {
            // A task that drops the last handle of its own runtime must not wait for itself. Panics are caught in tasks.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change leaves the state consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, runnable: Runnable<Task>) {
        let share = Arc::clone(&runnable.metadata().share);
        let refused = {
            let mut state = self.lock();
            if state.is_ending {
                Some(runnable)
            } else {
                state.turns.enter(&share, runnable, Instant::now());
                None
            }
        };
        // Dropped without the lock: it drops the task's future, which may wake others.
        drop(refused);
        self.changed.notify_one();
    }

    fn work(&self) {
        let mut state = self.lock();
        while !state.is_ending {
            let now = Instant::now();
            state = match state.turns.next(now) {
                Next::Run(tenant, runnable) => {
                    drop(state);
                    let meter = Arc::clone(&runnable.metadata().meter);
                    let before = meter.spent();
                    runnable.run();
                    let took = meter.spent().saturating_sub(before);
                    self.lock().turns.charge(&tenant, took, Instant::now());
                    if took >= LONG_POLL {
                        self.haste.ask();
                        // To threads of a higher priority that wait for this core: the system itself would look for
                        // them every few milliseconds only, and a small batch on the device takes no longer.
                        std::thread::yield_now();
                    }
                    self.lock()
                }
                Next::Wait(until) => self.wait(state, until.saturating_duration_since(now)),
                Next::Nothing => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, most: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner).0
    }
}

/// A future that is polled within a tokio runtime.
struct Within<F> {
    runtime: Handle,
    future: F,
}

impl<F: Future + Unpin> Future for Within<F> {
    type Output = F::Output;

    fn poll(mut self: std::pin::Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        let this = &mut *self;
        let _entered = this.runtime.enter();
        this.future.poll_unpin(context)
    }
}

/// On Linux a thread has a priority of its own; elsewhere guests run at the process's.
#[cfg(target_os = "linux")]
fn lower_priority() {
    // Refused, it is a matter of speed only.
    let _ = rustix::process::setpriority_process(None, NICENESS);
}

#[cfg(not(target_os = "linux"))]
fn lower_priority() {}
