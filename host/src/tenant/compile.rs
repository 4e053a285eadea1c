//! Compiles a component in a separate process.
//!
//! Compiling can take much time and memory, and its input is written by tenants. So the host starts itself a second
//! time with limits on memory, processor time and files, enforced by the system. That process reports only success or
//! failure; the host finds the compiled code in the cache.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::admin::AdminError;
use crate::guest::{DEFAULT_MAX_PREPARE_CPU, GuestError, GuestRuntime, RuntimeOptions, read_component};
use crate::model::ModelInfo;

/// The argument that starts the compiler process.
const SUBCOMMAND: &str = "internal-compile";

/// Most writable memory of the process: twice the need of the largest accepted component.
pub const DEFAULT_MAX_COMPILE_BYTES: u64 = 3 << 30;

/// Most processor time of the process: the standard guest takes ten seconds on two cores.
pub const DEFAULT_MAX_COMPILE_CPU: Duration = Duration::from_secs(240);

/// Most wall-clock time of the process.
pub const DEFAULT_MAX_COMPILE_WALL: Duration = Duration::from_secs(300);

/// Largest file that the process writes: compiled code is about ten times its component.
const MAX_COMPILED_BYTES: u64 = 1 << 30;

/// Priority of the process, between 0 and 19: the lowest but for a little, so that it goes on when nothing else waits.
#[cfg(unix)]
const COMPILER_NICENESS: i32 = 15;

/// Longest description of a job.
const MAX_JOB_BYTES: u64 = 1 << 20;

/// Most bytes that the host reads from the process.
const MAX_REPORT_BYTES: u64 = 64 << 10;

/// The job of the process. The tokenizer's bytes follow it on standard input, which then stays open: its end tells the
/// process that its host has gone, however that happened.
#[derive(Debug, Serialize, Deserialize)]
struct Job {
    name: String,
    compiled_dir: PathBuf,
    component: PathBuf,
    info: ModelInfo,
    tokenizer_bytes: usize,
    max_memory_bytes: u64,
    max_cpu_s: u64,
    max_prepare_cpu: Duration,
}

/// The process's report.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Report {
    Compiled,
    Failed(String),
}

/// Why a component was not compiled.
#[derive(Debug, thiserror::Error)]
pub(super) enum CompileError {
    /// The process reports a fault of the component.
    #[error("{message}")]
    Refused {
        /// Its report, which names the component.
        message: String,
    },
    /// The process could not be started or watched.
    #[error("{}: {source}", program.display())]
    Process {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The job cannot be encoded.
    #[error("the job cannot be written down: {0}")]
    Job(#[from] serde_json::Error),
    /// The process ended without a report.
    #[error("the compiler process ended with {status}, at its limits or of a fault")]
    Ended {
        /// Its exit status.
        status: ExitStatus,
    },
    /// The process was stopped.
    #[error("it took longer than {} s", limit.as_secs())]
    TooLong {
        /// The most time that it may take.
        limit: Duration,
    },
    /// The process reported success but the cache has no code.
    #[error("nothing was left in {}", dir.display())]
    NothingLeft {
        /// The cache.
        dir: PathBuf,
    },
}

/// Why the compiler process did not compile.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Its standard input cannot be read.
    #[error("the job cannot be read: {0}")]
    Input(std::io::Error),
    /// Its standard input does not start with a job.
    #[error("standard input does not start with a job")]
    NoJob,
    /// The job or the report is not JSON.
    #[error("not a job: {0}")]
    Json(#[from] serde_json::Error),
    /// Its limits cannot be set.
    #[error("the limits of this process cannot be set: {0}")]
    Limits(std::io::Error),
}

impl CompileError {
    /// The command's error for a component of this name.
    pub(super) fn of(self, name: &str) -> AdminError {
        match self {
            Self::Refused { message } => AdminError::command(message),
            other => AdminError::command(format!("{name} was not compiled: {other}")),
        }
    }
}

/// How components are compiled.
#[derive(Debug, Clone)]
pub struct CompilerOptions {
    /// The program with the hidden subcommand: this one.
    pub program: PathBuf,
    /// Most writable memory.
    pub max_memory_bytes: u64,
    /// Most processor time.
    pub max_cpu: Duration,
    /// Most wall-clock time.
    pub max_wall: Duration,
    /// Most processor time of the guest's `prepare`.
    pub max_prepare_cpu: Duration,
}

impl CompilerOptions {
    /// The default limits, with the given program.
    #[must_use]
    pub fn new(program: PathBuf) -> Self {
        let (max_cpu, max_wall) = (DEFAULT_MAX_COMPILE_CPU, DEFAULT_MAX_COMPILE_WALL);
        let (max_memory_bytes, max_prepare_cpu) = (DEFAULT_MAX_COMPILE_BYTES, DEFAULT_MAX_PREPARE_CPU);
        Self { program, max_memory_bytes, max_cpu, max_wall, max_prepare_cpu }
    }

    /// Validates, compiles, prepares and snapshots a component, and leaves the code in the cache. Dropping the future
    /// kills the process.
    pub(super) async fn compile(
        &self,
        name: &str,
        component: &Path,
        compiled_dir: &Path,
        info: &ModelInfo,
    ) -> Result<(), CompileError> {
        let process = |source| CompileError::Process { program: self.program.clone(), source };
        let mut job = serde_json::to_vec(&Job {
            name: name.to_owned(),
            compiled_dir: compiled_dir.to_owned(),
            component: component.to_owned(),
            info: info.clone(),
            tokenizer_bytes: info.tokenizer.len(),
            max_memory_bytes: self.max_memory_bytes,
            max_cpu_s: self.max_cpu.as_secs(),
            max_prepare_cpu: self.max_prepare_cpu,
        })?;
        job.push(b'\n');
        let mut child = Command::new(&self.program)
            .arg(SUBCOMMAND)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(process)?;
        lower_priority(&child);
        let (mut stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let hand_over = async {
            if let Some(stdin) = &mut stdin {
                // If the process has died, its exit status shows it.
                let _ = stdin.write_all(&job).await;
                let _ = stdin.write_all(&info.tokenizer).await;
            }
        };
        let listen = async {
            let mut report = Vec::new();
            if let Some(stdout) = stdout {
                // As above.
                let _ = stdout.take(MAX_REPORT_BYTES).read_to_end(&mut report).await;
            }
            report
        };
        let conversation = async { tokio::join!(hand_over, listen, child.wait()) };
        let ((), report, status) = tokio::time::timeout(self.max_wall, conversation)
            .await
            .map_err(|_| CompileError::TooLong { limit: self.max_wall })?;
        match serde_json::from_slice(&report) {
            Ok(Report::Compiled) => Ok(()),
            Ok(Report::Failed(message)) => Err(CompileError::Refused { message }),
            Err(_) => Err(CompileError::Ended { status: status.map_err(process)? }),
        }
    }
}

/// Does what a compiler process does and ends it, if this process was started as one; does nothing otherwise. First in
/// a program's `main`.
pub fn end_if_asked() {
    if std::env::args_os().nth(1).is_none_or(|argument| argument != SUBCOMMAND) {
        return;
    }
    let code = run_in_this_process().map_or_else(
        |error| {
            // The host may be gone.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            1
        },
        |()| 0,
    );
    std::process::exit(code);
}

/// The compiler process: limits itself, reads its job, compiles, and reports.
fn run_in_this_process() -> Result<(), JobError> {
    let mut input = BufReader::new(std::io::stdin());
    let mut line = Vec::new();
    input.by_ref().take(MAX_JOB_BYTES).read_until(b'\n', &mut line).map_err(JobError::Input)?;
    if line.pop() != Some(b'\n') {
        return Err(JobError::NoJob);
    }
    let mut job: Job = serde_json::from_slice(&line)?;
    let mut tokenizer = vec![0; job.tokenizer_bytes];
    input.read_exact(&mut tokenizer).map_err(JobError::Input)?;
    job.info.tokenizer = tokenizer.into();
    std::thread::spawn(move || end_with_host(input));
    bound(job.max_memory_bytes, job.max_cpu_s).map_err(JobError::Limits)?;
    let report = match compile(job) {
        Ok(()) => Report::Compiled,
        Err(error) => Report::Failed(error.to_string()),
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// Ends this process when its standard input ends: nothing is left to compile for.
fn end_with_host(mut input: impl Read) {
    while input.read(&mut [0]).is_ok_and(|bytes| bytes > 0) {}
    std::process::exit(1);
}

/// Lets requests go before a compiler, which wants all cores for seconds.
#[cfg(unix)]
fn lower_priority(child: &tokio::process::Child) {
    let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(id) = id {
        // Refused, it is a matter of speed only.
        let _ = rustix::process::setpriority_process(Some(id), COMPILER_NICENESS);
    }
}

#[cfg(not(unix))]
fn lower_priority(_child: &tokio::process::Child) {}

fn compile(job: Job) -> Result<(), GuestError> {
    let options = RuntimeOptions { max_instances: 2, max_prepare_cpu: job.max_prepare_cpu, ..Default::default() };
    let runtime = GuestRuntime::new(&job.compiled_dir, &options)?;
    let wasm = read_component(&job.component)?;
    runtime.load_prepared(&job.name, &wasm, &job.info.into())?;
    Ok(())
}

/// Sets the system's limits of this process. Writable memory counts, reserved address space does not. macOS does not
/// enforce the memory limit.
#[cfg(unix)]
fn bound(max_memory_bytes: u64, max_cpu_s: u64) -> std::io::Result<()> {
    use rlimit::{Resource, setrlimit};
    for (resource, most) in [
        (Resource::DATA, max_memory_bytes),
        (Resource::CPU, max_cpu_s),
        (Resource::FSIZE, MAX_COMPILED_BYTES),
        (Resource::CORE, 0),
    ] {
        setrlimit(resource, most, most)?;
    }
    Ok(())
}

/// Other systems enforce only the wall-clock limit.
#[cfg(not(unix))]
fn bound(_max_memory_bytes: u64, _max_cpu_s: u64) -> std::io::Result<()> {
    Ok(())
}
