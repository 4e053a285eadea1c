//! A device in words and numbers, for people and their programs.

use serde::{Deserialize, Serialize};

use super::Device;

/// What a device is, what is loaded on it, and what that takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// `cpu` or `gpu`.
    pub engine: String,
    /// The processor and its instruction set, or the adapter, its backend and its driver.
    pub device: String,
    /// Why it is this one.
    pub reason: String,
    /// Threads that compute, whatever is loaded; 0 where the processor only waits.
    pub threads: usize,
    /// Most bytes that models take.
    pub memory_budget_bytes: u64,
    /// Where the budget comes from, in words.
    pub memory_budget: String,
    /// Bytes that models take together: what each has of its own, and one arena for all.
    pub memory_used_bytes: u64,
    /// Tokens that wait for it.
    pub waiting_tokens: u64,
    /// The models that are loaded, by name and revision.
    pub models: Vec<ModelStatus>,
    /// The processor beside a GPU that was chosen automatically, with the models that the GPU cannot compute.
    #[serde(default)]
    pub processor: Option<Box<DeviceStatus>>,
}

/// A model on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelStatus {
    /// Its name.
    pub name: String,
    /// Its exact revision.
    pub revision: String,
    /// Numbers as stored and multiplied.
    pub precision: String,
    /// Its weights.
    pub weights_bytes: u64,
    /// What it needs of the device's arena, which is as large as the most demanding model's need.
    pub arena_bytes: u64,
    /// Its uploads and read-backs.
    pub io_bytes: u64,
    /// How many hold it: versions of tenants that serve or still have requests in work. It makes room for other models
    /// only if nobody does.
    pub holders: usize,
    /// Rows computed.
    pub rows: u64,
    /// Tokens computed.
    pub tokens: u64,
    /// Device time that its batches took, in milliseconds.
    pub device_time_ms: u64,
}

impl Device {
    /// What it is, what is loaded on it, and what that takes.
    #[must_use]
    pub fn status(&self) -> DeviceStatus {
        let holdings = self.holdings();
        let models = holdings.all().into_iter().map(|(key, holding)| {
            let done = self.scheduler.meter().model(holding.model.id);
            ModelStatus {
                name: key.name.clone(),
                revision: key.revision.clone(),
                precision: holding.model.precision().to_owned(),
                weights_bytes: holding.memory.weights_bytes,
                arena_bytes: holding.memory.arena_bytes,
                io_bytes: holding.memory.io_bytes,
                holders: holding.holders,
                rows: done.rows,
                tokens: done.tokens,
                device_time_ms: u64::try_from(done.device_time.as_millis()).unwrap_or(u64::MAX),
            }
        });
        DeviceStatus {
            engine: self.hardware.engine_name().to_owned(),
            device: self.hardware.description(),
            reason: self.hardware.reason().to_owned(),
            threads: self.hardware.threads(),
            memory_budget_bytes: self.budget.bytes,
            memory_budget: self.budget.to_string(),
            memory_used_bytes: holdings.used_bytes(),
            waiting_tokens: self.waiting_tokens() as u64,
            models: models.collect(),
            processor: self.processor.get().map(|processor| Box::new(processor.status())),
        }
    }
}
