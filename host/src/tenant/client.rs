//! Sends requests to the server that runs on a data directory.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use super::admin::{AdminError, AdminRequest, Reply};
use super::blobs::Blobs;

/// The socket's name in the data directory.
#[cfg(unix)]
pub(super) const SOCKET_FILE: &str = "admin.sock";

#[cfg(unix)]
type Stream = std::os::unix::net::UnixStream;

/// This platform has no admin socket.
#[cfg(not(unix))]
type Stream = io::Empty;

/// A connection to a server's admin socket, for one request.
#[derive(Debug)]
pub struct AdminClient {
    stream: Stream,
    blobs: Blobs,
}

impl AdminClient {
    /// Connects to the server that runs on a data directory; `None` if there is none.
    ///
    /// # Errors
    /// A server runs, but refuses this user.
    pub fn connect(data_dir: &Path) -> Result<Option<Self>, AdminError> {
        let failed = |error: io::Error| AdminError::host(format!("{}: {error}", data_dir.display()));
        let Some(stream) = connect(data_dir).map_err(failed)? else { return Ok(None) };
        let blobs = Blobs::open(&data_dir.join("tenants").join("blobs")).map_err(failed)?;
        Ok(Some(Self { stream, blobs }))
    }

    /// Stores a component where the server finds it by its hash.
    ///
    /// # Errors
    /// The data directory cannot be written.
    pub fn put_component(&self, wasm: &[u8]) -> Result<String, AdminError> {
        self.blobs.put(wasm).map_err(|error| AdminError::host(format!("the component cannot be kept: {error}")))
    }

    /// Sends the request and waits for the reply.
    ///
    /// # Errors
    /// The server went away. It may have carried the request out or not.
    pub fn execute(mut self, request: &AdminRequest) -> Result<Reply, AdminError> {
        let gone = |error: io::Error| AdminError::host(format!("the server went away: {error}"));
        let mut text = serde_json::to_vec(request).map_err(|error| AdminError::host(error.to_string()))?;
        text.push(b'\n');
        self.stream.write_all(&text).map_err(gone)?;
        let mut line = String::new();
        BufReader::new(self.stream).read_line(&mut line).map_err(gone)?;
        serde_json::from_str(&line).map_err(|error| AdminError::host(format!("the server went away: {error}")))
    }
}

#[cfg(unix)]
fn connect(data_dir: &Path) -> io::Result<Option<Stream>> {
    match Stream::connect(data_dir.join(SOCKET_FILE)) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(not(unix))]
fn connect(_data_dir: &Path) -> io::Result<Option<Stream>> {
    Ok(None)
}
