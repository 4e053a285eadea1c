//! Removes old versions, and the components, compiled code and model revisions that no version names; removes a model
//! by its name.
//!
//! While it runs, no deployment can begin; what those in progress need is pinned, and kept. Forgets versions first, in
//! one transaction, so that no record ever names a removed file, even if the process is killed. Keeps everything that a
//! remaining version or a running request uses, everything that a `current` or default pointer names, and everything
//! younger than an hour, because a command may be about to name it.

use std::collections::HashSet;
use std::time::Duration;

use super::admin::AdminError;
use super::{Deployment, Platform, TenantName};
use crate::guest;
use crate::model::hub::DOWNLOADS_DIR;
use crate::model::manifest::sha256_hex;
use crate::sweep::{DroppedKind, Mode, Sweep, Swept};

/// Default number of versions per tenant that `gc` keeps besides the current one. Enough to roll back past several
/// changes of limits, which are versions too.
pub const DEFAULT_KEEP_VERSIONS: u64 = 10;

/// Most time of a sweep at start and after a removal. The next sweep removes the rest.
const MAX_TIDY_TIME: Duration = Duration::from_secs(1);

/// How long an unfinished download stays, so that pulling the model again resumes it.
const DOWNLOADS_KEPT: Duration = Duration::from_secs(7 * 24 * 3_600);

impl Platform {
    /// Removes what no version needs, for at most a second. Forgets no version.
    ///
    /// # Errors
    /// The registry or a directory cannot be read.
    pub fn tidy(&self) -> Result<Swept, AdminError> {
        self.sweep(&[], Sweep::new(Mode::Remove, Some(MAX_TIDY_TIME)))
    }

    /// Forgets all versions of each tenant except the current and the `keep` newest others, and removes what no version
    /// needs.
    pub(super) fn collect_garbage(&self, keep: u64, dry_run: bool) -> Result<Swept, AdminError> {
        let mut forgotten = Vec::new();
        for tenant in self.registry.tenants()? {
            let mut others: Vec<u64> = self.registry.deployments(&tenant.name)?.iter().map(|it| it.version).collect();
            others.retain(|&version| version != tenant.current);
            let kept = usize::try_from(keep).unwrap_or(usize::MAX).min(others.len());
            others.truncate(others.len() - kept);
            forgotten.extend(others.into_iter().map(|version| (tenant.name.clone(), version)));
        }
        let mode = if dry_run { Mode::DryRun } else { Mode::Remove };
        self.sweep(&forgotten, Sweep::new(mode, None))
    }

    /// Removes a model with all its revisions, unless a version or a running request opens one.
    pub(super) fn remove_model(&self, name: &str) -> Result<Swept, AdminError> {
        /// Most versions that a message names.
        const SHOWN: usize = 8;
        let pinned = self.pins.lock();
        let opens = |deployment: &Deployment| {
            let named = deployment.limits.models.iter().any(|model| model == name);
            named || deployment.models().iter().any(|model| model.name == name)
        };
        let versions = self.registry.all_deployments()?;
        let mut held_by: Vec<String> = versions
            .iter()
            .filter(|(_, deployment)| opens(deployment))
            .map(|(tenant, deployment)| format!("{tenant} version {}", deployment.version))
            .collect();
        if held_by.is_empty() && self.in_use().iter().any(|live| opens(live.deployment())) {
            held_by.push("a running request".to_owned());
        }
        if held_by.is_empty() && pinned.iter().any(|deployment| opens(deployment)) {
            held_by.push("a deployment in progress".to_owned());
        }
        if !held_by.is_empty() {
            let more = held_by.len().saturating_sub(SHOWN);
            held_by.truncate(SHOWN);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            return Err(AdminError::command(format!(
                "the model {name} is opened by {}{more}: deploy another model, and forget old versions with `assay gc \
                 --keep 0`",
                held_by.join(", ")
            )));
        }
        Ok(Swept { dropped: self.models.remove(name)?, ..Swept::default() })
    }

    fn sweep(&self, forgotten: &[(TenantName, u64)], mut sweep: Sweep) -> Result<Swept, AdminError> {
        let io = |error: std::io::Error| AdminError::host(format!("{}: {error}", self.data_dir.display()));
        let pinned = self.pins.lock();
        let mut held = self.registry.all_deployments()?;
        if sweep.mode() == Mode::Remove && !forgotten.is_empty() {
            self.registry.forget_versions(forgotten)?;
        }
        for (tenant, version) in forgotten {
            sweep.count(DroppedKind::Version, format!("{tenant} version {version}"), 0);
            held.retain(|(name, deployment)| (name, deployment.version) != (tenant, *version));
        }
        let in_use = self.in_use();
        let in_use = in_use.iter().map(|live| live.deployment());
        let pinned = pinned.iter().map(|deployment| &**deployment);
        let held: Vec<_> = held.iter().map(|(_, deployment)| deployment).chain(in_use).chain(pinned).collect();

        let components: HashSet<String> = held.iter().map(|it| it.component.clone()).collect();
        self.blobs.sweep(&components, &mut sweep).map_err(io)?;
        let models: HashSet<_> = held.iter().flat_map(|it| it.models()).collect();
        let names: Vec<(&str, &str)> = models.iter().map(|it| (it.name.as_str(), it.revision.as_str())).collect();
        self.models.sweep(&names, &mut sweep)?;

        let mut compiled: HashSet<(String, String)> =
            held.iter().map(|it| (it.component.clone(), it.model_revision.clone())).collect();
        // `assay rerank` uses the standard guest with the current revisions.
        if let (Some(standard), Ok(stored)) = (guest::standard(), self.models.list()) {
            let current = stored.into_iter().filter(|listed| listed.is_current).map(|it| it.model.manifest.revision);
            let standard = sha256_hex(standard);
            compiled.extend(current.map(|revision| (standard.clone(), revision)));
        }
        self.runtime.sweep_compiled(&compiled, &mut sweep);

        sweep.leftovers(&self.data_dir);
        for download in sweep.entries(&self.data_dir.join(DOWNLOADS_DIR)) {
            if sweep.is_older_than(&download, DOWNLOADS_KEPT) {
                sweep.leftover(&download);
            }
        }
        Ok(sweep.finish())
    }
}
