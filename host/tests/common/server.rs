//! A server of its own for a test, and a client that says exactly what the test has it say.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::Finished;

/// Most time that a test waits for an answer: after it, something has gone wrong.
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// A server on a port of its own, ended with the test.
pub struct Server {
    child: Child,
    pub address: String,
    pub data_dir: PathBuf,
    _dir: Option<TempDir>,
}

/// An answer as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// Takes the bytes of an answer apart.
    #[track_caller]
    pub fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer in {:?}", String::from_utf8_lossy(bytes)));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head, body: bytes[end + 4..].to_vec() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Checks that the answer is an error with this status, and that it says each of `parts`.
    #[track_caller]
    pub fn refused(&self, status: u16, parts: &[&str]) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{text}");
        for part in parts {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        self.json()
    }

    /// Checks that the answer is not an error.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }
}

/// A data directory with the tiny model, where the standard guest was compiled once for all tests that run together.
pub fn keyless_dir() -> TempDir {
    static PREPARED: Mutex<Weak<TempDir>> = Mutex::new(Weak::new());
    thread_local! {
        static HELD: std::cell::RefCell<Option<Arc<TempDir>>> = const { std::cell::RefCell::new(None) };
    }
    let mut prepared = PREPARED.lock().unwrap();
    let template = prepared.upgrade().unwrap_or_else(|| {
        let bench = super::Bench::new();
        let server = Server::on(&bench.path("data"), &[]);
        assert!(server.stop());
        let template = Arc::new(bench.dir);
        *prepared = Arc::downgrade(&template);
        template
    });
    drop(prepared);
    let copy = tempfile::tempdir().unwrap();
    copy_all(&template.path().join("data"), &copy.path().join("data"));
    HELD.with_borrow_mut(|held| *held = Some(template));
    copy
}

pub fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, to) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy_all(&entry.path(), &to);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

impl Server {
    /// The standard guest with the tiny model, for callers without a key.
    pub fn keyless(arguments: &[&str]) -> Self {
        let dir = keyless_dir();
        let mut server = Self::on(&dir.path().join("data"), arguments);
        server._dir = Some(dir);
        server
    }

    /// Starts a server on a data directory, and waits until all that can serve does.
    #[track_caller]
    pub fn on(data_dir: &Path, arguments: &[&str]) -> Self {
        let server = Self::starting_on(data_dir, arguments);
        super::service::until("the server's start", || server.get("/ready").status == 200);
        server
    }

    /// As [`on`](Self::on), with its log in a file.
    #[track_caller]
    pub fn logging_to(log: &Path, data_dir: &Path, arguments: &[&str]) -> Self {
        let log = std::fs::File::create(log).unwrap().into();
        let server = Self::spawn(data_dir, super::assay(data_dir), arguments, log);
        super::service::until("the server's start", || server.get("/ready").status == 200);
        server
    }

    /// As [`on`](Self::on), with variables of its environment.
    #[track_caller]
    pub fn in_environment(data_dir: &Path, environment: &[(&str, String)]) -> Self {
        let mut command = super::assay(data_dir);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let server = Self::spawn(data_dir, command, &[], Stdio::inherit());
        super::service::until("the server's start", || server.get("/ready").status == 200);
        server
    }

    /// Starts a server on a data directory, and waits until its port is open.
    #[track_caller]
    pub fn starting_on(data_dir: &Path, arguments: &[&str]) -> Self {
        Self::spawn(data_dir, super::assay(data_dir), arguments, Stdio::inherit())
    }

    #[track_caller]
    fn spawn(data_dir: &Path, mut command: Command, arguments: &[&str], log: Stdio) -> Self {
        command.args(["serve", "--port", "0"]).args(arguments).env("USER", "tester").stderr(log);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").expect("the server says where it listens");
        Self { child, address: address.to_owned(), data_dir: data_dir.to_owned(), _dir: None }
    }

    /// A server that is told that a file cannot grow, and not killed for it.
    #[track_caller]
    pub fn without_file_signals(data_dir: &Path) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", super::PROGRAM]);
        let assay = super::assay(data_dir);
        command.args(assay.get_args());
        command.envs(assay.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let server = Self::spawn(data_dir, command, &[], Stdio::inherit());
        super::service::until("the server's start", || server.get("/ready").status == 200);
        server
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks the server to stop.
    pub fn signal(&self) {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
    }

    /// Waits until the server has ended; tells whether it ended well.
    pub fn ended(mut self) -> bool {
        self.child.wait().unwrap().success()
    }

    /// Asks the server to stop, and waits until it has.
    pub fn stop(self) -> bool {
        self.signal();
        self.ended()
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        stream
    }

    /// Sends bytes as they are, and reads until the server closes the connection.
    #[track_caller]
    pub fn send(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        Answer::parse(&read_all(&mut stream))
    }

    /// Posts a body without a key.
    #[track_caller]
    pub fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.send(&post(path, None, body.as_ref()))
    }

    /// Asks a tenant whose guest is `nonsense`, for an answer and for each kind of failure, with `marker` wherever a
    /// caller can put a text.
    pub fn post_marked(&self, key: &str, marker: &str) {
        let text = |fields: &str| format!(r#"{{"query":"{marker}","documents":["{marker}","b"]{fields}}}"#);
        let wrong = format!(r#","{marker}":1"#);
        let attack = r#","settings":{"attack":"nan"}"#;
        let unknown = format!(r#","settings":{{"attack":"{marker}"}}"#);
        for (status, fields) in [(200, ""), (422, &wrong), (502, attack), (502, &unknown)] {
            assert_eq!(self.post_as(key, "/v2/rerank", text(fields)).status, status, "{fields}");
        }
        assert_eq!(self.post_as(&format!("assay_{marker}"), "/v2/rerank", text("")).status, 401);
    }

    /// Posts a body with a key.
    #[track_caller]
    pub fn post_as(&self, key: &str, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.send(&post(path, Some(key), body.as_ref()))
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.send(&get(path))
    }

    /// Runs `assay tenant`, and gives what it printed.
    #[track_caller]
    pub fn tenant(&self, arguments: &[&str]) -> String {
        tenant(&self.data_dir, arguments)
    }
}

/// Runs `assay tenant` on a data directory, and gives what it printed.
#[track_caller]
pub fn tenant(data_dir: &Path, arguments: &[&str]) -> String {
    let mut command = super::assay(data_dir);
    let finished: Finished = super::finish(command.arg("tenant").args(arguments).env("USER", "tester"));
    finished.succeeds().stdout.trim().to_owned()
}

/// The bytes of a request that posts a body and wants the connection closed after it.
pub fn post(path: &str, key: Option<&str>, body: &[u8]) -> Vec<u8> {
    let authorization = key.map_or_else(String::new, |key| format!("Authorization: Bearer {key}\r\n"));
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: application/json\r\n{authorization}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").into_bytes()
}

/// Reads to the end, and takes a connection that was reset for one.
pub fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 16 << 10]);
    while let Ok(read @ 1..) = stream.read(&mut piece) {
        bytes.extend_from_slice(&piece[..read]);
    }
    bytes
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
