//! `assay gc`: what a version, a pointer or a request names stays, everything else goes, however the sweep ends.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use assay::sweep::{DroppedKind, Swept};
use assay::tenant::Platform;
use assay::tenant::admin::{Command, Reply};
use common::tenants::{
    self, Oracle, add_model, admin, age, deploy, name, refusal, request, seeded, serving, tiny_model,
};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn collect(platform: &Platform, keep: u64, dry_run: bool) -> Swept {
    match admin(platform, Command::CollectGarbage { keep, dry_run }) {
        Reply::Swept(swept) => {
            assert!(swept.failed.is_empty() && !swept.is_cut_short, "{swept:?}");
            swept
        }
        other => panic!("{other:?}"),
    }
}

fn names(swept: &Swept, kind: DroppedKind) -> BTreeSet<String> {
    swept.dropped.iter().filter(|item| item.kind == kind).map(|item| item.name.clone()).collect()
}

/// Every file below a directory, and how much is in it.
fn files(dir: &Path) -> BTreeSet<(PathBuf, u64)> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert((path.clone(), path.metadata().unwrap().len()));
        }
    }
    found
}

fn blob(data_dir: &Path, hash: &str) -> PathBuf {
    data_dir.join(format!("tenants/blobs/{hash}.wasm"))
}

fn compiled(data_dir: &Path, hash: &str) -> usize {
    let entries = std::fs::read_dir(data_dir.join("compiled")).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(hash)).count()
}

#[track_caller]
fn answers(platform: &Platform, tenant: &str, runtime: &tokio::runtime::Runtime, expected: &[f32]) {
    let live = platform.tenant(&name(tenant)).unwrap();
    let response = runtime.block_on(live.rerank(request(&["text"]))).unwrap();
    assert_eq!(response.hits.iter().map(|hit| hit.score).collect::<Vec<_>>(), expected);
}

#[test]
fn a_model_is_removed_only_if_no_version_opens_it_and_it_is_not_the_default() {
    let (dir, runtime) = (tenants::data_dir(), runtime());
    let platform = tenants::platform(dir.path(), runtime.handle());
    let deploy_model = |model: &str| {
        let change = Command::Deploy {
            tenant: name("acme"),
            component: Some(platform.put_component(&seeded(1)).unwrap()),
            limits: None,
            model: Some(model.to_owned()),
            other_models: Vec::new(),
            links: Vec::new(),
        };
        serving(admin(&platform, change));
    };
    let remove = |model: &str| admin(&platform, Command::RemoveModel { name: model.to_owned() });
    let refused = |model: &str, said: &[&str]| {
        let before = files(&dir.path().join("models"));
        let message = refusal(remove(model));
        assert!(said.iter().all(|part| message.contains(part)), "{message}");
        assert_eq!(files(&dir.path().join("models")), before);
    };
    refused("tiny/none", &["no model tiny/none"]);
    refused("tiny/one", &["is the default model", "assay model default OTHER"]);
    deploy_model("tiny/two");
    refused("tiny/two", &["tiny/two is opened by acme version 1", "assay gc"]);
    deploy_model("tiny/one");
    refused("tiny/two", &["acme version 1"]);
    collect(&platform, 0, false);
    let bytes = |files: &BTreeSet<(PathBuf, u64)>| files.iter().map(|(_, bytes)| bytes).sum::<u64>();
    add_model(dir.path(), "tiny/two", &tiny_model(7));
    let Reply::Swept(swept) = remove("tiny/two") else { panic!("it was not removed") };
    assert_eq!(names(&swept, DroppedKind::ModelRevision).len(), 2, "{swept:?}");
    assert!(bytes(&files(&dir.path().join("models"))) > 0 && !dir.path().join("models/tiny--two").exists());
    assert!(!dir.path().join("models/.dropping-tiny--two").exists());
    refused("tiny/two", &["no model tiny/two"]);
    let live = platform.tenant(&name("acme")).unwrap();
    runtime.block_on(live.rerank(request(&["text"]))).unwrap();
}

#[test]
fn garbage_collection_keeps_what_a_version_or_the_default_names() {
    let (dir, runtime) = (tenants::data_dir(), runtime());
    let platform = tenants::platform(dir.path(), runtime.handle());
    let text = ["text".to_owned()];
    let mut first = Oracle::new(dir.path());
    let hashes: Vec<String> =
        (1..=4).map(|seed| serving(deploy(&platform, "acme", &seeded(seed), None)).component).collect();
    let old = serving(deploy(&platform, "beta", &seeded(9), None)).model_revision;
    // Two revisions that are not current: the first is what every version opens, and the third is opened by none.
    let unused = add_model(dir.path(), "tiny/one", &tiny_model(5));
    let newest = add_model(dir.path(), "tiny/one", &tiny_model(6));
    let unnamed = platform.put_component(&seeded(50)).unwrap();
    for leftover in ["models/.adding-abc", "models/tiny--one/.dropping-0123456789abcdef", ".pulling-abc"] {
        std::fs::create_dir_all(dir.path().join(leftover)).unwrap();
        std::fs::write(dir.path().join(leftover).join("file"), "12345").unwrap();
    }
    for leftover in ["tenants/blobs/.tmpabc", "compiled/.writing-abc"] {
        std::fs::write(dir.path().join(leftover), "12345").unwrap();
    }
    // Unfinished downloads are kept for longer.
    std::fs::create_dir_all(dir.path().join("downloads/owner--name/cache")).unwrap();
    for aged in ["models", "tenants/blobs", "compiled", ".pulling-abc", "downloads"] {
        age(&dir.path().join(aged));
    }
    // Within the hour: may be part of a deployment that is on its way.
    let on_its_way = platform.put_component(&seeded(51)).unwrap();

    let before = files(dir.path());
    let listed = collect(&platform, 1, true);
    assert_eq!(files(dir.path()), before, "a dry run removed something");
    let swept = collect(&platform, 1, false);
    assert_eq!(swept, listed, "a dry run lists something else than is removed");
    let set = |items: &[&str]| items.iter().map(|&item| item.to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(names(&swept, DroppedKind::Version), set(&["acme version 1", "acme version 2"]));
    assert_eq!(names(&swept, DroppedKind::Component), set(&[&hashes[0], &hashes[1], &unnamed]));
    assert_eq!(names(&swept, DroppedKind::ModelRevision), set(&[&format!("tiny/one@{unused:.16}")]));
    assert_eq!(names(&swept, DroppedKind::Leftover).len(), 5);
    let bytes = |files: &BTreeSet<(PathBuf, u64)>| {
        let is_file = |path: &Path| !path.ends_with("registry.redb");
        files.iter().filter(|(path, _)| is_file(path)).map(|(_, bytes)| bytes).sum::<u64>()
    };
    let freed: u64 = swept.dropped.iter().map(|item| item.bytes).sum();
    assert_eq!(bytes(&before) - bytes(&files(dir.path())), freed, "the bytes that it says are not those that it freed");
    for (hash, stays) in [(&hashes[0], false), (&hashes[1], false), (&hashes[2], true), (&hashes[3], true)] {
        assert_eq!((blob(dir.path(), hash).exists(), compiled(dir.path(), hash) > 0), (stays, stays), "{hash}");
    }
    assert!(dir.path().join("downloads/owner--name").exists());
    assert!(blob(dir.path(), &on_its_way).exists() && !blob(dir.path(), &unnamed).exists());
    assert_eq!(collect(&platform, 1, false).dropped, [], "a second sweep finds something");

    // What stays works, from the version that serves to the oldest that is kept, and through a restart.
    answers(&platform, "acme", &runtime, &first.scores(4, &text));
    let rollback = |platform: &Platform, to| admin(platform, Command::Rollback { tenant: name("acme"), to: Some(to) });
    assert!(refusal(rollback(&platform, 2)).contains("acme has no version 2"));
    assert_eq!(serving(rollback(&platform, 3)).model_revision, old);
    answers(&platform, "acme", &runtime, &first.scores(3, &text));
    drop(platform);
    let platform = tenants::platform(dir.path(), runtime.handle());
    assert!(platform.activate_all().unwrap().is_empty());
    answers(&platform, "beta", &runtime, &first.scores(9, &text));
    let Reply::Tenant(acme) = admin(&platform, Command::Show { tenant: name("acme") }) else { panic!("not shown") };
    assert_eq!(acme.versions.iter().map(|version| version.version).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(acme.history.len(), 5, "the history has lost events");
    let adopt = Command::Deploy {
        tenant: name("acme"),
        component: None,
        limits: None,
        model: Some("tiny/one".to_owned()),
        other_models: Vec::new(),
        links: Vec::new(),
    };
    assert_eq!(serving(admin(&platform, adopt)).model_revision, newest);
}

#[test]
fn garbage_collection_keeps_what_running_requests_use() {
    let (dir, runtime) = (tenants::data_dir(), runtime());
    let platform = tenants::platform(dir.path(), runtime.handle());
    let old = serving(deploy(&platform, "acme", &seeded(1), None)).component;
    let live = platform.tenant(&name("acme")).unwrap();
    serving(deploy(&platform, "acme", &seeded(2), None));
    age(&dir.path().join("tenants/blobs"));
    age(&dir.path().join("compiled"));
    let swept = collect(&platform, 0, false);
    assert_eq!(swept.dropped.len(), 1, "{swept:?}");
    assert_eq!(names(&swept, DroppedKind::Version).len(), 1);
    assert!(blob(dir.path(), &old).exists() && compiled(dir.path(), &old) > 0);
    assert!(runtime.block_on(live.rerank(request(&["text"]))).is_ok());
    drop(live);
    assert!(!collect(&platform, 0, false).dropped.is_empty());
    assert!(!blob(dir.path(), &old).exists() && compiled(dir.path(), &old) == 0);
}

#[test]
fn removing_a_tenant_removes_its_files_and_keeps_shared_ones() {
    let (dir, runtime) = (tenants::data_dir(), runtime());
    let platform = tenants::platform(dir.path(), runtime.handle());
    let shared = serving(deploy(&platform, "acme", &seeded(1), None)).component;
    assert_eq!(serving(deploy(&platform, "beta", &seeded(1), None)).component, shared);
    let own = serving(deploy(&platform, "beta", &seeded(2), None)).component;
    age(&dir.path().join("tenants/blobs"));
    age(&dir.path().join("compiled"));
    assert_eq!(
        admin(&platform, Command::Remove { tenant: name("beta"), drain: false, force: false }),
        Reply::Removed { callers: Vec::new() }
    );
    platform.tidy().unwrap();
    assert!(blob(dir.path(), &shared).exists() && compiled(dir.path(), &shared) > 0);
    assert!(!blob(dir.path(), &own).exists() && compiled(dir.path(), &own) == 0);
}

#[test]
fn deployments_and_sweeps_at_once_do_not_harm_each_other() {
    let (dir, runtime) = (tenants::data_dir(), runtime());
    let platform = tenants::platform(dir.path(), runtime.handle());
    let mut oracle = Oracle::new(dir.path());
    // Long in the store, and named by nothing until it is deployed.
    platform.put_component(&seeded(3)).unwrap();
    age(&dir.path().join("tenants/blobs"));
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sweeps = scope.spawn(|| {
            let mut sweeps = 0;
            while !is_done.load(Ordering::SeqCst) {
                collect(&platform, 0, false);
                sweeps += 1;
            }
            sweeps
        });
        for seed in 1..=4 {
            serving(deploy(&platform, "acme", &seeded(seed), None));
            answers(&platform, "acme", &runtime, &oracle.scores(seed, &["text".to_owned()]));
        }
        is_done.store(true, Ordering::SeqCst);
        assert!(sweeps.join().unwrap() > 0);
    });
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else if entry.path().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn kill_9_at_any_instant_of_a_sweep_leaves_a_whole_store() {
    let rounds: u32 = std::env::var("ASSAY_KILL_ROUNDS").map_or(12, |rounds| rounds.parse().unwrap());
    let (made, runtime) = (tenants::data_dir(), runtime());
    let mut oracle = Oracle::new(made.path());
    let platform = tenants::platform(made.path(), runtime.handle());
    for seed in 1..=5 {
        serving(deploy(&platform, "acme", &seeded(seed), None));
    }
    for seed in 20..30 {
        add_model(made.path(), "tiny/two", &tiny_model(seed));
    }
    drop(platform);
    let data_dir = |round: u32| {
        let dir = tempfile::tempdir().unwrap();
        copy(made.path(), dir.path());
        age(dir.path());
        (round, dir)
    };
    let gc = |dir: &Path| {
        let mut command = common::assay(dir);
        command.args(["gc", "--keep", "2"]).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let whole = {
        let (_, dir) = data_dir(0);
        let started = Instant::now();
        assert!(gc(dir.path()).status().unwrap().success());
        started.elapsed()
    };
    let mut killed = 0;
    for (round, dir) in (1..=rounds).map(data_dir) {
        let mut child = gc(dir.path()).spawn().unwrap();
        // Not a wait for something to happen: the instant of the kill is what is being varied.
        std::thread::sleep(whole * round / rounds);
        // It may be done.
        let _ = child.kill();
        killed += u32::from(!child.wait().unwrap().success());

        let platform = tenants::platform(dir.path(), runtime.handle());
        assert!(platform.activate_all().unwrap().is_empty());
        let Reply::Tenant(acme) = admin(&platform, Command::Show { tenant: name("acme") }) else { panic!("not shown") };
        assert!([3, 5].contains(&acme.versions.len()), "{} versions", acme.versions.len());
        for version in acme.versions {
            let to = Some(version.version);
            serving(admin(&platform, Command::Rollback { tenant: name("acme"), to }));
            let seed = u32::try_from(version.version).unwrap();
            answers(&platform, "acme", &runtime, &oracle.scores(seed, &["text".to_owned()]));
        }
        // The next sweep ends what this one began. Rolled back to the newest, the versions that stay are the same.
        age(&dir.path().join("models"));
        collect(&platform, 2, false);
        drop(platform);
        assert_eq!(std::fs::read_dir(dir.path().join("models/tiny--two")).unwrap().count(), 2, "a revision too many");
        assert_eq!(std::fs::read_dir(dir.path().join("tenants/blobs")).unwrap().count(), 4, "three and the lock");
    }
    println!("{rounds} sweeps of {} ms: {killed} were killed", Duration::as_millis(&whole));
}
