//! Question: what does a request in an instance of its own cost, beside the same Rust code called natively?
//!
//! Baseline: the standard guest's own code (`assay_guest::PairEncoder`, `rank`) in this process, its tokenizer loaded
//! before, its rows sent to the same model: so that both find the processor's caches as a model leaves them. Excluded: that
//! model, which is one small layer with the real vocabulary; its time on the device and in the queue is taken off.
//! Included: instantiation, copies both ways, tokenising, ranking; not giving an instance's memory back, which no answer
//! waits for. A document is two passages, so that a row is nearly as long as the baseline's. Medians and quartiles of
//! interleaved runs, so that all see the same machine.
//!
//! `cargo xtask build && cargo bench --workspace --bench guests`; needs the default model (`assay model pull`), for its
//! tokenizer.

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use assay::engine::EngineOptions;
use assay::guest::{Guest, GuestRuntime, RuntimeOptions};
use assay::limits::RequestLimits;
use assay::model::{LoadedModel, ModelStore, Source};
use assay::rerank::Request;
use assay::scheduler::Account;
use assay_guest::{Cut, PairEncoder, Rows};
use assay_kernels::PackedBatch;
use common::tenants::{component, demo_model, passages_request};
use common::tiny::{Model, Shape};

const DOCUMENTS: usize = 32;
const PASSAGES_PER_DOCUMENT: usize = 2;
const ROUNDS: usize = 200;
/// Without a snapshot a request takes a thousand times as long.
const SLOW_ROUNDS: usize = 10;

fn main() {
    let Some(stored) = demo_model() else { return };
    let tokenizer = std::fs::read(stored.dir().join("tokenizer.json")).expect("the tokenizer is readable");
    let dir = tempfile::tempdir().expect("there is room for a model");
    let made = dir.path().join("made");
    Model::new(Shape { vocab_size: 30_522, max_tokens: 512 }, 1).write(&made);
    std::fs::write(made.join("tokenizer.json"), &tokenizer).expect("the tokenizer is writable");
    let models = ModelStore::new(dir.path());
    let source = Source::Directory { path: "made for a bench".to_owned() };
    let stored = models.add("tiny", &made, source, None).expect("the made model is a model");
    let model = Arc::new(LoadedModel::load(&stored, &EngineOptions::default()).expect("the model loads"));

    let runtime = GuestRuntime::new(&dir.path().join("compiled"), &RuntimeOptions::default()).expect("wasmtime starts");
    let standard = component("standard");
    let load = || runtime.load_prepared("standard", &standard, model.card()).expect("the standard guest is prepared");
    // Two, as a guest's idle instances are there for all its requests.
    let (prepared, kept) = (load(), load());
    let plain = runtime.load("standard", &standard).expect("the standard guest compiles");
    assert!(prepared.is_snapshotted());

    let passages = passages_request("how do I keep a houseplant alive", DOCUMENTS * PASSAGES_PER_DOCUMENT);
    let documents = passages.documents.chunks(PASSAGES_PER_DOCUMENT).map(|passages| passages.join(" ")).collect();
    let request = Request { documents, ..passages };
    let one = Request { documents: request.documents[..1].to_vec(), ..request.clone() };
    let none = Request { documents: Vec::new(), ..request.clone() };
    let encoder = PairEncoder::from_json(&tokenizer).expect("the tokenizer is one");
    let bench = Bench { model, tokio: tokio::runtime::Runtime::new().expect("threads start") };
    let fresh = RequestLimits::default();
    let reused = RequestLimits { max_requests_per_instance: u32::MAX, ..RequestLimits::default() };

    let mut times: [Vec<Duration>; 5] = Default::default();
    for _ in 0..ROUNDS {
        times[0].push(bench.native_time(&encoder, &request));
        // Before any fresh one, whose memory the other processor is still giving back when the next run begins.
        times[1].push(bench.guest_time(&kept, &request, &reused));
        times[2].push(bench.guest_time(&prepared, &request, &fresh));
        times[3].push(bench.guest_time(&prepared, &one, &fresh));
        times[4].push(bench.guest_time(&prepared, &none, &fresh));
    }
    let slow = (0..SLOW_ROUNDS).map(|_| bench.guest_time(&plain, &one, &fresh)).collect();
    let [native, reused, fresh, first_row, empty] = times.map(Summary::of);
    println!("{DOCUMENTS} documents, {} tokens", tokens(&encoder, &request));
    println!("native                              {native}");
    println!("reused instance                     {reused}  {:.2} × native", reused.over(&native));
    println!("fresh instance                      {fresh}  {:.2} × native", fresh.over(&native));
    println!("fresh instance, 1 document          {first_row}");
    println!("fresh instance, no documents        {empty}");
    println!("fresh instance, 1 document, no snapshot {}", Summary::of(slow));
}

struct Bench {
    model: Arc<LoadedModel>,
    tokio: tokio::runtime::Runtime,
}

impl Bench {
    fn guest_time(&self, guest: &Guest, request: &Request, limits: &RequestLimits) -> Duration {
        let (model, request, expected) = (Arc::clone(&self.model), request.clone(), request.documents.len());
        let response = self.tokio.block_on(guest.rerank(model, request, limits)).expect("the guest answers");
        assert_eq!(response.hits.len(), expected);
        response.timings.guest
    }

    fn native_time(&self, encoder: &PairEncoder, request: &Request) -> Duration {
        let start = Instant::now();
        let rows = encode(encoder, request);
        let rows = PackedBatch::new(rows.ids, rows.offsets, rows.second_segment).expect("the rows are well-formed");
        let asked = Instant::now();
        let scores = self.tokio.block_on(self.model.scheduler().score(rows, &Account::default(), None));
        let device = asked.elapsed();
        let hits = assay_guest::rank(&scores.expect("the model runs").outputs, None);
        std::hint::black_box(hits);
        start.elapsed() - device
    }
}

fn encode(encoder: &PairEncoder, request: &Request) -> Rows {
    let mut rows = Rows::default();
    let mut query = encoder.query(&request.query, 512, Cut::LongestFirst).expect("the query fits");
    for document in &request.documents {
        query.push_pair(document, &mut rows).expect("documents are cut to fit");
    }
    rows
}

fn tokens(encoder: &PairEncoder, request: &Request) -> usize {
    encode(encoder, request).ids.len()
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
