//! `cargo xtask compare-cross-encoder` and `compare-measures`: the programs beside the Python libraries that they must
//! agree with. Those are installed below `target/`, at the versions that `testdata/` pins.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::clients::venv;
use crate::step::{cargo, run, say};
use crate::{data_dir, fetch_model, target_dir};

/// The scripts that compare with sentence-transformers, from the repository's root.
const CROSS_ENCODER: &str = "testdata/cross-encoder";

/// The script that compares with ir_measures.
const QUALITY: &str = "testdata/quality";

/// Scores pairs of real text with the default model, by `assay` and by `CrossEncoder.predict`.
///
/// # Errors
/// Something cannot be installed or built, or a pair differs.
pub(crate) fn run_cross_encoder(root: &Path, python: Option<PathBuf>) -> Result<()> {
    let (folder, python) = cross_encoder_python(root, python)?;
    say("building assay");
    run(cargo(root).args(["build", "--release", "--workspace", "--bin", "assay"]))?;
    fetch_model(root)?;
    say("scoring pairs with assay, then with CrossEncoder.predict");
    let mut script = Command::new(python);
    script.arg(root.join(CROSS_ENCODER).join("compare.py")).arg("--assay").arg(target_dir(root).join("release/assay"));
    run(script.arg("--data-dir").arg(data_dir(root)).arg("--work").arg(folder))
}

/// Has `assay` read models saved in many ways: all rows of the matrix, or those whose names contain one of `names`.
///
/// # Errors
/// Something cannot be installed or built, or a row failed.
pub(crate) fn run_saves(root: &Path, python: Option<PathBuf>, names: &[String]) -> Result<()> {
    let (folder, python) = cross_encoder_python(root, python)?;
    say("building assay and the program that scores without the sandbox");
    run(cargo(root).args(["build", "--release", "--workspace", "--bin", "assay", "--example", "score"]))?;
    say("saving models, and adding them");
    let mut script = Command::new(python);
    script.arg(root.join(CROSS_ENCODER).join("saves.py")).arg("--assay").arg(target_dir(root).join("release/assay"));
    script.arg("--score").arg(target_dir(root).join("release/examples/score"));
    run(script.arg("--work").arg(folder.join("saves")).args(names))
}

/// Checks the golden values of the bench's measures, and reports.
///
/// # Errors
/// Something cannot be installed, or a value differs.
pub(crate) fn run_measures(root: &Path, python: Option<PathBuf>, reports: &[PathBuf]) -> Result<()> {
    let requirements = root.join(QUALITY).join("requirements.txt");
    let python = python.map_or_else(|| venv(&root.join("target/measures"), &requirements), Ok)?;
    run(Command::new(python).arg(root.join(QUALITY).join("make.py")).arg("--check").args(reports))
}

/// The folder for what the scripts make, and a Python with their packages.
fn cross_encoder_python(root: &Path, python: Option<PathBuf>) -> Result<(PathBuf, PathBuf)> {
    let folder = root.join("target/cross-encoder");
    std::fs::create_dir_all(&folder)?;
    let requirements = root.join(CROSS_ENCODER).join("requirements.txt");
    let python = python.map_or_else(|| venv(&folder, &requirements), Ok)?;
    Ok((folder, python))
}
