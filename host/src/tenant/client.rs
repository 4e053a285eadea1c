//! Sends requests to the server that runs on a data directory.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use super::admin::{AdminRequest, Reply};
use super::blobs::Blobs;

/// The socket's name in the data directory.
#[cfg(unix)]
pub(super) const SOCKET_FILE: &str = "admin.sock";

#[cfg(unix)]
type Stream = std::os::unix::net::UnixStream;

/// This platform has no admin socket.
#[cfg(not(unix))]
type Stream = io::Empty;

/// Why a request did not reach the server, or no reply came.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The data directory or its socket cannot be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// The data directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The component cannot be written.
    #[error("the component cannot be stored: {0}")]
    Component(io::Error),
    /// The request cannot be encoded.
    #[error("the request cannot be encoded: {0}")]
    Request(serde_json::Error),
    /// The connection broke. The server may or may not have carried out the request.
    #[error("the server went away: {0}")]
    Gone(io::Error),
    /// The server ended before it replied.
    #[error(
        "the server ended before it replied, so the command may have been carried out or not: `assay tenant show` tells"
    )]
    Ended,
    /// The reply is not what this version reads.
    #[error("the server's reply cannot be read, perhaps because it is of another version: {0}")]
    Reply(serde_json::Error),
}

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
    pub fn connect(data_dir: &Path) -> Result<Option<Self>, ClientError> {
        let failed = |source| ClientError::Io { path: data_dir.to_owned(), source };
        let Some(stream) = connect(data_dir).map_err(failed)? else { return Ok(None) };
        let blobs = Blobs::open(&data_dir.join("tenants").join("blobs")).map_err(failed)?;
        Ok(Some(Self { stream, blobs }))
    }

    /// Stores a component where the server finds it by its hash.
    ///
    /// # Errors
    /// The data directory cannot be written.
    pub fn put_component(&self, wasm: &[u8]) -> Result<String, ClientError> {
        self.blobs.put(wasm).map_err(ClientError::Component)
    }

    /// Sends the request and waits for the reply.
    ///
    /// # Errors
    /// The server went away. It may or may not have carried out the request.
    pub fn execute(mut self, request: &AdminRequest) -> Result<Reply, ClientError> {
        let mut text = serde_json::to_vec(request).map_err(ClientError::Request)?;
        text.push(b'\n');
        self.stream.write_all(&text).map_err(ClientError::Gone)?;
        let mut line = String::new();
        BufReader::new(self.stream).read_line(&mut line).map_err(ClientError::Gone)?;
        if !line.ends_with('\n') {
            return Err(ClientError::Ended);
        }
        serde_json::from_str(&line).map_err(ClientError::Reply)
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
