//! What the tests of tenants share: a model small enough to be made on the spot, guests, and the scores they must give.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use assay::device::{Device, DeviceOptions, EngineChoice, LoadedModel};
use assay::model::store::StoredModel;
use assay::model::{ModelStore, Source};
use assay::rerank::Request;
use assay::tenant::admin::{AdminError, AdminRequest, Command, Reply};
use assay::tenant::compile::CompilerOptions;
use assay::tenant::{Deployment, Platform, PlatformOptions, TenantLimits, TenantLink, TenantName};
use assay_kernels::cpu::{CpuDevice, CpuDeviceOptions, CpuEngine, CpuOptions};
use assay_kernels::{Engine, PackedBatch, Row, checkpoint};
use tempfile::TempDir;

use super::tiny::{Model, Shape};

pub const VOCABULARY_SIZE: u32 = 256;
pub const MAX_TOKENS: usize = 128;

/// The bytes of a component of `guest/`.
pub fn component(name: &str) -> Vec<u8> {
    std::fs::read(super::component(name)).unwrap()
}

/// The `seeded` guest with a seed of its own.
pub fn seeded(seed: u32) -> Vec<u8> {
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
pub fn request(documents: &[&str]) -> Request {
    let documents = documents.iter().map(|&text| text.to_owned()).collect();
    Request { query: "query".to_owned(), documents, ..Request::default() }
}

/// A request that sets a conformance guest off.
pub fn attack(kind: &str) -> Request {
    Request { settings: vec![("attack".to_owned(), kind.to_owned())], ..request(&["one", "two"]) }
}

/// A model with an id for every byte. The seed decides its weights.
pub fn tiny_model(seed: u32) -> Model {
    Model::new(Shape { vocab_size: VOCABULARY_SIZE as usize, max_tokens: MAX_TOKENS }, seed)
}

/// A data directory with the models `tiny/one`, the default, and `tiny/two`.
pub fn data_dir() -> TempDir {
    data_dir_in(tempfile::tempdir().unwrap())
}

/// The same, in a directory that exists.
pub fn data_dir_in(dir: TempDir) -> TempDir {
    for (name, seed) in [("tiny/one", 1), ("tiny/two", 2)] {
        add_model(dir.path(), name, &tiny_model(seed));
    }
    dir
}

/// Adds a model to a data directory and gives its revision.
pub fn add_model(data_dir: &Path, name: &str, model: &Model) -> String {
    let made = tempfile::tempdir().unwrap();
    model.write(made.path());
    let source = Source::Directory { path: "made for a test".to_owned() };
    ModelStore::new(data_dir).add(name, made.path(), source, None).unwrap().model.manifest.revision
}

/// Makes everything in a directory as old as if it had been written two hours ago.
pub fn age(path: &Path) {
    if path.is_dir() {
        std::fs::read_dir(path).unwrap().for_each(|entry| age(&entry.unwrap().path()));
    }
    let two_hours_ago = std::time::SystemTime::now() - Duration::from_secs(7_200);
    std::fs::File::open(path).unwrap().set_modified(two_hours_ago).unwrap();
}

/// The default model of a data directory.
pub fn model(data_dir: &Path) -> Arc<LoadedModel> {
    let device = Device::open(&DeviceOptions::default()).unwrap();
    device.load(&ModelStore::new(data_dir).open(None).unwrap()).unwrap()
}

/// What knows the answers of the `seeded` guest.
pub trait Scores: Send + 'static {
    /// One for each document.
    fn scores(&mut self, seed: u32, documents: &[String]) -> Vec<f32>;
}

/// Computes what the `seeded` guest must answer, on an engine of its own.
#[derive(Debug)]
pub struct Oracle(CpuEngine);

impl Scores for Oracle {
    fn scores(&mut self, seed: u32, documents: &[String]) -> Vec<f32> {
        Self::scores(self, seed, documents)
    }
}

impl Oracle {
    pub fn new(data_dir: &Path) -> Self {
        let stored = ModelStore::new(data_dir).open(None).unwrap();
        let weights = checkpoint::load(stored.dir(), None).unwrap();
        let device = CpuDevice::new(CpuDeviceOptions::default()).unwrap();
        Self(CpuEngine::load(&device, weights, CpuOptions::default()).unwrap())
    }

    pub fn scores(&mut self, seed: u32, documents: &[String]) -> Vec<f32> {
        let mut rows = PackedBatch::default();
        for document in documents {
            let first = std::iter::once(seed % VOCABULARY_SIZE);
            let ids: Vec<u32> = first.chain(document.bytes().map(|byte| u32::from(byte) % VOCABULARY_SIZE)).collect();
            rows.push(Row { ids: &ids, second_segment: 1 }).unwrap();
        }
        let mut scores = Vec::new();
        let rows = rows.check(&self.0.shape()).unwrap();
        self.0.run(&rows, &mut scores).unwrap();
        scores
    }
}

/// The tenants of a data directory, in this process.
pub fn platform(data_dir: &Path, tokio: &tokio::runtime::Handle) -> Platform {
    platform_on(data_dir, tokio, DeviceOptions::default().choice)
}

/// The same, on a device of one's choice.
pub fn platform_on(data_dir: &Path, tokio: &tokio::runtime::Handle, choice: EngineChoice) -> Platform {
    // Short, so that tests of what never ends do.
    let max_prepare_cpu = Duration::from_millis(500);
    let compiler = CompilerOptions { max_prepare_cpu, ..CompilerOptions::new(super::PROGRAM.into()) };
    let device = DeviceOptions { choice, ..DeviceOptions::default() };
    let options =
        PlatformOptions { device, compiler, guest_memory_bytes: None, max_named_tenants: 10, tokio: tokio.clone() };
    Platform::open(data_dir, options).unwrap()
}

pub fn name(tenant: &str) -> TenantName {
    tenant.parse().unwrap()
}

/// Gives a request as the tests' own user.
pub fn admin(platform: &Platform, command: Command) -> Reply {
    platform.execute(AdminRequest { command, by: "tester".to_owned() })
}

/// Asks for a deployment.
pub fn deploy(platform: &Platform, tenant: &str, wasm: &[u8], limits: Option<TenantLimits>) -> Reply {
    try_deploy(platform, tenant, wasm, limits).unwrap()
}

/// The same, where there may be no room for the component.
pub fn try_deploy(
    platform: &Platform,
    tenant: &str,
    wasm: &[u8],
    limits: Option<TenantLimits>,
) -> Result<Reply, AdminError> {
    try_deploy_linked(platform, tenant, wasm, limits, &[])
}

/// The same, of a component that calls tenants: labels, which may be empty, and the tenants behind them.
pub fn deploy_linked(
    platform: &Platform,
    tenant: &str,
    wasm: &[u8],
    limits: Option<TenantLimits>,
    links: &[(&str, &str)],
) -> Reply {
    try_deploy_linked(platform, tenant, wasm, limits, links).unwrap()
}

fn try_deploy_linked(
    platform: &Platform,
    tenant: &str,
    wasm: &[u8],
    limits: Option<TenantLimits>,
    links: &[(&str, &str)],
) -> Result<Reply, AdminError> {
    let component = Some(platform.put_component(wasm)?);
    let (tenant, limits) = (name(tenant), limits.map(Box::new));
    let link = |&(label, tenant): &(&str, &str)| TenantLink {
        label: Some(label.to_owned()).filter(|label| !label.is_empty()),
        tenant: name(tenant),
    };
    let links = links.iter().map(link).collect();
    Ok(admin(platform, Command::Deploy { tenant, component, limits, model: None, other_models: Vec::new(), links }))
}

/// Limits that let these tenants call.
pub fn callers(tenants: &[&str]) -> TenantLimits {
    TenantLimits { callers: tenants.iter().map(|tenant| name(tenant)).collect(), ..TenantLimits::default() }
}

/// The deployment that serves after a request.
pub fn serving(reply: Reply) -> Deployment {
    match reply {
        Reply::Serving(served) => served.deployment,
        other => panic!("not deployed: {other:?}"),
    }
}

/// Why a request was refused.
pub fn refusal(reply: Reply) -> String {
    match reply {
        Reply::Refused(error) => error.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

/// The default model of the data directory that `cargo xtask test` fills, or that `ASSAY_DATA_DIR` names. Skips the caller
/// where there is none.
pub fn demo_model() -> Option<StoredModel> {
    let dir = std::env::var_os("ASSAY_DATA_DIR").map_or_else(testdata::data_dir, Into::into);
    let skip =
        |error: &_| testdata::skip(testdata::Cause::NotSetUp, &format!("{error}; `cargo xtask test` fetches it"));
    ModelStore::new(&dir).open(None).inspect_err(skip).ok()
}

/// A request with so many of the demo's passages, used in turn.
pub fn passages_request(query: &str, documents: usize) -> Request {
    let passages = include_str!("../../../examples/passages.jsonl").lines();
    let passages: Vec<String> = passages.map(|line| serde_json::from_str(line).unwrap()).collect();
    let documents = passages.into_iter().cycle().take(documents).collect();
    Request { query: query.to_owned(), documents, ..Request::default() }
}
