//! A model from a hub: who asks it, where it is, and what stands in for it when it may not be asked.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::process::Command;

use assay::model::ModelStore;
use common::hub::{self, COMMIT, Hub};
use common::tiny::Model;
use common::{Bench, finish};

/// `assay model pull owner/ranker` with these variables alone.
fn pull(bench: &Bench, variables: &[(&str, &str)]) -> Command {
    let mut command = hub::assay(bench, variables);
    command.args(["model", "pull", "owner/ranker"]);
    command
}

fn names(bench: &Bench) -> Vec<String> {
    let listed = ModelStore::new(&bench.path("data")).list().unwrap();
    listed.into_iter().map(|listed| listed.model.manifest.name).collect()
}

#[test]
fn a_gated_model_is_fetched_with_ones_token() {
    for place in ["HF_TOKEN", "file", "home"] {
        let bench = Bench::new();
        let files = bench.path("files");
        Model::default().write(&files);
        std::fs::write(files.join("tokenizer_config.json"), r#"{"do_lower_case": false}"#).unwrap();
        let hub = Hub::start(files);
        // A slash at the end is common.
        let endpoint = format!("{}/", hub.endpoint);
        let home = bench.path("elsewhere");
        std::fs::create_dir_all(bench.path("home/.cache/huggingface")).unwrap();
        std::fs::create_dir_all(&home).unwrap();
        let mut variables = vec![("HF_ENDPOINT", endpoint.as_str())];
        finish(&mut pull(&bench, &variables)).fails(1, &["it may need a token: set HF_TOKEN"]);
        assert!(hub.tokens().iter().all(Option::is_none));
        match place {
            "HF_TOKEN" => variables.push(("HF_TOKEN", "hf_right")),
            "file" => {
                std::fs::write(home.join("token"), "hf_right\n").unwrap();
                variables.push(("HF_HOME", home.to_str().unwrap()));
            }
            _ => std::fs::write(bench.path("home/.cache/huggingface/token"), "hf_right").unwrap(),
        }
        let pulled = finish(&mut pull(&bench, &variables)).succeeds();
        assert!(
            pulled.stderr.contains("texts are not lower-cased"),
            "its settings were not fetched: {}",
            pulled.stderr
        );
        assert!(hub.tokens().iter().all(|token| token.as_deref() == Some("Bearer hf_right")), "{place}");
        assert_eq!(names(&bench), ["owner/ranker", "tiny"]);
        variables.push(("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"));
        finish(&mut pull(&bench, &variables)).fails(1, &["HF_TOKEN"]);
        assert!(hub.tokens().iter().all(Option::is_none));
    }
}

#[test]
fn a_head_in_modules_is_fetched_with_their_folders() {
    let bench = Bench::new();
    let hub = Hub::start(testdata::model("ettin"));
    let variables = [("HF_ENDPOINT", hub.endpoint.as_str()), ("HF_TOKEN", "hf_right")];
    finish(&mut pull(&bench, &variables)).succeeds();
    let store = ModelStore::new(&bench.path("data"));
    let pulled =
        store.list().unwrap().into_iter().map(|listed| listed.model).find(|it| it.manifest.name == "owner/ranker");
    let files: Vec<String> = pulled.unwrap().manifest.files.into_keys().collect();
    for file in ["1_Pooling/config.json", "2_Dense/model.safetensors", "3_LayerNorm/model.safetensors", "modules.json"]
    {
        assert!(files.iter().any(|kept| kept == file), "{file} is not among {files:?}");
    }
    assert!(!files.iter().any(|kept| kept == "golden.json"), "{files:?}");
}

#[test]
fn a_wrong_token_is_named_as_the_cause() {
    let bench = Bench::new();
    Model::default().write(&bench.path("files"));
    let hub = Hub::start(bench.path("files"));
    let variables = [("HF_ENDPOINT", hub.endpoint.as_str()), ("HF_TOKEN", "hf_wrong")];
    let refused = finish(&mut pull(&bench, &variables));
    refused.fails(1, &["the token in HF_TOKEN or its file may not see it"]);
    assert!(!refused.stderr.contains("hf_wrong"), "{}", refused.stderr);
}

#[test]
fn offline_a_model_comes_from_the_cache_of_the_hubs_tools() {
    let bench = Bench::new();
    let repository = bench.path("cache/models--owner--ranker");
    Model::default().write(&repository.join("snapshots").join(COMMIT));
    std::fs::create_dir_all(repository.join("refs")).unwrap();
    std::fs::write(repository.join("refs/main"), COMMIT).unwrap();
    let cache = bench.path("cache");
    // No port of this address is open.
    let closed = ("HF_ENDPOINT", "http://127.0.0.1:9");
    let empty = bench.path("empty");
    let variables = [closed, ("HF_HUB_OFFLINE", "1"), ("HF_HUB_CACHE", empty.to_str().unwrap())];
    finish(&mut pull(&bench, &variables)).fails(1, &["HF_HUB_OFFLINE is set", "has no owner/ranker at main"]);
    let variables = [closed, ("HF_HUB_OFFLINE", "1"), ("HF_HUB_CACHE", cache.to_str().unwrap())];
    finish(&mut pull(&bench, &variables)).succeeds();
    assert_eq!(names(&bench), ["owner/ranker", "tiny"]);
    let list = finish(bench.assay().args(["model", "list"])).succeeds().stdout;
    assert!(list.contains(&COMMIT[..8]), "{list}");
}
