//! Where an engine's weights come from when they have to be loaded again, after a fault of the device.
//!
//! Files are read again where there are files, so that a large model is on the device only: its copy in the processor's
//! memory would be in f32, up to twice the file. A model that was made in memory is kept there.

use std::error::Error;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::error::GpuError;
use crate::architecture::Architecture;
use crate::weights::{Model, ReadModel};

/// The source of a model's weights.
pub(super) enum Origin {
    /// This copy in the processor's memory.
    Kept(Arc<Model>),
    /// Files that are read each time.
    Read(ReadModel),
}

/// A model on its way to a device.
#[derive(Debug)]
pub(super) enum ModelToLoad {
    /// Its origin keeps it.
    Kept(Arc<Model>),
    /// Read for this load alone: what is on the device is freed.
    Read(Box<Model>),
}

impl Origin {
    /// The model once more; it must be one of `architecture`, whose layout and kernels the engine has.
    ///
    /// # Errors
    /// It cannot be read, or it is another model.
    pub(super) fn model(&self, architecture: &Architecture) -> Result<ModelToLoad, GpuError> {
        match self {
            Self::Kept(model) => Ok(ModelToLoad::Kept(Arc::clone(model))),
            Self::Read(read) => {
                let model = read().map_err(|error| GpuError::ReadAgain(error.into()))?;
                if model.architecture != *architecture {
                    let error: Box<dyn Error + Send + Sync> = "its files are those of another model now".into();
                    return Err(GpuError::ReadAgain(error.into()));
                }
                Ok(ModelToLoad::Read(Box::new(model)))
            }
        }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Kept(_) => "Kept",
            Self::Read(_) => "Read",
        })
    }
}

impl Deref for ModelToLoad {
    type Target = Model;

    fn deref(&self) -> &Model {
        match self {
            Self::Kept(model) => model,
            Self::Read(model) => model,
        }
    }
}
