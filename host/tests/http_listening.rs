//! How the service is reached and set up: TLS, a Unix socket, pages in browsers, and a file of settings.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use assay::http::{Deadlines, Reloaded, Tls};
use common::server::{Answer, Server, keyless_dir, post, read_all};
use common::service::{BODY, Service, Setting};
use common::{Bench, finish};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

/// Writes a new certificate for localhost and its key, and gives the certificate.
fn certificate(dir: &Path) -> (PathBuf, PathBuf, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (dir.join("certificate.pem"), dir.join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (certificate, key, made.cert.der().clone())
}

/// Sends bytes over TLS to a server whose certificate is trusted, and reads the answer.
async fn over_tls(address: &str, trusted: &CertificateDer<'static>, bytes: &[u8]) -> std::io::Result<Answer> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(bytes).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(Answer::parse(&answer))
}

#[test]
fn a_port_with_a_certificate_speaks_tls_and_takes_a_new_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate_file, key_file, first) = certificate(dir.path());
    let tls = Arc::new(Tls::load(&certificate_file, &key_file).unwrap());
    let service = Service::start(Setting { tls: Some(Arc::clone(&tls)), ..Setting::default() });
    let ask = |trusted: &CertificateDer<'static>| {
        service.runtime.block_on(over_tls(&service.address, trusted, &service.good()))
    };
    assert_eq!(ask(&first).unwrap().status, 200);
    assert_eq!(tls.reload().unwrap(), Reloaded::Unchanged);

    // A file that is half written changes nothing.
    std::fs::write(&certificate_file, "-----BEGIN").unwrap();
    assert!(tls.reload().unwrap_err().to_string().contains("certificate.pem"));
    assert_eq!(tls.reload().unwrap(), Reloaded::Unchanged);
    assert_eq!(ask(&first).unwrap().status, 200);

    let (.., second) = certificate(dir.path());
    assert_eq!(tls.reload().unwrap(), Reloaded::Changed);
    assert_eq!(ask(&second).unwrap().status, 200);
    assert!(ask(&first).is_err());
}

#[test]
fn a_handshake_that_does_not_end_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate_file, key_file, trusted) = certificate(dir.path());
    let tls = Some(Arc::new(Tls::load(&certificate_file, &key_file).unwrap()));
    let deadlines = Deadlines { head: Duration::from_millis(200), ..Deadlines::default() };
    let service = Service::start(Setting { tls, deadlines, ..Setting::default() });
    let mut stream = service.connect();
    // The first bytes of a handshake.
    stream.write_all(&[22, 3, 1]).unwrap();
    assert_eq!(read_all(&mut stream), b"");
    let answer = service.runtime.block_on(over_tls(&service.address, &trusted, &service.good()));
    assert_eq!(answer.unwrap().status, 200);
}

#[test]
fn a_key_of_another_certificate_is_refused_with_both_files() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ((certificate_file, ..), (_, key_file, _)) = (certificate(one.path()), certificate(other.path()));
    let bench = Bench::new();
    let mut serve = bench.assay();
    serve.args(["serve", "--port", "0", "--tls-certificate"]).arg(&certificate_file).arg("--tls-key").arg(&key_file);
    finish(&mut serve).fails(2, &["certificate.pem", "key.pem", "do not belong together"]);
    finish(bench.assay().args(["serve", "--tls-certificate", "c.pem"])).fails(2, &["--tls-key"]);
}

#[test]
#[cfg(unix)]
fn a_unix_socket_is_this_users_alone_and_ends_with_the_server() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    let dir = keyless_dir();
    let socket = dir.path().join("assay.sock");
    let ask = || {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(&post("/v1/rerank", None, BODY)).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        Answer::parse(&answer)
    };
    let data_dir = dir.path().join("data");
    let arguments = ["--unix-socket", socket.to_str().unwrap()];
    let server = Server::on(&data_dir, &arguments);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(ask().status, 200);
    assert_eq!(server.post("/v1/rerank", BODY).status, 200);
    // Another server does not take it away.
    let other = Bench::new();
    let taken = finish(other.assay().args(["serve", "--port", "0"]).args(arguments));
    taken.fails(1, &["another server listens there"]);
    assert!(server.stop());
    assert!(!socket.exists());

    // One that was killed leaves its socket, and the next one replaces it.
    let killed = Server::on(&data_dir, &arguments);
    drop(killed);
    assert!(socket.exists());
    let next = Server::on(&data_dir, &arguments);
    assert_eq!(ask().status, 200);
    assert!(next.stop());
    std::fs::write(&socket, "a file").unwrap();
    finish(other.assay().args(["serve", "--port", "0"]).args(arguments)).fails(2, &["is no socket"]);
}

#[test]
fn pages_of_allowed_origins_may_call_and_no_others() {
    let cors = assay::http::Cors::new(&["https://search.example.org".to_owned()]).unwrap();
    let service = Service::start(Setting { cors, ..Setting::default() });
    let preflight = |origin: &str| {
        service.send(
            format!(
                "OPTIONS /v1/rerank HTTP/1.1\r\nHost: test\r\nConnection: close\r\nOrigin: {origin}\r\n\
                 Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n\r\n"
            )
            .as_bytes(),
        )
    };
    // A browser asks without a key.
    let allowed = preflight("https://search.example.org");
    assert_eq!(allowed.status, 204);
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://search.example.org"));
    assert!(allowed.header("access-control-allow-headers").unwrap().contains("authorization"));
    assert_eq!(allowed.header("vary"), Some("origin"));
    assert_eq!(preflight("https://other.example.org").header("access-control-allow-origin"), None);
    let asked = String::from_utf8(service.good()).unwrap();
    let asked = asked.replacen("Host: test", "Host: test\r\nOrigin: https://search.example.org", 1);
    let answer = service.send(asked.as_bytes());
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://search.example.org"));
    assert!(answer.header("access-control-expose-headers").unwrap().contains("retry-after"));
    // Without the setting there is nothing of all this.
    let plain = Service::start(Setting::default());
    assert_eq!(plain.send(asked.replace(&service.key, &plain.key).as_bytes()).header("vary"), None);
}

#[test]
fn a_file_gives_settings_after_options_and_the_environment() {
    let dir = keyless_dir();
    let (data_dir, file) = (dir.path().join("data"), dir.path().join("assay.toml"));
    std::fs::write(&file, "host = \"127.0.0.2\"\ncors-origin = [\"https://a.example\", \"https://b.example\"]\n")
        .unwrap();
    let file = file.to_str().unwrap();
    let server = Server::on(&data_dir, &["--config", file]);
    assert!(server.address.starts_with("127.0.0.2:"), "{}", server.address);
    assert!(server.stop());
    let server = Server::on(&data_dir, &["--config", file, "--host", "127.0.0.1"]);
    assert!(server.address.starts_with("127.0.0.1:"), "{}", server.address);
}

#[test]
fn a_check_of_a_file_says_what_a_server_would_use() {
    let bench = Bench::new();
    let file = bench.path("assay.toml");
    let check = |text: &str, environment: &[(&str, &str)]| {
        std::fs::write(&file, text).unwrap();
        finish(bench.assay().args(["config", "check"]).arg(&file).envs(environment.iter().copied()))
    };
    let printed =
        check("port = 9000\nunix-socket = \"/run/assay.sock\"\n", &[("ASSAY_PORT", "9001")]).succeeds().stdout;
    let row = |setting: &str| {
        let line = printed.lines().find(|line| line.split_whitespace().next() == Some(setting));
        line.unwrap_or_else(|| panic!("no {setting} in\n{printed}")).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(row("port"), "port 9001 ASSAY_PORT");
    assert_eq!(row("unix-socket"), "unix-socket /run/assay.sock the file");
    assert_eq!(row("drain-seconds"), "drain-seconds 10 default");

    check("\nprot = 9000\n", &[]).fails(2, &["line 2", "prot is not a setting", "did you mean port?"]);
    check("port = true\n", &[]).fails(2, &["line 1", "port must be a string or a number"]);
    check("port = 70000\n", &[]).fails(2, &["assay.toml", "70000", "--port"]);
    check("port = \n", &[]).fails(2, &["line 1"]);
    check("no-tcp = true\n", &[]).fails(2, &["assay.toml", "--unix-socket <PATH>"]);
    check("", &[("ASSAY_PORT", "abc")]).fails(2, &["the environment", "abc", "--port"]);
    // What a server would stop at, too.
    check("cors-origin = [\"a.org\"]\n", &[]).fails(2, &["assay.toml", "cors-origin", "a.org"]);
    check("tls-certificate = \"/nope\"\ntls-key = \"/nope\"\n", &[]).fails(2, &["assay.toml", "TLS", "/nope"]);
    check("unix-socket = \"/no/such/assay.sock\"\n", &[]).fails(2, &["assay.toml", "/no/such"]);
    let flags = check("no-tcp = false\n", &[("ASSAY_ALLOW_KEYLESS_NETWORK", "1")]).succeeds().stdout;
    let row = |setting: &str| {
        let line = flags.lines().find(|line| line.split_whitespace().next() == Some(setting)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(row("no-tcp"), "no-tcp false the file");
    assert!(row("allow-keyless-network").ends_with("ASSAY_ALLOW_KEYLESS_NETWORK"), "{flags}");
    check(&" ".repeat(300 << 10), &[]).fails(2, &["more than 262144 bytes"]);
}

#[test]
fn the_documented_file_has_every_setting_at_its_default() {
    let text = std::fs::read_to_string(common::root().join("docs/serve.toml")).unwrap();
    let bench = Bench::new();
    // Settings without a default are comments there.
    let all: String = text.lines().map(|line| format!("{}\n", line.strip_prefix("#: ").unwrap_or(line))).collect();
    let file = bench.path("serve.toml");
    std::fs::write(&file, &text).unwrap();
    let printed = finish(bench.assay().args(["config", "check"]).arg(&file)).succeeds().stdout;
    std::fs::write(&file, "").unwrap();
    let defaults = finish(bench.assay().args(["config", "check"]).arg(&file)).succeeds().stdout;
    let values = |table: &str| -> Vec<String> {
        let cells = table.lines().skip(1).map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" "));
        cells.collect()
    };
    assert_eq!(values(&printed), values(&defaults));
    for setting in values(&defaults).iter().filter_map(|row| row.split(' ').next()) {
        assert!(all.lines().any(|line| line.starts_with(&format!("{setting} ="))), "{setting} is not documented");
    }
}
