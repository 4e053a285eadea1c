//! The device: the processor or one GPU, with its memory, its queue, and the models that are loaded on it.
//!
//! A process opens one. What it owns, and where that is:
//!
//! - [`choose`]: which device a machine gives, and why; [`hardware`]: the threads or the GPU, once opened.
//! - [`models`]: loaded models; [`budget`]: the memory they may take, and who makes room.
//! - [`scheduler`]: rows of many tenants' requests onto the models' engines: [`queue`] admits them and packs batches,
//!   [`fair_queueing`] decides whose turn it is, [`speed`] what rows cost, [`dispatch`] is the thread that owns the
//!   engines, [`shared`] what it shares with callers; [`score`] has what callers give and get.
//! - [`meter`]: what it has done; [`status`]: all of this for people.
//!
//! Knows models, rows, tokens and weights; never text, guests or limits files.

mod budget;
mod choose;
mod dispatch;
mod fair_queueing;
mod hardware;
mod meter;
mod models;
mod queue;
mod scheduler;
mod score;
mod shared;
mod speed;
mod status;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

pub use budget::{BudgetSource, DEFAULT_DISCRETE_GPU_BYTES, MemoryBudget, NoRoom};
pub use choose::{Decision, DeviceError, DeviceOptions, EngineChoice, EnginePrecision};
pub use fair_queueing::ModelId;
pub use meter::{Meter, MeterReading};
pub use models::{LoadError, LoadedModel};
pub use scheduler::{DEFAULT_MAX_QUEUED_TOKENS, Scheduler};
pub use score::{Account, DEFAULT_WEIGHT, DeviceFault, ScoreError, Scored};
pub use status::{DeviceStatus, ModelStatus};

use budget::Holdings;
use hardware::Hardware;
use models::ResidentModel;

/// What computes, with the models that are loaded on it. A process opens one. All models share its threads or its GPU,
/// its memory and its queue.
#[derive(Debug)]
pub struct Device {
    /// Dropped first, with the engines: they go before what they run on.
    scheduler: Scheduler,
    hardware: Hardware,
    budget: MemoryBudget,
    holdings: Mutex<Holdings<Arc<ResidentModel>>>,
    /// Held while a model is loaded.
    loading: Mutex<()>,
    /// Beside a GPU that was chosen automatically: where models go that it cannot compute.
    processor: OnceLock<Arc<Device>>,
}

impl Device {
    /// Opens the device that the options choose.
    ///
    /// # Errors
    /// The options contradict each other, or the machine has no such device.
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

    /// Why it is this device.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.hardware.reason()
    }

    /// What it has done so far.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        self.scheduler.meter()
    }

    /// Tokens that wait at this moment, for any model.
    #[must_use]
    pub fn waiting_tokens(&self) -> usize {
        self.scheduler.waiting_tokens()
    }

    /// Tokens of a tenant's rows that wait at this moment, for any model.
    #[must_use]
    pub fn waiting_tokens_of(&self, tenant: &str) -> usize {
        self.scheduler.waiting_tokens_of(tenant)
    }

    fn holdings(&self) -> MutexGuard<'_, Holdings<Arc<ResidentModel>>> {
        // The table is changed in small steps that leave it whole.
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
