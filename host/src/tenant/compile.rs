//! Making a component ready in a process of its own.
//!
//! Compiling is slow and large for some inputs, and the compiler works on what a tenant wrote: so the host starts itself
//! once more, with bounds on memory, processor time and files that the system enforces, and takes from that process
//! nothing but whether it worked. What was compiled is in the cache then, where the host finds it.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::guest::{DEFAULT_MAX_PREPARE_CPU, GuestError, GuestRuntime, RuntimeOptions, read_component};
use crate::model::ModelInfo;

/// Hidden subcommand that the process is started with.
pub const SUBCOMMAND: &str = "internal-compile";

/// Most writable memory of the process: the largest component that is accepted takes half of this.
pub const DEFAULT_MAX_COMPILE_BYTES: u64 = 3 << 30;

/// Most processor time of the process: the standard guest takes ten seconds on two cores.
pub const DEFAULT_MAX_COMPILE_CPU: Duration = Duration::from_secs(240);

/// Most wall-clock time of the process.
pub const DEFAULT_MAX_COMPILE_WALL: Duration = Duration::from_secs(300);

/// Largest file that the process writes: compiled code is some ten times its component.
const MAX_COMPILED_BYTES: u64 = 1 << 30;

/// Most of what the process says that is read.
const MAX_REPORT_BYTES: u64 = 64 << 10;

/// What the process is to do; followed on its standard input by the tokenizer's bytes.
#[derive(Debug, Serialize, Deserialize)]
struct Job {
    name: String,
    compiled_dir: PathBuf,
    component: PathBuf,
    info: ModelInfo,
    max_memory_bytes: u64,
    max_cpu_s: u64,
    max_prepare_cpu: Duration,
}

/// What the process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Report {
    Compiled,
    Failed(String),
}

/// How components are compiled.
#[derive(Debug, Clone)]
pub struct CompilerOptions {
    /// The program that knows the hidden subcommand: this one.
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
    /// The defaults, with the given program.
    #[must_use]
    pub fn new(program: PathBuf) -> Self {
        let (max_cpu, max_wall) = (DEFAULT_MAX_COMPILE_CPU, DEFAULT_MAX_COMPILE_WALL);
        let (max_memory_bytes, max_prepare_cpu) = (DEFAULT_MAX_COMPILE_BYTES, DEFAULT_MAX_PREPARE_CPU);
        Self { program, max_memory_bytes, max_cpu, max_wall, max_prepare_cpu }
    }

    /// Validates, compiles, prepares and snapshots a component, so that it is found in the cache.
    ///
    /// # Errors
    /// What is wrong with the component, or that the process was stopped at one of its limits.
    pub(super) fn compile(
        &self,
        name: &str,
        component: &Path,
        compiled_dir: &Path,
        info: &ModelInfo,
    ) -> Result<(), GuestError> {
        let failed = |message: String| GuestError::NotCompiled { name: name.to_owned(), message };
        let job = Job {
            name: name.to_owned(),
            compiled_dir: compiled_dir.to_owned(),
            component: component.to_owned(),
            info: info.clone(),
            max_memory_bytes: self.max_memory_bytes,
            max_cpu_s: self.max_cpu.as_secs(),
            max_prepare_cpu: self.max_prepare_cpu,
        };
        let job = serde_json::to_string(&job).map_err(|error| failed(error.to_string()))?;
        let mut child = Command::new(&self.program)
            .arg(SUBCOMMAND)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed(format!("{} cannot be started: {error}", self.program.display())))?;
        let said = self.converse(&mut child, &job, &info.tokenizer);
        let status = child.wait().map_err(|error| failed(error.to_string()))?;
        match said.as_deref().map(serde_json::from_slice::<Report>) {
            Some(Ok(Report::Compiled)) => Ok(()),
            Some(Ok(Report::Failed(message))) => Err(GuestError::Refused { message }),
            Some(Err(_)) => {
                Err(failed(format!("the compiler process ended with {status}, at its limits or of a fault")))
            }
            None => Err(failed(format!("it took longer than {} s", self.max_wall.as_secs()))),
        }
    }

    /// Hands the job over and waits for the process to close its output; ends the process and gives `None` if that
    /// takes too long.
    fn converse(&self, child: &mut Child, job: &str, tokenizer: &[u8]) -> Option<Vec<u8>> {
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (sender, said) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                if let Some(mut stdin) = stdin {
                    // A process that has died already says so by its status.
                    let _ = stdin.write_all(job.as_bytes()).and_then(|()| stdin.write_all(b"\n"));
                    let _ = stdin.write_all(tokenizer);
                }
            });
            scope.spawn(move || {
                let mut report = Vec::new();
                if let Some(stdout) = stdout {
                    // Likewise.
                    let _ = stdout.take(MAX_REPORT_BYTES).read_to_end(&mut report);
                }
                let _ = sender.send(report);
            });
            let report = said.recv_timeout(self.max_wall).ok();
            if report.is_none() {
                // Both threads' pipes close with the process.
                let _ = child.kill();
            }
            report
        })
    }
}

/// What the process does: bounds itself, reads its job, compiles, and says how that went.
///
/// # Errors
/// The job cannot be read, or the bounds cannot be set.
pub fn run_in_this_process() -> Result<(), String> {
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input).map_err(|error| error.to_string())?;
    let end = input.iter().position(|&byte| byte == b'\n').ok_or("no job")?;
    let mut job: Job = serde_json::from_slice(&input[..end]).map_err(|error| error.to_string())?;
    job.info.tokenizer = input[end + 1..].into();
    drop(input);
    bound(job.max_memory_bytes, job.max_cpu_s).map_err(|error| error.to_string())?;
    let report = match compile(job) {
        Ok(()) => Report::Compiled,
        Err(error) => Report::Failed(error.to_string()),
    };
    let report = serde_json::to_string(&report).map_err(|error| error.to_string())?;
    println!("{report}");
    Ok(())
}

fn compile(job: Job) -> Result<(), GuestError> {
    let options = RuntimeOptions { max_instances: 2, max_prepare_cpu: job.max_prepare_cpu, ..Default::default() };
    let runtime = GuestRuntime::new(&job.compiled_dir, &options)?;
    let wasm = read_component(&job.component)?;
    runtime.load_prepared(&job.name, &wasm, &job.info.into())?;
    Ok(())
}

/// Has the system enforce what this process may use. Reserved address space is not counted, memory that could be written
/// is; macOS does not enforce the latter.
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

/// Elsewhere only the wall-clock limit, the process's own, holds.
#[cfg(not(unix))]
fn bound(_max_memory_bytes: u64, _max_cpu_s: u64) -> std::io::Result<()> {
    Ok(())
}
