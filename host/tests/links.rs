//! Links between tenants: what a commit checks, and what becomes of calls through them, in a process of its own.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use assay::rerank::{GuestFault, Request, RerankError, Response};
use assay::tenant::admin::{Command, Description, Reply, Served};
use assay::tenant::{LiveTenant, Platform, TenantLimits};
use common::service::until;
use common::tenants::{self, Oracle, admin, callers, component, deploy, deploy_linked, name, refusal, request, seeded};
use common::tenants::{serving, try_deploy};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// What a call that must end soon may take, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// Tenants in this process, which can be ended and started again.
struct House {
    platform: Option<Arc<Platform>>,
    runtime: Runtime,
    dir: tempfile::TempDir,
}

impl House {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut house = Self { platform: None, runtime, dir: tenants::data_dir() };
        assert_eq!(house.restart(), Vec::<String>::new());
        house
    }

    /// Tells which tenants are not served.
    fn restart(&mut self) -> Vec<String> {
        self.platform = None;
        let platform = tenants::platform(self.dir.path(), self.runtime.handle());
        let failed = platform.activate_all().unwrap();
        self.platform = Some(Arc::new(platform));
        failed.into_iter().map(|(name, error)| format!("{name}: {error}")).collect()
    }

    fn platform(&self) -> &Platform {
        self.platform.as_ref().unwrap()
    }

    fn live(&self, tenant: &str) -> Arc<LiveTenant> {
        self.platform().tenant(&name(tenant)).unwrap()
    }

    /// The guest `seeded`, which these tenants may call.
    fn callee(&self, tenant: &str, by: &[&str]) {
        serving(deploy(self.platform(), tenant, &seeded(seed(tenant)), Some(callers(by))));
    }

    /// The guest `relays`, which asks another tenant.
    fn relay(&self, tenant: &str, to: &str, limits: TenantLimits) -> Reply {
        deploy_linked(self.platform(), tenant, &component("relays"), Some(limits), &[("", to)])
    }

    fn ask(&self, tenant: &str, request: Request) -> Result<Response, RerankError> {
        let live = self.live(tenant);
        let answer = async { tokio::time::timeout(SOON, live.rerank(request)).await };
        self.runtime.block_on(answer).expect("the request ends by itself")
    }

    /// Asks in the background.
    fn begin(&self, tenant: &str, request: Request) -> JoinHandle<Result<Response, RerankError>> {
        let live = self.live(tenant);
        self.runtime.spawn(async move { live.rerank(request).await })
    }

    fn scores(&self, tenant: &str) -> Vec<f32> {
        self.ask(tenant, request(&DOCUMENTS)).unwrap().hits.iter().map(|hit| hit.score).collect()
    }

    /// What the guest of a tenant must answer that was made by [`callee`](Self::callee).
    fn expected(&self, callee: &str) -> Vec<f32> {
        Oracle::new(self.dir.path()).scores(seed(callee), &DOCUMENTS.map(str::to_owned))
    }

    fn show(&self, tenant: &str) -> Description {
        match admin(self.platform(), Command::Show { tenant: name(tenant) }) {
            Reply::Tenant(description) => *description,
            other => panic!("{other:?}"),
        }
    }

    fn remove(&self, tenant: &str, force: bool) -> Reply {
        admin(self.platform(), Command::Remove { tenant: name(tenant), drain: false, force })
    }

    fn set_limits(&self, tenant: &str, limits: TenantLimits) -> Served {
        match admin(self.platform(), Command::SetLimits { tenant: name(tenant), limits: Box::new(limits) }) {
            Reply::Serving(served) => *served,
            other => panic!("{other:?}"),
        }
    }

    fn rollback(&self, tenant: &str) -> Reply {
        admin(self.platform(), Command::Rollback { tenant: name(tenant), to: None })
    }

    /// Waits until no guest holds anything: what a call took, it gave back.
    fn is_empty(&self) {
        until("all places and memory to be given back", || {
            let guests = self.platform().snapshot().guests;
            (guests.instances, guests.memory_bytes) == (0, 0)
        });
        for reading in self.platform().snapshot().tenants {
            assert_eq!((reading.usage.running, reading.usage.waiting), (0, 0), "{}", reading.name);
        }
    }
}

const DOCUMENTS: [&str; 2] = ["some", "documents"];

/// Tokens of a row of `seeded` for each of [`DOCUMENTS`]: one for each byte, and its seed.
const TOKENS: u64 = 5 + 10;

fn seed(tenant: &str) -> u32 {
    tenant.bytes().map(u32::from).sum()
}

/// A request that has a guest `relays` do something.
fn relay(kind: &str) -> Request {
    Request { settings: vec![("relay".to_owned(), kind.to_owned())], ..request(&DOCUMENTS) }
}

/// A request that has a guest `trigger` spin.
fn spin() -> Request {
    Request { query: "ATTACK spin".to_owned(), ..request(&DOCUMENTS) }
}

#[test]
fn a_guest_is_answered_by_the_tenant_behind_its_import() {
    let mut house = House::new();
    house.callee("back", &["front"]);
    let version = serving(house.relay("front", "back", TenantLimits::default()));
    assert_eq!((version.links.len(), version.links[0].tenant.as_str()), (1, "back"));
    assert_eq!(house.scores("front"), house.expected("back"));
    // The callee is charged, and both count a request; the deployment's own is one of the callee's.
    let (front, back) = (house.live("front").usage(), house.live("back").usage());
    assert_eq!((front.answered, front.tokens, back.answered), (1, 0, 2));
    assert!(back.tokens > TOKENS);
    let shown = house.show("front");
    assert_eq!((shown.links.len(), &shown.links[0].trouble), (1, &None));
    assert_eq!(house.show("back").called_by, [name("front")]);

    // A new version of the callee answers from then on, and what a version links to survives a restart.
    serving(deploy(house.platform(), "back", &seeded(77), None));
    let expected = Oracle::new(house.dir.path()).scores(77, &DOCUMENTS.map(str::to_owned));
    assert_eq!(house.scores("front"), expected);
    assert_eq!(house.restart(), Vec::<String>::new());
    assert_eq!(house.scores("front"), expected);
}

#[test]
fn a_commit_checks_that_every_import_leads_to_a_tenant_that_allows_it() {
    let house = House::new();
    house.callee("back", &["front", "other"]);
    let refused = |links: &[(&str, &str)], parts: &[&str]| {
        let message = refusal(deploy_linked(house.platform(), "front", &component("relays"), None, links));
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        assert!(house.platform().tenant(&name("front")).is_none());
    };
    refused(&[], &["imports a reranker without a label", "--link TENANT"]);
    refused(&[("", "nobody")], &["link nobody", "there is no tenant nobody"]);
    refused(&[("", "back"), ("news", "back")], &["link news=back", "does not import a reranker news"]);
    refused(&[("", "front")], &["cannot call itself"]);
    let message = refusal(house.relay("stranger", "back", TenantLimits::default()));
    assert!(message.contains("name stranger among `callers` in back's limits"), "{message}");
    // A component without such an import has no link.
    let message = refusal(deploy_linked(house.platform(), "other", &seeded(1), None, &[("", "back")]));
    assert!(message.contains("imports no reranker"), "{message}");
    serving(deploy(house.platform(), "other", &seeded(1), None));
    // Nothing was called.
    assert_eq!(house.live("back").usage().answered, 0);
}

#[test]
fn a_version_keeps_the_links_that_it_does_not_change() {
    let house = House::new();
    house.callee("back", &["front"]);
    house.callee("spare", &["front"]);
    serving(house.relay("front", "back", TenantLimits::default()));
    let limits = TenantLimits { max_documents: 3, ..TenantLimits::default() };
    assert_eq!(house.set_limits("front", limits).deployment.links[0].tenant, name("back"));
    // The same component again, without a word about its links.
    serving(try_deploy(house.platform(), "front", &component("relays"), None).unwrap());
    assert_eq!(house.scores("front"), house.expected("back"));
    serving(house.relay("front", "spare", TenantLimits::default()));
    assert_eq!(house.scores("front"), house.expected("spare"));
    serving(house.rollback("front"));
    assert_eq!(house.scores("front"), house.expected("back"));
    // One that imports nothing has none.
    assert_eq!(serving(deploy(house.platform(), "front", &seeded(1), None)).links, []);
}

#[test]
fn no_circle_and_no_more_links_in_a_row_than_max_chain_depth_are_committed() {
    let house = House::new();
    house.callee("e", &["d"]);
    for (tenant, to, by) in [("d", "e", "c"), ("c", "d", "b"), ("b", "c", "a")] {
        serving(house.relay(tenant, to, callers(&[by, "e"])));
    }
    let deep = refusal(house.relay("a", "b", TenantLimits::default()));
    assert!(deep.contains("max_chain_depth is 3, and a → b → c → d → e has 4 links"), "{deep}");
    // Seen from its other end too.
    house.callee("f", &["e"]);
    let deep = refusal(house.relay("e", "f", callers(&["d"])));
    assert!(deep.contains("b → c → d → e → f has 4 links"), "{deep}");
    let circle = refusal(house.relay("e", "c", callers(&["d"])));
    assert!(circle.contains("make a circle") && circle.contains("e → c → d → e"), "{circle}");
    // All of the allowed depth answers.
    assert_eq!(house.scores("b"), house.expected("e"));
    house.is_empty();
}

#[test]
fn a_tenant_that_others_call_is_removed_by_force_only_and_its_callers_are_told() {
    let mut house = House::new();
    house.callee("back", &["front"]);
    serving(deploy(house.platform(), "front", &seeded(1), None));
    serving(house.relay("front", "back", TenantLimits::default()));
    let message = refusal(house.remove("back", false));
    assert!(message.contains("back is called by front") && message.contains("--force"), "{message}");
    assert_eq!(house.scores("front"), house.expected("back"));
    assert_eq!(house.remove("back", true), Reply::Removed { callers: vec![name("front")] });
    let is_told = |house: &House| {
        let RerankError::Guest(GuestFault::Callee(message)) = house.ask("front", request(&DOCUMENTS)).unwrap_err()
        else {
            panic!("another error")
        };
        assert!(message.contains("tenant back: there is no such tenant"), "{message}");
        let shown = house.show("front");
        assert_eq!(shown.links[0].trouble.as_deref(), Some("there is no such tenant"));
    };
    is_told(&house);
    // Neither its caller nor anything else is stopped by it.
    house.callee("other", &[]);
    assert_eq!(house.restart(), Vec::<String>::new());
    is_told(&house);
    assert_eq!(house.scores("other"), house.expected("other"));
    house.set_limits("front", TenantLimits { weight: 7, ..TenantLimits::default() });
    // Going back to a version with the link is refused until the tenant is there again.
    serving(deploy(house.platform(), "front", &seeded(1), None));
    let message = refusal(house.rollback("front"));
    assert!(message.contains("there is no tenant back"), "{message}");
    house.callee("back", &["front"]);
    serving(house.rollback("front"));
    assert_eq!(house.scores("front"), house.expected("back"));
}

#[test]
fn a_tenant_that_is_no_longer_among_the_callers_is_refused_and_the_operator_is_told() {
    let house = House::new();
    house.callee("back", &["front"]);
    serving(house.relay("front", "back", TenantLimits::default()));
    let served = house.set_limits("back", TenantLimits::default());
    assert_eq!(served.refused_callers, [name("front")]);
    let message = house.ask("front", request(&DOCUMENTS)).unwrap_err().to_string();
    assert!(message.contains("tenant back: it may not be called by front"), "{message}");
    assert!(house.show("front").links[0].trouble.as_ref().unwrap().contains("does not name front"));
    assert_eq!(house.set_limits("back", callers(&["front"])).refused_callers, []);
    assert_eq!(house.scores("front"), house.expected("back"));
}

#[test]
fn tokens_of_callees_count_against_each_request_above_them() {
    let house = House::new();
    house.callee("back", &["middle"]);
    serving(house.relay("middle", "back", callers(&["front"])));
    // Room for the request that a deployment is tried with, and for some calls.
    let allowed = 70;
    serving(house.relay("front", "middle", TenantLimits { max_request_tokens: allowed, ..TenantLimits::default() }));
    assert_eq!(house.scores("front"), house.expected("back"));
    let calls = allowed / TOKENS;
    let too_large = |requested| RerankError::TooLarge { limit: "max_request_tokens".to_owned(), requested, allowed };
    assert_eq!(house.ask("front", relay("again")).unwrap_err(), too_large((calls + 1) * TOKENS));
    let next = Request { settings: vec![("next.relay".to_owned(), "again".to_owned())], ..request(&DOCUMENTS) };
    assert_eq!(house.ask("front", next).unwrap_err(), too_large((calls + 1) * TOKENS));
    // A limit of the callee's own is told as such.
    house.set_limits("back", TenantLimits { max_documents: 1, ..callers(&["middle"]) });
    let message = house.ask("front", request(&DOCUMENTS)).unwrap_err().to_string();
    assert!(message.contains("max_documents of tenant back") && message.contains("limited to 1"), "{message}");
    house.is_empty();
}

#[test]
fn processor_time_of_callees_counts_against_the_callers_request() {
    let house = House::new();
    serving(deploy(house.platform(), "back", &component("trigger"), Some(callers(&["front"]))));
    serving(house.relay("front", "back", TenantLimits { max_guest_cpu_ms: 200, ..TenantLimits::default() }));
    let began = Instant::now();
    let error = house.ask("front", spin()).unwrap_err();
    assert_eq!(error.limit(), Some("max_guest_cpu_ms"), "{error}");
    assert!(error.to_string().contains("limited to 200") || error.to_string().contains("limit of 200"), "{error}");
    assert!(began.elapsed() < SOON);
    // The callee's guest did nothing that its own limits forbid.
    let usage = house.live("back").usage();
    assert_eq!((usage.guest_faults, usage.refused), (0, 1));
    assert!(usage.guest_cpu_ms >= 150, "{usage:?}");
    house.is_empty();
}

#[test]
fn a_callees_fault_is_a_value_that_names_the_tenant_and_not_its_words() {
    let house = House::new();
    serving(deploy(house.platform(), "traps", &component("half-way"), Some(callers(&["front"]))));
    serving(house.relay("front", "traps", TenantLimits::default()));
    let attack = Request { settings: vec![("attack".to_owned(), "now".to_owned())], ..request(&DOCUMENTS) };
    let expected = GuestFault::Callee("tenant traps: its guest failed (trap)".to_owned());
    assert_eq!(house.ask("front", attack), Err(expected.into()));
    assert_eq!(house.live("front").usage().guest_faults, 1);

    let limits = TenantLimits { max_guest_cpu_ms: 100, ..callers(&["front"]) };
    serving(deploy(house.platform(), "spins", &component("trigger"), Some(limits)));
    serving(house.relay("front", "spins", TenantLimits::default()));
    let expected = GuestFault::Callee("tenant spins: its guest failed (cpu-time)".to_owned());
    assert_eq!(house.ask("front", spin()), Err(expected.into()));

    // A caller's own fault after its call is its own.
    house.callee("back", &["front"]);
    serving(house.relay("front", "back", TenantLimits { max_guest_cpu_ms: 300, ..TenantLimits::default() }));
    assert!(matches!(house.ask("front", relay("trap")), Err(RerankError::Guest(GuestFault::Trapped(_)))));
    assert!(matches!(house.ask("front", relay("spin")), Err(RerankError::Guest(GuestFault::CpuTime { .. }))));
    assert_eq!(house.scores("front"), house.expected("back"));
    house.is_empty();
}

#[test]
fn a_callee_that_takes_too_long_is_told_by_its_name() {
    let house = House::new();
    let limits = TenantLimits { max_wall_ms: 50, ..callers(&["front"]) };
    serving(deploy(house.platform(), "back", &component("trigger"), Some(limits)));
    serving(house.relay("front", "back", TenantLimits::default()));
    let late = house.ask("front", spin());
    assert_eq!(late, Err(RerankError::Late { callee: Some("back".into()) }));
    assert!(house.ask("front", request(&DOCUMENTS)).is_ok());
    house.is_empty();
}

#[test]
fn a_full_callee_says_when_to_try_again() {
    let house = House::new();
    let limits = TenantLimits { max_concurrent_requests: 1, max_waiting_requests: 0, ..callers(&["front"]) };
    serving(deploy(house.platform(), "back", &component("trigger"), Some(limits)));
    serving(house.relay("front", "back", TenantLimits::default()));
    let busy = house.begin("front", spin());
    until("the callee to be full", || house.live("back").usage().running == 1);
    // Calls and requests from outside keep each other out of nothing.
    assert!(house.ask("back", request(&DOCUMENTS)).is_ok());
    let full = house.ask("front", request(&DOCUMENTS));
    let Err(error @ RerankError::Deferred { is_overloaded: true, .. }) = full else { panic!("{full:?}") };
    let said = error.to_string();
    assert!(said.starts_with("tenant back, which the guest calls (its limit max_concurrent_requests), is"), "{said}");
    assert!(said.ends_with(" ms"), "{said}");
    busy.abort();
    until("the callee to have room", || house.live("back").usage().running == 0);
    assert!(house.ask("front", request(&DOCUMENTS)).is_ok());
    house.is_empty();
}

#[test]
fn a_chain_ends_at_its_callers_deadline_and_with_its_caller() {
    let house = House::new();
    let patient = TenantLimits { max_guest_cpu_ms: 60_000, ..TenantLimits::default() };
    let spins = TenantLimits { callers: vec![name("middle")], ..patient.clone() };
    serving(deploy(house.platform(), "back", &component("trigger"), Some(spins)));
    serving(house.relay("middle", "back", TenantLimits { callers: vec![name("front")], ..patient.clone() }));
    let limit = Duration::from_millis(300);
    serving(house.relay("front", "middle", TenantLimits { max_wall_ms: 300, ..patient.clone() }));
    let began = Instant::now();
    assert_eq!(house.ask("front", spin()), Err(RerankError::DeadlineExceeded { limit }));
    assert!(began.elapsed() < SOON / 2, "{:?}", began.elapsed());
    house.is_empty();

    house.set_limits("front", patient);
    let gone = house.begin("front", spin());
    until("the end of the chain to run", || house.live("back").usage().running == 1);
    gone.abort();
    house.is_empty();
    for tenant in ["middle", "back"] {
        let usage = house.live(tenant).usage();
        assert_eq!(usage.cancelled + usage.late, 2, "{tenant}: {usage:?}");
    }
}

#[test]
fn a_callee_that_is_removed_in_the_middle_of_a_call_answers_it_and_no_other() {
    let house = House::new();
    let limits = TenantLimits { max_guest_cpu_ms: 1_000, ..callers(&["front"]) };
    serving(deploy(house.platform(), "back", &component("trigger"), Some(limits)));
    serving(house.relay("front", "back", TenantLimits::default()));
    let asked = house.begin("front", spin());
    until("the call to run", || house.live("back").usage().running == 1);
    assert_eq!(house.remove("back", true), Reply::Removed { callers: vec![name("front")] });
    let ended = house.runtime.block_on(asked).unwrap();
    assert_eq!(ended, Err(GuestFault::Callee("tenant back: its guest failed (cpu-time)".to_owned()).into()));
    let next = house.ask("front", request(&DOCUMENTS)).unwrap_err().to_string();
    assert!(next.contains("tenant back: there is no such tenant"), "{next}");
    house.is_empty();
}

#[test]
fn many_requests_of_chains_at_once_all_end() {
    let house = House::new();
    house.callee("back", &["middle", "front"]);
    serving(house.relay("middle", "back", callers(&["front"])));
    let many = TenantLimits { max_concurrent_requests: 200, max_waiting_requests: 1_000, ..TenantLimits::default() };
    serving(house.relay("front", "middle", many.clone()));
    house.set_limits("middle", TenantLimits { callers: vec![name("front")], ..many.clone() });
    house.set_limits("back", TenantLimits { callers: vec![name("middle")], ..many });
    let expected = house.expected("back");
    // More than there are places of any depth, at each end of the chain.
    let begin = |number: usize| house.begin(["front", "middle", "back"][number % 3], request(&DOCUMENTS));
    let asked: Vec<_> = (0..300).map(begin).collect();
    for answer in asked {
        let answer = house.runtime.block_on(async { tokio::time::timeout(3 * SOON, answer).await });
        let answer = answer.expect("every request ends").unwrap().unwrap();
        assert_eq!(answer.hits.iter().map(|hit| hit.score).collect::<Vec<_>>(), expected);
    }
    house.is_empty();
}
