//! Changes of tenants and questions about them, for the server that runs on a data directory; changes are carried out
//! here if none runs.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Runtime};

use super::error::CliError;
use super::patience::Patience;
use crate::device::{DeviceOptions, DeviceStatus};
use crate::tenant::admin::{AdminRequest, Cause, Command as AdminCommand, HeldModel, Reply};
use crate::tenant::client::AdminClient;
use crate::tenant::compile::CompilerOptions;
use crate::tenant::{
    Counts, DEFAULT_MAX_NAMED_TENANTS, Platform, PlatformOptions, Snapshot, TenantName, held_models_in,
};

/// How long a command waits for a server that starts, or for another command.
const START_TIME: Duration = Duration::from_secs(5);

/// How often it looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How a command opens the tenants of a data directory.
pub(super) struct PlatformArgs {
    pub(super) device: DeviceOptions,
    /// Most memory of all guests in bytes.
    pub(super) guest_memory: Option<u64>,
    pub(super) max_named_tenants: usize,
}

/// Opens the tenants of a data directory in this process.
pub(super) fn open_platform(data_dir: &Path, args: PlatformArgs, tokio: &Handle) -> Result<Platform, CliError> {
    Ok(Platform::open(data_dir, args.options(tokio)?)?)
}

impl PlatformArgs {
    fn options(self, tokio: &Handle) -> Result<PlatformOptions, CliError> {
        let program = std::env::current_exe();
        let program = program.map_err(|error| CliError::failed(format!("this program cannot find itself: {error}")))?;
        let Self { device, guest_memory: guest_memory_bytes, max_named_tenants } = self;
        let (compiler, tokio) = (CompilerOptions::new(program), tokio.clone());
        Ok(PlatformOptions { device, compiler, guest_memory_bytes, max_named_tenants, tokio })
    }
}

/// Asks the server that runs on the data directory; `None` if none runs.
fn ask(command: AdminCommand, data_dir: &Path) -> Result<Option<Reply>, CliError> {
    let Some(client) = AdminClient::connect(data_dir)? else { return Ok(None) };
    match client.execute(&signed(command))? {
        Reply::Refused(error) => Err(error.into()),
        reply => Ok(Some(reply)),
    }
}

/// The server answered what was not asked.
pub(super) fn another_answer() -> CliError {
    CliError::failed("the server answered another question")
}

/// The models that versions open, from the server that runs on the data directory or from its files.
pub(super) fn held_models(data_dir: &Path) -> Result<Vec<HeldModel>, CliError> {
    match ask(AdminCommand::ListHeldModels, data_dir)? {
        None => Ok(held_models_in(data_dir)?),
        Some(Reply::HeldModels(held)) => Ok(held),
        Some(_) => Err(another_answer()),
    }
}

/// The device of the server that runs on the data directory; `None` if none runs.
pub(super) fn server_device(data_dir: &Path) -> Result<Option<DeviceStatus>, CliError> {
    match ask(AdminCommand::ShowDevice, data_dir)? {
        None => Ok(None),
        Some(Reply::Device(status)) => Ok(Some(*status)),
        Some(_) => Err(another_answer()),
    }
}

/// The tenants of the server that runs on the data directory, by their state; `None` if none runs.
pub(super) fn server_counts(data_dir: &Path) -> Result<Option<Counts>, CliError> {
    match ask(AdminCommand::Ready, data_dir)? {
        None => Ok(None),
        Some(Reply::Ready(counts)) => Ok(Some(counts)),
        Some(_) => Err(another_answer()),
    }
}

/// All that the server on the data directory counts; `None` if none runs.
pub(super) fn server_snapshot(data_dir: &Path) -> Result<Option<Snapshot>, CliError> {
    match ask(AdminCommand::Observe, data_dir)? {
        None => Ok(None),
        Some(Reply::Observed(snapshot)) => Ok(Some(*snapshot)),
        Some(_) => Err(another_answer()),
    }
}

/// Checks that the server on the data directory has a tenant.
pub(super) fn check_tenant(name: &TenantName, data_dir: &Path) -> Result<(), CliError> {
    let asked = ask(AdminCommand::Show { tenant: name.clone() }, data_dir)?;
    asked.map(drop).ok_or_else(|| CliError::failed("the server went away"))
}

/// Who carries out a change.
enum Reached {
    Server(AdminClient),
    Here(Runtime, Box<Platform>),
}

/// The server that runs on the data directory, or its tenants if none runs. A server that starts has the tenants a moment
/// before it answers, and another command has them while it works.
fn reach(data_dir: &Path) -> Result<Reached, CliError> {
    let began = Instant::now();
    loop {
        if let Some(client) = AdminClient::connect(data_dir)? {
            return Ok(Reached::Server(client));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| CliError::failed(format!("no threads can be started: {error}")))?;
        let device = DeviceOptions { tune_file: Some(DeviceOptions::tune_file(data_dir)), ..Default::default() };
        let args = PlatformArgs { device, guest_memory: None, max_named_tenants: DEFAULT_MAX_NAMED_TENANTS };
        match Platform::open(data_dir, args.options(runtime.handle())?) {
            Ok(platform) => return Ok(Reached::Here(runtime, Box::new(platform))),
            Err(error) if error.cause == Cause::InUse && began.elapsed() < START_TIME => {
                std::thread::sleep(LOOK_AGAIN);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sends a request to the server that runs on the data directory, or carries it out here if none runs.
pub(super) fn execute(mut command: AdminCommand, wasm: Option<&[u8]>, data_dir: &Path) -> Result<Reply, CliError> {
    let _patience = matches!(command, AdminCommand::Deploy { .. }).then(|| {
        Patience::new("the component is compiled and tried, unless both was done before: a minute for a large one")
    });
    let mut name_component = |hash: String| {
        if let AdminCommand::Deploy { component, .. } = &mut command {
            *component = Some(hash);
        }
    };
    // What is named last ends first: tenants use the runtime's timers.
    let (_runtime, platform) = match reach(data_dir)? {
        Reached::Server(client) => {
            if let Some(wasm) = wasm {
                name_component(client.put_component(wasm)?);
            }
            return Ok(client.execute(&signed(command))?);
        }
        Reached::Here(runtime, platform) => (runtime, platform),
    };
    if let Some(wasm) = wasm {
        name_component(platform.put_component(wasm)?);
    }
    let removes = matches!(command, AdminCommand::Remove { .. });
    let reply = platform.execute(signed(command));
    if removes {
        // The tenant is removed even if its files are not: the next sweep finds them.
        let _ = platform.tidy();
    }
    Ok(reply)
}

/// Signs a request with the user's name, for the history. Permission depends only on write access to the data
/// directory.
fn signed(command: AdminCommand) -> AdminRequest {
    let by = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    AdminRequest { command, by: by.unwrap_or_else(unnamed_user) }
}

/// A user whose name the environment lacks, as in most containers.
#[cfg(unix)]
fn unnamed_user() -> String {
    format!("user {}", rustix::process::getuid().as_raw())
}

#[cfg(not(unix))]
fn unnamed_user() -> String {
    "unknown".to_owned()
}
