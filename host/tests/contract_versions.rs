//! Guests that were built for earlier versions of the contract, beside those of today.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use assay::device::{Device, DeviceOptions, EngineChoice, LoadedModel};
use assay::guest::{Guest, GuestRuntime, RuntimeOptions};
use assay::limits::RequestLimits;
use assay::model::ModelStore;
use assay::rerank::{Request, RerankError, Response};
use common::tenants::{self, component, request};
use tempfile::TempDir;

/// One program, `guest/conformance/bad-rows`, built for each version: 0.1.0 once and kept, the newest now.
fn builds() -> [(&'static str, Vec<u8>); 2] {
    let kept = testdata::root().join("testdata/guests/bad-rows-0.1.0.wasm");
    [("0.1.0", std::fs::read(kept).unwrap()), ("newest", component("bad-rows"))]
}

struct Host {
    runtime: GuestRuntime,
    model: Arc<LoadedModel>,
    _dir: TempDir,
}

impl Host {
    fn new(choice: EngineChoice) -> Self {
        let dir = tenants::data_dir();
        let runtime = GuestRuntime::new(&dir.path().join("compiled"), &RuntimeOptions::default()).unwrap();
        let device = Device::open(&DeviceOptions { choice, ..DeviceOptions::default() }).unwrap();
        let model = device.load(&ModelStore::new(dir.path()).open(None).unwrap()).unwrap();
        Self { runtime, model, _dir: dir }
    }

    fn guests(&self) -> Vec<(&'static str, Guest)> {
        let load = |(name, wasm): (_, Vec<u8>)| {
            let guest = self.runtime.load_prepared(name, &wasm, self.model.info()).unwrap();
            assert!(guest.is_snapshotted(), "{name}");
            (name, guest)
        };
        builds().into_iter().map(load).collect()
    }

    /// Sends rows of one kind.
    async fn send(&self, guest: &Guest, rows: &str) -> Result<Response, RerankError> {
        let settings = vec![("rows".to_owned(), rows.to_owned())];
        let request = Request { settings, ..request(&["one", "two"]) };
        guest.rerank(Arc::clone(&self.model), request, &RequestLimits::default()).await
    }
}

#[tokio::test]
async fn a_guest_built_for_the_first_version_answers_as_one_built_today() {
    let host = Host::new(EngineChoice::Cpu);
    let guests = host.guests();
    for rows in ["good", "none", "too-long", "unknown-id", "segments-extra"] {
        let mut answers = Vec::new();
        for (_, guest) in &guests {
            answers.push(host.send(guest, rows).await.map(|answer| (answer.hits, answer.usage)));
        }
        assert_eq!(answers[0], answers[1], "{rows}");
        match rows {
            "good" => assert_eq!(answers[0].as_ref().unwrap().0.len(), 2),
            "none" => assert!(answers[0].as_ref().unwrap().0.is_empty()),
            _ => assert!(matches!(answers[0], Err(RerankError::InvalidInput(_))), "{rows}: {:?}", answers[0]),
        }
    }
}

#[tokio::test]
async fn a_device_that_fails_is_unavailable_to_the_callers_of_either() {
    let host = Host::new(EngineChoice::Puppet);
    for (name, guest) in host.guests() {
        // Rows of zeros make the puppet panic.
        let failed = host.send(&guest, "good").await.unwrap_err();
        let RerankError::Unavailable { reason, retry_after } = &failed else { panic!("{name}: {failed:?}") };
        assert_eq!(reason, "the device failed: the engine panicked", "{name}");
        assert_eq!(*retry_after, Duration::from_millis(100), "{name}");
        assert!(host.send(&guest, "none").await.is_ok(), "{name}: the next request fails");
    }
}
