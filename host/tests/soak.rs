//! Many tenants at once, deploying, rolling back and attacking: no answer is lost or another's, nothing panics, memory
//! stays flat.
//!
//! Short as it runs with the others. The long one:
//! `ASSAY_SOAK_SECONDS=600 ASSAY_SOAK_TENANTS=50 ASSAY_SOAK_CONCURRENCY=64 cargo test --release -p assay --test soak -- --nocapture`
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use assay::rerank::{Request, RerankError};
use assay::tenant::admin::Command;
use assay::tenant::{Platform, TenantLimits};
use common::tenants::{self, Oracle, admin, attack, component, deploy, name, seeded, serving};

/// Versions of each tenant: deployed once, then switched between.
const VERSIONS: u32 = 2;

/// Hostile tenants, and what sets each off.
const HOSTILE: [(&str, &str); 6] =
    [("recurses", ""), ("floods", ""), ("leaks", ""), ("half-way", ""), ("nonsense", "million"), ("huge-list", "")];

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
    repelled: AtomicU64,
    refused: AtomicU64,
    next: AtomicU64,
}

/// Memory of this process that is in use, where the system tells.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Sends requests until the time is over, and checks each answer against those that its tenant could give.
async fn caller(platform: Arc<Platform>, mut oracle: Oracle, counts: Arc<Counts>, tenants: u64, until: Instant) {
    while Instant::now() < until {
        let number = counts.next.fetch_add(1, Ordering::Relaxed);
        if number.is_multiple_of(20) {
            let (guest, kind) = HOSTILE[(number / 20) as usize % HOSTILE.len()];
            let live = platform.tenant(&name(guest)).unwrap();
            match live.rerank(attack(kind)).await {
                Ok(answer) => panic!("{guest} was answered: {answer:?}"),
                Err(RerankError::TooManyRequests { .. } | RerankError::Overloaded { .. }) => {}
                Err(RerankError::Internal(message)) => panic!("{guest} reached the host: {message}"),
                Err(_) => drop(counts.repelled.fetch_add(1, Ordering::Relaxed)),
            }
            continue;
        }
        let tenant = number % tenants;
        let documents = documents(number);
        let request = Request { documents: documents.clone(), ..tenants::request(&[]) };
        let live = platform.tenant(&name(&format!("tenant-{tenant}"))).unwrap();
        match live.rerank(request).await {
            Ok(response) => {
                let scores: Vec<f32> = response.hits.iter().map(|hit| hit.score).collect();
                let answering = response.usage.truncated;
                let own = (0..VERSIONS).map(|version| seed(tenant, version)).any(|own| own == answering);
                assert!(own, "tenant {tenant} was answered by {answering}");
                assert_eq!(scores, oracle.scores(answering, &documents), "tenant {tenant}, request {number}");
                counts.answered.fetch_add(1, Ordering::Relaxed);
            }
            // A full queue is an answer, and says when to come back.
            Err(RerankError::TooManyRequests { .. } | RerankError::Overloaded { .. }) => {
                counts.refused.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("tenant {tenant}, request {number}: {error}"),
        }
    }
}

/// Switches a tenant's version every so often, by turns with a rollback and with a deployment.
fn switch(platform: &Platform, tenants: u64, until: Instant, every: Duration) -> u64 {
    let mut switches = 0;
    while Instant::now() < until {
        let tenant = switches % tenants;
        let (tenant_name, version) = (format!("tenant-{tenant}"), (switches / tenants) as u32 % VERSIONS);
        if switches.is_multiple_of(2) {
            serving(admin(platform, Command::Rollback { tenant: name(&tenant_name), to: Some(1) }));
        } else {
            serving(deploy(platform, &tenant_name, &seeded(seed(tenant, version)), None));
        }
        switches += 1;
        // The pace of the load, not a wait for something.
        std::thread::sleep(every);
    }
    switches
}

#[test]
fn tenants_share_a_host_and_each_gets_its_own_answers() {
    let seconds = setting("ASSAY_SOAK_SECONDS", 5);
    let tenants = setting("ASSAY_SOAK_TENANTS", 6);
    let concurrency = setting("ASSAY_SOAK_CONCURRENCY", 16);
    let dir = tenants::data_dir();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let platform = Arc::new(tenants::platform(dir.path(), runtime.handle()));
    for tenant in 0..tenants {
        for version in (0..VERSIONS).rev() {
            serving(deploy(&platform, &format!("tenant-{tenant}"), &seeded(seed(tenant, version)), None));
        }
    }
    let hostile = TenantLimits { max_guest_cpu_ms: 50, max_concurrent_requests: 2, ..TenantLimits::default() };
    for (guest, _) in HOSTILE {
        serving(deploy(&platform, guest, &component(guest), Some(hostile.clone())));
    }

    let (start, counts) = (Instant::now(), Arc::new(Counts::default()));
    let until = start + Duration::from_secs(seconds);
    let callers: Vec<_> = (0..concurrency)
        .map(|_| {
            let (platform, oracle, counts) = (Arc::clone(&platform), Oracle::new(dir.path()), Arc::clone(&counts));
            runtime.spawn(caller(platform, oracle, counts, tenants, until))
        })
        .collect();
    let watch = std::thread::spawn(move || {
        // A third of the way in, everything that is kept has been touched.
        std::thread::sleep(Duration::from_secs(seconds) / 3);
        resident_bytes()
    });
    let switches = switch(&platform, tenants, until, Duration::from_millis(500));
    for caller in callers {
        runtime.block_on(caller).expect("a caller found something wrong");
    }
    let (early, late) = (watch.join().unwrap(), resident_bytes());
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (answered, repelled) = (count(&counts.answered), count(&counts.repelled));
    let mib = |bytes: Option<u64>| bytes.map_or(0, |bytes| bytes >> 20);
    println!(
        "{seconds} s, {tenants} tenants, concurrency {concurrency}: {answered} answered, {repelled} attacks repelled, \
         {} refused, {switches} switches, {} MiB a third in, {} MiB at the end",
        count(&counts.refused),
        mib(early),
        mib(late),
    );
    assert!(answered > 0 && repelled > 0 && switches > 0);
    if let (Some(early), Some(late)) = (early, late) {
        assert!(late < early + early / 4 + (32 << 20), "memory grew from {early} to {late} bytes");
    }
}
