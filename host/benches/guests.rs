//! Question: what does a request in an instance of its own cost, beside the same Rust code called natively?
//!
//! Baseline: the standard guest's own code (`assay_guest::PairEncoder`, `rank`) in this process, its tokenizer loaded
//! before, its rows sent to the same model: so that both find the processor's caches as a model leaves them. Excluded: that
//! model, which is one small layer with the real vocabulary; its time on the device and in the queue is taken off.
//! Included: instantiation, copies both ways, tokenising, ranking; not giving an instance's memory back, which no answer
//! waits for. The crate `tokenizers`, whose ids these are, called natively for the same pairs, shows what the code itself is
//! worth. All run as a service runs them, in a task of a runtime with a worker for each core. Medians and quartiles of
//! interleaved runs, so that all see the same machine; each round has another request than the one before, so that no branch
//! predictor has learnt its text.
//!
//! At last: what a call of another tenant through a link adds to that tenant's own time. The caller's guest passes its
//! request on and the answer back. Its own time, in which it answers without a call, is taken off, and so is the
//! callee's for the same request, in which it answers without a model. Included: copies of the request and of the answer,
//! the callee's admission and instance, and the way there and back between threads.
//!
//! `cargo xtask build && cargo bench --workspace --bench guests -- REQUESTS.jsonl --tokenizer TOKENIZER.json`, with
//! requests as `assay rerank --requests` takes them; needs the default model (`assay model pull`), for its tokenizer.
//! Each `--tokenizer` is measured after that one. Without a file of requests, documents are made of the demo's passages,
//! which are few: their text is learnt soon.

#[path = "../tests/common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use assay::device::{Account, Device, DeviceOptions, LoadedModel};
use assay::guest::{Call, CallMeter, CallTerms, Guest, GuestRuntime, Links, Models, Payer, RuntimeOptions};
use assay::json::RequestLine;
use assay::limits::RequestLimits;
use assay::model::{ModelStore, Source};
use assay::rerank::Request;
use assay_guest::{Cut, PairEncoder, Rows};
use assay_kernels::PackedBatch;
use common::tenants::{self, component, demo_model, passages_request};
use common::tiny::{Model, Shape};
use tokenizers::{Tokenizer, TruncationParams};

const TOKENIZER_FILE: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str =
    r#"{"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "token_type_ids"]}"#;
const DOCUMENTS: usize = 32;
/// So that a row is nearly as long as the baseline's.
const PASSAGES_PER_DOCUMENT: usize = 2;
const MAX_TOKENS: usize = 512;
const ROUNDS: usize = 200;
/// Of a usual passage.
const DOCUMENT_BYTES: usize = 400;
/// Of calls through a link, which take little.
const LINK_ROUNDS: usize = 1_000;
/// Of what takes ten times as long, or a thousand times.
const SLOW_ROUNDS: usize = 10;

fn main() {
    let Some(stored) = demo_model() else { return };
    let Arguments { requests, tokenizers } = arguments();
    let requests = requests.map_or_else(demo_requests, |file| read_requests(&file));
    // Never shut down: a guest that is prepared in the background may still wait in it.
    let tokio = Box::leak(Box::new(tokio::runtime::Runtime::new().expect("threads start")));
    measure("the default model's tokenizer", &stored.dir().join(TOKENIZER_FILE), &requests, tokio);
    for tokenizer in tokenizers {
        measure(&tokenizer.display().to_string(), &tokenizer, &requests, tokio);
    }
    measure_links(tokio);
}

/// What the command line asks for.
#[derive(Default)]
struct Arguments {
    requests: Option<String>,
    tokenizers: Vec<PathBuf>,
}

fn arguments() -> Arguments {
    let mut asked = Arguments::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--tokenizer" => asked.tokenizers.push(arguments.next().expect("--tokenizer takes a file").into()),
            option if option.starts_with("--") => {}
            _ => asked.requests = Some(argument),
        }
    }
    asked
}

/// Prints one row for each way to run the requests with a tokenizer.
fn measure(name: &str, tokenizer: &Path, requests: &[Request], tokio: &'static tokio::runtime::Runtime) {
    let tokenizer = std::fs::read(tokenizer).unwrap_or_else(|error| panic!("{}: {error}", tokenizer.display()));
    let crate_itself = crate_tokenizer(&tokenizer);
    let dir = tempfile::tempdir().expect("there is room for a model");
    let made = dir.path().join("made");
    let vocab_size = crate_itself.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
    Model::new(Shape { vocab_size, max_tokens: MAX_TOKENS }, 1).write(&made);
    std::fs::write(made.join(TOKENIZER_FILE), &tokenizer).expect("the tokenizer is writable");
    // Otherwise the store would take the made model's own kind of tokenizer.
    std::fs::write(made.join("tokenizer_config.json"), TOKENIZER_CONFIG).expect("the configuration is writable");
    let models = ModelStore::new(dir.path());
    let source = Source::Directory { path: "made for a bench".to_owned() };
    let stored = models.add("tiny", &made, source, None).expect("the made model is a model").model;
    let device = Device::open(&DeviceOptions::default()).expect("the device opens");
    let model = device.load(&stored).expect("the model loads");

    let runtime = GuestRuntime::new(&dir.path().join("compiled"), &RuntimeOptions::default()).expect("wasmtime starts");
    let standard = component("standard");
    let load = || runtime.load_prepared("standard", &standard, model.info()).expect("the standard guest is prepared");
    // Two, as a guest's idle instances are there for all its requests.
    let (prepared, kept) = (load(), load());
    let plain = runtime.load("standard", &standard).expect("the standard guest compiles");
    assert!(prepared.is_snapshotted());

    let encoder = Arc::new(Mutex::new(PairEncoder::from_json(&tokenizer).expect("the tokenizer is one")));
    let bench = Bench { model, tokio };
    let fresh = RequestLimits::default();
    let reused = RequestLimits { max_requests_per_instance: u32::MAX, ..RequestLimits::default() };

    let mut times: [Vec<Duration>; 5] = Default::default();
    for request in requests.iter().cycle().take(ROUNDS) {
        let (one, none) = (first(request, 1), first(request, 0));
        times[0].push(bench.native_time(&encoder, request));
        // Before any fresh one, whose memory the other processor is still giving back when the next run begins.
        times[1].push(bench.guest_time(&kept, request, &reused));
        times[2].push(bench.guest_time(&prepared, request, &fresh));
        times[3].push(bench.guest_time(&prepared, &one, &fresh));
        times[4].push(bench.guest_time(&prepared, &none, &fresh));
    }
    let memory_bytes = bench.guest_call(&prepared, &requests[0], &fresh).1;
    let one = first(&requests[0], 1);
    let crate_itself =
        requests.iter().cycle().take(SLOW_ROUNDS).map(|request| crate_time(&crate_itself, request)).collect();
    let slow = (0..SLOW_ROUNDS).map(|_| bench.guest_time(&plain, &one, &fresh)).collect();
    let [native, reused, fresh, first_row, empty] = times.map(Summary::of);
    let tokens: usize = requests.iter().map(|request| encode(&encoder, request).ids.len()).sum();
    println!("{name}, {vocab_size} entries");
    println!("{} request(s) of {DOCUMENTS} documents, {} tokens each", requests.len(), tokens / requests.len());
    println!("native                              {native}");
    println!("reused instance                     {reused}  {:.2} × native", reused.over(&native));
    println!("fresh instance                      {fresh}  {:.2} × native", fresh.over(&native));
    println!("fresh instance, 1 document          {first_row}");
    println!("fresh instance, no documents        {empty}");
    println!("fresh instance, 1 document, no snapshot {}", Summary::of(slow));
    println!("crate `tokenizers`, native          {}", Summary::of(crate_itself));
    println!("memory of a fresh instance          {:8.1} MB\n", memory_bytes as f64 / 1e6);
}

/// Prints what a call through a link adds.
fn measure_links(tokio: &'static tokio::runtime::Runtime) {
    let dir = tenants::data_dir();
    let platform = tenants::platform(dir.path(), tokio.handle());
    let (seeded, relays) = (tenants::seeded(1), component("relays"));
    tenants::serving(tenants::deploy(&platform, "last", &seeded, Some(tenants::callers(&["callee"]))));
    for (caller, callee, by) in [("callee", "last", "caller"), ("caller", "callee", "none")] {
        let limits = Some(tenants::callers(&[by]));
        tenants::serving(tenants::deploy_linked(&platform, caller, &relays, limits, &[("", callee)]));
    }
    let document = "x".repeat(DOCUMENT_BYTES);
    let request = |setting: &str| Request {
        settings: vec![(setting.to_owned(), "alone".to_owned())],
        ..tenants::request(&[document.as_str(); DOCUMENTS])
    };
    let (alone, request) = (request("relay"), request("next.relay"));
    let time = |tenant: &str, request: &Request| {
        let (live, request) = (platform.tenant(&tenants::name(tenant)).expect("it serves"), request.clone());
        let asked = async move {
            let began = Instant::now();
            let answer = live.rerank(request).await.expect("the guest answers");
            assert_eq!(answer.hits.len(), DOCUMENTS);
            began.elapsed()
        };
        tokio.block_on(tokio.spawn(asked)).expect("nothing panics")
    };
    let mut times: [Vec<Duration>; 3] = Default::default();
    let mut added: Vec<f64> = Vec::new();
    for _ in 0..LINK_ROUNDS {
        let [callee, own, both] = [("callee", &alone), ("caller", &alone), ("caller", &request)]
            .map(|(tenant, request)| time(tenant, request));
        added.push((both.as_secs_f64() - own.as_secs_f64() - callee.as_secs_f64()) * 1e6);
        times.iter_mut().zip([callee, own, both]).for_each(|(times, time)| times.push(time));
    }
    added.sort_by(f64::total_cmp);
    let [low, median, high] = [1, 2, 3].map(|quarter| added[added.len() * quarter / 4]);
    let [callee, own, both] = times.map(Summary::of);
    println!("links, {DOCUMENTS} documents of {} bytes", document.len());
    println!("the callee                          {callee}");
    println!("the caller, without a call          {own}");
    println!("the caller, with it                 {both}");
    println!("added by the call                   {median:8.1} µs ({low:.1} to {high:.1})");
}

/// Made of passages, all with the same number of documents.
fn demo_requests() -> Vec<Request> {
    let passages = passages_request("how do I keep a houseplant alive", DOCUMENTS * PASSAGES_PER_DOCUMENT);
    let documents = passages.documents.chunks(PASSAGES_PER_DOCUMENT).map(|passages| passages.join(" ")).collect();
    vec![Request { documents, ..passages }]
}

/// Those of a file, all with the same number of documents.
fn read_requests(file: &str) -> Vec<Request> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{file}: {error}")));
    let requests = lines.map(|RequestLine { query, documents }| {
        let documents = documents.into_iter().map(String::from).collect();
        first(&Request { query, documents, ..Request::default() }, DOCUMENTS)
    });
    let requests: Vec<_> = requests.filter(|request| request.documents.len() == DOCUMENTS).collect();
    assert!(!requests.is_empty(), "{file} has no request of {DOCUMENTS} documents or more");
    requests
}

/// The request with no more than so many of its documents.
fn first(request: &Request, documents: usize) -> Request {
    let documents = request.documents.iter().take(documents).cloned().collect();
    Request { documents, ..request.clone() }
}

struct Bench {
    model: Arc<LoadedModel>,
    tokio: &'static tokio::runtime::Runtime,
}

impl Bench {
    fn guest_time(&self, guest: &Guest, request: &Request, limits: &RequestLimits) -> Duration {
        self.guest_call(guest, request, limits).0
    }

    /// The time that the guest takes, and the memory that it has at the end.
    fn guest_call(&self, guest: &Guest, request: &Request, limits: &RequestLimits) -> (Duration, u64) {
        let expected = request.documents.len();
        let request = Arc::new(limits.clone()).admit(request.clone()).expect("the request is within the limits");
        let (models, meter) = (Models::only(Arc::clone(&self.model)), Arc::<CallMeter>::default());
        let (guest, payer, arrived) = (guest.clone(), Payer::default(), Instant::now());
        let terms = CallTerms { meter: Arc::clone(&meter), ..CallTerms::default() };
        let call = Call { request, arrived, models, links: Links::default(), payer, terms };
        let answer = self.tokio.spawn(async move { guest.call(call).await });
        let response = self.tokio.block_on(answer).expect("nothing panics").expect("the guest answers");
        assert_eq!(response.hits.len(), expected);
        (response.timings.guest, meter.cost().memory_bytes)
    }

    fn native_time(&self, encoder: &Arc<Mutex<PairEncoder>>, request: &Request) -> Duration {
        let (model, encoder, request) = (Arc::clone(&self.model), Arc::clone(encoder), request.clone());
        let answer = self.tokio.spawn(async move {
            let start = Instant::now();
            let rows = encode(&encoder, &request);
            let rows = PackedBatch::new(rows.ids, rows.offsets, rows.second_segment).expect("the rows are well-formed");
            let rows = rows.check(model.shape()).expect("the rows fit the model");
            let asked = Instant::now();
            let scores = model.score(rows, &Account::default(), None).await;
            let device = asked.elapsed();
            std::hint::black_box(assay_guest::rank(&scores.expect("the model runs").outputs, None));
            start.elapsed() - device
        });
        self.tokio.block_on(answer).expect("nothing panics")
    }
}

fn encode(encoder: &Mutex<PairEncoder>, request: &Request) -> Rows {
    let encoder = encoder.lock().expect("no thread panics with the encoder");
    let mut rows = Rows::default();
    let mut query = encoder.query(&request.query, MAX_TOKENS, Cut::LongestFirst).expect("the query fits");
    for document in &request.documents {
        query.push_pair(document, &mut rows).expect("documents are cut to fit");
    }
    rows
}

fn crate_tokenizer(json: &[u8]) -> Tokenizer {
    let mut tokenizer = Tokenizer::from_bytes(json).expect("the tokenizer is one");
    let truncation = TruncationParams { max_length: MAX_TOKENS, ..TruncationParams::default() };
    tokenizer.with_truncation(Some(truncation)).expect("special tokens fit").with_padding(None);
    tokenizer
}

fn crate_time(tokenizer: &Tokenizer, request: &Request) -> Duration {
    let start = Instant::now();
    for document in &request.documents {
        let row = tokenizer.encode_fast((request.query.as_str(), document.as_str()), true);
        std::hint::black_box(row.expect("documents are cut to fit"));
    }
    start.elapsed()
}

/// Quartiles of a sample.
struct Summary([Duration; 3]);

impl Summary {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self([1, 2, 3].map(|quarter| times[times.len() * quarter / 4]))
    }

    fn over(&self, other: &Self) -> f64 {
        self.0[1].as_secs_f64() / other.0[1].as_secs_f64()
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [low, median, high] = self.0.map(|time| time.as_secs_f64() * 1e3);
        write!(f, "{median:8.3} ms ({low:.3} to {high:.3})")
    }
}
