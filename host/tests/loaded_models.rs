//! Models on one device: two revisions of a name, several models at once, and who makes room for whom.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use assay::device::{Account, Device, DeviceOptions, EngineChoice, LoadError, LoadedModel};
use assay::model::store::StoredModel;
use assay::model::{ModelStore, Source};
use assay_kernels::{CheckedBatch, PackedBatch, Row};
use common::tenants::{self, VOCABULARY_SIZE};
use tokio::sync::Mutex;

/// Tests of this file run one at a time: one counts the process's threads.
static ALONE: Mutex<()> = Mutex::const_new(());

const THREADS: usize = 2;

fn device(memory_bytes: Option<u64>) -> Arc<Device> {
    let (choice, threads) = (EngineChoice::Cpu, NonZeroUsize::new(THREADS));
    Device::open(&DeviceOptions { choice, threads, memory_bytes, ..DeviceOptions::default() }).unwrap()
}

/// Adds a model whose weights the seed decides.
fn add(data_dir: &Path, name: &str, seed: u32) -> StoredModel {
    let made = tempfile::tempdir().unwrap();
    tenants::tiny_model(seed).write(made.path());
    let source = Source::Directory { path: "made for a test".to_owned() };
    ModelStore::new(data_dir).add(name, made.path(), source, None).unwrap().model
}

fn rows(model: &LoadedModel) -> CheckedBatch {
    let mut rows = PackedBatch::default();
    for row in 1..20 {
        let ids: Vec<u32> = (0..row).map(|place| (7 * row + place) % VOCABULARY_SIZE).collect();
        rows.push(Row { ids: &ids, second_segment: 1 }).unwrap();
    }
    rows.check(model.shape()).unwrap()
}

/// What the model answers on the device's queue, and what an engine of its own answers.
async fn scores(model: &LoadedModel, stored: &StoredModel) -> (Vec<f32>, Vec<f32>) {
    let mut alone = Vec::new();
    model.device().engine(stored).unwrap().run(&rows(model), &mut alone).unwrap();
    (model.score(rows(model), &Account::default(), None).await.unwrap().outputs, alone)
}

fn names(device: &Device) -> Vec<String> {
    device.status().models.into_iter().map(|model| model.name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_revisions_of_one_name_are_two_models_with_their_own_scores() {
    let _alone = ALONE.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let (old, device) = (add(dir.path(), "tiny/one", 1), device(None));
    let before = device.load(&old).unwrap();
    let new = add(dir.path(), "tiny/one", 2);
    let after = device.load(&new).unwrap();
    assert_ne!(before.manifest().revision, after.manifest().revision);
    let (of_old, of_new) = (scores(&before, &old).await, scores(&after, &new).await);
    assert_eq!(of_old.0, of_old.1);
    assert_eq!(of_new.0, of_new.1);
    assert_ne!(of_old.0, of_new.0);
    assert_eq!(names(&device), ["tiny/one", "tiny/one"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_that_are_asked_at_once_give_the_scores_that_they_give_alone() {
    let _alone = ALONE.lock().await;
    let (dir, device) = (tempfile::tempdir().unwrap(), device(None));
    let mut askers = tokio::task::JoinSet::new();
    for seed in 1..4 {
        let stored = add(dir.path(), &format!("tiny/{seed}"), seed);
        let model = device.load(&stored).unwrap();
        let expected = scores(&model, &stored).await.1;
        for asker in 0..4 {
            let (model, expected) = (Arc::clone(&model), expected.clone());
            let account = Account { tenant: format!("{asker}").into(), ..Account::default() };
            askers.spawn(async move {
                for _ in 0..50 {
                    assert_eq!(model.score(rows(&model), &account, None).await.unwrap().outputs, expected);
                }
            });
        }
    }
    while let Some(asked) = askers.join_next().await {
        asked.unwrap();
    }
    let total = device.meter().read();
    let by_model: u64 = device.status().models.iter().map(|model| model.tokens).sum();
    assert_eq!(total.tokens, by_model);
}

#[tokio::test]
async fn a_model_without_holders_is_unloaded_for_room_and_a_held_one_is_not() {
    let _alone = ALONE.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let stored: Vec<StoredModel> = (1..4).map(|seed| add(dir.path(), &format!("tiny/{seed}"), seed)).collect();
    // Room for two, and half of a third.
    let budget = {
        let roomy = device(None);
        let _one = roomy.load(&stored[0]).unwrap();
        let one = roomy.status().models.remove(0);
        let own = one.weights_bytes + one.io_bytes;
        2 * own + one.arena_bytes + own / 2
    };
    let device = device(Some(budget));
    let first = device.load(&stored[0]).unwrap();
    let expected = first.score(rows(&first), &Account::default(), None).await.unwrap().outputs;
    let second = device.load(&stored[1]).unwrap();
    match device.load(&stored[2]) {
        Err(LoadError::NoRoom(refused)) => {
            let message = refused.to_string();
            for part in ["tiny/3 needs", "tiny/1", "tiny/2", "budget"] {
                assert!(message.contains(part), "{message:?} lacks {part:?}");
            }
            let held: Vec<&str> = refused.held.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!((held.len(), refused.budget_bytes), (2, budget), "{refused:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(names(&device), ["tiny/1", "tiny/2"]);

    drop(first);
    let third = device.load(&stored[2]).unwrap();
    assert_eq!(names(&device), ["tiny/2", "tiny/3"]);
    assert!(device.status().memory_used_bytes <= budget);
    drop((second, third));
    // The second was given back first or last: either way there is room for the first again, with the scores it had.
    let first = device.load(&stored[0]).unwrap();
    assert_eq!(first.score(rows(&first), &Account::default(), None).await.unwrap().outputs, expected);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn two_models_have_no_more_threads_than_one() {
    let _alone = ALONE.lock().await;
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|name| name.starts_with("assay-")).count()
    };
    let (dir, device) = (tempfile::tempdir().unwrap(), device(None));
    let mut models = Vec::new();
    for seed in 1..4 {
        let model = device.load(&add(dir.path(), &format!("tiny/{seed}"), seed)).unwrap();
        model.score(rows(&model), &Account::default(), None).await.unwrap();
        models.push(model);
        // The dispatch thread is one of those that compute.
        assert!(threads() <= THREADS, "{} threads for {seed} models", threads());
    }
}
