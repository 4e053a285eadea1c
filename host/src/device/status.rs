//! A report on a device, for people and programs.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::Device;
use super::meter::{Batches, MeterReading};

/// A device, its loaded models and their memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// `cpu` or `gpu`.
    pub engine: String,
    /// The processor and its instruction set, or the adapter, its backend and its driver.
    pub device: String,
    /// Why this device was chosen.
    pub reason: String,
    /// Compute threads; 0 if the processor only waits.
    pub threads: usize,
    /// Most bytes that models may take.
    pub memory_budget_bytes: u64,
    /// The reason for the budget, in words.
    pub memory_budget: String,
    /// Bytes of all models: their own memory plus the shared arena.
    pub memory_used_bytes: u64,
    /// Waiting tokens.
    pub waiting_tokens: u64,
    /// The loaded models, by name and revision.
    pub models: Vec<ModelStatus>,
    /// The processor, with the models that an automatically chosen GPU cannot compute.
    #[serde(default)]
    pub processor: Option<Box<DeviceStatus>>,
}

/// A device's work at one moment. Sums are since it was opened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceReading {
    /// The device, its loaded models and their memory.
    pub status: DeviceStatus,
    /// Sums.
    pub work: MeterReading,
    /// Time with at least one batch on the device, in seconds.
    pub busy_seconds: f64,
    /// What batches were like.
    pub batches: Batches,
    /// Requests with rows that wait.
    pub queued_requests: u64,
    /// How long the oldest of them has waited, in seconds; 0 if none waits.
    pub oldest_queued_seconds: f64,
    /// The processor, with the models that an automatically chosen GPU cannot compute.
    pub processor: Option<Box<DeviceReading>>,
}

/// A model on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelStatus {
    /// Its name.
    pub name: String,
    /// Its exact revision.
    pub revision: String,
    /// Format in which numbers are stored and multiplied.
    pub precision: String,
    /// Bytes of its weights.
    pub weights_bytes: u64,
    /// Its need of the device's arena, which is as large as the largest need of any model.
    pub arena_bytes: u64,
    /// Bytes for uploads and read-backs.
    pub io_bytes: u64,
    /// Bytes of a word table that stays in the processor's memory, because a GPU's buffers are too small for it.
    #[serde(default)]
    pub host_bytes: u64,
    /// Number of holders: tenants' versions that serve or still have running requests. The model makes room for others
    /// only at 0.
    pub holders: usize,
    /// Batches computed.
    #[serde(default)]
    pub batches: u64,
    /// Rows computed.
    pub rows: u64,
    /// Tokens computed.
    pub tokens: u64,
    /// Device time of its batches, in milliseconds.
    pub device_time_ms: u64,
}

impl Device {
    /// The device's work so far, and what waits for it now.
    #[must_use]
    pub fn read(&self, now: Instant) -> DeviceReading {
        let (queued_requests, oldest) = self.scheduler.waiting_requests();
        let meter = self.meter();
        DeviceReading {
            status: self.status(),
            work: meter.read(),
            busy_seconds: meter.busy().as_secs_f64(),
            batches: meter.batches(),
            queued_requests: queued_requests as u64,
            oldest_queued_seconds: oldest.map_or(0.0, |since| now.saturating_duration_since(since).as_secs_f64()),
            processor: self.processor.get().map(|processor| Box::new(processor.read(now))),
        }
    }

    /// The device, its loaded models and their memory.
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
                host_bytes: holding.memory.host_bytes,
                holders: holding.holders,
                batches: done.batches,
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
