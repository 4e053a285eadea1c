//! The tables that requests look up: which version serves a tenant, and whose key a caller has.
//!
//! Kept in memory and changed in one step, so that a request sees the state before a change or after it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::live::LiveTenant;
use super::{KeyHash, TenantName};
use crate::rerank::CallError;

/// When to try again while a tenant starts, or after the server went away.
pub const START_RETRY_AFTER: Duration = Duration::from_secs(1);

/// When to try again a tenant that could not be started: not before an operator has looked at it.
const FAILED_RETRY_AFTER: Duration = Duration::from_secs(30);

/// What a tenant's callers meet.
#[derive(Debug, Clone)]
pub enum Activity {
    /// Its version is being loaded.
    Starting,
    /// Its version answers.
    Serving(Arc<LiveTenant>),
    /// Its version could not be loaded, for this reason.
    Failed(Arc<str>),
}

/// How the loading of what answers callers without a key is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KeylessLoad {
    /// It goes on.
    Starting,
    /// It has ended, or there was none.
    #[default]
    Over,
    /// It has failed.
    Failed,
}

/// Who calls.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The tenant that the key opens.
    pub tenant: TenantName,
    /// Cancelled when the operator takes the key away and with it what it began.
    pub stop: CancellationToken,
}

/// How many tenants are in each state, and how the device is. What answers callers without a key counts while it is
/// loaded and if it cannot be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Being loaded.
    pub starting: usize,
    /// Answering.
    pub serving: usize,
    /// Not loaded, for a reason.
    pub failed: usize,
    /// Whether the device fails at every batch.
    #[serde(default)]
    pub device_fails: bool,
}

/// What becomes of requests in work when their key or tenant goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InWork {
    /// They are stopped.
    Stops,
    /// They may end.
    Ends,
}

/// The tables, and word of their changes.
#[derive(Debug, Default)]
pub(super) struct Serving {
    tables: RwLock<Tables>,
    /// Whether there ever was a tenant or a key.
    is_taken: AtomicBool,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Tables {
    tenants: HashMap<TenantName, Activity>,
    keys: HashMap<[u8; 32], Caller>,
    keyless: KeylessLoad,
    /// Replaced or removed versions that may still have running requests.
    replaced: Vec<Weak<LiveTenant>>,
}

impl Serving {
    /// Fills the tables: every tenant is starting.
    pub(super) fn begin(&self, tenants: Vec<TenantName>, keys: Vec<(KeyHash, TenantName)>) {
        if !tenants.is_empty() || !keys.is_empty() {
            self.take();
        }
        let mut tables = self.write();
        tables.tenants.extend(tenants.into_iter().map(|tenant| (tenant, Activity::Starting)));
        tables.keys.extend(keys.into_iter().map(|(hash, tenant)| (hash.0, caller(tenant))));
    }

    pub(super) fn activity(&self, tenant: &TenantName) -> Option<Activity> {
        self.read().tenants.get(tenant).cloned()
    }

    pub(super) fn caller(&self, hash: KeyHash) -> Option<Caller> {
        self.read().keys.get(&hash.0).cloned()
    }

    /// Whether there never was a tenant or a key.
    pub(super) fn is_untouched(&self) -> bool {
        !self.is_taken.load(Ordering::Relaxed)
    }

    /// Says that there is a tenant or a key, or was one.
    pub(super) fn take(&self) {
        self.is_taken.store(true, Ordering::Relaxed);
    }

    /// Says how the loading of what answers callers without a key is. A failure counts until there is a tenant.
    pub(super) fn keyless(&self, load: KeylessLoad) {
        self.write().keyless = load;
        self.announce();
    }

    pub(super) fn counts(&self) -> Counts {
        let tables = self.read();
        let mut counts = Counts::default();
        match tables.keyless {
            KeylessLoad::Starting => counts.starting += 1,
            KeylessLoad::Failed if self.is_untouched() => counts.failed += 1,
            KeylessLoad::Failed | KeylessLoad::Over => {}
        }
        for activity in tables.tenants.values() {
            *match activity {
                Activity::Starting => &mut counts.starting,
                Activity::Serving(_) => &mut counts.serving,
                Activity::Failed(_) => &mut counts.failed,
            } += 1;
        }
        counts
    }

    /// Replaces the serving version. `make` receives the old one.
    pub(super) fn replace(
        &self,
        make: impl FnOnce(Option<&LiveTenant>) -> LiveTenant,
        name: &TenantName,
    ) -> Arc<LiveTenant> {
        self.take();
        let mut tables = self.write();
        let before = tables.tenants.get(name).and_then(Activity::live).cloned();
        let tenant = Arc::new(make(before.as_deref()));
        tables.tenants.insert(name.clone(), Activity::Serving(Arc::clone(&tenant)));
        tables.keep(before.as_ref());
        drop(tables);
        self.announce();
        tenant
    }

    /// Says why a tenant that was starting does not serve.
    pub(super) fn fail(&self, name: &TenantName, reason: &str) {
        if let Some(activity @ Activity::Starting) = self.write().tenants.get_mut(name) {
            *activity = Activity::Failed(reason.into());
        }
        self.announce();
    }

    /// Wakes those who wait for something to have started.
    pub(super) fn announce(&self) {
        self.changed.send_replace(());
    }

    /// Word of every change from now on.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Protects what a version needs from the garbage collector for as long as the version is held.
    pub(super) fn hold(&self, version: &Arc<LiveTenant>) {
        self.write().keep(Some(version));
    }

    /// Takes a tenant and its keys out of service.
    pub(super) fn retire(&self, tenant: &TenantName, in_work: InWork) {
        let mut tables = self.write();
        let retired = tables.tenants.remove(tenant);
        tables.keep(retired.as_ref().and_then(Activity::live));
        tables.drop_keys(in_work, |_, caller| caller.tenant == *tenant);
    }

    pub(super) fn add_key(&self, hash: KeyHash, tenant: TenantName) {
        self.take();
        self.write().keys.insert(hash.0, caller(tenant));
    }

    pub(super) fn revoke_key(&self, tenant: &TenantName, id: &str, in_work: InWork) {
        self.write().drop_keys(in_work, |hash, caller| caller.tenant == *tenant && KeyHash(*hash).id() == id);
    }

    /// Every version that serves or still has running requests.
    pub(super) fn in_use(&self) -> Vec<Arc<LiveTenant>> {
        let tables = self.read();
        let serving = tables.tenants.values().filter_map(Activity::live).cloned();
        serving.chain(tables.replaced.iter().filter_map(Weak::upgrade)).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        // Each change leaves the tables consistent.
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Activity {
    /// The version that answers, if one does.
    #[must_use]
    pub fn live(&self) -> Option<&Arc<LiveTenant>> {
        match self {
            Self::Serving(tenant) => Some(tenant),
            Self::Starting | Self::Failed(_) => None,
        }
    }
}

/// The version that answers a call, or what the caller is told instead.
pub(super) fn answering(activity: Option<Activity>) -> Result<Arc<LiveTenant>, CallError> {
    match activity {
        Some(Activity::Serving(tenant)) => Ok(tenant),
        Some(Activity::Starting) => Err(CallError::unavailable_for(START_RETRY_AFTER)),
        Some(Activity::Failed(_)) => Err(CallError::unavailable_for(FAILED_RETRY_AFTER)),
        None => Err(CallError::Internal("there is no such tenant: it was removed".to_owned())),
    }
}

impl Tables {
    fn keep(&mut self, version: Option<&Arc<LiveTenant>>) {
        self.replaced.retain(|replaced| replaced.strong_count() > 0);
        self.replaced.extend(version.map(Arc::downgrade));
    }

    fn drop_keys(&mut self, in_work: InWork, is_dropped: impl Fn(&[u8; 32], &Caller) -> bool) {
        self.keys.retain(|hash, caller| {
            let drops = is_dropped(hash, caller);
            if drops && in_work == InWork::Stops {
                caller.stop.cancel();
            }
            !drops
        });
    }
}

fn caller(tenant: TenantName) -> Caller {
    Caller { tenant, stop: CancellationToken::new() }
}
