//! The compute threads: started once, asleep between batches. Before a thread sleeps, it spins for as long as waking it
//! would take: in a row of small batches the next one comes within that time, and so does the end of the last part.
//!
//! The caller's thread is one of them, so at most `threads` threads compute at a time, and one thread needs no other.
//! Each thread keeps its worker (its buffers) from one piece of work to the next.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::sync::spin;

/// Work that the threads do together, such as computing a batch.
pub(super) trait Work<W>: Send + Sync {
    /// One thread's part.
    fn run(&self, worker: &mut W);

    /// Called when a thread has panicked, so that no other waits for it.
    fn abandon(&self) {}
}

/// The threads other than the caller's, and the caller's worker.
#[derive(Debug)]
pub(super) struct Pool<W> {
    control: Arc<Control<W>>,
    threads: Vec<JoinHandle<()>>,
    own: W,
}

struct Control<W> {
    progress: Mutex<Progress<W>>,
    /// A copy of [`Progress::turn`] for spinning threads.
    turn: AtomicU64,
    /// A copy of [`Progress::running`] for the spinning caller.
    running: AtomicUsize,
    start: Condvar,
    done: Condvar,
}

struct Progress<W> {
    /// Counts pieces of work.
    turn: u64,
    work: Option<Arc<dyn Work<W>>>,
    running: usize,
    panicked: bool,
    quit: bool,
}

impl<W: Send + 'static> Pool<W> {
    /// Starts a thread for each of `workers`; the caller's thread uses `own`.
    pub(super) fn start(own: W, workers: Vec<W>) -> std::io::Result<Self> {
        let progress = Progress { turn: 0, work: None, running: 0, panicked: false, quit: false };
        let control = Arc::new(Control {
            progress: Mutex::new(progress),
            turn: AtomicU64::new(0),
            running: AtomicUsize::new(0),
            start: Condvar::new(),
            done: Condvar::new(),
        });
        let mut pool = Self { control: control.clone(), threads: Vec::with_capacity(workers.len()), own };
        for (index, mut worker) in workers.into_iter().enumerate() {
            let control = control.clone();
            let name = format!("assay-cpu-{}", index + 1);
            pool.threads.push(std::thread::Builder::new().name(name).spawn(move || {
                let mut turn = 0;
                while let Some(work) = control.next(&mut turn) {
                    let succeeded = run(&*work, &mut worker);
                    // Drop before the caller continues: this may be the last reference.
                    drop(work);
                    control.finished(succeeded);
                }
            })?);
        }
        Ok(pool)
    }

    /// Runs `work` on every thread, including this one; false if one panicked.
    pub(super) fn run(&mut self, work: Arc<dyn Work<W>>) -> bool {
        let mut progress = self.control.lock();
        progress.running = self.threads.len();
        progress.turn += 1;
        progress.panicked = false;
        let own = Arc::clone(&work);
        progress.work = Some(work);
        self.control.running.store(progress.running, Ordering::Relaxed);
        self.control.turn.store(progress.turn, Ordering::Relaxed);
        drop(progress);
        self.control.start.notify_all();
        let succeeded = run(&*own, &mut self.own);
        // What the others have written is seen through the lock.
        spin(|| self.control.running.load(Ordering::Relaxed) == 0);
        let mut progress = self.control.lock();
        while progress.running > 0 {
            progress = self.control.done.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        progress.work = None;
        succeeded && !progress.panicked
    }
}

fn run<W>(work: &dyn Work<W>, worker: &mut W) -> bool {
    let result = catch_unwind(AssertUnwindSafe(|| work.run(worker)));
    if result.is_err() {
        work.abandon();
    }
    result.is_ok()
}

impl<W> Control<W> {
    fn lock(&self) -> std::sync::MutexGuard<'_, Progress<W>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is work after `turn`; `None` means the thread must end.
    fn next(&self, turn: &mut u64) -> Option<Arc<dyn Work<W>>> {
        spin(|| self.turn.load(Ordering::Relaxed) != *turn);
        let mut progress = self.lock();
        while progress.turn == *turn && !progress.quit {
            progress = self.start.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        *turn = progress.turn;
        if progress.quit { None } else { progress.work.clone() }
    }

    fn finished(&self, succeeded: bool) {
        let mut progress = self.lock();
        progress.panicked |= !succeeded;
        progress.running -= 1;
        self.running.store(progress.running, Ordering::Relaxed);
        if progress.running == 0 {
            self.done.notify_one();
        }
    }
}

impl<W> std::fmt::Debug for Control<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

impl<W> Drop for Pool<W> {
    fn drop(&mut self) {
        self.control.lock().quit = true;
        self.control.start.notify_all();
        for thread in self.threads.drain(..) {
            // The failed work has already reported a panic.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Adds up what the workers hold; panics in the worker that holds `bad`.
    #[derive(Default)]
    struct Sum {
        total: AtomicUsize,
        bad: usize,
    }

    impl Work<usize> for Sum {
        fn run(&self, worker: &mut usize) {
            assert_ne!(*worker, self.bad, "the worker that is bad");
            self.total.fetch_add(*worker, Ordering::Relaxed);
        }
    }

    #[test]
    fn every_thread_runs_every_work_and_drops_it_afterwards() {
        let mut pool = Pool::start(1, vec![10, 100]).unwrap();
        for _ in 0..100 {
            let sum = Arc::new(Sum::default());
            assert!(pool.run(sum.clone()));
            assert_eq!(sum.total.load(Ordering::Relaxed), 111);
            assert_eq!(Arc::strong_count(&sum), 1);
        }
    }

    #[test]
    fn a_panic_fails_its_own_work_but_not_the_next() {
        let mut pool = Pool::start(1, vec![10]).unwrap();
        for bad in [1, 10] {
            assert!(!pool.run(Arc::new(Sum { bad, ..Sum::default() })));
            assert!(pool.run(Arc::new(Sum::default())));
        }
    }
}
