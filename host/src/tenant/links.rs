//! Links between tenants: checked when a version is committed, and where a guest's call goes.
//!
//! Both sides must agree: a version names the tenants behind its imports, and each of these names its callers in its
//! limits. A commit checks the links of current versions; a call finds what serves now, and is refused if that does not
//! allow it any more. Nothing here stops a tenant from starting: what is not there fails the calls of it, and no more.

use std::sync::{Arc, Weak};

use futures::future::BoxFuture;

use super::admin::{AdminError, ShownLink};
use super::link_graph::LinkGraph;
use super::records::{Deployment, TenantLink};
use super::serving::{Activity, Serving, answering};
use super::{Platform, RegistryError, TenantName};
use crate::guest::{CallTerms, Link, Links, Reranks};
use crate::limits::MAX_CHAIN_DEPTH;
use crate::rerank::{CallError, GuestFault, Request, RerankError, Response};

/// Most callers that a message names.
const MAX_SHOWN: usize = 8;

/// Between the name of a limit and the tenant whose it is.
const OF_TENANT: &str = " of tenant ";

/// A tenant as another one's guest calls it: whatever version serves at the time.
#[derive(Debug)]
struct Callee {
    // Versions that serve hold their links.
    serving: Weak<Serving>,
    caller: TenantName,
    name: TenantName,
}

impl Reranks for Callee {
    fn ask(self: Arc<Self>, request: Request, terms: CallTerms) -> BoxFuture<'static, Result<Response, CallError>> {
        Box::pin(async move {
            let tenant = answering(self.serving.upgrade().and_then(|serving| serving.activity(&self.name)))?;
            if !tenant.deployment().limits.callers.contains(&self.caller) {
                let message = format!("it may not be called by {}: its limit `callers` does not name it", self.caller);
                return Err(CallError::Internal(message));
            }
            tenant.call(request, terms).await.map_err(|error| self.told(error))
        })
    }
}

impl Callee {
    /// An error as the caller's guest is told it: which tenant's limit it was, and of a guest's fault no more than its
    /// kind.
    fn told(&self, error: RerankError) -> CallError {
        match error {
            RerankError::Guest(GuestFault::Reported(message)) => CallError::Internal(message),
            RerankError::Guest(fault) => CallError::Internal(format!("its guest failed ({})", fault.kind())),
            RerankError::TooLarge { limit, requested, allowed } => {
                // Of one further down the chain it is told already.
                let limit = if limit.contains(OF_TENANT) { limit } else { format!("{limit}{OF_TENANT}{}", self.name) };
                CallError::TooLarge { limit, requested, allowed }
            }
            other => other.into(),
        }
    }
}

/// A link as `--link` has it.
fn written(link: &TenantLink) -> String {
    match &link.label {
        Some(label) => format!("link {label}={}", link.tenant),
        None => format!("link {}", link.tenant),
    }
}

/// An import as messages have it, and the option that names its tenant.
fn import(label: Option<&str>) -> (String, String) {
    match label {
        Some(label) => (format!("a reranker {label}"), format!("--link {label}=TENANT")),
        None => ("a reranker without a label".to_owned(), "--link TENANT".to_owned()),
    }
}

/// The links of a version with those that a change asks for in their places.
pub(super) fn changed(current: &[TenantLink], asked: &[TenantLink]) -> Vec<TenantLink> {
    let kept = current.iter().filter(|link| asked.iter().all(|asked| asked.label != link.label));
    let mut links: Vec<TenantLink> = kept.chain(asked).cloned().collect();
    links.sort_by(|a, b| a.label.cmp(&b.label));
    links
}

/// The links that a component's imports need. Those of an earlier component that this one does not import go.
///
/// # Errors
/// An import has no link, or one that was asked for has no import.
pub(super) fn settled(
    labels: &[Option<String>],
    asked: &[TenantLink],
    mut links: Vec<TenantLink>,
) -> Result<Vec<TenantLink>, AdminError> {
    for (number, link) in asked.iter().enumerate() {
        if !labels.contains(&link.label) {
            let (wanted, _) = import(link.label.as_deref());
            if labels.is_empty() {
                let message = format!("{}: the component imports no reranker, so it calls no tenant", written(link));
                return Err(AdminError::command(message));
            }
            let there: Vec<String> = labels.iter().map(|label| import(label.as_deref()).0).collect();
            let there = there.join(", ");
            let link = written(link);
            return Err(AdminError::command(format!(
                "{link}: the component does not import {wanted}; it imports {there}"
            )));
        }
        if asked[..number].iter().any(|earlier| earlier.label == link.label) {
            return Err(AdminError::command(format!("{}: this import has a tenant already", written(link))));
        }
    }
    links.retain(|link| labels.contains(&link.label));
    match labels.iter().find(|&label| links.iter().all(|link| link.label != *label)) {
        None => Ok(links),
        Some(label) => {
            let (import, option) = import(label.as_deref());
            Err(AdminError::command(format!("the component imports {import}: name its tenant with {option}")))
        }
    }
}

impl Platform {
    /// What is behind a version's imports.
    pub(super) fn links(&self, caller: &TenantName, deployment: &Deployment) -> Links {
        let link = |TenantLink { label, tenant }: &TenantLink| {
            let (serving, caller, name) = (Arc::downgrade(&self.serving), caller.clone(), tenant.clone());
            let callee: Arc<dyn Reranks> = Arc::new(Callee { serving, caller, name });
            (label.clone(), Link::new(tenant.as_str(), callee))
        };
        deployment.links.iter().map(link).collect()
    }

    /// Checks a version's links against the current versions of all tenants, as they would be with this one.
    pub(super) fn check_links(&self, tenant: &TenantName, deployment: &Deployment) -> Result<(), AdminError> {
        if deployment.links.is_empty() {
            return Ok(());
        }
        let mut current = self.registry.current_deployments()?;
        current.retain(|(name, _)| name != tenant);
        for link in &deployment.links {
            let refused = |message: String| Err(AdminError::command(format!("{}: {message}", written(link))));
            let callee = &link.tenant;
            let allowed = match current.iter().find(|(name, _)| name == callee) {
                Some((_, version)) => version.limits.callers.contains(tenant),
                None if callee == tenant => return refused("a tenant cannot call itself".to_owned()),
                None => return refused(format!("there is no tenant {callee}: deploy it first, or link another")),
            };
            if !allowed {
                return refused(format!(
                    "{callee} does not allow it: name {tenant} among `callers` in {callee}'s limits"
                ));
            }
        }
        let mut graph = LinkGraph::default();
        for (name, version) in current.iter().map(|(name, version)| (name, version)).chain([(tenant, deployment)]) {
            version.links.iter().for_each(|link| graph.add(name, &link.tenant));
        }
        let Some(chain) = graph.chain_through(tenant, MAX_CHAIN_DEPTH) else { return Ok(()) };
        Err(AdminError::command(match graph.circle_through(tenant) {
            Some(circle) => format!("these links make a circle, and would never end: {}", arrows(&circle)),
            None => format!(
                "max_chain_depth is {MAX_CHAIN_DEPTH}, and {} has {} links: link fewer tenants in a row",
                arrows(&chain),
                chain.len() - 1
            ),
        }))
    }

    /// The tenants whose current versions call a tenant.
    pub(super) fn callers_of(&self, tenant: &TenantName) -> Result<Vec<TenantName>, RegistryError> {
        let calls = |version: &Deployment| version.links.iter().any(|link| link.tenant == *tenant);
        let current = self.registry.current_deployments()?.into_iter();
        Ok(current.filter(|(_, version)| calls(version)).map(|(name, _)| name).collect())
    }

    /// Refuses the removal of a tenant that these others call.
    pub(super) fn check_not_called(&self, tenant: &TenantName, callers: &[TenantName]) -> Result<(), AdminError> {
        if callers.is_empty() {
            return Ok(());
        }
        let more = callers.len().saturating_sub(MAX_SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let callers = callers.iter().take(MAX_SHOWN).map(TenantName::as_str).collect::<Vec<_>>().join(", ");
        Err(AdminError::command(format!(
            "{tenant} is called by {callers}{more}: link them to another tenant first, or remove it with --force, which \
             fails their calls"
        )))
    }

    /// Callers whose calls a version refuses.
    pub(super) fn refused_callers(&self, tenant: &TenantName, version: &Deployment) -> Vec<TenantName> {
        let mut callers = self.callers_of(tenant).unwrap_or_default();
        callers.retain(|caller| !version.limits.callers.contains(caller));
        callers
    }

    /// A version's links, each with what is wrong with it now.
    pub(super) fn shown_links(&self, tenant: &TenantName, version: &Deployment) -> Vec<ShownLink> {
        let trouble = |callee: &TenantName| match self.current(callee) {
            Err(RegistryError::NoTenant(_)) => Some("there is no such tenant".to_owned()),
            Err(error) => Some(error.to_string()),
            Ok((_, version)) if !version.limits.callers.contains(tenant) => {
                Some(format!("its limit `callers` does not name {tenant}"))
            }
            Ok(_) => match self.serving.activity(callee) {
                Some(Activity::Failed(_)) => Some("it is not being served".to_owned()),
                _ => None,
            },
        };
        let shown = |link: &TenantLink| ShownLink { link: link.clone(), trouble: trouble(&link.tenant) };
        version.links.iter().map(shown).collect()
    }

    /// Tenants and all that they call, through others too. Names that are none's are left out.
    #[must_use]
    pub fn reached_from(&self, tenants: &[TenantName]) -> Vec<TenantName> {
        let (mut reached, mut next) = (Vec::new(), tenants.to_vec());
        while let Some(name) = next.pop() {
            if !reached.contains(&name)
                && let Ok((_, version)) = self.current(&name)
            {
                next.extend(version.links.into_iter().map(|link| link.tenant));
                reached.push(name);
            }
        }
        reached
    }

    /// Has what a version calls serve in a process that serves nothing else, so that the version can be tried.
    pub(super) fn wake_callees(&self, version: &Deployment) {
        if version.links.is_empty() || self.has_begun() {
            return;
        }
        let callees: Vec<TenantName> = version.links.iter().map(|link| link.tenant.clone()).collect();
        let mut asleep = self.reached_from(&callees);
        asleep.retain(|name| self.serving.activity(name).is_none());
        self.serving.begin(asleep.clone(), Vec::new());
        // One that cannot serve says so to the guest that calls it.
        drop(self.activate_these(&asleep));
    }
}

fn arrows(chain: &[TenantName]) -> String {
    chain.iter().map(TenantName::as_str).collect::<Vec<_>>().join(" → ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(label: &str, tenant: &str) -> TenantLink {
        TenantLink { label: (!label.is_empty()).then(|| label.to_owned()), tenant: tenant.parse().unwrap() }
    }

    fn labels(labels: &[&str]) -> Vec<Option<String>> {
        labels.iter().map(|label| (!label.is_empty()).then(|| (*label).to_owned())).collect()
    }

    #[test]
    fn links_are_kept_from_version_to_version_and_those_asked_for_take_their_place() {
        let before = [link("", "plain"), link("cheap", "a"), link("old", "b")];
        let asked = [link("cheap", "c"), link("costly", "d")];
        let links = changed(&before, &asked);
        assert_eq!(links, [link("", "plain"), link("cheap", "c"), link("costly", "d"), link("old", "b")]);
        let links = settled(&labels(&["costly", "cheap", ""]), &asked, links).unwrap();
        assert_eq!(links, [link("", "plain"), link("cheap", "c"), link("costly", "d")]);
    }

    #[test]
    fn an_import_without_a_link_and_a_link_without_an_import_are_refused_by_name() {
        let refused = |imports: &[&str], asked: &[TenantLink], parts: &[&str]| {
            let error = settled(&labels(imports), asked, changed(&[], asked)).unwrap_err().message;
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        };
        refused(&["news"], &[], &["imports a reranker news", "--link news=TENANT"]);
        refused(&[""], &[], &["without a label", "--link TENANT"]);
        refused(&["news"], &[link("nwes", "a")], &["link nwes=a", "imports a reranker news"]);
        refused(&[], &[link("", "a")], &["link a", "imports no reranker"]);
        refused(&["news"], &[link("news", "a"), link("news", "b")], &["link news=b", "already"]);
    }
}
