//! What asks a server to stop: signals, the first of which lets it answer what is in work.

use tokio::sync::watch;
use tracing::info;

use crate::http::Order;

/// Has the server drain at the first signal to stop, and ends the process at the second.
pub(super) async fn stop_at(mut signals: Signals, order: watch::Sender<Order>) {
    signals.next().await;
    info!("asked to stop: requests in work are answered first");
    let _ = order.send(Order::Drain);
    signals.next().await;
    std::process::exit(1);
}

/// The signals that ask a process to stop.
#[cfg(unix)]
pub(super) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// What asks a process to stop.
#[cfg(windows)]
pub(super) struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        tokio::signal::windows::ctrl_c().map(Self)
    }

    async fn next(&mut self) {
        self.0.recv().await;
    }
}
