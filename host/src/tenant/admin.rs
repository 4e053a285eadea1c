//! Requests for changes and their replies: the same whether they go to a server over its socket or to the store
//! directly.

use serde::{Deserialize, Serialize};

use super::{
    Counts, Deployment, Event, KeyRecord, NewKeyError, RegistryError, Snapshot, TenantLimits, TenantLink, TenantName,
    TenantRecord, Usage,
};
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
        /// The tenant, created if it does not exist.
        tenant: TenantName,
        /// SHA-256 of the component, already in the store; `None` keeps the current version's.
        component: Option<String>,
        /// The limits; `None` keeps the current version's, or sets the defaults.
        limits: Option<Box<TenantLimits>>,
        /// The default model as `NAME[@REVISION]`; `None` keeps the current version's, or sets the store's default.
        model: Option<String>,
        /// Other models that the limits name, as `NAME[@REVISION]`. Models not listed keep the revision of the current
        /// version, or get the store's current revision if the version does not have them.
        #[serde(default)]
        other_models: Vec<String>,
        /// The tenants behind imports of the component. Imports not listed keep the link of the current version.
        #[serde(default)]
        links: Vec<TenantLink>,
    },
    /// List every tenant.
    List,
    /// Show a tenant with its versions, models, use and history.
    Show {
        /// The tenant.
        tenant: TenantName,
    },
    /// Make an earlier version the current one.
    Rollback {
        /// The tenant.
        tenant: TenantName,
        /// The version; `None` means the one before the current.
        to: Option<u64>,
    },
    /// Set other limits for the deployed component, as a new version.
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
    /// List a tenant's keys.
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
        /// Whether requests in work may end.
        #[serde(default)]
        drain: bool,
    },
    /// Remove a tenant with its versions and keys.
    Remove {
        /// The tenant.
        tenant: TenantName,
        /// Whether requests in work may end.
        #[serde(default)]
        drain: bool,
        /// Whether it is removed though other tenants call it.
        #[serde(default)]
        force: bool,
    },
    /// List the models that versions open, by revision.
    ListHeldModels,
    /// Show the server's device and its loaded models.
    ShowDevice,
    /// Tell all that is counted.
    Observe,
    /// Tell the operator's key.
    OperatorKey {
        /// Whether to make another one first.
        renew: bool,
    },
    /// Count the tenants that start, serve and have failed.
    Ready,
    /// Remove a model with all its revisions, unless a version opens one.
    RemoveModel {
        /// The model's name.
        name: String,
    },
    /// Forget old versions, and remove unused files.
    CollectGarbage {
        /// Versions of each tenant to keep besides the current one, newest first.
        keep: u64,
        /// Only list what would be removed.
        dry_run: bool,
    },
}

/// A command and the user that gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminRequest {
    /// The command.
    pub command: Command,
    /// The user's name, for the history.
    pub by: String,
}

/// The result of a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// The version that serves now.
    Serving(Box<Served>),
    /// Every tenant with its current version.
    Tenants(Vec<(TenantRecord, Deployment)>),
    /// A tenant.
    Tenant(Box<Description>),
    /// A new key, shown once.
    Key {
        /// The key.
        secret: String,
        /// The stored record of the key.
        record: KeyRecord,
    },
    /// A tenant's keys.
    Keys(Vec<KeyRecord>),
    /// Every model of every version.
    HeldModels(Vec<HeldModel>),
    /// What was removed, or would be removed.
    Swept(Swept),
    /// The tenants by their state.
    Ready(Counts),
    /// All that is counted.
    Observed(Box<Snapshot>),
    /// The operator's key.
    OperatorKey {
        /// The key.
        secret: String,
    },
    /// The server's device.
    Device(Box<DeviceStatus>),
    /// The tenant is removed, and calls of it by these tenants fail from now on.
    Removed {
        /// The tenants.
        callers: Vec<TenantName>,
    },
    /// Done, without data.
    Done,
    /// The command failed and changed nothing.
    Refused(AdminError),
}

/// A version that serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// The version.
    #[serde(flatten)]
    pub deployment: Deployment,
    /// Why its instances do not start from a snapshot of the guest's memory; `None` if they do.
    #[serde(default)]
    pub no_snapshot: Option<String>,
    /// Tenants that call this one, and that its limits do not name: their calls are refused from now on.
    #[serde(default)]
    pub refused_callers: Vec<TenantName>,
    /// What its requests need, although it serves.
    #[serde(default)]
    pub note: Option<String>,
}

/// A tenant with its versions, models, use and history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The tenant.
    pub tenant: TenantRecord,
    /// Its versions, oldest first.
    pub versions: Vec<Deployment>,
    /// Its history, oldest first.
    pub history: Vec<Event>,
    /// The models that its versions open.
    pub models: Vec<OpenedModel>,
    /// Its usage; `None` if no server runs, or it does not serve the tenant.
    pub usage: Option<Usage>,
    /// Why the server does not serve the tenant, or not yet.
    #[serde(default)]
    pub trouble: Option<String>,
    /// The server's device and all its loaded models; `None` if no server runs.
    #[serde(default)]
    pub device: Option<DeviceStatus>,
    /// What the current version's imports lead to.
    #[serde(default)]
    pub links: Vec<ShownLink>,
    /// Tenants whose current versions call this one.
    #[serde(default)]
    pub called_by: Vec<TenantName>,
}

/// A link to another tenant as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownLink {
    /// The link.
    #[serde(flatten)]
    pub link: TenantLink,
    /// Why calls of it fail; `None` if they need not.
    pub trouble: Option<String>,
}

/// A revision of a model that versions of a tenant open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedModel {
    /// The revision.
    #[serde(flatten)]
    pub model: ModelRevision,
    /// The versions.
    pub versions: Vec<u64>,
    /// Its state in the store.
    pub stored: Stored,
}

/// A version's model in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stored {
    /// The revision, which is the newest.
    Newest,
    /// The revision, and a newer one.
    Newer {
        /// The newest revision.
        revision: String,
    },
    /// The store lacks the revision.
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
    /// Whether this version serves now.
    pub is_current: bool,
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct AdminError {
    /// Whose fault it is.
    pub fault: Fault,
    /// The kind of failure, so that a client can suggest a remedy.
    #[serde(default)]
    pub cause: Cause,
    /// What failed, for people.
    pub message: String,
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The command's; it will fail again.
    Command,
    /// The host's.
    Host,
}

/// Failures for which a client can suggest a remedy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The tenant does not exist.
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
    /// The component is missing or damaged in the store.
    NoComponent,
    /// The store lacks the model.
    NoModel {
        /// The model's name.
        name: String,
    },
    /// The store has the model but lacks the revision.
    NoRevision {
        /// The model's name.
        name: String,
    },
    /// The store has no default model.
    NoDefaultModel,
    /// A model's files are damaged.
    DamagedModel,
    /// Neither the hub nor the package index gave a default model.
    NoModelFetched,
    /// The GPU engine does not compute the model.
    NotOnGpu,
    /// Another process has the registry open.
    InUse,
    /// Any other failure.
    #[default]
    Other,
}

impl Cause {
    /// A message with the commands that remedy the cause.
    #[must_use]
    pub fn advise(&self, message: String) -> String {
        match self.remedy() {
            Some(remedy) => format!("{message}: {remedy}"),
            None => message,
        }
    }

    fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::NoTenant => "`assay tenant list` shows what there is".to_owned(),
            Self::NoVersion { tenant } => format!("`assay tenant show {tenant}` lists them"),
            Self::NoKey { tenant } => format!("`assay tenant key list {tenant}` shows them"),
            Self::NoComponent => "deploy the component's file again".to_owned(),
            Self::NoModel { name } => format!(
                "`assay model list` shows what there is, `assay model pull {name}` or `assay model add` brings one in"
            ),
            Self::NoRevision { name } => format!(
                "`assay model list` shows what there is, `assay model add` or `assay model pull` brings a revision in, `assay tenant deploy TENANT --model {name}` has a tenant use the newest"
            ),
            Self::NoDefaultModel => {
                "`assay model pull` brings in the default one, `assay model default NAME` chooses one that is here"
                    .to_owned()
            }
            Self::DamagedModel => "bring the model in again under its name, with `assay model pull NAME` or \
                                   `assay model add DIR --name NAME`"
                .to_owned(),
            Self::NoModelFetched => {
                "by hand: `assay model add DIR` with a directory that has config.json, tokenizer.json and model.safetensors"
                    .to_owned()
            }
            Self::NotOnGpu => "use the CPU engine with `--engine cpu`".to_owned(),
            Self::InUse => "stop it, or talk to the server that runs on this data directory".to_owned(),
            Self::Other => return None,
        })
    }
}

impl AdminError {
    /// The message with the commands that remedy it.
    #[must_use]
    pub fn with_remedy(&self) -> String {
        self.cause.advise(self.message.clone())
    }

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

impl From<&LoadError> for Cause {
    fn from(error: &LoadError) -> Self {
        match error {
            LoadError::Model(error) => error.into(),
            LoadError::Device { source, .. } if source.is_lacking_on_gpu() => Self::NotOnGpu,
            LoadError::Device { .. } | LoadError::NoRoom(_) => Self::Other,
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
            | ModelError::NameTaken { .. }
            | ModelError::IsDefault { .. }
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
        let cause = Cause::from(&error);
        match error {
            LoadError::Model(error) => error.into(),
            LoadError::Device { .. } | LoadError::NoRoom(_) => Self::host(error.to_string()).caused_by(cause),
        }
    }
}

impl From<RerankError> for AdminError {
    fn from(error: RerankError) -> Self {
        match error {
            RerankError::Internal(_)
            | RerankError::Unavailable { .. }
            | RerankError::Overloaded { .. }
            | RerankError::Deferred { callee: Some(_), .. } => Self::host(error.to_string()),
            _ => Self::command(error.to_string()),
        }
    }
}
