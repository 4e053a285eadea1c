//! What a model on a GPU takes of the processor's memory: its layers while it loads, and nothing afterwards but a word
//! table that the device cannot bind.
//!
//! Counts what Rust code allocates, and on Linux what the process has, so that memory which the C library keeps counts
//! too. One test, because both are the whole process's.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(unsafe_code, reason = "an allocator that counts")]

mod gpu_support;
mod large_models;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use assay_kernels::gpu::{GpuDevice, GpuEngine, GpuOptions};
use assay_kernels::{Engine, PackedBatch, Precision, Row, checkpoint};
use gpu_support::shared_device;
use large_models::{Shape, Stored, status, write, xlm_roberta};

/// The system's allocator, counted.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that are allocated, and the most that were.
static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: allocates and frees with the system's allocator alone, with the layouts that the caller gives.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller keeps this function's contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above; `at` is from `alloc`, so from the system's allocator.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(held, Ordering::Relaxed);
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let held = HELD.fetch_add(size, Ordering::Relaxed) + size;
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        MOST.fetch_max(held, Ordering::Relaxed);
        // SAFETY: as in `dealloc`.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// Loads a model of a real size too; it takes 1.1 GB below the system's directory for temporary files.
const LARGE: &str = "ASSAY_LOADING_LARGE";

fn load(device: &Arc<GpuDevice>, dir: &Path, max_table_bytes: u64) -> GpuEngine {
    let model = checkpoint::load(dir, None).unwrap();
    let options =
        GpuOptions { precision: Precision::F16, max_batch_tokens: 1024, max_table_bytes, ..GpuOptions::default() };
    let again = PathBuf::from(dir);
    let read = Box::new(move || Ok(checkpoint::load(&again, None)?));
    GpuEngine::load_from_files(device, model, read, &options).unwrap()
}

fn run(engine: &mut GpuEngine) -> Vec<f32> {
    let mut rows = PackedBatch::default();
    rows.push(Row { ids: &[0, 7, 2, 2, 9, 2], second_segment: 6 }).unwrap();
    let mut outputs = Vec::new();
    engine.run(&rows.check(&engine.shape()).unwrap(), &mut outputs).unwrap();
    outputs
}

/// Memory of the process that is no file's and no device's, where the system tells. A software adapter's buffers are
/// shared memory.
fn resident() -> Option<usize> {
    cfg!(target_os = "linux").then(|| status("RssAnon") as usize)
}

/// Loads a model of a file of `file` bytes; checks that of what was allocated only a word table on the host stays, also
/// with the C library, and returns its scores.
fn check(device: &Arc<GpuDevice>, dir: &Path, file: usize, max_table_bytes: u64) -> (GpuEngine, Vec<f32>) {
    let before = (HELD.load(Ordering::Relaxed), resident());
    MOST.store(before.0, Ordering::Relaxed);
    let mut engine = load(device, dir, max_table_bytes);
    let most = MOST.load(Ordering::Relaxed) - before.0;
    let outputs = run(&mut engine);
    let held = HELD.load(Ordering::Relaxed).saturating_sub(before.0);
    let stays = resident().zip(before.1).map(|(now, before)| now.saturating_sub(before));
    let table = engine.memory().host_bytes as usize;
    println!(
        "a file of {} MB, {:?}: {} MB while it loads, {} MB afterwards, with what is freed {} MB",
        file / 1_000_000,
        engine.word_table(),
        most / 1_000_000,
        held / 1_000_000,
        stays.map_or("unknown".to_owned(), |stays| (stays / 1_000_000).to_string()),
    );
    // All layers as they are stored, before the first one is on the device.
    assert!(most <= file * 13 / 10, "a file of {file} took {most}");
    assert!(held <= table + file / 10, "{held} stay of a file of {file} beside {table}");
    if let Some(stays) = stays {
        assert!(stays <= table + file / 4, "{stays} stay with what is freed of a file of {file} beside {table}");
    }
    (engine, outputs)
}

#[test]
fn an_f16_file_is_served_without_a_copy_in_the_processors_memory() {
    let Some(device) = shared_device() else { return };
    let dir = tempfile::tempdir().unwrap();
    let write = |layers, hidden, words| {
        write(dir.path(), &Shape { config: xlm_roberta(layers, hidden, words), stored: Stored::F16 }) as usize
    };
    // Kernels are compiled, and the arena is made, before anything is counted.
    write(1, 512, 100);
    let mut small = load(&device, dir.path(), u64::MAX);
    run(&mut small);
    let file = write(12, 512, 20_000);
    let (on_device, outputs) = check(&device, dir.path(), file, u64::MAX);
    assert_eq!(on_device.memory().host_bytes, 0);
    drop(on_device);
    let (mut engine, same) = check(&device, dir.path(), file, 0);
    assert_eq!(engine.memory().host_bytes, 2 * 20_000 * 512, "the table is not widened");
    assert_eq!(same, outputs);

    let before = HELD.load(Ordering::Relaxed);
    engine.provoke_device_loss();
    let mut rows = PackedBatch::default();
    rows.push(Row { ids: &[0, 2], second_segment: 2 }).unwrap();
    let rows = rows.check(&engine.shape()).unwrap();
    assert!(engine.run(&rows, &mut Vec::new()).is_err(), "the first batch meets the loss");
    assert_eq!(run(&mut engine), outputs);
    let more = HELD.load(Ordering::Relaxed).saturating_sub(before);
    assert!(more <= file / 10, "{more} more stay after a loss, of a file of {file}");
    drop(engine);
    if std::env::var_os(LARGE).is_some() {
        write(1, 1_024, 100);
        let mut small = load(&device, dir.path(), u64::MAX);
        run(&mut small);
        let file = write(24, 1_024, 250_002);
        check(&device, dir.path(), file, u64::MAX);
    }
}
