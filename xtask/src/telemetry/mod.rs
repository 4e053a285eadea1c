//! `cargo xtask telemetry`: what watches a server, held against one under load. Debian's Prometheus scrapes it and
//! evaluates every alert rule and every query of the Grafana dashboard; Debian's Chromium opens its dashboard; `assay
//! top` runs in tmux. Packages are unpacked below `target/telemetry` where the system lacks them; nothing is installed.

mod chromium;
mod dashboard;
mod load;
mod prometheus;
mod top;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::clients::{Server, fresh_data_dir};
use crate::debian::Program;
use crate::step::say;
use crate::{assay, clients};

/// Most time for something to happen that takes seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs every check.
///
/// # Errors
/// A program cannot be had, or a check failed.
pub(crate) fn run_checks(root: &Path) -> Result<()> {
    let folder = root.join("target/telemetry");
    std::fs::create_dir_all(&folder)?;
    let data_dir = fresh_data_dir(&folder)?;
    let server = Server::start(root, &data_dir)?;
    let watched = Watched::new(root, &folder, &data_dir, &server)?;
    let load = load::start(&watched, &server.key);
    say("Prometheus scrapes a server under load");
    prometheus::check(&watched)?;
    say("Chromium opens the dashboard");
    dashboard::check(&watched)?;
    say("`assay top` runs in tmux");
    top::check(&watched)?;
    let answered = load.stop()?;
    say(&format!("all checks passed, over {answered} answered requests"));
    Ok(())
}

/// The server that is watched, and where files may lie.
struct Watched {
    root: PathBuf,
    folder: PathBuf,
    data_dir: PathBuf,
    /// Host and port.
    address: String,
    operator_key: String,
}

impl Watched {
    fn new(root: &Path, folder: &Path, data_dir: &Path, server: &Server) -> Result<Self> {
        let address = server.url.strip_prefix("http://").context("the server speaks no plain HTTP")?.to_owned();
        let operator_key = clients::output(assay(root, data_dir).arg("operator-key"))?.trim().to_owned();
        let (root, folder, data_dir) = (root.to_owned(), folder.to_owned(), data_dir.to_owned());
        Ok(Self { root, folder, data_dir, address, operator_key })
    }

    /// The server's counters, in Prometheus' format.
    fn metrics(&self) -> Result<String> {
        clients::output(assay(&self.root, &self.data_dir).arg("metrics"))
    }

    /// A counter's value, by its whole name with labels.
    fn value(&self, series: &str) -> Result<f64> {
        let metrics = self.metrics()?;
        let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.with_context(|| format!("the metrics have no {series}"))?.trim().parse().context("a value is a number")
    }
}

/// The body of `http://ADDRESS PATH`, which must be there.
fn get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    // An answer to HTTP/1.0 ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.contains(" 200 "), "{path}: {}", head.lines().next().unwrap_or_default());
    Ok(body.to_owned())
}

/// Waits until something is there.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        ensure!(began.elapsed() < PATIENCE, "{what} did not come within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}
