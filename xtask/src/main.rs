//! Set-up and chores. `cargo xtask demo` and `cargo xtask test` need the Rust toolchain, a C compiler, Python and the
//! system's package manager; what they fetch and build stays below `target/`.

mod check;
mod clients;
mod compare;
mod debian;
mod gpu_report;
mod guest;
mod msl_check;
mod packages;
mod polyglot;
mod skips;
mod step;
mod telemetry;
mod test;
mod vulkan;
mod wasm_std;
mod wit;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Parser;

use guest::Which;
use step::{cargo, run, say};
use vulkan::{TestDriver, VulkanRoot};

/// Chores of the Assay project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Build everything, fetch the default model, and rerank the passages in examples/
    Demo,
    /// Check what changed since main: formatting, lints, and unit tests of the packages concerned
    Check {
        /// The commit or branch to compare with [default: where this branch left main, or HEAD on main itself]
        #[arg(long)]
        since: Option<String>,
    },
    /// Check formatting and lints, and run every test
    Test,
    /// Run real client libraries of other rerank services against a server
    Clients {
        /// Only these, by their names in clients/run.py [default: all, and the npm client]
        names: Vec<String>,
    },
    /// Make guests and callers in Rust, Python and JavaScript, compare their scores, and tell what each language costs
    Polyglot,
    /// Send a server requests made of its own OpenAPI document
    Schemathesis {
        /// For how long
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Watch a server under load with Prometheus, Chromium and `assay top`, and check what they see
    Telemetry,
    /// Compare scores with sentence-transformers' `CrossEncoder.predict` on 500 pairs of real text in 28 languages
    CompareCrossEncoder {
        /// Read models saved in every way that transformers, sentence-transformers and peft offer instead
        #[arg(long)]
        saves: bool,
        /// A Python that has testdata/cross-encoder/requirements.txt [default: one that is set up in
        /// target/cross-encoder]
        #[arg(long, value_name = "PROGRAM")]
        python: Option<PathBuf>,
        /// With --saves, only rows whose names contain one of these
        #[arg(requires = "saves")]
        names: Vec<String>,
    },
    /// Compare the measures of `assay-bench quality` with ir_measures, which uses trec_eval's code
    CompareMeasures {
        /// A Python that has testdata/quality/requirements.txt [default: one that is set up in target/measures]
        #[arg(long, value_name = "PROGRAM")]
        python: Option<PathBuf>,
        /// Reports of `assay-bench quality` to check, too
        reports: Vec<PathBuf>,
    },
    /// Build the guests and the programs `assay` and `assay-bench`
    Build {
        /// Only the guests
        #[arg(long)]
        guests: bool,
    },
    /// Check that docs/wit.md says what wit/ does, and that no released version of the contract changed
    Wit {
        /// Write docs/wit.md
        #[arg(long)]
        write: bool,
    },
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
    /// Check with clang that no kernel relies on Metal's compiler to unroll a loop over registers
    MslCheck,
}

fn main() -> Result<()> {
    let root = root()?;
    match Task::parse() {
        Task::Demo => demo(&root),
        Task::Check { since } => check::run_checks(&root, since.as_deref()),
        Task::Test => test::run_tests(&root),
        Task::Clients { names } => clients::run_clients(&root, &clients::install(&root)?, &names),
        Task::Polyglot => {
            build(&root, Which::Standard)?;
            polyglot::run_all(&root)
        }
        Task::Telemetry => telemetry::run_checks(&root),
        Task::Schemathesis { seconds } => clients::run_schemathesis(&root, seconds),
        Task::CompareCrossEncoder { saves: false, python, .. } => compare::run_cross_encoder(&root, python),
        Task::CompareCrossEncoder { saves: true, python, names } => compare::run_saves(&root, python, &names),
        Task::CompareMeasures { python, reports } => compare::run_measures(&root, python, &reports),
        Task::Build { guests: true } => guest::build_guests(&root, Which::All).map(drop),
        Task::Build { guests: false } => build(&root, Which::All),
        Task::Wit { write } => wit::run(&root, write),
        Task::VulkanRoot { swiftshader } => vulkan::run_set_up(&root, swiftshader),
        Task::GpuTest { swiftshader, arguments } => {
            let driver = if swiftshader { TestDriver::second(&root)? } else { TestDriver::find(&root)? };
            say(&format!("testing the GPU engine: {}", driver.name));
            run(&mut driver.test_command(&root, &arguments))
        }
        Task::GpuReport { write, check } => {
            let mode = match (write, check) {
                (true, _) => gpu_report::Mode::Write,
                (_, true) => gpu_report::Mode::Check,
                _ => gpu_report::Mode::Print,
            };
            let vulkan = VulkanRoot::set_up(&root)?;
            vulkan.add_compilers()?;
            gpu_report::run(&root, &vulkan, mode)
        }
        Task::MslCheck => msl_check::run(&root, &msl_check::Clang::find()?),
    }
}

fn root() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace's root")?;
    Ok(root.to_owned())
}

fn build(root: &Path, guests: Which) -> Result<()> {
    say("building the guests");
    guest::build_guests(root, guests)?;
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

/// Where cargo leaves the root workspace's programs.
fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

/// Fetches the default model, unless it is here.
fn fetch_model(root: &Path) -> Result<()> {
    if data_dir(root).join("models/default").is_file() {
        return Ok(());
    }
    say("fetching the default model");
    run(assay(root, &data_dir(root)).args(["model", "pull"]))
}

fn demo(root: &Path) -> Result<()> {
    build(root, Which::Standard)?;
    fetch_model(root)?;
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
