//! Many tenants at once, deploying, rolling back, calling each other and attacking, beside callers over HTTP who are
//! polite, who attack, and whose keys are revoked: no answer is lost or another's, nothing panics, memory stays flat.
//! The attackers over HTTP are at work for the first two thirds; the polite caller's times with and without them are
//! printed.
//!
//! Short as it runs with the others. The long one:
//! `ASSAY_SOAK_SECONDS=600 ASSAY_SOAK_TENANTS=50 ASSAY_SOAK_CONCURRENCY=64 cargo test --release --workspace --test soak -- --nocapture`
//!
//! `ASSAY_SOAK_DIR` is where the data directory is made: on a small file system, deployments fail when it is full, and
//! nothing else may. `ASSAY_SOAK_FAILURE_MS` is the time between two failures of the engine, in the test that has them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use assay::device::EngineChoice;
use assay::model::{ModelStore, Source};
use assay::rerank::{Request, RerankError};
use assay::tenant::admin::{Command, Reply};
use assay::tenant::{Platform, TenantLimits};
use common::attackers::{ATTACKS, Attackers, Target};
use common::server::{Answer, get, post, read_all};
use common::service::{PATIENCE, Service};
use common::tenants::serving;
use common::tenants::{self, Oracle, Scores, VOCABULARY_SIZE, admin, attack, callers, component, deploy, name, seeded};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// Versions of each tenant: deployed once, then switched between.
const VERSIONS: u32 = 2;

/// Hostile tenants, and what sets each off.
const HOSTILE: [(&str, &str); 6] =
    [("recurses", ""), ("floods", ""), ("leaks", ""), ("half-way", ""), ("nonsense", "million"), ("huge-list", "")];

/// Tenants that call: the first one the second, and that tenant 0.
const FRONT: &str = "front";
const MIDDLE: &str = "middle";

/// A tenant with a model of another family, and its directory in `testdata/models`.
const OTHER_FAMILY: &str = "other-family";
const OTHER_MODEL: &str = "modernbert-mean";

/// A tenant whose guest calls a hostile tenant, which traps in the middle of a request.
const BROKEN: &str = "broken";
const HOSTILE_CALLEE: &str = "half-way";

fn setting(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{variable} is {value:?}")))
}

fn seed(tenant: u64, version: u32) -> u32 {
    1_000 + tenant as u32 * 10 + version
}

/// Documents of mixed number and length, the same for the same request.
fn documents(number: u64) -> Vec<String> {
    let count = 1 + number % 7 + if number.is_multiple_of(50) { 40 } else { 0 };
    (0..count).map(|index| "x".repeat(1 + ((number * 31 + index * 17) % 100) as usize) + &index.to_string()).collect()
}

#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    /// Answered through two links.
    chained: AtomicU64,
    /// Answered by the model of another family.
    other_family: AtomicU64,
    repelled: AtomicU64,
    refused: AtomicU64,
    /// Requests that met an engine's failure.
    unavailable: AtomicU64,
    /// Deployments for which the disk had no room.
    no_room: AtomicU64,
    next: AtomicU64,
}

impl Counts {
    fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// A data directory with the tests' models, where the setting says.
fn data_dir() -> TempDir {
    let dir = match std::env::var_os("ASSAY_SOAK_DIR") {
        Some(parent) => tenants::data_dir_in(tempfile::tempdir_in(parent).unwrap()),
        None => tenants::data_dir(),
    };
    let (model, source) = (testdata::model(OTHER_MODEL), Source::Directory { path: OTHER_MODEL.to_owned() });
    ModelStore::new(dir.path()).add(OTHER_MODEL, &model, source, None).unwrap();
    dir
}

/// The answers of the tenant with the other family's model to the first requests, while there are no others.
fn scores_alone(host: &Host) -> Vec<Vec<u32>> {
    (0..20).map(|number| host.service.runtime.block_on(score(&host.service.platform, number)).unwrap()).collect()
}

/// The bits of the scores that this tenant gives, by document.
async fn score(platform: &Platform, number: u64) -> Result<Vec<u32>, RerankError> {
    let live = platform.tenant(&name(OTHER_FAMILY)).unwrap();
    let request = Request { documents: documents(number), ..tenants::request(&[]) };
    let mut hits = live.rerank(request).await?.hits;
    hits.sort_by_key(|hit| hit.index);
    Ok(hits.iter().map(|hit| hit.score.to_bits()).collect())
}

/// Asks the tenant with the other family's model, and checks each answer against the one that it gave alone.
async fn other_family(platform: Arc<Platform>, alone: Arc<Vec<Vec<u32>>>, counts: Arc<Counts>, until: Instant) {
    let mut numbers = (0..alone.len()).cycle();
    while Instant::now() < until {
        let number = numbers.next().unwrap();
        match score(&platform, number as u64).await {
            Ok(scores) => {
                assert_eq!(scores, alone[number], "request {number} of {OTHER_FAMILY}");
                counts.other_family.fetch_add(1, Ordering::Relaxed);
            }
            Err(RerankError::TooManyRequests { .. } | RerankError::Overloaded { .. }) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("request {number} of {OTHER_FAMILY}: {error}"),
        }
    }
}

/// Memory of this process that is in use, where the system tells.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Sends requests until the time is over, and checks each answer against those that its tenant could give.
async fn caller(platform: Arc<Platform>, mut oracle: impl Scores, counts: Arc<Counts>, tenants: u64, until: Instant) {
    while Instant::now() < until {
        let number = counts.next.fetch_add(1, Ordering::Relaxed);
        if number.is_multiple_of(20) {
            let (mut guest, kind) = HOSTILE[(number / 20) as usize % HOSTILE.len()];
            if guest == HOSTILE_CALLEE && (number / 20).is_multiple_of(2) {
                guest = BROKEN;
            }
            let Some(live) = platform.tenant(&name(guest)) else { continue };
            match live.rerank(attack(kind)).await {
                Ok(answer) => panic!("{guest} was answered: {answer:?}"),
                Err(
                    RerankError::TooManyRequests { .. }
                    | RerankError::Overloaded { .. }
                    | RerankError::Deferred { is_overloaded: true, .. },
                ) => {}
                Err(RerankError::Internal(message)) => panic!("{guest} reached the host: {message}"),
                Err(_) => drop(counts.repelled.fetch_add(1, Ordering::Relaxed)),
            }
            continue;
        }
        let tenant = number % tenants;
        let documents = documents(number);
        let request = Request { documents: documents.clone(), ..tenants::request(&[]) };
        let is_chained = tenant == 0 && (number / tenants).is_multiple_of(3);
        let asked = if is_chained { FRONT.to_owned() } else { format!("tenant-{tenant}") };
        let live = platform.tenant(&name(&asked)).unwrap();
        match live.rerank(request).await {
            Ok(response) => {
                let scores: Vec<f32> = response.hits.iter().map(|hit| hit.score).collect();
                let answering = response.usage.truncated;
                let own = (0..VERSIONS).map(|version| seed(tenant, version)).any(|own| own == answering);
                assert!(own, "tenant {tenant} was answered by {answering}");
                assert_eq!(scores, oracle.scores(answering, &documents), "tenant {tenant}, request {number}");
                let counter = if is_chained { &counts.chained } else { &counts.answered };
                counter.fetch_add(1, Ordering::Relaxed);
            }
            // A full queue is an answer, and says when to come back.
            Err(
                RerankError::TooManyRequests { .. }
                | RerankError::Overloaded { .. }
                | RerankError::Deferred { is_overloaded: true, .. },
            ) => {
                counts.refused.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(RerankError::Unavailable { .. } | RerankError::Deferred { .. }) => {
                counts.unavailable.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => panic!("tenant {tenant}, request {number}: {error}"),
        }
    }
}

/// Asks a tenant over HTTP and gives the answer, unless its bytes are cut short.
fn ask(address: &str, key: &str, documents: &[String]) -> Answer {
    let body = serde_json::json!({ "query": "query", "texts": documents, "raw_scores": true }).to_string();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&post("/rerank", Some(key), body.as_bytes())).unwrap();
    Answer::parse(&read_all(&mut stream))
}

/// Checks that an answer is the right one for tenant 0.
fn check(answer: &Answer, oracle: &mut impl Scores, documents: &[String]) {
    let hits = answer.ok();
    let answering = answer.header("x-truncated-documents").unwrap().parse().unwrap();
    assert!((0..VERSIONS).any(|version| seed(0, version) == answering), "tenant 0 was answered by {answering}");
    let expected = oracle.scores(answering, documents);
    let hits = hits.as_array().unwrap();
    assert_eq!(hits.len(), documents.len());
    for hit in hits {
        let index = hit["index"].as_u64().unwrap() as usize;
        assert_eq!(hit["score"].as_f64().unwrap() as f32, expected[index], "document {index}");
    }
}

/// Asks for tenant 0 over HTTP, one request after the other and at least once, and gives each answer's time. A full queue
/// is waited for.
fn polite(address: &str, key: &str, oracle: &mut impl Scores, until: Instant) -> Vec<Duration> {
    let (mut times, mut number) = (Vec::new(), 0);
    while Instant::now() < until || times.is_empty() {
        let (documents, asked) = (documents(number), Instant::now());
        let answer = ask(address, key, &documents);
        number += 1;
        match answer.status {
            429 => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                check(&answer, oracle, &documents);
                times.push(asked.elapsed());
            }
        }
    }
    times
}

/// Makes keys of tenant 0, uses each, and revokes it: from then on it is refused.
fn revoke(platform: &Platform, address: &str, oracle: &mut impl Scores, until: Instant) -> u64 {
    let (mut revoked, documents) = (0, documents(1));
    while Instant::now() < until {
        let Reply::Key { secret, record } = admin(platform, Command::CreateKey { tenant: name("tenant-0") }) else {
            // The disk is full.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        let answer = ask(address, &secret, &documents);
        if answer.status != 429 {
            check(&answer, oracle, &documents);
        }
        let _ = admin(platform, Command::RevokeKey { tenant: name("tenant-0"), id: record.id, drain: false });
        assert_eq!(ask(address, &secret, &documents).status, 401, "a revoked key");
        revoked += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    revoked
}

/// The 99th percentile, in milliseconds.
fn p99_ms(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len().saturating_sub(1) * 99 / 100).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

/// Switches a tenant's version every so often, by turns with a rollback and with a deployment.
fn switch(platform: &Platform, counts: &Counts, tenants: u64, until: Instant, every: Duration) -> u64 {
    let mut switches = 0;
    while Instant::now() < until {
        let tenant = switches % tenants;
        let (tenant_name, version) = (format!("tenant-{tenant}"), (switches / tenants) as u32 % VERSIONS);
        let reply = match switches.is_multiple_of(2) {
            true => Ok(admin(platform, Command::Rollback { tenant: name(&tenant_name), to: Some(1) })),
            false => tenants::try_deploy(platform, &tenant_name, &seeded(seed(tenant, version)), None),
        };
        match reply {
            Ok(Reply::Serving(_)) => {}
            Ok(Reply::Refused(error)) | Err(error) if error.to_string().contains("No space left on device") => {
                counts.no_room.fetch_add(1, Ordering::Relaxed);
            }
            other => panic!("{tenant_name}: {other:?}"),
        }
        switches += 1;
        // The pace of the load, not a wait for something.
        std::thread::sleep(every);
    }
    switches
}

/// A platform, a service over it, and the address of that.
struct Host {
    service: Service,
    tenants: u64,
    until: Instant,
}

impl Host {
    /// Deploys every version of every tenant, and serves them for some seconds.
    fn start(dir: TempDir, choice: EngineChoice, seconds: u64) -> Self {
        let tenants = setting("ASSAY_SOAK_TENANTS", 6);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let platform = Arc::new(tenants::platform_on(dir.path(), runtime.handle(), choice));
        for tenant in 0..tenants {
            let limits = Some(callers(&[MIDDLE]));
            for version in (0..VERSIONS).rev() {
                let wasm = seeded(seed(tenant, version));
                serving(deploy(&platform, &format!("tenant-{tenant}"), &wasm, limits.clone()));
            }
        }
        for (caller, callee) in [(MIDDLE, "tenant-0"), (FRONT, MIDDLE)] {
            let limits = Some(callers(&[FRONT]));
            serving(tenants::deploy_linked(&platform, caller, &component("relays"), limits, &[("", callee)]));
        }
        let key = key(&platform, "tenant-0");
        let service = Service::over(platform, &key, runtime, dir);
        Self { service, tenants, until: Instant::now() + Duration::from_secs(seconds) }
    }

    /// Starts the callers.
    fn callers<S: Scores>(&self, counts: &Arc<Counts>, oracle: impl Fn() -> S) -> Vec<JoinHandle<()>> {
        let start = |_| {
            let platform = Arc::clone(&self.service.platform);
            self.service.runtime.spawn(caller(platform, oracle(), Arc::clone(counts), self.tenants, self.until))
        };
        (0..setting("ASSAY_SOAK_CONCURRENCY", 16)).map(start).collect()
    }

    fn finish(&self, callers: Vec<JoinHandle<()>>) {
        for caller in callers {
            self.service.runtime.block_on(caller).expect("a caller found something wrong");
        }
    }
}

/// A new key of a tenant.
fn key(platform: &Platform, tenant: &str) -> String {
    match admin(platform, Command::CreateKey { tenant: name(tenant) }) {
        Reply::Key { secret, .. } => secret,
        other => panic!("no key: {other:?}"),
    }
}

#[test]
fn tenants_share_a_host_and_each_gets_its_own_answers() {
    let seconds = setting("ASSAY_SOAK_SECONDS", 6);
    let dir = data_dir();
    let data_dir = dir.path().to_owned();
    let mut host = Host::start(dir, EngineChoice::Auto, seconds);
    let hostile = TenantLimits { max_guest_cpu_ms: 50, max_concurrent_requests: 2, ..TenantLimits::default() };
    for (guest, _) in HOSTILE {
        let limits = TenantLimits { callers: vec![name(BROKEN)], ..hostile.clone() };
        serving(deploy(&host.service.platform, guest, &component(guest), Some(limits)));
    }
    let (relays, links) = (component("relays"), [("", HOSTILE_CALLEE)]);
    serving(tenants::deploy_linked(&host.service.platform, BROKEN, &relays, Some(hostile.clone()), &links));
    serving(deploy(&host.service.platform, "trigger", &component("trigger"), None));
    let other = Command::Deploy {
        tenant: name(OTHER_FAMILY),
        component: Some(host.service.platform.put_component(&component("standard")).unwrap()),
        limits: None,
        model: Some(OTHER_MODEL.to_owned()),
        other_models: Vec::new(),
        links: Vec::new(),
    };
    serving(admin(&host.service.platform, other));
    let scores_alone = Arc::new(scores_alone(&host));
    host.until = Instant::now() + Duration::from_secs(seconds);
    let (platform, address, until) = (&host.service.platform, &host.service.address, host.until);
    let target =
        Arc::new(Target { address: address.clone(), hostile: key(platform, "trigger"), sent: AtomicUsize::new(0) });

    let counts = Arc::new(Counts::default());
    let oracle = || Oracle::new(&data_dir);
    let mut callers = host.callers(&counts, oracle);
    let other = other_family(Arc::clone(platform), scores_alone, Arc::clone(&counts), until);
    callers.push(host.service.runtime.spawn(other));
    let third = Duration::from_secs(seconds) / 3;
    let (beside, alone, early, revoked, switches) = std::thread::scope(|scope| {
        let early = scope.spawn(move || {
            // A third of the way in, everything that is kept has been touched.
            std::thread::sleep(third);
            resident_bytes()
        });
        let revoking = scope.spawn(|| revoke(platform, address, &mut oracle(), until));
        let asking = scope.spawn(|| {
            let attackers = Attackers::start(&target, &ATTACKS);
            let beside = polite(address, &host.service.key, &mut oracle(), until - third);
            attackers.stop();
            (beside, polite(address, &host.service.key, &mut oracle(), until))
        });
        let switches = switch(platform, &counts, host.tenants, until, Duration::from_millis(500));
        let (beside, alone) = asking.join().expect("a polite caller found something wrong");
        (beside, alone, early.join().unwrap(), revoking.join().expect("a revoked key works"), switches)
    });
    host.finish(callers);
    let late = resident_bytes();
    let (answered, repelled) = (Counts::get(&counts.answered), Counts::get(&counts.repelled));
    let (chained, other_family) = (Counts::get(&counts.chained), Counts::get(&counts.other_family));
    let mib = |bytes: Option<u64>| bytes.map_or(0, |bytes| bytes >> 20);
    println!(
        "{seconds} s, {} tenants: {answered} answered, {chained} through two links, {other_family} by a model of \
         another family, {repelled} attacks repelled, {} \
         refused, {switches} switches, {} without room on the disk, {revoked} keys revoked, {} MiB a third in, {} MiB \
         at the end; over HTTP {} answers beside attackers, p99 {:.1} ms, and {} without them, p99 {:.1} ms",
        host.tenants,
        Counts::get(&counts.refused),
        Counts::get(&counts.no_room),
        mib(early),
        mib(late),
        beside.len(),
        p99_ms(beside.clone()),
        alone.len(),
        p99_ms(alone.clone()),
    );
    assert!(
        answered > 0
            && chained > 0
            && other_family > 0
            && repelled > 0
            && switches > 0
            && revoked > 0
            && !beside.is_empty()
            && !alone.is_empty()
    );
    if let (Some(early), Some(late)) = (early, late) {
        assert!(late < early + early / 4 + (32 << 20), "memory grew from {early} to {late} bytes");
    }
}

#[test]
fn an_engine_that_fails_again_and_again_costs_its_own_batches_only() {
    let seconds = setting("ASSAY_SOAK_SECONDS", 3);
    let mut host = Host::start(data_dir(), EngineChoice::Puppet, seconds);
    serving(deploy(&host.service.platform, "breaks", &component("trigger"), None));
    host.until = Instant::now() + Duration::from_secs(seconds);
    let platform = &host.service.platform;
    let counts = Arc::new(Counts::default());
    let callers = host.callers(&counts, || Puppet);
    let (pause, mut failures) = (Duration::from_millis(setting("ASSAY_SOAK_FAILURE_MS", 50)), 0);
    while Instant::now() < host.until {
        let live = platform.tenant(&name("breaks")).unwrap();
        let failed = host.service.runtime.block_on(live.rerank(broken()));
        assert!(matches!(failed, Err(RerankError::Unavailable { .. })), "{failed:?}");
        failures += 1;
        std::thread::sleep(pause);
    }
    // With nobody else at work, all of the last batches have failed.
    host.finish(callers);
    for _ in 0..3 {
        let live = platform.tenant(&name("breaks")).unwrap();
        let failed = host.service.runtime.block_on(live.rerank(broken()));
        assert!(matches!(failed, Err(RerankError::Unavailable { .. })), "{failed:?}");
    }
    let ready = host.service.send(&get("/ready"));
    assert_eq!((ready.status, ready.json()["status"].as_str()), (503, Some("device fails")));
    let live = platform.tenant(&name("tenant-0")).unwrap();
    assert!(host.service.runtime.block_on(live.rerank(tenants::request(&["one"]))).is_ok());
    assert_eq!(host.service.send(&get("/ready")).status, 200);
    let (answered, unavailable) = (Counts::get(&counts.answered), Counts::get(&counts.unavailable));
    println!("{seconds} s: the engine failed {failures} times, {answered} answered, {unavailable} unavailable");
    assert!(failures > 1 && answered > 0);
}

/// A request whose rows are zeros, at which the puppet panics.
fn broken() -> Request {
    Request { query: "ATTACK device".to_owned(), ..tenants::request(&["one"]) }
}

/// What the puppet's rows are: the mean of their ids.
struct Puppet;

impl Scores for Puppet {
    fn scores(&mut self, seed: u32, documents: &[String]) -> Vec<f32> {
        let mean = |document: &String| {
            let first = std::iter::once(seed % VOCABULARY_SIZE);
            let ids = first.chain(document.bytes().map(|byte| u32::from(byte) % VOCABULARY_SIZE));
            ids.map(|id| id as f32).sum::<f32>() / (document.len() + 1) as f32
        };
        documents.iter().map(mean).collect()
    }
}
