//! What the tests of tenants share: a model small enough to be made on the spot, guests, and the scores they must give.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses its share, and a test may panic"
)]

#[path = "../common/tiny.rs"]
pub(crate) mod tiny;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use assay::engine::EngineOptions;
use assay::model::{LoadedModel, ModelStore, Source};
use assay::rerank::Request;
use assay::tenant::admin::{Command, Order, Reply};
use assay::tenant::compile::CompilerOptions;
use assay::tenant::{Deployment, Platform, PlatformOptions, TenantLimits, TenantName};
use assay_kernels::cpu::{CpuEngine, CpuOptions};
use assay_kernels::{Engine, PackedBatch, Row, checkpoint};
use tempfile::TempDir;
use tiny::{Model, Shape};

pub(crate) const VOCABULARY_SIZE: u32 = 256;
pub(crate) const MAX_TOKENS: usize = 128;

/// A component as `cargo xtask build` leaves it.
pub(crate) fn component(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests/components").join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}: run `cargo xtask build`", path.display()))
}

/// The `seeded` guest with a seed of its own.
pub(crate) fn seeded(seed: u32) -> Vec<u8> {
    let mut wasm = component("seeded");
    let marker = b"ASSAY-SEED-";
    let places: Vec<usize> = (0..wasm.len() - marker.len())
        .filter(|&at| wasm[at..].starts_with(marker) && wasm[at + 11].is_ascii_digit())
        .collect();
    let [place] = places[..] else { panic!("the seed is at {places:?}, and must be in one place") };
    let digits = format!("{seed:016}");
    wasm[place + marker.len()..][..digits.len()].copy_from_slice(digits.as_bytes());
    wasm
}

/// A request with these documents.
pub(crate) fn request(documents: &[&str]) -> Request {
    let documents = documents.iter().map(|&text| text.to_owned()).collect();
    Request { query: "query".to_owned(), documents, ..Request::default() }
}

/// A request that sets a conformance guest off.
pub(crate) fn attack(kind: &str) -> Request {
    Request { settings: vec![("attack".to_owned(), kind.to_owned())], ..request(&["one", "two"]) }
}

/// A model with an id for every byte. The seed decides its weights.
pub(crate) fn tiny_model(seed: u32) -> Model {
    Model::new(Shape { vocab_size: VOCABULARY_SIZE as usize, max_tokens: MAX_TOKENS }, seed)
}

/// A data directory with the models `tiny/one`, the default, and `tiny/two`.
pub(crate) fn data_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = ModelStore::new(dir.path());
    for (name, seed) in [("tiny/one", 1), ("tiny/two", 2)] {
        let made = tempfile::tempdir().unwrap();
        tiny_model(seed).write(made.path());
        let source = Source::Directory { path: "made for a test".to_owned() };
        store.add(name, made.path(), source, None).unwrap();
    }
    dir
}

/// The default model of a data directory.
pub(crate) fn model(data_dir: &Path) -> Arc<LoadedModel> {
    Arc::new(LoadedModel::load(&ModelStore::new(data_dir).open(None).unwrap(), &EngineOptions::default()).unwrap())
}

/// Computes what the `seeded` guest must answer, on an engine that nobody else uses.
#[derive(Debug)]
pub(crate) struct Oracle(CpuEngine);

impl Oracle {
    pub(crate) fn new(data_dir: &Path) -> Self {
        let stored = ModelStore::new(data_dir).open(None).unwrap();
        let weights = checkpoint::load(stored.dir(), None).unwrap();
        Self(CpuEngine::new(weights, CpuOptions::default()).unwrap())
    }

    pub(crate) fn scores(&mut self, seed: u32, documents: &[String]) -> Vec<f32> {
        let mut rows = PackedBatch::default();
        for document in documents {
            let first = std::iter::once(seed % VOCABULARY_SIZE);
            let ids: Vec<u32> = first.chain(document.bytes().map(|byte| u32::from(byte) % VOCABULARY_SIZE)).collect();
            rows.push(Row { ids: &ids, second_segment: 1 }).unwrap();
        }
        let mut scores = Vec::new();
        self.0.run(&rows, &mut scores).unwrap();
        scores
    }
}

/// The program under test.
pub(crate) fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_assay"))
}

/// The tenants of a data directory, in this process.
pub(crate) fn platform(data_dir: &Path, tokio: &tokio::runtime::Handle) -> Platform {
    // Short, so that tests of what never ends do.
    let max_prepare_cpu = Duration::from_millis(500);
    let compiler = CompilerOptions { max_prepare_cpu, ..CompilerOptions::new(program()) };
    let options = PlatformOptions { engine: EngineOptions::default(), compiler, tokio: tokio.clone() };
    Platform::open(data_dir, options).unwrap()
}

pub(crate) fn name(tenant: &str) -> TenantName {
    tenant.parse().unwrap()
}

/// Gives an order as the tests' own user.
pub(crate) fn order(platform: &Platform, command: Command) -> Reply {
    platform.execute(Order { command, by: "tester".to_owned() })
}

/// Asks for a deployment.
pub(crate) fn deploy(platform: &Platform, tenant: &str, wasm: &[u8], limits: Option<TenantLimits>) -> Reply {
    let component = platform.put_component(wasm).unwrap();
    let (tenant, limits) = (name(tenant), limits.map(Box::new));
    order(platform, Command::Deploy { tenant, component, limits, model: None })
}

/// The deployment that serves after an order.
pub(crate) fn serving(reply: Reply) -> Deployment {
    match reply {
        Reply::Serving(deployment) => *deployment,
        other => panic!("not deployed: {other:?}"),
    }
}

/// Why an order was refused.
pub(crate) fn refusal(reply: Reply) -> String {
    match reply {
        Reply::Refused(error) => error.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}
