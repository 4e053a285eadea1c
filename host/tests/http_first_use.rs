//! The first minutes with a server: no tenant, no key, one model.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::server::{Server, keyless_dir, tenant};
use common::{Bench, change_byte, finish, tenants, tiny};

const BODY: &str = r#"{"query":"blue","documents":["sky","sea"]}"#;

#[test]
fn without_tenants_local_callers_need_no_key() {
    let server = Server::keyless(&[]);
    assert_eq!(server.post("/v1/rerank", BODY).ok()["model"], "tiny");
    // Client libraries insist on a key; any will do.
    assert_eq!(server.post_as("no-key", "/v1/rerank", BODY).status, 200);
    // Without a component it is the standard guest that is deployed.
    server.tenant(&["deploy", "acme"]);
    server.post("/v1/rerank", BODY).refused(401, &["assay tenant key create"]);
    let key = server.tenant(&["key", "create", "acme"]);
    assert_eq!(server.post_as(&key, "/v1/rerank", BODY).status, 200);
    // Removing the last tenant lets nobody in again, and least of all by its key.
    server.tenant(&["remove", "acme"]);
    server.post_as(&key, "/v1/rerank", BODY).refused(401, &["no valid API key"]);
    server.post("/v1/rerank", BODY).refused(401, &["no valid API key"]);
}

#[test]
fn a_server_whose_last_tenant_is_gone_still_wants_a_key() {
    let dir = keyless_dir();
    let data_dir = dir.path().join("data");
    tenant(&data_dir, &["deploy", "acme", common::component("standard").to_str().unwrap()]);
    tenant(&data_dir, &["remove", "acme"]);
    let server = Server::on(&data_dir, &[]);
    assert_eq!(server.post("/v1/rerank", BODY).status, 401);
}

#[test]
fn callers_of_a_damaged_model_are_told_where_to_look() {
    let dir = keyless_dir();
    let data_dir = dir.path().join("data");
    let stored = data_dir.join("models/tiny");
    let revision = std::fs::read_to_string(stored.join("current")).unwrap();
    change_byte(&stored.join(revision).join("model.safetensors"), 5);
    let server = Server::on(&data_dir, &[]);
    let refused = server.post("/v1/rerank", BODY).refused(503, &["log", "start the server again"]);
    // Paths are the operator's.
    assert!(!refused.to_string().contains("tiny"), "{refused}");
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.get("/ready").ok()["failed"], 1);
    // A tenant can be deployed all the same, once the model is whole.
    let whole = dir.path().join("tiny");
    tiny::Model::default().write(&whole);
    finish(common::assay(&data_dir).arg("model").arg("add").arg(whole)).succeeds();
    server.tenant(&["deploy", "acme"]);
    server.post("/v1/rerank", BODY).refused(401, &["no valid API key"]);
    assert_eq!(server.get("/ready").ok()["failed"], 0);
}

#[test]
fn a_server_without_a_default_model_fetches_none_if_another_is_here() {
    let dir = keyless_dir();
    let (data_dir, log) = (dir.path().join("data"), dir.path().join("log"));
    std::fs::remove_file(data_dir.join("models/default")).unwrap();
    let server = Server::logging_to(&log, &data_dir, &[]);
    server.post("/v1/rerank", BODY).refused(503, &["log"]);
    assert!(server.stop());
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("`assay model default NAME` chooses one that is here") && !log.contains("fetching"), "{log}");
}

#[test]
fn a_server_with_a_tenant_wants_a_key() {
    let dir = tenants::data_dir();
    let guest = dir.path().join("seeded.wasm");
    std::fs::write(&guest, tenants::seeded(5)).unwrap();
    tenant(dir.path(), &["deploy", "acme", guest.to_str().unwrap()]);
    let server = Server::on(dir.path(), &[]);
    assert_eq!(server.post("/v1/rerank", BODY).status, 401);
    // OpenAI's clients read an error's text in an object.
    let refused = server.get("/v1/models").refused(401, &["no valid API key"]);
    assert!(refused["error"]["message"].is_string(), "{refused}");
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_model_that_is_named_is_served_beside_tenants() {
    let dir = keyless_dir();
    let data_dir = dir.path().join("data");
    let other = dir.path().join("other");
    tiny::Model::new(tiny::Shape { vocab_size: 12, max_tokens: 8 }, 9).write(&other);
    tenant(&data_dir, &["deploy", "acme", common::component("standard").to_str().unwrap()]);
    let from_a_directory = Server::on(&data_dir, &["--model", other.to_str().unwrap()]);
    assert_eq!(from_a_directory.post("/v1/rerank", BODY).ok()["model"], "other");
    assert_eq!(from_a_directory.get("/info").ok()["max_input_length"], 8);
    assert!(from_a_directory.stop());
    // It is in the store now, under its directory's name.
    let by_name = Server::on(&data_dir, &["--model", "other"]);
    assert_eq!(by_name.post("/v1/rerank", BODY).ok()["model"], "other");
}

#[test]
fn callers_from_other_machines_need_a_key_unless_that_is_allowed() {
    let dir = keyless_dir();
    let data_dir = dir.path().join("data");
    let closed = Server::on(&data_dir, &["--host", "0.0.0.0"]);
    assert_eq!(closed.post("/v1/rerank", BODY).status, 401);
    assert!(closed.stop());
    let refused =
        finish(common::assay(&data_dir).args(["serve", "--port", "0", "--host", "0.0.0.0", "--model", "tiny"]));
    refused.fails(2, &["0.0.0.0", "--allow-keyless-network"]);
    let open = Server::on(&data_dir, &["--host", "0.0.0.0", "--allow-keyless-network"]);
    assert_eq!(open.post("/v1/rerank", BODY).status, 200);
}

#[test]
fn an_unknown_model_is_named_with_the_way_to_get_it() {
    let bench = Bench::new();
    let unknown = finish(bench.assay().args(["serve", "--port", "0", "--model", "no/such"]));
    unknown.fails(2, &["no/such", "assay model list"]);
}

#[test]
fn help_tells_every_default() {
    let bench = Bench::new();
    let help = finish(bench.assay().args(["serve", "--help"])).succeeds().stdout;
    for default in ["[default: 127.0.0.1]", "[default: 8790]", "[default: 10]", "1024", "three quarters"] {
        assert!(help.contains(default), "no {default:?} in\n{help}");
    }
}
