//! Facts about the machine, and the ceiling of its processor.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use candle_core::{Device, Tensor};

use crate::report::schema::{Ceiling, Machine};
use crate::stats::Summary;

/// The matrix multiplication of the ceiling: a feed-forward layer of MiniLM on a batch of about 3,000 tokens.
const CEILING_SHAPE: [usize; 3] = [3_000, 384, 1_536];

/// Multiplications before timing: the first one starts the threads.
const CEILING_WARMUP: usize = 3;

/// Timed multiplications: half a second on two processor cores.
const CEILING_RUNS: usize = 20;

impl Machine {
    /// Asks the system, and `git` for the commit.
    #[must_use]
    pub fn detect() -> Self {
        let assay::machine::Machine { cpu, cores, memory_bytes, os, arch } = assay::machine::Machine::detect();
        let versions =
            [("assay-bench", env!("CARGO_PKG_VERSION")), ("assay", env!("CARGO_PKG_VERSION")), ("report schema", "1")];
        Self {
            cpu,
            cores: cores.logical,
            memory_bytes,
            os,
            arch: arch.to_owned(),
            versions: BTreeMap::from(versions.map(|(name, version)| (name.to_owned(), version.to_owned()))),
            commit: commit(),
            command: std::env::args().collect(),
        }
    }
}

fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let hash = git(&["rev-parse", "--short=12", "HEAD"])?;
    let dirty = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty());
    Some(if dirty { format!("{hash}-dirty") } else { hash })
}

/// Measures what candle's matrix multiplication reaches on all cores, in 10⁹ operations per second, several times.
///
/// # Errors
/// There is not enough memory.
pub fn measure_ceiling() -> Result<Vec<f64>> {
    let [m, k, n] = CEILING_SHAPE;
    let left = Tensor::rand(-1f32, 1f32, (m, k), &Device::Cpu)?;
    let right = Tensor::rand(-1f32, 1f32, (k, n), &Device::Cpu)?;
    let mut gflop_per_s = Vec::with_capacity(CEILING_RUNS);
    for run in 0..CEILING_WARMUP + CEILING_RUNS {
        let began = Instant::now();
        std::hint::black_box(left.matmul(&right)?);
        let gflop = (2 * m * k * n) as f64 / 1e9;
        if run >= CEILING_WARMUP {
            gflop_per_s.push(gflop / began.elapsed().as_secs_f64());
        }
    }
    Ok(gflop_per_s)
}

impl Ceiling {
    /// A summary of measured speeds.
    #[must_use]
    pub fn of(gflop_per_s: Vec<f64>) -> Self {
        let [m, k, n] = CEILING_SHAPE;
        Self { m, k, n, gflop_per_s: Summary::of(gflop_per_s) }
    }
}
