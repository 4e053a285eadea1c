//! Tenants, their versions, history and keys, in one transactional store (redb).
//!
//! A change is one transaction, durable when the call returns: killing the process at any instant leaves the state
//! before or after the change. Blobs are synced before the transaction that names them, so a committed deployment is
//! complete. Versions are numbered from 1 per tenant name, and a number is never reused, even after the tenant is
//! removed. A version never changes, except that records of earlier programs are completed once. Only one process at a
//! time can open the store.

mod file;

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::TenantName;
use super::keys::{KeyHash, KeyRecord};
use super::records::{Action, Deployment, Event, TenantRecord};
use crate::durable;
use file::RegistryFile;

/// The store's file in its directory.
pub(super) const REGISTRY_FILE: &str = "registry.redb";

/// Tenant to [`TenantRecord`].
const TENANTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tenants");
/// Tenant and version to [`Deployment`].
const DEPLOYMENTS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("deployments");
/// Tenant and number of the event to [`Event`].
const HISTORY: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("history");
/// Tenant to its next version and next event number. Outlives the tenant.
const COUNTERS: TableDefinition<'_, &str, (u64, u64)> = TableDefinition::new("counters");
/// Hash of a key to [`KeyRecord`].
const KEYS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("keys");

/// Why the registry refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Another process has it open.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The store.
        path: PathBuf,
    },
    /// The store failed.
    #[error("{}: {source}", path.display())]
    Store {
        /// The store.
        path: PathBuf,
        /// The store's error.
        source: Box<redb::Error>,
    },
    /// There is no such tenant.
    #[error("there is no tenant {0}")]
    NoTenant(TenantName),
    /// The tenant has no such version.
    #[error("{tenant} has no version {version}")]
    NoVersion {
        /// The tenant.
        tenant: TenantName,
        /// The version.
        version: u64,
    },
    /// There is no earlier version.
    #[error("{0} has no version before the current one to go back to")]
    NothingBefore(TenantName),
    /// The tenant has no such key.
    #[error("{tenant} has no key {id}")]
    NoKey {
        /// The tenant.
        tenant: TenantName,
        /// The key's id.
        id: String,
    },
}

/// The store.
#[derive(Debug)]
pub struct Registry {
    /// Absent only while it is opened again.
    db: RwLock<Option<Database>>,
    path: PathBuf,
}

impl Registry {
    /// Opens or creates the store in `dir`.
    ///
    /// # Errors
    /// Another process has the store open, or it cannot be read.
    pub fn open(dir: &Path) -> Result<Self, RegistryError> {
        let path = dir.join(REGISTRY_FILE);
        let failed = |source: redb::Error| RegistryError::Store { path: path.clone(), source: Box::new(source) };
        durable::private_dir(dir).map_err(|error| failed(error.into()))?;
        let db = open_store(&path)?;
        let registry = Self { db: RwLock::new(Some(db)), path };
        // Creates the tables, so that readers find them.
        registry.write(|transaction| {
            transaction.open_table(TENANTS)?;
            transaction.open_table(DEPLOYMENTS)?;
            transaction.open_table(HISTORY)?;
            transaction.open_table(COUNTERS)?;
            transaction.open_table(KEYS)?;
            Ok(Ok(()))
        })?;
        Ok(registry)
    }

    /// Every tenant, by name.
    ///
    /// # Errors
    /// The store failed.
    pub fn tenants(&self) -> Result<Vec<TenantRecord>, RegistryError> {
        self.read(|transaction| {
            let table = transaction.open_table(TENANTS)?;
            table.iter()?.map(|entry| decode(entry?.1.value())).collect()
        })
    }

    /// Every tenant's name, whether its record can be read or not.
    ///
    /// # Errors
    /// The store failed.
    pub fn tenant_names(&self) -> Result<Vec<TenantName>, RegistryError> {
        self.read(|transaction| {
            let table = transaction.open_table(TENANTS)?;
            let names =
                table.iter()?.map(|entry| Ok(entry?.0.value().parse().ok())).collect::<Result<Vec<_>, redb::Error>>();
            Ok(names?.into_iter().flatten().collect())
        })
    }

    /// A tenant.
    ///
    /// # Errors
    /// There is no tenant of this name, or the store failed.
    pub fn tenant(&self, name: &TenantName) -> Result<TenantRecord, RegistryError> {
        let found = self.read(|transaction| {
            let table = transaction.open_table(TENANTS)?;
            table.get(name.as_str())?.map(|record| decode(record.value())).transpose()
        })?;
        found.ok_or_else(|| RegistryError::NoTenant(name.clone()))
    }

    /// One version of a tenant.
    ///
    /// # Errors
    /// There is no such version, or the store failed.
    pub fn deployment(&self, name: &TenantName, version: u64) -> Result<Deployment, RegistryError> {
        let found = self.read(|transaction| {
            let table = transaction.open_table(DEPLOYMENTS)?;
            table.get((name.as_str(), version))?.map(|record| decode(record.value())).transpose()
        })?;
        found.ok_or_else(|| RegistryError::NoVersion { tenant: name.clone(), version })
    }

    /// Every version of a tenant, oldest first.
    ///
    /// # Errors
    /// The store failed.
    pub fn deployments(&self, name: &TenantName) -> Result<Vec<Deployment>, RegistryError> {
        self.read(|transaction| {
            let table = transaction.open_table(DEPLOYMENTS)?;
            let range = table.range((name.as_str(), 0)..=(name.as_str(), u64::MAX))?;
            range.map(|entry| decode(entry?.1.value())).collect()
        })
    }

    /// Every version of every tenant, by tenant, oldest first.
    ///
    /// # Errors
    /// The store failed.
    pub fn all_deployments(&self) -> Result<Vec<(TenantName, Deployment)>, RegistryError> {
        self.read(|transaction| {
            let table = transaction.open_table(DEPLOYMENTS)?;
            let named = table.iter()?.map(|entry| {
                let (key, record) = entry?;
                let tenant = key.value().0.to_owned();
                let tenant = TenantName::try_from(tenant).map_err(|error| corrupted(&error))?;
                Ok((tenant, decode(record.value())?))
            });
            named.collect()
        })
    }

    /// The current version of every tenant, by name.
    ///
    /// # Errors
    /// The store failed.
    pub fn current_deployments(&self) -> Result<Vec<(TenantName, Deployment)>, RegistryError> {
        // In one transaction: a tenant may be removed meanwhile.
        self.read(|transaction| {
            let (tenants, versions) = (transaction.open_table(TENANTS)?, transaction.open_table(DEPLOYMENTS)?);
            let mut found = Vec::new();
            for entry in tenants.iter()? {
                let TenantRecord { name, current, .. } = decode(entry?.1.value())?;
                let version = versions.get((name.as_str(), current))?;
                let version = version
                    .ok_or_else(|| corrupted(&RegistryError::NoVersion { tenant: name.clone(), version: current }))?;
                let version = decode(version.value())?;
                found.push((name, version));
            }
            Ok(found)
        })
    }

    /// Whether anything was ever recorded of a tenant or a key.
    ///
    /// # Errors
    /// The store failed.
    pub fn has_history(&self) -> Result<bool, RegistryError> {
        self.read(|transaction| Ok(transaction.open_table(HISTORY)?.first()?.is_some()))
    }

    /// A tenant's history, oldest first. Works for removed tenants too.
    ///
    /// # Errors
    /// The store failed.
    pub fn history(&self, name: &TenantName) -> Result<Vec<Event>, RegistryError> {
        self.read(|transaction| {
            let table = transaction.open_table(HISTORY)?;
            let range = table.range((name.as_str(), 0)..=(name.as_str(), u64::MAX))?;
            range.map(|entry| decode(entry?.1.value())).collect()
        })
    }

    /// Numbers a deployment and makes it the tenant's current version. Creates the tenant if needed.
    ///
    /// # Errors
    /// The store failed; nothing has changed then.
    pub fn deploy(
        &self,
        name: &TenantName,
        deployment: &Deployment,
        action: Action,
    ) -> Result<Deployment, RegistryError> {
        self.write(|transaction| {
            let version = {
                let mut counters = transaction.open_table(COUNTERS)?;
                let (version, event) = counters.get(name.as_str())?.map_or((1, 0), |counter| counter.value());
                counters.insert(name.as_str(), (version + 1, event))?;
                version
            };
            let deployment = Deployment { version, ..deployment.clone() };
            transaction.open_table(DEPLOYMENTS)?.insert((name.as_str(), version), encode(&deployment).as_slice())?;
            switch(transaction, name, version, deployment.created_ms)?;
            let subject = Some(deployment.component.clone());
            let (at_ms, by) = (deployment.created_ms, deployment.by.clone());
            record(transaction, name, &Event { at_ms, by, action, version: Some(version), subject })?;
            Ok(Ok(deployment))
        })
    }

    /// Completes the record of a version that an earlier program made.
    ///
    /// # Errors
    /// There is no such version, or the store failed; nothing has changed then.
    pub fn complete(&self, name: &TenantName, deployment: &Deployment) -> Result<(), RegistryError> {
        let version = deployment.version;
        self.write(|transaction| {
            let mut table = transaction.open_table(DEPLOYMENTS)?;
            if table.get((name.as_str(), version))?.is_none() {
                return Ok(Err(RegistryError::NoVersion { tenant: name.clone(), version }));
            }
            table.insert((name.as_str(), version), encode(deployment).as_slice())?;
            Ok(Ok(()))
        })
    }

    /// Forgets versions, except current ones. Their events stay.
    ///
    /// # Errors
    /// The store failed; nothing has changed then.
    pub fn forget_versions(&self, versions: &[(TenantName, u64)]) -> Result<(), RegistryError> {
        self.write(|transaction| {
            let (mut table, tenants) = (transaction.open_table(DEPLOYMENTS)?, transaction.open_table(TENANTS)?);
            for (name, version) in versions {
                let tenant = tenants.get(name.as_str())?.map(|record| decode::<TenantRecord>(record.value()));
                if tenant.transpose()?.is_none_or(|tenant| tenant.current != *version) {
                    table.remove((name.as_str(), *version))?;
                }
            }
            Ok(Ok(()))
        })
    }

    /// The target of a rollback: `to`, or the last version before the current one.
    ///
    /// # Errors
    /// There is no such version, or the store failed.
    pub fn rollback_target(&self, name: &TenantName, to: Option<u64>) -> Result<Deployment, RegistryError> {
        let tenant = self.tenant(name)?;
        match to {
            Some(version) => self.deployment(name, version),
            None => {
                let mut earlier = self.deployments(name)?;
                earlier.retain(|deployment| deployment.version < tenant.current);
                earlier.pop().ok_or_else(|| RegistryError::NothingBefore(name.clone()))
            }
        }
    }

    /// Makes an earlier version the current one.
    ///
    /// # Errors
    /// There is no such version, or the store failed; nothing has changed then.
    pub fn rollback(&self, name: &TenantName, to: &Deployment, by: &str) -> Result<(), RegistryError> {
        self.write(|transaction| {
            if transaction.open_table(DEPLOYMENTS)?.get((name.as_str(), to.version))?.is_none() {
                return Ok(Err(RegistryError::NoVersion { tenant: name.clone(), version: to.version }));
            }
            let at_ms = now_ms();
            switch(transaction, name, to.version, at_ms)?;
            let (version, subject) = (Some(to.version), Some(to.component.clone()));
            record(transaction, name, &Event { at_ms, by: by.to_owned(), action: Action::Rollback, version, subject })?;
            Ok(Ok(()))
        })
    }

    /// Removes a tenant with its versions and keys. Its history stays.
    ///
    /// # Errors
    /// There is no such tenant, or the store failed.
    pub fn remove(&self, name: &TenantName, by: &str) -> Result<(), RegistryError> {
        self.write(|transaction| {
            if transaction.open_table(TENANTS)?.remove(name.as_str())?.is_none() {
                return Ok(Err(RegistryError::NoTenant(name.clone())));
            }
            let versions = (name.as_str(), 0)..=(name.as_str(), u64::MAX);
            transaction.open_table(DEPLOYMENTS)?.retain_in(versions, |_, _| false)?;
            let is_other = |record: &[u8]| decode::<KeyRecord>(record).is_ok_and(|key| key.tenant != *name);
            transaction.open_table(KEYS)?.retain(|_, record| is_other(record))?;
            let event =
                Event { at_ms: now_ms(), by: by.to_owned(), action: Action::Remove, version: None, subject: None };
            record(transaction, name, &event)?;
            Ok(Ok(()))
        })
    }

    /// Stores a key.
    ///
    /// # Errors
    /// The tenant does not exist, or the store failed.
    pub fn add_key(&self, name: &TenantName, hash: KeyHash, by: &str) -> Result<KeyRecord, RegistryError> {
        self.write(|transaction| {
            if transaction.open_table(TENANTS)?.get(name.as_str())?.is_none() {
                return Ok(Err(RegistryError::NoTenant(name.clone())));
            }
            let key = KeyRecord { id: hash.id(), tenant: name.clone(), created_ms: now_ms(), by: by.to_owned() };
            transaction.open_table(KEYS)?.insert(&hash.0, encode(&key).as_slice())?;
            let (at_ms, by, subject) = (key.created_ms, by.to_owned(), Some(key.id.clone()));
            record(transaction, name, &Event { at_ms, by, action: Action::KeyCreate, version: None, subject })?;
            Ok(Ok(key))
        })
    }

    /// Every key, of all tenants, whose record can be read.
    ///
    /// # Errors
    /// The store failed.
    pub fn keys(&self) -> Result<Vec<(KeyHash, KeyRecord)>, RegistryError> {
        self.read(|transaction| {
            let table = transaction.open_table(KEYS)?;
            let mut keys = Vec::new();
            for entry in table.iter()? {
                let (hash, record) = entry?;
                if let Ok(record) = decode(record.value()) {
                    keys.push((KeyHash(*hash.value()), record));
                }
            }
            Ok(keys)
        })
    }

    /// Forgets a key.
    ///
    /// # Errors
    /// The tenant has no such key, or the store failed.
    pub fn revoke_key(&self, name: &TenantName, id: &str, by: &str) -> Result<(), RegistryError> {
        self.write(|transaction| {
            let is_it =
                |record: &[u8]| decode::<KeyRecord>(record).is_ok_and(|key| key.tenant == *name && key.id == id);
            let mut revoked = 0;
            transaction.open_table(KEYS)?.retain(|_, record| {
                let found = is_it(record);
                revoked += u32::from(found);
                !found
            })?;
            if revoked == 0 {
                return Ok(Err(RegistryError::NoKey { tenant: name.clone(), id: id.to_owned() }));
            }
            let (by, subject) = (by.to_owned(), Some(id.to_owned()));
            record(
                transaction,
                name,
                &Event { at_ms: now_ms(), by, action: Action::KeyRevoke, version: None, subject },
            )?;
            Ok(Ok(()))
        })
    }

    fn read<T>(&self, work: impl Fn(&redb::ReadTransaction) -> Result<T, redb::Error>) -> Result<T, RegistryError> {
        self.with_db(|db| db.begin_read().map_err(redb::Error::from).and_then(|transaction| work(&transaction)))
    }

    /// Runs one transaction: commits it if `work` succeeds, and undoes it otherwise.
    fn write<T>(
        &self,
        work: impl Fn(&redb::WriteTransaction) -> Result<Result<T, RegistryError>, redb::Error>,
    ) -> Result<T, RegistryError> {
        self.with_db(|db| {
            let transaction = db.begin_write()?;
            match work(&transaction)? {
                Ok(done) => {
                    transaction.commit()?;
                    Ok(Ok(done))
                }
                Err(refused) => Ok(Err(refused)),
            }
        })?
    }

    /// Uses the store. After an error of the disk it refuses everything, so it is opened again first, and used before
    /// another thread can meet the next error.
    fn with_db<T>(&self, work: impl Fn(&Database) -> Result<T, redb::Error>) -> Result<T, RegistryError> {
        let use_it = || {
            let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
            db.as_ref().map_or(Err(redb::Error::PreviousIo), &work)
        };
        let done = match use_it() {
            Err(redb::Error::PreviousIo) => {
                let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
                // Closed before it is opened, since it can be open only once.
                drop(db.take());
                work(db.insert(open_store(&self.path)?))
            }
            done => done,
        };
        done.map_err(|error| self.failed(error))
    }

    fn failed(&self, source: redb::Error) -> RegistryError {
        RegistryError::Store { path: self.path.clone(), source: Box::new(source) }
    }
}

/// Opens or creates the store.
fn open_store(path: &Path) -> Result<Database, RegistryError> {
    let failed = |source: redb::Error| RegistryError::Store { path: path.to_owned(), source: Box::new(source) };
    let file = RegistryFile::open(path).map_err(|error| failed(error.into()))?;
    let file = file.ok_or_else(|| RegistryError::InUse { path: path.to_owned() })?;
    Database::builder().create_with_backend(file).map_err(|error| failed(error.into()))
}

/// Sets a tenant's current version. Creates the tenant if needed.
fn switch(
    transaction: &redb::WriteTransaction,
    name: &TenantName,
    version: u64,
    now_ms: u64,
) -> Result<(), redb::Error> {
    let mut tenants = transaction.open_table(TENANTS)?;
    let known = tenants.get(name.as_str())?.map(|record| decode::<TenantRecord>(record.value())).transpose()?;
    let created_ms = known.map_or(now_ms, |tenant| tenant.created_ms);
    let tenant = TenantRecord { name: name.clone(), current: version, created_ms };
    tenants.insert(name.as_str(), encode(&tenant).as_slice())?;
    Ok(())
}

/// Appends to a tenant's history.
fn record(transaction: &redb::WriteTransaction, name: &TenantName, event: &Event) -> Result<(), redb::Error> {
    let mut counters = transaction.open_table(COUNTERS)?;
    let (version, number) = counters.get(name.as_str())?.map_or((1, 0), |counter| counter.value());
    counters.insert(name.as_str(), (version, number + 1))?;
    transaction.open_table(HISTORY)?.insert((name.as_str(), number), encode(event).as_slice())?;
    Ok(())
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Our own types of strings and numbers, which JSON can always represent.
    serde_json::to_vec(value).unwrap_or_default()
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, redb::Error> {
    serde_json::from_slice(bytes).map_err(|error| corrupted(&error))
}

fn corrupted(error: &dyn std::error::Error) -> redb::Error {
    redb::Error::Corrupted(error.to_string())
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
