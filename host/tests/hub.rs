//! A model from a hub: who asks it, where it is, and what stands in for it when it may not be asked.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::process::Command;

use assay::model::ModelStore;
use common::hub::{self, COMMIT, Hub, Manner};
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
        finish(&mut pull(&bench, &variables)).fails(1, &["it may not exist, or need a token: set HF_TOKEN"]);
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
fn a_token_is_not_sent_to_where_the_hub_keeps_its_files() {
    let bench = Bench::new();
    Model::default().write(&bench.path("files"));
    let store = Hub::with(bench.path("files"), Manner { is_open: true, ..Manner::default() });
    let elsewhere = store.endpoint.replace("127.0.0.1", "localhost");
    let hub = Hub::with(bench.path("files"), Manner { elsewhere: Some(elsewhere), ..Manner::default() });
    let variables = [("HF_ENDPOINT", hub.endpoint.as_str()), ("HF_TOKEN", "hf_right")];
    finish(&mut pull(&bench, &variables)).succeeds();
    let tokens = store.tokens();
    assert!(tokens.len() > 2 && tokens.iter().all(Option::is_none), "{tokens:?}");
}

#[test]
fn a_hub_that_names_another_place_for_a_commit_writes_nothing() {
    let bench = Bench::new();
    Model::default().write(&bench.path("files"));
    let victim = bench.file("victim", "precious");
    for commit in ["../../victim", "main", "0123", &"g".repeat(40), &"A".repeat(40)] {
        let manner = Manner { commit: Some(commit.to_owned()), ..Manner::default() };
        let hub = Hub::with(bench.path("files"), manner);
        let variables = [("HF_ENDPOINT", hub.endpoint.as_str()), ("HF_TOKEN", "hf_right")];
        finish(&mut pull(&bench, &variables)).fails(1, &["for a commit", "no hub"]);
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    }
}

#[test]
fn what_is_not_what_the_hub_announced_is_refused_and_fetched_again() {
    let bench = Bench::new();
    Model::default().write(&bench.path("files"));
    let sha256 = assay::model::manifest::sha256_hex(b"something else");
    let pull_from = |sha256: Option<String>| {
        let hub = Hub::with(bench.path("files"), Manner { sha256, ..Manner::default() });
        let variables = [("HF_ENDPOINT", hub.endpoint.as_str()), ("HF_TOKEN", "hf_right")];
        finish(&mut pull(&bench, &variables))
    };
    pull_from(Some(sha256)).fails(1, &["model.safetensors of owner/ranker came damaged", "pull again"]);
    assert_eq!(names(&bench), ["tiny"]);
    let weights = std::fs::read(bench.path("files/model.safetensors")).unwrap();
    pull_from(Some(assay::model::manifest::sha256_hex(&weights))).succeeds();
    assert_eq!(names(&bench), ["owner/ranker", "tiny"]);
}

#[test]
fn what_an_earlier_pull_left_whole_is_held_to_what_the_hub_announces() {
    let bench = Bench::new();
    Model::default().write(&bench.path("files"));
    let mut weights = std::fs::read(bench.path("files/model.safetensors")).unwrap();
    let sha256 = Some(assay::model::manifest::sha256_hex(&weights));
    let dir = bench.path("data/downloads/owner--ranker").join(COMMIT);
    std::fs::create_dir_all(&dir).unwrap();
    *weights.last_mut().unwrap() ^= 1;
    std::fs::write(dir.join("model.safetensors"), weights).unwrap();
    let hub = Hub::with(bench.path("files"), Manner { sha256, ..Manner::default() });
    let variables = [("HF_ENDPOINT", hub.endpoint.as_str()), ("HF_TOKEN", "hf_right")];
    finish(&mut pull(&bench, &variables)).fails(1, &["model.safetensors of owner/ranker came damaged", "pull again"]);
    finish(&mut pull(&bench, &variables)).succeeds();
}

#[test]
fn a_model_that_was_refused_is_fetched_anew() {
    let bench = Bench::new();
    Model::default().write(&bench.path("files"));
    let tokenizer = std::fs::read(bench.path("files/tokenizer.json")).unwrap();
    bench.file("files/tokenizer.json", "<html>a proxy's page</html>");
    let hub = Hub::start(bench.path("files"));
    let variables = [("HF_ENDPOINT", hub.endpoint.as_str()), ("HF_TOKEN", "hf_right")];
    finish(&mut pull(&bench, &variables)).fails(2, &["tokenizer.json: is not a tokenizer"]);
    std::fs::write(bench.path("files/tokenizer.json"), tokenizer).unwrap();
    finish(&mut pull(&bench, &variables)).succeeds();
}

#[test]
fn what_is_broken_off_goes_on_where_it_was() {
    let bench = Bench::new();
    Model::default().write(&bench.path("files"));
    for (breaks, goes_well) in [(3, true), (100, false)] {
        let hub = Hub::with(bench.path("files"), Manner { breaks: breaks.into(), ..Manner::default() });
        let variables = [("HF_ENDPOINT", hub.endpoint.as_str()), ("HF_TOKEN", "hf_right")];
        let pulled = finish(pull(&bench, &variables).args(["--data-dir"]).arg(bench.path(&format!("data-{breaks}"))));
        match goes_well {
            true => drop(pulled.succeeds()),
            false => pulled.fails(1, &["broken off again and again, after ", "pull again to go on there"]),
        }
    }
}

#[test]
fn what_is_here_from_another_time_is_of_no_harm() {
    let bench = Bench::new();
    Model::default().write(&bench.path("files"));
    let weights = std::fs::read(bench.path("files/model.safetensors")).unwrap();
    let sha256 = Some(assay::model::manifest::sha256_hex(&weights));
    let hub = Hub::with(bench.path("files"), Manner { sha256, ..Manner::default() });
    let variables = [("HF_ENDPOINT", hub.endpoint.as_str()), ("HF_TOKEN", "hf_right")];
    let (dir, longer) = (bench.path("data/downloads/owner--ranker").join(COMMIT), vec![7; weights.len() + 1]);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("model.safetensors.part"), longer).unwrap();
    finish(&mut pull(&bench, &variables)).succeeds();
    assert_eq!(names(&bench), ["owner/ranker", "tiny"]);
}

#[test]
fn an_endpoint_or_a_token_that_cannot_be_one_is_named() {
    let bench = Bench::new();
    finish(&mut pull(&bench, &[("HF_ENDPOINT", "127.0.0.1:9")]))
        .fails(1, &["HF_ENDPOINT is \"127.0.0.1:9\"", "https://"]);
    let variables = [("HF_ENDPOINT", "http://127.0.0.1:9"), ("HF_TOKEN", "hf a")];
    finish(&mut pull(&bench, &variables)).fails(1, &["HF_TOKEN"]);
    let refused = finish(&mut pull(&bench, &variables[..1]));
    refused.fails(1, &["the hub at http://127.0.0.1:9 cannot be asked", "`assay model add DIR`", "HF_HUB_OFFLINE"]);
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
