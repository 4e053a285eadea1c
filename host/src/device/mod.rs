//! The device: the processor or one GPU, with its memory, its queue, and the models that are loaded on it.
//!
//! A process opens one. Its parts:
//!
//! - [`choose`]: the device for this machine, and why; [`hardware`]: the opened threads or GPU, behind
//!   the trait of [`opened`].
//! - [`models`]: loaded models; [`budget`]: the memory they may take, and which make room.
//! - [`scheduler`]: schedules rows of many tenants' requests onto the models' engines: [`queue`] admits requests and
//!   packs batches, [`fair_queueing`] decides whose turn it is, [`speed`] estimates what rows cost, [`dispatch`] is the
//!   thread that owns the engines, [`shared`] is the state it shares with callers; [`score`] has the callers' inputs
//!   and results.
//! - [`spans`]: spans of the queue's and the device's work, for sampled requests.
//! - [`puppet`]: a device that computes nothing, for measurements.
//! - [`meter`]: counters of its work; [`status`]: a report of all this.
//!
//! Knows models, rows, tokens and weights; never text, guests or limits files.

mod budget;
mod choose;
mod dispatch;
mod fair_queueing;
mod hardware;
mod meter;
mod models;
mod opened;
mod puppet;
mod queue;
mod scheduler;
mod score;
mod shared;
mod spans;
mod speed;
mod status;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

pub use budget::{BudgetSource, DEFAULT_DISCRETE_GPU_BYTES, MemoryBudget, NoRoom, machine_memory_bytes};
pub use choose::{Decision, DeviceError, DeviceOptions, EngineChoice, EnginePrecision};
pub use fair_queueing::ModelId;
pub use meter::{Batches, Meter, MeterReading};
pub use models::{LoadError, LoadedModel};
pub use scheduler::{DEFAULT_MAX_QUEUED_TOKENS, Scheduler};
pub use score::{Account, DEFAULT_WEIGHT, DeviceFault, ScoreError, Scored};
pub use status::{DeviceReading, DeviceStatus, ModelStatus};

use budget::Holdings;
use hardware::Hardware;
use models::ResidentModel;

/// The device and its loaded models. A process opens one. All models share its threads or GPU, its memory and its
/// queue.
#[derive(Debug)]
pub struct Device {
    /// Dropped first, with the engines, before the hardware that they run on.
    scheduler: Scheduler,
    hardware: Hardware,
    budget: MemoryBudget,
    holdings: Mutex<Holdings<Arc<ResidentModel>>>,
    /// Held while a model is loaded.
    loading: Mutex<()>,
    /// The processor, for models that an automatically chosen GPU cannot compute.
    processor: OnceLock<Arc<Device>>,
}

impl Device {
    /// Opens the device that the options choose.
    ///
    /// # Errors
    /// The options are inconsistent, or the machine has no such device.
    pub fn open(options: &DeviceOptions) -> Result<Arc<Self>, DeviceError> {
        let hardware = Hardware::open(options)?;
        Ok(Arc::new(Self {
            scheduler: Scheduler::start(DEFAULT_MAX_QUEUED_TOKENS).map_err(DeviceError::Thread)?,
            budget: MemoryBudget::of(options.memory_bytes, hardware.adapter()),
            hardware,
            holdings: Mutex::default(),
            loading: Mutex::default(),
            processor: OnceLock::new(),
        }))
    }

    /// Why this device was chosen.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.hardware.reason()
    }

    /// Counters of the device's work.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        self.scheduler.meter()
    }

    /// Whether the last batches have all failed, a short while ago, here or on the processor beside it.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.meter().is_failing() || self.processor.get().is_some_and(|processor| processor.is_failing())
    }

    /// Tokens that wait now, for any model.
    #[must_use]
    pub fn waiting_tokens(&self) -> usize {
        self.scheduler.waiting_tokens()
    }

    /// Tokens of a tenant's rows that wait now, for any model.
    #[must_use]
    pub fn waiting_tokens_of(&self, tenant: &str) -> usize {
        self.scheduler.waiting_tokens_of(tenant)
    }

    fn holdings(&self) -> MutexGuard<'_, Holdings<Arc<ResidentModel>>> {
        // Each change leaves the table consistent.
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
