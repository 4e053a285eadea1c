//! Giving orders to a server that runs on a data directory.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::admin::{AdminError, Order, Reply};
use super::blobs::Blobs;
use super::server::SOCKET_FILE;

/// A connection to a server's admin socket, good for one order.
#[derive(Debug)]
pub struct AdminClient {
    stream: UnixStream,
    blobs: Blobs,
}

impl AdminClient {
    /// Connects to the server that runs on a data directory; `None` where none does.
    ///
    /// # Errors
    /// One runs, but will not talk to this user.
    pub fn connect(data_dir: &Path) -> Result<Option<Self>, AdminError> {
        let path = data_dir.join(SOCKET_FILE);
        let failed = |error: io::Error| AdminError::host(format!("{}: {error}", path.display()));
        let stream = match UnixStream::connect(&path) {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(error) => return Err(failed(error)),
        };
        let blobs = Blobs::open(&data_dir.join("tenants").join("blobs")).map_err(failed)?;
        Ok(Some(Self { stream, blobs }))
    }

    /// Puts a component where the server finds it by its hash.
    ///
    /// # Errors
    /// The data directory cannot be written.
    pub fn put_component(&self, wasm: &[u8]) -> Result<String, AdminError> {
        self.blobs.put(wasm).map_err(|error| AdminError::host(format!("the component cannot be kept: {error}")))
    }

    /// Gives the order and waits for the reply.
    ///
    /// # Errors
    /// The server went away; whether the order was carried out is not known then.
    pub fn execute(mut self, order: &Order) -> Result<Reply, AdminError> {
        let gone = |error: io::Error| AdminError::host(format!("the server went away: {error}"));
        let mut text = serde_json::to_vec(order).map_err(|error| AdminError::host(error.to_string()))?;
        text.push(b'\n');
        self.stream.write_all(&text).map_err(gone)?;
        let mut line = String::new();
        BufReader::new(&self.stream).read_line(&mut line).map_err(gone)?;
        serde_json::from_str(&line).map_err(|error| AdminError::host(format!("the server went away: {error}")))
    }
}
