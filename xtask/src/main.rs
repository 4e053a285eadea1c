//! Set-up and chores. `cargo xtask demo` and `cargo xtask test` each need nothing beforehand but the Rust toolchain, a
//! C compiler, Python and the system's package manager; what they fetch and build stays below `target/`.

mod gpu_report;
mod guest;
mod step;
mod vulkan;
mod wasm_std;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Parser;

use step::{cargo, run, say};
use vulkan::{TestDriver, VulkanRoot};

/// Chores of the Assay project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Build everything, fetch the default model, and rerank the passages in examples/
    Demo,
    /// Check formatting and lints, and run every test
    Test,
    /// Build the guests and the programs `assay` and `assay-bench`
    Build,
    /// Set up Vulkan drivers for development in target/vulkan
    VulkanRoot {
        /// Add a second software adapter
        #[arg(long)]
        swiftshader: bool,
    },
    /// Run the GPU tests, on lavapipe in target/vulkan where this machine has no driver
    GpuTest {
        /// Run the smaller set for a second driver instead, on SwiftShader in target/vulkan
        #[arg(long)]
        swiftshader: bool,
        /// Passed to the test binaries
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// What Apple's and AMD's compilers make of every kernel
    GpuReport {
        /// Write the figures to docs/kernels.md and to the baseline
        #[arg(long, conflicts_with = "check")]
        write: bool,
        /// Fail where a kernel fell behind the baseline
        #[arg(long)]
        check: bool,
    },
}

fn main() -> Result<()> {
    let root = root()?;
    match Task::parse() {
        Task::Demo => demo(&root),
        Task::Test => test(&root),
        Task::Build => build(&root),
        Task::VulkanRoot { swiftshader } => vulkan::run_set_up(&root, swiftshader),
        Task::GpuTest { swiftshader, arguments } => {
            let driver = if swiftshader { TestDriver::second(&root)? } else { TestDriver::find(&root)? };
            say(&format!("testing the GPU engine: {}", driver.name));
            driver.run_tests(&root, current_test_model(&root).as_deref(), &arguments)
        }
        Task::GpuReport { write, check } => gpu_report::run(
            &root,
            &VulkanRoot::set_up(&root)?,
            match (write, check) {
                (true, _) => gpu_report::Mode::Write,
                (_, true) => gpu_report::Mode::Check,
                _ => gpu_report::Mode::Print,
            },
        ),
    }
}

fn root() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace's root")?;
    Ok(root.to_owned())
}

fn build(root: &Path) -> Result<()> {
    say("building the guests");
    guest::build_guests(root)?;
    say("building assay and assay-bench (minutes the first time: a WebAssembly compiler is part of it)");
    run(cargo(root).args(["build", "--release", "--workspace"]))
}

/// Where the demo keeps models and compiled guests.
fn data_dir(root: &Path) -> PathBuf {
    root.join("target/assay-data")
}

fn assay(root: &Path, data_dir: &Path) -> Command {
    let mut command = Command::new(target_dir(root).join("release/assay"));
    command.current_dir(root).arg("--data-dir").arg(data_dir);
    command
}

/// Where cargo puts the root workspace's programs.
fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

/// Brings the default model in, unless it is here.
fn model(root: &Path) -> Result<()> {
    if data_dir(root).join("models/default").is_file() {
        return Ok(());
    }
    say("fetching the default model");
    run(assay(root, &data_dir(root)).args(["model", "pull"]))
}

/// Brings in the model that the tests compare with known scores, unless it is here, and says where it lies.
fn test_model(root: &Path) -> Result<PathBuf> {
    if current_test_model(root).is_none() {
        say("fetching the model that the tests use");
        run(assay(root, &test_data_dir(root)).args(["model", "pull", "--embedded"]))?;
    }
    current_test_model(root).context("the model that the tests use was fetched and is not there")
}

/// Where the model that the tests use lies, if it is here.
fn current_test_model(root: &Path) -> Option<PathBuf> {
    let revisions = test_data_dir(root).join("models/assay--minilm-l6-debian");
    let revision = std::fs::read_to_string(revisions.join("current")).ok()?;
    Some(revisions.join(revision.trim()))
}

/// Where the tests keep models.
fn test_data_dir(root: &Path) -> PathBuf {
    root.join("target/test-data")
}

fn demo(root: &Path) -> Result<()> {
    build(root)?;
    model(root)?;
    say("models here");
    let assay = || assay(root, &data_dir(root));
    run(assay().args(["model", "list"]))?;
    let requests = root.join("target/demo-requests.jsonl");
    std::fs::write(&requests, demo_requests(root)?).context("cannot write the demo's requests")?;
    say("reranking examples/passages.jsonl for each query of examples/queries.jsonl");
    println!("assay rerank --requests target/demo-requests.jsonl --top-n 3\n");
    run(assay().arg("rerank").arg("--requests").arg(&requests).args(["--top-n", "3"]))
}

/// Pairs every query with all passages: both files hold one JSON string a line.
fn demo_requests(root: &Path) -> Result<String> {
    let read = |name: &str| {
        std::fs::read_to_string(root.join("examples").join(name))
            .with_context(|| format!("cannot read examples/{name}"))
    };
    let passages = read("passages.jsonl")?;
    let documents = passages.lines().collect::<Vec<_>>().join(",");
    let line = |query: &str| format!("{{\"query\":{query},\"documents\":[{documents}]}}\n");
    Ok(read("queries.jsonl")?.lines().map(line).collect())
}

fn test(root: &Path) -> Result<()> {
    say("building the guests");
    guest::build_guests(root)?;
    let guest = root.join("guest");
    let guest_target = ["--target-dir", "../target/guests"];
    say("checking formatting");
    run(cargo(root).args(["fmt", "--all", "--check"]))?;
    run(cargo(&guest).args(["fmt", "--all", "--check"]))?;
    say("building the programs and the tests (minutes the first time: a WebAssembly compiler is part of it)");
    let workspace = || {
        let mut cargo = cargo(root);
        cargo.args(["test", "--release", "--workspace"]);
        cargo
    };
    // The programs are built along with the tests: building them alone first would build some crates twice.
    run(workspace().arg("--no-run"))?;
    let minilm = test_model(root)?;
    say("testing the guests' logic natively");
    let mut guests = cargo(&guest);
    run(guests.args(["test", "--release", "--workspace"]).args(guest_target).env("ASSAY_MINILM_DIR", &minilm))?;
    say("testing the workspace");
    run(workspace().env("ASSAY_MINILM_DIR", &minilm))?;
    let skipped = test_gpu(root, &minilm)?;
    say("linting");
    let deny = ["--", "--deny", "warnings"];
    run(cargo(root).args(["clippy", "--release", "--workspace", "--all-targets"]).args(deny))?;
    run(cargo(&guest).args(["clippy", "--release", "--workspace", "--all-targets"]).args(guest_target).args(deny))?;
    match skipped.is_empty() {
        true => say("all tests passed"),
        false => say(&format!("all tests passed but those that were skipped:\n   {}", skipped.join("\n   "))),
    }
    Ok(())
}

/// Runs what needs a Vulkan driver or GPU compilers. Says what was skipped, and why, where this machine has none and they
/// cannot be had.
fn test_gpu(root: &Path, minilm: &Path) -> Result<Vec<String>> {
    let mut skipped = Vec::new();
    say("setting up a Vulkan driver and GPU compilers (about a minute the first time)");
    match TestDriver::find(root) {
        Ok(driver) => {
            say(&format!("testing the GPU engine: {}", driver.name));
            driver.run_tests(root, Some(minilm), &[])?;
        }
        Err(reason) => skipped.push(format!("the GPU engine on a Vulkan driver: {reason:#}")),
    }
    match VulkanRoot::set_up(root) {
        Ok(vulkan) => {
            say("comparing what GPU compilers make of the kernels with what they made of them before");
            gpu_report::run(root, &vulkan, gpu_report::Mode::Check)?;
        }
        Err(reason) => skipped.push(format!("the kernels by Apple's and AMD's compilers: {reason:#}")),
    }
    for what in &skipped {
        say(&format!("skipped: {what}"));
    }
    Ok(skipped)
}
