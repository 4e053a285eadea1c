//! Opens what `assay serve` listens on: a port, a Unix socket, and a port for metrics.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::info;

use super::error::CliError;
use crate::http::{Listeners, Tls};

/// Where a server is to listen.
pub(super) struct Places<'a> {
    pub(super) tcp: Option<SocketAddr>,
    pub(super) unix: Option<&'a Path>,
    /// For metrics alone.
    pub(super) metrics: Option<SocketAddr>,
    /// For the TCP port.
    pub(super) tls: Option<Arc<Tls>>,
}

/// What a server listens on, and what of that ends with it.
pub(super) struct Listening {
    pub(super) listeners: Listeners,
    /// The addresses, for people and programs.
    pub(super) addresses: Vec<String>,
    pub(super) socket_file: Option<SocketFile>,
}

/// The file of a Unix socket, removed when the server ends.
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // If this fails, the next server finds that nothing listens there and removes it.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Places<'_> {
    /// Opens everything that the server listens on.
    pub(super) async fn open(self) -> Result<Listening, CliError> {
        let Self { tcp, unix, metrics, tls } = self;
        let (mut listeners, mut addresses) = (Listeners { tls, ..Listeners::default() }, Vec::new());
        if let Some(address) = tcp {
            let failed = |error: std::io::Error| CliError::failed(format!("{address}: {error}"));
            let listener = tokio::net::TcpListener::bind(address).await.map_err(failed)?;
            let scheme = if listeners.tls.is_some() { "https" } else { "http" };
            addresses.push(format!("{scheme}://{}", listener.local_addr().map_err(failed)?));
            listeners.tcp = Some(listener);
        }
        if let Some(address) = metrics {
            let failed = |error: std::io::Error| CliError::failed(format!("--metrics-address {address}: {error}"));
            let listener = tokio::net::TcpListener::bind(address).await.map_err(failed)?;
            info!(address = %listener.local_addr().map_err(failed)?, "metrics are served without a key");
            listeners.metrics = Some(listener);
        }
        let socket_file = match unix {
            None => None,
            Some(path) => {
                addresses.push(format!("unix:{}", path.display()));
                Some(listen_on_socket(path, &mut listeners)?)
            }
        };
        Ok(Listening { listeners, addresses, socket_file })
    }
}

#[cfg(unix)]
fn listen_on_socket(path: &Path, listeners: &mut Listeners) -> Result<SocketFile, CliError> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    let at = |error: std::io::Error| CliError::failed(format!("--unix-socket {}: {error}", path.display()));
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(CliError::bad_input(format!(
                "--unix-socket {}: a file that is no socket is there: name another path",
                path.display()
            )));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(CliError::failed(format!(
                "--unix-socket {}: another server listens there: stop it, or name another path",
                path.display()
            )));
        }
        // Left by a server that was killed.
        Ok(_) => std::fs::remove_file(path).map_err(at)?,
        Err(_) => {}
    }
    let listener = tokio::net::UnixListener::bind(path).map_err(at)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(at)?;
    listeners.unix = Some(listener);
    Ok(SocketFile(path.to_owned()))
}

#[cfg(not(unix))]
fn listen_on_socket(_path: &Path, _listeners: &mut Listeners) -> Result<SocketFile, CliError> {
    Err(CliError::bad_input("--unix-socket: this system has no Unix sockets"))
}
