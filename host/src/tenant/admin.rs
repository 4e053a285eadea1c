//! The words in which changes are asked for and answered: the same whether they go to a server over its socket or to the
//! store directly.

use serde::{Deserialize, Serialize};

use super::{Deployment, Event, KeyRecord, RegistryError, TenantLimits, TenantName, TenantRecord, Usage};
use crate::device::{DeviceError, LoadError};
use crate::guest::GuestError;
use crate::model::ModelError;
use crate::rerank::RerankError;

/// A change, or a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Deploy a component whose blob is in the store already.
    Deploy {
        /// The tenant, made if there is none.
        tenant: TenantName,
        /// SHA-256 of the component.
        component: String,
        /// The limits; those of the current version where absent, or else the defaults.
        limits: Option<Box<TenantLimits>>,
        /// The default model; that of the current version where absent, or else the store's default.
        model: Option<String>,
    },
    /// Every tenant.
    List,
    /// All that is known of a tenant.
    Show {
        /// The tenant.
        tenant: TenantName,
    },
    /// Make an earlier version the current one.
    Rollback {
        /// The tenant.
        tenant: TenantName,
        /// The version; the one before the current where absent.
        to: Option<u64>,
    },
    /// Other limits for the component that is deployed, as a new version.
    SetLimits {
        /// The tenant.
        tenant: TenantName,
        /// The limits.
        limits: Box<TenantLimits>,
    },
    /// Make a key.
    CreateKey {
        /// The tenant.
        tenant: TenantName,
    },
    /// A tenant's keys.
    ListKeys {
        /// The tenant.
        tenant: TenantName,
    },
    /// Forget a key.
    RevokeKey {
        /// The tenant.
        tenant: TenantName,
        /// The key's id.
        id: String,
    },
    /// Remove a tenant with its versions and keys.
    Remove {
        /// The tenant.
        tenant: TenantName,
    },
}

/// A command and who gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminRequest {
    /// What to do.
    pub command: Command,
    /// The name of the user, for the history.
    pub by: String,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// The version that serves now.
    Serving(Box<Deployment>),
    /// Every tenant with its current version.
    Tenants(Vec<(TenantRecord, Deployment)>),
    /// All that is known of a tenant.
    Tenant(Box<Description>),
    /// A new key, to be shown once.
    Key {
        /// The key.
        secret: String,
        /// What is kept of it.
        record: KeyRecord,
    },
    /// A tenant's keys.
    Keys(Vec<KeyRecord>),
    /// It is done.
    Done,
    /// It is not done; nothing has changed.
    Refused(AdminError),
}

/// All that is known of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The tenant.
    pub tenant: TenantRecord,
    /// Its versions, oldest first.
    pub versions: Vec<Deployment>,
    /// What was done to it, oldest first.
    pub history: Vec<Event>,
    /// What it uses; absent where no server runs.
    pub usage: Option<Usage>,
}

/// Why a command was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct AdminError {
    /// Whose fault it is.
    pub fault: Fault,
    /// What was wrong, and what to do.
    pub message: String,
}

/// Whose fault it is that a command was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The command's: it will fail again.
    Command,
    /// The host's.
    Host,
}

impl AdminError {
    /// The command is at fault.
    pub fn command(message: impl Into<String>) -> Self {
        Self { fault: Fault::Command, message: message.into() }
    }

    /// The host is at fault.
    pub fn host(message: impl Into<String>) -> Self {
        Self { fault: Fault::Host, message: message.into() }
    }
}

impl From<RegistryError> for AdminError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::InUse { .. } | RegistryError::Store { .. } => Self::host(error.to_string()),
            RegistryError::NoTenant(_)
            | RegistryError::NoVersion { .. }
            | RegistryError::NothingBefore(_)
            | RegistryError::NoKey { .. } => Self::command(error.to_string()),
        }
    }
}

impl From<GuestError> for AdminError {
    fn from(error: GuestError) -> Self {
        match error {
            GuestError::Engine(_) | GuestError::Io { .. } => Self::host(error.to_string()),
            _ => Self::command(error.to_string()),
        }
    }
}

impl From<ModelError> for AdminError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Name { .. } | ModelError::Unknown { .. } | ModelError::Empty => {
                Self::command(error.to_string())
            }
            _ => Self::host(error.to_string()),
        }
    }
}

impl From<DeviceError> for AdminError {
    fn from(error: DeviceError) -> Self {
        Self::host(error.to_string())
    }
}

impl From<LoadError> for AdminError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Model(error) => error.into(),
            LoadError::Device { .. } | LoadError::NoRoom(_) => Self::host(error.to_string()),
        }
    }
}

impl From<RerankError> for AdminError {
    fn from(error: RerankError) -> Self {
        match error {
            RerankError::Internal(_) | RerankError::DeviceFailed(_) | RerankError::Overloaded { .. } => {
                Self::host(error.to_string())
            }
            _ => Self::command(error.to_string()),
        }
    }
}
