//! `assay serve`: answers tenants' requests over HTTP and takes commands over the admin socket.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use super::engine::EngineArgs;
use super::error::CliError;
use super::gc;
use super::tenant::open_platform;
use crate::http;
use crate::tenant::Platform;
#[cfg(unix)]
use crate::tenant::server::AdminServer;

/// Default port.
const DEFAULT_PORT: u16 = 8_790;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Port on this machine; 0 is any that is free
    #[arg(long, default_value_t = DEFAULT_PORT)]
    port: u16,
    #[command(flatten)]
    engine: EngineArgs,
}

pub(super) fn run(args: &Args, data_dir: &Path) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::failed(format!("no threads can be started: {error}")))?;
    let device = args.engine.options(data_dir)?;
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
    let served = runtime.block_on(serve(args.port, data_dir, &platform));
    // Unfinished compilations may be abandoned: nothing of them is committed.
    runtime.shutdown_background();
    served
}

async fn serve(port: u16, data_dir: &Path, platform: &Arc<Platform>) -> Result<(), CliError> {
    let orders = orders(data_dir, platform)?;
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let socket = |error: std::io::Error| CliError::failed(format!("{address}: {error}"));
    let listener = tokio::net::TcpListener::bind(address).await.map_err(socket)?;
    let address = listener.local_addr().map_err(socket)?;
    // The program that started the server waits for this line. If nothing reads it, the server still serves.
    let mut out = std::io::stdout();
    let _ = writeln!(out, "listening on http://{address}").and_then(|()| out.flush());
    tokio::select! {
        served = http::serve(listener, Arc::clone(platform), stop()) => served.map_err(socket),
        () = orders => Ok(()),
    }
}

/// Takes commands over the admin socket until it is dropped.
#[cfg(unix)]
fn orders(data_dir: &Path, platform: &Arc<Platform>) -> Result<impl Future<Output = ()>, CliError> {
    let admin = AdminServer::bind(data_dir)
        .map_err(|error| CliError::failed(format!("the admin socket in {}: {error}", data_dir.display())))?;
    let platform = Arc::clone(platform);
    Ok(async move { admin.serve(&platform).await })
}

/// Without Unix sockets tenants are changed while no server runs.
#[cfg(not(unix))]
fn orders(_data_dir: &Path, _platform: &Arc<Platform>) -> Result<impl Future<Output = ()>, CliError> {
    Ok(std::future::pending())
}

/// Completes when the process is asked to stop.
async fn stop() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    // Without a handler the signal ends the process, as it should.
    let _ = interrupt.await;
}
