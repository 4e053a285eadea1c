//! Files near real ones, by structure: valid JSON with a few values, names or elements changed. Never a panic, and what is
//! accepted can be used.
//!
//! Each kind of file is tried some hundred times from a fixed seed. `ASSAY_FUZZ_SECONDS=600` tries each for so long, from a
//! seed of `ASSAY_FUZZ_SEED`, and prints what a failure needs to be seen again.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use assay::device::{Account, Device, DeviceOptions, EngineChoice, LoadError};
use assay::model::{ModelError, ModelStore, Source};
use assay_guest::{Cut, PairEncoder, Rows};
use assay_kernels::PackedBatch;
use candle_core::{Device as Candle, Tensor};
use common::tiny;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::{Value, json};

/// Cases of each kind in a usual run.
const CASES: u32 = 300;

/// Most changes of one file.
const MAX_CHANGES: u32 = 3;

fn below(random: &mut ChaCha8Rng, most: usize) -> usize {
    random.next_u32() as usize % most.max(1)
}

/// Values that files have where they should not.
fn odd(random: &mut ChaCha8Rng) -> Value {
    let odd = [
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(-1),
        json!(1),
        json!(2),
        json!(7),
        json!(1.5),
        json!(-0.0),
        json!(1e300),
        json!(u64::MAX),
        json!(1_u64 << 40),
        json!(""),
        json!("x"),
        json!("[SEP]"),
        json!("gelu_new"),
        json!("\u{1f60a}\u{0}"),
        json!([]),
        json!({}),
        json!([null]),
        json!([1, "a"]),
        json!({ "type": "Sequence" }),
        json!({ "type": "ByteLevel" }),
    ];
    odd[below(random, odd.len())].clone()
}

/// Changes one value somewhere in a tree.
fn change(value: &mut Value, random: &mut ChaCha8Rng) {
    let goes_deeper = !random.next_u32().is_multiple_of(4);
    match value {
        Value::Object(fields) if goes_deeper && !fields.is_empty() => {
            let at = below(random, fields.len());
            let name = fields.keys().nth(at).unwrap().clone();
            match random.next_u32() % 8 {
                0 => drop(fields.remove(&name)),
                1 => {
                    let moved = fields.remove(&name).unwrap();
                    fields.insert(format!("{name}_"), moved);
                }
                _ => change(&mut fields[&name], random),
            }
        }
        Value::Array(elements) if goes_deeper && !elements.is_empty() => {
            let at = below(random, elements.len());
            match random.next_u32() % 8 {
                0 => drop(elements.remove(at)),
                1 => elements.push(elements[at].clone()),
                _ => change(&mut elements[at], random),
            }
        }
        Value::Number(number) if goes_deeper => {
            let near = [-1, 1, 2].map(|by| number.as_i64().map(|number| json!(number.saturating_add(by))));
            *value = near[below(random, near.len())].clone().unwrap_or_else(|| odd(random));
        }
        other => *other = odd(random),
    }
}

fn near(value: &Value, random: &mut ChaCha8Rng) -> Value {
    let mut changed = value.clone();
    for _ in 0..=random.next_u32() % MAX_CHANGES {
        change(&mut changed, random);
    }
    changed
}

/// Tries a kind of file. `each` gets a random number generator, and says how many of its cases were accepted.
fn try_all(kind: &str, mut each: impl FnMut(&mut ChaCha8Rng) -> bool) {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (seconds, seed) = (variable("ASSAY_FUZZ_SECONDS"), variable("ASSAY_FUZZ_SEED").unwrap_or(1));
    let (began, mut cases, mut accepted) = (Instant::now(), 0_u32, 0_u32);
    loop {
        match seconds {
            None if cases == CASES => break,
            Some(seconds) if began.elapsed() > Duration::from_secs(seconds) => break,
            _ => {}
        }
        let mut random = ChaCha8Rng::seed_from_u64(seed << 32 | u64::from(cases));
        match catch_unwind(AssertUnwindSafe(|| each(&mut random))) {
            Ok(was_accepted) => accepted += u32::from(was_accepted),
            Err(panic) => {
                eprintln!("{kind}: case {cases} of ASSAY_FUZZ_SEED={seed} failed");
                std::panic::resume_unwind(panic);
            }
        }
        cases += 1;
    }
    println!("{kind}: {cases} cases, {accepted} accepted");
    // Changes near the file that is right must often leave it so, or nothing behind the first check is reached.
    assert!(accepted * 20 > cases, "{kind}: only {accepted} of {cases} were accepted");
}

/// Where models are added and loaded.
struct Bench {
    runtime: tokio::runtime::Runtime,
    device: Arc<Device>,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let options = DeviceOptions { choice: EngineChoice::Cpu, ..DeviceOptions::default() };
        let device = Device::open(&options).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, device, dir: tempfile::tempdir().unwrap() }
    }

    /// Adds a model, and uses it if it is accepted: its tokenizer as a guest does, and its engine. Says whether it was.
    fn accepts(&self, dir: &Path, adapter: Option<&Path>) -> bool {
        let data_dir = tempfile::tempdir_in(self.dir.path()).unwrap();
        let store = ModelStore::new(data_dir.path());
        let source = Source::Directory { path: "made for a test".to_owned() };
        let added = match store.add("near", dir, source.clone(), adapter.map(|adapter| (adapter, source))) {
            Ok(added) => added.model,
            Err(error) => {
                assert!(!matches!(error, ModelError::Io { .. }), "{error}");
                assert!(!error.to_string().is_empty());
                return false;
            }
        };
        let stored = store.open(Some("near")).unwrap();
        assert_eq!(stored.manifest.revision, added.manifest.revision);
        let model = match self.device.load(&stored) {
            Ok(model) => model,
            Err(LoadError::NoRoom(_)) => return false,
            Err(error) => panic!("it was accepted, and cannot be loaded: {error}"),
        };
        let encoder = PairEncoder::from_json(model.tokenizer()).expect("the tokenizer was accepted");
        let mut rows = Rows::default();
        for (query, document) in
            [("blue sky", "the red sun 12"), ("", ""), ("\u{1f60a} x", "moon sea moon sea moon sea")]
        {
            let most = model.max_tokens() as usize;
            let mut query = encoder.query(query, most, Cut::LongestFirst).expect("a query is tokenised");
            query.push_pair(document, &mut rows).expect("a pair is tokenised");
        }
        let rows = PackedBatch::new(rows.ids, rows.offsets, rows.second_segment).unwrap();
        let rows = rows.check(model.shape()).expect("the tokenizer's ids are the model's");
        let scored = self.runtime.block_on(model.score(rows, &Account::default(), None)).expect("rows are computed");
        assert!(scored.outputs.iter().all(|output| output.is_finite()), "{:?}", scored.outputs);
        true
    }
}

fn write(dir: &Path, file: &str, value: &Value) {
    std::fs::write(dir.join(file), value.to_string()).unwrap();
}

/// Tries files near one of a model's.
fn try_model_file(kind: &str, file: &str, base: &Value) {
    let bench = Bench::new();
    let dir = tempfile::tempdir().unwrap();
    tiny::Model::default().write(dir.path());
    try_all(kind, |random| {
        write(dir.path(), file, &near(base, random));
        bench.accepts(dir.path(), None)
    });
}

#[test]
fn configurations_near_a_real_one() {
    try_model_file("config.json", "config.json", &tiny::Model::default().config);
}

#[test]
fn tokenizers_near_a_real_one() {
    try_model_file("tokenizer.json", "tokenizer.json", &tiny::Model::default().tokenizer);
}

#[test]
fn tokenizer_configurations_near_a_real_one() {
    let base = json!({
        "tokenizer_class": "BertTokenizer", "do_lower_case": true, "strip_accents": null, "tokenize_chinese_chars": true,
        "model_max_length": 16, "truncation_side": "right", "padding_side": "right", "pad_token": "[PAD]",
        "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "added_tokens_decoder": { "0": { "content": "[PAD]", "special": true, "lstrip": false, "rstrip": false } },
    });
    try_model_file("tokenizer_config.json", "tokenizer_config.json", &base);
}

#[test]
fn adapters_near_a_real_one() {
    let bench = Bench::new();
    let (model, adapter) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tiny::Model::default().write(model.path());
    let matrix = |rows: usize, columns: usize| {
        let values: Vec<f32> = (0..rows * columns).map(|at| at as f32 / 64.0 - 0.1).collect();
        Tensor::from_vec(values, (rows, columns), &Candle::Cpu).unwrap()
    };
    let name = "base_model.model.bert.encoder.layer.0.attention.self.query";
    let tensors = [(format!("{name}.lora_A.weight"), matrix(2, 8)), (format!("{name}.lora_B.weight"), matrix(8, 2))];
    let weights = adapter.path().join("adapter_model.safetensors");
    candle_core::safetensors::save(&tensors.into_iter().collect(), weights).unwrap();
    let base = json!({
        "peft_type": "LORA", "task_type": "SEQ_CLS", "r": 2, "lora_alpha": 4, "lora_dropout": 0.0, "bias": "none",
        "target_modules": ["query"], "modules_to_save": null, "fan_in_fan_out": false, "use_rslora": false,
        "use_dora": false, "rank_pattern": {}, "alpha_pattern": {}, "init_lora_weights": true, "inference_mode": true,
    });
    try_all("adapter_config.json", |random| {
        write(adapter.path(), "adapter_config.json", &near(&base, random));
        bench.accepts(model.path(), Some(adapter.path()))
    });
}

#[test]
fn bodies_near_real_ones() {
    let bodies: [(u8, Value); 3] = [
        (
            1,
            json!({
                "model": "default", "query": "q", "documents": ["a", { "text": "b", "id": 7 }], "top_n": 2,
                "return_documents": true, "rank_fields": ["text"], "max_tokens_per_doc": 9, "settings": { "label": 0 },
            }),
        ),
        (0, json!({ "query": "q", "texts": ["a", "b"], "raw_scores": true, "truncate": true, "return_text": false })),
        (8, json!({ "text_1": ["q", "r"], "text_2": ["a", "b"], "truncate_prompt_tokens": 9 })),
    ];
    try_all("bodies", |random| {
        let (path, base) = &bodies[below(random, bodies.len())];
        let body = near(base, random);
        assay::oracle::body(&[&[*path], body.to_string().as_bytes()].concat());
        body.is_object()
    });
}

#[test]
fn configurations_of_a_server_near_a_real_one() {
    let base = json!({
        "host": "127.0.0.1", "port": 8790, "max-connections": 100, "drain-seconds": 3, "engine": "cpu", "threads": 2,
        "cors-origin": ["https://a.example"], "allow-keyless-network": false,
    });
    try_all("server configurations", |random| {
        let near = near(&base, random);
        let Some(table) = near.as_object() else { return false };
        // JSON's values are TOML's, in a line each, but for `null`.
        let lines = table.iter().map(|(key, value)| format!("{} = {value}\n", json!(key)));
        assay::oracle::config(lines.collect::<String>().as_bytes())
    });
}

#[test]
fn requests_to_the_operators_socket_near_real_ones() {
    let limits = json!({ "max_documents": 3, "weight": 2 });
    let base = json!({
        "command": { "deploy": { "tenant": "a", "component": "0", "limits": limits, "model": "m", "other_models": ["n"] } },
        "by": "x",
    });
    try_all("admin requests", |random| {
        let request = near(&base, random);
        assay::oracle::admin(request.to_string().as_bytes());
        request.is_object()
    });
}
