//! What changes in progress need and no record names yet, so that a sweep leaves it alone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::records::Deployment;

/// The versions that are being made ready.
#[derive(Debug, Default)]
pub(super) struct Pins(Mutex<Vec<Arc<Deployment>>>);

/// Keeps what a version needs until it is dropped.
#[derive(Debug)]
pub(super) struct Pin<'a> {
    pins: &'a Pins,
    deployment: Arc<Deployment>,
}

impl Pins {
    /// Pins a version. Waits while a sweep runs.
    pub(super) fn pin(&self, deployment: &Deployment) -> Pin<'_> {
        let deployment = Arc::new(deployment.clone());
        self.lock().push(Arc::clone(&deployment));
        Pin { pins: self, deployment }
    }

    /// The pinned versions. None is pinned until the guard is dropped, so a sweep holds it.
    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<Arc<Deployment>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.pins.lock().retain(|pinned| !Arc::ptr_eq(pinned, &self.deployment));
    }
}
