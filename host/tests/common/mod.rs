//! What the tests of the command share: the program, a data directory, and a model small enough to make on the spot.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses its share, and a test may panic"
)]

pub mod attackers;
pub mod files;
pub mod hub;
pub mod model_files;
pub mod server;
pub mod service;
pub mod tenants;
pub mod tiny;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The workspace's root.
pub fn root() -> &'static Path {
    testdata::root()
}

/// A file that the project's own set-up makes.
///
/// # Panics
/// It has not been made.
pub fn set_up(path: &str) -> PathBuf {
    let path = root().join(path);
    assert!(path.exists(), "{} is missing: `cargo xtask test` makes it", path.display());
    path
}

/// A component of `guest/`.
pub fn component(name: &str) -> PathBuf {
    set_up(&format!("target/guests/components/{name}.wasm"))
}

/// The data directory that holds the embedded default model.
pub fn test_data() -> PathBuf {
    set_up("target/test-data/models/assay--minilm-l6-debian/current");
    testdata::data_dir()
}

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_assay");

/// The command, on a data directory.
pub fn assay(data_dir: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("--data-dir").arg(data_dir);
    command
}

/// What a finished command left behind.
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Standard output as one JSON value a line.
    pub fn lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Checks that the command failed with `code`, and said each of `parts`.
    #[track_caller]
    pub fn fails(&self, code: i32, parts: &[&str]) {
        let told = format!("exit {:?}\nstderr: {}\nstdout: {}", self.code, self.stderr, self.stdout);
        assert_eq!(self.code, Some(code), "{told}");
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?} in\n{told}");
        }
        assert!(!self.stderr.contains("panicked"), "{told}");
    }

    /// Checks that the command succeeded.
    #[track_caller]
    pub fn succeeds(self) -> Self {
        assert_eq!(self.code, Some(0), "stderr: {}", self.stderr);
        self
    }
}

/// Changes one bit of a file, in the byte that is `from_end` before its end.
pub fn change_byte(path: &Path, from_end: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let place = bytes.len() - from_end;
    bytes[place] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Finished {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Finished { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// A data directory of its own, with the tiny model in it.
pub struct Bench {
    pub dir: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        tiny::Model::default().write(&bench.path("tiny"));
        finish(bench.assay().args(["model", "add"]).arg(bench.path("tiny"))).succeeds();
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file and gives its path.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub fn assay(&self) -> Command {
        assay(&self.path("data"))
    }

    pub fn rerank(&self, args: &[&str]) -> Finished {
        finish(self.assay().arg("rerank").args(args))
    }

    pub fn add(&self, dir: &Path) -> Finished {
        finish(self.assay().args(["model", "add"]).arg(dir))
    }
}
