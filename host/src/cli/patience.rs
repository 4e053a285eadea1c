//! Words for who waits.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long something may take before it says why.
const PATIENCE: Duration = Duration::from_secs(2);

/// Says on standard error why nothing happens, if it lasts longer than a moment. Ends when it is dropped.
pub(super) struct Patience {
    _ended: mpsc::Sender<()>,
}

impl Patience {
    pub(super) fn new(why: &'static str) -> Self {
        let (_ended, end) = mpsc::channel();
        // Without the thread nothing is said.
        let _ = thread::Builder::new().spawn(move || {
            if end.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{why}");
            }
        });
        Self { _ended }
    }
}
