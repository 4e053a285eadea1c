//! What the tests of tenants share: a model small enough to be made on the spot, guests, and the scores they must give.

#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its share, and a test may panic")]

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

pub(crate) const VOCABULARY_SIZE: u32 = 256;
pub(crate) const MAX_TOKENS: usize = 128;
const HIDDEN_SIZE: usize = 8;
const INTERMEDIATE_SIZE: usize = 16;

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

/// What of a made model may differ.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) vocab_size: usize,
    pub(crate) max_tokens: usize,
}

/// Writes a model of one small layer into `dir`. The seed decides its weights.
pub(crate) fn write_tiny_model(dir: &Path, seed: u32) {
    write_tiny_model_with(dir, seed, Shape { vocab_size: VOCABULARY_SIZE as usize, max_tokens: MAX_TOKENS });
}

/// The same, of another shape.
pub(crate) fn write_tiny_model_with(dir: &Path, seed: u32, shape: Shape) {
    std::fs::create_dir_all(dir).unwrap();
    let config = serde_json::json!({
        "architectures": ["BertForSequenceClassification"], "model_type": "bert", "hidden_act": "gelu",
        "vocab_size": shape.vocab_size, "hidden_size": HIDDEN_SIZE, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": INTERMEDIATE_SIZE, "max_position_embeddings": shape.max_tokens, "type_vocab_size": 2,
        "num_labels": 1, "id2label": { "0": "LABEL_0" },
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let tokenizer = serde_json::json!({ "model": { "vocab": { "a": 0 } }, "added_tokens": [] });
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(dir.join("model.safetensors"), safetensors(&tensors(shape), seed)).unwrap();
}

fn tensors(shape: Shape) -> Vec<(String, Vec<usize>)> {
    let (hidden, inner) = (HIDDEN_SIZE, INTERMEDIATE_SIZE);
    let mut tensors = vec![
        ("bert.embeddings.word_embeddings.weight".to_owned(), vec![shape.vocab_size, hidden]),
        ("bert.embeddings.position_embeddings.weight".to_owned(), vec![shape.max_tokens, hidden]),
        ("bert.embeddings.token_type_embeddings.weight".to_owned(), vec![2, hidden]),
    ];
    let layer = "bert.encoder.layer.0";
    let linear = [
        (format!("{layer}.attention.self.query"), hidden, hidden),
        (format!("{layer}.attention.self.key"), hidden, hidden),
        (format!("{layer}.attention.self.value"), hidden, hidden),
        (format!("{layer}.attention.output.dense"), hidden, hidden),
        (format!("{layer}.intermediate.dense"), inner, hidden),
        (format!("{layer}.output.dense"), hidden, inner),
        ("bert.pooler.dense".to_owned(), hidden, hidden),
        ("classifier".to_owned(), 1, hidden),
    ];
    for (name, outputs, inputs) in linear {
        tensors.push((format!("{name}.weight"), vec![outputs, inputs]));
        tensors.push((format!("{name}.bias"), vec![outputs]));
    }
    for name in ["bert.embeddings".to_owned(), format!("{layer}.attention.output"), format!("{layer}.output")] {
        tensors.push((format!("{name}.LayerNorm.weight"), vec![hidden]));
        tensors.push((format!("{name}.LayerNorm.bias"), vec![hidden]));
    }
    tensors
}

/// The format is a length, a header of JSON, and the numbers (<https://huggingface.co/docs/safetensors>).
fn safetensors(tensors: &[(String, Vec<usize>)], seed: u32) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    for (name, shape) in tensors {
        let start = data.len();
        for _ in 0..shape.iter().product::<usize>() {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            data.extend((state as f32 / u32::MAX as f32 - 0.5).to_le_bytes());
        }
        let entry = serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] });
        header.insert(name.clone(), entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    [(header.len() as u64).to_le_bytes().to_vec(), header, data].concat()
}

/// A data directory with the models `tiny/one`, the default, and `tiny/two`.
pub(crate) fn data_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = ModelStore::new(dir.path());
    for (name, seed) in [("tiny/one", 1), ("tiny/two", 2)] {
        let made = tempfile::tempdir().unwrap();
        write_tiny_model(made.path(), seed);
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
