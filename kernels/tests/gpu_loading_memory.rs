//! What a model on a GPU takes of the processor's memory: its layers while it loads, and nothing afterwards.
//!
//! Counts what Rust code allocates, and not what the process has: a software adapter keeps its device's memory in the
//! same process. One test, because the count is the whole process's.
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
use large_models::{Shape, Stored, write, xlm_roberta};

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
}

fn load(device: &Arc<GpuDevice>, dir: &Path) -> GpuEngine {
    let model = checkpoint::load(dir, None).unwrap();
    let options = GpuOptions { precision: Precision::F16, max_batch_tokens: 1024, ..GpuOptions::default() };
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

#[test]
fn an_f16_file_is_served_without_a_copy_in_the_processors_memory() {
    let Some(device) = shared_device() else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), &Shape { config: xlm_roberta(12, 512, 20_000), stored: Stored::F16 }) as usize;
    let before = HELD.load(Ordering::Relaxed);
    let held = || HELD.load(Ordering::Relaxed).saturating_sub(before);
    MOST.store(before, Ordering::Relaxed);
    let mut engine = load(&device, dir.path());
    let most = MOST.load(Ordering::Relaxed) - before;
    println!("a file of {} MB: {} MB while it loads, {} MB afterwards", file >> 20, most >> 20, held() >> 20);
    // All layers in f32, twice the file's, before the first one is on the device.
    assert!(most <= 2 * file, "a file of {file} took {most}");
    assert!(held() <= file / 10, "{} stay of a file of {file}", held());
    let outputs = run(&mut engine);

    engine.provoke_device_loss();
    let mut rows = PackedBatch::default();
    rows.push(Row { ids: &[0, 2], second_segment: 2 }).unwrap();
    let rows = rows.check(&engine.shape()).unwrap();
    assert!(engine.run(&rows, &mut Vec::new()).is_err(), "the first batch meets the loss");
    assert_eq!(run(&mut engine), outputs);
    assert!(held() <= file / 10, "{} stay after a loss, of a file of {file}", held());
}
