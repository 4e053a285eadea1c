//! The registry's records of tenants: versions and history. Stored as JSON, so a new field needs a default for records
//! of earlier versions of this program.

use serde::{Deserialize, Serialize};

use super::{TenantLimits, TenantName};
use crate::model::ModelRevision;

/// One immutable version of a tenant: its guest, the revisions of its models, its links, and its limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Counted from 1 per tenant name.
    pub version: u64,
    /// SHA-256 of the component.
    pub component: String,
    /// Its size.
    pub component_bytes: u64,
    /// The default model's name.
    pub model: String,
    /// The default model's revision, as its full content hash.
    pub model_revision: String,
    /// The other models in the limits, each with the revision that the guest opens. Earlier versions of this program
    /// did not record them: see [`unrecorded`](Self::unrecorded).
    #[serde(default)]
    pub other_models: Vec<ModelRevision>,
    /// The tenants behind the component's imports, by label.
    #[serde(default)]
    pub links: Vec<TenantLink>,
    /// The limits.
    pub limits: TenantLimits,
    /// When it was deployed, in milliseconds since 1970.
    pub created_ms: u64,
    /// By whom.
    pub by: String,
}

/// The tenant behind an import of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantLink {
    /// The import's label; `None` for the import without one.
    #[serde(default)]
    pub label: Option<String>,
    /// The tenant.
    pub tenant: TenantName,
}

impl Deployment {
    /// The model that the guest gets if it names none.
    #[must_use]
    pub fn default_model(&self) -> ModelRevision {
        ModelRevision { name: self.model.clone(), revision: self.model_revision.clone() }
    }

    /// Every model that the version opens, the default one first.
    #[must_use]
    pub fn models(&self) -> Vec<ModelRevision> {
        std::iter::once(self.default_model()).chain(self.other_models.iter().cloned()).collect()
    }

    /// Names of models that the version may open but whose revision is not recorded. Versions made by this program have
    /// none.
    #[must_use]
    pub fn unrecorded(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for name in self.limits.models.iter().map(String::as_str) {
            let is_recorded = name == self.model || self.other_models.iter().any(|recorded| recorded.name == name);
            if !is_recorded && !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

/// A tenant's current state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRecord {
    /// Its name.
    pub name: TenantName,
    /// The version that serves.
    pub current: u64,
    /// When the tenant was made, in milliseconds since 1970.
    pub created_ms: u64,
}

/// An event in a tenant's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// By whom.
    pub by: String,
    /// The action.
    pub action: Action,
    /// The version that serves afterwards; `None` after removal and for keys.
    pub version: Option<u64>,
    /// SHA-256 of that version's component, or the key's id.
    pub subject: Option<String>,
}

/// An action on a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// A component or a model was deployed.
    Deploy,
    /// Other limits were set, as a new version with the same component.
    Limits,
    /// An earlier version was made the current one.
    Rollback,
    /// A key was made.
    KeyCreate,
    /// A key was revoked.
    KeyRevoke,
    /// The tenant was removed, with its versions and keys.
    Remove,
}
