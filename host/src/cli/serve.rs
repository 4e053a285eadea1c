//! `assay serve`: answer requests over HTTP, and take orders over the admin socket.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::engine::EngineArgs;
use super::error::CliError;
use super::gc;
use super::tenant::open_platform;
use crate::guest;
use crate::http::{self, ConnectionLimits, Deadlines, Keyless, KeylessUntil, Order, ServeOptions};
use crate::model::{ModelStore, Source, builtin};
use crate::tenant::Platform;
#[cfg(unix)]
use crate::tenant::server::AdminServer;

/// Default address: only callers on this machine can reach it.
const DEFAULT_HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Default port: no well-known service has it.
const DEFAULT_PORT: u16 = 8_790;

/// Default time for requests in work when the server is asked to stop: less than the 30 seconds that service managers
/// wait, and more than a request of a few hundred documents takes on a small processor.
const DEFAULT_DRAIN_SECONDS: u64 = 10;

/// Default number of connections, where the system lets a process have so many: what a busy proxy keeps open.
const DEFAULT_MAX_CONNECTIONS: usize = 1_024;

/// File descriptors that are kept for everything but connections: models, guests, the registry, threads.
const RESERVED_DESCRIPTORS: u64 = 64;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address to listen on; 0.0.0.0 or :: is every one of this machine
    #[arg(long, env = "ASSAY_HOST", default_value_t = DEFAULT_HOST, value_name = "ADDRESS")]
    host: IpAddr,
    /// Port to listen on; 0 is any that is free
    #[arg(long, env = "ASSAY_PORT", default_value_t = DEFAULT_PORT)]
    port: u16,
    /// Answer callers without a key too, with the standard guest and this model, by name or from a directory
    /// [default: the default model, while there is no tenant and no key]
    #[arg(long, value_name = "NAME|DIR")]
    model: Option<String>,
    /// Answer callers without a key beyond this machine
    #[arg(long)]
    allow_keyless_network: bool,
    /// Seconds that requests in work get when the server is asked to stop; a second signal ends it at once
    #[arg(long, default_value_t = DEFAULT_DRAIN_SECONDS, value_name = "SECONDS")]
    drain_seconds: u64,
    /// Most open connections [default: 1024, or as many as the system allows]
    #[arg(long, value_name = "N")]
    max_connections: Option<usize>,
    /// Most open connections from one address [default: three quarters of all]
    #[arg(long, value_name = "N")]
    max_connections_per_address: Option<usize>,
    #[command(flatten)]
    engine: EngineArgs,
}

pub(super) fn run(args: &Args, data_dir: &Path) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::failed(format!("no threads can be started: {error}")))?;
    let device = args.engine.options(data_dir)?;
    let connections = args.connection_limits()?;
    let platform = Arc::new(open_platform(data_dir, device, runtime.handle())?);
    // A server cannot serve without its device, so fail now and not with the first tenant.
    platform.device()?;
    for (tenant, error) in platform.activate_all()? {
        eprintln!("tenant {tenant} is not being served: {}", CliError::from(error));
    }
    match platform.tidy() {
        Ok(swept) if swept.dropped.is_empty() => {}
        Ok(swept) => eprintln!("removed unused files: {}", gc::summary(&swept)),
        Err(error) => eprintln!("unused files cannot be removed: {error}"),
    }
    let keyless = args.keyless(&platform, data_dir)?;
    let drain_time = Duration::from_secs(args.drain_seconds);
    let options = ServeOptions { connections, deadlines: Deadlines::default(), drain_time, keyless };
    let served = runtime.block_on(serve(SocketAddr::new(args.host, args.port), data_dir, &platform, options));
    // What is still being compiled may be left undone: nothing of it is committed.
    runtime.shutdown_background();
    served
}

impl Args {
    /// The bounds on connections, and the system's raised to hold them.
    fn connection_limits(&self) -> Result<ConnectionLimits, CliError> {
        let wanted = self.max_connections.unwrap_or(DEFAULT_MAX_CONNECTIONS);
        // A system that does not say how many it allows is found out about when it refuses one.
        let allowed = rlimit::increase_nofile_limit(wanted as u64 + RESERVED_DESCRIPTORS).unwrap_or(u64::MAX);
        let room = usize::try_from(allowed.saturating_sub(RESERVED_DESCRIPTORS)).unwrap_or(usize::MAX).max(1);
        if self.max_connections.is_some() && wanted > room {
            return Err(CliError::bad_input(format!(
                "--max-connections is {wanted}, but the system allows {room}: raise its limit with `ulimit -n`"
            )));
        }
        let total = wanted.min(room).max(1);
        let per_address = self.max_connections_per_address.unwrap_or(total.div_ceil(4) * 3).clamp(1, total);
        Ok(ConnectionLimits { total, per_address })
    }

    /// What callers without a key get.
    fn keyless(&self, platform: &Platform, data_dir: &Path) -> Result<Option<Keyless>, CliError> {
        let until = match (&self.model, platform.is_empty()) {
            (Some(_), _) => KeylessUntil::End,
            (None, true) => KeylessUntil::FirstTenant,
            (None, false) => return Ok(None),
        };
        if !self.host.is_loopback() && !self.allow_keyless_network {
            if self.model.is_some() {
                return Err(CliError::bad_input(format!(
                    "{} can be reached from other machines, and --model answers callers without a key: deploy a tenant and make a key, or allow it with --allow-keyless-network",
                    self.host
                )));
            }
            eprintln!(
                "no tenant is deployed, and {} can be reached from other machines: callers without a key are refused (--allow-keyless-network answers them)",
                self.host
            );
            return Ok(None);
        }
        let Some(standard) = guest::standard() else {
            let message = "this program was built without the standard guest: build it with `cargo xtask build`";
            return if self.model.is_some() { Err(CliError::failed(message)) } else { Ok(None) };
        };
        let made = stored_model(self.model.as_deref(), data_dir)
            .and_then(|model| Ok(platform.stand_alone(standard, model.as_deref())?));
        let tenant = match made {
            Ok(tenant) => tenant,
            // Keyless callers were a default and not a request, and tenants may still be deployed.
            Err(error) if self.model.is_none() => {
                eprintln!("callers without a key are refused: {error}");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        eprintln!("callers need no key: the standard guest answers them with {}", tenant.model().name);
        if until == KeylessUntil::FirstTenant {
            eprintln!("this ends when the first tenant is deployed: see `assay help tenant`");
        }
        Ok(Some(Keyless { tenant, until }))
    }
}

/// The name of the model to serve, which is brought in if it is not here yet: the one in a directory, or the default
/// one.
fn stored_model(asked: Option<&str>, data_dir: &Path) -> Result<Option<String>, CliError> {
    let store = ModelStore::new(data_dir);
    let Some(asked) = asked else {
        if store.default_name()?.is_none() {
            eprintln!("no model is here yet: fetching the default one");
            builtin::pull_default(&store, data_dir)?;
        }
        return Ok(None);
    };
    let dir = Path::new(asked);
    if !dir.is_dir() {
        return Ok(Some(asked.to_owned()));
    }
    let dir = std::fs::canonicalize(dir).map_err(|error| CliError::bad_input(format!("{asked}: {error}")))?;
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let added = store.add(&name, &dir, Source::Directory { path: dir.display().to_string() }, None)?;
    Ok(Some(added.model.manifest.name))
}

async fn serve(
    address: SocketAddr,
    data_dir: &Path,
    platform: &Arc<Platform>,
    options: ServeOptions,
) -> Result<(), CliError> {
    let orders = admin_orders(data_dir, platform)?;
    let socket = |error: std::io::Error| CliError::failed(format!("{address}: {error}"));
    let listener = tokio::net::TcpListener::bind(address).await.map_err(socket)?;
    let address = listener.local_addr().map_err(socket)?;
    let (order, stops) = watch::channel(Order::Serve);
    // Handled before the line below: a program that reads it may stop the server at once.
    let signals = Signals::new().map_err(|error| CliError::failed(format!("signals cannot be handled: {error}")))?;
    tokio::spawn(stop_at_signals(signals, order));
    // The program that started the server waits for this line. If nothing reads it, the server serves all the same.
    let mut out = std::io::stdout();
    let _ = writeln!(out, "listening on http://{address}").and_then(|()| out.flush());
    tokio::select! {
        () = http::serve(listener, Arc::clone(platform), options, stops) => Ok(()),
        () = orders => Ok(()),
    }
}

/// Takes commands over the admin socket until it is dropped.
#[cfg(unix)]
fn admin_orders(data_dir: &Path, platform: &Arc<Platform>) -> Result<impl Future<Output = ()>, CliError> {
    let admin = AdminServer::bind(data_dir)
        .map_err(|error| CliError::failed(format!("the admin socket in {}: {error}", data_dir.display())))?;
    let platform = Arc::clone(platform);
    Ok(async move { admin.serve(&platform).await })
}

/// Without Unix sockets tenants are changed while no server runs.
#[cfg(not(unix))]
fn admin_orders(_data_dir: &Path, _platform: &Arc<Platform>) -> Result<impl Future<Output = ()>, CliError> {
    Ok(std::future::pending())
}

/// Has the server drain at the first signal to stop, and ends the process at the second.
async fn stop_at_signals(mut signals: Signals, order: watch::Sender<Order>) {
    signals.next().await;
    let _ = order.send(Order::Drain);
    signals.next().await;
    std::process::exit(1);
}

/// The signals that ask a process to stop.
#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// What asks a process to stop.
#[cfg(windows)]
struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        tokio::signal::windows::ctrl_c().map(Self)
    }

    async fn next(&mut self) {
        self.0.recv().await;
    }
}
