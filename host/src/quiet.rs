//! Panics of libraries that are caught and reported: their text stays off standard error.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::thread;

thread_local! {
    /// Whether panics of this thread leave standard error alone.
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Keeps the text of this thread's panics off standard error from now on.
pub(crate) fn this_thread() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_QUIET.get() {
                before(info);
            }
        }));
    });
    IS_QUIET.set(true);
}

/// Does `work`. Its panic is returned, and the text is not printed.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> thread::Result<T> {
    let before = IS_QUIET.get();
    this_thread();
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    IS_QUIET.set(before);
    done
}
