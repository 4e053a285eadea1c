//! The revisions of models that a version opens: those that it recorded, after `model add`, a restart and a rollback.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;

use assay::model::ModelStore;
use assay::rerank::{GuestFault, RerankError};
use assay::tenant::admin::{Command, Description, OpenedModel, Reply, Stored};
use assay::tenant::{Platform, TenantLimits};
use common::tenants::{self, MAX_TOKENS, Oracle, VOCABULARY_SIZE, add_model, admin, component, deploy, name};
use common::tenants::{refusal, request, seeded, serving, tiny_model};
use common::tiny::{Model, Shape};
use redb::{Database, ReadableTable, TableDefinition};

/// The documents of every request.
const DOCUMENTS: [&str; 2] = ["some", "documents"];

/// A data directory and its tenants in this process, which can be ended and started again.
struct House {
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    platform: Option<Platform>,
}

impl House {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut house = Self { dir: tenants::data_dir(), runtime, platform: None };
        house.restart();
        house
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn platform(&self) -> &Platform {
        self.platform.as_ref().unwrap()
    }

    fn restart(&mut self) {
        self.stop();
        self.platform = Some(tenants::platform(self.path(), self.runtime.handle()));
        assert!(self.platform().activate_all().unwrap().is_empty());
    }

    fn stop(&mut self) {
        self.platform = None;
    }

    fn scores(&self, tenant: &str) -> Vec<f32> {
        let live = self.platform().tenant(&name(tenant)).unwrap();
        let response = self.runtime.block_on(live.rerank(request(&DOCUMENTS))).unwrap();
        response.hits.iter().map(|hit| hit.score).collect()
    }

    /// Which revision the guest `opens-others` gets of a model.
    fn opened(&self, tenant: &str, model: &str) -> String {
        let live = self.platform().tenant(&name(tenant)).unwrap();
        match self.runtime.block_on(live.rerank(tenants::attack(model))).unwrap_err() {
            RerankError::Guest(GuestFault::Reported(message)) => {
                message.strip_prefix(&format!("opened {model} at ")).unwrap().to_owned()
            }
            other => panic!("{other:?}"),
        }
    }

    fn show(&self, tenant: &str) -> Description {
        match admin(self.platform(), Command::Show { tenant: name(tenant) }) {
            Reply::Tenant(description) => *description,
            other => panic!("{other:?}"),
        }
    }

    fn rollback(&self, tenant: &str, to: u64) -> Reply {
        admin(self.platform(), Command::Rollback { tenant: name(tenant), to: Some(to) })
    }

    fn set_limits(&self, tenant: &str, limits: TenantLimits) -> Reply {
        admin(self.platform(), Command::SetLimits { tenant: name(tenant), limits: Box::new(limits) })
    }

    /// Deploys models with the component and limits that are there.
    fn adopt(&self, tenant: &str, model: Option<&str>, other_models: &[&str]) -> Reply {
        let other_models = other_models.iter().map(|&model| model.to_owned()).collect();
        let (tenant, model) = (name(tenant), model.map(str::to_owned));
        admin(
            self.platform(),
            Command::Deploy { tenant, component: None, limits: None, model, other_models, links: Vec::new() },
        )
    }
}

/// What the `seeded` guest answers with the current revision of the default model.
fn expected(data_dir: &Path, seed: u32) -> Vec<f32> {
    Oracle::new(data_dir).scores(seed, &DOCUMENTS.map(str::to_owned))
}

fn opens_two() -> TenantLimits {
    TenantLimits { models: vec!["tiny/two".to_owned()], ..TenantLimits::default() }
}

#[test]
fn a_model_that_is_added_changes_no_version_and_rollback_gives_the_old_answers() {
    let mut house = House::new();
    serving(deploy(house.platform(), "acme", &seeded(11), None));
    let old = expected(house.path(), 11);
    assert_eq!(house.scores("acme"), old);
    let old_revision = house.show("acme").versions[0].model_revision.clone();
    let new_revision = add_model(house.path(), "tiny/one", &tiny_model(7));
    let new = expected(house.path(), 11);
    assert_ne!(new, old);
    assert_eq!(house.scores("acme"), old, "an added model serves without having been deployed");
    house.restart();
    assert_eq!(house.scores("acme"), old, "an added model serves after a restart");
    let OpenedModel { stored, versions, .. } = house.show("acme").models.remove(0);
    assert_eq!((stored, versions), (Stored::Newer { revision: new_revision.clone() }, vec![1]));

    // Other limits and other components keep the revision.
    assert_eq!(serving(house.set_limits("acme", opens_two())).model_revision, old_revision);
    assert_eq!(serving(deploy(house.platform(), "acme", &seeded(11), None)).model_revision, old_revision);
    assert_eq!(house.scores("acme"), old);

    let adopted = serving(house.adopt("acme", Some("tiny/one"), &[]));
    assert_eq!((adopted.version, &adopted.model_revision), (4, &new_revision));
    assert_eq!(house.scores("acme"), new);
    assert_eq!(serving(house.rollback("acme", 3)).model_revision, old_revision);
    assert_eq!(house.scores("acme"), old, "rollback does not bring the old answers back");
    house.restart();
    assert_eq!(house.scores("acme"), old, "the old answers do not survive a restart");
    serving(house.rollback("acme", 4));
    assert_eq!(house.scores("acme"), new);
    assert_eq!(serving(house.adopt("acme", Some(&format!("tiny/one@{old_revision:.8}")), &[])).version, 5);
    assert_eq!(house.scores("acme"), old);
}

#[test]
fn other_models_keep_the_revisions_that_the_version_recorded() {
    let mut house = House::new();
    serving(deploy(house.platform(), "acme", &component("opens-others"), Some(opens_two())));
    let old = house.show("acme").versions[0].other_models[0].revision.clone();
    assert_eq!(house.opened("acme", "tiny/two"), old);
    let new = add_model(house.path(), "tiny/two", &tiny_model(8));
    assert_ne!(new, old);
    assert_eq!(house.opened("acme", "tiny/two"), old);
    house.restart();
    assert_eq!(house.opened("acme", "tiny/two"), old);
    let twice = TenantLimits { weight: 7, models: vec!["tiny/two".to_owned(); 2], ..TenantLimits::default() };
    assert_eq!(serving(house.set_limits("acme", twice)).other_models.len(), 1);
    assert_eq!(house.opened("acme", "tiny/two"), old);

    serving(house.adopt("acme", None, &["tiny/two"]));
    assert_eq!(house.opened("acme", "tiny/two"), new);
    serving(house.rollback("acme", 1));
    assert_eq!(house.opened("acme", "tiny/two"), old);

    // A model that becomes the default takes its revision with it, and so does the one that was.
    let both = TenantLimits { models: vec!["tiny/one".to_owned(), "tiny/two".to_owned()], ..TenantLimits::default() };
    let one = serving(house.set_limits("acme", both)).model_revision;
    add_model(house.path(), "tiny/one", &tiny_model(9));
    let swapped = serving(house.adopt("acme", Some(&format!("tiny/two@{old}")), &[]));
    assert_eq!(swapped.model_revision, old);
    assert_eq!(swapped.other_models.iter().map(|model| &model.revision).collect::<Vec<_>>(), [&one]);
}

#[test]
fn what_cannot_be_adopted_is_refused_and_leaves_the_version_that_serves() {
    let house = House::new();
    serving(deploy(house.platform(), "acme", &seeded(21), Some(opens_two())));
    assert!(refusal(house.adopt("acme", None, &[])).contains("nothing is to change of acme"));
    let old = house.scores("acme");
    for (model, other, message) in [
        (Some("tiny/three"), None, "there is no model tiny/three"),
        (Some("tiny/one@ffff0000"), None, "there is no revision ffff0000 of the model tiny/one"),
        (Some("tiny/one@xyz"), None, "there is no revision xyz of the model tiny/one"),
        (None, Some("tiny/one"), "tiny/one is not among the models that the limits name besides the default"),
    ] {
        let refused = refusal(house.adopt("acme", model, other.as_slice()));
        assert!(refused.contains(message), "{refused:?} lacks {message:?}");
    }
    let pinned = TenantLimits { models: vec!["tiny/two@1234".to_owned()], ..TenantLimits::default() };
    assert!(refusal(house.set_limits("acme", pinned)).contains("a model's revision is not a limit"));

    // The request that a deployment is tried with has more tokens than this revision takes.
    let short = Model::new(Shape { vocab_size: VOCABULARY_SIZE as usize, max_tokens: MAX_TOKENS / 8 }, 3);
    add_model(house.path(), "tiny/one", &short);
    let refused = refusal(house.adopt("acme", Some("tiny/one"), &[]));
    assert!(refused.contains("did not answer the request it was tried with"), "{refused}");
    assert_eq!(house.scores("acme"), old);
    assert_eq!(house.show("acme").versions.len(), 1);
}

#[test]
fn a_version_whose_revision_is_missing_does_not_serve_another_one() {
    let mut house = House::new();
    serving(deploy(house.platform(), "acme", &seeded(31), None));
    let old = ModelStore::new(house.path()).open(None).unwrap();
    add_model(house.path(), "tiny/one", &tiny_model(7));
    house.stop();
    std::fs::remove_dir_all(old.dir()).unwrap();
    let platform = tenants::platform(house.path(), house.runtime.handle());
    let failed = platform.activate_all().unwrap();
    let message = failed[0].1.to_string();
    assert_eq!(message, format!("there is no revision {} of the model tiny/one here", old.manifest.revision));
    assert!(platform.tenant(&name("acme")).is_none());
    let Reply::Tenant(shown) = admin(&platform, Command::Show { tenant: name("acme") }) else { panic!("not shown") };
    assert_eq!(shown.models[0].stored, Stored::Missing);

    add_model(house.path(), "tiny/one", &tiny_model(1));
    assert!(platform.activate_all().unwrap().is_empty());
}

/// Takes the revisions of other models out of every record, as earlier versions of the program did not write them.
fn forget_other_models(data_dir: &Path) {
    const DEPLOYMENTS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("deployments");
    let database = Database::create(data_dir.join("tenants/registry.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(DEPLOYMENTS).unwrap();
        let mut records = Vec::new();
        for entry in table.iter().unwrap() {
            let (key, record) = entry.unwrap();
            let mut record: serde_json::Value = serde_json::from_slice(record.value()).unwrap();
            assert!(record.as_object_mut().unwrap().remove("other_models").is_some());
            records.push((key.value().0.to_owned(), key.value().1, serde_json::to_vec(&record).unwrap()));
        }
        for (tenant, version, record) in records {
            table.insert((tenant.as_str(), version), record.as_slice()).unwrap();
        }
    }
    transaction.commit().unwrap();
}

#[test]
fn revisions_that_an_earlier_program_did_not_record_are_recorded_once() {
    let mut house = House::new();
    serving(deploy(house.platform(), "acme", &component("opens-others"), Some(opens_two())));
    serving(house.set_limits("acme", TenantLimits { weight: 7, ..opens_two() }));
    house.stop();
    forget_other_models(house.path());
    let resolved = add_model(house.path(), "tiny/two", &tiny_model(8));
    house.restart();
    add_model(house.path(), "tiny/two", &tiny_model(9));
    assert_eq!(house.opened("acme", "tiny/two"), resolved);
    house.restart();
    assert_eq!(house.opened("acme", "tiny/two"), resolved, "the revision is looked up again at every start");
    serving(house.rollback("acme", 1));
    assert_eq!(house.opened("acme", "tiny/two"), resolved, "only the current version was completed");
}
