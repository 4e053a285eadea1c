//! Set-up and chores. `cargo xtask demo` and `cargo xtask test` each need nothing beforehand but the Rust toolchain, a
//! C compiler, Python and the system's package manager; what they fetch and build stays below `target/`.

mod gpu_compile;
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
    /// Compile one shader with the Vulkan driver at hand (used by gpu-report)
    #[command(hide = true)]
    GpuCompile {
        /// The shader
        file: PathBuf,
        /// An override constant, as NAME=VALUE
        #[arg(long = "set", value_parser = gpu_compile::constant)]
        constants: Vec<(String, f64)>,
    },
}

fn main() -> Result<()> {
    let root = root()?;
    match Task::parse() {
        Task::Demo => demo(&root),
        Task::Test => test(&root),
        Task::Build => build(&root),
        Task::VulkanRoot { swiftshader } => vulkan::run_set_up(&root, swiftshader),
        Task::GpuTest { arguments } => vulkan::run_tests(&root, &arguments),
        Task::GpuReport { write, check } => gpu_report::run(
            &root,
            match (write, check) {
                (true, _) => gpu_report::Mode::Write,
                (_, true) => gpu_report::Mode::Check,
                _ => gpu_report::Mode::Print,
            },
        ),
        Task::GpuCompile { file, constants } => gpu_compile::run(&file, &constants),
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
    let data_dir = root.join("target/test-data");
    let revisions = data_dir.join("models/assay--minilm-l6-debian");
    let current = revisions.join("current");
    if !current.is_file() {
        say("fetching the model that the tests use");
        run(assay(root, &data_dir).args(["model", "pull", "--embedded"]))?;
    }
    let revision = std::fs::read_to_string(&current).with_context(|| format!("cannot read {}", current.display()))?;
    Ok(revisions.join(revision.trim()))
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
    say("linting");
    let deny = ["--", "--deny", "warnings"];
    run(cargo(root).args(["clippy", "--release", "--workspace", "--all-targets"]).args(deny))?;
    run(cargo(&guest).args(["clippy", "--release", "--workspace", "--all-targets"]).args(guest_target).args(deny))?;
    say("all tests passed");
    Ok(())
}
