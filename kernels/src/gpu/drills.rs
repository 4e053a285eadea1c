//! For tests: faults on purpose, and what serving must not change. Behind the feature `drills`.

use super::engine::GpuEngine;
use super::error::GpuError;
use super::opened::Created;

impl GpuEngine {
    /// Gives the device up, as a driver reset would. All engines on the device lose it.
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

    /// What was created on the device since it was opened, for all its models. Serving adds nothing to it.
    #[must_use]
    pub fn created(&self) -> Option<Created> {
        self.opened().map(super::opened::OpenDevice::created)
    }
}
