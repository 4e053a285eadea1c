//! Requests for changes and their replies: the same whether they go to a server over its socket or to the store
//! directly.

use serde::{Deserialize, Serialize};

use super::{Deployment, Event, KeyRecord, NewKeyError, RegistryError, TenantLimits, TenantName, TenantRecord, Usage};
use crate::device::{DeviceError, DeviceStatus, LoadError};
use crate::guest::GuestError;
use crate::model::{ModelError, ModelRevision};
use crate::rerank::RerankError;
use crate::sweep::Swept;

/// A change, or a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Deploy a component, other limits, other models, or several of these.
    Deploy {
        /// The tenant, made if there is none.
        tenant: TenantName,
        /// SHA-256 of the component, whose blob is in the store already; that of the current version where absent.
        component: Option<String>,
        /// The limits; those of the current version where absent, or else the defaults.
        limits: Option<Box<TenantLimits>>,
        /// The default model as `NAME[@REVISION]`; that of the current version where absent, or else the store's
        /// default.
        model: Option<String>,
        /// Other models that the limits name, as `NAME[@REVISION]`. Those that are not here keep the revision of the
        /// current version; the store's current one is for those that it does not have.
        #[serde(default)]
        other_models: Vec<String>,
    },
    /// Every tenant.
    List,
    /// A tenant with its versions, models, use and history.
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
    /// Which version opens which revision of which model.
    ListHeldModels,
    /// What the server computes on, and what is loaded there.
    ShowDevice,
    /// Forget old versions, and remove what nothing needs any more.
    CollectGarbage {
        /// Versions of each tenant that stay besides the current one, the newest first.
        keep: u64,
        /// Only say what would go.
        dry_run: bool,
    },
}

/// A command and the user that gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminRequest {
    /// What to do.
    pub command: Command,
    /// The user's name, for the history.
    pub by: String,
}

/// The result of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// The version that serves now.
    Serving(Box<Deployment>),
    /// Every tenant with its current version.
    Tenants(Vec<(TenantRecord, Deployment)>),
    /// A tenant.
    Tenant(Box<Description>),
    /// A new key, to show once.
    Key {
        /// The key.
        secret: String,
        /// What is stored of it.
        record: KeyRecord,
    },
    /// A tenant's keys.
    Keys(Vec<KeyRecord>),
    /// Every model of every version.
    HeldModels(Vec<HeldModel>),
    /// What was removed, or would be.
    Swept(Swept),
    /// What the server computes on.
    Device(Box<DeviceStatus>),
    /// It is done.
    Done,
    /// The command failed and changed nothing.
    Refused(AdminError),
}

/// A tenant with its versions, models, use and history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The tenant.
    pub tenant: TenantRecord,
    /// Its versions, oldest first.
    pub versions: Vec<Deployment>,
    /// What was done to it, oldest first.
    pub history: Vec<Event>,
    /// The models that its versions open.
    pub models: Vec<OpenedModel>,
    /// What it uses; absent if no server runs.
    pub usage: Option<Usage>,
    /// What the server computes on, and all models that are loaded there; absent where no server runs.
    #[serde(default)]
    pub device: Option<DeviceStatus>,
}

/// A revision of a model that versions of a tenant open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedModel {
    /// The revision.
    #[serde(flatten)]
    pub model: ModelRevision,
    /// The versions.
    pub versions: Vec<u64>,
    /// What the store has of the model.
    pub stored: Stored,
}

/// What the store has of a model that a version opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stored {
    /// The revision, and it is the one that was added last.
    Newest,
    /// The revision, and another one that was added later.
    Newer {
        /// The one that was added last.
        revision: String,
    },
    /// Not the revision.
    Missing,
}

/// A model that one version of a tenant opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldModel {
    /// The model.
    pub model: ModelRevision,
    /// The tenant.
    pub tenant: TenantName,
    /// The version.
    pub version: u64,
    /// Whether it is the one that serves.
    pub is_current: bool,
}

/// Why a command was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct AdminError {
    /// Whose fault it is.
    pub fault: Fault,
    /// What kind of failure it is, so that a client can say what to do about it.
    #[serde(default)]
    pub cause: Cause,
    /// What failed, for people.
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

/// Failures about which a client can say what to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// There is no such tenant.
    NoTenant,
    /// The tenant has no such version.
    NoVersion {
        /// The tenant.
        tenant: String,
    },
    /// The tenant has no such key.
    NoKey {
        /// The tenant.
        tenant: String,
    },
    /// The component is not in the store, or is damaged there.
    NoComponent,
    /// The store has no such model.
    NoModel {
        /// The model's name.
        name: String,
    },
    /// The store has the model, and not the revision.
    NoRevision {
        /// The model's name.
        name: String,
    },
    /// The store has no default model.
    NoDefaultModel,
    /// A model's files are not what they were.
    DamagedModel,
    /// Neither the hub nor the package index gave a default model.
    NoModelFetched,
    /// Another process has the registry open.
    InUse,
    /// Any other.
    #[default]
    Other,
}

impl AdminError {
    /// The command is at fault.
    pub fn command(message: impl Into<String>) -> Self {
        Self { fault: Fault::Command, cause: Cause::Other, message: message.into() }
    }

    /// The host is at fault.
    pub fn host(message: impl Into<String>) -> Self {
        Self { fault: Fault::Host, cause: Cause::Other, message: message.into() }
    }

    /// Names the kind of failure.
    #[must_use]
    pub fn caused_by(self, cause: Cause) -> Self {
        Self { cause, ..self }
    }
}

impl From<&ModelError> for Cause {
    fn from(error: &ModelError) -> Self {
        match error {
            ModelError::Unknown { name } => Self::NoModel { name: name.clone() },
            ModelError::UnknownRevision { name, .. } => Self::NoRevision { name: name.clone() },
            ModelError::Empty => Self::NoDefaultModel,
            ModelError::Damaged { .. } => Self::DamagedModel,
            ModelError::NoDefault { .. } => Self::NoModelFetched,
            _ => Self::Other,
        }
    }
}

impl From<RegistryError> for AdminError {
    fn from(error: RegistryError) -> Self {
        let message = error.to_string();
        match error {
            RegistryError::InUse { .. } => Self::host(message).caused_by(Cause::InUse),
            RegistryError::Store { .. } => Self::host(message),
            RegistryError::NoTenant(_) => Self::command(message).caused_by(Cause::NoTenant),
            RegistryError::NoVersion { tenant, .. } => {
                Self::command(message).caused_by(Cause::NoVersion { tenant: tenant.into() })
            }
            RegistryError::NothingBefore(_) => Self::command(message),
            RegistryError::NoKey { tenant, .. } => {
                Self::command(message).caused_by(Cause::NoKey { tenant: tenant.into() })
            }
        }
    }
}

impl From<NewKeyError> for AdminError {
    fn from(error: NewKeyError) -> Self {
        Self::host(error.to_string())
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
        let (cause, message) = (Cause::from(&error), error.to_string());
        let error = match error {
            ModelError::Name { .. }
            | ModelError::Unknown { .. }
            | ModelError::UnknownRevision { .. }
            | ModelError::AmbiguousRevision { .. }
            | ModelError::Empty => Self::command(message),
            _ => Self::host(message),
        };
        error.caused_by(cause)
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
