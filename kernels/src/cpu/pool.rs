//! The engine's threads: started once, asleep between batches.
//!
//! The caller's thread is one of them, so `threads` is all that ever compute at a time, and one thread needs no other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// What the threads do with a batch.
pub(super) trait Task: Send + Sync + 'static {
    /// What one thread owns.
    type Worker: Send + 'static;

    /// One thread's part of the batch.
    fn work(&self, worker: &mut Self::Worker);

    /// Called when a thread has panicked, so that none waits for it.
    fn abandon(&self);
}

/// Threads beside the caller's.
#[derive(Debug)]
pub(super) struct Pool {
    control: Arc<Control>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Control {
    state: Mutex<State>,
    start: Condvar,
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Counts batches.
    batch: u64,
    running: usize,
    panicked: bool,
    quit: bool,
}

impl Pool {
    /// One thread for each of `workers`.
    pub(super) fn start<T: Task>(task: &Arc<T>, workers: Vec<T::Worker>) -> std::io::Result<Self> {
        let control = Arc::new(Control::default());
        let mut pool = Self { control: control.clone(), threads: Vec::with_capacity(workers.len()) };
        for (index, mut worker) in workers.into_iter().enumerate() {
            let (task, control) = (task.clone(), control.clone());
            let name = format!("assay-cpu-{}", index + 1);
            pool.threads.push(std::thread::Builder::new().name(name).spawn(move || {
                let mut batch = 0;
                while control.next(&mut batch) {
                    control.finished(run(&*task, &mut worker));
                }
            })?);
        }
        Ok(pool)
    }

    /// Works on a batch with every thread and `worker` on this one; false when a thread panicked.
    pub(super) fn run<T: Task>(&self, task: &T, worker: &mut T::Worker) -> bool {
        let mut state = self.control.lock();
        state.running = self.threads.len();
        state.batch += 1;
        drop(state);
        self.control.start.notify_all();
        let succeeded = run(task, worker);
        let mut state = self.control.lock();
        while state.running > 0 {
            state = self.control.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        succeeded && !state.panicked
    }
}

fn run<T: Task>(task: &T, worker: &mut T::Worker) -> bool {
    let result = catch_unwind(AssertUnwindSafe(|| task.work(worker)));
    if result.is_err() {
        task.abandon();
    }
    result.is_ok()
}

impl Control {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until there is a batch after `batch`; false when it is time to go.
    fn next(&self, batch: &mut u64) -> bool {
        let mut state = self.lock();
        while state.batch == *batch && !state.quit {
            state = self.start.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        *batch = state.batch;
        !state.quit
    }

    fn finished(&self, succeeded: bool) {
        let mut state = self.lock();
        state.panicked |= !succeeded;
        state.running -= 1;
        if state.running == 0 {
            self.done.notify_one();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.control.lock().quit = true;
        self.control.start.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has been reported by the batch that it failed.
            let _ = thread.join();
        }
    }
}
