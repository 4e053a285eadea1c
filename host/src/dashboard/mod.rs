//! What the dashboard shows: the server's counters every two seconds, and the last hour of them.
//!
//! [`sample`] makes numbers for people of two snapshots; [`history`] keeps an hour of them. Reads snapshots; counts
//! nothing. Knows tenants and devices; never HTTP or pages.

mod history;
mod sample;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::tenant::Platform;
use history::History;
#[cfg(test)]
pub(crate) use sample::sample_of;
pub use sample::{Sample, TenantSample, Window};

/// Time between two samples: short enough to see a change happen, and long enough to cost nothing.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// Takes samples and keeps them.
#[derive(Debug, Default)]
pub struct Dashboard {
    history: Mutex<History>,
    newest: watch::Sender<Arc<Sample>>,
}

/// Who looks, and so what is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Viewer {
    /// The operator sees everything.
    Operator,
    /// A tenant sees itself.
    Tenant(String),
}

impl Dashboard {
    /// Takes samples until the future is dropped.
    pub async fn run(&self, platform: &Arc<Platform>) {
        let (mut ticks, mut window) = (interval(INTERVAL), Window::default());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let platform = Arc::clone(platform);
            // It reads files of the system.
            let Ok(snapshot) = tokio::task::spawn_blocking(move || platform.snapshot()).await else { continue };
            if let Some(sample) = window.push(snapshot) {
                self.history.lock().unwrap_or_else(PoisonError::into_inner).push(&sample);
                self.newest.send_replace(Arc::new(sample));
            }
        }
    }

    /// The samples from now on.
    #[must_use]
    pub fn samples(&self) -> watch::Receiver<Arc<Sample>> {
        self.newest.subscribe()
    }

    /// The last hour, as JSON.
    #[must_use]
    pub fn history(&self, viewer: &Viewer) -> String {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).json(viewer)
    }
}
