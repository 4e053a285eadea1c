//! Deployments, changes of limits and rollbacks: all ways to put a version into service.
//!
//! A version is made ready, tried, committed, and only then replaces the one before it. If a step fails, that one goes
//! on serving. A version records the exact revision of every model that it opens, and opens only these: when it is
//! deployed, after a restart and after a rollback. Adding a model under the same name changes no version; a deployment
//! that names the model adopts the new revision.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::admin::{AdminError, Cause, Reply};
use super::compile::CompileError;
use super::live::{LiveTenant, Parts};
use super::platform::Change;
use super::records::Deployment;
use super::registry::now_ms;
use super::{Action, Platform, RegistryError, TenantLimits, TenantName};
use crate::device::LoadedModel;
use crate::guest::{Call, Guest, Models, Unlisted};
use crate::model::{ModelError, ModelInfo, ModelRevision};
use crate::rerank::{Request, RerankError, Response};

/// Most wall-clock time of a deployment's test request.
const MAX_SMOKE_WALL: Duration = Duration::from_secs(30);

/// The name under which a component serves that is no tenant's.
const STAND_ALONE: &str = "stand-alone";

impl Platform {
    pub(super) fn deploy(&self, tenant: &TenantName, change: Change, by: String) -> Result<Reply, AdminError> {
        let current = match self.current(tenant) {
            Ok((_, deployment)) => Some(deployment),
            // A new tenant has no current version.
            Err(RegistryError::NoTenant(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let component = change.component.or_else(|| current.as_ref().map(|current| current.component.clone()));
        let component = component
            .ok_or_else(|| AdminError::command(format!("{tenant} is new: its first deployment needs a component")))?;
        let wasm = self.blobs.get(&component).map_err(|error| {
            AdminError::command(format!("there is no component {component}: {error}")).caused_by(Cause::NoComponent)
        })?;
        let limits = change.limits.or_else(|| current.as_ref().map(|current| current.limits.clone()));
        let limits = limits.unwrap_or_default();
        let recorded = current.map(|current| current.models()).unwrap_or_default();
        let default = match (change.model, recorded.first()) {
            (None, Some(default)) => default.clone(),
            (model, _) => self.newest(model.as_deref())?,
        };
        let other_models = self.other_models(&limits, &default.name, &recorded, &change.other_models)?;
        let deployment = Deployment {
            version: 0,
            component,
            component_bytes: wasm.len() as u64,
            model: default.name,
            model_revision: default.revision,
            other_models,
            limits,
            created_ms: now_ms(),
            by,
        };
        self.commit_new(tenant, deployment, Action::Deploy)
    }

    /// Makes a component ready to serve by itself, under the default limits: it is tried, but it is no tenant, has no
    /// versions and is gone with the process. `model` is `NAME[@REVISION]`, or the store's default. Blocks while the
    /// component is compiled.
    ///
    /// # Errors
    /// The component, or the model, cannot be used.
    pub fn stand_alone(&self, wasm: &[u8], model: Option<&str>) -> Result<Arc<LiveTenant>, AdminError> {
        let _change = self.change();
        let name: TenantName = STAND_ALONE.parse().map_err(|error| AdminError::host(format!("{error}")))?;
        let model = self.newest(model)?;
        let deployment = Deployment {
            version: 0,
            component: self.put_component(wasm)?,
            component_bytes: wasm.len() as u64,
            model: model.name,
            model_revision: model.revision,
            other_models: Vec::new(),
            limits: TenantLimits::default(),
            created_ms: now_ms(),
            by: String::new(),
        };
        let parts = self.ready(&name, deployment)?;
        self.smoke(&parts)?;
        let alone = Arc::new(LiveTenant::new(parts, None));
        self.hold(&alone);
        Ok(alone)
    }

    pub(super) fn set_limits(
        &self,
        tenant: &TenantName,
        limits: TenantLimits,
        by: String,
    ) -> Result<Reply, AdminError> {
        let (_, current) = self.current(tenant)?;
        let other_models = self.other_models(&limits, &current.model, &current.models(), &[])?;
        let deployment = Deployment { limits, other_models, created_ms: now_ms(), by, ..current };
        self.commit_new(tenant, deployment, Action::Limits)
    }

    pub(super) fn rollback(&self, tenant: &TenantName, to: Option<u64>, by: &str) -> Result<Reply, AdminError> {
        let target = self.registry.rollback_target(tenant, to)?;
        let parts = self.ready(tenant, target)?;
        self.registry.rollback(tenant, &parts.deployment, by)?;
        let live = self.put_in_place(parts);
        Ok(Reply::Serving(Box::new(live.deployment().clone())))
    }

    /// Prepares a new version, tests it, commits it and puts it into service, in that order.
    fn commit_new(&self, tenant: &TenantName, deployment: Deployment, action: Action) -> Result<Reply, AdminError> {
        let mut parts = self.ready(tenant, deployment)?;
        self.smoke(&parts).map_err(|error| {
            let error = AdminError::from(error);
            let message = format!("the guest did not answer the request it was tried with: {}", error.message);
            AdminError { message, ..error }
        })?;
        parts.deployment = self.registry.deploy(tenant, parts.deployment, action)?;
        let live = self.put_in_place(parts);
        Ok(Reply::Serving(Box::new(live.deployment().clone())))
    }

    /// Completes records of earlier program versions, which lack the revisions of other models. If the store lacks a
    /// named model, the record is completed when its version is prepared.
    pub(super) fn record_revisions(&self) -> Result<(), AdminError> {
        for (tenant, deployment) in self.registry.all_deployments()? {
            match self.complete(&tenant, deployment) {
                Ok(_) => {}
                Err(error) if matches!(error.cause, Cause::NoModel { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Adds the store's current revisions of the models that a record names without one.
    fn complete(&self, tenant: &TenantName, mut deployment: Deployment) -> Result<Deployment, AdminError> {
        let unrecorded: Vec<String> = deployment.unrecorded().into_iter().map(str::to_owned).collect();
        if unrecorded.is_empty() {
            return Ok(deployment);
        }
        for name in unrecorded {
            deployment.other_models.push(self.newest(Some(&name))?);
        }
        self.registry.complete(tenant, &deployment)?;
        Ok(deployment)
    }

    /// The revisions of the non-default models in the limits: as requested, else as recorded, else the store's current
    /// ones.
    fn other_models(
        &self,
        limits: &TenantLimits,
        default: &str,
        recorded: &[ModelRevision],
        asked: &[String],
    ) -> Result<Vec<ModelRevision>, AdminError> {
        let asked = asked.iter().map(|model| self.newest(Some(model))).collect::<Result<Vec<_>, _>>()?;
        let is_other = |name: &str| name != default && limits.models.iter().any(|listed| listed == name);
        if let Some(model) = asked.iter().find(|model| !is_other(&model.name)) {
            let message = format!("{} is not among the models that the limits name besides the default", model.name);
            return Err(AdminError::command(message));
        }
        let mut models: Vec<ModelRevision> = Vec::new();
        for name in limits.models.iter().filter(|&name| name != default) {
            if name.contains('@') {
                let message =
                    format!("the limits name {name:?}: a model's revision is not a limit, name the model only");
                return Err(AdminError::command(message));
            }
            if models.iter().any(|model| model.name == *name) {
                continue;
            }
            let known = asked.iter().chain(recorded).find(|model| model.name == *name).cloned();
            models.push(known.map_or_else(|| self.newest(Some(name)), Ok)?);
        }
        Ok(models)
    }

    /// Resolves `NAME[@REVISION]` now; `None` is the store's default model.
    fn newest(&self, model: Option<&str>) -> Result<ModelRevision, ModelError> {
        Ok(self.models.open(model)?.manifest.model_revision())
    }

    /// Loads all that a version needs, before it serves requests.
    pub(super) fn ready(&self, tenant: &TenantName, deployment: Deployment) -> Result<Parts, AdminError> {
        let deployment = self.complete(tenant, deployment)?;
        let default = self.load(&deployment.default_model())?;
        let others = deployment.other_models.iter().map(|model| self.load(model)).collect::<Result<Vec<_>, _>>()?;
        let guest = self.guest(tenant, &deployment.component, default.info())?;
        let models = Models { default, others, unlisted: Unlisted::Denied };
        Ok(Parts { name: tenant.clone(), deployment, guest, models })
    }

    fn load(&self, model: &ModelRevision) -> Result<Arc<LoadedModel>, AdminError> {
        Ok(self.device()?.load(&self.models.open_revision(&model.name, &model.revision)?)?)
    }

    /// Finds a compiled guest, or compiles it in a separate process.
    fn guest(&self, tenant: &TenantName, component: &str, info: &ModelInfo) -> Result<Guest, AdminError> {
        let name = format!("{tenant}'s component");
        if let Some(guest) = self.runtime.find_prepared(&name, component, &info.revision)? {
            return Ok(guest);
        }
        let failed = |error: CompileError| error.of(&name);
        let blob = self.blobs.path(component);
        let compiled = self.compiler.compile(&name, &blob, &self.compiled_dir, info);
        self.tokio.block_on(compiled).map_err(failed)?;
        let found = self.runtime.find_prepared(&name, component, &info.revision)?;
        found.ok_or_else(|| failed(CompileError::NothingLeft { dir: self.compiled_dir.clone() }))
    }

    /// Tests a version with the host's own request, under the version's limits but outside the tenant's quotas.
    fn smoke(&self, parts: &Parts) -> Result<Response, RerankError> {
        let mut limits = parts.deployment.limits.request();
        limits.max_wall = limits.max_wall.min(MAX_SMOKE_WALL);
        let request = Request {
            query: "what is a reranker".to_owned(),
            documents: vec!["A reranker puts documents in order.".to_owned(), "Rain is wet.".to_owned()],
            ..Request::default()
        };
        let request = limits.admit(request)?;
        let account = parts.deployment.limits.account(parts.name.as_str());
        let call = Call { request, arrived: Instant::now(), models: &parts.models, account: &account, rate: None };
        self.tokio.block_on(parts.guest.call(call)).0
    }

    pub(super) fn put_in_place(&self, parts: Parts) -> Arc<LiveTenant> {
        let name = parts.name.clone();
        self.replace(|before| LiveTenant::new(parts, before), &name)
    }
}
