//! A GPU shared by its models: one opened adapter with its queue, pipelines and arena.
//!
//! A fault (device lost, out of memory, a driver's error) ends an opening for all models on it. The first that needs
//! the device again opens the adapter anew; the others move to that opening with their next batch.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::adapter::{AdapterDescription, AdapterSelection};
use super::arena::{Arena, ArenaSizes};
use super::error::{GpuError, Loss};
use super::opened::OpenDevice;

/// A GPU, shared by all models on it.
#[derive(Debug)]
pub struct GpuDevice {
    selection: AdapterSelection,
    description: AdapterDescription,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    opened: Arc<OpenDevice>,
    /// Arenas in use, oldest first. A new shared arena is at least as large as all shared arenas before it.
    arenas: Vec<Weak<Arena>>,
}

impl GpuDevice {
    /// Opens the adapter that `selection` names.
    ///
    /// # Errors
    /// No adapter fits, it lacks what every kernel needs, or its driver refuses.
    pub fn open(selection: &AdapterSelection) -> Result<Arc<Self>, GpuError> {
        let opened = OpenDevice::new(selection)?;
        Ok(Arc::new(Self {
            selection: selection.clone(),
            description: opened.description().clone(),
            current: Mutex::new(Current { opened: Arc::new(opened), arenas: Vec::new() }),
        }))
    }

    /// The adapter.
    #[must_use]
    pub fn description(&self) -> &AdapterDescription {
        &self.description
    }

    /// Bytes of activations that the device holds for its models, all together. Engines report what each needs of it:
    /// the device holds the largest need, not the sum, and what models with padding need beside it. After a larger
    /// model came, the smaller arena stays until the last model that used it has computed a batch in the new one.
    #[must_use]
    pub fn arena_bytes(&self) -> u64 {
        self.current().arenas.iter().filter_map(Weak::upgrade).map(|arena| arena.sizes.total()).sum()
    }

    /// The current opening, or a new one if a fault ended it.
    ///
    /// # Errors
    /// The adapter cannot be reopened.
    pub fn opened(&self) -> Result<Arc<OpenDevice>, GpuError> {
        let mut current = self.current();
        if current.opened.check().is_err() {
            *current = Current { opened: Arc::new(OpenDevice::new(&self.selection)?), arenas: Vec::new() };
        }
        Ok(Arc::clone(&current.opened))
    }

    /// Whether `opened` is still the opening that [`opened`](Self::opened) would check.
    pub(super) fn is_current(&self, opened: &Arc<OpenDevice>) -> bool {
        Arc::ptr_eq(&self.current().opened, opened)
    }

    /// An arena for a model on `opened`: the shared one, enlarged if needed, or the model's own.
    ///
    /// # Errors
    /// A buffer is larger than the device can bind, the device is out of memory, or `opened` is no longer current.
    pub(super) fn arena(&self, opened: &Arc<OpenDevice>, sizes: ArenaSizes) -> Result<Arc<Arena>, GpuError> {
        let mut current = self.current();
        if !Arc::ptr_eq(&current.opened, opened) {
            return Err(Loss::WithBatch.into());
        }
        let shared = current.newest_shared().filter(|_| sizes.shared);
        if let Some(shared) = &shared
            && shared.sizes.cover(&sizes)
        {
            return Ok(Arc::clone(shared));
        }
        let sizes = shared.map_or(sizes, |shared| sizes.max(&shared.sizes));
        let arena = Arc::new(Arena::new(opened, sizes)?);
        current.arenas.retain(|arena| arena.strong_count() > 0);
        current.arenas.push(Arc::downgrade(&arena));
        Ok(arena)
    }

    /// The arena for the next batch: the model's current one, or a newer one that it can share.
    pub(super) fn newest_arena(&self, held: &Arc<Arena>) -> Arc<Arena> {
        let newest = self.current().newest_shared().filter(|_| held.sizes.shared);
        newest.unwrap_or_else(|| Arc::clone(held))
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    fn newest_shared(&self) -> Option<Arc<Arena>> {
        self.arenas.iter().rev().filter_map(Weak::upgrade).find(|arena| arena.sizes.shared)
    }
}
