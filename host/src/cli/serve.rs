//! `assay serve`: answer requests over HTTP, and take orders over the admin socket.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use clap::builder::BoolishValueParser;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::engine::EngineArgs;
use super::error::CliError;
use super::gc;
use super::listening::{Listening, Places};
use super::logs::LogArgs;
use super::orders::{PlatformArgs, open_platform};
use super::signals::{self, Signals};
use super::traces::TraceArgs;
use crate::guest;
use crate::http::{
    self, ConnectionLimits, Cors, Deadlines, Keyless, KeylessAnswer, KeylessUntil, Order, Reloaded, ServeOptions, Tls,
};
use crate::model::{ModelError, ModelStore, Source, builtin, of_directory};
use crate::telemetry::{LineLimit, logs};
#[cfg(unix)]
use crate::tenant::server::AdminServer;
use crate::tenant::{Counts, DEFAULT_MAX_NAMED_TENANTS, KeylessLoad, Platform};

/// Default address: only callers on this machine can reach it.
const DEFAULT_HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Default port: no well-known service has it.
const DEFAULT_PORT: u16 = 8_790;

/// Default time for requests in work when the server is asked to stop: less than the 30 seconds that service managers
/// wait, and more than a request of a few hundred documents takes on a small processor.
const DEFAULT_DRAIN_SECONDS: u64 = 10;

/// Default number of connections, where the system lets a process have so many: what a busy proxy keeps open.
const DEFAULT_MAX_CONNECTIONS: usize = 1_024;

/// How often the certificate's files are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// Least memory of all guests together: one guest with its default limits, and its texts.
const MIN_GUEST_MEMORY_BYTES: u64 = 64 << 20;

/// File descriptors that are kept for everything but connections: models, guests, the registry, threads.
const RESERVED_DESCRIPTORS: u64 = 64;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Take settings from a TOML file: its keys are the long options below. Options and environment variables come first
    #[arg(long, env = "ASSAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on; 0.0.0.0 or :: is every one of this machine
    #[arg(long, env = "ASSAY_HOST", default_value_t = DEFAULT_HOST, value_name = "ADDRESS")]
    host: IpAddr,
    /// Port to listen on; 0 is any that is free
    #[arg(long, env = "ASSAY_PORT", default_value_t = DEFAULT_PORT)]
    port: u16,
    /// Listen on a Unix socket too, which only this user may open; its callers count as callers of this machine
    #[arg(long, env = "ASSAY_UNIX_SOCKET", value_name = "PATH")]
    unix_socket: Option<PathBuf>,
    /// Listen on the Unix socket only
    #[arg(long, env = "ASSAY_NO_TCP", requires = "unix_socket", value_parser = BoolishValueParser::new())]
    no_tcp: bool,
    /// Certificate chain in PEM form: the port speaks TLS. Read again when it changes
    #[arg(long, env = "ASSAY_TLS_CERTIFICATE", value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// Private key of the certificate in PEM form
    #[arg(long, env = "ASSAY_TLS_KEY", value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Let pages of this origin call from a browser, such as `https://search.example.org`; * is every origin. May be
    /// repeated; the variable separates several with commas
    #[arg(long, env = "ASSAY_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    cors_origin: Vec<String>,
    /// Answer callers without a key too, with the standard guest and this model, by name or from a directory
    /// [default: the default model, while there is no tenant and no key]
    #[arg(long, env = "ASSAY_MODEL", value_name = "NAME|DIR")]
    model: Option<String>,
    /// Answer callers without a key beyond this machine
    #[arg(long, env = "ASSAY_ALLOW_KEYLESS_NETWORK", value_parser = BoolishValueParser::new())]
    allow_keyless_network: bool,
    /// Seconds that requests in work get when the server is asked to stop; a second signal ends it at once
    #[arg(long, env = "ASSAY_DRAIN_SECONDS", default_value_t = DEFAULT_DRAIN_SECONDS, value_name = "SECONDS")]
    drain_seconds: u64,
    /// Most open connections [default: 1024, or as many as the system allows]
    #[arg(long, env = "ASSAY_MAX_CONNECTIONS", value_name = "N")]
    max_connections: Option<usize>,
    /// Most open connections from one address [default: three quarters of all]
    #[arg(long, env = "ASSAY_MAX_CONNECTIONS_PER_ADDRESS", value_name = "N")]
    max_connections_per_address: Option<usize>,
    /// Most memory of all tenants' guests together, and of the texts that wait for them, such as 2GiB [default: a quarter
    /// of the machine's]
    #[arg(long, env = "ASSAY_GUEST_MEMORY", value_name = "SIZE")]
    guest_memory: Option<ByteSize>,
    /// Serve the metrics at another port too, to everyone who reaches it: without a key, without TLS, and nothing else.
    /// On the port of callers they need the operator's key
    #[arg(long, env = "ASSAY_METRICS_ADDRESS", value_name = "ADDRESS:PORT")]
    metrics_address: Option<SocketAddr>,
    /// Most tenants whose counts are told by name in metrics and on the dashboard; the rest is summed
    #[arg(long, env = "ASSAY_METRICS_TENANTS", value_name = "N", default_value_t = DEFAULT_MAX_NAMED_TENANTS)]
    metrics_tenants: usize,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    traces: TraceArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

pub(super) fn run(args: &Args, data_dir: &Path) -> Result<(), CliError> {
    // Dropped last: it writes the lines that still wait.
    let _logs = logs::start(&args.log.options()).map_err(|error| CliError::failed(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::failed(format!("no threads can be started: {error}")))?;
    let device = args.engine.options(data_dir)?;
    args.bounds()?;
    let connections = args.connection_limits()?;
    let cors = args.cors()?;
    let tracer = args.traces.start()?;
    let guest_memory = args.guest_memory.map(|size| size.as_u64());
    let options = PlatformArgs { device, guest_memory, max_named_tenants: args.metrics_tenants };
    let platform = Arc::new(open_platform(data_dir, options, runtime.handle())?);
    platform.open_operator_key()?;
    platform.begin()?;
    let keyless = args.keyless(&platform)?;
    if keyless.is_some() {
        platform.keyless(KeylessLoad::Starting);
    }
    let drain_time = Duration::from_secs(args.drain_seconds);
    let loaded = keyless.as_ref().map(|keyless| Arc::clone(&keyless.answer));
    let options = ServeOptions {
        connections,
        deadlines: Deadlines::default(),
        drain_time,
        keyless,
        cors,
        tracer: tracer.clone(),
    };
    let served = runtime.block_on(async {
        let server = serve(args.places()?.open().await?, data_dir, &platform, options).await?;
        // The port is open: what takes long comes now, and callers of what is not loaded yet are told so.
        let start = {
            let (platform, data_dir, model) = (Arc::clone(&platform), data_dir.to_owned(), args.model.clone());
            tokio::task::spawn_blocking(move || start(&platform, &data_dir, loaded.as_deref(), model.as_deref()))
        };
        let started = async {
            match start.await {
                Ok(Ok(())) => std::future::pending().await,
                Ok(Err(error)) => error,
                Err(_) => CliError::failed("starting the tenants panicked"),
            }
        };
        tokio::select! {
            served = server => served,
            error = started => Err(error),
        }
    });
    if let Some(tracer) = tracer {
        tracer.finish();
    }
    // What is still being compiled may be left undone: nothing of it is committed.
    platform.stop_changes();
    runtime.shutdown_background();
    served
}

/// Opens the device, loads what serves, and sweeps. Fails only if nothing can be served.
fn start(
    platform: &Platform,
    data_dir: &Path,
    keyless: Option<&OnceLock<KeylessAnswer>>,
    model: Option<&str>,
) -> Result<(), CliError> {
    platform.device()?;
    if let Some(keyless) = keyless {
        let answer = load_keyless(platform, data_dir, model)?;
        let failed = matches!(answer, KeylessAnswer::Failed);
        let _ = keyless.set(answer);
        platform.keyless(if failed { KeylessLoad::Failed } else { KeylessLoad::Over });
    }
    for (tenant, error) in platform.activate() {
        error!(%tenant, reason = %CliError::from(error), "the tenant is not being served");
    }
    let Counts { serving, failed, .. } = platform.counts();
    info!(serving, failed, "all tenants that can be served are");
    match platform.tidy() {
        Ok(swept) if swept.dropped.is_empty() => {}
        Ok(swept) => info!("removed unused files: {}", gc::summary(&swept)),
        Err(error) => warn!(%error, "unused files cannot be removed"),
    }
    Ok(())
}

/// Loads what answers callers without a key. It is no error if that was only a default and cannot be: tenants may still
/// be deployed.
fn load_keyless(platform: &Platform, data_dir: &Path, model: Option<&str>) -> Result<KeylessAnswer, CliError> {
    let loaded = standard_guest().and_then(|standard| {
        let model = stored_model(model, data_dir)?;
        info!("the standard guest is prepared for callers without a key: the first time takes some seconds");
        Ok(platform.stand_alone(standard, model.as_deref())?)
    });
    match loaded {
        Ok(_) if model.is_none() && !platform.is_untouched() => {
            info!("callers need a key: a tenant or a key was made meanwhile");
            Ok(KeylessAnswer::NeedsKey)
        }
        Ok(tenant) => {
            info!("callers need no key: the standard guest answers them with {}", tenant.model().name);
            if model.is_none() {
                info!("this ends when the first tenant is deployed: see `assay help tenant`");
            }
            Ok(KeylessAnswer::Tenant(tenant))
        }
        Err(error) if model.is_none() => {
            error!("callers without a key get no answers: {error}");
            Ok(KeylessAnswer::Failed)
        }
        Err(error) => Err(error),
    }
}

fn standard_guest() -> Result<&'static [u8], CliError> {
    let missing = "this program was built without the standard guest: build it with `cargo xtask build`";
    guest::standard().ok_or_else(|| CliError::failed(missing))
}

impl Args {
    fn places(&self) -> Result<Places<'_>, CliError> {
        let tcp = (!self.no_tcp).then_some(SocketAddr::new(self.host, self.port));
        Ok(Places { tcp, unix: self.unix_socket.as_deref(), metrics: self.metrics_address, tls: self.tls()? })
    }

    /// Whether a server could start with this, as far as can be told without starting one.
    pub(super) fn check(&self) -> Result<(), CliError> {
        self.engine.options(Path::new(""))?;
        if self.model.is_some() && !self.may_be_keyless() {
            return Err(self.keyless_refused());
        }
        self.bounds()?;
        self.connection_limits()?;
        self.cors()?;
        self.tls()?;
        if let Some(dir) = self.unix_socket.as_deref().and_then(Path::parent)
            && !dir.as_os_str().is_empty()
            && !dir.is_dir()
        {
            return Err(CliError::bad_input(format!("unix-socket: there is no directory {}", dir.display())));
        }
        Ok(())
    }

    fn cors(&self) -> Result<Cors, CliError> {
        Cors::new(&self.cors_origin).map_err(|error| CliError::bad_input(format!("cors-origin: {error}")))
    }

    fn tls(&self) -> Result<Option<Arc<Tls>>, CliError> {
        let files = self.tls_certificate.as_deref().zip(self.tls_key.as_deref());
        let tls = files.map(|(certificate, key)| Tls::load(certificate, key)).transpose();
        Ok(tls.map_err(|error| CliError::bad_input(format!("TLS: {error}")))?.map(Arc::new))
    }

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

    /// Whether callers without a key may be answered where the server listens.
    fn may_be_keyless(&self) -> bool {
        self.no_tcp || self.host.is_loopback() || self.allow_keyless_network
    }

    fn keyless_refused(&self) -> CliError {
        CliError::bad_input(format!(
            "{} can be reached from other machines, and --model answers callers without a key: deploy a tenant and make a key, or allow it with --allow-keyless-network",
            self.host
        ))
    }

    /// Values with which nothing could be served.
    fn bounds(&self) -> Result<(), CliError> {
        if [self.max_connections, self.max_connections_per_address].contains(&Some(0)) {
            return Err(CliError::bad_input("--max-connections and --max-connections-per-address must be at least 1"));
        }
        match self.guest_memory {
            Some(size) if size.as_u64() < MIN_GUEST_MEMORY_BYTES => Err(CliError::bad_input(format!(
                "--guest-memory is {size}, and must be at least {}: a request takes that much",
                ByteSize(MIN_GUEST_MEMORY_BYTES)
            ))),
            _ => Ok(()),
        }
    }

    /// What callers without a key get, to be loaded.
    fn keyless(&self, platform: &Platform) -> Result<Option<Keyless>, CliError> {
        let until = match (&self.model, platform.is_untouched()) {
            (Some(_), _) => KeylessUntil::End,
            (None, true) => KeylessUntil::FirstTenant,
            (None, false) => return Ok(None),
        };
        if self.may_be_keyless() {
            return Ok(Some(Keyless { answer: Arc::default(), until }));
        }
        if self.model.is_some() {
            return Err(self.keyless_refused());
        }
        warn!(
            "no tenant is deployed, and {} can be reached from other machines: callers without a key are refused (--allow-keyless-network answers them)",
            self.host
        );
        Ok(None)
    }
}

/// The name of the model to serve, which is brought in if it is not here yet: the one in a directory, or the default
/// one.
fn stored_model(asked: Option<&str>, data_dir: &Path) -> Result<Option<String>, CliError> {
    let store = ModelStore::new(data_dir);
    let Some(asked) = asked else {
        if store.default_name()?.is_none() {
            if !store.list()?.is_empty() {
                return Err(ModelError::Empty.into());
            }
            info!("no model is here yet: fetching the default one");
            builtin::pull_default(&store, data_dir)?;
        }
        return Ok(None);
    };
    let dir = Path::new(asked);
    if !dir.is_dir() {
        return Ok(Some(asked.to_owned()));
    }
    let dir = std::fs::canonicalize(dir).map_err(|error| CliError::bad_input(format!("{asked}: {error}")))?;
    let (dir, name) = of_directory(&dir)?;
    let added = store.add(&name, &dir, Source::Directory { path: dir.display().to_string() }, None)?;
    super::model::say_decisions(&added);
    Ok(Some(added.model.manifest.name))
}

/// Opens the admin socket and says where the server listens. The result serves until the order to stop.
async fn serve(
    Listening { listeners, addresses, socket_file }: Listening,
    data_dir: &Path,
    platform: &Arc<Platform>,
    options: ServeOptions,
) -> Result<impl Future<Output = Result<(), CliError>> + use<>, CliError> {
    let (order, stops) = watch::channel(Order::Serve);
    let (orders, answered) = admin_orders(data_dir, platform, stops.clone(), options.drain_time)?;
    // Handled before the lines below: a program that reads them may stop the server at once.
    let signals = Signals::new().map_err(|error| CliError::failed(format!("signals cannot be handled: {error}")))?;
    tokio::spawn(signals::stop_at(signals, order));
    if let Some(tls) = &listeners.tls {
        tokio::spawn(reload(Arc::clone(tls)));
    }
    // The program that started the server waits for this. If nothing reads it, the server serves all the same.
    let mut out = std::io::stdout();
    for address in addresses {
        info!(address, "listening");
        let _ = writeln!(out, "listening on {address}").and_then(|()| out.flush());
    }
    let platform = Arc::clone(platform);
    Ok(async move {
        let _socket_file = socket_file;
        // Both end when they were asked to, and have answered what was in work then.
        let drained = async { tokio::join!(http::serve(listeners, platform, options, stops), answered) };
        tokio::select! {
            _ = drained => Ok(()),
            () = orders => Ok(()),
        }
    })
}

/// Reads the certificate again when its files change.
async fn reload(tls: Arc<Tls>) {
    let (mut look, lines) = (tokio::time::interval(RELOAD_INTERVAL), LineLimit::default());
    loop {
        look.tick().await;
        let tls = Arc::clone(&tls);
        match tokio::task::spawn_blocking(move || tls.reload()).await {
            Ok(Ok(Reloaded::Changed)) => info!("the certificate was read again"),
            Ok(Err(error)) => {
                if let Some(unwritten) = lines.pass(Instant::now()) {
                    warn!(%error, unwritten, "the certificate stays as it was");
                }
            }
            Ok(Ok(Reloaded::Unchanged)) | Err(_) => {}
        }
    }
}

/// The first future takes commands and calls over the admin socket until it is dropped. The second ends when the order
/// to drain has come, and the calls in work are answered or their time is over.
#[cfg(unix)]
fn admin_orders(
    data_dir: &Path,
    platform: &Arc<Platform>,
    mut stops: watch::Receiver<Order>,
    drain_time: Duration,
) -> Result<(impl Future<Output = ()> + use<>, impl Future<Output = ()> + use<>), CliError> {
    let admin = AdminServer::bind(data_dir)
        .map_err(|error| CliError::failed(format!("the admin socket in {}: {error}", data_dir.display())))?;
    let (platform, calls) = (Arc::clone(platform), Arc::clone(admin.calls()));
    let answered = async move {
        // If the sender is gone, no order comes any more: the server goes on.
        if stops.wait_for(|order| *order == Order::Drain).await.is_err() {
            std::future::pending::<()>().await;
        }
        let _ = tokio::time::timeout(drain_time, calls.drain()).await;
    };
    Ok((async move { admin.serve(&platform).await }, answered))
}

/// Without Unix sockets tenants are changed while no server runs.
#[cfg(not(unix))]
fn admin_orders(
    _data_dir: &Path,
    _platform: &Arc<Platform>,
    _stops: watch::Receiver<Order>,
    _drain_time: Duration,
) -> Result<(impl Future<Output = ()> + use<>, impl Future<Output = ()> + use<>), CliError> {
    Ok((std::future::pending(), std::future::ready(())))
}
