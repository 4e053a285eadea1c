//! Deployments, changes of limits and rollbacks: all ways to put a version into service.
//!
//! A version is made ready, tried, committed, and only then replaces the one before it. If a step fails, that one goes
//! on serving. Only the commit excludes other changes: what was committed meanwhile is kept, or the change is refused.
//! A version records the exact revision of every model that it opens, and opens only these: when it is
//! deployed, after a restart and after a rollback. Adding a model under the same name changes no version; a deployment
//! that names the model adopts the new revision.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::admin::{AdminError, Cause, Reply, Served};
use super::compile::CompileError;
use super::live::{LiveTenant, Parts};
use super::platform::Change;
use super::records::Deployment;
use super::registry::now_ms;
use super::{Action, Platform, RegistryError, TenantLimits, TenantName, links};
use crate::device::LoadedModel;
use crate::guest::{Call, CallTerms, Guest, Models, Unlisted};
use crate::model::{ModelError, ModelInfo, ModelRevision, ModelTask};
use crate::rerank::{Request, RerankError, Response, SETTING_LABEL};

/// Most wall-clock time of a deployment's test request.
const MAX_SMOKE_WALL: Duration = Duration::from_secs(30);

/// The name that test requests are charged to: no tenant can have it, so a tenant that fills its own queue does not keep
/// its operator out.
const OPERATOR: &str = "(operator)";

/// The name under which a component serves that is no tenant's.
const STAND_ALONE: &str = "stand-alone";

impl Platform {
    pub(super) fn deploy(&self, tenant: &TenantName, change: &Change, by: String) -> Result<Reply, AdminError> {
        if let Some(limits) = &change.limits {
            check(limits)?;
        }
        let before = self.current_deployment(tenant)?;
        let deployment = self.plan(tenant, change, before.as_ref(), by)?;
        let _pin = self.pins.pin(&deployment);
        // What is asked for is refused before anything is compiled.
        self.check_links(tenant, &Deployment { links: change.links.clone(), ..deployment.clone() })?;
        let mut parts = self.ready(tenant, deployment)?;
        let links = std::mem::take(&mut parts.deployment.links);
        parts.deployment.links = links::settled(parts.guest.labels(), &change.links, links)?;
        self.check_links(tenant, &parts.deployment)?;
        self.wake_callees(&parts.deployment);
        self.smoke(&parts).map_err(|error| {
            let message = format!("the guest did not answer the request it was tried with: {}", error.message);
            AdminError { message, ..error }
        })?;
        self.commit(tenant, parts, before.as_ref(), Action::Deploy, |mine, now| {
            if change.limits.is_none() && mine.limits != now.limits && mine.other_models == now.other_models {
                mine.limits = now.limits.clone();
            }
            let links_before = before.as_ref().map_or(&[][..], |before| &before.links[..]);
            (change.component.is_some() || mine.component == now.component)
                && now.links == links_before
                && (change.model.is_some() || mine.default_model() == now.default_model())
                && (change.limits.is_some() || mine.limits == now.limits)
        })
    }

    /// The version that a change of the current one makes.
    fn plan(
        &self,
        tenant: &TenantName,
        change: &Change,
        current: Option<&Deployment>,
        by: String,
    ) -> Result<Deployment, AdminError> {
        let component = match (&change.component, current) {
            (Some(component), _) => component.clone(),
            (None, Some(current)) if *change == Change::default() => {
                return Err(AdminError::command(format!(
                    "nothing is to change of {tenant}, whose version {} serves: name a component, limits, a model or a \
                     link",
                    current.version
                )));
            }
            (None, Some(current)) => current.component.clone(),
            (None, None) => {
                let standard = crate::guest::standard().ok_or_else(|| {
                    AdminError::command(format!("{tenant} is new: its first deployment needs a component"))
                })?;
                self.put_component(standard)?
            }
        };
        let wasm = self.blobs.get(&component).map_err(|error| {
            AdminError::command(format!("there is no component {component}: {error}")).caused_by(Cause::NoComponent)
        })?;
        let limits = change.limits.clone().or_else(|| current.map(|current| current.limits.clone()));
        let limits = limits.unwrap_or_default();
        let recorded = current.map(Deployment::models).unwrap_or_default();
        let default = match (&change.model, recorded.first()) {
            (None, Some(default)) => default.clone(),
            (model, _) => self.newest(model.as_deref())?,
        };
        let other_models = self.other_models(&limits, &default.name, &recorded, &change.other_models)?;
        Ok(Deployment {
            version: 0,
            component,
            component_bytes: wasm.len() as u64,
            model: default.name,
            model_revision: default.revision,
            other_models,
            links: links::changed(current.map_or(&[][..], |current| &current.links[..]), &change.links),
            limits,
            created_ms: now_ms(),
            by,
        })
    }

    /// Makes a component ready to serve by itself, under the default limits: it is tried, but it is no tenant, has no
    /// versions and is gone with the process. `model` is `NAME[@REVISION]`, or the store's default. Blocks while the
    /// component is compiled.
    ///
    /// # Errors
    /// The component, or the model, cannot be used.
    pub fn stand_alone(&self, wasm: &[u8], model: Option<&str>) -> Result<Arc<LiveTenant>, AdminError> {
        let name: TenantName = STAND_ALONE.parse().map_err(|error| AdminError::host(format!("{error}")))?;
        let model = self.newest(model)?;
        let deployment = Deployment {
            version: 0,
            component: self.put_component(wasm)?,
            component_bytes: wasm.len() as u64,
            model: model.name,
            model_revision: model.revision,
            other_models: Vec::new(),
            links: Vec::new(),
            limits: TenantLimits::default(),
            created_ms: now_ms(),
            by: String::new(),
        };
        let _pin = self.pins.pin(&deployment);
        let parts = self.ready(&name, deployment)?;
        self.smoke(&parts)?;
        let alone = Arc::new(LiveTenant::new(parts, None, &self.meters));
        self.serving.hold(&alone);
        Ok(alone)
    }

    pub(super) fn set_limits(
        &self,
        tenant: &TenantName,
        limits: TenantLimits,
        by: String,
    ) -> Result<Reply, AdminError> {
        check(&limits)?;
        let (_, current) = self.current(tenant)?;
        let other_models = self.other_models(&limits, &current.model, &current.models(), &[])?;
        let before = current.clone();
        let deployment = Deployment { limits, other_models, created_ms: now_ms(), by, ..current };
        let _pin = self.pins.pin(&deployment);
        // The same component with the same models has answered before: it is neither loaded nor tried again.
        let live = self.tenant(tenant).filter(|live| live.deployment().version == before.version);
        let parts = match live.filter(|_| deployment.other_models == before.other_models) {
            Some(live) => live.parts_with(deployment),
            None => self.ready(tenant, deployment)?,
        };
        self.start_one(&parts).map_err(|error| {
            let message = format!("no instance could start under these limits: {}", error.message);
            AdminError { message, ..error }
        })?;
        self.commit(tenant, parts, Some(&before), Action::Limits, |mine, now| {
            (&mine.component, mine.models(), &mine.links) == (&now.component, now.models(), &now.links)
        })
    }

    pub(super) fn rollback(&self, tenant: &TenantName, to: Option<u64>, by: &str) -> Result<Reply, AdminError> {
        let target = self.registry.rollback_target(tenant, to)?;
        let _pin = self.pins.pin(&target);
        let parts = self.ready(tenant, target)?;
        let _change = self.change();
        self.registry.tenant(tenant)?;
        self.check_links(tenant, &parts.deployment)?;
        self.registry.rollback(tenant, &parts.deployment, by)?;
        let live = self.put_in_place(parts);
        Ok(self.served(&live))
    }

    /// Commits a version that was made ready while `before` was current, and puts it into service. `adapt` says whether
    /// it may follow another version that was committed meanwhile, and may take over parts of that one.
    fn commit(
        &self,
        tenant: &TenantName,
        mut parts: Parts,
        before: Option<&Deployment>,
        action: Action,
        adapt: impl FnOnce(&mut Deployment, &Deployment) -> bool,
    ) -> Result<Reply, AdminError> {
        let _change = self.change();
        match (before, self.current_deployment(tenant)?) {
            (Some(_), None) => return Err(AdminError::command(format!("{tenant} was removed meanwhile"))),
            (Some(before), Some(now)) if before.version == now.version => {}
            (_, Some(now)) if !adapt(&mut parts.deployment, &now) => {
                let version = now.version;
                return Err(AdminError::command(format!(
                    "{tenant} was changed meanwhile, to version {version}: try again"
                )));
            }
            (_, _) => {}
        }
        // Limits are set whatever has become of the tenants that this one calls.
        if action == Action::Deploy {
            self.check_links(tenant, &parts.deployment)?;
        }
        parts.deployment = self.registry.deploy(tenant, &parts.deployment, action)?;
        let live = self.put_in_place(parts);
        Ok(self.served(&live))
    }

    /// The tenant's current version; `None` for a new tenant.
    fn current_deployment(&self, tenant: &TenantName) -> Result<Option<Deployment>, AdminError> {
        match self.current(tenant) {
            Ok((_, deployment)) => Ok(Some(deployment)),
            Err(RegistryError::NoTenant(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Completes records of earlier program versions, which lack the revisions of other models. If the store lacks a
    /// named model, the record is completed when its version is prepared. A record that cannot be completed stops no
    /// other: its tenant says so when it is put into service.
    pub(super) fn record_revisions(&self) {
        for tenant in self.registry.tenant_names().unwrap_or_default() {
            for deployment in self.registry.deployments(&tenant).unwrap_or_default() {
                let _ = self.complete(&tenant, deployment);
            }
        }
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
        let links = self.links(tenant, &deployment);
        Ok(Parts { name: tenant.clone(), deployment, guest, models, links })
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
        let compiled = async {
            // Closed never: the error cannot happen.
            let _room = self.compiling.acquire().await;
            self.compiler.compile(&name, &blob, &self.compiled_dir, info).await
        };
        let began = Instant::now();
        let compiled = self.wait(compiled)?;
        self.compiles.count(compiled.is_ok(), began.elapsed());
        compiled.map_err(failed)?;
        let found = self.runtime.find_prepared(&name, component, &info.revision)?;
        found.ok_or_else(|| failed(CompileError::NothingLeft { dir: self.compiled_dir.clone() }))
    }

    /// Tests a version with the host's own request, under the version's limits but outside the tenant's quotas.
    fn smoke(&self, parts: &Parts) -> Result<Response, AdminError> {
        let mut limits = parts.deployment.limits.request();
        limits.max_wall = limits.max_wall.min(MAX_SMOKE_WALL);
        let mut documents = vec!["A reranker puts documents in order.".to_owned(), "Rain is wet.".to_owned()];
        // A tenant for single pairs is one, too.
        documents.truncate(limits.max_documents.min(usize::try_from(limits.max_request_rows).unwrap_or(usize::MAX)));
        let request = Request { query: "what is a reranker".to_owned(), documents, ..Request::default() };
        let limits = Arc::new(limits);
        let ask = |request: Request| -> Result<Result<Response, RerankError>, AdminError> {
            let request = limits.admit(request)?;
            let (arrived, models, links) = (Instant::now(), parts.models.clone(), parts.links.clone());
            let (payer, terms) =
                (parts.deployment.limits.payer(OPERATOR, None), CallTerms { is_trial: true, ..CallTerms::default() });
            self.wait(parts.guest.call(Call { request, arrived, models, links, payer, terms }))
        };
        match ask(request.clone())? {
            // Of several labels there is no default: callers name one.
            Err(RerankError::InvalidInput(_)) if parts.models.default.info().has_open_label() => {
                let settings = vec![(SETTING_LABEL.to_owned(), "0".to_owned())];
                Ok(ask(Request { settings, ..request })??)
            }
            answer => Ok(answer?),
        }
    }

    /// Starts an instance under a version's limits and drops it, to see that one can. It is asked nothing: what else a
    /// request needs may not be there now.
    fn start_one(&self, parts: &Parts) -> Result<(), AdminError> {
        let payer = parts.deployment.limits.payer(OPERATOR, None);
        let limits = parts.deployment.limits.request();
        Ok(self.wait(parts.guest.start_one(parts.models.default.info(), payer, limits))??)
    }

    pub(super) fn put_in_place(&self, parts: Parts) -> Arc<LiveTenant> {
        let name = parts.name.clone();
        self.serving.replace(|before| LiveTenant::new(parts, before, &self.meters), &name)
    }

    /// The version that serves now, as an answer.
    fn served(&self, live: &LiveTenant) -> Reply {
        let (deployment, no_snapshot) = (live.deployment().clone(), live.no_snapshot());
        let refused_callers = self.refused_callers(live.name(), &deployment);
        let model = live.model();
        let lacks_label = model.task == ModelTask::CrossEncoder && model.outputs > 1;
        let note = lacks_label.then(|| {
            let (name, labels) = (&model.name, model.output_names().join(", "));
            format!(
                "the model {name} has the labels {labels:.200}, and none was chosen when it was added: each request \
                 chooses one by its setting `label`"
            )
        });
        Reply::Serving(Box::new(Served { deployment, no_snapshot, refused_callers, note }))
    }
}

/// Limits may come from another program over the socket, so the server checks them itself.
fn check(limits: &TenantLimits) -> Result<(), AdminError> {
    limits.check().map_err(|error| AdminError::command(error.to_string()))
}
