//! The files of `deploy/` say nothing that the program does not know.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::server::Server;
use common::{Bench, finish, root};

#[test]
fn files_for_deployment_name_only_options_and_variables_that_exist() {
    let help = |arguments: &[&str]| finish(Bench::new().assay().args(arguments)).succeeds().stdout;
    let known = [help(&["serve", "--help"]), help(&["--help"])].concat();
    let files = ["assay.service", "org.assay.serve.plist", "compose.yaml", "Dockerfile", "kubernetes/statefulset.yaml"];
    for file in files {
        let text = std::fs::read_to_string(root().join("deploy").join(file)).unwrap();
        let text: String =
            text.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n");
        let words = text.split(|it: char| !(it.is_ascii_alphanumeric() || it == '-' || it == '_'));
        // systemd, launchd and Docker have options of their own, without two hyphens but for the health check's.
        let docker = ["--interval", "--timeout", "--start-period", "--chown"];
        for word in words.filter(|word| word.starts_with("--") && word.len() > 4 || word.starts_with("ASSAY_")) {
            let is_docker = file == "Dockerfile" && docker.contains(&word);
            assert!(is_docker || known.contains(word), "{file} names {word}");
        }
        assert!(text.contains("serve"), "{file} starts no server");
    }
}

#[test]
fn ready_says_whether_a_server_takes_requests() {
    let dir = common::server::keyless_dir();
    let data_dir = dir.path().join("data");
    let socket = dir.path().join("http.sock");
    let ready = || finish(common::assay(&data_dir).arg("ready"));
    ready().fails(1, &["no server runs on"]);
    // However it listens.
    let server = Server::starting_on(&data_dir, &["--unix-socket", socket.to_str().unwrap()]);
    common::service::until("the server is ready", || ready().code == Some(0));
    assert!(server.stop());
    ready().fails(1, &["no server runs on"]);
}
