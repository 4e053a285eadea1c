//! Deployments: what fails changes nothing, what is committed survives `kill -9`, and a switch never mixes versions.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use assay::device::DeviceOptions;
use assay::model::ModelStore;
use assay::rerank::{GuestFault, RerankError};
use assay::tenant::admin::{Command as AdminCommand, Reply};
use assay::tenant::compile::CompilerOptions;
use assay::tenant::{Action, Platform, PlatformOptions, TenantLimits};
use common::tenants::{self, Oracle, admin, component, deploy, name, refusal, request, seeded, serving};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The seed of the version that answers, after checking that the scores are that seed's.
fn answering_seed(platform: &Platform, tenant: &str, runtime: &tokio::runtime::Runtime, oracle: &mut Oracle) -> u32 {
    let live = platform.tenant(&name(tenant)).unwrap();
    let documents = ["some".to_owned(), "documents".to_owned()];
    let response = runtime.block_on(live.rerank(request(&["some", "documents"]))).unwrap();
    let (seed, scores): (u32, Vec<f32>) =
        (response.usage.truncated, response.hits.iter().map(|hit| hit.score).collect());
    assert_eq!(scores, oracle.scores(seed, &documents), "the scores are not those of seed {seed}");
    seed
}

#[test]
fn versions_are_numbered_switched_rolled_back_and_remembered() {
    let (dir, runtime) = (tenants::data_dir(), runtime());
    let mut oracle = Oracle::new(dir.path());
    let platform = tenants::platform(dir.path(), runtime.handle());
    for (version, seed) in [(1, 11), (2, 12), (3, 13)] {
        assert_eq!(serving(deploy(&platform, "acme", &seeded(seed), None)).version, version);
        assert_eq!(answering_seed(&platform, "acme", &runtime, &mut oracle), seed);
    }
    let rollback = |to| admin(&platform, AdminCommand::Rollback { tenant: name("acme"), to });
    assert_eq!(serving(rollback(None)).version, 2);
    assert_eq!(answering_seed(&platform, "acme", &runtime, &mut oracle), 12);
    assert_eq!(serving(rollback(Some(3))).version, 3);
    assert_eq!(serving(rollback(Some(1))).version, 1);
    assert!(refusal(rollback(None)).contains("no version before"));
    assert!(refusal(rollback(Some(9))).contains("acme has no version 9"));
    // The next version's number does not depend on the current one.
    assert_eq!(serving(deploy(&platform, "acme", &seeded(14), None)).version, 4);

    drop(platform);
    let platform = tenants::platform(dir.path(), runtime.handle());
    assert!(platform.activate_all().unwrap().is_empty());
    assert_eq!(answering_seed(&platform, "acme", &runtime, &mut oracle), 14);
    let Reply::Tenant(acme) = admin(&platform, AdminCommand::Show { tenant: name("acme") }) else {
        panic!("not shown")
    };
    let actions: Vec<(Action, Option<u64>)> = acme.history.iter().map(|event| (event.action, event.version)).collect();
    let (deployed, back) = (Action::Deploy, Action::Rollback);
    let versions = [(deployed, 1), (deployed, 2), (deployed, 3), (back, 2), (back, 3), (back, 1), (deployed, 4)];
    assert_eq!(actions, versions.map(|(action, version)| (action, Some(version))));
    assert!(acme.history.iter().all(|event| event.by == "tester" && event.subject.is_some()));

    assert_eq!(
        admin(&platform, AdminCommand::Remove { tenant: name("acme"), drain: false, force: false }),
        Reply::Removed { callers: Vec::new() }
    );
    assert!(platform.tenant(&name("acme")).is_none());
    assert!(refusal(admin(&platform, AdminCommand::Show { tenant: name("acme") })).contains("there is no tenant acme"));
    assert_eq!(serving(deploy(&platform, "acme", &seeded(15), None)).version, 5);
}

#[test]
fn a_failed_deployment_leaves_the_old_version_serving_and_says_why() {
    let (dir, runtime) = (tenants::data_dir(), runtime());
    let mut oracle = Oracle::new(dir.path());
    let platform = tenants::platform(dir.path(), runtime.handle());
    serving(deploy(&platform, "acme", &seeded(21), None));
    let short = || TenantLimits { max_guest_cpu_ms: 200, ..TenantLimits::default() };
    for (wasm, expected) in [
        (b"not wasm".to_vec(), "is not WebAssembly"),
        (b"\0asm\x01\0\0\0".to_vec(), "is a core module"),
        (b"\0asm\x0d\0\x01\0broken".to_vec(), "cannot be compiled"),
        (component("no-export"), "is not a guest of assay:rerank/tenant"),
        (component("traps"), "did not answer the request it was tried with"),
        (component("spins"), "computed for longer than its limit of 200 ms"),
        (component("holds"), "left 1 models open"),
        (component("spins-in-prepare"), "computed for longer"),
    ] {
        let message = refusal(deploy(&platform, "acme", &wasm, Some(short())));
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        assert_eq!(answering_seed(&platform, "acme", &runtime, &mut oracle), 21);
    }
    let deploy_what = |component: String, model: Option<&str>| AdminCommand::Deploy {
        tenant: name("acme"),
        component: Some(component),
        limits: None,
        model: model.map(str::to_owned),
        other_models: Vec::new(),
        links: Vec::new(),
    };
    let missing = deploy_what("0".repeat(64), None);
    assert!(refusal(admin(&platform, missing)).contains("there is no component"));
    let unknown = deploy_what(platform.put_component(&seeded(22)).unwrap(), Some("no/such"));
    assert!(refusal(admin(&platform, unknown)).contains("there is no model no/such"));
    let Reply::Tenant(acme) = admin(&platform, AdminCommand::Show { tenant: name("acme") }) else {
        panic!("not shown")
    };
    assert_eq!((acme.tenant.current, acme.versions.len(), acme.history.len()), (1, 1, 1));
}

#[test]
fn a_request_ends_on_the_version_it_began_on() {
    let (dir, runtime) = (tenants::data_dir(), runtime());
    let platform = tenants::platform(dir.path(), runtime.handle());
    serving(deploy(&platform, "acme", &seeded(31), None));
    let before = platform.tenant(&name("acme")).unwrap();
    serving(deploy(&platform, "acme", &seeded(32), None));
    let seed = |live: &std::sync::Arc<assay::tenant::LiveTenant>| {
        runtime.block_on(live.rerank(request(&["text"]))).unwrap().usage.truncated
    };
    assert_eq!(seed(&before), 31);
    assert_eq!(seed(&platform.tenant(&name("acme")).unwrap()), 32);
}

#[test]
fn limits_are_a_version_of_their_own_and_hold_at_once() {
    let (dir, runtime) = (tenants::data_dir(), runtime());
    let platform = tenants::platform(dir.path(), runtime.handle());
    serving(deploy(&platform, "acme", &seeded(41), None));
    let rerank = |documents: &[&str]| {
        let live = platform.tenant(&name("acme")).unwrap();
        runtime.block_on(live.rerank(request(documents)))
    };
    let set = |limits: TenantLimits| {
        admin(&platform, AdminCommand::SetLimits { tenant: name("acme"), limits: Box::new(limits) })
    };
    assert!(rerank(&["a", "b"]).is_ok());
    // Limits are not tried with a request, so they may be lower than what a deployment's needs. One instance is started.
    let message = refusal(set(TenantLimits { max_memory_bytes: 65_536, ..TenantLimits::default() }));
    assert!(message.contains("no instance could start") && message.contains("65536"), "{message}");
    assert_eq!(serving(set(TenantLimits { max_documents: 1, ..TenantLimits::default() })).version, 2);
    assert!(matches!(rerank(&["a", "b"]), Err(RerankError::TooLarge { limit, .. }) if limit == "max_documents"));
    assert_eq!(serving(set(TenantLimits { max_documents: 2, ..TenantLimits::default() })).version, 3);
    assert!(matches!(rerank(&["a", "b", "c"]), Err(RerankError::TooLarge { limit, .. }) if limit == "max_documents"));

    // One document of one byte is a row of two tokens.
    let slow = TenantLimits { max_tokens_per_s: 1, burst_tokens: 4, ..TenantLimits::default() };
    assert_eq!(serving(set(slow)).version, 4);
    assert!(rerank(&["a", "b"]).is_ok());
    assert!(matches!(rerank(&["a"]), Err(RerankError::TooManyRequests { limit: "max_tokens_per_s", .. })));
    assert!(matches!(rerank(&["abcd"]), Err(RerankError::TooLarge { limit, .. }) if limit == "burst_tokens"));

    let usage = platform.tenant(&name("acme")).unwrap().usage();
    assert_eq!((usage.answered, usage.failed, usage.most_documents), (2, 4, 3));
    assert_eq!(serving(admin(&platform, AdminCommand::Rollback { tenant: name("acme"), to: Some(1) })).version, 1);
    assert!(rerank(&["a", "b", "c"]).is_ok());
}

#[test]
fn what_a_guest_prints_before_it_traps_is_told_to_who_deploys_it_and_to_no_caller() {
    let (dir, runtime) = (tenants::data_dir(), runtime());
    let platform = tenants::platform(dir.path(), runtime.handle());
    // For such a tenant the host tries one document, for which this guest traps.
    let single = TenantLimits { max_documents: 1, ..TenantLimits::default() };
    let message = refusal(deploy(&platform, "acme", &component("prints"), Some(single)));
    assert!(message.ends_with("it printed: KeyError: \"what is a reranker\""), "{message}");
    serving(deploy(&platform, "acme", &component("prints"), None));
    let live = platform.tenant(&name("acme")).unwrap();
    let failed = runtime.block_on(live.rerank(request(&["a secret"]))).unwrap_err();
    let RerankError::Guest(GuestFault::Trapped(said)) = failed else { panic!("{failed:?}") };
    assert!(!said.contains("KeyError"), "{said}");
}

#[test]
fn a_guest_opens_the_models_that_its_limits_name() {
    let (dir, runtime) = (tenants::data_dir(), runtime());
    let platform = tenants::platform(dir.path(), runtime.handle());
    let opened = |model: &str| {
        let live = platform.tenant(&name("acme")).unwrap();
        runtime.block_on(live.rerank(tenants::attack(model))).unwrap_err()
    };
    serving(deploy(&platform, "acme", &component("opens-others"), None));
    assert_eq!(opened("tiny/two"), RerankError::AccessDenied("tiny/two".to_owned()));
    let limits = TenantLimits { models: vec!["tiny/two".to_owned()], ..TenantLimits::default() };
    serving(admin(&platform, AdminCommand::SetLimits { tenant: name("acme"), limits: Box::new(limits) }));
    let revision = ModelStore::new(dir.path()).open(Some("tiny/two")).unwrap().manifest.revision;
    assert_eq!(opened("tiny/two"), GuestFault::Reported(format!("opened tiny/two at {revision}")).into());
}

#[test]
fn a_compiler_process_is_stopped_at_its_limits() {
    let (dir, runtime) = (tenants::data_dir(), runtime());
    let open = |compiler: CompilerOptions| {
        let options = PlatformOptions {
            device: DeviceOptions::default(),
            compiler,
            guest_memory_bytes: None,
            max_named_tenants: 10,
            tokio: runtime.handle().clone(),
        };
        Platform::open(dir.path(), options).unwrap()
    };
    let options = || CompilerOptions::new(common::PROGRAM.into());
    let late = open(CompilerOptions { max_wall: Duration::from_millis(1), ..options() });
    assert!(refusal(deploy(&late, "acme", &seeded(51), None)).contains("took longer"));
    drop(late);
    // Enough for an engine, and not for compiling.
    let small = open(CompilerOptions { max_memory_bytes: 96 << 20, ..options() });
    let message = refusal(deploy(&small, "acme", &component("standard"), None));
    assert!(message.contains("compiler process ended"), "{message}");
    drop(small);
    serving(deploy(&open(options()), "acme", &seeded(51), None));
}

/// Starts a deployment from the command line, and kills it after a while unless it is done.
fn deploy_and_kill(data_dir: &Path, component: &Path, after: Duration) -> bool {
    let mut child = Command::new(common::PROGRAM)
        .arg("--data-dir")
        .arg(data_dir)
        .args(["tenant", "deploy", "acme"])
        .arg(component)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Not a wait for something to happen: the instant of the kill is what is being varied.
    std::thread::sleep(after);
    // It may be done.
    let _ = child.kill();
    child.wait().unwrap().success()
}

#[test]
fn kill_9_at_any_instant_neither_loses_nor_halves_a_deployment() {
    let rounds: u32 = std::env::var("ASSAY_KILL_ROUNDS").map_or(16, |rounds| rounds.parse().unwrap());
    let (dir, runtime) = (tenants::data_dir(), runtime());
    let mut oracle = Oracle::new(dir.path());
    let file = dir.path().join("component.wasm");
    let (mut done, mut killed, mut last_done) = (0, 0, 0);
    // One that is let be says how long one takes.
    let whole = {
        std::fs::write(&file, seeded(1)).unwrap();
        let started = std::time::Instant::now();
        let status = Command::new(common::PROGRAM)
            .arg("--data-dir")
            .arg(dir.path())
            .args(["tenant", "deploy", "acme"])
            .arg(&file)
            .status();
        assert!(status.unwrap().success());
        started.elapsed()
    };
    let mut attempted = HashSet::from([1]);
    for round in 0..rounds {
        let seed = 100 + round;
        attempted.insert(seed);
        std::fs::write(&file, seeded(seed)).unwrap();
        if deploy_and_kill(dir.path(), &file, whole * 6 / 5 * (round + 1) / rounds) {
            (done, last_done) = (done + 1, seed);
        } else {
            killed += 1;
        }
        let platform = tenants::platform(dir.path(), runtime.handle());
        let failed = platform.activate_all().unwrap();
        assert!(failed.is_empty(), "{failed:?}");
        let serving = answering_seed(&platform, "acme", &runtime, &mut oracle);
        assert!(attempted.contains(&serving), "{serving} was never deployed");
        assert!(serving >= last_done, "{last_done} was committed, {serving} serves");
        let Reply::Tenant(acme) = admin(&platform, AdminCommand::Show { tenant: name("acme") }) else {
            panic!("not shown")
        };
        assert_eq!(acme.versions.len(), acme.history.len(), "a version without its event, or the reverse");
        assert_eq!(acme.tenant.current, acme.versions.last().unwrap().version);
    }
    println!("{rounds} deployments of {} ms: {done} were done, {killed} were killed", whole.as_millis());
}

#[test]
#[cfg(target_os = "linux")]
fn a_compiler_process_ends_with_its_host_however_that_ends() {
    let dir = tenants::data_dir();
    let file = dir.path().join("component.wasm");
    std::fs::write(&file, component("spins-in-prepare")).unwrap();
    let deploy = ["tenant", "deploy", "acme", file.to_str().unwrap()];
    let mut host = common::assay(dir.path()).args(deploy).stderr(Stdio::null()).spawn().unwrap();
    let mut compiler = String::new();
    common::service::until("the compiler's start", || {
        // The thread that started it may not be the first one.
        let tasks = std::fs::read_dir(format!("/proc/{}/task", host.id())).unwrap();
        let lists =
            tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default());
        compiler = lists.collect::<String>();
        !compiler.trim().is_empty()
    });
    let compiler = compiler.split_whitespace().next().unwrap().to_owned();
    host.kill().unwrap();
    host.wait().unwrap();
    let state = || std::fs::read_to_string(format!("/proc/{compiler}/stat")).unwrap_or_default();
    // Where nothing collects ended processes, it stays as a zombie.
    common::service::until("the compiler's end", || state().is_empty() || state().contains(") Z "));
}
