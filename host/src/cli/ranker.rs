//! A model and a guest, loaded for one command that ranks here and not through a server.

use std::path::Path;
use std::sync::Arc;

use super::error::CliError;
use super::patience::Patience;
use crate::device::{Device, LoadedModel};
use crate::guest::{self, Guest, GuestRuntime, RuntimeOptions};
use crate::model::store::StoredModel;

/// A model and a guest that is prepared for it.
pub(super) struct Ranker {
    pub(super) model: Arc<LoadedModel>,
    pub(super) guest: Guest,
    /// Guests end when it is dropped: after the two above, as fields are dropped in their order.
    _runtime: GuestRuntime,
    /// What a request waits on. Guests use its timers, so it ends after them.
    pub(super) threads: tokio::runtime::Runtime,
}

impl Ranker {
    /// Loads the model onto the device, and the guest: the standard one, or the component in a file. Preparing a guest
    /// for a model is slow only the first time.
    ///
    /// # Errors
    /// The model does not fit the device, or the guest cannot be used.
    pub(super) fn open(
        device: &Arc<Device>,
        stored: &StoredModel,
        guest: Option<&Path>,
        data_dir: &Path,
    ) -> Result<Self, CliError> {
        // The model and the guest runtime load in parallel.
        let (model, runtime) = std::thread::scope(|scope| {
            let runtime = scope.spawn(|| GuestRuntime::new(&data_dir.join("compiled"), &RuntimeOptions::default()));
            let model = device.load(stored);
            (model, runtime.join())
        });
        let (model, runtime) = (model?, runtime.map_err(|_| CliError::failed("setting up guests panicked"))??);
        let guest = load_guest(&runtime, guest, &model)?;
        let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let threads = threads.map_err(|error| CliError::failed(format!("no threads can be started: {error}")))?;
        Ok(Self { model, guest, _runtime: runtime, threads })
    }

    /// The engine and its device, for people.
    pub(super) fn engine(&self) -> String {
        let engine = self.model.engine();
        format!("{} {} · {} · {}", engine.name, engine.precision, engine.device, self.model.device().reason())
    }

    /// Checks a label that the command line names.
    ///
    /// # Errors
    /// The model has labels, and not this one.
    pub(super) fn check_label(&self, label: Option<&str>) -> Result<(), CliError> {
        let info = self.model.info();
        let Some(label) = label.filter(|_| !info.labels.is_empty()) else { return Ok(()) };
        info.label_setting(label).map_err(|why| CliError::bad_input(format!("--label: {why}")))?;
        Ok(())
    }

    /// What to say to a request that names no label of a model with several.
    pub(super) fn needs_a_label(&self) -> Option<String> {
        let info = self.model.info();
        info.has_open_label().then(|| format!("model {} has {} labels ({})", info.name, info.outputs, info.labels()))
    }
}

fn load_guest(runtime: &GuestRuntime, path: Option<&Path>, model: &LoadedModel) -> Result<Guest, CliError> {
    let _patience = Patience::new("the guest is compiled and prepared for this model, once: some seconds");
    let guest = match (path, guest::standard()) {
        (Some(path), _) => {
            let wasm = guest::read_component(path)?;
            runtime.load_prepared(&path.display().to_string(), &wasm, model.info())?
        }
        (None, Some(standard)) => runtime.load_prepared("the standard guest", standard, model.info())?,
        (None, None) => {
            return Err(CliError::failed(
                "this program was built without the standard guest: build it with `cargo xtask build`, or name one with \
                 --guest",
            ));
        }
    };
    if !guest.labels().is_empty() {
        return Err(CliError::bad_input(
            "the guest calls other tenants: deploy it with `assay tenant deploy NAME FILE --link TENANT`, and ask it with \
             `assay run` or over HTTP",
        ));
    }
    Ok(guest)
}
