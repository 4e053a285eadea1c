//! Memory that really runs out: the process is given less than the model needs, and more again.
//!
//! A file of its own, because the limit is the whole process's.
#![cfg(all(feature = "gpu", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test")]

mod gpu_support;

use std::process::Command;

use assay_kernels::gpu::{AdapterKind, AdapterSelection, GpuEngine, GpuOptions};
use assay_kernels::{Engine, EngineError, PackedBatch};
use gpu_support::{skip, tiny};

/// Enough tokens that the arena is most of what the process has.
const MAX_BATCH_TOKENS: usize = 100_000;

#[test]
fn a_model_that_no_longer_fits_is_an_error_until_there_is_memory_again() {
    let Some((weights, golden)) = tiny("tiny-bert-hd64") else { return };
    let options =
        GpuOptions { adapter: AdapterSelection::Any, max_batch_tokens: MAX_BATCH_TOKENS, ..GpuOptions::default() };
    let mut engine = match GpuEngine::new(weights, options) {
        Ok(engine) => engine,
        Err(error) => return skip::<()>(&error.to_string()).unwrap_or_default(),
    };
    if engine.adapter().is_none_or(|adapter| adapter.kind != AdapterKind::Software) {
        return skip::<()>("only a software adapter's memory is the process's").unwrap_or_default();
    }
    let mut batch = PackedBatch::default();
    batch.push(golden.batch.row(1)).unwrap();
    let mut before = Vec::new();
    engine.run(&batch, &mut before).unwrap();
    let arena_bytes = engine.memory().arena_bytes;
    assert!(arena_bytes > 100 << 20, "{arena_bytes}");

    // The device is lost and its memory with it; what the process may have then is half an arena less than it had.
    let Some(limit) = address_space_bytes().map(|bytes| bytes - arena_bytes / 2) else {
        return skip::<()>("the system does not tell the size of this process").unwrap_or_default();
    };
    engine.provoke_device_loss();
    if !limit_address_space(&limit.to_string()) {
        return skip::<()>("prlimit is not there").unwrap_or_default();
    }
    let mut outputs = Vec::new();
    let errors: Vec<String> = (0..3)
        .map(|_| match engine.run(&batch, &mut outputs) {
            Err(EngineError::Device(message)) => message,
            other => {
                limit_address_space("unlimited");
                panic!("{other:?}")
            }
        })
        .collect();
    limit_address_space("unlimited");
    eprintln!("{errors:?}");
    assert!(errors.iter().any(|error| error.contains("out of memory")), "{errors:?}");
    assert!(outputs.is_empty());
    engine.run(&batch, &mut outputs).unwrap();
    assert_eq!(outputs, before);
}

/// Sets this process's soft limit on address space.
fn limit_address_space(bytes: &str) -> bool {
    let id = std::process::id().to_string();
    let status = Command::new("prlimit").args(["--pid", &id, &format!("--as={bytes}:")]).status();
    status.is_ok_and(|status| status.success())
}

fn address_space_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmSize:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
