//! Question: how long are 50 tenants without a server that was killed under load, when another takes its place?
//!
//! Callers keep asking all the while. Measured from the start of the new process to the first answer of each tenant;
//! their guests are compiled already. What callers got besides answers is counted: anything but a broken or refused
//! connection, or a 503 that says when to try again, ends the program.
//!
//! `cargo bench --workspace --bench restart`

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use assay::tenant::admin::{Command, Reply};
use common::server::{Answer, post, read_all};
use common::service::BODY;
use common::tenants::{admin, data_dir, deploy, name, platform, seeded, serving};

const TENANTS: u32 = 50;
const CALLERS: usize = 8;
const KILLS: usize = 5;

/// How long callers ask before the server is killed.
const LOAD_TIME: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
struct Counts {
    answers: AtomicUsize,
    broken: AtomicUsize,
    told_to_wait: AtomicUsize,
}

fn main() {
    let (dir, runtime) = (data_dir(), tokio::runtime::Runtime::new().expect("threads start"));
    let tenants = platform(dir.path(), runtime.handle());
    let keys: Vec<String> = (0..TENANTS)
        .map(|number| {
            let tenant = format!("tenant-{number}");
            serving(deploy(&tenants, &tenant, &seeded(number), None));
            match admin(&tenants, Command::CreateKey { tenant: name(&tenant) }) {
                Reply::Key { secret, .. } => secret,
                other => panic!("no key: {other:?}"),
            }
        })
        .collect();
    drop(tenants);
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let address = format!("127.0.0.1:{port}");
    let (counts, stop) = (Counts::default(), AtomicBool::new(false));
    let mut server = start(dir.path(), port);
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (keys, address, counts, stop) = (&keys, &address, &counts, &stop);
            scope.spawn(move || {
                for key in keys.iter().cycle().skip(caller * 7).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    counts.count(ask(address, key));
                }
            });
        }
        let mut slowest = Vec::new();
        for _ in 0..KILLS {
            std::thread::sleep(LOAD_TIME);
            server.kill().and_then(|()| server.wait()).expect("the server is killed");
            let began = Instant::now();
            server = start(dir.path(), port);
            let open = began.elapsed();
            for key in &keys {
                while ask(&address, key) != Some(200) {
                    assert!(began.elapsed() < Duration::from_secs(60), "a tenant is not back");
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            println!("port open after {open:.0?}, all {TENANTS} tenants answered after {:.0?}", began.elapsed());
            slowest.push(began.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        slowest.sort_unstable();
        println!("median {:.0?}; callers: {counts:?}", slowest[slowest.len() / 2]);
    });
    let _ = server.kill().and_then(|()| server.wait());
}

impl Counts {
    fn count(&self, status: Option<u16>) {
        let counter = match status {
            Some(200) => &self.answers,
            Some(503) => &self.told_to_wait,
            None => &self.broken,
            Some(other) => panic!("a caller got {other}"),
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Starts a server and waits until its port is open.
fn start(data_dir: &Path, port: u16) -> Child {
    let mut command = common::assay(data_dir);
    let mut child = command
        .args(["serve", "--port", &port.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("its output is ours")).read_line(&mut line).expect("it says where it is");
    assert!(line.starts_with("listening on"), "{line}");
    child
}

/// The status of an answer; `None` where the connection broke or was refused.
fn ask(address: &str, key: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(&post("/v1/rerank", Some(key), BODY)).ok()?;
    let answer = read_all(&mut stream);
    if answer.is_empty() { None } else { Some(Answer::parse(&answer).status) }
}
