//! The operator's hand: what works at once, whatever compiles, floods or is broken.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{self, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use assay::device::DeviceOptions;
use assay::tenant::admin::{Command, Reply};
use assay::tenant::compile::CompilerOptions;
use assay::tenant::{Platform, PlatformOptions, TenantLimits};
use common::server::{Answer, Server, get, keyless_dir, post, read_all};
use common::service::{Service, Setting, until};
use common::tenants::{self, admin, component, deploy, name, refusal, seeded, serving};
use tokio::runtime::Runtime;

/// What an operator waits for at most.
const AT_ONCE: Duration = Duration::from_secs(1);

/// How long a component that spins while it is prepared keeps its compiler busy: longer than everything that must not
/// wait for it.
const COMPILE_TIME: Duration = Duration::from_secs(6);

/// Valid requests that are answered while others spin.
const TURNS: u64 = 20;

fn create_key(platform: &Platform, tenant: &str) -> (String, String) {
    match admin(platform, Command::CreateKey { tenant: name(tenant) }) {
        Reply::Key { secret, record } => (secret, record.id),
        other => panic!("no key: {other:?}"),
    }
}

#[test]
fn keys_limits_and_tenants_change_while_a_component_compiles() {
    let (dir, runtime) = (tenants::data_dir(), Runtime::new().unwrap());
    let platform = tenants::platform(dir.path(), runtime.handle());
    serving(deploy(&platform, "acme", &seeded(1), None));
    serving(deploy(&platform, "beta", &seeded(2), None));
    drop(platform);
    let compiler = CompilerOptions { max_prepare_cpu: COMPILE_TIME, ..CompilerOptions::new(common::PROGRAM.into()) };
    let (device, tokio) = (DeviceOptions::default(), runtime.handle().clone());
    let options = PlatformOptions { device, compiler, guest_memory_bytes: None, max_named_tenants: 10, tokio };
    let platform = Platform::open(dir.path(), options).unwrap();
    assert!(platform.activate_all().unwrap().is_empty());
    let (secret, id) = create_key(&platform, "acme");
    std::thread::scope(|scope| {
        let deploying = scope.spawn(|| deploy(&platform, "acme", &component("spins-in-prepare"), None));
        // Its component is stored before it compiles; the commands below take the same way whether it has begun or not.
        let began = Instant::now();
        assert_eq!(admin(&platform, Command::RevokeKey { tenant: name("acme"), id, drain: false }), Reply::Done);
        assert!(platform.caller(&secret).is_none());
        let limits = Box::new(TenantLimits { max_documents: 7, ..TenantLimits::default() });
        let set = admin(&platform, Command::SetLimits { tenant: name("acme"), limits });
        assert_eq!(serving(set).limits.max_documents, 7);
        assert!(matches!(admin(&platform, Command::List), Reply::Tenants(listed) if listed.len() == 2));
        assert!(matches!(admin(&platform, Command::Show { tenant: name("acme") }), Reply::Tenant(_)));
        let removal = Command::Remove { tenant: name("beta"), drain: false, force: false };
        assert_eq!(admin(&platform, removal), Reply::Removed { callers: Vec::new() });
        assert!(platform.tenant(&name("beta")).is_none());
        assert!(began.elapsed() < COMPILE_TIME / 2, "it took {:?}", began.elapsed());
        assert!(refusal(deploying.join().unwrap()).contains("computed for longer"));
    });
}

#[test]
fn limits_that_were_set_while_a_deployment_was_tried_stay_in_force() {
    let (dir, runtime) = (tenants::data_dir(), Runtime::new().unwrap());
    let platform = tenants::platform(dir.path(), runtime.handle());
    serving(deploy(&platform, "acme", &seeded(1), None));
    std::thread::scope(|scope| {
        let deploying = scope.spawn(|| deploy(&platform, "acme", &seeded(2), None));
        let limits = Box::new(TenantLimits { max_documents: 7, ..TenantLimits::default() });
        serving(admin(&platform, Command::SetLimits { tenant: name("acme"), limits }));
        // Whichever was committed first, the limits are the operator's.
        assert_eq!(serving(deploying.join().unwrap()).limits.max_documents, 7);
    });
}

#[test]
fn a_removed_tenants_requests_and_a_revoked_keys_are_stopped() {
    let service = Service::start(Setting { guest: component("trigger"), ..Setting::default() });
    let spin = br#"{"query":"ATTACK spin","documents":["d"]}"#;
    let in_work = |key: &str| {
        let mut stream = service.connect();
        stream.write_all(&post("/v1/rerank", Some(key), spin)).unwrap();
        stream
    };
    let (secret, id) = create_key(&service.platform, "acme");
    let (mut revoked, mut other) = (in_work(&secret), in_work(&service.key));
    until("the requests' start", || service.running() == 2);
    // Each is answered after turns of the two that spin, so by then they have computed for some milliseconds.
    for _ in 0..TURNS {
        assert_eq!(service.send(&service.good()).status, 200);
    }
    let began = Instant::now();
    admin(&service.platform, Command::RevokeKey { tenant: name("acme"), id, drain: false });
    assert_eq!(Answer::parse(&read_all(&mut revoked)).status, 401);
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    until("the revoked request's end", || service.running() == 1);
    let live = service.platform.tenant(&name("acme")).unwrap();
    admin(&service.platform, Command::Remove { tenant: name("acme"), drain: false, force: false });
    assert_eq!(Answer::parse(&read_all(&mut other)).status, 401);
    until("the removed tenant's request's end", || live.usage().running == 0);
    let usage = live.usage();
    assert_eq!((usage.answered, usage.cancelled, usage.failed), (TURNS, 2, 2));
    assert!(usage.most_guest_cpu_ms > 0, "{usage:?}");
}

#[test]
fn a_request_in_work_may_end_where_the_operator_lets_it() {
    let service = Service::start(Setting::default());
    let mut half = service.half();
    until("the request's start", || service.running() == 1);
    admin(&service.platform, Command::Remove { tenant: name("acme"), drain: true, force: false });
    half.write_all(b"}").unwrap();
    assert_eq!(Answer::parse(&read_all(&mut half)).status, 200);
    assert_eq!(service.send(&service.good()).status, 401);
}

#[test]
fn a_server_that_starts_answers_its_operator_and_stops_when_asked() {
    let dir = keyless_dir();
    let data_dir = dir.path().join("data");
    // So that the standard guest is compiled again, which takes longer than the rest of this.
    std::fs::remove_dir_all(data_dir.join("compiled")).unwrap();
    let server = Server::starting_on(&data_dir, &[]);
    assert_eq!(server.get("/ready").status, 503);
    server.tenant(&["list"]);
    assert!(server.stop());
}

#[test]
fn callers_are_told_while_their_tenant_starts_and_why_it_does_not() {
    let (dir, runtime) = (tenants::data_dir(), Runtime::new().unwrap());
    let platform = tenants::platform(dir.path(), runtime.handle());
    for (tenant, seed) in [("acme", 1), ("broken", 2)] {
        serving(deploy(&platform, tenant, &seeded(seed), None));
    }
    let (acme, broken) = (create_key(&platform, "acme").0, create_key(&platform, "broken").0);
    drop(platform);
    // The component of one is lost, and the compiled code with it.
    std::fs::remove_dir_all(dir.path().join("compiled")).unwrap();
    let lost = assay::model::manifest::sha256_hex(&seeded(2));
    let blob = dir.path().join(format!("tenants/blobs/{lost}.wasm"));
    std::fs::remove_file(&blob).unwrap();

    let platform = Arc::new(tenants::platform(dir.path(), runtime.handle()));
    platform.begin().unwrap();
    let service = Service::over(platform, &acme, runtime, dir);
    let starting = service.send(&service.good());
    assert_eq!((starting.status, starting.header("retry-after")), (503, Some("1")));
    // In the words of every dialect.
    for path in ["/v2/rerank", "/jina/rerank", "/tei/rerank", "/infinity/rerank", "/llama/rerank", "/vllm/score"] {
        let starting = service.send(&post(path, Some(&acme), common::service::BODY));
        assert_eq!((starting.status, starting.header("retry-after")), (503, Some("1")), "{path}");
        assert!(starting.text().contains("starting") && starting.json().is_object(), "{path}: {}", starting.text());
    }
    assert_eq!(service.send(&get("/health")).status, 200);
    let ready = service.send(&get("/ready"));
    assert_eq!((ready.status, ready.json()["starting"].as_u64()), (503, Some(2)));

    let failed = service.platform.activate();
    assert!(matches!(&failed[..], [(tenant, _)] if tenant.as_str() == "broken"), "{failed:?}");
    assert_eq!(service.send(&service.good()).status, 200);
    let ready = service.send(&get("/ready"));
    assert_eq!((ready.status, ready.json()["failed"].as_u64()), (200, Some(1)));
    let refused = service.send(&post("/v1/rerank", Some(&broken), common::service::BODY));
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("broken is not being served"), "{}", refused.text());
    let Reply::Tenant(shown) = admin(&service.platform, Command::Show { tenant: name("broken") }) else { panic!() };
    let trouble = shown.trouble.unwrap();
    assert!(trouble.contains("`assay tenant rollback broken --to 1`"), "{trouble}");

    // Mended, it starts by that.
    std::fs::write(blob, seeded(2)).unwrap();
    serving(admin(&service.platform, Command::Rollback { tenant: name("broken"), to: Some(1) }));
    let answered = service.send(&post("/v1/rerank", Some(&broken), common::service::BODY));
    assert_eq!(answered.status, 200, "{}", answered.text());
}

#[test]
fn a_record_that_cannot_be_read_stops_no_other_tenant() {
    let (dir, runtime) = (tenants::data_dir(), Runtime::new().unwrap());
    let platform = tenants::platform(dir.path(), runtime.handle());
    for (tenant, seed) in [("acme", 1), ("broken", 2)] {
        serving(deploy(&platform, tenant, &seeded(seed), None));
    }
    drop(platform);
    {
        let db = redb::Database::open(dir.path().join("tenants/registry.redb")).unwrap();
        let change = db.begin_write().unwrap();
        let records = redb::TableDefinition::<(&str, u64), &[u8]>::new("deployments");
        change.open_table(records).unwrap().insert(("broken", 1), b"no record".as_slice()).unwrap();
        change.commit().unwrap();
    }
    let platform = tenants::platform(dir.path(), runtime.handle());
    let failed = platform.activate_all().unwrap();
    assert!(matches!(&failed[..], [(tenant, _)] if tenant.as_str() == "broken"), "{failed:?}");
    assert!(platform.tenant(&name("acme")).is_some());
}

#[test]
fn a_limits_file_of_another_program_is_checked_by_the_server() {
    let (dir, runtime) = (tenants::data_dir(), Runtime::new().unwrap());
    let platform = tenants::platform(dir.path(), runtime.handle());
    let limits = TenantLimits { weight: 0, ..TenantLimits::default() };
    let message = refusal(deploy(&platform, "acme", &seeded(1), Some(limits)));
    assert_eq!(message, "weight is 0, but must be between 1 and 1000");
}

#[test]
fn limits_of_a_tenant_that_fills_its_own_queue_are_lowered() {
    let limits = TenantLimits { max_queued_tokens: 1, ..TenantLimits::default() };
    let service = Service::start(Setting { limits: TenantLimits::default(), ..Setting::default() });
    // No request of two tokens can be computed under these, the one that a deployment is tried with neither.
    serving(admin(&service.platform, Command::SetLimits { tenant: name("acme"), limits: Box::new(limits) }));
    assert_ne!(service.send(&service.good()).status, 200);
    serving(admin(&service.platform, Command::SetLimits { tenant: name("acme"), limits: Box::default() }));
    assert_eq!(service.send(&service.good()).status, 200);
}

#[test]
fn kill_9_at_any_instant_forgets_no_revocation_that_was_acknowledged() {
    let rounds: u32 = std::env::var("ASSAY_KILL_ROUNDS").map_or(6, |rounds| rounds.parse().unwrap());
    let dir = keyless_dir();
    let data_dir = dir.path().join("data");
    let mut server = Server::on(&data_dir, &[]);
    server.tenant(&["deploy", "acme"]);
    let body = br#"{"query":"q","documents":["some","documents"]}"#;
    let revoke = |id: &str| {
        let mut command = common::assay(&data_dir);
        command.args(["tenant", "key", "revoke", "acme", id]).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let ids = |server: &Server| -> BTreeSet<String> {
        let listed = server.tenant(&["key", "list", "acme"]);
        listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
    };
    let new_key = |server: &Server| {
        let before = ids(server);
        let key = server.tenant(&["key", "create", "acme"]);
        server.post_as(&key, "/v1/rerank", body).ok();
        (key, ids(server).difference(&before).next().unwrap().clone())
    };
    let whole = {
        let (_, id) = new_key(&server);
        let started = Instant::now();
        assert!(revoke(&id).status().unwrap().success());
        started.elapsed()
    };
    let (mut acknowledged, mut lost) = (0, 0);
    for round in 1..=rounds {
        let (key, id) = new_key(&server);
        let mut revoking = revoke(&id).spawn().unwrap();
        // Not a wait for something to happen: the instant of the kill is what is being varied.
        std::thread::sleep(whole * round / rounds);
        drop(server);
        let is_acknowledged = revoking.wait().unwrap().success();
        server = Server::on(&data_dir, &[]);
        let status = server.post_as(&key, "/v1/rerank", body).status;
        assert!(status == 401 || (status == 200 && !is_acknowledged), "{status}, acknowledged: {is_acknowledged}");
        acknowledged += u32::from(is_acknowledged);
        lost += u32::from(status == 200);
    }
    println!("{rounds} kills: {acknowledged} revocations acknowledged and kept, {lost} not begun");
}

/// Sets the size beyond which a process can write no file: 0 is a disk without room.
#[cfg(target_os = "linux")]
fn limit_files(id: u32, bytes: &str) {
    let limit = format!("--fsize={bytes}:unlimited");
    assert!(process::Command::new("prlimit").args(["--pid", &id.to_string(), &limit]).status().unwrap().success());
}

#[test]
#[cfg(target_os = "linux")]
fn a_key_is_revoked_though_the_disk_is_full_and_stays_so() {
    let dir = keyless_dir();
    let data_dir = dir.path().join("data");
    let server = Server::without_file_signals(&data_dir);
    server.tenant(&["deploy", "acme"]);
    let key = server.tenant(&["key", "create", "acme"]);
    let body = br#"{"query":"q","documents":["some","documents"]}"#;
    server.post_as(&key, "/v1/rerank", body).ok();
    let listed = server.tenant(&["key", "list", "acme"]);
    let id = listed.lines().last().unwrap().split_whitespace().next().unwrap();

    limit_files(server.id(), "0");
    let tenant = |arguments: &[&str]| common::finish(common::assay(&data_dir).arg("tenant").args(arguments));
    let refused = tenant(&["key", "create", "acme"]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    let revoked = tenant(&["key", "revoke", "acme", id]);
    println!("without room: {:?} {}{}", revoked.code, revoked.stdout, revoked.stderr);
    server.post_as(&key, "/v1/rerank", body).refused(401, &[]);
    // Who is left in peace by all that.
    assert_eq!(server.get("/ready").status, 200);

    limit_files(server.id(), "unlimited");
    // What could not be written is written soon, and the store works again.
    until("a key can be made", || tenant(&["key", "create", "acme"]).code == Some(0));
    until("the revocation is stored", || !tenant(&["key", "list", "acme"]).stdout.contains(id));
    drop(server);
    let server = Server::on(&data_dir, &[]);
    server.post_as(&key, "/v1/rerank", body).refused(401, &[]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_key_that_nobody_could_read_fails_the_command_and_is_named() {
    let dir = keyless_dir();
    let data_dir = dir.path().join("data");
    let server = Server::on(&data_dir, &[]);
    server.tenant(&["deploy", "acme"]);
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    for stdout in [Stdio::from(closed), Stdio::from(full)] {
        let mut command = common::assay(&data_dir);
        let made = command.args(["tenant", "key", "create", "acme"]).stdout(stdout).output().unwrap();
        let said = String::from_utf8(made.stderr).unwrap();
        assert_eq!(made.status.code(), Some(1), "{said}");
        let (_, command) = said.split_once("`assay tenant ").expect(&said);
        let arguments: Vec<&str> = command.split('`').next().unwrap().split(' ').collect();
        let id = *arguments.last().unwrap();
        assert!(server.tenant(&["key", "list", "acme"]).contains(id), "{said}");
        server.tenant(&arguments);
        assert!(!server.tenant(&["key", "list", "acme"]).contains(id), "{said}");
    }
}
