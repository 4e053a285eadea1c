//! For tests, behind the feature `drills`: provoked faults, and counters that serving must not change.

use super::engine::GpuEngine;
use super::error::GpuError;
use super::opened::Created;

impl GpuEngine {
    /// Loses the device for all its engines, as a driver reset would.
    pub fn provoke_device_loss(&self) {
        if let Some(gpu) = self.opened() {
            gpu.device.destroy();
        }
    }

    /// Marks the device as out of memory, as a failed allocation would.
    pub fn provoke_out_of_memory(&self) {
        if let Some(gpu) = self.opened() {
            gpu.fail(GpuError::OutOfMemory(None));
        }
    }

    /// Whether the next batch can be written now. If not, submitting it would wait for batches in flight.
    #[must_use]
    pub fn takes_a_batch_at_once(&self) -> bool {
        self.next_slot().is_some_and(super::slots::Slot::is_writable)
    }

    /// Pipelines and buffers created since the device was opened, for all models. Serving adds none.
    #[must_use]
    pub fn created(&self) -> Option<Created> {
        self.opened().map(super::opened::OpenDevice::created)
    }
}
