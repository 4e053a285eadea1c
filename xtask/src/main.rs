//! Set-up and chores for Assay.

mod gpu_compile;
mod gpu_report;
mod vulkan;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Set up Vulkan drivers for development in target/vulkan.
    VulkanRoot {
        /// Add a second software adapter.
        #[arg(long)]
        swiftshader: bool,
    },
    /// Run the GPU tests, on lavapipe in target/vulkan where this machine has no driver.
    GpuTest {
        /// Passed to the test binaries.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// What Apple's and AMD's compilers make of every kernel.
    GpuReport {
        /// Write the figures to docs/kernels.md and to the baseline.
        #[arg(long, conflicts_with = "check")]
        write: bool,
        /// Fail where a kernel fell behind the baseline.
        #[arg(long)]
        check: bool,
    },
    /// Compile one shader with the Vulkan driver at hand (used by gpu-report).
    #[command(hide = true)]
    GpuCompile {
        file: PathBuf,
        /// An override constant, as NAME=VALUE.
        #[arg(long = "set", value_parser = gpu_compile::constant)]
        constants: Vec<(String, f64)>,
    },
}

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    match Arguments::parse().command {
        Chore::VulkanRoot { swiftshader } => vulkan::run_set_up(&root, swiftshader),
        Chore::GpuTest { arguments } => vulkan::run_tests(&root, &arguments),
        Chore::GpuReport { write, check } => gpu_report::run(
            &root,
            match (write, check) {
                (true, _) => gpu_report::Mode::Write,
                (_, true) => gpu_report::Mode::Check,
                _ => gpu_report::Mode::Print,
            },
        ),
        Chore::GpuCompile { file, constants } => gpu_compile::run(&file, &constants),
    }
}
