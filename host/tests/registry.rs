//! Components from an OCI registry: one on this machine that says what each test has it say.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use assay::model::manifest::sha256_hex;
use common::tenants::{self, seeded};
use common::{Finished, assay, finish};
use serde_json::{Value, json};

/// The header `Authorization` that the registry wants: `user:pass`.
const AUTHORIZATION: &str = "Basic dXNlcjpwYXNz";

const LAYER: &str = "application/wasm";

/// Types and bodies by path.
type Answers = HashMap<String, (String, Vec<u8>)>;

/// The type of an answer that is the place of another one.
const REDIRECT: &str = "redirect";

/// Answers by path.
#[derive(Clone, Default)]
struct Registry {
    address: String,
    answers: Arc<Mutex<Answers>>,
    is_closed: bool,
}

impl Registry {
    fn start(is_closed: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let registry = Self { address: listener.local_addr().unwrap().to_string(), is_closed, ..Self::default() };
        let mine = registry.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mine = mine.clone();
                std::thread::spawn(move || mine.serve(&stream));
            }
        });
        registry
    }

    fn serve(&self, mut stream: &TcpStream) -> Option<()> {
        let mut lines = BufReader::new(stream).lines();
        while let Some(Ok(request)) = lines.next() {
            let headers: Vec<String> =
                lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            let knows = headers.iter().any(|line| {
                line.split_once(": ")
                    .is_some_and(|(name, value)| name.eq_ignore_ascii_case("authorization") && value == AUTHORIZATION)
            });
            let path = request.split(' ').nth(1)?;
            let answer = self.answers.lock().unwrap().get(path).cloned();
            // What is kept elsewhere.
            if let Some((kind, place)) = &answer
                && kind == REDIRECT
            {
                let place = String::from_utf8_lossy(place);
                let head = format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(head.as_bytes()).ok()?;
                continue;
            }
            let (status, kind, body) = match answer {
                _ if self.is_closed && !knows => ("401 Unauthorized", "text/plain".to_owned(), Vec::new()),
                Some((kind, body)) => ("200 OK", kind, body),
                None if path == "/v2/" => ("200 OK", "text/plain".to_owned(), Vec::new()),
                None => ("404 Not Found", "text/plain".to_owned(), Vec::new()),
            };
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
                 WWW-Authenticate: Basic realm=\"here\"\r\n\r\n"
            )
            .ok()?;
            stream.write_all(&body).ok()?;
        }
        None
    }

    /// A manifest with these layers, told under its digest or another one. Gives the reference.
    fn manifest(&self, layers: &Value, told_as: Option<&str>) -> String {
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": digest(b"{}"), "size": 2},
            "layers": layers,
        });
        let body = manifest.to_string().into_bytes();
        let digest = told_as.map_or_else(|| digest(&body), str::to_owned);
        let kind = "application/vnd.oci.image.manifest.v1+json".to_owned();
        self.answers.lock().unwrap().insert(format!("/v2/acme/guest/manifests/{digest}"), (kind, body));
        format!("oci://{}/acme/guest@{digest}", self.address)
    }

    /// A layer that is promised as one thing and is another.
    fn layer(&self, promised: &[u8], sent: &[u8]) -> Value {
        let path = format!("/v2/acme/guest/blobs/{}", digest(promised));
        self.answers.lock().unwrap().insert(path, ("application/octet-stream".to_owned(), sent.to_owned()));
        json!({"mediaType": LAYER, "digest": digest(promised), "size": promised.len()})
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256_hex(bytes))
}

fn deploy(data_dir: &Path, reference: &str, docker: Option<&Path>) -> Finished {
    let mut deploy = assay(data_dir);
    deploy.args(["tenant", "deploy", "acme", reference]).env("DOCKER_CONFIG", docker.unwrap_or(data_dir));
    finish(&mut deploy)
}

#[test]
fn a_component_is_deployed_by_its_digest_and_nothing_else_is() {
    let (dir, registry, wasm) = (tenants::data_dir(), Registry::start(false), seeded(1));
    let layer = registry.layer(&wasm, &wasm);
    let good = registry.manifest(&json!([layer]), None);
    let refused = |reference: &str, code: i32, parts: &[&str]| {
        deploy(dir.path(), reference, None).fails(code, parts);
        let listed = finish(assay(dir.path()).args(["tenant", "list", "--json"])).succeeds();
        assert!(!listed.stdout.contains("acme"), "{}", listed.stdout);
    };
    refused(&format!("oci://{}/acme/guest:1", registry.address), 2, &["tag", "sha256"]);
    let other = digest(b"other");
    refused(&registry.manifest(&json!([layer]), Some(&other)), 1, &["digest"]);
    refused(&format!("oci://{}/acme/guest@{}", registry.address, digest(b"none")), 1, &["404"]);
    refused(&registry.manifest(&json!([]), None), 2, &["0 layers"]);
    refused(&registry.manifest(&json!([layer, layer]), None), 2, &["2 layers"]);
    let mut of_tar = layer.clone();
    of_tar["mediaType"] = "application/vnd.oci.image.layer.v1.tar".into();
    refused(&registry.manifest(&json!([of_tar]), None), 2, &["layer.v1.tar", LAYER]);
    let mut huge = layer.clone();
    huge["size"] = (65 << 20).into();
    refused(&registry.manifest(&json!([huge]), None), 2, &["68157440 bytes", "67108864"]);
    let mut negative = layer.clone();
    negative["size"] = (-1).into();
    refused(&registry.manifest(&json!([negative]), None), 2, &["-1"]);
    let swapped = registry.layer(b"promised", b"sent now");
    refused(&registry.manifest(&json!([swapped]), None), 1, &["digest"]);
    let longer = registry.layer(b"short", &[0; 100_000]);
    refused(&registry.manifest(&json!([longer]), None), 1, &["more than 5 bytes"]);
    let endless = digest(&[b' '; 5 << 20]);
    let path = format!("/v2/acme/guest/manifests/{endless}");
    registry.answers.lock().unwrap().insert(path, ("text/plain".to_owned(), vec![b' '; 5 << 20]));
    refused(&format!("oci://{}/acme/guest@{endless}", registry.address), 1, &["more than 4194304 bytes"]);
    let text = registry.layer(b"text", b"text");
    refused(&registry.manifest(&json!([text]), None), 2, &["component"]);
    refused("oci://127.0.0.1:1/acme/guest@sha256:0000", 2, &["oci://127.0.0.1:1"]);
    refused(&good.replace(&registry.address, "127.0.0.1:1"), 1, &["127.0.0.1:1", "refused"]);

    let deployed = deploy(dir.path(), &good, None).succeeds();
    assert!(deployed.stderr.contains("version 1") || deployed.stdout.contains("version 1"), "{}", deployed.stdout);
}

#[test]
fn a_redirect_is_followed_where_a_registry_may_be_and_nowhere_else() {
    let dir = tenants::data_dir();
    let registry = Registry::start(false);
    let wasm = tenants::seeded(9);
    let reference = registry.manifest(&json!([registry.layer(&wasm, &wasm)]), None);
    let blob = format!("/v2/acme/guest/blobs/{}", digest(&wasm));
    let content = registry.answers.lock().unwrap().remove(&blob).unwrap();
    let to = |place: &str| {
        registry.answers.lock().unwrap().insert(blob.clone(), (REDIRECT.to_owned(), place.as_bytes().to_owned()));
    };
    for (place, why) in [
        ("http://192.0.2.1/blob", "it names a place without TLS"),
        ("//192.0.2.1/blob", "it names a place without TLS"),
        (blob.as_str(), "it redirects again and again"),
        ("/nowhere", "404"),
    ] {
        to(place);
        deploy(dir.path(), &reference, None).fails(1, &[why]);
    }
    registry.answers.lock().unwrap().insert("/kept".to_owned(), content);
    to("/kept");
    deploy(dir.path(), &reference, None).succeeds();
}

#[test]
fn a_closed_registry_is_opened_by_dockers_credentials() {
    let (dir, registry, wasm) = (tenants::data_dir(), Registry::start(true), seeded(1));
    let layer = registry.layer(&wasm, &wasm);
    let reference = registry.manifest(&json!([layer]), None);
    deploy(dir.path(), &reference, None).fails(1, &["authoriz"]);
    let docker = tempfile::tempdir().unwrap();
    let config = json!({"auths": {&registry.address: {"auth": "dXNlcjpwYXNz"}}});
    std::fs::write(docker.path().join("config.json"), config.to_string()).unwrap();
    deploy(dir.path(), &reference, Some(docker.path())).succeeds();
    std::fs::write(docker.path().join("config.json"), "no JSON").unwrap();
    deploy(dir.path(), &reference, Some(docker.path())).fails(1, &["credentials"]);
}

#[cfg(unix)]
#[test]
fn a_signature_is_looked_for_before_anything_is_fetched() {
    use std::os::unix::fs::PermissionsExt;

    let (dir, registry, wasm) = (tenants::data_dir(), Registry::start(false), seeded(1));
    let reference = registry.manifest(&json!([registry.layer(&wasm, &wasm)]), None);
    let programs = tempfile::tempdir().unwrap();
    let deploy = |reference: &str| {
        let mut deploy = Command::new(common::PROGRAM);
        deploy.arg("--data-dir").arg(dir.path()).args([
            "tenant",
            "deploy",
            "acme",
            reference,
            "--cosign-key",
            "key.pub",
        ]);
        finish(deploy.env("PATH", programs.path()).env("DOCKER_CONFIG", dir.path()))
    };
    deploy(&reference).fails(1, &["cosign", "cannot be started"]);
    let cosign = programs.path().join("cosign");
    let says = |script: &str| {
        std::fs::write(&cosign, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&cosign, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    says("echo 'no matching signatures' >&2; exit 1");
    deploy(&reference).fails(2, &["no valid signature", "no matching signatures"]);
    let asked = programs.path().join("asked");
    says(&format!("echo \"$@\" > {}", asked.display()));
    deploy(&reference).succeeds();
    let name = reference.trim_start_matches("oci://");
    assert_eq!(std::fs::read_to_string(asked).unwrap().trim(), format!("verify --key key.pub -- {name}"));
    deploy(&format!("oci://{}/acme/guest:1", registry.address)).fails(2, &["digest"]);
    let file = dir.path().join("guest.wasm");
    std::fs::write(&file, &wasm).unwrap();
    deploy(file.to_str().unwrap()).fails(2, &["oci://"]);
}
