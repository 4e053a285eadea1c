//! All that a server counts, at one moment: what the metrics, the dashboard and `assay top` show.

use serde::{Deserialize, Serialize};

use super::compiles::CompileReading;
use super::meter::{RequestCounts, Usage};
use super::serving::Counts;
use crate::device::DeviceReading;
use crate::guest::GuestReading;
use crate::telemetry::{Histogram, HttpReading, ProcessReading};

/// A server at one moment. Sums are since its start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The program's version.
    pub version: String,
    /// When it was taken, in milliseconds since 1970.
    pub at_ms: u64,
    /// Since the start.
    pub uptime_seconds: f64,
    /// Tenants by their state.
    pub tenant_counts: Counts,
    /// The requests of all tenants.
    pub all: RequestCounts,
    /// The tenants that are told by name, in the order of their names.
    pub tenants: Vec<TenantReading>,
    /// The use of all tenants that are not told by name.
    pub others: Usage,
    /// The device, once it is open.
    pub device: Option<DeviceReading>,
    /// Guests.
    pub guests: GuestReading,
    /// Components compiled.
    pub compiles: CompileReading,
    /// The ports.
    pub http: HttpReading,
    /// The process.
    pub process: ProcessReading,
}

/// A tenant at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TenantReading {
    /// Its name.
    pub name: String,
    /// The model that it is deployed with; `None` if it does not serve.
    pub model: Option<String>,
    /// Its share of the device; 0 if it does not serve.
    pub weight: u64,
    /// Its use.
    pub usage: Usage,
    /// How long its answered requests took, in seconds.
    pub total_times: Histogram,
}
