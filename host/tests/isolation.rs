//! Hostile guests. Each attack ends with the right error, the tenant's next request works, and a neighbour gets the
//! right answers all the time. One guest program for each attack.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use assay::device::{Account, LoadedModel};
use assay::guest::{
    Call, CallMeter, CallTerms, Guest, GuestRuntime, Link, Links, Models, Payer, Reranks, RuntimeOptions, Unlisted,
};
use assay::limits::RequestLimits;
use assay::rerank::{CallError, GuestFault, Request, RerankError, Response};
use common::tenants::{self, Oracle, attack, component, request, seeded};
use futures::future::BoxFuture;
use tempfile::TempDir;

/// Short, so that endless loops end soon.
const MAX_GUEST_CPU: Duration = Duration::from_millis(200);

/// A runtime with a model and a well-behaved guest, for a hostile guest to attack.
struct Host {
    runtime: GuestRuntime,
    model: Arc<LoadedModel>,
    neighbour: Guest,
    oracle: Oracle,
    _dir: TempDir,
}

fn limits() -> RequestLimits {
    RequestLimits { max_guest_cpu: MAX_GUEST_CPU, max_wall: Duration::from_secs(20), ..RequestLimits::default() }
}

impl Host {
    fn new() -> Self {
        let dir = tenants::data_dir();
        let options = RuntimeOptions { max_prepare_cpu: MAX_GUEST_CPU, ..Default::default() };
        let runtime = GuestRuntime::new(&dir.path().join("compiled"), &options).unwrap();
        let model = tenants::model(dir.path());
        let neighbour = runtime.load_prepared("neighbour", &seeded(7), model.info()).unwrap();
        let oracle = Oracle::new(dir.path());
        Self { runtime, model, neighbour, oracle, _dir: dir }
    }

    fn guest(&self, name: &str) -> Guest {
        self.runtime.load_prepared(name, &component(name), self.model.info()).unwrap()
    }

    async fn call(&self, guest: &Guest, request: Request, limits: &RequestLimits) -> Result<Response, RerankError> {
        let models = Models { default: Arc::clone(&self.model), others: Vec::new(), unlisted: Unlisted::Denied };
        let payer = Payer::of(Account { tenant: "hostile".into(), ..Account::default() });
        let request = Arc::new(limits.clone()).admit(request)?;
        let (links, terms) = (Links::default(), CallTerms::default());
        guest.call(Call { request, arrived: Instant::now(), models, links, payer, terms }).await
    }

    /// Runs an attack beside a neighbour's requests, and returns the attacker's error.
    async fn attacked(&mut self, guest: &Guest, request: Request, limits: &RequestLimits) -> RerankError {
        let documents = ["some".to_owned(), "documents".to_owned()];
        let expected = self.oracle.scores(7, &documents);
        let (attacked, _) = tokio::join!(self.call(guest, request, limits), async {
            for _ in 0..20 {
                let request = tenants::request(&["some", "documents"]);
                let answer = self.neighbour.rerank(Arc::clone(&self.model), request, &RequestLimits::default()).await;
                let scores: Vec<f32> = answer.unwrap().hits.iter().map(|hit| hit.score).collect();
                assert_eq!(scores, expected, "the neighbour got another answer");
            }
        });
        attacked.expect_err("the attack was answered")
    }

    /// Runs an attack of a guest that otherwise answers, and checks that the next request is answered.
    async fn survives(&mut self, name: &str, request: Request) -> RerankError {
        let guest = self.guest(name);
        let error = self.attacked(&guest, request, &limits()).await;
        let next = self.call(&guest, tenants::request(&["one"]), &limits()).await;
        assert!(next.is_ok(), "{name}: the next request failed: {next:?}");
        error
    }
}

/// Answers calls, and counts them.
#[derive(Debug, Default)]
struct Called(AtomicUsize);

impl Reranks for Called {
    fn ask(self: Arc<Self>, _request: Request, _terms: CallTerms) -> BoxFuture<'static, Result<Response, CallError>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::ready(Ok(Response::default())))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepare_may_call_no_tenant() {
    let host = Host::new();
    let called = Arc::<Called>::default();
    let answers: Arc<dyn Reranks> = Arc::<Called>::clone(&called);
    let call = |guest: Guest| {
        let models = Models::only(Arc::clone(&host.model));
        let links: Links = [(None, Link::new("callee", Arc::clone(&answers)))].into_iter().collect();
        let request = Arc::new(limits()).admit(request(&[])).unwrap();
        let (payer, terms) = (Payer::default(), CallTerms::default());
        async move { guest.call(Call { request, arrived: Instant::now(), models, links, payer, terms }).await }
    };
    // Prepared in the instance of its request, and once for all; it traps unless it is refused.
    for guest in [host.runtime.load("calls", &component("calls-in-prepare")).unwrap(), host.guest("calls-in-prepare")] {
        assert_eq!(guest.labels(), [None]);
        let answered = call(guest).await;
        assert!(answered.is_ok(), "{answered:?}");
    }
    assert_eq!(called.0.load(Ordering::Relaxed), 0);
    assert!(call(host.guest("relays")).await.is_ok());
    assert_eq!(called.0.load(Ordering::Relaxed), 1);
    // Without a link, a call is refused.
    let unlinked = host.call(&host.guest("relays"), request(&[]), &limits()).await.unwrap_err().to_string();
    assert!(unlinked.contains("no tenant is behind the import without a label"), "{unlinked}");
}

fn fault(error: RerankError) -> GuestFault {
    match error {
        RerankError::Guest(fault) => fault,
        other => panic!("not the guest's fault: {other}"),
    }
}

fn trap(error: RerankError) -> String {
    match fault(error) {
        GuestFault::Trapped(message) => message,
        other => panic!("not a trap: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_in_rerank_ends_with_its_processor_time() {
    let mut host = Host::new();
    let spins = host.guest("spins");
    let error = host.attacked(&spins, request(&[]), &limits()).await;
    assert_eq!(fault(error), GuestFault::CpuTime { limit: MAX_GUEST_CPU });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_in_rerank_ends_with_its_wall_clock_time() {
    let mut host = Host::new();
    let spins = host.guest("spins");
    let limits = RequestLimits { max_wall: Duration::from_millis(100), ..RequestLimits::default() };
    let error = host.attacked(&spins, request(&[]), &limits).await;
    assert_eq!(error, RerankError::DeadlineExceeded { limit: Duration::from_millis(100) });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_at_instantiation_ends_with_its_processor_time() {
    let mut host = Host::new();
    // `load`, because `load_prepared` would fail already.
    let guest = host.runtime.load("spins-at-start", &component("spins-at-start")).unwrap();
    let error = host.attacked(&guest, request(&[]), &limits()).await;
    assert_eq!(fault(error), GuestFault::CpuTime { limit: MAX_GUEST_CPU });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_in_prepare_ends_with_its_processor_time() {
    let mut host = Host::new();
    let guest = host.runtime.load("spins-in-prepare", &component("spins-in-prepare")).unwrap();
    let error = host.attacked(&guest, request(&[]), &limits()).await;
    assert_eq!(fault(error), GuestFault::CpuTime { limit: MAX_GUEST_CPU });
}

#[test]
fn a_failing_prepare_fails_the_snapshot() {
    let host = Host::new();
    let load = |name: &str| host.runtime.load_prepared(name, &component(name), host.model.info());
    let message = load("holds").unwrap_err().to_string();
    assert!(message.contains("left 1 models open"), "{message}");
    let message = load("spins-in-prepare").unwrap_err().to_string();
    assert!(message.contains("computed for longer than its limit"), "{message}");
    let message = load("spins-at-start").unwrap_err().to_string();
    assert!(message.contains("computed for longer than its limit"), "{message}");
    let message = load("no-export").unwrap_err().to_string();
    assert!(message.contains("is not a guest of assay:rerank/tenant"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_limited() {
    let mut host = Host::new();
    let guest = host.guest("hoards");
    let limits = RequestLimits { max_memory_bytes: 128 << 20, max_guest_cpu: Duration::from_secs(10), ..limits() };
    let error = host.attacked(&guest, request(&[]), &limits).await;
    assert!(matches!(fault(error), GuestFault::Memory { limit_bytes, .. } if limit_bytes == 128 << 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_are_limited() {
    let mut host = Host::new();
    let guest = host.guest("big-table");
    let error = host.attacked(&guest, request(&[]), &limits()).await;
    assert!(matches!(fault(error), GuestFault::TableElements { requested: 25_000.., allowed: 20_000 }));
    let allowed = RequestLimits { max_table_elements: 30_000, ..limits() };
    assert!(host.call(&guest, request(&[]), &allowed).await.is_ok(), "an operator can allow this table");
}

/// A component with so many core instances more: each of a module that has nothing in it.
fn with_core_instances(mut component: Vec<u8>, more: u8) -> Vec<u8> {
    const CORE_MODULE: u8 = 1;
    const CORE_INSTANCES: u8 = 2;
    // After the preamble come sections: a kind, a size in LEB128, and as many bytes.
    let (mut at, mut modules) = (8, 0);
    while at < component.len() {
        modules += u8::from(component[at] == CORE_MODULE);
        let (mut size, mut shift) = (0, 0);
        loop {
            at += 1;
            size |= usize::from(component[at] & 0x7f) << shift;
            shift += 7;
            if component[at] & 0x80 == 0 {
                break;
            }
        }
        at += 1 + size;
    }
    let module = *b"\0asm\x01\0\0\0";
    component.extend([CORE_MODULE, module.len() as u8]);
    component.extend(module);
    component.extend([CORE_INSTANCES, 1 + 3 * more, more]);
    component.extend([0, modules, 0].repeat(more.into()));
    component
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn core_instances_are_limited() {
    let mut host = Host::new();
    // As many as a Python guest with NumPy has.
    let wasm = with_core_instances(component("big-table"), 31);
    let guest = host.runtime.load_prepared("many", &wasm, host.model.info()).unwrap();
    let limits = RequestLimits { max_table_elements: 30_000, ..limits() };
    let error = host.attacked(&guest, request(&[]), &limits).await;
    assert_eq!(fault(error), GuestFault::CoreInstances { allowed: 16 });
    let allowed = RequestLimits { max_core_instances: 40, ..limits };
    let answered = host.call(&guest, request(&[]), &allowed).await;
    assert!(answered.is_ok(), "an operator can allow these: {answered:?}");
}

/// A request whose query sets off one of the attacks of the guest `trigger`.
fn trigger(attack: &str) -> Request {
    Request { query: format!("ATTACK {attack}"), ..request(&["a document"]) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_can_neither_wait_nor_measure_time() {
    let host = Host::new();
    let guest = host.guest("trigger");
    // Fifteen seconds are over at once.
    let limits = RequestLimits { max_wall: Duration::from_secs(10), ..RequestLimits::default() };
    assert!(host.call(&guest, trigger("sleep"), &limits).await.is_ok());
    for _ in 0..3 {
        let seen = host.call(&guest, trigger("clock"), &limits).await;
        assert_eq!(seen, Err(GuestFault::Reported("0 ms passed".to_owned()).into()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_instructions_and_long_host_calls_count_for_what_they_take() {
    let host = Host::new();
    for attack in ["spin", "fill"] {
        let guest = host.guest("trigger");
        let meter = Arc::<CallMeter>::default();
        let models = Models::only(Arc::clone(&host.model));
        let admitted = Arc::new(limits()).admit(trigger(attack)).unwrap();
        let terms = CallTerms { meter: Arc::clone(&meter), ..CallTerms::default() };
        let (request, arrived, links, payer) = (admitted, Instant::now(), Links::default(), Payer::default());
        let call = Call { request, arrived, models, links, payer, terms };
        let error = guest.call(call).await.unwrap_err();
        assert_eq!(fault(error), GuestFault::CpuTime { limit: MAX_GUEST_CPU }, "{attack}");
        // A fill of 200 MiB may be half done when the time is up.
        let spent = meter.cost().cpu;
        assert!(spent >= MAX_GUEST_CPU && spent < MAX_GUEST_CPU + Duration::from_secs(1), "{attack}: {spent:?}");
    }
    // A list of 250,000 pollables is more than a store lends.
    let polled = host.call(&host.guest("trigger"), trigger("poll"), &limits()).await;
    assert!(trap(polled.unwrap_err()).contains("handle limit"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wasi_grants_nothing() {
    let RerankError::Guest(GuestFault::Reported(found)) = Host::new().survives("looks-around", attack("")).await else {
        panic!("another error")
    };
    assert_eq!(found, "0 variables, 0 arguments, 0 directories, 0 s, 0 ns, socket: access-denied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stack_overflow_is_a_trap() {
    let message = trap(Host::new().survives("recurses", attack("")).await);
    assert!(message.contains("call stack exhausted"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_host_calls_ends_with_the_guests_processor_time() {
    let error = Host::new().survives("floods", attack("")).await;
    assert_eq!(fault(error), GuestFault::CpuTime { limit: MAX_GUEST_CPU });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_a_host_call_are_limited() {
    let error = Host::new().survives("huge-list", attack("")).await;
    assert_eq!(fault(error), GuestFault::CallBytes { limit_bytes: limits().max_call_bytes as u64 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_rows_are_invalid_input() {
    let mut host = Host::new();
    let guest = host.guest("bad-rows");
    for kind in [
        "no-offsets",
        "late-start",
        "not-monotonic",
        "end-past-ids",
        "end-before-ids",
        "huge-offset",
        "empty-row",
        "too-long",
        "unknown-id",
        "segment-past-row",
        "segments-missing",
        "segments-extra",
    ] {
        let settings = vec![("rows".to_owned(), kind.to_owned())];
        let error = host.attacked(&guest, Request { settings, ..request(&["one", "two"]) }, &limits()).await;
        assert!(matches!(error, RerankError::InvalidInput(_)), "{kind}: {error}");
    }
    assert_eq!(host.call(&guest, request(&["one", "two"]), &limits()).await.unwrap().hits.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_of_another_tenant_looks_like_one_that_does_not_exist() {
    let mut host = Host::new();
    for model in ["tiny/two", "no/such"] {
        let error = host.survives("opens-others", attack(model)).await;
        assert_eq!(error, RerankError::AccessDenied(model.to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_models_are_limited() {
    let error = Host::new().survives("leaks", attack("")).await;
    assert!(matches!(error, RerankError::TooLarge { limit, allowed: 64, .. } if limit == "max_open_models"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trap_after_a_host_call_fails_only_its_own_request() {
    let message = trap(Host::new().survives("half-way", attack("")).await);
    assert!(message.contains("unreachable"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_answer_is_refused() {
    let mut host = Host::new();
    for (kind, expected) in [
        ("wrong-index", "a hit for document 2 of 2"),
        ("twice", "two hits for document 0"),
        ("nan", "has the score NaN"),
        ("infinite", "has the score inf"),
        ("million", "1000000 hits, but at most 2"),
    ] {
        let error = host.survives("nonsense", attack(kind)).await;
        let GuestFault::BadAnswer(message) = fault(error) else { panic!("{kind}: another fault") };
        assert!(message.contains(expected), "{kind}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_serves_one_request_unless_its_tenant_allows_more() {
    let host = Host::new();
    let guest = host.guest("remembers");
    assert!(guest.is_snapshotted());
    for _ in 0..3 {
        let usage = host.call(&guest, request(&[]), &limits()).await.unwrap().usage;
        assert_eq!((usage.tokens, usage.rows), (1, 1), "served, prepared");
    }
    let reuse = RequestLimits { max_requests_per_instance: 2, ..limits() };
    let mut served = Vec::new();
    for _ in 0..4 {
        served.push(host.call(&guest, request(&[]), &reuse).await.unwrap().usage.tokens);
    }
    assert_eq!(served, [1, 2, 1, 2]);
    // An idle instance is dropped, not used, after the limit was lowered.
    host.call(&guest, request(&[]), &reuse).await.unwrap();
    assert_eq!(guest.idle_instances(), 1);
    assert_eq!(host.call(&guest, request(&[]), &limits()).await.unwrap().usage.tokens, 1);
    assert_eq!(guest.idle_instances(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_without_a_snapshot_is_prepared_once_in_every_instance() {
    let host = Host::new();
    let guest = host.runtime.load("remembers", &component("remembers")).unwrap();
    for _ in 0..5 {
        let usage = host.call(&guest, request(&[]), &limits()).await.unwrap().usage;
        assert_eq!((usage.tokens, usage.rows), (1, 1), "served, prepared");
        // The next request finds an instance that was prepared in the background.
        while guest.idle_instances() < 2 {
            tokio::task::yield_now().await;
        }
    }
}

/// The snapshot tool reads the memory in one call, which has another limit than a request's calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_may_be_larger_than_what_a_call_may_copy() {
    let host = Host::new();
    let limits = RequestLimits { max_guest_cpu: Duration::from_secs(10), ..limits() };
    assert!(limits.max_call_bytes < 24 << 20);
    let guest = host.guest("large-heap");
    assert_eq!((guest.is_snapshotted(), guest.no_snapshot()), (true, None));
    assert_eq!(host.call(&guest, request(&[]), &limits).await.unwrap().usage.rows, 24, "MiB filled by prepare");
}

#[test]
fn a_guest_without_a_snapshot_says_why() {
    let dir = tenants::data_dir();
    let model = tenants::model(dir.path());
    let compiled = dir.path().join("compiled");
    let runtime = GuestRuntime::new(&compiled, &RuntimeOptions::default()).unwrap();
    let load = || runtime.load_prepared("remembers", &component("remembers"), model.info()).unwrap();
    assert_eq!(load().no_snapshot(), None);
    // As the runtime records it.
    let files = || std::fs::read_dir(&compiled).unwrap().map(|entry| entry.unwrap().path());
    let is_prepared = |path: &Path| path.file_stem().unwrap().to_string_lossy().matches('-').count() == 2;
    let prepared = files().find(|path| is_prepared(path)).unwrap();
    std::fs::rename(&prepared, prepared.with_extension("no-snapshot")).unwrap();
    std::fs::write(prepared.with_extension("no-snapshot"), "it keeps a secret").unwrap();
    let guest = load();
    assert_eq!((guest.is_snapshotted(), guest.no_snapshot()), (false, Some("it keeps a secret")));
    // A cause that an earlier version recorded, which may have passed, counts no more.
    std::fs::rename(prepared.with_extension("no-snapshot"), prepared.with_extension("impossible")).unwrap();
    assert!(load().is_snapshotted());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_and_tokens_of_a_request_are_limited() {
    let host = Host::new();
    let guest = host.guest("seeded");
    let documents = ["four"; 4];
    let call = |limits: RequestLimits| {
        let (host, guest) = (&host, &guest);
        async move { host.call(guest, request(&documents), &limits).await }
    };
    assert!(call(RequestLimits { max_request_rows: 4, max_request_tokens: 20, ..limits() }).await.is_ok());
    let error = call(RequestLimits { max_request_rows: 3, ..limits() }).await.unwrap_err();
    let limit = "max_request_rows".to_owned();
    assert_eq!(error, RerankError::TooLarge { limit, requested: 4, allowed: 3 });
    let error = call(RequestLimits { max_request_tokens: 19, ..limits() }).await.unwrap_err();
    let limit = "max_request_tokens".to_owned();
    assert_eq!(error, RerankError::TooLarge { limit, requested: 20, allowed: 19 });
}
