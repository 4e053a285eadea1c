//! What people are told about tenants.

use super::TenantName;
use super::admin::{AdminError, Description, OpenedModel, Reply, Stored};
use super::platform::Platform;
use super::records::Deployment;
use super::serving::Activity;

impl Platform {
    pub(super) fn list(&self) -> Result<Reply, AdminError> {
        let tenants = self.registry.tenants()?.into_iter().map(|tenant| {
            let deployment = self.registry.deployment(&tenant.name, tenant.current)?;
            Ok((tenant, deployment))
        });
        Ok(Reply::Tenants(tenants.collect::<Result<_, AdminError>>()?))
    }

    pub(super) fn show(&self, name: &TenantName) -> Result<Reply, AdminError> {
        let (tenant, versions) = (self.registry.tenant(name)?, self.registry.deployments(name)?);
        let history = self.registry.history(name)?;
        let models = self.opened_models(&versions);
        let usage = self.tenant(name).map(|live| live.usage());
        let trouble = match self.serving.activity(name) {
            Some(Activity::Starting) => Some("it is starting".to_owned()),
            Some(Activity::Failed(reason)) => Some(format!(
                "{reason}; once that is mended, `assay tenant rollback {name} --to {}` starts this version again",
                tenant.current
            )),
            Some(Activity::Serving(_)) | None => None,
        };
        let device = self.opened_device().map(|device| device.status());
        let current = versions.iter().find(|version| version.version == tenant.current);
        let links = current.map(|version| self.shown_links(name, version)).unwrap_or_default();
        let called_by = self.callers_of(name)?;
        Ok(Reply::Tenant(Box::new(Description {
            tenant,
            versions,
            history,
            models,
            usage,
            trouble,
            device,
            links,
            called_by,
        })))
    }

    /// The models that versions open, in order of first use.
    fn opened_models(&self, versions: &[Deployment]) -> Vec<OpenedModel> {
        let mut opened: Vec<OpenedModel> = Vec::new();
        for (version, model) in versions.iter().flat_map(|it| it.models().into_iter().map(|model| (it.version, model)))
        {
            match opened.iter_mut().find(|opened| opened.model == model) {
                Some(known) => known.versions.push(version),
                None => {
                    let newest = self.models.open(Some(&model.name)).map(|newest| newest.manifest.revision);
                    let stored = match (self.models.open_revision(&model.name, &model.revision), newest) {
                        (Err(_), _) => Stored::Missing,
                        (Ok(_), Ok(revision)) if revision != model.revision => Stored::Newer { revision },
                        (Ok(_), _) => Stored::Newest,
                    };
                    opened.push(OpenedModel { model, versions: vec![version], stored });
                }
            }
        }
        opened
    }
}
